//! FAILURES row "`ps` hangs": a shim, the spawner, a volume's file system that doesn't answer must
//! cost its own container alone.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::fuse::HungFs;
use testkit::{Instance, Snapshot, until};

/// P4 on a quiet machine; tests run beside others.
const AT_ONCE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(20);

/// The best of a few: what is measured is the engine, not the scheduler.
#[track_caller]
fn reads_answer(instance: &Instance, id: &str) {
    for path in [
        "/_ping".to_owned(),
        "/containers/json?all=1".to_owned(),
        format!("/containers/{id}/json"),
        "/images/json".to_owned(),
        "/info".to_owned(),
    ] {
        let times: Vec<Duration> = (0..5)
            .map(|_| instance.answered(instance.api().get(&path)).ok().took)
            .collect();
        let best = times.iter().min().unwrap();
        assert!(*best < AT_ONCE, "{path}: {times:?}");
    }
    let ps = instance.plimsoll(&["ps", "-a"]);
    assert!(ps.status.success(), "{ps:?}");
}

#[test]
fn a_stopped_shim() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sleep", "1000"]);
    let shim = instance.shim(&id).unwrap();
    shim.signal(Signal::STOP);
    // somebody wants something from it meanwhile
    let api = instance.api().with_deadline(SOON);
    let path = format!("/containers/{id}/stop?t=1");
    let stopper = std::thread::spawn(move || api.post(&path, &Value::Null).map(|r| r.status));
    reads_answer(&instance, &id);
    let other = instance.run("two", &["true"]);
    assert_eq!(instance.wait(&other), 0);
    shim.signal(Signal::CONT);
    let _status = stopper.join().unwrap();
    instance.remove_all();
    clean.assert_settled(&instance);
}

#[test]
fn a_stopped_spawner() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sleep", "1000"]);
    let two = instance.create("two", &["true"]);
    let spawner = instance.spawner().unwrap();
    spawner.signal(Signal::STOP);
    let api = instance.api();
    let path = format!("/containers/{two}/start");
    let starter = std::thread::spawn(move || api.post(&path, &Value::Null));
    reads_answer(&instance, &id);
    spawner.signal(Signal::CONT);
    let _started = starter.join().unwrap();
    instance.remove_all();
    clean.assert_settled(&instance);
}

/// A bind of a file system that has died: the start of that container hangs, nothing else.
#[test]
fn a_hung_volume() {
    let instance = Instance::with_busybox();
    let at = instance.path().join("volume");
    std::fs::create_dir(&at).unwrap();
    let clean = Snapshot::take(&instance);
    let volume = HungFs::mount(&at).unwrap();
    let good = instance.run("good", &["sleep", "1000"]);
    let bind = json!({"HostConfig": {"Binds": [format!("{}:/data", at.display())]}});
    let user = instance.create_with("user", &["cat", "/data/file"], bind.clone());
    instance.start_container(&user);
    assert_eq!(instance.wait(&user), 0);
    let late = instance.create_with("late", &["cat", "/data/file"], bind);
    volume.hang();
    let api = instance.api().with_deadline(Duration::from_secs(120));
    let path = format!("/containers/{late}/start");
    let starter = std::thread::spawn(move || api.post(&path, &Value::Null));
    until("somebody to wait for the volume", SOON, || {
        (volume.unanswered() > 0).then_some(())
    });
    reads_answer(&instance, &good);
    let other = instance.run("other", &["true"]);
    assert_eq!(instance.wait(&other), 0);
    // the volume comes to its end: whoever waited gets an error
    drop(volume);
    let _answer = starter.join().unwrap();
    instance.remove_all();
    clean.assert_settled(&instance);
}

/// FAILURES row "stdout blocks the application": who attaches and doesn't read is dropped.
#[test]
fn a_reader_that_does_not_read() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let script = "i=0; while test $i -lt 20000; do echo line $i of many; i=$((i+1)); done; exit 9";
    let id = instance.create("talker", &["sh", "-c", script]);
    let path = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let deaf = instance.api().upgrade(&path, &Value::Null).unwrap();
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 9);
    assert_eq!(crate::logs(&instance, &id).lines().count(), 20_000);
    drop(deaf);
    instance.remove(&id);
    clean.assert_settled(&instance);
}

/// FAILURES row "Nothing restarts a hung daemon" needs the service manager; what is ours is that a
/// daemon that slept finds everything as it is.
#[test]
fn a_daemon_that_slept() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("short", &["sh", "-c", "sleep 0.3; exit 6"]);
    let shim = instance.shim(&id).unwrap();
    let daemon = instance.daemon().unwrap();
    daemon.signal(Signal::STOP);
    until("the exit record", SOON, || {
        let dir = instance.data_root().join("containers").join(&id);
        dir.join("exit.json").exists().then_some(())
    });
    daemon.signal(Signal::CONT);
    assert_eq!(instance.wait(&id), 6);
    until("the shim to end", SOON, || (!shim.is_alive()).then_some(()));
    instance.remove(&id);
    clean.assert_settled(&instance);
}
