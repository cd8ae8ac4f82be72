//! From a record to a running process. Runs in a task of its own; the actor hears of the outcome.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use runtime::cgroup::Cgroup;
use shim::{Launch, LaunchError, Launched, Shim};
use tokio::sync::oneshot;

use super::prepare::{Prepared, prepare};
use crate::error::Error;
use crate::inner::Inner;
use crate::links;
use crate::model::{ContainerRecord, ErrorKind};
use crate::networks::{self, Sandbox};
use crate::passed;

pub(crate) const LOG_FILE: &str = "json.log";

/// What is left of the last run may take this long to go.
const REMAINS_DEADLINE: Duration = Duration::from_secs(10);
/// From the plan to the program's first instruction. A bind whose file system hangs ends here.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(60);

/// A launch that succeeded.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) shim: Shim,
    pub(super) launched: Launched,
    pub(super) at: String,
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) spec: Arc<Spec>,
}

/// One that did not; nothing of it is left.
#[derive(Debug)]
pub(super) struct StartFailure {
    pub(super) error: Error,
    /// For the record: 127 not found, 126 not executable, 128 anything else.
    pub(super) exit_code: i32,
    /// The last run's shim, where it is still there.
    pub(super) previous: Option<Shim>,
}

impl From<Error> for StartFailure {
    fn from(error: Error) -> Self {
        Self {
            error,
            exit_code: 128,
            previous: None,
        }
    }
}

/// `written` resolves when the row that says "starting" is durable: the start is acknowledged after
/// both, and they go on at the same time.
pub(super) async fn launch(
    engine: Arc<Inner>,
    record: Arc<ContainerRecord>,
    previous: Option<Shim>,
    kept: Vec<(shim::AttachOptions, OwnedFd)>,
    written: oneshot::Receiver<Result<(), Error>>,
) -> Result<Box<Started>, StartFailure> {
    if let Some(shim) = previous {
        let gone = tokio::time::timeout(REMAINS_DEADLINE, shim.gone()).await;
        if gone.is_err() {
            return Err(StartFailure {
                error: Error::timeout(format!(
                    "waited {} s for what is left of the last run of {} to go",
                    REMAINS_DEADLINE.as_secs(),
                    record.name
                )),
                exit_code: 128,
                previous: Some(shim),
            });
        }
    }
    let sandbox = networks::attach(&engine, &record).await?;
    let has_network = sandbox.is_some();
    let run = prepare_and_run(&engine, &record, sandbox, kept).await;
    if run.is_err() && has_network {
        networks::detach(&engine, &record.id).await;
    }
    let (launched, shim, cgroup, spec) = run?;
    if has_network && links::any(&engine) {
        let other = record.clone();
        let told = engine.blocking("tell linked containers", move |inner| {
            links::announce(inner, &other);
            Ok(())
        });
        drop(told.await);
    }
    // the shim's own word on when it started is what an adoption will hear, too
    let (durable, status) = tokio::join!(written, shim.status());
    let durable = durable.unwrap_or_else(|_| Err(Error::internal("the engine is shutting down")));
    if let Err(error) = durable {
        // not acknowledged, so it must not run either
        drop(shim.signal(None, 9, true).await);
        return Err(StartFailure {
            error,
            exit_code: 128,
            previous: Some(shim),
        });
    }
    Ok(Box::new(Started {
        at: status
            .ok()
            .map(|s| s.started_at)
            .filter(|t| !t.is_empty())
            .unwrap_or_else(crate::inner::now),
        shim,
        launched,
        cgroup,
        spec,
    }))
}

async fn prepare_and_run(
    engine: &Arc<Inner>,
    record: &Arc<ContainerRecord>,
    sandbox: Option<Sandbox>,
    kept: Vec<(shim::AttachOptions, OwnedFd)>,
) -> Result<(Launched, Shim, Arc<Cgroup>, Arc<Spec>), StartFailure> {
    let joined = engine.joined_pids(record)?;
    let turn = root_turn(engine, &record.id).await?;
    let for_plan = record.clone();
    let membership = sandbox.as_ref().map(|s| s.membership.clone());
    // held until it runs: the next start takes the volume from this one
    let mut in_memory = if passed::has_memory(engine, record) {
        Some(Arc::clone(&engine.in_memory).lock_owned().await)
    } else {
        None
    };
    let known = in_memory.as_deref().cloned();
    let prepared = engine
        .blocking("prepare the container's root and plan", move |inner| {
            let network = membership.as_deref();
            let prepared = prepare(inner, &for_plan, joined, network, known.as_ref());
            drop(turn);
            prepared
        })
        .await?;
    let (cgroup, spec) = (prepared.cgroup.clone(), prepared.spec.clone());
    let (launched, shim) = run(engine, record, prepared, sandbox, kept).await?;
    if let Some(known) = in_memory.as_deref_mut() {
        let (pid, start) = (launched.pid, launched.pid_start_time);
        passed::remember(engine, known, record, pid, start);
    }
    Ok((launched, shim, cgroup, spec))
}

/// A copy into the container that is on holds the root mounted.
async fn root_turn(
    engine: &Inner,
    id: &str,
) -> Result<Option<tokio::sync::OwnedMutexGuard<()>>, Error> {
    let Some(entry) = engine.containers.get(id) else {
        return Ok(None);
    };
    let turn = tokio::time::timeout(REMAINS_DEADLINE, entry.root_turn.clone().lock_owned()).await;
    turn.map(Some).map_err(|_| {
        Error::timeout(format!(
            "waited {} s for a copy into the container to end",
            REMAINS_DEADLINE.as_secs()
        ))
    })
}

async fn run(
    engine: &Inner,
    record: &ContainerRecord,
    prepared: Prepared,
    sandbox: Option<Sandbox>,
    kept: Vec<(shim::AttachOptions, OwnedFd)>,
) -> Result<(Launched, Shim), StartFailure> {
    let dir = engine.store.container_dir(&record.id);
    let has_network = sandbox.is_some();
    let (mut held, names) = sandbox.map_or_else(Default::default, |s| (s.held, s.names));
    let first = usize::from(has_network);
    held.splice(first..first, prepared.mounts);
    let launch = Launch {
        id: record.id.clone(),
        run_dir: engine.shim_dir(&record.id),
        tty: record.spec.tty,
        console_size: console_size(record.spec.host.console_size),
        open_stdin: record.spec.open_stdin,
        stdin_once: record.spec.stdin_once,
        log: crate::logdriver::plan(record, &dir.join(LOG_FILE))?,
        ephemeral: record.spec.host.auto_remove,
        names,
        container_dir: dir,
    };
    let fault = sys::fault::point("engine.container.launch").map_err(Error::io("launch"));
    fault?;
    let launched = engine
        .spawner
        .launch(
            &launch,
            &prepared.plan,
            prepared.root,
            held,
            kept,
            LAUNCH_DEADLINE,
        )
        .await;
    launched.map_err(|error| failure(&record.name, error))
}

/// Rows and columns, where both are given.
fn console_size([height, width]: [u32; 2]) -> Option<(u16, u16)> {
    let side = |n: u32| u16::try_from(n).ok().filter(|n| *n > 0);
    side(height).zip(side(width))
}

fn failure(name: &str, error: LaunchError) -> StartFailure {
    let exit_code = match error.exit_code() {
        125 => 128, // of the container, not of the command line
        code => code,
    };
    let kind = match &error {
        LaunchError::Step {
            is_program: true, ..
        } => ErrorKind::CannotRun,
        LaunchError::Step { errno, .. } if *errno == rustix::io::Errno::NOSPC.raw_os_error() => {
            ErrorKind::NoSpace
        }
        LaunchError::Step { .. } => ErrorKind::InvalidArgument,
        LaunchError::Deadline { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Internal,
    };
    StartFailure {
        error: Error::caused(kind, format!("failed to start container {name}"), error),
        exit_code,
        previous: None,
    }
}
