//! Sockets to serve on, unix and TCP: bound here, or handed over by the service manager.
//!
//! Who can use the API is root of the host. So what is reached from outside needs a certificate from its
//! clients, always; without, only loopback addresses are served.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chown};
use rustix::net::AddressFamily;
use rustix::process::{Gid, umask};

use crate::config::Host;

/// Of whom dockerd lets in besides root, where the administrator says nothing.
const DEFAULT_GROUP: &str = "docker";

#[derive(Debug)]
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// One bound socket. A path that was bound here is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: Listener,
    /// Empty of TCP, and of sockets without a name.
    pub(crate) path: PathBuf,
    ours: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.ours {
            // gone already: nothing to tidy up
            drop(fs::remove_file(&self.path));
        }
    }
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.listener {
            Listener::Unix(_) => write!(f, "unix://{}", self.path.display()),
            Listener::Tcp(tcp) => match tcp.local_addr() {
                Ok(address) => write!(f, "tcp://{address}"),
                Err(_) => write!(f, "tcp://"),
            },
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("listen on {path}")]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another process answers on {path}; give this engine its own --host")]
    InUse { path: PathBuf },
    #[error("{path} is there and not a socket; remove it, or give another --host")]
    NotASocket { path: PathBuf },
    #[error("the group {0:?} does not exist; create it, or give another --group")]
    NoGroup(String),
    #[error("take the sockets of the service manager")]
    Activation(#[source] io::Error),
    #[error("the service manager passed no socket{}; start it by its socket unit", .0.as_ref().map(|n| format!(" named {n}")).unwrap_or_default())]
    NotActivated(Option<String>),
    #[error("a socket of the service manager is not a listening socket, unix or TCP")]
    WrongKind(#[source] io::Error),
    #[error("listen on tcp://{address}")]
    BindTcp {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "tcp://{0} without --tlsverify makes everybody who reaches it root of this host: give --tlsverify with --tlscacert, --tlscert and --tlskey, or listen on a loopback address"
    )]
    Open(SocketAddr),
}

/// Binds or takes all of them. `verified`: clients of TCP must show a certificate.
pub(crate) fn listen(
    hosts: &[Host],
    group: Option<&str>,
    verified: bool,
) -> Result<Vec<Socket>, ListenError> {
    let gid = match group {
        Some(name) => Some(group_id(name).ok_or_else(|| ListenError::NoGroup(name.to_owned()))?),
        None => group_id(DEFAULT_GROUP),
    };
    let mut handed_over = sys::activation::take().map_err(ListenError::Activation)?;
    let mut out = Vec::new();
    for host in hosts {
        match host {
            Host::Unix(path) => out.push(bind(path, gid)?),
            Host::Tcp(address) => out.extend(bind_tcp(address, verified)?),
            Host::Activated(name) => {
                let before = out.len();
                let (wanted, rest) = handed_over
                    .into_iter()
                    .partition::<Vec<_>, _>(|(n, _)| name.as_ref().is_none_or(|w| w == n));
                handed_over = rest;
                for (_, fd) in wanted {
                    out.push(activated(fd, verified)?);
                }
                if out.len() == before {
                    return Err(ListenError::NotActivated(name.clone()));
                }
            }
        }
    }
    Ok(out)
}

fn activated(fd: OwnedFd, verified: bool) -> Result<Socket, ListenError> {
    let wrong = ListenError::WrongKind;
    let accepts = rustix::net::sockopt::socket_acceptconn(&fd).map_err(|e| wrong(e.into()))?;
    if !accepts {
        return Err(wrong(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    let family = rustix::net::sockopt::socket_domain(&fd).map_err(|e| wrong(e.into()))?;
    if family != AddressFamily::UNIX {
        return tcp_socket(TcpListener::from(fd), verified).map_err(|e| match e {
            ListenError::BindTcp { source, .. } => wrong(source),
            other => other,
        });
    }
    let listener = UnixListener::from(fd);
    let address = listener.local_addr().map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let path = address
        .as_pathname()
        .map(Path::to_owned)
        .unwrap_or_default();
    Ok(Socket {
        listener: Listener::Unix(listener),
        path,
        ours: false,
    })
}

/// At every address that the name has.
fn bind_tcp(address: &str, verified: bool) -> Result<Vec<Socket>, ListenError> {
    let fail = |source| ListenError::BindTcp {
        address: address.to_owned(),
        source,
    };
    let mut out = Vec::new();
    for found in address.to_socket_addrs().map_err(fail)? {
        refuse_open(found, verified)?;
        let family = if found.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        out.push(tcp_socket(bound(found, family).map_err(fail)?, verified)?);
    }
    if out.is_empty() {
        return Err(fail(io::Error::other("it has no address")));
    }
    Ok(out)
}

/// An engine that comes back takes its address at once, also while connections of its last life linger.
fn bound(address: SocketAddr, family: AddressFamily) -> io::Result<TcpListener> {
    use rustix::net::{SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(fd.as_fd(), !address.ip().is_unspecified())?;
    }
    bind(&fd, &address)?;
    listen(&fd, 1024)?;
    Ok(TcpListener::from(fd))
}

fn tcp_socket(listener: TcpListener, verified: bool) -> Result<Socket, ListenError> {
    let fail = |source| ListenError::BindTcp {
        address: String::new(),
        source,
    };
    refuse_open(listener.local_addr().map_err(fail)?, verified)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(Socket {
        listener: Listener::Tcp(listener),
        path: PathBuf::new(),
        ours: false,
    })
}

/// What `host:port` says already, without asking for a name.
pub(crate) fn check_address(address: &str, verified: bool) -> Result<(), ListenError> {
    let known = address.parse();
    known.map_or(Ok(()), |address| refuse_open(address, verified))
}

fn refuse_open(address: SocketAddr, verified: bool) -> Result<(), ListenError> {
    let loopback = address.ip().to_canonical().is_loopback();
    if verified || loopback {
        Ok(())
    } else {
        Err(ListenError::Open(address))
    }
}

fn bind(path: &Path, gid: Option<Gid>) -> Result<Socket, ListenError> {
    let fail = |source| ListenError::Bind {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    remove_stale(path)?;
    // closed to everybody until owner and mode are right; other threads do not exist yet
    let mask = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(mask);
    let listener = bound.map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let socket = Socket {
        listener: Listener::Unix(listener),
        path: path.to_owned(),
        ours: true,
    };
    if gid.is_some() {
        chown(path, None, gid).map_err(|e| fail(e.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(fail)?;
    Ok(socket)
}

/// What a killed engine left behind refuses connections.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let fail = |source| ListenError::Bind {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(fail)
        }
        Err(error) => Err(fail(error)),
    }
}

/// By name or number. `/etc/group` is read here: a static binary must not load modules of the
/// host's C library.
fn group_id(name: &str) -> Option<Gid> {
    if let Ok(number) = name.parse() {
        return Some(Gid::from_raw(number));
    }
    let text = fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok().map(Gid::from_raw))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_taken_over_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(
            path.exists(),
            "std leaves the path behind, as a killed engine does"
        );
        let hosts = [Host::Unix(path.clone())];
        let socket = listen(&hosts, Some("0"), false).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert!(matches!(
            listen(&hosts, Some("0"), false),
            Err(ListenError::InUse { .. })
        ));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(
            listen(&[Host::Unix(path.clone())], Some("0"), false),
            Err(ListenError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn groups() {
        assert_eq!(group_id("root").map(Gid::as_raw), Some(0));
        assert_eq!(group_id("4711").map(Gid::as_raw), Some(4711));
        assert!(matches!(
            listen(&[], Some("no-such-group"), false),
            Err(ListenError::NoGroup(_))
        ));
        assert!(matches!(
            listen(&[Host::Activated(None)], Some("0"), false),
            Err(ListenError::NotActivated(None))
        ));
    }

    #[test]
    fn what_is_reached_from_outside_needs_certificates() {
        let open = |address: &str, verified| {
            let listening = listen(&[Host::Tcp(address.to_owned())], Some("0"), verified);
            listening.map(|all| all.iter().map(Socket::to_string).collect::<Vec<_>>())
        };
        for address in ["0.0.0.0:0", "[::]:0"] {
            let refused = open(address, false).unwrap_err();
            assert!(matches!(refused, ListenError::Open(_)), "{refused}");
            assert_eq!(open(address, true).unwrap().len(), 1);
        }
        for address in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0"] {
            let text = open(address, false).unwrap();
            assert!(text[0].starts_with("tcp://"), "{text:?}");
        }
        let first = listen(&[Host::Tcp("127.0.0.1:0".to_owned())], Some("0"), false).unwrap();
        let address = first[0].to_string();
        let taken = open(address.trim_start_matches("tcp://"), false).unwrap_err();
        assert!(matches!(taken, ListenError::BindTcp { .. }), "{taken}");
    }
}
