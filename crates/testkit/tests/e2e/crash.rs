//! kill -9 of daemon, spawner and shim at every step of create, start, exec, stop, rm.
//!
//! P1 (what was acknowledged is there), P2 (nothing to clean up), P8 (the engine goes on).

use serde_json::{Value, json};
use testkit::Instance;
use testkit::crash::{Acknowledged, Action, Scenario, every_step};

use crate::{attempt, post};

const ROLES: [&str; 3] = ["daemon", "spawner", "shim"];

/// A stopped instance with the image: what each replay starts from.
pub(crate) fn template() -> Instance {
    let mut instance = Instance::with_busybox();
    instance.stop();
    instance
}

#[track_caller]
fn replay(scenario: &Scenario<'_>) {
    every_step(scenario, &template(), &ROLES, &[Action::Kill]);
}

fn nothing(_: &Instance) {}

/// An engine that came back can do the whole round.
pub(crate) fn goes_on(instance: &Instance) {
    let id = instance.run("afterwards", &["true"]);
    assert_eq!(instance.wait(&id), 0);
    instance.remove(&id);
}

fn create(instance: &Instance, name: &str, command: &[&str]) -> Option<String> {
    let body = testkit::instance::create_body(command, json!({}));
    let path = format!("/containers/create?name={name}");
    let answer = attempt(instance.api().post(&path, &body))?;
    answer.json()["Id"].as_str().map(str::to_owned)
}

fn sleeper(instance: &Instance) {
    instance.run("box", &["sleep", "1000"]);
}

fn is_listed(instance: &Instance, name: &str) -> bool {
    let path = format!("/containers/{name}/json");
    instance.answered(instance.api().get(&path)).is_ok()
}

fn state(instance: &Instance) -> String {
    let state = instance.inspect("box")["State"]["Status"].clone();
    state.as_str().unwrap_or_default().to_owned()
}

#[test]
fn create_killed_at_every_step() {
    replay(&Scenario {
        name: "create",
        prepare: &nothing,
        operation: &|i| create(i, "box", &["true"]).into_iter().collect(),
        check: &|i, acknowledged| {
            goes_on(i);
            let there = i.containers();
            for id in acknowledged {
                assert!(there.contains(id), "{id} was acknowledged");
            }
            // the name is either taken by a whole container or free
            if there.is_empty() {
                i.create("box", &["true"]);
            }
        },
    });
}

#[test]
fn start_killed_at_every_step() {
    replay(&Scenario {
        name: "start",
        prepare: &|i| drop(i.create("box", &["sleep", "1000"])),
        operation: &|i| {
            let started = post(i, "/containers/box/start");
            started.map(|_| "started".to_owned()).into_iter().collect()
        },
        check: &|i, _| {
            goes_on(i);
            assert!(is_listed(i, "box"));
            // whatever became of it, it can be started (again) and is then running
            if state(i) != "running" {
                i.start_container("box");
            }
            assert_eq!(state(i), "running");
        },
    });
}

#[test]
fn exec_killed_at_every_step() {
    replay(&Scenario {
        name: "exec",
        prepare: &sleeper,
        operation: &|i| {
            let done = i.plimsoll(&["exec", "box", "sh", "-c", "exit 5"]);
            let code = (done.status.code() == Some(5)).then(|| "5".to_owned());
            code.into_iter().collect()
        },
        check: &|i, _| {
            goes_on(i);
            if state(i) != "running" {
                i.start_container("box");
            }
            let done = i.plimsoll(&["exec", "box", "sh", "-c", "exit 6"]);
            assert_eq!(done.status.code(), Some(6), "{done:?}");
        },
    });
}

#[test]
fn stop_killed_at_every_step() {
    replay(&Scenario {
        name: "stop",
        prepare: &sleeper,
        operation: &|i| {
            let stopped = post(i, "/containers/box/stop?t=0");
            stopped.map(|_| "stopped".to_owned()).into_iter().collect()
        },
        check: &|i, acknowledged| {
            goes_on(i);
            if acknowledged.contains("stopped") {
                assert_ne!(state(i), "running");
            }
            let _stopped = i.answered(i.api().post("/containers/box/stop?t=0", &Value::Null));
            assert_eq!(state(i), "exited");
        },
    });
}

#[test]
fn rm_killed_at_every_step() {
    replay(&Scenario {
        name: "rm",
        prepare: &sleeper,
        operation: &|i| {
            let removed = attempt(i.api().delete("/containers/box?force=1"));
            removed.map(|_| "removed".to_owned()).into_iter().collect()
        },
        check: &|i, acknowledged| {
            goes_on(i);
            if acknowledged.contains("removed") {
                assert!(!is_listed(i, "box"), "its removal was acknowledged");
            }
        },
    });
}

#[test]
fn a_container_that_ends_by_itself_killed_at_every_step() {
    replay(&Scenario {
        name: "end",
        prepare: &nothing,
        operation: &|i| {
            let mut acknowledged = Acknowledged::new();
            let Some(id) = create(i, "box", &["sh", "-c", "exit 4"]) else {
                return acknowledged;
            };
            let started = post(i, &format!("/containers/{id}/start"));
            let waited = started.and_then(|_| post(i, &format!("/containers/{id}/wait")));
            if let Some(code) = waited.and_then(|w| w.json()["StatusCode"].as_i64()) {
                acknowledged.insert(code.to_string());
            }
            acknowledged
        },
        check: &|i, acknowledged| {
            goes_on(i);
            // an exit code that was told stays the same for ever
            for code in acknowledged {
                let now = i.inspect("box")["State"]["ExitCode"].to_string();
                assert_eq!(&now, code);
            }
        },
    });
}
