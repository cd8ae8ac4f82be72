//! Random commands, with restarts, clean and not, and power-cycles in between, against the model.
//! FAILURES: volume loss.

use proptest::prelude::*;

use crate::model::{self, Kind, Op, State};
use crate::open;

#[derive(Debug, Clone)]
enum Step {
    Do(Op),
    /// Ends the store and opens it again: closed in order or not, in the same boot or another.
    Reopen {
        close: bool,
        reboot: bool,
    },
    Maintain,
}

fn op() -> impl Strategy<Value = Op> {
    let v = 0..3_u8;
    let n = 0..3_u8;
    prop_oneof![
        3 => v.clone().prop_map(Op::CreateVolume),
        2 => v.clone().prop_map(Op::RemoveVolume),
        2 => v.clone().prop_map(Op::RestoreVolume),
        1 => v.clone().prop_map(Op::PurgeVolume),
        2 => (v.clone(), n.clone()).prop_map(|(v, n)| Op::Write(v, n)),
        4 => (n.clone(), n.clone(), prop::collection::vec(v, 0..3))
            .prop_map(|(id, name, volumes)| Op::Create { id, name, volumes }),
        2 => (n.clone(), any::<u8>()).prop_map(|(n, d)| Op::Update(n, d)),
        2 => (n.clone(), n.clone()).prop_map(|(n, name)| Op::Rename(n, name)),
        3 => n.clone().prop_map(Op::Remove),
        1 => n.clone().prop_map(Op::Load),
        1 => (n.clone(), n.clone()).prop_map(|(n, tag)| Op::Tag(n, tag)),
        1 => (n.clone(), n.clone())
            .prop_map(|(container, image)| Op::Commit { container, image }),
        1 => (image_kind(), n).prop_map(|(kind, n)| Op::RemoveImage(kind, n)),
    ]
}

fn image_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Loaded),
        Just(Kind::Committed),
        Just(Kind::Tagged)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => op().prop_map(Step::Do),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(close, reboot)| Step::Reopen { close, reboot }),
        1 => Just(Step::Maintain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_does_what_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let dir = crate::scratch();
        let mut boot = 0;
        let mut store = open(dir.path(), "boot-0").0;
        let mut state = State::default();
        for step in steps {
            match &step {
                Step::Do(op) => {
                    let result = model::run(&store, op);
                    prop_assert_eq!(result.is_ok(), state.apply(op), "{:?}: {:?}", op, result);
                }
                Step::Reopen { close, reboot } => {
                    if *close {
                        store.close().unwrap();
                    }
                    drop(store);
                    boot += u32::from(*reboot);
                    let (opened, report) = open(dir.path(), &format!("boot-{boot}"));
                    prop_assert_eq!(report.unclean, !close && *reboot);
                    prop_assert!(report.quarantined.is_empty(), "{:?}", report.quarantined);
                    prop_assert!(report.rebuilt.is_none());
                    store = opened;
                }
                Step::Maintain => prop_assert_eq!(store.maintain(), vec![]),
            }
            prop_assert_eq!(State::of(&store), state.clone(), "after {:?}", step);
        }
        store.maintain();
        let leftovers = std::fs::read_dir(dir.path().join("trash/reap")).unwrap().count();
        prop_assert_eq!(leftovers, 0);
    }
}

#[test]
fn one_process_at_a_time_and_the_message_names_it() {
    let dir = crate::scratch();
    let (_store, _) = open(dir.path(), "a");
    let error = store::Store::open(dir.path(), &crate::options("a")).unwrap_err();
    let message = error.to_string();
    let pid = format!("process {}", std::process::id());
    assert!(message.contains(&pid), "{message}");
}

#[test]
fn a_name_is_claimed_by_one_of_many() {
    let dir = crate::scratch();
    let (store, _) = open(dir.path(), "a");
    let won: usize = std::thread::scope(|s| {
        let threads: Vec<_> = (0..8_u8)
            .map(|i| {
                let store = &store;
                let op = Op::Create {
                    id: i,
                    name: 1,
                    volumes: vec![],
                };
                s.spawn(move || usize::from(model::run(store, &op).is_ok()))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(State::of(&store).containers.len(), 1);
    let holder = store.containers().unwrap().remove(0).unwrap().id;
    let lost = Op::Create {
        id: 99,
        name: 1,
        volumes: vec![],
    };
    let message = model::run(&store, &lost).unwrap_err();
    assert!(message.contains(&holder), "{message}");
}

#[test]
fn an_ephemeral_container_lives_as_long_as_the_boot() {
    let dir = crate::scratch();
    let (store, _) = open(dir.path(), "a");
    let id = model::id(1);
    let volume = [model::volume_name(1)];
    model::run(&store, &Op::CreateVolume(1)).unwrap();
    let new = store::NewContainer {
        id: &id,
        name: "short",
        image: model::IMAGE,
        volumes: &volume,
        document: b"{}",
        ephemeral: true,
    };
    store.container_create(&new).unwrap();
    store.container_update(&id, b"running").unwrap();
    drop(store);
    let (store, _) = open(dir.path(), "a");
    assert_eq!(store.container(&id).unwrap().unwrap().document, b"running");
    assert!(store.volume_remove(&volume[0]).is_err(), "it is in use");
    drop(store);
    let (store, _) = open(dir.path(), "b");
    assert!(store.container(&id).unwrap().is_none());
    assert!(!store.container_dir(&id).exists());
    store.volume_remove(&volume[0]).unwrap();
}

#[test]
fn an_anonymous_volume_has_64_hex_digits_and_options_are_kept() {
    let dir = crate::scratch();
    let (store, _) = open(dir.path(), "a");
    let volume = store.volume_create(&store::NewVolume::default()).unwrap();
    assert!(volume.anonymous && volume.name.len() == 64);
    assert!(volume.name.bytes().all(|b| b.is_ascii_hexdigit()));
    let mut with = store::NewVolume::default();
    with.options.insert("o".to_owned(), "size=1g".to_owned());
    let made = store.volume_create(&with).unwrap();
    assert_eq!(store.volume(&made.name).unwrap().options, with.options);
    for bad in ["..", "a/b", "x", "-ab", ".ab"] {
        let new = store::NewVolume {
            name: bad.to_owned(),
            ..store::NewVolume::default()
        };
        store.volume_create(&new).unwrap_err();
    }
}

#[test]
fn the_trash_keeps_what_its_policy_says() {
    let dir = crate::scratch();
    let (store, _) = open(dir.path(), "a");
    for _ in 0..3 {
        model::run(&store, &Op::CreateVolume(1)).unwrap();
        model::run(&store, &Op::RemoveVolume(1)).unwrap();
    }
    let keep = |policy: store::TrashPolicy| store.volume_trash_prune(&policy).unwrap().len();
    assert_eq!(keep(store::TrashPolicy::default()), 0);
    let day = std::time::Duration::from_secs(86400);
    let policy = store::TrashPolicy {
        max_age: Some(day),
        max_count: Some(2),
        max_bytes: None,
    };
    assert_eq!(keep(policy), 1);
    let policy = store::TrashPolicy {
        max_bytes: Some(0),
        ..policy
    };
    assert_eq!(keep(policy), 2);
}

#[test]
fn undeletable_entries_cost_only_themselves() {
    testkit::needs_root();
    let dir = crate::scratch();
    let (store, _) = open(dir.path(), "a");
    for i in 1..=2 {
        let op = Op::Create {
            id: i,
            name: i,
            volumes: vec![],
        };
        model::run(&store, &op).unwrap();
    }
    let stuck = store.container_fs(&model::id(1)).upper.join("stuck");
    std::fs::write(&stuck, b"x").unwrap();
    // deeper than descriptors go
    let mut deep = store.container_fs(&model::id(2)).upper;
    for _ in 0..300 {
        deep.push("d");
        std::fs::create_dir(&deep).unwrap();
    }
    let file = std::fs::File::open(&stuck).unwrap();
    rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE).unwrap();
    for i in 1..=2 {
        model::run(&store, &Op::Remove(i)).unwrap();
    }
    assert_eq!(store.maintain(), vec![]);
    let left = std::fs::read_dir(dir.path().join("trash/reap")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn the_reaper_never_enters_a_mount() {
    testkit::needs_root();
    testkit::powercut::enter_private_namespace().unwrap();
    let dir = crate::scratch();
    let precious = crate::scratch();
    std::fs::write(precious.path().join("data"), b"mine").unwrap();
    let (store, _) = open(dir.path(), "a");
    let op = Op::Create {
        id: 1,
        name: 1,
        volumes: vec![],
    };
    model::run(&store, &op).unwrap();
    let at = store.container_fs(&model::id(1)).upper.join("bind");
    std::fs::create_dir(&at).unwrap();
    rustix::mount::mount_bind(precious.path(), &at).unwrap();
    model::run(&store, &Op::Remove(1)).unwrap();
    let left = store.maintain();
    assert!(!left.is_empty(), "a busy entry is reported");
    assert_eq!(
        std::fs::read(precious.path().join("data")).unwrap(),
        b"mine"
    );
    for left in &left {
        // whatever is reported first is the mount point or what is above it
        if left.path.ends_with("bind") {
            rustix::mount::unmount(&left.path, rustix::mount::UnmountFlags::empty()).unwrap();
        }
    }
    drop(store);
    let (store, _) = open(dir.path(), "a");
    assert_eq!(store.maintain(), vec![]);
}
