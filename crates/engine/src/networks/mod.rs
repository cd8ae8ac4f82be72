//! Networks: which there are, who is in them, and the host made so.
//!
//! ```text
//! <data root>  records of networks (store)
//! <exec root>/networks/<container>.json   what a running container has (`Membership`)
//!            /names/...                   who is called what: see `names`
//!
//! start of a container   addresses (memory) -> ports reserved -> file -> namespace, links -> table
//! its end                memory -> file away -> table
//! ```
//! The namespace is made here and handed to the shim with the ports' sockets; it has no name, so
//! whatever is killed, nothing of it is left. What can be left is a file, a bridge, an element of the
//! table: the next start computes what should be and replaces what is.
//!
//! Memory is changed under a lock that is held for nothing else. Changes of the table take turns, and
//! each computes what it does from the memory of its turn.

mod attach;
mod change;
mod names;
mod options;
mod publish;
mod record;
mod routes;
mod settings;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use net::ipam::Addresses;
use net::{Element, Instance, Publication, Table};

pub(crate) use attach::{Sandbox, attach, detach};
pub(crate) use change::{
    connect, create, disconnect, name_server, plug, ports_moved, prune, remove, unplug,
};
pub(crate) use options::EndpointOptions;
pub(crate) use record::{BRIDGE, PREDEFINED};
pub use record::{EndpointState, Membership, NetworkRecord, Subnet};
pub use settings::{NetworkSettings, PublishPolicy};

use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ErrorKind, NetworkMode};

#[derive(Debug)]
pub(crate) struct Networks {
    pub(crate) instance: Instance,
    dir: PathBuf,
    names_dir: PathBuf,
    /// Writers of names take turns.
    names_turn: Mutex<()>,
    pub(crate) settings: NetworkSettings,
    /// Why there is no default network although there should be.
    broken: OnceLock<String>,
    table: OnceLock<Table>,
    state: Mutex<State>,
    views: ArcSwap<Vec<NetworkView>>,
    /// Changes of the table and of the set of networks take turns.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By id.
    networks: BTreeMap<String, Known>,
    /// By container.
    attached: BTreeMap<String, Arc<Membership>>,
}

#[derive(Debug)]
struct Known {
    record: Arc<NetworkRecord>,
    pools: Vec<Addresses>,
}

/// A network as readers see it.
#[derive(Debug, Clone)]
pub struct NetworkView {
    pub record: Arc<NetworkRecord>,
    /// Containers that run in it.
    pub members: Vec<Arc<Membership>>,
}

impl Networks {
    pub(crate) fn new(exec_root: &std::path::Path, settings: NetworkSettings) -> Self {
        Self {
            instance: Instance::new(&exec_root.to_string_lossy()),
            dir: exec_root.join("networks"),
            names_dir: exec_root.join("names"),
            names_turn: Mutex::default(),
            settings,
            broken: OnceLock::new(),
            table: OnceLock::new(),
            state: Mutex::default(),
            views: ArcSwap::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn views(&self) -> Arc<Vec<NetworkView>> {
        self.views.load_full()
    }

    pub(crate) fn membership(&self, container: &str) -> Option<Arc<Membership>> {
        self.state().attached.get(container).cloned()
    }

    fn publish(&self) {
        let state = self.state();
        let view = |known: &Known| NetworkView {
            record: known.record.clone(),
            members: state
                .attached
                .values()
                .filter(|a| a.endpoints.iter().any(|e| e.network_id == known.record.id))
                .cloned()
                .collect(),
        };
        let mut views: Vec<NetworkView> = state.networks.values().map(view).collect();
        views.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        self.views.store(Arc::new(views));
    }

    /// By name, id, or unambiguous prefix of an id.
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<NetworkRecord>, Error> {
        let state = self.state();
        let all = || state.networks.values().map(|k| &k.record);
        if let Some(found) = all().find(|r| r.name == wanted || r.id == wanted) {
            return Ok(found.clone());
        }
        let mut hits = all().filter(|r| !wanted.is_empty() && r.id.starts_with(wanted));
        match (hits.next(), hits.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {wanted} is ambiguous: more than one id begins so"
            ))),
            (None, _) => Err(Error::not_found(format!("network {wanted} not found"))),
        }
    }

    /// Which network a container is in that asks for this mode; absent: none of ours. An error says
    /// why there is no default network, where one was meant to be.
    pub(crate) fn of_mode(&self, mode: &NetworkMode) -> Result<Option<Arc<NetworkRecord>>, Error> {
        match mode {
            NetworkMode::Default if self.settings.bridge.is_none() => Ok(None),
            NetworkMode::Default => self.find(BRIDGE).map(Some).map_err(|_| self.why_none()),
            NetworkMode::Named(name) if name == BRIDGE => {
                self.find(BRIDGE).map(Some).map_err(|_| self.why_none())
            }
            NetworkMode::Named(name) => self.find(name).map(Some),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Container(_) => Ok(None),
        }
    }

    fn why_none(&self) -> Error {
        let why = self.broken.get().map_or("--bridge none", String::as_str);
        Error::unsupported(format!("there is no default network here: {why}"))
    }

    pub(crate) fn has_default(&self) -> bool {
        self.settings.bridge.is_some() && self.broken.get().is_none()
    }

    /// What `host-gateway` means: the host's address in the default network.
    pub(crate) fn host_gateway(&self) -> Vec<std::net::IpAddr> {
        let set = &self.settings.host_gateway;
        if !set.is_empty() {
            return set.clone();
        }
        let record = self.find(BRIDGE).ok();
        let subnets = record.iter().flat_map(|r| &r.subnets);
        subnets.map(Subnet::host).collect()
    }

    /// All that should be in the table.
    fn elements(&self) -> Vec<Element> {
        let state = self.state();
        let records = state.networks.values().map(|k| &k.record);
        let mut all: Vec<Element> = records.flat_map(|r| r.elements()).collect();
        let ports = state.attached.values().flat_map(|a| &a.ports);
        all.extend(ports.flat_map(Publication::elements));
        all
    }

    fn table(&self) -> Result<&Table, Error> {
        self.table
            .get()
            .ok_or_else(|| Error::internal("the table is not set up"))
    }

    /// Replaces the table by what it should be.
    fn replace_table(&self) -> Result<(), Error> {
        sys::fault::point("engine.table.replace").map_err(Error::io("replace the table"))?;
        self.table()?
            .replace(&self.elements())
            .map_err(failed("set up the firewall's table"))
    }
}

/// A file of the exec root: whole or not at all, whenever this process is killed.
fn put(path: &Path, bytes: &[u8], step: &'static str) -> Result<(), Error> {
    let staged = path.with_extension("new");
    sys::fault::point(step)
        .and_then(|()| std::fs::write(&staged, bytes))
        .and_then(|()| std::fs::rename(&staged, path))
        .map_err(Error::io(format!("write {}", path.display())))
}

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |e| Error::caused(ErrorKind::Internal, what, e)
}

/// Takes up networks and what containers that live on have, and makes the host so. Nothing here
/// keeps an engine from starting: what cannot be set up is told, and there is no network then.
pub(crate) async fn start(engine: &Arc<Inner>) {
    let done = engine.blocking("set up the networks", take_up).await;
    if let Err(error) = done {
        let why = error.report();
        tracing::warn!(error = why, "containers get no network");
        drop(engine.networks.broken.set(why));
    }
    engine.networks.publish();
    begin_watching(engine);
}

/// From the first network on.
fn begin_watching(engine: &Arc<Inner>) {
    if engine.networks.table.get().is_some() {
        watch::begin(engine);
        routes::watch(engine);
    }
}

fn take_up(inner: &Inner) -> Result<(), Error> {
    let networks = &inner.networks;
    let rows = inner
        .store
        .networks()
        .map_err(Error::store("read the networks on record"))?;
    for row in rows {
        match serde_json::from_str::<NetworkRecord>(&row.document) {
            Ok(record) => networks.know(record),
            // P8: costs this network alone
            Err(error) => {
                tracing::warn!(network = row.name, %error, "its record cannot be read: set aside");
            }
        }
    }
    attach::take_up(inner)?;
    networks.restore_names()?;
    let without = networks.settings.bridge.is_none() && networks.state().networks.is_empty();
    if without {
        // nothing of this host is touched; what an earlier run with networks left goes
        if inner.networks.dir.exists() {
            change::clear(inner)?;
        }
        return Ok(());
    }
    change::set_up(inner)
}

impl Networks {
    /// Whether containers are in it.
    fn is_used(&self, id: &str) -> bool {
        let state = self.state();
        let mut all = state.attached.values().flat_map(|a| &a.endpoints);
        all.any(|e| e.network_id == id)
    }

    /// As [`Networks::know`], of one whose record has changed: its members stay.
    fn know_again(&self, record: NetworkRecord) {
        let id = record.id.clone();
        self.know(record);
        let state = self.state();
        let in_it = |a: &&Arc<Membership>| a.endpoints.iter().any(|e| e.network_id == id);
        let members: Vec<_> = state.attached.values().filter(in_it).cloned().collect();
        drop(state);
        for member in members {
            self.hold(&member);
        }
    }

    fn know(&self, record: NetworkRecord) {
        let known = Known {
            pools: record.pools(),
            record: Arc::new(record),
        };
        let id = known.record.id.clone();
        self.state().networks.insert(id, known);
    }
}
