//! What hostile images and programs try.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::Container;

/// No descriptor, variable, keyring or terminal of the host is in the container.
#[test]
fn nothing_of_the_host_leaks_in() {
    // a descriptor without close-on-exec, as a library might leave one
    let leak = fs::File::open("/etc").unwrap();
    let leak = rustix::io::fcntl_dupfd_cloexec(&leak, 30).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let out = Container::sh("ls /proc/self/fd; env; cat /proc/self/sessionid 2>/dev/null; grep -i sigign /proc/self/status; cut -d' ' -f6,7 /proc/self/stat; cat /proc/keys; grep CapAmb /proc/self/status")
        .run()
        .stdout;
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::CLOEXEC).unwrap();
    let fds: Vec<_> = out
        .lines()
        .take_while(|l| l.parse::<u32>().is_ok())
        .collect();
    // 3 is ls' own
    assert_eq!(fds, ["0", "1", "2", "3"], "{out}");
    assert!(!out.contains("CARGO"), "{out}");
    assert!(out.contains("PATH=/usr/bin:/bin\n"), "{out}");
    assert!(out.contains("SigIgn:\t0000000000000000"), "{out}");
    // session 1 is its own (PID 1 leads it); terminal 0 is none
    assert!(out.contains("\n1 0\n"), "{out}");
}

/// FAILURES-like: CVE-2019-5736, overwriting the runtime through /proc/self/exe.
#[test]
fn the_runtimes_own_binary_is_out_of_reach() {
    // the program is the interpreter's script /proc/self/exe: it must run the container's file
    let c = Container::new(&["/run-me"]).layer(|l| {
        fs::write(l.join("run-me"), "#!/proc/self/exe\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(l.join("run-me"), mode).unwrap();
    });
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    match c.start() {
        // the kernel resolved the interpreter in the old program: it may run, as a process of the
        // container, but can't be written while it does
        Ok(r) => drop(r),
        Err(e) => assert!(e.starts_with("exec"), "{e}"),
    }
    assert!(fs::read(std::env::current_exe().unwrap()).unwrap() == own);
    // With an init of ours as PID 1, its /proc/1/exe is closed to the container's root.
    let mut c = Container::sh(
        "ls -l /proc/1/exe 2>&1 | grep -c '/proc/1/exe -> '; echo x >> /proc/1/exe && echo written; cat /proc/1/environ >/dev/null && echo read",
    );
    c.init = true;
    let out = c.run();
    assert_eq!(out.stdout, "0\n", "{out:?}");
}

#[test]
fn a_link_as_target_stays_in_the_root() {
    let host = tempfile::tempdir().unwrap();
    let outside = host.path().to_owned();
    let c = Container::sh("cat /data/f; ls -d /data").layer(|l| {
        symlink(&outside, l.join("data")).unwrap();
        symlink("../../../../../../../..", l.join("up")).unwrap();
    });
    let source = c.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "inside\n").unwrap();
    // /data leads to a path that is missing in the image: a dangling link
    let why = c.bind("/data", &source, &["rbind"]).fails();
    assert!(why.contains("a link in the image leads nowhere"), "{why}");
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    // many dots end at the container's root
    let c = Container::sh("cat /tmp/deep/f").layer(|l| {
        symlink("../../../../../../../../tmp", l.join("up")).unwrap();
    });
    let source = c.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "inside\n").unwrap();
    let c = c.bind("/up/deep", &source, &["rbind"]);
    assert_eq!(c.run().stdout, "inside\n");
}

#[test]
fn magic_links_are_not_followed() {
    // an image that points into whatever descriptor the runtime holds (CVE-2024-21626)
    for n in [3, 4, 5, 6, 7, 8, 9] {
        let c = Container::sh("ls /out; pwd").layer(|l| {
            symlink(format!("/proc/self/fd/{n}"), l.join("out")).unwrap();
        });
        let source = c.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        let why = c.bind("/out/x", &source, &["rbind"]).fails();
        assert!(why.starts_with("mount "), "{why}");
        let c = Container::sh("pwd").set("/process/cwd", json!(format!("/proc/self/fd/{n}")));
        let why = c.fails();
        assert!(why.contains("directory"), "{why}");
    }
}

#[test]
fn proc_as_a_link_is_refused() {
    let c = Container::sh("true").layer(|l| symlink("/tmp", l.join("proc")).unwrap());
    let why = c.fails();
    assert!(why.contains("symbolic link"), "{why}");
}

#[test]
fn mounts_over_proc_are_refused() {
    let c = Container::sh("true");
    let source = c.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let why = c.bind("/proc/self/attr", &source, &["rbind"]).fails();
    assert!(why.contains("not allowed"), "{why}");
    // also through a link of the image
    let c = Container::sh("true").layer(|l| symlink("/proc/sys", l.join("data")).unwrap());
    let source = c.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let why = c.bind("/data", &source, &["rbind"]).fails();
    assert!(why.contains("not allowed"), "{why}");
}

#[test]
fn a_false_dev_null_masks_nothing() {
    // CVE-2025-31133: /dev/null of an image or volume as the source of masks
    let c = Container::sh("true");
    let dev = c.dir.path().join("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/proc/kcore", dev.join("null")).unwrap();
    let why = c.bind("/dev", &dev, &["rbind"]).set(
        "/mounts/1",
        json!({
            "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": []
        }),
    );
    // no /dev of ours, no devpts below the volume
    let mut c = why;
    let keep = |m: &serde_json::Value| {
        let d = m["destination"].as_str().unwrap();
        d == "/dev" || !d.starts_with("/dev")
    };
    let mounts = c.spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| keep(m))
        .cloned()
        .collect();
    c.spec["mounts"] = serde_json::Value::Array(mounts);
    let why = c.fails();
    assert!(why.starts_with("mask /proc/"), "{why}");
}

#[test]
fn a_masked_path_that_is_a_link_masks_what_it_leads_to() {
    let c = Container::sh("cat /secret/key || echo gone; cat /alias/key || echo gone")
        .layer(|l| {
            fs::create_dir(l.join("secret")).unwrap();
            fs::write(l.join("secret/key"), "s3cret").unwrap();
            symlink("/secret", l.join("alias")).unwrap();
        })
        .set("/linux/maskedPaths/-", json!("/alias"));
    assert_eq!(c.run().stdout, "gone\ngone\n");
}

#[test]
fn a_process_being_set_up_cannot_be_traced() {
    // dumpable is off until execve: PID 1 of an init container never executes
    let mut c = Container::sh(
        "head -c1 /proc/1/mem; echo $?; ls /proc/1/fd; readlink /proc/1/fd/0; echo $?",
    );
    c.init = true;
    let out = c.run();
    // its descriptors can be counted by root, not followed
    assert_eq!(out.stdout, "1\n0\n1\n2\n1\n", "{out:?}");
}

/// With fs.suid_dumpable a change of user would open a process that is still ours.
#[test]
fn a_change_of_user_opens_nothing() {
    let script = "head -c1 /proc/1/mem; echo $?; cat /proc/1/environ; echo $?; readlink /proc/1/exe; echo $?; readlink /proc/1/cwd; echo $?";
    let mut c = Container::sh(script).set("/process/user", json!({"uid": 1000, "gid": 1000}));
    c.init = true;
    let out = c.run();
    assert_eq!(out.stdout, "1\n1\n1\n1\n", "{out:?}");
}

/// The caller's supplementary groups are not the container's, whatever user it has.
#[test]
fn no_group_of_the_caller_is_left() {
    std::thread::scope(|s| {
        let done = s.spawn(|| {
            // of this thread alone
            sys::process::setgroups(&[5, 7, 42]).unwrap();
            for user in [json!({"uid": 0, "gid": 0}), json!({"uid": 12, "gid": 13})] {
                let c = Container::sh("grep Groups: /proc/self/status");
                let out = c.set("/process/user", user).run();
                assert_eq!(out.stdout.trim_end(), "Groups:", "{out:?}");
            }
        });
        done.join().unwrap();
    });
}

/// CVE-2019-16884, CVE-2025-52881: a /proc of the image's own swallows no write meant for the
/// kernel.
#[test]
fn a_sysctl_reaches_the_real_procfs() {
    let mut c = Container::sh("echo up; cat")
        .layer(|l| {
            fs::create_dir_all(l.join("proc/sys/net/core")).unwrap();
            fs::write(l.join("proc/sys/net/core/somaxconn"), "image").unwrap();
        })
        .set("/linux/sysctl", json!({"net.core.somaxconn": "777"}));
    let mounts = c.spec["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/proc");
    let r = c.start().unwrap();
    r.line();
    let path = format!("/proc/{}/ns/net", r.spawned.pid);
    let inside = std::thread::spawn(move || {
        let namespace = fs::File::open(path).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&namespace);
        sys::process::setns(fd, libc::CLONE_NEWNET).unwrap();
        fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap()
    });
    assert_eq!(inside.join().unwrap(), "777\n");
    assert!(
        !c.upper().join("proc/sys").exists(),
        "the image's file was written"
    );
}

/// CVE-2019-5736, CVE-2024-21626: whoever waits inside for a process that comes in finds neither
/// our program nor a descriptor that leads out.
#[test]
fn an_exec_into_a_hostile_container_gives_nothing_away() {
    let script = "echo up; while :; do for p in /proc/[0-9]*; do \
        readlink $p/exe; readlink $p/cwd; for f in $p/fd/*; do readlink $f; done; done; done 2>/dev/null";
    let c = Container::sh(script);
    let r = c.start().unwrap();
    r.line();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let e = c.exec(&r, &["true"], |_| ()).unwrap();
        assert_eq!(e.wait(), 0);
        seen.extend((0..40).map(|_| r.line()));
    }
    r.kill(rustix::process::Signal::KILL);
    let own = std::env::current_exe().unwrap();
    let own = own.file_name().unwrap().to_string_lossy().into_owned();
    for line in &seen {
        let inside = ["/bin/busybox", "/", "pipe:", "/proc", "/dev/null"];
        assert!(
            inside
                .iter()
                .any(|i| line == i || line.starts_with("pipe:") || line.starts_with("/proc")),
            "{line}"
        );
        assert!(!line.contains(&own), "{line}");
    }
}

/// CVE-2021-30465: a volume's other user exchanges a directory and a link while mounts are made
/// below it. Whatever wins, nothing is made or mounted outside the container.
#[test]
fn a_race_of_links_never_leads_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let volume = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let (dir, link) = (volume.path().join("dir"), volume.path().join("link"));
    fs::create_dir(&dir).unwrap();
    symlink(outside.path(), &link).unwrap();
    let stop = AtomicBool::new(false);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (mut started, mut refused) = (0, 0);
    std::thread::scope(|s| {
        s.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let at = rustix::fs::CWD;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(at, &dir, at, &link, flags).unwrap();
            }
        });
        for _ in 0..150 {
            let c = Container::sh("true");
            let source = c.dir.path().join("source");
            fs::create_dir(&source).unwrap();
            let c =
                c.bind("/v", volume.path(), &["rbind"])
                    .bind("/v/dir/target", &source, &["rbind"]);
            match c.start() {
                Ok(r) => {
                    started += 1;
                    r.finish();
                }
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{started} started, {refused} refused");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}
