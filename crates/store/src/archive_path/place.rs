//! Unpacking into a tree that belongs to somebody else.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::fault::point;

use super::{ArchivePathError, UntarOptions, ends_in_dir, io_error, open_in_root, reopen};
use crate::blobs::KEEP_FREE;
use crate::layers::read_up_to;
use crate::manifest::{Node, Record};
use crate::pipe::{Unpacker, sniff};
use crate::tar::{Entry, Kind, Reader};
use crate::unpack::{self, UnpackError, clean};
use crate::{copy, tree};

/// Up to so many entries right in the target each file is synced; else the file system as a whole.
const SYNC_EACH: usize = 16;
/// How often the free space is looked at, in bytes.
const LOOK_EVERY: u64 = 16 << 20;

pub(super) fn place(
    root: BorrowedFd<'_>,
    path: &str,
    tar: &mut dyn Read,
    options: &UntarOptions,
) -> Result<(), ArchivePathError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let wanted = if path.is_empty() { "." } else { path };
    let target = open_in_root(root, wanted.as_bytes(), flags).map_err(|e| match e {
        Errno::NOENT => ArchivePathError::NotFound(path.to_owned()),
        Errno::NOTDIR => ArchivePathError::NotADirectory(path.to_owned()),
        e => io_error("open", path, e),
    })?;
    let mut head = [0; 6];
    let n = read_up_to(tar, &mut head).map_err(|e| io_error("read the archive for", path, e))?;
    let packing = sniff(&head[..n]).map_err(|name| {
        let e = io::Error::other(format!("it is compressed with {name}: use gzip or zstd"));
        io_error("read the archive for", path, e)
    })?;
    let whole = io::Cursor::new(head).take(n as u64).chain(tar);
    let stream =
        Unpacker::new(whole, packing).map_err(|e| io_error("read the archive for", path, e))?;
    let mut reader = Reader::new(BufReader::with_capacity(256 << 10, stream));
    let mut placer = Placer {
        root,
        base: format!("{}/", path.trim_end_matches('/')).into_bytes(),
        options,
        parent: None,
        directories: Vec::new(),
        count: 0,
        since_look: 0,
        nested: false,
    };
    debug_assert!(ends_in_dir("/"));
    while let Some(entry) = reader.next_entry()? {
        placer.entry(&entry, &mut reader)?;
    }
    placer.finish(&target, path)
}

struct Placer<'a> {
    root: BorrowedFd<'a>,
    /// Where the archive goes, ending in a slash.
    base: Vec<u8>,
    options: &'a UntarOptions,
    /// The directory used last, and its path in the archive.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Their times and default ACLs are set at the end.
    directories: Vec<(Vec<u8>, Record)>,
    count: usize,
    /// Bytes since the free space was looked at.
    since_look: u64,
    /// Something was made below a directory of the target: syncing the target alone is not enough.
    nested: bool,
}

fn failed(entry: &Entry, action: &'static str, e: impl Into<io::Error>) -> ArchivePathError {
    UnpackError::Io {
        name: entry.name(),
        action,
        source: e.into(),
    }
    .into()
}

fn refuse(entry: &Entry, what: impl Into<String>) -> ArchivePathError {
    UnpackError::Entry {
        name: entry.name(),
        what: what.into(),
    }
    .into()
}

impl Placer<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), ArchivePathError> {
        let path = clean(&entry.path).map_err(|what| refuse(entry, what))?;
        if path.is_empty() {
            return Ok(()); // the target keeps its own attributes
        }
        let (dir, name) = unpack::split(&path);
        self.nested |= !dir.is_empty();
        let parent = self.parent(entry, dir)?;
        point("store.untar").map_err(|e| failed(entry, "unpack", e))?;
        let keep = self.make_room(entry, parent.as_fd(), name)?;
        let record = self.record(entry);
        self.count += 1;
        match entry.kind {
            Kind::Directory => {
                if !keep {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))
                        .map_err(|e| failed(entry, "make directory", e))?;
                }
                let fd = tree::open_dir(parent.as_fd(), name)
                    .map_err(|e| failed(entry, "open directory", e))?;
                unpack::dress(fd.as_fd(), &record)
                    .map_err(|e| failed(entry, "set its attributes", e))?;
                self.directories.push((path, record));
                Ok(())
            }
            Kind::File => self.file(entry, &parent, name, &record, reader),
            Kind::HardLink => self.hard_link(entry, &parent, name),
            Kind::Symlink => {
                rustix::fs::symlinkat(entry.link.as_slice(), &parent, name)
                    .map_err(|e| failed(entry, "make symbolic link", e))?;
                unpack::dress_name(parent.as_fd(), name, &record)
                    .map_err(|e| failed(entry, "set its attributes", e))
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                special(entry, &parent, name, &record)
            }
        }
    }

    /// The directory an entry goes to, made where it is missing. Links on the way are followed
    /// inside the root, as the container itself would see them.
    fn parent(&mut self, entry: &Entry, dir: &[u8]) -> Result<OwnedFd, ArchivePathError> {
        let clone = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|e| failed(entry, "open its directory", e))
        };
        if let Some((path, fd)) = &self.parent
            && path == dir
        {
            return clone(fd);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &[u8]| {
            let whole = [self.base.as_slice(), path].concat();
            let fd = open_in_root(self.root, &whole, flags)?;
            reopen(fd, OFlags::RDONLY | OFlags::DIRECTORY)
        };
        let fd = match open(dir) {
            Err(Errno::NOENT) if !dir.is_empty() => {
                let (above, name) = unpack::split(dir);
                let above = self.parent(entry, above)?;
                rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))
                    .map_err(|e| failed(entry, "make its directory", e))?;
                tree::open_dir(above.as_fd(), name)
                    .map_err(|e| failed(entry, "open its directory", e))?
            }
            other => other.map_err(|e| failed(entry, "open its directory", e))?,
        };
        self.parent = Some((dir.to_vec(), clone(&fd)?));
        Ok(fd)
    }

    /// Removes what the entry replaces. `true`: a directory that stays.
    fn make_room(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<bool, ArchivePathError> {
        let old = match tree::stat(parent, name) {
            Ok(stat) => stat.node == Node::Directory,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(entry, "look at what is there", e)),
        };
        let new = entry.kind == Kind::Directory;
        match (old, new) {
            (true, true) => return Ok(true),
            (true, false) if self.options.no_overwrite_dir_non_dir => {
                return Err(refuse(entry, "it would replace a directory by a file"));
            }
            (false, true) if self.options.no_overwrite_dir_non_dir => {
                return Err(refuse(entry, "it would replace a file by a directory"));
            }
            _ => {}
        }
        self.parent = None; // may have been inside
        copy::remove(parent, name).map_err(|e| failed(entry, "remove what is there", e))?;
        Ok(false)
    }

    fn record(&self, entry: &Entry) -> Record {
        let (uid, gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        Record {
            mode: entry.mode,
            uid,
            gid,
            mtime: entry.mtime,
            xattrs: entry
                .xattrs
                .iter()
                .filter(|(n, _)| unpack::is_kept(n) && !n.starts_with(b"trusted."))
                .cloned()
                .collect(),
            ..Record::new(&entry.path, Node::File)
        }
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
        record: &Record,
        reader: &mut Reader<R>,
    ) -> Result<(), ArchivePathError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| failed(entry, "make file", e))?;
        rustix::fs::ftruncate(&fd, entry.logical_size())
            .map_err(|e| failed(entry, "set its size", e))?;
        let whole = [crate::tar::Segment {
            offset: 0,
            len: entry.size,
        }];
        let segments = entry.sparse.as_ref().map_or(&whole[..], |s| &s.segments);
        for segment in segments {
            let (mut at, end) = (segment.offset, segment.offset + segment.len);
            while at < end {
                let data = reader.data()?;
                let n = usize::try_from(end - at).map_or(data.len(), |n| n.min(data.len()));
                let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(&fd, &data[..n], at))
                    .map_err(|e| failed(entry, "write", e))?;
                reader.consume(n);
                at += n as u64;
                self.look_at_space(entry, fd.as_fd(), n)?;
            }
        }
        unpack::dress(fd.as_fd(), record).map_err(|e| failed(entry, "set its attributes", e))?;
        unpack::set_times(fd.as_fd(), record.mtime)
            .map_err(|e| failed(entry, "set its time", e))?;
        if self.syncs_each() {
            File::from(fd)
                .sync_all()
                .map_err(|e| failed(entry, "sync", e))?;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<(), ArchivePathError> {
        let target =
            clean(&entry.link).map_err(|what| refuse(entry, format!("its target: {what}")))?;
        let (dir, target_name) = unpack::split(&target);
        let target_dir = self.parent(entry, dir)?;
        rustix::fs::linkat(&target_dir, target_name, parent, name, AtFlags::empty())
            .map_err(|e| failed(entry, "make hard link", e))
    }

    /// A copy into somebody's tree is theirs to fill; what is thrown away is not to fill the disk.
    fn look_at_space(
        &mut self,
        entry: &Entry,
        fd: BorrowedFd<'_>,
        bytes: usize,
    ) -> Result<(), ArchivePathError> {
        self.since_look += bytes as u64;
        if !self.options.throwaway || self.since_look < LOOK_EVERY {
            return Ok(());
        }
        self.since_look = 0;
        let st = rustix::fs::fstatvfs(fd).map_err(|e| failed(entry, "look at free space", e))?;
        let free = st.f_bavail.saturating_mul(st.f_frsize);
        if free < KEEP_FREE {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(failed(entry, "unpack: too little space is left", full));
        }
        Ok(())
    }

    fn syncs_each(&self) -> bool {
        self.count <= SYNC_EACH && !self.options.throwaway
    }

    fn finish(mut self, target: &OwnedFd, path: &str) -> Result<(), ArchivePathError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (dir, record) in std::mem::take(&mut self.directories) {
            let whole = [self.base.as_slice(), &dir].concat();
            // what is no longer there needs no time
            if let Ok(fd) = open_in_root(self.root, &whole, flags)
                && let Ok(fd) = reopen(fd, OFlags::RDONLY | OFlags::DIRECTORY)
            {
                unpack::set_default_acl(fd.as_fd(), &record)
                    .and_then(|()| unpack::set_times(fd.as_fd(), record.mtime))
                    .map_err(|e| io_error("set the time of", path, e))?;
                if self.syncs_each() {
                    sync_dir(&fd, path)?;
                }
            }
        }
        if self.options.throwaway {
            return Ok(());
        }
        let target = reopen(target, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| io_error("open", path, e))?;
        if self.count <= SYNC_EACH && !self.nested {
            return sync_dir(&target, path);
        }
        point("store.untar.syncfs").map_err(|e| io_error("sync", path, e))?;
        rustix::fs::syncfs(&target).map_err(|e| io_error("sync", path, e))
    }
}

fn sync_dir(dir: &OwnedFd, path: &str) -> Result<(), ArchivePathError> {
    point("store.untar.sync").map_err(|e| io_error("sync", path, e))?;
    match rustix::fs::fsync(dir) {
        // directories of some file systems (procfs, FUSE) can't be synced
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(io_error("sync", path, e)),
    }
}

fn special(
    entry: &Entry,
    parent: &OwnedFd,
    name: &[u8],
    record: &Record,
) -> Result<(), ArchivePathError> {
    let kind = match entry.kind {
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    if kind == FileType::CharacterDevice && (entry.dev_major, entry.dev_minor) == (0, 0) {
        return Err(refuse(entry, "a character device 0:0 is a whiteout"));
    }
    let dev = rustix::fs::makedev(entry.dev_major, entry.dev_minor);
    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), dev)
        .map_err(|e| failed(entry, "make special file", e))?;
    unpack::dress_name(parent.as_fd(), name, record)
        .map_err(|e| failed(entry, "set its attributes", e))?;
    // by descriptor: the name may have been replaced by a link meanwhile
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|e| failed(entry, "set its mode", e))?;
    rustix::fs::chmod(
        tree::proc_path(fd.as_fd(), b""),
        Mode::from_raw_mode(record.mode),
    )
    .map_err(|e| failed(entry, "set its mode", e))
}
