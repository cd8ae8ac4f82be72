//! `--link` on the default network, of old: a line in /etc/hosts for another container, and variables
//! that tell of it. In users' networks a link is a name that the name server knows.
//!
//! source: Docker's "Legacy container links"

use std::net::IpAddr;

use crate::error::Error;
use crate::etc;
use crate::inner::Inner;
use crate::model::{ContainerRecord, PortSpec};
use crate::networks::BRIDGE;

/// Variables of the other container that say nothing of it.
const OWN: [&str; 2] = ["HOME", "PATH"];

/// Another container, as one that is linked to it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linked {
    pub(crate) address: IpAddr,
    /// Alias, short id and name, as in a line of /etc/hosts.
    pub(crate) names: String,
    pub(crate) environment: Vec<String>,
}

/// `container[:alias]`
pub(crate) fn split(link: &str) -> (&str, &str) {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    (name.trim_start_matches('/'), alias.trim_start_matches('/'))
}

/// All that a container is linked to.
///
/// # Errors
/// One does not run, or is not in the default network.
pub(crate) fn of(inner: &Inner, record: &ContainerRecord) -> Result<Vec<Linked>, Error> {
    let links = record.spec.host.links.iter();
    links.map(|link| one(inner, record, link)).collect()
}

fn one(inner: &Inner, record: &ContainerRecord, link: &str) -> Result<Linked, Error> {
    let (name, alias) = split(link);
    let view = inner.containers.find(name)?.view.load_full();
    let address = address_of(inner, view.id()).filter(|_| view.is_running());
    let address = address.ok_or_else(|| {
        Error::conflict(format!(
            "Cannot link to a non running container: /{} AS /{}/{alias}",
            view.name(),
            record.name
        ))
    })?;
    Ok(Linked {
        address,
        names: names(&view.record, alias),
        environment: environment(record, &view.record, alias, address),
    })
}

/// In the default network.
fn address_of(inner: &Inner, id: &str) -> Option<IpAddr> {
    let membership = inner.networks.membership(id)?;
    let place = membership.endpoints.iter().find(|e| e.network == BRIDGE)?;
    place.address(true).map(|p| p.address)
}

fn names(other: &ContainerRecord, alias: &str) -> String {
    let short = other.id.get(..12).unwrap_or(&other.id);
    let mut all = vec![alias, short];
    if other.name != alias {
        all.push(&other.name);
    }
    all.join(" ")
}

/// `DB_PORT_80_TCP_ADDR=172.17.0.2`, and its like.
fn environment(
    record: &ContainerRecord,
    other: &ContainerRecord,
    alias: &str,
    address: IpAddr,
) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut out = vec![format!("{prefix}_NAME=/{}/{alias}", record.name)];
    let exposed = other.spec.exposed_ports.iter();
    let mut ports: Vec<PortSpec> = exposed.filter_map(|p| PortSpec::exposed(p)).collect();
    ports.sort_by_key(|p| (p.container, p.protocol));
    for (index, port) in ports.iter().enumerate() {
        let (number, protocol) = (port.container, port.protocol.name());
        let to = format!("{protocol}://{address}:{number}");
        if index == 0 {
            out.push(format!("{prefix}_PORT={to}"));
        }
        let own = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        out.push(format!("{own}={to}"));
        out.push(format!("{own}_ADDR={address}"));
        out.push(format!("{own}_PORT={number}"));
        out.push(format!("{own}_PROTO={protocol}"));
    }
    let theirs = other.spec.env.iter().filter_map(|e| e.split_once('='));
    let telling = theirs.filter(|(key, _)| !OWN.contains(key));
    out.extend(telling.map(|(key, value)| format!("{prefix}_ENV_{key}={value}")));
    out
}

/// Whether anything is linked to anything.
pub(crate) fn any(inner: &Inner) -> bool {
    let views = inner.containers.views();
    views.iter().any(|v| !v.record.spec.host.links.is_empty())
}

/// A container has an address now: those that are linked to it and run learn of it.
pub(crate) fn announce(inner: &Inner, other: &ContainerRecord) {
    let Some(address) = address_of(inner, &other.id) else {
        return;
    };
    for view in inner.containers.views().iter().filter(|v| v.is_running()) {
        let record = &view.record;
        for link in &record.spec.host.links {
            let (name, alias) = split(link);
            let meant = inner.containers.find(name);
            if !meant.is_ok_and(|m| *m.id == *other.id) {
                continue;
            }
            let path = crate::container::paths(inner, record).hosts;
            let renewed = etc::readdress(&path, &names(other, alias), address);
            if let Err(error) = renewed {
                tracing::warn!(
                    container = record.name, linked = other.name, error = %error.report(),
                    "its /etc/hosts has an old address"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_says() {
        assert_eq!(split("db"), ("db", "db"));
        assert_eq!(split("/db:/sql"), ("db", "sql"));
    }
}
