//! kill -9 of the runtime at each of its numbered steps: `delete --force`, and the next `create` of
//! the same id, find everything.

use std::fs;
use std::process::Stdio;

use crate::harness::{Lab, PATIENCE, other};

/// The steps that a line passes, by role and number.
fn steps(lab: &Lab, line: &[&str]) -> Vec<(String, u64, String)> {
    let log = lab.file("steps");
    let _first = fs::remove_file(&log);
    let status = lab
        .command()
        .args(line)
        .env("PLIMSOLL_FAULT_LOG", &log)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{line:?}");
    let text = fs::read_to_string(&log).unwrap();
    let steps: Vec<_> = text
        .lines()
        .map(|l| {
            let mut words = l.splitn(3, ' ');
            let mut next = || words.next().unwrap().to_owned();
            (next(), next().parse().unwrap(), next())
        })
        .collect();
    assert!(
        !steps.is_empty(),
        "{line:?} passes no steps: is this a debug build?"
    );
    steps
}

fn killed_at(lab: &Lab, line: &[&str], role: &str, step: u64) {
    let mut child = lab
        .command()
        .args(line)
        .env("PLIMSOLL_FAULT", format!("{role}:{step}:kill"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    testkit::until("the killed runtime", PATIENCE, || child.try_wait().unwrap());
}

fn delete(lab: &Lab, what: &str) {
    let said = lab.oci(&["delete", "--force", lab.id()]);
    assert_eq!(said.code, Some(0), "{what}: {said:?}");
    lab.assert_gone();
}

fn every_step(prepare: &[&[&str]], line: &[&str]) {
    let lab = Lab::sh("sleep 1000");
    if other().is_some() {
        return;
    }
    let with_id = |words: &[&str]| -> Vec<String> {
        let words = words.iter().map(|w| (*w).to_owned());
        words.chain([lab.id().to_owned()]).collect()
    };
    let prepared = || {
        for words in prepare {
            let words = with_id(words);
            lab.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
        }
    };
    let line = with_id(line);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    prepared();
    let steps = steps(&lab, &line);
    delete(&lab, "without a crash");
    for (role, number, name) in &steps {
        let what = format!("{line:?} killed at {role} {number} {name}");
        prepared();
        killed_at(&lab, &line, role, *number);
        delete(&lab, &what);
        if prepare.is_empty() {
            killed_at(&lab, &line, role, *number);
            // the same id again: a half-made one is taken over, a complete one is there
            let said = lab.quietly(&["create", lab.id()]);
            let complete = said.err.contains("already exists");
            assert!(said.code == Some(0) || complete, "{what}: {said:?}");
            assert_eq!(lab.oci(&["state", lab.id()]).code, Some(0), "{what}");
            delete(&lab, &what);
        }
    }
}

#[test]
fn create_killed_at_every_step() {
    every_step(&[], &["create"]);
}

#[test]
fn run_killed_at_every_step() {
    every_step(&[], &["run", "--detach"]);
}

#[test]
fn start_killed_at_every_step() {
    every_step(&[&["create"]], &["start"]);
}

#[test]
fn delete_killed_at_every_step() {
    every_step(&[&["create"]], &["delete", "--force"]);
}

/// A pid used again is not the container.
#[test]
fn a_pid_of_another_process_is_not_taken_for_the_container() {
    let lab = Lab::sh("sleep 1000");
    if other().is_some() {
        return;
    }
    lab.create();
    let file = lab.state_root().join(lab.id()).join("init");
    let text = fs::read_to_string(&file).unwrap();
    let started = text.trim().split(' ').nth(1).unwrap().to_owned();
    fs::write(&file, format!("{} {started}\n", std::process::id())).unwrap();
    assert_eq!(lab.status(), "stopped");
    assert_eq!(lab.oci(&["kill", lab.id(), "KILL"]).code, Some(1));
    delete(&lab, "another's pid");
}
