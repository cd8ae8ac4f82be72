//! Exec instances: made, started once, remembered for a while.
//!
//! ```text
//! Created --start--> Running --the shim tells--> Ended --(MOST_ENDED newer ones, or rm)--> forgotten
//! ```

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci_spec::runtime::{Process, Spec, User};
use runtime::{Asked, ExecInput, Plan};
use shim::{ExecLaunch, LaunchError};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::actor::Actor;
use super::prepare;
use super::{Command, Live};
use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerRecord, ErrorKind};
use crate::ocispec;
use crate::security::{self, SecurityOptions};
use crate::views::{ConsoleSize, ExecSpec, ExecView};

const LAUNCH_DEADLINE: Duration = Duration::from_secs(30);
/// Ended instances of one container that can still be inspected.
const MOST_ENDED: usize = 64;
/// Instances of one container that were never started.
const MOST_CREATED: usize = 1024;

#[derive(Debug)]
pub(crate) struct ExecCell {
    pub(crate) id: String,
    pub(crate) container: String,
    pub(crate) spec: Arc<ExecSpec>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Starting,
    Running { pid: i32 },
    Ended { code: i32, pid: i32, order: u64 },
}

impl ExecCell {
    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(State) -> State) -> State {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        *state = f(before);
        drop(state);
        self.changed.notify_waiters();
        before
    }

    /// Returns once the exit code is known here.
    pub(crate) async fn ended(&self) {
        loop {
            // registered before the look: a change in between is not missed
            let changed = self.changed.notified();
            if matches!(self.state(), State::Ended { .. }) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn view(&self) -> ExecView {
        let (running, exit_code, pid) = match self.state() {
            State::Created | State::Starting => (false, None, 0),
            State::Running { pid } => (true, None, pid),
            State::Ended { code, pid, .. } => (false, Some(code), pid),
        };
        ExecView {
            id: self.id.clone(),
            container_id: self.container.clone(),
            spec: self.spec.clone(),
            running,
            exit_code,
            pid,
        }
    }
}

/// All instances of all containers. The lock is held for memory operations only.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    all: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<ExecCell>>,
    /// In order of creation.
    by_container: HashMap<String, Vec<Arc<ExecCell>>>,
    endings: u64,
}

impl Execs {
    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<ExecCell>> {
        self.lock().by_id.get(id).cloned()
    }

    /// Those that have not ended, as inspect lists them.
    pub(crate) fn ids_of(&self, container: &str) -> Vec<String> {
        let table = self.lock();
        let cells = table.by_container.get(container);
        cells
            .into_iter()
            .flatten()
            .filter(|c| !matches!(c.state(), State::Ended { .. }))
            .map(|c| c.id.clone())
            .collect()
    }

    pub(crate) fn create(&self, container: &str, spec: ExecSpec) -> Result<Arc<ExecCell>, Error> {
        let cell = Arc::new(ExecCell {
            id: crate::names::new_id(),
            container: container.to_owned(),
            spec: Arc::new(spec),
            state: Mutex::new(State::Created),
            changed: Notify::new(),
        });
        let mut table = self.lock();
        let list = table.by_container.entry(container.to_owned()).or_default();
        if list.iter().filter(|c| c.state() == State::Created).count() >= MOST_CREATED {
            return Err(Error::conflict(format!(
                "container {container} has {MOST_CREATED} exec instances that were never started"
            )));
        }
        list.push(cell.clone());
        table.by_id.insert(cell.id.clone(), cell.clone());
        Ok(cell)
    }

    /// Those a shim of an earlier engine knows; what they were asked is not known any more.
    pub(crate) fn adopt(&self, container: &str, known: &[shim::ExecStatus]) {
        let mut table = self.lock();
        for exec in known {
            let state = match exec.code {
                None => State::Running { pid: exec.pid },
                Some(code) => State::Ended {
                    code,
                    pid: exec.pid,
                    order: 0,
                },
            };
            let cell = Arc::new(ExecCell {
                id: exec.exec_id.clone(),
                container: container.to_owned(),
                spec: Arc::new(ExecSpec::default()),
                state: Mutex::new(state),
                changed: Notify::new(),
            });
            table.by_id.insert(cell.id.clone(), cell.clone());
            let list = table.by_container.entry(container.to_owned());
            list.or_default().push(cell);
        }
    }

    /// Answers the instance, once.
    pub(crate) fn ended(&self, id: &str, code: i32) -> Option<Arc<ExecCell>> {
        let mut table = self.lock();
        table.endings += 1;
        let order = table.endings;
        let cell = table.by_id.get(id).cloned()?;
        let before = cell.change(|state| match state {
            State::Running { pid } => State::Ended { code, pid, order },
            State::Created | State::Starting => State::Ended {
                code,
                pid: 0,
                order,
            },
            ended @ State::Ended { .. } => ended,
        });
        table.forget_oldest(&cell.container);
        (!matches!(before, State::Ended { .. })).then_some(cell)
    }

    fn running_of(&self, container: &str) -> Vec<String> {
        let table = self.lock();
        let cells = table.by_container.get(container);
        cells
            .into_iter()
            .flatten()
            .filter(|c| matches!(c.state(), State::Running { .. } | State::Starting))
            .map(|c| c.id.clone())
            .collect()
    }

    pub(crate) fn forget(&self, container: &str) {
        let mut table = self.lock();
        for cell in table.by_container.remove(container).into_iter().flatten() {
            table.by_id.remove(&cell.id);
        }
    }
}

impl Table {
    fn forget_oldest(&mut self, container: &str) {
        let Some(list) = self.by_container.get_mut(container) else {
            return;
        };
        let order = |c: &Arc<ExecCell>| match c.state() {
            State::Ended { order, .. } => Some(order),
            _ => None,
        };
        let mut ended: Vec<u64> = list.iter().filter_map(order).collect();
        if ended.len() <= MOST_ENDED {
            return;
        }
        ended.sort_unstable();
        let keep_from = ended[ended.len() - MOST_ENDED];
        let by_id = &mut self.by_id;
        list.retain(|c| {
            let keep = order(c).is_none_or(|o| o >= keep_from);
            if !keep {
                by_id.remove(&c.id);
            }
            keep
        });
    }
}

// ---- start

/// Starts a created instance; with `attach` answers the client's end of its streams.
pub(crate) async fn start(
    engine: &Arc<Inner>,
    cell: &Arc<ExecCell>,
    attach: bool,
    size: Option<ConsoleSize>,
) -> Result<Option<UnixStream>, Error> {
    let entry = engine.containers.find(&cell.container)?;
    let live = crate::inner::ask(&entry, |reply| Command::Live {
        unpaused: true,
        reply,
    })
    .await?;
    let before = cell.change(|s| match s {
        State::Created => State::Starting,
        other => other,
    });
    if before != State::Created {
        return Err(Error::conflict(format!(
            "Error: Exec command {} is already running or has run",
            cell.id
        )));
    }
    let started = launch(engine, cell, &live, attach, size).await;
    match started {
        Ok((pid, stream)) => {
            cell.change(|s| match s {
                State::Starting => State::Running { pid },
                other => other, // the shim told its end already
            });
            Ok(stream)
        }
        Err((error, code)) => {
            engine.execs.ended(&cell.id, code);
            Err(error)
        }
    }
}

async fn launch(
    engine: &Arc<Inner>,
    cell: &Arc<ExecCell>,
    live: &Live,
    attach: bool,
    size: Option<ConsoleSize>,
) -> Result<(i32, Option<UnixStream>), (Error, i32)> {
    let of_ours = |e: Error| (e, 126);
    let record = engine
        .containers
        .find(&cell.container)
        .map_err(of_ours)?
        .view
        .load()
        .record
        .clone();
    let (spec, for_plan) = (cell.spec.clone(), live.clone());
    let shown = record.clone();
    let plan = engine
        .blocking("plan the exec", move |inner| {
            plan(inner, &record, &for_plan, &spec, size, &for_plan.cgroup)
        })
        .await
        .map_err(of_ours)?;
    let (stream, shims) = if attach {
        let (ours, shims) = socket_pair().map_err(of_ours)?;
        (Some(ours), Some((attach_options(cell), shims)))
    } else {
        (None, None)
    };
    let request = ExecLaunch {
        exec_id: cell.id.clone(),
        tty: cell.spec.tty,
        console_size: size.map(|s| (s.height, s.width)),
        open_stdin: cell.spec.attach_stdin,
        kill_on_disconnect: false,
    };
    let command = cell.spec.argv.join(" ");
    let more = [("execID", cell.id.clone())];
    engine.container_event(&shown, format!("exec_start: {command}"), &more);
    sys::fault::point("engine.exec.launch")
        .map_err(Error::io("launch"))
        .map_err(of_ours)?;
    let started = live
        .shim
        .exec(&request, &plan, shims, LAUNCH_DEADLINE)
        .await
        .map_err(failure)?;
    Ok((started.pid, stream))
}

fn failure(error: LaunchError) -> (Error, i32) {
    let code = match error.exit_code() {
        125 => 126,
        code => code,
    };
    let kind = match &error {
        LaunchError::Step {
            is_program: true, ..
        } => ErrorKind::CannotRun,
        LaunchError::Step { .. } => ErrorKind::InvalidArgument,
        LaunchError::Deadline { .. } => ErrorKind::Timeout,
        LaunchError::ShimDied { .. } => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    };
    (Error::caused(kind, "OCI runtime exec failed", error), code)
}

fn attach_options(cell: &ExecCell) -> shim::AttachOptions {
    shim::AttachOptions {
        stdin: cell.spec.attach_stdin,
        stdout: cell.spec.attach_stdout,
        stderr: cell.spec.attach_stderr,
        exec_id: Some(cell.id.clone()),
        ..shim::AttachOptions::default()
    }
}

fn socket_pair() -> Result<(UnixStream, OwnedFd), Error> {
    let (ours, theirs) = StdStream::pair().map_err(Error::io("make a socket pair"))?;
    ours.set_nonblocking(true)
        .map_err(Error::io("prepare a socket"))?;
    let ours = UnixStream::from_std(ours).map_err(Error::io("prepare a socket"))?;
    Ok((ours, theirs.into()))
}

/// Blocking: resolves the user inside the container as it is now.
pub(super) fn plan(
    inner: &Inner,
    record: &ContainerRecord,
    live: &Live,
    exec: &ExecSpec,
    size: Option<ConsoleSize>,
    cgroup: &runtime::cgroup::Cgroup,
) -> Result<Plan, Error> {
    let host = &record.spec.host;
    let facts = &*inner.config.facts;
    let saved = match &live.spec {
        Some(spec) => Some(spec.clone()),
        None => prepare::saved_spec(inner, &record.id).map(Arc::new),
    };
    let Some(container) = saved.as_deref() else {
        return Err(Error::internal(format!(
            "what container {} was started with cannot be read: restart it to exec in it",
            record.name
        )));
    };
    let root = open_root(live)?;
    let user = if exec.user.is_empty() {
        &record.spec.user
    } else {
        &exec.user
    };
    let identity = prepare::identity(&root, user, &host.group_add)?;
    let options = SecurityOptions::parse(&host.security_opt)?;
    let privileged = exec.privileged || host.privileged;
    let capabilities = security::capabilities(
        privileged,
        &host.cap_add,
        &host.cap_drop,
        &facts.process.bounding,
    )?;
    let mut process = process(container, exec, &identity);
    if let Some(size) = size.filter(|_| exec.tty) {
        let size = ocispec::console_size(size.height.into(), size.width.into());
        process.set_console_size(size);
    }
    let sets = ocispec::capability_sets(&capabilities, identity.uid)?;
    process.set_capabilities(Some(sets));
    process.set_no_new_privileges(Some(options.no_new_privileges));
    runtime::plan_exec(&ExecInput {
        container,
        process: &process,
        facts,
        cgroup: Some(cgroup),
        seccomp: prepare::seccomp_choice(&options, privileged, &capabilities)?,
        asked: Asked::default(),
        die_with_parent: true,
        choices: runtime::Choices::default(),
    })
    .map_err(prepare::plan_error)
}

fn process(container: &Spec, exec: &ExecSpec, identity: &ocispec::Identity) -> Process {
    let mut process = container.process().clone().unwrap_or_default();
    process.set_terminal(Some(exec.tty));
    process.set_args(Some(exec.argv.clone()));
    let mut user = User::default();
    user.set_uid(identity.uid);
    user.set_gid(identity.gid);
    user.set_additional_gids(Some(identity.groups.clone()).filter(|g| !g.is_empty()));
    process.set_user(user);
    let mut env = process.env().clone().unwrap_or_default();
    env.retain(|e| !e.starts_with("HOME="));
    if exec.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    ocispec::merge_env(&mut env, &exec.env);
    if !identity.home.is_empty() && !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    process.set_env(Some(env));
    if !exec.working_dir.is_empty() {
        process.set_cwd(exec.working_dir.clone().into());
    }
    process
}

/// The root of the container's first process, which the start time makes sure it is.
pub(crate) fn open_root(live: &Live) -> Result<OwnedFd, Error> {
    use rustix::fs::{Mode, OFlags, open};
    let gone = || Error::conflict("the container has just ended");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        open(format!("/proc/{}/root", live.pid), flags, Mode::empty()).map_err(|_| gone())?;
    match crate::procfs::parent_and_start(live.pid) {
        Ok((_, start)) if start == live.pid_start_time => Ok(root),
        _ => Err(gone()),
    }
}

// ---- what the shim tells

impl Actor {
    pub(super) fn exec_ended(&mut self, id: &str, code: i32) {
        if self.engine.execs.ended(id, code).is_some() {
            let more = [("execID", id.to_owned()), ("exitCode", code.to_string())];
            self.emit("exec_die", &more);
            self.publish();
        }
    }

    /// With the container ends all that was added to it.
    pub(super) fn end_execs(&mut self) {
        for id in self.engine.execs.running_of(&self.record.id) {
            self.exec_ended(&id, 137);
        }
    }
}
