//! A spawner, containers with a busybox root, and what they leave.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use host::Facts;
use oci_spec::runtime::Spec;
use runtime::cgroup::Cgroup;
use runtime::{Asked, ExecInput, Plan, PlanInput, Rootfs, SeccompChoice};
use serde_json::{Value, json};
use shim::{
    AttachOptions, Event, Events, ExecLaunch, ExitRecord, Launch, LaunchError, Launched, LogPlan,
    Shim, Spawner, SpawnerConfig,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test starts containers: it needs root"
        );
        let dir = tempfile::tempdir().unwrap();
        Facts::probe(dir.path(), DEADLINE).unwrap()
    })
}

/// A root file system all tests share.
fn image() -> &'static Path {
    static IMAGE: OnceLock<TempDir> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            for d in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
                fs::create_dir_all(dir.path().join(d)).unwrap();
            }
            fs::copy("/bin/busybox", dir.path().join("bin/busybox"))
                .expect("busybox-static must be installed");
            for applet in [
                "sh", "cat", "ls", "true", "false", "sleep", "echo", "kill", "stty", "tty", "head",
                "yes", "dd", "ps", "grep", "seq", "readlink", "setsid", "tail", "wc", "usleep",
            ] {
                std::os::unix::fs::symlink("busybox", dir.path().join("bin").join(applet)).unwrap();
            }
            dir
        })
        .path()
}

pub(crate) fn instance() -> String {
    format!("plimsoll-shimtest{}", std::process::id())
}

/// A spawner with directories of its own.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) spawner: Spawner,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_environment(&[])
    }

    /// With environment variables for the spawner and its shims alone.
    pub(crate) fn with_environment(environment: &[(&str, String)]) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_shim-test-spawner"));
        let dir = tempfile::tempdir().unwrap();
        let config = SpawnerConfig {
            program: Some(program),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
            ..SpawnerConfig::default()
        };
        let spawner = Spawner::start(config).unwrap();
        Self { dir, spawner }
    }

    pub(crate) fn container(&self, script: &str) -> Container<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let container_dir = self.dir.path().join("containers").join(&id);
        fs::create_dir_all(&container_dir).unwrap();
        Container {
            world: self,
            launch: Launch {
                run_dir: self.dir.path().join("shims").join(&id),
                log: Some(LogPlan::capped(container_dir.join("json.log"))),
                container_dir,
                id,
                ..Launch::default()
            },
            spec: spec(&["sh", "-c", script]),
            init: false,
        }
    }
}

fn spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
        ],
        "linux": {
            "resources": {},
            "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}]
        }
    })
}

pub(crate) struct Container<'a> {
    world: &'a World,
    pub(crate) launch: Launch,
    pub(crate) spec: Value,
    /// PID 1 is our reaper.
    pub(crate) init: bool,
}

impl<'a> Container<'a> {
    pub(crate) fn launch(mut self, change: impl FnOnce(&mut Launch)) -> Self {
        change(&mut self.launch);
        self
    }

    pub(crate) fn tty(mut self) -> Self {
        self.spec["process"]["terminal"] = json!(true);
        self.launch.tty = true;
        self
    }

    pub(crate) fn interactive(self) -> Self {
        self.launch(|l| {
            l.open_stdin = true;
            l.stdin_once = true;
        })
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
        Cgroup::of(
            &facts().cgroup,
            &instance(),
            &self.launch.id,
            resources.as_ref(),
            None,
        )
    }

    pub(crate) fn plan(&self) -> Plan {
        let mut spec = self.spec.clone();
        if let Some((height, width)) = self.launch.console_size {
            spec["process"]["consoleSize"] = json!({"height": height, "width": width});
        }
        let spec: Spec = serde_json::from_value(spec).unwrap();
        runtime::plan(&PlanInput {
            spec: &spec,
            facts: facts(),
            rootfs: Rootfs::Path(image()),
            cgroup: Some(&self.cgroup()),
            seccomp: SeccompChoice::Unconfined,
            init: self.init,
            mount_names: std::collections::BTreeMap::default(),
            asked: Asked::default(),
            create_cwd: true,
            die_with_parent: true,
            choices: runtime::Choices::default(),
        })
        .unwrap()
    }

    pub(crate) fn exec_plan(&self, args: &[&str], exec: &ExecLaunch) -> Plan {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let mut process = self.spec["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(exec.tty);
        if let Some((height, width)) = exec.console_size {
            process["consoleSize"] = json!({"height": height, "width": width});
        }
        let process = serde_json::from_value(process).unwrap();
        runtime::plan_exec(&ExecInput {
            container: &spec,
            process: &process,
            facts: facts(),
            cgroup: Some(&self.cgroup()),
            seccomp: SeccompChoice::Unconfined,
            asked: Asked::default(),
            die_with_parent: true,
            choices: runtime::Choices::default(),
        })
        .unwrap()
    }

    pub(crate) async fn try_start(
        &self,
        attach: Vec<(AttachOptions, OwnedFd)>,
        deadline: Duration,
    ) -> Result<(Launched, Shim), LaunchError> {
        let spawner = &self.world.spawner;
        let plan = self.plan();
        Box::pin(spawner.launch(&self.launch, &plan, None, Vec::new(), attach, deadline)).await
    }

    pub(crate) async fn start(&self) -> Running<'_, 'a> {
        self.start_attached(Vec::new()).await
    }

    pub(crate) async fn start_attached(
        &self,
        attach: Vec<(AttachOptions, OwnedFd)>,
    ) -> Running<'_, 'a> {
        let (launched, shim) = self.try_start(attach, DEADLINE).await.unwrap();
        let events = shim.events();
        Running {
            container: self,
            launched,
            shim,
            events,
        }
    }

    /// Starts with a client on all streams.
    pub(crate) async fn start_with_client(&self) -> (Running<'_, 'a>, UnixStream) {
        let (ours, theirs) = pair();
        let running = self.start_attached(vec![(all_streams(), theirs)]).await;
        (running, ours)
    }

    pub(crate) fn log(&self) -> Vec<(String, String)> {
        let path = self.launch.container_dir.join("json.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| {
                let v: Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| v[key].as_str().unwrap().to_owned();
                (text("stream"), text("log"))
            })
            .collect()
    }

    /// Nothing of it is left: run directory, cgroups.
    pub(crate) fn assert_nothing_left(&self) {
        assert!(!self.launch.run_dir.exists(), "the run directory is left");
        let cgroup = self.cgroup();
        let left: Vec<_> = cgroup.paths().filter(|p| p.exists()).collect();
        assert!(left.is_empty(), "cgroups are left: {left:?}");
    }
}

pub(crate) struct Running<'c, 'a> {
    pub(crate) container: &'c Container<'a>,
    pub(crate) launched: Launched,
    pub(crate) shim: Shim,
    pub(crate) events: Events,
}

impl Running<'_, '_> {
    /// Its exit, and that everything is gone after it.
    pub(crate) async fn exit(&mut self) -> ExitRecord {
        let record = self.exit_record().await;
        within("the shim to be gone", self.shim.gone()).await;
        self.container.assert_nothing_left();
        record
    }

    pub(crate) async fn exit_record(&mut self) -> ExitRecord {
        loop {
            match within("the exit", self.events.next()).await {
                Some(Event::Exited(record)) => return record,
                Some(_) => {}
                None => panic!("the events ended without an exit"),
            }
        }
    }

    pub(crate) async fn exec_exit(&mut self, exec_id: &str) -> i32 {
        loop {
            match within("the exec's exit", self.events.next()).await {
                Some(Event::ExecExited { exec_id: id, code }) if id == exec_id => return code,
                Some(Event::ExecExited { .. } | Event::Oom) => {}
                other => panic!("instead of the exec's exit: {other:?}"),
            }
        }
    }

    /// Runs a program in it, with a client on all streams.
    pub(crate) async fn exec(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut ExecLaunch),
    ) -> UnixStream {
        let mut exec = ExecLaunch {
            exec_id: id.to_owned(),
            ..ExecLaunch::default()
        };
        change(&mut exec);
        let plan = self.container.exec_plan(args, &exec);
        let (ours, theirs) = pair();
        let attach = Some((all_streams(), theirs));
        self.shim
            .exec(&exec, &plan, attach, DEADLINE)
            .await
            .unwrap();
        ours
    }

    pub(crate) async fn kill(&self) {
        self.shim.signal(None, libc::SIGKILL, false).await.unwrap();
    }
}

pub(crate) fn all_streams() -> AttachOptions {
    AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        ..AttachOptions::default()
    }
}

pub(crate) fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (UnixStream::from_std(ours).unwrap(), theirs.into())
}

pub(crate) async fn within<T>(what: &str, f: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, f).await {
        Ok(value) => value,
        Err(_) => panic!("waited {DEADLINE:?} for {what}"),
    }
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads a framed stream to its end: what came on 1, 2 and 3.
pub(crate) async fn read_frames(mut stream: UnixStream) -> [String; 3] {
    let mut bytes = Vec::new();
    within("the end of the stream", stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    let mut out = [Vec::new(), Vec::new(), Vec::new()];
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        out[usize::from(rest[0]) - 1].extend_from_slice(&rest[8..8 + length]);
        rest = &rest[8 + length..];
    }
    out.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

pub(crate) async fn write(stream: &mut UnixStream, bytes: &[u8]) {
    within("the input to be taken", stream.write_all(bytes))
        .await
        .unwrap();
}

/// Reads until the text has come.
pub(crate) async fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
    let mut got = Vec::new();
    let mut chunk = [0; 1024];
    while !String::from_utf8_lossy(&got).contains(wanted) {
        let n = within(
            &format!("{wanted:?} on the stream"),
            stream.read(&mut chunk),
        )
        .await
        .unwrap();
        assert!(n > 0, "it ended with {:?}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&got).into_owned()
}

pub(crate) fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("X", |(_, s)| s);
    !state.starts_with(['X', 'Z'])
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
