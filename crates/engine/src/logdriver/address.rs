//! Where a sink listens.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

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

/// source: unix(7), sun_path
const LONGEST_PATH: usize = 107;

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
        if rest.len() > LONGEST_PATH {
            let why = format!("a socket's path has {LONGEST_PATH} bytes at most");
            return Err(why);
        }
        return Ok((scheme, rest.to_owned()));
    }
    let rest = rest.trim_end_matches('/');
    let bracket_end = rest.rfind(']').map_or(0, |i| i + 1);
    let (host, given) = match rest[bracket_end..].rsplit_once(':') {
        Some((host, port)) => (&rest[..bracket_end + host.len()], Some(port)),
        None => (rest, None),
    };
    let host = match host {
        "" if given.is_none() => return Err("no host is given".to_owned()),
        // as in Go
        "" => "127.0.0.1",
        host => host,
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let fits = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if !fits {
        let why = format!("{host:?} is no host: a name, or an address, of IPv6 in brackets");
        return Err(why);
    }
    let port: u16 = match given {
        Some(text) => text
            .parse()
            .map_err(|_| format!("{text:?} is not a port"))?,
        None => port.ok_or("no port is given")?,
    };
    if port == 0 {
        return Err("nobody listens at port 0".to_owned());
    }
    Ok((scheme, format!("{host}:{port}")))
}

/// Whom a sink's certificate must be of.
pub(super) fn server_name(to: &str) -> io::Result<ServerName<'static>> {
    let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
    let host = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(host).map_err(io::Error::other)
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
        assert_eq!(ok("udp://:514", None), ("udp", "127.0.0.1:514".to_owned()));
        let long = |n: usize| format!("unix:///{}", "x".repeat(n - 1));
        assert!(split(&long(107), None).is_ok());
        for wrong in [
            "h:1",
            "udp://",
            "udp://h",
            "udp://h:x",
            "udp://h:0",
            "udp://a b:1",
            "udp://::1:514",
            "udp://[::x]:514",
            "udp://user@h:514",
            "unix://log",
            &long(108),
        ] {
            assert!(split(wrong, None).is_err(), "{wrong}");
        }
    }
}
