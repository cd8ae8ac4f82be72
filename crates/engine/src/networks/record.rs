//! What is recorded of networks, and of a container's place in them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use net::ipam::Addresses;
use net::{
    Above, Bridge, Element, Endpoint, Instance, Joint, Mac, Prefix, Protocol, Publication, Segment,
    Ways,
};
use serde::{Deserialize, Serialize};

use super::options::{Driver, Options};
use crate::views::NetworkSpec;

pub(crate) const BRIDGE: &str = "bridge";
/// Names that are not for users' networks.
pub(crate) const PREDEFINED: [&str; 3] = [BRIDGE, "host", "none"];

/// A subnet with its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub subnet: Prefix,
    #[serde(default)]
    pub range: Option<Prefix>,
    pub gateway: IpAddr,
    /// The host's address in it, where that is not the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// Addresses that are others', by what they are called.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl Subnet {
    pub(super) fn host(&self) -> IpAddr {
        self.host.unwrap_or(self.gateway)
    }
}

/// The durable record of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    /// RFC 3339.
    pub created: String,
    pub driver: String,
    /// The interface on the host: its bridge, or what it is above.
    pub bridge: String,
    #[serde(default)]
    pub internal: bool,
    #[serde(default)]
    pub attachable: bool,
    #[serde(default)]
    pub ipv6: bool,
    pub subnets: Vec<Subnet>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl NetworkRecord {
    pub(crate) fn new(
        id: String,
        spec: &NetworkSpec,
        options: &Options,
        subnets: Vec<Subnet>,
    ) -> Self {
        let named = options.interface.clone();
        Self {
            bridge: named.unwrap_or_else(|| match options.driver {
                Driver::Bridge => net::names::bridge(&id),
                Driver::Macvlan | Driver::Ipvlan => net::names::dummy(&id),
            }),
            id,
            name: spec.name.clone(),
            created: crate::inner::now(),
            driver: options.driver.name().to_owned(),
            internal: spec.internal,
            attachable: spec.attachable,
            ipv6: spec.ipv6,
            subnets,
            options: spec.options.clone(),
            labels: spec.labels.clone(),
        }
    }

    pub(crate) fn driver(&self) -> Driver {
        Driver::named(&self.driver).unwrap_or_default()
    }

    /// They were checked when the network was made.
    pub(crate) fn options(&self) -> Options {
        Options::read(self.driver(), &self.options).unwrap_or_default()
    }

    /// Whether what it is above leads nowhere: an interface that was made for it.
    pub(crate) fn is_above_nothing(&self) -> bool {
        self.driver() != Driver::Bridge && self.options().interface.is_none()
    }

    /// Whether the way out of it is no member's.
    pub(crate) fn leads_nowhere(&self) -> bool {
        self.internal || self.is_above_nothing()
    }

    /// Of the driver `bridge`.
    pub(crate) fn link(&self, instance: &Instance) -> Bridge {
        let options = self.options();
        let address = |s: &Subnet| Prefix {
            address: s.host(),
            length: s.subnet.length,
        };
        let has = |s: &&Subnet| options.has_gateway(s.gateway.is_ipv4());
        Bridge {
            name: self.bridge.clone(),
            mac: Mac::derived(&self.id),
            group: instance.group(),
            mtu: options.mtu,
            addresses: self.subnets.iter().filter(has).map(address).collect(),
        }
    }

    /// What it means to the table; absent: nothing.
    pub(crate) fn segment(&self) -> Option<Segment> {
        let options = self.options();
        let ways = |on: bool, four: bool| match on {
            true => options.ways(four),
            false => Ways::default(),
        };
        (options.driver == Driver::Bridge).then(|| Segment {
            bridge: self.bridge.clone(),
            internal: self.internal,
            icc: options.icc,
            four: ways(!self.internal, true),
            six: ways(!self.internal && self.ipv6, false),
        })
    }

    pub(crate) fn elements(&self) -> Vec<Element> {
        self.segment().iter().flat_map(Segment::elements).collect()
    }

    pub(crate) fn pools(&self) -> Vec<Addresses> {
        let pool = |s: &Subnet| {
            let mut pool = Addresses::new(s.subnet, s.range, Some(s.gateway));
            for address in s.host.iter().chain(s.auxiliary.values()) {
                pool.reserve(*address);
            }
            pool
        };
        self.subnets.iter().map(pool).collect()
    }
}

/// A container's place in one network, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    pub network_id: String,
    pub network: String,
    pub endpoint_id: String,
    /// The interface on the host: its bridge, or what it is above.
    pub bridge: String,
    /// The host's end of the pair; empty where there is none.
    pub host_interface: String,
    /// Absent: it is a port of the bridge.
    #[serde(default)]
    pub above: Option<Above>,
    /// Other members are not reached through the bridge.
    #[serde(default)]
    pub isolated: bool,
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// In the container.
    pub interface: String,
    /// Absent: that of the interface below.
    #[serde(default)]
    pub mac: Option<Mac>,
    pub addresses: Vec<Prefix>,
    /// Unspecified: by the link itself.
    pub gateways: Vec<IpAddr>,
    #[serde(default)]
    pub mtu: u32,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// `<container>:<name>`, for this container alone.
    #[serde(default)]
    pub links: Vec<String>,
    #[serde(default)]
    pub gw_priority: i64,
}

impl EndpointState {
    #[must_use]
    pub fn address(&self, four: bool) -> Option<Prefix> {
        let mut all = self.addresses.iter().copied();
        all.find(|a| a.address.is_ipv4() == four)
    }

    #[must_use]
    pub fn gateway(&self, four: bool) -> Option<IpAddr> {
        let mut all = self.gateways.iter().copied();
        all.find(|g| g.is_ipv4() == four && !g.is_unspecified())
    }

    pub(crate) fn link(&self, is_default: bool) -> Endpoint {
        Endpoint {
            joint: match self.above {
                Some(how) => Joint::Above {
                    parent: self.bridge.clone(),
                    how,
                },
                None => Joint::Port {
                    bridge: self.bridge.clone(),
                    host: self.host_interface.clone(),
                    isolated: self.isolated,
                },
            },
            name: self.interface.clone(),
            mac: self.mac,
            mtu: self.mtu,
            addresses: self.addresses.clone(),
            sysctls: self.sysctls.clone(),
            gateways: if is_default {
                self.gateways.clone()
            } else {
                Vec::new()
            },
        }
    }
}

/// A port of the host that a container has, whatever its networks are: its shim holds the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub protocol: Protocol,
    pub host: IpAddr,
    pub port: u16,
    /// Of the container.
    pub to: u16,
}

/// A container in its networks, while it runs. Written to the exec root before its first packet: an
/// engine that comes later knows from it what the shim's container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub container: String,
    pub name: String,
    #[serde(default)]
    pub hostname: String,
    /// Tells its runs apart: the end of one and the start of the next may overlap.
    #[serde(default)]
    pub run: u64,
    #[serde(default)]
    pub endpoints: Vec<EndpointState>,
    /// Where its published ports lead, in its networks as they are.
    #[serde(default)]
    pub ports: Vec<Publication>,
    #[serde(default)]
    pub kept: Vec<Kept>,
}

impl Membership {
    pub(crate) fn file_name(&self) -> String {
        format!("{}.{:020}.json", self.container, self.run)
    }

    /// The one whose gateway is the container's: the highest priority, then the first by name that
    /// leads anywhere.
    #[must_use]
    pub fn default_endpoint(&self) -> Option<&EndpointState> {
        let leads = self.endpoints.iter().filter(|e| !e.gateways.is_empty());
        leads.min_by_key(|e| (std::cmp::Reverse(e.gw_priority), e.network.clone()))
    }

    /// The one that its ports are published in: that of its gateway, or the first that has such.
    pub(crate) fn publishing(&self) -> Option<&EndpointState> {
        let can = |e: &&EndpointState| e.above.is_none() && !e.gateways.is_empty();
        let all = self.endpoints.iter();
        self.default_endpoint().filter(can).or_else(|| {
            let mut all: Vec<_> = all.filter(can).collect();
            all.sort_by_key(|e| &e.network);
            all.first().copied()
        })
    }

    /// Its own in all its networks.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let all = self.endpoints.iter().flat_map(|e| &e.addresses);
        all.map(|p| p.address)
    }

    pub(crate) fn links(&self) -> Vec<Endpoint> {
        let default = self.default_endpoint().map(|e| &e.network_id);
        let all = self.endpoints.iter();
        all.map(|e| e.link(default == Some(&e.network_id)))
            .collect()
    }
}
