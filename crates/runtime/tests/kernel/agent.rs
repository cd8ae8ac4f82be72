//! SCMP_ACT_NOTIFY: another program answers for the kernel.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use oci_spec::runtime::State;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};

use crate::Container;
use runtime::SeccompChoice;

fn profile(path: &Path, names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": path, "listenerMetadata": "meta \"data\"",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]
    })
}

fn container(script: &str, profile: Value) -> Container {
    let mut c = Container::sh(script).set("/linux/seccomp", profile);
    c.seccomp = SeccompChoice::Spec;
    let state = json!({
        "ociVersion": "1.2.0", "id": "c1", "status": "creating", "bundle": "/b",
        "annotations": {"a": "b"}
    });
    c.choices.state = Some(serde_json::from_value::<State>(state).unwrap());
    c
}

/// What the runtime sends: one message with a descriptor, then the end.
fn accept(listener: &UnixListener) -> (Value, OwnedFd) {
    let (socket, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buf = vec![0; 1 << 16];
    let mut slices = [IoSliceMut::new(&mut buf)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(&socket, &mut slices, &mut control, flags).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    assert_eq!(fds.len(), 1);
    let told = serde_json::from_slice(&buf[..got.bytes]).unwrap();
    let mut rest = [0];
    assert_eq!(
        rustix::io::read(&socket, &mut rest).unwrap(),
        0,
        "one state a connection"
    );
    (told, fds.remove(0))
}

#[test]
fn the_agent_gets_the_state_and_answers() {
    let c = Container::sh("");
    let path = c.dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let c = container(
        "mkdir /x 2>&1 | grep -c 'Too many users'",
        profile(&path, &["mkdir"]),
    );
    let (pid, told, out) = std::thread::scope(|s| {
        let agent = s.spawn(|| {
            let (told, fd) = accept(&listener);
            sys::seccomp::refuse_next(fd.as_fd(), libc::EUSERS).unwrap();
            told
        });
        let r = c.start().unwrap();
        let pid = r.spawned.pid;
        let told = agent.join().unwrap();
        (pid, told, r.finish())
    });
    assert_eq!(out.stdout, "1\n", "{out:?}");
    assert_eq!(told["fds"], json!(["seccompFd"]));
    assert_eq!(told["pid"], json!(pid));
    assert_eq!(told["metadata"], json!("meta \"data\""));
    assert_eq!(told["ociVersion"], json!("1.2.0"));
    let state = &told["state"];
    assert_eq!((&state["id"], &state["pid"]), (&json!("c1"), &json!(pid)));
    assert_eq!(state["annotations"], json!({"a": "b"}));
}

#[test]
fn an_agent_that_is_not_there_fails_the_start() {
    let c = container("true", profile(Path::new("/nonesuch/agent"), &["mkdir"]));
    let why = c.fails();
    assert!(why.contains("/nonesuch/agent"), "{why}");
}

#[test]
fn notifications_that_cannot_work_are_refused() {
    let refused = |profile: Value| {
        let e = container("true", profile).plan().unwrap_err();
        let source = std::error::Error::source(&e).map(ToString::to_string);
        format!("{e}: {}", source.unwrap_or_default())
    };
    let path = Path::new("/a");
    assert!(refused(profile(path, &["sendmsg"])).contains("sendmsg"));
    let mut everything = profile(path, &["mkdir"]);
    everything["defaultAction"] = json!("SCMP_ACT_NOTIFY");
    assert!(refused(everything).contains("every call"));
    let mut nowhere = profile(path, &["mkdir"]);
    nowhere.as_object_mut().unwrap().remove("listenerPath");
    assert!(refused(nowhere).contains("listenerPath"));
    let mut errno = profile(path, &["mkdir"]);
    errno["syscalls"][0]["errnoRet"] = json!(3);
    assert!(refused(errno).contains("errnoRet"));
    // the engine, which has no state to tell
    let mut c = container("true", profile(path, &["mkdir"]));
    c.choices.state = None;
    let why = c.plan().unwrap_err().to_string();
    assert!(why.contains("OCI command line"), "{why}");
}
