//! The connection to a sink, and what the kernel knows of it. Every wait has a deadline.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, sockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::address::{Address, server_name, tls};

/// For a name, and for each of its addresses.
const CONNECT: Duration = Duration::from_secs(5);
const MOST_ADDRESSES: usize = 8;
/// What waits in it goes a second time when a connection breaks.
const SEND_BUFFER: usize = 64 << 10;
/// A peer that is gone without a word is noticed after the first and three of the second.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVES: u32 = 3;
/// A sink that says so much is not listened to any longer at once.
const MOST_READS: usize = 64;
/// Until the runtime has seen what the socket has.
const A_MOMENT: Duration = Duration::from_millis(5);

/// Local syslog, in the order in which it is looked for.
const LOCAL_SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Names being looked up, of all containers: a lookup holds a thread, and nobody can end it.
static LOOKUPS: Semaphore = Semaphore::const_new(4);

#[derive(Debug)]
pub(super) enum Connection {
    Udp(UdpSocket),
    Datagrams(UnixDatagram),
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How a connection is, as far as the kernel knows.
#[derive(Debug)]
pub(super) enum Health {
    Alive,
    /// The sink has closed it, or its half, and has read what its kernel acknowledged: with something
    /// unread, a close is a reset. What is on its way may still be acknowledged, or be refused.
    Closed,
    Broken(io::Error),
}

pub(super) async fn deadline<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(too_late(limit, what)))
}

fn too_late(limit: Duration, what: &str) -> io::Error {
    let text = format!("waited {} s to {what}", limit.as_secs_f32());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Connection {
    /// `attempt` counts those that failed: a datagram's sink is not heard of, so each attempt takes
    /// the next address of its name. A peer that acknowledges nothing for `patience` is given up.
    pub(super) async fn open(
        address: &Address,
        attempt: usize,
        patience: Duration,
    ) -> io::Result<Self> {
        let connection = match address {
            Address::Udp(to) | Address::Tcp(to) | Address::Tls(to, _) => {
                let mut all = deadline(CONNECT, &format!("look up {to}"), resolve(to)).await?;
                all.truncate(MOST_ADDRESSES);
                if matches!(address, Address::Udp(_)) {
                    let turn = attempt % all.len().max(1);
                    all.rotate_left(turn);
                }
                any(address, &all).await?
            }
            Address::Unix(path) => {
                let connect = UnixStream::connect(path);
                Self::Unix(deadline(CONNECT, "connect", connect).await?)
            }
            Address::Datagrams(path) => Self::Datagrams(datagrams(path)?),
            Address::LocalSyslog => deadline(CONNECT, "connect", local_syslog()).await?,
        };
        connection.set_up(patience)?;
        Ok(connection)
    }

    fn set_up(&self, patience: Duration) -> io::Result<()> {
        let Some(fd) = self.stream() else {
            return Ok(());
        };
        sockopt::set_socket_send_buffer_size(fd, SEND_BUFFER)?;
        if !matches!(self, Self::Unix(_)) {
            let limit = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(fd, limit)?;
            sockopt::set_socket_keepalive(fd, true)?;
            sockopt::set_tcp_keepidle(fd, KEEPALIVE_AFTER)?;
            sockopt::set_tcp_keepintvl(fd, KEEPALIVE_EVERY)?;
            sockopt::set_tcp_keepcnt(fd, KEEPALIVES)?;
        }
        Ok(())
    }

    pub(super) fn is_stream(&self) -> bool {
        self.stream().is_some()
    }

    /// Whether what is unread by the sink is known, and not only what its kernel has not acknowledged.
    pub(super) fn tells_what_is_read(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    fn stream(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Udp(_) | Self::Datagrams(_) => None,
            Self::Tcp(stream) => Some(stream.as_fd()),
            Self::Unix(stream) => Some(stream.as_fd()),
            Self::Tls(stream) => Some(stream.get_ref().0.as_fd()),
        }
    }

    /// Bytes of a stream that its peer has not acknowledged. No fewer than there are: TLS and the
    /// kernel's own overhead are counted along.
    pub(super) fn unacknowledged(&self) -> io::Result<u64> {
        let Some(fd) = self.stream() else {
            return Ok(0);
        };
        sys::socket::unread_by_peer(&fd).map(|n| n as u64)
    }

    /// A datagram, or a piece of a stream. It fails when for so long nothing of it moved.
    pub(super) async fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        match self {
            Self::Udp(socket) => {
                deadline(patience, "write", socket.send(bytes)).await?;
                // on this host a refusal is known at once
                socket.take_error()?.map_or(Ok(()), Err)
            }
            Self::Datagrams(socket) => {
                let send = deadline(patience, "write", socket.send(bytes));
                send.await.map(drop)
            }
            _ => self.put(bytes, patience).await,
        }
    }

    async fn put(&mut self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        let mut waiting = self.unacknowledged()?;
        loop {
            match timeout(patience, self.some(bytes)).await {
                Ok(Ok(_)) if bytes.is_empty() => return Ok(()),
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(n)) => bytes = bytes.get(n..).unwrap_or_default(),
                Ok(Err(e)) => return Err(e),
                // a slow sink takes some, but not enough for the kernel to ask for more
                Err(_) if self.unacknowledged()? < waiting => {}
                Err(_) => return Err(too_late(patience, "write")),
            }
            waiting = self.unacknowledged()?;
        }
    }

    /// How many of them were taken; of none, all that are held back go.
    async fn some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) if !bytes.is_empty() => stream.write(bytes).await,
            Self::Unix(stream) if !bytes.is_empty() => stream.write(bytes).await,
            Self::Tls(stream) if !bytes.is_empty() => stream.write(bytes).await,
            Self::Tls(stream) => stream.flush().await.map(|()| 0),
            _ => Ok(0),
        }
    }

    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.recv(buffer).await,
            Self::Datagrams(socket) => socket.recv(buffer).await,
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Unix(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }

    /// Returns when a stream's peer has said something, or has gone.
    pub(super) async fn changed(&self) {
        let changed = match self {
            Self::Udp(_) | Self::Datagrams(_) => std::future::pending().await,
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            Self::Tls(stream) => stream.get_ref().0.readable().await,
        };
        // what is wrong is met again by who looks
        drop(changed);
    }

    /// Asked of the kernel and not of the runtime, which may not have heard of it yet. What a sink says
    /// is thrown away.
    pub(super) async fn look(&mut self) -> Health {
        for _ in 0..MOST_READS {
            let Some(fd) = self.stream() else {
                return match self {
                    Self::Udp(socket) => match socket.take_error() {
                        Ok(None) => Health::Alive,
                        Ok(Some(e)) | Err(e) => Health::Broken(e),
                    },
                    _ => Health::Alive,
                };
            };
            match peek(fd) {
                Ok(0) => {
                    // a refusal after that is told by this alone
                    return match sockopt::socket_error(fd) {
                        Ok(Ok(())) => Health::Closed,
                        Ok(Err(e)) | Err(e) => Health::Broken(e.into()),
                    };
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.nothing_to_read() {
                        return Health::Alive;
                    }
                }
                Err(e) => return Health::Broken(e),
            }
            let mut buffer = [0; 4096];
            let read = match self {
                // a ticket, or the notice that it closes: only TLS knows
                Self::Tls(stream) => timeout(A_MOMENT, stream.read(&mut buffer)).await,
                _ => timeout(A_MOMENT, self.read(&mut buffer)).await,
            };
            match read {
                Ok(Ok(0)) => return Health::Closed,
                Ok(Ok(_)) | Err(_) => {}
                // closed, without TLS's own notice
                Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Health::Closed,
                Ok(Err(e)) => return Health::Broken(e),
            }
        }
        Health::Alive
    }

    /// Tells the runtime, too, so that it waits for what comes next.
    fn nothing_to_read(&self) -> bool {
        let look = |fd| move || peek(fd).map(drop);
        let looked = match self {
            Self::Udp(_) | Self::Datagrams(_) => return true,
            Self::Tcp(s) => s.try_io(Interest::READABLE, look(s.as_fd())),
            Self::Unix(s) => s.try_io(Interest::READABLE, look(s.as_fd())),
            Self::Tls(s) => {
                let s = s.get_ref().0;
                s.try_io(Interest::READABLE, look(s.as_fd()))
            }
        };
        looked.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }
}

fn peek(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut byte = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (read, _) = rustix::net::recv(fd, &mut byte, flags)?;
    Ok(read)
}

/// The first that can be reached.
async fn any(address: &Address, all: &[SocketAddr]) -> io::Result<Connection> {
    let mut last = io::Error::other("its name has no address");
    for to in all {
        match deadline(CONNECT, "connect", one(address, *to)).await {
            Ok(connection) => return Ok(connection),
            Err(e) => last = io::Error::new(e.kind(), format!("{to}: {e}")),
        }
    }
    Err(last)
}

async fn one(address: &Address, to: SocketAddr) -> io::Result<Connection> {
    match address {
        Address::Udp(_) => {
            let own = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(own).await?;
            socket.connect(to).await?;
            Ok(Connection::Udp(socket))
        }
        Address::Tls(named, files) => {
            let stream = TcpStream::connect(to).await?;
            let name = server_name(named)?;
            let files = files.clone();
            let config = tokio::task::spawn_blocking(move || tls(&files)).await??;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(name, stream).await?;
            Ok(Connection::Tls(Box::new(stream)))
        }
        _ => Ok(Connection::Tcp(TcpStream::connect(to).await?)),
    }
}

fn datagrams(path: impl AsRef<std::path::Path>) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

async fn local_syslog() -> io::Result<Connection> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for path in LOCAL_SYSLOG {
        match datagrams(path) {
            Ok(socket) => return Ok(Connection::Datagrams(socket)),
            Err(e) => last = e,
        }
        if let Ok(stream) = UnixStream::connect(path).await {
            return Ok(Connection::Unix(stream));
        }
    }
    Err(last)
}

async fn resolve(to: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = to.parse() {
        return Ok(vec![address]);
    }
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let to = to.to_owned();
    let lookup = tokio::task::spawn_blocking(move || {
        let found = to.to_socket_addrs().map(Iterator::collect);
        // as long as the thread is held, whoever waits for it
        drop(permit);
        found
    });
    lookup.await?
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A name's first address refuses, its second does not.
    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        // nobody has that port: it is held, and not listened at
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let bad = held.local_addr().unwrap();
        let address = Address::Tcp("sink.test:1".to_owned());
        any(&address, &[bad, good]).await.unwrap();
        let error = any(&address, &[good, bad]).await.map(drop);
        error.unwrap();
        let error = any(&address, &[bad]).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{bad}: ")), "{error}");
    }

    #[tokio::test]
    async fn an_end_is_seen_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let mut ours = Connection::open(&address, 0, PATIENCE).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        theirs.write_all(b"what a sink says").await.unwrap();
        assert!(matches!(ours.look().await, Health::Alive));
        ours.write(b"entry", PATIENCE).await.unwrap();
        theirs.read_exact(&mut [0; 5]).await.unwrap();
        drop(theirs);
        // the sink has read all
        assert!(matches!(ours.look().await, Health::Closed));
        assert_eq!(ours.unacknowledged().unwrap(), 0);

        let mut ours = Connection::open(&address, 0, PATIENCE).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        ours.write(b"entry", PATIENCE).await.unwrap();
        // it has not
        drop(theirs);
        let health = ours.look().await;
        assert!(matches!(health, Health::Broken(_)), "{health:?}");
    }

    #[tokio::test]
    async fn a_sink_that_takes_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let patience = Duration::from_millis(50);
        let mut ours = Connection::open(&address, 0, patience).await.unwrap();
        let bytes = vec![b'x'; 16 << 20];
        let error = ours.write(&bytes, patience).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
