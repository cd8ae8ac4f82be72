//! Without privilege: a thread of another user starts containers.
//!
//! Credentials belong to threads: the test drops those of one thread, for good.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use serde_json::{Value, json};

use crate::Container;
use crate::files::own_mount_namespace;
use crate::harness::facts;

const USER: u32 = 4711;

/// Runs as a user without any privilege. `prepare` runs in the same thread as root before.
fn as_user(prepare: impl FnOnce() + Send, f: impl FnOnce() + Send) {
    std::thread::scope(|s| {
        let done = s.spawn(|| {
            own_mount_namespace();
            prepare();
            sys::process::setgroups(&[]).unwrap();
            sys::process::setgid(USER).unwrap();
            sys::process::setuid(USER).unwrap();
            // as a program that was started by the user is
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
                .unwrap();
            f();
        });
        done.join().unwrap();
    });
}

/// What `runc spec --rootless` asks for: the own user mapped to root, the host's network, its
/// /sys, no group for terminals.
fn rootless(script: &str, maps: (Value, Value)) -> Container {
    let mut c = Container::sh(script)
        .set("/linux/uidMappings", maps.0)
        .set("/linux/gidMappings", maps.1)
        .set(
            "/mounts/2/options",
            json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
        );
    let list = c.spec["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|n| n["type"] != "network");
    list.push(json!({"type": "user"}));
    c.root_by_path = true;
    let root = c.dir.path().join("root");
    copy_image(&c.lowers[0], &root);
    for d in [c.dir.path(), &root] {
        chown(d, Some(USER), Some(USER)).unwrap();
    }
    c.lowers = vec![root];
    c.facts = facts().clone();
    c.facts.process.uid = USER;
    c.facts.process.capabilities.clear();
    // what a user's own probe finds: nothing may be mounted, outside a user namespace
    c.facts.mount = host::MountFacts::default();
    c
}

fn copy_image(from: &Path, to: &Path) {
    for d in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(to.join(d)).unwrap();
        chown(to.join(d), Some(USER), Some(USER)).unwrap();
    }
    for e in fs::read_dir(from.join("bin")).unwrap() {
        let e = e.unwrap();
        let at = to.join("bin").join(e.file_name());
        match fs::read_link(e.path()) {
            Ok(target) => std::os::unix::fs::symlink(target, at).unwrap(),
            Err(_) => drop(fs::copy(e.path(), at).unwrap()),
        }
    }
}

fn own_id() -> (Value, Value) {
    let one = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    (one.clone(), one)
}

#[test]
fn an_own_id_mapped_without_privilege() {
    let script = "id -u; cat /proc/self/setgroups; hostname; echo x > /dev/null && ls -l /dev/null \
        | cut -c1; touch /made && echo made; echo $$; mount | grep -c ' on /sys '";
    let c = rootless(script, own_id());
    as_user(
        || (),
        || {
            let out = c.run();
            assert_eq!(out.stdout, "0\ndeny\nbox\nc\nmade\n1\n1\n", "{out:?}");
        },
    );
    use std::os::unix::fs::MetadataExt;
    let made = fs::metadata(c.lowers[0].join("made")).unwrap();
    assert_eq!(made.uid(), USER);
}

#[test]
fn supplementary_groups_without_privilege_are_refused_by_name() {
    let c = rootless("true", own_id()).set(
        "/process/user",
        json!({"uid": 0, "gid": 0, "additionalGids": [5]}),
    );
    let why = c.plan().unwrap_err().to_string();
    assert!(why.contains("additionalGids"), "{why}");
}

fn ranges() -> (Value, Value) {
    let several = json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": 700_000, "size": 1000}
    ]);
    (several.clone(), several)
}

/// Files of the host's /etc as this test's thread sees them.
fn lend(dir: &Path, ids: &str) {
    let bind = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        let at = CString::new(format!("/etc/{name}")).unwrap();
        if !Path::new(at.to_str().unwrap()).exists() {
            fs::write(at.to_str().unwrap(), "").unwrap();
        }
        rustix::mount::mount_bind(&file, at.as_c_str()).unwrap();
    };
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    bind(
        "passwd",
        &format!("{passwd}plimtest:x:{USER}:{USER}::/:/bin/sh\n"),
    );
    bind("subuid", ids);
    bind("subgid", ids);
}

#[test]
fn lent_ranges_through_newuidmap() {
    assert!(
        Path::new("/usr/bin/newuidmap").exists(),
        "package uidmap must be installed"
    );
    let script = "id -u; wc -l < /proc/self/uid_map; id -G";
    let c = rootless(script, ranges()).set(
        "/process/user",
        json!({"uid": 0, "gid": 0, "additionalGids": [7]}),
    );
    let dir = tempfile::tempdir().unwrap();
    as_user(
        || lend(dir.path(), &format!("{USER}:700000:1000\n")),
        || {
            let out = c.run();
            assert_eq!(out.stdout, "0\n2\n0 7\n", "{out:?}");
        },
    );
}

#[test]
fn ranges_that_are_not_lent_are_refused_by_name() {
    let c = rootless("true", ranges());
    let dir = tempfile::tempdir().unwrap();
    as_user(
        || lend(dir.path(), ""),
        || {
            let why = c.fails();
            assert!(why.contains("/etc/subuid"), "{why}");
        },
    );
}

/// An exec without privilege reaches the container's pid namespace through its user namespace.
#[test]
fn an_exec_without_privilege() {
    let c = rootless("echo up; cat", own_id());
    as_user(
        || (),
        || {
            let r = c.start().unwrap();
            assert_eq!(r.line(), "up");
            let out = c.exec(
                &r,
                &["sh", "-c", "id -u; hostname; ls /proc/1/status"],
                |_| (),
            );
            let out = out.unwrap().finish();
            assert_eq!(out.stdout, "0\nbox\n/proc/1/status\n", "{out:?}");
        },
    );
}

#[test]
fn without_a_delegated_cgroup_nothing_is_limited_and_limits_are_refused() {
    let mut c = rootless("echo up", own_id()).in_cgroup();
    for h in &mut c.facts.cgroup.hierarchies {
        h.writable = false;
    }
    let warnings = c.plan().unwrap().warnings().join(" ");
    assert!(warnings.contains("delegated"), "{warnings}");
    as_user(|| (), || assert_eq!(c.run().stdout, "up\n"));
    let c = c.set("/linux/resources/pids", json!({"limit": 5}));
    let why = c.plan().unwrap_err().to_string();
    assert!(why.contains("not delegated"), "{why}");
}
