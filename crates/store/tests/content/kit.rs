//! What the tests share: stores, archives, snapshots of trees.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use store::progress::NoProgress;
use store::tar::{Entry, Kind, Writer};
use store::{LoadedImage, OpenOptions, Store};

pub(crate) fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "needs root: owners, device nodes and trusted.* attributes can't be made without"
    );
}

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Lab {
    pub(crate) fn new() -> Self {
        need_root();
        let dir = tempfile::tempdir().expect("a directory for the test");
        let store = open(&dir.path().join("root"));
        Self { dir, store }
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Vec<LoadedImage>, String> {
        self.store
            .load(&mut &archive[..], &NoProgress)
            .map_err(|e| chain(&e))
    }

    /// The tree of the top layer of an image.
    pub(crate) fn top(&self, image: &str) -> PathBuf {
        self.store
            .rootfs_layers(image)
            .expect("its layers")
            .remove(0)
    }

    /// Fails unless nothing of images is on disk or in the index.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(leftovers(&self.store), Vec::<String>::new());
        assert!(self.store.images().expect("the index").is_empty());
    }
}

pub(crate) fn open(root: &Path) -> Store {
    let options = OpenOptions {
        manual: true,
        ..OpenOptions::default()
    };
    Store::open(root, &options).expect("a store").0
}

/// Files of blobs, layers and staging.
pub(crate) fn leftovers(store: &Store) -> Vec<String> {
    let mut list = Vec::new();
    for dir in ["blobs/sha256", "layers", "staging"] {
        let path = store.root().join(dir);
        for entry in std::fs::read_dir(&path).expect("a directory of the store") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            // the 256 directories of blobs stay
            let fan = dir == "blobs/sha256";
            if fan
                && std::fs::read_dir(entry.path())
                    .expect("readable")
                    .next()
                    .is_none()
            {
                continue;
            }
            list.push(format!("{dir}/{name}"));
        }
    }
    list
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub(crate) fn file(path: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    let mut e = Entry::new(Kind::File, path.as_bytes(), 0o644);
    e.size = data.len() as u64;
    (e, data.to_vec())
}

pub(crate) fn dir(path: &str) -> (Entry, Vec<u8>) {
    (
        Entry::new(Kind::Directory, path.as_bytes(), 0o755),
        Vec::new(),
    )
}

pub(crate) fn link(kind: Kind, path: &str, target: &str) -> (Entry, Vec<u8>) {
    let mut e = Entry::new(kind, path.as_bytes(), 0o777);
    e.link = target.as_bytes().to_vec();
    (e, Vec::new())
}

pub(crate) fn tar(list: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in list {
        writer.append(entry, data).expect("memory takes everything");
    }
    writer.finish().expect("memory takes everything")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("memory takes everything");
    out.finish().expect("memory takes everything")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory takes everything")
}

pub(crate) fn config(diffs: &[String]) -> Vec<u8> {
    serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09Z",
        "config": {"Cmd": ["/bin/sh"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [{"created_by": "made for a test"}],
        "an.unknown.field": {"stays": true},
    })
    .to_string()
    .into_bytes()
}

/// A docker-archive of plain layers under this name.
pub(crate) fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diffs: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    docker_archive_with(name, &diffs, layers)
}

pub(crate) fn docker_archive_with(name: &str, diffs: &[String], layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(diffs);
    let config_name = format!("{}.json", &digest(&config)[7..]);
    let mut members = Vec::new();
    let mut names = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        names.push(format!("{i}/layer.tar"));
        members.push(file(&names[i], layer));
    }
    members.push(file(&config_name, &config));
    let manifest = serde_json::json!([
        {"Config": config_name, "RepoTags": [name], "Layers": names}
    ]);
    members.push(file("manifest.json", manifest.to_string().as_bytes()));
    tar(&members)
}

/// What can be seen of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) size: u64,
    pub(crate) mtime: (i64, i64),
    pub(crate) link: Vec<u8>,
    pub(crate) device: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sum: String,
    /// First path of the same file.
    pub(crate) same_as: Option<Vec<u8>>,
}

/// Everything below a directory, and the directory itself as the empty path.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut seen = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while at < paths.len() {
        let path = paths[at].clone();
        at += 1;
        if path.symlink_metadata().expect("readable").is_dir() {
            let mut inner: Vec<_> = std::fs::read_dir(&path)
                .expect("readable")
                .map(|e| e.expect("readable").path())
                .collect();
            inner.sort();
            paths.extend(inner);
        }
    }
    paths.sort();
    for path in paths {
        let name = path
            .strip_prefix(root)
            .expect("below")
            .as_os_str()
            .as_bytes();
        seen.insert(name.to_vec(), look(&path, name, &mut inodes));
    }
    seen
}

fn look(path: &Path, name: &[u8], inodes: &mut BTreeMap<u64, Vec<u8>>) -> Seen {
    let meta = path.symlink_metadata().expect("readable");
    let kind = meta.file_type();
    let mut sum = String::new();
    if kind.is_file() {
        let mut hash = Sha256::new();
        std::io::copy(&mut File::open(path).expect("readable"), &mut hash).expect("readable");
        sum = hex::encode(hash.finalize());
    }
    let mut same_as = None;
    if !kind.is_dir() && meta.nlink() > 1 {
        same_as = inodes.get(&meta.ino()).cloned();
        inodes.entry(meta.ino()).or_insert_with(|| name.to_vec());
    }
    Seen {
        kind: if kind.is_block_device() {
            "block device".into()
        } else if kind.is_char_device() {
            "character device".into()
        } else if kind.is_fifo() {
            "fifo".into()
        } else if kind.is_socket() {
            "socket".into()
        } else if kind.is_dir() {
            "directory".into()
        } else if kind.is_symlink() {
            "symlink".into()
        } else {
            "file".into()
        },
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        size: if kind.is_file() { meta.size() } else { 0 },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        link: std::fs::read_link(path)
            .map(|p| p.as_os_str().as_bytes().to_vec())
            .unwrap_or_default(),
        device: meta.rdev(),
        xattrs: xattrs(path),
        sum,
        same_as,
    }
}

pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let n = rustix::fs::llistxattr(path, &mut names[..]).expect("attributes can be listed");
    names[..n]
        .split(|b| *b == 0)
        .filter(|k| !k.is_empty() && *k != b"security.selinux")
        .map(|key| {
            let mut value = vec![0; 4096];
            let n = rustix::fs::lgetxattr(path, key, &mut value[..]).expect("readable");
            (key.to_vec(), value[..n].to_vec())
        })
        .collect()
}

pub(crate) fn save(store: &Store, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut out = Vec::new();
    store
        .save(&names, &mut out, &NoProgress)
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    out
}

/// The members of an archive by name.
pub(crate) fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut reader = store::tar::Reader::new(std::io::BufReader::new(archive));
    let mut map = BTreeMap::new();
    while let Some(entry) = reader.next_entry().expect("a valid archive") {
        let mut data = Vec::new();
        loop {
            let piece = reader.data().expect("a valid archive");
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let n = piece.len();
            reader.consume(n);
        }
        map.insert(entry.name(), data);
    }
    map
}

/// A command that must be there and succeed.
#[expect(clippy::disallowed_methods, reason = "tests compare with GNU tar")]
pub(crate) fn run(program: &str, args: &[&str], cwd: &Path) -> Vec<u8> {
    let out = std::process::Command::new(program)
        .args(args)
        .current_dir(cwd)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// Endless zeros, then an end.
pub(crate) struct Zeros(pub(crate) u64);

impl Read for Zeros {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = usize::try_from(self.0).unwrap_or(usize::MAX).min(buf.len());
        buf[..n].fill(0);
        self.0 -= n as u64;
        Ok(n)
    }
}
