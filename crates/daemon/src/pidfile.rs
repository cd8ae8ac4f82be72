//! The pid file: held locked as long as the process lives, so that a stale one is told from a live
//! one by the kernel and never by a pid that another process may have got since.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Removes its file when dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    // the lock goes with the descriptor
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PidFileError {
    #[error("write the pid file {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "another engine runs with the pid file {path} (process {pid}); give this one its own --pidfile, --exec-root and --data-root"
    )]
    Held { path: PathBuf, pid: String },
}

impl PidFile {
    pub(crate) fn create(path: &Path) -> Result<Self, PidFileError> {
        let fail = |source| PidFileError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(fail)?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(fail)?;
                return Err(PidFileError::Held {
                    path: path.to_owned(),
                    pid: pid.trim().to_owned(),
                });
            }
            // its former holder may have removed it between our open and our lock
            let same = fs::metadata(path)
                .is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
            if !same {
                continue;
            }
            file.set_len(0).map_err(fail)?;
            writeln!(file, "{}", std::process::id()).map_err(fail)?;
            return Ok(Self {
                path: path.to_owned(),
                _file: file,
            });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // gone already: somebody tidied up; the lock is what counts
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_is_taken_and_held_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/p.pid");
        fs::create_dir(dir.path().join("sub")).unwrap();
        // pid 1 lives, but does not hold the lock
        fs::write(&path, "1\n").unwrap();
        let held = PidFile::create(&path).unwrap();
        let own = std::process::id().to_string();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), own);
        let error = PidFile::create(&path).unwrap_err();
        assert!(error.to_string().contains(&own), "{error}");
        drop(held);
        assert!(!path.exists());
        drop(PidFile::create(&path).unwrap());
    }
}
