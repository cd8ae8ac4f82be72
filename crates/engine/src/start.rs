//! How an engine comes up and goes down.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use shim::jsonlog::Watcher;
use shim::{Spawner, SpawnerConfig};
use store::{OpenOptions, OpenReport, Store};
use tokio::sync::{mpsc, watch};

use crate::Engine;
use crate::container::Execs;
use crate::error::Error;
use crate::events::EventLog;
use crate::inner::Inner;
use crate::networks::{self, Networks};
use crate::reconcile;
use crate::registry::Registry;
use crate::restart::Budget;
use crate::views::{CgroupDriver, EngineConfig};

/// Actors get this long to see their rows written.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("open the store at {}", path.display())]
    Store {
        path: PathBuf,
        #[source]
        source: store::OpenError,
    },
    #[error("prepare {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("start the spawner")]
    Spawner {
        #[source]
        source: shim::StartError,
    },
    #[error("let systemd make the cgroups (native.cgroupdriver=systemd)")]
    Systemd {
        #[source]
        source: runtime::systemd::SystemdError,
    },
    #[error("take up the containers on record")]
    Reconcile {
        #[source]
        source: Error,
    },
}

/// Systemd may be busy starting everything else.
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(20);

/// Ends the engine's tasks when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Life {
    closing: watch::Sender<bool>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

/// Asks systemd where its tree begins: a driver that can't be used is refused now, not at the first
/// container.
async fn systemd_tree(config: &EngineConfig) -> Result<Option<PathBuf>, StartError> {
    if config.cgroup_driver == CgroupDriver::Cgroupfs {
        return Ok(None);
    }
    let asked = tokio::task::spawn_blocking(|| {
        let base = runtime::systemd::base(runtime::systemd::Manager::System, SYSTEMD_DEADLINE);
        base.map_err(|source| StartError::Systemd { source })
    });
    let base = asked.await.map_err(|e| StartError::Reconcile {
        source: Error::internal(format!("ask systemd: {e}")),
    })??;
    Ok(Some(base))
}

/// Absent: logs cannot be followed.
fn watcher() -> Option<Watcher> {
    let watcher = Watcher::new();
    if let Err(error) = &watcher {
        tracing::warn!(%error, "logs cannot be followed");
    }
    watcher.ok()
}

pub(crate) async fn start(config: EngineConfig) -> Result<Engine, StartError> {
    let systemd = systemd_tree(&config).await?;
    let (data_root, shims) = (config.data_root.clone(), config.exec_root.join("shims"));
    make_private(&shims)?;
    let opening = tokio::task::spawn_blocking(move || {
        let opened = Store::open(&data_root, &OpenOptions::default());
        opened.map_err(|source| StartError::Store {
            path: data_root,
            source,
        })
    });
    // the spawner comes up while the store is opened
    let spawner = Spawner::start(SpawnerConfig {
        program: config.spawner.clone(),
        ..SpawnerConfig::default()
    })
    .map_err(|source| StartError::Spawner { source })?;
    let (store, report) = opening.await.map_err(|e| StartError::Reconcile {
        source: Error::store("open the store")(e),
    })??;
    let watcher = watcher();
    let (closing, _) = watch::channel(false);
    let inner = Arc::new(Inner {
        instance: runtime::cgroup::instance_name(&config.exec_root),
        systemd,
        events: EventLog::open(&config.data_root),
        remote: ArcSwap::from_pointee(::registry::Client::new(config.registries.clone())),
        labels: ArcSwap::from_pointee(config.labels.clone()),
        networks: Networks::new(&config.exec_root, config.networks.clone()),
        warnings: warnings(&config, &report),
        driver_reason: report.driver_reason.clone(),
        store: Arc::new(store),
        spawner,
        watcher,
        containers: Registry::default(),
        images: ArcSwap::default(),
        volumes: ArcSwap::default(),
        execs: Execs::default(),
        builds: crate::build::Builds::default(),
        budget: Budget::new(),
        filling: tokio::sync::Mutex::default(),
        in_memory: Arc::default(),
        refreshing: tokio::sync::Mutex::default(),
        alive: Mutex::default(),
        gone: Mutex::default(),
        closing: closing.clone(),
        config,
    });
    for repair in &report.repaired {
        tracing::warn!(repair, "put in order at start");
    }
    for q in &report.quarantined {
        tracing::warn!(kind = q.kind, name = q.name, reason = q.reason, "set aside");
    }
    let (alive, gone) = mpsc::channel(1);
    *inner.alive.lock().unwrap_or_else(PoisonError::into_inner) = Some(alive);
    *inner.gone.lock().unwrap_or_else(PoisonError::into_inner) = Some(gone);
    networks::start(&inner).await;
    crate::kernel_log::watch(&inner);
    reconcile::run(&inner)
        .await
        .map_err(|source| StartError::Reconcile { source })?;
    inner.refresh_images().await;
    inner.refresh_volumes().await;
    Ok(Engine {
        inner,
        _life: Arc::new(Life { closing }),
    })
}

/// Sockets of shims are in it: nobody else may look.
fn make_private(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StartError::Directory {
            path: path.to_owned(),
            source,
        })
}

fn warnings(config: &EngineConfig, report: &OpenReport) -> Vec<String> {
    let mut out = Vec::new();
    if report.driver == store::Driver::Vfs {
        out.push(format!(
            "WARNING: storage driver vfs copies every image for every container: {}",
            report.driver_reason
        ));
    }
    let cgroup = &config.facts.cgroup;
    if cgroup.controller("memory").is_none() {
        out.push("WARNING: No memory limit support".to_owned());
    } else if !cgroup.swap_accounting {
        out.push("WARNING: No swap limit support".to_owned());
    }
    if !cgroup.cpu_quota {
        out.push("WARNING: No cpu cfs quota support".to_owned());
    }
    out
}

/// Containers go on; what was acknowledged is on disk when this returns.
pub(crate) async fn shutdown(inner: &Arc<Inner>) {
    inner.closing.send_replace(true);
    let take = |m: &Mutex<Option<_>>| m.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(take(&inner.alive));
    let gone = inner
        .gone
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(mut gone) = gone
        && tokio::time::timeout(SHUTDOWN_DEADLINE, gone.recv())
            .await
            .is_err()
    {
        tracing::warn!("containers' actors did not end in time");
    }
    let closed = inner
        .blocking("close the store", |inner| {
            // stays as long as a container has its cgroup in it
            runtime::cgroup::Cgroup::remove_instance(&inner.config.facts.cgroup, &inner.instance);
            inner.store.close().map_err(Error::store("close the store"))
        })
        .await;
    if let Err(error) = closed {
        tracing::warn!(error = %error.report(), "the next start checks everything");
    }
}
