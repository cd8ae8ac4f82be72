//! The store's background thread: reaps the trash, keeps `record.json` copies, the database's log
//! and the reserve up to date. Idle priority; nothing that was answered waits for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::meta::lock;

/// Changes of one record within this time are copied once; a `--rm` container that lived shorter
/// is never copied.
const SETTLE: Duration = Duration::from_secs(1);

/// What waits to be done.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    stop: bool,
    /// Ids of containers whose `record.json` may be older than the row.
    pub(crate) records: BTreeSet<String>,
    /// The files of images may be older than their rows.
    pub(crate) images: bool,
    pub(crate) reap: bool,
    /// An earlier process may have left blobs and layers without an image.
    pub(crate) gc: bool,
    /// There are unpacked layers that are not on disk yet.
    pub(crate) layers: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.images && !self.reap && !self.gc && !self.layers
    }
}

/// Shared between the store and its thread.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pending: Mutex<Pending>,
    changed: Condvar,
}

impl Queue {
    pub(crate) fn add(&self, add: impl FnOnce(&mut Pending)) {
        add(&mut lock(&self.pending));
        self.changed.notify_one();
    }

    pub(crate) fn take(&self) -> Pending {
        let mut pending = lock(&self.pending);
        let stop = pending.stop;
        let taken = std::mem::take(&mut *pending);
        pending.stop = stop;
        taken
    }

    /// Whether there is something to delete by now.
    pub(crate) fn take_reap(&self) -> bool {
        std::mem::take(&mut lock(&self.pending).reap)
    }

    pub(crate) fn stopped(&self) -> bool {
        lock(&self.pending).stop
    }

    /// Waits for work and lets it settle. `false`: stop.
    fn wait(&self) -> bool {
        let mut pending = lock(&self.pending);
        while pending.is_empty() && !pending.stop {
            pending = self
                .changed
                .wait(pending)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let (pending, _) = self
            .changed
            .wait_timeout_while(pending, SETTLE, |p| !p.stop)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        !pending.stop
    }
}

/// The thread; ended and joined on drop.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(
        queue: Arc<Queue>,
        mut work: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Self> {
        let theirs = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("store-background".to_owned())
            .spawn(move || {
                if let Err(error) = sys::priority::background_thread() {
                    tracing::debug!(%error, "the store's background thread runs at full priority");
                }
                while theirs.wait() {
                    work();
                }
            })?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    pub(crate) fn stop(&mut self) {
        self.queue.add(|p| p.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's background thread panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}
