//! An engine of its own: nothing of it is shared with another test or with the host's.
//!
//! ```text
//! <temporary directory>/
//!   data/  exec/  s (the socket)  daemon.log (all runs)  pid
//! ```
//! Its processes are found by a mark in their environment, which spawner and shims inherit.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::{Api, Response};
use crate::image::{BUSYBOX, Image};
use crate::procfs::{self, Process};
use crate::until;

const MARK: &str = "PLIMSOLL_TEST_INSTANCE";
/// For everything that should be quick but may not be on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running (or killed, or stopped) engine. Dropping it removes its containers and processes.
#[derive(Debug)]
pub struct Instance {
    dir: tempfile::TempDir,
    program: PathBuf,
    log_level: &'static str,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// The host it runs on, where that is not this machine's.
    network: Option<Arc<net::Namespace>>,
    /// It has an /etc/resolv.conf of its own.
    resolv_conf: bool,
    /// It has a /run of its own.
    run: bool,
}

/// The program under test: `PLIMSOLL_BIN`, else beside the test in cargo's target directory.
///
/// # Panics
/// When it hasn't been built.
#[must_use]
pub fn program() -> PathBuf {
    find_program()
        .expect("no plimsoll beside the test: run `cargo build -p cli`, or set PLIMSOLL_BIN")
}

/// As [`program`], or `None`.
pub(crate) fn find_program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PLIMSOLL_BIN") {
        return Some(path.into());
    }
    let me = std::env::current_exe().ok()?;
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|d| d.join("plimsoll"))
        .find(|p| p.is_file())
}

/// In a thread of its own, whose mounts are then the program's: files of the test's in place of the host's.
fn spawn_with(
    mut program: Command,
    own: impl Iterator<Item = (PathBuf, &'static str)> + Send,
) -> io::Result<Child> {
    let own: Vec<_> = own.collect();
    if own.is_empty() {
        return program.spawn();
    }
    std::thread::scope(|scope| {
        let spawned = scope.spawn(|| {
            crate::powercut::enter_private_namespace()?;
            for (path, at) in own {
                rustix::mount::mount_bind(&path, at)?;
            }
            program.spawn()
        });
        spawned
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that spawns panicked")))
    })
}

/// A command of a test: tests run programs, the product doesn't.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test runs the programs it tests with"
    )]
    Command::new(program)
}

impl Default for Instance {
    fn default() -> Self {
        Self::new()
    }
}

impl Instance {
    /// Starts an engine with nothing in it.
    ///
    /// # Panics
    /// When it doesn't come up.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let mut instance = Self::prepared();
        instance.start();
        instance
    }

    /// Starts an engine that has [`BUSYBOX`].
    ///
    /// # Panics
    /// When it doesn't come up or can't load the image.
    #[must_use]
    #[track_caller]
    pub fn with_busybox() -> Self {
        let instance = Self::new();
        instance.load(&Image::busybox().expect("busybox makes an image"));
        instance
    }

    /// Directories, but no process yet.
    ///
    /// # Panics
    /// Without root or room for a directory.
    #[must_use]
    #[track_caller]
    pub fn prepared() -> Self {
        Self::of(program())
    }

    /// As [`Instance::prepared`], of this program.
    ///
    /// # Panics
    /// As [`Instance::prepared`].
    #[must_use]
    #[track_caller]
    pub fn of(program: PathBuf) -> Self {
        crate::needs_root();
        // short: a socket's path holds 107 bytes
        let dir = tempfile::Builder::new()
            .prefix("pl-")
            .tempdir()
            .expect("a temporary directory");
        for part in ["data", "exec"] {
            fs::create_dir(dir.path().join(part)).expect("room in the temporary directory");
        }
        Self {
            dir,
            program,
            log_level: "debug",
            arguments: Vec::new(),
            environment: Vec::new(),
            child: None,
            network: None,
            resolv_conf: false,
            run: false,
        }
    }

    /// As [`Instance::prepared`], on a host of its own: a network namespace, in which it has a default
    /// network. Nothing of this machine's network is touched.
    ///
    /// # Panics
    /// As [`Instance::prepared`].
    #[must_use]
    #[track_caller]
    pub fn prepared_networked() -> Self {
        let host = net::Namespace::create().expect("a network namespace");
        let lo = net::host::connect(&net::Instance::new("testkit"), &host, &[]);
        lo.expect("loopback can be brought up");
        let mut instance = Self::prepared();
        instance.network = Some(Arc::new(host));
        instance.inside(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a setting of ours");
        });
        instance
    }

    /// Starts an engine with a default network and [`BUSYBOX`], on a host of its own.
    ///
    /// # Panics
    /// When it doesn't come up or can't load the image.
    #[must_use]
    #[track_caller]
    pub fn networked() -> Self {
        let mut instance = Self::prepared_networked();
        instance.start();
        instance.load(&Image::busybox().expect("busybox makes an image"));
        instance
    }

    /// What the engine's host has in /etc/resolv.conf, from the next start on; later calls change it
    /// at once.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn set_resolv_conf(&mut self, text: &str) {
        std::fs::write(self.path().join("resolv.conf"), text).expect("room for a file");
        self.resolv_conf = true;
    }

    /// From the next start on the engine's host has this directory as its /run: where local services listen.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn set_run(&mut self) -> PathBuf {
        let dir = self.path().join("run");
        std::fs::create_dir_all(&dir).expect("room for a directory");
        self.run = true;
        dir
    }

    /// A second engine on the same host.
    ///
    /// # Panics
    /// As [`Instance::prepared`].
    #[must_use]
    #[track_caller]
    pub fn beside(other: &Self) -> Self {
        let mut instance = Self::prepared();
        instance.network.clone_from(&other.network);
        instance
    }

    #[must_use]
    pub fn is_networked(&self) -> bool {
        self.network.is_some()
    }

    /// Runs something on the host that the engine runs on.
    ///
    /// # Panics
    /// When its namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        use std::os::fd::AsFd;
        let Some(network) = &self.network else {
            return work();
        };
        let done = net::netns::inside(network.as_fd(), || {
            Ok::<T, net::netns::NamespaceError>(work())
        });
        done.expect("a namespace of ours can be entered")
    }

    /// Links, and elements of the engine's table, of the host it runs on.
    pub(crate) fn network_objects(&self) -> Vec<String> {
        self.inside(|| {
            let socket = net::socket::Socket::route().expect("netlink");
            let links = socket.links().expect("links can be listed");
            let mut all: Vec<String> = links.into_iter().map(|l| l.name).collect();
            let name = net::Instance::new(&self.exec_root().to_string_lossy()).table();
            let table = net::Table::new(&name, false).observe();
            let elements = table.expect("nftables can be read").unwrap_or_default();
            all.extend(elements.iter().map(|e| format!("element {e}")));
            all
        })
    }

    /// Further flags of `plimsoll daemon`, from the next start on.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// From the next start on; `debug` unless told.
    #[must_use]
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Environment of the daemon from the next start on (its other processes inherit it).
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        self.environment = variables.iter().map(own).collect();
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.path().join("data")
    }
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.path().join("exec")
    }
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path().join("s")
    }
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Name of the parent cgroup of its containers.
    #[must_use]
    pub fn cgroup_name(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let hash = Sha256::digest(self.exec_root().as_os_str().as_bytes());
        format!("plimsoll-{}", hex::encode(&hash[..4]))
    }

    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.socket())
    }

    /// What the daemon said, in all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("daemon.log")).unwrap_or_default()
    }

    /// Starts the daemon and waits until it answers; how long that took.
    ///
    /// # Panics
    /// When it ends, or doesn't answer in time: with its log.
    #[track_caller]
    pub fn start(&mut self) -> Duration {
        let before = Instant::now();
        self.spawn();
        self.wait_ready();
        before.elapsed()
    }

    /// Starts the daemon and doesn't wait.
    ///
    /// # Panics
    /// When the program can't be executed.
    #[track_caller]
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path().join("daemon.log"))
            .expect("room for a log");
        let mut daemon = command(&self.program);
        let bridge = if self.is_networked() {
            "plimsoll0"
        } else {
            "none"
        };
        daemon.arg("daemon").args(["--host", &self.host()]);
        if !self.arguments.iter().any(|a| a == "--bridge") {
            daemon.args(["--bridge", bridge]);
        }
        daemon
            .args(["--log-level", self.log_level])
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .arg("--pidfile")
            .arg(self.path().join("pid"))
            .args(&self.arguments)
            .env(MARK, self.path())
            .env_remove("PLIMSOLL_FAULT")
            .env_remove("PLIMSOLL_FAULT_LOG")
            .env_remove("PLIMSOLL_FAULT_FROM")
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a free descriptor"))
            .stderr(log);
        let own = [
            (self.resolv_conf, "resolv.conf", "/etc/resolv.conf"),
            (self.run, "run", "/run"),
        ];
        let own = own.map(|(is, name, at)| is.then(|| (self.path().join(name), at)));
        let child = self.inside(move || spawn_with(daemon, own.into_iter().flatten()));
        self.child = Some(child.expect("plimsoll can be executed"));
    }

    /// # Panics
    /// When the daemon ends, or doesn't answer in time: with its log.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let api = self.api().with_deadline(Duration::from_secs(5));
        let end = Instant::now() + PATIENCE;
        while !api.get("/_ping").is_ok_and(|r| r.status == 200) {
            let ended = self.has_ended();
            assert!(
                !ended && Instant::now() < end,
                "the daemon {}:\n{}",
                if ended { "has ended" } else { "doesn't answer" },
                self.log()
            );
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Whether the daemon has ended by itself (it is reaped then).
    pub fn has_ended(&mut self) -> bool {
        let ended = self
            .child
            .as_mut()
            .is_none_or(|c| c.try_wait().is_ok_and(|s| s.is_some()));
        if ended {
            self.child = None;
        }
        ended
    }

    /// The daemon's process.
    #[must_use]
    pub fn daemon(&self) -> Option<Process> {
        let pid = i32::try_from(self.child.as_ref()?.id()).ok()?;
        Process::read(pid)
    }

    /// Processes of ours in this instance: daemon, spawner, shims; containers only until they
    /// execute their program.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mark = format!("{MARK}={}", self.path().display());
        let mut all = procfs::all();
        all.retain(|p| !p.is_zombie() && p.environment_holds(&mark));
        all
    }

    /// The spawner: the daemon's child.
    #[must_use]
    pub fn spawner(&self) -> Option<Process> {
        let daemon = self.daemon()?;
        self.processes()
            .into_iter()
            .find(|p| p.parent == daemon.pid)
    }

    /// The shim of a running container: the parent of its first process.
    ///
    /// # Panics
    /// When the container can't be inspected.
    #[must_use]
    #[track_caller]
    pub fn shim(&self, container: &str) -> Option<Process> {
        let pid = self.inspect(container)["State"]["Pid"].as_i64()?;
        let init = Process::read(i32::try_from(pid).ok().filter(|p| *p > 0)?)?;
        Process::read(init.parent)
    }

    /// kill -9 of the daemon alone; waits until it is gone.
    ///
    /// # Panics
    /// When it isn't running.
    #[track_caller]
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("a child of ours can be killed");
        child.wait().expect("a child of ours can be waited for");
    }

    /// Starts the daemon again after [`Instance::kill9`] or [`Instance::stop`].
    ///
    /// # Panics
    /// As [`Instance::start`].
    #[track_caller]
    pub fn restart(&mut self) -> Duration {
        if self.child.is_some() {
            self.stop();
        }
        self.start()
    }

    /// SIGTERM; waits until the daemon has ended.
    ///
    /// # Panics
    /// When it doesn't end in time.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(daemon) = self.daemon() {
            daemon.signal(Signal::TERM);
        }
        let end = Instant::now() + PATIENCE;
        while !self.has_ended() {
            assert!(
                Instant::now() < end,
                "the daemon doesn't end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs our own command line against this instance.
    ///
    /// # Panics
    /// When it can't be executed.
    #[track_caller]
    pub fn plimsoll(&self, arguments: &[&str]) -> Output {
        self.plimsoll_command()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("plimsoll can be executed")
    }

    /// Our command line with the socket set, to be completed by the caller.
    #[must_use]
    pub fn plimsoll_command(&self) -> Command {
        let mut command = command(&self.program);
        command.env("DOCKER_HOST", self.host());
        command
    }

    /// Runs the real docker command against this instance.
    ///
    /// # Panics
    /// When there is none (Debian: docker.io or docker-cli).
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> Output {
        self.docker_command()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("no docker command: apt-get install docker.io")
    }

    /// The real docker command with the socket set.
    #[must_use]
    pub fn docker_command(&self) -> Command {
        let mut command = command("docker");
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.path().join("docker-config"));
        command
    }

    /// Loads an image.
    ///
    /// # Panics
    /// When the engine refuses it.
    #[track_caller]
    pub fn load(&self, image: &Image) {
        self.try_load(image).ok();
    }

    /// Loads an image; the engine's answer.
    ///
    /// # Panics
    /// When it doesn't answer.
    #[track_caller]
    pub fn try_load(&self, image: &Image) -> Response {
        let answer = self
            .api()
            .upload("POST", "/images/load?quiet=1", &image.archive());
        self.answered(answer)
    }

    /// An answer, or a panic with the daemon's log.
    ///
    /// # Panics
    /// Without an answer.
    #[track_caller]
    pub fn answered(&self, answer: io::Result<Response>) -> Response {
        answer.unwrap_or_else(|e| panic!("no answer: {e}\n{}", self.log()))
    }

    /// Creates a container of [`BUSYBOX`] without a network; its id.
    ///
    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn create(&self, name: &str, command: &[&str]) -> String {
        self.create_with(name, command, json!({}))
    }

    /// Creates a container with further fields of the body (`HostConfig` is merged).
    ///
    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn create_with(&self, name: &str, command: &[&str], fields: Value) -> String {
        let body = create_body(command, fields);
        let path = format!("/containers/create?name={name}");
        let answer = self.answered(self.api().post(&path, &body)).ok();
        let id = answer.json()["Id"].as_str().map(str::to_owned);
        id.expect("an id in the answer to create")
    }

    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn start_container(&self, id: &str) {
        let path = format!("/containers/{id}/start");
        let _started = self.answered(self.api().post(&path, &Value::Null)).ok();
    }

    /// Creates and starts; the id.
    ///
    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn run(&self, name: &str, command: &[&str]) -> String {
        let id = self.create(name, command);
        self.start_container(&id);
        id
    }

    /// Waits until a container has ended; its exit code.
    ///
    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn wait(&self, id: &str) -> i64 {
        let path = format!("/containers/{id}/wait");
        let answer = self.answered(self.api().post(&path, &Value::Null)).ok();
        answer.json()["StatusCode"].as_i64().unwrap_or(-1)
    }

    /// # Panics
    /// When there is no such container.
    #[must_use]
    #[track_caller]
    pub fn inspect(&self, id: &str) -> Value {
        let path = format!("/containers/{id}/json");
        self.answered(self.api().get(&path)).ok().json()
    }

    /// Ids of all containers.
    ///
    /// # Panics
    /// When the engine doesn't answer.
    #[must_use]
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        let list = self.answered(self.api().get("/containers/json?all=1"));
        let list = list.ok().json();
        let ids = list.as_array().into_iter().flatten();
        ids.filter_map(|c| c["Id"].as_str().map(str::to_owned))
            .collect()
    }

    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        let path = format!("/containers/{id}?force=1&v=1");
        let _removed = self.answered(self.api().delete(&path)).ok();
    }

    /// Removes every container.
    ///
    /// # Panics
    /// When the engine refuses.
    #[track_caller]
    pub fn remove_all(&self) {
        for id in self.containers() {
            self.remove(&id);
        }
    }

    /// Copies the data root of an instance that is stopped: a quick start for many.
    ///
    /// # Panics
    /// When it can't be copied.
    #[track_caller]
    pub fn copy_data_from(&self, other: &Path) {
        let copied = command("cp")
            .args(["--archive", "--reflink=auto", "--no-target-directory"])
            .arg(other)
            .arg(self.data_root())
            .status()
            .expect("cp can be executed");
        assert!(copied.success(), "the data root was copied");
    }
}

/// Body of `POST /containers/create`.
#[must_use]
pub fn create_body(command: &[&str], fields: Value) -> Value {
    let mut body = json!({
        "Image": BUSYBOX,
        "Cmd": command,
        "HostConfig": {"NetworkMode": "none"},
    });
    if let Value::Object(fields) = fields {
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("HostConfig", Value::Object(host)) => {
                    for (name, value) in host {
                        body["HostConfig"][name] = value;
                    }
                }
                (_, value) => body[name] = value,
            }
        }
    }
    body
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(60);
            let tail: Vec<&str> = log.lines().skip(from).collect();
            let text = format!("the daemon's log, its end:\n{}\n", tail.join("\n"));
            let _unseen = io::Write::write_all(&mut io::stderr().lock(), text.as_bytes());
        }
        if self.daemon().is_some() {
            let api = self.api().with_deadline(Duration::from_secs(10));
            let list = api.get("/containers/json?all=1").map(|r| r.json());
            for c in list.iter().filter_map(Value::as_array).flatten() {
                let id = c["Id"].as_str().unwrap_or_default();
                let _kept = api.delete(&format!("/containers/{id}?force=1"));
            }
        }
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        // Shims and spawner of a failed test; ours by the mark, so nobody else's. A container ends
        // with its shim.
        for process in self.processes() {
            process.signal(Signal::CONT);
            process.signal(Signal::KILL);
        }
        if !std::thread::panicking() {
            until("the instance's processes to end", PATIENCE, || {
                self.processes().is_empty().then_some(())
            });
        }
        crate::conservation::remove_cgroups(&self.cgroup_name());
    }
}
