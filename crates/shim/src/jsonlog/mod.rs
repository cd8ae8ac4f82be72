//! Docker's json-file log: one JSON object per line, rotated by renaming.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-23T05:28:06.123456789Z"}
//! json.log      being written
//! json.log.1    the one before, ... up to .(max_file - 1)
//! ```
//!
//! A line of more than 16 KiB is split as Docker splits it: each piece but the last lacks the
//! `\n` at the end of `log`, and all carry the time of the first. Source: moby
//! daemon/logger/copier.go, daemon/logger/jsonfilelog (format only).

mod reader;
mod watch;

pub use reader::{Entry, LogReader, ReadError, ReadOptions};
pub use watch::{WatchError, Watcher};

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
