//! FAILURES "unregister_netdevice: waiting for lo": what the kernel's log says of trouble is told as
//! an event and in the engine's own log.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use host::KernelLog;
use tokio::io::unix::AsyncFd;

use crate::inner::Inner;
use crate::ready;

/// The kernel repeats itself: each kind is told once in this time.
const AGAIN: Duration = Duration::from_secs(60);

pub(crate) fn watch(engine: &Arc<Inner>) {
    let opened = KernelLog::from_now().map(KernelLog::into_file);
    let ready = match opened.and_then(ready::readable) {
        Ok(ready) => ready,
        Err(error) => {
            return tracing::info!(%error, "the kernel's log is not watched");
        }
    };
    // the task ends with the engine: it must not keep it
    let (weak, mut closing) = (Arc::downgrade(engine), engine.closing.subscribe());
    tokio::spawn(async move {
        let mut told: BTreeMap<&'static str, tokio::time::Instant> = BTreeMap::new();
        loop {
            let found = tokio::select! {
                found = next(&ready) => found,
                _ = closing.changed() => return,
            };
            let Some(engine) = weak.upgrade() else { return };
            let trouble = match found {
                Ok(trouble) => trouble,
                Err(error) => {
                    return tracing::warn!(%error, "the kernel's log is watched no more");
                }
            };
            let now = tokio::time::Instant::now();
            let lately = told.get(trouble.what).is_some_and(|at| now < *at + AGAIN);
            if lately {
                continue;
            }
            told.insert(trouble.what, now);
            tracing::warn!(
                what = trouble.what,
                message = trouble.message,
                "the kernel reports trouble"
            );
            let attributes = BTreeMap::from([
                ("what".to_owned(), trouble.what.to_owned()),
                ("message".to_owned(), trouble.message),
            ]);
            engine
                .events
                .emit("daemon", "kernel-trouble", "kernel", attributes);
        }
    });
}

async fn next(ready: &AsyncFd<File>) -> std::io::Result<host::Trouble> {
    loop {
        let mut guard = ready.readable().await?;
        match KernelLog::next_trouble(ready.get_ref())? {
            Some(trouble) => return Ok(trouble),
            None => guard.clear_ready(),
        }
    }
}
