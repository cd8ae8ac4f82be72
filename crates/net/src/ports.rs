//! Ports of the host: a socket that is bound and never listens keeps a port from every other
//! program, without a process and without taking a packet.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::nft::Protocol;

/// Why a port could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{address}/{protocol} is in use by {holder}")]
    InUse {
        address: SocketAddr,
        protocol: Protocol,
        holder: String,
    },
    #[error("{0} is no address of this host")]
    NotOurs(IpAddr),
    #[error("reserve {address}/{protocol}")]
    Io {
        address: SocketAddr,
        protocol: Protocol,
        #[source]
        source: io::Error,
    },
}

/// Keeps a port; 0: any free one. Absent: the kernel has no such sockets (SCTP), and then nothing
/// else on the host can have the port either.
///
/// # Errors
/// It is another's, whose name is told as far as it can be found.
pub fn reserve(
    protocol: Protocol,
    address: IpAddr,
    port: u16,
) -> Result<Option<(OwnedFd, u16)>, PortError> {
    let wanted = SocketAddr::new(address, port);
    let failed = |e: Errno| match e {
        Errno::ADDRINUSE => PortError::InUse {
            address: wanted,
            protocol,
            holder: holder(protocol, wanted).unwrap_or_else(|| "another program".to_owned()),
        },
        Errno::ADDRNOTAVAIL => PortError::NotOurs(address),
        e => PortError::Io {
            address: wanted,
            protocol,
            source: e.into(),
        },
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = match rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(number)) {
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => {
            return Ok(None);
        }
        other => other.map_err(failed)?,
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).map_err(failed)?;
    }
    if protocol == Protocol::Udp {
        // what comes while the table is away is not to be kept
        sockopt::set_socket_recv_buffer_size(&socket, 0).map_err(failed)?;
    }
    rustix::net::bind(&socket, &wanted).map_err(failed)?;
    let bound = rustix::net::getsockname(&socket).map_err(failed)?;
    let bound = SocketAddr::try_from(bound).map_err(failed)?;
    Ok(Some((socket, bound.port())))
}

/// Has a socket that keeps a port of TCP take connections: those that the table does not lead
/// elsewhere.
///
/// # Errors
/// The kernel refuses.
pub fn listen(socket: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// Takes connections to `::1` at this port. Absent: it is another's there, or there is no IPv6.
#[must_use]
pub fn listen_at_loopback6(port: u16) -> Option<OwnedFd> {
    let (socket, _) = reserve(Protocol::Tcp, Ipv6Addr::LOCALHOST.into(), port).ok()??;
    listen(&socket).ok()?;
    Some(socket)
}

const BACKLOG: i32 = 128;

/// Who has the port: the program's name and process, found by its socket.
fn holder(protocol: Protocol, wanted: SocketAddr) -> Option<String> {
    let files = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Sctp => return None,
    };
    let inode = files.iter().find_map(|file| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok()?;
        let mut lines = text.lines().skip(1);
        lines.find_map(|line| socket_on(line, wanted.port()).map(str::to_owned))
    })?;
    owner(&format!("socket:[{inode}]"))
}

/// The inode of the socket in a line of /proc/net/tcp that has the port for itself.
fn socket_on(line: &str, port: u16) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let remote = fields.next()?;
    let at = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    let unconnected = remote.ends_with(":0000");
    (at == port && unconnected).then(|| fields.nth(6)).flatten()
}

fn owner(link: &str) -> Option<String> {
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(all) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let has = all
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link));
        if has {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAILURES "Stale port or endpoint": who has it is named.
    #[test]
    fn a_port_that_is_taken_names_its_holder() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = other.local_addr().unwrap();
        let refused = reserve(Protocol::Tcp, at.ip(), at.port()).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        assert!(matches!(refused, PortError::InUse { .. }), "{text}");
    }

    #[test]
    fn a_reserved_port_is_nobody_elses_and_takes_nothing() {
        let any = "127.0.0.1".parse().unwrap();
        let (kept, port) = reserve(Protocol::Tcp, any, 0).unwrap().unwrap();
        assert!(std::net::TcpListener::bind((any, port)).is_err());
        assert!(std::net::TcpStream::connect((any, port)).is_err());
        drop(kept);
        assert!(std::net::TcpListener::bind((any, port)).is_ok());
        let foreign = "192.0.2.77".parse().unwrap();
        assert!(matches!(
            reserve(Protocol::Udp, foreign, 0),
            Err(PortError::NotOurs(_))
        ));
    }
}
