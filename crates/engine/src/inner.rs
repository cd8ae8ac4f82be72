//! What all parts of the engine share, and their one way to the store.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use shim::Spawner;
use shim::jsonlog::Watcher;
use store::{ContainerError, Store};
use tokio::sync::{mpsc, oneshot, watch};

use crate::container::{Command, Execs, Reply};
use crate::error::Error;
use crate::events::EventLog;
use crate::model::{ContainerRecord, ErrorKind, NamespaceMode, NetworkMode, Phase};
use crate::ocispec::JoinedPids;
use crate::registry::{Entry, Registry};
use crate::restart::Budget;
use crate::views::{EngineConfig, ImageView, VolumeView};

/// A disk that takes longer than this has failed. The work itself cannot be taken back: whoever
/// waits is told that its outcome is not known.
const DISK_DEADLINE: Duration = Duration::from_secs(120);
/// Longer than any deadline of what a container's actor does.
const ANSWER_DEADLINE: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) store: Arc<Store>,
    pub(crate) spawner: Spawner,
    /// Absent where the host has no inotify instances left: followers of logs are told.
    pub(crate) watcher: Option<Watcher>,
    pub(crate) containers: Registry,
    /// What the store had after the last change. Newest first.
    pub(crate) images: ArcSwap<Vec<ImageView>>,
    /// Likewise, by name.
    pub(crate) volumes: ArcSwap<Vec<VolumeView>>,
    /// Registries of images.
    /// Changed by a reload, as the labels of the engine are.
    pub(crate) remote: ArcSwap<::registry::Client>,
    pub(crate) labels: ArcSwap<Vec<String>>,
    pub(crate) networks: crate::networks::Networks,
    pub(crate) events: EventLog,
    pub(crate) execs: Execs,
    pub(crate) builds: crate::build::Builds,
    pub(crate) budget: Budget,
    /// Of this instance's cgroups, from its exec root.
    pub(crate) instance: String,
    /// With systemd's cgroup driver: where its tree begins below the mounts.
    pub(crate) systemd: Option<PathBuf>,
    /// Turns true when the engine ends.
    pub(crate) closing: watch::Sender<bool>,
    /// Filling of volumes takes turns: two containers that come with the same new volume must not
    /// both fill it.
    pub(crate) filling: tokio::sync::Mutex<()>,
    /// Volumes in memory, and who had each last. Held by a start that has one until it runs.
    pub(crate) in_memory: Arc<tokio::sync::Mutex<crate::passed::InMemory>>,
    /// Lists of images and volumes are read and published in turns, so that the later wins.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    /// A clone for each actor; shutdown takes it away and waits until the last clone is gone.
    pub(crate) alive: Mutex<Option<mpsc::Sender<Infallible>>>,
    pub(crate) gone: Mutex<Option<mpsc::Receiver<Infallible>>>,
    pub(crate) warnings: Vec<String>,
    pub(crate) driver_reason: String,
}

/// RFC 3339 with nanoseconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Sends a command to a container's actor and waits for its answer.
pub(crate) async fn ask<T>(
    entry: &Entry,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Error> {
    ask_within(entry, ANSWER_DEADLINE, command).await
}

pub(crate) async fn ask_within<T>(
    entry: &Entry,
    deadline: Duration,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, Error> {
    let (reply, answer) = oneshot::channel();
    let gone = || Error::not_found(format!("No such container: {}", entry.id));
    let conversation = async {
        entry
            .commands
            .send(command(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    };
    tokio::time::timeout(deadline, conversation)
        .await
        .unwrap_or_else(|_| {
            Err(Error::timeout(format!(
                "waited {} s for container {} to answer",
                deadline.as_secs(),
                entry.id
            )))
        })
}

impl Inner {
    /// Runs what touches the disk where it may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = self.clone();
        let task = tokio::task::spawn_blocking(move || work(&inner));
        match tokio::time::timeout(DISK_DEADLINE, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(e)) => Err(Error::caused(ErrorKind::Internal, what, e)),
            Err(_) => Err(Error::timeout(format!(
                "waited {} s for the disk to {what}; whether it will is not known",
                DISK_DEADLINE.as_secs()
            ))),
        }
    }

    pub(crate) fn alive(&self) -> Option<mpsc::Sender<Infallible>> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.clone()
    }

    pub(crate) fn shim_dir(&self, id: &str) -> PathBuf {
        self.config.exec_root.join("shims").join(id)
    }

    // ---- rows

    pub(crate) fn encode(record: &ContainerRecord) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(record)
            .map_err(|e| Error::caused(ErrorKind::Internal, "encode the container's record", e))
    }

    pub(crate) fn write_record(&self, record: &ContainerRecord) -> Result<(), Error> {
        let document = Self::encode(record)?;
        self.store
            .container_update(&record.id, &document)
            .map_err(Error::store("write the container's record"))
    }

    pub(crate) fn rename_record(&self, record: &ContainerRecord, name: &str) -> Result<(), Error> {
        let document = Self::encode(record)?;
        self.store
            .container_rename(&record.id, name, &document)
            .map_err(container_error("rename the container"))
    }

    pub(crate) fn remove_record(&self, id: &str) -> Result<(), Error> {
        match self.store.container_remove(id) {
            // a removal that an earlier engine had half done
            Ok(()) | Err(ContainerError::NotFound { .. }) => Ok(()),
            Err(e) => Err(Error::store("remove the container")(e)),
        }
    }

    /// A volume made for one container goes with it where that was asked for; one that another
    /// container uses too stays.
    pub(crate) fn remove_own_volume(&self, name: &str) {
        match self.store.volume_remove(name) {
            Ok(()) => self.volume_event("destroy", name),
            Err(error) => tracing::debug!(volume = name, %error, "anonymous volume stays"),
        }
    }

    // ---- lists

    pub(crate) async fn refresh_volumes(self: &Arc<Self>) {
        let turn = self.refreshing.lock().await;
        let list = self
            .blocking("list the volumes", |inner| {
                let all = inner
                    .store
                    .volumes()
                    .map_err(Error::store("list volumes"))?;
                Ok(all.into_iter().map(|v| inner.volume_view(v)).collect())
            })
            .await;
        match list {
            Ok(list) => self.volumes.store(Arc::new(list)),
            Err(error) => tracing::warn!(error = %error.report(), "the list of volumes is old"),
        }
        drop(turn);
    }

    pub(crate) fn volume_view(&self, info: store::VolumeInfo) -> VolumeView {
        VolumeView {
            mountpoint: self.store.volume_dir(&info.name),
            name: info.name,
            created: info.created_at,
            labels: info.labels,
            options: info.options,
            anonymous: info.anonymous,
        }
    }

    pub(crate) async fn refresh_images(self: &Arc<Self>) {
        let turn = self.refreshing.lock().await;
        let list = self
            .blocking("list the images", |inner| {
                let all = inner.store.images().map_err(Error::store("list images"))?;
                Ok(all.iter().map(crate::images::view).collect())
            })
            .await;
        match list {
            Ok(list) => self.images.store(Arc::new(crate::images::sorted(list))),
            Err(error) => tracing::warn!(error = %error.report(), "the list of images is old"),
        }
        drop(turn);
    }

    // ---- events

    pub(crate) fn container_event(
        &self,
        record: &ContainerRecord,
        action: impl Into<String>,
        more: &[(&str, String)],
    ) {
        let mut attributes = record.spec.labels.clone();
        attributes.insert("image".to_owned(), record.spec.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        for (key, value) in more {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.events
            .emit("container", action, &record.id, attributes);
    }

    pub(crate) fn volume_event(&self, action: &str, name: &str) {
        let driver = ("driver".to_owned(), "local".to_owned());
        self.events
            .emit("volume", action, name, BTreeMap::from([driver]));
    }

    pub(crate) fn image_event(&self, action: &str, id: &str, name: &str) {
        let name = ("name".to_owned(), name.to_owned());
        self.events
            .emit("image", action, id, BTreeMap::from([name]));
    }

    // ---- other containers

    /// As dockerd: a container that is not told to shares its IPC with nobody.
    fn check_shareable(&self, container: &str) -> Result<(), Error> {
        let view = self.containers.find(container)?.view.load_full();
        match view.record.spec.host.ipc_mode {
            NamespaceMode::Private | NamespaceMode::None => Err(Error::invalid(format!(
                "cannot join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                view.name()
            ))),
            _ => Ok(()),
        }
    }

    /// First processes of the containers whose namespaces are joined, which must run.
    pub(crate) fn joined_pids(&self, record: &ContainerRecord) -> Result<JoinedPids, Error> {
        let host = &record.spec.host;
        let pid = |what: &str, name: &str| {
            let view = self.containers.find(name)?.view.load_full();
            if view.is_running() && view.phase != Phase::Starting {
                return Ok(Some(view.pid));
            }
            Err(Error::conflict(format!(
                "cannot join {what} of a non running container: {}",
                view.name()
            )))
        };
        let of_mode = |what: &str, mode: &NamespaceMode| match mode {
            NamespaceMode::Container(name) => pid(what, name),
            _ => Ok(None),
        };
        if let NamespaceMode::Container(name) = &host.ipc_mode {
            self.check_shareable(name)?;
        }
        Ok(JoinedPids {
            net: match &host.network {
                NetworkMode::Container(name) => pid("network", name)?,
                _ => None,
            },
            ipc: of_mode("IPC", &host.ipc_mode)?,
            pid: of_mode("PID", &host.pid_mode)?,
        })
    }
}

/// For `map_err`, where the store's refusal is the user's to resolve.
pub(crate) fn container_error(what: &'static str) -> impl FnOnce(ContainerError) -> Error {
    move |e| match &e {
        ContainerError::NameTaken { .. } | ContainerError::IdTaken { .. } => {
            Error::conflict(e.to_string())
        }
        ContainerError::NoSuchVolume { .. } | ContainerError::NotFound { .. } => {
            Error::not_found(e.to_string())
        }
        ContainerError::BadName { .. } => Error::invalid(e.to_string()),
        _ => Error::store(what)(e),
    }
}
