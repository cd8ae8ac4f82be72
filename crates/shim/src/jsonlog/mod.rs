//! Docker's json-file log: one JSON object per line, rotated by renaming.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-23T05:28:06.123456789Z"}
//!              with attributes: ...,"attrs":{"tag":"web"},"time":...
//! json.log      being written
//! json.log.1    the one before, ... up to .(max_file - 1)
//! ```
//! Each file has an attribute `user.plimsoll.number`, in decimal: how many files the log had before it.
//! By it a reader knows whether one was rotated away unread. Where the file system has no attributes
//! of users, a reader that was overtaken says that entries may be missing where perhaps none are.
//!
//! A line of more than 16 KiB is split as Docker splits it: each piece but the last lacks the
//! `\n` at the end of `log`, and all carry the time of the first. Source: moby
//! daemon/logger/copier.go, daemon/logger/jsonfilelog (format only).

pub(crate) mod encode;
mod reader;
mod watch;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use reader::{Entry, LogMark, LogPosition, LogReader, ReadError, ReadOptions};
pub use watch::{WatchError, Watcher};
pub(crate) use writer::LogWriter;

/// Which of its outputs a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The n-th file of a log, counted from the current one.
fn rotated(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

const NUMBER: &str = "user.plimsoll.number";

/// How many files the log had before this one, if that is known.
fn number_of(file: &File) -> Option<u64> {
    let mut text = [0; 20];
    let length = rustix::fs::fgetxattr(file, NUMBER, &mut text).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.parse().ok()
}
