//! A tree and a configuration as a docker-archive: one layer, its configuration, the manifest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::tar::{Entry, Kind, Time, Writer};

use super::CaptureError;
use super::closure::{Item, Made, Node};

/// A layer written to a file that has no name and so goes with this process.
#[derive(Debug)]
pub(crate) struct Layer {
    file: File,
    pub(crate) size: u64,
    digest: String,
}

/// Counts and hashes what is written.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn nameless_file() -> Result<File, CaptureError> {
    let directory = std::env::temp_dir();
    rustix::fs::open(
        &directory,
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )
    .map(File::from)
    .map_err(|e| CaptureError::io("make a temporary file in", directory)(e.into()))
}

/// Packs the tree.
pub(crate) fn layer(
    items: &BTreeMap<PathBuf, Item>,
    progress: &dyn Fn(u64),
) -> Result<Layer, CaptureError> {
    let sink = Hashing {
        inner: io::BufWriter::with_capacity(256 * 1024, nameless_file()?),
        hash: Sha256::new(),
        size: 0,
    };
    let mut tar = Writer::new(sink);
    // a second name of one file is a hard link, as on the host
    let mut names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    for (path, item) in items {
        add(&mut tar, path, &item.node, &mut names, progress)?;
    }
    let sink = tar.finish().map_err(CaptureError::Write)?;
    let file = sink
        .inner
        .into_inner()
        .map_err(|e| CaptureError::Write(e.into_error()))?;
    Ok(Layer {
        file,
        size: sink.size,
        digest: hex(&sink.hash.finalize()),
    })
}

fn in_archive(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes)
}

fn add<W: Write>(
    tar: &mut Writer<W>,
    path: &Path,
    node: &Node,
    names: &mut BTreeMap<(u64, u64), Vec<u8>>,
    progress: &dyn Fn(u64),
) -> Result<(), CaptureError> {
    if let Node::Made(made) = node {
        return add_made(tar, path, made).map_err(CaptureError::Write);
    }
    let metadata = fs::symlink_metadata(path).map_err(CaptureError::io("look at", path))?;
    let changed = || CaptureError::Changed(path.to_owned());
    let mut entry = Entry::new(Kind::File, in_archive(path), metadata.mode() & 0o7777);
    entry.uid = metadata.uid();
    entry.gid = metadata.gid();
    entry.mtime = Time {
        sec: metadata.mtime(),
        nsec: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    };
    match node {
        Node::Directory => {
            entry.kind = Kind::Directory;
            if !metadata.is_dir() {
                return Err(changed());
            }
            tar.start(&entry).map_err(CaptureError::Write)
        }
        Node::Link(target) => {
            entry.kind = Kind::Symlink;
            entry.link = target.as_os_str().as_bytes().to_vec();
            tar.start(&entry).map_err(CaptureError::Write)
        }
        _ => {
            if !metadata.is_file() {
                return Err(changed());
            }
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = names.get(&key).filter(|_| metadata.nlink() > 1) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                return tar.start(&entry).map_err(CaptureError::Write);
            }
            names.insert(key, entry.path.clone());
            entry.size = metadata.len();
            entry.xattrs = capabilities(path);
            tar.start(&entry).map_err(CaptureError::Write)?;
            copy(tar, path, entry.size, progress)
        }
    }
}

/// File capabilities: without them `ping` and its like do not work.
fn capabilities(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut value = [0_u8; 64];
    match rustix::fs::lgetxattr(path, "security.capability", &mut value) {
        Ok(n) => vec![(b"security.capability".to_vec(), value[..n.min(64)].to_vec())],
        Err(_) => Vec::new(),
    }
}

fn copy<W: Write>(
    tar: &mut Writer<W>,
    path: &Path,
    size: u64,
    progress: &dyn Fn(u64),
) -> Result<(), CaptureError> {
    let mut file = File::open(path).map_err(CaptureError::io("open", path))?;
    let mut buf = vec![0; 128 * 1024];
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).map_or(buf.len(), |l| l.min(buf.len()));
        let n = file
            .read(&mut buf[..want])
            .map_err(CaptureError::io("read", path))?;
        if n == 0 {
            return Err(CaptureError::Changed(path.to_owned()));
        }
        tar.write_data(&buf[..n]).map_err(CaptureError::Write)?;
        left -= n as u64;
        progress(n as u64);
    }
    Ok(())
}

fn add_made<W: Write>(tar: &mut Writer<W>, path: &Path, made: &Made) -> io::Result<()> {
    match made {
        Made::Directory { mode, uid, gid } => {
            let mut entry = Entry::new(Kind::Directory, in_archive(path), *mode);
            entry.uid = *uid;
            entry.gid = *gid;
            tar.start(&entry)
        }
        Made::File(bytes) => {
            let mut entry = Entry::new(Kind::File, in_archive(path), 0o644);
            entry.size = bytes.len() as u64;
            tar.append(&entry, bytes)
        }
        Made::Link(target) => {
            let mut entry = Entry::new(Kind::Symlink, in_archive(path), 0o777);
            entry.link = target.as_os_str().as_bytes().to_vec();
            tar.start(&entry)
        }
    }
}

/// Writes the archive: layer, configuration, manifest.
pub(crate) fn image(
    mut layer: Layer,
    name: &str,
    config: &Value,
    created: &str,
    comment: &str,
    out: &mut dyn Write,
) -> Result<(), CaptureError> {
    let document = json!({
        "architecture": crate::cmd::create::architecture(),
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created": created, "created_by": comment, "comment": "plimsoll capture"}],
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(document.as_bytes())));
    let layer_name = format!("{}/layer.tar", layer.digest);
    let manifest = json!([{
        "Config": config_name, "RepoTags": [name], "Layers": [layer_name],
    }])
    .to_string();
    let mut write = || -> io::Result<()> {
        let mut tar = Writer::new(&mut *out);
        let mut entry = Entry::new(Kind::File, layer_name.as_bytes(), 0o644);
        entry.size = layer.size;
        tar.start(&entry)?;
        layer.file.rewind()?;
        let mut buf = vec![0; 256 * 1024];
        loop {
            let n = layer.file.read(&mut buf)?;
            if n == 0 {
                break;
            }
            tar.write_data(&buf[..n])?;
        }
        for (name, text) in [
            (config_name.as_str(), &document),
            ("manifest.json", &manifest),
        ] {
            let mut entry = Entry::new(Kind::File, name.as_bytes(), 0o644);
            entry.size = text.len() as u64;
            tar.append(&entry, text.as_bytes())?;
        }
        tar.finish()?.flush()
    };
    write().map_err(CaptureError::Write)
}
