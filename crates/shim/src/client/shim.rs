//! One shim, as the engine sees it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::Plan;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;

use super::connection::{Connection, Handle};
use super::spawner::{refused, sealed};
use super::{AdoptError, ShimError, bury};
use crate::jsonlog::LogPosition;
use crate::launch::{
    AttachOptions, Event, ExecLaunch, ExecStarted, Health, HealthCheck, LaunchError, Status,
};
use crate::record::ExitRecord;
use crate::serve::state::State;
use crate::wire::{self, Message, Writer, kind, tag};

/// How long a shim may take to answer what needs no work.
const ANSWER: Duration = Duration::from_secs(5);

/// Events kept for a receiver that is slow.
const BACKLOG: usize = 16;

/// A client's end of the streams.
#[derive(Debug)]
pub struct Attached {
    pub stream: UnixStream,
    /// What the container wrote before is in its log up to here, and nothing of what the stream
    /// gives. `None`: there is no log, or an older shim that doesn't say.
    pub log: Option<LogPosition>,
}

/// A client of one shim. Cheap to clone; all clones share a connection.
#[derive(Debug, Clone)]
pub struct Shim {
    inner: Arc<Inner>,
}

/// What is known of a shim and its container when the connection is made.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) run_dir: PathBuf,
    pub(super) shim: OwnedFd,
    pub(super) first: Option<OwnedFd>,
    pub(super) execs: Vec<(i32, OwnedFd)>,
    pub(super) state: State,
}

type Answer = (Vec<u8>, Vec<OwnedFd>);

#[derive(Debug)]
struct Inner {
    state: State,
    run_dir: PathBuf,
    shim: Handle,
    first: Option<OwnedFd>,
    /// Exec'd processes that run: theirs are reaped by us if the shim dies.
    execs: Mutex<Vec<(i32, OwnedFd)>>,
    /// Replaced when the shim closed it and lives. Held only to look at or replace the pointer.
    connection: Mutex<Arc<Connection>>,
    next: AtomicU32,
    /// Who waits for an answer, by request number.
    waiting: Mutex<BTreeMap<u32, oneshot::Sender<Answer>>>,
    events: broadcast::Sender<Event>,
    life: watch::Sender<Life>,
}

#[derive(Debug, Clone, Default)]
struct Life {
    exited: Option<ExitRecord>,
    gone: bool,
}

impl Shim {
    pub(super) fn new(known: Known, connection: Connection) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            state: known.state,
            run_dir: known.run_dir,
            shim: Handle::new(known.shim)?,
            first: known.first,
            execs: Mutex::new(known.execs),
            connection: Mutex::new(Arc::new(connection)),
            next: AtomicU32::new(1),
            waiting: Mutex::default(),
            events: broadcast::channel(BACKLOG).0,
            life: watch::Sender::new(Life::default()),
        });
        tokio::spawn(listen(inner.clone()));
        Ok(Self { inner })
    }

    /// Connects to the shim of a container that this process did not launch.
    ///
    /// # Errors
    /// See [`AdoptError`]; never waits longer than `deadline`, except to clean up after a dead
    /// shim.
    pub async fn adopt(run_dir: &Path, deadline: Duration) -> Result<(Self, Status), AdoptError> {
        let until = Instant::now() + deadline;
        let connection = match Connection::connect(run_dir, until).await {
            Ok(connection) => connection,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(mute(run_dir, deadline));
            }
            Err(_) => return Err(nobody(run_dir, until, deadline).await),
        };
        let asked = tokio::time::timeout_at(until, introduce(&connection));
        let (bytes, fds) = match asked.await {
            Err(_) => return Err(mute(run_dir, deadline)),
            Ok(Err(_)) => return Err(nobody(run_dir, until, deadline).await),
            Ok(Ok(answer)) => answer,
        };
        let identity = |what: &str| AdoptError::Identity {
            run_dir: run_dir.to_owned(),
            what: what.to_owned(),
        };
        let status = Message::parse(&bytes)
            .ok()
            .and_then(|m| wire::status(m.fields));
        let status = status.ok_or_else(|| identity("its answer cannot be read"))?;
        let known = identify(run_dir, &connection, &status, fds).map_err(|e| identity(&e))?;
        let shim = Self::new(known, connection).map_err(|source| AdoptError::Io {
            action: "register the connection to",
            path: run_dir.to_owned(),
            source,
        })?;
        Ok((shim, status))
    }

    /// Where its container's cgroup lies, as the shim made it.
    #[must_use]
    pub fn cgroup(&self) -> Option<&runtime::cgroup::Cgroup> {
        self.inner.state.cgroup.as_ref()
    }

    /// A receiver of what happens from now on; an exit that has already happened is told again.
    #[must_use]
    pub fn events(&self) -> Events {
        Events {
            receiver: self.inner.events.subscribe(),
            life: self.inner.life.subscribe(),
            told: false,
        }
    }

    /// Returns once the shim's process is gone and everything of it (cgroups, socket, run
    /// directory) is removed: the container can be started again, its root file system is free.
    pub async fn gone(&self) {
        let mut life = self.inner.life.subscribe();
        // the sender lives as long as we do
        drop(life.wait_for(|l| l.gone).await);
    }

    /// Our end of a new stream to the container or an exec'd process, set not to block. Out:
    /// Docker's stdcopy frames, raw bytes with a terminal. In: raw standard input; shutting down
    /// our writing side is end of input.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn attach(&self, options: &AttachOptions) -> Result<Attached, ShimError> {
        let io = |source| ShimError::Io {
            id: self.id(),
            source,
        };
        let (ours, theirs) = UnixStream::pair().map_err(io)?;
        ours.set_nonblocking(true).map_err(io)?;
        let mut w = self.request(kind::ATTACH);
        wire::put_attach(&mut w, options);
        let (answer, _) = self
            .ask(w, &[theirs.as_fd()], "attach", options.exec_id.as_deref())
            .await?;
        let fields = Message::parse(&answer).map(|m| m.fields).ok();
        let log = fields.and_then(|f| {
            Some(LogPosition {
                inode: f.u64(tag::LOG_INODE)?,
                offset: f.u64(tag::LOG_OFFSET)?,
            })
        });
        Ok(Attached { stream: ours, log })
    }

    /// Runs another process in the container: when this answers, its program has been executed.
    /// `attach` is the shim's end of a stream socket pair, connected before the first output.
    ///
    /// # Errors
    /// See [`LaunchError`]. A process that has not started when the deadline passes is killed.
    pub async fn exec(
        &self,
        exec: &ExecLaunch,
        plan: &Plan,
        attach: Option<(AttachOptions, OwnedFd)>,
        deadline: Duration,
    ) -> Result<ExecStarted, LaunchError> {
        let prepare = |source| LaunchError::Prepare {
            id: self.id(),
            what: format!("write the plan of exec {}", exec.exec_id),
            source,
        };
        let memfd = sealed(plan.encode()).map_err(prepare)?;
        let mut w = self.request(kind::EXEC);
        wire::put_exec(&mut w, exec);
        let mut fds = vec![memfd.as_fd()];
        if let Some((options, fd)) = &attach {
            wire::put_attach(&mut w, options);
            fds.push(fd.as_fd());
        }
        let answer = self.exchange(w, &fds, deadline).await;
        drop(attach);
        match answer {
            Ok((bytes, fds)) => {
                let message = Message::parse(&bytes).map_err(|e| prepare(io::Error::other(e)))?;
                match (message.kind, message.fields.i32(tag::PID)) {
                    (kind::EXEC_STARTED, Some(pid)) => {
                        self.inner.remember(pid, fds);
                        Ok(ExecStarted { pid })
                    }
                    _ => Err(refused(&self.inner.state.id, plan, message.fields)),
                }
            }
            Err(Unanswered::Gone) => Err(LaunchError::ShimDied { id: self.id() }),
            Err(Unanswered::Io(e)) => Err(prepare(e)),
            Err(Unanswered::Late) => {
                let kill = self.signal(Some(&exec.exec_id), libc::SIGKILL, false);
                // it is killed with the container at the latest
                drop(kill.await);
                Err(LaunchError::Deadline {
                    id: self.id(),
                    what: "the start of a process",
                    waited: deadline,
                })
            }
        }
    }

    /// Sends a signal to the container's first process, or an exec'd one; with `all` to every
    /// process of the container.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn signal(
        &self,
        exec_id: Option<&str>,
        signal: i32,
        all: bool,
    ) -> Result<(), ShimError> {
        let mut w = self.request(kind::SIGNAL);
        put_exec_id(&mut w, exec_id);
        w.i32(tag::SIGNAL, signal).flag(tag::ALL, all);
        self.ask(w, &[], "send a signal", exec_id).await.map(drop)
    }

    /// Changes the size of a terminal.
    ///
    /// # Errors
    /// See [`ShimError`]; refused without a terminal.
    pub async fn resize(
        &self,
        exec_id: Option<&str>,
        rows: u16,
        columns: u16,
    ) -> Result<(), ShimError> {
        let mut w = self.request(kind::RESIZE);
        put_exec_id(&mut w, exec_id);
        w.i32(tag::ROWS, i32::from(rows));
        w.i32(tag::COLUMNS, i32::from(columns));
        self.ask(w, &[], "resize a terminal", exec_id)
            .await
            .map(drop)
    }

    /// The container's root directory (`/proc/<pid>/root`), held open.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub async fn root(&self) -> Result<OwnedFd, ShimError> {
        let w = self.request(kind::ROOT);
        let (_, fds) = self.ask(w, &[], "open the root directory", None).await?;
        fds.into_iter()
            .next()
            .ok_or_else(|| ShimError::Gone { id: self.id() })
    }

    /// Has the container's health checked from now on, also while no engine runs; one that is
    /// checked already goes on as it was.
    ///
    /// # Errors
    /// See [`ShimError`]; refused (`ENOSYS`) by a shim of a version that checks nothing.
    pub async fn check_health(
        &self,
        check: &HealthCheck,
        plan: &Plan,
    ) -> Result<Health, ShimError> {
        let memfd = sealed(plan.encode()).map_err(|source| ShimError::Io {
            id: self.id(),
            source,
        })?;
        let mut w = self.request(kind::HEALTH);
        wire::put_check(&mut w, check);
        let health = self.ask_health(w, &[memfd.as_fd()]).await?;
        health.ok_or_else(|| self.not_understood())
    }

    /// `None`: its health is not checked yet.
    ///
    /// # Errors
    /// As [`Shim::check_health`].
    pub async fn health(&self) -> Result<Option<Health>, ShimError> {
        self.ask_health(self.request(kind::HEALTH), &[]).await
    }

    async fn ask_health(
        &self,
        request: Writer,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Option<Health>, ShimError> {
        let (bytes, _) = self.ask(request, fds, "check its health", None).await?;
        let message = Message::parse(&bytes).map_err(|_| self.not_understood())?;
        Ok(wire::health(message.fields))
    }

    /// Has the shim answer the container's questions for names, from now on: `file` says what it
    /// may ask, the sockets are where it asks (datagrams, connections). Where it does already, it
    /// goes on with those it has.
    ///
    /// # Errors
    /// See [`ShimError`]; refused (`ENOSYS`) by a shim of a version that knows no names.
    pub async fn serve_names(
        &self,
        file: &std::path::Path,
        sockets: &[OwnedFd; 2],
    ) -> Result<(), ShimError> {
        let mut w = self.request(kind::NAMES);
        w.path(tag::NAMES, file);
        let fds = sockets.each_ref().map(AsFd::as_fd);
        self.ask(w, &fds, "serve names", None).await.map(drop)
    }

    /// Has the shim keep these open for as long as the container runs.
    ///
    /// # Errors
    /// See [`ShimError`]; refused (`ENOSYS`) by a shim of a version that does not know of it.
    pub async fn hold(&self, what: &[OwnedFd]) -> Result<(), ShimError> {
        let fds: Vec<_> = what.iter().map(AsFd::as_fd).collect();
        let w = self.request(kind::HOLD);
        self.ask(w, &fds, "keep descriptors", None).await.map(drop)
    }

    /// Whether the container's questions for names are answered.
    ///
    /// # Errors
    /// As [`Shim::serve_names`].
    pub async fn names_served(&self) -> Result<bool, ShimError> {
        let w = self.request(kind::NAMES);
        let (bytes, _) = self
            .ask(w, &[], "say whether it serves names", None)
            .await?;
        let message = Message::parse(&bytes).map_err(|_| self.not_understood())?;
        Ok(message.fields.flag(tag::NAMES))
    }

    fn not_understood(&self) -> ShimError {
        ShimError::Io {
            id: self.id(),
            source: io::Error::from_raw_os_error(libc::EPROTO),
        }
    }

    /// # Errors
    /// See [`ShimError`].
    pub async fn status(&self) -> Result<Status, ShimError> {
        let w = self.request(kind::STATUS);
        let (bytes, _) = self.ask(w, &[], "tell its status", None).await?;
        Message::parse(&bytes)
            .ok()
            .and_then(|m| wire::status(m.fields))
            .ok_or_else(|| self.not_understood())
    }

    fn id(&self) -> String {
        self.inner.state.id.clone()
    }

    fn request(&self, kind: u16) -> Writer {
        Writer::message(kind, self.inner.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A request whose refusal is an error number.
    async fn ask(
        &self,
        request: Writer,
        fds: &[BorrowedFd<'_>],
        what: &'static str,
        exec_id: Option<&str>,
    ) -> Result<Answer, ShimError> {
        let answer = self
            .exchange(request, fds, ANSWER)
            .await
            .map_err(|e| match e {
                Unanswered::Gone => ShimError::Gone { id: self.id() },
                Unanswered::Io(source) => ShimError::Io {
                    id: self.id(),
                    source,
                },
                Unanswered::Late => ShimError::Deadline {
                    id: self.id(),
                    what,
                    waited: ANSWER,
                },
            })?;
        let error = Message::parse(&answer.0)
            .ok()
            .filter(|m| m.kind == kind::ERROR)
            .map(|m| m.fields.i32(tag::ERRNO).unwrap_or(libc::EIO));
        match (error, exec_id) {
            (None, _) => Ok(answer),
            (Some(libc::ESRCH), None) => Err(ShimError::Gone { id: self.id() }),
            (Some(libc::ESRCH | libc::ENOENT), Some(exec_id)) => Err(ShimError::NoSuchExec {
                id: self.id(),
                exec_id: exec_id.to_owned(),
            }),
            (Some(errno), _) => Err(ShimError::Refused {
                id: self.id(),
                what,
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    async fn exchange(
        &self,
        request: Writer,
        fds: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<Answer, Unanswered> {
        let inner = &self.inner;
        if inner.life.borrow().gone {
            return Err(Unanswered::Gone);
        }
        let number = Message::parse(request.as_bytes()).map_or(0, |m| m.id);
        let (sender, receiver) = oneshot::channel();
        inner.waiting().insert(number, sender);
        let forget = Forget { inner, number };
        let connection = inner.connection();
        let answer = tokio::time::timeout(within, async {
            match connection.send(request.as_bytes(), fds).await {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(Unanswered::Gone),
                Err(e) => return Err(Unanswered::Io(e)),
            }
            // the sender is dropped when the connection ends
            receiver.await.map_err(|_| Unanswered::Gone)
        })
        .await;
        drop(forget);
        answer.unwrap_or(Err(Unanswered::Late))
    }
}

enum Unanswered {
    Gone,
    Late,
    Io(io::Error),
}

/// Takes a request off the list of those that wait, however its wait ends.
struct Forget<'a> {
    inner: &'a Inner,
    number: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.inner.waiting().remove(&self.number);
    }
}

fn put_exec_id(w: &mut Writer, exec_id: Option<&str>) {
    if let Some(exec_id) = exec_id {
        w.str(tag::EXEC_ID, exec_id);
    }
}

impl Inner {
    fn connection(&self) -> Arc<Connection> {
        let connection = &self.connection;
        connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An exec'd process; those that have ended meanwhile are forgotten.
    fn remember(&self, pid: i32, fds: Vec<OwnedFd>) {
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        execs.retain(|(_, fd)| pid_of(fd.as_fd()).is_some_and(|pid| pid > 0));
        execs.extend(fds.into_iter().map(|fd| (pid, fd)));
    }

    /// Leaves nothing of a shim that is dead; the exit record, if it had not been told.
    fn after_death(&self) -> Option<ExitRecord> {
        let execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        let execs = execs.iter().filter_map(|(_, fd)| fd.try_clone().ok());
        // the first process first: it is waited for last
        let first = self.first.iter().filter_map(|fd| fd.try_clone().ok());
        let known: Vec<OwnedFd> = first.chain(execs).collect();
        if self.life.borrow().exited.is_some() {
            bury::sweep(&self.run_dir, &self.state, &known);
            return None;
        }
        bury::bury(&self.run_dir, &self.state, &known)
    }

    fn exited(&self, record: ExitRecord) {
        if self.life.borrow().exited.is_some() {
            return;
        }
        self.life.send_modify(|l| l.exited = Some(record.clone()));
        // nobody listening is fine: the next receiver is told from `life`
        drop(self.events.send(Event::Exited(record)));
    }

    fn heard(&self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        let Ok(message) = Message::parse(&bytes) else {
            return;
        };
        let fields = message.fields;
        match message.kind {
            kind::EXITED => {
                let record = fields.bytes(tag::RECORD).unwrap_or_default();
                if let Ok(record) = serde_json::from_slice(record) {
                    self.exited(record);
                }
            }
            kind::HEALTH_IS if message.id == 0 => {
                if let Some(health) = wire::health(fields) {
                    drop(self.events.send(Event::Health(health)));
                }
            }
            kind::OOM => drop(self.events.send(Event::Oom)),
            kind::EXEC_EXITED => drop(self.events.send(Event::ExecExited {
                exec_id: fields.str(tag::EXEC_ID).unwrap_or_default().to_owned(),
                code: fields.i32(tag::CODE).unwrap_or(255),
            })),
            _ if message.id != 0 => {
                let waiting = self.waiting().remove(&message.id);
                if let Some(sender) = waiting {
                    // it may have stopped waiting this moment
                    drop(sender.send((bytes, fds)));
                }
            }
            // from a newer shim
            _ => {}
        }
    }
}

/// Reads one shim's connection for as long as the shim lives.
async fn listen(inner: Arc<Inner>) {
    loop {
        let connection = inner.connection();
        while let Ok((bytes, fds)) = connection.receive().await {
            if bytes.is_empty() {
                break;
            }
            inner.heard(bytes, fds);
        }
        inner.waiting().clear();
        if inner.shim.ended(Duration::from_secs(1)).await {
            break;
        }
        let until = Instant::now() + ANSWER;
        if let Ok(again) = Connection::connect(&inner.run_dir, until).await {
            *inner
                .connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Arc::new(again);
            drop(inner.events.send(Event::Missed));
            // a status makes it tell an exit again
            let ask = Writer::message(kind::STATUS, u32::MAX);
            drop(inner.connection().send(ask.as_bytes(), &[]).await);
        }
    }
    let of = inner.clone();
    let after = tokio::task::spawn_blocking(move || of.after_death());
    if let Ok(Some(record)) = after.await {
        inner.exited(record);
    }
    inner.life.send_modify(|l| l.gone = true);
}

async fn introduce(connection: &Connection) -> io::Result<Answer> {
    let w = Writer::message(kind::STATUS, 1);
    connection.send(w.as_bytes(), &[]).await?;
    loop {
        let (bytes, fds) = connection.receive().await?;
        match Message::parse(&bytes) {
            Ok(m) if m.kind == kind::STATUS_IS => return Ok((bytes, fds)),
            // an event that came in between is told again by the status of the caller
            Ok(_) => {}
            Err(_) => return Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
        }
    }
}

fn mute(run_dir: &Path, waited: Duration) -> AdoptError {
    AdoptError::Mute {
        run_dir: run_dir.to_owned(),
        waited,
    }
}

/// Nobody listens there: the shim is on its way out, or dead, or was never ready.
async fn nobody(run_dir: &Path, until: Instant, waited: Duration) -> AdoptError {
    let absent = AdoptError::Absent {
        run_dir: run_dir.to_owned(),
    };
    let Ok(state) = State::read(run_dir) else {
        let run_dir = run_dir.to_owned();
        let cleaned = tokio::task::spawn_blocking(move || bury::clean(&run_dir, None, None));
        drop(cleaned.await);
        return absent;
    };
    if let Ok(Some(pidfd)) = Handle::find(state.shim_pid, state.shim_start_time) {
        let left = until.saturating_duration_since(Instant::now());
        return match Handle::new(pidfd) {
            Ok(handle) if handle.ended(left).await => {
                let dir = run_dir.to_owned();
                let buried = move || bury::bury_what_is_left(&dir, &state);
                drop(tokio::task::spawn_blocking(buried).await);
                absent
            }
            _ => mute(run_dir, waited),
        };
    }
    let (dir, id) = (run_dir.to_owned(), state.id.clone());
    drop(tokio::task::spawn_blocking(move || bury::bury(&dir, &state, &[])).await);
    AdoptError::Dead { id }
}

/// Checks that the answer, the socket's peer, the state file and the descriptors agree.
fn identify(
    run_dir: &Path,
    connection: &Connection,
    status: &Status,
    fds: Vec<OwnedFd>,
) -> Result<Known, String> {
    let state = State::read(run_dir).map_err(|e| format!("its state cannot be read: {e}"))?;
    let peer = connection.peer_pid().map_err(|e| e.to_string())?;
    if peer != status.shim_pid || peer != state.shim_pid {
        return Err(format!(
            "process {peer} listens, the shim is {}, the state file says {}",
            status.shim_pid, state.shim_pid
        ));
    }
    let mut fds = fds.into_iter();
    let shim = fds.next().ok_or("its answer lacks its descriptor")?;
    if pid_of(shim.as_fd()) != Some(peer) {
        return Err("the descriptor it sent is not its own".to_owned());
    }
    if Handle::find(peer, state.shim_start_time)
        .ok()
        .flatten()
        .is_none()
    {
        return Err("its process started at another time".to_owned());
    }
    let first = fds.next();
    if let Some(first) = &first {
        // -1 once it has ended
        let pid = pid_of(first.as_fd());
        if pid != Some(status.pid) && pid != Some(-1) {
            return Err("the descriptor of the container is another's".to_owned());
        }
    }
    Ok(Known {
        run_dir: run_dir.to_owned(),
        shim,
        first,
        execs: fds.map(|fd| (0, fd)).collect(),
        state: State {
            pid: status.pid,
            pid_start_time: status.pid_start_time,
            started_at: status.started_at.clone(),
            ..state
        },
    })
}

/// The process a pidfd names; -1 if it has ended and been reaped.
fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    use std::os::fd::AsRawFd;
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let mut buffer = [0; 1024];
    let info = sys::file::read_short(&info, &mut buffer).ok()?;
    let info = std::str::from_utf8(info).ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// Receives the events of one shim.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    life: watch::Receiver<Life>,
    /// The exit has been handed out.
    told: bool,
}

impl Events {
    /// The next event. `None` once the shim is gone, always after one [`Event::Exited`] if the
    /// container ever ran.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let received = tokio::select! {
                biased;
                event = self.receiver.recv() => Some(event),
                // an exit before this receiver was made, or the end
                _ = wait_for_news(&mut self.life, self.told) => None,
            };
            match received {
                Some(Ok(Event::Exited(_))) if self.told => {}
                Some(Ok(event)) => {
                    self.told |= matches!(event, Event::Exited(_));
                    return Some(event);
                }
                Some(Err(broadcast::error::RecvError::Lagged(_))) => return Some(Event::Missed),
                Some(Err(broadcast::error::RecvError::Closed)) | None => {
                    let life = self.life.borrow().clone();
                    if let Some(record) = life.exited.filter(|_| !self.told) {
                        self.told = true;
                        return Some(Event::Exited(record));
                    }
                    return None;
                }
            }
        }
    }
}

async fn wait_for_news(life: &mut watch::Receiver<Life>, told: bool) {
    // an error is the end as well
    drop(
        life.wait_for(|l| l.gone || (l.exited.is_some() && !told))
            .await,
    );
}
