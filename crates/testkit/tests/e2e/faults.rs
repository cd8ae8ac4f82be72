//! ENOSPC, EIO and kill -9 at every durable effect of load, import, commit and create.
//!
//! FAILURES rows "Disk full", "Killed pull leaves half layers", "Pull success without the layer".

use serde_json::{Value, json};
use testkit::crash::{Action, Scenario, every_step};
use testkit::image::{Image, Node, digest, tar};
use testkit::{Instance, Response};

use crate::attempt;
use crate::crash::{goes_on, template};

const ACTIONS: [Action; 3] = [Action::Kill, Action::Enospc, Action::Eio];

fn payload() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn acknowledge(answer: Option<Response>) -> testkit::crash::Acknowledged {
    // load and import tell a failure in their stream of messages
    let worked = answer.filter(|a| !a.text().contains("errorDetail"));
    worked.map(|_| "done".to_owned()).into_iter().collect()
}

fn has_image(instance: &Instance, name: &str) -> bool {
    let path = format!("/images/{name}/json");
    instance.answered(instance.api().get(&path)).is_ok()
}

/// Every byte of the payload is in the image, as a container sees it.
#[track_caller]
fn is_whole(instance: &Instance, image: &str, program: &str) {
    let sum = digest(&payload());
    let script = format!("echo '{sum}  /payload' | {program} sha256sum -c");
    let fields = json!({"Image": image});
    let id = instance.create_with("reader", &[program, "sh", "-c", &script], fields);
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 0, "{}", crate::logs(instance, &id));
    instance.remove(&id);
}

#[test]
fn load_with_a_fault_at_every_step() {
    // few entries: each one made is a step, and each step is an engine of its own
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let image = Image::of(vec![("busybox".to_owned(), Node::File(busybox, 0o755))])
        .named("loaded:1")
        .layer(vec![("payload".to_owned(), Node::File(payload(), 0o644))]);
    every_step(
        &Scenario {
            name: "load",
            prepare: &|_| {},
            operation: &|i| {
                let path = "/images/load?quiet=1";
                acknowledge(attempt(i.api().upload("POST", path, &image.archive())))
            },
            check: &|i, acknowledged| {
                goes_on(i);
                // named: then whole, acknowledged or not
                if has_image(i, "loaded:1") {
                    is_whole(i, "loaded:1", "/busybox");
                } else {
                    assert!(!acknowledged.contains("done"), "its load was acknowledged");
                    i.load(&image);
                    is_whole(i, "loaded:1", "/busybox");
                }
            },
        },
        &template(),
        &["daemon"],
        &ACTIONS,
    );
}

#[test]
fn import_with_a_fault_at_every_step() {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let archive = tar(&[
        ("busybox".to_owned(), Node::File(busybox, 0o755)),
        ("payload".to_owned(), Node::File(payload(), 0o644)),
    ]);
    every_step(
        &Scenario {
            name: "import",
            prepare: &|_| {},
            operation: &|i| {
                let path = "/images/create?fromSrc=-&repo=imported&tag=1";
                acknowledge(attempt(i.api().upload("POST", path, &archive)))
            },
            check: &|i, acknowledged| {
                goes_on(i);
                if has_image(i, "imported:1") {
                    is_whole(i, "imported:1", "/busybox");
                } else {
                    assert!(
                        !acknowledged.contains("done"),
                        "its import was acknowledged"
                    );
                }
            },
        },
        &template(),
        &["daemon"],
        &ACTIONS,
    );
}

#[test]
fn commit_with_a_fault_at_every_step() {
    let file = ("payload".to_owned(), Node::File(payload(), 0o644));
    every_step(
        &Scenario {
            name: "commit",
            prepare: &|i| {
                i.create("box", &["true"]);
                let archive = tar(std::slice::from_ref(&file));
                let path = "/containers/box/archive?path=/";
                i.answered(i.api().upload("PUT", path, &archive)).ok();
            },
            operation: &|i| {
                let path = "/commit?container=box&repo=committed&tag=1";
                acknowledge(attempt(i.api().post(path, &Value::Null)))
            },
            check: &|i, acknowledged| {
                goes_on(i);
                if has_image(i, "committed:1") {
                    is_whole(i, "committed:1", "/bin/busybox");
                } else {
                    assert!(
                        !acknowledged.contains("done"),
                        "its commit was acknowledged"
                    );
                }
            },
        },
        &template(),
        &["daemon"],
        &ACTIONS,
    );
}

#[test]
fn create_with_an_error_at_every_step() {
    every_step(
        &Scenario {
            name: "create with errors",
            prepare: &|_| {},
            operation: &|i| {
                let body = testkit::instance::create_body(&["true"], json!({}));
                acknowledge(attempt(i.api().post("/containers/create?name=box", &body)))
            },
            check: &|i, acknowledged| {
                goes_on(i);
                let there = !i.containers().is_empty();
                assert!(there || !acknowledged.contains("done"));
                if !there {
                    i.create("box", &["true"]);
                }
            },
        },
        &template(),
        &["daemon"],
        &[Action::Enospc, Action::Eio],
    );
}
