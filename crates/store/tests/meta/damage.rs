//! Damaged files, and databases of other versions.
//! FAILURES: bad config or stored state stops the daemon; no repair possible; upgrade.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use store::{FsckReport, OpenError, Remedy, Store};
use testkit::image::{Image, Node};

use crate::model::{self, Op, State};
use crate::open;

/// A store with a bit of everything; what it shows.
fn furnish(root: &Path) -> State {
    let (store, _) = open(root, "a");
    load(&store, b"content");
    for op in model::history().iter().take(13) {
        model::run(&store, op).unwrap();
    }
    store.maintain();
    let state = State::of(&store);
    assert!(!state.volumes.is_empty() && !state.containers.is_empty() && !state.trash.is_empty());
    state
}

fn load(store: &Store, content: &[u8]) -> String {
    let file = |name: &str, content: &[u8]| (name.to_owned(), Node::File(content.to_vec(), 0o644));
    let archive = Image::of(vec![
        ("etc".to_owned(), Node::Directory(0o755)),
        file("etc/one", content),
        file("etc/two", &[9; 100_000]),
    ])
    .layer(vec![file("etc/three", b"upper")])
    .named("plimsoll/test:1")
    .archive();
    let loaded = store.load(&mut &*archive, &store::progress::NoProgress);
    loaded.unwrap()[0].id.clone()
}

type Damage = (&'static str, fn(&Path));

const DAMAGES: &[Damage] = &[
    ("is missing", |root| {
        fs::remove_file(root.join("meta.db")).unwrap();
        fs::remove_file(root.join("meta.db-wal")).unwrap();
    }),
    ("is garbage", |root| {
        fold_in(root);
        fs::write(root.join("meta.db"), vec![0xa5; 70_000]).unwrap();
    }),
    ("is empty, without its log", |root| {
        fs::write(root.join("meta.db"), b"").unwrap();
        fs::write(root.join("meta.db-wal"), b"").unwrap();
    }),
    ("is truncated", |root| {
        fold_in(root);
        let file = fs::File::options()
            .write(true)
            .open(root.join("meta.db"))
            .unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("has a page overwritten", |root| {
        fold_in(root);
        let mut bytes = fs::read(root.join("meta.db")).unwrap();
        for page in [2, 5, 9] {
            bytes[page * 4096..(page + 1) * 4096].fill(0x5a);
        }
        fs::write(root.join("meta.db"), bytes).unwrap();
    }),
    ("is a directory", |root| {
        fs::remove_file(root.join("meta.db")).unwrap();
        fs::create_dir(root.join("meta.db")).unwrap();
    }),
    ("lost its tables", |root| {
        let db = Connection::open(root.join("meta.db")).unwrap();
        db.execute_batch("DROP TABLE format").unwrap();
    }),
    ("is garbage, and its log too", |root| {
        fs::write(root.join("meta.db"), b"SQLite format 3\0 and then nothing").unwrap();
        fs::write(root.join("meta.db-wal"), vec![0xff; 9000]).unwrap();
    }),
];

/// Moves the log into the file: a whole log would make up for a damaged file.
fn fold_in(root: &Path) {
    let db = Connection::open(root.join("meta.db")).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

#[test]
fn a_damaged_index_is_set_aside_and_rebuilt_from_files() {
    for (what, damage) in DAMAGES {
        let dir = crate::scratch();
        let state = furnish(dir.path());
        damage(dir.path());
        let (store, report) = open(dir.path(), "a");
        assert!(report.rebuilt.is_some(), "meta.db {what}: {report:?}");
        assert_eq!(State::of(&store), state, "meta.db {what}");
        let images = store.images().unwrap();
        let found = images.iter().any(|i| i.names == ["plimsoll/test:1"]);
        assert!(found, "meta.db {what}: {images:?}");
        assert_eq!(store.rootfs_layers("plimsoll/test:1").unwrap().len(), 2);
        let report = store.fsck(false).unwrap();
        let bad = report.problems.iter().filter(|p| p.kind != "orphan");
        assert_eq!(bad.count(), 0, "meta.db {what}: {report}");
        drop(store);
        let (store, report) = open(dir.path(), "b");
        assert!(report.rebuilt.is_none() && report.quarantined.is_empty());
        assert_eq!(State::of(&store), state);
    }
}

#[test]
fn one_damaged_record_costs_one_container() {
    for bytes in [&b""[..], b"{\"id\": 7}", &[0xff; 300]] {
        let dir = crate::scratch();
        let mut state = furnish(dir.path());
        let hurt = model::id(2);
        let record = dir.path().join(format!("containers/{hurt}/record.json"));
        fs::write(&record, bytes).unwrap();
        // the row still knows: nothing is lost, and the file is made again
        let (store, report) = open(dir.path(), "a");
        assert!(report.quarantined.is_empty() && report.rebuilt.is_none());
        assert_eq!(State::of(&store), state);
        store.maintain();
        assert!(fs::read(&record).unwrap().len() > 50);
        drop(store);
        // with the index gone too, that container alone is set aside
        fs::write(&record, bytes).unwrap();
        fold_in(dir.path());
        fs::write(dir.path().join("meta.db"), b"no database").unwrap();
        let (store, report) = open(dir.path(), "a");
        assert!(state.containers.remove(&hurt).is_some());
        assert_eq!(State::of(&store), state);
        let aside = report.quarantined.iter().find(|q| q.kind == "container");
        let aside = aside.expect("it is reported");
        assert!(aside.path.join("upper").is_dir(), "{aside:?}");
        assert!(aside.reason.contains("record.json"), "{aside:?}");
    }
}

#[test]
fn a_damaged_volume_record_costs_no_data() {
    let dir = crate::scratch();
    let state = furnish(dir.path());
    let record = dir.path().join("volumes/volume-1/volume.json");
    fs::write(&record, b"").unwrap();
    let (store, _) = open(dir.path(), "a");
    assert_eq!(State::of(&store), state);
    let report = store.fsck(true).unwrap();
    assert!(report.is_whole() && report.problems.len() == 1, "{report}");
    assert!(store.fsck(false).unwrap().problems.is_empty());
    drop(store);
    // both damaged: the directory is still a volume of that name
    fs::write(&record, b"").unwrap();
    fold_in(dir.path());
    fs::write(dir.path().join("meta.db"), b"no database").unwrap();
    let (store, _) = open(dir.path(), "a");
    assert_eq!(State::of(&store), state);
}

#[test]
fn fsck_finds_a_flipped_byte_and_heals_the_layer() {
    testkit::needs_root();
    let dir = crate::scratch();
    furnish(dir.path());
    let (store, _) = open(dir.path(), "a");
    assert!(store.fsck(false).unwrap().problems.is_empty());
    let layers = store.rootfs_layers("plimsoll/test:1").unwrap();
    let victim = layers[1].join("etc/two");
    let mut bytes = fs::read(&victim).unwrap();
    bytes[50_000] ^= 1;
    let times = fs::metadata(&victim).unwrap();
    fs::write(&victim, &bytes).unwrap();
    let file = fs::File::options().write(true).open(&victim).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
    let report = store.fsck(false).unwrap();
    assert_eq!(kinds(&report), ["layer"], "{report}");
    assert_eq!(report.problems[0].remedy, Remedy::Repairable);
    assert!(report.problems[0].what.contains("etc/two"), "{report}");
    let scrubbed = scrub(&store);
    assert_eq!(scrubbed, ["layer"]);
    let report = store.fsck(true).unwrap();
    assert_eq!(report.problems[0].remedy, Remedy::Repaired, "{report}");
    assert!(store.fsck(false).unwrap().problems.is_empty());
    let again = store.rootfs_layers("plimsoll/test:1").unwrap();
    assert_eq!(fs::read(again[1].join("etc/two")).unwrap(), [9; 100_000]);
    // as JSON for machines, as lines for people
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["problems"][0]["remedy"]["status"], "repaired");
    assert!(report.to_string().contains("all repaired"));
}

fn scrub(store: &Store) -> Vec<&'static str> {
    let mut cursor = None;
    let mut found = Vec::new();
    while let Some(step) = store.scrub_next(cursor.as_deref()).unwrap() {
        found.extend(step.problem.map(|p| p.kind));
        cursor = Some(step.cursor);
    }
    found
}

fn kinds(report: &FsckReport) -> Vec<&'static str> {
    report.problems.iter().map(|p| p.kind).collect()
}

#[test]
fn fsck_finds_a_damaged_blob_and_a_load_heals_it() {
    let dir = crate::scratch();
    furnish(dir.path());
    let (store, _) = open(dir.path(), "a");
    let image = store.image("plimsoll/test:1").unwrap();
    let hex = &image.layers[0].blob["sha256:".len()..];
    let blob = dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2]));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 0x10;
    fs::write(&blob, bytes).unwrap();
    let report = store.fsck(true).unwrap();
    assert_eq!(kinds(&report), ["blob"], "{report}");
    assert!(matches!(report.problems[0].remedy, Remedy::Lost(_)));
    assert!(!report.is_whole());
    load(&store, b"content");
    assert!(store.fsck(false).unwrap().problems.is_empty());
}

#[test]
fn what_no_image_needs_goes_and_what_is_leased_stays() {
    let dir = crate::scratch();
    furnish(dir.path());
    let (store, _) = open(dir.path(), "a");
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    for c in ['a', 'b'] {
        let hex = c.to_string().repeat(64);
        fs::create_dir_all(dir.path().join(format!("blobs/sha256/{c}{c}"))).unwrap();
        fs::write(dir.path().join(format!("blobs/sha256/{c}{c}/{hex}")), b"x").unwrap();
        fs::create_dir_all(dir.path().join(format!("layers/{hex}/fs"))).unwrap();
    }
    let lease = store.lease();
    lease.hold(store::Resource::Blob(digest('a')));
    lease.hold(store::Resource::Layer(digest('a')));
    let gone = store.gc().unwrap();
    assert_eq!(
        (gone.blobs, gone.layers),
        (vec![digest('b')], vec![digest('b')])
    );
    drop(lease);
    assert_eq!(kinds(&store.fsck(false).unwrap()), ["orphan", "orphan"]);
    let gone = store.gc().unwrap();
    assert_eq!(
        (gone.blobs, gone.layers),
        (vec![digest('a')], vec![digest('a')])
    );
    assert!(store.fsck(false).unwrap().problems.is_empty());
    assert_eq!(store.rootfs_layers("plimsoll/test:1").unwrap().len(), 2);
}

/// The database as version 1 wrote it, byte for byte in SQL. A later version must open this file
/// for as long as it says it reads version 1.
const VERSION_1: &str = include_str!("meta-v1.sql");

#[test]
fn a_database_of_version_1_opens() {
    let dir = crate::scratch();
    drop(open(dir.path(), "a"));
    for file in ["meta.db", "meta.db-wal"] {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    let db = Connection::open(dir.path().join("meta.db")).unwrap();
    db.execute_batch(VERSION_1).unwrap();
    drop(db);
    fs::create_dir_all(dir.path().join("volumes/data/_data")).unwrap();
    let (store, report) = open(dir.path(), "a");
    assert!(report.rebuilt.is_none(), "{report:?}");
    let row = store.container(&model::id(1)).unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.generation), ("web", 3));
    assert_eq!(row.volumes, ["data"]);
    assert_eq!(store.volume("data").unwrap().labels["tier"], "db");
    store.container_update(&row.id, b"{}").unwrap();
    store.container_remove(&row.id).unwrap();
    store.volume_remove("data").unwrap();
}

/// What a later version may do while it says that version 1 can read it.
const NEWER: &str = "
    UPDATE format SET value = 3 WHERE key = 'schema';
    INSERT INTO features (name, incompatible) VALUES ('colours', 0);
    ALTER TABLE containers ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE volumes ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE volume_trash ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE container_volumes ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE images ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE image_names ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE image_layers ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    ALTER TABLE layers ADD COLUMN colour TEXT NOT NULL DEFAULT 'red';
    CREATE TABLE colours (name TEXT PRIMARY KEY) STRICT;
    UPDATE containers SET colour = 'blue';
";

#[test]
fn a_newer_database_that_we_can_read_is_used_and_kept_as_it_is() {
    let dir = crate::scratch();
    let mut state = furnish(dir.path());
    let db = Connection::open(dir.path().join("meta.db")).unwrap();
    db.execute_batch(NEWER).unwrap();
    drop(db);
    let (store, report) = open(dir.path(), "a");
    assert!(report.rebuilt.is_none(), "{report:?}");
    assert_eq!(State::of(&store), state);
    for op in [
        Op::Update(1, 5),
        Op::CreateVolume(7),
        Op::Create {
            id: 9,
            name: 9,
            volumes: vec![7],
        },
        Op::RestoreVolume(2),
        Op::RemoveVolume(2),
        Op::Remove(2),
    ] {
        assert!(state.apply(&op));
        model::run(&store, &op).unwrap();
    }
    load(&store, b"content");
    assert_eq!(State::of(&store), state);
    drop(store);
    // the newer version finds its own again
    let db = Connection::open(dir.path().join("meta.db")).unwrap();
    let colour: String = db
        .query_row(
            "SELECT colour FROM containers WHERE id = ?1",
            [model::id(1)],
            |r| r.get(0),
        )
        .unwrap();
    let schema: i64 = db
        .query_row("SELECT value FROM format WHERE key = 'schema'", [], |r| {
            r.get(0)
        })
        .unwrap();
    assert_eq!((colour.as_str(), schema), ("blue", 3));
}

#[test]
fn a_newer_database_that_we_cannot_read_is_refused_by_name_and_left_alone() {
    for (change, named) in [
        (
            "INSERT INTO features (name, incompatible) VALUES ('sharded', 1)",
            "feature sharded",
        ),
        (
            "UPDATE format SET value = 9 WHERE key = 'readable-from'",
            "schema 2 (readable from schema 9",
        ),
    ] {
        let dir = crate::scratch();
        let state = furnish(dir.path());
        let db = Connection::open(dir.path().join("meta.db")).unwrap();
        db.execute_batch(change).unwrap();
        drop(db);
        let error = Store::open(dir.path(), &crate::options("a")).unwrap_err();
        assert!(matches!(error, OpenError::TooNew { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
        let db = Connection::open(dir.path().join("meta.db")).unwrap();
        db.execute_batch(
            "DELETE FROM features; UPDATE format SET value = 1 WHERE key = 'readable-from'",
        )
        .unwrap();
        drop(db);
        let (store, report) = open(dir.path(), "a");
        assert!(report.rebuilt.is_none());
        assert_eq!(State::of(&store), state);
    }
}
