//! The reader: a stream of bytes to entries and their data.

use std::io::{self, BufRead};

use thiserror::Error;

use super::{BLOCK, Entry, Kind, Segment, SparseMap, Time, printable};

/// What an archive may make the reader hold in memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one PAX header or GNU long name.
    pub header_bytes: u64,
    /// Bytes of a path or link target; Linux takes 4,095.
    pub path_bytes: usize,
    /// Stretches of data of one sparse file.
    pub segments: usize,
    /// Bytes of all extended attributes of one entry.
    pub xattr_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 1 << 20,
            path_bytes: 4095,
            segments: 1 << 18,
            xattr_bytes: 1 << 18,
        }
    }
}

/// Why an archive could not be read on.
#[derive(Debug, Error)]
pub enum TarError {
    #[error("read the archive at byte {offset}")]
    Io { offset: u64, source: io::Error },
    #[error("the archive ends at byte {offset}, in the middle of {within}: it is truncated")]
    Truncated { offset: u64, within: String },
    #[error("no tar header at byte {offset}: {what}")]
    Header { offset: u64, what: &'static str },
    #[error("entry {name}: {what}")]
    Entry { name: String, what: String },
}

/// Reads one archive from front to back.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    limits: Limits,
    offset: u64,
    /// Data of the current entry not yet handed out.
    data_left: u64,
    padding: u64,
    current: String,
    global: Pax,
    ended: bool,
    end_marker: bool,
}

/// Values of PAX records that concern us; later records replace earlier ones.
#[derive(Debug, Default, Clone)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    xattr_bytes: usize,
    sparse: PaxSparse,
}

#[derive(Debug, Default, Clone)]
struct PaxSparse {
    present: bool,
    major: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    segments: Vec<Segment>,
    /// An offset of form 0.0 that waits for its length.
    pending: Option<u64>,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `source`, which should be buffered in large pieces.
    pub fn new(source: R) -> Self {
        Self::with_limits(source, Limits::default())
    }

    /// As [`Reader::new`] with other limits.
    pub fn with_limits(source: R, limits: Limits) -> Self {
        Self {
            source,
            limits,
            offset: 0,
            data_left: 0,
            padding: 0,
            current: String::new(),
            global: Pax::default(),
            ended: false,
            end_marker: false,
        }
    }

    /// Bytes taken from the source.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the archive was closed by a block of zeros rather than by the end of the stream.
    pub fn saw_end_marker(&self) -> bool {
        self.end_marker
    }

    /// What comes after the archive.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next member, or `None` at the end. Data of the one before that was not read is skipped.
    ///
    /// # Errors
    /// When the stream fails, ends early, or holds something that is not tar.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_rest()?;
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(block) = self.header_block()? else {
                self.ended = true;
                return Ok(None);
            };
            let raw = RawHeader::check(&block, self.offset - BLOCK as u64)?;
            match raw.typeflag() {
                b'x' | b'X' => {
                    let bytes = self.meta_body(&raw, "a PAX header")?;
                    self.pax_records(&bytes, &mut pax)?;
                }
                b'g' => {
                    let bytes = self.meta_body(&raw, "a PAX header")?;
                    let mut global = std::mem::take(&mut self.global);
                    self.pax_records(&bytes, &mut global)?;
                    self.global = global;
                    pax = self.global.clone();
                }
                b'L' => long_name = Some(cut_at_nul(self.meta_body(&raw, "a long name")?)),
                b'K' => long_link = Some(cut_at_nul(self.meta_body(&raw, "a long link")?)),
                _ => return self.member(&raw, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data; empty at its end. [`Reader::consume`] it.
    ///
    /// # Errors
    /// When the stream fails or ends early.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let (offset, left) = (self.offset, self.data_left);
        let buf = loop {
            match self.source.fill_buf() {
                // asked again below: the borrow checker cannot see that this one may be returned
                Ok(_) => break self.source.fill_buf(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        let buf = buf.map_err(|source| TarError::Io { offset, source })?;
        if buf.is_empty() {
            return Err(TarError::Truncated {
                offset,
                within: format!("entry {}", self.current),
            });
        }
        let n = usize::try_from(left).map_or(buf.len(), |l| l.min(buf.len()));
        Ok(&buf[..n])
    }

    /// Takes `n` bytes of what [`Reader::data`] gave.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n as u64 <= self.data_left);
        self.source.consume(n);
        self.offset += n as u64;
        self.data_left -= n as u64;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        loop {
            let n = self.data()?.len();
            if n == 0 {
                break;
            }
            self.consume(n);
        }
        let mut left = std::mem::take(&mut self.padding);
        while left > 0 {
            let mut block = [0; BLOCK];
            let n = left.min(BLOCK as u64);
            let slot = &mut block[..usize::try_from(n).unwrap_or(BLOCK)];
            // a stream that ends within the padding of its last entry has lost nothing
            if !self.fill(slot)? {
                self.ended = true;
                return Ok(());
            }
            left -= n;
        }
        Ok(())
    }

    /// Fills `slot`; `false` if the stream ended before.
    fn fill(&mut self, slot: &mut [u8]) -> Result<bool, TarError> {
        let mut done = 0;
        while done < slot.len() {
            match self.source.read(&mut slot[done..]) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    done += n;
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Io {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
        Ok(true)
    }

    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let at = self.offset;
        if !self.fill(&mut block)? {
            if self.offset == at {
                return Ok(None);
            }
            return Err(TarError::Truncated {
                offset: self.offset,
                within: "a header".into(),
            });
        }
        if block.iter().all(|b| *b == 0) {
            self.end_marker = true;
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// The body of a header that describes the next member.
    fn meta_body(&mut self, raw: &RawHeader<'_>, within: &str) -> Result<Vec<u8>, TarError> {
        let offset = self.offset;
        let size = raw.number(124, 12).ok_or(TarError::Header {
            offset,
            what: "bad size",
        })?;
        if size > self.limits.header_bytes {
            return Err(TarError::Entry {
                name: printable(&raw.name()),
                what: format!(
                    "{within} of {size} bytes; at most {} are taken",
                    self.limits.header_bytes
                ),
            });
        }
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        let padded = len.next_multiple_of(BLOCK);
        let mut body = vec![0; padded];
        if !self.fill(&mut body)? {
            return Err(TarError::Truncated {
                offset: self.offset,
                within: within.into(),
            });
        }
        body.truncate(len);
        Ok(body)
    }

    fn pax_records(&self, bytes: &[u8], pax: &mut Pax) -> Result<(), TarError> {
        let bad = |what: String| TarError::Entry {
            name: format!("PAX header before byte {}", self.offset),
            what,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            // some writers pad the body with NUL instead of giving its exact size
            if rest.iter().all(|b| *b == 0) {
                break;
            }
            let (key, value, next) =
                pax_record(rest).ok_or_else(|| bad("malformed record".into()))?;
            pax.set(key, value, &self.limits).map_err(bad)?;
            rest = next;
        }
        Ok(())
    }

    fn member(
        &mut self,
        raw: &RawHeader<'_>,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let mut path = long_name.or(pax.path.take()).unwrap_or_else(|| raw.name());
        if let Some(name) = pax.sparse.name.take() {
            path = name;
        }
        self.current = printable(&path);
        let kind = raw.kind(&path).ok_or_else(|| {
            self.refuse(format!(
                "type {:?} of tar is not supported",
                char::from(raw.typeflag())
            ))
        })?;
        let link = long_link
            .or(pax.linkpath.take())
            .unwrap_or_else(|| raw.text(157, 100));
        while path.len() > 1 && path.last() == Some(&b'/') {
            path.pop();
        }
        let mut entry = Entry::new(kind, &path, 0);
        self.check_names(&path, &link, kind)?;
        if matches!(kind, Kind::Symlink | Kind::HardLink) {
            entry.link = link;
        }
        self.numbers(raw, &pax, &mut entry)?;
        entry.xattrs = std::mem::take(&mut pax.xattrs);
        self.data_left = 0;
        self.padding = 0;
        if kind == Kind::File {
            self.data_left = entry.size;
            self.padding = (BLOCK as u64 - entry.size % BLOCK as u64) % BLOCK as u64;
            entry.sparse = self.sparse_map(raw, pax.sparse, &mut entry.size)?;
        } else {
            // directories and links of some writers carry a size; none carries data
            entry.size = 0;
        }
        Ok(entry)
    }

    fn check_names(&self, path: &[u8], link: &[u8], kind: Kind) -> Result<(), TarError> {
        let is_link = matches!(kind, Kind::Symlink | Kind::HardLink);
        if path.is_empty() {
            return Err(self.refuse("empty name"));
        }
        if path.contains(&0) || (is_link && link.contains(&0)) {
            return Err(self.refuse("a NUL byte in the name"));
        }
        if path.len() > self.limits.path_bytes || (is_link && link.len() > self.limits.path_bytes) {
            return Err(self.refuse(format!("name longer than {} bytes", self.limits.path_bytes)));
        }
        if is_link && link.is_empty() {
            return Err(self.refuse("a link without a target"));
        }
        Ok(())
    }

    fn numbers(&self, raw: &RawHeader<'_>, pax: &Pax, entry: &mut Entry) -> Result<(), TarError> {
        let field = |at: usize, len: usize, what: &str| {
            raw.number(at, len)
                .ok_or_else(|| self.refuse(format!("bad {what}")))
        };
        let small = |value: u64, what: &str| {
            u32::try_from(value).map_err(|_| self.refuse(format!("{what} {value} is too large")))
        };
        entry.mode = u32::try_from(field(100, 8, "mode")? & 0o7777).unwrap_or(0);
        entry.uid = match pax.uid {
            Some(n) => n,
            None => small(field(108, 8, "owner")?, "owner")?,
        };
        entry.gid = match pax.gid {
            Some(n) => n,
            None => small(field(116, 8, "group")?, "group")?,
        };
        entry.size = match pax.size {
            Some(n) => n,
            None => field(124, 12, "size")?,
        };
        if i64::try_from(entry.size).is_err() {
            return Err(self.refuse(format!("size {} is too large", entry.size)));
        }
        entry.mtime = match pax.mtime {
            Some(t) => t,
            None => Time {
                sec: raw
                    .signed(136, 12)
                    .ok_or_else(|| self.refuse("bad modification time"))?,
                nsec: 0,
            },
        };
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.dev_major = small(field(329, 8, "device number")?, "device number")?;
            entry.dev_minor = small(field(337, 8, "device number")?, "device number")?;
        }
        Ok(())
    }

    fn sparse_map(
        &mut self,
        raw: &RawHeader<'_>,
        pax: PaxSparse,
        size: &mut u64,
    ) -> Result<Option<SparseMap>, TarError> {
        let mut map = if raw.typeflag() == b'S' {
            self.old_gnu_map(raw)?
        } else if pax.major.is_some_and(|m| m >= 1) {
            let logical = pax
                .size
                .ok_or_else(|| self.refuse("sparse without a size"))?;
            let segments = self.map_in_data()?;
            *size = self.data_left;
            SparseMap {
                segments,
                size: logical,
            }
        } else if pax.present {
            if pax.pending.is_some() {
                return Err(self.refuse("bad sparse map"));
            }
            SparseMap {
                segments: pax.segments,
                size: pax
                    .size
                    .ok_or_else(|| self.refuse("sparse without a size"))?,
            }
        } else {
            return Ok(None);
        };
        self.check_map(&map, *size)?;
        // an empty stretch only marks the end of the file
        map.segments.retain(|s| s.len > 0);
        Ok(Some(map))
    }

    /// Old GNU: four stretches in the header, 21 in each block that follows it.
    fn old_gnu_map(&mut self, raw: &RawHeader<'_>) -> Result<SparseMap, TarError> {
        let bad = || "bad sparse map";
        let size = raw.number(483, 12).ok_or_else(|| self.refuse(bad()))?;
        let mut segments = Vec::new();
        let mut more = read_segments(raw.block, 386, 4, &mut segments)
            .ok_or_else(|| self.refuse(bad()))?
            && raw.block[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            if !self.fill(&mut block)? {
                return Err(TarError::Truncated {
                    offset: self.offset,
                    within: format!("the sparse map of entry {}", self.current),
                });
            }
            more = read_segments(&block, 0, 21, &mut segments).ok_or_else(|| self.refuse(bad()))?
                && block[504] != 0;
            self.check_segments(segments.len())?;
        }
        Ok(SparseMap { segments, size })
    }

    /// PAX form 1.0: the map is text at the start of the data, padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut taken = 0_u64;
        let count = self.decimal_line(&mut taken)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.check_segments(count)?;
        let mut segments = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            let offset = self.decimal_line(&mut taken)?;
            let len = self.decimal_line(&mut taken)?;
            segments.push(Segment { offset, len });
        }
        let mut pad = (BLOCK as u64 - taken % BLOCK as u64) % BLOCK as u64;
        while pad > 0 {
            let n = self
                .data()?
                .len()
                .min(usize::try_from(pad).unwrap_or(BLOCK));
            if n == 0 {
                return Err(self.refuse("bad sparse map"));
            }
            self.consume(n);
            pad -= n as u64;
        }
        Ok(segments)
    }

    fn decimal_line(&mut self, taken: &mut u64) -> Result<u64, TarError> {
        let mut value = 0_u64;
        for digits in 0..21 {
            let Some(&b) = self.data()?.first() else {
                return Err(self.refuse("bad sparse map"));
            };
            self.consume(1);
            *taken += 1;
            match b {
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|v| v.checked_add(u64::from(b - b'0')))
                        .ok_or_else(|| self.refuse("bad sparse map"))?;
                }
                b'\n' if digits > 0 => return Ok(value),
                _ => break,
            }
        }
        Err(self.refuse("bad sparse map"))
    }

    fn check_segments(&self, count: usize) -> Result<(), TarError> {
        if count > self.limits.segments {
            return Err(self.refuse(format!(
                "sparse map of more than {} stretches",
                self.limits.segments
            )));
        }
        Ok(())
    }

    fn check_map(&self, map: &SparseMap, stored: u64) -> Result<(), TarError> {
        self.check_segments(map.segments.len())?;
        let (mut end, mut sum) = (0_u64, 0_u64);
        for s in &map.segments {
            let stop = s.offset.checked_add(s.len);
            match stop {
                Some(stop) if s.offset >= end && stop <= map.size => end = stop,
                _ => return Err(self.refuse("bad sparse map: stretches overlap or lie outside")),
            }
            sum += s.len;
        }
        if sum != stored {
            return Err(self.refuse("bad sparse map: it does not cover the data"));
        }
        if i64::try_from(map.size).is_err() {
            return Err(self.refuse(format!("size {} is too large", map.size)));
        }
        Ok(())
    }

    fn refuse(&self, what: impl Into<String>) -> TarError {
        TarError::Entry {
            name: self.current.clone(),
            what: what.into(),
        }
    }
}

/// A header block whose checksum holds.
struct RawHeader<'a> {
    block: &'a [u8; BLOCK],
}

impl<'a> RawHeader<'a> {
    fn check(block: &'a [u8; BLOCK], offset: u64) -> Result<Self, TarError> {
        let raw = Self { block };
        let bad = |what| TarError::Header { offset, what };
        let stored = raw
            .number(148, 8)
            .ok_or_else(|| bad("its checksum is not a number"))?;
        let (mut unsigned, mut signed) = (0_u64, 0_i64);
        for (i, b) in block.iter().enumerate() {
            let b = if (148..156).contains(&i) { b' ' } else { *b };
            unsigned += u64::from(b);
            // writers of old summed signed characters
            signed += i64::from(b.cast_signed());
        }
        if stored == unsigned || i64::try_from(stored) == Ok(signed) {
            Ok(raw)
        } else {
            Err(bad("its checksum does not match"))
        }
    }

    fn typeflag(&self) -> u8 {
        self.block[156]
    }

    fn kind(&self, path: &[u8]) -> Option<Kind> {
        Some(match self.typeflag() {
            b'0' | 0 | b'7' if path.last() == Some(&b'/') => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return None,
        })
    }

    fn text(&self, at: usize, len: usize) -> Vec<u8> {
        let field = &self.block[at..at + len];
        let end = field.iter().position(|b| *b == 0).unwrap_or(len);
        field[..end].to_vec()
    }

    fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        // GNU headers use the place of the prefix for times
        if &self.block[257..263] == b"ustar\0" {
            let mut prefix = self.text(345, 155);
            if !prefix.is_empty() {
                prefix.push(b'/');
                prefix.extend_from_slice(&name);
                return prefix;
            }
        }
        name
    }

    fn number(&self, at: usize, len: usize) -> Option<u64> {
        u64::try_from(self.signed(at, len)?).ok()
    }

    fn signed(&self, at: usize, len: usize) -> Option<i64> {
        number(&self.block[at..at + len])
    }
}

/// Octal text, or base-256 where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, b) in field.iter().enumerate() {
            let b = if i == 0 && !negative { b & 0x7f } else { *b };
            value = (value << 8) | i128::from(b);
            if i64::try_from(value).is_err() {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let text = field.split(|b| *b == 0).next().unwrap_or_default();
    let text = text.trim_ascii();
    let mut value = 0_i64;
    for b in text {
        if !(b'0'..=b'7').contains(b) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(b - b'0'))?;
    }
    Some(value)
}

/// Reads up to `count` stretches; `false` in the answer: the map ends here.
fn read_segments(
    block: &[u8; BLOCK],
    at: usize,
    count: usize,
    out: &mut Vec<Segment>,
) -> Option<bool> {
    for i in 0..count {
        let slot = &block[at + i * 24..at + (i + 1) * 24];
        if slot[0] == 0 || slot[12] == 0 {
            return Some(false);
        }
        out.push(Segment {
            offset: u64::try_from(number(&slot[..12])?).ok()?,
            len: u64::try_from(number(&slot[12..])?).ok()?,
        });
    }
    Some(true)
}

fn cut_at_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// `<length> <key>=<value>\n` to key, value and what follows.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(21).position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if len <= space + 1 || len > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(len);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let eq = body.iter().position(|b| *b == b'=')?;
    (eq > 0).then(|| (&body[..eq], &body[eq + 1..], rest))
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), String> {
        let text =
            |what: &str| std::str::from_utf8(value).map_err(|_| format!("{what} is not a number"));
        let int = |what: &str| -> Result<u64, String> {
            text(what)?
                .parse()
                .map_err(|_| format!("{what} {:?} is not a number", printable(value)))
        };
        let id = |what: &str| -> Result<u32, String> {
            u32::try_from(int(what)?).map_err(|_| format!("{what} is too large"))
        };
        // an empty value takes back what a global header said
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.linkpath = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(|| int("size")).transpose()?,
            b"uid" => self.uid = given.then(|| id("uid")).transpose()?,
            b"gid" => self.gid = given.then(|| id("gid")).transpose()?,
            b"mtime" => {
                self.mtime = given
                    .then(|| pax_time(text("mtime")?).ok_or("mtime is not a time".to_owned()))
                    .transpose()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value, limits)?;
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(name, value, limits)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<(), String> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err("bad name of an extended attribute".into());
        }
        self.xattr_bytes += name.len() + value.len();
        if self.xattr_bytes > limits.xattr_bytes {
            return Err(format!(
                "more than {} bytes of extended attributes",
                limits.xattr_bytes
            ));
        }
        self.xattrs.retain(|(n, _)| n != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl PaxSparse {
    fn set(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<(), String> {
        let int = |bytes: &[u8]| -> Result<u64, String> {
            std::str::from_utf8(bytes)
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| "bad sparse map".to_owned())
        };
        self.present = true;
        match name {
            b"major" => self.major = Some(int(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(int(value)?),
            b"offset" => {
                let earlier = self.pending.replace(int(value)?);
                earlier.map_or(Ok(()), |_| Err("bad sparse map"))?;
            }
            b"numbytes" => {
                let offset = self.pending.take().ok_or("bad sparse map")?;
                let len = int(value)?;
                self.segments.push(Segment { offset, len });
            }
            b"map" => {
                self.segments.clear();
                let mut numbers = value.split(|b| *b == b',').filter(|p| !p.is_empty());
                while let Some(offset) = numbers.next() {
                    let len = numbers.next().ok_or("bad sparse map")?;
                    self.segments.push(Segment {
                        offset: int(offset)?,
                        len: int(len)?,
                    });
                }
            }
            _ => {}
        }
        if self.segments.len() > limits.segments {
            return Err("sparse map too long".into());
        }
        Ok(())
    }
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are dropped.
fn pax_time(text: &str) -> Option<Time> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let sec: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nsec = 0_u32;
    for i in 0..9 {
        let digit = fraction.as_bytes().get(i).map_or(0, |b| b - b'0');
        nsec = nsec * 10 + u32::from(digit);
    }
    Some(match (negative, nsec) {
        (false, _) => Time { sec, nsec },
        (true, 0) => Time { sec: -sec, nsec: 0 },
        (true, _) => Time {
            sec: sec.checked_neg()?.checked_sub(1)?,
            nsec: 1_000_000_000 - nsec,
        },
    })
}
