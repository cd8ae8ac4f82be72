//! What is recorded of networks, and of a container's place in them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use net::ipam::Addresses;
use net::{Bridge, Endpoint, Instance, Mac, Prefix, Publication, Segment};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::views::NetworkSpec;

pub(crate) const BRIDGE: &str = "bridge";
/// Names that are not for users' networks.
pub(crate) const PREDEFINED: [&str; 3] = [BRIDGE, "host", "none"];

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
/// What dockerd's own default network carries.
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";

/// A subnet with its gateway, which is the host's address in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub subnet: Prefix,
    #[serde(default)]
    pub range: Option<Prefix>,
    pub gateway: IpAddr,
}

/// The durable record of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub id: String,
    pub name: String,
    /// RFC 3339.
    pub created: String,
    pub driver: String,
    /// The interface on the host.
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

fn is_on(options: &BTreeMap<String, String>, key: &str) -> bool {
    options.get(key).is_none_or(|v| v == "true" || v == "1")
}

/// Options by name; what is not known is refused, never ignored.
pub(crate) fn check_options(options: &BTreeMap<String, String>) -> Result<(), Error> {
    for (key, value) in options {
        let fine = match key.as_str() {
            NAME => !value.is_empty() && value.len() <= 15 && !value.contains(['/', ' ']),
            ICC | MASQUERADE | DEFAULT_BRIDGE => {
                matches!(value.as_str(), "true" | "false" | "1" | "0")
            }
            MTU => value
                .parse::<u32>()
                .is_ok_and(|m| (68..=65535).contains(&m)),
            HOST_BINDING => value.parse::<std::net::Ipv4Addr>().is_ok(),
            _ => {
                return Err(Error::unsupported(format!(
                    "the network option {key} is not built yet"
                )));
            }
        };
        if !fine {
            return Err(Error::invalid(format!(
                "invalid value for the network option {key}: {value}"
            )));
        }
    }
    Ok(())
}

impl NetworkRecord {
    pub(crate) fn new(id: String, spec: &NetworkSpec, subnets: Vec<Subnet>) -> Self {
        let bridge = spec.options.get(NAME).cloned();
        Self {
            bridge: bridge.unwrap_or_else(|| net::names::bridge(&id)),
            id,
            name: spec.name.clone(),
            created: crate::inner::now(),
            driver: BRIDGE.to_owned(),
            internal: spec.internal,
            attachable: spec.attachable,
            ipv6: spec.ipv6,
            subnets,
            options: spec.options.clone(),
            labels: spec.labels.clone(),
        }
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.options
            .get(MTU)
            .and_then(|m| m.parse().ok())
            .unwrap_or(0)
    }

    /// Where ports are published that name no address.
    pub(crate) fn host_binding(&self) -> Option<IpAddr> {
        let address: IpAddr = self.options.get(HOST_BINDING)?.parse().ok()?;
        (!address.is_unspecified()).then_some(address)
    }

    pub(crate) fn link(&self, instance: &Instance) -> Bridge {
        let address = |s: &Subnet| Prefix {
            address: s.gateway,
            length: s.subnet.length,
        };
        Bridge {
            name: self.bridge.clone(),
            mac: Mac::derived(&self.id),
            group: instance.group(),
            mtu: self.mtu(),
            addresses: self.subnets.iter().map(address).collect(),
        }
    }

    pub(crate) fn segment(&self) -> Segment {
        let masquerade = !self.internal && is_on(&self.options, MASQUERADE);
        Segment {
            bridge: self.bridge.clone(),
            internal: self.internal,
            icc: is_on(&self.options, ICC),
            masquerade4: masquerade,
            masquerade6: masquerade && self.ipv6,
        }
    }

    pub(crate) fn pools(&self) -> Vec<Addresses> {
        let pool = |s: &Subnet| Addresses::new(s.subnet, s.range, Some(s.gateway));
        self.subnets.iter().map(pool).collect()
    }
}

/// A container's place in one network, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    pub network_id: String,
    pub network: String,
    pub endpoint_id: String,
    pub bridge: String,
    /// The host's end of the pair.
    pub host_interface: String,
    /// In the container.
    pub interface: String,
    pub mac: Mac,
    pub addresses: Vec<Prefix>,
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
        self.gateways.iter().copied().find(|g| g.is_ipv4() == four)
    }

    pub(crate) fn link(&self, is_default: bool) -> Endpoint {
        Endpoint {
            bridge: self.bridge.clone(),
            host: self.host_interface.clone(),
            name: self.interface.clone(),
            mac: self.mac,
            mtu: self.mtu,
            addresses: self.addresses.clone(),
            gateways: if is_default {
                self.gateways.clone()
            } else {
                Vec::new()
            },
        }
    }
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
    #[serde(default)]
    pub ports: Vec<Publication>,
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
