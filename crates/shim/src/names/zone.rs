//! Who is in a network, and what a container may ask.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Where a container's questions go that no network of its own answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Forward {
    /// To the host's servers, from the host: those at its loopback answer too.
    #[default]
    Host,
    /// To these, from the container's own network.
    Own(Vec<IpAddr>),
    /// Nowhere: its networks are internal.
    Nowhere,
}

/// What a container may ask: the text of its file, a word and its values in each line.
///
/// ```text
/// network <id>           a network that it is in
/// link <alias> <name>    a name of its own for another container
/// server <address>       asked from its own network, in place of the host's
/// internal               nothing is asked on
/// absolute               names without a dot are not asked on (options ndots:1 and more)
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub networks: Vec<String>,
    pub links: Vec<(String, String)>,
    pub forward: Forward,
    pub absolute: bool,
}

impl Config {
    /// Lines that aren't understood are passed over: a newer engine's.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        let mut servers = Vec::new();
        let mut internal = false;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["network", id] => out.networks.push(id.to_owned()),
                ["link", alias, name] => out.links.push((alias.to_owned(), name.to_owned())),
                ["server", address] => servers.extend(address.parse::<IpAddr>()),
                ["internal"] => internal = true,
                ["absolute"] => out.absolute = true,
                _ => {}
            }
        }
        if internal {
            out.forward = Forward::Nowhere;
        } else if !servers.is_empty() {
            out.forward = Forward::Own(servers);
        }
        out
    }

    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for id in &self.networks {
            out.push_str(&format!("network {id}\n"));
        }
        for (alias, name) in &self.links {
            out.push_str(&format!("link {alias} {name}\n"));
        }
        match &self.forward {
            Forward::Host => {}
            Forward::Own(servers) => {
                for server in servers {
                    out.push_str(&format!("server {server}\n"));
                }
            }
            Forward::Nowhere => out.push_str("internal\n"),
        }
        if self.absolute {
            out.push_str("absolute\n");
        }
        out
    }

    /// The name that a name of its own stands for, or the name itself.
    #[must_use]
    pub fn real<'a>(&'a self, name: &'a str) -> &'a str {
        let alias = self
            .links
            .iter()
            .find(|(a, _)| a.eq_ignore_ascii_case(name));
        alias.map_or(name, |(_, real)| real.as_str())
    }
}

/// The name of a network's file.
#[must_use]
pub fn file_name(network: &str) -> String {
    format!("{network}.hosts")
}

/// Members of one network, as the text of its file.
#[derive(Debug, Clone, Copy)]
pub struct Zone<'a> {
    network: &'a str,
    lines: &'a str,
}

/// A member as its line is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    pub addresses: Vec<IpAddr>,
    /// The first is the answer to a question for its address.
    pub names: Vec<String>,
}

impl<'a> Zone<'a> {
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let (first, lines) = text.split_once('\n').unwrap_or((text, ""));
        let network = first.strip_prefix("# ").unwrap_or("");
        Self { network, lines }
    }

    /// The text of a network's file. Names that could not stand in it are left out.
    #[must_use]
    pub fn text(network: &str, members: &[Member]) -> String {
        let mut out = format!("# {network}\n");
        for member in members {
            let mut seen = BTreeSet::new();
            let names: Vec<&str> = member
                .names
                .iter()
                .map(String::as_str)
                .filter(|n| !n.is_empty() && !n.contains(|c: char| c.is_whitespace()))
                .filter(|n| seen.insert(n.to_ascii_lowercase()))
                .collect();
            if names.is_empty() {
                continue;
            }
            for address in &member.addresses {
                out.push_str(&format!("{address} {}\n", names.join(" ")));
            }
        }
        out
    }

    /// Addresses by a name, also with the network's own name after it; of both families.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let network = self.network;
        let bare = name.len().checked_sub(network.len() + 1).filter(|at| {
            !network.is_empty()
                && name.as_bytes()[*at] == b'.'
                && name[*at + 1..].eq_ignore_ascii_case(network)
        });
        let bare = bare.map_or(name, |at| &name[..at]);
        let fits = |n: &str| n.eq_ignore_ascii_case(name) || n.eq_ignore_ascii_case(bare);
        let mut out = Vec::new();
        for line in self.lines.lines() {
            let mut words = line.split(' ');
            let address = words.next().unwrap_or("");
            if words.any(fits) {
                out.extend(address.parse::<IpAddr>());
            }
        }
        out
    }

    /// The name at an address, with the network's after it.
    #[must_use]
    pub fn name_at(&self, address: IpAddr) -> Option<String> {
        let text = address.to_string();
        let line = self.lines.lines().find_map(|line| {
            let rest = line.strip_prefix(text.as_str())?;
            rest.strip_prefix(' ')
        });
        let name = line?.split(' ').next()?;
        Some(format!("{name}.{}", self.network))
    }
}

/// The server that a line of resolv.conf(5) names.
#[must_use]
pub fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    let server = (words.next() == Some("nameserver")).then(|| words.next())??;
    server.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(addresses: &[&str], names: &[&str]) -> Member {
        Member {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    #[test]
    fn names_and_addresses_both_ways() {
        let text = Zone::text(
            "net.one",
            &[
                member(
                    &["10.1.0.2", "fd00::2"],
                    &["Web", "app", "0123456789ab", "web"],
                ),
                member(&["10.1.0.3"], &["db", "app"]),
                member(&["10.1.0.20"], &["x y"]),
            ],
        );
        assert_eq!(
            text,
            "# net.one\n10.1.0.2 Web app 0123456789ab\nfd00::2 Web app 0123456789ab\n10.1.0.3 db app\n"
        );
        let zone = Zone::new(&text);
        let of = |name: &str| -> Vec<String> {
            let all = zone.addresses(name);
            all.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of("web"), ["10.1.0.2", "fd00::2"]);
        assert_eq!(of("app"), ["10.1.0.2", "fd00::2", "10.1.0.3"]);
        assert_eq!(of("DB.Net.One"), ["10.1.0.3"]);
        for none in ["", "we", "one", "net.one", ".net.one", "x", "10.1.0.2"] {
            assert!(of(none).is_empty(), "{none}");
        }
        let at = |a: &str| zone.name_at(a.parse().unwrap());
        assert_eq!(at("fd00::2").as_deref(), Some("Web.net.one"));
        assert_eq!(at("10.1.0.3").as_deref(), Some("db.net.one"));
        assert_eq!(at("10.1.0.2").as_deref(), Some("Web.net.one"));
        assert_eq!(at("10.1.0.20"), None);
    }

    #[test]
    fn a_container_s_file_comes_back() {
        for forward in [
            Forward::Host,
            Forward::Nowhere,
            Forward::Own(vec![
                "192.0.2.1".parse().unwrap(),
                "fd00::1".parse().unwrap(),
            ]),
        ] {
            let config = Config {
                networks: vec!["a".into(), "b".into()],
                links: vec![("db".into(), "postgres".into())],
                forward,
                absolute: true,
            };
            assert_eq!(Config::parse(&config.text()), config);
            assert_eq!((config.real("DB"), config.real("web")), ("postgres", "web"));
        }
        assert_eq!(Config::parse("newer word\nserver x\n"), Config::default());
    }

    #[test]
    fn the_hosts_servers() {
        let text = "# nameserver 1.1.1.1\nnameserver 127.0.0.53\nsearch a\nnameserver fe80::1%eth0\nnameserver fd00::53\n";
        let all: Vec<IpAddr> = text.lines().filter_map(server).collect();
        assert_eq!(
            all,
            [
                "127.0.0.53".parse::<IpAddr>().unwrap(),
                "fd00::53".parse().unwrap()
            ]
        );
    }
}
