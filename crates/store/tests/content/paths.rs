//! Copying into and out of a root that belongs to somebody else.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use store::archive_path::{
    ArchivePathError, TarOptions, UntarOptions, stat_path, tar_tree, untar_into,
};
use store::tar::Kind;

use crate::kit::*;

struct Root {
    _dir: tempfile::TempDir,
    path: PathBuf,
    outside: PathBuf,
    fd: File,
}

fn root() -> Root {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let (path, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for d in [&path, &outside, &path.join("etc"), &path.join("outside")] {
        std::fs::create_dir(d).expect("writable");
    }
    std::fs::write(path.join("etc/passwd"), b"inside").expect("writable");
    std::fs::write(outside.join("secret"), b"secret").expect("writable");
    std::os::unix::fs::symlink("/etc", path.join("abs")).expect("possible");
    std::os::unix::fs::symlink("../../outside", path.join("up")).expect("possible");
    let fd = File::open(&path).expect("readable");
    Root {
        _dir: dir,
        path,
        outside,
        fd,
    }
}

fn pack(root: &Root, path: &str, options: &TarOptions) -> Result<Vec<u8>, ArchivePathError> {
    let mut out = Vec::new();
    tar_tree(root.fd.as_fd(), path, &mut out, options)?;
    Ok(out)
}

#[test]
fn links_lead_nowhere_but_inside() {
    let root = root();
    let names = |path: &str| -> Vec<String> {
        let archive = pack(&root, path, &TarOptions::default()).expect("readable");
        members(&archive).into_keys().collect()
    };
    assert_eq!(names("abs/passwd"), ["passwd"]);
    assert_eq!(names("abs"), ["abs"], "a link at the end is itself");
    assert_eq!(names("abs/."), [".", "./passwd"]);
    assert_eq!(
        names("up/."),
        ["."],
        "the root's own directory, which is empty"
    );
    let stat = stat_path(root.fd.as_fd(), "/abs").expect("there");
    assert_eq!(
        (stat.name.as_str(), stat.link_target.as_str()),
        ("abs", "/etc")
    );
    let stat = stat_path(root.fd.as_fd(), "/up").expect("there");
    assert_eq!(stat.link_target, "/outside", "as seen from inside");
    let missing = stat_path(root.fd.as_fd(), "up/secret");
    assert!(matches!(missing, Err(ArchivePathError::NotFound(_))));
    let not_dir = stat_path(root.fd.as_fd(), "etc/passwd/");
    assert!(matches!(not_dir, Err(ArchivePathError::NotADirectory(_))));
}

#[test]
fn unpacking_stays_inside_and_replaces_what_is_there() {
    let root = root();
    let archive = tar(&[
        file("up/new", b"1"),
        file("abs/passwd", b"2"),
        link(Kind::Symlink, "etc/self", "/etc/passwd"),
        file("deep/er/x", b"3"),
        link(Kind::HardLink, "deep/y", "deep/er/x"),
    ]);
    untar_into(
        root.fd.as_fd(),
        "/",
        &mut &gzip(&archive)[..],
        &UntarOptions::default(),
    )
    .unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(
        std::fs::read(root.path.join("outside/new")).expect("inside"),
        b"1"
    );
    assert_eq!(
        std::fs::read(root.path.join("etc/passwd")).expect("inside"),
        b"2"
    );
    assert_eq!(
        std::fs::read(root.path.join("deep/y")).expect("inside"),
        b"3"
    );
    assert_eq!(
        std::fs::read_dir(&root.outside).expect("readable").count(),
        1
    );
    // a link is replaced, not written through
    let archive = tar(&[file("self", b"plain")]);
    let owner = UntarOptions {
        owner: Some((12, 34)),
        ..UntarOptions::default()
    };
    untar_into(root.fd.as_fd(), "abs", &mut &archive[..], &owner).expect("writable");
    assert_eq!(
        std::fs::read(root.path.join("etc/passwd")).expect("untouched"),
        b"2"
    );
    assert_eq!(snapshot(&root.path)[&b"etc/self"[..]].owner, (12, 34));
}

#[test]
fn hostile_archives_are_refused_here_too() {
    let root = root();
    for (list, what) in [
        (vec![file("../x", b"")], "entry ../x"),
        (
            vec![link(Kind::HardLink, "h", "../outside/secret")],
            "entry h",
        ),
        (vec![link(Kind::HardLink, "h", "up/secret")], "entry h"),
    ] {
        let error = untar_into(
            root.fd.as_fd(),
            "/",
            &mut &tar(&list)[..],
            &UntarOptions::default(),
        )
        .expect_err("must be refused");
        assert!(chain(&error).contains(what), "{}", chain(&error));
        assert!(!root.path.join("h").exists());
    }
    let keep = UntarOptions {
        no_overwrite_dir_non_dir: true,
        ..UntarOptions::default()
    };
    for list in [vec![file("etc", b"")], vec![dir("etc/passwd")]] {
        let error = untar_into(root.fd.as_fd(), "/", &mut &tar(&list)[..], &keep)
            .expect_err("must be refused");
        assert!(error.to_string().contains("replace"), "{error}");
    }
}

/// A container that swaps a directory for a link while files are copied into it.
#[test]
fn a_root_that_changes_under_us_leads_nobody_out() {
    let root = root();
    let stop = AtomicBool::new(false);
    std::fs::create_dir(root.path.join("d")).expect("writable");
    std::os::unix::fs::symlink("../outside", root.path.join("l")).expect("possible");
    std::os::unix::fs::symlink(&root.outside, root.path.join("m")).expect("possible");
    let archive = tar(&[
        file("d/x", b"x"),
        file("d/y/z", b"x"),
        dir("d/y"),
        file("d/secret", b""),
    ]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |a: &str, b: &str| {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let _busy = rustix::fs::renameat_with(&root.fd, a, &root.fd, b, flags);
            };
            while !stop.load(Ordering::Relaxed) {
                swap("d", "l");
                swap("d", "m");
                swap("l", "m");
            }
        });
        for _ in 0..400 {
            let _raced = untar_into(
                root.fd.as_fd(),
                "/",
                &mut &archive[..],
                &UntarOptions::default(),
            );
            let follow = TarOptions {
                follow: true,
                ..TarOptions::default()
            };
            if let Ok(packed) = pack(&root, "d", &follow) {
                assert!(!contains_secret(&packed));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let left: Vec<_> = std::fs::read_dir(&root.outside)
        .expect("readable")
        .map(|e| e.expect("readable").file_name())
        .collect();
    assert_eq!(left, ["secret"], "nothing was written outside");
    assert_eq!(
        std::fs::read(root.outside.join("secret")).expect("untouched"),
        b"secret"
    );
}

fn contains_secret(packed: &[u8]) -> bool {
    members(packed).values().any(|data| data == b"secret")
}

#[test]
fn export_has_no_common_directory() {
    let root = root();
    let options = TarOptions {
        rename: Some(String::new()),
        ..TarOptions::default()
    };
    let names: Vec<String> = members(&pack(&root, "/", &options).expect("readable"))
        .into_keys()
        .collect();
    assert_eq!(names, ["abs", "etc", "etc/passwd", "outside", "up"]);
}
