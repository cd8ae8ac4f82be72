//! A start that is killed or refused at any of its steps leaves nothing and says so.
//!
//! FAILURES: "Leaked netns, addresses, watchers"; "Orphan layers, dead containers".

use std::process::Command;

use crate::Container;
use crate::harness::v2_alone;

/// Run in a process of its own by the tests below, with `PLIMSOLL_FAULT` set.
#[test]
#[ignore = "a helper, run by the tests of this file in a process of its own"]
fn helper() {
    let mut c = Container::sh("true")
        .set(
            "/linux/sysctl",
            serde_json::json!({"kernel.msgmax": "9000"}),
        )
        .in_cgroup();
    c.init = true;
    let result = match c.start() {
        Ok(r) => format!("ran {}", r.finish().code),
        Err(e) => format!("failed: {e}"),
    };
    let cgroup = c.cgroup.as_ref().unwrap();
    let left: Vec<_> = cgroup.paths().filter(|p| p.exists()).collect();
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    println!(
        "RESULT {result}; left {left:?}; children [{}]",
        children.trim()
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "a fault is set in the environment, which tests of one process share"
)]
fn helper_with(fault: &str, log: Option<&std::path::Path>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crash::helper", "--ignored", "--nocapture"])
        .env("PLIMSOLL_FAULT", fault);
    if let Some(log) = log {
        command.env("PLIMSOLL_FAULT_LOG", log);
    }
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().find_map(|l| l.split_once("RESULT "));
    line.unwrap_or_else(|| panic!("no result with {fault}: {out:?}"))
        .1
        .to_owned()
}

fn steps() -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let line = helper_with("none:0:kill", Some(&log));
    assert_eq!(line, "ran 0; left []; children []");
    let text = std::fs::read_to_string(&log).unwrap();
    let names = text.lines().filter_map(|l| l.strip_prefix("init "));
    names.map(str::to_owned).collect()
}

#[test]
fn killed_or_refused_at_every_step_of_the_child() {
    let steps = steps();
    // version 2 is entered by being born in it
    let least = if v2_alone() { 54 } else { 60 };
    assert!(steps.len() >= least, "{steps:?}");
    for (n, name) in (1..).zip(&steps) {
        let killed = helper_with(&format!("init:{n}:kill"), None);
        assert_eq!(
            killed,
            "failed: start the container's first process: the process was killed while it was \
             being set up (125); left []; children []",
            "at step {name}"
        );
    }
    // an error at a step is told with the step's name; a sample, since each costs a process
    for (n, name) in (1..).zip(&steps).step_by(5) {
        let refused = helper_with(&format!("init:{n}:eio"), None);
        assert!(
            refused.starts_with("failed: ") && refused.ends_with("left []; children []"),
            "at step {name}: {refused}"
        );
        assert!(
            refused.contains("input/output error"),
            "at step {name}: {refused}"
        );
    }
}
