use std::io::{BufReader, Cursor};

use proptest::prelude::*;

use super::*;

type Read = Vec<(Entry, Vec<u8>)>;

fn read_all(bytes: &[u8]) -> Result<Read, TarError> {
    // a small buffer, so that every boundary is met
    read_with(BufReader::with_capacity(61, Cursor::new(bytes)))
}

fn read_with<R: std::io::BufRead>(source: R) -> Result<Read, TarError> {
    let mut reader = Reader::new(source);
    let mut list = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let n = piece.len();
            reader.consume(n);
        }
        list.push((entry, data));
    }
    Ok(list)
}

fn write_all(list: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in list {
        writer.append(entry, data).expect("memory takes everything");
    }
    writer.finish().expect("memory takes everything")
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![
            prop::collection::vec(1_u8..=255, 1..12),
            Just(b"a-name-that-is-rather-long-so-that-paths-outgrow-their-field".to_vec()),
        ],
        1..8,
    )
    .prop_map(|parts| {
        let parts: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|p| {
                p.into_iter()
                    .map(|b| if b == b'/' { b'_' } else { b })
                    .collect()
            })
            .collect();
        parts.join(&b'/')
    })
}

fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::HardLink),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice),
        Just(Kind::Fifo),
    ];
    let time = (any::<i32>(), 0_u32..1_000_000_000, any::<bool>());
    let xattr = (
        "user\\.[a-z]{1,9}",
        prop::collection::vec(any::<u8>(), 0..40),
    );
    (
        (
            kind,
            name(),
            name(),
            0_u32..0o10000,
            any::<u32>(),
            any::<u32>(),
        ),
        time,
        prop::collection::vec(any::<u8>(), 0..1500),
        prop::collection::btree_map(xattr.0, xattr.1, 0..3),
        (0_u32..4096, 0_u32..1 << 20),
    )
        .prop_map(
            |((kind, path, link, mode, uid, gid), time, data, xattrs, dev)| {
                let mut e = Entry::new(kind, &path, mode);
                e.uid = uid;
                e.gid = gid;
                e.mtime = Time {
                    sec: i64::from(time.0) * if time.2 { 8 } else { 1 },
                    nsec: time.1,
                };
                e.xattrs = xattrs
                    .into_iter()
                    .map(|(k, v)| (k.into_bytes(), v))
                    .collect();
                let mut stored = Vec::new();
                match kind {
                    Kind::File => {
                        e.size = data.len() as u64;
                        stored = data;
                    }
                    Kind::Symlink | Kind::HardLink => e.link = link,
                    Kind::CharDevice | Kind::BlockDevice => (e.dev_major, e.dev_minor) = dev,
                    _ => {}
                }
                (e, stored)
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read(list in prop::collection::vec(entry(), 0..6)) {
        let bytes = write_all(&list);
        prop_assert_eq!(bytes.len() % BLOCK, 0);
        let read = read_all(&bytes).expect("our own archives are valid");
        prop_assert_eq!(read, list);
    }

    /// Whatever the bytes: an error or entries, never a panic, never without end.
    #[test]
    fn any_bytes_are_survived(
        list in prop::collection::vec(entry(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        fix in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = write_all(&list);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if fix {
            fix_checksums(&mut bytes);
        }
        let _outcome = read_all(&bytes);
        let cut = cut.index(bytes.len());
        let _outcome = read_all(&bytes[..cut]);
    }
}

/// Makes every block a header as far as its checksum goes, so that damage behind it is reached.
fn fix_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block.iter().all(|b| *b == 0) || &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn sparse_entry() -> (Entry, Vec<u8>) {
    let mut e = Entry::new(Kind::File, b"dir/sparse", 0o600);
    e.size = 8;
    e.sparse = Some(SparseMap {
        segments: vec![
            Segment {
                offset: 1 << 20,
                len: 5,
            },
            Segment {
                offset: 1 << 33,
                len: 3,
            },
        ],
        size: (1 << 33) + 4096,
    });
    (e, b"helloyou".to_vec())
}

#[test]
fn sparse_files_keep_their_map() {
    let list = vec![sparse_entry()];
    assert_eq!(read_all(&write_all(&list)).expect("valid"), list);
}

fn header(name: &str, typeflag: u8, body: &[u8]) -> Vec<u8> {
    let mut e = Entry::new(Kind::File, name.as_bytes(), 0o644);
    e.size = body.len() as u64;
    let mut bytes = write_all(&[(e, body.to_vec())]);
    bytes.truncate(bytes.len() - 2 * BLOCK);
    bytes[156] = typeflag;
    fix_first(&mut bytes);
    bytes
}

fn fix_first(bytes: &mut [u8]) {
    let (first, _) = bytes.split_at_mut(BLOCK);
    fix_checksums(first);
}

#[test]
fn pax_sparse_of_the_older_forms_is_read() {
    let member = header("GNUSparseFile.0/x", b'0', b"abcdef");
    let old = pax(
        "22 GNU.sparse.size=99\n24 GNU.sparse.numblocks=2\n23 GNU.sparse.offset=1\n25 GNU.sparse.numbytes=4\n24 GNU.sparse.offset=50\n25 GNU.sparse.numbytes=2\n",
    );
    let newer = pax("22 GNU.sparse.size=99\n25 GNU.sparse.map=1,4,50,2\n23 GNU.sparse.name=real\n");
    for (head, name) in [(old, "GNUSparseFile.0/x"), (newer, "real")] {
        let bytes = [head, member.clone()].concat();
        let list = read_all(&bytes).expect("valid");
        let (entry, data) = &list[0];
        assert_eq!(entry.name(), name);
        assert_eq!(data, b"abcdef");
        let map = entry.sparse.as_ref().expect("a sparse file");
        assert_eq!(map.size, 99);
        assert_eq!(map.segments[1], Segment { offset: 50, len: 2 });
    }
}

/// Records are given with lengths that need not be right.
fn pax(records: &str) -> Vec<u8> {
    let fixed: String = records
        .lines()
        .map(|line| {
            let body = line.split_once(' ').expect("a length").1;
            let mut len = body.len() + 3;
            while len != body.len() + 2 + len.to_string().len() {
                len = body.len() + 2 + len.to_string().len();
            }
            format!("{len} {body}\n")
        })
        .collect();
    header("pax", b'x', fixed.as_bytes())
}

fn refused(bytes: &[u8]) -> String {
    read_all(bytes).expect_err("must be refused").to_string()
}

#[test]
fn sparse_maps_that_lie_are_refused_with_the_name() {
    let member = header("x", b'0', b"abcdef");
    for map in [
        "1,4,3,2",
        "1,4,98,2",
        "1,4",
        "5,2,1,4",
        "1,18446744073709551615,9,7",
    ] {
        let head = pax(&format!("0 GNU.sparse.size=99\n0 GNU.sparse.map={map}\n"));
        let error = refused(&[head, member.clone()].concat());
        assert!(error.contains("entry x: bad sparse map"), "{map}: {error}");
    }
}

#[test]
fn tables_have_limits() {
    let big = header("big", b'x', &vec![b'a'; (1 << 20) + 1]);
    assert!(refused(&big).contains("at most 1048576"));
    let long = format!("0 path={}\n", "a/".repeat(3000));
    let error = refused(&[pax(&long), header("x", b'0', b"")].concat());
    assert!(error.contains("longer than 4095"), "{error}");
    let value = "v".repeat(1 << 17);
    let xattrs = format!(
        "0 SCHILY.xattr.user.a={value}\n0 SCHILY.xattr.user.b={value}\n0 SCHILY.xattr.user.c=\n"
    );
    assert!(refused(&pax(&xattrs)).contains("extended attributes"));
}

#[test]
fn an_archive_that_is_cut_says_where() {
    let bytes = write_all(&[(
        {
            let mut e = Entry::new(Kind::File, b"big", 0o644);
            e.size = 5000;
            e
        },
        vec![7; 5000],
    )]);
    let error = refused(&bytes[..BLOCK + 700]);
    assert!(
        error.contains("entry big") && error.contains("truncated"),
        "{error}"
    );
    assert!(refused(&bytes[..100]).contains("a header"));
}

#[test]
fn numbers_in_base_256_are_read() {
    let mut bytes = header("big-owner", b'0', b"");
    bytes[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
    bytes[136..148].copy_from_slice(&[0xff; 12]); // -1
    fix_first(&mut bytes);
    let list = read_all(&bytes).expect("valid");
    assert_eq!(list[0].0.uid, 0xffff_fffe);
    assert_eq!(list[0].0.mtime, Time { sec: -1, nsec: 0 });
}

#[test]
fn types_we_do_not_know_are_refused_with_the_name() {
    assert!(refused(&header("odd", b'M', b"")).contains("entry odd: type 'M'"));
}

#[test]
fn messages_never_move_a_terminal() {
    assert_eq!(
        printable(b"a\x1b[2J\nb\xff\xc3\xa9"),
        "a\\u{1b}[2J\\nb\\xffé"
    );
}
