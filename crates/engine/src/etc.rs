//! /etc/hosts and /etc/resolv.conf of a container. Pure, but for the host's own files.

use std::net::IpAddr;
use std::path::Path;

use shim::names::zone;

use crate::error::Error;
use crate::links::Linked;
use crate::model::{ContainerSpec, HostSpec, NetworkMode};
use crate::networks::{Membership, Networks};

/// hosts and resolv.conf of a container in these networks; absent: of none of ours.
pub(crate) fn texts(
    spec: &ContainerSpec,
    hostname: &str,
    membership: Option<&Membership>,
    networks: &Networks,
    links: &[Linked],
) -> Result<[String; 2], Error> {
    let addresses: Vec<_> = membership.iter().flat_map(|m| m.addresses()).collect();
    let mut hosts = hosts(spec, hostname, &addresses, &networks.host_gateway())?;
    for link in links {
        hosts.push_str(&format!("{}\t{}\n", link.address, link.names));
    }
    Ok([
        hosts,
        resolv_conf(
            &networks.settings.with_dns(&spec.host),
            Resolver::of(membership),
        ),
    ])
}

/// Gives the line of these names in a container's /etc/hosts another address.
pub(crate) fn readdress(path: &Path, names: &str, address: IpAddr) -> Result<(), Error> {
    let failed = |what: &str| Error::io(format!("{what} {}", path.display()));
    let old = std::fs::read_to_string(path).map_err(failed("read"))?;
    let lines = old.lines().map(|line| match line.split_once('\t') {
        Some((_, of)) if of == names => format!("{address}\t{names}\n"),
        _ => format!("{line}\n"),
    });
    let new: String = lines.collect();
    if new == old {
        return Ok(());
    }
    // in place: the container has this very file mounted
    std::fs::write(path, new).map_err(failed("write"))
}

/// `addresses`: its own in its networks. `gateways`: what `host-gateway` of an extra host means.
///
/// source: Docker's file in a container.
fn hosts(
    spec: &ContainerSpec,
    hostname: &str,
    addresses: &[IpAddr],
    gateways: &[IpAddr],
) -> Result<String, Error> {
    let mut text = if spec.host.network == NetworkMode::Host {
        let mut host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        if !host.is_empty() && !host.ends_with('\n') {
            host.push('\n');
        }
        host
    } else {
        let name = if spec.domainname.is_empty() {
            hostname.to_owned()
        } else {
            format!("{hostname}.{} {hostname}", spec.domainname)
        };
        let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_owned();
        if addresses.is_empty() {
            text.push_str(&format!("127.0.1.1\t{name}\n"));
        }
        for address in addresses {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        text
    };
    for extra in &spec.host.extra_hosts {
        // name:address; an address may hold colons itself
        if let Some((name, address)) = extra.split_once([':', '=']) {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            if address != "host-gateway" {
                text.push_str(&format!("{address}\t{name}\n"));
            } else if gateways.is_empty() {
                return Err(Error::invalid(
                    "--add-host host-gateway: this engine has no default network, whose gateway it would be; name an address (--host-gateway-ip)",
                ));
            }
            for gateway in gateways.iter().filter(|_| address == "host-gateway") {
                text.push_str(&format!("{gateway}\t{name}\n"));
            }
        }
    }
    Ok(text)
}

/// Where systemd's resolver keeps what it forwards to.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Whom a container asks for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    /// The host's servers, in the host's network.
    Host,
    /// The host's servers, from a network of its own.
    Network,
    /// The name server that its shim is.
    Own,
}

impl Resolver {
    fn of(membership: Option<&Membership>) -> Self {
        match membership {
            None => Self::Host,
            Some(m) if m.has_names() => Self::Own,
            Some(_) => Self::Network,
        }
    }
}

/// The host's, with what the user gave in its place. From a network of its own a
/// container does not reach a server at the host's loopback: those are left out, and where there is
/// no other, those are taken that systemd's resolver asks.
fn resolv_conf(host: &HostSpec, resolver: Resolver) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let own = read("/etc/resolv.conf");
    match resolver {
        Resolver::Host => merged_resolv_conf(&own, host),
        Resolver::Own => own_resolv_conf(&own, host),
        Resolver::Network => {
            let mut own = without_loopback(&own);
            if !own.lines().any(|l| l.starts_with("nameserver")) {
                let servers = without_loopback(&read(RESOLVED));
                let servers = servers.lines().filter(|l| l.starts_with("nameserver"));
                own.extend(servers.flat_map(|l| [l, "\n"]));
            }
            merged_resolv_conf(&own, host)
        }
    }
}

/// Names without a dot are asked for as they are: they are other containers'. Unless the user, or the
/// host, says otherwise.
fn own_resolv_conf(own: &str, host: &HostSpec) -> String {
    let host = HostSpec {
        dns: vec![net::resolver::ADDRESS.to_string()],
        ..host.clone()
    };
    let text = merged_resolv_conf(own, &host);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_by_key(|l| !l.starts_with("nameserver"));
    let is_options = |l: &&mut String| l.starts_with("options");
    match lines.iter_mut().find(is_options) {
        Some(line) if !line.contains("ndots:") => line.push_str(" ndots:0"),
        Some(_) => {}
        None => lines.push("options ndots:0".to_owned()),
    }
    lines.join("\n") + "\n"
}

/// Dots that a name must have to be asked for as it is, where the user says.
pub(crate) fn ndots(host: &HostSpec) -> u32 {
    let mut all = host
        .dns_options
        .iter()
        .filter_map(|o| o.strip_prefix("ndots:"));
    let last = all.next_back();
    last.and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn without_loopback(text: &str) -> String {
    let is_reached = |line: &&str| zone::server(line).is_none_or(|s| !s.is_loopback());
    let lines = text.lines().filter(is_reached);
    lines.flat_map(|l| [l, "\n"]).collect()
}

fn merged_resolv_conf(own: &str, host: &HostSpec) -> String {
    let mut text = String::new();
    let keep = |line: &&str| {
        let word = line.split_whitespace().next().unwrap_or("");
        match word {
            "nameserver" => host.dns.is_empty(),
            "search" | "domain" => host.dns_search.is_empty(),
            "options" => host.dns_options.is_empty(),
            _ => false,
        }
    };
    for line in own.lines().filter(keep) {
        text.push_str(line);
        text.push('\n');
    }
    for server in &host.dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // `.` alone means: no search list
    let search: Vec<&str> = host
        .dns_search
        .iter()
        .map(String::as_str)
        .filter(|s| *s != ".")
        .collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !host.dns_options.is_empty() {
        text.push_str(&format!("options {}\n", host.dns_options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_given_replaces_the_host_s() {
        let own = "# made by hand\nnameserver 192.0.2.1\nsearch example.org\noptions ndots:2\n";
        let mut host = HostSpec::default();
        assert_eq!(
            merged_resolv_conf(own, &host),
            "nameserver 192.0.2.1\nsearch example.org\noptions ndots:2\n"
        );
        host.dns = vec!["192.0.2.53".to_owned()];
        host.dns_search = vec![".".to_owned()];
        assert_eq!(
            merged_resolv_conf(own, &host),
            "options ndots:2\nnameserver 192.0.2.53\n"
        );
    }

    #[test]
    fn a_server_of_its_own_and_names_without_dots() {
        let own = "nameserver 192.0.2.1\nsearch example.org\noptions edns0\n";
        let mut host = HostSpec::default();
        assert_eq!(
            own_resolv_conf(own, &host),
            "nameserver 127.0.0.11\nsearch example.org\noptions edns0 ndots:0\n"
        );
        assert_eq!(
            own_resolv_conf("", &host),
            "nameserver 127.0.0.11\noptions ndots:0\n"
        );
        host.dns_options = vec!["ndots:3".to_owned()];
        assert_eq!(ndots(&host), 3);
        assert_eq!(
            own_resolv_conf(own, &host),
            "nameserver 127.0.0.11\nsearch example.org\noptions ndots:3\n"
        );
    }

    #[test]
    fn extra_hosts_come_last() {
        let mut spec = ContainerSpec::default();
        spec.host.extra_hosts = vec!["db:2001:db8::1".to_owned(), "web=192.0.2.7".to_owned()];
        let text = hosts(&spec, "abc", &[], &[]).unwrap();
        assert!(
            text.ends_with("127.0.1.1\tabc\n2001:db8::1\tdb\n192.0.2.7\tweb\n"),
            "{text}"
        );
    }

    #[test]
    fn its_own_addresses_and_the_hosts() {
        let mut spec = ContainerSpec::default();
        spec.host.extra_hosts = vec!["up:host-gateway".to_owned()];
        let own = ["172.17.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts(&spec, "abc", &own, &["172.17.0.1".parse().unwrap()]).unwrap();
        assert!(
            text.ends_with("ip6-allrouters\n172.17.0.2\tabc\nfd00::2\tabc\n172.17.0.1\tup\n"),
            "{text}"
        );
        assert!(hosts(&spec, "abc", &own, &[]).is_err());
    }

    #[test]
    fn servers_at_the_hosts_loopback_are_left_out() {
        let text =
            "nameserver 127.0.0.53\nsearch example.org\nnameserver 192.0.2.1\nnameserver ::1\n";
        assert_eq!(
            without_loopback(text),
            "search example.org\nnameserver 192.0.2.1\n"
        );
    }
}
