//! What the checks look at.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::facts::{CgroupVersion, Facts, ProbeError};
use crate::kernel_log::Trouble;
use crate::process::{line, text};

/// How much time the doctor may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// At each start of the daemon: reads only, a millisecond.
    Quick,
    /// `plimsoll doctor`: also writes to the data root and cycles cgroups, up to a few seconds.
    Full,
}

/// The file system that holds the data root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// As in mountinfo: `ext4`, `nfs4`, `fuse.sshfs`, ..
    pub kind: String,
    /// Device or source.
    pub source: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
    pub free_bytes: u64,
    pub free_inodes: Option<u64>,
}

/// Results of what is only tried in [`Depth::Full`]. `None`: couldn't be tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slow {
    /// Two O_DIRECT|O_SYNC appends land one after the other.
    pub direct_append: Option<bool>,
    /// What was fsynced reads back after the page cache was dropped.
    pub read_back: Option<bool>,
    /// Memory cgroups left over after a cycle of 200.
    pub leaked_memory_cgroups: Option<u64>,
}

/// Everything the checks know. Tests make it up.
#[derive(Debug, Clone)]
pub struct Context {
    pub facts: Facts,
    pub file_system: FileSystem,
    /// `uname -v`: Debian writes the upstream version here.
    pub kernel_version: String,
    /// Numbers under /proc/sys, by their path there.
    pub sysctls: BTreeMap<&'static str, u64>,
    /// Block group profiles of btrfs for data and metadata (`raid5`, ..).
    pub btrfs_profiles: Vec<String>,
    pub year: i64,
    /// What the kernel's log says of trouble, since the boot.
    pub troubles: Vec<Trouble>,
    pub slow: Option<Slow>,
}

const SYSCTLS: [&str; 6] = [
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
    "kernel/pid_max",
    "kernel/random/entropy_avail",
    "net/ipv4/ip_forward",
    "user/max_user_namespaces",
];

impl Context {
    /// Looks at the host.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn gather(facts: &Facts, depth: Depth) -> Result<Self, ProbeError> {
        let sysctls = SYSCTLS
            .iter()
            .filter_map(|name| {
                let value = line(&format!("/proc/sys/{name}")).ok()?;
                Some((*name, value.parse().ok()?))
            })
            .collect();
        let file_system = file_system(&facts.data_root)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seconds = now.map_or(0, |d| d.as_secs());
        Ok(Self {
            btrfs_profiles: btrfs_profiles(&file_system),
            file_system,
            kernel_version: line("/proc/sys/kernel/version")?,
            sysctls,
            year: 1970 + i64::try_from(seconds / 31_556_952).unwrap_or(0),
            troubles: crate::kernel_log::troubles(),
            slow: (depth == Depth::Full).then(|| Slow {
                direct_append: direct_append(&facts.data_root).ok(),
                read_back: read_back(&facts.data_root).ok(),
                leaked_memory_cgroups: cycle_memory_cgroups(facts),
            }),
            facts: facts.clone(),
        })
    }
}

/// The mount that holds a path: the one of its device, or else the longest mount point above it.
fn file_system(data_root: &Path) -> Result<FileSystem, ProbeError> {
    let failed = |source| ProbeError::Stage {
        path: data_root.to_owned(),
        source,
    };
    let real = fs::canonicalize(data_root).map_err(failed)?;
    let space = rustix::fs::statvfs(&real).map_err(|e| failed(e.into()))?;
    let mounts = text("/proc/self/mountinfo")?;
    let (kind, source, options) = mounts
        .lines()
        .filter_map(|l| {
            let (left, right) = l.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let point = PathBuf::from(left.get(4)?.replace("\\040", " "));
            let options = format!("{},{}", left.get(5)?, right.get(2)?);
            real.starts_with(&point)
                .then_some((point, *right.first()?, *right.get(1)?, options))
        })
        // the last of those mounted on one point hides the others
        .max_by_key(|(point, ..)| point.as_os_str().len())
        .map_or(("unknown", "none", String::new()), |(_, k, s, o)| (k, s, o));
    Ok(FileSystem {
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
        free_bytes: space.f_bavail * space.f_frsize,
        // 0 of 0: a file system without a fixed number of inodes
        free_inodes: (space.f_files > 0).then_some(space.f_favail),
    })
}

/// Directories of sysfs are named after the profiles in use.
fn btrfs_profiles(file_system: &FileSystem) -> Vec<String> {
    let Some(device) = Path::new(&file_system.source).file_name() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/fs/btrfs")
        .into_iter()
        .flatten()
        .flatten()
    {
        if !entry.path().join("devices").join(device).exists() {
            continue;
        }
        for kind in ["data", "metadata"] {
            let dir = entry.path().join("allocation").join(kind);
            let profiles = fs::read_dir(dir).into_iter().flatten().flatten();
            found.extend(
                profiles
                    .map(|p| p.file_name().to_string_lossy().into_owned())
                    .filter(|p| p.starts_with("raid")),
            );
        }
    }
    found
}

/// A file of ours in the data root that goes away however the trial ends.
struct Trial(PathBuf);

impl Drop for Trial {
    fn drop(&mut self) {
        let _left = fs::remove_file(&self.0);
    }
}

const BLOCK: usize = 4096;

/// ext4 of 6.1.64 didn't move the file position after a direct synchronous append: the second
/// write went over the first. source: Debian #1057843.
fn direct_append(data_root: &Path) -> io::Result<bool> {
    let path = data_root.join(format!(".doctor-direct-{}", std::process::id()));
    let trial = Trial(path);
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::SYNC;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .custom_flags(flags.bits().cast_signed())
        .open(&trial.0)?;
    // direct I/O wants an aligned buffer
    let mut space = vec![0_u8; 3 * BLOCK];
    let start = space.as_ptr().align_offset(BLOCK);
    let block = space
        .get_mut(start..start + BLOCK)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    for byte in [b'a', b'b'] {
        block.fill(byte);
        file.write_all(block)?;
    }
    let position = file.stream_position()?;
    file.read_exact_at(block, 0)?;
    let first = block.iter().all(|b| *b == b'a');
    file.read_exact_at(block, BLOCK as u64)?;
    let second = block.iter().all(|b| *b == b'b');
    Ok(position == 2 * BLOCK as u64 && first && second && file.metadata()?.size() == position)
}

fn read_back(data_root: &Path) -> io::Result<bool> {
    let path = data_root.join(format!(".doctor-read-{}", std::process::id()));
    let trial = Trial(path);
    let content: Vec<u8> = (0..64 * BLOCK).map(|i| (i % 251) as u8).collect();
    let mut file = fs::File::create_new(&trial.0)?;
    file.write_all(&content)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut found = Vec::new();
    fs::File::open(&trial.0)?.read_to_end(&mut found)?;
    Ok(found == content)
}

/// Kernel 3.10 keeps memory cgroups with kernel memory accounting for ever until it panics.
/// source: r#1725, m#37722.
fn cycle_memory_cgroups(facts: &Facts) -> Option<u64> {
    let memory = facts.cgroup.controller("memory").filter(|h| h.writable)?;
    if memory.version == CgroupVersion::V2 {
        // no such leak is known there, and children may have no memory controller
        return None;
    }
    let count = || -> Option<u64> {
        let table = text("/proc/cgroups").ok()?;
        let row = table.lines().find(|l| l.starts_with("memory\t"))?;
        row.split('\t').nth(2)?.parse().ok()
    };
    let before = count()?;
    for n in 0..200 {
        let dir = memory
            .own
            .join(format!("plimsoll-doctor-{}-{n}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        fs::remove_dir(&dir).ok()?;
    }
    // freed after an RCU grace period; others make cgroups meanwhile, so half is enough
    let end = Instant::now() + Duration::from_secs(3);
    loop {
        let left = count()?.saturating_sub(before);
        if left < 100 || Instant::now() > end {
            return Some(left);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
