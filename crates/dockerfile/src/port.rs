//! Ports of `EXPOSE`. source: Dockerfile reference, "EXPOSE"

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::error::PortProblem;

/// All ports of tcp, udp and sctp are fewer.
const PORT_LIMIT: usize = 1 << 18;

/// One argument of `EXPOSE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port<'a> {
    /// As written; `tcp` where nothing is.
    pub(crate) protocol: &'a str,
    pub(crate) ports: RangeInclusive<u16>,
    /// `ip:host:container` or `host:container`: accepted for what was accepted once.
    pub(crate) has_host: bool,
}

/// `80`, `80/udp`, `8000-8010/tcp`, as the keys of an image's `ExposedPorts`: `80/tcp`.
///
/// # Errors
/// What is no port, no protocol, or too many of them.
pub fn exposed(specs: &[String]) -> Result<Vec<String>, PortProblem> {
    let mut out = Vec::new();
    for spec in specs {
        let port = parse(spec)?;
        let protocol = port.protocol.to_lowercase();
        if out.len() + port.ports.len() > PORT_LIMIT {
            return Err(PortProblem::TooMany(PORT_LIMIT));
        }
        out.extend(port.ports.map(|number| format!("{number}/{protocol}")));
    }
    Ok(out)
}

pub(crate) fn parse(spec: &str) -> Result<Port<'_>, PortProblem> {
    let (before, container) = match spec.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, spec),
    };
    let (ip, host) = match before.map(|b| b.rsplit_once(':').unwrap_or(("", b))) {
        Some((ip, host)) => (ip, host),
        None => ("", ""),
    };
    let (container, protocol) = match container.split_once('/') {
        Some((container, protocol)) => (container, protocol),
        None => (container, ""),
    };
    if container.is_empty() {
        return Err(PortProblem::Missing(spec.to_owned()));
    }
    let protocol = if protocol.is_empty() { "tcp" } else { protocol };
    if !["tcp", "udp", "sctp"].contains(&protocol.to_lowercase().as_str()) {
        return Err(PortProblem::Protocol {
            port: spec.to_owned(),
            protocol: protocol.to_owned(),
        });
    }
    if !ip.is_empty() {
        let bare = ip.strip_prefix('[').and_then(|i| i.strip_suffix(']'));
        if bare.unwrap_or(ip).parse::<IpAddr>().is_err() {
            return Err(PortProblem::Address(ip.to_owned()));
        }
    }
    let ports = range(container).ok_or_else(|| PortProblem::Container(container.to_owned()))?;
    if !host.is_empty() {
        let hosts = range(host).ok_or_else(|| PortProblem::Host(host.to_owned()))?;
        if ports.len() != hosts.len() && ports.len() != 1 {
            return Err(PortProblem::Ranges {
                container: container.to_owned(),
                host: host.to_owned(),
            });
        }
    }
    Ok(Port {
        protocol,
        ports,
        has_host: before.is_some_and(|b| !b.is_empty()),
    })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(spec: &str) -> Result<String, String> {
        exposed(&[spec.to_owned()])
            .map(|p| p.join(" "))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn are_read() {
        for (spec, expected) in [
            ("80", "80/tcp"),
            ("80/UDP", "80/udp"),
            ("80/", "80/tcp"),
            ("8000-8002/sctp", "8000/sctp 8001/sctp 8002/sctp"),
            ("127.0.0.1:80:81", "81/tcp"),
            ("[::1]:8080:8081/udp", "8081/udp"),
            ("::1:8080:8081", "8081/tcp"),
            ("8080-8090:80", "80/tcp"),
            (":80", "80/tcp"),
        ] {
            assert_eq!(ports(spec), Ok(expected.to_owned()), "{spec}");
        }
    }

    #[test]
    fn are_refused() {
        for spec in [
            "",
            "/tcp",
            "x",
            "80/foo",
            "65536",
            "-1",
            "+80",
            "90-80",
            "80-",
            "1.2.3:80:80",
            "a:80",
            "80-82:90-91",
            "80:",
        ] {
            assert!(ports(spec).is_err(), "{spec}");
        }
        let many = vec!["0-65535".to_owned(); 5];
        assert_eq!(exposed(&many), Err(PortProblem::TooMany(PORT_LIMIT)));
    }
}
