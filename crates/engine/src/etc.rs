//! /etc/hosts and /etc/resolv.conf of a container. Pure, but for the host's own files.

use crate::model::{ContainerSpec, HostSpec, NetworkMode};

/// source: Docker's file in a container without a network.
pub(crate) fn hosts(spec: &ContainerSpec, hostname: &str) -> String {
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
        format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\t{name}\n"
        )
    };
    for extra in &spec.host.extra_hosts {
        // name:address; an address may hold colons itself
        if let Some((name, address)) = extra.split_once([':', '=']) {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    text
}

/// The host's, with what the user gave in its place.
pub(crate) fn resolv_conf(host: &HostSpec) -> String {
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    merged_resolv_conf(&own, host)
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
    fn extra_hosts_come_last() {
        let mut spec = ContainerSpec::default();
        spec.host.extra_hosts = vec!["db:2001:db8::1".to_owned(), "web=192.0.2.7".to_owned()];
        let text = hosts(&spec, "abc");
        assert!(
            text.ends_with("127.0.1.1\tabc\n2001:db8::1\tdb\n192.0.2.7\tweb\n"),
            "{text}"
        );
    }
}
