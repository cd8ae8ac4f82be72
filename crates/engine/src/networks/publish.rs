//! Ports of the host that lead to containers: sockets that keep them, and where they lead.
//!
//! The sockets are a container's for as long as it runs; where they lead follows from the networks
//! that it is in, and changes with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use net::ports::{self, PortError};
use net::{Protocol, Publication};

use super::record::Kept;
use super::{EndpointState, Membership, NetworkRecord, Networks, PublishPolicy};
use crate::error::Error;
use crate::model::{ContainerRecord, ErrorKind, PortSpec};

/// More descriptors than this go with no message to the shim.
const MOST_PORTS: usize = 200;

/// Reserves what the container asks for, where it has none yet, as far as its networks can lead to it;
/// and has it lead there. The sockets are for the shim to hold.
pub(super) fn reserve(
    networks: &Networks,
    record: &ContainerRecord,
    membership: &mut Membership,
) -> Result<Vec<OwnedFd>, Error> {
    let asked = ports_of(record);
    let Some(endpoint) = membership.publishing().cloned() else {
        refuse_above(membership, record)?;
        return Ok(Vec::new());
    };
    let network = networks.find(&endpoint.network_id)?;
    let mut sockets = Vec::new();
    if !membership.kept.is_empty() {
        lead(networks, record, membership);
        return Ok(sockets);
    }
    for port in &asked {
        let hosts = hosts_of(port, network.options().host_binding)?;
        let hosts = families(port, hosts, &endpoint, &network)?;
        let (low, high) = port.host_range()?;
        let mut refused = None;
        for wanted in low..=high {
            match reserve_at(networks, port, &hosts, wanted) {
                Ok((kept, held)) => {
                    membership.kept.extend(kept);
                    sockets.extend(held);
                    refused = None;
                    break;
                }
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
    }
    if sockets.len() > MOST_PORTS {
        return Err(Error::unsupported(format!(
            "{} published ports: more than {MOST_PORTS} of one container are not built yet",
            sockets.len()
        )));
    }
    lead(networks, record, membership);
    Ok(sockets)
}

/// Whose links are above an interface of the host is a neighbour of what is there: no port of the
/// host leads to it.
fn refuse_above(membership: &Membership, record: &ContainerRecord) -> Result<(), Error> {
    let above = membership.endpoints.iter().find(|e| e.above.is_some());
    match above {
        Some(e) if !record.spec.host.ports.is_empty() => Err(Error::invalid(format!(
            "ports cannot be published in the network {}: its members have addresses of their own beside the host's; leave --publish out, or connect a network of the driver bridge too",
            e.network
        ))),
        _ => Ok(()),
    }
}

/// Of the addresses of the host, those that can lead to the container: it has an address of the
/// family, and the network is not one whose members are reached by their own.
fn families(
    port: &PortSpec,
    hosts: Vec<IpAddr>,
    endpoint: &EndpointState,
    network: &NetworkRecord,
) -> Result<Vec<IpAddr>, Error> {
    let options = network.options();
    let has = |h: &IpAddr| endpoint.address(h.is_ipv4()).is_some();
    if !hosts.iter().any(has) {
        return Err(Error::invalid(format!(
            "cannot publish {}/{} at {}: the network {} has no address of that family",
            port.container, port.protocol, port.host_ip, endpoint.network
        )));
    }
    let mut hosts = hosts;
    hosts.retain(|h| has(h) && !options.is_routed(h.is_ipv4()));
    Ok(hosts)
}

/// Has the ports lead to where the container is now.
pub(super) fn lead(networks: &Networks, record: &ContainerRecord, membership: &mut Membership) {
    membership.ports.clear();
    let Some(endpoint) = membership.publishing().cloned() else {
        return;
    };
    let Ok(network) = networks.find(&endpoint.network_id) else {
        return;
    };
    let options = network.options();
    let to = |host: IpAddr, port: u16| {
        let address = endpoint.address(host.is_ipv4())?.address;
        let routed = options.is_routed(host.is_ipv4());
        Some((SocketAddr::new(address, port), routed))
    };
    let mut ports = Vec::new();
    for kept in &membership.kept {
        if let Some((to, false)) = to(kept.host, kept.to) {
            ports.push(Publication {
                protocol: kept.protocol,
                host: kept.host,
                port: kept.port,
                to,
            });
        }
    }
    for port in ports_of(record) {
        for host in hosts_of(&port, None).unwrap_or_default() {
            if let Some((to, true)) = to(host, port.container) {
                ports.push(Publication {
                    protocol: port.protocol,
                    host: unspecified(host),
                    port: 0,
                    to,
                });
            }
        }
    }
    ports.dedup();
    membership.ports = ports;
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Those that are asked for, and with `-P` all exposed ones.
fn ports_of(record: &ContainerRecord) -> Vec<PortSpec> {
    let host = &record.spec.host;
    let mut all = host.ports.clone();
    if host.publish_all {
        let exposed = record.spec.exposed_ports.iter();
        for port in exposed.filter_map(|p| PortSpec::exposed(p)) {
            let known = |p: &PortSpec| (p.container, p.protocol) == (port.container, port.protocol);
            if !all.iter().any(known) {
                all.push(port);
            }
        }
    }
    all
}

fn hosts_of(port: &PortSpec, binding: Option<IpAddr>) -> Result<Vec<IpAddr>, Error> {
    if !port.host_ip.is_empty() {
        let address = port.host_ip.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = address
            .parse()
            .map_err(|_| Error::invalid(format!("invalid host IP address: {}", port.host_ip)))?;
        if address == IpAddr::V6(Ipv6Addr::LOCALHOST) {
            return Err(Error::unsupported(
                "ports are not published at [::1] alone: the kernel leads nothing from there to a container; publish at 127.0.0.1, or name no address, which serves [::1] too",
            ));
        }
        return Ok(vec![address]);
    }
    Ok(match binding {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    })
}

/// One port on all its addresses; `wanted` 0: any that is free on all of them.
fn reserve_at(
    networks: &Networks,
    port: &PortSpec,
    hosts: &[IpAddr],
    wanted: u16,
) -> Result<(Vec<Kept>, Vec<OwnedFd>), Error> {
    let (mut kept, mut held) = (Vec::new(), Vec::new());
    let mut number = wanted;
    let everywhere4 = hosts.contains(&Ipv4Addr::UNSPECIFIED.into());
    let everywhere6 = hosts.contains(&Ipv6Addr::UNSPECIFIED.into());
    let by_input = networks.settings.publish == PublishPolicy::Input;
    if by_input && port.protocol != Protocol::Tcp {
        return Err(Error::unsupported(format!(
            "the port {}/{} cannot be published: with --publish-policy=input only those of TCP can, since the shim passes connections on",
            port.container, port.protocol
        )));
    }
    for host in hosts {
        let socket = ports::reserve(port.protocol, *host, number);
        let socket = socket.map_err(|e| not_had(networks, port, e))?;
        number = match socket {
            Some((socket, bound)) => {
                let both = everywhere4 && host.is_ipv6() && host.is_unspecified();
                if (both || by_input) && port.protocol == Protocol::Tcp {
                    ports::listen(&socket).map_err(Error::io("listen at a published port"))?;
                }
                held.push(socket);
                bound
            }
            None => networks.free_port(port, *host, number)?,
        };
        kept.push(Kept {
            protocol: port.protocol,
            host: *host,
            port: number,
            to: port.container,
        });
    }
    if everywhere4 && !everywhere6 && port.protocol == Protocol::Tcp {
        // a name for this host means ::1 first; where that is another's, it stays so
        held.extend(ports::listen_at_loopback6(number));
    }
    Ok((kept, held))
}

impl Networks {
    /// Of a protocol that the host's kernel has no sockets for: nothing but other containers can be in
    /// the way.
    fn free_port(&self, port: &PortSpec, host: IpAddr, wanted: u16) -> Result<u16, Error> {
        let state = self.state();
        let taken = |number: u16| {
            let all = state.attached.values();
            all.flat_map(|a| a.kept.iter().map(move |k| (a, k)))
                .find(|(_, k)| {
                    let overlap =
                        k.host == host || k.host.is_unspecified() || host.is_unspecified();
                    (k.protocol, k.port) == (port.protocol, number)
                        && k.host.is_ipv4() == host.is_ipv4()
                        && overlap
                })
                .map(|(a, _)| a.name.clone())
        };
        if wanted == 0 {
            let free = (FIRST_FREE..=u16::MAX).find(|n| taken(*n).is_none());
            return free.ok_or_else(|| Error::conflict("all ports of the host are taken"));
        }
        match taken(wanted) {
            None => Ok(wanted),
            Some(holder) => Err(in_use(
                SocketAddr::new(host, wanted),
                &format!("container {holder}"),
            )),
        }
    }
}

/// Where the kernel's own choice of a port begins, unless it was told otherwise. source: ip(7)
const FIRST_FREE: u16 = 32768;

/// In Docker's words, with who has it.
fn not_had(networks: &Networks, port: &PortSpec, error: PortError) -> Error {
    let PortError::InUse {
        address, holder, ..
    } = &error
    else {
        return Error::caused(ErrorKind::InvalidArgument, "publish a port", error);
    };
    let state = networks.state();
    let same = |p: &Kept| {
        (p.port, p.protocol) == (address.port(), port.protocol)
            && p.host.is_ipv4() == address.is_ipv4()
    };
    let mut all = state.attached.values();
    let container = all.find(|a| a.kept.iter().any(same));
    let holder = match container {
        Some(a) => format!("container {}", a.name),
        None => holder.clone(),
    };
    in_use(*address, &holder)
}

fn in_use(address: SocketAddr, holder: &str) -> Error {
    Error::conflict(format!(
        "Bind for {address} failed: port is already allocated: it is in use by {holder}"
    ))
}
