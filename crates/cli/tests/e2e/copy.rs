//! `cp`, both ways, in the shapes that Docker documents.

use std::fs;
use std::process::Stdio;

use crate::{engine, feed, ok, plimsoll};

#[test]
fn files_and_directories_both_ways() {
    let instance = engine();
    ok(
        &instance,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    let here = instance.path().join("here");
    fs::create_dir_all(here.join("d/sub")).expect("made");
    fs::write(here.join("f"), "file").expect("written");
    fs::write(here.join("d/sub/g"), "deep").expect("written");
    std::os::unix::fs::symlink("sub/g", here.join("d/link")).expect("linked");
    let path = |p: &str| here.join(p).to_str().expect("text").to_owned();
    let cat = |p: &str| ok(&instance, &["exec", "web", "cat", p]);

    ok(&instance, &["cp", &path("f"), "web:/tmp/renamed"]);
    assert_eq!(cat("/tmp/renamed"), "file");
    ok(&instance, &["cp", &path("f"), "web:/tmp"]);
    assert_eq!(cat("/tmp/f"), "file");
    ok(&instance, &["cp", &path("d"), "web:/tmp/new"]);
    assert_eq!(cat("/tmp/new/link"), "deep");
    ok(&instance, &["cp", &path("d"), "web:/tmp"]);
    assert_eq!(cat("/tmp/d/sub/g"), "deep");
    ok(&instance, &["exec", "web", "mkdir", "/tmp/content"]);
    ok(&instance, &["cp", &path("d/."), "web:/tmp/content"]);
    assert_eq!(cat("/tmp/content/sub/g"), "deep");

    ok(&instance, &["cp", "web:/tmp/new", &path("out")]);
    assert_eq!(
        fs::read_to_string(here.join("out/sub/g")).expect("copied"),
        "deep"
    );
    assert_eq!(
        fs::read_link(here.join("out/link"))
            .expect("copied")
            .to_str(),
        Some("sub/g")
    );
    ok(&instance, &["cp", "web:/tmp/f", &path("out")]);
    assert_eq!(
        fs::read_to_string(here.join("out/f")).expect("copied"),
        "file"
    );
    ok(&instance, &["cp", "web:/tmp/new/.", &path("out/sub")]);
    assert_eq!(
        fs::read_to_string(here.join("out/sub/sub/g")).expect("copied"),
        "deep"
    );

    for (line, says) in [
        (
            [path("f").as_str(), "web:/nope/x"],
            "Could not find the file /nope",
        ),
        ([path("f").as_str(), "web:/tmp/nope/"], "no such directory"),
        ([path("d").as_str(), "web:/tmp/f"], "cannot copy directory"),
        (
            ["web:/nope", path("x").as_str()],
            "Could not find the file /nope in container web",
        ),
        (["nope:/x", path("x").as_str()], "No such container: nope"),
        (
            ["web:/a", "web:/b"],
            "copying between containers is not supported",
        ),
        (["/a", "/b"], "must specify at least one container source"),
    ] {
        let said = plimsoll(&instance, &["cp", line[0], line[1]]);
        assert_eq!(said.code, Some(1), "{line:?}");
        assert!(said.err.contains(says), "{line:?}: {}", said.err);
    }
}

#[test]
fn archives_through_pipes() {
    let instance = engine();
    ok(
        &instance,
        &[
            "create",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    let output = instance
        .plimsoll_command()
        .args(["cp", "web:/etc/passwd", "-"])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert!(output.status.success());
    assert!(
        output.stdout.starts_with(b"passwd\0"),
        "a tar archive of the file"
    );
    let said = feed(&instance, &["cp", "-", "web:/tmp"], &output.stdout);
    assert_eq!(said.code, Some(0), "{said:?}");
    ok(&instance, &["start", "web"]);
    let same = ok(
        &instance,
        &["exec", "web", "cmp", "/etc/passwd", "/tmp/passwd"],
    );
    assert_eq!(same, "");
    // an archive that breaks off is no whole one
    let said = feed(&instance, &["cp", "-", "web:/tmp"], &output.stdout[..300]);
    assert_eq!(said.code, Some(1), "{said:?}");
}

/// A container cannot make `cp` write outside of the destination.
#[test]
fn a_link_in_the_container_leads_nowhere_here() {
    let instance = engine();
    let outside = instance.path().join("outside");
    fs::create_dir(&outside).expect("made");
    let script = format!(
        "mkdir /e; ln -s {} /e/d; exec sleep 1000",
        outside.display()
    );
    ok(
        &instance,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            &script,
        ],
    );
    let target = instance.path().join("target");
    fs::create_dir(&target).expect("made");
    let target = target.to_str().expect("text");
    testkit::until(
        "the link is there",
        std::time::Duration::from_secs(10),
        || {
            (plimsoll(&instance, &["exec", "web", "test", "-L", "/e/d"]).code == Some(0))
                .then_some(())
        },
    );
    ok(&instance, &["cp", "web:/e", target]);
    // now the same path holds a directory with a file: through the link it would land outside
    ok(
        &instance,
        &[
            "exec",
            "web",
            "sh",
            "-c",
            "rm /e/d && mkdir /e/d && echo x > /e/d/f",
        ],
    );
    drop(plimsoll(&instance, &["cp", "web:/e", target]));
    assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0);
}
