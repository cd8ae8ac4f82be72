//! Random trees through writer, reader and extractor; random damage to valid archives.

use std::collections::BTreeMap;

use proptest::prelude::*;
use store::ImportRequest;
use store::progress::NoProgress;
use store::tar::{Entry, Kind};

use crate::kit::*;

#[derive(Debug, Clone)]
struct Plant {
    parts: Vec<u8>,
    kind: u8,
    mode: u32,
    owner: (u16, u32),
    mtime: (u32, u32),
    data: Vec<u8>,
    xattr: Option<Vec<u8>>,
}

fn plant() -> impl Strategy<Value = Plant> {
    (
        prop::collection::vec(0_u8..5, 1..5),
        0_u8..6,
        0_u32..0o10000,
        (any::<u16>(), any::<u32>()),
        (any::<u32>(), 0_u32..1_000_000_000),
        prop::collection::vec(any::<u8>(), 0..5000),
        prop::option::of(prop::collection::vec(any::<u8>(), 1..50)),
    )
        .prop_map(|(parts, kind, mode, owner, mtime, data, xattr)| Plant {
            parts,
            kind,
            mode,
            owner,
            mtime,
            data,
            xattr,
        })
}

/// Entries that make sense together, in the order in which they were drawn.
fn grow(plants: &[Plant]) -> Vec<(Entry, Vec<u8>)> {
    let mut kinds: BTreeMap<Vec<u8>, Kind> = BTreeMap::new();
    let mut list = Vec::new();
    for p in plants {
        let names: Vec<Vec<u8>> = p.parts.iter().map(|n| vec![b'a' + n, 0xf0 + n]).collect();
        for depth in 1..names.len() {
            let path = names[..depth].join(&b'/');
            if kinds.get(&path).is_some_and(|k| *k != Kind::Directory) {
                break;
            }
            if !kinds.contains_key(&path) {
                kinds.insert(path.clone(), Kind::Directory);
                list.push((Entry::new(Kind::Directory, &path, 0o700), Vec::new()));
            }
        }
        let blocked =
            (1..names.len()).any(|d| kinds.get(&names[..d].join(&b'/')) != Some(&Kind::Directory));
        let path = names.join(&b'/');
        if blocked || kinds.contains_key(&path) {
            continue;
        }
        let files: Vec<&Vec<u8>> = kinds
            .iter()
            .filter(|(_, k)| **k == Kind::File)
            .map(|(p, _)| p)
            .collect();
        let kind = match p.kind {
            0 => Kind::Directory,
            1 => Kind::Symlink,
            2 if !files.is_empty() => Kind::HardLink,
            3 => Kind::Fifo,
            4 => Kind::CharDevice,
            _ => Kind::File,
        };
        let mut e = Entry::new(kind, &path, p.mode);
        (e.uid, e.gid) = (p.owner.0.into(), p.owner.1.min(u32::MAX - 1));
        e.mtime = store::tar::Time {
            sec: p.mtime.0.into(),
            nsec: p.mtime.1,
        };
        let mut data = Vec::new();
        match kind {
            Kind::Symlink => e.link = b"../dangling".to_vec(),
            Kind::HardLink => e.link = files[p.data.len() % files.len()].clone(),
            Kind::CharDevice => (e.dev_major, e.dev_minor) = (1, 3),
            Kind::File => {
                data.clone_from(&p.data);
                e.size = data.len() as u64;
            }
            _ => {}
        }
        if matches!(kind, Kind::File | Kind::Directory) {
            e.xattrs = p
                .xattr
                .iter()
                .map(|v| (b"user.x".to_vec(), v.clone()))
                .collect();
        }
        kinds.insert(path, kind);
        list.push((e, data));
    }
    list
}

/// What the entries should have made, as far as they say.
fn check(list: &[(Entry, Vec<u8>)], tree: &BTreeMap<Vec<u8>, Seen>) -> Result<(), TestCaseError> {
    for (e, data) in list {
        let seen = tree.get(&e.path);
        prop_assert!(seen.is_some(), "{} is missing", e.name());
        let seen = seen.expect("checked above");
        if e.kind == Kind::HardLink {
            let first = &tree[&e.link];
            prop_assert_eq!(&seen.sum, &first.sum);
            prop_assert!(seen.same_as.is_some() || first.same_as.is_some());
            continue;
        }
        prop_assert_eq!(seen.owner, (e.uid, e.gid));
        prop_assert_eq!(
            seen.mtime,
            (e.mtime.sec, i64::from(e.mtime.nsec)),
            "{}",
            e.name()
        );
        if e.kind == Kind::Symlink {
            prop_assert_eq!(&seen.link, &e.link);
        } else {
            prop_assert_eq!(seen.mode, e.mode, "{}", e.name());
        }
        if e.kind == Kind::File {
            prop_assert_eq!(&seen.sum, &digest(data)[7..]);
        }
        let wanted: BTreeMap<_, _> = e.xattrs.iter().cloned().collect();
        prop_assert_eq!(&seen.xattrs, &wanted);
    }
    prop_assert_eq!(tree.len(), list.len() + 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_are_unpacked_as_they_are(plants in prop::collection::vec(plant(), 0..25)) {
        let lab = Lab::new();
        let list = grow(&plants);
        let archive = tar(&list);
        let request = ImportRequest { reference: Some("r:1".into()), ..ImportRequest::default() };
        let id = lab.store.import(&mut &archive[..], &request, &NoProgress)
            .map_err(|e| TestCaseError::fail(chain(&e)))?;
        check(&list, &snapshot(&lab.top(&id)))?;
        let wrong = lab.store.verify_image(&id).map_err(|e| TestCaseError::fail(chain(&e)))?;
        prop_assert!(wrong.is_empty(), "{wrong:?}");
        let other = Lab::new();
        other.load(&save(&lab.store, &["r:1"])).map_err(TestCaseError::fail)?;
        prop_assert_eq!(other.store.image("r:1").expect("loaded").id, id);
        prop_assert_eq!(snapshot(&other.top("r:1")), snapshot(&lab.top("r:1")));
    }

    /// Whatever the damage: refused and nothing left, or taken; never a panic, nothing outside.
    #[test]
    fn damaged_archives_do_no_harm(
        plants in prop::collection::vec(plant(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        as_import in any::<bool>(),
        repair in any::<bool>(),
    ) {
        let lab = Lab::new();
        let layer = tar(&grow(&plants));
        let mut bytes = if as_import { layer } else { docker_archive("d:1", &[gzip(&layer)]) };
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if repair {
            fix_checksums(&mut bytes);
        }
        let taken = if as_import {
            lab.store.import(&mut &bytes[..], &ImportRequest::default(), &NoProgress).is_ok()
        } else {
            lab.load(&bytes).is_ok()
        };
        if !taken {
            lab.assert_nothing_left();
        }
        let names: Vec<_> = std::fs::read_dir(lab.dir.path()).expect("readable")
            .map(|e| e.expect("readable").file_name()).collect();
        prop_assert_eq!(names, ["root"]);
    }
}

fn fix_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
