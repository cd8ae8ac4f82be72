//! Garbage collection: blobs and unpacked layers that no root reaches go to the trash.
//!
//! Roots: every image in the index, named or not (an image goes by `rmi` or a prune, never by
//! itself; one that a container stands on can't go), and everything under a lease. Time is never a
//! reason.

use crate::Store;
use crate::disk;
use crate::images::{ImageError, hex_of};

/// What was found unreachable and moved to the trash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Digests.
    pub blobs: Vec<String>,
    /// Chain ids.
    pub layers: Vec<String>,
}

impl Store {
    /// Moves what no root reaches to the trash.
    ///
    /// # Errors
    /// The index or a directory can't be read; nothing was moved then.
    pub fn gc(&self) -> Result<Collected, ImageError> {
        let candidates = self.unreachable()?;
        self.sweep(&candidates.layers, &candidates.blobs)?;
        let layers = candidates.layers.clone();
        if !layers.is_empty() {
            self.meta().write_relaxed(move |db| {
                let mut forget = db.prepare_cached(
                    "DELETE FROM layers WHERE chain = ?1
                     AND NOT EXISTS (SELECT 1 FROM image_layers WHERE chain = ?1)",
                )?;
                for chain in &layers {
                    forget.execute([chain])?;
                }
                Ok::<_, crate::MetaError>(())
            })?;
        }
        Ok(candidates)
    }

    /// What is on disk without a root. Looked at again, under the content lock, before it is moved.
    pub(crate) fn unreachable(&self) -> Result<Collected, ImageError> {
        let on_disk = Collected {
            blobs: self.blobs_on_disk()?,
            layers: self.layers_on_disk()?,
        };
        // after the directories: what appears later isn't among them
        let (layers, blobs) = self.meta().read(|db| {
            Ok::<_, ImageError>((
                crate::images::referenced_layers(db)?,
                crate::images::referenced_blobs(db)?,
            ))
        })?;
        let leased = self.leased();
        let free =
            |d: &String, wrap: fn(String) -> crate::Resource| !leased.contains(&wrap(d.clone()));
        Ok(Collected {
            blobs: on_disk
                .blobs
                .into_iter()
                .filter(|d| !blobs.contains(d) && free(d, crate::Resource::Blob))
                .collect(),
            layers: on_disk
                .layers
                .into_iter()
                .filter(|d| !layers.contains(d) && free(d, crate::Resource::Layer))
                .collect(),
        })
    }

    pub(crate) fn blobs_on_disk(&self) -> Result<Vec<String>, ImageError> {
        let mut digests = Vec::new();
        for shelf in disk::names(&self.blobs_dir())? {
            digests.extend(digests_in(&self.blobs_dir().join(shelf))?);
        }
        Ok(digests)
    }

    pub(crate) fn layers_on_disk(&self) -> Result<Vec<String>, ImageError> {
        Ok(digests_in(&self.layers_dir())?)
    }
}

fn digests_in(dir: &std::path::Path) -> Result<Vec<String>, disk::DiskError> {
    Ok(disk::names(dir)?
        .into_iter()
        .filter_map(|n| n.into_string().ok())
        .map(|hex| format!("sha256:{hex}"))
        .filter(|digest| hex_of(digest).is_some())
        .collect())
}
