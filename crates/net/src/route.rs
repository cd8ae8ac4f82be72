//! rtnetlink: links, addresses, routes.
//!
//! source: rtnetlink(7), linux/if_link.h, linux/rtnetlink.h

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::addr::{Mac, Prefix};
use crate::message::{ACK, Batch, CREATE, DUMP, EXCL, Message, REPLACE, attribute, text, u32_at};
use crate::socket::{NetlinkError, Socket};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;

mod link {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const INFO: u16 = 18;
    pub(super) const AF_SPEC: u16 = 26;
    pub(super) const INET6_ADDR_GEN_MODE: u16 = 8;
    pub(super) const ADDR_GEN_MODE_NONE: u8 = 1;
    pub(super) const INET_CONF: u16 = 1;
    pub(super) const ARP_NOTIFY: u16 = 22;
    pub(super) const GROUP: u16 = 27;
    pub(super) const NAMESPACE: u16 = 28;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const INFO_PORT_KIND: u16 = 4;
    pub(super) const INFO_PORT_DATA: u16 = 5;
    pub(super) const VETH_PEER: u16 = 1;
    pub(super) const PORT_HAIRPIN: u16 = 4;
    pub(super) const PORT_ISOLATED: u16 = 33;
    pub(super) const MACVLAN_MODE: u16 = 1;
    pub(super) const IPVLAN_MODE: u16 = 1;
    pub(super) const IPVLAN_FLAGS: u16 = 2;
    pub(super) const VLAN_ID: u16 = 1;
}

const INET: u8 = 2;
const INET6: u8 = 10;
const UP: u32 = 1;
/// No duplicate address detection: we gave the address out, and a start does not wait a second.
const NO_DAD: u8 = 0x02;

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// `struct ifinfomsg`.
fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// A bridge as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub name: String,
    /// Given, so that it does not change with the ports.
    pub mac: Mac,
    pub group: u32,
    /// 0: the kernel's.
    pub mtu: u32,
    /// The host's own addresses in the network.
    pub addresses: Vec<Prefix>,
}

/// A pair of links, one end in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// The host's end.
    pub host: String,
    /// The container's end, in its namespace.
    pub name: String,
    pub mac: Mac,
    pub group: u32,
    pub mtu: u32,
    /// Index of the bridge.
    pub bridge: u32,
    /// It exchanges no frames with other ports that are so, only with the bridge.
    pub isolated: bool,
}

/// A link of a container's own on top of an interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Above {
    /// With a hardware address of its own.
    Macvlan(MacvlanMode),
    /// With that of the interface.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// source: linux/if_link.h, `enum macvlan_mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Those on the same interface do not reach each other.
    Private,
    /// They do by way of the switch outside.
    Vepa,
    /// They do at once.
    #[default]
    Bridge,
    /// The interface is this one's alone.
    Passthru,
}

/// source: linux/if_link.h, `enum ipvlan_mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    #[default]
    L2,
    /// The host routes; there is no broadcast.
    L3,
    /// As [`IpvlanMode::L3`], seen by the host's firewall.
    L3s,
}

/// source: linux/if_link.h, `IPVLAN_F_PRIVATE`, `IPVLAN_F_VEPA`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    #[default]
    Bridge,
    Private,
    Vepa,
}

/// An interface of the host that is made for networks to be above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Of VLAN `id` of the interface with this index.
    Vlan { below: u32, id: u16 },
    /// It leads nowhere.
    Dummy,
}

impl Above {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(..) => "ipvlan",
        }
    }

    fn put(self, b: &mut Batch) {
        match self {
            Self::Macvlan(mode) => {
                let mode = match mode {
                    MacvlanMode::Private => 1,
                    MacvlanMode::Vepa => 2,
                    MacvlanMode::Bridge => 4,
                    MacvlanMode::Passthru => 8,
                };
                b.u32(link::MACVLAN_MODE, mode);
            }
            Self::Ipvlan(mode, flag) => {
                let mode: u16 = match mode {
                    IpvlanMode::L2 => 0,
                    IpvlanMode::L3 => 1,
                    IpvlanMode::L3s => 2,
                };
                let flag: u16 = match flag {
                    IpvlanFlag::Bridge => 0,
                    IpvlanFlag::Private => 1,
                    IpvlanFlag::Vepa => 2,
                };
                b.bytes(link::IPVLAN_MODE, &mode.to_ne_bytes())
                    .bytes(link::IPVLAN_FLAGS, &flag.to_ne_bytes());
            }
        }
    }
}

impl Batch {
    /// Makes the bridge, or makes the one that is there so.
    pub(crate) fn bridge(&mut self, bridge: &Bridge) {
        self.message(NEWLINK, CREATE | ACK, &interface(0, UP, UP));
        self.str(link::NAME, &bridge.name)
            .bytes(link::ADDRESS, &bridge.mac.0)
            .u32(link::GROUP, bridge.group);
        if bridge.mtu != 0 {
            self.u32(link::MTU, bridge.mtu);
        }
        self.nest(link::INFO, |b| {
            b.str(link::INFO_KIND, "bridge");
        });
    }

    /// Both ends in their places, the host's end in the bridge, by one message. A second lets frames
    /// leave by the port they came from, for a container that calls itself by a published port, and
    /// takes the end up without an address of its own: it needs none, and each would be one more for
    /// the kernel to walk.
    pub(crate) fn veth(&mut self, veth: &Veth, namespace: BorrowedFd<'_>) {
        self.message(NEWLINK, CREATE | EXCL | ACK, &interface(0, 0, 0));
        self.str(link::NAME, &veth.host)
            .u32(link::GROUP, veth.group)
            .u32(link::MASTER, veth.bridge);
        if veth.mtu != 0 {
            self.u32(link::MTU, veth.mtu);
        }
        let peer = |b: &mut Self| {
            b.raw(&interface(0, 0, 0))
                .str(link::NAME, &veth.name)
                .bytes(link::ADDRESS, &veth.mac.0)
                .u32(link::NAMESPACE, namespace.as_raw_fd().cast_unsigned());
            if veth.mtu != 0 {
                b.u32(link::MTU, veth.mtu);
            }
        };
        self.nest(link::INFO, |b| {
            b.str(link::INFO_KIND, "veth").nest(link::INFO_DATA, |b| {
                b.nest(link::VETH_PEER, peer);
            });
        });
        self.message(NEWLINK, ACK, &interface(0, UP, UP));
        self.str(link::NAME, &veth.host).nest(link::AF_SPEC, |b| {
            b.nest(u16::from(INET6), |b| {
                b.u8(link::INET6_ADDR_GEN_MODE, link::ADDR_GEN_MODE_NONE);
            });
        });
        self.nest(link::INFO, |b| {
            b.str(link::INFO_PORT_KIND, "bridge")
                .nest(link::INFO_PORT_DATA, |b| {
                    b.u8(link::PORT_HAIRPIN, 1);
                    if veth.isolated {
                        b.u8(link::PORT_ISOLATED, 1);
                    }
                });
        });
    }

    /// In its place in the namespace, down.
    pub(crate) fn above(
        &mut self,
        above: Above,
        parent: u32,
        name: &str,
        mac: Option<Mac>,
        mtu: u32,
        namespace: BorrowedFd<'_>,
    ) {
        self.message(NEWLINK, CREATE | EXCL | ACK, &interface(0, 0, 0));
        self.str(link::NAME, name)
            .u32(link::LINK, parent)
            .u32(link::NAMESPACE, namespace.as_raw_fd().cast_unsigned());
        if let Some(mac) = mac {
            self.bytes(link::ADDRESS, &mac.0);
        }
        if mtu != 0 {
            self.u32(link::MTU, mtu);
        }
        self.nest(link::INFO, |b| {
            b.str(link::INFO_KIND, above.kind())
                .nest(link::INFO_DATA, |b| above.put(b));
        });
    }

    /// Up, and in this group of links.
    pub(crate) fn base(&mut self, name: &str, group: u32, base: &Base) {
        self.message(NEWLINK, CREATE | EXCL | ACK, &interface(0, UP, UP));
        self.str(link::NAME, name).u32(link::GROUP, group);
        match base {
            Base::Vlan { below, id } => {
                self.u32(link::LINK, *below).nest(link::INFO, |b| {
                    b.str(link::INFO_KIND, "vlan").nest(link::INFO_DATA, |b| {
                        b.bytes(link::VLAN_ID, &id.to_ne_bytes());
                    });
                });
            }
            Base::Dummy => {
                self.nest(link::INFO, |b| {
                    b.str(link::INFO_KIND, "dummy");
                });
            }
        }
    }

    pub(crate) fn up(&mut self, index: u32) {
        self.message(NEWLINK, ACK, &interface(index, UP, UP));
    }

    /// Has it tell its neighbours when it comes up with an address: they may hold another for it. Its
    /// index and addresses are given before it is up.
    pub(crate) fn announce(&mut self, index: u32) {
        self.message(NEWLINK, ACK, &interface(index, 0, 0));
        self.nest(link::AF_SPEC, |b| {
            b.nest(u16::from(INET), |b| {
                b.nest(link::INET_CONF, |b| {
                    b.u32(link::ARP_NOTIFY, 1);
                });
            });
        });
    }

    pub(crate) fn delete_link(&mut self, index: u32) {
        self.message(DELLINK, ACK, &interface(index, 0, 0));
    }

    pub(crate) fn delete_link_named(&mut self, name: &str) {
        self.message(DELLINK, ACK, &interface(0, 0, 0));
        self.str(link::NAME, name);
    }

    fn address_of(&mut self, kind: u16, flags: u16, index: u32, prefix: Prefix) {
        let mut header = [0; 8];
        header[0] = family(prefix.address);
        header[1] = prefix.length;
        header[2] = if prefix.address.is_ipv6() { NO_DAD } else { 0 };
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        self.message(kind, flags | ACK, &header);
        let bytes = octets(prefix.address);
        self.bytes(2, &bytes).bytes(1, &bytes);
        if prefix.address.is_ipv4() && prefix.length < 31 {
            self.bytes(4, &octets(prefix.range().1));
        }
    }

    pub(crate) fn address(&mut self, index: u32, prefix: Prefix) {
        self.address_of(NEWADDR, CREATE | REPLACE, index, prefix);
    }

    pub(crate) fn delete_address(&mut self, index: u32, prefix: Prefix) {
        self.address_of(DELADDR, 0, index, prefix);
    }

    fn route_of(&mut self, kind: u16, flags: u16, index: u32, gateway: IpAddr) {
        const LINK: u8 = 253;
        let on_link = gateway.is_unspecified();
        let scope = if on_link { LINK } else { 0 };
        // family, lengths, type of service, table main, protocol static, scope, unicast
        let header = [family(gateway), 0, 0, 0, 254, 4, scope, 1, 0, 0, 0, 0];
        self.message(kind, flags | ACK, &header);
        if !on_link {
            self.bytes(5, &octets(gateway));
        }
        self.u32(4, index);
    }

    /// An unspecified gateway: everything is reached through the link itself.
    pub(crate) fn default_route(&mut self, index: u32, gateway: IpAddr) {
        self.route_of(NEWROUTE, CREATE | REPLACE, index, gateway);
    }

    pub(crate) fn delete_default_route(&mut self, index: u32, gateway: IpAddr) {
        self.route_of(DELROUTE, 0, index, gateway);
    }
}

/// A link as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub group: u32,
    /// `bridge`, `veth`...; empty for hardware.
    pub kind: String,
    /// Index of the bridge it is a port of; 0: none.
    pub master: u32,
    pub up: bool,
}

fn link_of(message: &Message<'_>) -> Option<Link> {
    let index = u32_at(message.payload, 4)?;
    let flags = u32_at(message.payload, 8)?;
    let all = message.payload.get(16..)?;
    let number = |kind| attribute(all, kind).and_then(|v| u32_at(v, 0)).unwrap_or(0);
    let kind = attribute(all, link::INFO).and_then(|i| attribute(i, link::INFO_KIND));
    Some(Link {
        index,
        name: attribute(all, link::NAME).map(text)?,
        group: number(link::GROUP),
        kind: kind.map(text).unwrap_or_default(),
        master: number(link::MASTER),
        up: flags & UP != 0,
    })
}

impl Socket {
    /// All links of the namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(GETLINK, DUMP, &interface(0, 0, 0));
        let mut all = Vec::new();
        self.dump(&batch, "list the links", |m| {
            if m.kind == NEWLINK {
                all.extend(link_of(m));
            }
        })?;
        Ok(all)
    }

    /// The link of that name; absent where there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(GETLINK, ACK, &interface(0, 0, 0));
        batch.str(link::NAME, name);
        let mut found = None;
        let asked = self.dump(&batch, &format!("find the link {name}"), |m| {
            if m.kind == NEWLINK {
                found = link_of(m);
            }
        });
        match asked {
            Err(e) if e.errno() == rustix::io::Errno::NODEV.raw_os_error() => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(found),
        }
    }

    /// Addresses with the index of their link.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn addresses(&self) -> Result<Vec<(u32, Prefix)>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(GETADDR, DUMP, &[0; 8]);
        let mut all = Vec::new();
        self.dump(&batch, "list the addresses", |m| {
            let parse = || {
                let index = u32_at(m.payload, 4)?;
                let all = m.payload.get(8..)?;
                let address = ip(attribute(all, 2).or_else(|| attribute(all, 1))?)?;
                let length = *m.payload.get(1)?;
                Some((index, Prefix { address, length }))
            };
            if m.kind == NEWADDR {
                all.extend(parse());
            }
        })?;
        Ok(all)
    }

    /// Where packets are routed to by the table main, without default routes, and with the links
    /// of index in `but` left out.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn routed(&self, but: &[u32]) -> Result<Vec<Prefix>, NetlinkError> {
        const MAIN: u8 = 254;
        let mut batch = Batch::default();
        batch.message(GETROUTE, DUMP, &[0; 12]);
        let mut all = Vec::new();
        self.dump(&batch, "list the routes", |m| {
            let parse = || {
                let (length, table) = (*m.payload.get(1)?, *m.payload.get(4)?);
                let attributes = m.payload.get(12..)?;
                let address = ip(attribute(attributes, 1)?)?;
                let out = attribute(attributes, 4).and_then(|v| u32_at(v, 0));
                let ours = out.is_some_and(|index| but.contains(&index));
                (table == MAIN && length > 0 && !ours).then_some(Prefix { address, length })
            };
            if m.kind == NEWROUTE {
                all.extend(parse());
            }
        })?;
        Ok(all)
    }

    /// Default routes: index of the link, next hop (unspecified: the link itself).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn default_routes(&self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let mut batch = Batch::default();
        batch.message(GETROUTE, DUMP, &[0; 12]);
        let mut all = Vec::new();
        self.dump(&batch, "list the routes", |m| {
            let parse = || {
                let whole = *m.payload.get(1)? == 0 && *m.payload.get(4)? == 254;
                let values = m.payload.get(12..)?;
                let index = u32_at(attribute(values, 4)?, 0)?;
                let gateway = match attribute(values, 5) {
                    Some(gateway) => ip(gateway)?,
                    None if *m.payload.first()? == INET => IpAddr::from([0; 4]),
                    None => IpAddr::from([0; 16]),
                };
                whole.then_some((index, gateway))
            };
            if m.kind == NEWROUTE {
                all.extend(parse());
            }
        })?;
        Ok(all)
    }
}

pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
