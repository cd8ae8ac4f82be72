//! Starting: namespaces, default mounts, the program.

use crate::Container;

#[test]
fn hello() {
    let out = Container::sh("echo hello; echo oops >&2; exit 7").run();
    assert_eq!(out.stdout, "hello\n", "{out:?}");
    assert_eq!(out.stderr, "oops\n");
    assert_eq!(out.code, 7);
}

#[test]
fn in_a_cgroup() {
    let out =
        Container::sh("cat /proc/self/cgroup; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/tasks")
            .in_cgroup()
            .run();
    println!("{}\n{}", out.stdout, out.stderr);
    assert_eq!(out.code, 0);
}
