//! The spawner's owner: one process, replaced when it dies.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::{EncodedPlan, Plan, StepError};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use tokio::time::Instant;

use super::connection::{Connection, Handle};
use super::shim::{Known, Shim};
use super::{StartError, bury};
use crate::launch::{AttachOptions, Launch, LaunchError, Launched};
use crate::serve::state::{NEW, STAGED, State};
use crate::wire::{self, Fields, Message, Writer, kind, tag};

/// How to start spawners.
#[derive(Debug, Clone)]
pub struct SpawnerConfig {
    /// The program; `/proc/self/exe` where absent. Executed through a read-only detached bind of
    /// it, so that nothing in a container that sees our processes can write to it.
    pub program: Option<PathBuf>,
    /// Its arguments, `["spawner"]` by default.
    pub args: Vec<String>,
    /// Added to its environment, which is otherwise this process's.
    pub environment: Vec<(String, String)>,
}

impl Default for SpawnerConfig {
    fn default() -> Self {
        Self {
            program: None,
            args: vec!["spawner".to_owned()],
            environment: Vec::new(),
        }
    }
}

/// The engine's handle on its spawner; starts another when it dies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spawner {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: SpawnerConfig,
    /// Held only to look at or replace the pointer.
    current: Mutex<Arc<Process>>,
}

/// One spawner process. Closing the socket ends it.
#[derive(Debug)]
struct Process {
    socket: Option<Connection>,
    child: Mutex<Option<Child>>,
}

impl Process {
    fn start(config: &SpawnerConfig) -> Result<Self, StartError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| StartError { what, source }
        };
        let program = config.program.as_deref();
        let program = program.unwrap_or_else(|| Path::new("/proc/self/exe"));
        let image = image(program).map_err(failed(&format!("open {}", program.display())))?;
        let (ours, theirs) = sys::fdpass::pair().map_err(failed("make a socket"))?;
        let socket = Connection::new(ours).map_err(failed("register its socket"))?;
        sys::fault::point("client.spawner.start").map_err(failed("execute it"))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the program executed is our own binary, as another of its processes"
        )]
        let child = std::process::Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
            .args(&config.args)
            .envs(config.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed(&format!("execute {}", program.display())))?;
        Ok(Self {
            socket: Some(socket),
            child: Mutex::new(Some(child)),
        })
    }

    /// Ends it though it does not read its socket.
    fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = child.as_mut() {
            // already ended is what is wanted
            drop(child.kill());
        }
    }

    fn is_dead(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child
            .as_mut()
            .is_none_or(|c| !matches!(c.try_wait(), Ok(None)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.socket = None;
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = child.take() {
            // it ends on its own once it sees its socket closed: reaped without holding us up
            std::thread::spawn(move || drop(child.wait()));
        }
    }
}

/// The program's file as a mount of its own that cannot be written to, or as it is where the
/// kernel lacks the calls.
fn image(program: &Path) -> io::Result<OwnedFd> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let bind = open_tree(rustix::fs::CWD, program, flags).map_err(io::Error::from);
    let locked = bind.and_then(|bind| {
        sys::mount::setattr(
            bind.as_fd(),
            false,
            &sys::mount::Attr {
                set: sys::mount::RDONLY,
                ..sys::mount::Attr::default()
            },
        )?;
        Ok(bind)
    });
    match locked {
        Ok(bind) => Ok(bind),
        Err(_) => Ok(rustix::fs::open(
            program,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )?),
    }
}

/// A launch on its way: what cleans up after it knows.
#[derive(Debug, Default)]
struct Flight {
    shim: Option<OwnedFd>,
    shim_pid: i32,
    shim_start_time: u64,
}

enum Outcome {
    Started {
        launched: Launched,
        shim: Shim,
    },
    /// Nothing was forked: another spawner may try.
    NotForked,
    Failed(LaunchError),
}

impl Spawner {
    /// Starts the first spawner. Call inside a tokio runtime. This process becomes subreaper, so
    /// that shims whose spawner died are reaped by it.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn start(config: SpawnerConfig) -> Result<Self, StartError> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| {
            StartError {
                what: "become subreaper".to_owned(),
                source: e.into(),
            }
        })?;
        let first = Process::start(&config)?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                current: Mutex::new(Arc::new(first)),
            }),
        })
    }

    /// The process id of the spawner that is used at the moment.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let current = self.current();
        let child = current.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_ref().map(Child::id)
    }

    fn current(&self) -> Arc<Process> {
        let current = &self.inner.current;
        current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Another spawner in the place of `old`, unless somebody has put one there already.
    fn replace(&self, old: &Arc<Process>) -> Result<(), StartError> {
        if !Arc::ptr_eq(&self.current(), old) {
            return Ok(());
        }
        let new = Arc::new(Process::start(&self.inner.config)?);
        let mut current = self
            .inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, old) {
            *current = new;
        }
        Ok(())
    }

    /// Starts a container: when this answers, its program has been executed. Several launches run
    /// at once. On any error nothing is left: no process, cgroup or run directory.
    ///
    /// `root` is the root file system as a detached mount, for a plan that takes one. `held`: kept
    /// open as long as the shim lives; the plan names them `fd:<index>`. `attach`:
    /// clients connected before the first byte of output; each descriptor is the shim's end of a
    /// stream socket pair. A run directory left by a shim that is just going is waited for.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub async fn launch(
        &self,
        launch: &Launch,
        plan: &Plan,
        root: impl Into<Option<OwnedFd>>,
        held: Vec<OwnedFd>,
        attach: Vec<(AttachOptions, OwnedFd)>,
        deadline: Duration,
    ) -> Result<(Launched, Shim), LaunchError> {
        let root = root.into();
        let until = Instant::now() + deadline;
        let prepare = |what: &str| {
            let (id, what) = (launch.id.clone(), what.to_owned());
            |source| LaunchError::Prepare { id, what, source }
        };
        let mut message = Writer::message(kind::LAUNCH, 0);
        wire::put_launch(&mut message, launch);
        message.flag(tag::ROOT, root.is_some());
        for (options, _) in &attach {
            wire::put_attach(&mut message, options);
        }
        if !held.is_empty() {
            message.u64(tag::HELD, u64::try_from(held.len()).unwrap_or(u64::MAX));
        }
        let memfd = sealed(plan.encode()).map_err(prepare("write the plan"))?;
        make_run_dir(launch, until).await?;
        let mut tries = 0;
        loop {
            let process = self.current();
            let mut flight = Flight::default();
            let attached = attach.iter().map(|(_, fd)| fd);
            let passed: Vec<_> = root.iter().chain(attached).chain(&held).collect();
            let attempt = attempt(
                launch,
                plan,
                &process,
                &message,
                &memfd,
                &passed,
                &mut flight,
            );
            let error = match tokio::time::timeout_at(until, attempt).await {
                Ok(Outcome::Started { launched, shim }) => return Ok((launched, shim)),
                Ok(Outcome::NotForked) if tries < 3 => {
                    tries += 1;
                    match self.replace(&process) {
                        Ok(()) => continue,
                        Err(e) => LaunchError::Prepare {
                            id: launch.id.clone(),
                            what: e.to_string(),
                            source: e.source,
                        },
                    }
                }
                Ok(Outcome::NotForked) => LaunchError::SpawnerDied {
                    id: launch.id.clone(),
                },
                Ok(Outcome::Failed(error)) => error,
                Err(_) => self.late(launch, deadline, &process, &flight),
            };
            clean(launch, plan, flight).await;
            return Err(error);
        }
    }

    /// The deadline has passed. A spawner that has not even forked is wedged: it is replaced.
    fn late(
        &self,
        launch: &Launch,
        waited: Duration,
        process: &Arc<Process>,
        flight: &Flight,
    ) -> LaunchError {
        let what = if flight.shim.is_none() {
            process.kill();
            // the next launch tries again if this fails
            drop(self.replace(process));
            "the spawner to fork the shim"
        } else {
            "the start"
        };
        LaunchError::Deadline {
            id: launch.id.clone(),
            what,
            waited,
        }
    }
}

/// Hands the launch to a spawner. False: it is dead.
async fn submit(process: &Process, message: &Writer, fds: &[BorrowedFd<'_>]) -> bool {
    let Some(socket) = &process.socket else {
        return false;
    };
    !process.is_dead() && socket.send(message.as_bytes(), fds).await.is_ok()
}

/// Hands the launch to a spawner and reads what it and the shim say until it is decided.
async fn attempt(
    launch: &Launch,
    plan: &Plan,
    process: &Process,
    message: &Writer,
    memfd: &OwnedFd,
    passed: &[&OwnedFd],
    flight: &mut Flight,
) -> Outcome {
    let failed = |source| {
        Outcome::Failed(LaunchError::Prepare {
            id: launch.id.clone(),
            what: "make the control socket".to_owned(),
            source,
        })
    };
    let (ours, theirs) = match sys::fdpass::pair() {
        Ok(pair) => pair,
        Err(e) => return failed(e),
    };
    let control = match Connection::new(ours) {
        Ok(control) => control,
        Err(e) => return failed(e),
    };
    {
        let mut fds = vec![memfd.as_fd(), theirs.as_fd()];
        fds.extend(passed.iter().map(|fd| fd.as_fd()));
        if !submit(process, message, &fds).await {
            return Outcome::NotForked;
        }
    }
    // or the end of the other side would never be seen
    drop(theirs);
    loop {
        let (bytes, fds) = control.receive().await.unwrap_or_default();
        let mut fds = fds.into_iter();
        let Ok(message) = Message::parse(&bytes) else {
            // the end: whoever held the other side is dead
            return match flight.shim {
                None => Outcome::NotForked,
                Some(_) => Outcome::Failed(LaunchError::ShimDied {
                    id: launch.id.clone(),
                }),
            };
        };
        let fields = message.fields;
        match message.kind {
            kind::FORKED => {
                flight.shim = fds.next();
                flight.shim_pid = fields.i32(tag::SHIM_PID).unwrap_or(0);
                flight.shim_start_time = fields.u64(tag::START_TIME).unwrap_or(0);
            }
            kind::STARTED => {
                let Some((launched, known)) = started(launch, plan, fields, fds.next(), flight)
                else {
                    return Outcome::Failed(LaunchError::Refused {
                        id: launch.id.clone(),
                        message: "its answer lacks descriptors".to_owned(),
                    });
                };
                return match Shim::new(known, control) {
                    Ok(shim) => Outcome::Started { launched, shim },
                    Err(e) => failed(e),
                };
            }
            kind::FAILED => return Outcome::Failed(refused(&launch.id, plan, fields)),
            // from a newer shim
            _ => {}
        }
    }
}

fn started(
    launch: &Launch,
    plan: &Plan,
    fields: Fields<'_>,
    first: Option<OwnedFd>,
    flight: &Flight,
) -> Option<(Launched, Known)> {
    let launched = Launched {
        shim_pid: flight.shim_pid,
        pid: fields.i32(tag::PID)?,
        pid_start_time: fields.u64(tag::START_TIME)?,
    };
    let known = Known {
        run_dir: launch.run_dir.clone(),
        shim: flight.shim.as_ref()?.try_clone().ok()?,
        first: Some(first?),
        execs: Vec::new(),
        state: State {
            id: launch.id.clone(),
            shim_pid: launched.shim_pid,
            shim_start_time: flight.shim_start_time,
            pid: launched.pid,
            pid_start_time: launched.pid_start_time,
            started_at: fields.str(tag::STARTED_AT).unwrap_or("").to_owned(),
            container_dir: launch.container_dir.clone(),
            ephemeral: launch.ephemeral,
            cgroup: cgroup_of(plan),
        },
    };
    Some((launched, known))
}

fn cgroup_of(plan: &Plan) -> Option<runtime::cgroup::Cgroup> {
    EncodedPlan::decode(plan.encode()).ok()?.cgroup()
}

/// What a FAILED answer means.
pub(super) fn refused(id: &str, plan: &Plan, fields: Fields<'_>) -> LaunchError {
    let step = fields
        .bytes(tag::STEP)
        .and_then(|b| b.try_into().ok())
        .map(StepError::from_bytes);
    match step {
        Some(error) => LaunchError::Step {
            message: plan.explain(error),
            step: error.step,
            errno: error.errno,
            is_program: plan.exit_code(error) != 125,
        },
        None => LaunchError::Refused {
            id: id.to_owned(),
            message: fields
                .str(tag::TEXT)
                .unwrap_or("no reason given")
                .to_owned(),
        },
    }
}

/// A plan as a file that nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create(c"plan", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// The run directory, new. One that is there belongs to a shim that is going, which is waited
/// for, or that died, which is cleaned up after.
///
/// It is never empty: it is renamed into place with the file in it that becomes the state. So an
/// empty one is what a shim left that was killed at its very last step, is replaced by the rename,
/// and may be removed by anybody.
async fn make_run_dir(launch: &Launch, until: Instant) -> Result<(), LaunchError> {
    let run_dir = &launch.run_dir;
    let prepare = |source| LaunchError::Prepare {
        id: launch.id.clone(),
        what: format!("make {}", run_dir.display()),
        source,
    };
    let staged = run_dir.with_file_name(format!("{NEW}{}", launch.id));
    loop {
        stage(&staged).map_err(prepare)?;
        sys::fault::point("client.run_dir.rename").map_err(prepare)?;
        match std::fs::rename(&staged, run_dir) {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {
                previous(launch, until).await.map_err(prepare)?;
            }
            Err(e) => return Err(prepare(e)),
        }
        if Instant::now() >= until {
            drop(bury::unstage(&staged));
            return Err(LaunchError::Deadline {
                id: launch.id.clone(),
                what: "the shim of its previous run to be gone",
                waited: Duration::ZERO,
            });
        }
    }
}

fn stage(staged: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    sys::fault::point("client.run_dir.create")?;
    match builder.create(staged) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            builder.recursive(true).create(staged)?;
        }
        other => other?,
    }
    std::fs::File::create(staged.join(STAGED)).map(drop)
}

async fn previous(launch: &Launch, until: Instant) -> io::Result<()> {
    let run_dir = launch.run_dir.clone();
    let state = State::read(&run_dir).ok();
    let alive = match &state {
        Some(s) => Handle::find(s.shim_pid, s.shim_start_time)?,
        None => None,
    };
    if let Some(pidfd) = alive {
        let left = until.saturating_duration_since(Instant::now());
        Handle::new(pidfd)?.ended(left).await;
        return Ok(());
    }
    let buried = tokio::task::spawn_blocking(move || match state {
        Some(state) => {
            bury::bury(&run_dir, &state, &[]);
            Ok(())
        }
        None => bury::clean(&run_dir, None, None),
    });
    match tokio::time::timeout_at(until, buried).await {
        Ok(buried) => buried.unwrap_or_else(|e| Err(io::Error::other(e))),
        // the caller sees that the deadline has passed
        Err(_) => Ok(()),
    }
}

/// Leaves nothing of a launch that failed. What cannot be killed now, because it waits in a file
/// system that does not answer, is not waited for here but cleaned up after once it can be.
async fn clean(launch: &Launch, plan: &Plan, flight: Flight) {
    let run_dir = launch.run_dir.clone();
    let cgroup = cgroup_of(plan);
    let shim = flight.shim.map(Arc::new);
    let cleaning = tokio::spawn(async move {
        loop {
            let (run_dir, cgroup, shim) = (run_dir.clone(), cgroup.clone(), shim.clone());
            let cleaned = tokio::task::spawn_blocking(move || {
                bury::clean(&run_dir, shim.as_deref(), cgroup.as_ref())
            });
            let busy = |e: &io::Error| e.raw_os_error() == Some(libc::EBUSY);
            // what else may fail is found by the reconcile of the next start
            if !matches!(cleaned.await, Ok(Err(e)) if busy(&e)) {
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    drop(tokio::time::timeout(Duration::from_secs(1), cleaning).await);
}
