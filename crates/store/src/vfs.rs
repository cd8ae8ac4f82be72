//! The changes of a container under the `vfs` driver: its full copy compared with the layers below.
//!
//! They are brought into the form the overlay keeps them in: a directory in staging with what is
//! new or different (files as hard links: nothing is copied) and whiteouts for what is gone. So the
//! list of changes and the layer of a commit have one code for both drivers.
//!
//! A file counts as changed if its type, mode, owner, size, time, device or target differs. Content
//! written with the same size and time put back is not seen; so it is with tar and rsync.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode};
use sys::fault::point;

use crate::manifest::{Node, Record};
use crate::tree::{self, Stat};
use crate::{layers, unpack};

/// Fills `upper`, an empty directory on the same file system as `rootfs`.
pub(crate) fn upper_of(rootfs: &Path, lowers: &[PathBuf], upper: &Path) -> io::Result<()> {
    let (from, to) = (tree::open_root(rootfs)?, tree::open_root(upper)?);
    compare(from.as_fd(), lowers, to.as_fd(), b"")?;
    dress_like(from.as_fd(), to.as_fd())
}

/// Compares one directory that is in both. `true`: something in it differs.
fn compare(
    from: BorrowedFd<'_>,
    lowers: &[PathBuf],
    to: BorrowedFd<'_>,
    path: &[u8],
) -> io::Result<bool> {
    let mut any = false;
    let mut names: BTreeSet<Vec<u8>> = tree::names(from)?.into_iter().collect();
    names.extend(names_below(lowers, path)?);
    for name in names {
        point("store.vfs")?;
        let child = tree::join(path, &name);
        let below = layers::stat_below(lowers, &child)?;
        let stat = match tree::stat(from, &name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if below.is_some() {
                    let kind = FileType::CharacterDevice;
                    rustix::fs::mknodat(to, &*name, kind, Mode::empty(), 0)?;
                    any = true;
                }
                continue;
            }
            Err(e) => return Err(e),
        };
        any |= if stat.node == Node::Directory {
            directory(from, lowers, to, (&child, &name), (&stat, below))?
        } else if below.is_some_and(|b| !differs(&stat, &b))
            && same_target(from, &name, &stat, lowers, &child)?
        {
            false
        } else {
            rustix::fs::linkat(from, &*name, to, &*name, AtFlags::empty())?;
            true
        };
    }
    Ok(any)
}

fn directory(
    from: BorrowedFd<'_>,
    lowers: &[PathBuf],
    to: BorrowedFd<'_>,
    (path, name): (&[u8], &[u8]),
    (stat, below): (&Stat, Option<Stat>),
) -> io::Result<bool> {
    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
    let (inner_from, inner_to) = (tree::open_dir(from, name)?, tree::open_dir(to, name)?);
    let below_dir = below.filter(|b| b.node == Node::Directory);
    // over something else nothing shows through
    let inner_lowers = if below_dir.is_some() { lowers } else { &[] };
    let inside = compare(inner_from.as_fd(), inner_lowers, inner_to.as_fd(), path)?;
    if !inside && below_dir.is_some_and(|b| !differs(stat, &b)) {
        rustix::fs::unlinkat(to, name, AtFlags::REMOVEDIR)?;
        return Ok(false);
    }
    dress_like(inner_from.as_fd(), inner_to.as_fd())?;
    Ok(true)
}

fn differs(a: &Stat, b: &Stat) -> bool {
    let of = |s: &Stat| (s.node, s.mode, s.uid, s.gid, s.mtime, s.dev);
    of(a) != of(b) || (a.node == Node::File && a.size != b.size)
}

fn same_target(
    from: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    lowers: &[PathBuf],
    path: &[u8],
) -> io::Result<bool> {
    if stat.node != Node::Symlink {
        return Ok(true);
    }
    let own = tree::read_link(from, name)?;
    Ok(matches!(layers::look_below(lowers, path)?, unpack::Lower::Symlink(t) if t == own))
}

/// Names that some layer has in a directory; some of them may be hidden.
pub(crate) fn names_below(lowers: &[PathBuf], path: &[u8]) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for layer in lowers {
        match tree::open_root(&tree::on_disk(layer, path)) {
            Ok(dir) => names.extend(tree::names(dir.as_fd())?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // a link or a file in this layer
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {}
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(names)
}

fn dress_like(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = tree::stat_fd(from)?;
    let record = Record {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        xattrs: tree::xattrs_of(from)?,
        ..Record::new(b"", Node::Directory)
    };
    unpack::dress(to, &record)?;
    unpack::set_default_acl(to, &record)?;
    Ok(unpack::set_times(to, stat.mtime)?)
}
