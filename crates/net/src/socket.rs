//! Netlink sockets, synchronous: the kernel has done what it was asked, and has said so, when
//! `send` returns.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::message::{Batch, Message, attribute, messages, text, u32_at};

/// Room for a batch of everything: some thousand published ports.
const SEND_BUFFER: usize = 8 << 20;
const RECEIVE_BUFFER: usize = 64 << 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Of an answer with words in it; of one that does not repeat the request.
const ACK_TLVS: u16 = 0x200;
const CAPPED: u16 = 0x100;
const ERROR_TEXT: u16 = 1;

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("send to the kernel over netlink")]
    Send(#[source] io::Error),
    #[error("read the kernel's answer over netlink")]
    Receive(#[source] io::Error),
    #[error("{what}{}", words(.text))]
    Refused {
        what: String,
        /// The kernel's own, where it gave any.
        text: String,
        #[source]
        source: io::Error,
    },
    #[error("{what}: the kernel gave no answer")]
    Silent { what: String },
}

fn words(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(" ({text})")
    }
}

impl NetlinkError {
    /// The number of the refusal; 0 where it was none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { source, .. } | Self::Open(source) => source.raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }
}

/// Talks to the network namespace in which it was opened, wherever it is used.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Links, addresses, routes, neighbours.
    ///
    /// # Errors
    /// The kernel has no netlink, or no descriptor is left.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(None, 0)
    }

    /// nftables.
    ///
    /// # Errors
    /// The kernel has no netfilter, or no descriptor is left.
    pub fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::NETFILTER), 0)
    }

    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> Result<Self, NetlinkError> {
        let make = || -> io::Result<OwnedFd> {
            let fd = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                protocol,
            )?;
            sys::socket::explain_refusals(&fd)?;
            // without CAP_NET_ADMIN nothing of what follows would work either
            rustix::net::sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER)?;
            if groups != 0 {
                rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
            }
            Ok(fd)
        };
        Ok(Self {
            fd: make().map_err(NetlinkError::Open)?,
        })
    }

    fn send(&self, batch: &Batch) -> Result<(), NetlinkError> {
        loop {
            match rustix::net::send(&self.fd, batch.as_bytes(), SendFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(NetlinkError::Send(e.into())),
            }
        }
    }

    fn receive<'b>(
        &self,
        buffer: &'b mut Vec<u8>,
        flags: RecvFlags,
    ) -> Result<&'b [u8], rustix::io::Errno> {
        buffer.resize(RECEIVE_BUFFER, 0);
        loop {
            match rustix::net::recv(&self.fd, &mut buffer[..], flags) {
                Err(rustix::io::Errno::INTR) => {}
                Ok((n, _)) => return Ok(&buffer[..n]),
                Err(e) => return Err(e),
            }
        }
    }

    /// Has the kernel do all of it. `what` names the batch in an error. Every message that asks for
    /// an answer gets one before the kernel returns from the send; the last one must ask.
    pub(crate) fn run(&self, batch: &Batch, what: &str) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.send(batch)?;
        let mut buffer = Vec::new();
        let mut refused = None;
        let mut answered = false;
        loop {
            let bytes = match self.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(bytes) => bytes,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(e) => return Err(NetlinkError::Receive(e.into())),
            };
            for message in messages(bytes).filter(|m| m.kind == ERROR) {
                answered = true;
                let error = refusal(&message, what);
                refused = refused.or(error);
            }
        }
        match refused {
            Some(error) => Err(error),
            None if answered => Ok(()),
            None => Err(NetlinkError::Silent {
                what: what.to_owned(),
            }),
        }
    }

    /// Asks for a list; `each` gets every part of it.
    pub(crate) fn dump(
        &self,
        batch: &Batch,
        what: &str,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), NetlinkError> {
        self.send(batch)?;
        let mut buffer = Vec::new();
        loop {
            let bytes = self
                .receive(&mut buffer, RecvFlags::empty())
                .map_err(|e| NetlinkError::Receive(e.into()))?;
            for message in messages(bytes) {
                match message.kind {
                    DONE => return Ok(()),
                    // of a question for one object: the answer came before it
                    ERROR => return refusal(&message, what).map_or(Ok(()), Err),
                    _ => each(&message),
                }
            }
        }
    }

    /// What the kernel tells of its own accord; waits for it.
    pub(crate) fn next<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], rustix::io::Errno> {
        self.receive(buffer, RecvFlags::empty())
    }
}

fn refusal(message: &Message<'_>, what: &str) -> Option<NetlinkError> {
    let code = u32_at(message.payload, 0)?.cast_signed();
    if code == 0 {
        return None;
    }
    let mut words = String::new();
    if message.flags & ACK_TLVS != 0 {
        // the header of the request is always repeated, its body only where it is not capped
        let body = if message.flags & CAPPED != 0 {
            0
        } else {
            usize::try_from(u32_at(message.payload, 4)?)
                .ok()?
                .saturating_sub(16)
        };
        let rest = message.payload.get(20 + body..).unwrap_or_default();
        words = attribute(rest, ERROR_TEXT).map(text).unwrap_or_default();
    }
    Some(NetlinkError::Refused {
        what: what.to_owned(),
        text: words,
        source: io::Error::from_raw_os_error(-code),
    })
}
