//! Where a container asks for names: sockets in its namespace that its shim answers.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with};

use crate::netns::{self, NamespaceError};
use crate::nft::{self, Protocol};

/// As Docker's: images and people know it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Connections that wait to be taken.
const BACKLOG: i32 = 16;

/// Why there is no name server in a container.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("make the sockets of the container's name server")]
    Socket(#[source] Errno),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Netlink(#[from] crate::socket::NetlinkError),
}

/// The sockets, for datagrams and for connections, that port 53 of [`ADDRESS`] leads to. The
/// namespace's loopback must be up.
///
/// # Errors
/// The kernel refuses; nothing is left of it then that outlives the namespace.
pub fn open(namespace: BorrowedFd<'_>) -> Result<[OwnedFd; 2], ResolverError> {
    netns::inside(namespace, || {
        sys::fault::point("net.resolver.open").map_err(|_| ResolverError::Socket(Errno::NOBUFS))?;
        let (datagrams, udp) = bound(SocketType::DGRAM)?;
        let (connections, tcp) = bound(SocketType::STREAM)?;
        listen(&connections, BACKLOG).map_err(ResolverError::Socket)?;
        nft::redirect(ADDRESS, [(Protocol::Udp, udp), (Protocol::Tcp, tcp)])?;
        Ok([datagrams, connections])
    })
}

fn bound(kind: SocketType) -> Result<(OwnedFd, u16), ResolverError> {
    let failed = ResolverError::Socket;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None).map_err(failed)?;
    bind(&socket, &SocketAddrV4::new(ADDRESS, 0)).map_err(failed)?;
    let at = getsockname(&socket).map_err(failed)?;
    let at = SocketAddr::try_from(at).map_err(failed)?;
    Ok((socket, at.port()))
}
