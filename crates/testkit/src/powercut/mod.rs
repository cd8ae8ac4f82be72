//! A power-cut lab without a virtual machine.
//!
//! ```text
//! program under test
//!   ext4 | xfs | btrfs
//!     loop device
//!       one file of a FUSE file system of ours (this process), kept in memory
//!         log: write | discard | flush | mark ("the caller was told ok"), in order
//! ```
//!
//! [`record`] runs a workload on a fresh file system and keeps the log. [`Recording::crashes`]
//! picks crash states: a point in the log, and what became of the writes no flush had covered yet.
//! [`Recording::replay`] presents each as a disk, mounts it (the file system recovers) and hands it
//! to a check, together with the marks that were set before the point: what they promise must be
//! there. Recovery's own writes are undone at the next state.
//!
//! Everything is mounted in a mount namespace of the calling thread alone: a copy of a mount in any
//! other namespace would keep the old state alive. Never use a global `sync` in a workload or a
//! check: it reaches the host's disks and tells nothing.
//!
//! The points are chosen where losses are likely (just after an acknowledgement, around flushes):
//! a share of failed states is never a probability.
//!
//! The lab proves itself in its own tests: a program that does everything right loses nothing, one
//! that leaves out an fsync does.

mod disk;
mod host;
mod state;

use std::path::Path;

pub use host::{FileSystem, enter_private_namespace};
pub use state::{Crash, Fate};

use disk::{Disk, Entry};
use host::{Attached, Fuse};
use state::Image;

/// Inserts marks into the log while a workload runs.
#[derive(Debug, Clone)]
pub struct Marks(Disk);

impl Marks {
    /// The caller was told that this is done: from here on it must survive.
    pub fn acknowledge(&self, what: &str) {
        self.0.log_mark(what);
    }
}

/// What a workload wrote, in order, from the state just after the file system was made.
#[derive(Debug)]
pub struct Recording {
    file_system: FileSystem,
    size: u64,
    base: Image,
    log: Vec<Entry>,
}

/// Runs a workload on a fresh file system and records all that reaches the disk.
///
/// The workload is given the mount point. All its files must be closed when it returns.
///
/// # Errors
/// The file system can't be made or mounted, naming the program that refused.
pub fn record(
    file_system: FileSystem,
    workload: impl FnOnce(&Path, &Marks),
) -> std::io::Result<Recording> {
    let size = file_system.disk_size();
    let disk = Disk::new(size);
    let fuse = Fuse::serve(&disk)?;
    file_system.make(&fuse.file())?;
    let base = disk.image();
    disk.start_log();
    let attached = Attached::attach(&fuse, &disk)?;
    let mounted = attached.mount(file_system)?;
    workload(mounted.path(), &Marks(disk.clone()));
    let log = disk.stop_log();
    mounted.unmount()?;
    Ok(Recording {
        file_system,
        size,
        base,
        log,
    })
}

/// What a replay found.
#[derive(Debug, Default)]
pub struct Outcome {
    pub states: usize,
    /// One line for each state in which something acknowledged was lost, or recovery failed.
    pub failures: Vec<String>,
}

impl Recording {
    /// Writes, flushes and marks recorded.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |f: fn(&Entry) -> bool| self.log.iter().filter(|e| f(e)).count();
        (
            count(|e| matches!(e, Entry::Write { .. })),
            count(|e| matches!(e, Entry::Flush)),
            count(|e| matches!(e, Entry::Mark(_))),
        )
    }

    /// Chooses at least `wanted` crash states, the same ones for the same log and seed: around each
    /// mark and spread over the flushes, with every fate.
    #[must_use]
    pub fn crashes(&self, wanted: usize, seed: u64) -> Vec<Crash> {
        state::choose(&self.log, wanted, seed)
    }

    /// Presents each crash state to the check, with the marks set before it. The check returns what
    /// is wrong; all its files must be closed then.
    ///
    /// # Errors
    /// The host fails (no loop device, no memory). That the file system can't be mounted after a
    /// crash is a finding, not an error.
    pub fn replay(
        &self,
        crashes: &[Crash],
        mut check: impl FnMut(&Path, &[&str]) -> Result<(), String>,
    ) -> std::io::Result<Outcome> {
        let disk = Disk::new(self.size);
        let fuse = Fuse::serve(&disk)?;
        let mut outcome = Outcome::default();
        for crash in crashes {
            let (image, marks) = state::present(&self.base, &self.log, crash);
            disk.replace(image);
            let attached = Attached::attach(&fuse, &disk)?;
            let verdict = match attached.mount(self.file_system) {
                Ok(mounted) => {
                    let verdict = check(mounted.path(), &marks);
                    mounted.unmount()?;
                    verdict
                }
                Err(error) => Err(format!("the file system doesn't recover: {error}")),
            };
            drop(attached);
            outcome.states += 1;
            if let Err(what) = verdict {
                outcome
                    .failures
                    .push(format!("{crash} after {:?}: {what}", marks.last()));
            }
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
