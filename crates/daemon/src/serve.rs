//! From listening sockets to connections.
//!
//! A client of TCP comes through a relay: its bytes go on by a pair of unix sockets, so that all behind it
//! (taking a connection over, above all) knows one kind of socket only.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::docker::{Api, Peer};
use crate::tls::Tls;

/// For all of a handshake: who does not speak holds nothing for longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of handshakes at a time: they come before anybody has shown who it is.
const HANDSHAKES: usize = 64;
/// Connections of TCP at a time.
const REMOTE_CLIENTS: usize = 1024;
/// A client whose machine has gone is noticed after about a minute and a half.
const KEEPALIVE: Duration = Duration::from_secs(15);
const RELAY_BUFFER: usize = 16 * 1024;
/// First byte of a TLS handshake. source: RFC 8446, section 5.1
const TLS_HANDSHAKE: u8 = 0x16;
/// So much of a request that is not answered is read.
const ASKED_IN_VAIN: u64 = 64 * 1024;
/// What dockerd says; clients make a hint of it.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Accepts until aborted. One task per connection.
pub async fn unix(listener: UnixListener, api: Arc<Api>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = match stream.peer_cred() {
                    Ok(cred) => Peer::Local {
                        uid: cred.uid(),
                        gid: cred.gid(),
                        pid: cred.pid().unwrap_or_default(),
                    },
                    Err(error) => {
                        tracing::warn!("a client that can't be asked who it is: {error}");
                        continue;
                    }
                };
                tokio::spawn(crate::docker::connection(stream, peer, Arc::clone(&api)));
            }
            Err(error) => refused(&error).await,
        }
    }
}

/// As [`unix`], for clients of TCP.
pub(crate) async fn tcp(listener: TcpListener, api: Arc<Api>, tls: Arc<Tls>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let clients = Arc::new(Semaphore::new(REMOTE_CLIENTS));
    loop {
        // who comes when all is taken waits in the kernel's queue
        let Ok(place) = Arc::clone(&clients).acquire_owned().await else {
            return;
        };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                refused(&error).await;
                continue;
            }
        };
        let (api, tls, handshakes) = (Arc::clone(&api), Arc::clone(&tls), Arc::clone(&handshakes));
        tokio::spawn(async move {
            if let Err(error) = remote(stream, from, api, &tls, &handshakes).await {
                tracing::debug!("client {from}: {error}");
            }
            drop(place);
        });
    }
}

/// Out of descriptors: existing connections must end first.
async fn refused(error: &io::Error) {
    tracing::warn!("accept: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn remote(
    stream: TcpStream,
    from: SocketAddr,
    api: Arc<Api>,
    tls: &Tls,
    handshakes: &Semaphore,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, KEEPALIVE)?;
    let mut peer = Peer::Remote {
        address: from,
        user: None,
        certificates: Arc::default(),
    };
    let Some(acceptor) = tls.acceptor() else {
        return relay(stream, peer, api).await;
    };
    let handshake = async {
        let _turn = handshakes.acquire().await.map_err(io::Error::other)?;
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
            return not_tls(stream).await;
        }
        acceptor.accept(stream).await
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "its handshake took too long");
    let stream = tokio::time::timeout(HANDSHAKE, handshake)
        .await
        .map_err(late)??;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown: Vec<Vec<u8>> = shown.iter().map(|c| c.to_vec()).collect();
    if let Some(first) = shown.first() {
        peer = Peer::Remote {
            address: from,
            user: Some(crate::tls::subject(first)?),
            certificates: shown.into(),
        };
    }
    relay(stream, peer, api).await
}

/// Says so. What the client sent is read: an end with something unread would take the answer with it.
async fn not_tls<T>(mut stream: TcpStream) -> io::Result<T> {
    stream.write_all(NOT_TLS).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(ASKED_IN_VAIN);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Err(io::Error::other("it does not speak TLS"))
}

/// Both ways until both have ended, or either fails.
async fn relay(
    mut far: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    api: Arc<Api>,
) -> io::Result<()> {
    let (mut near, end) = UnixStream::pair()?;
    let served = tokio::spawn(crate::docker::connection(end, peer, api));
    let copied =
        tokio::io::copy_bidirectional_with_sizes(&mut far, &mut near, RELAY_BUFFER, RELAY_BUFFER);
    let done = copied.await;
    drop(near);
    // it sees the end of its connection; a panic of its own is told by the executor
    drop(served.await);
    done.map(drop)
}
