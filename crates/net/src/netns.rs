//! Network namespaces. One exists as long as a process is in it or a descriptor of it is open: it is
//! given no name and no mount, so none is left when its holders die.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::socket::{NetlinkError, Socket};

/// Why a namespace could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> NamespaceError {
    let what = what.into();
    move |source| NamespaceError::Io { what, source }
}

/// A network namespace and a socket to the kernel in it.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    pub(crate) route: Socket,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Namespace {
    /// A new one, with a loopback that is down. Interfaces that come later have no IPv6 until
    /// [`Namespace::allow_ipv6`].
    ///
    /// # Errors
    /// No room for another namespace or thread.
    pub fn create() -> Result<Self, NamespaceError> {
        sys::fault::point("net.namespace.create").map_err(failed("make a network namespace"))?;
        elsewhere(|| {
            sys::process::unshare(libc_newnet()).map_err(failed("make a network namespace"))?;
            set("conf/default/disable_ipv6", "1");
            Self::of_this_thread()
        })
    }

    /// That of a process.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of_process(pid: i32) -> Result<Self, NamespaceError> {
        let path = format!("/proc/{pid}/ns/net");
        let fd = open(Path::new(&path)).map_err(failed(format!("open {path}")))?;
        Self::of(fd)
    }

    /// # Errors
    /// The descriptor is of no network namespace.
    pub fn of(fd: OwnedFd) -> Result<Self, NamespaceError> {
        inside(fd.as_fd(), Self::of_this_thread)
    }

    fn of_this_thread() -> Result<Self, NamespaceError> {
        let fd = open(Path::new("/proc/thread-self/ns/net"));
        Ok(Self {
            fd: fd.map_err(failed("open the network namespace"))?,
            route: Socket::route()?,
        })
    }

    /// The descriptor alone.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// # Errors
    /// The interface is not there.
    pub fn allow_ipv6(&self, interface: &str) -> Result<(), NamespaceError> {
        let name = format!("net.ipv6.conf.{interface}.disable_ipv6");
        inside(self.fd.as_fd(), || {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            std::fs::write(&path, "0").map_err(failed(format!("set {name}")))?;
            // neighbours may hold another for its address
            set(&format!("conf/{interface}/ndisc_notify"), "1");
            Ok(())
        })
    }
}

/// Below this are the settings of one interface.
const SETTINGS: &str = "/proc/sys/net";

impl Namespace {
    /// Sets what the kernel does at an interface; `IFNAME` in a setting's name is this one.
    ///
    /// # Errors
    /// There is no such setting, or not with that value.
    pub(crate) fn set(
        &self,
        interface: &str,
        settings: &[(String, String)],
    ) -> Result<(), NamespaceError> {
        if settings.is_empty() {
            return Ok(());
        }
        inside(self.fd.as_fd(), || {
            for (name, value) in settings {
                let parts = name.trim_start_matches("net.").split('.');
                let parts = parts.map(|p| if p == "IFNAME" { interface } else { p });
                let mut path = SETTINGS.to_owned();
                for part in parts {
                    path.push('/');
                    path.push_str(part);
                }
                std::fs::write(&path, value).map_err(failed(format!("set {name} to {value}")))?;
            }
            Ok(())
        })
    }
}

fn libc_newnet() -> i32 {
    i32::try_from(rustix::thread::UnshareFlags::NEWNET.bits()).unwrap_or(0)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// A kernel without IPv6 has no such file.
fn set(name: &str, value: &str) {
    drop(std::fs::write(format!("/proc/sys/net/ipv6/{name}"), value));
}

/// Runs in a thread of its own, which ends with it: its namespace is nobody else's.
fn elsewhere<T: Send, E: Send + From<NamespaceError>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .map_err(|e| E::from(failed("start a thread")(e)))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(failed("run a thread")(io::Error::other("it panicked")).into()))
    })
}

/// Runs `work` in a network namespace.
///
/// # Errors
/// Those of `work`, and that the namespace cannot be entered.
pub fn inside<T: Send, E: Send + From<NamespaceError>>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    elsewhere(|| {
        sys::process::setns(namespace, libc_newnet())
            .map_err(failed("enter the network namespace"))?;
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_gone_with_its_descriptor() {
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let ns = Namespace::create().unwrap();
        let links = ns.route.links().unwrap();
        assert!(links.iter().any(|l| l.name == "lo" && !l.up), "{links:?}");
        let there = inside(ns.as_fd(), || {
            std::fs::read_link("/proc/thread-self/ns/net").map_err(failed("read"))
        });
        assert_ne!(there.unwrap(), own);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
    }
}
