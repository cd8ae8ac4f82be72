//! `create` and `run`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use host::Facts;
use oci_spec::runtime::{ContainerState, Process, Spec, State as AgentState};

use super::container::{CONFIG, Directory, INIT, SOCKET, STATE};
use super::error::{errno, io};
use super::hooks::{self, Kind};
use super::process::Identity;
use super::state::{self, FORMAT, Record};
use super::{Container, OciError, Runtime, State, Status, console, rfc3339};
use crate::cgroup::Cgroup;
use crate::{
    Asked, Choices, Descriptors, EncodedPlan, Pending, Plan, PlanInput, Rootfs, SeccompChoice,
    Stages, Stop,
};

/// What `create` and `run` are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Create<'a> {
    pub id: &'a str,
    /// Absolute; the current directory, against which relative paths of the spec count.
    pub bundle: &'a Path,
    pub pid_file: Option<&'a Path>,
    pub console_socket: Option<&'a Path>,
    pub pidfd_socket: Option<&'a Path>,
    /// Descriptors from 3 on for the program.
    pub preserve_fds: u32,
    /// How many of them, the first ones, are listening sockets. source: sd_listen_fds(3).
    pub listen_fds: u32,
    pub no_new_keyring: bool,
    /// chroot instead of pivot_root, for a root on the initial ramdisk.
    pub no_pivot: bool,
    /// Nobody of ours stays with the container.
    pub detach: bool,
    /// Rows and columns of a terminal whose size the spec doesn't say.
    pub console_size: Option<(u16, u16)>,
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The terminal's master, where no console socket took it.
    pub terminal: Option<OwnedFd>,
}

/// A spec, read and understood.
struct Bundle {
    spec: Spec,
    bytes: Vec<u8>,
    rootfs: PathBuf,
    warnings: Vec<String>,
}

impl Bundle {
    fn read(bundle: &Path) -> Result<Self, OciError> {
        let path = bundle.join(CONFIG);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(OciError::NoSpec(path));
            }
            other => other.map_err(io("read", &path))?,
        };
        let config = crate::config::read(&bytes);
        let config = config.map_err(|source| OciError::Config { path, source })?;
        let spec = config.spec;
        let root = spec.root().as_ref().ok_or_else(|| OciError::Invalid {
            what: CONFIG.to_owned(),
            why: "it has no root".to_owned(),
        })?;
        let rootfs = bundle.join(root.path());
        Ok(Self {
            spec,
            bytes,
            rootfs,
            warnings: config.warnings,
        })
    }
}

/// Whether a terminal is made, and somebody is there to take it.
pub(super) fn check_console(
    process: Option<&Process>,
    detach: bool,
    socket: Option<&Path>,
) -> Result<(), OciError> {
    let terminal = process.is_some_and(|p| p.terminal() == Some(true));
    match (detach, terminal, socket.is_some()) {
        (true, true, false) => Err(OciError::NoConsoleSocket),
        (false, _, true) | (_, false, true) => Err(OciError::NeedlessConsoleSocket),
        _ => Ok(()),
    }
}

/// The program is the first process of its pid namespace.
pub(super) fn give_sockets(process: &mut Process, n: u32) {
    if n > 0 {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend([format!("LISTEN_FDS={n}"), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(env));
    }
}

/// As runc does, and programs expect. source: environ(7).
pub(super) fn give_home(process: &mut Process, root: &Path) {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let mut env = process.env().clone().unwrap_or_default();
    if env.iter().any(|e| e.starts_with("HOME=")) {
        return;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = openat(CWD, root, flags, Mode::empty()) else {
        // the step that opens it says why
        return;
    };
    let home = crate::users::home(root.as_fd(), process.user().uid());
    env.push(format!("HOME={}", home.display()));
    process.set_env(Some(env));
}

/// Before the program runs: it may look at once.
pub fn size_console(process: &mut Process, (rows, columns): (u16, u16)) {
    if process.console_size().is_none() {
        let size = oci_spec::runtime::BoxBuilder::default()
            .height(rows)
            .width(columns)
            .build();
        process.set_console_size(size.ok());
    }
}

/// The descriptors that the program is to inherit must be there: an unrelated one of ours could
/// take their number otherwise.
pub(super) fn check_preserved(n: u32) -> Result<(), OciError> {
    for fd in 3..3_u32.saturating_add(n) {
        let number = i32::try_from(fd).map_err(|_| OciError::NotPreserved(fd))?;
        if !sys::file::is_open(number) {
            return Err(OciError::NotPreserved(fd));
        }
    }
    Ok(())
}

/// What a process is confined by needs the security modules' facts.
pub(super) fn labels(process: Option<&Process>) -> bool {
    let named = |l: &Option<String>| l.as_ref().is_some_and(|l| !l.is_empty());
    process.is_some_and(|p| named(p.apparmor_profile()) || named(p.selinux_label()))
}

/// Everything in the spec was asked for by whoever wrote it.
pub(super) fn asked(process: Option<&Process>) -> Asked {
    Asked {
        rlimits: process
            .and_then(|p| p.rlimits().as_ref())
            .map(|all| {
                all.iter()
                    .map(oci_spec::runtime::PosixRlimit::typ)
                    .collect()
            })
            .unwrap_or_default(),
        oom_score_adj: true,
    }
}

pub(super) fn stdio() -> [BorrowedFd<'static>; 3] {
    [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]
}

/// What was encoded a moment ago decodes.
pub(super) fn decoded(plan: &Plan) -> Result<EncodedPlan<'_>, OciError> {
    EncodedPlan::decode(plan.encode()).map_err(|e| OciError::Invalid {
        what: "plan".to_owned(),
        why: e.to_string(),
    })
}

pub(super) fn choices(record: &Record, state: Option<AgentState>) -> Choices {
    Choices {
        no_pivot: record.no_pivot,
        strict_limits: true,
        bundle: Some(record.bundle.clone()),
        state,
        ..Choices::default()
    }
}

/// Inputs of a plan, kept to make it again for an error's words. `told`: to a seccomp agent.
pub(super) fn plan_of(
    spec: &Spec,
    facts: &Facts,
    record: &Record,
    stages: &Stages<'_>,
    told: Option<AgentState>,
) -> Result<Plan, OciError> {
    Ok(crate::plan_staged(
        &PlanInput {
            spec,
            facts,
            rootfs: Rootfs::Path(&record.rootfs),
            cgroup: record.cgroup.as_ref(),
            seccomp: SeccompChoice::Spec,
            init: false,
            mount_names: std::collections::BTreeMap::new(),
            asked: asked(spec.process().as_ref()),
            create_cwd: true,
            die_with_parent: false,
            choices: choices(record, told),
        },
        stages,
    )?)
}

impl Runtime {
    /// Makes a container whose first process waits for [`Runtime::start`].
    ///
    /// # Errors
    /// As whatever can't be had; then nothing is left of it.
    pub fn create(&self, wanted: &Create<'_>) -> Result<(), OciError> {
        self.make(wanted, true).map(drop)
    }

    /// Makes a container and runs its program.
    ///
    /// # Errors
    /// As [`Runtime::create`].
    pub fn run(&self, wanted: &Create<'_>) -> Result<Running, OciError> {
        self.make(wanted, false)
    }

    fn make(&self, wanted: &Create<'_>, wait: bool) -> Result<Running, OciError> {
        super::container::check_id(wanted.id)?;
        check_preserved(wanted.preserve_fds)?;
        let mut bundle = Bundle::read(wanted.bundle)?;
        for warning in std::mem::take(&mut bundle.warnings) {
            self.warn(warning);
        }
        if let (Some(size), Some(process)) = (wanted.console_size, bundle.spec.process_mut()) {
            size_console(process, size);
        }
        if let Some(process) = bundle.spec.process_mut() {
            give_home(process, &bundle.rootfs);
            give_sockets(process, wanted.listen_fds);
        }
        let process = bundle.spec.process().as_ref();
        check_console(process, wanted.detach, wanted.console_socket)?;
        let console = wanted.console_socket.map(console::open).transpose()?;
        let pidfd_socket = wanted.pidfd_socket.map(console::open).transpose()?;
        let facts = Facts::brief(Self::cgroup_facts()?, labels(process));
        let cgroup = self.cgroup_of(&facts.cgroup, &bundle.spec, wanted.id)?;
        let in_mounts = hooks::before_pivot(&bundle.spec);
        let stages = Stages {
            preserve: wanted.preserve_fds,
            keep_keyring: wanted.no_new_keyring,
            hooks: in_mounts.then_some(bundle.rootfs.as_path()),
            ready: true,
            start: wait.then_some(0),
        };
        let record = record(wanted, &bundle, cgroup);
        let creating = ContainerState::Creating;
        let told = state::for_agent(&bundle.spec, wanted.id, &record, creating, None);
        let plan = plan_of(&bundle.spec, &facts, &record, &stages, told)?;
        plan.warnings().iter().for_each(|w| self.warn(w.as_str()));
        let directory = self.claim(wanted.id)?;
        let unused = record.cgroup.as_ref().map(super::cgroups::check_unused);
        if let Some(Err(e)) = unused {
            directory.remove()?;
            return Err(e);
        }
        let mut making = Making {
            runtime: self,
            wanted,
            bundle: &bundle,
            facts: &facts,
            plan: &plan,
            console,
            pidfd_socket,
            container: Container::new(wanted.id, directory, record),
        };
        match making.go(wait) {
            Ok(running) => Ok(running),
            Err(e) => {
                making.undo();
                Err(e)
            }
        }
    }
}

fn record(wanted: &Create<'_>, bundle: &Bundle, cgroup: Option<Cgroup>) -> Record {
    let annotations = bundle.spec.annotations().iter().flatten();
    Record {
        format: FORMAT,
        oci_version: bundle.spec.version().clone(),
        bundle: wanted.bundle.to_owned(),
        rootfs: bundle.rootfs.clone(),
        created: rfc3339(SystemTime::now(), true),
        annotations: annotations.map(|(k, v)| (k.clone(), v.clone())).collect(),
        cgroup,
        no_pivot: wanted.no_pivot,
    }
}

/// A container on the way.
struct Making<'a> {
    runtime: &'a Runtime,
    wanted: &'a Create<'a>,
    bundle: &'a Bundle,
    facts: &'a Facts,
    plan: &'a Plan,
    console: Option<OwnedFd>,
    pidfd_socket: Option<OwnedFd>,
    container: Container,
}

impl Making<'_> {
    fn go(&mut self, wait: bool) -> Result<Running, OciError> {
        let directory = &self.container.directory;
        directory.write(CONFIG, &self.bundle.bytes)?;
        let record = serde_json::to_vec(&self.container.record).map_err(|e| {
            let broken = std::io::Error::other(e);
            io("write", &directory.path.join(STATE))(broken)
        })?;
        directory.write(STATE, &record)?;
        let socket = wait.then(|| listen(directory)).transpose()?;
        let passed: Vec<BorrowedFd<'_>> = socket.iter().map(AsFd::as_fd).collect();
        let fds = Descriptors {
            root: None,
            stdio: stdio(),
            target: None,
            passed: &passed,
        };
        let encoded = decoded(self.plan)?;
        let begun = crate::begin(&encoded, &fds);
        let mut pending = begun.map_err(|e| failed(self.plan, e))?;
        match self.attend(&mut pending, wait) {
            Ok(()) => Ok(Running {
                pid: pending.pid(),
                terminal: pending.take_terminal(),
                pidfd: pending.into_pidfd(),
            }),
            Err(e) => {
                pending.abandon();
                Err(e)
            }
        }
    }

    /// Answers the child's stops, until it waits for `start` or runs its program.
    fn attend(&mut self, pending: &mut Pending, wait: bool) -> Result<(), OciError> {
        loop {
            match pending.next_stop().map_err(|e| failed(self.plan, e))? {
                Stop::Hooks => self.hooks(pending)?,
                Stop::Ready => {
                    self.complete(pending)?;
                    if !wait {
                        hooks::in_container(
                            &self.container,
                            &self.bundle.spec,
                            self.facts,
                            pending.pidfd(),
                        )?;
                    }
                    self.tell_pid(pending)?;
                }
                Stop::Running => {
                    self.runtime.after_start(&self.container, &self.bundle.spec);
                    return Ok(());
                }
            }
            sys::fault::point("oci.go_on")
                .map_err(io("let go on", &self.container.directory.path))?;
            pending.go_on().map_err(|e| failed(self.plan, e))?;
            if wait && self.container.init.is_some() {
                return Ok(());
            }
        }
    }

    fn hooks(&mut self, pending: &Pending) -> Result<(), OciError> {
        let mut state = self.container.brief(Status::Creating);
        state.pid = pending.pid();
        let spec = &self.bundle.spec;
        // older than the word "creating": such hooks were written for "created"
        let early = State {
            status: Status::Created,
            ..state.clone()
        };
        hooks::run(Kind::Prestart, spec, &early, None)?;
        hooks::run(Kind::CreateRuntime, spec, &state, None)?;
        let inside = hooks::Inside::of(spec, pending.pid(), pending.pidfd())?;
        hooks::run(Kind::CreateContainer, spec, &state, Some(&inside))
    }

    /// From here on the container is there for others.
    fn complete(&mut self, pending: &mut Pending) -> Result<(), OciError> {
        if let Some(socket) = &self.console
            && let Some(master) = pending.take_terminal()
        {
            let path = self.wanted.console_socket.unwrap_or(Path::new(""));
            console::send(socket.as_fd(), &master).map_err(io("send the terminal to", path))?;
        }
        if let Some(socket) = &self.pidfd_socket {
            let path = self.wanted.pidfd_socket.unwrap_or(Path::new(""));
            sys::fdpass::send(socket.as_fd(), b"pidfd", &[pending.pidfd()])
                .map_err(io("send the pidfd to", path))?;
        }
        let pid = pending.pid();
        let proc = PathBuf::from(format!("/proc/{pid}/stat"));
        let init = Identity::of(pid).map_err(io("read", &proc))?;
        let directory = &self.container.directory;
        directory.write(INIT, init.to_line().as_bytes())?;
        self.container.init = Some(init);
        Ok(())
    }

    fn tell_pid(&self, pending: &Pending) -> Result<(), OciError> {
        match self.wanted.pid_file {
            Some(path) => console::write_pid_file(path, pending.pid()),
            None => Ok(()),
        }
    }

    /// Removes what a failed start has made; the failure is the news.
    fn undo(&self) {
        if let Err(e) = self.container.end() {
            self.runtime
                .warn(format!("a failed start left cgroups: {e}"));
            return;
        }
        self.runtime.after_stop(&self.container, &self.bundle.spec);
        if let Err(e) = self.container.directory.remove() {
            self.runtime.warn(format!("a failed start left files: {e}"));
        }
    }
}

pub(super) fn failed(plan: &Plan, error: crate::StepError) -> OciError {
    OciError::Start {
        words: plan.explain(error),
        error,
    }
}

/// The socket that the first process accepts on; made before it, so that its copy is there.
fn listen(directory: &Directory) -> Result<OwnedFd, OciError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    let path = directory.path.join(SOCKET);
    let make = || {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &directory.socket_address()?)?;
        listen(&socket, 16)?;
        // the child puts stdio at 0 to 2
        if socket.as_raw_fd() < 3 {
            return rustix::io::fcntl_dupfd_cloexec(&socket, 3);
        }
        Ok(socket)
    };
    sys::fault::point("oci.listen").map_err(io("listen on", &path))?;
    make().map_err(errno("listen on", &path))
}
