//! The per-file manifest of an unpacked layer: what every file must be, so that a damaged one is
//! found and the layer healed from its blob.
//!
//! # Encoding
//! ASCII lines ended by `\n`, fields separated by one space, records sorted by path (bytewise):
//! ```text
//! plimsoll-layer-manifest 1
//! features
//! diff sha256:<hex>
//! <kind> <mode> <uid> <gid> <size> <mtime> <digest> <path>[ <key>=<value>]...
//! end <number of records> <sha256 of all bytes before this line>
//! ```
//! - `features`: words after it name additions; a reader that does not know one must not trust the
//!   file. None are defined.
//! - kind: `d` directory, `f` file, `h` one more name of a file, `l` symbolic link,
//!   `c` `b` devices, `p` fifo, `w` whiteout.
//! - mode: octal permission bits; uid, gid, size: decimal; size is 0 for all but `f`.
//! - mtime: `<seconds>.<nanoseconds, 9 digits>`.
//! - digest: of an `f`, SHA-256 of its content in hex; `s` and hex: of a sparse file (below); else `-`.
//! - path: relative to the layer's root, `.` for the root itself. Bytes outside `!`..`~`, and `%`
//!   and `=`, are written as `%` and two hex digits.
//! - keys: `link` (target of `l`; the path of the `f` that an `h` is), `dev` (`major:minor`), `x:<name>` (value of an
//!   extended attribute); names and values escaped as paths are.
//!
//! Digest of a sparse file: SHA-256 over, for each 64 KiB piece of its logical content that is not
//! all zeros, the number of the piece (8 bytes, little endian) and its bytes. It does not depend on
//! where the file system keeps holes, and costs nothing for them.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::tar::{Time, printable};
use crate::tree;

const HEADER: &str = "plimsoll-layer-manifest 1";
const PIECE: usize = 64 << 10;

/// What a path in a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Whiteout,
}

impl Node {
    fn letter(self) -> char {
        match self {
            Self::Directory => 'd',
            Self::File => 'f',
            Self::HardLink => 'h',
            Self::Symlink => 'l',
            Self::CharDevice => 'c',
            Self::BlockDevice => 'b',
            Self::Fifo => 'p',
            Self::Whiteout => 'w',
        }
    }

    fn from_letter(text: &str) -> Option<Self> {
        Some(match text {
            "d" => Self::Directory,
            "f" => Self::File,
            "h" => Self::HardLink,
            "l" => Self::Symlink,
            "c" => Self::CharDevice,
            "b" => Self::BlockDevice,
            "p" => Self::Fifo,
            "w" => Self::Whiteout,
            _ => return None,
        })
    }
}

/// Digest of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Plain([u8; 32]),
    Sparse([u8; 32]),
}

/// One path of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Relative, no `.` or `..` parts; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) node: Node,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) content: Option<Content>,
    pub(crate) link: Vec<u8>,
    pub(crate) dev: (u32, u32),
    /// Sorted by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Record {
    pub(crate) fn new(path: &[u8], node: Node) -> Self {
        Self {
            path: path.to_vec(),
            node,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time::default(),
            content: None,
            link: Vec::new(),
            dev: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

/// The manifest of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Digest of the uncompressed tar.
    pub(crate) diff: String,
    /// Sorted by path.
    pub(crate) records: Vec<Record>,
}

/// A manifest that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("it does not end as it should: it is cut off")]
    CutOff,
    #[error("its own checksum does not match")]
    Checksum,
    #[error("written by a newer version: feature {0:?} is not known")]
    Feature(String),
    #[error("line {0} is malformed")]
    Line(usize),
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = String::with_capacity(self.records.len() * 160 + 256);
        push(
            &mut out,
            format_args!("{HEADER}\nfeatures\ndiff {}\n", self.diff),
        );
        for r in &self.records {
            encode_record(&mut out, r);
        }
        let sum = hex::encode(Sha256::digest(out.as_bytes()));
        push(&mut out, format_args!("end {} {sum}\n", self.records.len()));
        out.into_bytes()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let body = bytes.strip_suffix(b"\n").ok_or(ParseError::CutOff)?;
        let last = body
            .iter()
            .rposition(|b| *b == b'\n')
            .ok_or(ParseError::CutOff)?
            + 1;
        let trailer = std::str::from_utf8(&body[last..]).map_err(|_| ParseError::CutOff)?;
        let mut fields = trailer.split(' ');
        let (Some("end"), Some(count), Some(sum), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(ParseError::CutOff);
        };
        if hex::encode(Sha256::digest(&bytes[..last])) != sum {
            return Err(ParseError::Checksum);
        }
        let text = std::str::from_utf8(&bytes[..last]).map_err(|_| ParseError::Line(0))?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(ParseError::Line(1));
        }
        let features = lines.next().ok_or(ParseError::Line(2))?;
        if let Some(feature) = features
            .strip_prefix("features")
            .ok_or(ParseError::Line(2))?
            .split_whitespace()
            .next()
        {
            return Err(ParseError::Feature(feature.to_owned()));
        }
        let diff = lines
            .next()
            .and_then(|l| l.strip_prefix("diff "))
            .ok_or(ParseError::Line(3))?
            .to_owned();
        let mut records = Vec::new();
        for (i, line) in lines.enumerate() {
            records.push(parse_record(line).ok_or(ParseError::Line(i + 4))?);
        }
        if count.parse() != Ok(records.len()) {
            return Err(ParseError::CutOff);
        }
        Ok(Self { diff, records })
    }

    /// The record of a path, if the layer has it.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Record> {
        self.records
            .binary_search_by(|r| r.path.as_slice().cmp(path))
            .ok()
            .map(|i| &self.records[i])
    }
}

fn push(out: &mut String, args: std::fmt::Arguments<'_>) {
    out.write_fmt(args)
        .expect("writing to a string cannot fail");
}

fn encode_record(out: &mut String, r: &Record) {
    push(
        out,
        format_args!(
            "{} {:04o} {} {} {} {}.{:09} ",
            r.node.letter(),
            r.mode,
            r.uid,
            r.gid,
            r.size,
            r.mtime.sec,
            r.mtime.nsec
        ),
    );
    match r.content {
        None => out.push('-'),
        Some(Content::Plain(d)) => out.push_str(&hex::encode(d)),
        Some(Content::Sparse(d)) => push(out, format_args!("s{}", hex::encode(d))),
    }
    out.push(' ');
    escape(out, if r.path.is_empty() { b"." } else { &r.path });
    if !r.link.is_empty() {
        out.push_str(" link=");
        escape(out, &r.link);
    }
    if matches!(r.node, Node::CharDevice | Node::BlockDevice) {
        push(out, format_args!(" dev={}:{}", r.dev.0, r.dev.1));
    }
    for (name, value) in &r.xattrs {
        out.push_str(" x:");
        escape(out, name);
        out.push('=');
        escape(out, value);
    }
    out.push('\n');
}

fn parse_record(line: &str) -> Option<Record> {
    let mut fields = line.split(' ');
    let node = Node::from_letter(fields.next()?)?;
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let size = fields.next()?.parse().ok()?;
    let (sec, nsec) = fields.next()?.split_once('.')?;
    let content = match fields.next()? {
        "-" => None,
        text => Some(match text.strip_prefix('s') {
            Some(hex) => Content::Sparse(digest(hex)?),
            None => Content::Plain(digest(text)?),
        }),
    };
    let mut path = unescape(fields.next()?)?;
    if path == b"." {
        path.clear();
    }
    let mut record = Record {
        mode,
        uid,
        gid,
        size,
        mtime: Time {
            sec: sec.parse().ok()?,
            nsec: nsec.parse().ok()?,
        },
        content,
        ..Record::new(&path, node)
    };
    for field in fields {
        let (key, value) = field.split_once('=')?;
        if key == "link" {
            record.link = unescape(value)?;
        } else if key == "dev" {
            let (major, minor) = value.split_once(':')?;
            record.dev = (major.parse().ok()?, minor.parse().ok()?);
        } else {
            let name = unescape(key.strip_prefix("x:")?)?;
            record.xattrs.push((name, unescape(value)?));
        }
    }
    Some(record)
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

fn escape(out: &mut String, bytes: &[u8]) {
    for b in bytes {
        if b.is_ascii_graphic() && *b != b'%' && *b != b'=' {
            out.push(char::from(*b));
        } else {
            push(out, format_args!("%{b:02x}"));
        }
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            let pair = std::str::from_utf8(&pair).ok()?;
            out.push(u8::from_str_radix(pair, 16).ok()?);
        } else {
            out.push(b);
        }
    }
    Some(out)
}

/// Hashes the content of a sparse file as it is written or read, in order.
#[derive(Debug)]
pub(crate) struct SparseHasher {
    hash: Sha256,
    piece: Vec<u8>,
    position: u64,
}

impl SparseHasher {
    pub(crate) fn new() -> Self {
        Self {
            hash: Sha256::new(),
            piece: vec![0; PIECE],
            position: 0,
        }
    }

    /// Data at `offset`, which is not before the end of the data given last.
    pub(crate) fn data(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            if offset / PIECE as u64 != self.position / PIECE as u64 {
                self.flush();
                self.position = offset;
            }
            let at = usize::try_from(offset % PIECE as u64).expect("a piece is small");
            let n = data.len().min(PIECE - at);
            self.piece[at..at + n].copy_from_slice(&data[..n]);
            offset += n as u64;
            data = &data[n..];
        }
    }

    fn flush(&mut self) {
        if self.piece.iter().any(|b| *b != 0) {
            self.hash
                .update((self.position / PIECE as u64).to_le_bytes());
            self.hash.update(&self.piece);
            self.piece.fill(0);
        }
    }

    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.flush();
        self.hash.finalize().into()
    }
}

/// A path that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Relative to the layer's root, for people.
    pub(crate) path: String,
    pub(crate) what: String,
}

/// Compares an unpacked layer with its manifest, down to each byte of content.
pub(crate) fn verify(root: &Path, manifest: &Manifest) -> io::Result<Vec<Mismatch>> {
    let mut wrong = Vec::new();
    let dir = tree::open_root(root)?;
    let mut seen = 0_usize;
    let mut stack: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
    check(
        &manifest.get(b"").cloned(),
        b"",
        dir.as_fd(),
        b".",
        root,
        &mut wrong,
    )?;
    seen += usize::from(manifest.get(b"").is_some());
    stack.push((Vec::new(), dir));
    while let Some((path, dir)) = stack.pop() {
        for name in tree::names(dir.as_fd())? {
            let child = tree::join(&path, &name);
            let record = manifest.get(&child);
            seen += usize::from(record.is_some());
            let is_dir = check(
                &record.cloned(),
                &child,
                dir.as_fd(),
                &name,
                root,
                &mut wrong,
            )?;
            if is_dir {
                stack.push((child, tree::open_dir(dir.as_fd(), &name)?));
            }
        }
    }
    if seen != manifest.records.len() {
        for r in &manifest.records {
            if !tree::exists(root, &r.path)? {
                wrong.push(mismatch(&r.path, "it is missing"));
            }
        }
    }
    Ok(wrong)
}

fn mismatch(path: &[u8], what: impl Into<String>) -> Mismatch {
    Mismatch {
        path: if path.is_empty() {
            "/".into()
        } else {
            printable(path)
        },
        what: what.into(),
    }
}

/// Whether the path is a directory to be walked.
fn check(
    record: &Option<Record>,
    path: &[u8],
    parent: BorrowedFd<'_>,
    name: &[u8],
    root: &Path,
    wrong: &mut Vec<Mismatch>,
) -> io::Result<bool> {
    let found = tree::stat(parent, name)?;
    let Some(want) = record else {
        wrong.push(mismatch(path, "it is not part of the layer"));
        return Ok(found.node == Node::Directory);
    };
    let mut differ = |what: &str| wrong.push(mismatch(path, what));
    if want.node == Node::HardLink {
        let first = tree::stat_path(root, &want.link);
        if first.ok().map(|s| (s.dev_ino, s.node)) != Some((found.dev_ino, Node::File)) {
            differ("it is no longer the same file as its other name");
        }
        return Ok(false);
    }
    if found.node != want.node {
        differ("it is of another type");
        return Ok(found.node == Node::Directory);
    }
    if (found.mode, found.uid, found.gid) != (want.mode, want.uid, want.gid) {
        differ("its mode or owner differs");
    }
    if want.node != Node::Whiteout && found.mtime != want.mtime {
        differ("its modification time differs");
    }
    if matches!(want.node, Node::CharDevice | Node::BlockDevice) && found.dev != want.dev {
        differ("it is another device");
    }
    if want.node == Node::Symlink && tree::read_link(parent, name)? != want.link {
        differ("it points elsewhere");
    }
    if tree::xattrs(parent, name)? != want.xattrs {
        differ("its extended attributes differ");
    }
    if want.node == Node::File {
        if found.size != want.size {
            differ("its size differs");
        } else if hash(parent, name, want.content)? != want.content {
            differ("its content differs");
        }
    }
    Ok(want.node == Node::Directory)
}

fn hash(parent: BorrowedFd<'_>, name: &[u8], like: Option<Content>) -> io::Result<Option<Content>> {
    let file = tree::open_file(parent, name)?;
    let mut buffer = vec![0; 1 << 18];
    Ok(match like {
        None => None,
        Some(Content::Plain(_)) => {
            let mut sum = Sha256::new();
            loop {
                match tree::read(&file, &mut buffer)? {
                    0 => break,
                    n => sum.update(&buffer[..n]),
                }
            }
            Some(Content::Plain(sum.finalize().into()))
        }
        Some(Content::Sparse(_)) => {
            let mut sum = SparseHasher::new();
            tree::each_segment(&file, &mut buffer, &mut |offset, data| {
                sum.data(offset, data);
                Ok(())
            })?;
            Some(Content::Sparse(sum.finish()))
        }
    })
}

/// Where the manifest of an unpacked layer is.
pub(crate) fn path_in(layer: &Path) -> PathBuf {
    layer.join("manifest")
}

#[cfg(test)]
mod tests;
