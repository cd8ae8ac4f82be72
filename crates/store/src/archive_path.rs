//! Copying files into and out of a root directory that somebody else may be changing: `cp`, `export`.
//!
//! Every path is resolved by `openat2(RESOLVE_IN_ROOT)` on the root's descriptor: a symbolic link
//! that a container changes while we look can lead nowhere but inside its own root.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use crate::tar::TarError;
use crate::unpack::UnpackError;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum ArchivePathError {
    #[error("no such file or directory: {0}")]
    NotFound(String),
    #[error("not a directory: {0}")]
    NotADirectory(String),
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("write the archive")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// What is at a path, as Docker's `HEAD /archive` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last part of the path asked for.
    pub name: String,
    pub size: u64,
    /// `st_mode`.
    pub mode: u32,
    pub mtime: crate::tar::Time,
    /// Absolute in the container; empty unless it is a symbolic link.
    pub link_target: String,
}

/// How a tree is packed.
#[derive(Debug, Clone, Default)]
pub struct TarOptions {
    /// Name of the top entry in the archive; the last part of the path where absent. Empty: the
    /// entries have no common directory, as `export` writes them.
    pub rename: Option<String>,
    /// Follow a symbolic link at the end of the path.
    pub follow: bool,
    /// Stay on the root's own file system: mounts below are packed as empty directories.
    pub one_file_system: bool,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Default)]
pub struct UntarOptions {
    /// Refuse to replace a directory by something else and the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Keep owners of the archive; otherwise files belong to root.
    pub copy_uid_gid: bool,
}

/// What is at `path` below `root`.
///
/// # Errors
/// Nothing is there, or it can't be reached.
pub fn stat_path(root: BorrowedFd<'_>, path: &str) -> Result<PathStat, ArchivePathError> {
    let _ = root;
    Err(ArchivePathError::NotFound(path.into()))
}

/// Packs what is at `path` below `root`.
///
/// # Errors
/// Nothing is there, it can't be read, or the sink refuses.
pub fn tar_tree(
    root: BorrowedFd<'_>,
    path: &str,
    out: &mut dyn Write,
    options: &TarOptions,
) -> Result<(), ArchivePathError> {
    let (_, _, _) = (root, out, options);
    Err(ArchivePathError::NotFound(path.into()))
}

/// Unpacks an archive into the directory at `path` below `root`.
///
/// # Errors
/// The directory isn't there, the archive is refused, or the disk refuses.
pub fn untar_into(
    root: BorrowedFd<'_>,
    path: &str,
    tar: &mut dyn Read,
    options: &UntarOptions,
) -> Result<(), ArchivePathError> {
    let (_, _, _) = (root, tar, options);
    Err(ArchivePathError::NotFound(path.into()))
}
