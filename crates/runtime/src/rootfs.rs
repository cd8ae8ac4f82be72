//! Roots: an overlay as a detached mount, which no mount table shows and which goes with its last
//! descriptor or process.
//!
//! source: Linux Documentation/filesystems/overlayfs.rst; fsconfig(2), fsmount(2).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

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
    #[error(
        "mount overlay: too many layers for this kernel's 256 bytes of options ({length} bytes): squash the image"
    )]
    TooLong { length: usize },
}

impl OverlayError {
    fn is_invalid(&self) -> bool {
        matches!(self, Self::Step { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
    }
}

fn at(step: &'static str, path: Option<&Path>) -> impl FnOnce(Errno) -> OverlayError {
    let path = path.map(Path::to_owned);
    move |e| OverlayError::Step {
        step,
        path,
        source: e.into(),
    }
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
    let (first, rest) = lowers.split_first().ok_or(OverlayError::NoLower)?;
    // A single lower directory without an upper is no overlay: the directory itself, read-only.
    if rest.is_empty() && upper_work.is_none() {
        return bind(first, true);
    }
    sys::fault::point("runtime.overlay").map_err(|source| OverlayError::Step {
        step: "fsopen",
        path: None,
        source,
    })?;
    // `lowerdir+` (Linux 6.7): any number of directories, any byte in their names. A kernel without
    // it says so at once, or, before 6.5, where overlay only collected what it was told, at the end.
    let fs = match configured(lowers, false, upper_work, options) {
        Err(e) if e.is_invalid() => configured(lowers, true, upper_work, options)?,
        other => other?,
    };
    let mut attrs = MountAttrFlags::empty();
    if options.read_only || upper_work.is_none() {
        attrs |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs).map_err(at("fsmount", None))
}

/// The file system itself, not mounted yet.
fn configured(
    lowers: &[PathBuf],
    in_one_string: bool,
    upper_work: Option<(&Path, &Path)>,
    options: OverlayOptions,
) -> Result<OwnedFd, OverlayError> {
    let fs = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen", None))?;
    fsconfig_set_string(&fs, c"source", c"overlay").map_err(at("fsconfig source", None))?;
    if in_one_string {
        one_string(&fs, lowers)?;
    } else {
        for dir in lowers {
            fsconfig_set_string(&fs, c"lowerdir+", dir.as_path())
                .map_err(at("fsconfig lowerdir+", Some(dir)))?;
        }
    }
    if let Some((upper, work)) = upper_work {
        fsconfig_set_string(&fs, c"upperdir", upper)
            .map_err(at("fsconfig upperdir", Some(upper)))?;
        fsconfig_set_string(&fs, c"workdir", work).map_err(at("fsconfig workdir", Some(work)))?;
        if options.volatile {
            fsconfig_set_flag(&fs, c"volatile").map_err(at("fsconfig volatile", None))?;
        }
    }
    // A kernel that redirects directories by default would leave an upper that can't be read as
    // a diff on its own. Kernels without the option have nothing to turn off.
    for off in [c"redirect_dir", c"metacopy", c"index"] {
        let _not_known_here = fsconfig_set_string(&fs, off, c"off");
    }
    fsconfig_create(&fs).map_err(at("create", upper_work.map(|(upper, _)| upper)))?;
    Ok(fs)
}

/// All lower directories in one option: a `:` separates, a backslash escapes. fsconfig takes 256
/// bytes a value, so when the names are too long the directories are named by descriptor, which is
/// enough for some fifteen layers.
fn one_string(fs: &OwnedFd, lowers: &[PathBuf]) -> Result<(), OverlayError> {
    const MOST: usize = 255;
    let mut held = Vec::new();
    let mut value = joined(lowers);
    if value.len() > MOST {
        let mut short = Vec::new();
        for dir in lowers {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = open(dir, flags, Mode::empty()).map_err(at("open", Some(dir)))?;
            short.push(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
            held.push(fd);
        }
        value = joined(&short);
    }
    if value.len() > MOST {
        return Err(OverlayError::TooLong {
            length: value.len(),
        });
    }
    let value: &OsStr = &OsString::from_vec(value);
    fsconfig_set_string(fs, c"lowerdir", value).map_err(at(
        "fsconfig lowerdir",
        lowers.first().map(PathBuf::as_path),
    ))
}

fn joined(dirs: &[PathBuf]) -> Vec<u8> {
    let mut all = Vec::new();
    for (n, dir) in dirs.iter().enumerate() {
        if n > 0 {
            all.push(b':');
        }
        for b in dir.as_os_str().as_bytes() {
            if matches!(b, b':' | b'\\') {
                all.push(b'\\');
            }
            all.push(*b);
        }
    }
    all
}

/// A directory as a detached mount (the `vfs` driver's root; read-only views).
///
/// # Errors
/// As open_tree(2), mount_setattr(2).
pub fn bind(dir: &Path, read_only: bool) -> Result<OwnedFd, OverlayError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, dir, flags).map_err(at("open_tree", Some(dir)))?;
    let attr = sys::mount::Attr {
        set: if read_only { sys::mount::RDONLY } else { 0 },
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    match sys::mount::setattr(tree.as_fd(), false, &attr) {
        // before Linux 5.12: the child makes it private when it is attached
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && !read_only => {}
        other => other.map_err(|source| OverlayError::Step {
            step: "mount_setattr",
            path: Some(dir.to_owned()),
            source,
        })?,
    }
    Ok(tree)
}
