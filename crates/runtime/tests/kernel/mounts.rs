//! Mount options, mapped ids, and the ways a root becomes "/".

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::Container;
use crate::files::own_mount_namespace;

fn tmpfs(at: &Path) {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("t", at, "tmpfs", flags, None).unwrap();
}

/// Runs in a thread with mounts of its own.
fn with_own_mounts(f: impl FnOnce() + Send) {
    std::thread::scope(|s| {
        let done = s.spawn(|| {
            own_mount_namespace();
            f();
        });
        done.join().unwrap();
    });
}

/// The options of the mount at `target`, as the container's own table has them.
fn options(out: &str, target: &str) -> Vec<String> {
    let line = out
        .lines()
        .find(|l| l.split(' ').nth(1) == Some(target))
        .unwrap_or_else(|| panic!("no {target} in\n{out}"));
    let options = line.split(' ').nth(3).unwrap();
    options.split(',').map(str::to_owned).collect()
}

#[test]
fn every_recursive_attribute_reaches_submounts() {
    const CASES: [(&str, &str); 9] = [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rrelatime", "relatime"),
        ("rstrictatime", "rw"),
        ("rnodiratime", "nodiratime"),
        ("rnosymfollow", "nosymfollow"),
    ];
    let mut c = Container::sh("cat /proc/mounts");
    let src = c.dir.path().join("src");
    fs::create_dir_all(src.join("sub")).unwrap();
    for (i, (option, _)) in CASES.iter().enumerate() {
        c = c.bind(&format!("/v{i}"), &src, &["rbind", option]);
    }
    c = c.bind("/back", &src, &["rbind", "ro", "rnosuid", "rrw", "rsuid"]);
    with_own_mounts(|| {
        tmpfs(&src.join("sub"));
        let out = c.run().stdout;
        for (i, (option, shown)) in CASES.iter().enumerate() {
            for target in [format!("/v{i}"), format!("/v{i}/sub")] {
                let got = options(&out, &target);
                assert!(got.iter().any(|o| o == shown), "{option} {target}: {got:?}");
            }
        }
        let strict = options(&out, "/v6/sub");
        assert!(!strict.iter().any(|o| o.ends_with("atime")), "{strict:?}");
        let back = options(&out, "/back/sub");
        assert!(back.iter().all(|o| o != "nosuid" && o != "ro"), "{back:?}");
    });
}

#[test]
fn options_of_a_whole_file_system() {
    let src = Path::new("t");
    let out = Container::sh("cat /proc/mounts; stat -c %a /like /mode")
        .layer(|l| {
            for d in ["like", "mode"] {
                fs::create_dir(l.join(d)).unwrap();
                fs::set_permissions(l.join(d), fs::Permissions::from_mode(0o751)).unwrap();
            }
        })
        .mount(
            "/a",
            "tmpfs",
            src,
            &["sync", "dirsync", "lazytime", "silent", "iversion"],
        )
        .mount(
            "/b",
            "tmpfs",
            src,
            &["mand", "async", "nolazytime", "loud", "acl", "defaults"],
        )
        .mount("/like", "tmpfs", src, &["size=1m"])
        .mount("/mode", "tmpfs", src, &["mode=700"])
        .mount(
            "/sys2",
            "sysfs",
            Path::new("sysfs"),
            &["nosymfollow", "noatime"],
        )
        .run()
        .stdout;
    for option in ["sync", "dirsync", "lazytime"] {
        let got = options(&out, "/a");
        assert!(got.iter().any(|o| o == option), "{option}: {got:?}");
        assert!(options(&out, "/b").iter().all(|o| o != option));
    }
    assert!(options(&out, "/sys2").contains(&"nosymfollow".to_owned()));
    // as under runc: the mode of the directory that is covered, unless another is asked for
    assert!(out.ends_with("751\n700\n"), "{out}");
}

#[test]
fn a_bind_of_a_file_system_option_is_warned_of() {
    let c = Container::sh("true");
    let src = c.dir.path().to_owned();
    let c = c.bind("/v", &src, &["rbind", "sync", "mode=755"]);
    let warnings = c.plan().unwrap().warnings().to_vec();
    assert!(warnings[0].contains("sync"), "{warnings:?}");
    assert!(warnings[1].contains("mode"), "{warnings:?}");
    let c = c.bind("/w", &src, &["rbind", "noexex"]);
    assert!(c.plan().unwrap_err().to_string().contains("noexex"));
}

#[test]
fn tmpcopyup_brings_the_images_files() {
    let script = "cd /data; cat file deep/er/x; readlink link; stat -c '%a %u:%g' . file deep suid; \
        stat -c %Y file; echo new > made && echo ok; ls | wc -l";
    let c = Container::sh(script).layer(|l| {
        let data = l.join("data");
        fs::create_dir_all(data.join("deep/er")).unwrap();
        fs::write(data.join("file"), "content\n").unwrap();
        fs::write(data.join("deep/er/x"), "deep\n").unwrap();
        fs::write(data.join("suid"), "").unwrap();
        symlink("/no/where", data.join("link")).unwrap();
        let mode = |p: &str, m| {
            fs::set_permissions(data.join(p), fs::Permissions::from_mode(m)).unwrap();
        };
        std::os::unix::fs::chown(data.join("file"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::chown(data.join("suid"), Some(9), Some(9)).unwrap();
        mode("", 0o750);
        mode("suid", 0o4755);
        mode("deep", 0o711);
        let file = fs::File::options()
            .write(true)
            .open(data.join("file"))
            .unwrap();
        let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        file.set_modified(then).unwrap();
    });
    let c = c.mount(
        "/data",
        "tmpfs",
        Path::new("tmpfs"),
        &["tmpcopyup", "size=10m"],
    );
    let out = c.run();
    let expected =
        "content\ndeep\n/no/where\n750 0:0\n644 7:8\n711 0:0\n4755 9:9\n1000000\nok\n5\n";
    // made in the tmpfs, not in the image
    assert!(!c.upper().join("data").exists());
    assert_eq!(out.stdout, expected, "{out:?}");
    let small = Container::sh("true").layer(|l| {
        fs::create_dir(l.join("data")).unwrap();
        fs::write(l.join("data/big"), vec![1; 1 << 20]).unwrap();
    });
    let options = ["tmpcopyup", "size=64k"];
    let why = small
        .mount("/data", "tmpfs", Path::new("t"), &options)
        .fails();
    assert!(why.contains("raise size="), "{why}");
}

#[test]
fn a_remount_changes_what_is_there() {
    let none = Path::new("none");
    let c = Container::sh("cat /proc/mounts; echo x > /a/f || echo refused")
        .mount("/a", "tmpfs", Path::new("t"), &["size=1m"])
        .mount("/a", "none", none, &["remount", "size=2m", "ro", "nosuid"])
        .mount(
            "/dev/shm",
            "none",
            none,
            &["remount", "bind", "ro", "noexec"],
        );
    let out = c.run().stdout;
    let a = options(&out, "/a");
    for o in ["ro", "nosuid", "size=2048k"] {
        assert!(a.iter().any(|x| x == o), "{o}: {a:?}");
    }
    assert!(options(&out, "/dev/shm").contains(&"ro".to_owned()));
    assert!(out.ends_with("refused\n"), "{out}");
    let why = Container::sh("true")
        .mount("/etc", "none", none, &["remount", "bind", "ro"])
        .fails();
    assert!(
        why.starts_with("mount none at /etc") || why.starts_with("mount "),
        "{why}"
    );
}

fn idmap(host: u32) -> Value {
    json!([{"containerID": 0, "hostID": host, "size": 1000}])
}

/// Files of uid 0 to 999 on the host belong to `host..` in the mount, as the kernel shows it.
fn mapped(c: Container, target: &str, source: &Path, option: &str, host: u32) -> Container {
    let m = json!({
        "destination": target, "type": "bind", "source": source, "options": [option, "rbind"],
        "uidMappings": idmap(host), "gidMappings": idmap(host),
    });
    c.set("/mounts/-", m)
}

#[test]
fn a_bind_with_mapped_ids() {
    let c = Container::sh("stat -c %u:%g /v/f /v /v/sub/g; touch /v/made; stat -c %u /v/made")
        .set("/process/user", json!({"uid": 5000, "gid": 5000}));
    let src = c.dir.path().join("src");
    fs::create_dir_all(src.join("sub")).unwrap();
    fs::write(src.join("f"), "").unwrap();
    std::os::unix::fs::chown(src.join("f"), Some(7), Some(8)).unwrap();
    with_own_mounts(|| {
        tmpfs(&src.join("sub"));
        fs::write(src.join("sub/g"), "").unwrap();
        // ids of the file system 0.. appear as 5000..
        let c = mapped(c, "/v", &src, "ridmap", 5000);
        let out = c.run();
        assert_eq!(
            out.stdout, "5007:5008\n5000:5000\n5000:5000\n5000\n",
            "{out:?}"
        );
        assert_eq!(fs::metadata(src.join("made")).unwrap().uid(), 0);
        // without recursion the mount below keeps its ids
        let c = Container::sh("stat -c %u /v/f /v/sub/g");
        let out = mapped(c, "/v", &src, "idmap", 5000).run();
        assert_eq!(out.stdout, "5007\n0\n", "{out:?}");
    });
}

/// HOSTS.md: each file system learned to map ids in another version of the kernel.
#[test]
fn mapped_ids_on_each_file_system() {
    for kind in testkit::powercut::FileSystem::ALL {
        let c = Container::sh("stat -c %u:%g /v/f; touch /v/made; stat -c %u /v/made")
            .set("/process/user", json!({"uid": 5000, "gid": 5000}));
        let (disk, src) = (c.dir.path().join("disk"), c.dir.path().join("src"));
        fs::create_dir(&src).unwrap();
        fs::File::create(&disk)
            .and_then(|f| f.set_len(kind.disk_size()))
            .unwrap();
        kind.make(&disk).unwrap();
        with_own_mounts(|| {
            mount_loop(&disk, &src);
            std::os::unix::fs::chown(&src, Some(0), Some(0)).unwrap();
            fs::write(src.join("f"), "").unwrap();
            std::os::unix::fs::chown(src.join("f"), Some(7), Some(8)).unwrap();
            let c = mapped(c, "/v", &src, "idmap", 5000);
            let out = c.run();
            assert_eq!(out.stdout, "5007:5008\n5000\n", "{kind:?}: {out:?}");
            let made = fs::metadata(src.join("made")).unwrap();
            assert_eq!((made.uid(), made.gid()), (0, 0), "{kind:?}");
        });
    }
}

/// The device is let go of with the last mount.
#[expect(
    clippy::disallowed_methods,
    reason = "mount(8) sets up the loop device"
)]
fn mount_loop(disk: &Path, at: &Path) {
    let mut mount = std::process::Command::new("mount");
    let done = mount.args(["-o", "loop"]).arg(disk).arg(at).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// With the container's own maps the mapped root owns what root owns.
#[test]
fn a_bind_mapped_like_the_container() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let mut c = Container::sh("stat -c %u /v /plain; touch /v/made && echo made")
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set(
            "/mounts/2/options",
            json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666"]),
        );
    c.open_upper = true;
    let src = c.dir.path().join("src");
    fs::create_dir(&src).unwrap();
    let c = c
        .bind("/v", &src, &["rbind", "idmap"])
        .bind("/plain", &src, &["rbind"]);
    let out = c.run();
    assert_eq!(out.stdout, "0\n65534\nmade\n", "{out:?}");
    assert_eq!(fs::metadata(src.join("made")).unwrap().uid(), 0);
}

#[test]
fn mapped_ids_that_make_no_sense_are_refused() {
    let refused = |m: Value| {
        let c = Container::sh("true").set("/mounts/-", m);
        c.plan().unwrap_err().to_string()
    };
    let bind = |extra: Value| {
        let mut m =
            json!({"destination": "/v", "type": "bind", "source": "/tmp", "options": ["idmap"]});
        m.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        m
    };
    assert!(refused(bind(json!({}))).contains("user namespace"));
    assert!(refused(bind(json!({"uidMappings": idmap(1)}))).contains("both"));
    let tmpfs = json!({"destination": "/v", "type": "tmpfs", "source": "t", "options": ["idmap"]});
    assert!(refused(tmpfs).contains("only a bind"));
    // procfs can't map: said with its name
    let c = mapped(Container::sh("true"), "/v", Path::new("/proc"), "idmap", 5);
    let why = c.fails();
    assert!(why.contains("/proc can't map ids"), "{why}");
}

#[test]
fn propagation_options_are_applied_in_order() {
    let c = Container::sh("grep ' /v ' /proc/self/mountinfo");
    let src = c.dir.path().join("src");
    fs::create_dir(&src).unwrap();
    with_own_mounts(|| {
        tmpfs(&src);
        rustix::mount::mount_change(&src, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        let c = c.bind("/v", &src, &["rbind", "rslave", "shared"]);
        let out = c.run().stdout;
        assert!(out.contains("shared:") && out.contains("master:"), "{out}");
    });
}

fn clones_detached(of: &Path) -> bool {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let first = open_tree(rustix::fs::CWD, of, flags).unwrap();
    open_tree(first, "", flags | OpenTreeFlags::AT_EMPTY_PATH).is_ok()
}

/// mountinfo is sorted by age from Linux 6.8 on. One that stays a peer is cloned before the others,
/// and again at its turn from Linux 6.15 on, where that can be had.
#[test]
fn mounts_are_as_old_as_their_place_in_the_list() {
    let c = Container::sh("grep -o ' /order[^ ]* ' /proc/self/mountinfo");
    let src = c.dir.path().join("src");
    fs::create_dir(&src).unwrap();
    with_own_mounts(|| {
        tmpfs(&src);
        rustix::mount::mount_change(&src, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        let c = c
            .bind("/order1", &src, &["bind", "private"])
            .bind("/order2", &src, &["bind", "shared"])
            .bind("/order3", &src, &["rbind", "rshared"])
            .bind("/order4", &src, &["bind", "slave"]);
        let out = c.run().stdout;
        let mut seen: Vec<&str> = out.split_whitespace().collect();
        if !clones_detached(&src) {
            println!("the order needs Linux 6.15: a clone of a detached mount");
            seen.sort_unstable();
        }
        assert_eq!(seen, ["/order1", "/order2", "/order3", "/order4"]);
    });
}

/// What is set once the root is "/": one with peers couldn't be pivoted to.
#[test]
fn the_roots_propagation() {
    for (given, shown) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("unbindable", "unbindable"),
        ("private", ""),
    ] {
        for by_path in [true, false] {
            let mut c =
                Container::sh("grep -E '^[0-9]+ [0-9]+ [0-9:]+ [^ ]+ / ' /proc/self/mountinfo");
            c.root_by_path = by_path;
            let c = c.set("/linux/rootfsPropagation", json!(given));
            let out = c.run().stdout;
            let fields = out.split(" - ").next().unwrap().split(' ').skip(6);
            let fields: Vec<_> = fields.collect();
            let found = fields.join(" ");
            assert!(
                found.starts_with(shown) && found.is_empty() == shown.is_empty(),
                "{given}: {out}"
            );
        }
    }
    let c = Container::sh("true").set("/linux/rootfsPropagation", json!("nonsense"));
    assert!(
        c.plan()
            .unwrap_err()
            .to_string()
            .contains("rootfsPropagation")
    );
    // a bind that says nothing goes with the root
    let c = Container::sh("grep ' /v ' /proc/self/mountinfo")
        .set("/linux/rootfsPropagation", json!("private"));
    let src = c.dir.path().to_owned();
    assert!(
        !c.bind("/v", &src, &["rbind"])
            .run()
            .stdout
            .contains("master:")
    );
}

#[test]
fn a_relative_source_begins_at_the_bundle() {
    let mut c = Container::sh("cat /v/f");
    fs::create_dir(c.dir.path().join("src")).unwrap();
    fs::write(c.dir.path().join("src/f"), "found\n").unwrap();
    c = c.bind("/v", Path::new("src"), &["rbind"]);
    assert!(c.plan().unwrap_err().to_string().contains("absolute"));
    c.choices.bundle = Some(c.dir.path().to_owned());
    assert_eq!(c.run().stdout, "found\n");
    let c = Container::sh("true").set("/process/cwd", json!("rel"));
    assert!(c.plan().unwrap_err().to_string().contains("process.cwd"));
}

#[test]
fn without_pivot_the_root_is_the_containers_too() {
    let script = "ls -d /bin; cat /proc/mounts | wc -l; cd ../../../..; pwd; ls /boot 2>&1 | wc -l";
    let mut c = Container::sh(script);
    c.choices.no_pivot = true;
    let out = c.run();
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!((lines[0], lines[2]), ("/bin", "/"), "{out:?}");
    // a chroot can be left only to the namespace's root, which is the container's as well
    let mut c = Container::sh("mkdir -p /tmp/x; readlink /proc/1/root; ls /proc/1/root/");
    c.choices.no_pivot = true;
    let out = c.caps(&["CAP_SYS_CHROOT", "CAP_SYS_PTRACE"]).run();
    assert!(out.stdout.starts_with("/\n"), "{out:?}");
    assert!(!out.stdout.contains("boot"), "{out:?}");
}

#[test]
fn a_session_keyring_of_its_own_unless_asked_otherwise() {
    let makes_one = |keep: bool| {
        let mut c = Container::sh("true");
        c.choices.no_new_keyring = keep;
        c.plan().unwrap().describe().contains("Keyring")
    };
    assert!(makes_one(false) && !makes_one(true));
}

#[test]
fn a_mount_namespace_joined_by_path() {
    // a thread's, in which it stays until it is told to go
    let (tell, told) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|s| {
        s.spawn(move || {
            own_mount_namespace();
            tell.send(rustix::thread::gettid().as_raw_nonzero())
                .unwrap();
            let _dropped = wait.recv();
        });
        let path = format!(
            "/proc/{}/task/{}/ns/mnt",
            std::process::id(),
            told.recv().unwrap()
        );
        let theirs = fs::read_link(&path).unwrap();
        let mut c = Container::sh("readlink /proc/self/ns/mnt; ls -d /bin; pwd; ls /boot")
            .set("/linux/namespaces/0/path", json!(path));
        assert!(
            c.plan()
                .unwrap_err()
                .to_string()
                .contains("root given by path")
        );
        c.root_by_path = true;
        let out = c.run();
        let expected = format!("{}\n/bin\n/\n", theirs.display());
        assert_eq!(out.stdout, expected, "{out:?}");
        // the one who was there still has its root
        let table = fs::read_to_string(path.replace("ns/mnt", "mountinfo")).unwrap();
        assert!(table.contains(" / / "), "{table}");
        drop(go);
    });
}
