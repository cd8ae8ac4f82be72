//! An image whose blobs come one by one, from somewhere that is asked for them: a registry.
//!
//! ```text
//! source --open(digest, offset)--> staging/pull-<hex> --follow--> worker: decompress+hash -> unpack
//!   (three at once, gone on with where they broke off)
//!     all there, all as their digests say -> publish
//! ```
//! A blob that broke off stays in staging, for the next try or the next engine to go on with: it is
//! verified as a whole in the end, so nothing depends on what a crash left in it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;

use super::load::{Job, Pool, check_diff, workers};
use super::publish::Batch;
use super::{LayerInfo, LoadError, LoadedImage, NewImage};
use crate::archive;
use crate::blobs::Staged;
use crate::config::ImageConfig;
use crate::layers::{chain_id, short};
use crate::leases::Resource;
use crate::meta::lock;
use crate::progress::{Action, Progress, Update};
use crate::reference::is_digest;
use crate::{Store, leases::Lease};

/// Blobs that come at the same time.
const AT_ONCE: usize = 3;
/// How often a blob that brings nothing new is asked for.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const TELL_EVERY: u64 = 512 << 10;
const CHUNK: usize = 128 << 10;

/// Where the bytes of a blob are had from.
pub trait Source: Sync {
    /// Opens a blob at an offset, or where it cannot, at an earlier one; says which.
    ///
    /// # Errors
    /// `NotFound` and `PermissionDenied` are final; others are tried again.
    fn open(&self, digest: &str, offset: u64) -> io::Result<(u64, Box<dyn Read + Send>)>;
}

/// An image to be brought in.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// As received: its digest is the image's name for others.
    pub manifest: Vec<u8>,
    /// As received: its digest is the image's id.
    pub config: Vec<u8>,
    /// In full, as kept: with tag, with digest.
    pub names: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: archive::Descriptor,
    layers: Vec<archive::Descriptor>,
}

/// A layer's blob, once it is here.
enum Arrived {
    /// It was here before.
    Known,
    Staged(Arc<Staged>),
}

impl Store {
    /// Brings an image in, durably when it returns. On failure nothing is left of it but blobs that
    /// broke off, to be gone on with.
    ///
    /// # Errors
    /// A blob cannot be had, is not what its digest says, or the disk refuses.
    pub fn pull(
        &self,
        request: &PullRequest,
        source: &dyn Source,
        progress: &dyn Progress,
    ) -> Result<LoadedImage, LoadError> {
        let image = plan(request)?;
        let lease = self.lease();
        let layers = self.arrive(&image, &lease, source, progress)?;
        let mut batch = Batch {
            images: vec![image],
            ..layers
        };
        for bytes in [&request.config, &request.manifest] {
            let (digest, staged) = self.stage_bytes(bytes)?;
            batch.blobs.insert(digest, staged);
        }
        let mut loaded = self.publish(batch, progress)?;
        loaded.pop().ok_or(LoadError::NotAnImage)
    }

    /// All layers, each once.
    fn arrive(
        &self,
        image: &NewImage,
        lease: &Lease,
        source: &dyn Source,
        progress: &dyn Progress,
    ) -> Result<Batch, LoadError> {
        let mut wanted: Vec<&LayerInfo> = Vec::new();
        for layer in &image.layers {
            lease.hold(Resource::Blob(layer.blob.clone()));
            lease.hold(Resource::Layer(layer.chain.clone()));
            if !wanted.iter().any(|w| w.blob == layer.blob) {
                tell(progress, layer, Action::Waiting, 0);
                wanted.push(layer);
            }
        }
        let queue = Mutex::new(wanted.iter().copied().collect::<VecDeque<_>>());
        let arrived = Mutex::new(BTreeMap::new());
        let failed: Mutex<Option<LoadError>> = Mutex::new(None);
        let pool = Pool::default();
        std::thread::scope(|scope| {
            for _ in 0..workers() {
                scope.spawn(|| pool.work(self, progress));
            }
            let downloads: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        while let Some(layer) = next(&queue, &failed) {
                            match self.take(layer, source, &pool, progress) {
                                Ok(one) => drop(lock(&arrived).insert(layer.blob.clone(), one)),
                                Err(error) => drop(lock(&failed).get_or_insert(error)),
                            }
                        }
                    })
                })
                .collect();
            for download in downloads {
                drop(download.join());
            }
            pool.close(lock(&failed).is_some());
        });
        let mut results = pool.results();
        let mut batch = Batch::default();
        let failed = lock(&failed).take();
        let arrived = std::mem::take(&mut *lock(&arrived));
        let done = match failed {
            Some(error) => Err(error),
            None => self.gather(&wanted, arrived, &mut results, &mut batch),
        };
        for layer in results.into_values().flatten() {
            self.drop_layer(&layer);
        }
        if done.is_err() {
            for layer in batch.layers.values() {
                self.drop_layer(layer);
            }
        }
        done.map(|()| batch).map_err(LoadError::classified)
    }

    fn gather(
        &self,
        wanted: &[&LayerInfo],
        mut arrived: BTreeMap<String, Arrived>,
        results: &mut super::load::Results,
        batch: &mut Batch,
    ) -> Result<(), LoadError> {
        for layer in wanted {
            if let Some(unpacked) = results.remove(&layer.blob) {
                let unpacked = unpacked?;
                let found = unpacked.diff.clone();
                batch.layers.insert(layer.blob.clone(), unpacked);
                check_diff(&layer.diff, found)?;
            } else if let Some(known) = self.diff_of_blob(&layer.blob)? {
                check_diff(&layer.diff, known)?;
            }
            if let Some(Arrived::Staged(staged)) = arrived.remove(&layer.blob) {
                batch.blobs.insert(layer.blob.clone(), staged);
            }
        }
        Ok(())
    }

    /// Brings one layer's blob, while a worker unpacks it.
    fn take(
        &self,
        layer: &LayerInfo,
        source: &dyn Source,
        pool: &Pool,
        progress: &dyn Progress,
    ) -> Result<Arrived, LoadError> {
        if self.verify_blob(&layer.blob).is_ok() {
            tell(progress, layer, Action::Exists, layer.blob_size);
            return Ok(Arrived::Known);
        }
        let mut download = self.resume_blob(&layer.blob)?;
        let staged = Arc::clone(&download.staged);
        let job = || Job {
            member: layer.blob.clone(),
            name: short(&layer.blob).to_owned(),
            size: layer.blob_size,
            staged: Arc::clone(&staged),
        };
        // one that lies here for long may be spoiled: nothing is made of it before it is verified
        let fresh = staged.len() == 0;
        if fresh {
            pool.add(job());
        }
        let whole = fill(&mut download, layer, source, progress).inspect_err(|error| {
            staged.fail();
            if !matches!(error, LoadError::Source { .. }) {
                // a full disk is not to be kept full
                staged.spoil();
            }
        })?;
        let digest = download.finish().inspect_err(|_| staged.fail())?;
        if whole != layer.blob_size || digest != layer.blob {
            staged.spoil();
            return Err(super::LayerError::WrongBlob {
                digest: layer.blob.clone(),
                found: digest,
            }
            .into());
        }
        staged.sync()?;
        if !fresh {
            pool.add(job());
        }
        Ok(Arrived::Staged(staged))
    }
}

fn next<'a>(
    queue: &Mutex<VecDeque<&'a LayerInfo>>,
    failed: &Mutex<Option<LoadError>>,
) -> Option<&'a LayerInfo> {
    if lock(failed).is_some() {
        return None;
    }
    lock(queue).pop_front()
}

fn tell(progress: &dyn Progress, layer: &LayerInfo, action: Action, done: u64) {
    progress.update(&Update {
        id: short(&layer.blob),
        action,
        done,
        total: Some(layer.blob_size),
    });
}

/// Reads until all is there, and goes on where it breaks off. Answers how much there is: not more than
/// a byte too much.
fn fill(
    download: &mut crate::blobs::BlobWriter,
    layer: &LayerInfo,
    source: &dyn Source,
    progress: &dyn Progress,
) -> Result<u64, LoadError> {
    let mut failures = 0;
    while download.len() < layer.blob_size {
        let before = download.len();
        match copy(download, layer, source, progress) {
            Ok(()) if download.len() > before => failures = 0,
            Ok(()) => failures += 1,
            Err(Broken::Disk(error)) => return Err(error.into()),
            Err(Broken::Source(error)) => {
                let last = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                );
                failures = if download.len() > before {
                    1
                } else {
                    failures + 1
                };
                if last || failures >= TRIES {
                    return Err(LoadError::Source {
                        digest: layer.blob.clone(),
                        source: error,
                    });
                }
                tracing::info!(blob = layer.blob, %error, "broke off, and is asked for again");
            }
        }
        if failures >= TRIES {
            let source = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends at {} of {} bytes", download.len(), layer.blob_size),
            );
            return Err(LoadError::Source {
                digest: layer.blob.clone(),
                source,
            });
        }
        if failures > 0 {
            std::thread::sleep(FIRST_PAUSE * 2_u32.pow(failures - 1));
        }
    }
    tell(progress, layer, Action::Loading, download.len());
    Ok(download.len())
}

enum Broken {
    Source(io::Error),
    Disk(crate::disk::DiskError),
}

/// From one opening of the source, as far as it goes.
fn copy(
    download: &mut crate::blobs::BlobWriter,
    layer: &LayerInfo,
    source: &dyn Source,
    progress: &dyn Progress,
) -> Result<(), Broken> {
    let (at, stream) = source
        .open(&layer.blob, download.len())
        .map_err(Broken::Source)?;
    // from the beginning again: what is there is passed over, and verified in the end
    let mut over = download.len().saturating_sub(at);
    let mut stream = stream.take(layer.blob_size.saturating_sub(at) + 1);
    let mut buffer = vec![0; CHUNK];
    let mut told = download.len();
    loop {
        let n = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Broken::Source(e)),
        };
        let skip = usize::try_from(over).unwrap_or(usize::MAX).min(n);
        over -= skip as u64;
        download
            .write(buffer.get(skip..n).unwrap_or_default())
            .map_err(Broken::Disk)?;
        if download.len() > layer.blob_size {
            return Ok(());
        }
        if download.len() - told >= TELL_EVERY {
            told = download.len();
            tell(progress, layer, Action::Loading, told);
        }
    }
}

/// What the manifest and the configuration say, checked against each other.
fn plan(request: &PullRequest) -> Result<NewImage, LoadError> {
    let wrong = |document: &str, what: String| LoadError::Document {
        document: document.to_owned(),
        what,
    };
    let manifest: Manifest = serde_json::from_slice(&request.manifest)
        .map_err(|e| wrong("the manifest", e.to_string()))?;
    let config: ImageConfig = serde_json::from_slice(&request.config)
        .map_err(|e| wrong("the configuration", e.to_string()))?;
    let id = archive::digest(&request.config);
    if manifest.config.digest != id {
        return Err(super::LayerError::WrongBlob {
            digest: manifest.config.digest,
            found: id,
        }
        .into());
    }
    let diffs = &config.rootfs.diff_ids;
    if diffs.len() != manifest.layers.len() || diffs.len() > archive::MAX_LAYERS {
        return Err(wrong(
            "the manifest",
            format!(
                "it lists {} layers, the configuration {} (at most {})",
                manifest.layers.len(),
                diffs.len(),
                archive::MAX_LAYERS
            ),
        ));
    }
    let mut layers: Vec<LayerInfo> = Vec::with_capacity(diffs.len());
    for (layer, diff) in manifest.layers.into_iter().zip(diffs) {
        if !is_digest(diff) || !is_digest(&layer.digest) {
            let text = format!("{diff:?} or {:?} is not a sha256 digest", layer.digest);
            return Err(wrong("the manifest", text));
        }
        let parent = layers.last().map(|l| l.chain.as_str());
        layers.push(LayerInfo {
            chain: chain_id(parent, diff),
            diff: diff.clone(),
            blob: layer.digest,
            media_type: layer.media_type,
            blob_size: layer.size,
            size: 0,
        });
    }
    Ok(NewImage {
        step: None,
        id,
        manifest: archive::digest(&request.manifest),
        config: request.config.clone(),
        parent: None,
        layers,
        names: request.names.clone(),
    })
}
