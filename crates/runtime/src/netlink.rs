//! Moving links of the host into a container's network namespace (`linux.netDevices`).
//!
//! ```text
//! here                                    there (a socket opened in the container's namespace)
//! RTM_GETLINK name -> index
//! RTM_GETADDR      -> lasting, global addresses
//! RTM_SETLINK index, namespace, name  ==>
//!                                         RTM_NEWADDR each
//!                                         RTM_SETLINK up
//! ```
//!
//! source: rtnetlink(7); OCI runtime-spec 1.3 config-linux.md "Network Devices".

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL_CREATE: u16 = 0x600;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NODAD: u32 = 0x02;
const SCOPE_GLOBAL: u8 = 0;
const IFF_UP: u32 = 1;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct ifinfomsg`.
const LINK: usize = 16;
/// `struct ifaddrmsg`.
const ADDR: usize = 8;

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADMSG)
}

fn word(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn half(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

/// A request under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut out = vec![0; 4];
        out.extend(kind.to_ne_bytes());
        out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend([0; 8]);
        out.extend(fixed);
        Self(out)
    }

    fn link(kind: u16, flags: u16, index: u32, up: bool) -> Self {
        let mut fixed = [0; LINK];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        if up {
            fixed[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
            fixed[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        }
        Self::new(kind, flags, &fixed)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Attributes of a message's tail.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

struct Socket(OwnedFd);

impl Socket {
    /// In the network namespace of the calling thread.
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // protocol 0 is NETLINK_ROUTE
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // the kernel answers at once; a lost answer must not hang a start
        let deadline = Some(std::time::Duration::from_secs(5));
        let receive = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&fd, receive, deadline)?;
        Ok(Self(fd))
    }

    /// Sends a request and hands each message of the answer to `each`.
    fn ask(&self, request: Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        rustix::net::send(&self.0, &request.finish(), SendFlags::empty())?;
        let mut buf = vec![0; 64 << 10];
        loop {
            let (n, _) = rustix::net::recv(&self.0, buf.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buf.get(..n).ok_or_else(broken)?;
            while !rest.is_empty() {
                let length = word(rest, 0).ok_or_else(broken)? as usize;
                let kind = half(rest, 4).ok_or_else(broken)?;
                let body = rest.get(HEADER..length).ok_or_else(broken)?;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let errno = word(body, 0).ok_or_else(broken)?.cast_signed();
                        return match errno {
                            0 => Ok(()),
                            e => Err(io::Error::from_raw_os_error(-e)),
                        };
                    }
                    _ => each(kind, body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn index_of(socket: &Socket, name: &CStr) -> io::Result<u32> {
    let request = Request::link(RTM_GETLINK, NLM_F_ACK, 0, false)
        .attribute(IFLA_IFNAME, name.to_bytes_with_nul());
    let mut found = None;
    socket.ask(request, |kind, body| {
        if kind == RTM_NEWLINK {
            found = word(body, 4);
        }
    })?;
    found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// An address as it is given again: the fixed part and its attributes.
struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Addresses with a lifetime, and those of a link's own scope, are the kernel's to make anew.
fn addresses(socket: &Socket, index: u32) -> io::Result<Vec<Address>> {
    let request = Request::new(RTM_GETADDR, NLM_F_DUMP, &[0; ADDR]);
    let mut out = Vec::new();
    socket.ask(request, |kind, body| {
        let here = kind == RTM_NEWADDR && word(body, 4) == Some(index);
        let (Some(fixed), Some(rest)) = (body.get(..ADDR), body.get(ADDR..)) else {
            return;
        };
        let flags = attributes(rest)
            .find(|(k, _)| *k == IFA_FLAGS)
            .and_then(|(_, v)| word(v, 0));
        let lasting = flags.unwrap_or(u32::from(fixed[2])) & IFA_F_PERMANENT != 0;
        if here && lasting && fixed[3] == SCOPE_GLOBAL {
            let kept = [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST];
            out.push(Address {
                family: fixed[0],
                prefix: fixed[1],
                attributes: attributes(rest)
                    .filter(|(k, _)| kept.contains(k))
                    .map(|(k, v)| (k, v.to_vec()))
                    .collect(),
            });
        }
    })?;
    Ok(out)
}

/// The calling thread's network namespace, put back when it goes out of scope.
struct Namespace {
    own: OwnedFd,
}

impl Namespace {
    fn enter(there: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty())?;
        sys::process::setns(there, libc::CLONE_NEWNET)?;
        Ok(Self { own })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // back to where this thread was: it had the right to be there
        let _always = sys::process::setns(self.own.as_fd(), libc::CLONE_NEWNET);
    }
}

/// Moves the link `name` into the namespace `there`, under `rename` where given, with its lasting
/// addresses, and brings it up.
pub(crate) fn move_link(
    name: &CStr,
    rename: Option<&CStr>,
    there: BorrowedFd<'_>,
) -> io::Result<()> {
    let here = Socket::open()?;
    let index = index_of(&here, name)?;
    let kept = addresses(&here, index)?;
    let new = rename.unwrap_or(name);
    let fd = u32::try_from(there.as_raw_fd()).map_err(|_| broken())?;
    let request = Request::link(RTM_NEWLINK, NLM_F_ACK, index, false)
        .attribute(IFLA_NET_NS_FD, &fd.to_ne_bytes())
        .attribute(IFLA_IFNAME, new.to_bytes_with_nul());
    here.ask(request, |_, _| ())?;
    let entered = Namespace::enter(there)?;
    let inside = Socket::open();
    drop(entered);
    let inside = inside?;
    // the number may be another there; a name made of a template certainly is
    let index =
        index_of(&inside, new).or_else(|e| if rename.is_some() { Ok(index) } else { Err(e) })?;
    for a in kept {
        let mut fixed = [a.family, a.prefix, 0, SCOPE_GLOBAL, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let flags = NLM_F_ACK | NLM_F_EXCL_CREATE;
        let mut request = Request::new(RTM_NEWADDR, flags, &fixed)
            .attribute(IFA_FLAGS, &(IFA_F_PERMANENT | IFA_F_NODAD).to_ne_bytes());
        for (kind, value) in &a.attributes {
            request = request.attribute(*kind, value);
        }
        inside.ask(request, |_, _| ())?;
    }
    inside.ask(
        Request::link(RTM_NEWLINK, NLM_F_ACK, index, true),
        |_, _| (),
    )
}
