//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::Request;
use hyper::header::{HOST, ORIGIN};

use super::failure::Failure;

#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// By SO_PEERCRED: whoever connected, when it did. source: unix(7)
    Local { uid: u32, gid: u32, pid: i32 },
    Remote {
        address: SocketAddr,
        /// The common name of its certificate.
        user: Option<String>,
        /// In DER, its own first.
        certificates: Arc<[Vec<u8>]>,
    },
}

impl Peer {
    /// A browser can be led to a loopback address by any page that it shows. So a client of TCP that has
    /// shown no certificate must not come from a page, nor call this host by a name that a page's owner may
    /// have given it.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        let Self::Remote { user: None, .. } = self else {
            return Ok(());
        };
        let from_page = request.headers().contains_key(ORIGIN);
        let host = request.headers().get(HOST).and_then(|h| h.to_str().ok());
        if from_page || !host.is_none_or(is_local_name) {
            return Err(Failure::forbidden(
                "this engine is not served to web pages: connect by tcp://127.0.0.1, or use --tlsverify",
            ));
        }
        Ok(())
    }
}

/// An address, or a name without a dot (clients send `localhost`, `docker`).
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || !name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_refused_where_nobody_has_shown_a_certificate() {
        let address = "127.0.0.1:9".parse().unwrap();
        let remote = |user: Option<&str>| Peer::Remote {
            address,
            user: user.map(str::to_owned),
            certificates: Arc::default(),
        };
        let local = Peer::Local {
            uid: 0,
            gid: 0,
            pid: 1,
        };
        let refused = |peer: &Peer, name: &str, value: &str| {
            let request = Request::builder().header(name, value).body(()).unwrap();
            peer.check(&request).is_err()
        };
        for host in [
            "localhost:2375",
            "127.0.0.1:2375",
            "[::1]:2375",
            "::1",
            "docker",
            "10.0.0.1",
        ] {
            assert!(!refused(&remote(None), "Host", host), "{host}");
        }
        for host in [
            "evil.example:2375",
            "evil.example",
            "127.0.0.1.evil.example:2375",
        ] {
            assert!(refused(&remote(None), "Host", host), "{host}");
            assert!(!refused(&remote(Some("me")), "Host", host), "{host}");
            assert!(!refused(&local, "Host", host), "{host}");
        }
        for origin in ["https://evil.example", "null", "http://localhost:80"] {
            assert!(refused(&remote(None), "Origin", origin), "{origin}");
            assert!(!refused(&local, "Origin", origin), "{origin}");
        }
    }
}
