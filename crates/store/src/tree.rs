//! Looking at trees of files by descriptor, one name at a time: nothing here follows a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::manifest::Node;
use crate::tar::Time;

/// Extended attributes, names with their namespace.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What `lstat` says, with a whiteout told apart from other devices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) node: Node,
    pub(crate) socket: bool,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) mtime: Time,
    pub(crate) dev: (u32, u32),
    pub(crate) dev_ino: (u64, u64),
    pub(crate) links: u64,
}

pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// A regular file for reading. Not for what may be a fifo or a device.
pub(crate) fn open_file(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    Ok(File::from(rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?))
}

pub(crate) fn read(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    use std::io::Read as _;
    loop {
        match file.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut list = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            list.push(name.to_vec());
        }
    }
    list.sort_unstable();
    Ok(list)
}

pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// `root` with a relative path of bytes.
pub(crate) fn on_disk(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        return root.to_owned();
    }
    root.join(OsStr::from_bytes(path))
}

pub(crate) fn stat(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    let st = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(convert(&st))
}

pub(crate) fn stat_path(root: &Path, path: &[u8]) -> io::Result<Stat> {
    stat(CWD, on_disk(root, path).as_os_str().as_bytes())
}

pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(convert(&rustix::fs::fstat(fd)?))
}

pub(crate) fn convert(st: &rustix::fs::Stat) -> Stat {
    let dev = (rustix::fs::major(st.st_rdev), rustix::fs::minor(st.st_rdev));
    let kind = FileType::from_raw_mode(st.st_mode);
    let node = match kind {
        FileType::Directory => Node::Directory,
        FileType::Symlink => Node::Symlink,
        FileType::CharacterDevice if dev == (0, 0) => Node::Whiteout,
        FileType::CharacterDevice => Node::CharDevice,
        FileType::BlockDevice => Node::BlockDevice,
        FileType::Fifo => Node::Fifo,
        _ => Node::File,
    };
    Stat {
        node,
        socket: kind == FileType::Socket,
        mode: st.st_mode & 0o7777,
        uid: st.st_uid,
        gid: st.st_gid,
        size: u64::try_from(st.st_size).unwrap_or(0),
        blocks: u64::try_from(st.st_blocks).unwrap_or(0),
        mtime: Time {
            sec: st.st_mtime,
            nsec: u32::try_from(st.st_mtime_nsec).unwrap_or(0),
        },
        dev,
        dev_ino: (st.st_dev, st.st_ino),
        links: st.st_nlink,
    }
}

pub(crate) fn exists(root: &Path, path: &[u8]) -> io::Result<bool> {
    match stat_path(root, path) {
        Ok(_) => Ok(true),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

pub(crate) fn read_link(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes())
}

/// A path that names `name` in the directory behind `dir`, for calls that take no descriptor.
pub(crate) fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    on_disk(
        Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())),
        name,
    )
}

/// All extended attributes that belong to the layer, sorted by name. Those that the host's security
/// module puts on files are not part of it.
pub(crate) fn xattrs(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Xattrs> {
    xattrs_by(&proc_path(parent, name), false)
}

/// As [`xattrs`] for an open file or directory.
pub(crate) fn xattrs_of(fd: BorrowedFd<'_>) -> io::Result<Xattrs> {
    xattrs_by(&proc_path(fd, b""), true)
}

fn xattrs_by(path: &Path, follow: bool) -> io::Result<Xattrs> {
    let list_names = |buffer: &mut [u8]| {
        if follow {
            rustix::fs::listxattr(path, buffer)
        } else {
            rustix::fs::llistxattr(path, buffer)
        }
    };
    let get = |key: &[u8], buffer: &mut [u8]| {
        if follow {
            rustix::fs::getxattr(path, key, buffer)
        } else {
            rustix::fs::lgetxattr(path, key, buffer)
        }
    };
    let mut names = vec![0_u8; 1024];
    let len = loop {
        match list_names(&mut names[..]) {
            Ok(n) => break n,
            Err(Errno::RANGE) if names.len() < 1 << 16 => names.resize(1 << 16, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
    };
    let mut list = Vec::new();
    for key in names[..len].split(|b| *b == 0).filter(|k| !k.is_empty()) {
        if is_of_host(key) {
            continue;
        }
        let mut value = vec![0_u8; 256];
        let n = loop {
            match get(key, &mut value[..]) {
                Ok(n) => break Some(n),
                Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
                Err(Errno::NODATA) => break None,
                Err(e) => return Err(e.into()),
            }
        };
        if let Some(n) = n {
            value.truncate(n);
            list.push((key.to_vec(), value));
        }
    }
    list.sort_unstable();
    Ok(list)
}

/// Attributes that come from this host rather than from an archive.
pub(crate) fn is_of_host(name: &[u8]) -> bool {
    name.starts_with(b"security.") && name != b"security.capability"
        || name.starts_with(b"system.nfs")
        || name.starts_with(b"btrfs.")
}

/// Calls `body` with the data of a file and where it lies, leaving out holes.
pub(crate) fn each_segment(
    file: &File,
    buffer: &mut [u8],
    body: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    for (mut at, end) in segments(file)? {
        while at < end {
            let want = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            let n = rustix::io::pread(file, &mut buffer[..want], at)?;
            if n == 0 {
                break;
            }
            body(at, &buffer[..n])?;
            at += n as u64;
        }
    }
    Ok(())
}

/// Where a file has data: start and end of each stretch.
pub(crate) fn segments(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let size = stat_fd(file.as_fd())?.size;
    let mut list = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(n) => n,
            Err(Errno::NXIO) => break,
            // a file system that does not know holes has none
            Err(Errno::INVAL) => {
                list.push((at, size));
                break;
            }
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        list.push((start, end));
        at = end;
    }
    Ok(list)
}
