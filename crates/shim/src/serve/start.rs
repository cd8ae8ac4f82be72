//! From the fork to a container that runs, and the same for an exec'd process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use runtime::{Descriptors, EncodedPlan, Pending, Progress, Spawned, StepError};
use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::client::{Client, PATIENCE};
use super::poller::{Poller, Slots, Token};
use super::process::{Asker, FIRST, Life, Process, Sink, Source, Stdio, dont_block, start_time};
use super::state::{SOCKET, State, remove_run_dir};
use super::{Request, Server};
use crate::jsonlog::encode::{Splitter, Time};
use crate::jsonlog::{LogWriter, Stream};
use crate::launch::{AttachOptions, ExecLaunch, Launch, Phase};
use crate::wire::{Writer, kind, tag};

/// How long the cgroups of a launch that failed may take to become empty.
const CGROUP_REMOVAL: Duration = Duration::from_secs(5);

/// The control connection the launch came with.
const LAUNCHER: u32 = 0;

/// Everything up to the container's clone. On failure the launcher has been told and nothing is
/// left.
pub(super) fn boot(request: Request) -> Result<Server, ()> {
    let control = request.control.try_clone();
    let run_dir = request.launch.run_dir.clone();
    prepare(request).map_err(|e| {
        // the launcher cleans up what we could not
        let own = rustix::process::getpid().as_raw_pid();
        drop(remove_run_dir(&run_dir, own));
        if let Ok(control) = control {
            drop(sys::fdpass::send(
                control.as_fd(),
                e.to_message().as_bytes(),
                &[],
            ));
        }
    })
}

/// Why a start failed: a step of the plan, or something of our own.
#[derive(Debug)]
pub(super) enum Refusal {
    Step(StepError),
    Own(&'static str, io::Error),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Step(step) => write!(f, "{step}"),
            Self::Own(what, e) => write!(f, "{what}: {e}"),
        }
    }
}

impl Refusal {
    fn own(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |e| Self::Own(what, e)
    }

    fn to_message(&self) -> Writer {
        self.answer(kind::FAILED, 0)
    }

    pub(super) fn answer(&self, kind: u16, id: u32) -> Writer {
        let mut w = Writer::message(kind, id);
        match self {
            Self::Step(step) => w.bytes(tag::STEP, &step.to_bytes()),
            Self::Own(what, e) => w
                .str(tag::TEXT, &format!("{what}: {e}"))
                .i32(tag::ERRNO, e.raw_os_error().unwrap_or(libc::EIO)),
        };
        w
    }
}

fn prepare(request: Request) -> Result<Server, Refusal> {
    let signals = become_shim().map_err(Refusal::own("set up the shim's process"))?;
    let shim_pid = rustix::process::getpid();
    let shim_start_time =
        start_time(shim_pid.as_raw_pid()).map_err(Refusal::own("read the shim's start time"))?;
    announce(&request.control, shim_pid, shim_start_time)
        .map_err(Refusal::own("announce the shim"))?;
    let launch = request.launch;
    let listener = listen(&launch).map_err(Refusal::own("listen in the run directory"))?;
    let plan = read_plan(&request.plan).map_err(Refusal::own("read the plan"))?;
    let encoded = EncodedPlan::decode(&plan)
        .map_err(|e| Refusal::Own("read the plan", io::Error::other(e)))?;
    let state = State {
        id: launch.id.clone(),
        shim_pid: shim_pid.as_raw_pid(),
        shim_start_time,
        pid: 0,
        pid_start_time: 0,
        started_at: String::new(),
        container_dir: launch.container_dir.clone(),
        ephemeral: launch.ephemeral,
        cgroup: encoded.cgroup(),
    };
    state
        .write(&launch.run_dir)
        .map_err(Refusal::own("write the shim's state"))?;
    let poller = Poller::new().map_err(Refusal::own("make an epoll"))?;
    let log = launch.log.clone().map(LogWriter::open);
    let mut server = Server {
        cgroup: encoded.cgroup(),
        launch,
        state,
        phase: Phase::Starting,
        poller,
        listener,
        signals,
        held: request.held,
        root: request.root,
        oom: None,
        oom_killed: false,
        oom_looks: 0,
        oom_look_at: std::time::Instant::now(),
        connections: Slots::new(),
        processes: Slots::new(),
        clients: Slots::new(),
        log,
        health: None,
        names: None,
        loopback: None,
        ended_execs: std::collections::VecDeque::new(),
        early: Vec::new(),
        ending: None,
        scratch: Vec::with_capacity(16 << 10),
        failed: false,
    };
    server
        .watch_sockets(request.control)
        .map_err(Refusal::own("poll the shim's sockets"))?;
    // before the program: its first question is answered too
    server
        .launched_names()
        .map_err(Refusal::own("serve names to the container"))?;
    let held = std::mem::take(&mut server.held);
    server
        .hold(held)
        .map_err(Refusal::own("serve the container's ports"))?;
    server.start_first(&encoded, request.attach)?;
    Ok(server)
}

/// Leaves the spawner's session and what it left open; gives the descriptor for SIGCHLD. Signals
/// that would end us by mistake are taken and ignored: only SIGKILL ends a shim.
fn become_shim() -> io::Result<OwnedFd> {
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    sys::signal::default_action(libc::SIGCHLD)?;
    sys::signal::default_action(libc::SIGPIPE)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    sys::signal::signalfd(&[
        libc::SIGCHLD,
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGPIPE,
    ])
}

fn announce(control: &OwnedFd, pid: rustix::process::Pid, started: u64) -> io::Result<()> {
    sys::fault::point("shim.announce")?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut w = Writer::message(kind::FORKED, 0);
    w.i32(tag::SHIM_PID, pid.as_raw_pid());
    w.u64(tag::START_TIME, started);
    sys::fdpass::send(control.as_fd(), w.as_bytes(), &[pidfd.as_fd()])?;
    Ok(())
}

/// Bound through the directory's descriptor: the path may be longer than a socket address.
fn listen(launch: &Launch) -> io::Result<OwnedFd> {
    let dir = rustix::fs::open(
        &launch.run_dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    sys::fault::point("shim.socket.bind")?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// At offsets: the file's position is shared with whoever wrote it.
fn read_plan(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Server {
    fn watch_sockets(&mut self, control: OwnedFd) -> io::Result<()> {
        let poller = &self.poller;
        poller.add(&self.listener, Token::Listener, EventFlags::IN)?;
        poller.add(&self.signals, Token::Signals, EventFlags::IN)?;
        dont_block(&control)?;
        poller.add(&control, Token::Connection(LAUNCHER), EventFlags::IN)?;
        self.connections.insert(control);
        Ok(())
    }

    fn launched_names(&mut self) -> io::Result<()> {
        let Some(file) = self.launch.names.clone() else {
            return Ok(());
        };
        let (connections, datagrams) = (self.held.pop(), self.held.pop());
        match (datagrams, connections) {
            (Some(datagrams), Some(connections)) => {
                self.serve_names(file, [datagrams, connections])
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn start_first(
        &mut self,
        plan: &EncodedPlan<'_>,
        attach: Vec<(AttachOptions, OwnedFd)>,
    ) -> Result<(), Refusal> {
        let launch = &self.launch;
        let (tty, open_stdin) = (launch.tty, launch.open_stdin);
        let stdio = Stdio::new(tty, open_stdin, self.log.is_some())
            .map_err(Refusal::own("make the container's pipes"))?;
        let passed: Vec<_> = self.held.iter().map(AsFd::as_fd).collect();
        let fds = Descriptors {
            root: self.root.as_ref().map(AsFd::as_fd),
            stdio: stdio.theirs.each_ref().map(AsFd::as_fd),
            target: None,
            passed: &passed,
        };
        let begun = || {
            sys::fault::point("shim.start").map_err(Refusal::own("start the container"))?;
            runtime::begin(plan, &fds).map_err(Refusal::Step)
        };
        let pending = begun()?;
        let process = Process {
            exec_id: None,
            asker: None,
            stdin_once: launch.stdin_once,
            kill_on_disconnect: false,
            tty,
            size: launch.console_size,
            ..starting(pending, stdio.sources, stdio.sink)
        };
        self.insert(process);
        for (options, fd) in attach {
            // a client that is gone already is no reason not to start
            drop(self.attach(fd, &options, FIRST));
        }
        Ok(())
    }

    /// Starts an exec'd process; its asker is answered when it runs or has failed.
    pub(super) fn start_exec(
        &mut self,
        exec: ExecLaunch,
        plan: &OwnedFd,
        attach: Option<(AttachOptions, OwnedFd)>,
        asker: Asker,
    ) -> Result<(), Refusal> {
        let stdio = Stdio::new(exec.tty, exec.open_stdin, false)
            .map_err(Refusal::own("make the process's pipes"))?;
        let plan = read_plan(plan).map_err(Refusal::own("read the plan"))?;
        let plan = EncodedPlan::decode(&plan)
            .map_err(|e| Refusal::Own("read the plan", io::Error::other(e)))?;
        let target = self
            .first()
            .and_then(|p| p.pidfd.as_ref())
            .ok_or_else(|| Refusal::Own("find the container", not_running()))?;
        let fds = Descriptors {
            root: None,
            stdio: stdio.theirs.each_ref().map(AsFd::as_fd),
            target: Some(target.as_fd()),
            passed: &[],
        };
        sys::fault::point("shim.exec").map_err(Refusal::own("start the process"))?;
        let pending = runtime::begin(&plan, &fds).map_err(Refusal::Step)?;
        let at = self.insert(Process {
            exec_id: Some(exec.exec_id),
            asker: Some(asker),
            stdin_once: true,
            kill_on_disconnect: exec.kill_on_disconnect,
            tty: exec.tty,
            size: exec.console_size,
            ..starting(pending, stdio.sources, stdio.sink)
        });
        if let Some((options, fd)) = attach {
            drop(self.attach(fd, &options, at));
        }
        Ok(())
    }

    /// Starts a health check; `plan` is read anew each time, so that it takes no memory in between.
    pub(super) fn start_check(&mut self, plan: &OwnedFd) -> Result<u32, Refusal> {
        let stdio = Stdio::new(false, false, false).map_err(Refusal::own("make its pipes"))?;
        let plan = read_plan(plan).map_err(Refusal::own("read its plan"))?;
        let plan = EncodedPlan::decode(&plan)
            .map_err(|e| Refusal::Own("read its plan", io::Error::other(e)))?;
        let target = self.first().and_then(|p| p.pidfd.as_ref());
        let target = target.ok_or_else(|| Refusal::Own("find the container", not_running()))?;
        let fds = Descriptors {
            root: None,
            stdio: stdio.theirs.each_ref().map(AsFd::as_fd),
            target: Some(target.as_fd()),
            passed: &[],
        };
        sys::fault::point("shim.health").map_err(Refusal::own("start it"))?;
        let pending = runtime::begin(&plan, &fds).map_err(Refusal::Step)?;
        Ok(self.insert(starting(pending, stdio.sources, stdio.sink)))
    }

    fn insert(&mut self, process: Process) -> u32 {
        let at = self.processes.vacant();
        if let Life::Starting(Some(pending)) = &process.life {
            // cannot fail but for want of memory; the launch's deadline then ends it
            drop(
                self.poller
                    .add(pending, Token::Starting(at), EventFlags::IN),
            );
        }
        self.processes.insert(process);
        self.watch_streams(at);
        at
    }

    fn watch_streams(&self, at: u32) {
        let Some(process) = self.processes.get(at) else {
            return;
        };
        for (which, source) in (0..).zip(&process.sources) {
            if let Some(source) = source {
                drop(
                    self.poller
                        .add(&source.fd, Token::Source(at, which), EventFlags::IN),
                );
            }
        }
        if let Some(sink) = &process.sink {
            // only writability is waited for, and only while something is queued
            drop(
                self.poller
                    .add(&sink.fd, Token::Sink(at), EventFlags::empty()),
            );
        }
    }

    /// Adds a client to a process.
    pub(super) fn attach(
        &mut self,
        fd: OwnedFd,
        options: &AttachOptions,
        process: u32,
    ) -> io::Result<()> {
        let target = self.processes.get(process).ok_or_else(not_running)?;
        let patience = (process == FIRST).then_some(PATIENCE);
        let mut client = Client::new(fd, process, options, target.tty, patience);
        if target.sink.is_none() && !matches!(target.life, Life::Starting(_)) {
            client.stdin = false;
        }
        let at = self.clients.vacant();
        dont_block(&client.fd)?;
        if options.after_log {
            for splitter in target
                .sources
                .iter()
                .flatten()
                .filter_map(|s| s.splitter.as_ref())
            {
                let (stream, held) = splitter.held();
                if !held.is_empty() {
                    client.output(stream, held)?;
                }
            }
        }
        let token = Token::Client(at);
        self.poller.add(&client.fd, token, EventFlags::empty())?;
        self.clients.insert(client);
        self.interest(at);
        Ok(())
    }

    /// A child that was starting has said something.
    pub(super) fn advance(&mut self, at: u32) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        let Life::Starting(pending) = &mut process.life else {
            return;
        };
        match pending.take().map(Pending::advance) {
            Some(Progress::Waiting(again)) => *pending = Some(again),
            Some(Progress::Running(spawned)) => self.running(at, spawned),
            Some(Progress::Failed { error, .. }) => self.start_failed(at, error),
            None => {}
        }
    }

    fn running(&mut self, at: u32, spawned: Spawned) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        process.life = Life::Running;
        process.pid = spawned.pid;
        process.pidfd = Some(spawned.pidfd);
        if let Some(terminal) = spawned.terminal {
            let logged = at == FIRST && self.log.is_some();
            // without its terminal the process would hang: its end is then the next thing we see
            drop(give_terminal(process, terminal, logged));
            self.watch_streams(at);
        }
        if at == FIRST {
            self.first_runs();
        } else {
            self.answer_exec(at);
        }
        self.refresh_clients(at);
        let pid = spawned.pid;
        if let Some(i) = self.early.iter().position(|(p, _)| *p == pid) {
            let (_, life) = self.early.swap_remove(i);
            self.ended(at, life);
        }
        let starting = |(_, p): (u32, &Process)| matches!(p.life, Life::Starting(_));
        if !self.processes.iter().any(starting) {
            self.early = Vec::new();
        }
    }

    fn first_runs(&mut self) {
        let Some(first) = self.processes.get(FIRST) else {
            return;
        };
        self.phase = Phase::Running;
        self.state.pid = first.pid;
        // it is our child and not yet reaped, so the pid is still its own
        self.state.pid_start_time = start_time(first.pid).unwrap_or(0);
        self.state.started_at = Time::now().rfc3339();
        // a state file without the pid still names the cgroup
        drop(self.state.append(&self.launch.run_dir));
        self.oom = self.cgroup.as_ref().and_then(|c| c.oom_watch().ok()?);
        if let Some(oom) = &self.oom {
            // memory.events is always "readable": there its news are EPOLLPRI
            let flags = if oom.priority {
                EventFlags::PRI
            } else {
                EventFlags::IN
            };
            let flags = flags | EventFlags::ET;
            drop(self.poller.add(&oom.fd, Token::Oom, flags));
        }
        let mut w = Writer::message(kind::STARTED, 0);
        w.i32(tag::PID, self.state.pid);
        w.u64(tag::START_TIME, self.state.pid_start_time);
        w.str(tag::STARTED_AT, &self.state.started_at);
        let pidfd = first.pidfd.as_ref().map(AsFd::as_fd);
        if sys::fault::point("shim.started").is_ok()
            && let Some(launcher) = self.connections.get(LAUNCHER)
        {
            // a launcher that is gone adopts later
            drop(sys::fdpass::send(
                launcher.as_fd(),
                w.as_bytes(),
                pidfd.as_slice(),
            ));
        }
    }

    fn answer_exec(&mut self, at: u32) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        if let Some(asker) = process.asker.take() {
            let mut w = Writer::message(kind::EXEC_STARTED, asker.request);
            w.i32(tag::PID, process.pid);
            let pidfd = process.pidfd.as_ref().and_then(|fd| fd.try_clone().ok());
            let fds: Vec<_> = pidfd.iter().map(AsFd::as_fd).collect();
            self.send(asker.connection, &w, &fds);
        }
    }

    fn start_failed(&mut self, at: u32, error: StepError) {
        let refusal = Refusal::Step(error);
        if at == FIRST {
            self.failed = true;
            // a child that has reported is about to end; the cgroup's removal waits for it
            if let Some(cgroup) = &self.cgroup {
                drop(cgroup.remove(CGROUP_REMOVAL));
            }
            drop(remove_run_dir(&self.launch.run_dir, self.state.shim_pid));
            self.send(LAUNCHER, &refusal.to_message(), &[]);
            return;
        }
        self.drop_clients_of(at);
        if self.check_not_started(at, error) {
            return;
        }
        if let Some(process) = self.processes.remove(at)
            && let Some(asker) = process.asker
        {
            let answer = refusal.answer(kind::FAILED, asker.request);
            self.send(asker.connection, &answer, &[]);
        }
    }
}

fn starting(pending: Pending, sources: [Option<Source>; 2], sink: Option<Sink>) -> Process {
    Process {
        exec_id: None,
        asker: None,
        pid: pending.pid(),
        life: Life::Starting(Some(pending)),
        pidfd: None,
        tty: false,
        size: None,
        sources,
        sink,
        stdin_once: false,
        kill_on_disconnect: false,
        drained_by: None,
    }
}

/// The terminal's master side is both what is read and what is written.
fn give_terminal(process: &mut Process, terminal: OwnedFd, logged: bool) -> io::Result<()> {
    dont_block(&terminal)?;
    if let Some((rows, columns)) = process.size {
        set_size(&terminal, rows, columns)?;
    }
    process.sink = Some(Sink::new(terminal.try_clone()?));
    process.sources[0] = Some(Source {
        fd: terminal,
        stream: Stream::Stdout,
        splitter: logged.then(|| Splitter::new(Stream::Stdout)),
        paused: false,
    });
    Ok(())
}

pub(super) fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    Ok(rustix::termios::tcsetwinsize(
        terminal,
        rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?)
}

pub(super) fn not_running() -> io::Error {
    io::Error::from_raw_os_error(libc::ESRCH)
}
