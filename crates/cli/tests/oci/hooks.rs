//! Hooks: where and when they run, what they read, what their failure does.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Lab, Said, other};

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook of each kind that writes the state, and what it sees, to a file.
fn with_hooks() -> Lab {
    let lab = Lab::sh("echo program >> /log; exec sleep 1000");
    let (log, root) = (lab.file("log"), lab.rootfs());
    let mut hooks = json!({});
    for kind in KINDS {
        let inside = kind == "startContainer";
        let (log, state) = match inside {
            true => ("/log".into(), "/state".to_owned()),
            false => (
                log.display().to_string(),
                lab.file(kind).display().to_string(),
            ),
        };
        let script = format!(
            "cat > {state}; echo \"{kind} $0 $1 $E $(readlink /proc/self/ns/mnt)\" >> {log}"
        );
        let path = if inside {
            "/bin/sh".to_owned()
        } else {
            lab.script("hook.sh", "exec /bin/sh \"$@\"")
                .display()
                .to_string()
        };
        hooks[kind] = json!([{
            "path": path, "args": ["sh", "-c", script, "zero", "one"],
            "env": ["E=env", "PATH=/bin:/usr/bin"], "timeout": 20
        }]);
    }
    fs::write(root.join("log"), "").unwrap();
    lab.set("/hooks", hooks)
}

#[test]
fn each_kind_runs_when_and_where_it_should_with_the_state() {
    if other().is_some() {
        // runc 1.1 runs poststart in create; the specification has it after the program's start
        return;
    }
    let lab = with_hooks();
    let here = fs::read_link("/proc/self/ns/mnt").unwrap();
    let here = here.to_string_lossy().into_owned();
    let host = |lab: &Lab| fs::read_to_string(lab.file("log")).unwrap_or_default();
    lab.create();
    let pid = lab.pid();
    let there = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let there = there.to_string_lossy().into_owned();
    assert_eq!(
        host(&lab),
        format!(
            "prestart zero one env {here}\ncreateRuntime zero one env {here}\ncreateContainer zero one env {there}\n"
        )
    );
    lab.start();
    testkit::until("program", crate::harness::PATIENCE, || {
        let inside = fs::read_to_string(lab.rootfs().join("log")).unwrap();
        (inside == format!("startContainer zero one env {there}\nprogram\n")).then_some(())
    });
    assert!(host(&lab).ends_with(&format!("poststart zero one env {here}\n")));
    assert_eq!(lab.oci(&["delete", "--force", lab.id()]).code, Some(0));
    assert!(host(&lab).ends_with(&format!("poststop zero one env {here}\n")));
    let read = |path: std::path::PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    for (kind, status) in [
        ("prestart", "created"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        let state = read(lab.file(kind));
        assert_eq!(state["id"], lab.id(), "{kind}");
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["bundle"], lab.bundle().to_str().unwrap(), "{kind}");
        // runc names the process of a container that has ended too
        if status == "stopped" && other().is_none() {
            assert_eq!(state["pid"], 0, "{kind}");
        } else if status == "running" {
            assert_eq!(state["pid"], pid, "{kind}");
        }
    }
    assert_eq!(read(lab.rootfs().join("state"))["status"], "created");
    lab.assert_gone();
}

/// Network and device hooks find the container's root at its path in the mount namespace of the pid
/// they are told, and what they mount there is in the container.
#[test]
fn a_mount_made_by_a_hook_is_in_the_container() {
    let lab = Lab::sh("cat /tmp/marker/file");
    let marker = lab.file("marker");
    fs::create_dir(&marker).unwrap();
    fs::write(marker.join("file"), "from a hook\n").unwrap();
    let at = lab.rootfs().join("tmp/marker");
    fs::create_dir(&at).unwrap();
    let hook = lab.script(
        "mount.sh",
        &format!("mount --bind {} {}", marker.display(), at.display()),
    );
    let env = json!(["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]);
    let lab = lab.set(
        "/hooks",
        json!({"createContainer": [{"path": hook, "env": env}]}),
    );
    let said = lab.oci(&["run", lab.id()]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "from a hook\n"),
        "{said:?}"
    );
    lab.assert_gone();
}

fn failing(kind: &str) -> (Lab, Said) {
    let lab = Lab::sh("touch /ran; exec sleep 1000");
    let poststop = lab.script(
        "poststop.sh",
        &format!("echo stop >> {}", lab.file("stops").display()),
    );
    let path = if kind == "startContainer" {
        "/bin/false".into()
    } else {
        lab.script("fail.sh", "echo reason >&2; exit 4")
    };
    let lab = lab.set(
        "/hooks",
        json!({kind: [{"path": path}], "poststop": [{"path": poststop}]}),
    );
    let said = lab.quietly(&["run", "--detach", lab.id()]);
    (lab, said)
}

#[test]
fn a_failure_before_the_program_stops_and_cleans_up() {
    for kind in &KINDS[..4] {
        if *kind == "startContainer" && other().is_some() {
            // runc 1.1 tells of it in the container's own output and succeeds
            continue;
        }
        let (lab, said) = failing(kind);
        assert_eq!(said.code, Some(1), "{kind}: {said:?}");
        if *kind != "startContainer" {
            assert!(said.err.contains("exit status 4"), "{kind}: {said:?}");
            assert!(said.err.contains("reason"), "{kind}: {said:?}");
        }
        assert!(
            !lab.rootfs().join("ran").exists(),
            "{kind}: the program ran"
        );
        lab.assert_gone();
        if other().is_none() {
            assert_eq!(
                fs::read_to_string(lab.file("stops")).unwrap(),
                "stop\n",
                "{kind}"
            );
        }
    }
}

#[test]
fn a_failed_poststart_is_a_warning() {
    if other().is_some() {
        // runc 1.1 ends the container; the specification says to log and go on
        return;
    }
    let (lab, said) = failing("poststart");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.err.contains("level=warning") && said.err.contains("exit status 4"),
        "{said:?}"
    );
    assert_eq!(lab.status(), "running");
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    let lab = Lab::sh("true");
    let pid = lab.file("pid");
    let hook = lab.script(
        "slow.sh",
        &format!("echo $$ > {}; exec sleep 1000", pid.display()),
    );
    let env = json!(["PATH=/bin:/usr/bin"]);
    let lab = lab.set(
        "/hooks",
        json!({"createRuntime": [{"path": hook, "timeout": 1, "env": env}]}),
    );
    let said = lab.oci(&["run", lab.id()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let pid = fs::read_to_string(pid).unwrap();
    let alive = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()));
    assert!(
        !alive.is_ok_and(|c| c.contains("sleep")),
        "the hook is still there"
    );
    lab.assert_gone();
}

/// An image's program must not get the runtime's rights by being named as a hook.
#[test]
fn a_hook_in_the_container_has_the_containers_rights() {
    let lab = Lab::sh("cat /status").set("/process/user", json!({"uid": 12, "gid": 13}));
    fs::write(lab.rootfs().join("status"), "").unwrap();
    fs::set_permissions(
        lab.rootfs().join("status"),
        std::os::unix::fs::PermissionsExt::from_mode(0o666),
    )
    .unwrap();
    let script = "grep -E '^(Uid|CapBnd|NoNewPrivs)' /proc/self/status > /status";
    let lab = lab.set(
        "/hooks",
        json!({"startContainer": [
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}
        ]}),
    );
    let said = lab.oci(&["run", lab.id()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("Uid:\t12\t12"), "{said:?}");
    assert!(said.out.contains("CapBnd:\t0000000020000420"), "{said:?}");
    assert!(said.out.contains("NoNewPrivs:\t1"), "{said:?}");
}
