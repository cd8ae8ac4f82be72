//! The packaged systemd units.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::image::Image;
use testkit::instance::{command, create_body};
use testkit::{Api, until};

use super::{DEBIAN, PATIENCE};

/// `systemctl` with these arguments; what it said.
#[track_caller]
pub(super) fn systemctl(arguments: &[&str]) -> String {
    let output = command("systemctl").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {output:?}\n{}",
        journal()
    );
    said.trim().to_owned()
}

fn journal() -> String {
    let output = command("journalctl")
        .args(["-u", "plimsoll", "-n", "40", "--no-pager"])
        .output();
    output.map_or_else(
        |e| e.to_string(),
        |o| String::from_utf8_lossy(&o.stdout).into_owned(),
    )
}

fn show(property: &str) -> String {
    systemctl(&["show", "--value", "-p", property, "plimsoll.service"])
}

fn api() -> Api {
    Api::new(Path::new("/run/plimsoll.sock"))
}

#[track_caller]
fn answers(what: &str) {
    until(what, PATIENCE, || {
        let api = api().with_deadline(Duration::from_secs(5));
        api.get("/_ping").ok().filter(|r| r.status == 200).map(drop)
    });
}

fn pid_of(id: &str) -> Option<i64> {
    let answer = api().get(&format!("/containers/{id}/json")).ok()?;
    answer
        .is_ok()
        .then(|| answer.json()["State"]["Pid"].as_i64())?
}

/// The engine is another process than `old`, and `id` is the same as before.
#[track_caller]
fn came_back(what: &str, old: &str, id: &str, pid: i64) -> String {
    let new = until(what, PATIENCE, || {
        let now = show("MainPID");
        (now != *old && now != "0").then_some(now)
    });
    answers(what);
    until("the container to be adopted", PATIENCE, || {
        (pid_of(id) == Some(pid)).then_some(())
    });
    new
}

/// FAILURES row "Nothing restarts a hung daemon".
#[test]
fn the_unit_keeps_the_engine_alive_and_containers_out_of_it() {
    DEBIAN.test(|| {
        systemctl(&["daemon-reload"]);
        systemctl(&["start", "plimsoll.socket"]);
        // by its socket: the first to ask starts it
        answers("the socket to start the engine");
        assert_eq!(show("ActiveState"), "active");
        assert_eq!(show("Type"), "notify");
        let archive = Image::busybox().unwrap().archive();
        let loaded = api().upload("POST", "/images/load?quiet=1", &archive);
        let _loaded = loaded.unwrap().ok();
        let body = create_body(&["sleep", "100000"], json!({}));
        let answer = api().post("/containers/create?name=stays", &body).unwrap();
        let id = answer.ok().json()["Id"].as_str().unwrap().to_owned();
        let started = api().post(&format!("/containers/{id}/start"), &Value::Null);
        let _started = started.unwrap().ok();
        let pid = pid_of(&id).unwrap();
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(own.starts_with("0::/plimsoll-"), "{own}");

        let first = show("MainPID");
        systemctl(&["restart", "plimsoll.service"]);
        let second = came_back("the engine after restart", &first, &id, pid);
        systemctl(&["kill", "-s", "KILL", "plimsoll.service", "--kill-whom=main"]);
        let third = came_back("the engine after SIGKILL", &second, &id, pid);

        // fed: the last sign of life moves on
        let before = show("WatchdogTimestampMonotonic");
        until("the watchdog to be fed", PATIENCE, || {
            (show("WatchdogTimestampMonotonic") != before).then_some(())
        });
        let hung = Instant::now();
        systemctl(&["kill", "-s", "STOP", "plimsoll.service", "--kill-whom=main"]);
        let fourth = came_back("the engine after SIGSTOP", &third, &id, pid);
        assert!(
            hung.elapsed() < Duration::from_secs(30),
            "{:?}",
            hung.elapsed()
        );
        assert_ne!(fourth, third);

        let removed = api().delete(&format!("/containers/{id}?force=1"));
        let _removed = removed.unwrap().ok();
        systemctl(&["stop", "plimsoll.socket", "plimsoll.service"]);
        assert_eq!(show("MainPID"), "0");
    });
}
