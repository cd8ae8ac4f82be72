//! A process killed, or an effect failed, at every step of every operation.
//! FAILURES: orphan layers, "dead" containers; disk full; volume loss.

use std::path::Path;
use std::process::{Command, Output};

use crate::model::{self, State};
use crate::open;

const CHILD: &str = "STORE_TEST_CHILD";

/// Not a test of its own: what the tests below start as another process.
#[test]
fn child() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    sys::fault::enter("store");
    let opened = store::Store::open(Path::new(&root), &crate::options("a"));
    let store = match opened {
        Ok((store, _)) => store,
        Err(error) => {
            println!("refused {}", crate::chain(&error));
            return;
        }
    };
    for op in model::history() {
        match model::run(&store, &op) {
            Ok(()) => println!("acknowledged"),
            Err(error) => {
                println!("refused {error}");
                // the store must go on
                let after = model::Op::CreateVolume(200);
                println!("then {:?}", model::run(&store, &after));
                return;
            }
        }
        store.maintain();
    }
    match store.close() {
        Ok(()) => println!("closed"),
        Err(error) => println!("refused {}", crate::chain(&error)),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test starts itself again")]
fn run_child(root: &Path, fault: &str, log: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--nocapture"])
        .env(CHILD, root)
        .env("PLIMSOLL_FAULT", fault)
        .env("PLIMSOLL_FAULT_LOG", log)
        .output()
        .unwrap()
}

/// Number and name of each step of the whole history.
fn steps() -> Vec<(u64, String)> {
    let dir = crate::scratch();
    let log = dir.path().join("log");
    let output = run_child(&dir.path().join("root"), "", &log);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("closed"), "{text}");
    let steps: Vec<(u64, String)> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|l| {
            let mut words = l.split(' ').skip(1);
            let number = words.next().unwrap().parse().unwrap();
            (number, words.next().unwrap().to_owned())
        })
        .collect();
    assert!(steps.len() > 100, "only {} steps", steps.len());
    steps
}

fn every_step(action: &str) {
    let mut failures = Vec::new();
    let steps = steps();
    for (number, name) in &steps {
        let dir = crate::scratch();
        let root = dir.path().join("root");
        let fault = format!("store:{number}:{action}");
        let log = dir.path().join("log");
        let output = run_child(&root, &fault, &log);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = |what: &str| text.matches(what).count();
        // digests differ from run to run, and two blobs may share a directory that is synced once:
        // a history can be a step shorter than the one that was counted
        let reached =
            || std::fs::read_to_string(&log).is_ok_and(|l| l.lines().count() as u64 >= *number);
        if action == "kill" && told("closed") > 0 && reached() {
            failures.push(format!("{number} {name}: nobody was killed"));
        }
        if let Err(what) = judge(&root, told("acknowledged"), &text) {
            failures.push(format!("{action} at {number} ({name}): {what}\n{text}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} steps:\n{}",
        failures.len(),
        steps.len(),
        failures.join("\n")
    );
}

fn judge(root: &Path, acknowledged: usize, text: &str) -> Result<(), String> {
    let (store, report) = open(root, "a");
    if report.rebuilt.is_some() || !report.quarantined.is_empty() {
        return Err(format!("{report:?}"));
    }
    let went_on = text.contains("then Ok");
    if text.contains("then") && !went_on {
        return Err("the store doesn't go on after an error".to_owned());
    }
    if went_on {
        // take the probe away again, without a trace
        let probe = model::volume_name(200);
        store.volume_remove(&probe).map_err(|e| crate::chain(&e))?;
        store.volume_purge(&probe).map_err(|e| crate::chain(&e))?;
    }
    model::check(&store, acknowledged)?;
    for (dir, what) in [("staging", "work in flight"), ("trash/reap", "trash")] {
        store.maintain();
        let left = std::fs::read_dir(root.join(dir)).map_err(|e| e.to_string())?;
        if left.count() > 0 {
            return Err(format!("{what} is left"));
        }
    }
    let state = State::of(&store);
    let dirs = std::fs::read_dir(root.join("containers")).map_err(|e| e.to_string())?;
    if dirs.count() != state.containers.len() {
        return Err("a container's directory is left".to_owned());
    }
    Ok(())
}

#[test]
fn killed_at_every_step() {
    every_step("kill");
}

#[test]
fn enospc_at_every_step() {
    every_step("enospc");
}

#[test]
fn eio_at_every_step() {
    every_step("eio");
}
