//! Steps of builds: images that a build made on its way, and what is found again of them.
//!
//! ```text
//! key (digest of: what is below, the instruction, the files it takes) --> image
//! ```
//! A step is an image like any other, so collection, repair and containers need nothing of their
//! own for it. It is not listed while it has no name and no build ended with it, and it goes when
//! the cache is pruned or grows over its limit, least recently used first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use super::commit::media_type;
use super::import::{NewParts, full_name};
use super::publish::Batch;
use super::{CommitError, Compression, ImageError, ImageInfo, LayerInfo, LoadError, index, remove};
use crate::config::ImageConfig;
use crate::layers::{BlobFacts, chain_id};
use crate::leases::Resource;
use crate::meta::MetaError;
use crate::pick::Picked;
use crate::progress::NoProgress;
use crate::reference::Reference;
use crate::{DiskError, Store};

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS build_steps (
  key TEXT PRIMARY KEY,
  image TEXT NOT NULL,
  chain TEXT NOT NULL,
  what TEXT NOT NULL,
  created_at TEXT NOT NULL,
  used_at TEXT NOT NULL,
  uses INTEGER NOT NULL,
  is_result INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS build_steps_image ON build_steps (image);
";

/// What a step adds to the files below it.
#[derive(Debug)]
pub enum StepLayer<'a> {
    /// Nothing: it changes the configuration alone.
    None,
    Files(&'a Picked<'a>),
    /// What a container changed; `exclude` as in [`super::CommitRequest`].
    Container {
        id: &'a str,
        exclude: &'a [String],
    },
}

/// One step of a build.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Id of the image below; none for the first of a build from nothing.
    pub parent: Option<String>,
    /// As the image will have it, without the list of its layers.
    pub config: ImageConfig,
    /// By which it is found again.
    pub key: String,
    /// For people.
    pub what: String,
}

/// The row of a step.
#[derive(Debug, Clone)]
pub(crate) struct StepRow {
    key: String,
    what: String,
    /// The layer that it added; empty where it added none.
    chain: String,
}

/// A step that can be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedStep {
    pub key: String,
    pub image: String,
    pub what: String,
    /// RFC 3339.
    pub created: String,
    pub used: String,
    pub uses: u64,
    /// Bytes of the layer that it added, as files and as a blob.
    pub size: u64,
    /// An image that is listed has the layer too, or the step is an image with a name: pruning it
    /// frees nothing.
    pub shared: bool,
}

/// What pruning steps freed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedSteps {
    pub keys: Vec<String>,
    /// Bytes.
    pub freed: u64,
}

pub(super) fn note(db: &Connection, step: &StepRow, image: &str) -> Result<(), MetaError> {
    // what was made by this key before stays a step, which is found by nobody and goes in its turn
    db.prepare_cached(
        "UPDATE build_steps SET key = key || ':' || image WHERE key = ?1 AND image <> ?2",
    )?
    .execute([&step.key, image])?;
    db.prepare_cached(
        "INSERT INTO build_steps (key, image, chain, what, created_at, used_at, uses, is_result)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, 0) ON CONFLICT (key) DO NOTHING",
    )?
    .execute(params![
        step.key,
        image,
        step.chain,
        step.what,
        crate::now()
    ])?;
    Ok(())
}

/// Whether an image is a step and no build ended with it.
pub(super) fn is_only(db: &Connection, image: &str) -> Result<bool, MetaError> {
    let results: Option<i64> = db
        .prepare_cached("SELECT max(is_result) FROM build_steps WHERE image = ?1")?
        .query_row([image], |r| r.get(0))?;
    Ok(results == Some(0))
}

impl Store {
    /// Makes the image of a step; answers with its id. Durable when it returns.
    ///
    /// # Errors
    /// The files can't be read, or the disk refuses; nothing is left behind then.
    pub fn build_step(&self, step: Step, layer: &StepLayer<'_>) -> Result<String, CommitError> {
        let lease = self.lease();
        let mut layers = Vec::new();
        let mut lowers = Vec::new();
        if let Some(parent) = &step.parent {
            lease.hold(Resource::Image(parent.clone()));
            layers = self.image(parent)?.layers;
            lowers = self.rootfs_layers(parent)?;
        }
        let packed = match layer {
            StepLayer::None => None,
            StepLayer::Files(files) => {
                Some(self.pack_layer(Compression::Gzip, &NoProgress, |mut sink| {
                    files.write(&mut sink, true)?;
                    Ok(sink)
                })?)
            }
            StepLayer::Container { id, exclude } => {
                Some(self.pack_container((id, exclude), Compression::Gzip, &NoProgress)?)
            }
        };
        let mut batch = Batch::default();
        let mut chain = String::new();
        if let Some((blob, staged, diff)) = packed {
            let facts = BlobFacts {
                name: "build",
                size: Some(staged.len()),
                complete: true,
            };
            let unpacked = self
                .stage_layer(staged.follow(), facts, Some(&lowers), &NoProgress)
                .map_err(|e| LoadError::from(e).classified())?;
            chain = chain_id(layers.last().map(|l| l.chain.as_str()), &diff);
            layers.push(LayerInfo {
                chain: chain.clone(),
                diff,
                blob: blob.clone(),
                media_type: media_type(Compression::Gzip).into(),
                blob_size: staged.len(),
                size: 0,
            });
            batch.blobs = BTreeMap::from([(blob.clone(), staged)]);
            batch.layers = BTreeMap::from([(blob, unpacked)]);
        }
        let parts = NewParts {
            config: step.config,
            layers,
            parent: step.parent,
            name: None,
            step: Some(StepRow {
                key: step.key,
                what: step.what,
                chain,
            }),
        };
        Ok(self.publish_new(parts, batch, &NoProgress)?)
    }

    /// The image that was made by this key, if all of it is there still.
    ///
    /// # Errors
    /// The database refuses.
    pub fn cached_step(&self, key: &str) -> Result<Option<ImageInfo>, ImageError> {
        let found = self.meta().read(|db| -> Result<_, ImageError> {
            let image: Option<String> = db
                .prepare_cached("SELECT image FROM build_steps WHERE key = ?1")?
                .query_row([key], |r| r.get(0))
                .optional()?;
            match image.map(|id| index::info(db, &id)).transpose() {
                Err(ImageError::NotFound(_) | ImageError::Damaged { .. }) => Ok(None),
                found => found,
            }
        })?;
        let is_whole = |image: &ImageInfo| {
            let mut layers = image.layers.iter();
            layers.all(|l| {
                let blob = std::fs::metadata(self.blob_path(&l.blob));
                blob.is_ok_and(|b| b.len() == l.blob_size)
            })
        };
        let found = found.filter(is_whole);
        if found.is_some() {
            let key = key.to_owned();
            self.meta().write_relaxed(move |db| {
                db.prepare_cached(
                    "UPDATE build_steps SET used_at = ?2, uses = uses + 1 WHERE key = ?1",
                )?
                .execute([key, crate::now()])?;
                Ok::<_, MetaError>(())
            })?;
        }
        Ok(found)
    }

    /// A build ended with this image: it is listed, and has these names. Durable when it returns.
    /// Answers with the names as shown.
    ///
    /// # Errors
    /// No such image, or not a name.
    pub fn build_result(&self, image: &str, names: &[String]) -> Result<Vec<String>, ImageError> {
        let mut full = Vec::new();
        for name in names {
            full.extend(full_name(Some(name))?);
        }
        let id = image.to_owned();
        let shown = self.meta().write(move |db| -> Result<_, ImageError> {
            let id = index::resolve(db, &id)?;
            db.prepare_cached("UPDATE build_steps SET is_result = 1 WHERE image = ?1")?
                .execute([&id])?;
            let mut shown = Vec::new();
            for name in &full {
                shown.push(index::set_name(db, name, &id)?.name);
            }
            db.prepare_cached("UPDATE images SET added_at = ?2 WHERE id = ?1")?
                .execute([id, crate::now()])?;
            Ok(shown)
        })?;
        self.image_records_are_behind();
        Ok(shown)
    }

    /// All steps that can be found again, the least recently used first.
    ///
    /// # Errors
    /// The database refuses.
    pub fn cached_steps(&self) -> Result<Vec<CachedStep>, ImageError> {
        self.meta()
            .read(|db| -> Result<_, ImageError> { Ok(listed(db)?) })
    }

    /// Forgets steps until those that are left take no more than `keep` bytes, the least recently
    /// used first. Those that `spare` names, and images that are listed or that containers stand on,
    /// stay.
    ///
    /// # Errors
    /// The database or the disk refuses.
    pub fn prune_steps(
        &self,
        keep: u64,
        spare: &BTreeSet<String>,
        wanted: &dyn Fn(&CachedStep) -> bool,
    ) -> Result<PrunedSteps, ImageError> {
        let all = self.cached_steps()?;
        let mut total = total_of(&all);
        let mut pruned = PrunedSteps::default();
        let mut going = Vec::new();
        for step in all.iter().filter(|s| wanted(s)) {
            if keep > 0 && total <= keep {
                break;
            }
            if spare.contains(&step.image) {
                continue;
            }
            going.push((step.key.clone(), step.image.clone()));
            pruned.keys.push(step.key.clone());
            if !step.shared {
                total = total.saturating_sub(step.size);
            }
        }
        if going.is_empty() {
            return Ok(pruned);
        }
        let before = total_of(&all);
        let outcome = self.freeing(ImageError::is_out_of_space, || {
            let going = going.clone();
            self.meta().write(move |db| forget(db, &going))
        })?;
        self.image_records_are_behind();
        self.sweep(&outcome.chains, &outcome.blobs)?;
        pruned.freed = before.saturating_sub(total_of(&self.cached_steps()?));
        Ok(pruned)
    }

    /// A fresh directory for a build's own files; emptied at the next open, or by
    /// [`Self::discard_work`].
    ///
    /// # Errors
    /// The disk refuses.
    pub fn build_work(&self) -> Result<PathBuf, DiskError> {
        let dir = self.staging("build");
        crate::disk::create_dir(&dir, 0o700)?;
        Ok(dir)
    }

    /// A directory that builds keep from one to the next, made where it is not there. Nobody is
    /// promised that what is in it lasts.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn build_dir(
        &self,
        name: &str,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<PathBuf, DiskError> {
        use crate::disk::Context as _;
        let dir = self.root().join("builds").join(name);
        if dir.exists() {
            return Ok(dir);
        }
        // renamed when it is whole: two builds may come for it at once
        let staged = self.staging("builds");
        crate::disk::create_dir(&staged, 0o700)?;
        let failed = "set the owner of";
        std::os::unix::fs::chown(&staged, Some(uid), Some(gid)).on(failed, &staged)?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&staged, permissions).on("set the mode of", &staged)?;
        if let Err(error) = crate::disk::rename_new(&staged, &dir) {
            self.trash_leftover(&staged);
            if !dir.exists() {
                return Err(error);
            }
        }
        Ok(dir)
    }

    /// All of [`Self::build_dir`], by name.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn build_dirs(&self) -> Result<Vec<(String, PathBuf)>, DiskError> {
        let top = self.root().join("builds");
        let names = crate::disk::names(&top)?.into_iter();
        let names = names.filter_map(|n| n.into_string().ok());
        Ok(names.map(|n| (n.clone(), top.join(n))).collect())
    }

    /// Throws a directory of [`Self::build_work`] or [`Self::build_dir`] away.
    pub fn discard_work(&self, dir: &Path) {
        self.trash_leftover(dir);
    }
}

/// A name for an image, checked before anything is done for it.
///
/// # Errors
/// What is no name with a tag.
pub fn check_name(name: &str) -> Result<(), crate::reference::ReferenceError> {
    let reference = Reference::parse(name)?;
    match reference.digest() {
        Some(_) => Err(crate::reference::ReferenceError::Tag(name.to_owned())),
        None => Ok(()),
    }
}

fn total_of(steps: &[CachedStep]) -> u64 {
    let own = steps.iter().filter(|s| !s.shared);
    own.map(|s| s.size).sum()
}

fn listed(db: &Connection) -> Result<Vec<CachedStep>, MetaError> {
    // a layer counts for the first step that has it, and for none where an image that stays has it
    let mut all = db.prepare_cached(
        "SELECT s.key, s.image, s.what, s.created_at, s.used_at, s.uses,
                coalesce(l.size, 0) + coalesce((SELECT max(blob_size) FROM image_layers
                  WHERE chain = s.chain), 0),
                s.is_result OR EXISTS (SELECT 1 FROM image_names n WHERE n.image = s.image)
                OR EXISTS (SELECT 1 FROM image_layers i WHERE i.chain = s.chain
                  AND (NOT EXISTS (SELECT 1 FROM build_steps b WHERE b.image = i.image)
                    OR EXISTS (SELECT 1 FROM build_steps b WHERE b.image = i.image AND b.is_result)
                    OR EXISTS (SELECT 1 FROM image_names n WHERE n.image = i.image)))
                OR EXISTS (SELECT 1 FROM build_steps o WHERE o.chain = s.chain AND o.key < s.key)
         FROM build_steps s LEFT JOIN layers l ON l.chain = s.chain
         ORDER BY s.used_at, s.key",
    )?;
    let rows = all.query_map([], |r| {
        Ok(CachedStep {
            key: r.get(0)?,
            image: r.get(1)?,
            what: r.get(2)?,
            created: r.get(3)?,
            used: r.get(4)?,
            uses: u64::try_from(r.get::<_, i64>(5)?).unwrap_or(0),
            size: u64::try_from(r.get::<_, i64>(6)?).unwrap_or(0),
            shared: r.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// An image that is listed loses its step alone: it is not found again, and stays.
fn forget(db: &Connection, going: &[(String, String)]) -> Result<remove::Outcome, ImageError> {
    let mut outcome = remove::Outcome::default();
    for (key, image) in going {
        let stays: bool = db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM image_names WHERE image = ?1)
                 OR EXISTS (SELECT 1 FROM containers WHERE image = ?1)
                 OR EXISTS (SELECT 1 FROM build_steps WHERE image = ?1 AND (is_result OR key <> ?2))",
            )?
            .query_row([image, key], |r| r.get(0))?;
        db.prepare_cached("DELETE FROM build_steps WHERE key = ?1")?
            .execute([key])?;
        if !stays {
            remove::delete(db, image, &mut outcome)?;
        }
    }
    Ok(outcome)
}
