//! Further processes in a running container.

use serde_json::json;

use crate::Container;
use crate::harness::v2_alone;

#[test]
fn exec_joins_everything() {
    let c = Container::sh(
        "echo up; for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done; cat",
    )
    .in_cgroup();
    let r = c.start().unwrap();
    assert_eq!(r.line(), "up");
    let want: Vec<String> = (0..6).map(|_| r.line()).collect();
    let script = "for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup; echo $$; grep -E 'CapBnd|Seccomp:' /proc/self/status; pwd; hostname";
    let out = c.exec(&r, &["sh", "-c", script], |_| {}).unwrap().finish();
    let got: Vec<_> = out.stdout.lines().take(6).collect();
    assert_eq!(got, want, "{out:?}");
    let own: &[&str] = if v2_alone() {
        &["0::/\n"]
    } else {
        &["pids:/\n", "memory:/\n"]
    };
    assert!(own.iter().all(|l| out.stdout.contains(l)), "{out:?}");
    assert!(
        out.stdout
            .contains("CapBnd:\t00000000a80425fb\nSeccomp:\t2\n/\nbox\n"),
        "{out:?}"
    );
}

#[test]
fn exec_as_another_user_with_own_environment() {
    let c = Container::sh("echo up; cat");
    let r = c.start().unwrap();
    r.line();
    let out = c
        .exec(&r, &["sh", "-c", "id -u; id -g; pwd; echo $X"], |p| {
            p["user"] = json!({"uid": 12, "gid": 13});
            p["cwd"] = json!("/tmp");
            p["env"] = json!(["PATH=/bin", "X=y"]);
        })
        .unwrap()
        .finish();
    assert_eq!(out.stdout, "12\n13\n/tmp\ny\n", "{out:?}");
}

#[test]
fn exec_failures() {
    let c = Container::sh("echo up; cat");
    let r = c.start().unwrap();
    r.line();
    let fails =
        |args: &[&str], cwd: &str| c.exec(&r, args, |p| p["cwd"] = json!(cwd)).err().unwrap();
    assert_eq!(
        fails(&["nonesuch"], "/"),
        "exec: \"nonesuch\": executable file not found in $PATH (127)"
    );
    assert_eq!(
        fails(&["true"], "/nowhere"),
        "chdir to cwd (\"/nowhere\"): no such file or directory (127)"
    );
    // CVE-2024-21626: a descriptor of ours as working directory
    for n in 3..12 {
        let why = fails(&["sh", "-c", "pwd; ls"], &format!("/proc/self/fd/{n}"));
        assert!(why.starts_with("chdir to cwd"), "{why}");
    }
    let out = c
        .exec(&r, &["ls", "/proc/self/fd"], |_| {})
        .unwrap()
        .finish();
    assert_eq!(out.stdout, "0\n1\n2\n3\n", "{out:?}");
}

#[test]
fn exec_in_a_user_namespace() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mut c = Container::sh("echo up; cat")
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set("/mounts/2/options", json!(["newinstance", "ptmxmode=0666"]));
    c.open_upper = true;
    let r = c.start().unwrap();
    assert_eq!(r.line(), "up");
    let out = c
        .exec(&r, &["sh", "-c", "id -u; cat /proc/self/uid_map"], |_| {})
        .unwrap()
        .finish();
    assert!(
        out.stdout.starts_with("0\n         0     100000"),
        "{out:?}"
    );
}

#[test]
fn exec_into_a_dead_container_fails() {
    let c = Container::sh("echo up; cat");
    let r = c.start().unwrap();
    r.line();
    r.kill(rustix::process::Signal::KILL);
    testkit::until(
        "the container's end",
        std::time::Duration::from_secs(5),
        || c.exec(&r, &["true"], |_| {}).err(),
    );
}
