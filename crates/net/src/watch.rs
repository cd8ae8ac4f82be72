//! What others do to our table, and to the host's routes.
//!
//! The kernel tells every change of nftables to who listens, each transaction closed by a message
//! with the process that made it. A change by ourselves is none of interest.
//!
//! source: linux/netfilter/nf_tables.h (NFNLGRP_NFTABLES, NFT_MSG_NEWGEN)

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use rustix::net::netlink;

use crate::message::{attribute, messages, text};
use crate::socket::{NetlinkError, Socket};

const GROUP: u32 = 1 << (7 - 1);
const SUBSYSTEM: u16 = 10;
const NEW_GENERATION: u16 = 15;
/// Of tables, chains, rules, sets and elements.
const DELETIONS: [u16; 5] = [2, 5, 8, 11, 14];

/// Somebody took something out of our table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name and process, where the kernel said.
    pub by: String,
}

/// Listens. To be polled; it never blocks.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    table: String,
    touched: bool,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// # Errors
    /// The kernel refuses.
    pub fn open(table: &str) -> Result<Self, NetlinkError> {
        let socket = Socket::open(Some(netlink::NETFILTER), GROUP)?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|e| NetlinkError::Open(e.into()))?;
        Ok(Self {
            socket,
            table: table.to_owned(),
            touched: false,
        })
    }

    /// What was told since the last call. Also damage: more was told than could be kept.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read(&mut self) -> Result<Option<Damage>, NetlinkError> {
        let mut buffer = Vec::new();
        let mut damage = None;
        loop {
            match self.socket.next(&mut buffer) {
                Ok(bytes) => {
                    for message in messages(bytes) {
                        let (subsystem, kind) = (message.kind >> 8, message.kind & 0xff);
                        if subsystem != SUBSYSTEM {
                            continue;
                        }
                        let attributes = message.payload.get(4..).unwrap_or_default();
                        if kind == NEW_GENERATION {
                            let by = author(attributes);
                            let others = !by.as_ref().is_some_and(|(thread, _)| is_ours(*thread));
                            if std::mem::take(&mut self.touched) && others {
                                let by = by.map(|(pid, name)| format!("{name} (process {pid})"));
                                damage = Some(Damage {
                                    by: by.unwrap_or_else(|| "somebody".to_owned()),
                                });
                            }
                        } else if DELETIONS.contains(&kind) {
                            // the table is the first attribute of all of them
                            let of = attribute(attributes, 1).map(text);
                            self.touched |= of.is_some_and(|t| t == self.table);
                        }
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(damage),
                Err(rustix::io::Errno::NOBUFS) => {
                    self.touched = false;
                    damage = Some(Damage {
                        by: "somebody, among more changes than could be followed".to_owned(),
                    });
                }
                Err(e) => return Err(NetlinkError::Receive(e.into())),
            }
        }
    }
}

/// Told whenever the host's routes change. To be polled; it never blocks.
#[derive(Debug)]
pub struct RouteWatch {
    socket: Socket,
}

impl AsRawFd for RouteWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl RouteWatch {
    /// # Errors
    /// The kernel refuses.
    pub fn open() -> Result<Self, NetlinkError> {
        // RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE
        const GROUPS: u32 = 1 << (7 - 1) | 1 << (11 - 1);
        let socket = Socket::open(None, GROUPS)?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|e| NetlinkError::Open(e.into()))?;
        Ok(Self { socket })
    }

    /// Whether anything was told since the last call.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn read(&self) -> Result<bool, NetlinkError> {
        let mut buffer = Vec::new();
        let mut told = false;
        loop {
            match self.socket.next(&mut buffer) {
                // more than could be kept is a change too
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => told = true,
                Err(rustix::io::Errno::AGAIN) => return Ok(told),
                Err(e) => return Err(NetlinkError::Receive(e.into())),
            }
        }
    }
}

/// The kernel names the thread. One of ours that has ended is not known as ours: who is told of damage
/// looks whether there is any.
fn is_ours(thread: u32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{thread}")).exists()
}

fn author(attributes: &[u8]) -> Option<(u32, String)> {
    let pid = attribute(attributes, 2)?;
    let name = attribute(attributes, 3).map(text).unwrap_or_default();
    Some((u32::from_be_bytes(pid.try_into().ok()?), name))
}
