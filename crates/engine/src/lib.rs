//! The domain: containers, images, volumes; one actor per container; events; reconcile at start.

mod build;
mod cdi;
mod container;
mod create;
mod devices;
mod error;
mod etc;
mod events;
mod files;
mod images;
mod info;
mod inner;
mod kernel_log;
mod links;
mod logdriver;
mod logs;
pub mod model;
mod names;
mod networks;
mod ocispec;
mod passed;
pub mod pipe;
mod procfs;
mod prune;
mod ready;
mod reconcile;
mod registry;
mod remote;
mod restart;
mod security;
mod sizes;
mod start;
#[cfg(test)]
mod testing;
mod views;
mod volumes;

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};

pub use ::registry::Config as RegistrySettings;
pub use build::{BuildFailure, BuildMessage, BuildRequest, BuildSender, Built, PrunedCache};
pub use cdi::is_qualified as is_cdi_device;
pub use container::health_word;
pub use error::Error;
pub use networks::{
    EndpointState, Membership, NetworkRecord, NetworkSettings, NetworkView, PublishPolicy, Subnet,
};
pub use remote::{Credentials, Distribution, Pulled, Pushed, check_mirror};
pub use shim::{Health, HealthResult};
pub use start::StartError;
pub use views::*;

use container::{Attachment, Command, Live};
use inner::{Inner, ask, ask_within};
use model::{ContainerSpec, ErrorKind};
use pipe::ByteReceiver;
use registry::Entry;
use shim::jsonlog::LogPosition;

/// Of calls that last as long as the caller allowed a container to live on.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
const REGISTER_DEADLINE: Duration = Duration::from_secs(10);

/// A handle on a running engine. Cloning is cheap; all clones are the same engine. When the last
/// one is dropped the engine ends; containers go on.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    _life: Arc<start::Life>,
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

/// Whether a driver and its options can be a container's. Files that they name are looked at when a
/// container is created: an engine starts without them.
///
/// # Errors
/// Naming the option.
pub fn check_log(spec: &model::LogSpec) -> Result<(), Error> {
    logdriver::parse(spec).map(drop)
}

fn shim_error(what: &'static str) -> impl FnOnce(shim::ShimError) -> Error {
    move |e| match &e {
        shim::ShimError::Gone { .. } => Error::conflict(e.to_string()),
        shim::ShimError::NoSuchExec { .. } => Error::not_found(e.to_string()),
        shim::ShimError::Deadline { .. } => Error::caused(ErrorKind::Timeout, what, e),
        _ => Error::store(what)(e),
    }
}

/// The view shows it a little later; nobody waits for that.
fn tell_execs_changed(entry: &Entry) {
    let full = entry.commands.try_send(Command::ExecsChanged).is_err();
    tracing::trace!(full, "exec instances changed");
}

/// The client's end of the streams, and up to where the log holds what was written before.
async fn attach(
    entry: &Entry,
    options: AttachOptions,
) -> Result<(UnixStream, Option<LogPosition>), Error> {
    let attachment = ask(entry, |reply| Command::Attach { options, reply }).await?;
    let (stream, log) = match attachment {
        Attachment::Kept(stream) => (stream, None),
        Attachment::Live(live) => {
            let wanted = shim::AttachOptions {
                stdin: options.stdin,
                stdout: options.stdout,
                stderr: options.stderr,
                after_log: options.logs,
                ..shim::AttachOptions::default()
            };
            let attached = live.shim.attach(&wanted).await;
            let shim::Attached { stream, log } = attached.map_err(shim_error("attach"))?;
            stream
                .set_nonblocking(true)
                .map_err(Error::io("prepare a socket"))?;
            (stream, log)
        }
    };
    let stream = UnixStream::from_std(stream).map_err(Error::io("prepare a socket"))?;
    Ok((stream, log))
}

async fn wait(entry: &Entry, condition: WaitCondition) -> Result<Waiter, Error> {
    let id = &entry.id;
    let (reply, rx) = oneshot::channel();
    let (registered, is_registered) = oneshot::channel();
    let command = Command::Wait {
        condition,
        registered,
        reply,
    };
    let gone = || Error::not_found(format!("No such container: {id}"));
    entry.commands.send(command).await.map_err(|_| gone())?;
    tokio::time::timeout(REGISTER_DEADLINE, is_registered)
        .await
        .map_err(|_| {
            Error::timeout(format!(
                "waited {REGISTER_DEADLINE:?} for {id} to take the waiter"
            ))
        })?
        .map_err(|_| gone())?;
    Ok(Waiter { rx })
}

impl Engine {
    fn entry(&self, id: &str) -> Result<Arc<Entry>, Error> {
        self.inner.containers.find(id)
    }

    fn exec(&self, id: &str) -> Result<Arc<container::ExecCell>, Error> {
        let found = self.inner.execs.get(id);
        found.ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    async fn live(&self, id: &str) -> Result<Live, Error> {
        let entry = self.entry(id)?;
        ask(&entry, |reply| Command::Live {
            unpaused: false,
            reply,
        })
        .await
    }
}

/// The engine's life.
impl Engine {
    /// Opens the store, starts the spawner and takes up the containers that live on.
    ///
    /// # Errors
    /// When the store cannot be opened or the spawner cannot be started; never for one container.
    pub async fn start(config: EngineConfig) -> Result<Self, StartError> {
        start::start(config).await
    }

    /// Ends the engine; containers go on.
    pub async fn shutdown(&self) {
        start::shutdown(&self.inner).await;
    }

    /// What can change while it runs. Pulls and pushes under way go on as they began.
    pub fn reload(&self, labels: Vec<String>, registries: RegistrySettings) {
        self.inner.labels.store(Arc::new(labels));
        let client = ::registry::Client::new(registries);
        self.inner.remote.store(Arc::new(client));
    }

    /// Devices that the files of the Container Device Interface give, by name.
    ///
    /// # Errors
    /// When reading them takes too long.
    pub async fn cdi_devices(&self) -> Result<Vec<String>, Error> {
        self.inner
            .blocking("look for CDI devices", |inner| {
                Ok(cdi::load(&inner.config.cdi_dirs).names())
            })
            .await
    }

    /// As they are now.
    #[must_use]
    pub fn registries(&self) -> RegistrySettings {
        self.inner.remote.load().config().clone()
    }

    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            containers: self.inner.containers.views(),
            images: self.inner.images.load_full(),
            volumes: self.inner.volumes.load_full(),
            networks: self.inner.networks.views(),
        })
    }

    #[must_use]
    pub fn info(&self) -> Info {
        info::info(&self.inner)
    }

    /// What was, oldest first, between the two times (nanoseconds since 1970), and what comes.
    /// No event is missing between the two or in both.
    #[must_use]
    pub fn events(
        &self,
        since: Option<i64>,
        until: Option<i64>,
    ) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        self.inner.events.replay(since, until)
    }
}

/// Containers. `id` is a full id, a name, or an unambiguous prefix of an id.
impl Engine {
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a prefix is ambiguous.
    pub fn find(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        Ok(self.entry(id)?.view.load_full())
    }

    pub async fn create(
        &self,
        name: Option<String>,
        spec: ContainerSpec,
    ) -> Result<Created, Error> {
        // what is asked for is large, and is moved through every step
        Box::pin(create::create(&self.inner, name, spec)).await
    }

    /// Named so because `start` starts an engine.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        ask(&*self.entry(id)?, |reply| Command::Start { reply }).await
    }

    /// `timeout` in seconds; -1: for ever.
    pub async fn stop(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let signal = signal.map(names::signal).transpose()?;
        // waits as long as the caller lets the container live
        ask_within(&*self.entry(id)?, FOR_EVER, |reply| Command::Stop {
            signal,
            timeout,
            reply,
        })
        .await
    }

    pub async fn restart(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let signal = signal.map(names::signal).transpose()?;
        ask_within(&*self.entry(id)?, FOR_EVER, |reply| Command::Restart {
            signal,
            timeout,
            reply,
        })
        .await
    }

    pub async fn kill(&self, id: &str, signal: Option<&str>) -> Result<(), Error> {
        let signal = signal.filter(|s| !s.is_empty()).unwrap_or("KILL");
        let signal = names::signal(signal)?;
        ask(&*self.entry(id)?, |reply| Command::Kill { signal, reply }).await
    }

    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        ask(&*self.entry(id)?, |reply| Command::Pause { reply }).await
    }

    pub async fn unpause(&self, id: &str) -> Result<(), Error> {
        ask(&*self.entry(id)?, |reply| Command::Unpause { reply }).await
    }

    pub async fn remove(&self, id: &str, options: RemoveOptions) -> Result<(), Error> {
        ask(&*self.entry(id)?, |reply| Command::Remove {
            options,
            reply,
        })
        .await
    }

    pub async fn rename(&self, id: &str, name: &str) -> Result<(), Error> {
        let name = name.strip_prefix('/').unwrap_or(name).to_owned();
        names::check("container", &name)?;
        ask(&*self.entry(id)?, |reply| Command::Rename { name, reply }).await
    }

    /// Answers warnings.
    pub async fn update(&self, id: &str, request: UpdateRequest) -> Result<Vec<String>, Error> {
        let request = Box::new(request);
        ask(&*self.entry(id)?, |reply| Command::Update {
            request,
            reply,
        })
        .await
    }

    /// Registered when this returns; the answer says when it resolves.
    pub async fn wait(&self, id: &str, condition: WaitCondition) -> Result<Waiter, Error> {
        wait(&*self.entry(id)?, condition).await
    }

    /// Of a container without a terminal nothing is changed, as Docker does it: clients ask without knowing.
    pub async fn resize(&self, id: &str, size: ConsoleSize) -> Result<(), Error> {
        let live = self.live(id).await?;
        let record = self.entry(id)?.view.load().record.clone();
        if record.spec.tty {
            live.shim
                .resize(None, size.height, size.width)
                .await
                .map_err(shim_error("resize the terminal"))?;
        }
        let sides = [
            ("height", size.height.to_string()),
            ("width", size.width.to_string()),
        ];
        self.inner.container_event(&record, "resize", &sides);
        Ok(())
    }

    /// Docker's frames (raw bytes with a terminal) come out, stdin's bytes go in; half-closing is
    /// its end. Works on a created container: kept, and handed over at its start.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<UnixStream, Error> {
        let entry = self.entry(id)?;
        let stream = match options.stream {
            true => Some(attach(&entry, options).await?),
            false => None,
        };
        let view = entry.view.load();
        self.inner.container_event(&view.record, "attach", &[]);
        match stream {
            Some((stream, _)) if !options.logs => Ok(stream),
            stream => logs::with_replay(&self.inner, &entry, &options, stream).await,
        }
    }

    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<LogLines, Error> {
        let rx = logs::read(&self.inner, &self.entry(id)?, options).await?;
        Ok(LogLines { rx })
    }

    /// `ps_args` as of the `ps` command; the default is `-ef`.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<TopTable, Error> {
        let live = self.live(id).await?;
        let arguments = ps_args.to_owned();
        self.inner
            .blocking("read the container's processes", move |_| {
                let pids = live.cgroup.pids();
                let mut pids = pids.map_err(Error::store("list the container's processes"))?;
                pids.sort_unstable();
                procfs::table(&pids, &arguments)
            })
            .await
    }

    pub async fn stats(&self, id: &str) -> Result<StatsSample, Error> {
        info::stats(&self.inner, &self.entry(id)?).await
    }

    pub async fn changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        files::changes(&self.inner, &self.entry(id)?).await
    }

    /// Sizes for `ps -s` and `inspect -s`; walks its files.
    pub async fn container_size(&self, id: &str) -> Result<ContainerUsage, Error> {
        let record = self.entry(id)?.view.load().record.clone();
        self.inner
            .blocking("measure the container", move |inner| {
                Ok(sizes::container(inner, &record))
            })
            .await
    }

    pub async fn archive_stat(&self, id: &str, path: &str) -> Result<PathStat, Error> {
        files::stat(&self.inner, &self.entry(id)?, path).await
    }

    pub async fn archive_get(
        &self,
        id: &str,
        path: &str,
    ) -> Result<(PathStat, ByteReceiver), Error> {
        files::get(&self.inner, &self.entry(id)?, path).await
    }

    /// Unpacks a tar (plain, gzip, zstd) into the directory `path`; durable when it returns.
    pub async fn archive_put(
        &self,
        id: &str,
        path: &str,
        options: PutOptions,
        tar: Box<dyn Read + Send>,
    ) -> Result<(), Error> {
        files::put(&self.inner, &self.entry(id)?, path, options, tar).await
    }

    pub async fn export(&self, id: &str) -> Result<ByteReceiver, Error> {
        files::export(&self.inner, &self.entry(id)?).await
    }

    /// Answers the new image's id.
    pub async fn commit(
        &self,
        id: &str,
        options: CommitOptions,
        progress: Option<ProgressSender>,
    ) -> Result<String, Error> {
        files::commit(&self.inner, &self.entry(id)?, options, progress).await
    }

    /// Removes what is not running; `label`, `label!`, `until`.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<Pruned, Error> {
        prune::containers(&self.inner, filters).await
    }
}

/// Exec instances.
impl Engine {
    pub async fn exec_create(&self, id: &str, spec: ExecSpec) -> Result<String, Error> {
        if spec.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        let entry = self.entry(id)?;
        ask(&entry, |reply| Command::Live {
            unpaused: true,
            reply,
        })
        .await?;
        let command = spec.argv.join(" ");
        let record = entry.view.load().record.clone();
        let mut spec = spec;
        if spec.user.is_empty() {
            // and shown so
            spec.user.clone_from(&record.spec.user);
        }
        let cell = self.inner.execs.create(&entry.id, spec)?;
        let more = [("execID", cell.id.clone())];
        self.inner
            .container_event(&record, format!("exec_create: {command}"), &more);
        tell_execs_changed(&entry);
        Ok(cell.id.clone())
    }

    /// With `attach`: a stream as of [`Engine::attach`]; its end is the end of the program's output.
    pub async fn exec_start(
        &self,
        exec_id: &str,
        attach: bool,
        size: Option<ConsoleSize>,
    ) -> Result<Option<UnixStream>, Error> {
        let cell = self.exec(exec_id)?;
        let stream = container::start_exec(&self.inner, &cell, attach, size).await;
        if let Some(entry) = self.inner.containers.get(&cell.container) {
            tell_execs_changed(&entry);
        }
        stream
    }

    /// Returns once inspect knows the exit code, or after `deadline`. The shim tells a program's
    /// end and closes its streams on two connections: who was told of the one may ask for the other.
    pub async fn exec_ended(&self, exec_id: &str, deadline: Duration) {
        if let Ok(cell) = self.exec(exec_id) {
            // a program that closed its streams and runs on is not waited for
            drop(tokio::time::timeout(deadline, cell.ended()).await);
        }
    }

    pub fn exec_inspect(&self, exec_id: &str) -> Result<ExecView, Error> {
        Ok(self.exec(exec_id)?.view())
    }

    pub async fn exec_resize(&self, exec_id: &str, size: ConsoleSize) -> Result<(), Error> {
        let cell = self.exec(exec_id)?;
        let live = self.live(&cell.container).await?;
        if !cell.spec.tty {
            return Ok(());
        }
        live.shim
            .resize(Some(&cell.id), size.height, size.width)
            .await
            .map_err(shim_error("resize the terminal"))
    }
}

/// Images. `image` is a name, an id, or an unambiguous prefix of an id.
impl Engine {
    pub fn image(&self, image: &str) -> Result<ImageView, Error> {
        self.inner.image(image)
    }

    pub async fn load(
        &self,
        archive: Box<dyn Read + Send>,
        progress: Option<ProgressSender>,
    ) -> Result<Vec<LoadedImage>, Error> {
        images::load(&self.inner, archive, progress).await
    }

    /// From the registry that the reference names, or a mirror of it.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&str>,
        credentials: Credentials,
        progress: Option<ProgressSender>,
    ) -> Result<Pulled, Error> {
        remote::pull(&self.inner, reference, platform, credentials, progress).await
    }

    pub async fn push(
        &self,
        reference: &str,
        credentials: Credentials,
        progress: Option<ProgressSender>,
    ) -> Result<Pushed, Error> {
        remote::push(&self.inner, reference, credentials, progress).await
    }

    /// Whether a registry lets somebody in.
    pub async fn log_in(&self, registry: &str, credentials: Credentials) -> Result<(), Error> {
        remote::log_in(&self.inner, registry, credentials).await
    }

    /// What a registry has under a name.
    pub async fn distribution(
        &self,
        reference: &str,
        credentials: Credentials,
    ) -> Result<Distribution, Error> {
        remote::distribution(&self.inner, reference, credentials).await
    }

    pub async fn import(
        &self,
        tar: Box<dyn Read + Send>,
        options: ImportOptions,
        progress: Option<ProgressSender>,
    ) -> Result<String, Error> {
        images::import(&self.inner, tar, options, progress).await
    }

    /// The stream ends with an error where the archive is not complete.
    pub async fn save(
        &self,
        images: &[String],
        progress: Option<ProgressSender>,
    ) -> Result<ByteReceiver, Error> {
        images::save(&self.inner, images, progress).await
    }

    pub async fn tag(&self, image: &str, reference: &str) -> Result<(), Error> {
        images::tag(&self.inner, image, reference).await
    }

    pub async fn remove_image(
        &self,
        image: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<RemovedImage>, Error> {
        let _ = no_prune; // layers without an image are never kept
        images::remove(&self.inner, image, force).await
    }

    pub async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>, Error> {
        images::history(&self.inner, image).await
    }

    /// Builds what a Dockerfile of the context (a tar archive: plain, gzip, zstd) says. Durable when
    /// it returns. When the receiver of `out` goes, the build ends.
    pub async fn build(
        &self,
        request: BuildRequest,
        context: Box<dyn Read + Send>,
        out: BuildSender,
    ) -> Result<Built, BuildFailure> {
        Box::pin(build::build(&self.inner, request, context, out)).await
    }

    /// Forgets steps of builds, the least recently used first, until those left take no more than
    /// `keep` bytes; `until` and `id`.
    pub async fn prune_builds(&self, filters: &Filters, keep: u64) -> Result<PrunedCache, Error> {
        build::prune(&self.inner, filters, keep).await
    }

    /// `dangling=false` removes all that no container uses.
    pub async fn prune_images(&self, filters: &Filters) -> Result<Pruned, Error> {
        images::prune(&self.inner, filters).await
    }
}

/// Networks. `network` is a name, an id, or an unambiguous prefix of an id.
impl Engine {
    /// # Errors
    /// `NotFound`, or `InvalidArgument` when a prefix is ambiguous.
    pub fn network(&self, network: &str) -> Result<NetworkView, Error> {
        let id = self.inner.networks.find(network)?.id.clone();
        let views = self.inner.networks.views();
        let found = views.iter().find(|v| v.record.id == id);
        found
            .cloned()
            .ok_or_else(|| Error::not_found(format!("network {network} not found")))
    }

    /// Whether a container that names no network gets one.
    #[must_use]
    pub fn has_default_network(&self) -> bool {
        self.inner.networks.has_default()
    }

    /// Answers its id.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<String, Error> {
        networks::create(&self.inner, spec).await
    }

    pub async fn remove_network(&self, network: &str) -> Result<(), Error> {
        networks::remove(&self.inner, network).await
    }

    /// `label`, `label!`, `until`. Answers names.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>, Error> {
        networks::prune(&self.inner, filters).await
    }

    pub async fn connect(
        &self,
        network: &str,
        container: &str,
        spec: model::EndpointSpec,
    ) -> Result<(), Error> {
        networks::connect(&self.inner, network, container, spec).await
    }

    pub async fn disconnect(&self, network: &str, container: &str) -> Result<(), Error> {
        networks::disconnect(&self.inner, network, container).await
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
        volumes::create(&self.inner, name, labels, options).await
    }

    pub fn volume(&self, name: &str) -> Result<VolumeView, Error> {
        let list = self.inner.volumes.load();
        let found = list.iter().find(|v| v.name == name);
        found
            .cloned()
            .ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// Containers (ids) that refer to it.
    #[must_use]
    pub fn volume_users(&self, name: &str) -> Vec<String> {
        volumes::users(&self.inner).remove(name).unwrap_or_default()
    }

    /// To the trash, from which [`Engine::restore_volume`] brings it back.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        volumes::remove(&self.inner, name, force).await
    }

    pub async fn restore_volume(&self, name: &str) -> Result<VolumeView, Error> {
        volumes::restore(&self.inner, name).await
    }

    pub async fn volumes_in_trash(&self) -> Result<Vec<TrashedVolume>, Error> {
        volumes::in_trash(&self.inner).await
    }

    /// Anonymous ones without users; with `all=true` the named too. To the trash.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<Pruned, Error> {
        volumes::prune(&self.inner, filters).await
    }

    /// Verifies all that is stored; with `repair`, heals what can be healed. Reads every byte of
    /// every image, so it takes as long as that does.
    pub async fn fsck(&self, repair: bool) -> Result<FsckReport, Error> {
        images::fsck(&self.inner, repair).await
    }

    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        sizes::all(&self.inner).await
    }
}
