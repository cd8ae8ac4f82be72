//! The exit record: how a container ended, on disk before anyone is told.
//!
//! `exit.json` is written as `.exit.json.tmp` and renamed, then it and its directory are synced; a
//! record of an `ephemeral` container skips the syncs. A reader in the same boot sees a whole record
//! or none. With the rename before the syncs a journaling file system commits once and not twice; a
//! power cut between them may leave a record that is empty or torn, which nobody was told of:
//! [`RecordError::Corrupt`].

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's name inside the container's directory.
pub const EXIT_FILE: &str = "exit.json";
const STAGED: &str = ".exit.json.tmp";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The program's own, or 128 + the signal's number.
    pub code: i32,
    /// Set if a signal ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// The kernel killed at least one of its processes for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// RFC 3339 with nanoseconds, UTC.
    pub started_at: String,
    /// RFC 3339 with nanoseconds, UTC.
    pub finished_at: String,
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
    /// The shim was killed and the container with it; then the code is 137 and not the program's.
    #[serde(default)]
    pub shim_died: bool,
    /// Lines of output that could not be written to the log.
    #[serde(default)]
    pub log_lines_dropped: u64,
}

/// Why an exit record could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("read {}: it is not an exit record", path.display())]
    Corrupt {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl RecordError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// The record in a container's directory, if it has ended since the last [`remove_exit`]. Its
/// writer may have been killed before it synced, so it is synced here: what a reader acts on stays.
///
/// # Errors
/// The file exists and cannot be read or synced, or is not a record.
pub fn read_exit(dir: &Path) -> Result<Option<ExitRecord>, RecordError> {
    let path = dir.join(EXIT_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(RecordError::io("open", &path)(e)),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(RecordError::io("read", &path))?;
    let record = serde_json::from_slice(&bytes).map_err(|source| RecordError::Corrupt {
        path: path.clone(),
        source,
    })?;
    sync(&file, &path, dir)?;
    Ok(Some(record))
}

/// Takes the record away before a new start; that there is none is fine.
///
/// # Errors
/// The file cannot be unlinked.
pub fn remove_exit(dir: &Path) -> Result<(), RecordError> {
    let path = dir.join(EXIT_FILE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(RecordError::io("remove", &path)(e))
        }
        _ => Ok(()),
    }
}

/// Writes the record; durable on return unless `ephemeral`.
///
/// # Errors
/// Any step failed; an earlier record, if there was one, is then still whole.
pub fn write_exit(dir: &Path, record: &ExitRecord, ephemeral: bool) -> Result<(), RecordError> {
    let staged = dir.join(STAGED);
    let path = dir.join(EXIT_FILE);
    let mut bytes = serde_json::to_vec(record).map_err(|source| RecordError::Corrupt {
        path: path.clone(),
        source,
    })?;
    bytes.push(b'\n');
    let create = || {
        sys::fault::point("shim.exit.create")?;
        File::create(&staged)
    };
    let mut file = create().map_err(RecordError::io("create", &staged))?;
    let write = |file: &mut File| {
        sys::fault::point("shim.exit.write")?;
        file.write_all(&bytes)
    };
    write(&mut file).map_err(RecordError::io("write", &staged))?;
    let rename = || {
        sys::fault::point("shim.exit.rename")?;
        std::fs::rename(&staged, &path)
    };
    rename().map_err(RecordError::io("rename to", &path))?;
    if !ephemeral {
        sync(&file, &path, dir)?;
    }
    Ok(())
}

fn sync(file: &File, path: &Path, dir: &Path) -> Result<(), RecordError> {
    let sync_file = || {
        sys::fault::point("shim.exit.sync")?;
        file.sync_all()
    };
    sync_file().map_err(RecordError::io("sync", path))?;
    let sync_dir = || {
        sys::fault::point("shim.exit.sync_dir")?;
        File::open(dir)?.sync_all()
    };
    sync_dir().map_err(RecordError::io("sync", dir))
}
