//! Files of trees, chosen for a layer: what `COPY` and `ADD` of a build make.
//!
//! ```text
//! resolve (links are followed inside the root) -> pick, one source after the other -> Picked
//! Picked -> digest (no times)   what a cache key is made of
//!        -> write               the layer's archive: sorted, so that it is the same each time
//! ```
//! A later source replaces what an earlier one put in the same place. The trees are those of a
//! build context, which comes from a stranger, or of images: no lookup leaves its root.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::archive_path::open_in_root;
use crate::diff::{PackError, entry_of, pack_file};
use crate::manifest::Node;
use crate::tar::{Entry, Kind, Time, Writer, printable};
use crate::tree;

const MAX_LINKS: usize = 40;

/// Why files could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PickError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}: too many levels of symbolic links")]
    Links(String),
    #[error("write the layer")]
    Write(#[source] io::Error),
}

fn failed(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> PickError {
    PickError::Io {
        action,
        path: printable(path),
        source: source.into(),
    }
}

/// What a path comes to inside a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Below the root, without links: no `/` at its ends, empty for the root itself.
    pub path: Vec<u8>,
    /// What is there.
    pub found: Found,
    /// Directories on the way that are not there, shortest first.
    pub missing: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Directory,
    Other,
}

/// Follows a path inside a root, its links too, the last one as well. `None` for a root is an
/// empty one.
///
/// # Errors
/// The tree can't be read, or its links go in a circle.
pub fn resolve(root: Option<BorrowedFd<'_>>, path: &[u8]) -> Result<Resolved, PickError> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|b| *b == b'/');
        let parts = parts.filter(|p| !p.is_empty() && *p != b".");
        parts.map(<[u8]>::to_vec).collect()
    };
    let mut todo: VecDeque<Vec<u8>> = parts(path).into();
    let mut at: Vec<u8> = Vec::new();
    let mut found = Found::Directory;
    let mut missing = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == b".." {
            let cut = at.iter().rposition(|b| *b == b'/').unwrap_or(0);
            at.truncate(cut);
            // what is above something is a directory, missing or not
            missing.retain(|m: &Vec<u8>| m.len() < at.len());
            found = if missing.is_empty() {
                Found::Directory
            } else {
                Found::Nothing
            };
            continue;
        }
        let next = tree::join(&at, &part);
        let stat = match (root, found) {
            (Some(root), Found::Directory) => look(root, &next)?,
            _ => None,
        };
        if let (Some((fd, stat)), Some(_)) = (&stat, root)
            && stat.node == Node::Symlink
        {
            links += 1;
            if links > MAX_LINKS {
                return Err(PickError::Links(printable(path)));
            }
            let target = rustix::fs::readlinkat(fd, "", Vec::new())
                .map_err(|e| failed("read the link", &next, e))?
                .into_bytes();
            if target.first() == Some(&b'/') {
                at.clear();
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        if found != Found::Directory && !at.is_empty() {
            missing.push(at.clone());
        }
        at = next;
        found = match stat {
            None => Found::Nothing,
            Some((_, stat)) if stat.node == Node::Directory => Found::Directory,
            Some(_) => Found::Other,
        };
    }
    Ok(Resolved {
        path: at,
        found,
        missing,
    })
}

fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<(OwnedFd, tree::Stat)>, PickError> {
    let fd = match open(root, path) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(failed("open", path, e)),
    };
    let stat = tree::stat_fd(fd.as_fd()).map_err(|e| failed("look at", path, e))?;
    Ok(Some((fd, stat)))
}

/// Only to look at; a link at its end stays one.
fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_in_root(root, path, flags)
}

/// To read; what is opened was looked at before and is no fifo.
fn open_to_read(root: BorrowedFd<'_>, path: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_in_root(root, path, flags | more)
}

/// Names in a directory, sorted; `path` as [`resolve`] gives it.
///
/// # Errors
/// It can't be read.
pub fn names(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, PickError> {
    let dir = open_to_read(root, path, OFlags::DIRECTORY).map_err(|e| failed("list", path, e))?;
    let mut names = tree::names(dir.as_fd()).map_err(|e| failed("list", path, e))?;
    names.sort_unstable();
    Ok(names)
}

/// Whether a file of a tree is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Take,
    /// Neither it nor what is below.
    Leave,
    /// Not it, but perhaps something below.
    Below,
}

/// How files are taken.
pub struct Rules<'a> {
    /// Of a path as it lies in the source's root.
    pub choose: &'a dyn Fn(&[u8]) -> Choice,
    /// Their owner; as they are where there is none.
    pub owner: Option<(u32, u32)>,
    /// What becomes of a mode; the second says whether it is a directory's.
    pub mode: &'a dyn Fn(u32, bool) -> u32,
}

#[derive(Debug)]
enum Content {
    /// Of a directory or a file that is made here.
    Made(Vec<u8>),
    At(usize, Vec<u8>),
}

#[derive(Debug)]
struct Item {
    entry: Entry,
    content: Content,
    /// Which file it is, where it has several names.
    linked: Option<(usize, u64, u64)>,
}

/// Files for a layer.
#[derive(Debug, Default)]
pub struct Picked<'a> {
    roots: Vec<BorrowedFd<'a>>,
    items: BTreeMap<Vec<u8>, Item>,
}

impl<'a> Picked<'a> {
    /// A directory that is made, with the time of now.
    pub fn directory(&mut self, path: &[u8], mode: u32, owner: (u32, u32)) {
        let entry = made(Kind::Directory, path, mode, owner);
        let content = Content::Made(Vec::new());
        self.insert(entry, content, None);
    }

    /// A file that is made.
    pub fn file(&mut self, path: &[u8], bytes: Vec<u8>, mode: u32, owner: (u32, u32)) {
        let mut entry = made(Kind::File, path, mode, owner);
        entry.size = bytes.len() as u64;
        self.insert(entry, Content::Made(bytes), None);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// A root that files are taken from.
    pub fn root(&mut self, root: BorrowedFd<'a>) -> usize {
        self.roots.push(root);
        self.roots.len() - 1
    }

    /// Takes what is at `from` (as [`resolve`] gives it) and puts it at `to`. Of a directory with
    /// `contents` only what is in it.
    ///
    /// # Errors
    /// The tree can't be read.
    pub fn take(
        &mut self,
        root: usize,
        from: &[u8],
        to: &[u8],
        contents: bool,
        rules: &Rules<'_>,
    ) -> Result<(), PickError> {
        let at = self.roots[root];
        let Some((fd, stat)) = look(at, from)? else {
            return Err(failed("open", from, Errno::NOENT));
        };
        let choice = match from.is_empty() || contents {
            true => Choice::Take,
            false => (rules.choose)(from),
        };
        if stat.socket || choice == Choice::Leave {
            return Ok(());
        }
        let is_directory = stat.node == Node::Directory;
        if is_directory {
            let before = self.items.len();
            for name in names(at, from)? {
                let (below, to) = (tree::join(from, &name), tree::join(to, &name));
                self.take(root, &below, &to, false, rules)?;
            }
            let is_used = choice == Choice::Take || self.items.len() > before;
            if contents || !is_used {
                return Ok(());
            }
        } else if choice == Choice::Below {
            return Ok(());
        }
        let mut entry = entry_of(&stat, to);
        if let Some((uid, gid)) = rules.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if stat.node == Node::Symlink {
            entry.link = rustix::fs::readlinkat(&fd, "", Vec::new())
                .map_err(|e| failed("read the link", from, e))?
                .into_bytes();
        } else {
            entry.mode = (rules.mode)(entry.mode, is_directory);
        }
        let has_names = stat.links > 1 && !is_directory;
        let linked = has_names.then_some((root, stat.dev_ino.0, stat.dev_ino.1));
        self.insert(entry, Content::At(root, from.to_vec()), linked);
        Ok(())
    }

    fn insert(&mut self, entry: Entry, content: Content, linked: Option<(usize, u64, u64)>) {
        let item = Item {
            entry,
            content,
            linked,
        };
        self.items.insert(item.entry.path.clone(), item);
    }

    /// Of paths, modes, owners, attributes and contents; not of times.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn digest(&self) -> Result<String, PickError> {
        let mut hash = Sha256::new();
        self.write(&mut Sink(&mut hash), false)?;
        Ok(hex::encode(hash.finalize()))
    }

    /// As an archive; without `times` all are of 1970.
    ///
    /// # Errors
    /// A file can't be read, or the sink refuses.
    pub fn write(&self, out: &mut dyn Write, times: bool) -> Result<(), PickError> {
        let mut tar = Writer::new(io::BufWriter::with_capacity(256 << 10, out));
        let mut buffer = vec![0; 256 << 10];
        let mut first: HashMap<(usize, u64, u64), Vec<u8>> = HashMap::new();
        for (path, item) in self.items.iter().filter(|(path, _)| !path.is_empty()) {
            let mut entry = item.entry.clone();
            if !times {
                entry.mtime = Time::default();
            }
            if let Some(file) = item.linked {
                if let Some(other) = first.get(&file) {
                    entry.kind = Kind::HardLink;
                    entry.link.clone_from(other);
                    entry.size = 0;
                    tar.start(&entry).map_err(PickError::Write)?;
                    continue;
                }
                first.insert(file, path.clone());
            }
            self.member(&mut tar, entry, &item.content, &mut buffer)?;
        }
        let mut out = tar.finish().map_err(PickError::Write)?;
        out.flush().map_err(PickError::Write)
    }

    fn member<W: Write>(
        &self,
        tar: &mut Writer<W>,
        mut entry: Entry,
        content: &Content,
        buffer: &mut [u8],
    ) -> Result<(), PickError> {
        let (root, path) = match content {
            Content::Made(bytes) => return tar.append(&entry, bytes).map_err(PickError::Write),
            Content::At(root, path) => (self.roots[*root], path),
        };
        match entry.kind {
            Kind::Directory => {
                let fd = open_to_read(root, path, OFlags::DIRECTORY)
                    .map_err(|e| failed("open", path, e))?;
                entry.xattrs = xattrs(fd.as_fd(), path)?;
                tar.start(&entry).map_err(PickError::Write)
            }
            Kind::File => {
                let fd = open_to_read(root, path, OFlags::NOCTTY)
                    .map_err(|e| failed("open", path, e))?;
                entry.xattrs = xattrs(fd.as_fd(), path)?;
                pack_file(&File::from(fd), &mut entry, tar, buffer).map_err(|e| match e {
                    PackError::Source(e) => failed("read", path, e),
                    PackError::Sink(e) => PickError::Write(e),
                })
            }
            _ => tar.start(&entry).map_err(PickError::Write),
        }
    }
}

/// What shows which layers an overlay is made of is no part of a file.
fn xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> Result<tree::Xattrs, PickError> {
    let all = tree::xattrs_of(fd).map_err(|e| failed("read the attributes of", path, e))?;
    let own = all.into_iter();
    Ok(own
        .filter(|(name, _)| !name.starts_with(b"trusted.overlay."))
        .collect())
}

fn made(kind: Kind, path: &[u8], mode: u32, (uid, gid): (u32, u32)) -> Entry {
    let mut entry = Entry::new(kind, path, mode);
    (entry.uid, entry.gid) = (uid, gid);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let sec = now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
    entry.mtime = Time { sec, nsec: 0 };
    entry
}

struct Sink<'a>(&'a mut Sha256);

impl Write for Sink<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// A regular file's content; `None` where it is something else or longer than `limit`.
///
/// # Errors
/// It can't be read.
pub fn read(root: BorrowedFd<'_>, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, PickError> {
    use std::io::Read as _;
    let fd = open_to_read(root, path, OFlags::NOCTTY).map_err(|e| failed("open", path, e))?;
    let stat = tree::stat_fd(fd.as_fd()).map_err(|e| failed("look at", path, e))?;
    if stat.node != Node::File || stat.size > limit {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut file = File::from(fd).take(limit);
    file.read_to_end(&mut bytes)
        .map_err(|e| failed("read", path, e))?;
    Ok(Some(bytes))
}

/// Whether a file begins an archive that can be unpacked: tar, plain or with gzip or zstd.
///
/// # Errors
/// It can't be read. `Err` within: it is compressed by what is named, which is not known here.
pub fn is_archive(
    root: BorrowedFd<'_>,
    path: &[u8],
) -> Result<Result<bool, &'static str>, PickError> {
    use std::io::Read as _;
    let fd = open_to_read(root, path, OFlags::NOCTTY).map_err(|e| failed("open", path, e))?;
    let stat = tree::stat_fd(fd.as_fd()).map_err(|e| failed("look at", path, e))?;
    if stat.node != Node::File {
        return Ok(Ok(false));
    }
    let mut file = File::from(fd);
    let mut head = [0; 6];
    let n = crate::layers::read_up_to(&mut file, &mut head).map_err(|e| failed("read", path, e))?;
    let packing = match crate::pipe::sniff(&head[..n]) {
        Ok(packing) => packing,
        Err(name) => return Ok(Err(name)),
    };
    let whole = io::Cursor::new(head).take(n as u64).chain(file);
    let Ok(mut stream) = crate::pipe::Unpacker::new(whole, packing) else {
        return Ok(Ok(false));
    };
    // a header has its own checksum; an empty archive is two blocks of zeros, and unpacks to nothing
    let mut block = [0; crate::tar::BLOCK];
    let n = crate::layers::read_up_to(&mut stream, &mut block).unwrap_or(0);
    if n < block.len() || block.iter().all(|b| *b == 0) {
        return Ok(Ok(false));
    }
    let mut reader = crate::tar::Reader::new(io::Cursor::new(block));
    Ok(Ok(
        reader.next_entry().is_ok_and(|e| e.is_some()) || block[257..262] == *b"ustar"
    ))
}

/// Unpacks an archive of a tree into the empty directory behind `to`, which nobody needs for long.
///
/// # Errors
/// It can't be read or is refused.
pub fn unpack_archive(
    root: BorrowedFd<'_>,
    path: &[u8],
    to: BorrowedFd<'_>,
) -> Result<(), crate::archive_path::ArchivePathError> {
    let fd = open_to_read(root, path, OFlags::NOCTTY).map_err(|e| {
        let path = printable(path);
        crate::archive_path::ArchivePathError::Io {
            action: "open",
            path,
            source: e.into(),
        }
    })?;
    let options = crate::archive_path::UntarOptions {
        throwaway: true,
        ..Default::default()
    };
    crate::archive_path::untar_into(to, "/", &mut File::from(fd), &options)
}
