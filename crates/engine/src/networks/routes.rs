//! FAILURES "Address pool exhaustion, VPN overlap": a network keeps off the routes that the host has
//! when it is made; a route that comes later, and leads into a network, is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use net::{Prefix, RouteWatch};
use tokio::io::unix::AsyncFd;

use super::change::routed;
use crate::error::Error;
use crate::inner::Inner;
use crate::ready;

/// A VPN that comes up sets many.
const SETTLE: Duration = Duration::from_millis(200);

/// A route of the host and the network that it leads into.
type Overlap = (Prefix, String);

pub(super) fn watch(engine: &Arc<Inner>) {
    let opened = RouteWatch::open().map_err(Error::store("watch routes"));
    let ready = opened.and_then(|w| ready::readable(w).map_err(Error::io("watch routes")));
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => {
            return tracing::warn!(error = %error.report(), "the host's routes are not watched");
        }
    };
    // the task ends with the engine: it must not keep it
    let (weak, mut closing) = (Arc::downgrade(engine), engine.closing.subscribe());
    tokio::spawn(async move {
        let mut told = BTreeSet::new();
        loop {
            let Some(engine) = weak.upgrade() else { return };
            match engine.blocking("look at the host's routes", overlaps).await {
                Ok(now) => {
                    for (route, network) in now.difference(&told) {
                        tell(&engine, *route, network);
                    }
                    told = now;
                }
                Err(error) => {
                    tracing::warn!(error = %error.report(), "the host's routes are not known");
                }
            }
            drop(engine);
            let changed = tokio::select! {
                changed = change(&ready) => changed,
                _ = closing.changed() => return,
            };
            if let Err(error) = changed {
                return tracing::warn!(error = %error.report(), "the host's routes are watched no more");
            }
            tokio::time::sleep(SETTLE).await;
        }
    });
}

async fn change(ready: &AsyncFd<RouteWatch>) -> Result<(), Error> {
    loop {
        let mut guard = ready.readable().await.map_err(Error::io("wait"))?;
        let told = ready.get_ref().read().map_err(Error::store("read"))?;
        guard.clear_ready();
        if told {
            return Ok(());
        }
    }
}

fn overlaps(inner: &Inner) -> Result<BTreeSet<Overlap>, Error> {
    let routes = routed(&inner.networks)?;
    let state = inner.networks.state();
    let mut all = BTreeSet::new();
    for record in state.networks.values().map(|k| &k.record) {
        // above an interface of the host, its route leads there as it should
        let ours = record.subnets.iter().filter(|_| record.segment().is_some());
        for subnet in ours {
            let into = routes.iter().filter(|r| r.overlaps(&subnet.subnet));
            all.extend(into.map(|route| (*route, record.id.clone())));
        }
    }
    Ok(all)
}

fn tell(engine: &Inner, route: Prefix, id: &str) {
    let Ok(record) = engine.networks.find(id) else {
        return;
    };
    let name = record.name.as_str();
    tracing::warn!(
        %route,
        network = name,
        "the host has a route into a network: one of them is out of reach; make the network anew, it will keep off the route"
    );
    let attributes = BTreeMap::from([
        ("name".to_owned(), name.to_owned()),
        ("route".to_owned(), route.to_string()),
    ]);
    engine.events.emit("network", "overlap", id, attributes);
}
