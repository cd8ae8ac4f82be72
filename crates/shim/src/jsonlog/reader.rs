//! Reading a log across its rotated files, backwards for a tail and forwards for a follower.
//!
//! All files are opened at the start, newest first: a rotation in between shows the same file
//! twice, never not at all, and the later place is its own. A follower keeps the file it reads open; at its end it looks whether
//! that file is still the current one, and if not, reads it once more to its end (the writer
//! wrote before it renamed) and goes on with the files that are newer than it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;

use super::watch::Watch;
use super::{Stream, Watcher, number_of, rotated};

/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

/// A file modified this long before `since` has nothing to tell.
const SLACK: Duration = Duration::from_secs(5);

/// No log has more files.
const MAX_FILES: u32 = 1000;

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    pub stdout: bool,
    pub stderr: bool,
    /// Only the last so many entries; counted before `since` and `until` apply, as Docker does.
    pub tail: Option<u64>,
    /// Not before.
    pub since: Option<jiff::Timestamp>,
    /// Not after.
    pub until: Option<jiff::Timestamp>,
    /// Not beyond, where the log still has it. Not for a follower.
    pub end: Option<LogPosition>,
    /// Only what follows this entry. Not together with `tail`.
    pub after: Option<LogMark>,
}

/// The last entry that somebody has read, in a way that outlives rotations and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogMark {
    /// Its end.
    pub position: LogPosition,
    pub time: jiff::Timestamp,
}

/// A place between two entries of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogPosition {
    /// Of the file, which a rotation renames.
    pub inode: u64,
    /// Bytes before it.
    pub offset: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
            tail: None,
            since: None,
            until: None,
            end: None,
            after: None,
        }
    }
}

/// One object of the log: a line with its `\n`, or a piece of a long line without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub stream: Stream,
    pub time: jiff::Timestamp,
    pub bytes: Vec<u8>,
    /// Where it ends.
    pub end: LogPosition,
    /// What the log says of its container with each entry (`labels`, `env`, `tag`).
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("read {}: the task was cancelled", path.display())]
    Cancelled { path: PathBuf },
}

/// A log being read, in batches. A log that does not exist is empty.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    /// Absent while a batch is read elsewhere.
    cursor: Option<Cursor>,
    follow: Option<Follow>,
    until: Option<jiff::Timestamp>,
}

#[derive(Debug)]
struct Follow {
    watch: Watch,
    ended: watch::Receiver<bool>,
}

impl LogReader {
    /// Reads what is there and ends.
    ///
    /// # Errors
    /// A file cannot be opened or read.
    pub async fn open(path: &Path, options: &ReadOptions) -> Result<Self, ReadError> {
        Self::start(path, options, None).await
    }

    /// Reads what is there and then what is written, until `ended` turns true (or its sender is
    /// gone) or `until` has passed; what was written before that is still read. No line is lost
    /// or repeated by a rotation, as long as the reader is less than `max_file` files behind.
    ///
    /// # Errors
    /// A file cannot be opened or read.
    pub async fn follow(
        path: &Path,
        options: &ReadOptions,
        watcher: &Watcher,
        ended: watch::Receiver<bool>,
    ) -> Result<Self, ReadError> {
        let dir = path.parent().unwrap_or(path);
        // before the first look, so that no change is missed
        let watch = watcher.watch(dir);
        Self::start(path, options, Some(Follow { watch, ended })).await
    }

    async fn start(
        path: &Path,
        options: &ReadOptions,
        follow: Option<Follow>,
    ) -> Result<Self, ReadError> {
        let (at, options) = (path.to_owned(), options.clone());
        let following = follow.is_some();
        let until = options.until;
        let cursor =
            tokio::task::spawn_blocking(move || Cursor::open(&at, options, following)).await;
        Ok(Self {
            path: path.to_owned(),
            cursor: Some(cursor.map_err(|_| cancelled(path))??),
            follow,
            until,
        })
    }

    /// The next entries, at least one; `None` at the end.
    ///
    /// # Errors
    /// A file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, ReadError> {
        loop {
            // asked before reading: what was written before the end is read
            let ended = self
                .follow
                .as_ref()
                .is_none_or(|f| *f.ended.borrow() || f.ended.has_changed().is_err());
            let overdue = self.until.is_some_and(|at| jiff::Timestamp::now() > at);
            let Some(mut cursor) = self.cursor.take() else {
                return Err(cancelled(&self.path));
            };
            let read = tokio::task::spawn_blocking(move || (cursor.read(), cursor)).await;
            let (batch, cursor) = read.map_err(|_| cancelled(&self.path))?;
            self.cursor = Some(cursor);
            match batch? {
                Batch::Entries(entries) => return Ok(Some(entries)),
                Batch::Nothing => {}
                Batch::End => return Ok(None),
                Batch::Wait if ended || overdue => return Ok(None),
                Batch::Wait => {
                    if let Some(follow) = self.follow.as_mut() {
                        follow.wait(self.until).await;
                    }
                }
            }
        }
    }
}

impl LogReader {
    /// Whether entries may have been rotated away unread, since it was asked last, before those that
    /// [`LogReader::next`] gives next. Of a reader without a mark: since the log began.
    pub fn missed(&mut self) -> bool {
        let cursor = self.cursor.as_mut();
        cursor.is_some_and(|c| std::mem::take(&mut c.missed))
    }
}

impl Follow {
    async fn wait(&mut self, until: Option<jiff::Timestamp>) {
        let left = until.map_or(Duration::from_secs(3600), |at| {
            let left = at.duration_since(jiff::Timestamp::now());
            Duration::try_from(left).unwrap_or(Duration::ZERO) + Duration::from_millis(1)
        });
        tokio::select! {
            () = self.watch.changed() => {}
            // the sender going away is an end as well
            _ = self.ended.changed() => {}
            () = tokio::time::sleep(left) => {}
        }
    }
}

fn cancelled(path: &Path) -> ReadError {
    ReadError::Cancelled {
        path: path.to_owned(),
    }
}

#[derive(Debug)]
enum Batch {
    Entries(Vec<Entry>),
    /// Read, but nothing of it was asked for: read on.
    Nothing,
    /// A follower is at the end of what is written.
    Wait,
    End,
}

/// A log file, open, and where we are in it.
#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    /// How many files the log had before it, if that is known.
    number: Option<u64>,
    at: u64,
    /// Its length when it was opened. Nothing beyond is read by who does not follow.
    end: u64,
    /// What is before `end` and not later than this has been read.
    skip: Option<jiff::Timestamp>,
}

/// The position in a log. All its calls block.
#[derive(Debug)]
struct Cursor {
    path: PathBuf,
    options: ReadOptions,
    following: bool,
    /// The one being read first.
    files: VecDeque<Open>,
    /// The front file is known not to be the current one any more, so its end is final.
    passed: bool,
    buffer: Vec<u8>,
    /// So much of the buffer holds no line's end.
    searched: usize,
    done: bool,
    /// Files may have been gone, unread, before the front one.
    missed: bool,
    /// The same, before the one after it.
    gap: bool,
}

impl Cursor {
    fn open(path: &Path, options: ReadOptions, following: bool) -> Result<Self, ReadError> {
        let mut cursor = Self {
            path: path.to_owned(),
            options,
            following,
            files: VecDeque::new(),
            passed: false,
            buffer: Vec::new(),
            searched: 0,
            done: false,
            missed: false,
            gap: false,
        };
        cursor.find_all()?;
        if let Some(end) = cursor.options.end {
            cursor.end_at(end);
        }
        if let Some(wanted) = cursor.options.tail {
            cursor.seek_tail(wanted)?;
        } else if let Some(since) = cursor.options.since {
            cursor.skip_older_than(since);
        }
        if let Some(mark) = cursor.options.after {
            cursor.start_after(mark)?;
        }
        Ok(cursor)
    }

    fn find_all(&mut self) -> Result<(), ReadError> {
        self.files = self.newer_than(None)?.0.into();
        let first = self.files.front().and_then(|f| f.number);
        self.missed = first.is_some_and(|n| n > 0);
        Ok(())
    }

    /// An inode's number may be another file's by now, so the entry itself is compared. Where it is not
    /// found, what is there is told apart by time; a mark of the future is of no use for that.
    fn start_after(&mut self, mark: LogMark) -> Result<(), ReadError> {
        for (number, open) in self.files.iter_mut().enumerate() {
            if open.inode != mark.position.inode {
                continue;
            }
            let time =
                time_before(&open.file, mark.position.offset).map_err(|source| ReadError::Io {
                    action: "read",
                    path: self.path.clone(),
                    source,
                })?;
            if time == Some(mark.time) {
                open.at = mark.position.offset;
                self.files.drain(..number);
                self.missed = false;
                return Ok(());
            }
        }
        self.missed = !self.files.is_empty();
        if mark.time <= jiff::Timestamp::now() {
            for open in &mut self.files {
                open.skip = Some(mark.time);
            }
        }
        Ok(())
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> ReadError + use<> {
        let path = self.path.clone();
        move |source| ReadError::Io {
            action,
            path,
            source,
        }
    }

    /// The files written after the one given, oldest first; all if it is none of them, which is told.
    fn newer_than(&self, inode: Option<u64>) -> Result<(Vec<Open>, bool), ReadError> {
        let mut found: Vec<Open> = Vec::new();
        let mut met = false;
        let mut missing = 0;
        for n in 0..MAX_FILES {
            let file = match File::open(rotated(&self.path, n)) {
                Ok(file) => file,
                // a rotation under way has a gap, and one that was cut short leaves one
                Err(e) if e.kind() == io::ErrorKind::NotFound && missing < 3 => {
                    missing += 1;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(self.io("open")(e)),
            };
            missing = 0;
            let meta = file.metadata().map_err(self.io("stat"))?;
            if Some(meta.ino()) == inode {
                met = true;
                break;
            }
            let open = Open {
                number: number_of(&file),
                file,
                inode: meta.ino(),
                at: 0,
                end: meta.len(),
                skip: None,
            };
            place(&mut found, open, |f| f.inode);
        }
        found.reverse();
        Ok((found, met))
    }

    /// Leaves what is before a position to be read; all, if its file is gone.
    fn end_at(&mut self, end: LogPosition) {
        let Some(number) = self.files.iter().position(|f| f.inode == end.inode) else {
            return;
        };
        self.files.truncate(number + 1);
        if let Some(last) = self.files.back_mut() {
            last.end = last.end.min(end.offset);
        }
    }

    /// Leaves the last `wanted` lines to be read.
    fn seek_tail(&mut self, wanted: u64) -> Result<(), ReadError> {
        let mut left = wanted;
        let mut start = 0;
        for (number, open) in self.files.iter_mut().enumerate().rev() {
            let at =
                tail_start(&open.file, open.end, &mut left).map_err(|source| ReadError::Io {
                    action: "read",
                    path: self.path.clone(),
                    source,
                })?;
            open.at = at;
            start = number;
            if left == 0 {
                break;
            }
        }
        self.files.drain(..start);
        Ok(())
    }

    fn skip_older_than(&mut self, since: jiff::Timestamp) {
        while self.files.len() > 1 {
            let modified = self.files[0].file.metadata().and_then(|m| m.modified());
            let old = modified
                .ok()
                .and_then(|m| jiff::Timestamp::try_from(m + SLACK).ok())
                .is_some_and(|m| m < since);
            if !old {
                return;
            }
            self.files.pop_front();
        }
    }

    fn read(&mut self) -> Result<Batch, ReadError> {
        if self.done {
            return Ok(Batch::End);
        }
        let Some(open) = self.files.front_mut() else {
            return self.next_file();
        };
        let room = if self.following {
            CHUNK
        } else {
            usize::try_from(open.end.saturating_sub(open.at)).unwrap_or(CHUNK)
        };
        let held = self.buffer.len();
        self.buffer.resize(held + room.min(CHUNK), 0);
        let got = open.file.read_at(&mut self.buffer[held..], open.at);
        self.buffer.truncate(held + *got.as_ref().unwrap_or(&0));
        let got = got.map_err(self.io("read"))?;
        if got == 0 {
            return self.next_file();
        }
        if let Some(open) = self.files.front_mut() {
            open.at += got as u64;
        }
        Ok(self.entries())
    }

    /// The whole lines of the buffer that are asked for.
    fn entries(&mut self) -> Batch {
        let Some(open) = self.files.front() else {
            return Batch::Nothing;
        };
        let mut new = self.buffer[self.searched..].iter();
        let Some(last) = new.rposition(|b| *b == b'\n') else {
            self.searched = self.buffer.len();
            return Batch::Nothing;
        };
        let whole = self.searched + last + 1;
        let mut end = LogPosition {
            inode: open.inode,
            offset: open.at - self.buffer.len() as u64,
        };
        let mut entries = Vec::new();
        for line in self.buffer[..whole].split_inclusive(|b| *b == b'\n') {
            end.offset += line.len() as u64;
            // what is damaged is skipped: one bad line is not the log
            let Some(entry) = parse(line, end) else {
                continue;
            };
            if self.options.until.is_some_and(|until| entry.time > until) {
                self.done = true;
                break;
            }
            let wanted = match entry.stream {
                Stream::Stdout => self.options.stdout,
                Stream::Stderr => self.options.stderr,
            };
            let read = open.skip.filter(|_| end.offset <= open.end);
            let early = self.options.since.is_some_and(|since| entry.time < since)
                || read.is_some_and(|read| entry.time <= read);
            if wanted && !early {
                entries.push(entry);
            }
        }
        self.buffer.drain(..whole);
        self.searched = self.buffer.len();
        if entries.is_empty() {
            Batch::Nothing
        } else {
            Batch::Entries(entries)
        }
    }

    /// The front file is read to its present end.
    fn next_file(&mut self) -> Result<Batch, ReadError> {
        if self.files.len() > 1 || (self.passed && !self.files.is_empty()) {
            // what a rotated file holds after its last line end was never a line
            self.buffer.clear();
            self.searched = 0;
            self.files.pop_front();
            self.passed = false;
            self.missed |= std::mem::take(&mut self.gap);
            if !self.files.is_empty() {
                return Ok(Batch::Nothing);
            }
        }
        if !self.following {
            return Ok(Batch::End);
        }
        let Some(open) = self.files.front() else {
            self.find_all()?;
            let empty = self.files.is_empty();
            return Ok(if empty { Batch::Wait } else { Batch::Nothing });
        };
        let (newer, met) = self.newer_than(Some(open.inode))?;
        if newer.is_empty() {
            return Ok(Batch::Wait);
        }
        // what is read is open and whole, so one that follows at once is enough
        let next = newer.first().and_then(|n| n.number);
        let follows = open.number.zip(next).is_some_and(|(a, b)| b == a + 1);
        self.gap = !met && !follows;
        // read to its end once more: it was written to before it was renamed
        self.passed = true;
        let mut files: VecDeque<Open> = newer.into();
        if let Some(open) = self.files.pop_front() {
            files.push_front(open);
        }
        self.files = files;
        self.read()
    }
}

/// Adds a file to those of lower names. One that is there already was renamed by rotations in between:
/// what was found after it is newer, or comes once more, too.
fn place<T>(found: &mut Vec<T>, file: T, inode: impl Fn(&T) -> u64) {
    found.retain(|f| inode(f) != inode(&file));
    found.push(file);
}

/// Where the last `left` lines of a file begin; `left` becomes what is wanted beyond it.
fn tail_start(file: &File, end: u64, left: &mut u64) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut at = end;
    // the end of the last line does not begin another
    let mut seen_end = false;
    while at > 0 {
        let start = at.saturating_sub(CHUNK as u64);
        let part = &mut chunk[..usize::try_from(at - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        for (i, byte) in part.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            if seen_end {
                *left = left.saturating_sub(1);
            }
            seen_end = true;
            if *left == 0 {
                return Ok(start + i as u64 + 1);
            }
        }
        at = start;
    }
    if seen_end {
        *left = left.saturating_sub(1);
    }
    Ok(0)
}

/// The longest entry: 16 KiB of text, each byte escaped to six.
const LONGEST: u64 = 112 << 10;

/// Of the entry that ends there, if one does.
fn time_before(file: &File, end: u64) -> io::Result<Option<jiff::Timestamp>> {
    let start = end.saturating_sub(LONGEST);
    let mut part = vec![0; usize::try_from(end - start).unwrap_or(0)];
    match file.read_exact_at(&mut part, start) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let Some(line) = part.strip_suffix(b"\n") else {
        return Ok(None);
    };
    let line = line.rsplit(|b| *b == b'\n').next().unwrap_or(line);
    let nowhere = LogPosition {
        inode: 0,
        offset: 0,
    };
    Ok(parse(line, nowhere).map(|entry| entry.time))
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    stream: std::borrow::Cow<'a, str>,
    time: jiff::Timestamp,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

fn parse(line: &[u8], end: LogPosition) -> Option<Entry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(Entry {
        stream: match &*line.stream {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return None,
        },
        time: line.time,
        bytes: line.log.into_owned().into_bytes(),
        end,
        attributes: line.attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonlog::LogWriter;
    use crate::jsonlog::encode::Time;
    use crate::launch::LogPlan;
    use proptest::prelude::*;

    fn block_on<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(f)
    }

    fn writer(path: &Path, max_size: u64, max_file: u32) -> LogWriter {
        LogWriter::open(LogPlan {
            path: path.to_owned(),
            max_size,
            max_file,
            attributes: String::new(),
        })
    }

    fn put(w: &mut LogWriter, n: u64) {
        let time = Time::since_epoch(Duration::from_secs(1000 + n));
        let stream = if n.is_multiple_of(3) {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        w.push(stream, format!("line {n}").as_bytes(), true, time);
    }

    async fn rest(mut reader: LogReader) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some(batch) = reader.next().await.unwrap() {
            all.extend(batch.into_iter().map(|e| {
                let text = String::from_utf8(e.bytes).unwrap();
                text.trim_end()
                    .strip_prefix("line ")
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            }));
        }
        all
    }

    fn second(n: u64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(i64::try_from(1000 + n).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the rotation, a reader gives what was asked for, in order.
        #[test]
        fn reads_what_is_asked(
            lines in 0_u64..120, cap in 150_u64..3_000,
            tail in proptest::option::of(0_u64..130),
            since in proptest::option::of(0_u64..130), until in proptest::option::of(0_u64..130),
            stdout in any::<bool>(), stderr in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("json.log");
            let mut w = writer(&path, cap, 200);
            (0..lines).for_each(|n| put(&mut w, n));
            w.flush();
            let options = ReadOptions {
                stdout, stderr, tail, since: since.map(second), until: until.map(second), ..ReadOptions::default()
            };
            let got = block_on(async { rest(LogReader::open(&path, &options).await.unwrap()).await });
            let wanted: Vec<u64> = (lines.saturating_sub(tail.unwrap_or(lines))..lines)
                .filter(|n| since.is_none_or(|s| *n >= s) && until.is_none_or(|u| *n <= u))
                .filter(|n| if n.is_multiple_of(3) { stderr } else { stdout })
                .collect();
            prop_assert_eq!(got, wanted);
        }

        /// A reader survives any file.
        #[test]
        fn any_file_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..500), tail in 0_u64..5) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("json.log");
            std::fs::write(&path, bytes).unwrap();
            let options = ReadOptions { tail: Some(tail), ..ReadOptions::default() };
            block_on(async { rest(LogReader::open(&path, &options).await.unwrap()).await });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Who marks what was read, and begins anew anywhere, reads each line once, in order, and is told
        /// where some may be gone.
        #[test]
        fn reading_goes_on_after_a_mark(
            parts in proptest::collection::vec(0_u64..40, 1..8), cap in 150_u64..1_500, keep in 1_u32..6,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("json.log");
            let mut w = writer(&path, cap, keep);
            let (mut next, mut mark, mut seen) = (0, None, Vec::new());
            let mut told = false;
            for part in parts {
                (next..next + part).for_each(|n| put(&mut w, n));
                next += part;
                w.flush();
                let options = ReadOptions { after: mark, ..ReadOptions::default() };
                block_on(async {
                    let mut reader = LogReader::open(&path, &options).await.unwrap();
                    told |= reader.missed();
                    while let Some(batch) = reader.next().await.unwrap() {
                        seen.extend(batch.iter().map(|e| e.time));
                        let last = batch.last().unwrap();
                        mark = Some(LogMark { position: last.end, time: last.time });
                    }
                });
            }
            prop_assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
            if !told {
                prop_assert_eq!(seen.len() as u64, next);
            }
            prop_assert_eq!(seen.last().copied(), (next > 0).then(|| second(next - 1)));
        }
    }

    fn mark_of(batch: &[Entry]) -> Option<LogMark> {
        batch.last().map(|e| LogMark {
            position: e.end,
            time: e.time,
        })
    }

    /// What is read after a mark whose file is gone: the entries there by their times, all later ones.
    #[test]
    fn a_clock_that_was_set_back_hides_nothing_that_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let gone = |time: jiff::Timestamp| {
            Some(LogMark {
                position: LogPosition {
                    inode: 1,
                    offset: 10,
                },
                time,
            })
        };
        let mut w = writer(&path, 0, 1);
        (1..=4).for_each(|n| put(&mut w, n));
        w.flush();
        block_on(async {
            let watcher = Watcher::new().unwrap();
            let (end, ended) = watch::channel(false);
            let options = ReadOptions {
                after: gone(second(3)),
                ..ReadOptions::default()
            };
            let mut reader = LogReader::follow(&path, &options, &watcher, ended)
                .await
                .unwrap();
            assert!(reader.missed());
            let batch = reader.next().await.unwrap().unwrap();
            assert_eq!(batch.len(), 1);
            // the clock goes back: into the file that is there, and into a new one
            put(&mut w, 2);
            w.flush();
            let mut w = {
                std::fs::rename(&path, rotated(&path, 1)).unwrap();
                writer(&path, 0, 2)
            };
            put(&mut w, 1);
            w.flush();
            end.send(true).unwrap();
            assert_eq!(rest(reader).await, [2, 1]);
            // nothing can be told by a mark of the future
            let future = ReadOptions {
                after: gone(jiff::Timestamp::now() + Duration::from_secs(3600)),
                ..ReadOptions::default()
            };
            let reader = LogReader::open(&path, &future).await.unwrap();
            assert_eq!(rest(reader).await, [1, 2, 3, 4, 2, 1]);
        });
    }

    /// Of a log of one file: what was rotated while it was read is read to its end, and only a second
    /// rotation takes something away.
    #[test]
    fn one_rotation_misses_nothing_and_two_do() {
        for (rotations, missed) in [(1, false), (2, true)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("json.log");
            // one entry to a file
            let mut w = writer(&path, 1, 1);
            put(&mut w, 0);
            w.flush();
            assert_eq!(
                number_of(&File::open(&path).unwrap()),
                Some(0),
                "this test needs a file system with user attributes"
            );
            block_on(async {
                let watcher = Watcher::new().unwrap();
                let (end, ended) = watch::channel(false);
                let mut reader = LogReader::follow(&path, &ReadOptions::default(), &watcher, ended)
                    .await
                    .unwrap();
                assert_eq!(reader.next().await.unwrap().unwrap().len(), 1);
                (1..=rotations).for_each(|n| put(&mut w, n));
                w.flush();
                end.send(true).unwrap();
                assert_eq!(reader.next().await.unwrap().unwrap().len(), 1);
                assert_eq!(reader.missed(), missed, "{rotations}");
            });
        }
    }

    /// Who has no mark is told of what was gone before it came.
    #[test]
    fn a_log_without_its_beginning_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let missed = || {
            block_on(async {
                let mut reader = LogReader::open(&path, &ReadOptions::default())
                    .await
                    .unwrap();
                let missed = reader.missed();
                let batch = reader.next().await.unwrap().unwrap();
                let options = ReadOptions {
                    after: mark_of(&batch),
                    ..ReadOptions::default()
                };
                let mut after = LogReader::open(&path, &options).await.unwrap();
                assert!(!after.missed());
                missed
            })
        };
        let mut w = writer(&path, 1, 2);
        put(&mut w, 0);
        put(&mut w, 1);
        w.flush();
        assert!(!missed());
        // by another writer, as after a restart
        let mut w = writer(&path, 1, 2);
        put(&mut w, 2);
        w.flush();
        assert!(missed());
    }

    /// What has no line's end is searched for one only once.
    #[test]
    fn a_log_without_line_ends_is_searched_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        std::fs::write(&path, vec![b'x'; 3 * CHUNK]).unwrap();
        let mut cursor = Cursor::open(&path, ReadOptions::default(), false).unwrap();
        for n in 1..=3 {
            assert!(matches!(cursor.read(), Ok(Batch::Nothing)));
            assert_eq!(cursor.searched, n * CHUNK);
        }
        assert!(matches!(cursor.read(), Ok(Batch::End)));
    }

    /// Files 3, 2, 1, of which 3 is looked at before two rotations and the others after them.
    #[test]
    fn a_rotation_between_two_looks_leaves_the_order() {
        let mut found = Vec::new();
        for file in [3, 4, 3, 2, 1] {
            place(&mut found, file, |f| *f);
        }
        assert_eq!(found, [4, 3, 2, 1]);
    }

    #[test]
    fn attributes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let mut w = LogWriter::open(LogPlan {
            attributes: r#"{"a":"1","tag":"x \"y\""}"#.to_owned(),
            ..LogPlan::capped(path.clone())
        });
        put(&mut w, 1);
        w.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(r#""stream":"stdout","attrs":{"a":"1","#),
            "{text}"
        );
        let entry = block_on(async {
            let mut reader = LogReader::open(&path, &ReadOptions::default())
                .await
                .unwrap();
            reader.next().await.unwrap().unwrap().remove(0)
        });
        assert_eq!(entry.attributes["tag"], "x \"y\"");
    }

    #[test]
    fn a_damaged_line_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let mut w = writer(&path, 0, 1);
        put(&mut w, 1);
        w.flush();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"log\":\"half\n\0\0\0\n");
        std::fs::write(&path, &bytes).unwrap();
        let mut w = writer(&path, 0, 1);
        put(&mut w, 2);
        w.flush();
        let got = block_on(async {
            rest(
                LogReader::open(&path, &ReadOptions::default())
                    .await
                    .unwrap(),
            )
            .await
        });
        assert_eq!(got, [1, 2]);
    }

    /// A writer that rotates as fast as it can, a follower beside it: each line once, in order.
    #[test]
    fn following_across_rotations_neither_loses_nor_repeats() {
        const LINES: u64 = 20_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let read_to = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (end, ended) = watch::channel(false);
        let writing = {
            let (path, read_to) = (path.clone(), read_to.clone());
            std::thread::spawn(move || {
                let started = std::time::Instant::now();
                let mut w = writer(&path, 4_000, 50);
                for n in 0..LINES {
                    put(&mut w, n);
                    if n.is_multiple_of(7) {
                        w.flush();
                    }
                    // never so far ahead that the oldest file is gone before it was read
                    let behind = || read_to.load(std::sync::atomic::Ordering::Relaxed);
                    while n > 1_000 + behind() && started.elapsed() < Duration::from_secs(60) {
                        std::thread::yield_now();
                    }
                }
                w.flush();
                end.send(true).unwrap();
            })
        };
        let got = block_on(async {
            let watcher = Watcher::new().unwrap();
            let options = ReadOptions::default();
            let mut reader = LogReader::follow(&path, &options, &watcher, ended)
                .await
                .unwrap();
            let mut all = Vec::new();
            while let Some(batch) = reader.next().await.unwrap() {
                all.extend(batch);
                read_to.store(all.len() as u64, std::sync::atomic::Ordering::Relaxed);
            }
            all
        });
        writing.join().unwrap();
        let got: Vec<String> = got
            .into_iter()
            .map(|e| String::from_utf8(e.bytes).unwrap())
            .collect();
        let wanted: Vec<String> = (0..LINES).map(|n| format!("line {n}\n")).collect();
        assert_eq!(got.len(), wanted.len());
        assert!(got == wanted);
    }

    #[test]
    fn a_follower_starts_before_the_log_does_and_ends_at_until() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        block_on(async {
            let watcher = Watcher::new().unwrap();
            let (_end, ended) = watch::channel(false);
            let options = ReadOptions {
                tail: Some(0),
                until: Some(jiff::Timestamp::now() + Duration::from_millis(300)),
                ..ReadOptions::default()
            };
            let mut reader = LogReader::follow(&path, &options, &watcher, ended)
                .await
                .unwrap();
            let mut w = writer(&path, 0, 1);
            put(&mut w, 1);
            w.flush();
            assert_eq!(reader.next().await.unwrap().unwrap().len(), 1);
            assert_eq!(reader.next().await.unwrap(), None);
        });
    }
}
