//! Power cuts. FAILURES: corruption after power loss, zero-length files.

use testkit::powercut::{FileSystem, enter_private_namespace, record};

use crate::model;
use crate::open;

fn survives(file_system: FileSystem) {
    testkit::needs_root();
    enter_private_namespace().unwrap();
    let recording = record(file_system, |dir, marks| {
        let (store, _) = open(&dir.join("root"), "before");
        for op in model::history() {
            model::run(&store, &op).unwrap();
            marks.acknowledge(&format!("{op:?}"));
            store.maintain();
        }
    })
    .unwrap();
    let crashes = recording.crashes(90, 7);
    let outcome = recording
        .replay(&crashes, |dir, marks| {
            let root = dir.join("root");
            let (store, report) = open(&root, "after");
            if report.rebuilt.is_some() || !report.quarantined.is_empty() {
                return Err(format!("{report:?}"));
            }
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                model::check(&store, marks.len())
            }));
            found.unwrap_or_else(|_| Err("the state can't be read".to_owned()))
        })
        .unwrap();
    assert!(outcome.states >= 60, "{}", outcome.states);
    assert!(
        outcome.failures.is_empty(),
        "{} of {} states lost something:\n{}",
        outcome.failures.len(),
        outcome.states,
        outcome.failures.join("\n")
    );
}

#[test]
fn ext4_keeps_what_was_acknowledged() {
    survives(FileSystem::Ext4);
}

#[test]
fn xfs_keeps_what_was_acknowledged() {
    survives(FileSystem::Xfs);
}

#[test]
fn btrfs_keeps_what_was_acknowledged() {
    survives(FileSystem::Btrfs);
}
