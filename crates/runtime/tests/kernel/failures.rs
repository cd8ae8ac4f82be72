//! What goes wrong is said in words, with Docker's exit codes.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::Container;

#[test]
fn programs() {
    let of = |args: &[&str]| Container::new(args).fails();
    assert_eq!(
        of(&["nonesuch"]),
        "exec: \"nonesuch\": executable file not found in $PATH (127)"
    );
    assert_eq!(
        of(&["/nonesuch"]),
        "exec: \"/nonesuch\": stat /nonesuch: no such file or directory (127)"
    );
    assert_eq!(
        of(&["/etc/passwd"]),
        "exec: \"/etc/passwd\": permission denied (126)"
    );
    assert_eq!(of(&["/etc"]), "exec: \"/etc\": permission denied (126)");
    let c = Container::new(&["/junk"]).layer(|l| {
        fs::write(l.join("junk"), "\0\0\0").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(l.join("junk"), mode).unwrap();
    });
    assert_eq!(c.fails(), "exec: \"/junk\": exec format error (126)");
}

#[test]
fn path_is_searched_in_order() {
    let c = Container::new(&["tool"])
        .layer(|l| {
            fs::create_dir_all(l.join("first/tool")).unwrap();
            fs::create_dir(l.join("second")).unwrap();
            fs::write(l.join("second/tool"), "#!/bin/sh\necho second $0\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(l.join("second/tool"), mode).unwrap();
        })
        .set(
            "/process/env",
            json!(["PATH=:relative:/none:/first:/second/"]),
        );
    assert_eq!(c.run().stdout, "second /second/tool\n");
}

#[test]
fn mounts() {
    let named = |c: Container| {
        let mut c = c.bind(
            "/var/lib/postgresql",
            &PathBuf::from("/nonexistent/data"),
            &["rbind"],
        );
        c.mount_names
            .insert("/var/lib/postgresql".into(), "volume data".into());
        c
    };
    assert_eq!(
        named(Container::sh("true")).fails(),
        "mount volume data at /var/lib/postgresql: no such file or directory: \
         /nonexistent/data does not exist on this host (125)"
    );
    // a root that can't be written at all
    let mut c = Container::sh("true").bind(
        "/var/lib/postgresql/data",
        &PathBuf::from("/tmp"),
        &["rbind"],
    );
    c.mount_names
        .insert("/var/lib/postgresql/data".into(), "volume data".into());
    c.read_only_overlay = true;
    assert_eq!(
        c.fails(),
        "mount volume data at /var/lib/postgresql/data: no such file or directory: \
         the image has no such directory and the root is read-only (125)"
    );
    let c = Container::sh("true");
    let file = c.dir.path().join("file");
    fs::write(&file, "").unwrap();
    let why = c.bind("/etc", &file, &["bind"]).fails();
    assert!(why.contains("one of source and target is a file"), "{why}");
}

#[test]
fn options_and_specs() {
    let plan = |c: Container| c.plan().unwrap_err().to_string();
    let tmpfs = |o: &str| Container::sh("true").mount("/t", "tmpfs", &PathBuf::from("t"), &[o]);
    assert!(tmpfs("nonsense=1").fails().contains("options"));
    assert!(plan(tmpfs("move")).contains("move"));
    assert!(plan(Container::new(&[])).contains("program"));
    assert!(plan(Container::new(&["a\0b"])).contains("NUL"));
    let dots = Container::sh("true").mount("/a/../../etc", "tmpfs", &PathBuf::from("t"), &[]);
    assert!(plan(dots).contains(".."));
}

#[test]
fn a_failed_start_leaves_nothing() {
    let c = Container::new(&["/nonesuch"]).in_cgroup();
    let why = c.fails();
    assert!(why.contains("nonesuch"), "{why}");
    let cgroup = c.cgroup.as_ref().unwrap();
    assert!(cgroup.paths().count() > 0);
    assert!(cgroup.paths().all(|p| !p.exists()));
}
