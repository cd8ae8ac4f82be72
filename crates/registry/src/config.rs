//! What the operator says of registries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Of all registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// By the registry's name in references: where to ask first, as `https://host[:port]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Names with their port, addresses, or networks (`10.0.0.0/8`), whose certificates are not
    /// looked at and that may do without TLS. Those of this host's loopback always are.
    pub insecure: Vec<String>,
    /// Directories with one directory for each registry, named `host[:port]`: `*.crt` are
    /// authorities, `*.cert` with `*.key` are who we are.
    pub certificates: Vec<PathBuf>,
}

/// Who asks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
    /// In place of a password: tokens are had with it.
    pub identity_token: String,
    /// To be shown as it is.
    pub registry_token: String,
}

/// Says whose, and never what.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Without its port.
pub(crate) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    }
}

impl Config {
    /// Whether a registry may do without TLS.
    #[must_use]
    pub fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|a| a.is_loopback()) {
            return true;
        }
        self.insecure.iter().any(|entry| {
            entry == authority
                || entry == host
                || address.is_some_and(|a| network_has(entry, a).unwrap_or(false))
        })
    }
}

fn network_has(network: &str, address: IpAddr) -> Option<bool> {
    let (base, length) = network.split_once('/')?;
    let length: u32 = length.parse().ok()?;
    let shifted = |bits: u128, width: u32| bits.checked_shr(width.checked_sub(length)?).or(Some(0));
    Some(match (base.parse().ok()?, address) {
        (IpAddr::V4(b), IpAddr::V4(a)) => {
            shifted(u32::from(b).into(), 32)? == shifted(u32::from(a).into(), 32)?
        }
        (IpAddr::V6(b), IpAddr::V6(a)) => shifted(b.into(), 128)? == shifted(a.into(), 128)?,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_without_tls() {
        let config = Config {
            insecure: vec![
                "a.test:5000".to_owned(),
                "10.1.0.0/16".to_owned(),
                "fd00::/8".to_owned(),
            ],
            ..Config::default()
        };
        for insecure in [
            "localhost:5000",
            "127.0.0.1",
            "[::1]:5000",
            "a.test:5000",
            "10.1.9.9:80",
            "[fd12::1]:80",
        ] {
            assert!(config.is_insecure(insecure), "{insecure}");
        }
        for secure in [
            "a.test",
            "a.test:443",
            "10.2.0.1",
            "[fe80::1]",
            "localhost.test",
        ] {
            assert!(!config.is_insecure(secure), "{secure}");
        }
    }
}
