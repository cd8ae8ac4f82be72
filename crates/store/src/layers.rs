//! Unpacked layers: a cache of what the blobs say.
//!
//! ```text
//! layers/<hex of chain id>/fs        the tree, ready to be a lower directory of an overlay
//!                          manifest  what every file in it must be (see `manifest`)
//! ```
//!
//! ```text
//! staging/layer-<random> --rename--> unpacked in boot B --syncfs in the background--> stable
//!                                        | another boot
//!                                        v
//!                               unpacked again from its blob
//! ```
//! A layer counts in the boot in which it was unpacked, and in any boot once it is stable. Nobody
//! ever waits for the sync of a layer: the blob is the truth.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use crate::disk::{self, Context as _};
use crate::images::{
    ImageError, LayerError, LayerInfo, hex_of, referenced_blobs, referenced_layers,
};
use crate::leases::{Lease, Resource};
use crate::manifest::{self, Manifest, Mismatch, Node, Record};
use crate::meta::MetaError;
use crate::pipe::{Packing, Unpacker, pipe, sniff};
use crate::progress::{Action, Progress, Update};
use crate::unpack::{self, Limits, Lower, LowerLookup, Unpacked};
use crate::{Store, blobs, copy, tree};

/// How often progress is told.
const TELL_EVERY: u64 = 1 << 20;

/// A layer unpacked in staging. Goes to the trash unless it was kept.
#[derive(Debug)]
pub(crate) struct StagedLayer {
    dir: PathBuf,
    pub(crate) diff: String,
    unpacked: Unpacked,
}

/// The chain id of a layer on top of another.
pub(crate) fn chain_id(parent: Option<&str>, diff: &str) -> String {
    match parent {
        None => diff.to_owned(),
        Some(parent) => {
            let sum = Sha256::digest(format!("{parent} {diff}"));
            format!("sha256:{}", hex::encode(sum))
        }
    }
}

/// First digits of a digest, as shown.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// What is known of a blob that is to be unpacked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlobFacts<'a> {
    /// For progress and messages.
    pub(crate) name: &'a str,
    pub(crate) size: Option<u64>,
    /// Nothing else says that the stream is whole: its end must be marked.
    pub(crate) complete: bool,
}

impl Store {
    fn layer_dir(&self, chain: &str) -> PathBuf {
        self.layers_dir().join(hex_of(chain).unwrap_or("none"))
    }

    /// Where the tree of an unpacked layer is.
    pub(crate) fn layer_fs(&self, chain: &str) -> PathBuf {
        self.layer_dir(chain).join("fs")
    }

    /// Unpacks a stream in staging.
    pub(crate) fn stage_layer(
        &self,
        source: impl Read + Send,
        facts: BlobFacts<'_>,
        lowers: Option<&[PathBuf]>,
        progress: &dyn Progress,
    ) -> Result<StagedLayer, LayerError> {
        let dir = self.staging("layer");
        let made = self.stage_layer_at(&dir, source, facts, lowers, progress);
        if made.is_err() {
            self.trash_leftover(&dir);
        }
        made
    }

    fn stage_layer_at(
        &self,
        dir: &Path,
        mut source: impl Read + Send,
        facts: BlobFacts<'_>,
        lowers: Option<&[PathBuf]>,
        progress: &dyn Progress,
    ) -> Result<StagedLayer, LayerError> {
        disk::create_dir(dir, 0o700)?;
        let fs = dir.join("fs");
        disk::create_dir(&fs, 0o755)?;
        let root = tree::open_root(&fs).on("open", &fs)?;
        let place = || format!("unpack layer {}", facts.name);
        let unpack_error = |source| LayerError::Unpack {
            place: place(),
            source,
        };
        let tar_io = |source| unpack_error(crate::tar::TarError::Io { offset: 0, source }.into());

        let mut head = [0; 6];
        let n = read_up_to(&mut source, &mut head).map_err(tar_io)?;
        let packing = sniff(&head[..n]).map_err(|name| {
            tar_io(io::Error::other(format!(
                "it is compressed with {name}: recompress it with gzip or zstd"
            )))
        })?;
        let source = io::Cursor::new(head).take(n as u64).chain(source);
        let lookup = lowers.map(|l| move |path: &[u8]| look_below(l, path));
        let lookup = lookup.as_ref().map(|l| l as &LowerLookup<'_>);
        let limits = Limits {
            keep_free: blobs::KEEP_FREE,
            ..Limits::default()
        };
        let mut told = 0;
        let mut tell = |done: u64| {
            if done - told >= TELL_EVERY {
                told = done;
                progress.update(&Update {
                    id: facts.name,
                    action: Action::Extracting,
                    done,
                    total: (packing == Packing::Plain).then_some(facts.size).flatten(),
                });
            }
        };
        let (unpacked, diff) = std::thread::scope(|scope| {
            let (feed, sink) = pipe();
            let feeder = scope.spawn(move || match Unpacker::new(source, packing) {
                Ok(stream) => feed.run(stream, true),
                Err(_) => None,
            });
            let unpacked = unpack::unpack(root, sink, limits, facts.complete, lookup, &mut tell);
            let unpacked = unpacked.map_err(unpack_error).and_then(|(done, mut rest)| {
                rest.drain().map_err(tar_io)?;
                Ok(done)
            });
            let diff = feeder
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            unpacked.map(|u| (u, diff))
        })?;
        let diff = diff.ok_or_else(|| tar_io(io::Error::other("its stream ended early")))?;
        Ok(StagedLayer {
            dir: dir.to_owned(),
            diff,
            unpacked,
        })
    }

    /// Throws a staged layer away.
    pub(crate) fn drop_layer(&self, layer: &StagedLayer) {
        self.trash_leftover(&layer.dir);
    }

    /// Puts a staged layer in its place above `lowers` (top first). `false`: what is below shows
    /// that the archive meant other places; unpack it again with `lowers`.
    pub(crate) fn keep_layer(
        &self,
        lease: &Lease,
        chain: &str,
        mut layer: StagedLayer,
        lowers: &[PathBuf],
    ) -> Result<bool, LayerError> {
        let kept = self.keep_layer_inner(lease, chain, &mut layer, lowers);
        if !matches!(kept, Ok(true)) {
            self.drop_layer(&layer);
        }
        kept
    }

    fn keep_layer_inner(
        &self,
        lease: &Lease,
        chain: &str,
        layer: &mut StagedLayer,
        lowers: &[PathBuf],
    ) -> Result<bool, LayerError> {
        let fs = layer.dir.join("fs");
        if !adopt_implied(&fs, &mut layer.unpacked, lowers).on("set attributes in", &fs)? {
            return Ok(false);
        }
        let manifest = Manifest {
            diff: layer.diff.clone(),
            records: std::mem::take(&mut layer.unpacked.records),
        };
        disk::write_lazy(&manifest::path_in(&layer.dir), &manifest.encode(), 0o600)?;
        let target = self.layer_dir(chain);
        {
            let _content = self.content_lock();
            lease.hold(Resource::Layer(chain.to_owned()));
            if target.exists() {
                self.trash_leftover(&target);
            }
            disk::rename_new(&layer.dir, &target)?;
        }
        let (chain, boot) = (chain.to_owned(), self.boot_id().to_owned());
        let size = i64::try_from(layer.unpacked.size).unwrap_or(i64::MAX);
        self.meta().write_relaxed(move |db| {
            db.prepare_cached(
                "INSERT INTO layers (chain, size, boot, stable) VALUES (?1, ?2, ?3, 0)
                 ON CONFLICT (chain) DO UPDATE SET size = ?2, boot = ?3, stable = 0",
            )?
            .execute(params![chain, size, boot])?;
            Ok::<_, MetaError>(())
        })?;
        Ok(true)
    }

    /// Whether an unpacked layer is there and may be trusted in this boot.
    pub(crate) fn layer_usable(&self, chain: &str) -> Result<bool, LayerError> {
        let boot = self.boot_id();
        let trusted = self.meta().read(|db| -> Result<_, MetaError> {
            Ok(db
                .prepare_cached("SELECT stable <> 0 OR boot = ?2 FROM layers WHERE chain = ?1")?
                .query_row([chain, boot], |r| r.get::<_, bool>(0))
                .optional()?)
        })?;
        Ok(trusted == Some(true) && self.layer_fs(chain).is_dir())
    }

    /// The unpacked layers of an image, top first, ready to be stacked. What is not there, or can't
    /// be trusted after the machine went down, is unpacked again from its blob.
    ///
    /// # Errors
    /// No such image, or a blob is missing or damaged.
    pub fn rootfs_layers(&self, image: &str) -> Result<Vec<PathBuf>, ImageError> {
        let image = self.image(image)?;
        let lease = self.lease();
        lease.hold(Resource::Image(image.id));
        Ok(self.ensure_layers(&lease, &image.layers, &crate::progress::NoProgress)?)
    }

    pub(crate) fn ensure_layers(
        &self,
        lease: &Lease,
        layers: &[LayerInfo],
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, LayerError> {
        let mut top_first: Vec<PathBuf> = Vec::with_capacity(layers.len());
        for layer in layers {
            lease.hold(Resource::Layer(layer.chain.clone()));
            if !self.layer_usable(&layer.chain)? {
                // one at a time: two that want the same layer shall not both unpack it
                let _healing = self.healing_lock();
                if !self.layer_usable(&layer.chain)? {
                    self.unpack_again(lease, layer, &top_first, progress)?;
                }
            }
            top_first.insert(0, self.layer_fs(&layer.chain));
        }
        Ok(top_first)
    }

    /// Unpacks a layer from its blob, verified, in place of what is there.
    pub(crate) fn unpack_again(
        &self,
        lease: &Lease,
        layer: &LayerInfo,
        lowers: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<(), LayerError> {
        self.distrust(&layer.chain)?;
        let file = match self.open_blob(&layer.blob) {
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => {
                return Err(LayerError::NoBlob {
                    chain: layer.chain.clone(),
                    blob: layer.blob.clone(),
                });
            }
            other => other?,
        };
        let facts = BlobFacts {
            name: short(&layer.diff),
            size: Some(layer.blob_size),
            complete: false,
        };
        let staged = self.stage_layer(file, facts, Some(lowers), progress)?;
        if staged.diff != layer.diff {
            self.drop_layer(&staged);
            return Err(LayerError::WrongDiff {
                diff: layer.diff.clone(),
                found: staged.diff,
            });
        }
        if !self.keep_layer(lease, &layer.chain, staged, lowers)? {
            return Err(LayerError::Manifest {
                chain: layer.chain.clone(),
                what: "its directories and the links below do not fit together".into(),
            });
        }
        self.request_stabilise();
        Ok(())
    }

    /// Forgets, durably, that a layer was stable, before other files take its place: the row of the
    /// new ones isn't synced.
    fn distrust(&self, chain: &str) -> Result<(), LayerError> {
        let stable = self.meta().read(|db| -> Result<_, MetaError> {
            Ok(db
                .prepare_cached("SELECT 1 FROM layers WHERE chain = ?1 AND stable <> 0")?
                .exists([chain])?)
        })?;
        if stable {
            let chain = chain.to_owned();
            self.meta().write(move |db| {
                db.execute(
                    "UPDATE layers SET stable = 0, boot = '' WHERE chain = ?1",
                    [chain],
                )?;
                Ok::<_, MetaError>(())
            })?;
        }
        Ok(())
    }

    /// Waits until the layers unpacked so far are on disk and marks them; called in the background
    /// and at close.
    pub(crate) fn stabilise_layers(&self) -> Result<(), LayerError> {
        let boot = self.boot_id().to_owned();
        let chains: Vec<String> = self.meta().read(|db| -> Result<_, MetaError> {
            Ok(db
                .prepare_cached("SELECT chain FROM layers WHERE stable = 0 AND boot = ?1")?
                .query_map([&boot], |r| r.get(0))?
                .collect::<Result<_, _>>()?)
        })?;
        if chains.is_empty() {
            return Ok(());
        }
        let root = tree::open_root(self.root()).on("open", self.root())?;
        disk::syncfs(&root, self.root())?;
        self.meta().write_relaxed(move |db| {
            let mut mark =
                db.prepare_cached("UPDATE layers SET stable = 1 WHERE chain = ?1 AND boot = ?2")?;
            for chain in &chains {
                mark.execute([chain, &boot])?;
            }
            Ok::<_, MetaError>(())
        })?;
        Ok(())
    }

    /// Compares an unpacked layer with its manifest; nothing if there is no such layer.
    ///
    /// # Errors
    /// The manifest or the tree can't be read.
    pub(crate) fn verify_layer(&self, chain: &str) -> Result<Vec<Mismatch>, LayerError> {
        let dir = self.layer_dir(chain);
        let Some(manifest) = self.read_manifest(chain)? else {
            return Ok(Vec::new());
        };
        let fs = dir.join("fs");
        Ok(manifest::verify(&fs, &manifest).on("verify", &fs)?)
    }

    pub(crate) fn read_manifest(&self, chain: &str) -> Result<Option<Manifest>, LayerError> {
        let dir = self.layer_dir(chain);
        let path = manifest::path_in(&dir);
        let Some(bytes) = disk::read_optional(&path)? else {
            if !dir.exists() {
                return Ok(None);
            }
            return Err(LayerError::Manifest {
                chain: chain.to_owned(),
                what: "it is missing".into(),
            });
        };
        let manifest = Manifest::parse(&bytes).map_err(|e| LayerError::Manifest {
            chain: chain.to_owned(),
            what: e.to_string(),
        })?;
        Ok(Some(manifest))
    }

    /// Copies the whole root file system of an image into `dest`, an empty directory (driver vfs).
    ///
    /// # Errors
    /// As [`Store::rootfs_layers`], or the disk refuses.
    pub fn copy_rootfs(&self, image: &str, dest: &Path) -> Result<(), ImageError> {
        let layers = self.rootfs_layers(image)?;
        copy::flatten(&layers, dest).map_err(ImageError::Disk)
    }

    /// Moves layers and blobs that nothing refers to into the trash.
    pub(crate) fn sweep(&self, chains: &[String], blobs: &[String]) -> Result<(), LayerError> {
        let _content = self.content_lock();
        let leased = self.leased();
        let (used_layers, used_blobs) = self.meta().read(|db| -> Result<_, MetaError> {
            Ok((referenced_layers(db)?, referenced_blobs(db)?))
        })?;
        for chain in chains {
            if !used_layers.contains(chain) && !leased.contains(&Resource::Layer(chain.clone())) {
                self.trash_leftover(&self.layer_dir(chain));
            }
        }
        for blob in blobs {
            if !used_blobs.contains(blob) && !leased.contains(&Resource::Blob(blob.clone())) {
                self.trash_leftover(&self.blob_path(blob));
            }
        }
        Ok(())
    }
}

pub(crate) fn read_up_to(source: &mut (impl Read + ?Sized), buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match source.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(m) => n += m,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Gives directories that the archive only implied the attributes of those below. `false`: one of
/// them is a symbolic link below.
fn adopt_implied(fs: &Path, unpacked: &mut Unpacked, lowers: &[PathBuf]) -> io::Result<bool> {
    if lowers.is_empty() {
        return Ok(true);
    }
    for path in std::mem::take(&mut unpacked.implied) {
        let like = match look_below(lowers, &path)? {
            Lower::Nothing => continue,
            Lower::Symlink(_) => return Ok(false),
            Lower::Directory(record) => record,
        };
        let Ok(index) = unpacked
            .records
            .binary_search_by(|r| r.path.as_slice().cmp(&path))
        else {
            continue;
        };
        let own = unpacked.records[index]
            .xattrs
            .iter()
            .filter(|(n, _)| n.starts_with(b"trusted.overlay."))
            .cloned();
        let mut xattrs: Vec<_> = like
            .xattrs
            .iter()
            .filter(|(n, _)| !n.starts_with(b"trusted.overlay."))
            .cloned()
            .chain(own)
            .collect();
        xattrs.sort_unstable();
        let record = Record {
            path: path.clone(),
            xattrs,
            ..*like
        };
        let dir = tree::open_root(&tree::on_disk(fs, &path))?;
        unpack::dress(dir.as_fd(), &record)?;
        unpack::set_default_acl(dir.as_fd(), &record)?;
        unpack::set_times(dir.as_fd(), record.mtime)?;
        unpacked.records[index] = record;
    }
    Ok(true)
}

/// What the stack of layers (top first) shows at a path whose parents are directories.
pub(crate) fn look_below(lowers: &[PathBuf], path: &[u8]) -> io::Result<Lower> {
    for layer in lowers {
        let ends = (0..path.len())
            .filter(|i| path[*i] == b'/')
            .chain(std::iter::once(path.len()));
        let mut hidden = is_opaque(layer)?;
        for end in ends {
            let here = tree::on_disk(layer, &path[..end]);
            let stat = match tree::stat_path(layer, &path[..end]) {
                Ok(stat) => stat,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            let last = end == path.len();
            match stat.node {
                Node::Directory if last => {
                    let mut record = Record::new(path, Node::Directory);
                    (record.mode, record.uid, record.gid) = (stat.mode, stat.uid, stat.gid);
                    record.mtime = stat.mtime;
                    let dir = tree::open_root(&here)?;
                    record.xattrs = tree::xattrs(dir.as_fd(), b".")?;
                    return Ok(Lower::Directory(Box::new(record)));
                }
                Node::Directory => hidden |= is_opaque(&here)?,
                Node::Symlink if last => {
                    return Ok(Lower::Symlink(
                        rustix::fs::readlink(&here, Vec::new())?.into_bytes(),
                    ));
                }
                _ => return Ok(Lower::Nothing),
            }
        }
        if hidden {
            return Ok(Lower::Nothing);
        }
    }
    Ok(Lower::Nothing)
}

/// What `lstat` says of a path in the stack of layers (top first).
pub(crate) fn stat_below(lowers: &[PathBuf], path: &[u8]) -> io::Result<Option<tree::Stat>> {
    for layer in lowers {
        let ends = (0..path.len())
            .filter(|i| path[*i] == b'/')
            .chain(std::iter::once(path.len()));
        let mut hidden = is_opaque(layer)?;
        for end in ends {
            let stat = match tree::stat_path(layer, &path[..end]) {
                Ok(stat) => stat,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            if stat.node == Node::Whiteout {
                return Ok(None);
            }
            if end == path.len() {
                return Ok(Some(stat));
            }
            if stat.node != Node::Directory {
                return Ok(None);
            }
            hidden |= is_opaque(&tree::on_disk(layer, &path[..end]))?;
        }
        if hidden {
            return Ok(None);
        }
    }
    Ok(None)
}

pub(crate) fn is_opaque(dir: &Path) -> io::Result<bool> {
    let mut value = [0; 4];
    match rustix::fs::lgetxattr(dir, unpack::OPAQUE, &mut value[..]) {
        Ok(n) => Ok(&value[..n] == b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
