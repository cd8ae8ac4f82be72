//! Verbs on networks, and the flags of `run` and `create` that speak of them.

use std::collections::BTreeMap;

use api::network::{
    EndpointIpamConfig, EndpointSettings, IpamRequest, IpamRequestConfig, Network,
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
    NetworkPruneReport, PortBinding,
};

use super::containers::{PruneOptions, confirmed, filter, with_filters};
use super::lists::{FORMAT, ListOptions, id_of, with_labels};
use crate::flags::{refused, switch, value};
use crate::http::{Body, HttpError, Query, Response, escape};
use crate::parse;
use crate::table::{Column, Format, Row, Table, column, row};
use crate::verb::{Context, Failure, Offer, Operands, Verb};

const SWARM: &str = "there is no swarm; use Kubernetes for clusters";
const LATER: &str = "it comes later";

#[derive(Debug, Default)]
pub(crate) struct CreateOptions {
    request: NetworkCreateRequest,
    subnets: Vec<String>,
    gateways: Vec<String>,
    ranges: Vec<String>,
}

fn push(list: &mut Vec<String>, text: &str) -> Result<(), String> {
    list.push(text.to_owned());
    Ok(())
}

fn pair(map: &mut Option<BTreeMap<String, String>>, text: &str) -> Result<(), String> {
    let (key, value) = parse::key_value(text);
    map.get_or_insert_default().insert(key, value);
    Ok(())
}

#[rustfmt::skip]
pub(crate) static CREATE: Verb<CreateOptions> = Verb {
    path: "network create",
    aliases: &[],
    usage: "[OPTIONS] NETWORK",
    about: "Create a network",
    operands: Operands::Exactly(1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value("driver", Some('d'), "string", |o, v| { v.clone_into(&mut o.request.driver); Ok(()) }, "Driver of the network; bridge"),
        value("opt", Some('o'), "map", |o, v| pair(&mut o.request.options, v), "Option of the driver (com.docker.network.driver.mtu=1400)"),
        value("label", None, "list", |o, v| pair(&mut o.request.labels, &parse::label(v)?), "Label the network"),
        switch("internal", None, |o, v| o.request.internal = v, "No way out of it, and none in"),
        switch("attachable", None, |o, v| o.request.attachable = v, "Containers may be connected by hand"),
        switch("ipv6", None, |o, v| o.request.enable_ipv6 = Some(v), "Addresses of IPv6 too"),
        value("subnet", None, "string", |o, v| push(&mut o.subnets, v), "Subnet of the network (10.1.2.0/24)"),
        value("gateway", None, "string", |o, v| push(&mut o.gateways, v), "The host's address in the subnet"),
        value("ip-range", None, "string", |o, v| push(&mut o.ranges, v), "Part of the subnet that addresses are given from"),
        value("ipam-driver", None, "string", |o, v| { v.clone_into(&mut o.request.ipam.get_or_insert_default().driver); Ok(()) }, "Driver of the addresses; default"),
        refused("ipv4", None, "every network has IPv4"),
        refused("aux-address", None, LATER),
        refused("ipam-opt", None, LATER),
        refused("config-from", None, LATER),
        refused("config-only", None, LATER),
        refused("ingress", None, SWARM),
        refused("scope", None, SWARM),
    ]],
    run: |context, mut o, mut names| {
        o.request.name = names.pop().unwrap_or_default();
        o.request.check_duplicate = true;
        if o.request.driver.is_empty() {
            "bridge".clone_into(&mut o.request.driver);
        }
        ipam(&mut o)?;
        let body = serde_json::to_vec(&o.request).map_err(|e| Failure::say(e.to_string()))?;
        let made: NetworkCreateResponse = context
            .client
            .send("POST", "/networks/create", Body::Json(body))?
            .json()?;
        if !made.warning.is_empty() {
            context.warn(&format!("WARNING: {}", made.warning));
        }
        context.println(&made.id)
    },
};

/// A gateway and a range belong to the subnet that holds them.
fn ipam(o: &mut CreateOptions) -> Result<(), Failure> {
    let mut config: Vec<IpamRequestConfig> = Vec::new();
    for subnet in &o.subnets {
        config.push(IpamRequestConfig {
            subnet: subnet.clone(),
            ..IpamRequestConfig::default()
        });
    }
    let inside = |subnet: &str, text: &str| {
        let address = text.split('/').next().unwrap_or_default();
        within(subnet, address)
    };
    for (list, is_gateway, what) in [(&o.gateways, true, "gateway"), (&o.ranges, false, "range")] {
        for text in list {
            let home = config.iter_mut().find(|c| inside(&c.subnet, text));
            let home =
                home.ok_or_else(|| Failure::say(format!("no matching subnet for {what} {text}")))?;
            let slot = if is_gateway {
                &mut home.gateway
            } else {
                &mut home.ip_range
            };
            if !slot.is_empty() {
                return Err(Failure::say(format!(
                    "cannot configure two {what}s for the same subnet"
                )));
            }
            slot.clone_from(text);
        }
    }
    if !config.is_empty() {
        let ipam: &mut IpamRequest = o.request.ipam.get_or_insert_default();
        ipam.config = Some(config);
    }
    Ok(())
}

fn within(subnet: &str, address: &str) -> bool {
    use std::net::IpAddr;
    let Some((base, length)) = subnet.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(length), Ok(address)) = (
        base.parse::<IpAddr>(),
        length.parse::<u32>(),
        address.parse::<IpAddr>(),
    ) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(b), IpAddr::V4(a)) => {
            let shift = 32u32.saturating_sub(length);
            let cut = |x| u32::from(x).checked_shr(shift).unwrap_or(0);
            cut(b) == cut(a)
        }
        (IpAddr::V6(b), IpAddr::V6(a)) => {
            let shift = 128u32.saturating_sub(length);
            let cut = |x| u128::from(x).checked_shr(shift).unwrap_or(0);
            cut(b) == cut(a)
        }
        _ => false,
    }
}

#[derive(Debug, Default)]
pub(crate) struct RemoveOptions {
    force: bool,
}

pub(crate) static RM: Verb<RemoveOptions> = Verb {
    path: "network rm",
    aliases: &["network remove"],
    usage: "[OPTIONS] NETWORK [NETWORK...]",
    about: "Remove one or more networks",
    operands: Operands::AtLeast(1),
    offer: Offer::Networks,
    interspersed: true,
    flags: &[&[switch(
        "force",
        Some('f'),
        |o, v| o.force = v,
        "No error if it is not there",
    )]],
    run: |context, o, names| {
        context.for_each(&names, |name| {
            let path = format!("/networks/{}", escape(name));
            let done = context
                .client
                .send("DELETE", &path, Body::Empty)
                .and_then(Response::discard);
            match done {
                Err(HttpError::Api { status: 404, .. }) if o.force => Ok(None),
                Err(e) => Err(e.into()),
                Ok(()) => Ok(Some(name.to_owned())),
            }
        })
    },
};

pub(crate) static PRUNE: Verb<PruneOptions> = Verb {
    path: "network prune",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Remove all networks that no container uses",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("force", Some('f'), |o, v| o.force = v, "Do not ask"),
        value(
            "filter",
            None,
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (label=KEY=VALUE, until=24h)",
        ),
    ]],
    run: |context, o, _| {
        let warning =
            "WARNING! This will remove all custom networks not used by at least one container.";
        if !o.force && !confirmed(context, warning)? {
            return Ok(());
        }
        context.print(&prune(context, &o.filters)?)
    },
};

/// Removes unused networks; the report.
pub(crate) fn prune(context: &Context, filters: &api::Filters) -> Result<String, Failure> {
    let query = with_filters(Query::new("/networks/prune"), filters).build();
    let report: NetworkPruneReport = context.client.send("POST", &query, Body::Empty)?.json()?;
    let deleted = report.networks_deleted.unwrap_or_default();
    if deleted.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("Deleted Networks:\n{}\n\n", deleted.join("\n")))
}

#[derive(Debug, Default)]
pub(crate) struct ConnectOptions {
    settings: EndpointSettings,
}

#[rustfmt::skip]
pub(crate) static CONNECT: Verb<ConnectOptions> = Verb {
    path: "network connect",
    aliases: &[],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Connect a container to a network",
    operands: Operands::Exactly(2),
    offer: Offer::Networks,
    interspersed: true,
    flags: &[&[
        value("ip", None, "ip", |o, v| { v.clone_into(&mut asked(&mut o.settings).ipv4_address); Ok(()) }, "Address of IPv4 in the network"),
        value("ip6", None, "ip", |o, v| { v.clone_into(&mut asked(&mut o.settings).ipv6_address); Ok(()) }, "Address of IPv6 in the network"),
        value("gw-priority", None, "int", |o, v| { o.settings.gw_priority = v.parse().map_err(|_| format!("invalid value: {v}"))?; Ok(()) }, "Of several networks, the highest leads out"),
        value("alias", None, "list", |o, v| parse::push(&mut o.settings.aliases, v.to_owned()), "Another name in the network"),
        value("link", None, "list", |o, v| parse::push(&mut o.settings.links, v.to_owned()), "A name for another container (container[:name])"),
        refused("link-local-ip", None, LATER),
        refused("driver-opt", None, LATER),
    ]],
    run: |context, o, names| {
        let [network, container] = two(names);
        let request = NetworkConnectRequest {
            container,
            endpoint_config: Some(o.settings),
        };
        post(context, &network, "connect", &request)
    },
};

#[derive(Debug, Default)]
pub(crate) struct DisconnectOptions {
    force: bool,
}

pub(crate) static DISCONNECT: Verb<DisconnectOptions> = Verb {
    path: "network disconnect",
    aliases: &[],
    usage: "[OPTIONS] NETWORK CONTAINER",
    about: "Disconnect a container from a network",
    operands: Operands::Exactly(2),
    offer: Offer::Networks,
    interspersed: true,
    flags: &[&[switch(
        "force",
        Some('f'),
        |o, v| o.force = v,
        "Also where the container does not answer",
    )]],
    run: |context, o, names| {
        let [network, container] = two(names);
        let request = NetworkDisconnectRequest {
            container,
            force: o.force,
        };
        post(context, &network, "disconnect", &request)
    },
};

fn two(names: Vec<String>) -> [String; 2] {
    let mut names = names.into_iter();
    [(); 2].map(|()| names.next().unwrap_or_default())
}

fn post(
    context: &Context,
    network: &str,
    verb: &str,
    request: &impl serde::Serialize,
) -> Result<(), Failure> {
    let body = serde_json::to_vec(request).map_err(|e| Failure::say(e.to_string()))?;
    let path = format!("/networks/{}/{verb}", escape(network));
    context
        .client
        .send("POST", &path, Body::Json(body))
        .and_then(Response::discard)?;
    Ok(())
}

pub(crate) static LS: Verb<ListOptions> = Verb {
    path: "network ls",
    aliases: &["network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Only IDs"),
        switch("no-trunc", None, |o, v| o.no_trunc = v, "Do not cut"),
        FORMAT,
        value(
            "filter",
            Some('f'),
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (driver=bridge, label=KEY, name=X, dangling=true, ...)",
        ),
    ]],
    run: |context, o, _| {
        let query = with_filters(Query::new("/networks"), &o.filters).build();
        let mut list: Vec<Network> = context.client.get_json(&query)?;
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let rows: Vec<Row> = list.iter().map(|n| line(n, o.no_trunc)).collect();
        let format = Format::parse(
            o.format.as_deref(),
            o.quiet,
            "{{.ID}}",
            "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        );
        let table = Table {
            columns: COLUMNS,
            rows: &rows,
        };
        context.print(&table.render(&format)?)
    },
};

const COLUMNS: &[Column] = &[
    column("ID", "NETWORK ID"),
    column("Name", "NAME"),
    column("Driver", "DRIVER"),
    column("Scope", "SCOPE"),
    column("IPv4", "IPV4"),
    column("IPv6", "IPV6"),
    column("Internal", "INTERNAL"),
    column("Labels", "LABELS"),
    column("CreatedAt", "CREATED AT"),
];

fn line(n: &Network, full: bool) -> Row {
    let fields = row([
        ("ID", id_of(&n.id, full)),
        ("Name", n.name.clone()),
        ("Driver", n.driver.clone()),
        ("Scope", n.scope.clone()),
        ("IPv4", n.enable_ipv4.to_string()),
        ("IPv6", n.enable_ipv6.to_string()),
        ("Internal", n.internal.to_string()),
        ("CreatedAt", n.created.clone()),
    ]);
    with_labels(fields, &n.labels)
}

/// Where an endpoint's addresses are asked for.
pub(crate) fn asked(settings: &mut EndpointSettings) -> &mut EndpointIpamConfig {
    settings.ipam_config.get_or_insert_default()
}

/// `--network` of `run`: a name, or fields of an endpoint.
pub(crate) fn endpoint(text: &str) -> Result<(String, EndpointSettings), String> {
    let mut name = String::new();
    let mut settings = EndpointSettings::default();
    for field in parse::csv(text)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field {field}"))?;
        match key.to_ascii_lowercase().as_str() {
            "name" => value.clone_into(&mut name),
            "ip" => value.clone_into(&mut asked(&mut settings).ipv4_address),
            "ip6" => value.clone_into(&mut asked(&mut settings).ipv6_address),
            "mac-address" => value.clone_into(&mut settings.mac_address),
            "gw-priority" => {
                let wrong = |_| format!("invalid gw-priority: {value}");
                settings.gw_priority = value.parse().map_err(wrong)?;
            }
            "alias" => parse::push(&mut settings.aliases, value.to_owned())?,
            "link-local-ip" | "driver-opt" => {
                return Err(format!(
                    "'{field}' is not supported by this version: {LATER}"
                ));
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if name.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok((name, settings))
}

/// `[[ip:][host port]:]port[/protocol]`, ranges too: the ports of the container with their places.
///
/// source: docker run --publish
pub(crate) fn publish(text: &str) -> Result<Vec<(String, PortBinding)>, String> {
    let wrong = || format!("invalid publish opts format (should be name=value but got '{text}')");
    let bad_port = |port: &str| format!("invalid containerPort: {port}");
    if text.contains('=') {
        return Err(format!(
            "'{text}' is not supported by this version: write ip:port:port/protocol"
        ));
    }
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (head, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (ip, host) = match head.rsplit_once(':') {
        Some((ip, host)) => (ip, host),
        None if head.ends_with(']') => return Err(wrong()),
        None => ("", head),
    };
    let ip = ip.trim_start_matches('[').trim_end_matches(']');
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(container).ok_or_else(|| bad_port(container))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    let count = last - first;
    let mut out = Vec::new();
    for n in 0..=count {
        let host_port = match hosts {
            None => String::new(),
            Some((low, high)) if high - low == count => (low + n).to_string(),
            Some((low, high)) if count == 0 => format!("{low}-{high}"),
            Some(_) => {
                return Err(format!(
                    "invalid ranges specified for container and host Ports: {container} and {host}"
                ));
            }
        };
        let binding = PortBinding {
            host_ip: ip.to_owned(),
            host_port,
        };
        out.push((format!("{}/{protocol}", first + n), binding));
    }
    Ok(out)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && first > 0).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> String {
        match publish(text) {
            Ok(all) => {
                let line =
                    |(p, b): &(String, PortBinding)| format!("{} {} {p}", b.host_ip, b.host_port);
                all.iter().map(line).collect::<Vec<_>>().join(", ")
            }
            Err(e) => e,
        }
    }

    #[test]
    fn published_ports_as_docker_writes_them() {
        for (text, means) in [
            ("80", "  80/tcp"),
            ("8080:80", " 8080 80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1 8080 80/udp"),
            ("127.0.0.1::80", "127.0.0.1  80/tcp"),
            ("[::1]:8080:80", "::1 8080 80/tcp"),
            ("8000-8001:80-81", " 8000 80/tcp,  8001 81/tcp"),
            ("8000-8010:80", " 8000-8010 80/tcp"),
            (
                "8000-8010:80-81",
                "invalid ranges specified for container and host Ports: 80-81 and 8000-8010",
            ),
            ("x:80", "invalid hostPort: x"),
            ("80/icmp", "invalid proto: icmp"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("0", "invalid containerPort: 0"),
        ] {
            assert_eq!(published(text), means, "{text}");
        }
    }

    #[test]
    fn gateways_go_to_their_subnet() {
        assert!(within("10.1.0.0/16", "10.1.2.3"));
        assert!(!within("10.1.0.0/16", "10.2.2.3"));
        assert!(within("fd00::/64", "fd00::1"));
        assert!(!within("fd00::/64", "10.1.2.3"));
        assert!(within("0.0.0.0/0", "10.1.2.3"));
    }
}
