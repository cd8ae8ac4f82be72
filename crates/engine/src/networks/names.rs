//! Names in networks: files that shims read at each question, so that a change counts at once and
//! an answer needs no engine (FAILURES "DNS inside containers").
//!
//! ```text
//! <exec root>/names/<network>.hosts            who is in it
//!                   <container>.<run>.conf     what a container may ask
//! ```
//! The default network has no names, as Docker's has none.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use shim::names::zone::{self, Forward, Member};
use shim::names::{Config, Zone};

use super::{BRIDGE, EndpointState, Membership, Networks};
use crate::error::Error;
use crate::model::{ContainerRecord, HostSpec};

impl Membership {
    /// Whether its container asks a name server of its own.
    pub(crate) fn has_names(&self) -> bool {
        self.endpoints.iter().any(has_names)
    }

    fn names_file(&self) -> String {
        format!("{}.{:020}.conf", self.container, self.run)
    }

    /// What its container is called in one of its networks; the first is the answer to a question
    /// for its address.
    #[must_use]
    pub fn dns_names(&self, endpoint: &EndpointState) -> Vec<String> {
        if !has_names(endpoint) {
            return Vec::new();
        }
        let short = self.container.get(..12).unwrap_or_default();
        let mut all = vec![self.name.clone()];
        all.extend(endpoint.aliases.iter().cloned());
        all.extend([short.to_owned(), self.hostname.clone()]);
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|n| !n.is_empty() && seen.insert(n.clone()));
        all
    }
}

fn has_names(endpoint: &EndpointState) -> bool {
    endpoint.network != BRIDGE
}

/// What a container may ask: from its networks, and from what it was made with.
fn config(membership: &Membership, host: &HostSpec) -> Config {
    let mut config = Config::default();
    for endpoint in membership.endpoints.iter().filter(|e| has_names(e)) {
        config.networks.push(endpoint.network_id.clone());
        for link in &endpoint.links {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            config.links.push((alias.to_owned(), name.to_owned()));
        }
    }
    let servers: Vec<_> = host.dns.iter().filter_map(|s| s.parse().ok()).collect();
    if membership.default_endpoint().is_none() {
        config.forward = Forward::Nowhere;
    } else if !servers.is_empty() {
        config.forward = Forward::Own(servers);
    }
    config.absolute = crate::etc::ndots(host) > 0;
    config
}

fn put(path: &Path, text: &str) -> Result<(), Error> {
    super::put(path, text.as_bytes(), "engine.names.file")
}

impl Networks {
    /// The container's file. It is there from its first network with names on, for as long as the
    /// container runs: its shim answers all that time.
    pub(super) fn names_file(&self, membership: &Membership) -> PathBuf {
        self.names_dir.join(membership.names_file())
    }

    /// Writes what a container may ask, and has those of its networks know it.
    pub(super) fn write_names(
        &self,
        record: &ContainerRecord,
        membership: &Membership,
    ) -> Result<(), Error> {
        let file = self.names_file(membership);
        if !membership.has_names() && !file.exists() {
            return Ok(());
        }
        let host = self.settings.with_dns(&record.spec.host);
        put(&file, &config(membership, &host).text())?;
        self.write_zones(&membership.endpoints)
    }

    /// Writes anew who is in these networks.
    pub(super) fn write_zones<'a>(
        &self,
        of: impl IntoIterator<Item = &'a EndpointState>,
    ) -> Result<(), Error> {
        for endpoint in of.into_iter().filter(|e| has_names(e)) {
            self.write_zone(&endpoint.network_id)?;
        }
        Ok(())
    }

    /// Each writer takes who is there in its turn: the last has the last word.
    fn write_zone(&self, network: &str) -> Result<(), Error> {
        let turn = self.names_turn.lock();
        let turn = turn.unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        let Some(known) = state.networks.get(network) else {
            return Ok(());
        };
        let name = known.record.name.clone();
        let members: Vec<Member> = state
            .attached
            .values()
            .flat_map(|m| m.endpoints.iter().map(move |e| (m, e)))
            .filter(|(_, e)| e.network_id == network)
            .map(|(m, e)| Member {
                addresses: e.addresses.iter().map(|a| a.address).collect(),
                names: m.dns_names(e),
            })
            .collect();
        drop(state);
        let written = put(&self.zone_file(network), &Zone::text(&name, &members));
        drop(turn);
        written
    }

    /// A container has left all its networks.
    pub(super) fn forget_names(&self, old: &Membership) -> Result<(), Error> {
        // a file that stays is nobody's; the next start of the engine removes it
        drop(std::fs::remove_file(self.names_file(old)));
        self.write_zones(&old.endpoints)
    }

    pub(super) fn forget_zone(&self, network: &str) {
        drop(std::fs::remove_file(self.zone_file(network)));
    }

    fn zone_file(&self, network: &str) -> PathBuf {
        self.names_dir.join(zone::file_name(network))
    }

    /// A container's name has changed, while it runs.
    pub(crate) fn rename(&self, container: &str, name: &str) -> Result<(), Error> {
        let Some(before) = self.membership(container) else {
            return Ok(());
        };
        let membership = Membership {
            name: name.to_owned(),
            ..(*before).clone()
        };
        self.save(&membership)?;
        let membership = self.note(membership);
        self.publish();
        self.write_zones(&membership.endpoints)
    }

    /// At the engine's start: all as it should be, and nothing of what is gone.
    pub(super) fn restore_names(&self) -> Result<(), Error> {
        let Ok(entries) = std::fs::read_dir(&self.names_dir) else {
            return Ok(());
        };
        let state = self.state();
        let named = state
            .networks
            .iter()
            .filter(|(_, k)| k.record.name != BRIDGE);
        let networks: Vec<String> = named.map(|(id, _)| id.clone()).collect();
        let zones = networks.iter().map(|id| zone::file_name(id));
        let files = state.attached.values().map(|m| m.names_file());
        let wanted: std::collections::BTreeSet<String> = zones.chain(files).collect();
        drop(state);
        for entry in entries.flatten() {
            let known = entry
                .file_name()
                .to_str()
                .is_some_and(|n| wanted.contains(n));
            if !known {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        networks.iter().try_for_each(|id| self.write_zone(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(network: &str, gateways: &[&str]) -> EndpointState {
        let text = format!(
            r#"{{"network_id": "id-{network}", "network": "{network}", "endpoint_id": "", "bridge": "",
                "host_interface": "", "interface": "", "mac": "02:00:00:00:00:01", "addresses": [],
                "gateways": {}, "aliases": ["web", "c1"], "links": ["db:sql", "cache"]}}"#,
            serde_json::to_string(gateways).unwrap()
        );
        serde_json::from_str(&text).unwrap()
    }

    fn membership(endpoints: Vec<EndpointState>) -> Membership {
        Membership {
            container: "0123456789abcdef".to_owned(),
            name: "c1".to_owned(),
            hostname: "0123456789ab".to_owned(),
            endpoints,
            ..Membership::default()
        }
    }

    #[test]
    fn each_name_once() {
        let m = membership(vec![endpoint("one", &[])]);
        assert_eq!(m.dns_names(&m.endpoints[0]), ["c1", "web", "0123456789ab"]);
    }

    #[test]
    fn what_a_container_may_ask() {
        let m = membership(vec![endpoint(BRIDGE, &["10.0.0.1"]), endpoint("one", &[])]);
        let mut host = HostSpec {
            dns: vec!["192.0.2.1".to_owned()],
            dns_options: vec!["ndots:2".to_owned()],
            ..HostSpec::default()
        };
        assert_eq!(
            config(&m, &host).text(),
            "network id-one\nlink sql db\nlink cache cache\nserver 192.0.2.1\nabsolute\n"
        );
        host = HostSpec::default();
        let alone = membership(vec![endpoint("one", &[])]);
        assert!(config(&alone, &host).text().ends_with("internal\n"));
        assert!(!membership(vec![endpoint(BRIDGE, &[])]).has_names());
    }
}
