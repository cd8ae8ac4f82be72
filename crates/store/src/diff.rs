//! What a container changed on top of its image: told as a list, and packed as a layer.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension as _;
use rustix::io::Errno;

use crate::disk::{Context as _, DiskError};
use crate::manifest::Node;
use crate::meta::MetaError;
use crate::tar::{Entry, Kind, Segment, SparseMap, Writer};
use crate::tree::{self, Stat};
use crate::{Store, disk, layers, unpack, vfs};

/// Smaller files are packed with their zeros; so are those whose holes are less than a half.
const SPARSE_FROM: u64 = 1 << 20;

/// How a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

impl ChangeKind {
    /// Docker's letter.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Modified => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute in the container; not necessarily UTF-8.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

/// Why changes could not be told.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("no container with the id {0}")]
    NotFound(String),
    #[error("read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: it was renamed by an overlay with redirect_dir on: its content can't be told apart from the image's", path.display())]
    Redirect { path: PathBuf },
    #[error("write the layer")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] crate::meta::MetaError),
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
}

/// What is left out: mount points the engine made, by path relative to the root.
pub(crate) fn excluded(paths: &[String]) -> BTreeSet<Vec<u8>> {
    paths
        .iter()
        .filter_map(|p| unpack::clean(p.as_bytes()).ok())
        .filter(|p| !p.is_empty())
        .collect()
}

impl Store {
    /// What a container changed, by path. `exclude` names paths that the engine made for mounts:
    /// they are left out while they are empty.
    ///
    /// # Errors
    /// No such container, or its files can't be read.
    pub fn changes(&self, container: &str, exclude: &[String]) -> Result<Vec<Change>, DiffError> {
        let (upper, lowers) = self.upper_and_lowers(container)?;
        let walk = ChangeWalk {
            root: upper.path(),
            lowers: &lowers,
            exclude: &excluded(exclude),
        };
        let mut list = Vec::new();
        let dir = tree::open_root(upper.path()).on("open", upper.path())?;
        walk.directory(dir.as_fd(), b"", false, &mut list)?;
        list.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(list)
    }

    /// What a container has written, in the overlay's form, and the layers it stands on.
    pub(crate) fn upper_and_lowers(
        &self,
        container: &str,
    ) -> Result<(Upper<'_>, Vec<PathBuf>), DiffError> {
        let id = container.to_owned();
        let image: Option<String> = self.meta().read(|db| -> Result<_, MetaError> {
            Ok(db
                .prepare_cached("SELECT image FROM containers WHERE id = ?1")?
                .query_row([&id], |r| r.get(0))
                .optional()?)
        })?;
        let image = image.ok_or_else(|| DiffError::NotFound(container.to_owned()))?;
        let lowers = self.rootfs_layers(&image)?;
        let fs = self.container_fs(container);
        if self.driver() == crate::Driver::Overlay {
            return Ok((Upper::Own(fs.upper), lowers));
        }
        let staged = self.staging("upper");
        disk::create_dir(&staged, 0o700)?;
        let upper = Upper::Compared(self, staged);
        let rootfs = fs.dir.join("rootfs");
        vfs::upper_of(&rootfs, &lowers, upper.path()).on("compare with its image", &rootfs)?;
        Ok((upper, lowers))
    }
}

/// A directory in the form of an overlay's upper.
pub(crate) enum Upper<'a> {
    Own(PathBuf),
    /// In staging, for as long as this lives.
    Compared(&'a Store, PathBuf),
}

impl Upper<'_> {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(path) | Self::Compared(_, path) => path,
        }
    }
}

impl Drop for Upper<'_> {
    fn drop(&mut self) {
        if let Self::Compared(store, path) = self {
            store.trash_leftover(path);
        }
    }
}

struct ChangeWalk<'a> {
    root: &'a Path,
    lowers: &'a [PathBuf],
    exclude: &'a BTreeSet<Vec<u8>>,
}

impl ChangeWalk<'_> {
    fn error(&self, path: &[u8], source: impl Into<io::Error>) -> DiffError {
        DiffError::Io {
            path: tree::on_disk(self.root, path),
            source: source.into(),
        }
    }

    /// Lists what is below a directory; `fresh`: nothing of the layers below shows through. Tells
    /// whether a mount target was made in it, which is what its time then says, and no change.
    fn directory(
        &self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        fresh: bool,
        list: &mut Vec<Change>,
    ) -> Result<bool, DiffError> {
        let mut targets = false;
        for name in tree::names(dir).map_err(|e| self.error(path, e))? {
            let child = tree::join(path, &name);
            let stat = tree::stat(dir, &name).map_err(|e| self.error(&child, e))?;
            if stat.node == Node::Directory {
                let inner = tree::open_dir(dir, &name).map_err(|e| self.error(&child, e))?;
                self.subdirectory(inner.as_fd(), &child, &stat, fresh, list)?;
                continue;
            }
            if is_placeholder(&stat) && self.exclude.contains(&child) {
                targets = true;
                continue;
            }
            let below = if fresh { None } else { self.below(&child)? };
            let kind = match (stat.node, below) {
                (Node::Whiteout, Some(_)) => ChangeKind::Deleted,
                (Node::Whiteout, None) => continue, // made and removed again
                (_, Some(_)) => ChangeKind::Modified,
                (_, None) => ChangeKind::Added,
            };
            list.push(change(&child, kind));
        }
        Ok(targets)
    }

    fn subdirectory(
        &self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        stat: &Stat,
        fresh: bool,
        list: &mut Vec<Change>,
    ) -> Result<(), DiffError> {
        check_redirect(self.root, dir, path)?;
        let below = if fresh { None } else { self.below(path)? };
        let opaque = has_xattr(dir, unpack::OPAQUE).map_err(|e| self.error(path, e))?;
        let below_dir = below.filter(|b| b.node == Node::Directory);
        let before = list.len();
        if opaque && below_dir.is_some() {
            self.gone(dir, path, list)?;
        }
        let inner_fresh = fresh || opaque || below_dir.is_none();
        let targets = self.directory(dir, path, inner_fresh, list)?;
        let inside = list.len() > before;
        match (below, below_dir) {
            (None, _) if self.exclude.contains(path) && !inside => {}
            (None, _) => list.push(change(path, ChangeKind::Added)),
            (Some(_), Some(b)) if !inside && !opaque && same_directory(&b, stat, targets) => {}
            (Some(_), _) => list.push(change(path, ChangeKind::Modified)),
        }
        Ok(())
    }

    /// What an opaque directory hides and does not have itself.
    fn gone(
        &self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        list: &mut Vec<Change>,
    ) -> Result<(), DiffError> {
        let own = tree::names(dir).map_err(|e| self.error(path, e))?;
        let below = vfs::names_below(self.lowers, path).map_err(|e| self.error(path, e))?;
        for name in below {
            let child = tree::join(path, &name);
            if own.binary_search(&name).is_err() && self.below(&child)?.is_some() {
                list.push(change(&child, ChangeKind::Deleted));
            }
        }
        Ok(())
    }

    fn below(&self, path: &[u8]) -> Result<Option<Stat>, DiffError> {
        layers::stat_below(self.lowers, path).map_err(|e| self.error(path, e))
    }
}

/// What a mount target looks like before something is mounted on it.
fn is_placeholder(stat: &Stat) -> bool {
    stat.node == Node::File && stat.size == 0
}

fn same_directory(a: &Stat, b: &Stat, at_any_time: bool) -> bool {
    (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid) && (at_any_time || a.mtime == b.mtime)
}

fn change(path: &[u8], kind: ChangeKind) -> Change {
    let mut absolute = vec![b'/'];
    absolute.extend_from_slice(path);
    Change {
        path: absolute,
        kind,
    }
}

fn has_xattr(dir: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut value = [0; 256];
    match rustix::fs::fgetxattr(dir, name, &mut value[..]) {
        Ok(n) => Ok(name != unpack::OPAQUE || &value[..n] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

fn check_redirect(root: &Path, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), DiffError> {
    let on_disk = || tree::on_disk(root, path);
    let redirected =
        has_xattr(dir, "trusted.overlay.redirect").map_err(|source| DiffError::Io {
            path: on_disk(),
            source,
        })?;
    if redirected {
        return Err(DiffError::Redirect { path: on_disk() });
    }
    Ok(())
}

/// Writes the changes of an upper directory as a layer. The same tree gives the same bytes.
pub(crate) fn pack_upper<W: Write>(
    upper: &Path,
    exclude: &BTreeSet<Vec<u8>>,
    out: W,
) -> Result<W, DiffError> {
    let root = tree::open_root(upper).on("open", upper)?;
    let mut packer = Packer {
        root: upper,
        exclude,
        tar: Writer::new(out),
        links: HashMap::new(),
        buffer: vec![0; 256 << 10],
    };
    packer.directory(root.as_fd(), b"")?;
    packer.tar.finish().map_err(DiffError::Write)
}

struct Packer<'a, W> {
    root: &'a Path,
    exclude: &'a BTreeSet<Vec<u8>>,
    tar: Writer<W>,
    /// Files with more than one name, and the name packed first.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<'_, W> {
    fn error(&self, path: &[u8], source: impl Into<io::Error>) -> DiffError {
        DiffError::Io {
            path: tree::on_disk(self.root, path),
            source: source.into(),
        }
    }

    /// What is in a directory, in order of names, so that the archive does not depend on the disk.
    fn directory(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<bool, DiffError> {
        let mut any = false;
        if !path.is_empty() && has_xattr(dir, unpack::OPAQUE).map_err(|e| self.error(path, e))? {
            let mark = tree::join(path, unpack::OPAQUE_MARK);
            self.tar
                .start(&Entry::new(Kind::File, &mark, 0o600))
                .map_err(DiffError::Write)?;
            any = true;
        }
        for name in tree::names(dir).map_err(|e| self.error(path, e))? {
            let child = tree::join(path, &name);
            let stat = tree::stat(dir, &name).map_err(|e| self.error(&child, e))?;
            any |= self.entry(dir, &name, &child, &stat)?;
        }
        Ok(any)
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<bool, DiffError> {
        if stat.socket || (self.exclude.contains(path) && is_placeholder(stat)) {
            return Ok(false);
        }
        if name.starts_with(unpack::WHITEOUT_PREFIX) {
            return Err(self.error(
                path,
                io::Error::other("a layer can't hold a name that begins with .wh."),
            ));
        }
        if stat.node == Node::Whiteout {
            let (parent, _) = unpack::split(path);
            let mark = [unpack::WHITEOUT_PREFIX, name].concat();
            let mark = Entry::new(Kind::File, &tree::join(parent, &mark), 0o600);
            self.tar.start(&mark).map_err(DiffError::Write)?;
            return Ok(true);
        }
        let mut entry = entry_of(stat, path);
        if stat.node == Node::Directory {
            return self.subdirectory(dir, name, entry);
        }
        if stat.links > 1 {
            if let Some(first) = self.links.get(&stat.dev_ino) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                entry.size = 0;
                self.tar.start(&entry).map_err(DiffError::Write)?;
                return Ok(true);
            }
            self.links.insert(stat.dev_ino, path.to_vec());
        }
        entry.xattrs = self.xattrs(dir, name, path)?;
        if stat.node == Node::Symlink {
            entry.link = tree::read_link(dir, name).map_err(|e| self.error(path, e))?;
        }
        if stat.node == Node::File {
            return self.file(dir, name, entry);
        }
        self.tar.start(&entry).map_err(DiffError::Write)?;
        Ok(true)
    }

    fn subdirectory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        mut entry: Entry,
    ) -> Result<bool, DiffError> {
        let path = entry.path.clone();
        let inner = tree::open_dir(dir, name).map_err(|e| self.error(&path, e))?;
        check_redirect(self.root, inner.as_fd(), &path)?;
        // a directory made for a mount and still empty is left out with what is mounted there
        if self.exclude.contains(&path)
            && tree::names(inner.as_fd())
                .map_err(|e| self.error(&path, e))?
                .is_empty()
        {
            return Ok(false);
        }
        entry.xattrs = self.xattrs(dir, name, &path)?;
        self.tar.start(&entry).map_err(DiffError::Write)?;
        self.directory(inner.as_fd(), &path)?;
        Ok(true)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        mut entry: Entry,
    ) -> Result<bool, DiffError> {
        let path = entry.path.clone();
        let metacopy = entry
            .xattrs
            .iter()
            .any(|(n, _)| n == b"trusted.overlay.metacopy");
        if metacopy {
            return Err(DiffError::Redirect {
                path: tree::on_disk(self.root, &path),
            });
        }
        let file = tree::open_file(dir, name).map_err(|e| self.error(&path, e))?;
        pack_file(&file, &mut entry, &mut self.tar, &mut self.buffer).map_err(|e| match e {
            PackError::Source(e) => self.error(&path, e),
            PackError::Sink(e) => DiffError::Write(e),
        })?;
        Ok(true)
    }

    fn xattrs(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<tree::Xattrs, DiffError> {
        let mut list = tree::xattrs(dir, name).map_err(|e| self.error(path, e))?;
        list.retain(|(n, _)| unpack::is_kept(n) && !n.starts_with(b"trusted.overlay."));
        Ok(list)
    }
}

/// What went wrong while a file was packed.
pub(crate) enum PackError {
    Source(io::Error),
    Sink(io::Error),
}

/// Packs a file's content. A file that is being written has the size it had when it was opened:
/// what grows is cut, what shrinks is filled with zeros.
pub(crate) fn pack_file<W: Write>(
    file: &File,
    entry: &mut Entry,
    tar: &mut Writer<W>,
    buffer: &mut [u8],
) -> Result<(), PackError> {
    let stat = tree::stat_fd(file.as_fd()).map_err(PackError::Source)?;
    entry.size = stat.size;
    let stored: Vec<(u64, u64)> = if stat.size >= SPARSE_FROM && stat.blocks * 512 < stat.size / 2 {
        let segments = tree::segments(file).map_err(PackError::Source)?;
        entry.size = segments.iter().map(|(a, b)| b - a).sum();
        entry.sparse = Some(SparseMap {
            segments: segments
                .iter()
                .map(|(a, b)| Segment {
                    offset: *a,
                    len: b - a,
                })
                .collect(),
            size: stat.size,
        });
        segments
    } else {
        vec![(0, stat.size)]
    };
    tar.start(entry).map_err(PackError::Sink)?;
    for (mut at, end) in stored {
        while at < end {
            let want = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            let n = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[..want], at))
                .map_err(|e| PackError::Source(e.into()))?;
            if n == 0 {
                buffer[..want].fill(0);
            }
            let n = if n == 0 { want } else { n };
            tar.write_data(&buffer[..n]).map_err(PackError::Sink)?;
            at += n as u64;
        }
    }
    Ok(())
}

/// The entry for what `stat` found, without content, link and attributes.
pub(crate) fn entry_of(stat: &Stat, path: &[u8]) -> Entry {
    let kind = match stat.node {
        Node::Directory => Kind::Directory,
        Node::Symlink => Kind::Symlink,
        Node::CharDevice | Node::Whiteout => Kind::CharDevice,
        Node::BlockDevice => Kind::BlockDevice,
        Node::Fifo => Kind::Fifo,
        Node::File | Node::HardLink => Kind::File,
    };
    let mut entry = Entry::new(kind, path, stat.mode);
    entry.uid = stat.uid;
    entry.gid = stat.gid;
    entry.mtime = stat.mtime;
    (entry.dev_major, entry.dev_minor) = stat.dev;
    entry
}
