//! Ballast: a file whose blocks are given back when the disk is full, so that deleting stays
//! possible, and taken again when there is room.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use sys::fault::point;

use crate::Store;
use crate::disk::{self, Context, DiskError};

/// Where [`crate::OpenOptions::reserve`] says nothing.
pub(crate) const DEFAULT: u64 = 64 << 20;

/// Work was refused before it began: the disk has no room for it.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error(
        "the disk has room for {available} bytes and {needed} are needed: remove images, containers or volumes, or empty the trash"
    )]
    NoSpace { needed: u64, available: u64 },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Store {
    /// Refuses work that the disk can't hold beside the reserve, before it begins.
    ///
    /// # Errors
    /// Not enough room, or the file system can't be asked.
    pub fn admit(&self, needed: u64) -> Result<(), AdmitError> {
        let available = free(self.root())?.saturating_sub(MARGIN);
        if needed > available {
            return Err(AdmitError::NoSpace { needed, available });
        }
        Ok(())
    }

    /// Runs something that frees space. Where the disk is full, releases the reserve and runs it
    /// once more.
    pub(crate) fn freeing<T, E>(
        &self,
        is_full: impl Fn(&E) -> bool,
        mut body: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        match body() {
            Err(error) if is_full(&error) && self.release_reserve() => body(),
            other => other,
        }
    }

    /// Gives the ballast back to the file system. Whether there was any.
    pub(crate) fn release_reserve(&self) -> bool {
        release(self.root())
    }

    /// Takes the ballast again where there is plenty of room.
    pub(crate) fn restore_reserve(&self) -> Result<(), DiskError> {
        fill(self.root(), self.reserve_size())
    }
}

/// Left free besides the ballast, for the database and the file system's own needs.
const MARGIN: u64 = 4 << 20;

fn free(root: &Path) -> Result<u64, DiskError> {
    let fs = rustix::fs::statvfs(root).on("ask for the free space of", root)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

pub(crate) fn release(root: &Path) -> bool {
    let path = root.join("reserve");
    let go = || {
        point("store.reserve.release")?;
        std::fs::remove_file(&path)?;
        // file systems hand freed blocks out again only once the removal is on disk
        rustix::fs::syncfs(std::fs::File::open(root)?)?;
        Ok::<_, std::io::Error>(())
    };
    match go() {
        Ok(()) => {
            tracing::warn!("the disk is full: the reserve is released; remove something");
            true
        }
        Err(_) => false,
    }
}

/// Takes the ballast where there is none and three times as much is free; at most a hundredth of
/// the file system.
pub(crate) fn fill(root: &Path, wanted: u64) -> Result<(), DiskError> {
    let path = root.join("reserve");
    let fs = rustix::fs::statvfs(root).on("ask for the size of", root)?;
    let total = fs.f_blocks.saturating_mul(fs.f_frsize);
    let size = wanted.min(total / 100);
    if size == 0 || path.exists() || free(root)? < size.saturating_mul(3) {
        return Ok(());
    }
    let tmp = root.join("reserve.tmp");
    let make = || {
        point("store.reserve.fill")?;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&tmp)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?;
        std::fs::rename(&tmp, &path)
    };
    let made: std::io::Result<()> = make();
    if made.is_err() {
        disk::discard(&tmp);
    }
    made.on("reserve space in", &path)
}
