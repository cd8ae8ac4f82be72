//! A disk that is really full. FAILURES: disk full (p#7800 m#10178 #32420).

use std::fs::File;
use std::io::Write;
use std::path::Path;

use store::{AdmitError, OpenOptions, Store};
use testkit::powercut::{FileSystem, enter_private_namespace, record};

use crate::model::{self, Op, State};

fn options() -> OpenOptions {
    OpenOptions {
        reserve: Some(64 << 20),
        ..crate::options("a")
    }
}

/// Writes until nothing more goes, not even a byte; nor a directory, where the file system can
/// still rename then. btrfs can't, whatever is given back to it: renames need room for metadata.
fn fill(dir: &Path, directories: bool) {
    for size in [1 << 20, 4096, 1] {
        let Ok(mut file) = File::create(dir.join(format!("filler-{size}"))) else {
            continue;
        };
        let piece = vec![7; size];
        while file.write_all(&piece).is_ok() {}
        let _full = file.sync_all();
    }
    for i in 0..if directories { 100_000 } else { 0 } {
        if std::fs::create_dir(dir.join(format!("filler-dir-{i}"))).is_err() {
            return;
        }
    }
    assert!(!directories, "the disk is never full");
}

fn removal_works(file_system: FileSystem) {
    testkit::needs_root();
    enter_private_namespace().unwrap();
    // the lab's disk serves as a small one of its own
    record(file_system, |dir, _| {
        let root = dir.join("root");
        let (store, _) = Store::open(&root, &options()).unwrap();
        let mut state = State::default();
        for op in model::history().iter().take(12) {
            model::run(&store, op).unwrap();
            state.apply(op);
        }
        let reserve = store.disk_usage().reserve;
        assert!(reserve > 1 << 20, "{reserve}");
        fill(dir, file_system != FileSystem::Btrfs);
        assert!(matches!(
            store.admit(16 << 20),
            Err(AdmitError::NoSpace { .. })
        ));
        let refused = Op::CreateVolume(9);
        let _may_fit = model::run(&store, &refused);
        // as after a restart on the full disk
        drop(store);
        let (store, _) = Store::open(&root, &options()).unwrap();
        for op in [
            Op::Remove(1),
            Op::Remove(2),
            Op::RemoveVolume(1),
            Op::RemoveVolume(2),
            Op::PurgeVolume(2),
        ] {
            model::run(&store, &op).unwrap_or_else(|e| panic!("{op:?} on a full disk: {e}"));
            state.apply(&op);
        }
        let _restored = store.volume_remove(&model::volume_name(9));
        let _purged = store.volume_purge(&model::volume_name(9));
        assert_eq!(State::of(&store), state);
        for i in 0..100_000 {
            if std::fs::remove_dir(dir.join(format!("filler-dir-{i}"))).is_err() {
                break;
            }
        }
        for size in [1 << 20, 4096, 1] {
            let _removed = std::fs::remove_file(dir.join(format!("filler-{size}")));
        }
        assert_eq!(store.maintain(), vec![]);
        store.close().unwrap();
        drop(store);
        // with room again the ballast is back
        let (store, _) = Store::open(&root, &options()).unwrap();
        assert_eq!(State::of(&store), state);
        assert!(store.disk_usage().reserve >= reserve);
        store.admit(16 << 20).unwrap();
    })
    .unwrap();
}

#[test]
fn removal_works_on_a_full_ext4() {
    removal_works(FileSystem::Ext4);
}

#[test]
fn removal_works_on_a_full_xfs() {
    removal_works(FileSystem::Xfs);
}

#[test]
fn removal_works_on_a_full_btrfs() {
    removal_works(FileSystem::Btrfs);
}
