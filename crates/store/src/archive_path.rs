//! Copying files into and out of a root directory that somebody else may be changing: `cp`, `export`.
//!
//! Every path is resolved by `openat2(RESOLVE_IN_ROOT)` on the root's descriptor: a symbolic link
//! that a container changes while we look can lead nowhere but inside its own root.

mod pack;
mod place;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::manifest::Node;
use crate::tar::TarError;
use crate::tree;
use crate::unpack::UnpackError;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum ArchivePathError {
    #[error("no such file or directory: {0}")]
    NotFound(String),
    #[error("not a directory: {0}")]
    NotADirectory(String),
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("write the archive")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// What is at a path, as Docker's `HEAD /archive` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Last part of the path asked for.
    pub name: String,
    pub size: u64,
    /// `st_mode`.
    pub mode: u32,
    pub mtime: crate::tar::Time,
    /// Absolute in the container; empty unless it is a symbolic link.
    pub link_target: String,
}

/// How a tree is packed.
#[derive(Debug, Clone, Default)]
pub struct TarOptions {
    /// Name of the top entry in the archive; the last part of the path where absent. Empty: the
    /// entries have no common directory, as `export` writes them.
    pub rename: Option<String>,
    /// Follow a symbolic link at the end of the path.
    pub follow: bool,
    /// Stay on the root's own file system: mounts below are packed as empty directories.
    pub one_file_system: bool,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Default)]
pub struct UntarOptions {
    /// Refuse to replace a directory by something else and the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Everything belongs to this user and group; otherwise to those in the archive.
    pub owner: Option<(u32, u32)>,
    /// Nothing of it has to last: nothing is synced.
    pub throwaway: bool,
}

/// What is at `path` below `root`. A symbolic link at its end is not followed, unless a `/` comes
/// after it.
///
/// # Errors
/// Nothing is there, or it can't be reached.
pub fn stat_path(root: BorrowedFd<'_>, path: &str) -> Result<PathStat, ArchivePathError> {
    let fd = open_path(root, path, ends_in_dir(path))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| io_error("look at", path, e))?;
    let plain = tree::convert(&stat);
    let link_target = if plain.node == Node::Symlink {
        let target = rustix::fs::readlinkat(&fd, "", Vec::new())
            .map_err(|e| io_error("read the link", path, e))?;
        absolute_target(path, &target.to_string_lossy())
    } else {
        String::new()
    };
    Ok(PathStat {
        name: base_name(path).to_owned(),
        size: plain.size,
        mode: stat.st_mode,
        mtime: plain.mtime,
        link_target,
    })
}

/// Packs what is at `path` below `root`.
///
/// # Errors
/// Nothing is there, it can't be read, or the sink refuses.
pub fn tar_tree(
    root: BorrowedFd<'_>,
    path: &str,
    out: &mut dyn Write,
    options: &TarOptions,
) -> Result<(), ArchivePathError> {
    let top = open_path(root, path, options.follow || ends_in_dir(path))?;
    let name = match &options.rename {
        Some(name) => name.clone(),
        None => base_name(path).to_owned(),
    };
    pack::pack(&top, path, name.as_bytes(), out, options.one_file_system)
}

/// Unpacks an archive (plain, gzip or zstd) into the directory at `path` below `root`. What is
/// there is replaced, as `docker cp` does. Durable when it returns.
///
/// # Errors
/// The directory isn't there, the archive is refused, or the disk refuses. What was unpacked before
/// stays.
pub fn untar_into(
    root: BorrowedFd<'_>,
    path: &str,
    tar: &mut dyn Read,
    options: &UntarOptions,
) -> Result<(), ArchivePathError> {
    place::place(root, path, tar, options)
}

/// Resolves a path inside the root whatever happens to it meanwhile. The descriptor can only be
/// looked at (`O_PATH`).
fn open_path(root: BorrowedFd<'_>, path: &str, follow: bool) -> Result<OwnedFd, ArchivePathError> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    if ends_in_dir(path) {
        flags |= OFlags::DIRECTORY;
    }
    let wanted = if path.is_empty() { "." } else { path };
    open_in_root(root, wanted.as_bytes(), flags).map_err(|e| match e {
        Errno::NOENT => ArchivePathError::NotFound(path.to_owned()),
        Errno::NOTDIR => ArchivePathError::NotADirectory(path.to_owned()),
        e => io_error("open", path, e),
    })
}

/// `openat2(RESOLVE_IN_ROOT)`; where the kernel has none (before 5.6), a walk by descriptors that
/// never leaves the root either.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..128 {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // something on the way was renamed while we looked
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS) => return walk_in_root(root, path, flags),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Each directory on the way stays open, `..` goes back to one of them: no step can lead out.
fn walk_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut open: Vec<OwnedFd> = vec![rustix::fs::openat(root, ".", step, Mode::empty())?];
    let mut todo: Vec<Vec<u8>> = parts_reversed(path);
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == b".." {
            if open.len() > 1 {
                open.pop();
            }
            continue;
        }
        let here = open.last().expect("the root is never closed");
        let fd = rustix::fs::openat(here, part.as_slice(), step, Mode::empty())?;
        let node = tree::convert(&rustix::fs::fstat(&fd)?).node;
        let last = todo.is_empty();
        if node == Node::Symlink && !(last && flags.contains(OFlags::NOFOLLOW)) {
            links += 1;
            if links > 40 {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes();
            if target.starts_with(b"/") {
                open.truncate(1);
            }
            todo.extend(parts_reversed(&target));
            continue;
        }
        if last && flags.contains(OFlags::DIRECTORY) && node != Node::Directory {
            return Err(Errno::NOTDIR);
        }
        open.push(fd);
    }
    Ok(open.pop().expect("the root is never closed"))
}

fn parts_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}

/// Opens for reading what an `O_PATH` descriptor stands for. What was looked at by the descriptor
/// is what is opened: nobody can put a fifo or a device in its place.
fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        rustix::fs::CWD,
        tree::proc_path(fd.as_fd(), b""),
        flags | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
}

fn ends_in_dir(path: &str) -> bool {
    path.is_empty() || path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// The last part of a path as Docker names entries by it: `.` for `dir/.`, `/` for the root.
fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

fn absolute_target(path: &str, target: &str) -> String {
    let dir = path
        .trim_end_matches('/')
        .rsplit_once('/')
        .map_or("", |p| p.0);
    let whole = if target.starts_with('/') {
        target.to_owned()
    } else {
        format!("{dir}/{target}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

fn io_error(action: &'static str, path: &str, e: impl Into<io::Error>) -> ArchivePathError {
    ArchivePathError::Io {
        action,
        path: path.to_owned(),
        source: e.into(),
    }
}
