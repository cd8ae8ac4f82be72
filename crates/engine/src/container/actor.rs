//! The loop, and what happens at start, exit and restart.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use shim::{Events, ExitRecord, Shim};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::launch::{StartFailure, Started};
use super::{Attachment, Command, Live, Reply};
use crate::error::Error;
use crate::inner::Inner;
use crate::logdriver::Forwarder;
use crate::model::{ContainerRecord, ErrorKind, NetworkMode, Phase, RestartKind};
use crate::registry::Entry;
use crate::restart;
use crate::views::{ContainerPaths, ContainerView, ExitStatus, RemoveOptions, WaitCondition};

/// Between two questions to a mute shim.
const ADOPT_AGAIN: Duration = Duration::from_secs(2);
/// Commands that wait for the actor; a sender beyond that waits for room.
const QUEUE: usize = 64;
/// Nothing is in them any more.
const JOINED_REMOVAL: Duration = Duration::from_secs(2);

/// What the actor's own tasks tell it.
#[derive(Debug)]
pub(super) enum Internal {
    /// Of a container that was taken up.
    SettleNetworks,
    Launched(Result<Box<Started>, Box<StartFailure>>),
    Removed(Result<(), Error>),
    /// Of the run with this pid.
    Health(i32, shim::Health),
    /// What a shim that had been mute said when it was asked again.
    Found(Box<Found>),
}

pub(super) struct Stopping {
    /// When SIGKILL follows; absent: never (asked so) or already sent.
    pub(super) kill_at: Option<Instant>,
    /// When SIGKILL was not enough: the shim may be mute.
    pub(super) force_at: Option<Instant>,
    /// When the callers are told that it does not die.
    pub(super) give_up_at: Option<Instant>,
    pub(super) replies: Vec<(Reply<()>, Then)>,
}

/// What follows an exit that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Stay,
    /// As [`Then::Stay`], of a kill: there is no stop to tell of.
    Killed,
    Start,
    /// It was unhealthy: as a policy would, with its pause.
    Again,
    Remove(RemoveOptions),
}

struct Waiting {
    condition: WaitCondition,
    reply: Reply<ExitStatus>,
}

/// The run that is on.
pub(super) struct Run {
    pub(super) live: Live,
    events: Events,
    ended: watch::Sender<bool>,
    since: Instant,
}

/// How a container is taken up when its actor starts.
#[derive(Debug)]
pub(crate) enum Found {
    /// Just created.
    New,
    /// Not running, as its record says.
    AtRest,
    /// Its shim lives on.
    Running {
        shim: Shim,
        status: Box<shim::Status>,
        cgroup: Arc<runtime::cgroup::Cgroup>,
        paused: bool,
    },
    /// Ended without a word to anyone: the record says how.
    Ended(ExitRecord),
    /// Was running when the machine went down, or its shim was killed; text for the user.
    Lost { code: i32, error: String },
    /// Its shim lives but does not answer: dead until it does.
    Mute(String),
    /// Cannot be used.
    Broken(String),
}

pub(crate) struct Actor {
    pub(super) engine: Arc<Inner>,
    pub(super) entry: Arc<Entry>,
    commands: mpsc::Receiver<Command>,
    internal: (
        mpsc::UnboundedSender<Internal>,
        mpsc::UnboundedReceiver<Internal>,
    ),
    pub(super) record: Arc<ContainerRecord>,
    pub(super) phase: Phase,
    pub(super) run: Option<Run>,
    /// The last run's shim: its remains go before the next start.
    pub(super) previous: Option<Shim>,
    waiters: Vec<Waiting>,
    /// What needs the outcome of the launch that is on.
    pending: VecDeque<Command>,
    start_replies: Vec<Reply<()>>,
    /// Clients that attached before the start.
    pub(super) kept: Vec<(shim::AttachOptions, OwnedFd)>,
    pub(super) stopping: Option<Stopping>,
    /// Absent where nothing is checked.
    pub(super) health: Option<Arc<shim::Health>>,
    /// Where the log goes on to somebody.
    pub(super) forwarder: Option<Forwarder>,
    pub(super) remove_replies: Vec<Reply<()>>,
    backoff: restart::Backoff,
    restart_at: Option<Instant>,
    /// When a mute shim is asked again.
    adopt_at: Option<Instant>,
    /// The last write of the row; the next one waits for it.
    writes: Option<JoinHandle<Result<(), Error>>>,
    closing: watch::Receiver<bool>,
    /// The engine's shutdown waits until all of these are gone.
    _alive: Option<mpsc::Sender<Infallible>>,
    pub(super) broken: bool,
    /// Its shim lives and does not answer.
    pub(super) mute: bool,
    gone: bool,
}

/// Makes the entry and starts the actor. `found` says how the container is taken up; commands wait
/// until it is known, readers see the record. Its receiver learns when that is done.
pub(crate) fn spawn(
    engine: &Arc<Inner>,
    record: ContainerRecord,
    found: impl Future<Output = Found> + Send + 'static,
    taken_up: Option<oneshot::Sender<()>>,
) -> Arc<Entry> {
    let (tx, commands) = mpsc::channel(QUEUE);
    let record = Arc::new(record);
    let phase = match record.state.phase {
        // a row says no more than that: its shim knows
        Phase::Starting => Phase::Running,
        phase => phase,
    };
    let view = view_of(engine, &record, phase, 0, Vec::new(), None);
    let entry = Arc::new(Entry {
        id: record.id.as_str().into(),
        view: ArcSwap::from_pointee(view),
        commands: tx,
        root_turn: Arc::default(),
    });
    let actor = Actor {
        engine: engine.clone(),
        entry: entry.clone(),
        commands,
        internal: mpsc::unbounded_channel(),
        record,
        phase,
        run: None,
        previous: None,
        waiters: Vec::new(),
        pending: VecDeque::new(),
        start_replies: Vec::new(),
        kept: Vec::new(),
        stopping: None,
        health: None,
        forwarder: None,
        remove_replies: Vec::new(),
        backoff: restart::Backoff::default(),
        restart_at: None,
        adopt_at: None,
        writes: None,
        closing: engine.closing.subscribe(),
        _alive: engine.alive(),
        broken: false,
        mute: false,
        gone: false,
    };
    tokio::spawn(async move {
        let found = found.await;
        actor.live_on(found, taken_up).await;
    });
    entry
}

fn view_of(
    engine: &Inner,
    record: &Arc<ContainerRecord>,
    phase: Phase,
    pid: i32,
    exec_ids: Vec<String>,
    health: Option<Arc<shim::Health>>,
) -> ContainerView {
    let state = &record.state;
    ContainerView {
        phase,
        pid,
        started_at: state.started_at.clone(),
        finished_at: state.finished_at.clone(),
        exit_code: state.exit_code,
        oom_killed: state.oom_killed,
        error: state.error.clone(),
        restart_count: record.restart_count,
        exec_ids,
        health,
        paths: paths(engine, record),
        image_name: record.spec.image.clone(),
        membership: engine.networks.membership(&record.id),
        rendered: std::sync::OnceLock::new(),
        record: record.clone(),
    }
}

/// Where its files are. Who shares another's network has that one's hosts, resolv.conf and hostname: what
/// the network's names are is in them.
pub(crate) fn paths(engine: &Inner, record: &ContainerRecord) -> ContainerPaths {
    let fs = engine.store.container_fs(&record.id);
    let etc = match &record.spec.host.network {
        NetworkMode::Container(id) => engine.store.container_dir(id),
        _ => fs.dir.clone(),
    };
    ContainerPaths {
        log: (record.spec.host.log.driver != "none").then(|| fs.dir.join(super::launch::LOG_FILE)),
        resolv_conf: etc.join("resolv.conf"),
        hostname: etc.join("hostname"),
        hosts: etc.join("hosts"),
        upper: fs.upper,
        work: fs.work,
        dir: fs.dir,
    }
}

// ---- the loop

impl Actor {
    async fn live_on(mut self, found: Found, taken_up: Option<oneshot::Sender<()>>) {
        self.take_up(found);
        if let Some(taken_up) = taken_up {
            answer_plain(taken_up);
        }
        while !self.gone {
            let alarm = self.next_alarm();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => break,
                },
                Some(internal) = self.internal.1.recv() => self.internal(internal).await,
                event = next_event(self.run.as_mut()) => self.shim_said(event).await,
                () = sleep_until(alarm) => self.alarm().await,
                _ = self.closing.changed() => break,
            }
        }
        if let Some(write) = self.writes.take() {
            // the row of what was acknowledged is on its way: let it land before the store closes
            if let Ok(Err(error)) = write.await {
                tracing::warn!(container = %self.entry.id, error = %error.report(), "record not written");
            }
        }
    }

    fn next_alarm(&self) -> Option<Instant> {
        let stopping = self.stopping.as_ref();
        [
            self.restart_at,
            self.adopt_at,
            stopping.and_then(|s| s.kill_at),
            stopping.and_then(|s| s.force_at),
            stopping.and_then(|s| s.give_up_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    async fn alarm(&mut self) {
        let now = Instant::now();
        if self.adopt_at.is_some_and(|t| t <= now) {
            self.adopt_at = None;
            let (engine, record, tell) = (self.engine.clone(), self.record.clone(), self.teller());
            tokio::spawn(async move {
                let found = crate::reconcile::adopt(&engine, (*record).clone()).await;
                drop(tell.send(Internal::Found(Box::new(found))));
            });
            return;
        }
        if self.restart_at.is_some_and(|t| t <= now) {
            self.restart_at = None;
            self.record_mut().restart_count += 1;
            self.begin_start();
            return;
        }
        self.stop_alarm(now).await;
    }

    async fn handle(&mut self, command: Command) {
        if self.phase == Phase::Starting && needs_outcome(&command) {
            self.pending.push_back(command);
            return;
        }
        match command {
            Command::Start { reply } => self.start(reply),
            Command::Stop {
                signal,
                timeout,
                reply,
            } => self.stop(signal, timeout, reply, Then::Stay).await,
            Command::Restart {
                signal,
                timeout,
                reply,
            } => self.stop(signal, timeout, reply, Then::Start).await,
            Command::Kill { signal, reply } => self.kill(signal, reply).await,
            Command::Pause { reply } => answer(reply, self.pause().await),
            Command::Unpause { reply } => answer(reply, self.unpause().await),
            Command::Remove { options, reply } => self.remove(options, reply).await,
            Command::Rename { name, reply } => answer(reply, self.rename(&name).await),
            Command::Update { request, reply } => answer(reply, self.update(*request).await),
            Command::Wait {
                condition,
                registered,
                reply,
            } => {
                self.wait(condition, reply);
                answer_plain(registered);
            }
            Command::Attach { options, reply } => answer(reply, self.attach(&options)),
            Command::Live { unpaused, reply } => answer(reply, self.live(unpaused)),
            Command::ExecsChanged => self.publish(),
            Command::Connect {
                network,
                spec,
                reply,
            } => answer(reply, self.connect(network, *spec).await),
            Command::Disconnect { network, reply } => {
                answer(reply, self.disconnect(&network).await);
            }
        }
    }

    async fn internal(&mut self, internal: Internal) {
        match internal {
            Internal::Launched(Ok(started)) => self.launched(*started),
            Internal::Launched(Err(failure)) => self.launch_failed(*failure).await,
            Internal::SettleNetworks => self.settle_networks().await,
            Internal::Health(pid, health) => {
                if self.run.as_ref().is_some_and(|r| r.live.pid == pid) {
                    self.health_is(health).await;
                }
            }
            Internal::Removed(result) => self.removed(result),
            Internal::Found(found) if self.phase == Phase::Dead => self.take_up(*found),
            Internal::Found(_) => {}
        }
        while self.phase != Phase::Starting {
            let Some(command) = self.pending.pop_front() else {
                break;
            };
            // boxed: `handle` does not come back here, but the compiler cannot see that
            Box::pin(self.handle(command)).await;
        }
    }

    /// The sender for the actor's own tasks.
    pub(super) fn teller(&self) -> mpsc::UnboundedSender<Internal> {
        self.internal.0.clone()
    }

    pub(super) fn record_mut(&mut self) -> &mut ContainerRecord {
        Arc::make_mut(&mut self.record)
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.publish();
    }

    pub(super) fn publish(&self) {
        let pid = self.run.as_ref().map_or(0, |r| r.live.pid);
        let execs = self.engine.execs.ids_of(&self.entry.id);
        let health = self.health.clone();
        let view = view_of(&self.engine, &self.record, self.phase, pid, execs, health);
        self.entry.view.store(Arc::new(view));
    }

    /// From where its sink has it: of this run, or of none what is left.
    fn forward_log(&mut self) {
        let ended = self.run.as_ref().map(|r| r.live.ended.clone());
        self.forwarder = Forwarder::start(&self.engine, &self.record, ended, self.forwarder.take());
    }

    pub(super) fn emit(&self, action: impl Into<String>, more: &[(&str, String)]) {
        self.engine.container_event(&self.record, action, more);
    }

    /// Not running, and why not, in Docker's words.
    pub(super) fn live(&self, unpaused: bool) -> Result<Live, Error> {
        let id = &self.record.id;
        match (&self.run, self.phase) {
            (Some(_), Phase::Paused) if unpaused => Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                self.record.name
            ))),
            (Some(run), _) => Ok(run.live.clone()),
            (None, Phase::Restarting) => Err(Error::conflict(format!(
                "Container {id} is restarting, wait until the container is running"
            ))),
            (None, _) => Err(Error::conflict(format!("container {id} is not running"))),
        }
    }
}

/// Commands whose answer depends on whether the launch succeeds.
fn needs_outcome(command: &Command) -> bool {
    !matches!(
        command,
        Command::Wait { .. } | Command::ExecsChanged | Command::Rename { .. }
    )
}

async fn next_event(run: Option<&mut Run>) -> Option<shim::Event> {
    match run {
        Some(run) => run.events.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A caller that is gone needs no answer.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    let nobody_waits = reply.send(result).is_err();
    tracing::trace!(nobody_waits, "answered");
}

fn answer_plain(reply: oneshot::Sender<()>) {
    let nobody_waits = reply.send(()).is_err();
    tracing::trace!(nobody_waits, "answered");
}

// ---- the row

impl Actor {
    /// Sends the record as it is now on its way to the store, after the writes before it.
    /// `then` follows a success. What comes back resolves when it is durable.
    pub(super) fn write(
        &mut self,
        then: impl FnOnce() + Send + 'static,
    ) -> oneshot::Receiver<Result<(), Error>> {
        let (done, landed) = oneshot::channel();
        let before = self.writes.take();
        let (engine, record) = (self.engine.clone(), self.record.clone());
        self.writes = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // its own waiter has its error; this write carries the same record and more
                drop(before.await);
            }
            let result = engine
                .blocking("write the container's record", move |inner| {
                    inner.write_record(&record)?;
                    then();
                    Ok(())
                })
                .await;
            if let Err(error) = &result {
                tracing::warn!(error = %error.report(), "container's record not written");
            }
            drop(done.send(result));
            Ok(())
        }));
        landed
    }

    /// For a task that removes the row: after all writes of it.
    pub(super) fn take_writes(&mut self) -> Option<JoinHandle<Result<(), Error>>> {
        self.writes.take()
    }

    /// Writes and waits for it.
    pub(super) async fn write_through(&mut self) -> Result<(), Error> {
        self.write(|| ())
            .await
            .unwrap_or_else(|_| Err(Error::internal("the engine is shutting down")))
    }
}

// ---- start

impl Actor {
    fn start(&mut self, reply: Reply<()>) {
        let refused = match self.phase {
            Phase::Created | Phase::Exited | Phase::Restarting => None,
            Phase::Starting => None,
            Phase::Running | Phase::Stopping => Some(Error::not_modified(format!(
                "container {} is already running",
                self.record.name
            ))),
            Phase::Paused => Some(Error::conflict(
                "cannot start a paused container, try unpause instead",
            )),
            Phase::Removing => Some(Error::conflict(
                "container is marked for removal and cannot be started",
            )),
            Phase::Dead => Some(Error::conflict(format!(
                "container is marked for removal and cannot be started: {}",
                self.record.state.error
            ))),
        };
        if let Some(error) = refused {
            return answer(reply, Err(error));
        }
        self.push_start(reply);
        self.begin_start();
    }

    pub(super) fn push_start(&mut self, reply: Reply<()>) {
        self.backoff.reset();
        self.restart_at = None;
        self.record_mut().restart_count = 0;
        self.start_replies.push(reply);
    }

    pub(super) fn begin_start(&mut self) {
        let boot_id = self.engine.store.boot_id().to_owned();
        let record = self.record_mut();
        record.stopped_by_user = false;
        record.state.phase = Phase::Starting;
        record.state.boot_id = boot_id;
        record.state.error.clear();
        self.set_phase(Phase::Starting);
        let written = self.write_start();
        let kept = std::mem::take(&mut self.kept);
        let launch = super::launch::launch(
            self.engine.clone(),
            self.record.clone(),
            self.previous.take(),
            kept,
            written,
        );
        let tell = self.teller();
        tokio::spawn(async move {
            let outcome = launch.await;
            // the actor outlives its launches except at shutdown, where the shim lives on
            drop(tell.send(Internal::Launched(outcome.map_err(Box::new))));
        });
    }

    fn write_start(&mut self) -> oneshot::Receiver<Result<(), Error>> {
        if self.record.spec.host.auto_remove {
            let (tx, rx) = oneshot::channel();
            drop(tx.send(Ok(())));
            return rx;
        }
        self.write(|| ())
    }

    fn launched(&mut self, started: Started) {
        let (ended, watch) = watch::channel(false);
        let state = &mut self.record_mut().state;
        state.phase = Phase::Running;
        state.pid = started.launched.pid;
        state.pid_start_time = started.launched.pid_start_time;
        state.started_at = Some(started.at);
        state.finished_at = None;
        state.exit_code = 0;
        state.oom_killed = false;
        self.run = Some(Run {
            events: started.shim.events(),
            live: Live {
                shim: started.shim,
                shim_pid: started.launched.shim_pid,
                pid: started.launched.pid,
                pid_start_time: started.launched.pid_start_time,
                cgroup: started.cgroup,
                spec: Some(started.spec),
                ended: watch,
            },
            ended,
            since: Instant::now(),
        });
        self.forward_log();
        self.watch_health();
        self.set_phase(Phase::Running);
        self.emit("start", &[]);
        for reply in self.start_replies.drain(..) {
            answer(reply, Ok(()));
        }
    }

    async fn launch_failed(&mut self, failure: StartFailure) {
        let code = failure.exit_code;
        let text = failure.error.report();
        let kind = failure.error.kind();
        let ran_before = self.record.state.started_at.is_some();
        let phase = if ran_before {
            Phase::Exited
        } else {
            Phase::Created
        };
        self.previous = failure.previous;
        let state = &mut self.record_mut().state;
        state.phase = phase;
        state.exit_code = code;
        state.error.clone_from(&text);
        state.pid = 0;
        self.set_phase(phase);
        for reply in std::mem::take(&mut self.start_replies) {
            answer(reply, Err(Error::new(kind, text.clone())));
        }
        self.emit("die", &[("exitCode", code.to_string())]);
        self.resolve_waiters(code, Some(&text));
        let record = &self.record;
        if record.spec.host.auto_remove {
            self.begin_remove(RemoveOptions {
                force: false,
                volumes: true,
            });
            return;
        }
        let tried_again = record.restart_count > 0
            && restart::after_exit(
                &record.spec.host.restart,
                code,
                record.stopped_by_user,
                record.restart_count,
            );
        if tried_again {
            self.plan_restart(Duration::ZERO);
        }
        drop(self.write(|| ()));
    }
}

// ---- exit

impl Actor {
    async fn shim_said(&mut self, event: Option<shim::Event>) {
        match event {
            Some(shim::Event::Exited(exit)) => self.exited(exit).await,
            Some(shim::Event::Oom) => {
                self.record_mut().state.oom_killed = true;
                self.emit("oom", &[]);
                self.publish();
            }
            Some(shim::Event::Health(health)) => self.health_is(health).await,
            Some(shim::Event::ExecExited { exec_id, code }) => self.exec_ended(&exec_id, code),
            Some(shim::Event::Missed) => self.catch_up(),
            None => {
                // by its contract the client reports an exit first; a container must not stay
                // "running" because that was broken
                let exit = self.made_up_exit();
                self.exited(exit).await;
            }
        }
    }

    /// Events were missed: the shim's own list of exec'd processes says which have ended.
    fn catch_up(&self) {
        let Some(run) = &self.run else { return };
        let (shim, engine, id) = (
            run.live.shim.clone(),
            self.engine.clone(),
            self.record.id.clone(),
        );
        let (entry, tell, pid) = (self.entry.clone(), self.teller(), run.live.pid);
        tokio::spawn(async move {
            if let Ok(Some(health)) = shim.health().await {
                drop(tell.send(Internal::Health(pid, health)));
            }
            let Ok(status) = shim.status().await else {
                return; // gone: the exit event follows
            };
            for exec in status.execs {
                if let Some(code) = exec.code {
                    engine.execs.ended(&exec.exec_id, code);
                }
            }
            tracing::debug!(container = id, "caught up with missed events");
            drop(entry.commands.send(Command::ExecsChanged).await);
        });
    }

    fn made_up_exit(&self) -> ExitRecord {
        ExitRecord {
            code: 137,
            signal: Some(9),
            oom_killed: self.record.state.oom_killed,
            started_at: self.record.state.started_at.clone().unwrap_or_default(),
            finished_at: crate::inner::now(),
            pid: self.record.state.pid,
            start_time: self.record.state.pid_start_time,
            shim_died: true,
            log_lines_dropped: 0,
        }
    }

    async fn exited(&mut self, exit: ExitRecord) {
        let ran = self
            .run
            .as_ref()
            .map_or(Duration::ZERO, |r| r.since.elapsed());
        if let Some(run) = self.run.take() {
            run.ended.send_replace(true);
            self.leave_joined_cgroups(&run.live).await;
            self.previous = Some(run.live.shim);
        }
        self.end_execs();
        self.health_ended();
        self.leave_networks();
        if exit.oom_killed && !self.record.state.oom_killed {
            // the end came before the word of it
            self.emit("oom", &[]);
        }
        self.note_exit(&exit);
        let stopping = self.stopping.take();
        // who is told of the end finds it in the view
        let restarts = stopping.is_none() && self.restarts_after(exit.code);
        self.set_phase(if restarts {
            Phase::Restarting
        } else {
            Phase::Exited
        });
        self.emit("die", &exit_attributes(&exit, ran));
        self.resolve_waiters(exit.code, None);
        self.after_exit(&exit, ran, stopping).await;
    }

    /// The shim removes the cgroups that it made. Those that a change of limits added are the engine's:
    /// gone before the next start, which may make them again.
    async fn leave_joined_cgroups(&self, live: &Live) {
        let made = live.shim.cgroup();
        let Some(joined) = made.and_then(|made| live.cgroup.beyond(made)) else {
            return;
        };
        let removed = self
            .engine
            .blocking("remove the cgroups that it joined", move |_| {
                let failed = |e| Error::caused(ErrorKind::Internal, "remove its cgroups", e);
                joined.remove(JOINED_REMOVAL).map_err(failed)
            })
            .await;
        if let Err(error) = removed {
            // they are found again as strays, by the next engine
            tracing::warn!(container = self.record.id, error = %error.report(), "a cgroup stays");
        }
    }

    pub(super) fn note_exit(&mut self, exit: &ExitRecord) {
        let state = &mut self.record_mut().state;
        state.phase = Phase::Exited;
        state.pid = 0;
        state.pid_start_time = 0;
        state.exit_code = exit.code;
        state.oom_killed |= exit.oom_killed;
        if !exit.started_at.is_empty() {
            state.started_at = Some(exit.started_at.clone());
        }
        state.finished_at = Some(exit.finished_at.clone());
        if exit.shim_died {
            state.error = SHIM_DIED.to_owned();
        }
    }

    async fn after_exit(&mut self, exit: &ExitRecord, ran: Duration, stopping: Option<Stopping>) {
        let mut then = Vec::new();
        let mut again = false;
        for (reply, next) in stopping.into_iter().flat_map(|s| s.replies) {
            match next {
                Then::Stay => {
                    self.emit("stop", &[]);
                    answer(reply, Ok(()));
                }
                Then::Killed => answer(reply, Ok(())),
                Then::Start => then.push(reply),
                Then::Again => again = true,
                Then::Remove(options) => {
                    self.remove_replies.push(reply);
                    self.set_phase(Phase::Exited);
                    self.begin_remove(options);
                }
            }
        }
        if self.phase == Phase::Removing {
            for reply in then {
                answer(reply, Err(Error::conflict("the container was removed")));
            }
            return;
        }
        if !then.is_empty() {
            self.emit("stop", &[]);
            self.start_replies.extend(then);
            self.set_phase(Phase::Exited);
            self.write_exit();
            self.record_mut().restart_count = 0;
            self.backoff.reset();
            self.emit("restart", &[]);
            self.begin_start();
            return;
        }
        if again && !self.record.stopped_by_user && !self.record.spec.host.auto_remove {
            self.plan_restart(ran);
            self.write_exit();
            return;
        }
        self.settle(exit.code, ran);
    }

    /// Nobody asked for what follows: the policy says.
    fn settle(&mut self, code: i32, ran: Duration) {
        let again = self.restarts_after(code);
        if self.record.spec.host.auto_remove {
            self.set_phase(Phase::Exited);
            self.begin_remove(RemoveOptions {
                force: false,
                volumes: true,
            });
            return;
        }
        if again {
            self.plan_restart(ran);
        } else {
            self.set_phase(Phase::Exited);
        }
        self.write_exit();
    }

    fn restarts_after(&self, code: i32) -> bool {
        let record = &self.record;
        !record.spec.host.auto_remove
            && restart::after_exit(
                &record.spec.host.restart,
                code,
                record.stopped_by_user,
                record.restart_count,
            )
    }

    fn plan_restart(&mut self, ran: Duration) {
        let now = Instant::now();
        let pause = self.backoff.next(ran).max(self.engine.budget.take(now));
        self.restart_at = Some(now + pause);
        self.set_phase(Phase::Restarting);
    }

    /// The row says how it ended; then the shim's record has served.
    pub(super) fn write_exit(&mut self) {
        let dir = self.engine.store.container_dir(&self.record.id);
        drop(self.write(move || {
            if let Err(error) = shim::remove_exit(&dir) {
                tracing::warn!(%error, "exit record stays; it is read again at the next start");
            }
        }));
    }

    /// A restart that waits is called off.
    pub(super) fn cancel_restart(&mut self) {
        self.restart_at = None;
        self.set_phase(Phase::Exited);
    }
}

pub(crate) const SHIM_DIED: &str =
    "the container's shim was killed, and the container with it: its exit code is not known";

fn exit_attributes(exit: &ExitRecord, ran: Duration) -> Vec<(&'static str, String)> {
    vec![
        ("exitCode", exit.code.to_string()),
        ("execDuration", ran.as_secs().to_string()),
    ]
}

// ---- wait

impl Actor {
    fn wait(&mut self, condition: WaitCondition, reply: Reply<ExitStatus>) {
        let running = self.run.is_some() || self.phase == Phase::Starting;
        if condition == WaitCondition::NotRunning && !running && self.phase != Phase::Restarting {
            let state = &self.record.state;
            let status = ExitStatus {
                code: state.exit_code,
                error: (!state.error.is_empty()).then(|| state.error.clone()),
            };
            return answer(reply, Ok(status));
        }
        self.waiters.retain(|w| !w.reply.is_closed());
        self.waiters.push(Waiting { condition, reply });
    }

    fn resolve_waiters(&mut self, code: i32, error: Option<&str>) {
        self.resolve(code, error, |c| c != WaitCondition::Removed);
    }

    fn resolve(&mut self, code: i32, error: Option<&str>, which: impl Fn(WaitCondition) -> bool) {
        for waiting in std::mem::take(&mut self.waiters) {
            if which(waiting.condition) {
                let status = ExitStatus {
                    code,
                    error: error.map(str::to_owned),
                };
                answer(waiting.reply, Ok(status));
            } else {
                self.waiters.push(waiting);
            }
        }
    }

    /// The last thing an actor does.
    pub(super) fn be_gone(&mut self) {
        let state = &self.record.state;
        let (code, error) = (state.exit_code, state.error.clone());
        self.engine.containers.remove(&self.record.id);
        self.engine.execs.forget(&self.record.id);
        self.emit("destroy", &[]);
        let error = (!error.is_empty()).then_some(error);
        self.resolve(code, error.as_deref(), |_| true);
        for reply in std::mem::take(&mut self.remove_replies) {
            answer(reply, Ok(()));
        }
        self.gone = true;
    }

    pub(super) fn attach(
        &mut self,
        options: &crate::views::AttachOptions,
    ) -> Result<Attachment, Error> {
        match (&self.run, self.phase) {
            (Some(run), _) => Ok(Attachment::Live(run.live.clone())),
            (None, Phase::Removing | Phase::Dead) => Err(Error::conflict(format!(
                "container {} is being removed",
                self.record.name
            ))),
            (None, _) => self.keep(options),
        }
    }
}

// ---- taking up what an earlier engine left

impl Actor {
    fn take_up(&mut self, found: Found) {
        self.mute = false;
        // of the rest it is not known that they have ended
        if matches!(found, Found::AtRest | Found::Ended(_) | Found::Lost { .. }) {
            self.leave_networks();
            self.forward_log();
        }
        match found {
            Found::New => {}
            Found::AtRest => self.at_rest(),
            Found::Running {
                shim,
                status,
                cgroup,
                paused,
            } => self.adopt(shim, &status, cgroup, paused),
            Found::Ended(exit) => {
                self.note_exit(&exit);
                self.emit("die", &exit_attributes(&exit, Duration::ZERO));
                self.settle_at_start();
            }
            Found::Lost { code, error } => {
                let state = &mut self.record_mut().state;
                state.phase = Phase::Exited;
                state.pid = 0;
                state.exit_code = code;
                state.error = error;
                state.finished_at = Some(crate::inner::now());
                self.emit("die", &[("exitCode", code.to_string())]);
                self.settle_at_start();
            }
            Found::Mute(reason) => {
                self.mute = true;
                self.adopt_at = Some(Instant::now() + ADOPT_AGAIN);
                self.record_mut().state.error = reason;
                self.set_phase(Phase::Dead);
            }
            Found::Broken(reason) => {
                self.broken = true;
                self.record_mut().state.error = reason;
                self.set_phase(Phase::Dead);
            }
        }
    }

    /// Nothing happened since its row was written, but the policy may say start.
    fn at_rest(&mut self) {
        let state = &mut self.record_mut().state;
        let phase = match state.phase {
            Phase::Created => Phase::Created,
            // a start that never reached its shim
            Phase::Starting if state.started_at.is_none() => Phase::Created,
            _ => Phase::Exited,
        };
        let as_written = phase == state.phase;
        state.phase = phase;
        if phase == Phase::Exited && self.starts_with_engine() {
            self.plan_first_start();
        } else if phase == Phase::Exited && self.record.spec.host.auto_remove {
            self.settle_quietly();
        } else {
            self.set_phase(phase);
            if !as_written {
                drop(self.write(|| ()));
            }
        }
    }

    fn starts_with_engine(&self) -> bool {
        let record = &self.record;
        let host = &record.spec.host;
        !host.auto_remove
            && host.restart.kind != RestartKind::No
            && restart::at_engine_start(
                &host.restart,
                record.state.exit_code,
                record.stopped_by_user,
                record.restart_count,
            )
    }

    fn plan_first_start(&mut self) {
        let now = Instant::now();
        self.restart_at = Some(now + self.engine.budget.take(now));
        self.set_phase(Phase::Restarting);
    }

    /// It ended while no engine looked.
    fn settle_at_start(&mut self) {
        if self.starts_with_engine() {
            self.plan_first_start();
            self.write_exit();
        } else {
            self.settle_quietly();
        }
    }

    fn settle_quietly(&mut self) {
        if self.record.spec.host.auto_remove {
            self.set_phase(Phase::Exited);
            self.begin_remove(RemoveOptions {
                force: false,
                volumes: true,
            });
            return;
        }
        self.set_phase(Phase::Exited);
        self.write_exit();
    }

    fn adopt(
        &mut self,
        shim: Shim,
        status: &shim::Status,
        cgroup: Arc<runtime::cgroup::Cgroup>,
        paused: bool,
    ) {
        let (ended, watch) = watch::channel(false);
        let state = &mut self.record_mut().state;
        state.phase = Phase::Running;
        state.pid = status.pid;
        state.pid_start_time = status.pid_start_time;
        if !status.started_at.is_empty() {
            state.started_at = Some(status.started_at.clone());
        }
        state.finished_at = None;
        state.exit_code = 0;
        state.oom_killed = status.oom_killed;
        state.error.clear();
        self.run = Some(Run {
            events: shim.events(),
            live: Live {
                shim,
                shim_pid: status.shim_pid,
                pid: status.pid,
                pid_start_time: status.pid_start_time,
                cgroup,
                spec: None,
                ended: watch,
            },
            ended,
            since: Instant::now(),
        });
        self.engine.execs.adopt(&self.record.id, &status.execs);
        self.forward_log();
        self.watch_health();
        if self.networks_unsettled() {
            drop(self.teller().send(Internal::SettleNetworks));
        }
        self.set_phase(if paused {
            Phase::Paused
        } else {
            Phase::Running
        });
    }
}
