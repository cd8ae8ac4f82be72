//! Who holds the store, and whether the machine went down while it was open.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::disk::{self, Context, DiskError};

/// A process that was just ended may have forked, and a fork holds the lock until its exec.
const PATIENCE: Duration = Duration::from_millis(300);

/// The lock file, locked for as long as this lives. The kernel unlocks it when the process ends in
/// whatever way.
#[derive(Debug)]
pub(crate) struct RootLock {
    _file: File,
}

impl RootLock {
    pub(crate) fn take(root: &Path) -> Result<Self, OpenError> {
        let path = root.join("lock");
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .on("open", &path)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(OpenError::Locked {
                        root: root.to_owned(),
                        holder: holder(&mut file),
                    });
                }
                other => break other.on("lock", &path)?,
            }
        }
        // for the message above only: a full disk must not stop us
        let note = |mut f: &File| {
            f.set_len(0)?;
            f.rewind()?;
            writeln!(f, "{}", std::process::id())
        };
        if let Err(error) = note(&file) {
            tracing::debug!(%error, "write the pid into the lock file");
        }
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    if file.read_to_string(&mut pid).is_err() || pid.trim().is_empty() {
        return "unknown".to_owned();
    }
    let pid = pid.trim();
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(comm) => format!("{pid} ({})", comm.trim()),
        Err(_) => pid.to_owned(),
    }
}

/// `boot.json`. Fields are only ever added, with `#[serde(default)]`.
#[derive(Debug, Serialize, Deserialize)]
struct BootFile {
    boot_id: String,
    /// Everything was synced and nothing has changed since.
    clean: bool,
}

/// The boot this process runs in, against the one that last had the store open.
#[derive(Debug)]
pub(crate) struct Boot {
    path: PathBuf,
    pub(crate) id: String,
    /// The machine went down with the store open.
    pub(crate) unclean: bool,
    /// Another boot than the last one; or the first.
    pub(crate) new_boot: bool,
}

impl Boot {
    /// Reads the note the last process left and replaces it by ours, durably, before anything else
    /// is changed.
    pub(crate) fn begin(root: &Path, boot_id: Option<String>) -> Result<Self, DiskError> {
        let path = root.join("boot.json");
        let id = match boot_id {
            Some(id) => id,
            None => kernel_boot_id()?,
        };
        let bytes = disk::read_optional(&path)?;
        let last: Option<BootFile> = bytes.as_deref().map(|b| {
            // an unreadable note tells the same as a dirty one of another boot
            serde_json::from_slice(b).unwrap_or(BootFile {
                boot_id: String::new(),
                clean: false,
            })
        });
        let boot = Self {
            unclean: last.as_ref().is_some_and(|l| !l.clean && l.boot_id != id),
            new_boot: last.as_ref().is_none_or(|l| l.boot_id != id),
            path,
            id,
        };
        if last.is_none_or(|l| l.clean || l.boot_id != boot.id) {
            boot.note(false)?;
        }
        Ok(boot)
    }

    pub(crate) fn end_clean(&self) -> Result<(), DiskError> {
        self.note(true)
    }

    fn note(&self, clean: bool) -> Result<(), DiskError> {
        let file = BootFile {
            boot_id: self.id.clone(),
            clean,
        };
        let bytes = serde_json::to_vec(&file).expect("strings always encode");
        disk::write_durable(&self.path, &bytes, 0o600)
    }
}

fn kernel_boot_id() -> Result<String, DiskError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(std::fs::read_to_string(path)
        .on("read", path)?
        .trim()
        .to_owned())
}
