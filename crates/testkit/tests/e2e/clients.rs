//! Our command line and the real docker command do the same.

mod libraries;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use testkit::image::BUSYBOX;
use testkit::{Instance, Snapshot};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

type Client = fn(&Instance) -> Command;

/// Both commands, with a name for messages.
const CLIENTS: [(&str, Client); 2] = [
    ("plimsoll", Instance::plimsoll_command),
    ("docker", Instance::docker_command),
];

#[track_caller]
fn run(mut command: Command, arguments: &[&str]) -> Output {
    let command = command.args(arguments).stdin(Stdio::null());
    command.output().expect("the client can be executed")
}

#[test]
fn run_tells_the_exit_code() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let base = ["run", "--rm", "--network", "none"];
    let cases: [(&[&str], i32); 6] = [
        (&[BUSYBOX, "true"], 0),
        (&[BUSYBOX, "sh", "-c", "exit 3"], 3),
        (&[BUSYBOX, "sh", "-c", "exit 255"], 255),
        (&[BUSYBOX, "/etc/passwd"], 126),
        (&[BUSYBOX, "no-such-program"], 127),
        (&["--no-such-flag", BUSYBOX, "true"], 125),
    ];
    for (name, command) in CLIENTS {
        for (arguments, code) in cases {
            let all: Vec<&str> = base.iter().chain(arguments).copied().collect();
            let output = run(command(&instance), &all);
            assert_eq!(
                output.status.code(),
                Some(code),
                "{name} {all:?}: {output:?}"
            );
        }
    }
    clean.assert_settled(&instance);
}

#[test]
fn run_carries_stdin_stdout_stderr() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for (name, command) in CLIENTS {
        let mut child = command(&instance)
            .args(["run", "-i", "--rm", "--network", "none", BUSYBOX])
            .args(["sh", "-c", "cat; echo err >&2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let line = "a line\n".repeat(10_000);
        let mut stdin = child.stdin.take().unwrap();
        let sent = line.clone();
        let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert_eq!(text(&output.stdout), line, "{name}");
        assert_eq!(text(&output.stderr), "err\n", "{name}");
    }
    clean.assert_settled(&instance);
}

#[test]
fn detached_logs_exec_stop_rm() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for (name, command) in CLIENTS {
        let ok = |arguments: &[&str]| {
            let output = run(command(&instance), arguments);
            assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
            text(&output.stdout).trim().to_owned()
        };
        let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let id = ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(id.len(), 64, "{name}: {id}");
        testkit::until("its first line", std::time::Duration::from_secs(10), || {
            (ok(&["logs", "web"]) == "up").then_some(())
        });
        assert_eq!(ok(&["exec", "web", "echo", "hello"]), "hello");
        assert_eq!(ok(&["exec", "-u", "user", "web", "id", "-u"]), "1000");
        let listed = ok(&["ps", "--format", "{{.Names}} {{.Image}}"]);
        assert_eq!(listed, format!("web {BUSYBOX}"), "{name}");
        let state = ok(&["inspect", "-f", "{{.State.Running}}", "web"]);
        assert_eq!(state, "true", "{name}");
        ok(&["stop", "web"]);
        assert_eq!(ok(&["wait", "web"]), "0", "{name}");
        ok(&["rm", "web"]);
    }
    clean.assert_settled(&instance);
}

/// save, rmi and load give the same image back, with either command.
#[test]
fn an_image_goes_out_and_comes_back() {
    let instance = Instance::with_busybox();
    for (name, command) in CLIENTS {
        let ok = |arguments: &[&str]| {
            let output = run(command(&instance), arguments);
            assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
            text(&output.stdout).trim().to_owned()
        };
        let before = ok(&["image", "inspect", "-f", "{{.Id}}", BUSYBOX]);
        let file = instance.path().join("image.tar");
        let file = file.to_str().unwrap();
        ok(&["save", "-o", file, BUSYBOX]);
        ok(&["rmi", BUSYBOX]);
        ok(&["load", "-i", file]);
        let after = ok(&["image", "inspect", "-f", "{{.Id}}", BUSYBOX]);
        assert_eq!(before, after, "{name}");
        ok(&["run", "--rm", "--network", "none", BUSYBOX, "true"]);
    }
}

#[test]
fn commit_keeps_what_was_written() {
    let instance = Instance::with_busybox();
    for (name, command) in CLIENTS {
        let ok = |arguments: &[&str]| {
            let output = run(command(&instance), arguments);
            assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
            text(&output.stdout).trim().to_owned()
        };
        let write = "echo written >/file; rm /etc/group";
        ok(&[
            "run",
            "--name",
            "box",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            write,
        ]);
        let changes = ok(&["diff", "box"]);
        assert!(changes.contains("A /file"), "{name}: {changes}");
        assert!(changes.contains("D /etc/group"), "{name}: {changes}");
        ok(&["commit", "box", "made:by-commit"]);
        ok(&["rm", "box"]);
        let check = "cat /file; test ! -e /etc/group";
        let run = [
            "run",
            "--rm",
            "--network",
            "none",
            "made:by-commit",
            "sh",
            "-c",
            check,
        ];
        assert_eq!(ok(&run), "written", "{name}");
        ok(&["rmi", "made:by-commit"]);
    }
}

/// What SDKs send with a commit: it goes before the container's own, and instructions before both.
#[test]
fn commit_takes_a_configuration() {
    let instance = Instance::with_busybox();
    let id = instance.create_with(
        "box",
        &["sleep", "1"],
        serde_json::json!({"Env": ["A=1", "B=2"], "WorkingDir": "/w", "Labels": {"own": "1"}, "OnBuild": ["RUN true"],
            "NetworkDisabled": true}),
    );
    assert_eq!(instance.inspect(&id)["HostConfig"]["NetworkMode"], "none");
    let body = serde_json::json!({"Cmd": ["echo", "made"], "Env": ["B=3", "C=4"], "Labels": {"asked": "2"}});
    let path = "/commit?container=box&repo=made&tag=1&changes=ENV%20D=5";
    instance.answered(instance.api().post(path, &body)).ok();
    let shown = instance
        .api()
        .get("/images/made:1/json")
        .unwrap()
        .ok()
        .json();
    let config = &shown["Config"];
    assert_eq!(
        config["Cmd"],
        serde_json::json!(["echo", "made"]),
        "{config}"
    );
    let env: Vec<&str> = config["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.as_str().unwrap())
        .collect();
    for entry in ["A=1", "B=3", "C=4", "D=5"] {
        assert!(env.contains(&entry), "{env:?}");
    }
    assert!(!env.contains(&"B=2"), "{env:?}");
    assert_eq!(config["WorkingDir"], "/w", "{config}");
    assert_eq!(
        config["Labels"],
        serde_json::json!({"own": "1", "asked": "2"}),
        "{config}"
    );
    assert_eq!(
        config["OnBuild"],
        serde_json::json!(["RUN true"]),
        "{config}"
    );
}

#[test]
fn cp_in_and_out() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for (name, command) in CLIENTS {
        let ok = |arguments: &[&str]| {
            let output = run(command(&instance), arguments);
            assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
        };
        let (from, to) = (instance.path().join("from"), instance.path().join("to"));
        std::fs::write(&from, name).unwrap();
        ok(&[
            "create",
            "--name",
            "box",
            "--network",
            "none",
            BUSYBOX,
            "true",
        ]);
        ok(&["cp", from.to_str().unwrap(), "box:/tmp/there"]);
        ok(&["cp", "box:/tmp/there", to.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(&to).unwrap(), name);
        ok(&["rm", "box"]);
        std::fs::remove_file(&to).unwrap();
    }
    clean.assert_settled(&instance);
}
