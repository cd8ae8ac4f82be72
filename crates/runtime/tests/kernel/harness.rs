//! A container in a test: a busybox root, Docker's defaults, output and exit status.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use host::Facts;
use oci_spec::runtime::Spec;
use runtime::cgroup::Cgroup;
use runtime::{
    Asked, Choices, Descriptors, EncodedPlan, ExecInput, PlanInput, Rootfs, SeccompChoice, Spawned,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

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

/// Control groups of version 2 alone.
pub(crate) fn v2_alone() -> bool {
    facts().cgroup.mode == host::CgroupMode::V2
}
/// What of busybox the image has.
const APPLETS: &str = "sh cat ls id env mount umount true false sleep hostname stat mkdir touch echo readlink ps \
    kill test tty stty head wc ifconfig grep ln rm mknod dd chmod od yes tail unshare chown \
    date setsid find cut sort nproc taskset ip chrt nice ionice uname mountpoint printenv \
    dnsdomainname mkfifo pwd umask";

/// The lower directory all tests share.
fn image() -> &'static Path {
    static IMAGE: OnceLock<TempDir> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            for d in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "var/lib"] {
                fs::create_dir_all(dir.path().join(d)).unwrap();
            }
            fs::copy("/bin/busybox", dir.path().join("bin/busybox"))
                .expect("busybox-static must be installed");
            for applet in APPLETS.split_whitespace() {
                let at = dir.path().join("bin").join(applet);
                std::os::unix::fs::symlink("busybox", at).unwrap();
            }
            fs::write(
                dir.path().join("etc/passwd"),
                "root:x:0:0:root:/root:/bin/sh\n",
            )
            .unwrap();
            dir
        })
        .path()
}

/// What a test asks for; the defaults are Docker's.
pub(crate) struct Container {
    pub(crate) spec: Value,
    pub(crate) dir: TempDir,
    pub(crate) init: bool,
    pub(crate) seccomp: SeccompChoice,
    pub(crate) asked: Asked,
    pub(crate) mount_names: BTreeMap<PathBuf, String>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) passed: Vec<OwnedFd>,
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) root_by_path: bool,
    /// The upper directory belongs to the mapped root.
    pub(crate) open_upper: bool,
    /// An overlay that can't be written at all.
    pub(crate) read_only_overlay: bool,
    pub(crate) cgroup_id: String,
    pub(crate) choices: Choices,
    /// Of whoever starts it, where that isn't this process' root.
    pub(crate) facts: Facts,
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Exit code, 128 + signal when killed.
    pub(crate) code: i32,
}

pub(crate) const DEFAULT_CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub(crate) fn docker_spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "box",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/bin:/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {
                "bounding": DEFAULT_CAPS, "effective": DEFAULT_CAPS, "permitted": DEFAULT_CAPS
            }
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"},
                {"type": "ipc"}, {"type": "cgroup"}
            ],
            "maskedPaths": [
                "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

impl Container {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self {
            spec: docker_spec(args),
            dir: tempfile::tempdir().unwrap(),
            init: false,
            seccomp: SeccompChoice::Default,
            asked: Asked::default(),
            mount_names: BTreeMap::new(),
            cgroup: None,
            passed: Vec::new(),
            lowers: vec![image().to_owned()],
            root_by_path: false,
            open_upper: false,
            read_only_overlay: false,
            cgroup_id: String::new(),
            choices: Choices::default(),
            facts: facts().clone(),
        }
    }

    /// `sh -c script`.
    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    /// Sets a value in the spec by JSON pointer; `-` appends to an array.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let at = self
            .spec
            .pointer_mut(parent)
            .unwrap_or_else(|| panic!("no {parent}"));
        match at {
            Value::Array(a) if key == "-" => a.push(value),
            Value::Array(a) => a[key.parse::<usize>().unwrap()] = value,
            other => other[key] = value,
        }
        self
    }

    pub(crate) fn mount(self, target: &str, kind: &str, source: &Path, options: &[&str]) -> Self {
        let m = json!({"destination": target, "type": kind, "source": source, "options": options});
        self.set("/mounts/-", m)
    }

    pub(crate) fn bind(self, target: &str, source: &Path, options: &[&str]) -> Self {
        self.mount(target, "bind", source, options)
    }

    pub(crate) fn caps(mut self, caps: &[&str]) -> Self {
        for set in ["bounding", "effective", "permitted"] {
            self.spec["process"]["capabilities"][set] = json!(caps);
        }
        self
    }

    /// A layer on top of the image's, filled by `make`.
    pub(crate) fn layer(mut self, make: impl FnOnce(&Path)) -> Self {
        let layer = self.dir.path().join(format!("layer{}", self.lowers.len()));
        fs::create_dir(&layer).unwrap();
        make(&layer);
        self.lowers.insert(0, layer);
        self
    }

    /// With an own cgroup, limited by the spec's resources.
    pub(crate) fn in_cgroup(mut self) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.cgroup_id = format!("test{n}");
        let spec = self.spec();
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
        self.cgroup = Some(Cgroup::of(
            &facts().cgroup,
            &instance(),
            &self.cgroup_id,
            resources.as_ref(),
            None,
        ));
        self
    }

    pub(crate) fn spec(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.path().join("upper")
    }

    pub(crate) fn root(&self) -> OwnedFd {
        for d in ["upper", "work"] {
            let _again = fs::create_dir(self.dir.path().join(d));
        }
        let (upper, work) = (self.upper(), self.dir.path().join("work"));
        if self.open_upper {
            std::os::unix::fs::chown(&upper, Some(100_000), Some(100_000)).unwrap();
        }
        runtime::rootfs::overlay(
            &self.lowers,
            Some((&upper, &work)),
            runtime::rootfs::OverlayOptions {
                read_only: self.read_only_overlay,
                ..Default::default()
            },
        )
        .unwrap()
    }

    pub(crate) fn plan(&self) -> Result<runtime::Plan, runtime::PlanError> {
        let spec = self.spec();
        runtime::plan(&PlanInput {
            spec: &spec,
            facts: &self.facts,
            rootfs: if self.root_by_path {
                Rootfs::Path(&self.lowers[0])
            } else {
                Rootfs::Descriptor
            },
            cgroup: self.cgroup.as_ref(),
            seccomp: self.seccomp.clone(),
            init: self.init,
            mount_names: self.mount_names.clone(),
            asked: self.asked.clone(),
            create_cwd: true,
            die_with_parent: true,
            choices: self.choices.clone(),
        })
    }

    /// Starts; the caller gets the process and the ends of its stdio.
    pub(crate) fn start(&self) -> Result<Running, String> {
        let plan = self.plan().unwrap();
        let root = (!self.root_by_path).then(|| self.root());
        let passed: Vec<_> = self.passed.iter().map(AsFd::as_fd).collect();
        let (stdio, pipes) = Pipes::new();
        let encoded = EncodedPlan::decode(plan.encode()).unwrap();
        let fds = Descriptors {
            root: root.as_ref().map(AsFd::as_fd),
            stdio: stdio.each_ref().map(AsFd::as_fd),
            target: None,
            passed: &passed,
        };
        let spawned = runtime::spawn(&encoded, &fds).map_err(|e| {
            Cgroup::remove_instance(&facts().cgroup, &instance());
            format!("{} ({})", plan.explain(e), plan.exit_code(e))
        })?;
        Ok(Running {
            spawned,
            pipes,
            cgroup: encoded.cgroup(),
        })
    }

    pub(crate) fn run(&self) -> Output {
        self.start().unwrap_or_else(|e| panic!("{e}")).finish()
    }

    /// Starts and expects a failure, in words with the exit code.
    pub(crate) fn fails(&self) -> String {
        match self.start() {
            Err(e) => e,
            Ok(r) => panic!("it started: {:?}", r.finish()),
        }
    }

    /// Runs another process in the container of `target`.
    pub(crate) fn exec(
        &self,
        target: &Running,
        args: &[&str],
        tweak: impl FnOnce(&mut Value),
    ) -> Result<Running, String> {
        let spec = self.spec();
        let mut process = self.spec["process"].clone();
        process["args"] = json!(args);
        tweak(&mut process);
        let process = serde_json::from_value(process).unwrap();
        let plan = runtime::plan_exec(&ExecInput {
            container: &spec,
            process: &process,
            facts: &self.facts,
            cgroup: self.cgroup.as_ref(),
            seccomp: self.seccomp.clone(),
            asked: self.asked.clone(),
            die_with_parent: true,
            choices: self.choices.clone(),
        })
        .unwrap();
        let (stdio, pipes) = Pipes::new();
        let encoded = EncodedPlan::decode(plan.encode()).unwrap();
        let fds = Descriptors {
            root: None,
            stdio: stdio.each_ref().map(AsFd::as_fd),
            target: Some(target.spawned.pidfd.as_fd()),
            passed: &[],
        };
        let spawned = runtime::spawn(&encoded, &fds)
            .map_err(|e| format!("{} ({})", plan.explain(e), plan.exit_code(e)))?;
        Ok(Running {
            spawned,
            pipes,
            cgroup: None,
        })
    }
}

/// The instance name of this test process' cgroups.
pub(crate) fn instance() -> String {
    format!("plimsoll-test{}", std::process::id())
}

pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    fn new() -> ([OwnedFd; 3], Self) {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (in_r, in_w) = pipe();
        let (out_r, out_w) = pipe();
        let (err_r, err_w) = pipe();
        let theirs = [in_r, out_w, err_w];
        let ours = Self {
            stdin: Some(in_w),
            stdout: out_r,
            stderr: err_r,
        };
        (theirs, ours)
    }
}

pub(crate) struct Running {
    pub(crate) spawned: Spawned,
    pub(crate) pipes: Pipes,
    pub(crate) cgroup: Option<Cgroup>,
}

impl Running {
    /// Reads all output, waits for the end, removes the cgroup.
    pub(crate) fn finish(mut self) -> Output {
        self.pipes.stdin = None;
        let text = |fd: &OwnedFd| {
            let mut out = Vec::new();
            File::from(fd.try_clone().unwrap())
                .read_to_end(&mut out)
                .unwrap();
            String::from_utf8_lossy(&out).into_owned()
        };
        let (stdout, stderr) = (text(&self.pipes.stdout), text(&self.pipes.stderr));
        let code = self.wait();
        if let Some(c) = self.cgroup.take() {
            c.remove(DEADLINE).unwrap();
            assert!(c.paths().all(|p| !p.exists()), "a cgroup is left");
            Cgroup::remove_instance(&facts().cgroup, &instance());
        }
        Output {
            stdout,
            stderr,
            code,
        }
    }

    pub(crate) fn wait(&self) -> i32 {
        let pidfd = self.spawned.pidfd.as_fd();
        let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
        status
            .exit_status()
            .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
    }

    pub(crate) fn kill(&self, signal: rustix::process::Signal) {
        rustix::process::pidfd_send_signal(&self.spawned.pidfd, signal).unwrap();
    }

    /// The next line of its output.
    pub(crate) fn line(&self) -> String {
        let mut out = Vec::new();
        let mut byte = [0];
        while rustix::io::read(&self.pipes.stdout, &mut byte).unwrap() == 1 && byte[0] != b'\n' {
            out.push(byte[0]);
        }
        String::from_utf8(out).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone =
            rustix::process::pidfd_send_signal(&self.spawned.pidfd, rustix::process::Signal::KILL);
        let _reaped = waitid(
            WaitId::PidFd(self.spawned.pidfd.as_fd()),
            WaitIdOptions::EXITED,
        );
        if let Some(c) = self.cgroup.take() {
            c.remove(DEADLINE).unwrap();
            Cgroup::remove_instance(&facts().cgroup, &instance());
        }
    }
}
