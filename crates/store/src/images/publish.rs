//! The last part of load, import and commit: from staged blobs and layers to images in the index.
//!
//! ```text
//! staged blobs -> sync -> rename -> sync of directories      (durable, but nobody refers to them)
//! staged layers -> rename                                    (a cache: not synced)
//! rows of images, layers, names -> commit                    (now they exist)
//! ```
//! What fails on the way is swept away again; what is killed on the way is swept at the next open.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::{self, NewImage};
use super::{LayerError, LayerInfo, LoadError, LoadedImage};
use crate::Store;
use crate::blobs::Staged;
use crate::layers::StagedLayer;
use crate::leases::{Lease, Resource};
use crate::progress::Progress;

/// What is to be published together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) images: Vec<NewImage>,
    /// By digest.
    pub(crate) blobs: BTreeMap<String, Arc<Staged>>,
    /// By the digest of their blob.
    pub(crate) layers: BTreeMap<String, StagedLayer>,
}

impl Store {
    /// Makes everything durable and known. On failure nothing is left of it.
    pub(crate) fn publish(
        &self,
        mut batch: Batch,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let lease = self.lease();
        let chains: Vec<String> = batch
            .images
            .iter()
            .flat_map(|i| i.layers.iter().map(|l| l.chain.clone()))
            .collect();
        let digests: Vec<String> = batch.blobs.keys().cloned().collect();
        let done = self.publish_leased(&lease, &mut batch, progress);
        for layer in batch.layers.values() {
            self.drop_layer(layer);
        }
        drop(lease);
        if done.is_err() {
            self.sweep(&chains, &digests)?;
        }
        done.map_err(LoadError::classified)
    }

    fn publish_leased(
        &self,
        lease: &Lease,
        batch: &mut Batch,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        for image in &batch.images {
            lease.hold(Resource::Image(image.id.clone()));
        }
        let blobs: Vec<_> = std::mem::take(&mut batch.blobs).into_iter().collect();
        self.keep_blobs(lease, &blobs)?;
        for image in &batch.images {
            self.publish_layers(lease, &image.layers, &mut batch.layers, progress)?;
        }
        let images = std::mem::take(&mut batch.images);
        let loaded = self.meta().write(move |db| {
            let mut loaded: Vec<LoadedImage> = Vec::new();
            for image in &images {
                let names = index::insert(db, image)?;
                loaded.push(LoadedImage {
                    id: image.id.clone(),
                    names: names.into_iter().map(|t| t.name).collect(),
                });
            }
            Ok::<_, crate::meta::MetaError>(loaded)
        })?;
        self.image_records_are_behind();
        self.request_stabilise();
        Ok(loaded)
    }

    fn publish_layers(
        &self,
        lease: &Lease,
        layers: &[LayerInfo],
        staged: &mut BTreeMap<String, StagedLayer>,
        progress: &dyn Progress,
    ) -> Result<(), LayerError> {
        let mut top_first = Vec::new();
        for layer in layers {
            lease.hold(Resource::Layer(layer.chain.clone()));
            let _healing = self.healing_lock();
            if !self.layer_usable(&layer.chain)? {
                let kept = match staged.remove(&layer.blob) {
                    Some(unpacked) => self.keep_layer(lease, &layer.chain, unpacked, &top_first)?,
                    None => false,
                };
                if !kept {
                    self.unpack_again(lease, layer, &top_first, progress)?;
                }
            }
            top_first.insert(0, self.layer_fs(&layer.chain));
        }
        Ok(())
    }
}
