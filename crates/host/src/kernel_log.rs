//! What the kernel's log says that an operator must know: messages of trouble with containers and
//! with the disks below them.
//!
//! source: Documentation/ABI/testing/dev-kmsg

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// What goes wrong, and how the kernel says so: all of these are in the line.
const TROUBLES: &[(&str, &[&str])] = &[
    (
        "network device not released",
        &["unregister_netdevice: waiting for "],
    ),
    (
        "memory cgroup leak",
        &["SLUB: Unable to allocate memory on node"],
    ),
    ("hung task", &["blocked for more than ", " seconds"]),
    ("soft lockup", &["watchdog: BUG: soft lockup"]),
    ("disk error", &["I/O error, dev "]),
    ("file system error", &["EXT4-fs error"]),
    (
        "file system error",
        &["EXT4-fs", "Remounting filesystem read-only"],
    ),
    ("file system error", &["XFS", "Corruption"]),
    (
        "file system error",
        &["XFS", "Filesystem has been shut down"],
    ),
    ("file system error", &["BTRFS", "forced readonly"]),
    ("file system error", &["BTRFS critical"]),
];

/// A record of the log that tells of trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The same words for the same kind.
    pub what: &'static str,
    /// The kernel's own.
    pub message: String,
}

/// Of a record as /dev/kmsg gives it: `priority,sequence,microseconds,flags;message`, and lines after
/// it that begin with a space.
#[must_use]
pub fn trouble(record: &str) -> Option<Trouble> {
    let (_, rest) = record.split_once(';')?;
    let message = rest.lines().next()?.trim();
    let (what, _) = TROUBLES
        .iter()
        .find(|(_, words)| words.iter().all(|w| message.contains(w)))?;
    Some(Trouble {
        what,
        message: message.to_owned(),
    })
}

/// Records of the log, one at a time; reading never blocks.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// All that is kept since the boot, then what comes.
    ///
    /// # Errors
    /// It cannot be read here: no CAP_SYSLOG, or no /dev/kmsg.
    pub fn open() -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(libc_nonblock())
            .open("/dev/kmsg")?;
        Ok(Self { file })
    }

    /// Only what comes from now on.
    ///
    /// # Errors
    /// As [`KernelLog::open`].
    pub fn from_now() -> io::Result<Self> {
        let log = Self::open()?;
        rustix::fs::seek(&log.file, rustix::fs::SeekFrom::End(0))?;
        Ok(log)
    }

    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// The next trouble; absent: none as far as there is anything to read.
    ///
    /// # Errors
    /// The log is broken.
    pub fn next_trouble(mut file: &File) -> io::Result<Option<Trouble>> {
        let mut record = [0; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    let text = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                    if let Some(found) = trouble(&text) {
                        return Ok(Some(found));
                    }
                }
                // what was next has been overwritten: go on with the oldest that is there
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

fn libc_nonblock() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0)
}

/// Each kind of trouble in the log, with the last message of it.
#[must_use]
pub fn troubles() -> Vec<Trouble> {
    let mut all: Vec<Trouble> = Vec::new();
    let Ok(log) = KernelLog::open() else {
        return all;
    };
    while let Ok(Some(found)) = KernelLog::next_trouble(&log.file) {
        all.retain(|t| t.what != found.what);
        all.push(found);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_from_the_rest() {
        let record = |text: &str| format!("4,1234,5678,-;{text}\n SUBSYSTEM=net\n");
        for (text, what) in [
            (
                "unregister_netdevice: waiting for lo to become free. Usage count = 1",
                "network device not released",
            ),
            (
                "EXT4-fs error (device vda1): ext4_find_entry:1455: inode #2: reading directory lblock 0",
                "file system error",
            ),
            (
                "INFO: task dockerd:1234 blocked for more than 120 seconds.",
                "hung task",
            ),
            (
                "XFS (vdb): Corruption of in-memory data detected.  Shutting down filesystem",
                "file system error",
            ),
            (
                "blk_update_request: I/O error, dev sda, sector 0",
                "disk error",
            ),
        ] {
            let found = trouble(&record(text)).unwrap();
            assert_eq!((found.what, found.message.as_str()), (what, text));
        }
        for text in [
            "EXT4-fs (vda): mounted filesystem with ordered data mode",
            "device v-123 entered promiscuous mode",
            "",
        ] {
            assert_eq!(trouble(&record(text)), None, "{text}");
        }
        assert_eq!(trouble("no record"), None);
    }
}
