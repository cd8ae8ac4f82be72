//! The host's side: bridges, a container's links, what the kernel must be told once.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::addr::{Mac, Prefix};
use crate::message::Batch;
use crate::names::Instance;
use crate::netns::{Namespace, NamespaceError};
use crate::route::{Above, Base, Bridge, Link, Veth};
use crate::socket::{NetlinkError, Socket};

/// Why the host could not be made so.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error("there is no bridge {0}: somebody has deleted it")]
    NoBridge(String),
    #[error("the interface {name} is there and is no bridge of this engine: name another one")]
    Foreign { name: String },
    #[error("there is no interface {0} on this host for the network to be above")]
    NoParent(String),
    #[error("set {what}")]
    Setting {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what}")]
    Step {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

fn step(what: &'static str) -> Result<(), HostError> {
    sys::fault::point(what).map_err(|source| HostError::Step { what, source })
}

/// A container's link to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub joint: Joint,
    /// Name in the container.
    pub name: String,
    /// Absent: that of the interface below.
    pub mac: Option<Mac>,
    /// 0: the kernel's.
    pub mtu: u32,
    pub addresses: Vec<Prefix>,
    /// Default routes through this link; an unspecified address: by the link itself.
    pub gateways: Vec<IpAddr>,
    /// Settings of the kernel in the container, of this interface: `net.ipv4.conf.IFNAME...`.
    pub sysctls: Vec<(String, String)>,
}

/// What a container's link is joined to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joint {
    /// It is one end of a pair; the other is a port of a bridge.
    Port {
        bridge: String,
        /// Name of the host's end.
        host: String,
        /// Other members are not reached through the bridge.
        isolated: bool,
    },
    /// It is above an interface of the host.
    Above { parent: String, how: Above },
}

fn set(path: &str, value: &str) -> Result<(), HostError> {
    let file = format!("/proc/sys/{path}");
    std::fs::write(&file, value).map_err(|source| HostError::Setting {
        what: path.replace('/', "."),
        source,
    })
}

fn get(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default()
}

/// Has the host forward packets, without which nothing reaches a container. True: it did not before,
/// so others must not find a router here now.
///
/// # Errors
/// The settings cannot be written.
pub fn forward() -> Result<bool, HostError> {
    let was_off = get("net/ipv4/ip_forward").trim() == "0";
    if was_off {
        set("net/ipv4/ip_forward", "1")?;
    }
    Ok(was_off)
}

/// As [`forward`], of IPv6; only once a network has it: a host that forwards takes no more routes
/// from advertisements unless it is told to.
///
/// # Errors
/// The settings cannot be written.
pub fn forward6() -> Result<(), HostError> {
    if get("net/ipv6/conf/all/forwarding").trim() == "0" {
        for kind in ["all", "default"] {
            let accepts = format!("net/ipv6/conf/{kind}/accept_ra");
            if get(&accepts).trim() == "1" {
                set(&accepts, "2")?;
            }
        }
        set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Makes bridges, or makes those that are there so. One that another engine or person made under
/// this name is left alone.
///
/// # Errors
/// The kernel refuses, or the name is somebody else's.
pub fn put_bridges(bridges: &[Bridge]) -> Result<(), HostError> {
    if bridges.is_empty() {
        return Ok(());
    }
    let socket = Socket::route()?;
    let there = socket.links()?;
    let mut batch = Batch::default();
    for bridge in bridges {
        let found = there.iter().find(|l| l.name == bridge.name);
        if found.is_some_and(|l| l.kind != "bridge" || l.group != bridge.group) {
            return Err(HostError::Foreign {
                name: bridge.name.clone(),
            });
        }
        batch.bridge(bridge);
    }
    step("net.bridge.create")?;
    socket.run(&batch, "make the bridges")?;
    let links = socket.links()?;
    let have = socket.addresses()?;
    let mut batch = Batch::default();
    for bridge in bridges {
        let link = links.iter().find(|l| l.name == bridge.name);
        let index = link
            .ok_or_else(|| HostError::NoBridge(bridge.name.clone()))?
            .index;
        for (_, old) in have.iter().filter(|(of, _)| *of == index) {
            let own = matches!(old.address, IpAddr::V6(a) if a.is_unicast_link_local());
            if !own && !bridge.addresses.contains(old) {
                batch.delete_address(index, *old);
            }
        }
        if bridge.addresses.iter().any(|a| a.address.is_ipv6()) {
            // a host may have it off for interfaces that it does not know
            set(&format!("net/ipv6/conf/{}/disable_ipv6", bridge.name), "0")?;
        }
        for address in &bridge.addresses {
            batch.address(index, *address);
        }
        // 127.0.0.1's published ports leave by it; a guard keeps members from coming back that way
        set(
            &format!("net/ipv4/conf/{}/route_localnet", bridge.name),
            "1",
        )?;
    }
    step("net.bridge.address")?;
    Ok(socket.run(&batch, "give the bridges their addresses")?)
}

/// Links of ours that are not wanted: bridges of networks that are gone, ends of pairs.
///
/// # Errors
/// The kernel refuses.
pub fn remove_strays(
    instance: &Instance,
    wanted: &BTreeSet<String>,
) -> Result<Vec<String>, HostError> {
    let socket = Socket::route()?;
    let mut batch = Batch::default();
    let mut gone = Vec::new();
    for link in ours(&socket, instance)? {
        if !wanted.contains(&link.name) {
            batch.delete_link(link.index);
            gone.push(link.name);
        }
    }
    match socket.run(&batch, "remove stray links") {
        // a pair goes by itself with its namespace
        Err(e) if e.errno() != rustix::io::Errno::NODEV.raw_os_error() => Err(e.into()),
        _ => Ok(gone),
    }
}

/// Links of this instance.
///
/// # Errors
/// The kernel refuses.
pub fn ours(socket: &Socket, instance: &Instance) -> Result<Vec<Link>, NetlinkError> {
    let group = instance.group();
    let mut links = socket.links()?;
    links.retain(|l| l.group == group);
    Ok(links)
}

/// Removes a link by its name; there need be none.
///
/// # Errors
/// The kernel refuses.
pub fn remove_link(name: &str) -> Result<(), HostError> {
    remove_from(&Socket::route()?, name)
}

fn remove_from(socket: &Socket, name: &str) -> Result<(), HostError> {
    let mut batch = Batch::default();
    batch.delete_link_named(name);
    match socket.run(&batch, &format!("remove the link {name}")) {
        Err(e) if e.errno() != rustix::io::Errno::NODEV.raw_os_error() => Err(e.into()),
        _ => Ok(()),
    }
}

/// Links a container to its networks: one batch in the host's namespace, one in the container's.
/// `defaults`: next hops of default routes that go first (of another link than those given).
///
/// # Errors
/// The kernel refuses; nothing of it is left then.
pub fn connect(
    instance: &Instance,
    namespace: &Namespace,
    endpoints: &[Endpoint],
) -> Result<(), HostError> {
    let host = Socket::route()?;
    let mut batch = Batch::default();
    for endpoint in endpoints {
        join(&host, &mut batch, instance, namespace, endpoint)?;
    }
    step("net.veth.create")?;
    let done = host
        .run(&batch, "link the container to its networks")
        .map_err(HostError::from)
        .and_then(|()| address(namespace, endpoints));
    if done.is_err() {
        for endpoint in endpoints {
            // the error that is told is the first
            drop(disconnect(namespace, endpoint));
        }
    }
    done
}

fn join(
    host: &Socket,
    batch: &mut Batch,
    instance: &Instance,
    namespace: &Namespace,
    endpoint: &Endpoint,
) -> Result<(), HostError> {
    use std::os::fd::AsFd;
    match &endpoint.joint {
        Joint::Port {
            bridge,
            host: end,
            isolated,
        } => {
            let found = host.link(bridge)?;
            let found = found.ok_or_else(|| HostError::NoBridge(bridge.clone()))?;
            let veth = Veth {
                host: end.clone(),
                name: endpoint.name.clone(),
                mac: endpoint.mac.unwrap_or_else(|| Mac::derived(end)),
                group: instance.group(),
                mtu: endpoint.mtu,
                bridge: found.index,
                isolated: *isolated,
            };
            batch.veth(&veth, namespace.as_fd());
        }
        Joint::Above { parent, how } => {
            let found = host.link(parent)?;
            let found = found.ok_or_else(|| HostError::NoParent(parent.clone()))?;
            let left = namespace.route.link(&endpoint.name)?;
            if left.is_some_and(|l| l.kind == how.kind()) {
                // of a change that was cut short
                remove_from(&namespace.route, &endpoint.name)?;
            }
            batch.above(
                *how,
                found.index,
                &endpoint.name,
                endpoint.mac,
                endpoint.mtu,
                namespace.as_fd(),
            );
        }
    }
    Ok(())
}

/// Takes a link away from a container; there need be none.
///
/// # Errors
/// The kernel refuses.
pub fn disconnect(namespace: &Namespace, endpoint: &Endpoint) -> Result<(), HostError> {
    match &endpoint.joint {
        Joint::Port { host, .. } => remove_link(host),
        Joint::Above { .. } => remove_from(&namespace.route, &endpoint.name),
    }
}

/// Makes the interface that a network is above, where it is one of ours to make: `eth0.10` is
/// VLAN 10 of `eth0`; one that leads nowhere is a dummy. One that is there is taken as it is.
///
/// # Errors
/// The kernel refuses, or what it would be above is not there.
pub fn put_base(instance: &Instance, name: &str, dummy: bool) -> Result<(), HostError> {
    let socket = Socket::route()?;
    if socket.link(name)?.is_some() {
        return Ok(());
    }
    let vlan = || {
        let (below, id) = name.rsplit_once('.')?;
        let id = id.parse().ok().filter(|id| (1..4095).contains(id))?;
        Some((below, id))
    };
    let base = match vlan() {
        _ if dummy => Base::Dummy,
        Some((below, id)) => {
            let found = socket.link(below)?;
            let found = found.ok_or_else(|| HostError::NoParent(below.to_owned()))?;
            Base::Vlan {
                below: found.index,
                id,
            }
        }
        None => return Err(HostError::NoParent(name.to_owned())),
    };
    let mut batch = Batch::default();
    batch.base(name, instance.group(), &base);
    step("net.base.create")?;
    Ok(socket.run(&batch, &format!("make the interface {name}"))?)
}

fn address(namespace: &Namespace, endpoints: &[Endpoint]) -> Result<(), HostError> {
    let six = |e: &&Endpoint| e.addresses.iter().any(|a| a.address.is_ipv6());
    for endpoint in endpoints.iter().filter(six) {
        namespace.allow_ipv6(&endpoint.name)?;
    }
    for endpoint in endpoints {
        namespace.set(&endpoint.name, &endpoint.sysctls)?;
    }
    let mut batch = Batch::default();
    batch.up(1);
    for endpoint in endpoints {
        let link = namespace.route.link(&endpoint.name)?;
        let index = link
            .ok_or_else(|| HostError::NoBridge(endpoint.name.clone()))?
            .index;
        batch.announce(index);
        for address in &endpoint.addresses {
            batch.address(index, *address);
        }
        batch.up(index);
        for gateway in &endpoint.gateways {
            batch.default_route(index, *gateway);
        }
    }
    step("net.address")?;
    Ok(namespace
        .route
        .run(&batch, "give the container its addresses")?)
}

/// Makes the default routes of a running container those of `endpoint`, after a connect or a
/// disconnect.
///
/// # Errors
/// The kernel refuses.
pub fn route_by(namespace: &Namespace, endpoint: Option<&Endpoint>) -> Result<(), HostError> {
    let wanted: &[IpAddr] = endpoint.map_or(&[], |e| &e.gateways);
    let mut batch = Batch::default();
    let socket = &namespace.route;
    for family in [true, false] {
        let new = wanted.iter().find(|g| g.is_ipv4() == family);
        if let (Some(gateway), Some(endpoint)) = (new, endpoint) {
            if let Some(link) = socket.link(&endpoint.name)? {
                batch.default_route(link.index, *gateway);
            }
        } else {
            for (index, gateway) in socket.default_routes()? {
                if gateway.is_ipv4() == family {
                    batch.delete_default_route(index, gateway);
                }
            }
        }
    }
    Ok(socket.run(&batch, "change the container's default route")?)
}
