//! Debian's containerd, whose shim calls our binary in runc's place.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use testkit::image::Image;
use testkit::procfs::Process;
use testkit::until;

use crate::harness::{Left, Said, cgroup_value, namespace, needs, on_terminal, runtime, said};

const IMAGE: &str = "docker.io/library/busybox:test";

/// A containerd that shares nothing with the host's, and is talked to with `ctr`.
struct Containerd {
    dir: tempfile::TempDir,
    runtime: PathBuf,
    child: Option<Child>,
    left: Left,
}

impl Containerd {
    fn new() -> Self {
        needs("containerd", "containerd");
        let dir = tempfile::Builder::new()
            .prefix("pl-ctr-")
            .tempdir()
            .unwrap();
        let mark = dir
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let config = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut containerd = Self {
            runtime: runtime(dir.path()),
            child: None,
            left: Left {
                dir: dir.path().to_owned(),
                root: dir.path().join("runc-state").join(&mark),
                mark,
                // the namespace's own stays: containerd never removes it
                inside: "/",
            },
            dir,
        };
        containerd.start();
        let archive = containerd.dir.path().join("image.tar");
        let image = Image::busybox().unwrap().named(IMAGE);
        fs::write(&archive, image.archive()).unwrap();
        let archive = archive.to_str().unwrap();
        containerd.ok(&["images", "import", "--snapshotter", "native", archive]);
        containerd
    }

    fn start(&mut self) {
        let dir = self.dir.path();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"));
        let log = log.unwrap();
        let child = testkit::instance::command("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--state")
            .arg(dir.join("state"))
            .arg("--address")
            .arg(dir.join("s"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
        until("containerd", Duration::from_secs(30), || {
            let said = self.said(&["version"]);
            (said.code == 0).then_some(())
        });
    }

    fn kill9(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A namespace with the mark: it is in the path of each container's cgroup.
    fn words(&self) -> Vec<String> {
        let socket = self.dir.path().join("s");
        let words = ["ctr", "--address", socket.to_str().unwrap(), "--namespace"];
        let mut words: Vec<String> = words.map(str::to_owned).to_vec();
        words.push(self.left.mark.clone());
        words
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let words = self.words();
        let mut command = testkit::instance::command(&words[0]);
        command.args(&words[1..]).args(arguments);
        command
    }

    #[track_caller]
    fn said(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments), "")
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.said(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}\n{}", self.log());
        said.out
    }

    /// Words of `ctr run` with our runtime.
    fn run_words(&self, flags: &[&str], name: &str, command: &[&str]) -> Vec<String> {
        let root = self.dir.path().join("runc-state");
        let mut words = vec!["run".to_owned(), "--snapshotter".into(), "native".into()];
        words.extend([
            "--runc-binary".into(),
            self.runtime.to_string_lossy().into_owned(),
        ]);
        words.extend(["--runc-root".into(), root.to_string_lossy().into_owned()]);
        words.extend(flags.iter().map(|f| (*f).to_owned()));
        words.extend([IMAGE.to_owned(), name.to_owned()]);
        words.extend(command.iter().map(|c| (*c).to_owned()));
        words
    }

    #[track_caller]
    fn run(&self, flags: &[&str], name: &str, command: &[&str]) -> Said {
        let words = self.run_words(flags, name, command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.said(&words)
    }

    /// A running container; its first process.
    #[track_caller]
    fn detached(&self, flags: &[&str], name: &str, command: &[&str]) -> Process {
        let mut all = vec!["--detach"];
        all.extend(flags);
        let said = self.run(&all, name, command);
        assert_eq!(said.code, 0, "{said:?}\n{}", self.log());
        self.process(name)
    }

    #[track_caller]
    fn task(&self, name: &str) -> Option<(i32, String)> {
        let list = self.ok(&["tasks", "list"]);
        let line = list.lines().find(|l| l.starts_with(&format!("{name} ")))?;
        let mut words = line.split_whitespace().skip(1);
        let pid = words.next()?.parse().ok()?;
        Some((pid, words.next()?.to_owned()))
    }

    #[track_caller]
    fn process(&self, name: &str) -> Process {
        let (pid, _) = self.task(name).unwrap();
        Process::read(pid).unwrap()
    }

    #[track_caller]
    fn status_becomes(&self, name: &str, status: &str) {
        until(status, Duration::from_secs(20), || {
            let (_, now) = self.task(name)?;
            (now == status).then_some(())
        });
    }

    fn remove_all(&self) {
        let tasks = self.said(&["tasks", "list", "--quiet"]).out;
        for task in tasks.split_whitespace() {
            let _gone = self.said(&["tasks", "delete", "--force", task]);
        }
        let containers = self.said(&["containers", "list", "--quiet"]).out;
        for container in containers.split_whitespace() {
            let _gone = self.said(&["containers", "delete", container]);
        }
    }

    /// Removes everything, stops containerd, and looks at what is left.
    #[track_caller]
    fn end(mut self) {
        self.remove_all();
        assert_eq!(self.ok(&["containers", "list", "--quiet"]), "");
        let child = self.child.as_mut().unwrap();
        let daemon = Process::read(i32::try_from(child.id()).unwrap()).unwrap();
        daemon.signal(Signal::TERM);
        child.wait().unwrap();
        self.child = None;
        self.left.assert_nothing();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.remove_all();
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        self.left.clear();
    }
}

#[test]
fn containerd_runs_and_tells_exit_codes() {
    let containerd = Containerd::new();
    let said = containerd.run(
        &["--rm"],
        "a",
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
    );
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7), "{said:?}");
    assert_eq!(said.err, "err\n");
    // the runtime's own words reach the user through its log file
    let said = containerd.run(&["--rm"], "b", &["no-such-program"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("no-such-program"), "{said:?}");
    assert!(said.err.contains("not found"), "{said:?}");
    let flags = ["--rm", "--env", "A=b c", "--cwd", "/tmp"];
    let script = "echo $A; pwd";
    let said = containerd.run(&flags, "c", &["sh", "-c", script]).ok();
    assert_eq!(said, "b c\n/tmp\n");
    let flags = ["--rm", "--read-only", "--seccomp"];
    let script = "touch /x || grep Seccomp: /proc/self/status";
    let said = containerd.run(&flags, "d", &["sh", "-c", script]).ok();
    assert_eq!(said, "Seccomp:\t2\n");
    containerd.end();
}

#[test]
fn containerd_executes_in_a_running_container() {
    let containerd = Containerd::new();
    containerd.detached(&[], "c", &["sleep", "1000"]);
    let exec = |id: &str, flags: &[&str], command: &[&str]| {
        let mut all = vec!["tasks", "exec", "--exec-id", id];
        all.extend(flags);
        all.push("c");
        all.extend(command);
        containerd.said(&all)
    };
    let said = exec("a", &[], &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", 3), "{said:?}");
    assert_eq!(said.err, "err\n");
    let flags = ["--cwd", "/tmp", "--user", "1000"];
    let said = exec("b", &flags, &["sh", "-c", "pwd; id -u"]);
    assert_eq!(said.out, "/tmp\n1000\n", "{said:?}");
    let said = exec("d", &[], &["no-such-program"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("no-such-program"), "{said:?}");
    assert!(said.err.contains("not found"), "{said:?}");
    // the container lives on
    assert_eq!(containerd.task("c").unwrap().1, "RUNNING");
    let seen = containerd.ok(&["tasks", "ps", "c"]);
    assert_eq!(seen.lines().count(), 2, "{seen}");
    containerd.end();
}

#[test]
fn containerd_gives_terminals() {
    let containerd = Containerd::new();
    let words = |rest: Vec<String>| {
        let mut words = containerd.words();
        words.extend(rest);
        words
    };
    let script = "tty; test -c /dev/console && stty rows 12 columns 34 && stty size";
    let run = containerd.run_words(&["--rm", "--tty"], "a", &["sh", "-c", script]);
    assert_eq!(on_terminal(&words(run)), "/dev/pts/0\n12 34\n");
    containerd.detached(&[], "c", &["sleep", "1000"]);
    let exec = [
        "tasks",
        "exec",
        "--tty",
        "--exec-id",
        "x",
        "c",
        "sh",
        "-c",
        "tty",
    ];
    let said = on_terminal(&words(exec.map(str::to_owned).to_vec()));
    // ctr complains on the terminal when a process ends before it could tell the size
    assert!(
        said.starts_with(
            "/dev/pts/0
"
        ),
        "{said}"
    );
    containerd.end();
}

#[test]
fn containerd_stops_kills_and_restarts() {
    let containerd = Containerd::new();
    let mark = containerd.dir.path().join("up");
    fs::create_dir(&mark).unwrap();
    let mount = format!("type=bind,src={},dst=/up,options=rbind:rw", mark.display());
    let polite = "trap 'exit 5' TERM; echo >/up/up; while :; do sleep 0.05; done";
    let up = || mark.join("up").exists().then_some(());
    std::thread::scope(|scope| {
        let run = || containerd.run(&["--mount", &mount], "c", &["sh", "-c", polite]);
        let attached = scope.spawn(run);
        until("the trap", Duration::from_secs(20), up);
        let process = containerd.process("c");
        containerd.ok(&["tasks", "kill", "--signal", "SIGTERM", "c"]);
        let said = attached.join().unwrap();
        assert_eq!(said.code, 5, "{said:?}");
        assert!(!process.is_alive());
    });
    // the same container once more
    fs::remove_file(mark.join("up")).unwrap();
    let said = containerd.said(&["tasks", "delete", "c"]);
    assert!(said.code == 0 || said.err.contains("not found"), "{said:?}");
    containerd.ok(&["tasks", "start", "--detach", "c"]);
    until("the second start", Duration::from_secs(20), up);
    let again = containerd.process("c");
    containerd.ok(&["tasks", "kill", "--all", "--signal", "SIGKILL", "c"]);
    containerd.status_becomes("c", "STOPPED");
    assert!(!again.is_alive());
    containerd.end();
}

#[test]
fn containerd_pauses_and_resumes() {
    let containerd = Containerd::new();
    let process = containerd.detached(&[], "c", &["sh", "-c", "while :; do :; done"]);
    containerd.ok(&["tasks", "pause", "c"]);
    assert_eq!(containerd.task("c").unwrap().1, "PAUSED");
    let ticks = || Process::read(process.pid).unwrap().ticks;
    let before = ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(), before, "a frozen process uses no time");
    containerd.ok(&["tasks", "resume", "c"]);
    assert_eq!(containerd.task("c").unwrap().1, "RUNNING");
    until("time used again", Duration::from_secs(20), || {
        (ticks() > before).then_some(())
    });
    containerd.end();
}

#[test]
fn containerd_limits_and_measures() {
    let containerd = Containerd::new();
    let limit = (64 << 20).to_string();
    let flags = ["--memory-limit", &limit, "--cpus", "0.5"];
    let process = containerd.detached(&flags, "c", &["sleep", "1000"]);
    let value = |controller, file| cgroup_value(process.pid, controller, file);
    assert_eq!(value("memory", "memory.limit_in_bytes"), limit);
    let (quota, period) = (
        value("cpu", "cpu.cfs_quota_us"),
        value("cpu", "cpu.cfs_period_us"),
    );
    let (quota, period): (u32, u32) = (quota.parse().unwrap(), period.parse().unwrap());
    assert_eq!(quota * 2, period);
    let metrics = containerd.ok(&["tasks", "metrics", "--format", "json", "c"]);
    let metrics: Value = serde_json::from_str(&metrics).unwrap();
    assert_eq!(metrics["pids"]["current"], 1, "{metrics}");
    assert_eq!(metrics["memory"]["usage"]["limit"], 64 << 20, "{metrics}");
    // more than is allowed: killed, and told
    let hog = "a=x; while :; do a=$a$a; done";
    let said = containerd.run(
        &["--rm", "--memory-limit", "8388608"],
        "d",
        &["sh", "-c", hog],
    );
    assert_eq!(said.code, 137, "{said:?}");
    containerd.end();
}

#[test]
fn containerd_shares_namespaces_by_path() {
    let containerd = Containerd::new();
    let one = containerd.detached(&[], "one", &["sleep", "1000"]);
    let of = |kind: &str, name: &str| format!("{kind}:/proc/{}/ns/{name}", one.pid);
    let (net, ipc, uts) = (of("network", "net"), of("ipc", "ipc"), of("uts", "uts"));
    let flags = ["--with-ns", &net, "--with-ns", &ipc, "--with-ns", &uts];
    let two = containerd.detached(&flags, "two", &["sleep", "1000"]);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(one.pid, kind), namespace(two.pid, kind), "{kind}");
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(namespace(one.pid, kind), namespace(two.pid, kind), "{kind}");
    }
    let pid = of("pid", "pid");
    let three = containerd.detached(&["--with-ns", &pid], "three", &["sleep", "1000"]);
    assert_eq!(namespace(one.pid, "pid"), namespace(three.pid, "pid"));
    containerd.end();
}

#[test]
fn containerd_dies_and_finds_its_containers_again() {
    let mut containerd = Containerd::new();
    let process = containerd.detached(&[], "c", &["sleep", "1000"]);
    containerd.kill9();
    assert!(process.is_alive());
    containerd.start();
    assert_eq!(
        containerd.task("c"),
        Some((process.pid, "RUNNING".to_owned()))
    );
    assert_eq!(
        containerd.ok(&["tasks", "exec", "--exec-id", "x", "c", "echo", "a"]),
        "a\n"
    );
    containerd.end();
}

#[test]
fn containerd_runs_many_at_once() {
    let containerd = Containerd::new();
    std::thread::scope(|scope| {
        for n in 0..10 {
            let containerd = &containerd;
            scope.spawn(move || {
                let (name, word) = (format!("n{n}"), n.to_string());
                let said = containerd.run(&["--rm"], &name, &["echo", &word]);
                assert_eq!(said.out.trim(), word, "{said:?}");
            });
        }
    });
    containerd.end();
}
