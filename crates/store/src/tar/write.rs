//! The writer: ustar headers, with a PAX header before those that ustar cannot hold.
//!
//! The same entries give the same bytes: no clock, no name of a user, no order of its own.

use std::io::{self, Write};

use super::{BLOCK, Entry, Kind, Segment, Time};

/// The end of an archive.
pub const ZERO_BLOCKS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Writes one archive.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            left: 0,
            padding: 0,
        }
    }

    /// Begins a member; `entry.size` bytes of data must follow by [`Writer::write_data`].
    /// Sparse maps are written as PAX form 1.0.
    ///
    /// # Errors
    /// When the sink fails, or the data of the member before is not complete.
    pub fn start(&mut self, entry: &Entry) -> io::Result<()> {
        self.finish_data()?;
        let map = entry.sparse.as_ref().map(|s| {
            // GNU tar takes the end of the last stretch for the end of the file
            let end = Segment {
                offset: s.size,
                len: 0,
            };
            let mut text = format!("{}\n", s.segments.len() + 1).into_bytes();
            for seg in s.segments.iter().chain([&end]) {
                text.extend_from_slice(format!("{}\n{}\n", seg.offset, seg.len).as_bytes());
            }
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            text
        });
        let stored = entry.size + map.as_ref().map_or(0, |m| m.len() as u64);
        let records = pax_records(entry, stored);
        if !records.is_empty() {
            let mut head = Entry::new(Kind::File, &pax_name(&entry.path), 0o644);
            head.size = records.len() as u64;
            self.out.write_all(&header(&head, head.size, b'x'))?;
            self.out.write_all(&records)?;
            let pad = records.len().next_multiple_of(BLOCK) - records.len();
            self.out.write_all(&ZERO_BLOCKS[..pad])?;
        }
        self.out
            .write_all(&header(entry, stored, typeflag(entry.kind)))?;
        if let Some(map) = map {
            self.out.write_all(&map)?;
        }
        if entry.kind == Kind::File {
            self.left = entry.size;
            let tail = usize::try_from(stored % BLOCK as u64).unwrap_or(0);
            self.padding = (BLOCK - tail) % BLOCK;
        }
        Ok(())
    }

    /// Data of the member begun last.
    ///
    /// # Errors
    /// When the sink fails, or there is more than the entry said.
    pub fn write_data(&mut self, data: &[u8]) -> io::Result<()> {
        if data.len() as u64 > self.left {
            return Err(io::Error::other("more data than the entry's size"));
        }
        self.out.write_all(data)?;
        self.left -= data.len() as u64;
        Ok(())
    }

    /// A member with its data.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn append(&mut self, entry: &Entry, data: &[u8]) -> io::Result<()> {
        self.start(entry)?;
        self.write_data(data)
    }

    /// The end of the archive; gives back the sink.
    ///
    /// # Errors
    /// When the sink fails, or the data of the last member is not complete.
    pub fn finish(mut self) -> io::Result<W> {
        self.finish_data()?;
        self.out.write_all(&ZERO_BLOCKS)?;
        Ok(self.out)
    }

    fn finish_data(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("less data than the entry's size"));
        }
        let pad = std::mem::take(&mut self.padding);
        self.out.write_all(&ZERO_BLOCKS[..pad])
    }
}

fn typeflag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// The path as archives have it: directories end in a slash.
fn stored_path(entry: &Entry) -> Vec<u8> {
    let mut path = entry.path.clone();
    if entry.kind == Kind::Directory && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path
}

fn pax_name(path: &[u8]) -> Vec<u8> {
    let base = path.rsplit(|b| *b == b'/').find(|p| !p.is_empty());
    let mut name = b"PaxHeaders.0/".to_vec();
    name.extend_from_slice(base.unwrap_or(b"x"));
    name.truncate(99);
    name
}

fn pax_records(entry: &Entry, stored: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let path = stored_path(entry);
    if entry.sparse.is_some() {
        record(&mut out, b"GNU.sparse.major", b"1");
        record(&mut out, b"GNU.sparse.minor", b"0");
        record(&mut out, b"GNU.sparse.name", &path);
        record(
            &mut out,
            b"GNU.sparse.realsize",
            entry.logical_size().to_string().as_bytes(),
        );
    }
    if split(&path).is_none() {
        record(&mut out, b"path", &path);
    }
    if entry.link.len() > 100 {
        record(&mut out, b"linkpath", &entry.link);
    }
    if stored >= 1 << 33 {
        record(&mut out, b"size", stored.to_string().as_bytes());
    }
    if entry.uid >= 1 << 21 {
        record(&mut out, b"uid", entry.uid.to_string().as_bytes());
    }
    if entry.gid >= 1 << 21 {
        record(&mut out, b"gid", entry.gid.to_string().as_bytes());
    }
    if entry.mtime.nsec != 0 || !(0..1 << 33).contains(&entry.mtime.sec) {
        record(&mut out, b"mtime", time_text(entry.mtime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        key.extend_from_slice(name);
        record(&mut out, &key, value);
    }
    out
}

fn time_text(t: Time) -> String {
    let (sign, sec, nsec) = if t.sec < 0 && t.nsec > 0 {
        // -1.5 s is kept as sec -2, nsec 500,000,000
        ("-", (t.sec + 1).unsigned_abs(), 1_000_000_000 - t.nsec)
    } else if t.sec < 0 {
        ("-", t.sec.unsigned_abs(), 0)
    } else {
        ("", t.sec.unsigned_abs(), t.nsec)
    };
    if nsec == 0 {
        return format!("{sign}{sec}");
    }
    let fraction = format!("{nsec:09}");
    format!("{sign}{sec}.{}", fraction.trim_end_matches('0'))
}

/// `<length> key=value\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The path as ustar's prefix and name, where it fits.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // the name must not be empty: a directory's own slash is no place to cut
    let cut = (0..path.len() - 1)
        .filter(|i| path[*i] == b'/')
        .find(|i| *i > 0 && *i <= 155 && path.len() - i - 1 <= 100)?;
    Some((&path[..cut], &path[cut + 1..]))
}

fn header(entry: &Entry, stored: u64, typeflag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let path = stored_path(entry);
    let (prefix, name) = split(&path).unwrap_or((b"", &path[..path.len().min(100)]));
    put(&mut block, 0, name, 100);
    put(&mut block, 345, prefix, 155);
    octal(&mut block, 100, 8, u64::from(entry.mode));
    octal(&mut block, 108, 8, u64::from(entry.uid));
    octal(&mut block, 116, 8, u64::from(entry.gid));
    octal(&mut block, 124, 12, stored);
    octal(
        &mut block,
        136,
        12,
        u64::try_from(entry.mtime.sec).unwrap_or(0),
    );
    block[156] = typeflag;
    put(&mut block, 157, &entry.link, 100);
    put(&mut block, 257, b"ustar\x0000", 8);
    octal(&mut block, 329, 8, u64::from(entry.dev_major));
    octal(&mut block, 337, 8, u64::from(entry.dev_minor));
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    let text = format!("{sum:06o}\0 ");
    put(&mut block, 148, text.as_bytes(), 8);
    block
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8], len: usize) {
    let n = bytes.len().min(len);
    block[at..at + n].copy_from_slice(&bytes[..n]);
}

/// Octal with a NUL at the end. What does not fit is 0 here: PAX records or base-256 hold it.
fn octal(block: &mut [u8; BLOCK], at: usize, len: usize, value: u64) {
    let digits = len - 1;
    let fits = value < 1 << (3 * digits);
    if !fits && at >= 329 {
        // device numbers have no PAX record: base-256
        let bytes = value.to_be_bytes();
        block[at..at + len].copy_from_slice(&bytes[8 - len..]);
        block[at] |= 0x80;
        return;
    }
    let text = format!("{:0digits$o}", if fits { value } else { 0 });
    put(block, at, text.as_bytes(), digits);
}
