//! What GNU tar writes is unpacked as it was; what we write is unpacked by GNU tar.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use store::ImportRequest;
use store::archive_path::{TarOptions, tar_tree};
use store::progress::NoProgress;

use crate::kit::*;

/// A tree with one of everything.
fn grow(root: &Path, attributes: bool) {
    let path = |name: &str| root.join(name);
    let long = "long-".repeat(50);
    for dir in ["dir", "dir/sticky", "empty", &long[..120]] {
        std::fs::create_dir(path(dir)).expect("writable");
    }
    std::fs::write(path("dir/file"), b"content").expect("writable");
    std::fs::write(path("nothing"), b"").expect("writable");
    std::fs::write(path(&format!("{}/{}", &long[..120], &long[..200])), b"far").expect("writable");
    std::fs::write(root.join(OsStr::from_bytes(b"n\xff\xfet utf-8 \n")), b"odd").expect("writable");
    std::fs::write(path("big"), vec![0x5a; 700_000]).expect("writable");
    std::fs::hard_link(path("big"), path("dir/big-too")).expect("possible");
    std::os::unix::fs::symlink("/absolute/and dangling", path("dir/link")).expect("possible");
    std::os::unix::fs::symlink(&long, path("long-link")).expect("possible");
    let sparse = File::create(path("sparse")).expect("writable");
    sparse.set_len(5 << 20).expect("possible");
    sparse.write_all_at(b"middle", 3 << 20).expect("writable");
    sparse.write_all_at(b"start", 0).expect("writable");
    let special = |name: &str, kind, dev| {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, path(name), kind, mode, dev).expect("root can make devices");
    };
    special("fifo", FileType::Fifo, 0);
    special("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special("loop", FileType::BlockDevice, rustix::fs::makedev(7, 200));
    for (name, uid, gid, mode) in [
        ("dir/sticky", 0, 8, 0o3775),
        ("dir/file", 1000, 2_000_000, 0o4755),
        ("nothing", 4_000_000_000, 7, 0o000),
        ("fifo", 3, 3, 0o606),
    ] {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(CWD, path(name), Some(uid), Some(gid), AtFlags::empty()).expect("root");
        rustix::fs::chmod(path(name), Mode::from_raw_mode(mode)).expect("root");
    }
    // inherits nothing from a directory with the set-group-id bit when it is unpacked
    std::fs::write(path("dir/sticky/root's"), b"").expect("writable");
    rustix::fs::chownat(
        CWD,
        path("dir/sticky/root's"),
        None,
        Some(Gid::ROOT),
        AtFlags::empty(),
    )
    .expect("root");
    if attributes {
        adorn(root);
    }
    for (i, name) in ["dir/file", "dir/link", "fifo", "dir/sticky", "dir"]
        .iter()
        .enumerate()
    {
        let time = Timespec {
            tv_sec: 1_000_000_000 + i64::try_from(i).expect("small"),
            tv_nsec: 123_456_789,
        };
        let both = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, path(name), &both, AtFlags::SYMLINK_NOFOLLOW).expect("root");
    }
}

/// Extended attributes, a default ACL, a capability.
fn adorn(root: &Path) {
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), key, value, XattrFlags::empty())
            .expect("attributes");
    };
    set("dir/file", "user.note", b"a\0b=c\n");
    set("dir", "trusted.note", b"on a directory");
    // default ACL of a directory with a file inside: user::rwx group::r-x other::---, and an
    // entry for user 7; the file inside has none
    let acl = |perms: &[(u16, u16, u32)]| {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, perm, id) in perms {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    };
    let none = u32::MAX;
    let default = acl(&[
        (1, 7, none),
        (2, 6, 7),
        (4, 5, none),
        (0x10, 7, none),
        (0x20, 0, none),
    ]);
    set("dir/sticky", "system.posix_acl_default", &default);
    // cap_net_raw=ep, version 2
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    set("big", "security.capability", &capability);
}

fn whole_seconds(mut tree: BTreeMap<Vec<u8>, Seen>) -> BTreeMap<Vec<u8>, Seen> {
    for seen in tree.values_mut() {
        seen.mtime.1 = 0;
    }
    tree
}

fn assert_same(found: &BTreeMap<Vec<u8>, Seen>, wanted: &BTreeMap<Vec<u8>, Seen>) {
    for (path, seen) in wanted {
        let name = String::from_utf8_lossy(path);
        assert_eq!(found.get(path), Some(seen), "{name}");
    }
    assert_eq!(found.len(), wanted.len());
}

fn compare(args: &[&str], attributes: bool, pack: fn(&[u8]) -> Vec<u8>) {
    let lab = Lab::new();
    let source = lab.dir.path().join("source");
    std::fs::create_dir(&source).expect("writable");
    grow(&source, attributes);
    let args: Vec<&str> = args.iter().chain(&["-cf", "-", "."]).copied().collect();
    let archive = run("tar", &args, &source);
    let id = lab
        .store
        .import(
            &mut &pack(&archive)[..],
            &ImportRequest::default(),
            &NoProgress,
        )
        .unwrap_or_else(|e| panic!("{args:?}: {}", chain(&e)));
    let (mut found, mut wanted) = (snapshot(&lab.top(&id)), snapshot(&source));
    if !args.contains(&"--format=posix") {
        (found, wanted) = (whole_seconds(found), whole_seconds(wanted));
    }
    assert_same(&found, &wanted);
}

#[test]
fn gnu_format() {
    compare(&["--format=gnu"], false, <[u8]>::to_vec);
}

#[test]
fn gnu_format_sparse() {
    compare(&["--format=gnu", "-S"], false, gzip);
}

#[test]
fn oldgnu_format_sparse() {
    compare(&["--format=oldgnu", "-S"], false, zstd);
}

#[test]
fn posix_format_with_attributes() {
    compare(
        &[
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--no-acls",
        ],
        true,
        <[u8]>::to_vec,
    );
}

#[test]
fn posix_format_with_each_form_of_sparse() {
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        compare(&["--format=posix", "-S", &version], false, <[u8]>::to_vec);
    }
}

#[test]
fn sparse_files_stay_sparse() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    let source = lab.dir.path().join("source");
    std::fs::create_dir(&source).expect("writable");
    let file = File::create(source.join("sparse")).expect("writable");
    file.set_len(1 << 40)
        .expect("ext4, xfs and btrfs hold a terabyte");
    file.write_all_at(b"end", (1 << 40) - 3).expect("writable");
    let archive = run("tar", &["--format=posix", "-S", "-cf", "-", "."], &source);
    let id = lab
        .store
        .import(&mut &archive[..], &ImportRequest::default(), &NoProgress)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let meta = lab.top(&id).join("sparse").metadata().expect("there");
    assert_eq!(meta.size(), 1 << 40);
    assert!(meta.blocks() < 100, "{} blocks", meta.blocks());
}

#[test]
fn gnu_tar_unpacks_what_we_pack() {
    let lab = Lab::new();
    let (source, copy) = (lab.dir.path().join("source"), lab.dir.path().join("copy"));
    for dir in [&source, &copy] {
        std::fs::create_dir(dir).expect("writable");
    }
    grow(&source, true);
    let root = File::open(&source).expect("readable");
    let archive = lab.dir.path().join("archive.tar");
    let options = TarOptions {
        rename: Some(".".into()),
        ..TarOptions::default()
    };
    let mut out = File::create(&archive).expect("writable");
    tar_tree(std::os::fd::AsFd::as_fd(&root), "/", &mut out, &options)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let name = archive.to_str().expect("text");
    run(
        "tar",
        &[
            "--xattrs",
            "--xattrs-include=*",
            "--same-owner",
            "-xpf",
            name,
        ],
        &copy,
    );
    let mut wanted = snapshot(&source);
    // attributes of the host's administrator don't leave it
    if let Some(dir) = wanted.get_mut(&b"dir"[..]) {
        dir.xattrs.clear();
    }
    assert_same(&snapshot(&copy), &wanted);
}
