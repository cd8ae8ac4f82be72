//! Importing the files of a root file system as an image of one layer.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::index::NewImage;
use super::publish::Batch;
use super::{ImportError, ImportRequest, LayerInfo, LoadError};
use crate::Store;
use crate::archive::{self, digest, host_architecture, make_manifest};
use crate::blobs::{BlobWriter, Staged};
use crate::config::{History, ImageConfig, RootFs, RunConfig, apply_change};
use crate::layers::{BlobFacts, StagedLayer, read_up_to};
use crate::pipe::{Packing, sniff};
use crate::progress::{Action, Progress, Update};
use crate::reference::Reference;

const PIECE: usize = 256 << 10;

impl Store {
    /// Makes an image of one layer of a tar archive (plain, gzip or zstd) of a root file system;
    /// answers with its id. Durable when it returns.
    ///
    /// # Errors
    /// The archive or the request is refused, or the disk refuses; nothing is left behind then.
    pub fn import(
        &self,
        tar: &mut dyn Read,
        request: &ImportRequest,
        progress: &dyn Progress,
    ) -> Result<String, ImportError> {
        let mut run = request.config.clone();
        for change in &request.changes {
            apply_change(&mut run, change)?;
        }
        let name = full_name(request.reference.as_deref())?;
        let config = new_config(run, &request.platform)?;
        let (blob, staged, packing, layer) = self
            .take_layer(tar, progress)
            .map_err(LoadError::classified)?;
        let now = crate::now();
        let image = NewParts {
            config: ImageConfig {
                created: now.clone(),
                history: vec![History {
                    created: now,
                    comment: if request.message.is_empty() {
                        "Imported from -".into()
                    } else {
                        request.message.clone()
                    },
                    ..History::default()
                }],
                ..config
            },
            layers: vec![LayerInfo {
                chain: layer.diff.clone(),
                diff: layer.diff.clone(),
                blob_size: staged.len(),
                blob: blob.clone(),
                media_type: archive::media_type(packing).into(),
                size: 0,
            }],
            parent: None,
            name,
            step: None,
        };
        let batch = Batch {
            blobs: BTreeMap::from([(blob.clone(), staged)]),
            layers: BTreeMap::from([(blob, layer)]),
            images: Vec::new(),
        };
        Ok(self.publish_new(image, batch, progress)?)
    }

    /// Publishes one image made here.
    pub(super) fn publish_new(
        &self,
        parts: NewParts,
        mut batch: Batch,
        progress: &dyn Progress,
    ) -> Result<String, LoadError> {
        let NewParts {
            mut config,
            layers,
            parent,
            name,
            step,
        } = parts;
        config.rootfs = RootFs {
            kind: "layers".into(),
            diff_ids: layers.iter().map(|l| l.diff.clone()).collect(),
        };
        let config = config.to_bytes();
        let manifest = make_manifest(&config, &layers);
        for bytes in [&config, &manifest] {
            let staged = self.stage_bytes(bytes);
            let (digest, staged) = match staged {
                Ok(staged) => staged,
                Err(e) => {
                    for layer in batch.layers.values() {
                        self.drop_layer(layer);
                    }
                    return Err(e.into());
                }
            };
            batch.blobs.insert(digest, staged);
        }
        let id = digest(&config);
        batch.images.push(NewImage {
            step,
            id: id.clone(),
            manifest: digest(&manifest),
            config,
            parent,
            layers,
            names: name.into_iter().collect(),
        });
        self.publish(batch, progress)?;
        Ok(id)
    }

    /// Stages a layer's stream as a blob and unpacks it meanwhile.
    fn take_layer(
        &self,
        tar: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<(String, Arc<Staged>, Packing, StagedLayer), LoadError> {
        let mut buffer = vec![0; PIECE];
        let n = read_up_to(tar, &mut buffer).map_err(LoadError::Read)?;
        let packing = sniff(&buffer[..n]).map_err(LoadError::Compression)?;
        let mut writer = self.stage_blob()?;
        let staged = Arc::clone(&writer.staged);
        std::thread::scope(|scope| {
            let follow = staged.follow();
            let unpacker = scope.spawn(move || {
                let facts = BlobFacts {
                    name: "import",
                    size: None,
                    complete: true,
                };
                self.stage_layer(follow, facts, None, progress)
            });
            // it ends before the stream only if it refuses what it got
            let gone = || unpacker.is_finished();
            let taken = take_blob(tar, &mut writer, (&mut buffer, n), &gone, progress)
                .and_then(|()| Ok(writer.finish()?))
                .and_then(|digest| {
                    staged.sync()?;
                    Ok(digest)
                })
                .inspect_err(|_| staged.fail());
            let layer = unpacker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (taken, layer) {
                (Ok(digest), Ok(layer)) => Ok((digest, Arc::clone(&staged), packing, layer)),
                (Ok(_), Err(e)) => Err(e.into()),
                (Err(e), layer) => {
                    if let Ok(layer) = layer {
                        self.drop_layer(&layer);
                    }
                    Err(e)
                }
            }
        })
    }
}

/// What an image made here consists of.
pub(super) struct NewParts {
    pub(super) config: ImageConfig,
    pub(super) layers: Vec<LayerInfo>,
    pub(super) parent: Option<String>,
    /// In full.
    pub(super) name: Option<String>,
    /// As a step of a build.
    pub(super) step: Option<super::steps::StepRow>,
}

fn take_blob(
    tar: &mut dyn Read,
    writer: &mut BlobWriter,
    (buffer, first): (&mut [u8], usize),
    gone: &dyn Fn() -> bool,
    progress: &dyn Progress,
) -> Result<(), LoadError> {
    let mut n = first;
    let (mut done, mut told) = (0_u64, 0_u64);
    while n > 0 && !gone() {
        writer.write(&buffer[..n])?;
        done += n as u64;
        if done - told >= 1 << 20 {
            told = done;
            progress.update(&Update {
                id: "import",
                action: Action::Loading,
                done,
                total: None,
            });
        }
        n = loop {
            match tar.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(LoadError::Read)?,
            }
        };
    }
    Ok(())
}

/// A name in full, with a tag.
pub(super) fn full_name(
    name: Option<&str>,
) -> Result<Option<String>, crate::reference::ReferenceError> {
    let name = name.filter(|n| !n.is_empty());
    let Some(text) = name else { return Ok(None) };
    let reference = Reference::parse(text)?.with_default_tag();
    if reference.digest().is_some() {
        return Err(crate::reference::ReferenceError::Tag(text.to_owned()));
    }
    Ok(Some(reference.to_string()))
}

fn new_config(run: RunConfig, platform: &str) -> Result<ImageConfig, ImportError> {
    let bad = || ImportError::Platform(platform.to_owned());
    let mut parts = platform.split('/');
    let (os, arch, variant) = (parts.next(), parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(bad());
    }
    let word = |part: Option<&str>, default: &str| match part {
        None | Some("") => Ok(default.to_owned()),
        Some(w) if w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
            Ok(w.to_lowercase())
        }
        Some(_) => Err(bad()),
    };
    let os = word(os, "linux")?;
    if os != "linux" {
        return Err(bad());
    }
    Ok(ImageConfig {
        architecture: word(arch, host_architecture())?,
        variant: word(variant, "")?,
        os,
        config: run,
        ..ImageConfig::default()
    })
}
