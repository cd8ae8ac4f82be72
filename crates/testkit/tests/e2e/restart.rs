//! The engine dies or is replaced, containers go on. FAILURES rows "live-restore bugs", "Upgrade
//! stops containers".

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use testkit::{Instance, Snapshot, until};

use crate::logs;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_container_goes_on_without_an_engine() {
    let mut instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let count = "i=0; while test $i -lt 100000; do echo $i; i=$((i+1)); sleep 0.02; done";
    let id = instance.run("counter", &["sh", "-c", count]);
    let log = instance.inspect(&id)["LogPath"]
        .as_str()
        .unwrap()
        .to_owned();
    let length = || std::fs::metadata(&log).map_or(0, |m| m.len());
    let before = instance.inspect(&id)["State"].clone();
    instance.kill9();
    let at = length();
    until("the log to grow without an engine", SOON, || {
        (length() > at + 100).then_some(())
    });
    instance.start();
    let after = instance.inspect(&id)["State"].clone();
    for field in ["Pid", "StartedAt", "Running", "Status"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let text = logs(&instance, &id);
    let expected: Vec<String> = (0..text.lines().count()).map(|n| n.to_string()).collect();
    let found: Vec<&str> = text.lines().collect();
    assert_eq!(found, expected, "no line is missing or doubled");
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn an_exit_code_without_an_engine_is_known_to_the_next() {
    let mut instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("short", &["sh", "-c", "sleep 0.5; echo bye; exit 42"]);
    let shim = instance.shim(&id).unwrap();
    instance.kill9();
    until("the shim to end", SOON, || (!shim.is_alive()).then_some(()));
    instance.start();
    let state = instance.inspect(&id)["State"].clone();
    assert_eq!(
        (&state["Status"], &state["ExitCode"]),
        (&json!("exited"), &json!(42))
    );
    assert_eq!(instance.wait(&id), 42);
    assert_eq!(logs(&instance, &id), "bye\n");
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn sigterm_leaves_containers_running() {
    let mut instance = Instance::with_busybox();
    let id = instance.run("one", &["sleep", "1000"]);
    let shim = instance.shim(&id).unwrap();
    instance.stop();
    assert!(shim.is_alive());
    instance.start();
    assert_eq!(instance.inspect(&id)["State"]["Running"], true);
}

#[test]
fn kill_9_of_a_shim_ends_its_container_and_is_told() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sh", "-c", "sleep 1000 & sleep 1000"]);
    let shim = instance.shim(&id).unwrap();
    let tree = testkit::procfs::tree(shim.pid);
    assert!(tree.len() >= 3, "{tree:?}");
    shim.signal(Signal::KILL);
    until("the container's processes to end", SOON, || {
        tree.iter().all(|p| !p.is_alive()).then_some(())
    });
    until("the engine to tell", SOON, || {
        (instance.inspect(&id)["State"]["Running"] == false).then_some(())
    });
    assert_eq!(instance.inspect(&id)["State"]["ExitCode"], 137);
    instance.start_container(&id);
    assert_eq!(instance.inspect(&id)["State"]["Running"], true);
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn kill_9_of_the_shim_while_no_engine_runs() {
    let mut instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sleep", "1000"]);
    let shim = instance.shim(&id).unwrap();
    let tree = testkit::procfs::tree(shim.pid);
    instance.kill9();
    shim.signal(Signal::KILL);
    until("the container's processes to end", SOON, || {
        tree.iter().all(|p| !p.is_alive()).then_some(())
    });
    instance.start();
    assert_eq!(instance.inspect(&id)["State"]["Running"], false);
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn kill_9_of_the_spawner_disturbs_nobody() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sleep", "1000"]);
    instance.spawner().unwrap().signal(Signal::KILL);
    let another = instance.run("two", &["true"]);
    assert_eq!(instance.wait(&another), 0);
    assert_eq!(instance.inspect(&id)["State"]["Running"], true);
    instance.remove_all();
    clean.assert_settled(&instance);
}

/// FAILURES row "One bad shim blocks start", "Bad config or stored state stops the daemon".
#[test]
fn a_mute_shim_and_a_corrupt_record_cost_themselves_alone() {
    let mut instance = Instance::with_busybox();
    let good = instance.run("good", &["sleep", "1000"]);
    let mute = instance.run("mute", &["sleep", "1000"]);
    let shim = instance.shim(&mute).unwrap();
    instance.kill9();
    shim.signal(Signal::STOP);
    let took = instance.start();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(instance.inspect(&good)["State"]["Running"], true);
    shim.signal(Signal::CONT);
}

/// The number is for 200 containers on a quiet machine and a release build, and is checked
/// by the benchmark; here only that it isn't off by an order of magnitude.
#[test]
fn adoption_of_twenty() {
    let mut instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for n in 0..20 {
        instance.run(&format!("c{n}"), &["sleep", "1000"]);
    }
    for _ in 0..3 {
        instance.kill9();
        let took = instance.start();
        assert!(took < Duration::from_secs(2), "{took:?}");
        let list = instance.api().get("/containers/json").unwrap().json();
        assert_eq!(list.as_array().unwrap().len(), 20);
    }
    instance.remove_all();
    clean.assert_settled(&instance);
}
