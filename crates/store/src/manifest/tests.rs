use proptest::prelude::*;

use super::*;

fn sample() -> Manifest {
    let mut root = Record::new(b"", Node::Directory);
    root.mode = 0o755;
    let mut dir = Record::new(b"a dir", Node::Directory);
    (dir.mode, dir.uid, dir.gid) = (0o1777, 1, 2);
    dir.mtime = Time { sec: -1, nsec: 5 };
    dir.xattrs = vec![(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
    let mut file = Record::new(b"a dir/f=%\xff", Node::File);
    (file.mode, file.size) = (0o4755, 3);
    file.content = Some(Content::Plain(Sha256::digest(b"abc").into()));
    file.xattrs = vec![(b"user.empty".to_vec(), Vec::new())];
    let mut hard = Record::new(b"hard", Node::HardLink);
    hard.link = file.path.clone();
    let mut link = Record::new(b"link", Node::Symlink);
    (link.mode, link.link) = (0o777, b"/to there".to_vec());
    let mut device = Record::new(b"null", Node::CharDevice);
    (device.mode, device.dev) = (0o666, (1, 3));
    let mut sparse = Record::new(b"sparse", Node::File);
    sparse.size = 1 << 40;
    sparse.content = Some(Content::Sparse(SparseHasher::new().finish()));
    Manifest {
        diff: format!("sha256:{}", "ab".repeat(32)),
        records: vec![
            root,
            dir,
            file,
            hard,
            link,
            device,
            sparse,
            Record::new(b"w", Node::Whiteout),
        ],
    }
}

/// The format on disk: a change of one byte here is a change of the format, and needs a feature.
const GOLDEN: &str = "\
plimsoll-layer-manifest 1
features
diff sha256:abababababababababababababababababababababababababababababababab
d 0755 0 0 0 0.000000000 - .
d 1777 1 2 0 -1.000000005 - a%20dir x:trusted.overlay.opaque=y
f 4755 0 0 3 0.000000000 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad a%20dir/f%3d%25%ff x:user.empty=
h 0000 0 0 0 0.000000000 - hard link=a%20dir/f%3d%25%ff
l 0777 0 0 0 0.000000000 - link link=/to%20there
c 0666 0 0 0 0.000000000 - null dev=1:3
f 0000 0 0 1099511627776 0.000000000 se3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 sparse
w 0000 0 0 0 0.000000000 - w
";

#[test]
fn the_encoding_is_as_documented() {
    let bytes = sample().encode();
    let text = String::from_utf8(bytes.clone()).expect("ASCII");
    let sum = hex::encode(Sha256::digest(GOLDEN));
    assert_eq!(text, format!("{GOLDEN}end 8 {sum}\n"));
    assert_eq!(Manifest::parse(&bytes), Ok(sample()));
}

#[test]
fn damage_is_noticed_wherever_it_is() {
    let bytes = sample().encode();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Manifest::parse(&bad).is_err(), "byte {at}");
        assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_feature_of_the_future_is_not_trusted() {
    let text = GOLDEN.replace("features\n", "features holes-v2\n");
    let sum = hex::encode(Sha256::digest(&text));
    let bytes = format!("{text}end 8 {sum}\n").into_bytes();
    assert_eq!(
        Manifest::parse(&bytes),
        Err(ParseError::Feature("holes-v2".into()))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _outcome = Manifest::parse(&bytes);
    }

    /// However the content is cut into pieces and whatever zeros are left out, the digest is one.
    #[test]
    fn the_digest_of_a_sparse_file_does_not_depend_on_its_holes(
        data in prop::collection::vec((0_u64..9, prop::collection::vec(any::<u8>(), 1..300)), 1..5),
        cut in 1_usize..100_000,
    ) {
        let mut whole = vec![0_u8; 10 * PIECE];
        let mut segments: Vec<(u64, Vec<u8>)> = Vec::new();
        for (i, (piece, bytes)) in data.iter().enumerate() {
            let at = piece * PIECE as u64 + 1000 * i as u64;
            if segments.iter().any(|(a, _)| *a >= at || *a + 300 > at) {
                continue;
            }
            whole[usize::try_from(at).expect("small")..][..bytes.len()].copy_from_slice(bytes);
            segments.push((at, bytes.clone()));
        }
        let mut sparse = SparseHasher::new();
        for (at, bytes) in &segments {
            sparse.data(*at, bytes);
        }
        let mut dense = SparseHasher::new();
        for (i, piece) in whole.chunks(cut).enumerate() {
            dense.data((i * cut) as u64, piece);
        }
        prop_assert_eq!(sparse.finish(), dense.finish());
    }
}

#[test]
fn a_tree_that_was_touched_differs() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("fs");
    std::fs::create_dir(&root).expect("writable");
    let archive = {
        let mut w = crate::tar::Writer::new(Vec::new());
        let mut e = crate::tar::Entry::new(crate::tar::Kind::File, b"d/f", 0o644);
        e.size = 4;
        w.append(&e, b"data").expect("memory");
        let mut e = crate::tar::Entry::new(crate::tar::Kind::HardLink, b"d/h", 0o644);
        e.link = b"d/f".to_vec();
        w.append(&e, b"").expect("memory");
        w.finish().expect("memory")
    };
    let unpack = |root: &Path| {
        let fd = tree::open_root(root).expect("readable");
        let (done, _) = crate::unpack::unpack(
            fd,
            std::io::Cursor::new(&archive),
            crate::unpack::Limits::default(),
            true,
            None,
            &mut |_| {},
        )
        .expect("valid");
        Manifest {
            diff: String::new(),
            records: done.records,
        }
    };
    let manifest = unpack(&root);
    let problems = |root: &Path| -> Vec<String> {
        verify(root, &manifest)
            .expect("readable")
            .into_iter()
            .map(|m| format!("{} {}", m.path, m.what))
            .collect()
    };
    assert_eq!(problems(&root), Vec::<String>::new());
    let file = root.join("d/f");
    let times = std::fs::metadata(&file)
        .expect("there")
        .modified()
        .expect("known");
    std::fs::write(&file, b"dAta").expect("writable");
    std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("there")
        .set_modified(times)
        .expect("possible");
    assert_eq!(problems(&root), ["d/f its content differs"]);
    std::fs::write(root.join("more"), b"").expect("writable");
    std::fs::remove_file(root.join("d/h")).expect("removable");
    let list = problems(&root);
    assert!(
        list.contains(&"more it is not part of the layer".to_owned()),
        "{list:?}"
    );
    assert!(list.contains(&"d/h it is missing".to_owned()), "{list:?}");
}
