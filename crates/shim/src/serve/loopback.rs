//! Published ports that the kernel leads nowhere: at `::1`, from where it takes no packet to another
//! interface, and everywhere where the host's input rules are to decide. A listening socket among
//! those that keep a container's ports is served here: what comes by it goes on to the same port of
//! this host, which the kernel leads to the container, wherever that is, because it comes from here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};

use super::Server;
use super::poller::{Poller, Slots, Token};
use super::process::dont_block;

/// Connections at once; more wait in the kernel's queue.
const MOST_PAIRS: usize = 256;
/// Reads of one connection at one event, so that others have their turn.
const TURN: usize = 8;
const CHUNK: usize = 16 << 10;

/// Which of our descriptors an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Port(u32),
    Client(u32),
    Container(u32),
}

impl Which {
    /// As a token's parts.
    fn token(self) -> Token {
        match self {
            Self::Port(at) => Token::Loopback(at, 0),
            Self::Client(at) => Token::Loopback(at, 1),
            Self::Container(at) => Token::Loopback(at, 2),
        }
    }

    pub(super) fn of(index: u32, sub: u8) -> Self {
        match sub {
            0 => Self::Port(index),
            1 => Self::Client(index),
            _ => Self::Container(index),
        }
    }
}

/// A client's connection and the one to the container, and what is on its way between them.
#[derive(Debug)]
struct Pair {
    ends: [OwnedFd; 2],
    /// From the end of that index to the other: read and not yet written.
    pending: [Vec<u8>; 2],
    /// That end says no more.
    ended: [bool; 2],
    /// It is polled: not while there is nothing to wait for, since what is broken is told for ever.
    polled: [bool; 2],
}

/// Neither could go on with what is there.
struct Broken;

#[derive(Debug, Default)]
pub(super) struct Ports {
    listeners: Vec<OwnedFd>,
    pairs: Option<Slots<Pair>>,
    /// As many as there may be.
    full: bool,
}

impl Server {
    /// Of descriptors to hold, serves those that listen.
    pub(super) fn hold(&mut self, what: Vec<OwnedFd>) -> io::Result<()> {
        for fd in what {
            if sockopt::socket_acceptconn(&fd).unwrap_or(false) {
                let ports = self.loopback.get_or_insert_with(Box::default);
                let at = u32::try_from(ports.listeners.len()).unwrap_or(u32::MAX);
                dont_block(&fd)?;
                self.poller
                    .add(&fd, Which::Port(at).token(), EventFlags::IN)?;
                ports.listeners.push(fd);
            } else {
                self.held.push(fd);
            }
        }
        Ok(())
    }

    pub(super) fn loopback(&mut self, which: Which) {
        if let Some(ports) = self.loopback.as_deref_mut() {
            ports.ready(&self.poller, which);
        }
    }
}

impl Ports {
    fn ready(&mut self, poller: &Poller, which: Which) {
        match which {
            Which::Port(at) => self.accept(poller, at),
            Which::Client(at) | Which::Container(at) => {
                let Some(pair) = self.pairs.as_mut().and_then(|p| p.get_mut(at)) else {
                    return;
                };
                let moved = pair.pump(0).and_then(|()| pair.pump(1));
                if moved.is_err() || pair.is_over() {
                    self.drop_pair(poller, at);
                } else {
                    pair.wait(poller, at);
                }
            }
        }
    }

    fn accept(&mut self, poller: &Poller, at: u32) {
        let pairs = self.pairs.get_or_insert_with(Slots::new);
        let Some(listener) = self.listeners.get(at as usize) else {
            return;
        };
        for _ in 0..TURN {
            if pairs.iter().count() >= MOST_PAIRS {
                self.full = true;
                break;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(client) = rustix::net::accept_with(listener, flags) else {
                return;
            };
            // refused by the container, or no descriptor is left: the client is told by the end
            let Ok(pair) = connect(listener).map(|to| Pair::new(client, to)) else {
                continue;
            };
            let slot = pairs.vacant();
            let [client, container] = &pair.ends;
            let added = poller
                .add(client, Which::Client(slot).token(), EventFlags::IN)
                .and_then(|()| {
                    poller.add(container, Which::Container(slot).token(), EventFlags::IN)
                });
            if added.is_ok() {
                pairs.insert(pair);
            }
        }
        if self.full {
            self.listen(poller, EventFlags::empty());
        }
    }

    fn listen(&self, poller: &Poller, flags: EventFlags) {
        for (at, listener) in (0..).zip(&self.listeners) {
            poller.set(listener.as_fd(), Which::Port(at).token(), flags);
        }
    }

    fn drop_pair(&mut self, poller: &Poller, at: u32) {
        let Some(pair) = self.pairs.as_mut().and_then(|p| p.remove(at)) else {
            return;
        };
        for end in &pair.ends {
            poller.remove(end);
        }
        if std::mem::take(&mut self.full) {
            self.listen(poller, EventFlags::IN);
        }
    }
}

/// To where it listens, of what leads to the container: at any address, that is 127.0.0.1.
fn connect(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let own = SocketAddr::try_from(rustix::net::getsockname(listener)?)?;
    let to = match own.ip() {
        address if address.is_unspecified() || address == IpAddr::V6(Ipv6Addr::LOCALHOST) => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), own.port())
        }
        _ => own,
    };
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

impl Pair {
    fn new(client: OwnedFd, container: OwnedFd) -> Self {
        Self {
            ends: [client, container],
            pending: [Vec::new(), Vec::new()],
            ended: [false; 2],
            polled: [true; 2],
        }
    }

    fn is_over(&self) -> bool {
        self.ended == [true; 2] && self.pending.iter().all(Vec::is_empty)
    }

    /// Moves what the end of that index says to the other, as far as it goes now.
    fn pump(&mut self, from: usize) -> Result<(), Broken> {
        let [a, b] = &self.ends;
        let (source, sink) = if from == 0 { (a, b) } else { (b, a) };
        let (Some(pending), Some(ended)) = (self.pending.get_mut(from), self.ended.get_mut(from))
        else {
            return Err(Broken);
        };
        let mut buffer = [0; CHUNK];
        for _ in 0..TURN {
            if !pending.is_empty() {
                match rustix::net::send(sink, pending, SendFlags::NOSIGNAL) {
                    Ok(n) => drop(pending.drain(..n)),
                    // not connected yet, or full
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                    Err(_) => return Err(Broken),
                }
                continue;
            }
            pending.shrink_to(0);
            if *ended {
                return Ok(());
            }
            match rustix::net::recv(source, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => {
                    *ended = true;
                    // it may be closed already
                    let _gone = rustix::net::shutdown(sink, Shutdown::Write);
                }
                Ok((n, _)) => pending.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    /// Each end is read while the other takes what it said, and written to when there is something.
    fn wait(&mut self, poller: &Poller, at: u32) {
        let tokens = [Which::Client(at).token(), Which::Container(at).token()];
        let has = self.pending.each_ref().map(|p| !p.is_empty());
        let says = self.ended.map(|ended| !ended);
        let mut flags = [EventFlags::empty(); 2];
        let [client, container] = &mut flags;
        client.set(EventFlags::IN, says[0] && !has[0]);
        client.set(EventFlags::OUT, has[1]);
        container.set(EventFlags::IN, says[1] && !has[1]);
        container.set(EventFlags::OUT, has[0]);
        let ends = self.ends.iter().zip(&mut self.polled);
        for ((end, polled), (token, flags)) in ends.zip(tokens.into_iter().zip(flags)) {
            match (*polled, flags.is_empty()) {
                (true, true) => poller.remove(end),
                (true, false) => poller.set(end.as_fd(), token, flags),
                // no room for another watch: the pair is over at its next event
                (false, false) => drop(poller.add(end, token, flags)),
                (false, true) => {}
            }
            *polled = !flags.is_empty();
        }
    }
}
