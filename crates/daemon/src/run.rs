//! The process: pid file, host, engine, sockets, READY; then signals until the end.
//!
//! Order of the start: what can refuse cheaply comes first. Sockets are bound before any thread is
//! there (the umask belongs to the process) and served once the engine is: who connects between is
//! not refused but waits for the engine. Order of the end: no new connections, calls in flight are finished
//! (bounded), the engine marks its store clean, containers go on.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, EngineConfig};
use host::Facts;
use host::doctor::{self, Verdict};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

use crate::config::{self, Config, Request};
use crate::docker::Api;
use crate::listen::{ListenError, Listener, Socket, listen};
use crate::notify;
use crate::pidfile::{PidFile, PidFileError};
use crate::serve;
use crate::tls::{Tls, TlsError};

/// Threads that serve. Blocking work has its own.
const WORKERS: usize = 2;
/// Bound of the threads for blocking work: loads, copies, file systems.
const BLOCKING_THREADS: usize = 64;
/// For all probes of the host together.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Seconds between the stop signal and SIGKILL, as dockerd.
const STOP_TIMEOUT: i64 = 10;
/// Without a request for so long, the engine is idle.
const QUIET: Duration = Duration::from_secs(10);
/// How long the end waits for calls in flight.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("open the audit log {path}")]
    Audit {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the executor")]
    Executor(#[source] io::Error),
    #[error("start the engine")]
    Engine(#[from] engine::StartError),
    #[error("make the directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("look at the host")]
    Host(#[from] host::ProbeError),
    #[error(
        "this host must not carry containers: {0}; see plimsoll doctor, or start with --carry-anyway"
    )]
    Unfit(String),
    #[error("catch signals")]
    Signals(#[source] io::Error),
}

type LevelHandle = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

pub(crate) fn run(config: Config, args: Vec<OsString>) -> Result<(), RunError> {
    sys::malloc::keep_small();
    let level = log_to_stderr(config.level());
    let _pidfile = PidFile::create(&config.pidfile())?;
    // before any thread is there: probing forks
    let facts = look_at_host(&config)?;
    let tls = Arc::new(Tls::default());
    tls.load(config.tls())?;
    let sockets = listen(&config.hosts, config.group.as_deref(), tls.verifies())?;
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(3))
        .thread_name("plimsoll")
        .enable_all()
        .build()
        .map_err(RunError::Executor)?;
    let done = executor.block_on(main_loop(config, facts, args, sockets, level, tls));
    // blocking work that hangs (a dead file system) must not keep the process
    executor.shutdown_timeout(Duration::from_millis(100));
    done
}

/// P6: what the host can do is tried, not read off version numbers; and it is told what to mind.
fn look_at_host(config: &Config) -> Result<Facts, RunError> {
    for (path, mode) in [(&config.data_root, 0o711), (&config.exec_root, 0o711)] {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(mode).create(path);
        made.map_err(|source| RunError::Directory {
            path: path.clone(),
            source,
        })?;
    }
    let began = Instant::now();
    let facts = Facts::load_or_probe(&config.data_root, &config.exec_root, PROBE_DEADLINE)?;
    let report = doctor::examine(&doctor::Context::gather(&facts, doctor::Depth::Quick)?);
    for finding in report.of(Verdict::Caveats) {
        tracing::warn!(
            "host: {}: {}; {}",
            finding.check,
            finding.saw,
            finding.advice
        );
    }
    let forbidden: Vec<String> = report
        .of(Verdict::Forbidden)
        .map(|f| format!("{}: {}", f.check, f.saw))
        .collect();
    if !forbidden.is_empty() {
        if !config.carry_anyway {
            return Err(RunError::Unfit(forbidden.join("; ")));
        }
        tracing::error!(
            "started against the doctor's advice: {}",
            forbidden.join("; ")
        );
    }
    tracing::debug!("looked at the host in {:?}", began.elapsed());
    Ok(facts)
}

fn log_to_stderr(level: tracing::Level) -> LevelHandle {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false);
    // a second start in one process (tests) keeps the first's
    drop(
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init(),
    );
    handle
}

async fn main_loop(
    config: Config,
    facts: Facts,
    args: Vec<OsString>,
    sockets: Vec<Socket>,
    level: LevelHandle,
    tls: Arc<Tls>,
) -> Result<(), RunError> {
    let started = Instant::now();
    let on = |kind| signal(kind).map_err(RunError::Signals);
    let (mut term, mut int, mut hup) = (
        on(SignalKind::terminate())?,
        on(SignalKind::interrupt())?,
        on(SignalKind::hangup())?,
    );
    let engine = Engine::start(engine_config(&config, facts)).await?;
    let api = Api::new(engine.clone(), config.clone()).map_err(|source| RunError::Audit {
        path: config.audit_log.clone().unwrap_or_default(),
        source,
    })?;
    let api = Arc::new(api);
    let mut serving = Vec::new();
    for socket in &sockets {
        serving.push(serve_on(socket, &api, &tls)?);
        tracing::info!("serving on {socket}");
    }
    if let Some(path) = probed(&sockets) {
        tokio::spawn(notify::watchdog(path));
    }
    notify::tell("READY=1");
    tracing::info!("ready after {:?}", started.elapsed());
    tokio::spawn(stay_small(Arc::clone(&api)));
    let mut reloaded = Reloaded {
        args,
        current: config,
        level,
        tls,
    };
    loop {
        tokio::select! {
            _ = term.recv() => { tracing::info!("told to end by SIGTERM"); break }
            _ = int.recv() => { tracing::info!("told to end by SIGINT"); break }
            _ = hup.recv() => reloaded.reload(&api),
        }
    }
    notify::tell("STOPPING=1");
    for task in serving {
        task.abort();
    }
    // paths go before the wait: clients see at once that nobody serves
    drop(sockets);
    if tokio::time::timeout(DRAIN, api.drained()).await.is_err() {
        tracing::warn!("calls were still in flight after {DRAIN:?}; they are cut");
    }
    if tokio::time::timeout(DRAIN, engine.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the engine did not end within {DRAIN:?}; the next start checks the store");
    }
    tracing::info!("ended; containers go on");
    Ok(())
}

/// Gives memory back once after each burst of requests: idle is what the engine mostly is.
async fn stay_small(api: Arc<Api>) {
    let (mut seen, mut trimmed) = (0, None);
    loop {
        if trimmed != Some(seen) && api.served() == seen {
            sys::malloc::trim();
            trimmed = Some(seen);
        }
        seen = api.served();
        tokio::time::sleep(QUIET).await;
    }
}

/// The socket the watchdog asks.
fn probed(sockets: &[Socket]) -> Option<PathBuf> {
    sockets
        .iter()
        .map(|s| s.path.clone())
        .find(|path| !path.as_os_str().is_empty())
}

fn serve_on(
    socket: &Socket,
    api: &Arc<Api>,
    tls: &Arc<Tls>,
) -> Result<tokio::task::JoinHandle<()>, RunError> {
    let api = Arc::clone(api);
    let task = match &socket.listener {
        Listener::Unix(unix) => {
            let listener = unix
                .try_clone()
                .and_then(tokio::net::UnixListener::from_std);
            listener.map(|l| tokio::spawn(serve::unix(l, api)))
        }
        Listener::Tcp(tcp) => {
            let listener = tcp.try_clone().and_then(tokio::net::TcpListener::from_std);
            listener.map(|l| tokio::spawn(serve::tcp(l, api, Arc::clone(tls))))
        }
    };
    let failed = |source| ListenError::Bind {
        path: socket.to_string().into(),
        source,
    };
    Ok(task.map_err(failed)?)
}

/// What SIGHUP works on.
struct Reloaded {
    args: Vec<OsString>,
    current: Config,
    level: LevelHandle,
    tls: Arc<Tls>,
}

impl Reloaded {
    /// FAILURES "Bad config or stored state stops the daemon": a bad file changes nothing.
    fn reload(&mut self, api: &Api) {
        let new = match config::read(&self.args) {
            Ok(Request::Run(new)) => *new,
            Ok(_) => return,
            Err(error) => return not_taken(&error),
        };
        // files alone: whether there is TLS at all decides on where it may be served
        let same = new.has_tls == self.current.has_tls && new.tls.verify == self.current.tls.verify;
        if same && let Err(error) = self.tls.load(new.tls()) {
            return not_taken(&error);
        }
        if let Err(error) = self.level.reload(LevelFilter::from_level(new.level())) {
            return tracing::error!("the log level could not be changed: {error}");
        }
        api.reload(&new);
        let taken = Config {
            debug: new.debug,
            log_level: new.log_level,
            labels: new.labels.clone(),
            registries: new.registries.clone(),
            authorization_plugins: new.authorization_plugins.clone(),
            tls: if same {
                new.tls.clone()
            } else {
                self.current.tls.clone()
            },
            ..self.current.clone()
        };
        let whole = taken == new;
        self.current = taken;
        if whole {
            tracing::info!("configuration reloaded");
        } else {
            tracing::warn!(
                "configuration reloaded: debug, log-level, labels, registries, plugins, certificates; other changes need a restart, which no container notices"
            );
        }
    }
}

fn not_taken(error: &dyn std::error::Error) {
    tracing::error!(
        "the configuration is not taken, the last good one stays: {}",
        crate::chain(error)
    );
}

fn engine_config(config: &Config, facts: Facts) -> EngineConfig {
    EngineConfig {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        labels: config.labels.clone(),
        log: config.log.clone(),
        stop_timeout: STOP_TIMEOUT,
        facts: Arc::new(facts),
        spawner: None,
        debug: config.debug,
        cgroup_driver: config.cgroup_driver,
        networks: config.networks.clone(),
        registries: config.registries.clone(),
        cdi_dirs: config.cdi_dirs.clone(),
    }
}
