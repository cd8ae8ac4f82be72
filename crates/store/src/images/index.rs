//! The tables of images, names and layers, and what only reads or renames.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::{HistoryLine, ImageError, ImageInfo, LayerInfo, Tagged};
use crate::Store;
use crate::config::ImageConfig;
use crate::meta::MetaError;
use crate::reference::{Reference, familiar, is_digest};

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS images (
  id TEXT PRIMARY KEY,
  manifest TEXT NOT NULL,
  config BLOB NOT NULL,
  parent TEXT,
  added_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS image_layers (
  image TEXT NOT NULL,
  position INTEGER NOT NULL,
  chain TEXT NOT NULL,
  diff TEXT NOT NULL,
  blob TEXT NOT NULL,
  media_type TEXT NOT NULL,
  blob_size INTEGER NOT NULL,
  PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS image_layers_chain ON image_layers (chain);
CREATE INDEX IF NOT EXISTS image_layers_blob ON image_layers (blob);
CREATE TABLE IF NOT EXISTS image_names (
  name TEXT PRIMARY KEY,
  image TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS image_names_image ON image_names (image);
CREATE TABLE IF NOT EXISTS layers (
  chain TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  boot TEXT NOT NULL,
  stable INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What is put into the index for one image.
#[derive(Debug, Clone)]
pub(crate) struct NewImage {
    pub(crate) id: String,
    pub(crate) manifest: String,
    pub(crate) config: Vec<u8>,
    pub(crate) parent: Option<String>,
    pub(crate) layers: Vec<LayerInfo>,
    /// In full.
    pub(crate) names: Vec<String>,
    /// As a step of a build.
    pub(crate) step: Option<super::steps::StepRow>,
}

/// Puts an image in, or gives one that is there the names. Answers with the images that lost a name.
pub(crate) fn insert(db: &Connection, new: &NewImage) -> Result<Vec<Tagged>, MetaError> {
    let now = crate::now();
    let fresh = db
        .prepare_cached(
            "INSERT INTO images (id, manifest, config, parent, added_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![new.id, new.manifest, new.config, new.parent, now])?;
    if fresh == 0 {
        db.prepare_cached("UPDATE images SET added_at = ?2 WHERE id = ?1")?
            .execute(params![new.id, now])?;
    } else {
        let mut add = db.prepare_cached(
            "INSERT INTO image_layers (image, position, chain, diff, blob, media_type, blob_size)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for (i, l) in new.layers.iter().enumerate() {
            let size = i64::try_from(l.blob_size).unwrap_or(i64::MAX);
            add.execute(params![
                new.id,
                i,
                l.chain,
                l.diff,
                l.blob,
                l.media_type,
                size
            ])?;
        }
    }
    if let Some(step) = &new.step {
        super::steps::note(db, step, &new.id)?;
    }
    new.names
        .iter()
        .map(|name| set_name(db, name, &new.id))
        .collect()
}

pub(super) fn set_name(db: &Connection, name: &str, id: &str) -> Result<Tagged, MetaError> {
    let old: Option<String> = db
        .prepare_cached("SELECT image FROM image_names WHERE name = ?1")?
        .query_row([name], |r| r.get(0))
        .optional()?;
    db.prepare_cached(
        "INSERT INTO image_names (name, image) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET image = ?2",
    )?
    .execute([name, id])?;
    Ok(Tagged {
        id: id.to_owned(),
        name: familiar(name),
        displaced: old.filter(|o| o != id),
    })
}

/// The id of the image a user means: a name, a digest, an id or the start of one.
pub(crate) fn resolve(db: &Connection, text: &str) -> Result<String, ImageError> {
    let exists = |id: &str| -> Result<Option<String>, ImageError> {
        Ok(db
            .prepare_cached("SELECT id FROM images WHERE id = ?1")?
            .query_row([id], |r| r.get(0))
            .optional()?)
    };
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let looks_like_id = !hex.is_empty()
        && hex.len() <= 64
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if looks_like_id && hex.len() == 64 {
        let id = format!("sha256:{hex}");
        return exists(&id)?.ok_or_else(|| ImageError::NotFound(text.into()));
    }
    // a name wins over the start of an id, as in Docker
    match Reference::parse(text) {
        Ok(reference) => {
            if let Some(id) = by_name(db, &reference)? {
                return Ok(id);
            }
        }
        Err(e) if !looks_like_id => return Err(e.into()),
        Err(_) => {}
    }
    if looks_like_id {
        let mut by_prefix =
            db.prepare_cached("SELECT id FROM images WHERE id >= ?1 AND id < ?2 LIMIT 2")?;
        let (from, to) = (format!("sha256:{hex}"), format!("sha256:{hex}g"));
        let found = by_prefix
            .query_map([from, to], |r| r.get(0))?
            .collect::<Result<Vec<String>, _>>()?;
        return match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(ImageError::NotFound(text.into())),
            _ => Err(ImageError::Ambiguous(text.into())),
        };
    }
    Err(ImageError::NotFound(text.into()))
}

fn by_name(db: &Connection, reference: &Reference) -> Result<Option<String>, ImageError> {
    let full = reference.clone().with_default_tag();
    let key = match full.digest() {
        // with a digest the tag is only decoration
        Some(digest) => format!("{}@{digest}", full.repository()),
        None => full.to_string(),
    };
    Ok(db
        .prepare_cached("SELECT image FROM image_names WHERE name = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()?)
}

/// Names of an image in full, sorted.
pub(crate) fn names_of(db: &Connection, id: &str) -> Result<Vec<String>, MetaError> {
    Ok(db
        .prepare_cached("SELECT name FROM image_names WHERE image = ?1 ORDER BY name")?
        .query_map([id], |r| r.get(0))?
        .collect::<Result<_, _>>()?)
}

pub(crate) fn layers_of(db: &Connection, id: &str) -> Result<Vec<LayerInfo>, MetaError> {
    let row = |r: &rusqlite::Row<'_>| {
        Ok(LayerInfo {
            chain: r.get(0)?,
            diff: r.get(1)?,
            blob: r.get(2)?,
            media_type: r.get(3)?,
            blob_size: positive(r.get(4)?),
            size: positive(r.get::<_, Option<i64>>(5)?.unwrap_or(0)),
        })
    };
    Ok(db
        .prepare_cached(
            "SELECT i.chain, i.diff, i.blob, i.media_type, i.blob_size, l.size
             FROM image_layers i LEFT JOIN layers l ON l.chain = i.chain
             WHERE i.image = ?1 ORDER BY i.position",
        )?
        .query_map([id], row)?
        .collect::<Result<_, _>>()?)
}

fn positive(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// What the index holds of one image.
pub(crate) fn info(db: &Connection, id: &str) -> Result<ImageInfo, ImageError> {
    let (manifest, bytes, parent, added): (String, Vec<u8>, Option<String>, String) = db
        .prepare_cached("SELECT manifest, config, parent, added_at FROM images WHERE id = ?1")?
        .query_row([id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
        .optional()?
        .ok_or_else(|| ImageError::NotFound(id.into()))?;
    let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|e| ImageError::Damaged {
        id: id.into(),
        what: e.to_string(),
    })?;
    let layers = layers_of(db, id)?;
    let (digests, names): (Vec<String>, Vec<String>) = names_of(db, id)?
        .iter()
        .map(|n| familiar(n))
        .partition(|n| n.contains('@'));
    let intermediate = names.is_empty() && digests.is_empty() && super::steps::is_only(db, id)?;
    let mut shared = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM image_layers WHERE chain = ?1 AND image <> ?2)",
    )?;
    let mut unique_size = 0;
    for layer in &layers {
        if !shared.query_row([&layer.chain, id], |r| r.get::<_, bool>(0))? {
            unique_size += layer.size;
        }
    }
    Ok(ImageInfo {
        id: id.into(),
        manifest,
        created: config.created.clone(),
        config: Arc::new(config),
        config_bytes: bytes.into(),
        names,
        digests,
        size: layers.iter().map(|l| l.size).sum(),
        unique_size,
        added,
        parent,
        intermediate,
        layers,
    })
}

impl Store {
    /// All images, newest first. One whose row can't be read is left out here and found by `fsck`.
    ///
    /// # Errors
    /// The database refuses.
    pub fn images(&self) -> Result<Vec<ImageInfo>, ImageError> {
        let mut list = self.meta().read(|db| -> Result<_, ImageError> {
            let ids: Vec<String> = db
                .prepare_cached("SELECT id FROM images ORDER BY id")?
                .query_map([], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            let mut list = Vec::with_capacity(ids.len());
            for id in ids {
                match info(db, &id) {
                    Ok(image) => list.push(image),
                    Err(error @ ImageError::Damaged { .. }) => {
                        tracing::warn!(%error, "an image is left out");
                    }
                    Err(e) => return Err(e),
                }
            }
            Ok(list)
        })?;
        list.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }

    /// The image a user means: a name, a digest, an id or the start of one.
    ///
    /// # Errors
    /// No such image, or more than one.
    pub fn image(&self, name: &str) -> Result<ImageInfo, ImageError> {
        self.meta().read(|db| info(db, &resolve(db, name)?))
    }

    /// Gives an image one more name, taking it from the image that has it. Durable when it returns.
    ///
    /// # Errors
    /// No such image, or not a name.
    pub fn tag(&self, image: &str, name: &str) -> Result<Tagged, ImageError> {
        let reference = Reference::parse(name)?.with_default_tag();
        if reference.digest().is_some() {
            return Err(ImageError::DigestAsTag(name.into()));
        }
        let image = image.to_owned();
        let tagged = self.meta().write(move |db| -> Result<_, ImageError> {
            let id = resolve(db, &image)?;
            let tagged = set_name(db, &reference.to_string(), &id)?;
            db.prepare_cached("UPDATE images SET added_at = ?2 WHERE id = ?1")?
                .execute([id, crate::now()])?;
            Ok(tagged)
        })?;
        self.image_records_are_behind();
        Ok(tagged)
    }

    /// A registry has the image by this digest (`repository@sha256:...`, in full).
    ///
    /// # Errors
    /// No such image, or the name is none of that kind.
    pub fn note_digest(&self, id: &str, name: &str) -> Result<(), ImageError> {
        let reference = Reference::parse(name)?;
        if reference.digest().is_none() {
            return Err(ImageError::NotFound(name.to_owned()));
        }
        let id = id.to_owned();
        self.meta().write(move |db| -> Result<_, ImageError> {
            let id = resolve(db, &id)?;
            set_name(db, &reference.to_string(), &id)?;
            Ok(())
        })?;
        self.image_records_are_behind();
        Ok(())
    }

    /// How the image came to be, newest step first.
    ///
    /// # Errors
    /// No such image.
    pub fn history(&self, image: &str) -> Result<Vec<HistoryLine>, ImageError> {
        let image = self.image(image)?;
        let mut sizes = image.layers.iter().map(|l| l.size);
        let mut lines: Vec<HistoryLine> = image
            .config
            .history
            .iter()
            .map(|entry| HistoryLine {
                id: String::new(),
                names: Vec::new(),
                size: if entry.empty_layer {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                },
                entry: entry.clone(),
            })
            .collect();
        // images of some builders have no history: one line for each layer then
        lines.extend(sizes.map(|size| HistoryLine {
            id: String::new(),
            names: Vec::new(),
            size,
            entry: crate::config::History {
                created: image.created.clone(),
                ..Default::default()
            },
        }));
        lines.reverse();
        if let Some(first) = lines.first_mut() {
            first.id.clone_from(&image.id);
            first.names.clone_from(&image.names);
        }
        Ok(lines)
    }

    /// Bytes of unpacked layers and of blobs, each counted once.
    ///
    /// # Errors
    /// The database refuses.
    pub fn images_usage(&self) -> Result<ImagesUsage, ImageError> {
        self.meta().read(|db| {
            let layers: i64 = db.query_row(
                "SELECT coalesce(sum(size), 0) FROM layers
                 WHERE chain IN (SELECT chain FROM image_layers)",
                [],
                |r| r.get(0),
            )?;
            let blobs: i64 = db.query_row(
                "SELECT coalesce(sum(blob_size), 0) FROM
                 (SELECT DISTINCT blob, blob_size FROM image_layers)",
                [],
                |r| r.get(0),
            )?;
            Ok(ImagesUsage {
                layers: positive(layers),
                blobs: positive(blobs),
            })
        })
    }

    /// Layers with the images that have them, for front ends that show what is shared.
    ///
    /// # Errors
    /// The database refuses.
    pub fn layer_users(&self) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        self.meta().read(|db| {
            let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut all = db.prepare_cached("SELECT chain, image FROM image_layers")?;
            let rows = all.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
            for row in rows {
                let (chain, image) = row?;
                users.entry(chain).or_default().push(image);
            }
            Ok(users)
        })
    }
}

/// What images take on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImagesUsage {
    /// Bytes unpacked.
    pub layers: u64,
    /// Bytes of blobs.
    pub blobs: u64,
}

/// Every blob that images need.
pub(crate) fn referenced_blobs(
    db: &Connection,
) -> Result<std::collections::BTreeSet<String>, MetaError> {
    Ok(db
        .prepare_cached(
            "SELECT id FROM images UNION SELECT manifest FROM images
             UNION SELECT blob FROM image_layers",
        )?
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?)
}

/// Every unpacked layer that images stand on.
pub(crate) fn referenced_layers(
    db: &Connection,
) -> Result<std::collections::BTreeSet<String>, MetaError> {
    Ok(db
        .prepare_cached("SELECT DISTINCT chain FROM image_layers")?
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?)
}

/// A digest or nothing: rows written by us hold only digests.
pub(crate) fn hex_of(digest: &str) -> Option<&str> {
    is_digest(digest).then(|| &digest["sha256:".len()..])
}
