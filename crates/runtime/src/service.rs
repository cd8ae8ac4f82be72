//! What the parent does for a child that asks: id maps, the host's links, the seccomp agent; and,
//! before there is a child, trees whose ids are mapped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
use sys::mount::Attr;

use crate::ops::{MAP_HELPERS, MAP_SELF, MappedTree};
use crate::{Detail, EncodedPlan, StepError, netlink};

/// How long newuidmap may take, and an agent to take its listener.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the two setuid helpers are looked for: not in PATH, which a user chooses.
const HELPERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"];

/// The parts of a plan that the parent needs as long as the child isn't running its program.
#[derive(Debug, Default)]
pub(crate) struct Service {
    maps: Option<(CString, CString)>,
    map_by: u32,
    map_step: u32,
    devices: Vec<(CString, Option<CString>)>,
    agent: Option<(PathBuf, Vec<Vec<u8>>)>,
    agent_step: u32,
}

fn failed(step: u32) -> impl Fn(io::Error) -> StepError {
    move |e| StepError {
        step,
        errno: e.raw_os_error().unwrap_or(libc::EIO),
        detail: Detail::Parent,
    }
}

fn path_of(c: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(c.to_bytes()))
}

impl Service {
    pub(crate) fn of(plan: &EncodedPlan<'_>) -> Self {
        let h = &plan.header;
        let maps = h.uid_map.zip(h.gid_map);
        let agent = h.agent.map(|path| {
            let told = h.agent_told.iter().map(<[u8]>::to_vec).collect();
            (path_of(path).to_owned(), told)
        });
        Self {
            maps: maps.map(|(u, g)| (u.to_owned(), g.to_owned())),
            map_by: h.map_by,
            map_step: h.map_step,
            devices: h
                .net_devices
                .iter()
                .map(|d| (d.name.to_owned(), d.rename.map(CStr::to_owned)))
                .collect(),
            agent,
            agent_step: h.agent_step,
        }
    }

    /// Writes the maps of the user namespace that `pid` is in.
    pub(crate) fn map_ids(&self, pid: i32) -> Result<(), StepError> {
        let Some((uids, gids)) = &self.maps else {
            return Ok(());
        };
        match self.map_by {
            MAP_SELF => {
                write_proc(pid, "setgroups", b"deny").and_then(|()| write_maps(pid, uids, gids))
            }
            MAP_HELPERS => {
                helper("newuidmap", pid, uids).and_then(|()| helper("newgidmap", pid, gids))
            }
            _ => write_maps(pid, uids, gids),
        }
        .map_err(failed(self.map_step))
    }

    /// Moves the plan's links into the namespace.
    pub(crate) fn move_devices(&self, there: BorrowedFd<'_>) -> io::Result<()> {
        for (name, rename) in &self.devices {
            sys::fault::point("runtime.netdevice")?;
            netlink::move_link(name, rename.as_deref(), there)?;
        }
        Ok(())
    }

    /// Tells the agent of the process and gives it the filter's listener.
    pub(crate) fn hand_over(&self, pid: i32, listener: BorrowedFd<'_>) -> Result<(), StepError> {
        let Some((path, parts)) = &self.agent else {
            return Err(failed(self.agent_step)(io::ErrorKind::InvalidData.into()));
        };
        let told = parts.join(pid.to_string().as_bytes());
        send_to_agent(path, &told, listener).map_err(failed(self.agent_step))
    }
}

fn send_to_agent(path: &Path, told: &[u8], listener: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let kind = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
    // bounds connect too, when the agent accepts nothing
    let send = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::set_socket_timeout(&socket, send, Some(DEADLINE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [listener];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL;
    let mut sent = rustix::net::sendmsg(&socket, &[IoSlice::new(told)], &mut control, flags)?;
    while sent < told.len() {
        sent += rustix::net::send(&socket, &told[sent..], flags)?;
    }
    Ok(())
}

fn write_proc(pid: i32, name: &str, value: &[u8]) -> io::Result<()> {
    let path = format!("/proc/{pid}/{name}");
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(value)
}

fn write_maps(pid: i32, uids: &CStr, gids: &CStr) -> io::Result<()> {
    write_proc(pid, "uid_map", uids.to_bytes())?;
    write_proc(pid, "gid_map", gids.to_bytes())
}

/// `newuidmap <pid> <inside> <outside> <count> ...`: checks the ranges against /etc/subuid.
fn helper(name: &str, pid: i32, map: &CStr) -> io::Result<()> {
    let mut argv = vec![CString::new(name)?, CString::new(pid.to_string())?];
    for word in map.to_bytes().split(u8::is_ascii_whitespace) {
        argv.push(CString::new(word)?);
    }
    let argv: Vec<&CStr> = argv.iter().map(CString::as_c_str).collect();
    for dir in HELPERS {
        let path = CString::new(format!("{dir}/{name}"))?;
        match sys::helper::run(&path, &argv, DEADLINE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    Err(io::ErrorKind::NotFound.into())
        .map_err(|_: io::Error| io::Error::from_raw_os_error(libc::ENOENT))
}

/// The plan's trees with mapped ids, in order.
pub(crate) fn mapped_trees(plan: &EncodedPlan<'_>) -> Result<Vec<OwnedFd>, StepError> {
    let mut namespaces = HashMap::new();
    let trees = plan.header.mapped_trees.iter();
    trees
        .map(|t| mapped_tree(&t, &mut namespaces))
        .collect::<Result<_, _>>()
}

type Maps<'a> = (Option<&'a CStr>, &'a CStr, &'a CStr);

fn mapped_tree<'a>(
    t: &MappedTree<'a>,
    namespaces: &mut HashMap<Maps<'a>, OwnedFd>,
) -> Result<OwnedFd, StepError> {
    let at = |detail| {
        move |e: io::Error| StepError {
            detail,
            ..failed(t.step)(e)
        }
    };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if t.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, t.source, flags).map_err(|e| at(Detail::Source)(e.into()))?;
    let namespace = match namespaces.entry((t.namespace, t.uid_map, t.gid_map)) {
        Entry::Occupied(made) => made.into_mut(),
        Entry::Vacant(place) => place.insert(user_namespace(t).map_err(at(Detail::Parent))?),
    };
    let attr = Attr {
        set: sys::mount::IDMAP,
        userns_fd: sys::mount::number(namespace.as_fd()),
        ..Attr::default()
    };
    sys::mount::setattr(tree.as_fd(), t.map_recursive, &attr).map_err(at(Detail::IdMap))?;
    Ok(tree)
}

/// A user namespace with the maps, held by its descriptor alone: the process it was made with is
/// gone before this returns.
fn user_namespace(t: &MappedTree<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    if let Some(path) = t.namespace {
        return Ok(openat(CWD, path, flags, Mode::empty())?);
    }
    let (ours, theirs) = sys::fdpass::pair()?;
    let ours_in_child = ours.as_fd();
    let child = sys::clone::clone3(libc::CLONE_NEWUSER as u64, None, || {
        sys::process::close_copy(ours_in_child);
        // until the parent has what it wants, or is gone itself
        let _the_end = sys::fdpass::recv(theirs.as_fd(), &mut [0], false);
        sys::process::exit(0)
    })?;
    drop(theirs);
    let path = format!("/proc/{}/ns/user", child.pid);
    let made = write_maps(child.pid, t.uid_map, t.gid_map)
        .and_then(|()| Ok(openat(CWD, path, flags, Mode::empty())?));
    drop(ours);
    let pidfd = rustix::process::WaitId::PidFd(child.pidfd.as_fd());
    let exited = rustix::process::WaitIdOptions::EXITED;
    let _reaped_elsewhere = rustix::process::waitid(pidfd, exited);
    made
}
