//! epoll with typed tokens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

/// What a descriptor is to the shim. A token of something already gone is harmless: each handler
/// looks up its slot and reads without blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Signals,
    Oom,
    /// A control connection.
    Connection(u32),
    /// The channel of a process that has not reached its program.
    Starting(u32),
    /// An output (0 or 1) of a process.
    Source(u32, u8),
    /// The standard input of a process.
    Sink(u32),
    /// An attached client.
    Client(u32),
    /// The name server's: what, and which of them (see `names::Which`).
    Names(u32, u8),
    /// A port at `::1`: which, and which end of what came by it (see `loopback::Which`).
    Loopback(u32, u8),
}

impl Token {
    fn to_u64(self) -> u64 {
        let (kind, index, sub) = match self {
            Self::Listener => (0, 0, 0),
            Self::Signals => (1, 0, 0),
            Self::Oom => (2, 0, 0),
            Self::Connection(i) => (3, i, 0),
            Self::Starting(i) => (4, i, 0),
            Self::Source(i, s) => (5, i, s),
            Self::Sink(i) => (6, i, 0),
            Self::Client(i) => (7, i, 0),
            Self::Names(i, s) => (8, i, s),
            Self::Loopback(i, s) => (9, i, s),
        };
        u64::from(index) << 16 | u64::from(sub) << 8 | kind
    }

    fn from_u64(n: u64) -> Option<Self> {
        let index = u32::try_from(n >> 16).ok()?;
        let [kind, sub, ..] = n.to_le_bytes();
        Some(match kind {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Oom,
            3 => Self::Connection(index),
            4 => Self::Starting(index),
            5 => Self::Source(index, sub),
            6 => Self::Sink(index),
            7 => Self::Client(index),
            8 => Self::Names(index, sub),
            9 => Self::Loopback(index, sub),
            _ => return None,
        })
    }
}

pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Poller").field(&self.epoll).finish()
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(16),
        })
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token.to_u64()),
            flags,
        )?)
    }

    pub(super) fn set(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) {
        // fails only for a descriptor that was never added; then there is nothing to change
        let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(token.to_u64()), flags);
    }

    /// Taken out before it is closed: a duplicate of it may live in a child.
    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// What is ready, at most 16 at a time.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> Vec<(Token, EventFlags)> {
        let timeout = until.map(|at| {
            // rounded up: a wait that ends early would spin
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        self.events.clear();
        // interrupted: as if nothing were ready
        let _ = epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            timeout.as_ref(),
        );
        self.events
            .iter()
            .filter_map(|event| {
                // the event is packed: copied out before use
                let (data, flags) = (event.data, event.flags);
                Some((Token::from_u64(data.u64())?, flags))
            })
            .collect()
    }
}

/// Things by small numbers that stay the same while they live.
#[derive(Debug)]
pub(super) struct Slots<T> {
    items: Vec<Option<T>>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new() }
    }

    /// The number the next [`Slots::insert`] will give.
    pub(super) fn vacant(&self) -> u32 {
        let free = self.items.iter().position(Option::is_none);
        u32::try_from(free.unwrap_or(self.items.len())).unwrap_or(u32::MAX)
    }

    pub(super) fn insert(&mut self, item: T) -> u32 {
        let at = self.vacant();
        match self.items.get_mut(at as usize) {
            Some(slot) => *slot = Some(item),
            None => self.items.push(Some(item)),
        }
        at
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        self.items.get(at as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.items.get_mut(at as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        self.items.get_mut(at as usize)?.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(&self.items)
            .filter_map(|(i, s)| Some((i, s.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..)
            .zip(&mut self.items)
            .filter_map(|(i, s)| Some((i, s.as_mut()?)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Oom,
            Token::Connection(70_000),
            Token::Starting(1),
            Token::Source(3, 1),
            Token::Sink(u32::MAX),
            Token::Client(0),
            Token::Names(9, 3),
            Token::Loopback(8, 2),
        ] {
            assert_eq!(Token::from_u64(token.to_u64()), Some(token));
        }
    }
}
