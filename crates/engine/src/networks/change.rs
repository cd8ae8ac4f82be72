//! Networks made and removed; containers connected and disconnected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use net::{Namespace, Prefix, Table, host, ipam, resolver};

use super::options::{Driver, Options};
use super::{
    BRIDGE, EndpointState, Membership, NetworkRecord, Networks, PREDEFINED, PublishPolicy, Subnet,
    failed, options, publish,
};
use crate::container::{self, Command};
use crate::error::Error;
use crate::etc;
use crate::inner::{Inner, ask};
use crate::links;
use crate::model::{ContainerRecord, EndpointSpec, ErrorKind};
use crate::names;
use crate::prune;
use crate::views::{Filters, NetworkSpec};

/// A file that says: this host did not forward before us.
pub(super) const ROUTER: &str = "forwarding-was-off";

/// Makes the host so as the records say. The first network of this run, or the engine's start.
pub(super) fn set_up(inner: &Inner) -> Result<(), Error> {
    let networks = &inner.networks;
    for dir in [&networks.dir, &networks.names_dir] {
        std::fs::create_dir_all(dir).map_err(Error::io(format!("make {}", dir.display())))?;
    }
    let marker = networks.dir.join(ROUTER);
    let forwards = networks.settings.leave_forwarding;
    if !forwards && host::forward().map_err(failed("have the host forward packets"))? {
        std::fs::write(&marker, "").map_err(Error::io("note that forwarding was off"))?;
    }
    let mut table = Table::new(&networks.instance.table(), marker.exists());
    table.from_outside = networks.settings.publish == PublishPolicy::Forward;
    drop(networks.table.set(table));
    if let Some(bridge) = &networks.settings.bridge {
        default_network(inner, bridge)?;
    }
    put_bridges(inner)?;
    let wanted = wanted_links(inner);
    let strays = host::remove_strays(&networks.instance, &wanted);
    for stray in strays.map_err(failed("remove stray links"))? {
        tracing::info!(link = stray, "removed: nobody's");
    }
    networks.replace_table()
}

/// What an earlier run left, where there are no networks now.
pub(super) fn clear(inner: &Inner) -> Result<(), Error> {
    let networks = &inner.networks;
    let wanted = wanted_links(inner);
    host::remove_strays(&networks.instance, &wanted).map_err(failed("remove stray links"))?;
    if networks.state().attached.is_empty() {
        let table = Table::new(&networks.instance.table(), false);
        table
            .delete()
            .map_err(failed("remove the firewall's table"))?;
    }
    Ok(())
}

fn wanted_links(inner: &Inner) -> BTreeSet<String> {
    let state = inner.networks.state();
    let bridges = state.networks.values().map(|k| k.record.bridge.clone());
    let ends = state.attached.values().flat_map(|a| &a.endpoints);
    bridges
        .chain(ends.map(|e| e.host_interface.clone()))
        .collect()
}

/// One that cannot be made costs itself alone.
fn put_bridges(inner: &Inner) -> Result<(), Error> {
    let networks = &inner.networks;
    let state = networks.state();
    let records: Vec<_> = state.networks.values().map(|k| k.record.clone()).collect();
    drop(state);
    if records.iter().any(|r| r.ipv6) && !networks.settings.leave_forwarding {
        host::forward6().map_err(failed("have the host forward IPv6"))?;
    }
    for record in records {
        if let Err(error) = put_interface(networks, &record) {
            if record.name == BRIDGE {
                networks.state().networks.remove(&record.id);
                return Err(error);
            }
            tracing::warn!(network = record.name, error = %error.report(), "it does not work");
        }
    }
    Ok(())
}

/// The network's bridge, or what it is above.
fn put_interface(networks: &Networks, record: &NetworkRecord) -> Result<(), Error> {
    let made = match record.driver() {
        Driver::Bridge => host::put_bridges(&[record.link(&networks.instance)]),
        Driver::Macvlan | Driver::Ipvlan => {
            let dummy = record.is_above_nothing();
            host::put_base(&networks.instance, &record.bridge, dummy)
        }
    };
    made.map_err(failed("make the network's interface"))
}

/// The default network is a record as any other: it keeps its subnet, unless the operator names
/// another and nobody is in it.
fn default_network(inner: &Inner, bridge: &str) -> Result<(), Error> {
    let networks = &inner.networks;
    let settings = &networks.settings;
    settings.check()?;
    let mut options = settings.options.clone();
    options.insert(options::BRIDGE_NAME.to_owned(), bridge.to_owned());
    let spec = NetworkSpec {
        name: BRIDGE.to_owned(),
        ipv6: settings.ipv6,
        options,
        ..NetworkSpec::default()
    };
    let have = networks.find(BRIDGE).ok();
    let id = have.as_ref().map_or_else(names::new_id, |r| r.id.clone());
    let mut wanted: Vec<Subnet> = [true, spec.ipv6]
        .iter()
        .zip([true, false])
        .filter(|(on, _)| **on)
        .filter_map(|(_, four)| {
            let kept = |s: &&Subnet| s.gateway.is_ipv4() == four;
            let old = have.iter().flat_map(|r| &r.subnets).find(kept);
            settings.subnet(four).or_else(|| old.cloned())
        })
        .collect();
    for subnet in &wanted {
        refuse_overlap(inner, subnet.subnet, &id)?;
    }
    complete(
        inner,
        &mut wanted,
        spec.ipv6,
        &settings.default_pools(),
        &id,
    )?;
    let read = Options::read(Driver::Bridge, &spec.options)?;
    let mut record = NetworkRecord::new(id, &spec, &read, wanted);
    if let Some(have) = have {
        record.created.clone_from(&have.created);
        if networks.is_used(&have.id) && record.subnets != have.subnets {
            tracing::warn!(
                "containers run in the default network: it keeps its subnets until they end and the engine starts again"
            );
            record.subnets.clone_from(&have.subnets);
            record.ipv6 = have.ipv6;
        }
        if record == *have {
            return Ok(());
        }
    }
    save(inner, &record)?;
    networks.know_again(record);
    Ok(())
}

fn save(inner: &Inner, record: &NetworkRecord) -> Result<(), Error> {
    let document = serde_json::to_string(record).map_err(failed("encode the network's record"))?;
    let row = store::NetworkRow {
        id: record.id.clone(),
        name: record.name.clone(),
        document,
    };
    inner.store.network_put(&row).map_err(|e| match e {
        store::NetworkError::NameTaken { .. } => Error::conflict(e.to_string()),
        e => Error::store("write the network's record")(e),
    })
}

/// Those that are asked for, the rest from the pool: what overlaps no other network and no route.
fn subnets(inner: &Inner, spec: &NetworkSpec, id: &str) -> Result<Vec<Subnet>, Error> {
    let mut out: Vec<Subnet> = Vec::new();
    for asked in &spec.subnets {
        let subnet = asked.subnet.network();
        if subnet.bits() - subnet.length < 2 {
            return Err(Error::invalid(format!("the subnet {subnet} has no room")));
        }
        let inside = |a: IpAddr| subnet.contains(a);
        for (what, outside) in [
            ("gateway", asked.gateway.is_some_and(|g| !inside(g))),
            ("range", asked.range.is_some_and(|r| !inside(r.address))),
            (
                "auxiliary address",
                asked.auxiliary.values().any(|a| !inside(*a)),
            ),
        ] {
            if outside {
                let text = format!("no matching subnet for {what} in {subnet}");
                return Err(Error::invalid(text));
            }
        }
        if out.iter().any(|s| s.subnet.overlaps(&subnet)) {
            return Err(Error::invalid(format!(
                "the subnet {subnet} is named twice"
            )));
        }
        refuse_overlap(inner, subnet, id)?;
        let gateway = asked.gateway.or(asked.range.map(|r| first(r.network())));
        out.push(Subnet {
            range: asked.range,
            gateway: gateway.unwrap_or_else(|| first(subnet)),
            auxiliary: asked.auxiliary.clone(),
            ..own(subnet)
        });
    }
    complete(
        inner,
        &mut out,
        spec.ipv6,
        &inner.networks.settings.pools(),
        id,
    )?;
    Ok(out)
}

/// A subnet of each family that is wanted.
fn complete(
    inner: &Inner,
    out: &mut Vec<Subnet>,
    ipv6: bool,
    pools: &[ipam::Pool],
    id: &str,
) -> Result<(), Error> {
    let networks = &inner.networks;
    let lacks = |out: &[Subnet], four: bool| !out.iter().any(|s| s.gateway.is_ipv4() == four);
    let of = |four: bool| {
        let pools = pools
            .iter()
            .filter(move |p| p.base.address.is_ipv4() == four);
        pools.copied().collect::<Vec<_>>()
    };
    for four in [true, false] {
        let pools = of(four);
        if !lacks(out, four) || (!four && !ipv6) {
            continue;
        }
        if !four && pools.is_empty() {
            out.push(own(ipam::unique_local(id)));
            continue;
        }
        let mut taken = routed(networks)?;
        let state = networks.state();
        let known = state.networks.values().flat_map(|k| &k.record.subnets);
        taken.extend(known.map(|s| s.subnet));
        drop(state);
        let subnet = ipam::free_subnet(&pools, &taken).ok_or_else(|| {
            Error::conflict(
                "no subnet is free that the host has no route into: name one (--subnet), or give the engine more (--default-address-pool)",
            )
        })?;
        out.push(own(subnet));
    }
    out.sort_by_key(|s| s.gateway.is_ipv6());
    Ok(())
}

/// Where the host has routes into that are not ours.
pub(super) fn routed(networks: &Networks) -> Result<Vec<Prefix>, Error> {
    let socket = net::socket::Socket::route().map_err(failed("look at the host's routes"))?;
    let ours = host::ours(&socket, &networks.instance);
    let ours = ours.map_err(failed("look at the host's links"))?;
    let ours: Vec<u32> = ours.iter().map(|l| l.index).collect();
    socket
        .routed(&ours)
        .map_err(failed("look at the host's routes"))
}

fn own(subnet: Prefix) -> Subnet {
    Subnet {
        subnet,
        range: None,
        gateway: first(subnet),
        host: None,
        auxiliary: BTreeMap::new(),
    }
}

pub(super) fn first(subnet: Prefix) -> IpAddr {
    match subnet.network().address {
        IpAddr::V4(a) => IpAddr::V4((u32::from(a) + 1).into()),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + 1).into()),
    }
}

fn refuse_overlap(inner: &Inner, subnet: Prefix, but: &str) -> Result<(), Error> {
    let state = inner.networks.state();
    let mut all = state.networks.values().map(|k| &k.record);
    let other = all
        .find(|r| r.id != but && r.subnets.iter().any(|s| s.subnet.overlaps(&subnet)))
        .map(|r| r.name.clone());
    match other {
        None => Ok(()),
        Some(other) => Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "Pool overlaps with other one on this address space: {subnet} with that of network {other}"
            ),
        )),
    }
}

pub(crate) async fn create(engine: &Arc<Inner>, spec: NetworkSpec) -> Result<String, Error> {
    names::check_network(&spec.name)?;
    let driver = Driver::named(&spec.driver).ok_or_else(|| {
        Error::not_found(format!(
            "there is no network driver {}: bridge, macvlan and ipvlan are built in",
            spec.driver
        ))
    })?;
    let mut spec = spec;
    if driver == Driver::Bridge {
        for (key, value) in &engine.networks.settings.new_options {
            let own = spec.options.entry(key.clone());
            own.or_insert_with(|| value.clone());
        }
    }
    let options = Options::read(driver, &spec.options)?;
    options.check(spec.internal)?;
    if PREDEFINED.contains(&spec.name.as_str()) {
        return Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "operation is not permitted on predefined {} network",
                spec.name
            ),
        ));
    }
    let turn = engine.networks.turn.lock().await;
    if engine
        .networks
        .find(&spec.name)
        .is_ok_and(|r| r.name == spec.name)
    {
        return Err(Error::conflict(format!(
            "network with name {} already exists",
            spec.name
        )));
    }
    let made = engine
        .blocking("make the network", move |inner| {
            make(inner, &spec, &options)
        })
        .await;
    drop(turn);
    let (record, first) = made?;
    engine.networks.publish();
    if first {
        super::begin_watching(engine);
    }
    event(engine, &record, "create", None);
    Ok(record.id)
}

/// Row, then bridge, then table: what is cut short is made whole, or removed, at the next start.
fn make(
    inner: &Inner,
    spec: &NetworkSpec,
    options: &Options,
) -> Result<(NetworkRecord, bool), Error> {
    let networks = &inner.networks;
    let first = networks.table.get().is_none();
    if first {
        set_up(inner)?;
    }
    let id = names::new_id();
    let record = NetworkRecord::new(id.clone(), spec, options, subnets(inner, spec, &id)?);
    let taken = networks
        .state()
        .networks
        .values()
        .any(|k| k.record.bridge == record.bridge);
    if taken {
        let text = format!("the interface {} is that of another network", record.bridge);
        return Err(Error::conflict(text));
    }
    sys::fault::point("engine.network.create").map_err(Error::io("make the network"))?;
    save(inner, &record)?;
    networks.know(record.clone());
    let made = || {
        if record.ipv6 && !networks.settings.leave_forwarding {
            host::forward6().map_err(failed("have the host forward IPv6"))?;
        }
        put_interface(networks, &record)?;
        let table = networks.table()?;
        table
            .add(&record.elements())
            .or_else(|_| networks.replace_table())
    };
    if let Err(error) = made() {
        // not acknowledged: it must not be there at the next start
        drop(unmake(inner, &record));
        return Err(error);
    }
    Ok((record, first))
}

fn unmake(inner: &Inner, record: &NetworkRecord) -> Result<(), Error> {
    let networks = &inner.networks;
    sys::fault::point("engine.network.remove").map_err(Error::io("remove the network"))?;
    inner
        .store
        .network_remove(&record.id)
        .map_err(Error::store("remove the network's record"))?;
    networks.state().networks.remove(&record.id);
    networks.forget_zone(&record.id);
    // the name may be somebody else's: that was why it could not be made
    let socket = net::socket::Socket::route().map_err(failed("remove the network's bridge"))?;
    let ours = host::ours(&socket, &networks.instance).unwrap_or_default();
    if ours.iter().any(|l| l.name == record.bridge) {
        host::remove_link(&record.bridge).map_err(failed("remove the network's bridge"))?;
    }
    networks.replace_table()
}

pub(crate) async fn remove(engine: &Arc<Inner>, wanted: &str) -> Result<(), Error> {
    let record = engine.networks.find(wanted)?;
    if PREDEFINED.contains(&record.name.as_str()) {
        return Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "{} is a pre-defined network and cannot be removed",
                record.name
            ),
        ));
    }
    let turn = engine.networks.turn.lock().await;
    let in_it: Vec<String> = {
        let state = engine.networks.state();
        let all = state.attached.values();
        all.filter(|a| a.endpoints.iter().any(|e| e.network_id == record.id))
            .map(|a| a.name.clone())
            .collect()
    };
    if !in_it.is_empty() {
        return Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "error while removing network: network {} has active endpoints: {}; disconnect them first",
                record.name,
                in_it.join(", ")
            ),
        ));
    }
    let gone = record.clone();
    engine
        .blocking("remove the network", move |inner| unmake(inner, &gone))
        .await?;
    drop(turn);
    engine.networks.publish();
    event(engine, &record, "destroy", None);
    Ok(())
}

/// Those that no container refers to. Answers their names.
pub(crate) async fn prune(engine: &Arc<Inner>, filters: &Filters) -> Result<Vec<String>, Error> {
    prune::known(filters, &["label", "label!", "until"])?;
    let until = prune::until(filters)?;
    let used: BTreeSet<String> = {
        let views = engine.containers.views();
        views
            .iter()
            .flat_map(|v| v.record.networks.keys().cloned())
            .collect()
    };
    let mut gone = Vec::new();
    for view in engine.networks.views().iter() {
        let record = &view.record;
        let young = until.is_some_and(|limit| {
            record
                .created
                .parse::<jiff::Timestamp>()
                .is_ok_and(|at| at > limit)
        });
        let stays = PREDEFINED.contains(&record.name.as_str())
            || used.contains(&record.name)
            || young
            || !prune::labels_match(filters, &record.labels);
        if !stays && remove(engine, &record.id).await.is_ok() {
            gone.push(record.name.clone());
        }
    }
    Ok(gone)
}

pub(crate) fn event(engine: &Inner, record: &NetworkRecord, action: &str, container: Option<&str>) {
    let mut attributes: std::collections::BTreeMap<String, String> = [
        ("name".to_owned(), record.name.clone()),
        ("type".to_owned(), record.driver.clone()),
    ]
    .into();
    if let Some(container) = container {
        attributes.insert("container".to_owned(), container.to_owned());
    }
    engine
        .events
        .emit("network", action, &record.id, attributes);
}

pub(crate) async fn connect(
    engine: &Arc<Inner>,
    network: &str,
    container: &str,
    spec: EndpointSpec,
) -> Result<(), Error> {
    let record = engine.networks.find(network)?;
    crate::create::check_endpoint(&record, &spec)?;
    let entry = engine.containers.find(container)?;
    let (name, id) = (record.name.clone(), entry.id.to_string());
    ask(&entry, |reply| Command::Connect {
        network: name,
        spec: Box::new(spec),
        reply,
    })
    .await?;
    event(engine, &record, "connect", Some(&id));
    Ok(())
}

pub(crate) async fn disconnect(
    engine: &Arc<Inner>,
    network: &str,
    container: &str,
) -> Result<(), Error> {
    let record = engine.networks.find(network)?;
    let entry = engine.containers.find(container)?;
    let (name, id) = (record.name.clone(), entry.id.to_string());
    ask(&entry, |reply| Command::Disconnect {
        network: name,
        reply,
    })
    .await?;
    event(engine, &record, "disconnect", Some(&id));
    Ok(())
}

/// The file and the sockets of a name server, for the shim of a running container to serve.
pub(crate) type NameServer = (PathBuf, [OwnedFd; 2]);

/// Of a container whose shim serves none.
pub(crate) fn name_server(
    inner: &Inner,
    membership: &Membership,
    pid: i32,
) -> Result<NameServer, Error> {
    let namespace = Namespace::of_process(pid).map_err(failed("enter the container's network"))?;
    let sockets =
        resolver::open(namespace.as_fd()).map_err(failed("make the container's name server"))?;
    Ok((inner.networks.names_file(membership), sockets))
}

/// Of a running container: another link into its namespace; answers what keeps ports that it had not
/// had before, for its shim to hold. On an error nothing of the link is left,
/// or all of it, where those who are told of it could not be: for the caller to take back.
pub(crate) fn plug(
    inner: &Inner,
    record: &ContainerRecord,
    pid: i32,
    network: &str,
    spec: &EndpointSpec,
) -> Result<Vec<OwnedFd>, Error> {
    let networks = &inner.networks;
    let container = record.id.as_str();
    let before = networks.membership(container).ok_or_else(|| {
        Error::conflict(
            "container cannot be connected: it shares another's network, the host's, or has none",
        )
    })?;
    let mut membership = (*before).clone();
    let endpoint = networks.reserve_endpoint(&before, network, spec)?;
    membership.endpoints.push(endpoint.clone());
    let mut made = || {
        let sockets = publish::reserve(networks, record, &mut membership)?;
        let namespace =
            Namespace::of_process(pid).map_err(failed("enter the container's network"))?;
        networks.save(&membership)?;
        host::connect(&networks.instance, &namespace, &[endpoint.link(false)])
            .map_err(failed("link the container to the network"))?;
        let routed = route(&namespace, &membership);
        if routed.is_err() {
            drop(host::disconnect(&namespace, &endpoint.link(false)));
        }
        routed.map(|()| sockets)
    };
    match made() {
        Ok(sockets) => now_in(inner, record, &before, membership).map(|()| sockets),
        Err(error) => {
            networks.return_endpoint(&endpoint);
            drop(networks.save(&before));
            Err(error)
        }
    }
}

/// Has the table lead to a container's ports where they are now, after a change of its networks.
pub(crate) async fn ports_moved(engine: &Arc<Inner>) -> Result<(), Error> {
    let turn = engine.networks.turn.lock().await;
    let done = engine
        .blocking("move the container's ports", |inner| {
            inner.networks.replace_table()
        })
        .await;
    drop(turn);
    done
}

/// What follows from other networks of a running container: who is told its names, and its own files.
fn now_in(
    inner: &Inner,
    record: &ContainerRecord,
    before: &Membership,
    after: Membership,
) -> Result<(), Error> {
    let networks = &inner.networks;
    let after = networks.note(after);
    networks.publish();
    networks.write_names(record, &after)?;
    let left = before
        .endpoints
        .iter()
        .filter(|e| !after.endpoints.contains(e));
    networks.write_zones(left)?;
    etc_changed(inner, record, before, &after)
}

/// The container's own files, as far as nobody else has changed them.
fn etc_changed(
    inner: &Inner,
    record: &ContainerRecord,
    before: &Membership,
    after: &Membership,
) -> Result<(), Error> {
    let paths = container::paths(inner, record);
    let networks = &inner.networks;
    let links = links::of(inner, record).unwrap_or_default();
    let texts = |m: &Membership| etc::texts(&record.spec, &m.hostname, Some(m), networks, &links);
    let (old, new) = (texts(before)?, texts(after)?);
    for ((path, old), new) in [paths.hosts, paths.resolv_conf].iter().zip(&old).zip(&new) {
        let untouched = std::fs::read_to_string(path).is_ok_and(|now| now == *old);
        if untouched && old != new {
            // in place: the container has this very file mounted
            std::fs::write(path, new).map_err(Error::io(format!("write {}", path.display())))?;
        }
    }
    Ok(())
}

fn route(namespace: &Namespace, membership: &super::Membership) -> Result<(), Error> {
    let default = membership.default_endpoint().map(|e| e.link(true));
    host::route_by(namespace, default.as_ref()).map_err(failed("set the container's route"))
}

/// The other way round.
pub(crate) fn unplug(
    inner: &Inner,
    record: &ContainerRecord,
    pid: i32,
    network: &str,
) -> Result<(), Error> {
    let networks = &inner.networks;
    let Some(have) = networks.membership(&record.id) else {
        return Ok(());
    };
    let mut membership = (*have).clone();
    let (out, stay): (Vec<EndpointState>, Vec<EndpointState>) = membership
        .endpoints
        .into_iter()
        .partition(|e| e.network == network);
    let Some(endpoint) = out.into_iter().next() else {
        return Ok(());
    };
    membership.endpoints = stay;
    publish::lead(networks, record, &mut membership);
    let namespace = Namespace::of_process(pid).map_err(failed("enter the container's network"))?;
    // a link that no file knows is removed at the next start; a file that tells of no link stays
    networks.save(&membership)?;
    host::disconnect(&namespace, &endpoint.link(false)).map_err(failed("remove the link"))?;
    networks.return_endpoint(&endpoint);
    let routed = route(&namespace, &membership);
    now_in(inner, record, &have, membership)?;
    routed
}
