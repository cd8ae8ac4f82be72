//! Keys of networks.

use std::net::IpAddr;
use std::str::FromStr;

use engine::model::{Pool, Prefix};
use engine::{NetworkSettings, PublishPolicy};
use serde_json::{Map, Value};

use super::boolean;

const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";

/// False: it is no key of networks.
pub(super) fn apply(
    networks: &mut NetworkSettings,
    flag: &str,
    values: &[String],
) -> Result<bool, String> {
    let last = values.last().map_or("", String::as_str);
    let mut option = |name: &str, value: String| {
        networks.options.insert(name.to_owned(), value);
    };
    match flag {
        "icc" => option(ICC, boolean(last)?.to_string()),
        "ip-masq" => option(MASQUERADE, boolean(last)?.to_string()),
        "ip" => option(HOST_BINDING, address(last, true)?.to_string()),
        "mtu" => option(MTU, parsed::<u32>(last, "a number of bytes")?.to_string()),
        "publish-policy" => {
            networks.publish = match last {
                "forward" => PublishPolicy::Forward,
                "input" => PublishPolicy::Input,
                _ => return Err(format!("{last:?} is not forward or input")),
            }
        }
        "bridge" => networks.bridge = interface(last)?,
        "ip-forward" => networks.leave_forwarding = !boolean(last)?,
        "ipv6" => networks.ipv6 = boolean(last)?,
        "bip" => networks.addresses.push(prefix(last, true)?),
        "bip6" => networks.addresses.push(prefix(last, false)?),
        "fixed-cidr" => networks.ranges.push(prefix(last, true)?),
        "fixed-cidr-v6" => networks.ranges.push(prefix(last, false)?),
        "default-gateway" => networks.gateways.push(address(last, true)?),
        "default-gateway-v6" => networks.gateways.push(address(last, false)?),
        "default-address-pool" => {
            networks.pools = values.iter().map(|v| pool(v)).collect::<Result<_, _>>()?;
        }
        "default-network-opt" => {
            for value in values {
                let (driver, rest) = value.split_once('=').unwrap_or((value, ""));
                let (name, value) = rest
                    .split_once('=')
                    .ok_or_else(|| format!("{value:?} is not driver=name=value"))?;
                if driver != "bridge" {
                    return Err(format!("{driver:?}: only options of bridge are built"));
                }
                let own = (name.to_owned(), value.to_owned());
                networks.new_options.extend([own]);
            }
        }
        "dns" => {
            for value in values {
                parsed::<IpAddr>(value, "an address")?;
            }
            networks.dns = values.to_vec();
        }
        "dns-search" => networks.dns_search = values.to_vec(),
        "dns-opt" => networks.dns_options = values.to_vec(),
        "host-gateway-ip" => {
            let all = values.iter().map(|v| parsed(v, "an address"));
            networks.host_gateway = all.collect::<Result<_, _>>()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn parsed<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not {what}"))
}

fn address(text: &str, four: bool) -> Result<IpAddr, String> {
    let family = if four { "IPv4" } else { "IPv6" };
    let address: IpAddr = parsed(text, &format!("an address of {family}"))?;
    match address.is_ipv4() == four {
        true => Ok(address),
        false => Err(format!("{text:?} is not an address of {family}")),
    }
}

fn prefix(text: &str, four: bool) -> Result<Prefix, String> {
    let prefix: Prefix = text.parse().map_err(|e| format!("{e}"))?;
    address(&prefix.address.to_string(), four)?;
    Ok(prefix)
}

/// `base=10.64.0.0/12,size=24`
fn pool(text: &str) -> Result<Pool, String> {
    let wrong = || format!("{text:?} is not base=<network>,size=<length>");
    let (mut base, mut length) = (None, None);
    for part in text.split(',') {
        match part.split_once('=').ok_or_else(wrong)? {
            ("base", value) => {
                let prefix: Prefix = value.parse().map_err(|e| format!("{e}"))?;
                base = Some(prefix.network());
            }
            ("size", value) => length = Some(parsed::<u8>(value, "the length of a network")?),
            _ => return Err(wrong()),
        }
    }
    let (Some(base), Some(length)) = (base, length) else {
        return Err(wrong());
    };
    // two bits, for a gateway and a member at least
    if length < base.length || length + 2 > base.bits() {
        return Err(format!("networks of /{length} do not fit into {base}"));
    }
    Ok(Pool { base, length })
}

/// `{"base": "10.64.0.0/12", "size": 24}`
pub(super) fn pool_of_file(value: &Value) -> Result<String, String> {
    let of = |key: &str| value.get(key);
    let base = of("base").and_then(Value::as_str);
    match (base, of("size").and_then(Value::as_u64)) {
        (Some(base), Some(size)) => Ok(format!("base={base},size={size}")),
        _ => Err("must be a list of objects with base and size".to_owned()),
    }
}

/// `{"bridge": {"com.docker.network.driver.mtu": "1400"}}`
pub(super) fn options_of_file(drivers: &Map<String, Value>) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for (driver, options) in drivers {
        let options = options
            .as_object()
            .ok_or_else(|| format!("{driver} must be an object"))?;
        for (name, value) in options {
            let value = value
                .as_str()
                .ok_or_else(|| format!("{name} must be a string"))?;
            out.push(format!("{driver}={name}={value}"));
        }
    }
    Ok(out)
}

/// A name that the kernel takes; `none`: no default network.
fn interface(name: &str) -> Result<Option<String>, String> {
    let fine = (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    match name {
        "none" => Ok(None),
        name if fine => Ok(Some(name.to_owned())),
        name => Err(format!("{name:?} is no name of an interface")),
    }
}
