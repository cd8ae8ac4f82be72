//! FAILURES "Firewall reload wipes rules": the table is watched, put back, and the event is told.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use net::Watch;
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::inner::Inner;
use crate::ready;

/// A reload flushes and fills in several transactions.
const SETTLE: Duration = Duration::from_millis(50);
/// When putting back failed, and in case a change was not told.
const AGAIN: Duration = Duration::from_secs(5);

pub(super) fn begin(engine: &Arc<Inner>) {
    let Some(table) = engine.networks.table.get() else {
        return;
    };
    // the task ends with the engine: it must not keep it
    let (weak, mut closing) = (Arc::downgrade(engine), engine.closing.subscribe());
    let opened = Watch::open(table.name()).map_err(Error::store("watch it"));
    let registered = opened.and_then(|watch| {
        // a second descriptor of its socket, to wait on
        let socket = watch.as_fd().try_clone_to_owned();
        let ready = socket
            .and_then(ready::readable)
            .map_err(Error::io("watch it"))?;
        Ok((ready, watch))
    });
    let (ready, mut watch) = match registered {
        Ok(pair) => pair,
        Err(error) => {
            return tracing::warn!(error = %error.report(), "the firewall's table is not watched");
        }
    };
    tokio::spawn(async move {
        loop {
            let told = tokio::select! {
                told = next(&ready, &mut watch) => told,
                _ = closing.changed() => return,
            };
            let Some(engine) = weak.upgrade() else { return };
            let Ok(by) = told else {
                tracing::warn!("the firewall's table is watched no more");
                return;
            };
            tokio::time::sleep(SETTLE).await;
            while !put_back(&engine, &by).await {
                tokio::time::sleep(AGAIN).await;
            }
        }
    });
}

async fn next(ready: &AsyncFd<OwnedFd>, watch: &mut Watch) -> Result<String, Error> {
    loop {
        let mut guard = ready.readable().await.map_err(Error::io("wait"))?;
        let damage = watch.read().map_err(Error::store("read"))?;
        guard.clear_ready();
        if let Some(damage) = damage {
            return Ok(damage.by);
        }
    }
}

/// False: to be tried again.
async fn put_back(engine: &Arc<Inner>, by: &str) -> bool {
    let turn = engine.networks.turn.lock().await;
    let done = engine
        .blocking("put the firewall's table back", |inner| {
            let (networks, table) = (&inner.networks, inner.networks.table()?);
            let intact = table.is_intact(&networks.elements());
            if intact.map_err(super::failed("look at the firewall's table"))? {
                return Ok(false);
            }
            networks.replace_table().map(|()| true)
        })
        .await;
    drop(turn);
    match done {
        Ok(false) => true,
        Ok(true) => {
            tracing::warn!(by, "the firewall's table was damaged and is put back");
            let attributes = BTreeMap::from([("by".to_owned(), by.to_owned())]);
            let name = engine.networks.table.get().map_or("", |t| t.name());
            engine
                .events
                .emit("network", "firewall-restored", name, attributes);
            true
        }
        Err(error) => {
            tracing::warn!(error = %error.report(), "the firewall's table is not back");
            false
        }
    }
}
