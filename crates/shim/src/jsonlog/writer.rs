//! Writing the log: batched, capped, and never a reason for the container to wait or fail.
//!
//! Output that cannot be written (a full disk) is dropped by whole lines and counted; the first
//! batch that can be written again is preceded by an entry that says how many are missing. The
//! file holds whole lines at any time: what a failed write left of one is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::encode::{self, Time};
use super::{LogPosition, NUMBER, Stream, number_of, rotated};
use crate::launch::LogPlan;

/// A batch is written when it reaches this.
const BATCH: usize = 32 << 10;

#[derive(Debug)]
pub(crate) struct LogWriter {
    plan: LogPlan,
    /// Absent when it could not be opened; tried again with each batch.
    file: Option<File>,
    /// Bytes of whole lines in `file`.
    size: u64,
    /// Of the next file that is made, if it is known.
    number: Option<u64>,
    batch: Vec<u8>,
    dropped: u64,
    /// Of `dropped`, what the log has not yet been told, and why.
    untold: u64,
    cause: i32,
}

impl LogWriter {
    /// Opens the log for appending; an unfinished last line (of a power cut) is cut off. A log
    /// that cannot be opened drops lines until it can.
    pub(crate) fn open(plan: LogPlan) -> Self {
        let mut writer = Self {
            number: first_number(&plan.path),
            plan,
            file: None,
            size: 0,
            batch: Vec::new(),
            dropped: 0,
            untold: 0,
            cause: 0,
        };
        // said by the first batch, if it still cannot be opened then
        drop(writer.reopen());
        writer
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Where the next entry will be: all before it are in the file. `None`: there is no file now.
    pub(crate) fn position(&mut self) -> Option<LogPosition> {
        self.flush();
        let inode = self.file.as_ref()?.metadata().ok()?.ino();
        Some(LogPosition {
            inode,
            offset: self.size,
        })
    }

    /// Adds an entry to the batch.
    pub(crate) fn push(&mut self, stream: Stream, text: &[u8], whole: bool, time: Time) {
        let mark = self.batch.len();
        encode::entry(
            &mut self.batch,
            stream,
            text,
            whole,
            time,
            &self.plan.attributes,
        );
        let held = self.size + mark as u64;
        let grown = self.size + self.batch.len() as u64;
        if self.plan.max_size > 0 && grown > self.plan.max_size && held > 0 {
            let last = self.batch.split_off(mark);
            self.flush();
            if let Err(e) = self.rotate() {
                self.missed(1, &e);
                return;
            }
            self.batch = last;
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes the batch, or drops it.
    pub(crate) fn flush(&mut self) {
        if self.batch.is_empty() && self.untold == 0 {
            return;
        }
        let lines = self.batch.iter().filter(|b| **b == b'\n').count() as u64;
        if let Err(e) = self.write_batch() {
            self.missed(lines, &e);
        }
        self.batch.clear();
    }

    fn missed(&mut self, lines: u64, cause: &io::Error) {
        self.dropped += lines;
        self.untold += lines;
        self.cause = cause.raw_os_error().unwrap_or(libc::EIO);
    }

    fn write_batch(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = self.file.as_mut() else {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        };
        let mut notice = Vec::new();
        if self.untold > 0 {
            let why = io::Error::from_raw_os_error(self.cause);
            let text = format!(
                "plimsoll: {} lines of output are missing here: {why}",
                self.untold
            );
            encode::entry(
                &mut notice,
                Stream::Stderr,
                text.as_bytes(),
                true,
                Time::now(),
                &self.plan.attributes,
            );
        }
        let mut write = |bytes: &[u8]| {
            if bytes.is_empty() {
                return Ok(());
            }
            sys::fault::point("shim.log.write")?;
            file.write_all(bytes)
        };
        if let Err(e) = write(&notice).and_then(|()| write(&self.batch)) {
            // back to whole lines; a file that cannot even be cut is opened anew
            if file.set_len(self.size).is_err() {
                self.file = None;
            }
            return Err(e);
        }
        self.size += (notice.len() + self.batch.len()) as u64;
        self.untold = 0;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        sys::fault::point("shim.log.open")?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.plan.path)?;
        let size = file.metadata()?.len();
        let number = number_of(&file).or_else(|| {
            let number = self.number.filter(|_| size == 0)?;
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&file, NUMBER, number.to_string().as_bytes(), flags).ok()?;
            Some(number)
        });
        self.number = number.map(|n| n + 1);
        let whole = whole_lines(&file, size)?;
        if whole < size {
            file.set_len(whole)?;
        }
        self.size = whole;
        self.file = Some(file);
        Ok(())
    }

    /// `.1` becomes `.2` and so on, the current file `.1`. If that fails the file grows no
    /// further, and lines are dropped until it can be done.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.plan.path;
        let keep = self.plan.max_file.max(1);
        if keep == 1 {
            remove(path)?;
        }
        // there may be far fewer than are allowed
        let free = (1..keep).find(|n| !rotated(path, *n).exists());
        for n in (0..free.unwrap_or(keep - 1)).rev() {
            rename(&rotated(path, n), &rotated(path, n + 1))?;
        }
        self.file = None;
        self.size = 0;
        // a failure is met again, and counted, by the next batch
        drop(self.reopen());
        Ok(())
    }
}

/// Of the file after those that are there.
fn first_number(path: &Path) -> Option<u64> {
    match File::open(rotated(path, 1)) {
        Ok(file) => number_of(&file).map(|n| n + 1),
        Err(e) => (e.kind() == io::ErrorKind::NotFound).then_some(0),
    }
}

fn rename(from: &Path, to: &PathBuf) -> io::Result<()> {
    sys::fault::point("shim.log.rotate")?;
    match std::fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    sys::fault::point("shim.log.rotate")?;
    std::fs::remove_file(path)
}

/// The length up to and with the last line end.
fn whole_lines(file: &File, size: u64) -> io::Result<u64> {
    let mut end = size;
    let mut chunk = [0_u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(path: &Path) -> Vec<String> {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes
            .split_inclusive(|b| *b == b'\n')
            .map(|line| {
                let v: serde_json::Value = serde_json::from_slice(line).unwrap();
                v["log"].as_str().unwrap().trim_end().to_owned()
            })
            .collect()
    }

    proptest! {
        /// No file is ever longer than the cap, none but the oldest lines are gone, order holds.
        #[test]
        fn rotation_keeps_the_newest(lines in 1_usize..200, cap in 150_u64..2_000, keep in 1_u32..5,
                                     every in 1_usize..9) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("json.log");
            let mut w = LogWriter::open(LogPlan { path: path.clone(), max_size: cap, max_file: keep, attributes: String::new() });
            for n in 0..lines {
                w.push(Stream::Stdout, format!("line {n}").as_bytes(), true, Time::now());
                if n % every == 0 { w.flush(); }
            }
            w.flush();
            prop_assert_eq!(w.dropped(), 0);
            let mut all = Vec::new();
            for n in (0..keep).rev() {
                let file = rotated(&path, n);
                if let Ok(meta) = std::fs::metadata(&file) {
                    prop_assert!(meta.len() <= cap);
                }
                all.extend(texts(&file));
            }
            prop_assert!(!rotated(&path, keep).exists());
            let first = lines - all.len();
            let wanted: Vec<_> = (first..lines).map(|n| format!("line {n}")).collect();
            prop_assert_eq!(all, wanted);
        }
    }

    /// A rotation touches the files that there are, not those that there may be.
    #[test]
    fn as_many_files_as_one_likes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        let mut w = LogWriter::open(LogPlan {
            max_size: 1,
            max_file: u32::MAX,
            ..LogPlan::capped(path.clone())
        });
        for text in [b"a", b"b", b"c"] {
            w.push(Stream::Stdout, text, true, Time::now());
        }
        w.flush();
        // as a rotation that was cut short leaves it
        std::fs::rename(rotated(&path, 2), rotated(&path, 3)).unwrap();
        std::fs::rename(rotated(&path, 1), rotated(&path, 2)).unwrap();
        w.push(Stream::Stdout, b"d", true, Time::now());
        w.flush();
        let all: Vec<_> = (0..5).map(|n| texts(&rotated(&path, n))).collect();
        assert_eq!(all, [vec!["d"], vec!["c"], vec!["b"], vec!["a"], vec![]]);
    }

    #[test]
    fn an_unfinished_line_is_cut_off_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("json.log");
        std::fs::write(&path, b"{\"log\":\"a\\n\"}\n{\"log\":\"to").unwrap();
        let mut w = LogWriter::open(LogPlan::capped(path.clone()));
        w.push(Stream::Stdout, b"b", true, Time::now());
        w.flush();
        assert_eq!(texts(&path), ["a", "b"]);
    }

    // FAILURES: "Log fills the disk", "stdout blocks the application"
    #[test]
    fn a_full_disk_drops_counts_and_says() {
        let dir = tempfile::tempdir().unwrap();
        let fs = testfs(dir.path());
        let path = fs.join("json.log");
        let filler = fs.join("filler");
        let mut w = LogWriter::open(LogPlan::capped(path.clone()));
        w.push(Stream::Stdout, b"before", true, Time::now());
        w.flush();
        fill(&filler);
        for n in 0..200 {
            w.push(
                Stream::Stdout,
                format!("{n}:{}", "x".repeat(100)).as_bytes(),
                true,
                Time::now(),
            );
            w.flush();
        }
        let dropped = w.dropped();
        assert!(dropped > 100, "{dropped}");
        std::fs::remove_file(&filler).unwrap();
        w.push(Stream::Stdout, b"after", true, Time::now());
        w.flush();
        let all = texts(&path);
        assert_eq!(all.len() as u64, 3 + 200 - dropped);
        assert_eq!(all.last().unwrap(), "after");
        let notice = &all[all.len() - 2];
        assert!(
            notice.contains(&format!("{dropped} lines of output are missing here")),
            "{notice}"
        );
        rustix::mount::unmount(&fs, rustix::mount::UnmountFlags::DETACH).unwrap();
    }

    /// A file system of 64 KiB. Needs root.
    fn testfs(dir: &Path) -> PathBuf {
        let at = dir.join("fs");
        std::fs::create_dir(&at).unwrap();
        rustix::mount::mount(
            "tmpfs",
            &at,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            c"size=64k",
        )
        .expect("this test mounts a tmpfs: run it as root");
        at
    }

    fn fill(filler: &Path) {
        let mut file = File::create(filler).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }
}
