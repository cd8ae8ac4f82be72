//! P3 as a user sees it: the engine dies, and what runs in the foreground goes on.

use std::process::{Child, Stdio};
use std::time::Duration;

use testkit::{Instance, until};

use crate::{Said, engine, ok};

/// Counts to 60 on standard output and every tenth on standard error, in 3 s; ends with 9.
const COUNT: &str = "i=1; while [ $i -le 60 ]; do echo $i; [ $((i % 10)) = 0 ] && echo e$i >&2; sleep 0.05; i=$((i+1)); done; exit 9";

fn spawn(instance: &Instance, flags: &[&str], program: &[&str]) -> Child {
    instance
        .plimsoll_command()
        .args(
            [
                &["run", "--name", "web", "--network", "none"],
                flags,
                &["busybox"],
                program,
            ]
            .concat(),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plimsoll can be executed")
}

fn running(instance: &Instance) {
    until("the container runs", Duration::from_secs(20), || {
        (!ok(instance, &["ps", "-q"]).is_empty()).then_some(())
    });
}

fn counted(said: &Said) {
    let lines: Vec<String> = (1..=60).map(|i| i.to_string()).collect();
    assert_eq!(
        said.out.lines().collect::<Vec<_>>(),
        lines,
        "every line once: {}",
        said.err
    );
    let marks: Vec<String> = (1..=6).map(|i| format!("e{i}0")).collect();
    assert_eq!(said.err.lines().collect::<Vec<_>>(), marks);
    assert_eq!(said.code, Some(9));
}

/// Row "live-restore bugs" of FAILURES.
#[test]
fn the_daemon_dies_and_comes_back_while_it_runs() {
    let mut instance = engine();
    let child = spawn(&instance, &[], &["sh", "-c", COUNT]);
    running(&instance);
    instance.kill9();
    instance.start();
    std::thread::sleep(Duration::from_millis(300));
    instance.kill9();
    instance.start();
    counted(&child.wait_with_output().expect("it ends").into());
}

#[test]
fn the_container_ends_while_the_daemon_is_away() {
    let mut instance = engine();
    let child = spawn(&instance, &[], &["sh", "-c", COUNT]);
    running(&instance);
    let shim = instance.shim("web").expect("it runs");
    instance.kill9();
    until(
        "the container and its shim end",
        Duration::from_secs(20),
        || {
            testkit::procfs::Process::read(shim.pid)
                .is_none_or(|p| p.is_zombie())
                .then_some(())
        },
    );
    instance.start();
    counted(&child.wait_with_output().expect("it ends").into());
}

#[test]
fn a_container_that_removes_itself_keeps_its_exit_code() {
    let mut instance = engine();
    let child = spawn(&instance, &["--rm"], &["sh", "-c", COUNT]);
    running(&instance);
    instance.kill9();
    instance.start();
    counted(&child.wait_with_output().expect("it ends").into());
    assert_eq!(ok(&instance, &["ps", "-aq"]), "");
}

#[test]
fn standard_input_goes_on_after_the_daemon_came_back() {
    use std::io::Write as _;
    let mut instance = engine();
    let mut child = spawn(
        &instance,
        &["-i"],
        &["sh", "-c", "while read l; do echo got $l; done; exit 5"],
    );
    let mut stdin = child.stdin.take().expect("piped");
    running(&instance);
    stdin.write_all(b"one\n").expect("written");
    until(
        "the first line is in the log",
        Duration::from_secs(20),
        || {
            ok(&instance, &["logs", "web"])
                .contains("got one")
                .then_some(())
        },
    );
    instance.kill9();
    instance.start();
    // what is typed while nobody listens is read once somebody does
    stdin.write_all(b"two\n").expect("written");
    until(
        "the second line is in the log",
        Duration::from_secs(20),
        || {
            ok(&instance, &["logs", "web"])
                .contains("got two")
                .then_some(())
        },
    );
    drop(stdin);
    let said: Said = child.wait_with_output().expect("it ends").into();
    assert_eq!(
        (said.out.as_str(), said.code),
        ("got one\ngot two\n", Some(5))
    );
}
