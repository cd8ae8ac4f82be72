//! Mounts, devices, masks, sysctls.

use std::fs;

use serde_json::json;

use crate::Container;
use crate::harness::{instance, v2_alone};

#[test]
fn volumes_read_write_and_read_only() {
    let c = Container::sh("echo new > /rw/file; cat /ro/old; echo x > /ro/no; echo $?");
    let (rw, ro) = (c.dir.path().join("rw"), c.dir.path().join("ro"));
    fs::create_dir(&rw).unwrap();
    fs::create_dir(&ro).unwrap();
    fs::write(ro.join("old"), "old\n").unwrap();
    let c = c
        .bind("/rw", &rw, &["rbind", "rprivate"])
        .bind("/ro", &ro, &["rbind", "ro"]);
    let out = c.run();
    assert_eq!(out.stdout, "old\n1\n", "{out:?}");
    assert_eq!(fs::read_to_string(rw.join("file")).unwrap(), "new\n");
}

#[test]
fn recursive_read_only_reaches_submounts() {
    let c = Container::sh("echo x > /v/sub/f && echo written; echo x > /w/sub/f || echo refused");
    let src = c.dir.path().join("src");
    fs::create_dir_all(src.join("sub")).unwrap();
    // the container's own tmpfs on /v/sub is a submount of the host's tree: made in a throwaway
    // mount namespace of this thread alone
    std::thread::scope(|s| {
        s.spawn(|| {
            own_mount_namespace();
            rustix::mount::mount(
                "t",
                src.join("sub"),
                "tmpfs",
                rustix::mount::MountFlags::empty(),
                None,
            )
            .unwrap();
            let out = c
                .bind("/v", &src, &["rbind", "ro"])
                .bind("/w", &src, &["rbind", "rro"])
                .run();
            assert_eq!(out.stdout, "written\nrefused\n", "{out:?}");
        });
    });
}

/// For this thread alone.
pub(crate) fn own_mount_namespace() {
    use rustix::mount::{MountPropagationFlags as P, mount_change};
    sys::process::unshare(libc::CLONE_FS).unwrap();
    sys::process::unshare(libc::CLONE_NEWNS).unwrap();
    mount_change("/", P::PRIVATE | P::REC).unwrap();
}

#[test]
fn propagation_between_host_and_container() {
    use rustix::mount::{MountFlags, MountPropagationFlags as P, mount, mount_bind, mount_change};
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            own_mount_namespace();
            mount_bind(dir.path(), dir.path()).unwrap();
            mount_change(dir.path(), P::SHARED).unwrap();
            for d in ["late", "back"] {
                fs::create_dir(dir.path().join(d)).unwrap();
            }
            let running = |options: &[&str]| {
                let c = Container::sh("echo up; read x; ls /v/late; mount -t tmpfs t /v/back && touch /v/back/inside; echo done; read x")
                    .bind("/v", dir.path(), options)
                    .caps(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
                let r = c.start().unwrap();
                assert_eq!(r.line(), "up");
                r
            };
            let all = [running(&["rbind", "rprivate"]), running(&["rbind", "rslave"]), running(&["rbind", "rshared"])];
            mount("t", dir.path().join("late"), "tmpfs", MountFlags::empty(), None).unwrap();
            fs::write(dir.path().join("late/file"), "").unwrap();
            let seen: Vec<_> = all
                .iter()
                .map(|r| {
                    rustix::io::write(r.pipes.stdin.as_ref().unwrap(), b"go\n").unwrap();
                    let line = r.line();
                    let back = line == "done" || r.line() == "done";
                    assert!(back);
                    (line == "file", dir.path().join("back/inside").exists())
                })
                .collect();
            assert_eq!(seen, [(false, false), (true, false), (true, true)]);
        });
    });
}

#[test]
fn a_file_is_bound_onto_a_file() {
    let c = Container::sh("cat /etc/resolv.conf; cat /new/dir/file");
    let file = c.dir.path().join("resolv");
    fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
    let c = c
        .bind("/etc/resolv.conf", &file, &["bind"])
        .bind("/new/dir/file", &file, &["bind"]);
    assert_eq!(c.run().stdout.lines().count(), 2);
}

#[test]
fn tmpfs_with_options() {
    let out = Container::sh("grep ' /t ' /proc/mounts; stat -c %a /t")
        .mount(
            "/t",
            "tmpfs",
            std::path::Path::new("tmpfs"),
            &["nosuid", "nodev", "noexec", "size=1m", "mode=1770"],
        )
        .run();
    assert!(
        out.stdout.contains("nosuid,nodev,noexec") && out.stdout.contains("size=1024k"),
        "{out:?}"
    );
    assert!(out.stdout.ends_with("1770\n"), "{out:?}");
}

#[test]
fn a_read_only_root() {
    let out = Container::sh("touch /x || echo refused; touch /t/x && echo fine")
        .set("/root/readonly", json!(true))
        .mount("/t", "tmpfs", std::path::Path::new("tmpfs"), &[])
        .run();
    assert_eq!(out.stdout, "refused\nfine\n", "{out:?}");
}

#[test]
fn masked_and_read_only_paths() {
    let script = "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; \
        echo 1 > /proc/sys/kernel/panic || echo ro; echo h > /proc/sysrq-trigger || echo ro; \
        ls -l /proc/timer_list 2>/dev/null | cut -c1; cat /proc/interrupts | wc -c";
    let out = Container::sh(script).run();
    assert_eq!(out.stdout, "0\n0\nro\nro\nc\n0\n", "{out:?}");
}

#[test]
fn devices_of_the_spec() {
    let out = Container::sh("ls -ln /dev/kmsg2 /dev/sub/fuse | cut -c1-10; ls -ln /dev/sub/fuse")
        .set(
            "/linux/devices",
            json!([
                {"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11, "fileMode": 0o600},
                {"path": "/dev/sub/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8}
            ]),
        )
        .run();
    assert!(
        out.stdout.starts_with("crw-------\ncrw-r-----\n"),
        "{out:?}"
    );
    assert!(out.stdout.contains("7        8"), "{out:?}");
}

#[test]
fn a_device_in_the_way_is_replaced_unless_it_is_the_one_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let script = "stat -c '%F %a %t:%T' /etc/null /etc/file; test -p /run/pipe && echo pipe; stat -c %a /run/pipe";
    let out = Container::sh(script)
        .layer(|l| {
            fs::create_dir(l.join("etc")).unwrap();
            fs::write(l.join("etc/file"), "an image's").unwrap();
            let kind = rustix::fs::FileType::CharacterDevice;
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let at = l.join("etc/null");
            rustix::fs::mknodat(rustix::fs::CWD, &at, kind, mode, libc::makedev(1, 3)).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(0o600)).unwrap();
        })
        .set(
            "/linux/devices",
            json!([
                {"path": "/etc/null", "type": "c", "major": 1, "minor": 3},
                {"path": "/etc/file", "type": "c", "major": 1, "minor": 5},
                {"path": "/run/pipe", "type": "p", "fileMode": 0o620},
                {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 5}
            ]),
        )
        .run();
    let special = "character special file";
    let expected = format!("{special} 600 1:3\n{special} 666 1:5\npipe\n620\n");
    assert_eq!(out.stdout, expected, "{out:?}");
}

/// The default devices are there whatever the bundle mounts.
#[test]
fn default_devices_without_a_dev_of_ones_own() {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; readlink /dev/fd; readlink /dev/ptmx; echo x > /dev/null && echo fine";
    let mut c = Container::sh(script).layer(|l| {
        fs::create_dir(l.join("dev")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", l.join("dev/null")).unwrap();
    });
    let mounts = c.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    let out = c.run();
    assert_eq!(out.stdout, "/proc/self/fd\npts/ptmx\nfine\n", "{out:?}");
}

#[test]
fn sysctls_of_the_containers_own_namespaces() {
    let c =
        Container::sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")
            .set(
                "/linux/sysctl",
                json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "9000"}),
            );
    assert_eq!(c.run().stdout, "77\n9000\n");
    let host = |name: &str| {
        let c = Container::sh("true").set("/linux/sysctl", json!({name: "1"}));
        c.plan().unwrap_err().to_string()
    };
    assert!(host("kernel.panic").contains("would change the host"));
    assert!(host("net.../../kernel/panic").contains("sysctl"));
}

#[test]
fn a_missing_working_directory_is_made() {
    let out = Container::sh("pwd; touch here")
        .set("/process/cwd", json!("/srv/app"))
        .run();
    assert_eq!(out.stdout, "/srv/app\n", "{out:?}");
}

#[test]
fn cgroup_file_system_shows_the_container_as_root() {
    let (dir, own) = if v2_alone() {
        ("/sys/fs/cgroup", "0::/\n")
    } else {
        ("/sys/fs/cgroup/pids", "pids:/\n")
    };
    let script = format!(
        "ls /sys/fs/cgroup; cat /proc/self/cgroup; cat {dir}/cgroup.procs; \
         echo 5 > {dir}/pids.max || touch /sys/fs/cgroup/x || echo ro"
    );
    let out = Container::sh(&script).in_cgroup().run();
    assert!(out.stdout.contains(own), "{out:?}");
    assert!(out.stdout.ends_with("ro\n"), "{out:?}");
}

/// Without a namespace of their own, control groups of version 1 are bound, those of version 2 are
/// seen whole: as with runc.
#[test]
fn cgroup_directories_are_bound_in_the_hosts_cgroup_namespace() {
    let script = if v2_alone() {
        "ls -d /sys/fs/cgroup/plimsoll-*; grep -c '^0::/plimsoll-' /proc/self/cgroup; \
         echo 5 > /sys/fs/cgroup/cgroup.max.depth || echo ro"
    } else {
        "ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs; grep -c pids:/ /proc/self/cgroup; \
         echo 5 > /sys/fs/cgroup/pids/pids.max || echo ro"
    };
    let mut c = Container::sh(script);
    c.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "cgroup");
    let out = c.in_cgroup().run();
    let listed = if v2_alone() {
        format!("/sys/fs/cgroup/{}\n", instance())
    } else {
        "memory\npids\n1\n".to_owned()
    };
    assert!(out.stdout.contains(&listed), "{out:?}");
    assert!(out.stdout.ends_with("1\nro\n"), "{out:?}");
}
