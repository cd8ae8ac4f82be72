//! How much of the disk things take.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use crate::Store;

/// Bytes of the disk, by kind. Images are counted by [`Store::images`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub volumes: Vec<(String, u64)>,
    /// Writable layers, by container.
    pub containers: Vec<(String, u64)>,
    /// Removed volumes that can be brought back.
    pub volume_trash: u64,
    /// On its way out, and what was set aside.
    pub reclaimable: u64,
    pub reserve: u64,
}

impl Store {
    /// Walks volumes and writable layers: takes as long as there are files.
    #[must_use]
    pub fn disk_usage(&self) -> DiskUsage {
        let each = |dir: &Path, below: &str| -> Vec<(String, u64)> {
            crate::disk::names(dir)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|n| n.into_string().ok())
                .map(|n| {
                    let size = tree_size(&dir.join(&n).join(below));
                    (n, size)
                })
                .collect()
        };
        DiskUsage {
            volumes: each(&self.volumes_dir(), "_data"),
            containers: each(&self.containers_dir(), "upper"),
            volume_trash: tree_size(&self.volume_trash_dir()),
            reclaimable: tree_size(&self.root().join("trash/reap"))
                + tree_size(&self.root().join("quarantine")),
            reserve: tree_size(&self.root().join("reserve")),
        }
    }

    /// Bytes of the disk that a container's writable layer takes.
    #[must_use]
    pub fn container_size(&self, id: &str) -> u64 {
        tree_size(&self.container_fs(id).upper)
    }

    /// Bytes of the disk that a volume's content takes.
    #[must_use]
    pub fn volume_size(&self, name: &str) -> u64 {
        tree_size(&self.volume_dir(name))
    }
}

/// Blocks taken by a file or tree, hard links once; not through links or mounts. What can't be read
/// counts nothing.
pub(crate) fn tree_size(path: &Path) -> u64 {
    let Ok(stat) = rustix::fs::lstat(path) else {
        return 0;
    };
    let mut walk = Walk::default();
    walk.count(&stat);
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        && let Ok(dir) = File::open(path)
    {
        walk.below(&OwnedFd::from(dir), 0);
    }
    walk.bytes
}

#[derive(Default)]
struct Walk {
    bytes: u64,
    linked: std::collections::HashSet<u64>,
}

impl Walk {
    fn count(&mut self, stat: &rustix::fs::Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !is_dir && !self.linked.insert(stat.st_ino) {
            return;
        }
        self.bytes += stat.st_blocks.cast_unsigned() * 512;
    }

    fn below(&mut self, dir: &OwnedFd, depth: usize) {
        let Ok(entries) = Dir::read_from(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            self.count(&stat);
            // one descriptor per level: a tree deeper than this is someone's joke
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && depth < 256 {
                let below = rustix::fs::openat2(
                    dir.as_fd(),
                    name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::NO_XDEV | ResolveFlags::BENEATH,
                );
                if let Ok(below) = below {
                    self.below(&below, depth + 1);
                }
            }
        }
    }
}
