//! Where a sink listens.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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

/// What is needed to speak TLS to a sink.
pub(super) fn tls(files: &TlsFiles) -> io::Result<rustls::ClientConfig> {
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
