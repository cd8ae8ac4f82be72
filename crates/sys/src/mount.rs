//! mount_setattr(2), which rustix lacks.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    pub set: u64,
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0 for no change.
    pub propagation: u64,
    pub userns_fd: u64,
}

pub const RDONLY: u64 = 0x1;
pub const NOSUID: u64 = 0x2;
pub const NODEV: u64 = 0x4;
pub const NOEXEC: u64 = 0x8;
pub const ATIME: u64 = 0x70;
pub const NOATIME: u64 = 0x10;
pub const STRICTATIME: u64 = 0x20;
pub const NODIRATIME: u64 = 0x80;
pub const IDMAP: u64 = 0x10_0000;
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// A descriptor as [`Attr::userns_fd`] takes it; it must outlive the call.
#[must_use]
pub fn number(fd: BorrowedFd<'_>) -> u64 {
    u64::from(fd.as_raw_fd().unsigned_abs())
}

/// Whether the kernel, and a filter around this process, have mount_setattr: asked with a
/// descriptor that can't be one.
#[must_use]
pub fn has_setattr() -> bool {
    // SAFETY: an empty path, no descriptor and no attributes: the call can only fail.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            -1,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::null::<Attr>(),
            0,
        )
    };
    r == 0
        || !matches!(
            io::Error::last_os_error().raw_os_error(),
            Some(libc::ENOSYS | libc::EPERM)
        )
}

/// Changes a mount given by descriptor, or its whole tree.
///
/// # Errors
/// As mount_setattr(2).
pub fn setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &Attr) -> io::Result<()> {
    setattr_at(mount, c"", recursive, attr)
}

/// Changes the mount at `path`, relative to `dir`.
///
/// # Errors
/// As mount_setattr(2).
pub fn setattr_at(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: &Attr,
) -> io::Result<()> {
    const AT_RECURSIVE: i32 = 0x8000;
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: the kernel reads a NUL-terminated path and one Attr of the size given.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            std::mem::size_of::<Attr>(),
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
