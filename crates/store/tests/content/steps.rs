//! Steps of builds: found again, kept within a limit, and what stays of them.
//! FAILURES "Build cache grows past its cap".

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use store::images::steps::{Step, StepLayer};
use store::pick::{self, Choice, Found, Picked, Rules};
use store::{OpenOptions, RemoveOptions, Store};

fn open(root: &std::path::Path) -> Store {
    let options = OpenOptions {
        manual: true,
        ..OpenOptions::default()
    };
    Store::open(root, &options).expect("it opens").0
}

/// A step that adds a file which does not compress.
fn step(store: &Store, parent: Option<&str>, key: &str, bytes: usize) -> String {
    let mut state = key.bytes().fold(1_u64, |s, b| s * 31 + u64::from(b));
    let noise = (0..bytes).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    });
    let mut picked = Picked::default();
    picked.file(key.as_bytes(), noise.collect(), 0o644, (0, 0));
    let step = Step {
        parent: parent.map(str::to_owned),
        key: key.to_owned(),
        ..Step::default()
    };
    let made = store.build_step(step, &StepLayer::Files(&picked));
    made.expect("a step")
}

const SIZE: usize = 100_000;

#[test]
fn the_cache_goes_back_to_its_limit() {
    let root = tempfile::tempdir().expect("a directory");
    let store = open(root.path());
    let mut images = Vec::new();
    let mut parent = None;
    for key in ["a", "b", "c", "d"] {
        let id = step(&store, parent.as_deref(), key, SIZE);
        parent = Some(id.clone());
        images.push(id);
    }
    let other = step(&store, None, "other", SIZE);
    assert!(store.image(&images[0]).expect("there").intermediate);
    // the build ended with the last: all layers below are its own
    store
        .build_result(&images[3], &["done:1".to_owned()])
        .expect("named");
    assert!(!store.image("done:1").expect("there").intermediate);
    let own = |store: &Store| -> u64 {
        let steps = store.cached_steps().expect("a list");
        steps.iter().filter(|s| !s.shared).map(|s| s.size).sum()
    };
    let size = own(&store);
    assert!(
        (2 * SIZE as u64..3 * SIZE as u64).contains(&size),
        "{size}: the file and its blob"
    );
    let all = |_: &_| true;
    let spare = BTreeSet::from([other.clone()]);
    store.prune_steps(1, &spare, &all).expect("pruned");
    assert!(
        store.cached_step("other").expect("a look").is_some(),
        "a build stands on it"
    );
    let pruned = store
        .prune_steps(1, &BTreeSet::new(), &all)
        .expect("pruned");
    assert_eq!(
        (pruned.keys, pruned.freed),
        (vec!["other".to_owned()], size)
    );
    assert!(store.image(&other).is_err() && own(&store) == 0);
    // the named image has all it needs
    assert_eq!(
        store.verify_image("done:1").expect("verified"),
        Vec::<String>::new()
    );
    assert!(store.rootfs_layers("done:1").expect("layers").len() == 4);
    store
        .image_remove("done:1", &RemoveOptions::default())
        .expect("removed");
    assert!(store.cached_step("d").expect("a look").is_none());
}

#[test]
fn what_was_used_last_goes_last_and_a_lost_blob_is_no_hit() {
    let root = tempfile::tempdir().expect("a directory");
    let store = open(root.path());
    for key in ["a", "b", "c"] {
        step(&store, None, key, SIZE);
    }
    assert!(store.cached_step("a").expect("a look").is_some());
    let steps = store.cached_steps().expect("a list");
    let order: Vec<&str> = steps.iter().map(|s| s.key.as_str()).collect();
    assert_eq!(order, ["b", "c", "a"]);
    let keep = steps[0].size * 2 + 1;
    let pruned = store.prune_steps(keep, &BTreeSet::new(), &|_| true);
    assert_eq!(pruned.expect("pruned").keys, ["b"]);
    // the same key made anew: found, and what it was before is nobody's but the cache's
    let image = store.cached_step("c").expect("a look").expect("there");
    let blob = image.layers[0]
        .blob
        .trim_start_matches("sha256:")
        .to_owned();
    let path = root
        .path()
        .join("blobs/sha256")
        .join(&blob[..2])
        .join(&blob);
    std::fs::remove_file(path).expect("removed");
    assert!(store.cached_step("c").expect("a look").is_none());
    let again = step(&store, None, "c", SIZE);
    assert!(store.cached_step("c").expect("a look").is_some());
    let listed = store.images().expect("a list");
    assert!(listed.iter().all(|i| i.intermediate), "{again}");
}

#[test]
fn steps_are_found_after_a_restart_and_staging_is_empty() {
    let root = tempfile::tempdir().expect("a directory");
    let store = open(root.path());
    let id = step(&store, None, "a", 10);
    let work = store.build_work().expect("a directory");
    drop(store);
    let store = open(root.path());
    assert!(!work.exists());
    let found = store.cached_step("a").expect("a look").expect("there");
    assert_eq!(found.id, id);
}

#[test]
fn paths_stay_inside_their_root() {
    use std::os::unix::fs::symlink;
    let top = tempfile::tempdir().expect("a directory");
    let root = top.path().join("root");
    std::fs::create_dir_all(root.join("real/in")).expect("made");
    std::fs::write(top.path().join("secret"), "x").expect("written");
    symlink("/real", root.join("abs")).expect("linked");
    symlink("../../../../secret", root.join("out")).expect("linked");
    symlink("loop", root.join("loop")).expect("linked");
    let dir = std::fs::File::open(&root).expect("open");
    let at = |path: &str| {
        let at = pick::resolve(Some(dir.as_fd()), path.as_bytes());
        at.map(|r| {
            (
                String::from_utf8(r.path).expect("text"),
                r.found,
                r.missing.len(),
            )
        })
    };
    let found = |path: &str| at(path).expect("resolved");
    assert_eq!(found("abs/in"), ("real/in".into(), Found::Directory, 0));
    assert_eq!(
        found("abs/new/deep/x"),
        ("real/new/deep/x".into(), Found::Nothing, 2)
    );
    assert_eq!(found("out"), ("secret".into(), Found::Nothing, 0));
    assert_eq!(found("../../secret").1, Found::Nothing);
    assert_eq!(found("abs/in/../.."), (String::new(), Found::Directory, 0));
    assert!(at("loop").is_err());
    // the digest is of content, mode and names; not of time
    let digest = |mode: u32| {
        let mut picked = Picked::default();
        let index = picked.root(dir.as_fd());
        let rules = Rules {
            choose: &|path| {
                if path == b"loop" {
                    Choice::Leave
                } else {
                    Choice::Take
                }
            },
            owner: Some((0, 0)),
            mode: &move |_, _| mode,
        };
        picked.take(index, b"", b"", true, &rules).expect("picked");
        picked.digest().expect("read")
    };
    let first = digest(0o644);
    std::fs::File::open(root.join("real"))
        .and_then(|f| f.set_modified(std::time::SystemTime::UNIX_EPOCH))
        .expect("dated");
    assert_eq!(first, digest(0o644));
    assert_ne!(first, digest(0o600));
}
