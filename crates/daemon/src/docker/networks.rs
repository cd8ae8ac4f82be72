//! Networks: the engine's, and the two there are without any: `none` and `host`.

use api::network::{
    EndpointResource, Ipam, IpamConfig, IpamRequest, Network, NetworkConnectRequest,
    NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest, NetworkPruneReport,
};
use engine::model::{NetworkMode, Prefix};
use engine::{ContainerView, NetworkSpec, NetworkView, Snapshot, SubnetSpec};
use hyper::StatusCode;

use super::answer::{Answer, created, empty, ok};
use super::call::Call;
use super::failure::Failure;
use super::translate::create::endpoint;

const NAMES: [&str; 2] = ["host", "none"];

/// 64 hex digits, the same for ever: these networks are the same on every host.
pub(super) fn id(name: &str) -> String {
    let part = |seed: u64| {
        name.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    format!(
        "{:016x}{:016x}{:016x}{:016x}",
        part(0xcbf2_9ce4_8422_2325),
        part(1),
        part(2),
        part(3)
    )
}

/// Runs in `none` or `host`: in no network of ours.
fn is_in(view: &ContainerView, name: &str) -> bool {
    let of = match view.record.spec.host.network {
        NetworkMode::Host => "host",
        NetworkMode::Container(_) => return false,
        _ if view.record.networks.is_empty() => "none",
        _ => return false,
    };
    view.is_running() && of == name
}

fn predefined(call: &Call, name: &str) -> Network {
    let snapshot = call.engine().snapshot();
    let members = snapshot.containers.iter().filter(|v| is_in(v, name));
    let members = members.map(|view| {
        (
            view.id().to_owned(),
            EndpointResource {
                name: view.name().to_owned(),
                ..EndpointResource::default()
            },
        )
    });
    Network {
        name: name.to_owned(),
        id: id(name),
        created: api::container::NO_TIME.to_owned(),
        scope: "local".to_owned(),
        driver: if name == "none" { "null" } else { name }.to_owned(),
        enable_ipv4: true,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
            config: Some(Vec::new()),
        },
        containers: members.collect(),
        ..Network::default()
    }
}

fn wire(snapshot: &Snapshot, view: &NetworkView) -> Network {
    let record = &view.record;
    // a container may have another name since it was started
    let name = |id: &str| {
        let all = &snapshot.containers;
        all.iter()
            .find(|c| c.id() == id)
            .map(|c| c.name().to_owned())
    };
    let text = |p: Option<Prefix>| p.map_or_else(String::new, |p| p.to_string());
    let members = view.members.iter().filter_map(|m| {
        let e = m.endpoints.iter().find(|e| e.network_id == record.id)?;
        let resource = EndpointResource {
            name: name(&m.container).unwrap_or_else(|| m.name.clone()),
            endpoint_id: e.endpoint_id.clone(),
            mac_address: e.mac.map_or_else(String::new, |m| m.to_string()),
            ipv4_address: text(e.address(true)),
            ipv6_address: text(e.address(false)),
        };
        Some((m.container.clone(), resource))
    });
    let subnets = record.subnets.iter().map(|s| IpamConfig {
        subnet: s.subnet.to_string(),
        ip_range: text(s.range),
        gateway: s.gateway.to_string(),
        auxiliary_addresses: s
            .auxiliary
            .iter()
            .map(|(name, address)| (name.clone(), address.to_string()))
            .collect(),
    });
    Network {
        name: record.name.clone(),
        id: record.id.clone(),
        created: record.created.clone(),
        scope: "local".to_owned(),
        driver: record.driver.clone(),
        enable_ipv4: true,
        enable_ipv6: record.ipv6,
        ipam: Ipam {
            driver: "default".to_owned(),
            options: None,
            config: Some(subnets.collect()),
        },
        internal: record.internal,
        attachable: record.attachable,
        containers: members.collect(),
        options: record.options.clone(),
        labels: record.labels.clone(),
        ..Network::default()
    }
}

fn find(wanted: &str) -> Option<&'static str> {
    NAMES
        .into_iter()
        .find(|name| wanted == *name || (wanted.len() >= 4 && id(name).starts_with(wanted)))
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = call.filters(&[
        "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
    ])?;
    let snapshot = call.engine().snapshot();
    let used = |n: &Network| {
        let all = &snapshot.containers;
        all.iter().any(|v| v.record.networks.contains_key(&n.name))
    };
    let builtin = |n: &Network| NAMES.contains(&n.name.as_str()) || n.name == "bridge";
    let ours = snapshot.networks.iter().map(|n| wire(&snapshot, n));
    let lines: Vec<Network> = ours
        .chain(NAMES.iter().map(|name| predefined(&call, name)))
        .filter(|n| filters.any("name", |v| n.name.contains(v.as_str())))
        .filter(|n| filters.any("id", |v| n.id.starts_with(v.as_str())))
        .filter(|n| filters.any("driver", |v| n.driver == *v))
        .filter(|n| filters.any("scope", |v| n.scope == *v))
        .filter(|n| {
            filters.any("type", |v| {
                v == if builtin(n) { "builtin" } else { "custom" }
            })
        })
        .filter(|n| filters.labels_match(&n.labels) && !filters.labels_excluded(&n.labels))
        .filter(|n| {
            let dangling = !builtin(n) && !used(n);
            filters.any("dangling", |v| {
                matches!(v.as_str(), "1" | "true") == dangling
            })
        })
        // a list never shows who is in it
        .map(|n| Network {
            containers: Default::default(),
            ..n
        })
        .collect();
    ok(&lines)
}

pub(super) async fn inspect(call: Call) -> Answer {
    match find(&call.param) {
        Some(name) => ok(&predefined(&call, name)),
        None => {
            let engine = call.engine();
            ok(&wire(&engine.snapshot(), &engine.network(&call.param)?))
        }
    }
}

fn spec(request: NetworkCreateRequest) -> Result<NetworkSpec, Failure> {
    let not_built = |asked: bool, what: &str| match asked {
        true => Err(Failure::not_built(what)),
        false => Ok(()),
    };
    not_built(
        !matches!(request.scope.as_str(), "" | "local"),
        "a network of a swarm",
    )?;
    not_built(request.ingress, "Ingress")?;
    not_built(request.config_only, "ConfigOnly (--config-only)")?;
    let from = request.config_from.is_some_and(|c| !c.network.is_empty());
    not_built(from, "ConfigFrom (--config-from)")?;
    not_built(request.enable_ipv4 == Some(false), "EnableIPv4=false")?;
    Ok(NetworkSpec {
        name: request.name,
        driver: request.driver,
        internal: request.internal,
        attachable: request.attachable,
        ipv6: request.enable_ipv6.unwrap_or(false),
        subnets: subnets(request.ipam.unwrap_or_default())?,
        options: request.options.unwrap_or_default(),
        labels: request.labels.unwrap_or_default(),
    })
}

fn subnets(ipam: IpamRequest) -> Result<Vec<SubnetSpec>, Failure> {
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Failure::not_built(format!(
            "the IPAM driver {:?}",
            ipam.driver
        )));
    }
    if ipam.options.is_some_and(|o| !o.is_empty()) {
        return Err(Failure::not_built("options of IPAM (--ipam-opt)"));
    }
    let wrong = |what: &str, text: &str| Failure::invalid(format!("invalid {what}: {text}"));
    let mut out = Vec::new();
    for c in ipam.config.unwrap_or_default() {
        let mut auxiliary = std::collections::BTreeMap::new();
        for (name, text) in c.auxiliary_addresses.unwrap_or_default() {
            let address = text.parse();
            auxiliary.insert(
                name,
                address.map_err(|_| wrong("auxiliary address", &text))?,
            );
        }
        if c.subnet.is_empty() && (!c.gateway.is_empty() || !c.ip_range.is_empty()) {
            return Err(Failure::invalid("a gateway or range needs its subnet"));
        }
        if c.subnet.is_empty() {
            continue;
        }
        let subnet = c.subnet.parse().map_err(|_| wrong("subnet", &c.subnet))?;
        let range = match c.ip_range.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| wrong("IP range", text))?),
        };
        let gateway = match c.gateway.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| wrong("gateway", text))?),
        };
        out.push(SubnetSpec {
            subnet,
            range,
            gateway,
            auxiliary,
        });
    }
    Ok(out)
}

pub(super) async fn create(mut call: Call) -> Answer {
    let request: NetworkCreateRequest = call.json_or_default().await?;
    let spec = spec(request)?;
    let engine = call.engine().clone();
    let id = call
        .change(async move { engine.create_network(spec).await })
        .await?;
    created(&NetworkCreateResponse {
        id,
        warning: String::new(),
    })
}

pub(super) async fn connect(mut call: Call) -> Answer {
    let body: NetworkConnectRequest = call.json_or_default().await?;
    refuse_predefined(&call.param, "connected to")?;
    let spec = endpoint(&body.endpoint_config.unwrap_or_default())?;
    let (engine, network) = (call.engine().clone(), call.param.clone());
    call.change(async move { engine.connect(&network, &body.container, spec).await })
        .await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn disconnect(mut call: Call) -> Answer {
    let body: NetworkDisconnectRequest = call.json_or_default().await?;
    refuse_predefined(&call.param, "disconnected from")?;
    let (engine, network) = (call.engine().clone(), call.param.clone());
    call.change(async move { engine.disconnect(&network, &body.container).await })
        .await?;
    Ok(empty(StatusCode::OK))
}

fn refuse_predefined(network: &str, what: &str) -> Result<(), Failure> {
    match find(network) {
        Some(name) => Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("container cannot be {what} {name} network"),
        )),
        None => Ok(()),
    }
}

pub(super) async fn remove(call: Call) -> Answer {
    if let Some(name) = find(&call.param) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("{name} is a pre-defined network and cannot be removed"),
        ));
    }
    let (engine, network) = (call.engine().clone(), call.param.clone());
    call.change(async move { engine.remove_network(&network).await })
        .await?;
    super::answer::no_content()
}

pub(super) async fn prune(call: Call) -> Answer {
    let filters = call.filters(&["label", "label!", "until"])?;
    let engine = call.engine().clone();
    let gone = call
        .change(async move { engine.prune_networks(&filters.0).await })
        .await?;
    ok(&NetworkPruneReport {
        networks_deleted: Some(gone).filter(|g| !g.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        assert_eq!(id("none").len(), 64);
        assert_ne!(id("none"), id("host"));
        assert_eq!(find(&id("host")[..12]), Some("host"));
        assert_eq!(find("bridge"), None);
    }
}
