//! Docker Engine API.
//!
//! ```text
//! connection  one client: HTTP/1.1 by hyper, one task
//!   peer      who it is
//!   authz     who is asked whether it may
//!   audit     where it is written what it changed
//!   hijack    what hyper can't: taking the connection over after a plain 200
//!   target    what hyper refuses in a request's target, and dockerd takes
//!   router    method and path to handler; the table of all routes
//!   call      one request: version, query, body
//!   answer    one response: JSON, lines, streams
//!   lines     the list of containers, each line written once
//!   failure   every error's status and body
//! build     builds: messages while they go on
//! system containers websocket streams exec archive images volumes networks absent plimsoll   handlers
//! translate/  wire types to the engine's and back
//! ```
//!
//! Nothing here holds a resource of the engine while a client is slow: streams come through bounded
//! channels, taken-over connections are copied by a task of their own. A client that goes away
//! cancels what waits for it (hyper drops the handler), but never a change that was begun: changes
//! run in tasks of their own (`Call::change`).

mod absent;
mod answer;
mod archive;
mod audit;
mod authz;
mod build;
mod call;
mod containers;
mod exec;
mod failure;
mod hijack;
mod images;
mod lines;
mod list;
mod networks;
mod peer;
mod plimsoll;
mod registry;
mod router;
mod stats;
mod streams;
mod system;
mod target;
mod time;
mod translate;
mod volumes;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use engine::Engine;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::config::Config;
use audit::Audit;
pub(crate) use peer::Peer;

/// What all requests share.
#[derive(Debug)]
pub struct Api {
    pub(crate) engine: Engine,
    pub(crate) config: Config,
    debug: AtomicBool,
    /// Asked about each request, in this order.
    plugins: ArcSwap<Vec<String>>,
    audit: Audit,
    changes: AtomicUsize,
    idle: Notify,
    listeners: AtomicUsize,
    served: AtomicUsize,
}

impl Api {
    /// # Errors
    /// When the audit log can't be opened.
    pub fn new(engine: Engine, config: Config) -> std::io::Result<Self> {
        Ok(Self {
            engine,
            debug: AtomicBool::new(config.debug),
            plugins: ArcSwap::from_pointee(config.authorization_plugins.clone()),
            audit: Audit::open(config.audit_log.as_deref())?,
            config,
            changes: AtomicUsize::new(0),
            idle: Notify::new(),
            listeners: AtomicUsize::new(0),
            served: AtomicUsize::new(0),
        })
    }

    /// What SIGHUP changes; and the audit log's file is opened anew.
    pub(crate) fn reload(&self, config: &Config) {
        self.debug.store(config.debug, Ordering::Relaxed);
        let (labels, registries) = (config.labels.clone(), config.registries.clone());
        self.engine.reload(labels, registries);
        self.plugins
            .store(Arc::new(config.authorization_plugins.clone()));
        self.audit.reopen();
    }

    /// Requests answered so far.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns when no change is in flight.
    pub(crate) async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self.changes.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// Counts something as long as it lives.
#[derive(Debug)]
struct Counted(Arc<Api>, fn(&Api) -> &AtomicUsize);

impl Counted {
    fn new(api: &Arc<Api>, which: fn(&Api) -> &AtomicUsize) -> Self {
        which(api).fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(api), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if (self.1)(&self.0).fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Serves one client until it goes.
pub(crate) async fn connection(stream: UnixStream, peer: Peer, api: Arc<Api>) {
    let io = TokioIo::new(hijack::Sniffed::new(stream));
    let peer = Arc::new(peer);
    let service = service_fn(move |request| {
        let (api, peer) = (Arc::clone(&api), Arc::clone(&peer));
        async move { Ok::<_, std::convert::Infallible>(router::route(api, &peer, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        // a client may hold a connection open without a request for as long as it likes
        .header_read_timeout(None)
        .max_buf_size(64 * 1024)
        .serve_connection(io, service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!("connection: {}", crate::chain(&error));
    }
}
