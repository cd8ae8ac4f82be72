//! Starts a program in a container of Docker's defaults, COUNT times, and prints medians in
//! microseconds: the whole, and its parts.
//!
//! `run [--cgroup] [--unconfined] [--init] COUNT ROOTFS PROGRAM..`

#![expect(clippy::print_stdout, reason = "a bench program")]
#![expect(clippy::unwrap_used, reason = "a bench program fails by panicking")]

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use runtime::cgroup::Cgroup;
use runtime::{Asked, Descriptors, EncodedPlan, PlanInput, Rootfs, SeccompChoice};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::json;

const CAPS: [&str; 14] = [
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

fn spec(args: &[String]) -> Spec {
    let none = ["nosuid", "noexec", "nodev"];
    let value = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": none},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": none},
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
    });
    serde_json::from_value(value).unwrap()
}

struct Bench {
    spec: Spec,
    facts: host::Facts,
    cgroup: Option<Cgroup>,
    seccomp: SeccompChoice,
    init: bool,
    lower: PathBuf,
    work: PathBuf,
}

impl Bench {
    /// Plan, overlay, start until the program runs, its end, removal of its cgroups; the whole.
    fn once(&self, null: &std::fs::File) -> [u128; 6] {
        let begin = Instant::now();
        let mut marks = vec![begin];
        let plan = runtime::plan(&PlanInput {
            spec: &self.spec,
            facts: &self.facts,
            rootfs: Rootfs::Descriptor,
            cgroup: self.cgroup.as_ref(),
            seccomp: self.seccomp.clone(),
            init: self.init,
            mount_names: BTreeMap::new(),
            asked: Asked::default(),
            create_cwd: true,
            die_with_parent: true,
            choices: runtime::Choices::default(),
        })
        .unwrap();
        let encoded = EncodedPlan::decode(plan.encode()).unwrap();
        marks.push(Instant::now());
        let (upper, work) = (self.work.join("upper"), self.work.join("work"));
        let lowers = [self.lower.clone()];
        let options = runtime::rootfs::OverlayOptions::default();
        let root = runtime::rootfs::overlay(&lowers, Some((&upper, &work)), options).unwrap();
        marks.push(Instant::now());
        let fds = Descriptors {
            root: Some(root.as_fd()),
            stdio: [null.as_fd(); 3],
            target: None,
            passed: &[],
        };
        let spawned = runtime::spawn(&encoded, &fds)
            .map_err(|e| plan.explain(e))
            .unwrap();
        marks.push(Instant::now());
        let pidfd = WaitId::PidFd(spawned.pidfd.as_fd());
        let status = waitid(pidfd, WaitIdOptions::EXITED).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "{status:?}");
        marks.push(Instant::now());
        if let Some(c) = &self.cgroup {
            c.remove(Duration::from_secs(5)).unwrap();
        }
        marks.push(Instant::now());
        let mut out = [0; 6];
        for (o, w) in out.iter_mut().zip(marks.windows(2)) {
            *o = (w[1] - w[0]).as_micros();
        }
        out[5] = begin.elapsed().as_micros();
        out
    }
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| {
        let at = args.iter().position(|a| a == name);
        at.map(|at| args.remove(at)).is_some()
    };
    let (cgroup, unconfined, init) = (flag("--cgroup"), flag("--unconfined"), flag("--init"));
    let count: usize = args[0].parse().unwrap();
    let work = std::env::temp_dir().join(format!("plimsoll-run{}", std::process::id()));
    for d in ["upper", "work"] {
        std::fs::create_dir_all(work.join(d)).unwrap();
    }
    let facts = host::Facts::probe(&work, Duration::from_secs(5)).unwrap();
    let instance = runtime::cgroup::instance_name(Path::new(&work));
    let spec = spec(&args[2..]);
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let of = || Cgroup::of(&facts.cgroup, &instance, "bench", resources, None);
    let bench = Bench {
        cgroup: cgroup.then(of),
        seccomp: if unconfined {
            SeccompChoice::Unconfined
        } else {
            SeccompChoice::Default
        },
        init,
        lower: PathBuf::from(&args[1]),
        work: work.clone(),
        spec: spec.clone(),
        facts: facts.clone(),
    };
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let all: Vec<_> = (0..count).map(|_| bench.once(&null)).collect();
    let names = ["plan", "overlay", "start", "end", "remove", "whole"];
    for (n, name) in names.iter().enumerate() {
        let mut part: Vec<_> = all.iter().map(|a| a[n]).collect();
        part.sort_unstable();
        println!("{name:8} {:6}", part[count / 2]);
    }
    Cgroup::remove_instance(&facts.cgroup, &instance);
    std::fs::remove_dir_all(&work).unwrap();
}
