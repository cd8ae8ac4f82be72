//! What the operator says of networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use net::Prefix;
use net::ipam::{self, Pool};

use super::options::{Driver, Options};
use super::record::Subnet;
use crate::error::Error;
use crate::model::HostSpec;

/// Of the engine's networks and of the names in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Interface of the default network; absent: there is none.
    pub bridge: Option<String>,
    /// The host's address in the default network, with the network's length; of each family.
    pub addresses: Vec<Prefix>,
    /// What the default network gives to containers; of each family.
    pub ranges: Vec<Prefix>,
    /// Where the default network leads, if not to the host; of each family.
    pub gateways: Vec<IpAddr>,
    /// The default network has IPv6.
    pub ipv6: bool,
    /// Options of the default network.
    pub options: BTreeMap<String, String>,
    /// Options of bridge networks that do not say otherwise.
    pub new_options: BTreeMap<String, String>,
    /// Where subnets come from; empty: [`ipam::default_pools`].
    pub pools: Vec<Pool>,
    /// Which of the host's rules decide on what comes from outside to a published port.
    pub publish: PublishPolicy,
    /// Forwarding is left as it is.
    pub leave_forwarding: bool,
    /// Of containers that name none.
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// What `host-gateway` means; empty: the host's address in the default network.
    pub host_gateway: Vec<IpAddr>,
}

/// Whose rules decide on what comes from outside to a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PublishPolicy {
    /// Those of the host's firewall that see what is forwarded. Packets go to the container as they are.
    #[default]
    Forward,
    /// Those that see what comes in to the host itself, as for any of its own servers. The shim takes
    /// connections and makes others to the container, which sees the host's address.
    Input,
}

/// As many members as a bridge has ports. source: linux/net/bridge/br_private.h, `BR_MAX_PORTS`
const DEFAULT_LENGTH: u8 = 22;

impl NetworkSettings {
    /// # Errors
    /// Names what cannot be so.
    pub fn check(&self) -> Result<(), Error> {
        Options::read(Driver::Bridge, &self.options)?.check(false)?;
        Options::read(Driver::Bridge, &self.new_options)?;
        for four in [true, false] {
            let same = |a: &IpAddr| a.is_ipv4() == four;
            let subnet = self.addresses.iter().find(|p| same(&p.address));
            let range = self.ranges.iter().find(|p| same(&p.address));
            let gateway = self.gateways.iter().find(|a| same(a));
            if let Some(Prefix { length, .. }) = subnet
                && subnet.is_some_and(|s| s.bits() - length < 2)
            {
                return Err(Error::invalid("--bip: the network has no room"));
            }
            let Some(subnet) = subnet.or(range) else {
                if gateway.is_some() {
                    return Err(Error::invalid(
                        "--default-gateway needs the network that it is in (--bip, --fixed-cidr)",
                    ));
                }
                continue;
            };
            if range.is_some_and(|r| !subnet.contains(r.address) || r.length < subnet.length) {
                return Err(Error::invalid(
                    "--fixed-cidr is not within the network that --bip names",
                ));
            }
            if gateway.is_some_and(|g| !subnet.contains(*g)) {
                return Err(Error::invalid(
                    "--default-gateway is not within the default network",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn pools(&self) -> Vec<Pool> {
        match self.pools.is_empty() {
            true => ipam::default_pools(),
            false => self.pools.clone(),
        }
    }

    /// Those that the default network is chosen from.
    pub(super) fn default_pools(&self) -> Vec<Pool> {
        let mut pools = self.pools();
        if self.pools.is_empty() {
            for pool in &mut pools {
                pool.length = DEFAULT_LENGTH;
            }
        }
        pools
    }

    /// The default network's subnet of a family, as far as it is said.
    pub(super) fn subnet(&self, four: bool) -> Option<Subnet> {
        let of = |all: &[Prefix]| all.iter().copied().find(|p| p.address.is_ipv4() == four);
        let (address, range) = (of(&self.addresses), of(&self.ranges));
        let subnet = address.or(range)?.network();
        let first = super::change::first(subnet);
        let mut gateways = self.gateways.iter().copied();
        let host = address.map_or(first, |a| a.address);
        let leads = gateways.find(|g| g.is_ipv4() == four);
        Some(Subnet {
            subnet,
            range,
            gateway: leads.unwrap_or(host),
            host: leads.map(|_| host),
            auxiliary: BTreeMap::new(),
        })
    }

    /// What a container asks for names, where it does not say itself.
    pub(crate) fn with_dns(&self, host: &HostSpec) -> HostSpec {
        let pick = |own: &Vec<String>, ours: &Vec<String>| match own.is_empty() {
            true => ours.clone(),
            false => own.clone(),
        };
        HostSpec {
            dns: pick(&host.dns, &self.dns),
            dns_search: pick(&host.dns_search, &self.dns_search),
            dns_options: pick(&host.dns_options, &self.dns_options),
            ..host.clone()
        }
    }
}
