//! Starting: namespaces, default mounts, the program.

use std::os::fd::OwnedFd;

use serde_json::json;

use crate::Container;

#[test]
fn hello() {
    let out = Container::sh("echo hello; echo oops >&2; exit 7").run();
    assert_eq!(out.stdout, "hello\n", "{out:?}");
    assert_eq!(out.stderr, "oops\n");
    assert_eq!(out.code, 7);
}

#[test]
fn stdin_reaches_the_program() {
    let mut r = Container::new(&["cat"]).start().unwrap();
    rustix::io::write(r.pipes.stdin.as_ref().unwrap(), b"through\n").unwrap();
    r.pipes.stdin = None;
    assert_eq!(r.finish().stdout, "through\n");
}

#[test]
fn own_namespaces() {
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    let kinds = ["pid", "mnt", "uts", "ipc", "net", "cgroup"];
    let script = "echo $$; hostname; for n in pid mnt uts ipc net cgroup; do readlink /proc/self/ns/$n; done";
    let out = Container::sh(script).run().stdout;
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(&lines[..2], ["1", "box"]);
    for (kind, inside) in kinds.iter().zip(&lines[2..]) {
        assert!(inside.starts_with(kind), "{out}");
        assert_ne!(*inside, own(kind), "the {kind} namespace is the host's");
    }
}

#[test]
fn loopback_is_up() {
    let out = Container::sh("ifconfig lo").run();
    assert!(out.stdout.contains("UP LOOPBACK RUNNING"), "{out:?}");
    assert!(out.stdout.contains("127.0.0.1"), "{out:?}");
}

#[test]
fn a_joined_network_namespace_by_path_and_by_descriptor() {
    let first = Container::sh("readlink /proc/self/ns/net; cat")
        .start()
        .unwrap();
    let net = first.line();
    let path = format!("/proc/{}/ns/net", first.spawned.pid);
    let joined = |by: &str| {
        Container::sh("readlink /proc/self/ns/net").set("/linux/namespaces/1/path", json!(by))
    };
    assert_eq!(joined(&path).run().stdout.trim(), net);
    let mut c = joined("fd:0");
    c.passed = vec![OwnedFd::from(std::fs::File::open(&path).unwrap())];
    assert_eq!(c.run().stdout.trim(), net);
}

#[test]
fn a_joined_pid_namespace() {
    let first = Container::sh("readlink /proc/self/ns/pid; cat")
        .start()
        .unwrap();
    let pid = first.line();
    let own = std::fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap();
    let path = format!("/proc/{}/ns/pid", first.spawned.pid);
    let out = Container::sh("readlink /proc/self/ns/pid; ps")
        .set("/linux/namespaces/3/path", json!(path))
        .run();
    assert!(out.stdout.starts_with(&pid), "{out:?}");
    assert!(
        out.stdout.contains(" cat"),
        "sees the other's processes: {out:?}"
    );
    let after = std::fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap();
    assert_eq!(own, after, "the caller's own children go elsewhere now");
}

#[test]
fn a_user_namespace_with_mapped_ids() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mut c = Container::sh(
        "id -u; cat /proc/self/uid_map; hostname; echo x > /dev/null && ls -ln /dev/null",
    )
    .set("/linux/namespaces/-", json!({"type": "user"}))
    .set("/linux/uidMappings", map.clone())
    .set("/linux/gidMappings", map)
    .set(
        "/mounts/2/options",
        json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
    );
    c.open_upper = true;
    let out = c.run();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines[0], "0", "{out:?}");
    let map: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"]);
    assert_eq!(lines[2], "box");
    assert!(lines[3].starts_with("crw-rw-rw-"), "{out:?}");
}

#[test]
fn time_offsets() {
    let out = Container::sh("cut -d. -f1 /proc/uptime")
        .set("/linux/namespaces/-", json!({"type": "time"}))
        .set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}}),
        )
        .run();
    let uptime: u64 = out
        .stdout
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{out:?}"));
    assert!(uptime > 1_000_000, "{uptime}");
}

#[test]
fn default_mounts() {
    let out = Container::sh("cut -d' ' -f1-3 /proc/mounts; cat /proc/mounts")
        .run()
        .stdout;
    for line in [
        "overlay / overlay",
        "proc /proc proc",
        "tmpfs /dev tmpfs",
        "devpts /dev/pts devpts",
        "sysfs /sys sysfs",
        "mqueue /dev/mqueue mqueue",
        "shm /dev/shm tmpfs",
    ] {
        assert!(out.lines().any(|l| l == line), "no {line} in\n{out}");
    }
    let sys = out
        .lines()
        .find(|l| l.starts_with("sysfs /sys sysfs "))
        .unwrap();
    assert!(sys.contains("ro,nosuid,nodev,noexec"), "{sys}");
    let pts = out
        .lines()
        .find(|l| l.starts_with("devpts /dev/pts devpts "))
        .unwrap();
    assert!(pts.contains("gid=5,mode=620,ptmxmode=666"), "{pts}");
    // nothing of the host's table is left
    assert!(!out.contains("/boot") && !out.contains("/home"), "{out}");
    assert!(!out.contains("ext4"), "{out}");
}

#[test]
fn nothing_stays_in_the_hosts_mount_table() {
    let table = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let upper = Container::sh("true");
    let running = upper.start().unwrap();
    let name = upper.dir.path().display().to_string();
    assert!(!table().contains(&name), "{}", table());
    running.finish();
    assert!(!table().contains(&name));
}

#[test]
fn dev() {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
        readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; ls -l /dev/null; test -e /dev/console && echo console";
    let out = Container::sh(script).run().stdout;
    assert!(
        out.starts_with("/proc/self/fd\n/proc/self/fd/0\npts/ptmx\ncrw-rw-rw-"),
        "{out}"
    );
    assert!(!out.contains("no ") && !out.contains("console"), "{out}");
}

#[test]
fn init_reaps_forwards_and_tells_the_programs_end() {
    // the program is not PID 1; its orphan is reaped by PID 1
    let mut c = Container::sh(
        "echo $$; (sh -c 'exec true' & ); sleep 0.1; grep -c Z /proc/[0-9]*/stat | grep -c ':1'; exit 5",
    );
    c.init = true;
    let out = c.run();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_ne!(lines[0], "1", "{out:?}");
    assert_eq!(lines[1], "0", "zombies: {out:?}");
    assert_eq!(out.code, 5);

    let mut c =
        Container::sh("trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.01; done");
    c.init = true;
    let r = c.start().unwrap();
    assert_eq!(r.line(), "ready");
    r.kill(rustix::process::Signal::USR1);
    let out = r.finish();
    assert_eq!((out.stdout.as_str(), out.code), ("got it\n", 9));

    let mut c = Container::sh("kill -KILL $$");
    c.init = true;
    assert_eq!(c.run().code, 137);
}

#[test]
fn init_shows_a_failed_exec() {
    let mut c = Container::new(&["nonesuch"]);
    c.init = true;
    assert_eq!(
        c.fails(),
        "exec: \"nonesuch\": executable file not found in $PATH (127)"
    );
}

#[test]
fn root_by_path() {
    let mut c = Container::sh("echo in $PWD; ls /bin/busybox").set("/root/readonly", json!(true));
    c.root_by_path = true;
    assert_eq!(c.run().stdout, "in /\n/bin/busybox\n");
}

#[test]
fn ends_when_the_parent_does() {
    // the parent of a container is the thread that made it: here one that ends at once
    let (pidfd, _keep) = std::thread::spawn(|| {
        let r = Container::new(&["sleep", "1000"]).start().unwrap();
        (
            rustix::io::dup(&r.spawned.pidfd).unwrap(),
            std::mem::ManuallyDrop::new(r),
        )
    })
    .join()
    .unwrap();
    let mut fds = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1);
}

/// That every container of these tests starts shows that the child allocates nothing; this shows
/// that it would be noticed.
#[test]
fn a_child_that_allocates_is_noticed() {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;
    let end = |allocate: bool| {
        let child = sys::clone::clone3(0, None, || {
            sys::tripwire::forbid();
            if allocate {
                drop(std::hint::black_box(Box::new(7)));
            }
            sys::process::exit(0)
        })
        .unwrap();
        let pidfd = WaitId::PidFd(child.pidfd.as_fd());
        let status = waitid(pidfd, WaitIdOptions::EXITED).unwrap().unwrap();
        status.exit_status().unwrap()
    };
    assert_eq!(end(false), 0);
    assert_eq!(end(true), sys::tripwire::EXIT_CODE);
}
