//! Mounts that the engine makes before a container and passes to it, for what a path cannot say.
//!
//! ```text
//! image            its layers, stacked, read-only
//! subpath          of a volume or an image: opened beneath it, so that no link leads out
//! volume options   a file system of one's own (NFS, tmpfs, a device): made in the host's network and namespaces
//! --ipc container  the other container's /dev/shm
//! ```
//! All are detached: nothing of them is in the host's mount table, and they go with the container.
//!
//! A volume in memory (`type=tmpfs`) is one for all containers that use it at a time, and is empty when the first one
//! comes: a start takes it from a container that has it, by cloning it from that one's mount namespace. Starts with such a
//! volume take turns, so that two that come together share.

use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerRecord, ErrorKind, MountKind, MountPoint, NamespaceMode};

/// A server or device that does not answer for this long has failed.
const MOUNT_DEADLINE: Duration = Duration::from_secs(30);
const TAKE_DEADLINE: Duration = Duration::from_secs(5);
const SHM: &str = "/dev/shm";
/// source: linux/magic.h
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Where a volume in memory can be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pid: i32,
    start_time: u64,
    destination: String,
}

/// By name of the volume: who got it last.
pub(crate) type InMemory = BTreeMap<String, Peer>;

/// Detached mounts, and where each goes.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) fds: Vec<OwnedFd>,
    destinations: Vec<String>,
}

impl Passed {
    fn push(&mut self, destination: &str, fd: OwnedFd) {
        self.fds.push(fd);
        self.destinations.push(destination.to_owned());
    }

    /// By destination: which of the descriptors it will be, with `first` before them.
    pub(crate) fn indices(&self, first: usize) -> BTreeMap<String, usize> {
        let all = self.destinations.iter().cloned();
        all.zip(first..).collect()
    }
}

/// All of a container's. Blocking.
pub(crate) fn make(
    inner: &Inner,
    record: &ContainerRecord,
    known: Option<&InMemory>,
) -> Result<Passed, Error> {
    let mut passed = Passed::default();
    for point in &record.mounts {
        if let Some(fd) = one(inner, point, known)? {
            passed.push(&point.destination, fd);
        }
    }
    if let NamespaceMode::Container(other) = &record.spec.host.ipc_mode
        && record.mounts.iter().all(|m| m.destination != SHM)
    {
        let view = inner.containers.find(other)?.view.load_full();
        let peer = Peer {
            pid: view.pid,
            start_time: view.record.state.pid_start_time,
            destination: SHM.to_owned(),
        };
        let taken = take(&peer).map_err(Error::io(format!(
            "take /dev/shm of container {}",
            view.name()
        )))?;
        passed.push(SHM, taken);
    }
    Ok(passed)
}

/// `None`: a path says it. Blocking.
pub(crate) fn one(
    inner: &Inner,
    point: &MountPoint,
    known: Option<&InMemory>,
) -> Result<Option<OwnedFd>, Error> {
    let subpath = point.spec.subpath.as_deref().filter(|s| !s.is_empty());
    let whole = match point.kind {
        MountKind::Image => Some(crate::volumes::image_root(inner, &point.name)?),
        MountKind::Volume => volume(inner, point, known)?,
        MountKind::Bind | MountKind::Tmpfs => return Ok(None),
    };
    let Some(subpath) = subpath else {
        return Ok(whole);
    };
    let name = format!("{subpath} of {}", name(point));
    let below = match whole {
        Some(whole) => clone_beneath(whole.as_fd(), subpath),
        None => {
            let source = directory(inner, point)?;
            within(MOUNT_DEADLINE, &name, {
                let subpath = subpath.to_owned();
                move || {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let top = rustix::fs::open(&source, flags, Mode::empty())?;
                    clone_beneath(top.as_fd(), &subpath)
                }
            })
        }
    };
    below.map(Some).map_err(|e| subpath_error(&name, e))
}

/// Whose fault it is that a subpath does not open.
fn subpath_error(name: &str, error: io::Error) -> Error {
    use rustix::io::Errno;
    let number = error.raw_os_error();
    let is = |errno: Errno| number == Some(errno.raw_os_error());
    if is(Errno::INVAL) {
        return Error::unsupported(format!(
            "{name}: this kernel takes no part of a mount that is in no mount table (Linux 6.15 does)"
        ));
    }
    // XDEV: a link leads out
    let asked = [Errno::XDEV, Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ if asked.into_iter().any(is) => ErrorKind::InvalidArgument,
        _ => ErrorKind::Internal,
    };
    Error::caused(kind, format!("open {name}"), error)
}

fn name(point: &MountPoint) -> String {
    match point.kind {
        MountKind::Image => format!("image {}", point.spec.source),
        _ => format!("volume {}", point.name),
    }
}

/// Links may lead around inside, never out.
fn clone_beneath(top: BorrowedFd<'_>, subpath: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let below = openat2(top, subpath, flags, Mode::empty(), resolve)?;
    clone(below.as_fd(), true)
}

fn clone(tree: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(tree, c"", flags)?)
}

// ---- volumes with options

/// What the options `type`, `device` and `o` of the driver `local` come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory of the store's.
    Own,
    /// `o=bind`: a directory of the host's, and whether what is mounted below it comes along.
    Bind {
        device: String,
        recursive: bool,
        read_only: bool,
    },
    FileSystem {
        kind: String,
        device: String,
        options: Vec<String>,
    },
}

impl Kind {
    /// source: docs.docker.com/reference/cli/docker/volume/create; moby volume/local
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Self, Error> {
        let get = |key: &str| options.get(key).map_or("", String::as_str);
        for key in options.keys() {
            if key == "size" {
                return Err(Error::unsupported(
                    "the option size of the volume driver local: quotas of volumes are not built; for a volume in memory give type=tmpfs, device=tmpfs, o=size=100m",
                ));
            }
            if !matches!(key.as_str(), "type" | "device" | "o") {
                return Err(Error::invalid(format!("invalid option: {key:?}")));
            }
        }
        if options.is_empty() {
            return Ok(Self::Own);
        }
        for key in ["type", "device"] {
            if get(key).is_empty() {
                return Err(Error::invalid(format!("missing required option: {key:?}")));
            }
        }
        let all: Vec<&str> = get("o").split(',').filter(|o| !o.is_empty()).collect();
        let device = get("device").to_owned();
        let recursive = all.contains(&"rbind");
        if recursive || all.contains(&"bind") {
            if !device.starts_with('/') {
                return Err(Error::invalid(format!(
                    "a volume bound to {device:?}: the path must be absolute"
                )));
            }
            let other = all
                .iter()
                .find(|o| !matches!(**o, "bind" | "rbind" | "rw" | "ro"));
            if let Some(other) = other {
                return Err(Error::unsupported(format!(
                    "the option {other:?} of a volume that is bound: bind, rbind, ro and rw are built"
                )));
            }
            return Ok(Self::Bind {
                device,
                recursive,
                read_only: all.contains(&"ro"),
            });
        }
        if get("type") == "none" {
            return Err(Error::invalid(
                "a volume of type none needs the option o=bind",
            ));
        }
        Ok(Self::FileSystem {
            kind: get("type").to_owned(),
            device,
            options: all.into_iter().map(str::to_owned).collect(),
        })
    }

    fn is_read_only(&self) -> bool {
        match self {
            Self::Own => false,
            Self::Bind { read_only, .. } => *read_only,
            Self::FileSystem { options, .. } => options.iter().any(|o| o == "ro"),
        }
    }

    /// Whether what is in it is only in memory, once for all who have it mounted.
    fn is_in_memory(&self) -> bool {
        matches!(self, Self::FileSystem { kind, .. } if matches!(kind.as_str(), "tmpfs" | "ramfs"))
    }
}

pub(crate) fn kind_of(inner: &Inner, volume: &str) -> Result<Kind, Error> {
    let list = inner.volumes.load();
    let info = list.iter().find(|v| v.name == volume);
    let none = || Error::not_found(format!("get {volume}: no such volume"));
    Kind::parse(&info.ok_or_else(none)?.options)
}

/// A volume that is kept elsewhere, opened for what the image has there. What is only in memory is empty
/// at each start and gets nothing. Blocking.
pub(crate) fn to_fill(kind: &Kind, volume: &str) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let kind = kind.clone();
    let what = format!("open the volume {volume}");
    let opened = match kind {
        Kind::Own => return Ok(None),
        _ if kind.is_in_memory() || kind.is_read_only() => return Ok(None),
        Kind::Bind { device, .. } => within(MOUNT_DEADLINE, &what, move || {
            Ok(rustix::fs::open(&device, flags, Mode::empty())?)
        }),
        Kind::FileSystem {
            kind,
            device,
            options,
        } => within(MOUNT_DEADLINE, &what, move || {
            let mounted = file_system(&kind, &device, &options)?;
            Ok(openat2(
                &mounted,
                c".",
                flags,
                Mode::empty(),
                ResolveFlags::empty(),
            )?)
        }),
    };
    opened
        .map(Some)
        .map_err(|e| Error::caused(mount_class(&e), what, e))
}

fn mount_class(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::InvalidArgument,
    }
}

/// Whether a start takes part in turns: see [`InMemory`].
pub(crate) fn has_memory(inner: &Inner, record: &ContainerRecord) -> bool {
    in_memory(inner, record).next().is_some()
}

fn in_memory<'a>(
    inner: &'a Inner,
    record: &'a ContainerRecord,
) -> impl Iterator<Item = &'a MountPoint> {
    let volumes = record.mounts.iter();
    volumes.filter(move |m| {
        m.kind == MountKind::Volume && kind_of(inner, &m.name).is_ok_and(|k| k.is_in_memory())
    })
}

/// After a start: the next one takes them from this one.
pub(crate) fn remember(
    inner: &Inner,
    known: &mut InMemory,
    record: &ContainerRecord,
    pid: i32,
    start_time: u64,
) {
    for point in in_memory(inner, record) {
        let peer = Peer {
            pid,
            start_time,
            destination: point.destination.clone(),
        };
        known.insert(point.name.clone(), peer);
    }
}

fn volume(
    inner: &Inner,
    point: &MountPoint,
    known: Option<&InMemory>,
) -> Result<Option<OwnedFd>, Error> {
    let kind = kind_of(inner, &point.name)?;
    let in_memory = kind.is_in_memory();
    let Kind::FileSystem {
        kind,
        device,
        options,
    } = kind
    else {
        return Ok(None);
    };
    if in_memory {
        let subpath = point.spec.subpath.as_deref().unwrap_or_default();
        if !subpath.is_empty() {
            return Err(Error::invalid(format!(
                "the volume {} is in memory and has no subpath {subpath}",
                point.name
            )));
        }
        if let Some(taken) = from_a_peer(inner, &point.name, known) {
            return Ok(Some(taken));
        }
    }
    let what = format!("mount {kind} {device} of the volume {}", point.name);
    let made = within(MOUNT_DEADLINE, &what, move || {
        file_system(&kind, &device, &options)
    });
    made.map(Some)
        .map_err(|e| Error::caused(mount_class(&e), what, e))
}

/// Of those that run, the first that gives it.
fn from_a_peer(inner: &Inner, volume: &str, known: Option<&InMemory>) -> Option<OwnedFd> {
    let last = known.and_then(|k| k.get(volume)).cloned();
    let views = inner.containers.views();
    let running = views.iter().filter(|v| v.pid > 0).flat_map(|v| {
        let mounts = v.record.mounts.iter().filter(|m| m.name == volume);
        mounts.map(|m| Peer {
            pid: v.pid,
            start_time: v.record.state.pid_start_time,
            destination: m.destination.clone(),
        })
    });
    last.into_iter()
        .chain(running)
        .find_map(|peer| match take(&peer) {
            Ok(fd) => Some(fd),
            Err(error) => {
                tracing::debug!(volume, ?peer, %error, "the volume is not there");
                None
            }
        })
}

/// The host's directory that a volume without a file system of its own is.
pub(crate) fn directory(inner: &Inner, point: &MountPoint) -> Result<std::path::PathBuf, Error> {
    Ok(match kind_of(inner, &point.name)? {
        Kind::Bind { device, .. } => device.into(),
        _ => inner.store.volume_dir(&point.name),
    })
}

// ---- making mounts

/// In a thread of its own, which a hang costs.
fn within<T: Send + 'static>(
    deadline: Duration,
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tx, rx) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("mount".to_owned());
    thread
        .stack_size(256 << 10)
        .spawn(move || drop(tx.send(work())))?;
    rx.recv_timeout(deadline).unwrap_or_else(|_| {
        let text = format!("waited {} s to {what}", deadline.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

fn file_system(kind: &str, device: &str, options: &[String]) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // the kernel says in words what it does not like
    let made = configure(fs.as_fd(), kind, device, options);
    made.map_err(|e| {
        let mut said = [0; 512];
        match rustix::io::read(&fs, &mut said[..]) {
            Ok(n) if n > 2 => {
                let text = String::from_utf8_lossy(&said[2..n]);
                io::Error::new(e.kind(), format!("{}: {e}", text.trim_end()))
            }
            _ => e,
        }
    })
}

fn configure(
    fs: BorrowedFd<'_>,
    kind: &str,
    device: &str,
    options: &[String],
) -> io::Result<OwnedFd> {
    fsconfig_set_string(fs, "source", device)?;
    let mut attributes = MountAttrFlags::empty();
    for option in options {
        if let Some((clear, set)) = attribute(option) {
            attributes = attributes & !clear | set;
            // of the file system too: a device that is not to be written isn't
            if option == "ro" {
                fsconfig_set_flag(fs, "ro")?;
            }
            continue;
        }
        match option.split_once('=') {
            Some(("addr", host)) if kind.starts_with("nfs") => {
                fsconfig_set_string(fs, "addr", address(host)?)?;
            }
            Some((key, value)) => fsconfig_set_string(fs, key, value)?,
            None => fsconfig_set_flag(fs, option.as_str())?,
        }
    }
    fsconfig_create(fs)?;
    Ok(fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The kernel takes addresses, people give names.
fn address(host: &str) -> io::Result<String> {
    if host.parse::<std::net::IpAddr>().is_ok() {
        return Ok(host.to_owned());
    }
    let mut found = (host, 0).to_socket_addrs()?;
    let none = || io::Error::other(format!("{host} has no address"));
    found.next().map(|a| a.ip().to_string()).ok_or_else(none)
}

/// What an option clears and sets.
fn attribute(option: &str) -> Option<(MountAttrFlags, MountAttrFlags)> {
    use MountAttrFlags as A;
    let none = A::empty();
    Some(match option {
        "ro" => (A::MOUNT_ATTR_RDONLY, A::MOUNT_ATTR_RDONLY),
        "rw" => (A::MOUNT_ATTR_RDONLY, none),
        "nosuid" => (A::MOUNT_ATTR_NOSUID, A::MOUNT_ATTR_NOSUID),
        "suid" => (A::MOUNT_ATTR_NOSUID, none),
        "nodev" => (A::MOUNT_ATTR_NODEV, A::MOUNT_ATTR_NODEV),
        "dev" => (A::MOUNT_ATTR_NODEV, none),
        "noexec" => (A::MOUNT_ATTR_NOEXEC, A::MOUNT_ATTR_NOEXEC),
        "exec" => (A::MOUNT_ATTR_NOEXEC, none),
        "noatime" => (A::MOUNT_ATTR__ATIME, A::MOUNT_ATTR_NOATIME),
        "strictatime" => (A::MOUNT_ATTR__ATIME, A::MOUNT_ATTR_STRICTATIME),
        "relatime" | "defaults" => (none, none),
        "nodiratime" => (A::MOUNT_ATTR_NODIRATIME, A::MOUNT_ATTR_NODIRATIME),
        "diratime" => (A::MOUNT_ATTR_NODIRATIME, none),
        _ => return None,
    })
}

/// A mount of another container's, cloned from its mount namespace: only there it can be. Nothing of the container is
/// run or believed: the path is opened without links, and only a file system in memory is taken.
fn take(peer: &Peer) -> io::Result<OwnedFd> {
    let peer = peer.clone();
    let what = format!("take {} of another container", peer.destination);
    within(TAKE_DEADLINE, &what, move || {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the container has ended");
        let pid = rustix::process::Pid::from_raw(peer.pid).ok_or_else(gone)?;
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        if crate::procfs::parent_and_start(peer.pid)?.1 != peer.start_time {
            return Err(gone());
        }
        let kinds = |f: rustix::thread::UnshareFlags| i32::try_from(f.bits()).unwrap_or(0);
        sys::process::unshare(kinds(rustix::thread::UnshareFlags::FS))?;
        sys::process::setns(process.as_fd(), kinds(rustix::thread::UnshareFlags::NEWNS))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS;
        let there = openat2(
            CWD,
            Path::new(&peer.destination),
            flags,
            Mode::empty(),
            resolve,
        )?;
        if fstatfs(&there)?.f_type != TMPFS_MAGIC || !is_mount_point(&there)? {
            return Err(io::Error::other(format!(
                "{} is not a file system in memory there",
                peer.destination
            )));
        }
        clone(there.as_fd(), false)
    })
}

/// Not just a directory of whatever is mounted above.
fn is_mount_point(directory: &OwnedFd) -> io::Result<bool> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let stat = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Kind, String> {
        let map = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Kind::parse(&map).map_err(|e| e.to_string())
    }

    #[test]
    fn options_of_volumes() {
        assert_eq!(parse(&[]), Ok(Kind::Own));
        assert_eq!(
            parse(&[("type", "none"), ("o", "bind"), ("device", "/srv")]),
            Ok(Kind::Bind {
                device: "/srv".to_owned(),
                recursive: false,
                read_only: false,
            })
        );
        assert_eq!(
            parse(&[("type", "nfs"), ("o", "addr=1.2.3.4,rw"), ("device", ":/x")]),
            Ok(Kind::FileSystem {
                kind: "nfs".to_owned(),
                device: ":/x".to_owned(),
                options: vec!["addr=1.2.3.4".to_owned(), "rw".to_owned()],
            })
        );
        for (wrong, says) in [
            (&[("type", "nfs")][..], "\"device\""),
            (&[("device", "/x")], "\"type\""),
            (&[("colour", "red")], "\"colour\""),
            (&[("size", "1g")], "size"),
            (&[("type", "none"), ("device", "/x")], "o=bind"),
            (
                &[("type", "none"), ("o", "bind"), ("device", "x")],
                "absolute",
            ),
            (
                &[("type", "none"), ("o", "bind,noexec"), ("device", "/x")],
                "noexec",
            ),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong:?}: {error}");
        }
    }
}
