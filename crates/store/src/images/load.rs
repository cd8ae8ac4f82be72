use super::{LoadError, LoadedImage};
use crate::Store;
use crate::progress::Progress;
use std::io::Read;

impl Store {
    /// Brings in the images of an archive. Durable when it returns.
    ///
    /// # Errors
    /// The archive is refused, or the disk refuses; nothing is left behind then.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let (_, _) = (archive, progress);
        Err(LoadError::NotAnImage)
    }
}
