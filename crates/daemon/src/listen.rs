//! Unix sockets to serve on: bound here, or handed over by the service manager.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chown};
use rustix::process::{Gid, umask};

use crate::config::Host;

/// Of whom dockerd lets in besides root, where the administrator says nothing.
const DEFAULT_GROUP: &str = "docker";

/// One bound socket. A path that was bound here is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
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
    #[error("a socket of the service manager is not a listening unix socket")]
    WrongKind(#[source] io::Error),
}

/// Binds or takes all of them.
pub(crate) fn listen(hosts: &[Host], group: Option<&str>) -> Result<Vec<Socket>, ListenError> {
    let gid = match group {
        Some(name) => Some(group_id(name).ok_or_else(|| ListenError::NoGroup(name.to_owned()))?),
        None => group_id(DEFAULT_GROUP),
    };
    let mut handed_over = sys::activation::take().map_err(ListenError::Activation)?;
    let mut out = Vec::new();
    for host in hosts {
        match host {
            Host::Unix(path) => out.push(bind(path, gid)?),
            Host::Activated(name) => {
                let before = out.len();
                let (wanted, rest) = handed_over
                    .into_iter()
                    .partition::<Vec<_>, _>(|(n, _)| name.as_ref().is_none_or(|w| w == n));
                handed_over = rest;
                for (_, fd) in wanted {
                    out.push(activated(UnixListener::from(fd))?);
                }
                if out.len() == before {
                    return Err(ListenError::NotActivated(name.clone()));
                }
            }
        }
    }
    Ok(out)
}

fn activated(listener: UnixListener) -> Result<Socket, ListenError> {
    let address = listener.local_addr().map_err(ListenError::WrongKind)?;
    listener
        .set_nonblocking(true)
        .map_err(ListenError::WrongKind)?;
    let path = address
        .as_pathname()
        .map(Path::to_owned)
        .unwrap_or_default();
    Ok(Socket {
        listener,
        path,
        ours: false,
    })
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
    let socket = Socket {
        listener,
        path: path.to_owned(),
        ours: true,
    };
    if gid.is_some() {
        chown(path, None, gid).map_err(|e| fail(e.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(fail)?;
    socket.listener.set_nonblocking(true).map_err(fail)?;
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
        let socket = listen(&hosts, Some("0")).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert!(matches!(
            listen(&hosts, Some("0")),
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
            listen(&[Host::Unix(path.clone())], Some("0")),
            Err(ListenError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn groups() {
        assert_eq!(group_id("root").map(Gid::as_raw), Some(0));
        assert_eq!(group_id("4711").map(Gid::as_raw), Some(4711));
        assert!(matches!(
            listen(&[], Some("no-such-group")),
            Err(ListenError::NoGroup(_))
        ));
        assert!(matches!(
            listen(&[Host::Activated(None)], Some("0")),
            Err(ListenError::NotActivated(None))
        ));
    }
}
