//! The one interface that every durable effect of the store passes.
//!
//! Each function names a fault point just before its effect, so that a test can end the process or
//! fail the effect at every step, and each error carries the path it is about. What is written here
//! without `durable` in its name is durable only after a later [`syncfs`], or never.
//!
//! Order of every durable change: write in staging -> sync -> rename -> record commit -> answer.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use sys::fault::point;

/// An effect on disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct DiskError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// Whether deleting something, or the reserve, could help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        out_of_space(&self.source)
    }
}

pub(crate) fn out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

pub(crate) trait Context<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|e| DiskError {
            action,
            path: path.to_owned(),
            source: e.into(),
        })
    }
}

pub(crate) type Result<T, E = DiskError> = std::result::Result<T, E>;

/// Makes one directory; that it exists already is an error.
pub(crate) fn create_dir(path: &Path, mode: u32) -> Result<()> {
    let make = || {
        point("store.mkdir")?;
        std::fs::DirBuilder::new().mode(mode).create(path)
    };
    make().on("make directory", path)
}

/// Makes one directory unless it is there; the mode is set in either case.
pub(crate) fn ensure_dir(path: &Path, mode: u32) -> Result<()> {
    match create_dir(path, mode) {
        Err(e) if e.source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }?;
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).on("set the mode of", path)
}

/// Makes an empty file unless something is there.
pub(crate) fn ensure_empty(path: &Path, mode: u32) -> Result<()> {
    let make = || {
        point("store.mktarget")?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode).open(path)
    };
    match make() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop).on("make", path),
    }
}

/// Replaces a file by rename, without waiting for the disk: after a power cut either content, or
/// (not on ext4) an empty file, may be found.
pub(crate) fn write_lazy(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let tmp = temporary(path);
    let result = write_tmp(&tmp, bytes, mode, false).and_then(|()| rename(&tmp, path));
    if result.is_err() {
        discard(&tmp);
    }
    result
}

/// Replaces a file so that it is whole on disk when this returns: write, fsync, rename, fsync of
/// the directory.
pub(crate) fn write_durable(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let tmp = temporary(path);
    let result = write_tmp(&tmp, bytes, mode, true).and_then(|()| rename(&tmp, path));
    if result.is_err() {
        discard(&tmp);
    }
    result.and_then(|()| sync_dir(parent(path)))
}

fn write_tmp(tmp: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<()> {
    let open = || {
        point("store.write")?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc_nofollow())
            .open(tmp)?;
        file.write_all(bytes)?;
        Ok::<_, io::Error>(file)
    };
    let file = open().on("write", tmp)?;
    if durable {
        sync_file(&file, tmp)?;
    }
    Ok(())
}

fn libc_nofollow() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Removes a leftover that nobody will miss; a failure only leaves it for the next start.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "a temporary file stays until the next start");
    }
}

/// Waits until the file's content and length are on disk.
pub(crate) fn sync_file(file: &File, path: &Path) -> Result<()> {
    let sync = || {
        point("store.fsync")?;
        file.sync_all()
    };
    sync().on("sync", path)
}

/// Waits until the directory's entries are on disk.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let sync = || {
        point("store.fsync-dir")?;
        File::open(path)?.sync_all()
    };
    sync().on("sync directory", path)
}

/// Waits until everything written to the file system of this descriptor is on disk.
pub(crate) fn syncfs(fd: impl AsFd, path: &Path) -> Result<()> {
    let sync = || {
        point("store.syncfs")?;
        rustix::fs::syncfs(fd)?;
        Ok::<_, io::Error>(())
    };
    sync().on("sync the file system of", path)
}

/// Replaces `to` if it is there and can be replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    let go = || {
        point("store.rename")?;
        std::fs::rename(from, to)
    };
    go().on("rename to", to)
}

/// Never replaces: that `to` exists is an error.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let go = || {
        point("store.rename")?;
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // file systems without the flag (some network and stacked ones)
            Err(rustix::io::Errno::INVAL) if !to.exists() => std::fs::rename(from, to),
            other => Ok(other?),
        }
    };
    go().on("rename to", to)
}

/// Removes one file; that it is gone already is not an error.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    let go = || {
        point("store.unlink")?;
        match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            other => Ok::<_, io::Error>(other?),
        }
    };
    go().on("remove", path)
}

/// The bytes of a file, or nothing where there is none.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).on("read", path),
    }
}

/// The names in a directory; nothing where there is no such directory.
pub(crate) fn names(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let list = || {
        std::fs::read_dir(path)?
            .map(|e| Ok(e?.file_name()))
            .collect()
    };
    match list() {
        Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let mut names: Vec<std::ffi::OsString> = other.on("list", path)?;
            names.sort();
            Ok(names)
        }
    }
}
