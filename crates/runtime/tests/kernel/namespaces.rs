//! Namespaces new and joined, their maps, names and devices.

use std::fs;

use serde_json::{Value, json};

use crate::Container;
use crate::harness::Running;

fn refused(c: &Container) -> String {
    c.plan().unwrap_err().to_string()
}

/// devpts' group isn't mapped in a user namespace of few ids.
fn without_groups(c: Container) -> Container {
    let options = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666"]);
    c.set("/mounts/2/options", options)
}

fn in_user_namespace(c: Container, map: &Value) -> Container {
    let mut c = without_groups(c)
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map.clone());
    c.open_upper = true;
    c
}

fn map() -> Value {
    json!([{"containerID": 0, "hostID": 100_000, "size": 65536}])
}

fn link(r: &Running, kind: &str) -> String {
    let path = format!("/proc/{}/ns/{kind}", r.spawned.pid);
    fs::read_link(path).unwrap().display().to_string()
}

#[test]
fn what_would_change_the_host_is_refused() {
    let without = |kind: &str| {
        let mut c = Container::sh("true");
        let list = c.spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != kind);
        c
    };
    assert!(refused(&without("uts")).contains("hostname"));
    assert!(refused(&without("mount")).contains("mount namespace"));
    let c = without("network").set("/linux/sysctl", json!({"net.core.somaxconn": "1"}));
    assert!(refused(&c).contains("network namespace"));
    let c = without("ipc").set("/linux/sysctl", json!({"kernel.shmmax": "1"}));
    assert!(refused(&c).contains("ipc namespace"));
    let c = Container::sh("true").set("/linux/sysctl", json!({"vm.swappiness": "1"}));
    assert!(refused(&c).contains("not kept per namespace"));
    let c = Container::sh("true").set("/linux/namespaces/-", json!({"type": "uts"}));
    assert!(refused(&c).contains("twice"));
    let offsets = json!({"boottime": {"secs": 1}});
    let c = Container::sh("true").set("/linux/timeOffsets", offsets);
    assert!(refused(&c).contains("time namespace"));
    let c = Container::sh("true").set("/linux/uidMappings", map());
    assert!(refused(&c).contains("user namespace"));
    let c = without("network").set("/linux/netDevices", json!({"eth7": {}}));
    assert!(refused(&c).contains("network namespace"));
}

/// A namespace joined by path that is the host's own would take the name for the host.
#[test]
fn the_hosts_own_namespace_by_path_is_refused() {
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let why = Container::sh("true")
        .set("/linux/namespaces/2/path", json!("/proc/self/ns/uts"))
        .fails();
    assert!(why.contains("the host's own"), "{why}");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        own
    );
    let why = Container::sh("true")
        .set("/linux/namespaces/1/path", json!("/proc/self/ns/net"))
        .set("/linux/sysctl", json!({"net.core.somaxconn": "77"}))
        .fails();
    assert!(why.contains("the host's own"), "{why}");
    // a file that is no namespace at all
    let why = Container::sh("true")
        .set("/linux/namespaces/1/path", json!("/etc/passwd"))
        .fails();
    assert!(why.contains("the kernel's own"), "{why}");
    // one of another kind
    let other = Container::sh("echo up; cat").start().unwrap();
    other.line();
    let path = format!("/proc/{}/ns/ipc", other.spawned.pid);
    let why = Container::sh("true")
        .set("/linux/namespaces/1/path", json!(path))
        .fails();
    assert!(why.contains("join the net namespace"), "{why}");
}

#[test]
fn every_kind_by_path() {
    let first = Container::sh("echo up; cat")
        .set("/linux/namespaces/-", json!({"type": "time"}))
        .set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1_000_000}}),
        )
        .start()
        .unwrap();
    first.line();
    let pid = first.spawned.pid;
    let kinds = [
        ("net", 1, "network"),
        ("uts", 2, "uts"),
        ("pid", 3, "pid"),
        ("ipc", 4, "ipc"),
        ("cgroup", 5, "cgroup"),
    ];
    let mut c = Container::sh(
        "for k in net uts pid ipc cgroup time; do readlink /proc/self/ns/$k; done; cut -d. -f1 /proc/uptime",
    );
    for (name, index, kind) in kinds {
        let path = format!("/proc/{pid}/ns/{name}");
        c = c.set(
            &format!("/linux/namespaces/{index}"),
            json!({"type": kind, "path": path}),
        );
    }
    let time = json!({"type": "time", "path": format!("/proc/{pid}/ns/time")});
    let out = c.set("/linux/namespaces/-", time).run();
    let lines: Vec<_> = out.stdout.lines().collect();
    for (i, kind) in ["net", "uts", "pid", "ipc", "cgroup", "time"]
        .iter()
        .enumerate()
    {
        assert_eq!(lines[i], link(&first, kind), "{out:?}");
    }
    assert!(lines[6].parse::<u64>().unwrap() > 1_000_000, "{out:?}");
}

#[test]
fn a_user_namespace_by_path_with_all_others_new() {
    let c = in_user_namespace(Container::sh("echo up; cat"), &map());
    let first = c.start().unwrap();
    first.line();
    let path = format!("/proc/{}/ns/user", first.spawned.pid);
    let mut c = without_groups(Container::sh(
        "readlink /proc/self/ns/user; id -u; echo $$; hostname; cat /proc/self/uid_map; echo x > /dev/null && echo dev",
    ));
    c = c.set("/linux/namespaces/-", json!({"type": "user", "path": path}));
    c.open_upper = true;
    let r = c.in_cgroup().start().unwrap();
    let pid = r.spawned.pid;
    let outside = fs::metadata(format!("/proc/{pid}")).is_ok();
    let out = r.finish();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines[0], link(&first, "user"), "{out:?}");
    assert_eq!(lines[1..4], ["0", "1", "box"], "{out:?}");
    let map: Vec<_> = lines[4].split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"]);
    assert_eq!(lines[5], "dev");
    assert!(outside, "the pid is that of the process which goes on");
}

/// The network belongs to the host's user namespace: it must be joined before the container's own
/// user namespace is made (the order runc has).
#[test]
fn a_new_user_namespace_with_a_joined_network() {
    let first = Container::sh("echo up; cat").start().unwrap();
    first.line();
    let path = format!("/proc/{}/ns/net", first.spawned.pid);
    let c = Container::sh("readlink /proc/self/ns/net; id -u; echo $$; cat /proc/self/gid_map")
        .set("/linux/namespaces/1/path", json!(path));
    // sysfs shows a network that isn't the user namespace's: the host's own is bound instead
    let out = in_user_namespace(c, &map()).run();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!(lines[0], link(&first, "net"), "{out:?}");
    assert_eq!(lines[1..3], ["0", "1"], "{out:?}");
    assert!(lines[3].contains("100000"));
}

#[test]
fn several_ranges_of_ids() {
    let ranges = json!([
        {"containerID": 0, "hostID": 100_000, "size": 10},
        {"containerID": 10, "hostID": 300_000, "size": 5},
        {"containerID": 1000, "hostID": 200_000, "size": 1}
    ]);
    let c = Container::sh("wc -l < /proc/self/uid_map; id -u; id -G").set(
        "/process/user",
        json!({"uid": 1000, "gid": 12, "additionalGids": [14, 3]}),
    );
    let out = in_user_namespace(c, &ranges).run();
    assert_eq!(out.stdout, "3\n1000\n12 3 14\n", "{out:?}");
    let overlap = json!([
        {"containerID": 0, "hostID": 100_000, "size": 10},
        {"containerID": 9, "hostID": 300_000, "size": 5}
    ]);
    let c = in_user_namespace(Container::sh("true"), &overlap);
    assert!(refused(&c).contains("overlap"));
}

#[test]
fn a_domain_name() {
    let c =
        Container::sh("cat /proc/sys/kernel/domainname").set("/domainname", json!("example.org"));
    assert_eq!(c.run().stdout, "example.org\n");
}

/// A link of the host goes in with its lasting addresses, under a new name, and up.
#[test]
fn a_network_device_of_the_host() {
    // in a network namespace of this thread alone, which plays the host
    std::thread::scope(|s| {
        let done = s.spawn(|| {
            sys::process::unshare(libc::CLONE_NEWNET).unwrap();
            let ip = |args: &[&str]| {
                #[expect(clippy::disallowed_methods, reason = "a test makes the host's links")]
                let done = std::process::Command::new("/bin/busybox")
                    .arg("ip")
                    .args(args)
                    .status();
                assert!(done.unwrap().success(), "ip {args:?}");
            };
            ip(&[
                "link", "add", "plim0", "type", "veth", "peer", "name", "plim1",
            ]);
            ip(&["addr", "add", "198.51.100.7/24", "dev", "plim0"]);
            ip(&["addr", "add", "2001:db8::7/64", "dev", "plim0"]);
            // busybox leaves the peer the kernel's name
            ip(&["link", "set", "veth0", "up"]);
            let c = Container::sh("ip addr show dev eth9; ip link show dev veth0").set(
                "/linux/netDevices",
                json!({"plim0": {"name": "eth9"}, "veth0": {}}),
            );
            let out = c.run().stdout;
            assert!(out.contains("inet 198.51.100.7/24"), "{out}");
            assert!(out.contains("inet6 2001:db8::7/64"), "{out}");
            assert_eq!(out.matches(",UP").count(), 2, "{out}");
            let c = Container::sh("true").set("/linux/netDevices", json!({"nonesuch0": {}}));
            let why = c.fails();
            assert!(
                why.contains("nonesuch0") && why.contains("no such device"),
                "{why}"
            );
        });
        done.join().unwrap();
    });
    let c = Container::sh("true").set("/linux/netDevices", json!({"a/b": {}}));
    assert!(refused(&c).contains("no interface name"));
}
