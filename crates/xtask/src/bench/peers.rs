//! The engines: ours, docker and podman as the distribution packages them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::image::Image;
use testkit::procfs::{self, Process};
use testkit::{Api, Instance};

use super::Options;
use super::meter::Meter;
use crate::Failed;
use crate::dist;
use crate::run::{output, program};

/// Name of an engine in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plimsoll,
    Docker,
    Podman,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plimsoll => "plimsoll",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// One running engine.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    pub(crate) meter: Meter,
    pub(crate) api: Api,
    process: Running,
}

enum Running {
    Ours(Box<Instance>),
    Peer(Peer),
}

struct Peer {
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// docker's, as the distribution's unit runs it: beside the daemon, and longer than it.
    containerd: Option<Child>,
    kind: Kind,
    /// With its default network, as it is packaged.
    networked: bool,
}

/// Starts those that are wanted, each with busybox loaded.
pub(crate) fn start(options: &Options, networked: bool) -> Result<Vec<Engine>, Failed> {
    let mut engines = Vec::new();
    for name in &options.engines {
        engines.push(match name.as_str() {
            "plimsoll" => ours(networked)?,
            "docker" => peer(Kind::Docker, networked)?,
            "podman" => peer(Kind::Podman, networked)?,
            _ => return Err(format!("no engine {name} is known").into()),
        });
    }
    let busybox = Image::busybox()?.archive();
    for engine in &engines {
        let answer = engine.api.upload("POST", "/images/load", &busybox)?;
        if !answer.is_ok() {
            return Err(format!("{}: load: {answer:?}", engine.kind.name()).into());
        }
    }
    Ok(engines)
}

fn ours(networked: bool) -> Result<Engine, Failed> {
    // built already: this only tells where
    let program = dist::program_to_show()?;
    let meter = Meter::new("plimsoll")?;
    let mut instance = Instance::of(program).log_level("warn");
    if networked {
        instance = instance.arguments(&["--bridge", "plimsoll0"]);
    }
    meter.within(|| instance.start());
    Ok(Engine {
        kind: Kind::Plimsoll,
        meter,
        api: instance.api(),
        process: Running::Ours(Box::new(instance)),
    })
}

fn peer(kind: Kind, networked: bool) -> Result<Engine, Failed> {
    let mut peer = Peer {
        dir: tempfile::Builder::new().prefix("pl-peer-").tempdir()?,
        child: None,
        containerd: None,
        kind,
        networked,
    };
    let meter = Meter::new(kind.name())?;
    let api = Api::new(&peer.socket()).with_deadline(Duration::from_secs(300));
    // its default limits want CAP_SYS_RESOURCE, which this machine may not give
    let limits = format!(
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
         [network]\nnetwork_backend = \"{}\"\nnetwork_config_dir = \"{}\"\n",
        if networked { "netavark" } else { "" },
        peer.dir.path().join("networks").display(),
    );
    fs::write(peer.dir.path().join("containers.conf"), limits)?;
    meter.within(|| peer.start().map_err(|e| e.to_string()))?;
    Ok(Engine {
        kind,
        meter,
        api,
        process: Running::Peer(peer),
    })
}

fn containerd(dir: &Path, log: &fs::File) -> Result<Child, Failed> {
    let config = dir.join("containerd.toml");
    let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
    fs::write(&config, text)?;
    let child = program("containerd")
        .arg("--config")
        .arg(config)
        .arg("--root")
        .arg(dir.join("containerd"))
        .arg("--state")
        .arg(dir.join("containerd-run"))
        .arg("--address")
        .arg(dir.join("c"))
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .map_err(|e| format!("containerd: {e}"))?;
    let end = Instant::now() + Duration::from_secs(30);
    while std::os::unix::net::UnixStream::connect(dir.join("c")).is_err() {
        if Instant::now() > end {
            return Err("containerd doesn't start".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

impl Peer {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Podman's global flags: nothing shared with the host's own podman.
    fn podman(&self) -> Command {
        let dir = self.dir.path();
        let mut command = program("podman");
        command
            .env("CONTAINERS_CONF", dir.join("containers.conf"))
            .arg("--root")
            .arg(dir.join("data"))
            .arg("--runroot")
            .arg(dir.join("run"))
            .arg("--tmpdir")
            .arg(dir.join("tmp"))
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(["--storage-driver", "overlay", "--runtime", "crun"]);
        command
    }

    fn start(&mut self) -> Result<Duration, Failed> {
        let dir = self.dir.path().to_owned();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))?;
        let mut command = if self.kind == Kind::Docker {
            if self.containerd.is_none() {
                self.containerd = Some(containerd(&dir, &log)?);
            }
            let mut command = program("dockerd");
            command
                .arg("--containerd")
                .arg(dir.join("c"))
                .arg("--data-root")
                .arg(dir.join("data"))
                .arg("--exec-root")
                .arg(dir.join("exec"))
                .arg("--pidfile")
                .arg(dir.join("pid"))
                .arg("--config-file")
                .arg(dir.join("none.json"))
                .args(["--live-restore", "--log-level", "warn"]);
            if !self.networked {
                command.args(["--bridge", "none", "--iptables=false"]);
            }
            fs::write(dir.join("none.json"), "{}")?;
            command
        } else {
            let mut command = self.podman();
            command.args(["system", "service", "--time", "0"]);
            command
        };
        let host = format!("unix://{}", self.socket().display());
        if self.kind == Kind::Docker {
            command.args(["--host", &host]);
        } else {
            command.arg(&host);
        }
        let before = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        self.child = Some(child.map_err(|e| format!("{}: {e}", self.kind.name()))?);
        let api = Api::new(&self.socket()).with_deadline(Duration::from_secs(5));
        while !api.get("/_ping").is_ok_and(|r| r.status == 200) {
            let ended = self
                .child
                .as_mut()
                .is_some_and(|c| c.try_wait().is_ok_and(|s| s.is_some()));
            if ended || before.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} doesn't start:\n{}", self.kind.name(), self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(before.elapsed())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let api = Api::new(&self.socket()).with_deadline(Duration::from_secs(60));
        let list = api.get("/containers/json?all=1").map(|r| r.json());
        for c in list.iter().filter_map(Value::as_array).flatten() {
            let id = c["Id"].as_str().unwrap_or_default();
            let _kept = api.delete(&format!("/containers/{id}?force=1"));
        }
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let tree = procfs::tree(pid);
        if let Some(daemon) = tree.first() {
            daemon.signal(rustix::process::Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && child.try_wait().is_ok_and(|s| s.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = child.kill();
        let _reaped = child.wait();
        if let Some(mut containerd) = self.containerd.take() {
            let _gone = containerd.kill();
            let _reaped = containerd.wait();
        }
        // shims, and podman's monitors of what was exec'd, which linger for minutes
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mut left = procfs::all();
        left.retain(|p| p.command.iter().any(|a| a.contains(&dir)));
        for process in tree.iter().chain(&left) {
            process.signal(rustix::process::Signal::KILL);
        }
        unmount_below(self.dir.path());
    }
}

/// Peers leave mounts in their directories; ours doesn't.
fn unmount_below(dir: &Path) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<&str> = text.lines().filter_map(|l| l.split(' ').nth(4)).collect();
    points.retain(|p| Path::new(p).starts_with(dir));
    for point in points.iter().rev() {
        let _busy = rustix::mount::unmount(*point, rustix::mount::UnmountFlags::DETACH);
    }
}

impl Engine {
    /// The engine's own command line.
    pub(crate) fn cli(&self) -> Command {
        match &self.process {
            Running::Ours(instance) => instance.plimsoll_command(),
            Running::Peer(peer) if peer.kind == Kind::Docker => {
                // the distribution's, beside which another may be installed
                let packaged = Path::new("/usr/bin/docker");
                let name = if packaged.exists() {
                    packaged
                } else {
                    Path::new("docker")
                };
                let mut command = program(name);
                command.env("DOCKER_HOST", format!("unix://{}", peer.socket().display()));
                command.env("DOCKER_CONFIG", peer.dir.path());
                command
            }
            Running::Peer(peer) => peer.podman(),
        }
    }

    /// Where containers must be put to be metered. Ours are below the daemon's own cgroup anyway.
    pub(crate) fn cgroup_parent(&self) -> Option<&str> {
        (self.kind != Kind::Plimsoll).then_some(self.meter.parent.as_str())
    }

    /// Where docker's containerd keeps the config of a running container.
    pub(crate) fn bundle(&self, id: &str) -> Option<PathBuf> {
        let Running::Peer(peer) = &self.process else {
            return None;
        };
        let tasks = "containerd-run/io.containerd.runtime.v2.task/moby";
        (peer.kind == Kind::Docker).then(|| peer.dir.path().join(tasks).join(id))
    }

    pub(crate) fn version(&self) -> String {
        let version = self.api.get("/version").map(|r| r.json());
        let text = version.map(|v| v["Version"].as_str().unwrap_or("?").to_owned());
        text.unwrap_or_else(|_| "?".to_owned())
    }

    fn daemon_pid(&self) -> Option<i32> {
        match &self.process {
            Running::Ours(instance) => instance.daemon().map(|p| p.pid),
            Running::Peer(peer) => i32::try_from(peer.child.as_ref()?.id()).ok(),
        }
    }

    /// Processes of the engine itself: the daemon and what it keeps running besides containers.
    pub(crate) fn daemons(&self) -> Vec<Process> {
        let mut daemon = self.daemon_pid().map(procfs::tree).unwrap_or_default();
        if let Running::Peer(peer) = &self.process {
            let containerd = peer.containerd.as_ref().map(Child::id);
            daemon.extend(containerd.and_then(|c| Process::read(i32::try_from(c).ok()?)));
        }
        let shims = self.shims();
        daemon
            .into_iter()
            .filter(|p| !shims.iter().any(|s| s.pid == p.pid))
            .collect()
    }

    /// The process that stays with each running container, the container's own left out.
    pub(crate) fn shims(&self) -> Vec<Process> {
        match &self.process {
            Running::Ours(instance) => {
                let own: Vec<i32> = [instance.daemon(), instance.spawner()]
                    .into_iter()
                    .flatten()
                    .map(|p| p.pid)
                    .collect();
                let mut found = instance.processes();
                found.retain(|p| !own.contains(&p.pid));
                found
            }
            Running::Peer(peer) => {
                let dir = peer.dir.path().to_string_lossy().into_owned();
                let name = if peer.kind == Kind::Docker {
                    "containerd-shim"
                } else {
                    "conmon"
                };
                let mut found = procfs::all();
                found.retain(|p| {
                    let exec = p.command.iter().any(|a| a == "--exec-attach");
                    !exec && p.name.starts_with(name) && p.command.iter().any(|a| a.contains(&dir))
                });
                found
            }
        }
    }

    /// kill -9 of the daemon and start again: until it answers, and until it lists all.
    pub(crate) fn kill_and_start(&mut self, containers: usize) -> Result<Duration, Failed> {
        let before = match &mut self.process {
            Running::Ours(instance) => {
                instance.kill9();
                let before = Instant::now();
                self.meter.within(|| instance.start());
                before
            }
            Running::Peer(peer) => {
                if let Some(mut child) = peer.child.take() {
                    child.kill()?;
                    child.wait()?;
                }
                let before = Instant::now();
                self.meter
                    .within(|| peer.start().map_err(|e| e.to_string()))?;
                before
            }
        };
        let list = self.api.get("/containers/json")?.json();
        let took = before.elapsed();
        let listed = list.as_array().map_or(0, Vec::len);
        if listed != containers {
            return Err(format!("{}: {listed} containers after it", self.kind.name()).into());
        }
        Ok(took)
    }

    /// Loads an image by the command line; removes it again.
    pub(crate) fn load(&self, archive: &Path) -> Result<(), Failed> {
        output(self.cli().args(["load", "--input"]).arg(archive)).map(drop)
    }

    pub(crate) fn remove_image(&self, name: &str) -> Result<(), Failed> {
        output(self.cli().args(["rmi", name])).map(drop)
    }
}
