//! Unpacked layers: whiteouts, what shows from below, trust after the machine went down, commit.

use std::fs::File;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use store::diff::ChangeKind;
use store::progress::NoProgress;
use store::tar::Kind;
use store::{CommitRequest, NewContainer, OpenOptions, Store};

use crate::kit::*;

fn base() -> Vec<u8> {
    let mut tmp = dir("tmp");
    tmp.0.mode = 0o1777;
    tmp.0.gid = 5;
    tmp.0.mtime.sec = 77;
    tar(&[
        tmp,
        dir("usr"),
        dir("usr/lib"),
        link(Kind::Symlink, "lib", "usr/lib"),
        file("usr/lib/old", b"old"),
        dir("etc"),
        file("etc/a", b"a"),
        file("etc/b", b"b"),
    ])
}

#[test]
fn a_directory_that_is_only_implied_looks_as_below() {
    let lab = Lab::new();
    let upper = tar(&[file("tmp/x", b"x"), file("new/y", b"y")]);
    lab.load(&docker_archive("i:1", &[base(), upper]))
        .expect("valid");
    let tree = snapshot(&lab.top("i:1"));
    let tmp = &tree[&b"tmp"[..]];
    assert_eq!((tmp.mode, tmp.owner.1, tmp.mtime.0), (0o1777, 5, 77));
    assert_eq!(tree[&b"new"[..]].mode, 0o755);
}

/// An archive that says `lib/x` means `usr/lib/x` where the layer below has `lib -> usr/lib`.
#[test]
fn an_implied_directory_that_is_a_link_below_is_followed() {
    let lab = Lab::new();
    let upper = tar(&[file("lib/x", b"x"), link(Kind::HardLink, "lib/z", "lib/x")]);
    lab.load(&docker_archive("i:1", &[base(), upper]))
        .expect("valid");
    let top = lab.top("i:1");
    assert_eq!(std::fs::read(top.join("usr/lib/x")).expect("moved"), b"x");
    assert!(!top.join("lib").exists(), "the link below stays visible");
}

#[test]
fn whiteouts_and_opaque_directories() {
    let lab = Lab::new();
    let upper = tar(&[
        dir("etc"),
        file("etc/.wh.a", b""),
        dir("usr"),
        file("usr/.wh..wh..opq", b""),
        file("usr/new", b""),
        file(".wh.tmp", b""),
        dir("tmp"),
        file(".wh..wh.plnk", b"of AUFS"),
        file("etc/c", b""),
        file("etc/.wh.c", b""),
    ]);
    lab.load(&docker_archive("w:1", &[base(), upper]))
        .expect("valid");
    let tree = snapshot(&lab.top("w:1"));
    let opaque = |path: &str| {
        tree[path.as_bytes()]
            .xattrs
            .get(&b"trusted.overlay.opaque"[..])
            == Some(&b"y".to_vec())
    };
    assert_eq!(
        (
            tree[&b"etc/a"[..]].kind.as_str(),
            tree[&b"etc/a"[..]].device
        ),
        ("character device", 0)
    );
    assert!(opaque("usr") && opaque("tmp") && !opaque("etc"));
    assert_eq!(
        tree[&b"etc/c"[..]].kind,
        "file",
        "a whiteout hides what is below, not its own layer"
    );
    assert!(!tree.contains_key(&b".wh..wh.plnk"[..]));
}

fn reopen(root: &Path, boot: &str) -> Store {
    let options = OpenOptions {
        manual: true,
        boot_id: Some(boot.to_owned()),
        ..OpenOptions::default()
    };
    Store::open(root, &options).expect("a store").0
}

/// FAILURES: "Corruption after power loss, zero-length files".
#[test]
fn a_layer_not_marked_stable_is_unpacked_again_after_the_machine_went_down() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    let store = reopen(&root, "first");
    let archive = docker_archive("s:1", &[base()]);
    store.load(&mut &archive[..], &NoProgress).expect("valid");
    let top = store.rootfs_layers("s:1").expect("layers").remove(0);
    std::fs::write(top.join("etc/a"), b"\0").expect("writable");
    drop(store); // killed

    let store = reopen(&root, "first");
    let top = store.rootfs_layers("s:1").expect("layers").remove(0);
    assert_eq!(
        std::fs::read(top.join("etc/a")).expect("there"),
        b"\0",
        "the same boot: trusted"
    );
    drop(store);

    let store = reopen(&root, "second");
    let top = store.rootfs_layers("s:1").expect("layers").remove(0);
    assert_eq!(
        std::fs::read(top.join("etc/a")).expect("there"),
        b"a",
        "another boot: healed"
    );
}

#[test]
fn a_layer_marked_stable_is_kept_after_the_machine_went_down() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    let store = reopen(&root, "first");
    let archive = docker_archive("s:1", &[base()]);
    store.load(&mut &archive[..], &NoProgress).expect("valid");
    store.maintain();
    let top = store.rootfs_layers("s:1").expect("layers").remove(0);
    let before = snapshot_inode(&top);
    drop(store);
    let store = reopen(&root, "second");
    let top = store.rootfs_layers("s:1").expect("layers").remove(0);
    assert_eq!(snapshot_inode(&top), before, "not unpacked again");
}

fn snapshot_inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&path.metadata().expect("there"))
}

fn container(lab: &Lab, image: &str) -> std::path::PathBuf {
    let image = lab.store.image(image).expect("there").id;
    let fs = lab
        .store
        .container_create(&NewContainer {
            id: "c0",
            name: "c",
            image: &image,
            volumes: &[],
            document: b"{}",
            ephemeral: false,
        })
        .expect("a container");
    fs.upper
}

/// What a container could have done, as the overlay would have kept it.
fn scribble(upper: &Path) {
    let whiteout = |name: &str| {
        let path = upper.join(name);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).expect("root");
    };
    for dir in ["etc", "usr", "fresh", "tmp", "mnt"] {
        std::fs::create_dir(upper.join(dir)).expect("writable");
    }
    whiteout("etc/a");
    std::fs::write(upper.join("etc/b"), b"changed").expect("writable");
    std::fs::write(upper.join("fresh/file"), b"new").expect("writable");
    std::fs::hard_link(upper.join("fresh/file"), upper.join("fresh/too")).expect("possible");
    std::fs::write(upper.join("etc/hosts"), b"").expect("writable");
    let opaque = "trusted.overlay.opaque";
    rustix::fs::setxattr(upper.join("usr"), opaque, b"y", XattrFlags::empty()).expect("root");
    let sparse = File::create(upper.join("fresh/sparse")).expect("writable");
    sparse.set_len(64 << 20).expect("possible");
    let _socket =
        std::os::unix::net::UnixListener::bind(upper.join("fresh/socket")).expect("possible");
    let tmp = upper.join("tmp");
    rustix::fs::chmod(&tmp, Mode::from_raw_mode(0o1777)).expect("root");
    let gid = Some(rustix::fs::Gid::from_raw(5));
    rustix::fs::chownat(CWD, &tmp, None, gid, rustix::fs::AtFlags::empty()).expect("root");
    let time = rustix::fs::Timespec {
        tv_sec: 77,
        tv_nsec: 0,
    };
    let both = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, &tmp, &both, rustix::fs::AtFlags::empty()).expect("root");
}

const MOUNTS: [&str; 2] = ["/etc/hosts", "/mnt"];

fn mounts() -> Vec<String> {
    MOUNTS.iter().map(|m| (*m).to_owned()).collect()
}

#[test]
fn changes_are_told_as_docker_tells_them() {
    let lab = Lab::new();
    lab.load(&docker_archive("c:1", &[base()])).expect("valid");
    scribble(&container(&lab, "c:1"));
    let told: Vec<String> = lab
        .store
        .changes("c0", &mounts())
        .expect("readable")
        .iter()
        .map(|c| format!("{} {}", c.kind.letter(), String::from_utf8_lossy(&c.path)))
        .collect();
    assert_eq!(
        told,
        [
            "C /etc",
            "D /etc/a",
            "C /etc/b",
            "A /fresh",
            "A /fresh/file",
            "A /fresh/socket",
            "A /fresh/sparse",
            "A /fresh/too",
            "C /usr",
            "D /usr/lib",
        ]
    );
    assert_eq!(ChangeKind::Added.letter(), 'A');
}

#[test]
fn a_mount_target_made_at_start_is_no_change_of_its_directory() {
    let lab = Lab::new();
    lab.load(&docker_archive("c:1", &[base()])).expect("valid");
    let upper = container(&lab, "c:1");
    std::fs::create_dir(upper.join("etc")).expect("writable");
    std::fs::write(upper.join("etc/hosts"), b"").expect("writable");
    let changes = || lab.store.changes("c0", &mounts()).expect("readable");
    assert_eq!(changes(), []);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(upper.join("etc"), mode).expect("ours");
    let told: Vec<_> = changes().into_iter().map(|c| (c.kind, c.path)).collect();
    assert_eq!(told, [(ChangeKind::Modified, b"/etc".to_vec())]);
}

#[test]
fn what_is_committed_is_what_was_changed() {
    let lab = Lab::new();
    lab.load(&docker_archive("c:1", &[base()])).expect("valid");
    let upper = container(&lab, "c:1");
    scribble(&upper);
    let parent = lab.store.image("c:1").expect("there");
    let mut ids = Vec::new();
    for compression in [
        store::images::Compression::Gzip,
        store::images::Compression::Gzip,
        store::images::Compression::Zstd,
    ] {
        let request = CommitRequest {
            parent: parent.id.clone(),
            container: "c0".into(),
            reference: Some("c:2".into()),
            author: "me".into(),
            message: "why".into(),
            changes: vec!["ENV A=1".into(), "CMD [\"x\"]".into()],
            config: parent.config.config.clone(),
            exclude: mounts(),
            compression,
        };
        let id = lab
            .store
            .commit(&request, &NoProgress)
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
        ids.push(lab.store.image(&id).expect("there"));
    }
    assert_eq!(
        ids[0].layers[1].blob, ids[1].layers[1].blob,
        "the same changes, the same blob"
    );
    assert_eq!(ids[0].layers[1].diff, ids[2].layers[1].diff);
    let image = lab.store.image("c:2").expect("named");
    assert_eq!(image.config.config.env, ["A=1"]);
    assert_eq!(image.parent.as_deref(), Some(parent.id.as_str()));
    assert_eq!(image.config.other["an.unknown.field"]["stays"], true);
    let mut wanted = snapshot(&upper);
    for gone in [&b"etc/hosts"[..], b"mnt", b"fresh/socket"] {
        wanted.remove(gone);
    }
    let mut found = snapshot(&lab.top("c:2"));
    // the root's own time is not part of a layer, a whiteout has none
    for tree in [&mut wanted, &mut found] {
        tree.remove(&b""[..]);
        tree.get_mut(&b"etc/a"[..]).expect("the whiteout").mtime = (0, 0);
    }
    assert_eq!(found, wanted);
    use std::os::unix::fs::MetadataExt;
    let sparse = lab
        .top("c:2")
        .join("fresh/sparse")
        .metadata()
        .expect("there");
    assert!(sparse.blocks() < 100);
}

#[test]
fn the_vfs_driver_gets_a_flat_copy() {
    let lab = Lab::new();
    let upper = tar(&[
        dir("etc"),
        file("etc/.wh.a", b""),
        dir("usr"),
        file("usr/.wh..wh..opq", b""),
        file("usr/new", b"n"),
        link(Kind::HardLink, "usr/too", "usr/new"),
    ]);
    lab.load(&docker_archive("v:1", &[base(), upper]))
        .expect("valid");
    let dest = lab.dir.path().join("copy");
    std::fs::create_dir(&dest).expect("writable");
    lab.store
        .copy_rootfs("v:1", &dest)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let tree = snapshot(&dest);
    let names: Vec<_> = tree
        .keys()
        .map(|k| String::from_utf8_lossy(k).into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "", "etc", "etc/b", "lib", "tmp", "usr", "usr/new", "usr/too"
        ]
    );
    assert_eq!(
        tree[&b"usr/too"[..]].same_as.as_deref(),
        Some(&b"usr/new"[..])
    );
    assert_eq!(
        (tree[&b"tmp"[..]].mode, tree[&b"tmp"[..]].owner.1),
        (0o1777, 5)
    );
    assert!(tree.values().all(|s| s.xattrs.is_empty()));
}

#[test]
fn the_vfs_driver_tells_and_commits_changes_too() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let lab = vfs_lab(dir);
    lab.load(&docker_archive("v:1", &[base()])).expect("valid");
    let upper = container(&lab, "v:1");
    let rootfs = upper
        .parent()
        .expect("the container's directory")
        .join("rootfs");
    if !rootfs.exists() {
        std::fs::create_dir(&rootfs).expect("writable");
    }
    lab.store
        .copy_rootfs("v:1", &rootfs)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(lab.store.changes("c0", &[]).expect("readable"), []);
    std::fs::remove_file(rootfs.join("etc/a")).expect("there");
    std::fs::write(rootfs.join("etc/b"), b"changed").expect("writable");
    std::fs::remove_dir_all(rootfs.join("usr/lib")).expect("there");
    std::fs::write(rootfs.join("usr/lib"), b"a file now").expect("writable");
    std::fs::create_dir(rootfs.join("fresh")).expect("writable");
    std::fs::write(rootfs.join("fresh/x"), b"x").expect("writable");
    let told: Vec<String> = lab
        .store
        .changes("c0", &[])
        .unwrap_or_else(|e| panic!("{}", chain(&e)))
        .iter()
        .map(|c| format!("{} {}", c.kind.letter(), String::from_utf8_lossy(&c.path)))
        .collect();
    assert_eq!(
        told,
        [
            "C /etc",
            "D /etc/a",
            "C /etc/b",
            "A /fresh",
            "A /fresh/x",
            "C /usr",
            "C /usr/lib"
        ]
    );
    let request = CommitRequest {
        parent: "v:1".into(),
        container: "c0".into(),
        reference: Some("v:2".into()),
        ..CommitRequest::default()
    };
    lab.store
        .commit(&request, &NoProgress)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let copy = lab.dir.path().join("copy");
    std::fs::create_dir(&copy).expect("writable");
    lab.store
        .copy_rootfs("v:2", &copy)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let (mut found, mut wanted) = (snapshot(&copy), snapshot(&rootfs));
    // the root's own attributes are not part of a layer
    found.remove(&b""[..]);
    wanted.remove(&b""[..]);
    assert_eq!(found, wanted);
    assert_eq!(
        std::fs::read_dir(lab.store.root().join("staging"))
            .expect("there")
            .count(),
        0
    );
}

fn vfs_lab(dir: tempfile::TempDir) -> Lab {
    let options = OpenOptions {
        manual: true,
        driver: Some(store::Driver::Vfs),
        ..OpenOptions::default()
    };
    let (store, _) = Store::open(&dir.path().join("root"), &options).expect("a store");
    Lab { dir, store }
}
