//! `run`, `start -a`, `attach`, `exec` without a terminal: streams, exit codes, signals.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Instance, Snapshot, until};

use crate::{Said, engine, feed, ok, plimsoll};

const RUN: [&str; 5] = ["run", "--rm", "--network", "none", "busybox"];

fn run(instance: &Instance, program: &[&str]) -> Said {
    plimsoll(instance, &[&RUN[..], program].concat())
}

#[test]
fn exit_codes_and_streams_are_the_programs() {
    let instance = engine();
    let before = Snapshot::take(&instance);
    for (program, code, out, err) in [
        (&["true"][..], 0, "", ""),
        (
            &["sh", "-c", "echo out; echo err >&2; exit 7"],
            7,
            "out\n",
            "err\n",
        ),
        (&["sh", "-c", "kill -TERM $$; sleep 1; exit 3"], 3, "", ""),
        (&["sh", "-c", "printf no-newline"], 0, "no-newline", ""),
    ] {
        let said = run(&instance, program);
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (Some(code), out, err),
            "{program:?}"
        );
    }
    assert_eq!(ok(&instance, &["ps", "-aq"]), "");
    before.assert_settled(&instance);
}

#[test]
fn what_cannot_run_ends_with_dockers_codes() {
    let instance = engine();
    for (line, code, says) in [
        (
            &["run", "--rm", "busybox", "nope"][..],
            127,
            "executable file not found",
        ),
        (
            &["run", "--rm", "busybox", "/etc/passwd"],
            126,
            "permission denied",
        ),
        (&["run", "--rm", "busybox", "/tmp"], 126, ""),
        (
            &["run", "--rm", "-w", "/etc/passwd", "busybox", "true"],
            126,
            "",
        ),
        (
            &["run", "--rm", "nope"],
            125,
            "Unable to find image 'nope' locally",
        ),
        (
            &["run", "--rm", "-v", "/nonexistent/x/y:relative", "busybox"],
            125,
            "",
        ),
        (&["exec", "nope", "true"], 1, "No such container: nope"),
        (&["start", "nope"], 1, "No such container: nope"),
    ] {
        let said = plimsoll(&instance, line);
        assert!(said.err.contains(says), "{line:?}: {said:?}");
        // Docker gives 126 or 127 to a working directory that is none, by the kernel's word
        let found = said.code.expect("an exit code");
        assert!(
            found == code || (line.contains(&"-w") && (125..=127).contains(&found)),
            "{line:?}: {said:?}"
        );
    }
    assert_eq!(
        ok(&instance, &["ps", "-aq"]),
        "",
        "a failed start leaves no container of --rm"
    );
}

#[test]
fn standard_input_reaches_the_program_and_ends() {
    let instance = engine();
    let line = ["run", "-i", "--rm", "--network", "none", "busybox", "cat"];
    assert_eq!(feed(&instance, &line, b"a\nb").out, "a\nb");
    assert_eq!(feed(&instance, &line, b"").out, "");
    // much more than all buffers together, both ways at once
    let big: Vec<u8> = (0..4 << 20)
        .map(|i: u32| b'a' + u8::try_from(i % 23).expect("small"))
        .collect();
    let said = feed(&instance, &line, &big);
    assert_eq!(said.code, Some(0));
    assert!(
        said.out.as_bytes() == big,
        "4 MiB come back as they went in"
    );
    // without -i the program has no input
    let said = feed(
        &instance,
        &["run", "--rm", "--network", "none", "busybox", "cat"],
        b"x",
    );
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""));
    // a program that ends before its input does
    let said = feed(
        &instance,
        &[
            "run",
            "-i",
            "--rm",
            "--network",
            "none",
            "busybox",
            "head",
            "-c",
            "1",
        ],
        &big,
    );
    assert_eq!((said.code, said.out.as_str()), (Some(0), "a"));
}

#[test]
fn signals_are_passed_on() {
    let instance = engine();
    let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = instance
        .plimsoll_command()
        .args([&RUN[..], &["sh", "-c", script]].concat())
        .stdout(Stdio::piped())
        .spawn()
        .expect("plimsoll can be executed");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(lines.next().expect("a line").expect("text"), "got");
    assert_eq!(child.wait().expect("it ends").code(), Some(9));
}

#[test]
fn without_proxying_a_signal_ends_the_command_alone() {
    let instance = engine();
    let mut child = instance
        .plimsoll_command()
        .args([
            "run",
            "--name",
            "web",
            "--sig-proxy=false",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("plimsoll can be executed");
    until("the container runs", Duration::from_secs(10), || {
        (!ok(&instance, &["ps", "-q"]).is_empty()).then_some(())
    });
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0");
    kill_process(pid, Signal::TERM).expect("it runs");
    assert!(!child.wait().expect("it ends").success());
    assert_eq!(
        ok(&instance, &["inspect", "-f", "{{.State.Running}}", "web"]),
        "true\n"
    );
}

#[test]
fn start_and_attach_take_the_exit_code() {
    let instance = engine();
    let id = ok(
        &instance,
        &[
            "create",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo hi; exit 4",
        ],
    );
    assert_eq!(id.trim().len(), 64);
    let said = plimsoll(&instance, &["start", "-a", "web"]);
    assert_eq!((said.code, said.out.as_str()), (Some(4), "hi\n"));
    assert_eq!(ok(&instance, &["wait", "web"]), "4\n");
    let said = plimsoll(&instance, &["attach", "web"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("cannot attach to a stopped container"));
}

#[test]
fn exec_has_streams_codes_and_environment() {
    let instance = engine();
    ok(
        &instance,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    for (line, code, out) in [
        (
            &["exec", "web", "sh", "-c", "echo hi; exit 4"][..],
            4,
            "hi\n",
        ),
        (
            &[
                "exec",
                "-e",
                "A=b c",
                "-w",
                "/tmp",
                "web",
                "sh",
                "-c",
                "echo $A $PWD",
            ],
            0,
            "b c /tmp\n",
        ),
        (&["exec", "-u", "1:2", "web", "id", "-u"], 0, "1\n"),
        (&["exec", "web", "nope"], 127, ""),
        (&["exec", "-d", "web", "touch", "/tmp/x"], 0, ""),
    ] {
        let said = plimsoll(&instance, line);
        assert_eq!(said.code, Some(code), "{line:?}: {said:?}");
        if code != 127 {
            assert_eq!(said.out, out, "{line:?}");
        }
    }
    assert_eq!(
        feed(&instance, &["exec", "-i", "web", "cat"], b"abc").out,
        "abc"
    );
    until("the detached exec", Duration::from_secs(10), || {
        (plimsoll(&instance, &["exec", "web", "test", "-e", "/tmp/x"]).code == Some(0))
            .then_some(())
    });
}

/// Row "stdout blocks the application" of FAILURES: whoever reads us may stop reading.
#[test]
fn a_closed_pipe_ends_the_command_as_it_ends_others() {
    let instance = engine();
    let script = "i=0; while [ $i -lt 100000 ]; do echo $i; i=$((i+1)); done";
    let mut child = instance
        .plimsoll_command()
        .args([&RUN[..], &["sh", "-c", script]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plimsoll can be executed");
    drop(child.stdout.take());
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(141));
}
