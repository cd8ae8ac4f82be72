//! A container's place in its networks: given at its start, taken at its end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use net::{Element, Mac, Namespace, Prefix, Publication, host, resolver};

use super::options::Driver;
use super::{
    EndpointOptions, EndpointState, Membership, NetworkRecord, Networks, State, failed, publish,
};
use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerRecord, EndpointSpec, ErrorKind};

/// What a container's shim is handed: its network namespace, then the sockets that keep its ports.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) held: Vec<OwnedFd>,
    pub(crate) membership: Arc<Membership>,
    /// What its name server may say; the server's sockets are the last two that are held.
    pub(crate) names: Option<PathBuf>,
}

/// Sets up what the record asks for; absent: no network of ours. On an error nothing is left.
pub(crate) async fn attach(
    engine: &Arc<Inner>,
    record: &Arc<ContainerRecord>,
) -> Result<Option<Sandbox>, Error> {
    if record.networks.is_empty() {
        return Ok(None);
    }
    if engine.networks.membership(&record.id).is_some() {
        detach(engine, &record.id).await;
    }
    let membership = engine.networks.allocate(record)?;
    let for_links = record.clone();
    let made = engine
        .blocking("set up the container's network", move |inner| {
            link(inner, &for_links, membership)
        })
        .await;
    let done = match made {
        Ok((sandbox, true)) => Ok(sandbox),
        Ok((sandbox, false)) => {
            let added = add_ports(engine, &sandbox.membership).await;
            added.map(|()| sandbox)
        }
        Err(error) => Err(error),
    };
    if done.is_err() {
        detach(engine, &record.id).await;
    }
    engine.networks.publish();
    done.map(Some)
}

/// Takes it away again; there need be nothing. Its links go with its namespace.
pub(crate) async fn detach(engine: &Arc<Inner>, container: &str) {
    let Some(old) = engine.networks.forget(container) else {
        return;
    };
    engine.networks.publish();
    let turn = engine.networks.turn.lock().await;
    let gone = engine
        .blocking("take the container out of its networks", move |inner| {
            let file = inner.networks.dir.join(old.file_name());
            match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(file = %file.display(), error = %e, "a network's file stays");
                }
                _ => {}
            }
            let renamed = inner.networks.forget_names(&old);
            inner.networks.remove_ports(&old).and(renamed)
        })
        .await;
    drop(turn);
    if let Err(error) = gone {
        tracing::warn!(container, error = %error.report(), "its published ports or names stay until the next start");
    }
}

async fn add_ports(engine: &Arc<Inner>, membership: &Arc<Membership>) -> Result<(), Error> {
    let turn = engine.networks.turn.lock().await;
    let membership = membership.clone();
    let added = engine
        .blocking("publish the container's ports", move |inner| {
            inner.networks.add_ports(&membership)
        })
        .await;
    drop(turn);
    added
}

impl Networks {
    /// In memory: addresses, names. Nobody else gets them from now on.
    fn allocate(&self, record: &ContainerRecord) -> Result<Membership, Error> {
        let mut membership = Membership {
            container: record.id.clone(),
            name: record.name.clone(),
            hostname: crate::container::hostname(record),
            run: u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0),
            ..Membership::default()
        };
        let mut state = self.state();
        for (network, spec) in &record.networks {
            match self.endpoint(&mut state, &membership, network, spec) {
                Ok(endpoint) => membership.endpoints.push(endpoint),
                Err(error) => {
                    give_back(&mut state, &membership);
                    return Err(error);
                }
            }
        }
        // held, and seen by a detach, though not yet complete
        let held = Arc::new(membership.clone());
        state.attached.insert(record.id.clone(), held);
        Ok(membership)
    }

    pub(super) fn reserve_endpoint(
        &self,
        membership: &Membership,
        network: &str,
        spec: &EndpointSpec,
    ) -> Result<EndpointState, Error> {
        self.endpoint(&mut self.state(), membership, network, spec)
    }

    pub(super) fn return_endpoint(&self, endpoint: &EndpointState) {
        let membership = Membership {
            endpoints: vec![endpoint.clone()],
            ..Membership::default()
        };
        give_back(&mut self.state(), &membership);
    }

    fn endpoint(
        &self,
        state: &mut State,
        membership: &Membership,
        network: &str,
        spec: &EndpointSpec,
    ) -> Result<EndpointState, Error> {
        let container = membership.container.as_str();
        let known = state
            .networks
            .values_mut()
            .find(|k| k.record.name == network)
            .ok_or_else(|| Error::not_found(format!("network {network} not found")))?;
        let record = known.record.clone();
        let options = record.options();
        let wanted = EndpointOptions::read(&spec.options)?;
        let interface = interface(membership, wanted.interface, &options.prefix)?;
        let now = Instant::now();
        let mut addresses = Vec::new();
        let mut gateways = Vec::new();
        for (pool, subnet) in known.pools.iter_mut().zip(&record.subnets) {
            let four = subnet.gateway.is_ipv4();
            let asked = if four { spec.ipv4 } else { spec.ipv6 };
            let given = match asked {
                Some(address) => pool.take(address, container).map(|()| address),
                None => pool.give(container, now),
            };
            match given {
                Ok(address) => addresses.push(Prefix {
                    address,
                    length: subnet.subnet.length,
                }),
                Err(error) => {
                    for (pool, held) in known.pools.iter_mut().zip(&addresses) {
                        pool.free(held.address, now);
                    }
                    let what = format!("give an address of network {network}");
                    return Err(Error::caused(ErrorKind::Conflict, what, error));
                }
            }
            if !record.leads_nowhere() {
                gateways.push(match options.is_layer_3() {
                    true if four => IpAddr::from([0; 4]),
                    true => IpAddr::from([0; 16]),
                    false => subnet.gateway,
                });
            }
        }
        let seed = addresses
            .first()
            .map_or_else(String::new, Prefix::to_string);
        let seed = format!("{}\n{seed}", record.id);
        Ok(EndpointState {
            endpoint_id: endpoint_id(&record, container),
            bridge: record.bridge.clone(),
            host_interface: match options.driver {
                Driver::Bridge => self.instance.veth(&record.id, container, membership.run),
                Driver::Macvlan | Driver::Ipvlan => String::new(),
            },
            above: options.above,
            isolated: options.driver == Driver::Bridge && !options.icc,
            sysctls: wanted.sysctls,
            interface,
            // of the address: a neighbour that knows it needs not ask again
            mac: (options.driver != Driver::Ipvlan)
                .then(|| spec.mac.unwrap_or_else(|| Mac::derived(&seed))),
            addresses,
            gateways,
            mtu: options.mtu,
            aliases: spec.aliases.clone(),
            links: spec.links.clone(),
            gw_priority: spec.gw_priority,
            network_id: record.id.clone(),
            network: record.name.clone(),
        })
    }

    pub(super) fn note(&self, membership: Membership) -> Arc<Membership> {
        let membership = Arc::new(membership);
        let id = membership.container.clone();
        self.state().attached.insert(id, membership.clone());
        membership
    }

    pub(super) fn forget(&self, container: &str) -> Option<Arc<Membership>> {
        let mut state = self.state();
        let old = state.attached.remove(container)?;
        give_back(&mut state, &old);
        Some(old)
    }

    /// With the turn.
    fn add_ports(&self, membership: &Membership) -> Result<(), Error> {
        let all = membership.ports.iter().flat_map(Publication::elements);
        let elements: Vec<Element> = all.collect();
        sys::fault::point("engine.ports.add").map_err(Error::io("publish ports"))?;
        match self.table()?.add(&elements) {
            Ok(()) => Ok(()),
            // an element that should be gone is in the way, or the table is
            Err(error) => {
                tracing::debug!(%error, "the table is replaced");
                self.replace_table()
            }
        }
    }

    /// What nobody else has since.
    fn remove_ports(&self, old: &Membership) -> Result<(), Error> {
        if old.ports.is_empty() {
            return Ok(());
        }
        let wanted: BTreeSet<_> = self.elements().into_iter().map(Element::into_key).collect();
        let all = old.ports.iter().flat_map(Publication::elements);
        let gone: Vec<Element> = all
            .filter(|e| !wanted.contains(&e.clone().into_key()))
            .collect();
        sys::fault::point("engine.ports.remove").map_err(Error::io("take ports back"))?;
        match self.table()?.remove(&gone) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "the table is replaced");
                self.replace_table()
            }
        }
    }

    pub(super) fn save(&self, membership: &Membership) -> Result<(), Error> {
        let path = self.dir.join(membership.file_name());
        let text = serde_json::to_vec(membership).map_err(failed("encode the network's file"))?;
        super::put(&path, &text, "engine.network.file")
    }
}

fn give_back(state: &mut State, membership: &Membership) {
    let now = Instant::now();
    for endpoint in &membership.endpoints {
        let Some(known) = state.networks.get_mut(&endpoint.network_id) else {
            continue;
        };
        for address in &endpoint.addresses {
            for pool in &mut known.pools {
                if pool.subnet().contains(address.address) {
                    pool.free(address.address, now);
                }
            }
        }
    }
}

/// What the link is called in the container: as it is asked for, else the first name that is free.
fn interface(
    membership: &Membership,
    wanted: Option<String>,
    prefix: &str,
) -> Result<String, Error> {
    let taken = |name: &str| membership.endpoints.iter().any(|e| e.interface == name);
    match wanted {
        Some(name) if name == "lo" || taken(&name) => Err(Error::conflict(format!(
            "the container has an interface {name} already"
        ))),
        Some(name) => Ok(name),
        None => {
            let mut names = (0..=membership.endpoints.len()).map(|n| format!("{prefix}{n}"));
            let free = names.find(|name| !taken(name));
            free.ok_or_else(|| Error::internal("no name is left for an interface"))
        }
    }
}

/// Derived, as all names here; two runs of one container have the same.
fn endpoint_id(network: &NetworkRecord, container: &str) -> String {
    let half = |seed: &str| {
        let text = format!("{seed}\n{}\n{container}", network.id);
        net::names::long_hash(&text)
    };
    format!("{}{}", half("a"), half("b"))
}

/// Ports, file, namespace, links, table; false: the table is still to be told of the ports, because
/// it is another's turn. A thread that waited for it here might be the last that its owner needs.
fn link(
    inner: &Inner,
    record: &ContainerRecord,
    mut membership: Membership,
) -> Result<(Sandbox, bool), Error> {
    let networks = &inner.networks;
    let sockets = publish::reserve(networks, record, &mut membership)?;
    networks.save(&membership)?;
    let namespace = Namespace::create().map_err(failed("make the container's network"))?;
    host::connect(&networks.instance, &namespace, &membership.links())
        .map_err(failed("link the container to its networks"))?;
    let asked = membership
        .has_names()
        .then(|| resolver::open(namespace.as_fd()))
        .transpose()
        .map_err(failed("make the container's name server"))?;
    networks.write_names(record, &membership)?;
    // known before its ports lead to it: the whole table is made of what is known
    let membership = networks.note(membership);
    let turn = networks.turn.try_lock();
    let told = membership.ports.is_empty() || turn.is_ok();
    if !membership.ports.is_empty() && turn.is_ok() {
        networks.add_ports(&membership)?;
    }
    drop(turn);
    let mut held = vec![namespace.into_fd()];
    held.extend(sockets);
    held.extend(asked.into_iter().flatten());
    let file = networks.names_file(&membership);
    let sandbox = Sandbox {
        held,
        names: membership.has_names().then_some(file),
        membership,
    };
    Ok((sandbox, told))
}

/// What containers that live on have; a file without a shim is a start that got no further, or an end
/// that nobody saw.
pub(super) fn take_up(inner: &Inner) -> Result<(), Error> {
    let networks = &inner.networks;
    let entries = match std::fs::read_dir(&networks.dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read the networks' files")(e)),
    };
    let shims = inner.config.exec_root.join("shims");
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    // the last run of a container first: an earlier one's file is what its end left
    paths.sort_unstable_by(|a, b| b.cmp(a));
    for path in paths {
        let read = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Membership>(&bytes).ok());
        let lives = |a: &Membership| {
            shims.join(&a.container).exists() && networks.membership(&a.container).is_none()
        };
        match read.filter(lives) {
            Some(membership) if path.extension().is_some_and(|e| e == "json") => {
                networks.hold(&membership);
                networks.note(membership);
            }
            _ if path.file_name().is_some_and(|n| n == super::change::ROUTER) => {}
            _ => drop(std::fs::remove_file(&path)),
        }
    }
    Ok(())
}

impl Networks {
    pub(super) fn hold(&self, membership: &Membership) {
        let mut state = self.state();
        for endpoint in &membership.endpoints {
            let Some(known) = state.networks.get_mut(&endpoint.network_id) else {
                continue;
            };
            for address in &endpoint.addresses {
                for pool in &mut known.pools {
                    // of another subnet, or twice: the kernel has it, so it stays
                    drop(pool.take(address.address, &membership.container));
                }
            }
        }
    }
}
