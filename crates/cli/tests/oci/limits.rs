//! Cgroups: where they are, update, pause, events.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Lab, other};

fn file(lab: &Lab, name: &str) -> PathBuf {
    let mut found = lab.cgroups().into_iter().map(|d| d.join(name));
    found
        .find(|f| f.exists())
        .unwrap_or_else(|| panic!("no cgroup has {name}"))
}

fn value(lab: &Lab, name: &str) -> String {
    fs::read_to_string(file(lab, name))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_path_is_taken_from_the_hierarchys_root() {
    let lab = Lab::sh("sleep 1000");
    let path = format!("/plimsoll-test-parent/{}", lab.id());
    let lab = lab.set("/linux/cgroupsPath", json!(path));
    lab.create();
    let own = fs::read_to_string(format!("/proc/{}/cgroup", lab.pid())).unwrap();
    let memory = own
        .lines()
        .find(|l| l.contains(":memory:") || l.starts_with("0::"));
    assert!(memory.unwrap().ends_with(&path), "{own}");
    assert_eq!(lab.oci(&["delete", "--force", lab.id()]).code, Some(0));
    lab.assert_gone();
    for dir in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // not empty where another test is in it
        let _shared = fs::remove_dir(dir.path().join("plimsoll-test-parent"));
    }
}

#[test]
fn limits_are_set_and_updated_and_gone_with_the_container() {
    let lab = Lab::sh("sleep 1000").set(
        "/linux/resources",
        json!({"pids": {"limit": 50}, "memory": {"limit": 67_108_864}}),
    );
    lab.create();
    lab.start();
    assert_eq!(value(&lab, "pids.max"), "50");
    let said = lab.oci(&[
        "update",
        "--pids-limit",
        "60",
        "--cpu-share",
        "512",
        lab.id(),
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(value(&lab, "pids.max"), "60");
    if fs::exists("/sys/fs/cgroup/cpu").unwrap() {
        assert_eq!(value(&lab, "cpu.shares"), "512");
        // a hierarchy joined later holds further processes too
        let said = lab.oci(&["exec", lab.id(), "cat", "/proc/self/cgroup"]);
        assert!(said.out.contains(&format!("cpu:/{}", lab.id())), "{said:?}");
    }
    let resources = lab.file("resources");
    let text = json!({"pids": {"limit": 70}, "memory": {"limit": 0}, "cpu": {"shares": 0}});
    fs::write(&resources, text.to_string()).unwrap();
    let said = lab.oci(&[
        "update",
        "--resources",
        resources.to_str().unwrap(),
        lab.id(),
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(value(&lab, "pids.max"), "70");
    assert_eq!(lab.oci(&["delete", "--force", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn pause_and_resume() {
    let lab = Lab::sh("sleep 1000");
    lab.create();
    lab.start();
    assert_eq!(lab.oci(&["pause", lab.id()]).code, Some(0));
    assert_eq!(lab.status(), "paused");
    let again = lab.oci(&["pause", lab.id()]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert_eq!(lab.oci(&["resume", lab.id()]).code, Some(0));
    assert_eq!(lab.status(), "running");
    let again = lab.oci(&["resume", lab.id()]);
    assert!(again.err.contains("container not paused"), "{again:?}");
    assert_eq!(lab.oci(&["pause", lab.id()]).code, Some(0));
    assert_eq!(lab.oci(&["delete", "--force", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn counters_once_and_until_the_end() {
    if other().is_some() {
        // runc 1.1 goes on when the container has ended
        return;
    }
    let lab = Lab::sh("sleep 1000");
    lab.create();
    lab.start();
    let once: Value = serde_json::from_str(&lab.oci(&["events", "--stats", lab.id()]).out).unwrap();
    assert_eq!(once["type"], "stats");
    assert_eq!(once["id"], lab.id());
    assert_eq!(once["data"]["pids"]["current"], 1);
    let memory = &once["data"]["memory"];
    assert!(memory["usage"]["usage"].as_u64().unwrap() > 0);
    // pages of tables and stacks: a container without any can't run
    assert!(memory["kernel"]["usage"].as_u64().unwrap() > 0, "{memory}");
    let cpus = once["data"]["cpu"]["usage"]["percpu"].as_array().unwrap();
    assert_eq!(
        once["data"]["cpu"]["usage"]["percpu_user"]
            .as_array()
            .unwrap()
            .len(),
        cpus.len()
    );
    let mut events = lab.spawn(&["events", "--interval", "20ms", lab.id()]);
    let mut line = String::new();
    let mut out = std::io::BufReader::new(events.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert!(line.contains(r#""type":"stats""#), "{line}");
    assert_eq!(lab.oci(&["kill", lab.id(), "KILL"]).code, Some(0));
    // the pipe must be read, or its writer never ends
    std::io::Read::read_to_string(&mut out, &mut line).unwrap();
    assert!(events.wait().unwrap().success());
}
