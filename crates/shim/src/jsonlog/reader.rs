//! Reading a log across its rotated files, backwards for a tail and forwards for a follower.

use std::path::{Path, PathBuf};

use super::{Stream, Watcher};

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
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
            tail: None,
            since: None,
            until: None,
        }
    }
}

/// One object of the log: a line with its `\n`, or a piece of a long line without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub stream: Stream,
    pub time: jiff::Timestamp,
    pub bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// A log being read, in batches. A log that does not exist is empty.
#[derive(Debug)]
pub struct LogReader {}

impl LogReader {
    /// Reads what is there and ends.
    ///
    /// # Errors
    /// A file cannot be opened or read.
    pub async fn open(path: &Path, options: &ReadOptions) -> Result<Self, ReadError> {
        let _ = (path, options);
        Ok(Self {})
    }

    /// Reads what is there and then what is written, until `ended` turns true (or its sender is
    /// gone); what was written before that is still read. No line is lost or repeated by a
    /// rotation, as long as the reader is less than `max_file` files behind.
    ///
    /// # Errors
    /// A file cannot be opened or read.
    pub async fn follow(
        path: &Path,
        options: &ReadOptions,
        watcher: &Watcher,
        ended: tokio::sync::watch::Receiver<bool>,
    ) -> Result<Self, ReadError> {
        let _ = (path, options, watcher, ended);
        Ok(Self {})
    }

    /// The next entries, at least one; `None` at the end.
    ///
    /// # Errors
    /// A file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, ReadError> {
        Ok(None)
    }
}
