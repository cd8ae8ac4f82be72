//! Deleting: what is removed is renamed into `trash/reap` at once and deleted later, entry by
//! entry, never through a mount and never following a link.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sys::fault::point;

use crate::disk;

/// Directories below this depth are moved up to the trash itself, so that the descriptors held stay
/// few however deep a tree is.
const DEPTH: usize = 24;

/// What could not be deleted, and why. It stays in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreaped {
    pub path: PathBuf,
    pub reason: String,
}

/// Deletes everything below `trash/reap` until told to stop.
pub(crate) fn reap(reap_dir: &Path, stop: &dyn Fn() -> bool) -> Vec<Unreaped> {
    let mut left = Vec::new();
    let mut tried = std::collections::BTreeSet::new();
    // moving deep directories up makes new entries: until a pass finds nothing new
    loop {
        let names = match disk::names(reap_dir) {
            Ok(names) => names,
            Err(error) => {
                left.push(Unreaped {
                    path: reap_dir.to_owned(),
                    reason: error.source.to_string(),
                });
                return left;
            }
        };
        let fresh: Vec<_> = names.into_iter().filter(|n| !tried.contains(n)).collect();
        if fresh.is_empty() {
            return left;
        }
        for name in fresh {
            if stop() {
                return left;
            }
            let path = reap_dir.join(&name);
            tried.insert(name);
            let mut reaper = Reaper {
                grave: reap_dir,
                stop,
                left: &mut left,
            };
            reaper.entry_at(&path);
        }
    }
}

struct Reaper<'a> {
    grave: &'a Path,
    stop: &'a dyn Fn() -> bool,
    left: &'a mut Vec<Unreaped>,
}

impl Reaper<'_> {
    fn entry_at(&mut self, path: &Path) {
        let Ok(parent) = File::open(self.grave) else {
            return;
        };
        let Some(name) = path
            .file_name()
            .and_then(|n| CString::new(n.as_encoded_bytes()).ok())
        else {
            return;
        };
        self.entry(parent.as_fd(), &name, path, 0);
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: &Path, depth: usize) {
        if let Err(error) = self.remove(parent, name, path, depth) {
            self.left.push(Unreaped {
                path: path.to_owned(),
                reason: error.to_string(),
            });
        }
    }

    fn remove(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        point("store.reap")?;
        match unlink(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            // a directory of some file systems; or immutable
            Err(Errno::PERM) if is_dir(parent, name) => {}
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(other) => return Err(other.into()),
        }
        match unlink(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(other) => return Err(other.into()),
        }
        if depth >= DEPTH {
            let up = self.grave.join(crate::random_hex(8));
            return Ok(rustix::fs::renameat(parent, name, CWD, &up)?);
        }
        let dir = open_beneath(parent, name)?;
        self.contents(&dir, path, depth)?;
        if (self.stop)() {
            return Ok(());
        }
        unlink(parent, name, AtFlags::REMOVEDIR).map_err(io::Error::from)
    }

    fn contents(&mut self, dir: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        make_mutable(dir.as_fd());
        for entry in Dir::read_from(dir)? {
            if (self.stop)() {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let below = path.join(std::path::PathBuf::from(
                <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes()),
            ));
            self.entry(dir.as_fd(), name, &below, depth + 1);
        }
        Ok(())
    }
}

/// Unlinks; where the entry or its directory is immutable or append-only, makes it mutable first.
fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::PERM) => {
            make_mutable(parent);
            if let Ok(fd) = rustix::fs::openat2(
                parent,
                name,
                OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::empty(),
                ResolveFlags::NO_XDEV | ResolveFlags::BENEATH,
            ) {
                make_mutable(fd.as_fd());
            }
            rustix::fs::unlinkat(parent, name, flags)
        }
        other => other,
    }
}

/// Takes the immutable and append-only flags off, where there are any.
pub(crate) fn make_mutable(fd: BorrowedFd<'_>) {
    let Ok(flags) = rustix::fs::ioctl_getflags(fd) else {
        return;
    };
    let stuck = IFlags::IMMUTABLE | IFlags::APPEND;
    if flags.intersects(stuck)
        && let Err(error) = rustix::fs::ioctl_setflags(fd, flags - stuck)
    {
        tracing::debug!(%error, "an immutable entry of the trash stays so");
    }
}

fn is_dir(parent: BorrowedFd<'_>, name: &CStr) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
}

/// A directory, never through a link and never into another mount: someone may have bound a
/// directory of the host below what we delete.
fn open_beneath(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?)
}
