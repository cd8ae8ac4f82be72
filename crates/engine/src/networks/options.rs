//! Options of networks and of a container's place in one, by Docker's names. What is not known is
//! refused, never ignored.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use net::{Above, IpvlanFlag, IpvlanMode, MacvlanMode, Ways};

use crate::error::Error;

type Map = BTreeMap<String, String>;

pub(super) const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const INHIBIT4: &str = "com.docker.network.bridge.inhibit_ipv4";
/// What dockerd's own default network carries.
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
const SOURCE4: &str = "com.docker.network.host_ipv4";
const SOURCE6: &str = "com.docker.network.host_ipv6";
const PREFIX: &str = "com.docker.network.container_iface_prefix";
const MTU: &str = "com.docker.network.driver.mtu";
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";
const IF_NAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Who makes a network's links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Driver {
    #[default]
    Bridge,
    Macvlan,
    Ipvlan,
}

impl Driver {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "" | "default" | "bridge" => Some(Self::Bridge),
            "macvlan" => Some(Self::Macvlan),
            "ipvlan" => Some(Self::Ipvlan),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

/// How a family of a bridge network and the world reach each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    /// Behind an address of the host; published ports are ports of the host.
    #[default]
    Nat,
    /// As that, and every port is open to who has a route.
    Unprotected,
    /// By the members' own addresses; published ports are ports of theirs.
    Routed,
    /// The host itself has no address in it.
    Isolated,
}

/// Everything that can be said of a network of its driver, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) driver: Driver,
    /// Its bridge, or the interface that it is above.
    pub(crate) interface: Option<String>,
    /// Members reach each other.
    pub(crate) icc: bool,
    masquerade: bool,
    /// Where ports are published that name no address.
    pub(crate) host_binding: Option<IpAddr>,
    four: Mode,
    six: Mode,
    inhibit4: bool,
    source4: Option<IpAddr>,
    source6: Option<IpAddr>,
    /// Of interfaces in containers: `eth` makes `eth0`.
    pub(crate) prefix: String,
    /// 0: the kernel's.
    pub(crate) mtu: u32,
    pub(crate) above: Option<Above>,
}

fn wrong(key: &str, value: &str) -> Error {
    Error::invalid(format!(
        "invalid value for the network option {key}: {value:?}"
    ))
}

fn parsed<T: FromStr>(key: &str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| wrong(key, value))
}

fn boolean(key: &str, value: &str) -> Result<bool, Error> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(wrong(key, value)),
    }
}

/// An address of this family that is one host's.
fn address(key: &str, value: &str, four: bool) -> Result<IpAddr, Error> {
    let address: IpAddr = parsed(key, value)?;
    match address.is_ipv4() == four {
        true => Ok(address),
        false => Err(wrong(key, value)),
    }
}

pub(crate) fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

fn interface(key: &str, value: &str) -> Result<String, Error> {
    match is_interface(value) {
        true => Ok(value.to_owned()),
        false => Err(wrong(key, value)),
    }
}

fn mode(key: &str, value: &str) -> Result<Mode, Error> {
    match value {
        "nat" => Ok(Mode::Nat),
        "nat-unprotected" => Ok(Mode::Unprotected),
        "routed" => Ok(Mode::Routed),
        "isolated" => Ok(Mode::Isolated),
        _ => Err(Error::invalid(format!(
            "invalid value for the network option {key}: {value:?} (nat, nat-unprotected, routed or isolated)"
        ))),
    }
}

impl Options {
    /// # Errors
    /// An option is not known to the driver, or its value is none.
    pub(crate) fn read(driver: Driver, options: &Map) -> Result<Self, Error> {
        let mut out = Self {
            driver,
            icc: true,
            masquerade: true,
            prefix: "eth".to_owned(),
            above: match driver {
                Driver::Bridge => None,
                Driver::Macvlan => Some(Above::Macvlan(MacvlanMode::default())),
                Driver::Ipvlan => Some(Above::Ipvlan(IpvlanMode::default(), IpvlanFlag::default())),
            },
            ..Self::default()
        };
        for (key, value) in options {
            let known = out.common(key, value)?
                || match driver {
                    Driver::Bridge => out.bridge(key, value)?,
                    Driver::Macvlan | Driver::Ipvlan => out.above(key, value)?,
                };
            if !known {
                return Err(Error::unsupported(format!(
                    "the network option {key} is not built for the driver {}",
                    driver.name()
                )));
            }
        }
        Ok(out)
    }

    fn common(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match key {
            MTU => {
                let mtu: u32 = parsed(key, value)?;
                if mtu != 0 && !(68..=65535).contains(&mtu) {
                    return Err(wrong(key, value));
                }
                self.mtu = mtu;
            }
            PREFIX => {
                // three digits follow at most
                interface(key, &format!("{value}000"))?;
                value.clone_into(&mut self.prefix);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn bridge(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match key {
            BRIDGE_NAME => self.interface = Some(interface(key, value)?),
            ICC => self.icc = boolean(key, value)?,
            MASQUERADE => self.masquerade = boolean(key, value)?,
            DEFAULT_BRIDGE => drop(boolean(key, value)?),
            INHIBIT4 => self.inhibit4 = boolean(key, value)?,
            HOST_BINDING => {
                let address = address(key, value, true)?;
                self.host_binding = (!address.is_unspecified()).then_some(address);
            }
            MODE4 => self.four = mode(key, value)?,
            MODE6 => self.six = mode(key, value)?,
            SOURCE4 => self.source4 = Some(address(key, value, true)?),
            SOURCE6 => self.source6 = Some(address(key, value, false)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn above(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match (key, &mut self.above) {
            (PARENT, _) => self.interface = Some(interface(key, value)?),
            (MACVLAN_MODE, Some(Above::Macvlan(mode))) => {
                *mode = match value {
                    "private" => MacvlanMode::Private,
                    "vepa" => MacvlanMode::Vepa,
                    "" | "bridge" => MacvlanMode::Bridge,
                    "passthru" => MacvlanMode::Passthru,
                    _ => return Err(wrong(key, value)),
                }
            }
            (IPVLAN_MODE, Some(Above::Ipvlan(mode, _))) => {
                *mode = match value {
                    "" | "l2" => IpvlanMode::L2,
                    "l3" => IpvlanMode::L3,
                    "l3s" => IpvlanMode::L3s,
                    _ => return Err(wrong(key, value)),
                }
            }
            (IPVLAN_FLAG, Some(Above::Ipvlan(_, flag))) => {
                *flag = match value {
                    "" | "bridge" => IpvlanFlag::Bridge,
                    "private" => IpvlanFlag::Private,
                    "vepa" => IpvlanFlag::Vepa,
                    _ => return Err(wrong(key, value)),
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What goes only together.
    ///
    /// # Errors
    /// Names what does not.
    pub(crate) fn check(&self, internal: bool) -> Result<(), Error> {
        let isolated = [self.four, self.six].contains(&Mode::Isolated);
        if isolated && !internal {
            return Err(Error::invalid(
                "gateway mode 'isolated' can only be used for an internal network (--internal)",
            ));
        }
        Ok(())
    }

    /// Whether the host has an address in it.
    pub(crate) fn has_gateway(&self, four: bool) -> bool {
        let mode = if four { self.four } else { self.six };
        mode != Mode::Isolated && !(four && self.inhibit4)
    }

    /// Whether what a member publishes is a port of its own address, not of the host.
    pub(crate) fn is_routed(&self, four: bool) -> bool {
        (if four { self.four } else { self.six }) == Mode::Routed
    }

    /// The host routes for it, and knows the members' addresses alone.
    pub(crate) fn is_layer_3(&self) -> bool {
        matches!(
            self.above,
            Some(Above::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
        )
    }

    pub(crate) fn ways(&self, four: bool) -> Ways {
        let (mode, source) = if four {
            (self.four, self.source4)
        } else {
            (self.six, self.source6)
        };
        let masquerade = self.masquerade && matches!(mode, Mode::Nat | Mode::Unprotected);
        Ways {
            masquerade,
            source: source.filter(|_| masquerade),
            routed: mode == Mode::Routed,
            open: mode == Mode::Unprotected,
        }
    }
}

/// What can be said of a container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EndpointOptions {
    /// In the container.
    pub(crate) interface: Option<String>,
    /// With `IFNAME` in the place of the interface.
    pub(crate) sysctls: Vec<(String, String)>,
}

impl EndpointOptions {
    /// # Errors
    /// An option is not known, or its value is none.
    pub(crate) fn read(options: &Map) -> Result<Self, Error> {
        let mut out = Self::default();
        for (key, value) in options {
            match key.as_str() {
                IF_NAME => out.interface = Some(interface(key, value)?),
                SYSCTLS => {
                    let all = value.split(',').map(|s| sysctl(s.trim()));
                    out.sysctls = all.collect::<Result<_, _>>()?;
                }
                _ => {
                    return Err(Error::unsupported(format!(
                        "the endpoint option {key} is not built"
                    )));
                }
            }
        }
        Ok(out)
    }
}

/// `net.ipv4.conf.IFNAME.log_martians=1`: of this interface and no other thing of the kernel.
fn sysctl(text: &str) -> Result<(String, String), Error> {
    let wrong = || {
        Error::invalid(format!(
            "invalid value for the network option {SYSCTLS}: {text:?} is not net.ipv4.conf.IFNAME.<name>=<value>"
        ))
    };
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let parts: Vec<&str> = name.split('.').collect();
    let plain = |s: &str| {
        !s.is_empty()
            && s.chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    };
    let fine = matches!(
        parts.as_slice(),
        ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", last] if plain(last)
    );
    match fine {
        true => Ok((name.to_owned(), value.to_owned())),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        for (driver, key, value) in [
            (Driver::Bridge, "parent", "eth0"),
            (Driver::Macvlan, "ipvlan_mode", "l2"),
            (Driver::Ipvlan, "macvlan_mode", "bridge"),
            (Driver::Macvlan, "macvlan_mode", "x"),
            (Driver::Ipvlan, "ipvlan_mode", "l4"),
            (Driver::Bridge, MTU, "67"),
            (Driver::Bridge, MODE4, "x"),
            (Driver::Bridge, SOURCE4, "fd00::1"),
            (Driver::Bridge, BRIDGE_NAME, "much-too-long-a-name"),
            (Driver::Bridge, PREFIX, "much-too-long"),
            (Driver::Bridge, ICC, "yes"),
        ] {
            let refused = Options::read(driver, &map(&[(key, value)]));
            let text = refused.unwrap_err().to_string();
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn the_ways_of_each_mode() {
        let of = |mode: &str| {
            let options = map(&[(MODE4, mode), (SOURCE4, "192.0.2.1")]);
            let options = Options::read(Driver::Bridge, &options).unwrap();
            (
                options.ways(true),
                options.ways(false),
                options.check(false),
            )
        };
        let (four, six, _) = of("nat");
        assert!(four.masquerade && four.source.is_some() && !four.open && !four.routed);
        assert!(six.masquerade && six.source.is_none());
        let (four, ..) = of("nat-unprotected");
        assert!(four.masquerade && four.open);
        let (four, six, checked) = of("routed");
        assert!(four.routed && !four.masquerade && four.source.is_none() && six.masquerade);
        checked.unwrap();
        let (four, _, checked) = of("isolated");
        assert_eq!(four, Ways::default());
        assert!(checked.unwrap_err().to_string().contains("--internal"));
    }

    #[test]
    fn settings_of_one_interface_alone() {
        let read = |text: &str| EndpointOptions::read(&map(&[(SYSCTLS, text)]));
        let two = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0";
        assert_eq!(read(two).unwrap().sysctls.len(), 2);
        for outside in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.forwarding=1",
            "kernel.x.conf.IFNAME.y=1",
            "net.ipv4.conf.IFNAME.../x=1",
            "net.ipv4.conf.IFNAME.x",
        ] {
            assert!(read(outside).is_err(), "{outside}");
        }
    }
}
