//! Is everything what it should be, and can what isn't be made so again?
//!
//! | checked | against | healed by |
//! |---|---|---|
//! | index | SQLite's own check | rebuilt at the next open |
//! | blob of an image | its digest | nothing here: load the image again |
//! | unpacked layer | its per-file manifest | unpacking its blob again |
//! | container | row, directory, `record.json` | made again from the row |
//! | volume | row, directory, `volume.json` | `volume.json` from the row; user data is never touched |
//! | blobs and layers nobody needs | GC roots | to the trash |
//!
//! A damaged layer is set aside, not deleted: containers that run on it keep what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::images::{ImageError, ImageInfo, LayerError};
use crate::progress::NoProgress;
use crate::{Store, disk};

/// What became of a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status", content = "detail")]
pub enum Remedy {
    /// Repair wasn't asked for, and would help.
    Repairable,
    Repaired,
    /// Nothing here can help; what the user can do.
    Lost(String),
}

/// One thing that isn't what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `index`, `blob`, `layer`, `container`, `volume`, `orphan`.
    pub kind: &'static str,
    pub name: String,
    pub what: String,
    pub remedy: Remedy,
}

/// What [`Store::fsck`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Objects looked at, by kind.
    pub checked: BTreeMap<&'static str, usize>,
    /// Bytes of blobs and unpacked layers read.
    pub bytes: u64,
    pub problems: Vec<Problem>,
}

impl FsckReport {
    /// Nothing is wrong, or nothing is any more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.iter().all(|p| p.remedy == Remedy::Repaired)
    }

    fn count(&mut self, kind: &'static str) {
        *self.checked.entry(kind).or_default() += 1;
    }

    fn problem(
        &mut self,
        kind: &'static str,
        name: impl Into<String>,
        what: impl Into<String>,
        remedy: Remedy,
    ) {
        self.problems.push(Problem {
            kind,
            name: name.into(),
            what: what.into(),
            remedy,
        });
    }
}

impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checked: Vec<String> = self
            .checked
            .iter()
            .map(|(kind, n)| format!("{n} {kind}{}", if *n == 1 { "" } else { "s" }))
            .collect();
        writeln!(f, "checked: {}", checked.join(", "))?;
        for p in &self.problems {
            let remedy = match &p.remedy {
                Remedy::Repairable => "run again with --repair".to_owned(),
                Remedy::Repaired => "repaired".to_owned(),
                Remedy::Lost(advice) => format!("NOT REPAIRED: {advice}"),
            };
            writeln!(f, "{} {}: {}: {remedy}", p.kind, p.name, p.what)?;
        }
        let open = self
            .problems
            .iter()
            .filter(|p| p.remedy != Remedy::Repaired);
        match (self.problems.len(), open.count()) {
            (0, _) => write!(f, "everything is as it should be"),
            (n, 0) => write!(f, "{n} problems, all repaired"),
            (n, left) => write!(f, "{n} problems, {left} left"),
        }
    }
}

/// The object a scrub looked at, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Pass it to the next [`Store::scrub_next`].
    pub cursor: String,
    pub problem: Option<Problem>,
}

impl Store {
    /// Checks everything; with `repair`, heals what can be healed. Reads every byte of every image.
    ///
    /// # Errors
    /// The index or a directory can't be read at all.
    pub fn fsck(&self, repair: bool) -> Result<FsckReport, ImageError> {
        let mut report = FsckReport::default();
        self.check_index(&mut report);
        self.check_blobs(&mut report)?;
        self.check_layers(repair, &mut report)?;
        self.check_containers(repair, &mut report)?;
        self.check_volumes(repair, &mut report)?;
        let orphans = if repair {
            self.gc()?
        } else {
            self.unreachable()?
        };
        let remedy = if repair {
            Remedy::Repaired
        } else {
            Remedy::Repairable
        };
        for name in orphans.blobs.into_iter().chain(orphans.layers) {
            report.problem("orphan", name, "no image needs it", remedy.clone());
        }
        Ok(report)
    }

    /// Looks at the blob or layer after the cursor: the background scrub, one step at a time.
    /// Nothing is repaired. `None`: that was all.
    ///
    /// # Errors
    /// The index can't be read.
    pub fn scrub_next(&self, cursor: Option<&str>) -> Result<Option<Scrubbed>, ImageError> {
        let (layers, blobs) = self.meta().read(|db| {
            Ok::<_, ImageError>((
                crate::images::referenced_layers(db)?,
                crate::images::referenced_blobs(db)?,
            ))
        })?;
        let mut objects: Vec<String> = blobs.into_iter().map(|d| format!("blob {d}")).collect();
        objects.extend(layers.into_iter().map(|d| format!("layer {d}")));
        let next = objects
            .into_iter()
            .find(|o| cursor.is_none_or(|c| o.as_str() > c));
        let Some(object) = next else {
            return Ok(None);
        };
        let mut report = FsckReport::default();
        match object.split_once(' ') {
            Some(("blob", digest)) => self.check_blob(digest, &mut report),
            Some((_, chain)) => {
                if let Some(what) = self.layer_damage(chain)? {
                    report.problem("layer", chain, what, Remedy::Repairable);
                }
            }
            None => {}
        }
        Ok(Some(Scrubbed {
            cursor: object,
            problem: report.problems.pop(),
        }))
    }

    fn check_index(&self, report: &mut FsckReport) {
        report.count("index");
        let verdict = self.meta().read(|db| {
            db.query_row("PRAGMA integrity_check(1)", [], |r| r.get::<_, String>(0))
                .map_err(crate::MetaError::from)
        });
        let what = match verdict {
            Ok(ok) if ok == "ok" => return,
            Ok(what) => what,
            Err(error) => error.to_string(),
        };
        report.problem(
            "index",
            "meta.db",
            what,
            Remedy::Lost("restart the daemon: it is rebuilt from the files then".to_owned()),
        );
    }

    fn check_blobs(&self, report: &mut FsckReport) -> Result<(), ImageError> {
        let blobs = self.meta().read(crate::images::referenced_blobs)?;
        for digest in blobs {
            report.count("blob");
            let stat = rustix::fs::stat(self.blob_path(&digest));
            report.bytes += stat.map_or(0, |s| s.st_size.cast_unsigned());
            self.check_blob(&digest, report);
        }
        Ok(())
    }

    fn check_blob(&self, digest: &str, report: &mut FsckReport) {
        if let Err(error) = self.verify_blob(digest) {
            let what = match error {
                LayerError::NoBlob { .. } => "it is missing".to_owned(),
                LayerError::WrongBlob { found, .. } => {
                    format!("its content has the digest {found}")
                }
                other => other.to_string(),
            };
            report.problem(
                "blob",
                digest,
                what,
                Remedy::Lost("load or pull its image again".to_owned()),
            );
        }
    }

    /// Why an unpacked layer can't be used; nothing where it is whole, or not unpacked, or of
    /// another boot (it is unpacked again before it is used then).
    fn layer_damage(&self, chain: &str) -> Result<Option<String>, ImageError> {
        if !self.layer_usable(chain)? {
            return Ok(None);
        }
        Ok(match self.verify_layer(chain) {
            Ok(wrong) => wrong.first().map(|m| match wrong.len() {
                1 => format!("{}: {}", m.path, m.what),
                n => format!("{}: {}, and {} more", m.path, m.what, n - 1),
            }),
            Err(error) => Some(error.to_string()),
        })
    }

    fn check_layers(&self, repair: bool, report: &mut FsckReport) -> Result<(), ImageError> {
        let mut seen = BTreeSet::new();
        for image in self.images()? {
            for (i, layer) in image.layers.iter().enumerate() {
                if !seen.insert(layer.chain.clone()) {
                    continue;
                }
                report.count("layer");
                report.bytes += layer.size;
                let Some(what) = self.layer_damage(&layer.chain)? else {
                    continue;
                };
                let remedy = if repair {
                    self.heal_layer(&image, i)
                } else {
                    Remedy::Repairable
                };
                report.problem("layer", &layer.chain, what, remedy);
            }
        }
        Ok(())
    }

    fn heal_layer(&self, image: &ImageInfo, index: usize) -> Remedy {
        let layer = &image.layers[index];
        if let Err(error) = self.verify_blob(&layer.blob) {
            return Remedy::Lost(format!("{error}: load or pull the image again"));
        }
        let lease = self.lease();
        let dir = self
            .layer_fs(&layer.chain)
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        self.quarantine(
            "layer",
            &layer.chain["sha256:".len()..],
            &dir,
            String::new(),
        );
        match self.ensure_layers(&lease, &image.layers[..=index], &NoProgress) {
            Ok(_) => Remedy::Repaired,
            Err(error) => Remedy::Lost(error.to_string()),
        }
    }

    fn check_containers(&self, repair: bool, report: &mut FsckReport) -> Result<(), ImageError> {
        let rows = self.containers().map_err(index_error)?;
        let mut ids = BTreeSet::new();
        for row in rows.into_iter().flatten() {
            report.count("container");
            let dir = self.container_dir(&row.id);
            if !dir.is_dir() {
                report.problem(
                    "container",
                    &row.id,
                    "its directory is missing",
                    Remedy::Lost("what it had written is gone: restart the daemon for an empty one, or remove it".to_owned()),
                );
            } else if repair && let Err(error) = self.copy_record(&row.id) {
                report.problem(
                    "container",
                    &row.id,
                    error.to_string(),
                    Remedy::Lost("look at the disk".to_owned()),
                );
            }
            ids.insert(row.id);
        }
        for name in disk::names(&self.containers_dir())? {
            let name = name.to_string_lossy().into_owned();
            // made between the two looks, perhaps
            if !ids.contains(&name) && self.container(&name).map_err(index_error)?.is_none() {
                report.problem(
                    "container",
                    &name,
                    "a directory without a record",
                    Remedy::Lost("it goes to the trash at the next start of the daemon".to_owned()),
                );
            }
        }
        Ok(())
    }

    fn check_volumes(&self, repair: bool, report: &mut FsckReport) -> Result<(), ImageError> {
        let rows = self.volumes().map_err(index_error)?;
        let mut names = BTreeSet::new();
        for row in rows {
            report.count("volume");
            let place = self.volumes_dir().join(&row.name);
            if !self.volume_dir(&row.name).is_dir() {
                report.problem(
                    "volume",
                    &row.name,
                    "its directory is missing",
                    Remedy::Lost("bring it back from a backup, or remove the volume".to_owned()),
                );
            } else if let Some(what) = crate::volumes::record_damage(&place, &row) {
                let remedy = match repair.then(|| self.write_volume_record(&row)) {
                    None => Remedy::Repairable,
                    Some(Ok(())) => Remedy::Repaired,
                    Some(Err(error)) => Remedy::Lost(error.to_string()),
                };
                report.problem("volume", &row.name, what, remedy);
            }
            names.insert(row.name);
        }
        for name in disk::names(&self.volumes_dir())? {
            let name = name.to_string_lossy().into_owned();
            if !names.contains(&name) && self.volume(&name).is_err() {
                report.problem(
                    "volume",
                    &name,
                    "a directory the index doesn't know",
                    Remedy::Lost(
                        "restart the daemon: it is taken in then, if it is a volume".to_owned(),
                    ),
                );
            }
        }
        Ok(())
    }
}

fn index_error(error: impl Into<IndexError>) -> ImageError {
    match error.into() {
        IndexError::Meta(e) => ImageError::Meta(e),
        IndexError::Disk(e) => ImageError::Disk(e),
        IndexError::Other(what) => ImageError::Damaged {
            id: "index".to_owned(),
            what,
        },
    }
}

enum IndexError {
    Meta(crate::MetaError),
    Disk(crate::DiskError),
    Other(String),
}

impl From<crate::ContainerError> for IndexError {
    fn from(error: crate::ContainerError) -> Self {
        match error {
            crate::ContainerError::Meta(e) => Self::Meta(e),
            crate::ContainerError::Disk(e) => Self::Disk(e),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<crate::VolumeError> for IndexError {
    fn from(error: crate::VolumeError) -> Self {
        match error {
            crate::VolumeError::Meta(e) => Self::Meta(e),
            crate::VolumeError::Disk(e) => Self::Disk(e),
            other => Self::Other(other.to_string()),
        }
    }
}
