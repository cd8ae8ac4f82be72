//! The networks there are without any of our own: `none` and `host`.

use api::network::{EndpointResource, Ipam, Network, NetworkPruneReport};
use engine::model::NetworkMode;

use super::answer::{Answer, ok};
use super::call::Call;
use super::failure::Failure;

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

fn network(call: &Call, name: &str) -> Network {
    let snapshot = call.engine().snapshot();
    let members = snapshot.containers.iter().filter(|view| {
        view.is_running()
            && match view.record.spec.host.network {
                NetworkMode::Host => name == "host",
                NetworkMode::None | NetworkMode::Default => name == "none",
                _ => false,
            }
    });
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

fn find(wanted: &str) -> Option<&'static str> {
    NAMES
        .into_iter()
        .find(|name| wanted == *name || (wanted.len() >= 4 && id(name).starts_with(wanted)))
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = call.filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let lines: Vec<Network> = NAMES
        .iter()
        .map(|name| network(&call, name))
        .filter(|n| filters.any("name", |v| n.name.contains(v.as_str())))
        .filter(|n| filters.any("id", |v| n.id.starts_with(v.as_str())))
        .filter(|n| filters.any("driver", |v| n.driver == *v))
        .filter(|n| filters.any("scope", |v| n.scope == *v))
        .filter(|_| filters.any("type", |v| v == "builtin") && !filters.contains("label"))
        .filter(|_| filters.any("dangling", |v| matches!(v.as_str(), "0" | "false")))
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
        Some(name) => ok(&network(&call, name)),
        None => Err(absent(&call.param)),
    }
}

pub(super) async fn remove(call: Call) -> Answer {
    match find(&call.param) {
        Some(name) => Err(Failure::new(
            hyper::StatusCode::FORBIDDEN,
            format!("{name} is a pre-defined network and cannot be removed"),
        )),
        None => Err(absent(&call.param)),
    }
}

/// There are none that could go.
pub(super) async fn prune(_: Call) -> Answer {
    ok(&NetworkPruneReport::default())
}

fn absent(name: &str) -> Failure {
    Failure::not_found(format!("network {name} not found"))
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
