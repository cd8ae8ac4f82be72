//! Copying trees: a whole root file system for the `vfs` driver, from the layers of an image.
//!
//! Content is shared with the layer where the file system can (reflink), else copied in the kernel.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::fault::point;

use crate::disk::{Context as _, DiskError};
use crate::manifest::{Node, Record};
use crate::tree::{self, Stat};
use crate::unpack;

/// Lays `layers` (top first) over each other in `dest`, an empty directory.
pub(crate) fn flatten(layers: &[PathBuf], dest: &Path) -> Result<(), DiskError> {
    let to = tree::open_root(dest).on("open", dest)?;
    for layer in layers.iter().rev() {
        let from = tree::open_root(layer).on("open", layer)?;
        let mut copier = Copier {
            root: to.try_clone().on("open", dest)?,
            links: HashMap::new(),
        };
        copier
            .directory(from.as_fd(), to.as_fd(), b"")
            .on("copy", layer)?;
    }
    Ok(())
}

struct Copier {
    root: OwnedFd,
    /// Files of this layer with more than one name, and the first name copied.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Copier {
    /// Copies what is in `from` over what is in `to`, then the directory's own attributes.
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &[u8],
    ) -> io::Result<()> {
        let xattrs = tree::xattrs(from, b".")?;
        if xattrs
            .iter()
            .any(|(n, v)| n == unpack::OPAQUE.as_bytes() && v == b"y")
        {
            for name in tree::names(to)? {
                remove(to, &name)?;
            }
        }
        for name in tree::names(from)? {
            self.entry(from, to, &tree::join(path, &name), &name)?;
        }
        let stat = tree::stat(from, b".")?;
        let record = record(&stat, Node::Directory, xattrs);
        unpack::dress(to, &record)?;
        unpack::set_default_acl(to, &record)?;
        unpack::set_times(to, stat.mtime)?;
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
    ) -> io::Result<()> {
        point("store.copy")?;
        let stat = tree::stat(from, name)?;
        if stat.node == Node::Directory {
            match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) if tree::stat(to, name)?.node == Node::Directory => {}
                Err(Errno::EXIST) => {
                    remove(to, name)?;
                    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                }
                Err(e) => return Err(e.into()),
            }
            let (from, to) = (tree::open_dir(from, name)?, tree::open_dir(to, name)?);
            return self.directory(from.as_fd(), to.as_fd(), path);
        }
        remove(to, name)?;
        if stat.links > 1 {
            if let Some(first) = self.links.get(&stat.dev_ino) {
                let flags = AtFlags::empty();
                return Ok(rustix::fs::linkat(
                    &self.root,
                    first.as_slice(),
                    to,
                    name,
                    flags,
                )?);
            }
            self.links.insert(stat.dev_ino, path.to_vec());
        }
        match stat.node {
            Node::Whiteout | Node::Directory => Ok(()),
            Node::File | Node::HardLink if stat.socket => Ok(()),
            Node::File | Node::HardLink => copy_file(from, to, name, &stat),
            Node::Symlink => {
                let target = tree::read_link(from, name)?;
                rustix::fs::symlinkat(target.as_slice(), to, name)?;
                dress_by_name(from, to, name, &stat)
            }
            Node::CharDevice | Node::BlockDevice | Node::Fifo => {
                let kind = match stat.node {
                    Node::CharDevice => FileType::CharacterDevice,
                    Node::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let dev = rustix::fs::makedev(stat.dev.0, stat.dev.1);
                rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), dev)?;
                dress_by_name(from, to, name, &stat)?;
                let mode = Mode::from_raw_mode(stat.mode);
                Ok(rustix::fs::chmodat(to, name, mode, AtFlags::empty())?)
            }
        }
    }
}

fn record(stat: &Stat, node: Node, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Record {
    Record {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        xattrs: xattrs
            .into_iter()
            .filter(|(n, _)| !n.starts_with(b"trusted.overlay.") && unpack::is_kept(n))
            .collect(),
        ..Record::new(b"", node)
    }
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> io::Result<()> {
    let source = tree::open_file(from, name)?;
    let target = rustix::fs::openat(
        to,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        rustix::fs::ftruncate(&target, stat.size)?;
        for (start, end) in tree::segments(&source)? {
            copy_range(&source, &target, start, end)?;
        }
    }
    let record = record(stat, Node::File, tree::xattrs(from, name)?);
    unpack::dress(target.as_fd(), &record)?;
    unpack::set_times(target.as_fd(), stat.mtime)?;
    Ok(())
}

fn copy_range(source: &std::fs::File, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut at, mut to) = (start, start);
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut at), target, Some(&mut to), want) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let mut buffer = vec![0; 1 << 18];
                while at < end {
                    let n = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
                    let n = rustix::io::pread(source, &mut buffer[..n], at)?;
                    if n == 0 {
                        return Ok(());
                    }
                    let mut done = 0;
                    while done < n {
                        done += rustix::io::pwrite(target, &buffer[done..n], at + done as u64)?;
                    }
                    at += n as u64;
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn dress_by_name(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
) -> io::Result<()> {
    let record = record(stat, stat.node, tree::xattrs(from, name)?);
    unpack::dress_name(to, name, &record)?;
    Ok(())
}

/// Removes a name and all below it; that there is none is fine.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            let inner = tree::open_dir(dir, name)?;
            for child in tree::names(inner.as_fd())? {
                remove(inner.as_fd(), &child)?;
            }
            Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
        }
        Err(e) => Err(e.into()),
    }
}
