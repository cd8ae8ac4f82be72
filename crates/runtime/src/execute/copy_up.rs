//! `tmpcopyup`: what an image has at a directory goes into the tmpfs mounted there.
//!
//! Runs in the child: names and contents pass through buffers on the stack, and a tree is only
//! followed as deep as the stack allows.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, fstat, openat,
    statat,
};
use rustix::io::Errno;

/// Levels of directories; each takes some 3 KiB of stack.
const DEEPEST: u32 = 128;
/// Bytes of the listing of a file's attributes, and of one attribute.
const ATTRIBUTES: usize = 1024;

/// Copies the content of one directory into another, with owners, modes, times, links and
/// extended attributes; the directory's own owner and mode too.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = openat(from, c".", flags, Mode::empty())?;
    let to = openat(to, c".", flags, Mode::empty())?;
    directory(&from, &to, DEEPEST)?;
    own(to.as_fd(), &fstat(&from)?)
}

fn directory(from: &OwnedFd, to: &OwnedFd, deeper: u32) -> Result<(), Errno> {
    let mut space = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, deeper)?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, deeper: u32) -> Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let deeper = deeper.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | nofollow;
            let below = openat(from, name, flags, Mode::empty())?;
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let made = openat(to, name, flags, Mode::empty())?;
            directory(&below, &made, deeper)?;
            attributes(below.as_fd(), made.as_fd())?;
            own(made.as_fd(), &stat)
        }
        FileType::RegularFile => {
            let source = openat(from, name, OFlags::RDONLY | nofollow, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
            let made = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            content(&source, &made)?;
            own(made.as_fd(), &stat)?;
            attributes(source.as_fd(), made.as_fd())
        }
        FileType::Symlink => {
            let mut space = [MaybeUninit::<u8>::uninit(); 4096];
            let (target, rest) = rustix::fs::readlinkat_raw(from, name, &mut space)?;
            let end = rest.first_mut().ok_or(Errno::NAMETOOLONG)?;
            end.write(0);
            let n = target.len();
            let mut text = [0_u8; 4096];
            text[..n].copy_from_slice(target);
            let target = CStr::from_bytes_until_nul(&text).map_err(|_| Errno::INVAL)?;
            rustix::fs::symlinkat(target, to, name)?;
            own_at(to, name, &stat)
        }
        kind => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            own_at(to, name, &stat)
        }
    }
}

fn content(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    const AT_ONCE: usize = 1 << 30;
    while rustix::fs::sendfile(to, from, None, AT_ONCE)? > 0 {}
    Ok(())
}

fn ids(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    (Some(uid), Some(gid))
}

/// The owner first: changing it takes set-id bits away.
fn own(made: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = ids(stat);
    rustix::fs::fchown(made, uid, gid)?;
    rustix::fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(made, &times(stat))
}

fn own_at(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = ids(stat);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, uid, gid, flags)?;
    rustix::fs::utimensat(dir, name, &times(stat), flags)
}

fn times(stat: &Stat) -> Timestamps {
    let of = |tv_sec, nanoseconds| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: of(stat.st_atime, stat.st_atime_nsec),
        last_modification: of(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// File capabilities and the like; those a tmpfs doesn't take (`user.` on old kernels, overlay's
/// own) are left.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = [0_u8; ATTRIBUTES];
    let n = match rustix::fs::flistxattr(from, &mut names) {
        Ok(n) => n,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut rest = &names[..n];
    while let Ok(name) = CStr::from_bytes_until_nul(rest) {
        rest = rest.get(name.to_bytes().len() + 1..).unwrap_or_default();
        let mut value = [0_u8; ATTRIBUTES];
        let n = rustix::fs::fgetxattr(from, name, &mut value)?;
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(to, name, &value[..n], flags) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM | Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
