//! TLS to an engine: a thread that encrypts between a pair of sockets and the engine's.
//!
//! A session of TLS is one thing with both directions in it, and what uses the connection reads and writes at once. So
//! it stays with one thread, and all else sees a plain socket.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Files in PEM: the authority of the engine's certificate (the system's too), and who this client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) authority: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// Why a connection ended, for who reads the end of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reason(Arc<Mutex<Option<io::Error>>>);

impl Reason {
    pub(crate) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: io::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
const BUFFER: usize = 64 * 1024;

/// # Errors
/// Naming the file that can't be used, or why the engine is not trusted.
pub(crate) fn connect(address: &str, files: &Files) -> io::Result<(UnixStream, Reason)> {
    let config = Arc::new(config(files)?);
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let name = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut far = TcpStream::connect(address)?;
    far.set_nodelay(true)?;
    far.set_read_timeout(Some(PATIENCE))?;
    while session.is_handshaking() {
        session.complete_io(&mut far)?;
    }
    far.set_read_timeout(None)?;
    let (near, end) = UnixStream::pair()?;
    let reason = Reason::default();
    let told = reason.clone();
    let thread = std::thread::Builder::new().name("tls".to_owned());
    thread.spawn(move || {
        if let Err(error) = relay(&end, far, session) {
            told.set(error);
        }
    })?;
    Ok((near, reason))
}

fn config(files: &Files) -> io::Result<ClientConfig> {
    let told = |path: &Path, e: &dyn std::fmt::Display| {
        io::Error::other(format!("{}: {e}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &files.authority {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| told(path, &e))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| told(key, &e))?;
            let chain = certificates(certificate)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|e| told(certificate, &e))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(io::Error::other(
                "a certificate needs its key, and a key its certificate",
            ));
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let told =
        |e: rustls::pki_types::pem::Error| io::Error::other(format!("{}: {e}", path.display()));
    CertificateDer::pem_file_iter(path)
        .map_err(told)?
        .map(|c| c.map_err(told))
        .collect()
}

/// Until both ends have said that they are done, or one fails.
fn relay(
    mut near: &UnixStream,
    mut far: TcpStream,
    mut session: ClientConnection,
) -> io::Result<()> {
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let mut buffer = vec![0; BUFFER];
    // decrypted, not yet taken by the other side
    let mut held: Vec<u8> = Vec::new();
    let (mut near_done, mut far_done) = (false, false);
    loop {
        if far_done && held.is_empty() {
            near.shutdown(std::net::Shutdown::Write)?;
            // what the engine has no interest in any more is not sent
            return Ok(());
        }
        let mut near_wants = PollFlags::empty();
        let mut far_wants = PollFlags::empty();
        near_wants.set(PollFlags::IN, !near_done && !session.wants_write());
        near_wants.set(PollFlags::OUT, !held.is_empty());
        far_wants.set(PollFlags::IN, !far_done && held.is_empty());
        far_wants.set(PollFlags::OUT, session.wants_write());
        let (near_fd, far_fd) = (near.as_fd(), far.as_fd());
        let mut polled = [
            PollFd::new(&near_fd, near_wants),
            PollFd::new(&far_fd, far_wants),
        ];
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let (near_is, far_is) = (polled[0].revents(), polled[1].revents());
        let ends = PollFlags::HUP | PollFlags::ERR;
        if !held.is_empty() && near_is.intersects(PollFlags::OUT | ends) {
            let n = near.write(&held)?;
            held.drain(..n);
        }
        if near_wants.contains(PollFlags::IN) && near_is.intersects(PollFlags::IN | ends) {
            match read(&mut near, &mut buffer)? {
                Some(0) => {
                    near_done = true;
                    session.send_close_notify();
                }
                Some(n) => session.writer().write_all(&buffer[..n])?,
                None => {}
            }
        }
        if session.wants_write() && far_is.intersects(PollFlags::OUT | ends) {
            match session.write_tls(&mut far) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => drop(other?),
            }
        }
        if far_wants.contains(PollFlags::IN) && far_is.intersects(PollFlags::IN | ends) {
            far_done = receive(&mut session, &mut far, &mut held)?;
        }
    }
}

/// `None`: nothing there now.
fn read(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match from.read(buffer) {
        Ok(n) => Ok(Some(n)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// True at the end.
fn receive(
    session: &mut ClientConnection,
    far: &mut TcpStream,
    held: &mut Vec<u8>,
) -> io::Result<bool> {
    let ended = match session.read_tls(far) {
        Ok(n) => n == 0,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
        Err(e) => return Err(e),
    };
    let state = session
        .process_new_packets()
        .map_err(|e| io::Error::other(format!("TLS: {e}")))?;
    let mut plain = vec![0; state.plaintext_bytes_to_read()];
    session.reader().read_exact(&mut plain)?;
    held.extend(plain);
    Ok(ended || state.peer_has_closed())
}
