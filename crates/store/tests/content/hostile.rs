//! Archives made to do harm: refused with the entry's name, and nothing left behind.

use store::progress::NoProgress;
use store::tar::{Entry, Kind};
use store::{ImportRequest, Store};

use crate::kit::*;

type Members = Vec<(Entry, Vec<u8>)>;

/// Loads an image whose only layer has these entries, which must be refused by `name`.
fn refused(list: &[(Entry, Vec<u8>)], name: &str, what: &str) {
    let lab = Lab::new();
    let canary = lab.dir.path().join("canary");
    std::fs::write(&canary, "alive").expect("writable");
    let before = snapshot(&lab.dir.path().join("root/containers"));
    let error = lab
        .load(&docker_archive("bad:latest", &[tar(list)]))
        .expect_err("must be refused");
    assert!(error.contains(&format!("entry {name}:")), "{error}");
    assert!(error.contains(what), "{error}");
    lab.assert_nothing_left();
    assert_eq!(std::fs::read(&canary).expect("still there"), b"alive");
    assert_eq!(snapshot(&lab.dir.path().join("root/containers")), before);
}

#[test]
fn a_path_with_dot_dot_is_refused() {
    refused(&[file("../canary", b"dead")], "../canary", "\"..\"");
    refused(
        &[dir("a"), file("a/../../canary", b"x")],
        "a/../../canary",
        "\"..\"",
    );
    refused(&[dir("a/..")], "a/..", "\"..\"");
}

#[test]
fn an_absolute_path_stays_inside() {
    let lab = Lab::new();
    let image = lab
        .load(&docker_archive("a:1", &[tar(&[file("/etc/x", b"in")])]))
        .expect("harmless");
    assert_eq!(
        std::fs::read(lab.top(&image[0].id).join("etc/x")).expect("inside"),
        b"in"
    );
}

#[test]
fn a_hard_link_out_of_the_root_is_refused() {
    refused(&[link(Kind::HardLink, "h", "../../canary")], "h", "\"..\"");
    refused(&[link(Kind::HardLink, "h", "/etc/passwd")], "h", "has not");
    refused(
        &[
            link(Kind::Symlink, "s", "/etc"),
            link(Kind::HardLink, "h", "s/passwd"),
        ],
        "h",
        "absolute",
    );
}

#[test]
fn a_hard_link_to_a_directory_or_whiteout_is_refused() {
    refused(
        &[dir("d"), link(Kind::HardLink, "h", "d")],
        "h",
        "not a file",
    );
    refused(
        &[file(".wh.w", b""), link(Kind::HardLink, "h", "w")],
        "h",
        "not a file",
    );
}

#[test]
fn writing_through_an_absolute_symlink_is_refused() {
    refused(
        &[
            link(Kind::Symlink, "etc", "/etc"),
            file("etc/passwd", b"root::0:0::/:"),
        ],
        "etc/passwd",
        "absolute",
    );
}

#[test]
fn writing_through_a_symlink_that_leads_out_is_refused() {
    refused(
        &[
            dir("a"),
            link(Kind::Symlink, "a/up", "../.."),
            file("a/up/canary", b"dead"),
        ],
        "a/up/canary",
        "out of the root",
    );
    refused(
        &[
            link(Kind::Symlink, "one", "two"),
            link(Kind::Symlink, "two", "../x"),
            dir("one/d"),
        ],
        "one/d",
        "out of the root",
    );
    refused(
        &[link(Kind::Symlink, "loop", "loop"), file("loop/x", b"")],
        "loop/x",
        "too many",
    );
}

#[test]
fn writing_through_a_symlink_that_stays_inside_is_fine() {
    let lab = Lab::new();
    let list = [
        dir("usr"),
        dir("usr/lib"),
        link(Kind::Symlink, "lib", "usr/lib"),
        link(Kind::Symlink, "usr/back", "../usr/lib"),
        file("lib/a", b"1"),
        file("usr/back/b", b"2"),
        link(Kind::HardLink, "lib/c", "lib/a"),
    ];
    let image = lab
        .load(&docker_archive("a:1", &[tar(&list)]))
        .expect("harmless");
    let top = lab.top(&image[0].id);
    assert_eq!(std::fs::read(top.join("usr/lib/a")).expect("there"), b"1");
    assert_eq!(std::fs::read(top.join("usr/lib/b")).expect("there"), b"2");
    assert_eq!(std::fs::read(top.join("usr/lib/c")).expect("there"), b"1");
}

#[test]
fn writing_to_a_symlink_itself_is_refused() {
    refused(
        &[link(Kind::Symlink, "x", "/etc/passwd"), file("x", b"dead")],
        "x",
        "already",
    );
    refused(
        &[link(Kind::Symlink, "d", "/etc"), dir("d")],
        "d",
        "already",
    );
}

#[test]
fn duplicate_entries_are_refused() {
    refused(&[file("f", b"1"), file("f", b"2")], "f", "already");
    refused(&[file("f", b"1"), file("./f", b"2")], "./f", "already");
    refused(&[dir("f"), file("f", b"2")], "f", "already");
    refused(&[file("f", b"1"), dir("f")], "f", "already");
    refused(
        &[file("f", b"1"), file("f/x", b"")],
        "f/x",
        "not a directory",
    );
}

#[test]
fn device_tricks_are_refused() {
    let device = |kind, major, minor| {
        let mut e = Entry::new(kind, b"dev", 0o666);
        (e.dev_major, e.dev_minor) = (major, minor);
        (e, Vec::new())
    };
    refused(&[device(Kind::CharDevice, 0, 0)], "dev", "0:0");
    refused(
        &[device(Kind::BlockDevice, 1 << 13, 0)],
        "dev",
        "out of range",
    );
}

#[test]
fn attributes_of_the_overlay_are_refused() {
    for name in [
        "trusted.overlay.redirect",
        "trusted.overlay.opaque",
        "user.overlay.metacopy",
    ] {
        let mut e = dir("d");
        e.0.xattrs = vec![(name.into(), b"/../../etc".to_vec())];
        refused(&[e], "d", "belongs to the overlay");
    }
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    refused(&[file(".wh.", b"")], ".wh.", "whiteout of nothing");
    refused(&[file("a/.wh...", b"")], "a/.wh...", "whiteout of nothing");
    refused(&[file("a/.wh..", b"")], "a/.wh..", "whiteout of nothing");
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_refused() {
    let lab = Lab::new();
    let (good, other) = (tar(&[file("a", b"1")]), tar(&[file("a", b"2")]));
    let archive = docker_archive_with("a:1", &[digest(&good)], &[other]);
    let error = lab.load(&archive).expect_err("must be refused");
    assert!(
        error.contains(&digest(&good)) && error.contains("forged"),
        "{error}"
    );
    lab.assert_nothing_left();
}

#[test]
fn a_blob_that_is_not_its_name_is_refused() {
    let lab = Lab::new();
    let name = format!("blobs/sha256/{}", "ab".repeat(32));
    for content in [&b"\0binary"[..], b"{}"] {
        let error = lab
            .load(&tar(&[file(&name, content)]))
            .expect_err("must be refused");
        assert!(
            error.contains(&format!("entry {name}")) && error.contains("forged"),
            "{error}"
        );
        lab.assert_nothing_left();
    }
}

#[test]
fn archives_cut_anywhere_are_refused() {
    let layer = tar(&[dir("d"), file("d/f", &[7; 3000])]);
    let whole = docker_archive("cut:1", &[gzip(&layer)]);
    let lab = Lab::new();
    for archive in [whole.clone(), gzip(&whole), zstd(&whole)] {
        let end = archive.len().saturating_sub(2048).max(archive.len() / 2);
        for cut in (0..end).step_by(197) {
            lab.load(&archive[..cut])
                .expect_err("a part is not the whole");
            lab.assert_nothing_left();
        }
    }
}

#[test]
fn an_import_cut_anywhere_is_refused() {
    let lab = Lab::new();
    let whole = tar(&[dir("d"), file("d/f", &[7; 3000]), file("g", b"")]);
    for archive in [whole.clone(), gzip(&whole), zstd(&whole)] {
        let end = archive.len()
            - if archive.len() == whole.len() {
                1024
            } else {
                1
            };
        for cut in (0..end).step_by(97).chain([end]) {
            let got =
                lab.store
                    .import(&mut &archive[..cut], &ImportRequest::default(), &NoProgress);
            got.expect_err("a part is not the whole");
            lab.assert_nothing_left();
        }
    }
}

#[test]
fn missing_parts_are_named() {
    let lab = Lab::new();
    let layer = tar(&[file("a", b"1")]);
    let whole = members(&docker_archive("a:1", &[layer]));
    for missing in whole.keys() {
        let rest: Members = whole
            .iter()
            .filter(|(name, _)| *name != missing)
            .map(|(name, data)| file(name, data))
            .collect();
        let error = lab.load(&tar(&rest)).expect_err("incomplete");
        assert!(error.contains(missing.as_str()), "{missing}: {error}");
        lab.assert_nothing_left();
    }
}

#[test]
fn members_of_archives_can_trick_nobody() {
    let lab = Lab::new();
    for (list, name) in [
        (
            vec![link(Kind::Symlink, "manifest.json", "/etc/passwd")],
            "manifest.json",
        ),
        (
            vec![link(Kind::Symlink, "a/layer.tar", "../../x")],
            "a/layer.tar",
        ),
        (vec![file("../manifest.json", b"[]")], "../manifest.json"),
        (
            vec![file("manifest.json", b"[]"), file("./manifest.json", b"[]")],
            "./manifest.json",
        ),
        (
            vec![(Entry::new(Kind::Fifo, b"manifest.json", 0o644), vec![])],
            "manifest.json",
        ),
    ] {
        let error = lab.load(&tar(&list)).expect_err("must be refused");
        assert!(error.contains(&format!("entry {name}")), "{error}");
        lab.assert_nothing_left();
    }
    // links in a circle
    let list = [
        link(Kind::Symlink, "manifest.json", "b"),
        link(Kind::Symlink, "b", "manifest.json"),
    ];
    lab.load(&tar(&list)).expect_err("nothing is there");
    lab.assert_nothing_left();
}

/// A tar of one file of zeros, packed as tightly as zstd can.
fn bomb(size: u64) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut head = file("zeros", b"").0;
    head.size = size;
    let mut start = store::tar::Writer::new(Vec::new());
    let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder");
    start.start(&head).expect("memory takes everything");
    // the header is all we need of this writer
    let header = tar(&[(
        Entry {
            size: 0,
            ..head.clone()
        },
        vec![],
    )]);
    let mut header = header[..512].to_vec();
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header).expect("memory takes everything");
    std::io::copy(&mut Zeros(size).take(size), &mut out).expect("memory takes everything");
    out.finish().expect("memory takes everything")
}

#[test]
fn a_decompression_bomb_is_refused() {
    let lab = Lab::new();
    let bomb = bomb(3 << 30);
    assert!(bomb.len() < 1 << 20, "a bomb is small");
    let error = lab
        .load(&docker_archive_with("bomb:1", &[digest(b"")], &[bomb]))
        .expect_err("must be refused");
    assert!(error.contains("bomb"), "{error}");
    lab.assert_nothing_left();
}

#[test]
fn compressions_we_do_not_read_are_named() {
    let lab = Lab::new();
    let xz = [0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0];
    let error = lab.load(&xz).expect_err("must be refused");
    assert!(
        error.contains("xz") && error.contains("gzip or zstd"),
        "{error}"
    );
    let request = ImportRequest::default();
    let error = lab
        .store
        .import(&mut &xz[..], &request, &NoProgress)
        .expect_err("must be refused");
    assert!(chain(&error).contains("xz"), "{}", chain(&error));
    let archive = docker_archive_with("xz:1", &[digest(b"")], &[xz.to_vec()]);
    let error = lab.load(&archive).expect_err("must be refused");
    assert!(error.contains("xz"), "{error}");
    lab.assert_nothing_left();
}

#[test]
fn documents_that_make_no_sense_are_named() {
    let lab = Lab::new();
    for (list, what) in [
        (vec![file("manifest.json", b"{not json")], "manifest.json"),
        (
            vec![file("index.json", b"{\"manifests\": 7}")],
            "index.json",
        ),
        (vec![file("repositories", b"{}")], "before Docker 1.10"),
        (
            vec![file("etc/passwd", b"root")],
            "neither manifest.json nor index.json",
        ),
        (vec![], "neither manifest.json nor index.json"),
    ] {
        let error = lab.load(&tar(&list)).expect_err("must be refused");
        assert!(error.contains(what), "{error}");
        lab.assert_nothing_left();
    }
    let error = lab
        .load(b"not a tar archive at all, but long enough")
        .expect_err("refused");
    assert!(
        error.contains("truncated") || error.contains("tar header"),
        "{error}"
    );
}

#[test]
fn names_that_are_no_names_are_refused() {
    let lab = Lab::new();
    let layer = tar(&[file("a", b"1")]);
    let error = lab
        .load(&docker_archive("Bad Name", &[layer]))
        .expect_err("must be refused");
    assert!(
        error.contains("manifest.json") && error.contains("Bad Name"),
        "{error}"
    );
    lab.assert_nothing_left();
}

/// The store that the tests use is not shared by accident.
#[test]
fn a_store_is_locked() {
    let lab = Lab::new();
    let again = Store::open(lab.store.root(), &store::OpenOptions::default());
    assert!(again.is_err());
}

struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf, options: &std::ffi::CStr) -> Self {
        std::fs::create_dir(&at).expect("writable");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &at, "tmpfs", flags, options).expect("root can mount");
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.0, flags).expect("nobody else uses it");
    }
}

/// FAILURES: "Disk full".
#[test]
fn a_full_disk_is_said_and_left_as_it_was() {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(dir.path().join("disk"), c"size=96m");
    let store = open(&disk.0.join("root"));
    let noise: Vec<u8> = (0_u32..40 << 18)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let big = tar(&[file("a", &noise), file("b", &noise)]);
    let error = store
        .load(
            &mut &docker_archive("big:1", std::slice::from_ref(&big))[..],
            &NoProgress,
        )
        .expect_err("twice 80 MiB do not fit");
    assert!(
        matches!(error, store::images::LoadError::NoSpace { .. }),
        "{}",
        chain(&error)
    );
    let import = store.import(&mut &big[..], &ImportRequest::default(), &NoProgress);
    assert!(chain(&import.expect_err("neither")).contains("not enough space"));
    assert_eq!(leftovers(&store), Vec::<String>::new());
    store.maintain();
    let small = docker_archive("small:1", &[tar(&[file("a", &noise[..1 << 20])])]);
    store
        .load(&mut &small[..], &NoProgress)
        .unwrap_or_else(|e| panic!("what fits still comes in: {}", chain(&e)));
    drop(store);
}
