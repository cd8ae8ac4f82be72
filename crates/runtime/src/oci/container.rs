//! A container's directory: claimed, opened, looked at, removed.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use serde::Serialize;

use super::error::{errno, io};
use super::process::Identity;
use super::state::{FORMAT, Record, State};
use super::{OciError, Runtime};
use crate::cgroup::Cgroup;

pub(super) const STATE: &str = "state.json";
pub(super) const CONFIG: &str = "config.json";
pub(super) const INIT: &str = "init";
pub(super) const SOCKET: &str = "start.sock";
const STAGED: &str = "state.json.new";

/// source: OCI runtime-spec 1.2 runtime.md "State"; `paused` is runc's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A directory of the runtime's root, open.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Directory {
    fn open(path: PathBuf) -> Result<Option<Self>, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { path, fd })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(errno("open", &path)(e)),
        }
    }

    /// Whether this process holds the lock now. It lasts as long as the descriptor and its copies
    /// in the container's first process, that is until that runs its program.
    fn lock(&self) -> bool {
        flock(&self.fd, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, OciError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(errno("open", &self.path.join(name))(e)),
        };
        let mut bytes = Vec::new();
        fs::File::from(fd)
            .read_to_end(&mut bytes)
            .map_err(io("read", &self.path.join(name)))?;
        Ok(Some(bytes))
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OciError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let put = || -> io::Result<()> {
            sys::fault::point("oci.write")?;
            let fd = openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?;
            fs::File::from(fd).write_all(bytes)
        };
        put().map_err(io("write", &self.path.join(name)))
    }

    /// Whole or not at all, whenever this process is killed.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), OciError> {
        self.remove_file(STAGED)?;
        self.write(STAGED, bytes)?;
        sys::fault::point("oci.rename").map_err(io("replace", &self.path.join(name)))?;
        rustix::fs::renameat(&self.fd, STAGED, &self.fd, name)
            .map_err(errno("replace", &self.path.join(name)))
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<(), OciError> {
        sys::fault::point("oci.unlink").map_err(io("remove", &self.path.join(name)))?;
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(errno("remove", &self.path.join(name))(e)),
        }
    }

    /// Everything in it, the record last: as long as it is there, the cgroups can be found.
    pub(super) fn empty(&self) -> Result<(), OciError> {
        for name in [STAGED, SOCKET, CONFIG, INIT, STATE] {
            self.remove_file(name)?;
        }
        Ok(())
    }

    pub(super) fn remove(&self) -> Result<(), OciError> {
        self.empty()?;
        sys::fault::point("oci.rmdir").map_err(io("remove", &self.path))?;
        match fs::remove_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io("remove", &self.path)),
        }
    }

    /// A path to the socket that is short enough for a socket's address.
    pub(super) fn socket_address(&self) -> Result<rustix::net::SocketAddrUnix, Errno> {
        let fd = self.fd.as_raw_fd();
        rustix::net::SocketAddrUnix::new(format!("/proc/self/fd/{fd}/{SOCKET}"))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A container that is there.
#[derive(Debug)]
pub struct Container {
    id: String,
    pub(super) directory: Directory,
    pub(super) record: Record,
    /// `None`: not complete.
    pub(super) init: Option<Identity>,
}

/// What a directory holds.
enum Found {
    Container(Box<Container>),
    /// Claimed, with no record yet: nothing was made for it.
    Nothing(Directory),
}

pub(super) fn check_id(id: &str) -> Result<(), OciError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id == "." || id == ".." || !id.chars().all(good) {
        return Err(OciError::Id);
    }
    Ok(())
}

fn record_of(directory: &Directory) -> Result<Option<Record>, OciError> {
    let Some(bytes) = directory.read(STATE)? else {
        return Ok(None);
    };
    // cut short: its writer was killed before anything else was made
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
        return Ok(None);
    };
    if record.format != FORMAT {
        return Err(OciError::Invalid {
            what: directory.path.join(STATE).display().to_string(),
            why: format!(
                "it has format {}, this program reads {FORMAT}",
                record.format
            ),
        });
    }
    Ok(Some(record))
}

impl Runtime {
    fn find(&self, id: &str) -> Result<Option<Found>, OciError> {
        check_id(id)?;
        let Some(directory) = Directory::open(self.root.join(id))? else {
            return Ok(None);
        };
        let Some(record) = record_of(&directory)? else {
            return Ok(Some(Found::Nothing(directory)));
        };
        let init = directory.read(INIT)?;
        let init = init.and_then(|b| Identity::from_line(&String::from_utf8_lossy(&b)));
        Ok(Some(Found::Container(Box::new(Container {
            id: id.to_owned(),
            directory,
            record,
            init,
        }))))
    }

    /// The container of that id.
    ///
    /// # Errors
    /// [`OciError::NotFound`], or a directory that can't be read.
    pub fn container(&self, id: &str) -> Result<Container, OciError> {
        match self.find(id) {
            Ok(Some(Found::Container(c))) => Ok(*c),
            // runc says so too of what can't be an id
            Ok(None | Some(Found::Nothing(_))) | Err(OciError::Id) => Err(OciError::NotFound),
            Err(e) => Err(e),
        }
    }

    /// An empty directory for a new container, locked. What a killed `create` left is removed.
    pub(super) fn claim(&self, id: &str) -> Result<Directory, OciError> {
        let path = self.root.join(id);
        let made = sys::fault::point("oci.mkdir").and_then(|()| mkdir(&path));
        let made = match made {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                use std::os::unix::fs::DirBuilderExt;
                let mut all = fs::DirBuilder::new();
                let all = all.recursive(true).mode(0o700);
                all.create(&self.root).map_err(io("make", &self.root))?;
                mkdir(&path)
            }
            other => other,
        };
        let there = match made {
            Ok(()) => false,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => true,
            Err(e) => return Err(io("make", &path)(e)),
        };
        let directory = Directory::open(path)?.ok_or(OciError::Exists)?;
        if !directory.lock() {
            return Err(OciError::Exists);
        }
        if there {
            self.take_over(id, &directory)?;
        }
        Ok(directory)
    }

    fn take_over(&self, id: &str, directory: &Directory) -> Result<(), OciError> {
        match self.find(id)? {
            Some(Found::Container(c)) if c.init.is_some() => Err(OciError::Exists),
            Some(Found::Container(c)) => {
                c.end()?;
                directory.empty()
            }
            Some(Found::Nothing(_)) => directory.empty(),
            None => Err(OciError::Exists),
        }
    }

    /// `delete --force` of what is no container: the directory of a `create` that was killed at once.
    pub(super) fn forget(&self, id: &str) -> Result<(), OciError> {
        match self.find(id)? {
            Some(Found::Nothing(directory)) if directory.lock() => directory.remove(),
            _ => Ok(()),
        }
    }
}

fn mkdir(path: &std::path::Path) -> io::Result<()> {
    Ok(mkdirat(CWD, path, Mode::from_raw_mode(0o700))?)
}

impl Container {
    pub(super) fn new(id: &str, directory: Directory, record: Record) -> Self {
        Self {
            id: id.to_owned(),
            directory,
            record,
            init: None,
        }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is in its life.
    #[must_use]
    pub fn status(&self) -> Status {
        let Some(init) = self.init else {
            // whoever makes it holds the lock
            return if self.directory.lock() {
                Status::Stopped
            } else {
                Status::Creating
            };
        };
        if !init.is_alive() {
            return Status::Stopped;
        }
        let frozen = self.record.cgroup.as_ref().is_some_and(Cgroup::is_frozen);
        if frozen {
            Status::Paused
        } else if self.waits() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// The socket is removed by `start`, which may have been killed before: asked for by connecting.
    pub(super) fn waits(&self) -> bool {
        let there = rustix::fs::accessat(
            &self.directory,
            SOCKET,
            rustix::fs::Access::EXISTS,
            AtFlags::SYMLINK_NOFOLLOW,
        );
        there.is_ok() && self.connect().is_ok()
    }

    /// To the first process that waits for `start`.
    pub(super) fn connect(&self) -> Result<OwnedFd, Errno> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &self.directory.socket_address()?)?;
        Ok(socket)
    }

    /// The first process, if it is alive.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        self.init.and_then(|i| i.open().ok())
    }

    /// The configuration it was made with.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn spec(&self) -> Result<Spec, OciError> {
        let path = self.directory.path.join(CONFIG);
        let bytes = self.directory.read(CONFIG)?;
        let bytes = bytes.ok_or_else(|| OciError::NoSpec(path.clone()))?;
        serde_json::from_slice(&bytes).map_err(|source| OciError::Spec { path, source })
    }

    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        self.record.cgroup.as_ref()
    }

    /// For hooks.
    pub(super) fn brief(&self, status: Status) -> State {
        State {
            oci_version: self.record.oci_version.clone(),
            id: self.id.clone(),
            pid: match (status, self.init) {
                (Status::Stopped, _) | (_, None) => 0,
                (_, Some(init)) => init.pid,
            },
            status,
            bundle: self.record.bundle.clone(),
            rootfs: None,
            created: None,
            annotations: self.record.annotations.clone(),
            owner: None,
        }
    }

    /// For `state`.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            rootfs: Some(self.record.rootfs.clone()),
            created: Some(self.record.created.clone()),
            owner: Some(String::new()),
            ..self.brief(self.status())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "A-b_c+d.e", "..a", "0"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n", "ä", "../x"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
