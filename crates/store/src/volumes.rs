//! Named volumes: user data, which goes only by name, and then to a trash it can come back from.
//!
//! ```text
//! volumes/<name>/
//!   volume.json        uid, labels, options, creation time: the row can be rebuilt from it
//!   _data/             what containers see
//! trash/volumes/<uid>/   a removed volume, whole, until it is restored or purged
//! ```
//!
//! Create: directory whole and synced in staging -> rename -> sync -> row -> answer.
//! Remove: refused while a container refers to it; row moves from `volumes` to `volume_trash` ->
//! rename into the trash -> sync -> answer. After a power cut in between, open finishes the move:
//! the uid in `volume.json` tells which of two volumes that shared a name a directory is.
//! Nothing but `volume_prune_trash` (asked for by name) and the trash's own retention deletes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::disk::{self, DiskError};
use crate::meta::MetaError;

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS volumes (
  name TEXT PRIMARY KEY,
  uid TEXT NOT NULL UNIQUE,
  labels TEXT NOT NULL,
  options TEXT NOT NULL,
  anonymous INTEGER NOT NULL,
  created_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS volume_trash (
  uid TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  labels TEXT NOT NULL,
  options TEXT NOT NULL,
  anonymous INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  removed_at TEXT NOT NULL
) STRICT;
";

/// Why a volume could not be made, removed or brought back.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("no volume named {name}")]
    NotFound { name: String },
    #[error("the volume {name} is in use by {}: remove them first", .containers.join(", "))]
    InUse {
        name: String,
        containers: Vec<String>,
    },
    #[error("a volume named {name} exists: remove it first")]
    NameTaken { name: String },
    #[error(
        "{} is in the way and isn't a volume of the index: `fsck --repair` takes it in", path.display()
    )]
    Occupied { path: PathBuf },
    #[error("no removed volume named {name} in the trash")]
    NotInTrash { name: String },
    #[error("the volume driver {driver} isn't supported: use local")]
    UnknownDriver { driver: String },
    #[error(
        "{name:?} isn't a volume name: use letters, digits, '_', '.' and '-', at least two of them"
    )]
    BadName { name: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl From<rusqlite::Error> for VolumeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Meta(error.into())
    }
}

impl VolumeError {
    /// Whether deleting something could help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Disk(e) => e.is_out_of_space(),
            Self::Meta(e) => e.is_out_of_space(),
            _ => false,
        }
    }
}

/// What [`Store::volume_create`] is asked for.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// Empty: an anonymous volume, named by 64 hex digits.
    pub name: String,
    /// Empty or `local`.
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    /// The engine's to understand.
    pub options: BTreeMap<String, String>,
}

/// A volume as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    pub name: String,
    /// Tells this volume from earlier ones of the same name.
    pub uid: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    #[serde(default)]
    pub anonymous: bool,
    /// RFC 3339.
    pub created_at: String,
}

/// What of the trash is kept. Nothing set: everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrashPolicy {
    pub max_age: Option<std::time::Duration>,
    /// The latest removed stay.
    pub max_count: Option<usize>,
    /// The latest removed stay.
    pub max_bytes: Option<u64>,
}

/// A removed volume that can still be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashedVolume {
    pub volume: VolumeInfo,
    /// RFC 3339.
    pub removed_at: String,
}

impl Store {
    /// The directory that containers see, whether or not there is such a volume.
    #[must_use]
    pub fn volume_dir(&self, name: &str) -> PathBuf {
        self.volumes_dir().join(name).join("_data")
    }

    /// Makes a volume, or returns the one of that name (as Docker does). Durable when it returns.
    ///
    /// # Errors
    /// A bad name, an unknown driver, or the disk refuses; nothing is left behind then.
    pub fn volume_create(&self, new: &NewVolume) -> Result<VolumeInfo, VolumeError> {
        if !matches!(new.driver.as_str(), "" | "local") {
            return Err(VolumeError::UnknownDriver {
                driver: new.driver.clone(),
            });
        }
        let anonymous = new.name.is_empty();
        let name = if anonymous {
            crate::random_hex(32)
        } else {
            new.name.clone()
        };
        check_name(&name)?;
        if let Some(existing) = self.meta().read(|db| select(db, &name))? {
            return Ok(existing);
        }
        let info = VolumeInfo {
            name,
            uid: crate::random_hex(16),
            labels: new.labels.clone(),
            options: new.options.clone(),
            anonymous,
            created_at: crate::now(),
        };
        self.make_volume(info)
    }

    fn make_volume(&self, info: VolumeInfo) -> Result<VolumeInfo, VolumeError> {
        let staged = self.stage_volume(&info)?;
        let place = self.volumes_dir().join(&info.name);
        if place.exists() {
            self.finish_removal(&place)?;
        }
        if let Err(error) = disk::rename_new(&staged, &place) {
            self.trash_leftover(&staged);
            return match self.meta().read(|db| select(db, &info.name))? {
                Some(existing) => Ok(existing), // made by another at the same time
                None if place.exists() => Err(VolumeError::Occupied { path: place }),
                None => Err(error.into()),
            };
        }
        let row = info.clone();
        let recorded = disk::sync_dir(&self.volumes_dir())
            .map_err(VolumeError::from)
            .and_then(|()| self.meta().write(move |db| insert(db, &row)));
        if let Err(error) = recorded {
            self.trash_leftover(&place);
            return Err(error);
        }
        Ok(info)
    }

    fn stage_volume(&self, info: &VolumeInfo) -> Result<PathBuf, DiskError> {
        let staged = self.staging_dir().join(format!("volume-{}", info.uid));
        let fill = || {
            disk::create_dir(&staged, 0o711)?;
            disk::create_dir(&staged.join("_data"), 0o755)?;
            let json = serde_json::to_vec(info).expect("strings always encode");
            disk::write_durable(&staged.join("volume.json"), &json, 0o600)?;
            disk::sync_dir(&staged.join("_data"))
        };
        if let Err(error) = fill() {
            self.trash_leftover(&staged);
            return Err(error);
        }
        Ok(staged)
    }

    /// One volume.
    ///
    /// # Errors
    /// There is none of that name, or the database can't be read.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        self.meta()
            .read(|db| select(db, name))?
            .ok_or_else(|| VolumeError::NotFound {
                name: name.to_owned(),
            })
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>, VolumeError> {
        self.meta().read(|db| {
            let mut all = db.prepare_cached(
                "SELECT name, uid, labels, options, anonymous, created_at FROM volumes ORDER BY name",
            )?;
            Ok(all
                .query_map([], from_row)?
                .collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// Ids of the containers that refer to a volume.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn volume_users(&self, name: &str) -> Result<Vec<String>, VolumeError> {
        self.meta().read(|db| users(db, name))
    }

    /// Moves a volume to the trash. Durable when it returns; works on a full disk.
    ///
    /// # Errors
    /// There is none of that name, containers refer to it, or the disk refuses.
    pub fn volume_remove(&self, name: &str) -> Result<(), VolumeError> {
        let info = self.freeing(VolumeError::is_out_of_space, || {
            let owned = name.to_owned();
            self.meta().write(move |db| trash_row(db, &owned))
        })?;
        self.freeing(VolumeError::is_out_of_space, || {
            self.move_to_trash(&info.name, &info.uid)
        })
    }

    fn move_to_trash(&self, name: &str, uid: &str) -> Result<(), VolumeError> {
        let (place, grave) = (
            self.volumes_dir().join(name),
            self.volume_trash_dir().join(uid),
        );
        match disk::rename_new(&place, &grave) {
            // a second attempt, after the sync failed
            Err(_) if grave.exists() => {}
            // someone deleted the directory: there is nothing to bring back
            Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => {
                return self.forget_trashed(uid);
            }
            other => other?,
        }
        disk::sync_dir(&self.volume_trash_dir())?;
        Ok(disk::sync_dir(&self.volumes_dir())?)
    }

    fn forget_trashed(&self, uid: &str) -> Result<(), VolumeError> {
        let uid = uid.to_owned();
        self.meta().write(move |db| {
            db.execute("DELETE FROM volume_trash WHERE uid = ?1", [uid])?;
            Ok(())
        })
    }

    /// A directory whose volume was removed, but which didn't get into the trash.
    pub(crate) fn finish_removal(&self, place: &Path) -> Result<(), VolumeError> {
        let Some(info) = read_info(place)? else {
            return Ok(());
        };
        let removed = self.meta().read(|db| trashed(db, &info.uid))?;
        if removed {
            self.move_to_trash(&info.name, &info.uid)?;
        }
        Ok(())
    }

    /// Deletes a removed volume for good: by name (the latest removed) or uid.
    ///
    /// # Errors
    /// None in the trash, or the disk refuses.
    pub fn volume_purge(&self, name: &str) -> Result<TrashedVolume, VolumeError> {
        let trashed = self.find_trashed(name)?;
        self.purge(&trashed)?;
        Ok(trashed)
    }

    fn purge(&self, trashed: &TrashedVolume) -> Result<(), VolumeError> {
        let uid = &trashed.volume.uid;
        // first: a directory without a row would be taken for a volume whose row was lost
        self.freeing(VolumeError::is_out_of_space, || {
            self.to_trash(&self.volume_trash_dir().join(uid))?;
            disk::sync_dir(&self.volume_trash_dir())?;
            self.forget_trashed(uid)
        })
    }

    /// Deletes for good what the policy doesn't keep. Answers with what went.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn volume_trash_prune(
        &self,
        keep: &TrashPolicy,
    ) -> Result<Vec<TrashedVolume>, VolumeError> {
        let now = jiff::Timestamp::now();
        let mut bytes = 0u64;
        let mut gone = Vec::new();
        for (i, trashed) in self.volumes_in_trash()?.into_iter().enumerate() {
            if let Some(max) = keep.max_bytes {
                let size =
                    crate::usage::tree_size(&self.volume_trash_dir().join(&trashed.volume.uid));
                bytes = bytes.saturating_add(size);
                if bytes > max {
                    self.purge(&trashed)?;
                    gone.push(trashed);
                    continue;
                }
            }
            let age = trashed
                .removed_at
                .parse::<jiff::Timestamp>()
                .map(|t| now.duration_since(t).unsigned_abs())
                .unwrap_or_default();
            if keep.max_age.is_some_and(|max| age > max)
                || keep.max_count.is_some_and(|max| i >= max)
            {
                self.purge(&trashed)?;
                gone.push(trashed);
            }
        }
        Ok(gone)
    }

    fn find_trashed(&self, name: &str) -> Result<TrashedVolume, VolumeError> {
        self.volumes_in_trash()?
            .into_iter()
            .find(|t| t.volume.name == name || t.volume.uid == name)
            .ok_or_else(|| VolumeError::NotInTrash {
                name: name.to_owned(),
            })
    }

    /// The removed volumes that can be brought back, the latest first.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn volumes_in_trash(&self) -> Result<Vec<TrashedVolume>, VolumeError> {
        self.meta().read(|db| {
            let mut all = db.prepare_cached(
                "SELECT name, uid, labels, options, anonymous, created_at, removed_at
                 FROM volume_trash ORDER BY removed_at DESC, uid",
            )?;
            Ok(all
                .query_map([], |r| {
                    Ok(TrashedVolume {
                        volume: from_row(r)?,
                        removed_at: r.get(6)?,
                    })
                })?
                .collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// Brings the latest removed volume of that name back (or the one with that uid). Durable when
    /// it returns.
    ///
    /// # Errors
    /// None in the trash, a volume of that name exists, or the disk refuses.
    pub fn volume_restore(&self, name: &str) -> Result<VolumeInfo, VolumeError> {
        let info = self.find_trashed(name)?.volume;
        let place = self.volumes_dir().join(&info.name);
        if place.exists() {
            return Err(VolumeError::NameTaken { name: info.name });
        }
        disk::rename_new(&self.volume_trash_dir().join(&info.uid), &place)?;
        disk::sync_dir(&self.volumes_dir())?;
        disk::sync_dir(&self.volume_trash_dir())?;
        let row = info.clone();
        self.meta().write(move |db| {
            db.execute("DELETE FROM volume_trash WHERE uid = ?1", [&row.uid])?;
            insert(db, &row)
        })?;
        Ok(info)
    }
}

fn check_name(name: &str) -> Result<(), VolumeError> {
    let fine = name.len() >= 2
        && name.len() <= 255
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fine {
        Ok(())
    } else {
        Err(VolumeError::BadName {
            name: name.to_owned(),
        })
    }
}

pub(crate) fn exists(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM volumes WHERE name = ?1")?
        .exists([name])
}

fn select(db: &Connection, name: &str) -> Result<Option<VolumeInfo>, VolumeError> {
    Ok(db
        .prepare_cached(
            "SELECT name, uid, labels, options, anonymous, created_at FROM volumes WHERE name = ?1",
        )?
        .query_row([name], from_row)
        .optional()?)
}

fn from_row(r: &rusqlite::Row<'_>) -> rusqlite::Result<VolumeInfo> {
    let map = |i: usize| -> rusqlite::Result<BTreeMap<String, String>> {
        serde_json::from_str(&r.get::<_, String>(i)?).map_err(|e| {
            rusqlite::Error::FromSqlConversionFailure(i, rusqlite::types::Type::Text, Box::new(e))
        })
    };
    Ok(VolumeInfo {
        name: r.get(0)?,
        uid: r.get(1)?,
        labels: map(2)?,
        options: map(3)?,
        anonymous: r.get(4)?,
        created_at: r.get(5)?,
    })
}

fn insert(db: &Connection, v: &VolumeInfo) -> Result<(), VolumeError> {
    db.prepare_cached(
        "INSERT INTO volumes (name, uid, labels, options, anonymous, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        v.name,
        v.uid,
        json(&v.labels),
        json(&v.options),
        v.anonymous,
        v.created_at
    ])?;
    Ok(())
}

fn json(map: &BTreeMap<String, String>) -> String {
    serde_json::to_string(map).expect("strings always encode")
}

fn users(db: &Connection, name: &str) -> Result<Vec<String>, VolumeError> {
    Ok(db
        .prepare_cached("SELECT container FROM container_volumes WHERE volume = ?1")?
        .query_map([name], |r| r.get(0))?
        .collect::<Result<_, _>>()?)
}

fn trash_row(db: &Connection, name: &str) -> Result<VolumeInfo, VolumeError> {
    let info = select(db, name)?.ok_or_else(|| VolumeError::NotFound {
        name: name.to_owned(),
    })?;
    let containers = users(db, name)?;
    if !containers.is_empty() {
        return Err(VolumeError::InUse {
            name: name.to_owned(),
            containers,
        });
    }
    db.execute("DELETE FROM volumes WHERE name = ?1", [name])?;
    insert_trashed(db, &info)?;
    Ok(info)
}

fn insert_trashed(db: &Connection, info: &VolumeInfo) -> Result<(), VolumeError> {
    db.prepare_cached(
        "INSERT INTO volume_trash (uid, name, labels, options, anonymous, created_at, removed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        info.uid,
        info.name,
        json(&info.labels),
        json(&info.options),
        info.anonymous,
        info.created_at,
        crate::now()
    ])?;
    Ok(())
}

fn trashed(db: &Connection, uid: &str) -> Result<bool, VolumeError> {
    Ok(db
        .prepare_cached("SELECT 1 FROM volume_trash WHERE uid = ?1")?
        .exists([uid])?)
}

/// `volume.json` of a directory; nothing where it is missing or can't be understood.
fn read_info(dir: &Path) -> Result<Option<VolumeInfo>, DiskError> {
    Ok(
        disk::read_optional(&dir.join("volume.json"))?
            .and_then(|b| serde_json::from_slice(&b).ok()),
    )
}

/// Why `volume.json` isn't what the row says, if it isn't.
pub(crate) fn record_damage(dir: &Path, row: &VolumeInfo) -> Option<String> {
    match read_info(dir) {
        Ok(Some(info)) if info == *row => None,
        Ok(Some(info)) if info.uid != row.uid => Some(format!(
            "its volume.json is of another volume, {}",
            info.uid
        )),
        Ok(Some(_)) => Some("its volume.json differs from the index".to_owned()),
        Ok(None) => Some("its volume.json is missing or can't be read".to_owned()),
        Err(error) => Some(error.source.to_string()),
    }
}

impl Store {
    pub(crate) fn write_volume_record(&self, row: &VolumeInfo) -> Result<(), DiskError> {
        let json = serde_json::to_vec(row).expect("strings always encode");
        let path = self.volumes_dir().join(&row.name).join("volume.json");
        disk::write_durable(&path, &json, 0o600)
    }
}

/// Puts the volume of a directory into a database that doesn't have it. A directory with `_data`
/// but without a readable `volume.json` is taken in as a volume without labels: it is user data.
pub(crate) fn adopt(db: &Connection, dir: &Path) -> Result<(), String> {
    let name = dir
        .file_name()
        .and_then(|n| n.to_str())
        .filter(|n| check_name(n).is_ok())
        .ok_or("its name isn't a volume's")?;
    let info = match read_info(dir).map_err(|e| e.source.to_string())? {
        Some(info) if info.name == name => info,
        Some(info) => return Err(format!("its volume.json is of volume {}", info.name)),
        None if dir.join("_data").is_dir() => VolumeInfo {
            name: name.to_owned(),
            uid: crate::random_hex(16),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            anonymous: false,
            created_at: crate::now(),
        },
        None => return Err("it has neither volume.json nor _data".to_owned()),
    };
    insert(db, &info).map_err(|e| e.to_string())
}

/// Puts a volume of the trash into a database that lost it; its time there starts over.
pub(crate) fn adopt_trashed(db: &Connection, dir: &Path) -> Result<(), String> {
    let info = read_info(dir)
        .map_err(|e| e.source.to_string())?
        .ok_or("its volume.json can't be read")?;
    if dir.file_name().is_none_or(|n| n != info.uid.as_str()) {
        return Err(format!("its volume.json is of {}", info.uid));
    }
    insert_trashed(db, &info).map_err(|e| e.to_string())
}
