//! Packing a tree that may change while it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{ArchivePathError, io_error, reopen};
use crate::diff::{PackError, entry_of, pack_file};
use crate::manifest::Node;
use crate::tar::{Kind, Writer, printable};
use crate::{tree, unpack};

/// Packs what `top` (an `O_PATH` descriptor) stands for, under `name`.
pub(super) fn pack(
    top: &OwnedFd,
    path: &str,
    name: &[u8],
    out: &mut dyn Write,
    one_file_system: bool,
) -> Result<(), ArchivePathError> {
    let stat = tree::stat_fd(top.as_fd()).map_err(|e| io_error("look at", path, e))?;
    let mut packer = Packer {
        tar: Writer::new(BufWriter::with_capacity(256 << 10, out)),
        links: HashMap::new(),
        buffer: vec![0; 256 << 10],
        device: one_file_system.then_some(stat.dev_ino.0),
    };
    let name = match name {
        b"/" => b"",
        other => other,
    };
    packer.node(top, name)?;
    packer
        .tar
        .finish()
        .and_then(|mut w| w.flush())
        .map_err(ArchivePathError::Write)
}

struct Packer<W> {
    tar: Writer<W>,
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    device: Option<u64>,
}

fn failed(action: &'static str, path: &[u8], e: impl Into<io::Error>) -> ArchivePathError {
    io_error(action, &printable(path), e)
}

impl<W: Write> Packer<W> {
    /// One file or tree. All that is known of it comes from the descriptor.
    fn node(&mut self, fd: &OwnedFd, path: &[u8]) -> Result<(), ArchivePathError> {
        let stat = tree::stat_fd(fd.as_fd()).map_err(|e| failed("look at", path, e))?;
        if stat.socket {
            return Ok(());
        }
        let mut entry = entry_of(&stat, path);
        if stat.links > 1 && !matches!(stat.node, Node::Directory) {
            if let Some(first) = self.links.get(&stat.dev_ino) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                return self.tar.start(&entry).map_err(ArchivePathError::Write);
            }
            self.links.insert(stat.dev_ino, path.to_vec());
        }
        match stat.node {
            Node::Directory => self.directory(fd, entry, stat.dev_ino.0),
            Node::File | Node::HardLink => {
                let file = reopen(fd, OFlags::RDONLY).map_err(|e| failed("open", path, e))?;
                entry.xattrs = xattrs(file.as_fd(), path)?;
                let mut tar_error = |e| match e {
                    PackError::Source(e) => failed("read", path, e),
                    PackError::Sink(e) => ArchivePathError::Write(e),
                };
                pack_file(
                    &File::from(file),
                    &mut entry,
                    &mut self.tar,
                    &mut self.buffer,
                )
                .map_err(&mut tar_error)
            }
            Node::Symlink => {
                entry.link = rustix::fs::readlinkat(fd, "", Vec::new())
                    .map_err(|e| failed("read the link", path, e))?
                    .into_bytes();
                self.tar.start(&entry).map_err(ArchivePathError::Write)
            }
            _ => self.tar.start(&entry).map_err(ArchivePathError::Write),
        }
    }

    fn directory(
        &mut self,
        fd: &OwnedFd,
        mut entry: crate::tar::Entry,
        device: u64,
    ) -> Result<(), ArchivePathError> {
        let path = entry.path.clone();
        let dir =
            reopen(fd, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| failed("open", &path, e))?;
        entry.xattrs = xattrs(dir.as_fd(), &path)?;
        if !path.is_empty() {
            self.tar.start(&entry).map_err(ArchivePathError::Write)?;
        }
        if self.device.is_some_and(|d| d != device) {
            return Ok(());
        }
        for name in tree::names(dir.as_fd()).map_err(|e| failed("list", &path, e))? {
            let child = tree::join(&path, &name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(&dir, name.as_slice(), flags, Mode::empty()) {
                Ok(fd) => self.node(&fd, &child)?,
                // gone since the directory was read
                Err(Errno::NOENT) => {}
                Err(e) => return Err(failed("open", &child, e)),
            }
        }
        Ok(())
    }
}

fn xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> Result<tree::Xattrs, ArchivePathError> {
    let mut list = tree::xattrs_of(fd).map_err(|e| failed("read the attributes of", path, e))?;
    list.retain(|(n, _)| unpack::is_kept(n) && !n.starts_with(b"trusted."));
    Ok(list)
}
