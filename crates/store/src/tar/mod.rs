//! Reading and writing tar archives: ustar, PAX, and what GNU tar adds to them.
//!
//! Own code because it is a security boundary: archives come from strangers. The reader yields
//! entries as bytes and numbers, checked for what can be checked without a file system; what a
//! path may mean on disk is decided by [`crate::unpack`].
//!
//! - Names are bytes: nothing here requires UTF-8.
//! - Numbers: octal, and base-256 (two's complement) where GNU and Docker write it.
//! - Long names: PAX `path`/`linkpath`, GNU `L`/`K`, ustar prefix.
//! - Sparse files: old GNU `S`, and the PAX forms 0.0, 0.1 and 1.0.
//! - Extended attributes: PAX `SCHILY.xattr.*`, the form that GNU tar, Go and Docker write.
//!
//! Every table an archive can make us hold in memory has a limit in [`Limits`].
//! source: POSIX pax(1) "ustar Interchange Format"; GNU tar manual, "Basic Tar Format"

mod read;
mod write;

use std::fmt;

pub use read::{Limits, Reader, TarError};
pub use write::{Writer, ZERO_BLOCKS};

pub(crate) const BLOCK: usize = 512;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

impl Kind {
    /// The word used in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::HardLink => "hard link",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
        }
    }
}

/// A moment with nanoseconds; `nsec` is below 1,000,000,000 also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

/// One stretch of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub len: u64,
}

/// Where the data of a sparse file lies; what is between is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    /// Ascending, not overlapping, none beyond `size`.
    pub segments: Vec<Segment>,
    /// Logical size of the file.
    pub size: u64,
}

/// One member of an archive.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive, except that a trailing `/` is cut.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// Permission bits with set-id and sticky: 0o7777 at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Bytes of data that follow in the archive (of a sparse file: without the holes).
    pub size: u64,
    pub dev_major: u32,
    pub dev_minor: u32,
    /// In the order of the archive, names with their namespace (`security.capability`).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<SparseMap>,
}

impl Entry {
    /// An entry without data, owned by root, at the start of 1970.
    #[must_use]
    pub fn new(kind: Kind, path: &[u8], mode: u32) -> Self {
        Self {
            path: path.to_vec(),
            kind,
            link: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: 0,
            dev_major: 0,
            dev_minor: 0,
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    /// Size of the file this makes.
    #[must_use]
    pub fn logical_size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.size, |s| s.size)
    }

    /// The path for messages.
    #[must_use]
    pub fn name(&self) -> String {
        printable(&self.path)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("path", &self.name())
            .field("kind", &self.kind)
            .field("link", &printable(&self.link))
            .field("mode", &format_args!("{:o}", self.mode))
            .field("owner", &(self.uid, self.gid))
            .field("mtime", &self.mtime)
            .field("size", &self.size)
            .field("dev", &(self.dev_major, self.dev_minor))
            .field("xattrs", &self.xattrs.len())
            .field("sparse", &self.sparse)
            .finish()
    }
}

/// Bytes for a message: what is text stays, what is not or would move a terminal is escaped.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for b in chunk.invalid() {
            write!(out, "\\x{b:02x}").expect("writing to a string cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests;
