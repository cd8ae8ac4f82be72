//! Container records: opaque documents of the engine, names, and what each container refers to.
//!
//! ```text
//! containers/<id>/
//!   record.json   copy of the row, so that the database can be rebuilt (not synced: see below)
//!   upper/ work/  the overlay's writable layer (overlay driver)
//!   rootfs/       a full copy of the image (vfs driver)
//!   ...           what engine and shim keep there: config.json, exit.json, logs
//! ```
//!
//! The row in `meta.db` is the truth and the only thing a create or update waits for: one commit,
//! one sync. `record.json` is written by the background thread, and directories reach the disk when
//! the kernel likes; after a power cut they are made again from the row at open (whatever a program synced below `upper` took its directories along).
//! A directory without a row is a create that never answered, or a removal: it goes to the trash.
//!
//! References container -> volumes and container -> image are rows too: claimed in the same commit
//! as the name, so that a volume can't be removed between the check and the create.
//!
//! An *ephemeral* container (`--rm`) has a row as well, committed without waiting for the disk; it
//! is known until the machine restarts, which also ends the container.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::disk::{self, DiskError};
use crate::meta::MetaError;
use crate::{Quarantined, Store};

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS containers (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  image TEXT NOT NULL,
  document BLOB NOT NULL,
  generation INTEGER NOT NULL,
  ephemeral INTEGER NOT NULL,
  created_at TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS containers_image ON containers (image);
CREATE TABLE IF NOT EXISTS container_volumes (
  container TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
  volume TEXT NOT NULL,
  PRIMARY KEY (container, volume)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS container_volumes_volume ON container_volumes (volume);
";

/// Why a container's record could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(
        "the name {name} is in use by container {holder}: remove or rename that one to use the name again"
    )]
    NameTaken { name: String, holder: String },
    #[error("a container with the id {id} exists already")]
    IdTaken { id: String },
    #[error("no container with the id {id}")]
    NotFound { id: String },
    #[error("no volume named {name}: create it first")]
    NoSuchVolume { name: String },
    #[error("{what} can't be part of a path: use letters, digits, '_', '.' and '-'")]
    BadName { what: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl From<rusqlite::Error> for ContainerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Meta(error.into())
    }
}

impl ContainerError {
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

/// What [`Store::container_create`] is asked for.
#[derive(Debug, Clone, Copy)]
pub struct NewContainer<'a> {
    /// 64 hex digits.
    pub id: &'a str,
    /// Without Docker's leading slash.
    pub name: &'a str,
    /// Id of the image whose layers it stands on; kept from garbage collection.
    pub image: &'a str,
    /// Names of volumes, which must exist.
    pub volumes: &'a [String],
    pub document: &'a [u8],
    /// Needn't survive the machine (`--rm`): no wait for the disk at create, update and remove.
    pub ephemeral: bool,
}

/// Where a container's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFs {
    pub dir: PathBuf,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// A container's record as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRow {
    pub id: String,
    pub name: String,
    pub image: String,
    pub volumes: Vec<String>,
    pub document: Vec<u8>,
    pub ephemeral: bool,
    /// RFC 3339.
    pub created_at: String,
    /// Grows by one with each change.
    pub generation: u64,
}

/// `record.json`: the row as a file. Fields are only ever added, with `#[serde(default)]`.
#[derive(Debug, Serialize, Deserialize)]
struct RecordFile {
    id: String,
    name: String,
    image: String,
    volumes: Vec<String>,
    generation: u64,
    #[serde(default)]
    ephemeral: bool,
    created_at: String,
    /// The engine's document; hex where it isn't UTF-8.
    document: String,
    #[serde(default)]
    document_is_hex: bool,
}

impl Store {
    /// The directory of a container, whether or not there is one.
    #[must_use]
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.containers_dir().join(id)
    }

    /// The lowest layer of every container's overlay: empty targets of the mounts that each has. An
    /// image with its own shows its own; one without needs nothing made in the container's upper
    /// directory at each start.
    #[must_use]
    pub fn mount_targets(&self) -> PathBuf {
        self.root().join("targets")
    }

    /// Where a container's writable layer is, whether or not there is one.
    #[must_use]
    pub fn container_fs(&self, id: &str) -> ContainerFs {
        let dir = self.container_dir(id);
        ContainerFs {
            upper: dir.join("upper"),
            work: dir.join("work"),
            dir,
        }
    }

    /// Claims the id and the name, refers to image and volumes, makes the directories. Durable when
    /// it returns, unless ephemeral.
    ///
    /// # Errors
    /// Name or id taken, no such volume, or the disk refuses; nothing is left behind then.
    pub fn container_create(&self, new: &NewContainer<'_>) -> Result<ContainerFs, ContainerError> {
        check_component(new.id)?;
        let row = ContainerRow {
            id: new.id.to_owned(),
            name: new.name.to_owned(),
            image: new.image.to_owned(),
            volumes: new.volumes.to_vec(),
            document: new.document.to_vec(),
            ephemeral: new.ephemeral,
            created_at: crate::now(),
            generation: 1,
        };
        // a cheap look first, so that a conflict makes and removes no directories
        self.meta().read(|db| check_free(db, &row))?;
        let fs = self.container_fs(new.id);
        let made = self
            .make_container_dirs(new.id)
            .and_then(|()| self.container_write(new.ephemeral, move |db| insert(db, &row)));
        if let Err(error) = made {
            // an id taken between look and claim: the directory is the other one's
            if !matches!(error, ContainerError::IdTaken { .. }) {
                self.trash_leftover(&fs.dir);
            }
            return Err(error);
        }
        self.record_is_behind(new.id);
        Ok(fs)
    }

    fn make_container_dirs(&self, id: &str) -> Result<(), ContainerError> {
        let fs = self.container_fs(id);
        match disk::create_dir(&fs.dir, 0o710) {
            Err(e) if e.source.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(ContainerError::IdTaken { id: id.to_owned() });
            }
            other => other?,
        }
        disk::create_dir(&fs.upper, 0o755)?;
        disk::create_dir(&fs.work, 0o700)?;
        Ok(())
    }

    fn record_is_behind(&self, id: &str) {
        self.queue().add(|p| {
            p.records.insert(id.to_owned());
        });
    }

    /// Brings `record.json` up to its row, where it isn't. The worker's part.
    pub(crate) fn copy_record(&self, id: &str) -> Result<(), ContainerError> {
        let Some(row) = self.container(id)? else {
            return Ok(()); // removed since
        };
        let path = self.container_dir(id).join("record.json");
        let current = disk::read_optional(&path)?
            .and_then(|b| serde_json::from_slice::<RecordFile>(&b).ok())
            .is_some_and(|f| f.generation == row.generation && f.id == row.id);
        if !current {
            disk::write_lazy(&path, &encode(&row), 0o600)?;
        }
        Ok(())
    }

    fn container_write<T: Send + 'static>(
        &self,
        ephemeral: bool,
        body: impl FnOnce(&Connection) -> Result<T, ContainerError> + Send + 'static,
    ) -> Result<T, ContainerError> {
        if ephemeral {
            self.meta().write_relaxed(body)
        } else {
            self.meta().write(body)
        }
    }

    /// Replaces the document. Durable when it returns, unless the container is ephemeral.
    ///
    /// # Errors
    /// No such container, or the disk refuses; the old document stays then.
    pub fn container_update(&self, id: &str, document: &[u8]) -> Result<(), ContainerError> {
        let document = document.to_vec();
        self.change_row(id, move |row| row.document = document)
    }

    /// Gives the container another name, and a document that goes with it. Durable when it returns,
    /// unless the container is ephemeral.
    ///
    /// # Errors
    /// Name taken, no such container, or the disk refuses; the old name stays then.
    pub fn container_rename(
        &self,
        id: &str,
        name: &str,
        document: &[u8],
    ) -> Result<(), ContainerError> {
        let (name, document) = (name.to_owned(), document.to_vec());
        self.change_row(id, move |row| {
            row.name = name;
            row.document = document;
        })
    }

    fn change_row(
        &self,
        id: &str,
        change: impl FnOnce(&mut ContainerRow) + Send + 'static,
    ) -> Result<(), ContainerError> {
        let owned = id.to_owned();
        let ephemeral = self.meta().read(|db| is_ephemeral(db, id))?;
        self.container_write(ephemeral, move |db| {
            let mut row = select(db, &owned)?.ok_or(ContainerError::NotFound { id: owned })?;
            change(&mut row);
            row.generation += 1;
            update(db, &row)
        })?;
        self.record_is_behind(id);
        Ok(())
    }

    /// Takes the record out and moves the directory to the trash, where it is reaped in the
    /// background. Works on a full disk.
    ///
    /// # Errors
    /// No such container, or the disk refuses; the container is unchanged then.
    pub fn container_remove(&self, id: &str) -> Result<(), ContainerError> {
        let ephemeral = self.meta().read(|db| is_ephemeral(db, id))?;
        self.freeing(ContainerError::is_out_of_space, || {
            let id = id.to_owned();
            self.container_write(ephemeral, move |db| delete(db, &id))
        })?;
        self.trash_leftover(&self.container_dir(id));
        Ok(())
    }

    /// Sets a container aside whose document its owner can't use: the record goes out, the
    /// directory and the record move to `quarantine/`.
    ///
    /// # Errors
    /// No such container, or the disk refuses.
    pub fn container_quarantine(
        &self,
        id: &str,
        reason: &str,
    ) -> Result<Quarantined, ContainerError> {
        self.copy_record(id)?;
        let owned = id.to_owned();
        self.meta().write(move |db| delete(db, &owned))?;
        Ok(self.quarantine("container", id, &self.container_dir(id), reason.to_owned()))
    }

    /// One container's record.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn container(&self, id: &str) -> Result<Option<ContainerRow>, ContainerError> {
        self.meta().read(|db| select(db, id))
    }

    /// All records, in order of creation; those that can't be read in their place.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn containers(&self) -> Result<Vec<Result<ContainerRow, Quarantined>>, ContainerError> {
        self.meta().read(|db| {
            let mut ids = db.prepare_cached("SELECT id FROM containers ORDER BY created_at, id")?;
            let ids: Vec<String> = ids.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
            ids.iter()
                .filter_map(|id| select(db, id).transpose())
                .map(|row| Ok(Ok(row?)))
                .collect()
        })
    }
}

/// A name that becomes one component of a path of ours.
pub(crate) fn check_component(name: &str) -> Result<(), ContainerError> {
    let fine = !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fine {
        Ok(())
    } else {
        Err(ContainerError::BadName {
            what: format!("{name:?}"),
        })
    }
}

fn check_free(db: &Connection, row: &ContainerRow) -> Result<(), ContainerError> {
    let holder: Option<String> = db
        .prepare_cached("SELECT id FROM containers WHERE name = ?1")?
        .query_row([&row.name], |r| r.get(0))
        .optional()?;
    if let Some(holder) = holder {
        return Err(ContainerError::NameTaken {
            name: row.name.clone(),
            holder,
        });
    }
    let same_id = db
        .prepare_cached("SELECT 1 FROM containers WHERE id = ?1")?
        .exists([&row.id])?;
    if same_id {
        return Err(ContainerError::IdTaken { id: row.id.clone() });
    }
    for name in &row.volumes {
        if !crate::volumes::exists(db, name)? {
            return Err(ContainerError::NoSuchVolume { name: name.clone() });
        }
    }
    Ok(())
}

fn insert(db: &Connection, row: &ContainerRow) -> Result<(), ContainerError> {
    check_free(db, row)?;
    insert_row(db, row)
}

/// Without the check that what it refers to exists: of a record that was accepted earlier.
fn insert_row(db: &Connection, row: &ContainerRow) -> Result<(), ContainerError> {
    db.prepare_cached(
        "INSERT INTO containers (id, name, image, document, generation, ephemeral, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        row.id,
        row.name,
        row.image,
        row.document,
        row.generation.cast_signed(),
        row.ephemeral,
        row.created_at
    ])?;
    let mut refer = db.prepare_cached(
        "INSERT OR IGNORE INTO container_volumes (container, volume) VALUES (?1, ?2)",
    )?;
    for volume in &row.volumes {
        refer.execute([&row.id, volume])?;
    }
    Ok(())
}

fn delete(db: &Connection, id: &str) -> Result<(), ContainerError> {
    match db
        .prepare_cached("DELETE FROM containers WHERE id = ?1")?
        .execute([id])?
    {
        0 => Err(ContainerError::NotFound { id: id.to_owned() }),
        _ => Ok(()),
    }
}

fn update(db: &Connection, row: &ContainerRow) -> Result<(), ContainerError> {
    let holder: Option<String> = db
        .prepare_cached("SELECT id FROM containers WHERE name = ?1 AND id <> ?2")?
        .query_row([&row.name, &row.id], |r| r.get(0))
        .optional()?;
    if let Some(holder) = holder {
        return Err(ContainerError::NameTaken {
            name: row.name.clone(),
            holder,
        });
    }
    db.prepare_cached(
        "UPDATE containers SET name = ?2, document = ?3, generation = ?4 WHERE id = ?1",
    )?
    .execute(params![
        row.id,
        row.name,
        row.document,
        row.generation.cast_signed()
    ])?;
    Ok(())
}

fn is_ephemeral(db: &Connection, id: &str) -> Result<bool, ContainerError> {
    db.prepare_cached("SELECT ephemeral FROM containers WHERE id = ?1")?
        .query_row([id], |r| r.get(0))
        .optional()?
        .ok_or_else(|| ContainerError::NotFound { id: id.to_owned() })
}

fn select(db: &Connection, id: &str) -> Result<Option<ContainerRow>, ContainerError> {
    let row = db
        .prepare_cached(
            "SELECT name, image, document, generation, ephemeral, created_at
             FROM containers WHERE id = ?1",
        )?
        .query_row([id], |r| {
            Ok(ContainerRow {
                id: id.to_owned(),
                name: r.get(0)?,
                image: r.get(1)?,
                volumes: Vec::new(),
                document: r.get(2)?,
                generation: r.get::<_, i64>(3)?.cast_unsigned(),
                ephemeral: r.get(4)?,
                created_at: r.get(5)?,
            })
        })
        .optional()?;
    let Some(mut row) = row else {
        return Ok(None);
    };
    row.volumes = db
        .prepare_cached("SELECT volume FROM container_volumes WHERE container = ?1")?
        .query_map([id], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(Some(row))
}

fn encode(row: &ContainerRow) -> Vec<u8> {
    let text = std::str::from_utf8(&row.document).ok();
    let file = RecordFile {
        id: row.id.clone(),
        name: row.name.clone(),
        image: row.image.clone(),
        volumes: row.volumes.clone(),
        generation: row.generation,
        ephemeral: row.ephemeral,
        created_at: row.created_at.clone(),
        document: text.map_or_else(|| hex::encode(&row.document), str::to_owned),
        document_is_hex: text.is_none(),
    };
    serde_json::to_vec(&file).expect("strings and numbers always encode")
}

/// Puts the container of a directory into a database that lost it.
pub(crate) fn adopt(db: &Connection, dir: &Path) -> Result<(), String> {
    let row = decode(dir)?;
    let taken = |e: rusqlite::Error| e.to_string();
    let holder: Option<String> = db
        .query_row(
            "SELECT id FROM containers WHERE name = ?1",
            [&row.name],
            |r| r.get(0),
        )
        .optional()
        .map_err(taken)?;
    if let Some(holder) = holder {
        return Err(format!("its name {} is container {holder}'s", row.name));
    }
    insert_row(db, &row).map_err(|e| e.to_string())
}

fn decode(dir: &Path) -> Result<ContainerRow, String> {
    let bytes = disk::read_optional(&dir.join("record.json"))
        .map_err(|e| e.source.to_string())?
        .ok_or("it has no record.json")?;
    let file: RecordFile =
        serde_json::from_slice(&bytes).map_err(|e| format!("its record.json: {e}"))?;
    if dir.file_name().is_none_or(|n| n != file.id.as_str()) {
        return Err(format!("its record.json is of container {}", file.id));
    }
    let document = if file.document_is_hex {
        hex::decode(&file.document).map_err(|e| format!("its document: {e}"))?
    } else {
        file.document.into_bytes()
    };
    Ok(ContainerRow {
        id: file.id,
        name: file.name,
        image: file.image,
        volumes: file.volumes,
        document,
        ephemeral: file.ephemeral,
        created_at: file.created_at,
        generation: file.generation,
    })
}
