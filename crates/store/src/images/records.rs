//! Copies of the index's rows of images as files, so that the index can be rebuilt: names are
//! nowhere else.
//!
//! ```text
//! images/<hex of id>.json    manifest, parent, names, layers; the configuration is a blob
//! ```
//! The rows are the truth; the background thread brings the files up to them.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::index::{self, NewImage};
use super::{ImageError, LayerInfo};
use crate::Store;
use crate::disk;

/// Fields are only ever added, with `#[serde(default)]`.
#[derive(Debug, Serialize, Deserialize)]
struct ImageFile {
    id: String,
    manifest: String,
    #[serde(default)]
    parent: Option<String>,
    added_at: String,
    names: Vec<String>,
    layers: Vec<LayerFile>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerFile {
    chain: String,
    diff: String,
    blob: String,
    media_type: String,
    blob_size: u64,
}

impl Store {
    /// Writes the files that differ from the rows, removes those without a row.
    pub(crate) fn copy_images(&self) -> Result<(), ImageError> {
        let files = self.meta().read(rows)?;
        let dir = self.images_dir();
        for name in disk::names(&dir)? {
            if !files.contains_key(&*name.to_string_lossy()) {
                disk::remove_file(&dir.join(name))?;
            }
        }
        for (name, file) in files {
            let bytes = serde_json::to_vec(&file).expect("strings and numbers always encode");
            let path = dir.join(name);
            if disk::read_optional(&path)?.as_ref() != Some(&bytes) {
                disk::write_lazy(&path, &bytes, 0o600)?;
            }
        }
        Ok(())
    }
}

fn rows(db: &Connection) -> Result<BTreeMap<String, ImageFile>, ImageError> {
    let mut images = db.prepare_cached("SELECT id, manifest, parent, added_at FROM images")?;
    let mut layers = db.prepare_cached(
        "SELECT chain, diff, blob, media_type, blob_size FROM image_layers
         WHERE image = ?1 ORDER BY position",
    )?;
    let mut all = BTreeMap::new();
    let mut found = images.query([])?;
    while let Some(r) = found.next()? {
        let id: String = r.get(0)?;
        let layers = layers
            .query_map([&id], |r| {
                Ok(LayerFile {
                    chain: r.get(0)?,
                    diff: r.get(1)?,
                    blob: r.get(2)?,
                    media_type: r.get(3)?,
                    blob_size: r.get::<_, i64>(4)?.cast_unsigned(),
                })
            })?
            .collect::<Result<_, _>>()?;
        let file = ImageFile {
            manifest: r.get(1)?,
            parent: r.get(2)?,
            added_at: r.get(3)?,
            names: index::names_of(db, &id)?,
            layers,
            id,
        };
        let hex = super::hex_of(&file.id).unwrap_or("none").to_owned();
        all.insert(format!("{hex}.json"), file);
    }
    Ok(all)
}

/// Puts the image of a file into a database that lost it. Its configuration must be there, whole.
pub(crate) fn adopt(db: &Connection, path: &Path) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let file: ImageFile = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let hex = super::hex_of(&file.id).ok_or("its id isn't a digest")?;
    let root = path
        .parent()
        .and_then(Path::parent)
        .ok_or("it lies nowhere")?;
    let blob = root.join("blobs/sha256").join(&hex[..2]).join(hex);
    let config = std::fs::read(&blob).map_err(|e| format!("its configuration: {e}"))?;
    if hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&config)) != hex {
        return Err("its configuration is damaged: load the image again".to_owned());
    }
    let new = NewImage {
        step: None,
        manifest: file.manifest,
        config,
        parent: file.parent,
        names: file.names,
        layers: file
            .layers
            .into_iter()
            .map(|l| LayerInfo {
                chain: l.chain,
                diff: l.diff,
                blob: l.blob,
                media_type: l.media_type,
                blob_size: l.blob_size,
                size: 0,
            })
            .collect(),
        id: file.id,
    };
    index::insert(db, &new).map_err(|e| e.to_string())?;
    db.execute(
        "UPDATE images SET added_at = ?2 WHERE id = ?1",
        [&new.id, &file.added_at],
    )
    .map_err(|e| e.to_string())?;
    Ok(())
}
