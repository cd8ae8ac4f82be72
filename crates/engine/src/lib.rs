//! The domain: containers, images, volumes; one actor per container; events; reconcile at start.

mod error;
pub mod model;
pub mod pipe;
mod views;

use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};

pub use error::Error;
pub use views::*;

use model::ContainerSpec;
use pipe::ByteReceiver;

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("open the store at {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("prepare {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("start the spawner")]
    Spawner {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A handle on a running engine. Cloning is cheap; all clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EngineConfig,
}

/// What `wait` answers with: registered already, resolves at the exit or removal waited for.
#[derive(Debug)]
pub struct Waiter {
    rx: oneshot::Receiver<Result<ExitStatus, Error>>,
}

impl Future for Waiter {
    type Output = Result<ExitStatus, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.rx).poll(cx).map(|r| {
            r.unwrap_or_else(|_| Err(Error::internal("the engine ended before the container did")))
        })
    }
}

/// A container's log, oldest first; ends at the end of the log, or of the container when following.
#[derive(Debug)]
pub struct LogLines {
    rx: mpsc::Receiver<Result<LogLine, Error>>,
}

impl LogLines {
    pub async fn next(&mut self) -> Option<Result<LogLine, Error>> {
        self.rx.recv().await
    }
}

fn later<T>() -> Result<T, Error> {
    Err(Error::unsupported("not built yet"))
}

/// The engine's life.
impl Engine {
    /// Opens the store, starts the spawner and takes up the containers that live on.
    ///
    /// # Errors
    /// When the store cannot be opened or the spawner cannot be started; never for one container.
    pub async fn start(config: EngineConfig) -> Result<Self, StartError> {
        Ok(Self {
            inner: Arc::new(Inner { config }),
        })
    }

    /// Ends the engine; containers go on.
    pub async fn shutdown(&self) {}

    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(Snapshot::default())
    }

    #[must_use]
    pub fn info(&self) -> Info {
        Info::default()
    }

    /// What was, oldest first, between the two times (nanoseconds since 1970), and what comes.
    /// No event is missing between the two or in both.
    #[must_use]
    pub fn events(
        &self,
        since: Option<i64>,
        until: Option<i64>,
    ) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let _ = (since, until);
        (Vec::new(), broadcast::channel(1).1)
    }
}

/// Containers. `id` is a full id, a name, or an unambiguous prefix of an id.
impl Engine {
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a prefix is ambiguous.
    pub fn find(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        Err(Error::not_found(format!("No such container: {id}")))
    }

    pub async fn create(
        &self,
        name: Option<String>,
        spec: ContainerSpec,
    ) -> Result<Created, Error> {
        let _ = (name, spec);
        later()
    }

    /// Named so because `start` starts an engine.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let _ = id;
        later()
    }

    /// `timeout` in seconds; -1: for ever.
    pub async fn stop(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let _ = (id, signal, timeout);
        later()
    }

    pub async fn restart(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let _ = (id, signal, timeout);
        later()
    }

    pub async fn kill(&self, id: &str, signal: Option<&str>) -> Result<(), Error> {
        let _ = (id, signal);
        later()
    }

    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        let _ = id;
        later()
    }

    pub async fn unpause(&self, id: &str) -> Result<(), Error> {
        let _ = id;
        later()
    }

    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<(), Error> {
        let _ = (id, options);
        later()
    }

    pub async fn rename(&self, id: &str, name: &str) -> Result<(), Error> {
        let _ = (id, name);
        later()
    }

    /// Answers warnings.
    pub async fn update(&self, id: &str, request: UpdateRequest) -> Result<Vec<String>, Error> {
        let _ = (id, request);
        later()
    }

    /// Registered when this returns; the answer says when it resolves.
    pub async fn wait(&self, id: &str, condition: WaitCondition) -> Result<Waiter, Error> {
        let _ = (id, condition);
        later()
    }

    pub async fn resize(&self, id: &str, size: ConsoleSize) -> Result<(), Error> {
        let _ = (id, size);
        later()
    }

    /// Docker's frames (raw bytes with a terminal) come out, stdin's bytes go in; half-closing is
    /// its end. Works on a created container: kept, and handed over at its start.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<UnixStream, Error> {
        let _ = (id, options);
        later()
    }

    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<LogLines, Error> {
        let _ = (id, options);
        later()
    }

    /// `ps_args` as of the `ps` command; the default is `-ef`.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<TopTable, Error> {
        let _ = (id, ps_args);
        later()
    }

    pub async fn stats(&self, id: &str) -> Result<StatsSample, Error> {
        let _ = id;
        later()
    }

    pub async fn changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        let _ = id;
        later()
    }

    /// Sizes for `ps -s` and `inspect -s`; walks its files.
    pub async fn container_size(&self, id: &str) -> Result<ContainerUsage, Error> {
        let _ = id;
        later()
    }

    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<PathStat, Error> {
        let _ = (id, path);
        later()
    }

    pub async fn archive_get(
        &self,
        id: &str,
        path: &str,
    ) -> Result<(PathStat, ByteReceiver), Error> {
        let _ = (id, path);
        later()
    }

    /// Unpacks a tar (plain, gzip, zstd) into the directory `path`; durable when it returns.
    pub async fn archive_put(
        &self,
        id: &str,
        path: &str,
        options: PutOptions,
        tar: Box<dyn Read + Send>,
    ) -> Result<(), Error> {
        let _ = (id, path, options, tar);
        later()
    }

    pub async fn export(&self, id: &str) -> Result<ByteReceiver, Error> {
        let _ = id;
        later()
    }

    /// Answers the new image's id.
    pub async fn commit(
        &self,
        id: &str,
        options: CommitOptions,
        progress: Option<ProgressSender>,
    ) -> Result<String, Error> {
        let _ = (id, options, progress);
        later()
    }

    /// Removes what is not running; `label`, `label!`, `until`.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<Pruned, Error> {
        let _ = filters;
        later()
    }
}

/// Exec instances.
impl Engine {
    pub async fn exec_create(&self, id: &str, spec: ExecSpec) -> Result<String, Error> {
        let _ = (id, spec);
        later()
    }

    /// With `attach`: a stream as of [`Engine::attach`]; its end is the end of the program's output.
    pub async fn exec_start(
        &self,
        exec_id: &str,
        attach: bool,
        size: Option<ConsoleSize>,
    ) -> Result<Option<UnixStream>, Error> {
        let _ = (exec_id, attach, size);
        later()
    }

    pub fn exec_inspect(&self, exec_id: &str) -> Result<ExecView, Error> {
        Err(Error::not_found(format!(
            "No such exec instance: {exec_id}"
        )))
    }

    pub async fn exec_resize(&self, exec_id: &str, size: ConsoleSize) -> Result<(), Error> {
        let _ = (exec_id, size);
        later()
    }
}

/// Images. `image` is a name, an id, or an unambiguous prefix of an id.
impl Engine {
    pub fn image(&self, image: &str) -> Result<ImageView, Error> {
        Err(Error::not_found(format!("No such image: {image}")))
    }

    pub async fn load(
        &self,
        archive: Box<dyn Read + Send>,
        progress: Option<ProgressSender>,
    ) -> Result<Vec<LoadedImage>, Error> {
        let _ = (archive, progress);
        later()
    }

    pub async fn import(
        &self,
        tar: Box<dyn Read + Send>,
        options: ImportOptions,
        progress: Option<ProgressSender>,
    ) -> Result<String, Error> {
        let _ = (tar, options, progress);
        later()
    }

    /// The stream ends with an error where the archive is not complete.
    pub async fn save(
        &self,
        images: &[String],
        progress: Option<ProgressSender>,
    ) -> Result<ByteReceiver, Error> {
        let _ = (images, progress);
        later()
    }

    pub async fn tag(&self, image: &str, reference: &str) -> Result<(), Error> {
        let _ = (image, reference);
        later()
    }

    pub async fn remove_image(
        &self,
        image: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<RemovedImage>, Error> {
        let _ = (image, force, no_prune);
        later()
    }

    pub async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>, Error> {
        let _ = image;
        later()
    }

    /// `dangling=false` removes all that no container uses.
    pub async fn prune_images(&self, filters: &Filters) -> Result<Pruned, Error> {
        let _ = filters;
        later()
    }
}

/// Volumes, by name.
impl Engine {
    /// Answers the one that is there where the name is taken. An empty name makes an anonymous one.
    pub async fn create_volume(
        &self,
        name: &str,
        labels: std::collections::BTreeMap<String, String>,
        options: std::collections::BTreeMap<String, String>,
    ) -> Result<VolumeView, Error> {
        let _ = (name, labels, options);
        later()
    }

    pub fn volume(&self, name: &str) -> Result<VolumeView, Error> {
        Err(Error::not_found(format!("get {name}: no such volume")))
    }

    /// Containers (ids) that refer to it.
    #[must_use]
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        let _ = name;
        Vec::new()
    }

    /// To the trash, from which [`Engine::restore_volume`] brings it back.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        let _ = (name, force);
        later()
    }

    pub async fn restore_volume(&self, name: &str) -> Result<VolumeView, Error> {
        let _ = name;
        later()
    }

    pub async fn volumes_in_trash(&self) -> Result<Vec<TrashedVolume>, Error> {
        later()
    }

    /// Anonymous ones without users; with `all=true` the named too. To the trash.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<Pruned, Error> {
        let _ = filters;
        later()
    }

    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        later()
    }
}
