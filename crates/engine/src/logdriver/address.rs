//! Where a sink listens, and the connection to it. Every wait has a deadline.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};

const CONNECT: Duration = Duration::from_secs(5);

/// Local syslog, in the order in which it is looked for.
const LOCAL_SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `host:port`, as the next two.
    Udp(String),
    Tcp(String),
    Tls(String, TlsFiles),
    Unix(PathBuf),
    Datagrams(PathBuf),
    LocalSyslog,
}

/// PEM files, read at each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// Absent: those that the host trusts.
    pub(super) authority: Option<PathBuf>,
    /// Certificate and key of ours.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

/// `scheme` and what follows `://`; a host gets `port` where it names none and there is a default.
pub(super) fn split(text: &str, port: Option<u16>) -> Result<(&str, String), String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("not of the form scheme://address")?;
    if scheme.starts_with("unix") {
        if !rest.starts_with('/') {
            return Err("a socket's path must be absolute".to_owned());
        }
        return Ok((scheme, rest.to_owned()));
    }
    let rest = rest.trim_end_matches('/');
    let bracket_end = rest.rfind(']').map_or(0, |i| i + 1);
    let (host, given) = match rest[bracket_end..].rsplit_once(':') {
        Some((host, port)) => (&rest[..bracket_end + host.len()], Some(port)),
        None => (rest, None),
    };
    if host.is_empty() {
        return Err("no host is given".to_owned());
    }
    let port = match given {
        Some(text) => text
            .parse()
            .map_err(|_| format!("{text:?} is not a port"))?,
        None => port.ok_or("no port is given")?,
    };
    Ok((scheme, format!("{host}:{port}")))
}

/// An open connection. What is written has been taken by the kernel, which is all that can be known of
/// a sink that does not acknowledge.
#[derive(Debug)]
pub(super) enum Connection {
    Udp(UdpSocket),
    Datagrams(UnixDatagram),
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

pub(super) async fn deadline<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("waited {} s to {what}", limit.as_secs_f32());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

impl Connection {
    pub(super) async fn open(address: &Address) -> io::Result<Self> {
        deadline(CONNECT, "connect", Self::connect(address)).await
    }

    async fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Udp(to) => {
                let to = resolve(to).await?;
                let own = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(own).await?;
                socket.connect(to).await?;
                Self::Udp(socket)
            }
            Address::Tcp(to) => Self::Tcp(TcpStream::connect(resolve(to).await?).await?),
            Address::Tls(to, files) => {
                let stream = TcpStream::connect(resolve(to).await?).await?;
                let host = to.rsplit_once(':').map_or(to.as_str(), |(host, _)| host);
                let host = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                let files = files.clone();
                let config = tokio::task::spawn_blocking(move || tls(&files)).await??;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
                Self::Tls(Box::new(connector.connect(name, stream).await?))
            }
            Address::Unix(path) => Self::Unix(UnixStream::connect(path).await?),
            Address::Datagrams(path) => Self::Datagrams(datagrams(path)?),
            Address::LocalSyslog => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for path in LOCAL_SYSLOG {
                    match datagrams(path) {
                        Ok(socket) => return Ok(Self::Datagrams(socket)),
                        Err(e) => last = e,
                    }
                    if let Ok(stream) = UnixStream::connect(path).await {
                        return Ok(Self::Unix(stream));
                    }
                }
                return Err(last);
            }
        })
    }

    pub(super) fn is_stream(&self) -> bool {
        !matches!(self, Self::Udp(_) | Self::Datagrams(_))
    }

    /// A datagram, or a piece of a stream.
    pub(super) async fn write(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        let write = async {
            match self {
                Self::Udp(socket) => socket.send(bytes).await.map(drop),
                Self::Datagrams(socket) => socket.send(bytes).await.map(drop),
                Self::Tcp(stream) => put(stream, bytes).await,
                Self::Unix(stream) => put(stream, bytes).await,
                Self::Tls(stream) => put(stream, bytes).await,
            }
        };
        deadline(limit, "write", write).await
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

    /// Whether the other end is known to have closed: the first write after that is lost without a word.
    pub(super) fn has_ended(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            Self::Udp(_) | Self::Datagrams(_) | Self::Tls(_) => return false,
        };
        matches!(read, Ok(0)) || read.is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock)
    }
}

async fn put<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn datagrams(path: impl AsRef<std::path::Path>) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket)
}

async fn resolve(to: &str) -> io::Result<std::net::SocketAddr> {
    let mut found = tokio::net::lookup_host(to).await?;
    found
        .next()
        .ok_or_else(|| io::Error::other(format!("{to} has no address")))
}

fn tls(files: &TlsFiles) -> io::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &files.authority {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(io::Error::other)?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &files.own else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, e))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(io::Error::other)
}

fn certificates(path: &std::path::Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| named(path, e))
}

fn named(path: &std::path::Path, error: rustls::pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let ok = |text, port| split(text, port).unwrap();
        assert_eq!(ok("udp://h:514", None), ("udp", "h:514".to_owned()));
        assert_eq!(ok("tcp://h/", Some(514)), ("tcp", "h:514".to_owned()));
        assert_eq!(ok("tcp://[::1]:9", None), ("tcp", "[::1]:9".to_owned()));
        assert_eq!(ok("tcp://[::1]", Some(9)), ("tcp", "[::1]:9".to_owned()));
        assert_eq!(ok("unix:///dev/log", None), ("unix", "/dev/log".to_owned()));
        for wrong in ["h:1", "udp://", "udp://h", "udp://h:x", "unix://log"] {
            assert!(split(wrong, None).is_err(), "{wrong}");
        }
    }
}
