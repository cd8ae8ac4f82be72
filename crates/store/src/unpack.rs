//! Unpacking one layer into an overlay-native tree: the security boundary towards archives.
//!
//! The tree is a fresh directory that nobody else can reach, so it is only what we made it: every
//! path is walked one name at a time from a descriptor, never following a link of the file system.
//! Symbolic links that the archive itself made are followed by us, in memory, and only while they
//! stay inside (`lib -> usr/lib`, then `lib/x`); absolute ones and ones that lead out are refused
//! as ways (they are kept as what they are: files of the layer).
//!
//! | in the archive | in the tree |
//! |---|---|
//! | `.wh.name` | character device 0:0 at `name` |
//! | `.wh..wh..opq` | `trusted.overlay.opaque=y` on the directory |
//! | a directory that is only part of a path | made with the lower layer's mode and owner if known |
//!
//! Refused, with the entry's name: `..` in a path or in a hard link's target, a name that is there
//! already (two directories of one name are one), a parent that is not a directory, a device 0:0
//! (a whiteout in disguise), `trusted.overlay.*` attributes (they could show other files of the
//! host's layers), unknown types, and more than [`Limits`] allows. The caller throws the whole tree
//! away then.
//!
//! source: OCI image-spec 1.1 layer.md; Linux Documentation/filesystems/overlayfs.rst

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use sys::fault::point;

use crate::manifest::{Content, Node, Record, SparseHasher};
use crate::tar::{Entry, Kind, Reader, TarError, Time, printable};
use crate::tree;

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
pub(crate) const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const RESERVED_PREFIX: &[u8] = b".wh..wh.";
const MAX_DEPTH: usize = 1024;
const MAX_LINKS: usize = 40;
/// How often the free space is looked at.
const LOOK_EVERY: u64 = 32 << 20;

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry {name}: {what}")]
    Entry { name: String, what: String },
    #[error("entry {name}: {action}")]
    Io {
        name: String,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("entry {name}: not enough space: {free} bytes are free and {keep} must stay free")]
    NoSpace { name: String, free: u64, keep: u64 },
    #[error("entry {name}: more than {limit} entries")]
    TooMany { name: String, limit: usize },
}

impl UnpackError {
    /// Whether deleting something could help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => crate::disk::out_of_space(source),
            _ => false,
        }
    }
}

/// What one layer may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub entries: usize,
    /// Bytes that must stay free on the file system.
    pub keep_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4 << 20,
            keep_free: 64 << 20,
        }
    }
}

/// What the layers below have at a path.
#[derive(Debug, Clone)]
pub(crate) enum Lower {
    Nothing,
    Directory(Box<Record>),
    /// A symbolic link: what the archive meant lies elsewhere.
    Symlink(Vec<u8>),
}

/// Looks a path up in the layers below.
pub(crate) type LowerLookup<'a> = dyn Fn(&[u8]) -> io::Result<Lower> + 'a;

/// What was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Sorted by path.
    pub(crate) records: Vec<Record>,
    /// Directories that the archive did not have but needed, sorted.
    pub(crate) implied: Vec<Vec<u8>>,
    /// Bytes of all files, each counted once.
    pub(crate) size: u64,
}

/// Unpacks an archive into the empty directory behind `root`.
pub(crate) fn unpack<R: BufRead>(
    root: OwnedFd,
    source: R,
    limits: Limits,
    complete: bool,
    lower: Option<&LowerLookup<'_>>,
    progress: &mut dyn FnMut(u64),
) -> Result<(Unpacked, R), UnpackError> {
    let mut reader = Reader::new(source);
    let mut out = Extractor {
        main: Walk::new(&root).map_err(|e| io_error(b".", "open the root", e))?,
        links: Walk::new(&root).map_err(|e| io_error(b".", "open the root", e))?,
        root,
        limits,
        lower,
        nodes: HashMap::new(),
        records: Vec::new(),
        size: 0,
        since_look: 0,
    };
    out.look_at_space(b".")?;
    while let Some(entry) = reader.next_entry()? {
        out.entry(&entry, &mut reader)?;
        progress(reader.offset());
    }
    if complete && !reader.saw_end_marker() {
        return Err(UnpackError::Tar(TarError::Truncated {
            offset: reader.offset(),
            within: "the list of entries".into(),
        }));
    }
    let unpacked = out.finish()?;
    Ok((unpacked, reader.into_inner()))
}

fn io_error(path: &[u8], action: &'static str, e: impl Into<io::Error>) -> UnpackError {
    UnpackError::Io {
        name: printable(path),
        action,
        source: e.into(),
    }
}

/// A place in `records`, and whether the archive has an entry for it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    index: usize,
    implied: bool,
}

struct Extractor<'a> {
    root: OwnedFd,
    /// Where files are made.
    main: Walk,
    /// Where targets of hard links are: elsewhere, usually.
    links: Walk,
    limits: Limits,
    lower: Option<&'a LowerLookup<'a>>,
    nodes: HashMap<Vec<u8>, Slot>,
    records: Vec<Record>,
    size: u64,
    since_look: u64,
}

/// The directories from the root to the one in use, open.
struct Walk {
    path: Vec<u8>,
    /// Descriptor of each directory and the length of its path.
    open: Vec<(usize, OwnedFd)>,
}

impl Walk {
    fn new(root: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            path: Vec::new(),
            open: vec![(0, root.try_clone()?)],
        })
    }

    fn top(&self) -> BorrowedFd<'_> {
        let (_, fd) = self.open.last().expect("the root is never closed");
        fd.as_fd()
    }

    /// Leaves directories until the one in use is `path` or above it.
    fn back_to(&mut self, path: &[u8]) {
        while self.open.len() > 1 {
            let (len, _) = self.open[self.open.len() - 1];
            let inside = path.starts_with(&self.path[..len])
                && (path.len() == len || path.get(len) == Some(&b'/'));
            if inside {
                self.path.truncate(len);
                return;
            }
            self.open.pop();
        }
        self.path.clear();
    }

    /// The next name below the directory in use on the way to `path`.
    fn next<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let start = match self.path.len() {
            0 => 0,
            n => n + 1,
        };
        let rest = path.get(start..).filter(|r| !r.is_empty())?;
        rest.split(|b| *b == b'/').next()
    }

    fn enter(&mut self, name: &[u8]) -> io::Result<()> {
        let fd = tree::open_dir(self.top(), name)?;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.open.push((self.path.len(), fd));
        Ok(())
    }

    /// Opens a directory that is known to be there.
    fn go(&mut self, path: &[u8]) -> io::Result<()> {
        self.back_to(path);
        while let Some(name) = self.next(path) {
            self.enter(name)?;
        }
        Ok(())
    }
}

impl Extractor<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        if self.records.len() >= self.limits.entries {
            return Err(UnpackError::TooMany {
                name: entry.name(),
                limit: self.limits.entries,
            });
        }
        let path = clean(&entry.path).map_err(|what| refuse(entry, what))?;
        if path.is_empty() {
            return self.root_entry(entry);
        }
        let (dir, name) = split(&path);
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(entry, dir, name);
        }
        let dir = self.parent(entry, dir)?;
        let path = tree::join(&dir, name);
        self.check_xattrs(entry)?;
        point("store.unpack").map_err(|e| io_error(&entry.path, "unpack", e))?;
        match entry.kind {
            Kind::Directory => self.directory(entry, &path, name),
            Kind::File => self.file(entry, &path, name, reader),
            Kind::HardLink => self.hard_link(entry, &path, name),
            Kind::Symlink => self.symlink(entry, &path, name),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.special(entry, &path, name),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refuse(entry, "the root is a directory"));
        }
        self.check_xattrs(entry)?;
        let root = self.root.try_clone();
        let root = root.map_err(|e| io_error(b".", "open the root", e))?;
        self.dress_directory(entry, root.as_fd(), b"")
    }

    /// Makes sure that the directory is there and in use; answers with its path without links.
    fn parent(&mut self, entry: &Entry, dir: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let mut path = dir.to_vec();
        let mut links = 0;
        'again: loop {
            self.main.back_to(&path);
            while let Some(name) = self.main.next(&path) {
                let name = name.to_vec();
                let here = tree::join(&self.main.path, &name);
                match self.nodes.get(&here).map(|s| self.records[s.index].node) {
                    Some(Node::Directory) => self
                        .main
                        .enter(&name)
                        .map_err(|e| io_error(&entry.path, "open its directory", e))?,
                    Some(Node::Symlink) => {
                        links += 1;
                        let slot = self.nodes[&here];
                        let target = self.records[slot.index].link.clone();
                        path = detour(entry, &path, &here, &target, links)?;
                        continue 'again;
                    }
                    Some(Node::Whiteout) | None => {
                        if let Some(target) = self.imply(entry, &here, &name)? {
                            links += 1;
                            path = detour(entry, &path, &here, &target, links)?;
                            continue 'again;
                        }
                    }
                    Some(_) => {
                        return Err(refuse(
                            entry,
                            format!("{} is not a directory", printable(&here)),
                        ));
                    }
                }
            }
            return Ok(path);
        }
    }

    /// Makes a directory the archive has no entry for. If the layers below have a symbolic link
    /// there, answers with its target instead.
    fn imply(
        &mut self,
        entry: &Entry,
        path: &[u8],
        name: &[u8],
    ) -> Result<Option<Vec<u8>>, UnpackError> {
        let like = match self.look_below(entry, path)? {
            Lower::Symlink(target) => return Ok(Some(target)),
            Lower::Directory(record) => Some(record),
            Lower::Nothing => None,
        };
        if self.main.open.len() > MAX_DEPTH {
            return Err(refuse(entry, "too deep"));
        }
        let was_whiteout = self.remove_whiteout(entry, path, name)?;
        let failed = |e: Errno| io_error(&entry.path, "make its directory", e);
        rustix::fs::mkdirat(self.main.top(), name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        self.main
            .enter(name)
            .map_err(|e| io_error(&entry.path, "open its directory", e))?;
        let mut record = Record::new(path, Node::Directory);
        record.mode = 0o755;
        if let Some(like) = like {
            record = Record {
                path: path.to_vec(),
                ..*like
            };
            record.xattrs.retain(|(n, _)| n != OPAQUE.as_bytes());
        }
        if was_whiteout {
            set_sorted(&mut record.xattrs, OPAQUE.as_bytes(), b"y");
        }
        dress(self.main.top(), &record).map_err(|e| io_error(path, "set its attributes", e))?;
        self.add(record, true);
        Ok(None)
    }

    fn look_below(&self, entry: &Entry, path: &[u8]) -> Result<Lower, UnpackError> {
        self.lower.map_or(Ok(Lower::Nothing), |look| {
            look(path).map_err(|e| io_error(&entry.path, "look at the layers below", e))
        })
    }

    fn add(&mut self, record: Record, implied: bool) {
        self.nodes.insert(
            record.path.clone(),
            Slot {
                index: self.records.len(),
                implied,
            },
        );
        self.records.push(record);
    }

    /// A whiteout says that the layers below are hidden, not what is here: something of this layer
    /// takes its place.
    fn remove_whiteout(
        &mut self,
        entry: &Entry,
        path: &[u8],
        name: &[u8],
    ) -> Result<bool, UnpackError> {
        let Some(slot) = self.nodes.get(path).copied() else {
            return Ok(false);
        };
        if self.records[slot.index].node != Node::Whiteout {
            return Ok(false);
        }
        rustix::fs::unlinkat(self.main.top(), name, AtFlags::empty())
            .map_err(|e| io_error(&entry.path, "replace a whiteout", e))?;
        // the slot stays, so that indices stay; it is dropped at the end
        self.nodes.remove(path);
        self.records[slot.index].path = vec![0];
        Ok(true)
    }

    fn free_name(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<bool, UnpackError> {
        let was_whiteout = self.remove_whiteout(entry, path, name)?;
        if self.nodes.contains_key(path) {
            return Err(refuse(
                entry,
                "the archive has an entry of this name already",
            ));
        }
        Ok(was_whiteout)
    }

    fn directory(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let known = self.nodes.get(path).map(|s| self.records[s.index].node);
        let mut opaque = false;
        if known != Some(Node::Directory) {
            opaque = self.free_name(entry, path, name)?;
            rustix::fs::mkdirat(self.main.top(), name, Mode::from_raw_mode(0o700))
                .map_err(|e| io_error(&entry.path, "make directory", e))?;
            self.add(Record::new(path, Node::Directory), false);
        }
        if self.main.open.len() > MAX_DEPTH {
            return Err(refuse(entry, "too deep"));
        }
        self.main
            .enter(name)
            .map_err(|e| io_error(&entry.path, "open directory", e))?;
        if opaque {
            self.make_opaque(path)?;
        }
        let dir = self.main.top().try_clone_to_owned();
        let dir = dir.map_err(|e| io_error(&entry.path, "open directory", e))?;
        self.dress_directory(entry, dir.as_fd(), path)
    }

    /// Attributes of a directory; its time is set at the end, when nothing changes it any more.
    fn dress_directory(
        &mut self,
        entry: &Entry,
        dir: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let index = match self.nodes.get_mut(path) {
            Some(slot) => {
                slot.implied = false;
                slot.index
            }
            None => {
                self.add(Record::new(path, Node::Directory), false);
                self.records.len() - 1
            }
        };
        let mut record = record_of(entry, path, Node::Directory);
        let old = &self.records[index];
        if old.xattrs.iter().any(|(n, _)| n == OPAQUE.as_bytes()) {
            set_sorted(&mut record.xattrs, OPAQUE.as_bytes(), b"y");
        }
        dress(dir, &record).map_err(|e| io_error(&entry.path, "set its attributes", e))?;
        self.records[index] = record;
        Ok(())
    }

    fn make_opaque(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        rustix::fs::fsetxattr(self.main.top(), OPAQUE, b"y", XattrFlags::empty())
            .map_err(|e| io_error(path, "make the directory opaque", e))?;
        if !self.nodes.contains_key(path) {
            // only the root can be in use without a record
            let mut root = Record::new(path, Node::Directory);
            root.mode = 0o755;
            self.add(root, true);
        }
        let slot = self.nodes[path];
        set_sorted(
            &mut self.records[slot.index].xattrs,
            OPAQUE.as_bytes(),
            b"y",
        );
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, dir: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        if name.starts_with(RESERVED_PREFIX) && name != OPAQUE_MARK {
            return Ok(()); // bookkeeping of AUFS in old images
        }
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refuse(entry, "a whiteout of nothing"));
        }
        let dir = self.parent(entry, dir)?;
        point("store.unpack").map_err(|e| io_error(&entry.path, "unpack", e))?;
        if name == OPAQUE_MARK {
            return self.make_opaque(&dir);
        }
        let path = tree::join(&dir, hidden);
        match self.nodes.get(&path).map(|s| self.records[s.index].node) {
            // of this layer: only what is below is hidden
            Some(Node::Directory) => {
                self.main
                    .enter(hidden)
                    .map_err(|e| io_error(&entry.path, "open directory", e))?;
                return self.make_opaque(&path);
            }
            Some(_) => return Ok(()),
            None => {}
        }
        rustix::fs::mknodat(
            self.main.top(),
            hidden,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .map_err(|e| io_error(&entry.path, "make a whiteout", e))?;
        self.add(Record::new(&path, Node::Whiteout), false);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        path: &[u8],
        name: &[u8],
        reader: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        self.free_name(entry, path, name)?;
        let failed = |action| move |e: Errno| io_error(&entry.path, action, e);
        let fd = rustix::fs::openat(
            self.main.top(),
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(failed("make file"))?;
        let mut record = record_of(entry, path, Node::File);
        record.size = entry.logical_size();
        record.content = Some(match &entry.sparse {
            None => Content::Plain(self.copy(entry, fd.as_fd(), reader)?),
            Some(_) => Content::Sparse(self.copy_sparse(entry, fd.as_fd(), reader)?),
        });
        self.size += record.size;
        dress(fd.as_fd(), &record).map_err(failed("set its attributes"))?;
        set_times(fd.as_fd(), record.mtime).map_err(failed("set its time"))?;
        self.add(record, false);
        Ok(())
    }

    fn copy<R: BufRead>(
        &mut self,
        entry: &Entry,
        fd: BorrowedFd<'_>,
        reader: &mut Reader<R>,
    ) -> Result<[u8; 32], UnpackError> {
        let mut sum = Sha256::new();
        loop {
            let data = reader.data()?;
            if data.is_empty() {
                return Ok(sum.finalize().into());
            }
            let n = rustix::io::retry_on_intr(|| rustix::io::write(fd, data))
                .map_err(|e| io_error(&entry.path, "write", e))?;
            sum.update(&data[..n]);
            reader.consume(n);
            self.count(entry, n as u64)?;
        }
    }

    fn copy_sparse<R: BufRead>(
        &mut self,
        entry: &Entry,
        fd: BorrowedFd<'_>,
        reader: &mut Reader<R>,
    ) -> Result<[u8; 32], UnpackError> {
        let failed = |e: Errno| io_error(&entry.path, "write", e);
        let mut sum = SparseHasher::new();
        let map = entry.sparse.as_ref().expect("called for sparse entries");
        rustix::fs::ftruncate(fd, map.size).map_err(failed)?;
        for segment in &map.segments {
            let (mut at, end) = (segment.offset, segment.offset + segment.len);
            while at < end {
                let data = reader.data()?;
                let n = usize::try_from(end - at).map_or(data.len(), |n| n.min(data.len()));
                let n = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, &data[..n], at))
                    .map_err(failed)?;
                sum.data(at, &data[..n]);
                reader.consume(n);
                at += n as u64;
                self.count(entry, n as u64)?;
            }
        }
        Ok(sum.finish())
    }

    fn hard_link(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let target = clean(&entry.link).map_err(|what| {
            refuse(
                entry,
                format!("its target {}: {what}", printable(&entry.link)),
            )
        })?;
        let target = self.follow_parents(entry, &target)?;
        let first = match self.nodes.get(&target) {
            Some(slot) => self.records[slot.index].clone(),
            None => {
                return Err(refuse(
                    entry,
                    format!(
                        "hard link to {}, which this layer has not (yet)",
                        printable(&target)
                    ),
                ));
            }
        };
        if matches!(first.node, Node::Directory | Node::Whiteout) {
            return Err(refuse(
                entry,
                format!("hard link to {}, which is not a file", printable(&target)),
            ));
        }
        self.free_name(entry, path, name)?;
        let (target_dir, target_name) = split(&target);
        self.links
            .go(target_dir)
            .and_then(|()| {
                rustix::fs::linkat(
                    self.links.top(),
                    target_name,
                    self.main.top(),
                    name,
                    AtFlags::empty(),
                )
                .map_err(io::Error::from)
            })
            .map_err(|e| io_error(&entry.path, "make hard link", e))?;
        let mut record = Record {
            path: path.to_vec(),
            ..first
        };
        // other names of symbolic links and devices are recorded as what they are
        if matches!(record.node, Node::File | Node::HardLink) {
            if record.node == Node::File {
                record.link.clone_from(&target);
            }
            record = Record {
                link: record.link,
                ..Record::new(path, Node::HardLink)
            };
        }
        self.add(record, false);
        Ok(())
    }

    /// The path of a hard link's target with the links of its parents followed.
    fn follow_parents(&self, entry: &Entry, target: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let mut path = target.to_vec();
        let mut links = 0;
        'again: loop {
            let slashes = (0..path.len()).filter(|i| path[*i] == b'/');
            for end in slashes {
                let here = &path[..end];
                let target = match self.nodes.get(here) {
                    Some(slot) if self.records[slot.index].node == Node::Symlink => {
                        self.records[slot.index].link.clone()
                    }
                    Some(_) => continue,
                    None => match self.look_below(entry, here)? {
                        Lower::Symlink(target) => target,
                        _ => continue,
                    },
                };
                links += 1;
                path = detour(entry, &path, here, &target, links)?;
                continue 'again;
            }
            return Ok(path);
        }
    }

    fn symlink(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        self.free_name(entry, path, name)?;
        rustix::fs::symlinkat(entry.link.as_slice(), self.main.top(), name)
            .map_err(|e| io_error(&entry.path, "make symbolic link", e))?;
        let mut record = record_of(entry, path, Node::Symlink);
        record.mode = 0o777;
        record.link.clone_from(&entry.link);
        self.dress_by_name(entry, &record, name)?;
        self.add(record, false);
        Ok(())
    }

    fn special(&mut self, entry: &Entry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let (kind, node) = match entry.kind {
            Kind::CharDevice => (FileType::CharacterDevice, Node::CharDevice),
            Kind::BlockDevice => (FileType::BlockDevice, Node::BlockDevice),
            _ => (FileType::Fifo, Node::Fifo),
        };
        let dev = (entry.dev_major, entry.dev_minor);
        if node == Node::CharDevice && dev == (0, 0) {
            return Err(refuse(
                entry,
                "a character device 0:0: it would hide what lies below",
            ));
        }
        if dev.0 >= 1 << 12 || dev.1 >= 1 << 20 {
            return Err(refuse(entry, "device number out of range"));
        }
        self.free_name(entry, path, name)?;
        rustix::fs::mknodat(
            self.main.top(),
            name,
            kind,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(dev.0, dev.1),
        )
        .map_err(|e| io_error(&entry.path, "make special file", e))?;
        let mut record = record_of(entry, path, node);
        record.dev = if node == Node::Fifo { (0, 0) } else { dev };
        let mode = Mode::from_raw_mode(record.mode);
        self.dress_by_name(entry, &record, name)?;
        rustix::fs::chmodat(self.main.top(), name, mode, AtFlags::empty())
            .map_err(|e| io_error(&entry.path, "set its mode", e))?;
        self.add(record, false);
        Ok(())
    }

    /// For what can't be opened without an effect. The name was made by us just now, in a
    /// directory nobody else reaches: it is what we think it is.
    fn dress_by_name(
        &self,
        entry: &Entry,
        record: &Record,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        dress_name(self.main.top(), name, record)
            .map_err(|e| io_error(&entry.path, "set its attributes", e))
    }

    fn check_xattrs(&self, entry: &Entry) -> Result<(), UnpackError> {
        for (name, _) in &entry.xattrs {
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                return Err(refuse(
                    entry,
                    format!("attribute {} belongs to the overlay", printable(name)),
                ));
            }
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry, bytes: u64) -> Result<(), UnpackError> {
        self.since_look += bytes;
        if self.since_look >= LOOK_EVERY {
            self.since_look = 0;
            self.look_at_space(&entry.path)?;
        }
        Ok(())
    }

    fn look_at_space(&self, name: &[u8]) -> Result<(), UnpackError> {
        let st = rustix::fs::fstatvfs(&self.root)
            .map_err(|e| io_error(name, "look at free space", e))?;
        let free = st.f_bavail.saturating_mul(st.f_frsize);
        if free < self.limits.keep_free {
            return Err(UnpackError::NoSpace {
                name: printable(name),
                free,
                keep: self.limits.keep_free,
            });
        }
        Ok(())
    }

    /// Times of directories, root first or last is the same: nothing changes them any more.
    fn finish(self) -> Result<Unpacked, UnpackError> {
        let Self {
            root,
            nodes,
            mut records,
            size,
            ..
        } = self;
        records.retain(|r| r.path != [0]);
        if !nodes.contains_key(b"".as_slice()) {
            let mut record = Record::new(b"", Node::Directory);
            record.mode = 0o755;
            dress(root.as_fd(), &record).map_err(|e| io_error(b".", "set its attributes", e))?;
            records.push(record);
        }
        for r in records.iter().filter(|r| r.node == Node::Directory) {
            let path = if r.path.is_empty() {
                b"."
            } else {
                r.path.as_slice()
            };
            if r.xattrs.iter().any(|(n, _)| n == DEFAULT_ACL) {
                tree::open_dir(root.as_fd(), path)
                    .and_then(|dir| Ok(set_default_acl(dir.as_fd(), r)?))
                    .map_err(|e| io_error(&r.path, "set its attributes", e))?;
            }
            rustix::fs::utimensat(&root, path, &stamps(r.mtime), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| io_error(&r.path, "set its time", e))?;
        }
        records.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let implied = records
            .iter()
            .filter(|r| nodes.get(&r.path).is_none_or(|s| s.implied))
            .map(|r| r.path.clone())
            .collect();
        Ok(Unpacked {
            records,
            implied,
            size,
        })
    }
}

fn refuse(entry: &Entry, what: impl Into<String>) -> UnpackError {
    UnpackError::Entry {
        name: entry.name(),
        what: what.into(),
    }
}

/// A path of an archive as a path below the root: no leading slash, no `.`; `..` is refused.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path contains \"..\""),
            _ => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    Ok(out)
}

pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

/// `path` goes through the symbolic link `here`: where to instead.
fn detour(
    entry: &Entry,
    path: &[u8],
    here: &[u8],
    target: &[u8],
    links: usize,
) -> Result<Vec<u8>, UnpackError> {
    let through = |what: &str| {
        refuse(
            entry,
            format!(
                "it goes through the symbolic link {} -> {}, {what}",
                printable(here),
                printable(target)
            ),
        )
    };
    if links > MAX_LINKS {
        return Err(through("one of too many"));
    }
    if target.starts_with(b"/") {
        return Err(through("which is absolute"));
    }
    let (dir, _) = split(here);
    let rest = &path[here.len()..];
    let mut parts: Vec<&[u8]> = Vec::new();
    let all = dir
        .split(|b| *b == b'/')
        .chain(target.split(|b| *b == b'/'))
        .chain(rest.split(|b| *b == b'/'));
    for part in all {
        match part {
            b"" | b"." => {}
            b".." => {
                parts
                    .pop()
                    .ok_or_else(|| through("which leads out of the root"))?;
            }
            other => parts.push(other),
        }
    }
    Ok(parts.join(&b'/'))
}

fn record_of(entry: &Entry, path: &[u8], node: Node) -> Record {
    let mut xattrs: Vec<_> = entry
        .xattrs
        .iter()
        .filter(|(n, _)| is_kept(n))
        .cloned()
        .collect();
    xattrs.sort_unstable();
    Record {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs,
        ..Record::new(path, node)
    }
}

/// Attributes that travel with an image. Labels of a security module belong to the host.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

fn set_sorted(list: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: &[u8]) {
    match list.binary_search_by(|(n, _)| n.as_slice().cmp(name)) {
        Ok(i) => list[i].1 = value.to_vec(),
        Err(i) => list.insert(i, (name.to_vec(), value.to_vec())),
    }
}

/// Owner, mode and extended attributes of an open file or directory. The order matters: a change of
/// owner takes set-id bits and capabilities away.
pub(crate) fn dress(fd: BorrowedFd<'_>, record: &Record) -> Result<(), Errno> {
    // also to 0:0: in a directory with the set-group-id bit, new files get its group
    rustix::fs::fchown(
        fd,
        Some(Uid::from_raw(record.uid)),
        Some(Gid::from_raw(record.gid)),
    )?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(record.mode))?;
    for (name, value) in &record.xattrs {
        if name == DEFAULT_ACL {
            continue; // would be inherited by what is made inside: `set_default_acl` at the end
        }
        let set = rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty());
        tolerate(name, set)?;
    }
    Ok(())
}

/// The default ACL of a directory, once everything in it was made.
pub(crate) fn set_default_acl(dir: BorrowedFd<'_>, record: &Record) -> Result<(), Errno> {
    for (name, value) in record.xattrs.iter().filter(|(n, _)| n == DEFAULT_ACL) {
        let set = rustix::fs::fsetxattr(dir, name.as_slice(), value, XattrFlags::empty());
        tolerate(name, set)?;
    }
    Ok(())
}

/// Owner, extended attributes and time of what can't be opened without an effect.
pub(crate) fn dress_name(dir: BorrowedFd<'_>, name: &[u8], record: &Record) -> Result<(), Errno> {
    rustix::fs::chownat(
        dir,
        name,
        Some(Uid::from_raw(record.uid)),
        Some(Gid::from_raw(record.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    let path = tree::proc_path(dir, name);
    for (key, value) in &record.xattrs {
        let set = rustix::fs::lsetxattr(&path, key.as_slice(), value, XattrFlags::empty());
        tolerate(key, set)?;
    }
    rustix::fs::utimensat(dir, name, &stamps(record.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Attributes for convenience may be missing where the file system has none; capabilities and what
/// the overlay needs may not.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        Err(Errno::OPNOTSUPP) if name.starts_with(b"system.") => Ok(()),
        other => other,
    }
}

fn stamps(mtime: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.sec,
        tv_nsec: mtime.nsec.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(crate) fn set_times(fd: BorrowedFd<'_>, mtime: Time) -> Result<(), Errno> {
    rustix::fs::futimens(fd, &stamps(mtime))
}
