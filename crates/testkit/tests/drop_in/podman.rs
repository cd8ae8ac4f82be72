//! Debian's podman with `--runtime`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use testkit::image::{BUSYBOX, Image};
use testkit::procfs::Process;
use testkit::until;

use crate::harness::{
    Left, Said, cgroup_value, namespace, needs, on_terminal, runtime_below, said,
};

/// A podman that shares nothing with the host's.
struct Podman {
    dir: tempfile::TempDir,
    runtime: PathBuf,
    left: Left,
}

impl Podman {
    fn new() -> Self {
        needs("podman", "podman");
        let dir = tempfile::Builder::new()
            .prefix("pl-pod-")
            .tempdir()
            .unwrap();
        let mark = dir
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        // its default limits want CAP_SYS_RESOURCE, which a machine may not give
        let limits =
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        fs::write(dir.path().join("containers.conf"), limits).unwrap();
        let state = dir.path().join("state");
        let podman = Self {
            // what conmon starts at the end of a container isn't told `--runtime-flag`
            runtime: runtime_below(&state, dir.path()),
            left: Left {
                dir: dir.path().to_owned(),
                root: state,
                mark,
                // beside conmon's, a pod's, and the parent that it was told
                inside: "libpod-",
            },
            dir,
        };
        let archive = podman.dir.path().join("image.tar");
        fs::write(&archive, Image::busybox().unwrap().archive()).unwrap();
        podman.ok(&["load", "--input", archive.to_str().unwrap()]);
        podman
    }

    fn words(&self) -> Vec<String> {
        let dir = self.dir.path();
        let mut words = vec!["podman".to_owned()];
        for (flag, value) in [
            ("--root", dir.join("data")),
            ("--runroot", dir.join("run")),
            ("--tmpdir", dir.join("tmp")),
            ("--runtime", self.runtime.clone()),
            ("--cgroup-manager", "cgroupfs".into()),
            ("--events-backend", "file".into()),
            ("--storage-driver", "overlay".into()),
        ] {
            words.extend([flag.to_owned(), value.to_string_lossy().into_owned()]);
        }
        words
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words();
        let mut command = testkit::instance::command(&words[0]);
        command.env("CONTAINERS_CONF", self.dir.path().join("containers.conf"));
        command.args(&words[1..]).args(arguments);
        command
    }

    #[track_caller]
    fn said(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments), "")
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.said(arguments).ok()
    }

    /// `podman run` with what every container here needs.
    #[track_caller]
    fn run(&self, flags: &[&str], command: &[&str]) -> Said {
        let parent = format!("/{}", self.left.mark);
        let mut all = vec!["run", "--cgroup-parent", &parent];
        if !flags.contains(&"--pod") {
            all.extend(["--network", "none"]);
        }
        all.extend(flags);
        all.push(BUSYBOX);
        all.extend(command);
        self.said(&all)
    }

    /// A running container of this name.
    #[track_caller]
    fn start(&self, name: &str, flags: &[&str], command: &[&str]) -> Process {
        let mut all = vec!["--detach", "--name", name];
        all.extend(flags);
        self.run(&all, command).ok();
        self.process(name)
    }

    #[track_caller]
    fn inspect(&self, name: &str, what: &str) -> String {
        let said = self.ok(&["inspect", "--format", &format!("{{{{{what}}}}}"), name]);
        said.trim().to_owned()
    }

    #[track_caller]
    fn process(&self, name: &str) -> Process {
        let pid = self.inspect(name, ".State.Pid").parse().unwrap();
        Process::read(pid).unwrap()
    }

    /// Removes everything, and looks at what is left.
    #[track_caller]
    fn end(self) {
        self.ok(&["rm", "--all", "--force", "--time", "0"]);
        self.left.assert_nothing();
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _done = said(&mut self.command(&["pod", "rm", "--all", "--force"]), "");
        let remove = ["rm", "--all", "--force", "--time", "0"];
        let _done = said(&mut self.command(&remove), "");
        self.left.clear();
    }
}

#[test]
fn podman_runs_and_tells_exit_codes() {
    let podman = Podman::new();
    let said = podman.run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7));
    assert!(said.err.contains("err\n"), "{said:?}");
    assert_eq!(podman.run(&["--rm"], &["no-such-program"]).code, 127);
    assert_eq!(podman.run(&["--rm"], &["/etc/passwd"]).code, 126);
    let flags = [
        "--rm",
        "--env",
        "A=b c",
        "--workdir",
        "/tmp",
        "--user",
        "1000:2000",
    ];
    let said = podman
        .run(&flags, &["sh", "-c", "echo $A; pwd; id -u; id -g"])
        .ok();
    assert_eq!(said, "b c\n/tmp\n1000\n2000\n");
    let parent = format!("/{}", podman.left.mark);
    let run = [
        "run",
        "--rm",
        "-i",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
    ];
    let mut command = podman.command(&run);
    let said = said_with(command.args([BUSYBOX, "wc", "-c"]), "12345");
    assert_eq!(said.trim(), "5");
    podman.end();
}

#[track_caller]
fn said_with(command: &mut Command, input: &str) -> String {
    said(command, input).ok()
}

#[test]
fn podman_confines_as_it_was_told() {
    let podman = Podman::new();
    let status = [
        "sh",
        "-c",
        "grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status",
    ];
    let said = podman.run(&["--rm"], &status).ok();
    assert!(said.contains("Seccomp:\t2"), "podman's filter: {said}");
    let flags = [
        "--rm",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
    ];
    let said = podman.run(&flags, &status).ok();
    assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
    assert!(said.contains("NoNewPrivs:\t1"), "{said}");
    let flags = [
        "--rm",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--hostname",
        "hull",
    ];
    let script = "hostname; echo a >/scratch/a && cat /scratch/a; echo b >/etc/b || echo refused";
    let said = podman.run(&flags, &["sh", "-c", script]).ok();
    assert_eq!(said, "hull\na\nrefused\n");
    let host = podman.dir.path().join("volume");
    fs::create_dir(&host).unwrap();
    let bind = format!("{}:/v", host.display());
    podman
        .run(
            &["--rm", "--volume", &bind],
            &["sh", "-c", "echo kept >/v/f"],
        )
        .ok();
    assert_eq!(fs::read_to_string(host.join("f")).unwrap(), "kept\n");
    let flags = [
        "--rm",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "nproc=1024:1024",
        "--sysctl",
        "net.ipv4.ip_forward=1",
    ];
    let script = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward";
    assert_eq!(
        podman.run(&flags, &["sh", "-c", script]).ok(),
        "100\n200\n1\n"
    );
    podman.end();
}

#[test]
fn podman_maps_users() {
    let podman = Podman::new();
    let flags = [
        "--rm",
        "--uidmap",
        "0:100000:65536",
        "--gidmap",
        "0:100000:65536",
    ];
    let script = "cat /proc/self/uid_map; id -u; touch /etc/mine && ls -n /etc/mine";
    let said = podman.run(&flags, &["sh", "-c", script]).ok();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..4], ["0", "100000", "65536", "0"], "{said}");
    podman.end();
}

#[test]
fn podman_executes_in_a_running_container() {
    let podman = Podman::new();
    podman.start("c", &[], &["sleep", "1000"]);
    let script = "echo out; echo err >&2; exit 3";
    let said = podman.said(&["exec", "c", "sh", "-c", script]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", 3), "{said:?}");
    assert!(said.err.contains("err\n"), "{said:?}");
    assert_eq!(podman.said(&["exec", "c", "no-such-program"]).code, 127);
    assert_eq!(podman.said(&["exec", "c", "/etc/passwd"]).code, 126);
    let flags = [
        "exec",
        "--env",
        "A=b",
        "--workdir",
        "/tmp",
        "--user",
        "user",
        "c",
    ];
    let mut command = podman.command(&flags);
    command.args(["sh", "-c", "echo $A; pwd; id -u; id -G"]);
    let said = said_with(&mut command, "");
    assert_eq!(said, "b\n/tmp\n1000\n1000 2000\n");
    let mut command = podman.command(&["exec", "-i", "c", "wc", "-c"]);
    assert_eq!(said_with(&mut command, "123").trim(), "3");
    podman.ok(&["exec", "--detach", "c", "sh", "-c", "echo done >/tmp/done"]);
    until("a detached process", Duration::from_secs(20), || {
        let said = podman.said(&["exec", "c", "cat", "/tmp/done"]);
        (said.out == "done\n").then_some(())
    });
    podman.end();
}

#[test]
fn podman_gives_terminals() {
    let podman = Podman::new();
    let said = podman.run(
        &["--rm", "--tty"],
        &["sh", "-c", "tty; test -c /dev/console"],
    );
    assert_eq!(said.out, "/dev/pts/0\r\n", "{said:?}");
    assert_eq!(said.code, 0, "{said:?}");
    podman.start("c", &[], &["sleep", "1000"]);
    let conf = podman.dir.path().join("containers.conf");
    // podman gives the terminal inside the size of the one outside, some time after the start
    let sized = ["sh", "-c", "stty rows 12 columns 34; exec \"$@\"", "sh"];
    let mut words: Vec<String> = sized.map(str::to_owned).to_vec();
    words.push("env".to_owned());
    words.push(format!("CONTAINERS_CONF={}", conf.display()));
    words.extend(podman.words());
    let script = "i=0; until [ \"$(stty size 2>&1)\" = \"12 34\" ] || [ $i = 100 ]; do i=$((i+1)); \
                  sleep 0.1; done; tty; stty size; id -u";
    words.extend(["exec", "--interactive", "--tty", "c", "sh", "-c", script].map(str::to_owned));
    assert_eq!(on_terminal(&words), "/dev/pts/0\n12 34\n0\n");
    podman.end();
}

#[test]
fn podman_stops_kills_and_restarts() {
    let podman = Podman::new();
    let polite = [
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done",
    ];
    podman.start("c", &[], &polite);
    until("the trap", Duration::from_secs(20), || {
        podman.ok(&["logs", "c"]).contains("up").then_some(())
    });
    podman.ok(&["stop", "--time", "20", "c"]);
    assert_eq!(podman.inspect("c", ".State.ExitCode"), "5");
    assert_eq!(podman.inspect("c", ".State.Status"), "exited");
    podman.ok(&["start", "c"]);
    let first = podman.process("c");
    podman.ok(&["restart", "--time", "0", "c"]);
    assert!(!first.is_alive(), "the process before the restart");
    let second = podman.process("c");
    assert!(second.is_alive());
    podman.ok(&["kill", "--signal", "KILL", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]).trim(), "137");
    assert!(!second.is_alive());
    podman.end();
}

#[test]
fn podman_pauses_and_resumes() {
    let podman = Podman::new();
    let process = podman.start("c", &[], &["sh", "-c", "while :; do :; done"]);
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.inspect("c", ".State.Status"), "paused");
    let ticks = || Process::read(process.pid).unwrap().ticks;
    let before = ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(), before, "a frozen process uses no time");
    podman.ok(&["unpause", "c"]);
    assert_eq!(podman.inspect("c", ".State.Status"), "running");
    until("time used again", Duration::from_secs(20), || {
        (ticks() > before).then_some(())
    });
    podman.end();
}

#[test]
fn podman_limits_updates_and_measures() {
    let podman = Podman::new();
    let flags = [
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
    ];
    let process = podman.start("c", &flags, &["sleep", "1000"]);
    let value = |controller, file| cgroup_value(process.pid, controller, file);
    assert_eq!(
        value("memory", "memory.limit_in_bytes"),
        (64 << 20).to_string()
    );
    assert_eq!(value("pids", "pids.max"), "50");
    assert_eq!(value("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(value("cpu", "cpu.shares"), "512");
    podman.ok(&["update", "--memory", "32m", "--cpu-shares", "256", "c"]);
    assert_eq!(
        value("memory", "memory.limit_in_bytes"),
        (32 << 20).to_string()
    );
    assert_eq!(value("cpu", "cpu.shares"), "256");
    let format = "{{.PIDs}} {{.MemUsage}}";
    let stats = podman.ok(&["stats", "--no-stream", "--format", format, "c"]);
    assert!(stats.starts_with("1 "), "{stats}");
    assert!(stats.contains("/ 67.11MB"), "{stats}");
    let top = podman.ok(&["top", "c", "pid", "args"]);
    assert!(top.contains("sleep 1000"), "{top}");
    // more than is allowed: killed, and told
    podman.ok(&["update", "--memory", "8m", "c"]);
    let hog = "a=x; while :; do a=$a$a; done";
    assert_eq!(podman.said(&["exec", "c", "sh", "-c", hog]).code, 137);
    podman.end();
}

#[test]
fn podman_makes_pods() {
    let podman = Podman::new();
    let parent = format!("/{}", podman.left.mark);
    let create = [
        "pod",
        "create",
        "--name",
        "p",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
    ];
    let mut command = podman.command(&create);
    command.args(["--infra-image", BUSYBOX, "--infra-command", "sleep 1000"]);
    said(command.args(["--share", "net,ipc,uts"]), "").ok();
    let one = podman.start("one", &["--pod", "p"], &["sleep", "1000"]);
    let two = podman.start("two", &["--pod", "p"], &["sleep", "1000"]);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(one.pid, kind), namespace(two.pid, kind), "{kind}");
        assert_ne!(
            namespace(one.pid, kind),
            namespace(std::process::id().cast_signed(), kind)
        );
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(namespace(one.pid, kind), namespace(two.pid, kind), "{kind}");
    }
    // and the process namespace of a container, by path
    let one = podman.start("four", &[], &["sleep", "1000"]);
    let three = podman.start("three", &["--pid", "container:four"], &["sleep", "1000"]);
    assert_eq!(namespace(one.pid, "pid"), namespace(three.pid, "pid"));
    let seen = podman.ok(&["exec", "three", "ps", "-o", "args"]);
    assert_eq!(seen.matches("sleep 1000").count(), 2, "{seen}");
    for name in ["three", "four"] {
        podman.ok(&["rm", "--force", "--time", "0", name]);
    }
    podman.ok(&["pod", "pause", "p"]);
    assert_eq!(podman.inspect("two", ".State.Status"), "paused");
    podman.ok(&["pod", "unpause", "p"]);
    podman.ok(&["pod", "kill", "p"]);
    podman.ok(&["pod", "rm", "--force", "p"]);
    podman.end();
}

#[test]
fn podman_restarts_what_ends_by_itself() {
    let podman = Podman::new();
    let flags = ["--detach", "--name", "c", "--restart", "on-failure:2"];
    podman.run(&flags, &["sh", "-c", "echo run; exit 1"]).ok();
    until("two restarts", Duration::from_secs(30), || {
        (podman.ok(&["logs", "c"]).matches("run").count() == 3).then_some(())
    });
    podman.end();
}

#[test]
fn podman_adopts_what_lost_its_monitor() {
    let podman = Podman::new();
    let process = podman.start("c", &[], &["sleep", "1000"]);
    let conmon = Process::read(process.parent).unwrap();
    assert_eq!(conmon.name, "conmon");
    conmon.signal(Signal::KILL);
    // the runtime alone still knows it: exec, kill and delete need no monitor
    assert_eq!(podman.ok(&["exec", "c", "echo", "here"]), "here\n");
    let id = podman.inspect("c", ".Id");
    // podman itself leaves it behind then, with any runtime
    let mut delete = testkit::instance::command(&podman.runtime);
    said(delete.args(["delete", "--force", &id]), "").ok();
    assert!(!process.is_alive());
    podman.left.assert_nothing();
}
