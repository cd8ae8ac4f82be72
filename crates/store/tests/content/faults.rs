//! load, import and commit with an effect that fails, or the process killed, at every step.
//! FAILURES: "Disk full", "Killed pull leaves half layers", "Pull success without the layer".
//!
//! The parent counts the steps of an operation in a child, then runs one child for each step and
//! each kind of failure, opens the store again and looks: all of it is there, or nothing.

use std::path::{Path, PathBuf};

use store::progress::NoProgress;
use store::tar::Kind;
use store::{CommitRequest, ImportRequest, NewContainer, Store};

use crate::kit::*;

const ROOT: &str = "CONTENT_FAULT_ROOT";
const OPERATION: &str = "CONTENT_FAULT_OPERATION";

fn archive() -> Vec<u8> {
    let one = tar(&[
        dir("d"),
        file("d/f", b"one"),
        link(Kind::HardLink, "d/h", "d/f"),
    ]);
    let two = tar(&[file("d/.wh.f", b""), file("d/g", &[9; 5000])]);
    let packed = [gzip(&one), zstd(&two)];
    docker_archive_with("new:1", &[digest(&one), digest(&two)], &packed)
}

fn operate(store: &Store, operation: &str) -> Result<String, String> {
    match operation {
        "load" => store
            .load(&mut &archive()[..], &NoProgress)
            .map(|l| l[0].id.clone())
            .map_err(|e| chain(&e)),
        "import" => {
            let request = ImportRequest {
                reference: Some("new:1".into()),
                ..ImportRequest::default()
            };
            let bytes = tar(&[dir("d"), file("d/g", &[9; 5000])]);
            store
                .import(&mut &bytes[..], &request, &NoProgress)
                .map_err(|e| chain(&e))
        }
        "commit" => {
            let request = CommitRequest {
                parent: "base:1".into(),
                container: "c0".into(),
                reference: Some("new:1".into()),
                ..CommitRequest::default()
            };
            store.commit(&request, &NoProgress).map_err(|e| chain(&e))
        }
        other => panic!("no operation {other}"),
    }
}

/// What is there before, so that nothing else may go.
fn prepare(root: &Path) {
    let store = open(root);
    let base = tar(&[dir("d"), file("d/base", b"base")]);
    let loaded = store
        .load(&mut &docker_archive("base:1", &[base])[..], &NoProgress)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let fs = store
        .container_create(&NewContainer {
            id: "c0",
            name: "c",
            image: &loaded[0].id,
            volumes: &[],
            document: b"{}",
            ephemeral: false,
        })
        .expect("a container");
    std::fs::create_dir(fs.upper.join("d")).expect("writable");
    std::fs::write(fs.upper.join("d/g"), [9; 5000]).expect("writable");
    drop(store); // not closed: a sync of the whole file system for each step would take minutes
}

/// Run by the other tests in a process of its own; nothing by itself.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let operation = std::env::var(OPERATION).expect("given with the root");
    let store = open(Path::new(&root));
    sys::fault::enter("daemon");
    let done = operate(&store, &operation);
    sys::fault::enter("nobody");
    if let Err(error) = &done {
        assert!(store.image("new:1").is_err(), "refused ({error}) but there");
    }
    std::fs::write(
        Path::new(&root).join("../outcome"),
        done.unwrap_or_else(|e| format!("refused: {e}")),
    )
    .expect("writable");
}

#[expect(clippy::disallowed_methods, reason = "the child is this test binary")]
fn run_child(root: &Path, operation: &str, env: &[(&str, String)]) -> Option<String> {
    let outcome = root.join("../outcome");
    let _none_yet = std::fs::remove_file(&outcome);
    let binary = std::env::current_exe().expect("this test binary");
    let mut command = std::process::Command::new(binary);
    command
        .args(["--exact", "faults::child", "--test-threads=1"])
        .env(ROOT, root)
        .env(OPERATION, operation)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    for (key, value) in env {
        command.env(key, value);
    }
    let output = command.output().expect("it can be started");
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert!(
        killed || output.status.success(),
        "{env:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read_to_string(outcome).ok()
}

fn files(store: &Store) -> Vec<String> {
    let mut list = leftovers(store);
    list.sort();
    list
}

/// Opens the store as the next daemon would, and looks.
fn inspect(root: &Path, before: &[String], outcome: Option<&str>, what: &str) {
    let store = open(root);
    // what the background thread does right after open
    store.maintain();
    let there = store.image("new:1");
    match (&there, outcome) {
        (Ok(image), _) => {
            let layers = store
                .rootfs_layers("new:1")
                .unwrap_or_else(|e| panic!("{what}: {}", chain(&e)));
            assert_eq!(layers.len(), image.layers.len());
            assert_eq!(
                std::fs::read(layers[0].join("d/g")).expect("there"),
                [9; 5000],
                "{what}"
            );
            save(&store, &["new:1"]);
        }
        (Err(_), None) => assert_eq!(files(&store), before, "{what}: something was left"),
        (Err(_), Some(text)) => {
            assert!(
                text.starts_with("refused: "),
                "{what}: acknowledged ({text}) and lost"
            );
            assert_eq!(files(&store), before, "{what}: something was left");
        }
    }
    assert!(
        store.image("base:1").is_ok(),
        "{what}: what was there before is gone"
    );
    for image in store.images().expect("the index") {
        let wrong = store
            .verify_image(&image.id)
            .unwrap_or_else(|e| panic!("{what}: {}", chain(&e)));
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
    }
}

fn steps(root: &Path, operation: &str) -> Vec<String> {
    let log = root.join("../steps");
    let env = [("PLIMSOLL_FAULT_LOG", log.to_str().expect("text").to_owned())];
    let outcome = run_child(root, operation, &env).expect("it ends by itself");
    assert!(!outcome.starts_with("refused"), "{outcome}");
    std::fs::read_to_string(&log)
        .expect("the log of steps")
        .lines()
        .filter(|l| l.starts_with("daemon "))
        .map(str::to_owned)
        .collect()
}

fn every_step(operation: &str) {
    need_root();
    let dir = tempfile::tempdir().expect("a directory");
    let fresh = |name: &str| -> PathBuf {
        let slot = dir.path().join(name);
        std::fs::create_dir(&slot).expect("writable");
        let root = slot.join("root");
        prepare(&root);
        root
    };
    let count = steps(&fresh("count"), operation);
    assert!(count.len() > 15, "too few steps to be all: {count:?}");
    for action in ["kill", "enospc", "eio"] {
        for step in 1..=count.len() {
            let what = format!("{operation}, {action} at step {}", count[step - 1]);
            let root = fresh(&format!("{action}-{step}"));
            let before = files(&open(&root));
            let env = [("PLIMSOLL_FAULT", format!("daemon:{step}:{action}"))];
            let outcome = run_child(&root, operation, &env);
            inspect(&root, &before, outcome.as_deref(), &what);
            let slot = root.parent().expect("made above").to_owned();
            std::fs::remove_dir_all(slot).expect("removable");
        }
    }
}

#[test]
fn load_is_whole_or_nothing() {
    every_step("load");
}

#[test]
fn import_is_whole_or_nothing() {
    every_step("import");
}

#[test]
fn commit_is_whole_or_nothing() {
    every_step("commit");
}
