//! A seccomp agent (`listenerPath`) is told by whichever command lets a program run.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE};

const REFUSED: &str = "Too many users";

/// A lab whose profile asks `agent` in the lab's directory about mkdir.
fn lab(script: &str) -> (Lab, UnixListener) {
    let lab = Lab::sh(script);
    let path = lab.file("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
    });
    let lab = lab
        .set("/linux/seccomp", profile)
        .set("/annotations", json!({"a": "b"}));
    (lab, listener)
}

/// Takes one listener, refuses the first call that it announces, and gives back what it was told.
fn answer(listener: &UnixListener) -> JoinHandle<(Value, OwnedFd)> {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut buf = vec![0; 1 << 16];
        let mut got = sys::fdpass::recv(socket.as_fd(), &mut buf, false).unwrap();
        let told = serde_json::from_slice(&buf[..got.len]).unwrap();
        let listener = got.fds.pop().unwrap();
        sys::seccomp::refuse_next(listener.as_fd(), libc::EUSERS).unwrap();
        (told, listener)
    })
}

fn assert_told(told: &Value, lab: &Lab, pid: i32) {
    assert_eq!(told["fds"], json!(["seccompFd"]));
    assert_eq!(told["metadata"], json!("m"));
    let state = &told["state"];
    assert_eq!(state["id"], json!(lab.id()));
    assert_eq!(state["bundle"], json!(lab.bundle()));
    assert_eq!(state["annotations"], json!({"a": "b"}));
    assert_eq!(state["pid"], json!(pid), "{told}");
}

#[test]
fn start_tells_it_of_a_container_that_was_created() {
    let (lab, listener) = lab("busybox mkdir /x; sleep 1000");
    let agent = answer(&listener);
    lab.create();
    lab.start();
    let (told, _fd) = agent.join().unwrap();
    assert_told(&told, &lab, lab.pid());
    assert_eq!(told["pid"], json!(lab.pid()));
    testkit::until("the refusal", PATIENCE, || {
        let err = std::fs::read_to_string(lab.file("stderr")).unwrap();
        err.contains(REFUSED).then_some(())
    });
}

#[test]
fn run_and_exec_tell_it_too() {
    let (lab, listener) = lab("busybox mkdir /x; sleep 1000");
    let agent = answer(&listener);
    lab.ok(&["run", "--detach", lab.id()]);
    let (told, _fd) = agent.join().unwrap();
    assert_told(&told, &lab, lab.pid());
    let agent = answer(&listener);
    let said = lab.oci(&["exec", lab.id(), "busybox", "mkdir", "/y"]);
    assert!(said.err.contains(REFUSED), "{said:?}");
    let (told, _fd) = agent.join().unwrap();
    assert_told(&told, &lab, lab.pid());
    assert_ne!(told["pid"], json!(lab.pid()));
}

#[test]
fn a_start_without_the_agent_leaves_nothing_running() {
    let (lab, listener) = lab("busybox mkdir /x; sleep 1000");
    if crate::harness::other().is_some() {
        // runc tells the agent when it creates
        return;
    }
    lab.create();
    drop(listener);
    std::fs::remove_file(lab.file("agent")).unwrap();
    let said = lab.oci(&["start", lab.id()]);
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("agent"), "{said:?}");
    lab.until_status("stopped");
}
