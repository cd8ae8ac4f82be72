//! Committing a container: its changes become a layer on top of the image it stands on.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::import::{NewParts, full_name};
use super::publish::Batch;
use super::{CommitError, CommitRequest, Compression, ImageInfo, LayerInfo, LoadError};
use crate::Store;
use crate::archive::{LAYER_GZIP, LAYER_PLAIN, LAYER_ZSTD};
use crate::blobs::{BlobWriter, Staged};
use crate::config::{History, ImageConfig, apply_change};
use crate::diff::{DiffError, excluded, pack_upper};
use crate::layers::{BlobFacts, chain_id};
use crate::leases::Resource;
use crate::progress::{Action, Progress, Update};

impl Store {
    /// Makes an image of a container's changes on top of the image it stands on; answers with its
    /// id. Durable when it returns. The container should be paused or stopped.
    ///
    /// # Errors
    /// The request is refused, or the disk refuses; nothing is left behind then.
    pub fn commit(
        &self,
        request: &CommitRequest,
        progress: &dyn Progress,
    ) -> Result<String, CommitError> {
        let name = full_name(request.reference.as_deref())?;
        let mut run = request.config.clone();
        for change in &request.changes {
            apply_change(&mut run, change)?;
        }
        let parent = self.image(&request.parent)?;
        let lease = self.lease();
        lease.hold(Resource::Image(parent.id.clone()));
        let source = (request.container.as_str(), request.exclude.as_slice());
        let (blob, staged, diff) = self.pack_container(source, request.compression, progress)?;
        let facts = BlobFacts {
            name: "commit",
            size: Some(staged.len()),
            complete: true,
        };
        let lowers = self.rootfs_layers(&parent.id)?;
        let layer = self
            .stage_layer(staged.follow(), facts, Some(&lowers), progress)
            .map_err(|e| LoadError::from(e).classified())?;
        let below = parent.layers.last().map(|l| l.chain.as_str());
        let mut layers = parent.layers.clone();
        layers.push(LayerInfo {
            chain: chain_id(below, &diff),
            diff,
            blob: blob.clone(),
            media_type: media_type(request.compression).into(),
            blob_size: staged.len(),
            size: 0,
        });
        let parts = NewParts {
            config: committed_config(request, &parent, run),
            layers,
            parent: Some(parent.id.clone()),
            name,
            step: None,
        };
        let batch = Batch {
            blobs: BTreeMap::from([(blob.clone(), staged)]),
            layers: BTreeMap::from([(blob, layer)]),
            images: Vec::new(),
        };
        Ok(self.publish_new(parts, batch, progress)?)
    }

    /// The changes as a blob in staging, with its digest and that of its content.
    pub(super) fn pack_container(
        &self,
        (container, exclude): (&str, &[String]),
        compression: Compression,
        progress: &dyn Progress,
    ) -> Result<(String, Arc<Staged>, String), CommitError> {
        let (upper, _) = self.upper_and_lowers(container)?;
        self.pack_layer(compression, progress, |sink| {
            Ok(pack_upper(upper.path(), &excluded(exclude), sink)?)
        })
    }

    /// What `pack` writes as a blob in staging, with its digest and that of its content.
    pub(super) fn pack_layer<'a>(
        &self,
        compression: Compression,
        progress: &'a dyn Progress,
        pack: impl FnOnce(Hashing<'a>) -> Result<Hashing<'a>, CommitError>,
    ) -> Result<(String, Arc<Staged>, String), CommitError> {
        let writer = self
            .stage_blob()
            .map_err(|e| LoadError::from(e).classified())?;
        let staged = Arc::clone(&writer.staged);
        let sink = Hashing {
            inner: Packed::new(writer, compression).map_err(DiffError::Write)?,
            hash: Sha256::new(),
            done: 0,
            told: 0,
            progress,
        };
        let sink = pack(sink)?;
        let diff = format!("sha256:{}", hex::encode(sink.hash.finalize()));
        let writer = sink.inner.finish().map_err(DiffError::Write)?;
        let blob = writer.finish().map_err(LoadError::from)?;
        Ok((blob, staged, diff))
    }
}

pub(super) fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => LAYER_GZIP,
        Compression::Zstd => LAYER_ZSTD,
        Compression::None => LAYER_PLAIN,
    }
}

fn committed_config(
    request: &CommitRequest,
    parent: &ImageInfo,
    run: crate::config::RunConfig,
) -> ImageConfig {
    let now = crate::now();
    let mut config = ImageConfig::clone(&parent.config);
    let command = run.cmd.clone().unwrap_or_default().join(" ");
    config.config = run;
    config.created.clone_from(&now);
    config.author.clone_from(&request.author);
    config.comment.clone_from(&request.message);
    // what Docker's builder of old noted about its own container
    for key in ["container", "container_config", "id", "parent"] {
        config.other.remove(key);
    }
    config.history.push(History {
        created: now,
        created_by: command,
        author: request.author.clone(),
        comment: request.message.clone(),
        ..History::default()
    });
    config
}

/// A compressor whose output does not depend on anything but its input.
enum Packed {
    Plain(BlobWriter),
    Gzip(Box<flate2::write::GzEncoder<BlobWriter>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, BlobWriter>>),
}

impl Packed {
    fn new(inner: BlobWriter, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(inner),
            Compression::Gzip => Self::Gzip(Box::new(
                // no name, no time in the header
                flate2::GzBuilder::new().write(inner, flate2::Compression::new(6)),
            )),
            Compression::Zstd => Self::Zstd(Box::new(zstd::stream::write::Encoder::new(inner, 3)?)),
        })
    }

    fn finish(self) -> io::Result<BlobWriter> {
        match self {
            Self::Plain(w) => Ok(w),
            Self::Gzip(w) => w.finish(),
            Self::Zstd(w) => w.finish(),
        }
    }
}

impl Write for Packed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(w) => w.write_all(buf).map(|()| buf.len()),
            Self::Gzip(w) => w.write(buf),
            Self::Zstd(w) => w.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Hashing<'a> {
    inner: Packed,
    hash: Sha256,
    done: u64,
    told: u64,
    progress: &'a dyn Progress,
}

impl Write for Hashing<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.done += n as u64;
        if self.done - self.told >= 1 << 20 {
            self.told = self.done;
            self.progress.update(&Update {
                id: "commit",
                action: Action::Compressing,
                done: self.done,
                total: None,
            });
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
