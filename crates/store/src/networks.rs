//! Records of networks: opaque documents of the engine, by id, with a name each.
//!
//! ```text
//! networks/<id>.json   copy of the row, durable before it: the database can be rebuilt from it
//! ```
//! Create: file -> row -> answer. Remove: row -> file. A file without a row is a create that never
//! answered or a removal that was cut short: it is removed at open.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::disk::{self, DiskError};
use crate::meta::MetaError;

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS networks (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  document TEXT NOT NULL
) STRICT;
";

/// Why a network's record could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network with name {name} already exists")]
    NameTaken { name: String },
    #[error("{what} can't be part of a path: use letters, digits, '_', '.' and '-'")]
    BadName { what: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl From<rusqlite::Error> for NetworkError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Meta(error.into())
    }
}

impl NetworkError {
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

/// A network's record. Also its file; fields are only ever added, with `#[serde(default)]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// 64 hex digits.
    pub id: String,
    pub name: String,
    /// JSON of the engine.
    pub document: String,
}

impl Store {
    fn networks_dir(&self) -> PathBuf {
        self.root().join("networks")
    }

    fn network_file(&self, id: &str) -> PathBuf {
        self.networks_dir().join(format!("{id}.json"))
    }

    /// Puts a record in, or another in the place of the one with this id. Durable when it returns.
    ///
    /// # Errors
    /// The name is another's, or the disk refuses; nothing has changed then.
    pub fn network_put(&self, row: &NetworkRow) -> Result<(), NetworkError> {
        if row.id.is_empty() || !row.id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NetworkError::BadName {
                what: row.id.clone(),
            });
        }
        let before = self.networks()?;
        if before.iter().any(|n| n.name == row.name && n.id != row.id) {
            return Err(NetworkError::NameTaken {
                name: row.name.clone(),
            });
        }
        let json = serde_json::to_vec(row).expect("strings always encode");
        let file = self.network_file(&row.id);
        disk::write_durable(&file, &json, 0o600)?;
        let owned = row.clone();
        let written = self.meta().write(move |db| insert(db, &owned));
        if written.is_err() && !before.iter().any(|n| n.id == row.id) {
            // without its row it would be removed at the next open
            drop(disk::remove_file(&file));
        }
        written
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn networks(&self) -> Result<Vec<NetworkRow>, NetworkError> {
        self.meta().read(|db| {
            let mut all =
                db.prepare_cached("SELECT id, name, document FROM networks ORDER BY name")?;
            let rows = all.query_map([], |r| {
                Ok(NetworkRow {
                    id: r.get(0)?,
                    name: r.get(1)?,
                    document: r.get(2)?,
                })
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
    }

    /// Durable when it returns; works on a full disk. There need be none.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn network_remove(&self, id: &str) -> Result<(), NetworkError> {
        self.freeing(NetworkError::is_out_of_space, || {
            let owned = id.to_owned();
            self.meta().write(move |db| {
                db.execute("DELETE FROM networks WHERE id = ?1", [owned])?;
                Ok::<_, NetworkError>(())
            })
        })?;
        drop(disk::remove_file(&self.network_file(id)));
        Ok(())
    }

    /// Files without a row.
    pub(crate) fn reconcile_networks(&self) -> Result<(), crate::OpenError> {
        let rows: BTreeSet<String> = self
            .meta()
            .read(|db| crate::reconcile::column(db, "SELECT id FROM networks"))?;
        for name in disk::names(&self.networks_dir())? {
            let path = self.networks_dir().join(&name);
            let known = rows.iter().any(|id| path == self.network_file(id));
            if !known {
                self.trash_leftover(&path);
            }
        }
        Ok(())
    }
}

fn insert(db: &Connection, row: &NetworkRow) -> Result<(), NetworkError> {
    db.execute(
        "INSERT INTO networks (id, name, document) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET name = ?2, document = ?3",
        params![row.id, row.name, row.document],
    )?;
    Ok(())
}

/// Puts the network of a file into a database that lost it.
pub(crate) fn adopt(db: &Connection, file: &Path) -> Result<(), String> {
    let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
    let row: NetworkRow = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if file.file_stem().is_none_or(|s| s != row.id.as_str()) {
        return Err(format!("it is of network {}", row.id));
    }
    insert(db, &row).map_err(|e| e.to_string())
}
