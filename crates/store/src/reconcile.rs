//! What open does after the last process or the last boot: makes files and index agree.
//!
//! | found | done |
//! |---|---|
//! | anything in `staging` but blobs of the last day that broke off | to the trash |
//! | no database, or a damaged one | set aside, rebuilt from the files |
//! | container row without directory | directory made again |
//! | container directory without row | to the trash: its create never answered, or it was removed; if the index was rebuilt: to quarantine |
//! | ephemeral container of an earlier boot | removed |
//! | volume row without directory | reported, left |
//! | volume directory without row | moved on to the trash if it was removed, else taken in |
//! | removed volume without directory | forgotten |
//! | directory in the volumes' trash without row | taken in |

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;

use crate::disk;
use crate::meta::{Meta, MetaError, MetaOpenError, log_path};
use crate::{OpenError, OpenReport, Quarantined, Store};

/// Opens the index; sets a damaged one aside and rebuilds it.
pub(crate) fn open_index(root: &Path, report: &mut OpenReport) -> Result<Meta, OpenError> {
    let path = root.join("meta.db");
    let damage = match Meta::open(&path) {
        Ok(meta) => return Ok(meta),
        Err(MetaOpenError::Empty) => None,
        Err(MetaOpenError::Damaged(why)) => Some(why),
        Err(MetaOpenError::TooNew(what)) => {
            return Err(OpenError::TooNew {
                root: root.to_owned(),
                what,
            });
        }
        Err(MetaOpenError::Meta(error)) => return Err(error.into()),
    };
    if let Some(why) = &damage {
        let aside = root.join(format!("quarantine/meta-{}", crate::random_hex(4)));
        disk::create_dir(&aside, 0o700)?;
        for suffix in ["-wal", "-shm", ""] {
            let file = log_path(&path, suffix);
            if std::fs::symlink_metadata(&file).is_ok() {
                disk::rename(&file, &aside.join(format!("meta.db{suffix}")))?;
            }
        }
        report.quarantined.push(Quarantined {
            kind: "index",
            name: "meta.db".to_owned(),
            path: aside,
            reason: why.clone(),
        });
    }
    let mut found = 0usize;
    let meta = Meta::create(&path, |db| {
        found = rebuild(db, root, &mut report.quarantined)?;
        Ok::<_, OpenError>(())
    })?;
    disk::sync_dir(root)?;
    if damage.is_some() || found > 0 {
        let why = damage.unwrap_or_else(|| "it was missing".to_owned());
        report.rebuilt = Some(format!("{why}; {found} objects taken in from their files"));
    }
    Ok(meta)
}

/// Fills an empty index from the files. What can't be understood is set aside alone.
fn rebuild(
    db: &Connection,
    root: &Path,
    quarantined: &mut Vec<Quarantined>,
) -> Result<usize, OpenError> {
    let mut found = 0;
    let mut take_in = |kind: &'static str,
                       dir: &str,
                       movable: bool,
                       adopt: fn(&Connection, &Path) -> Result<(), String>|
     -> Result<(), OpenError> {
        for name in disk::names(&root.join(dir))? {
            let path = root.join(dir).join(&name);
            let name = name.to_string_lossy().into_owned();
            match adopt(db, &path) {
                Ok(()) => found += 1,
                Err(reason) => quarantined.push(if movable {
                    set_aside(root, kind, &name, &path, reason)
                } else {
                    Quarantined {
                        kind,
                        name,
                        path,
                        reason,
                    }
                }),
            }
        }
        Ok(())
    };
    // user data stays where it is, whatever it looks like
    take_in("volume", "volumes", false, crate::volumes::adopt)?;
    take_in(
        "removed volume",
        "trash/volumes",
        false,
        crate::volumes::adopt_trashed,
    )?;
    take_in("image", "images", true, crate::images::records::adopt)?;
    take_in("network", "networks", true, crate::networks::adopt)?;
    take_in("container", "containers", true, crate::containers::adopt)?;
    Ok(found)
}

/// Moves something into `quarantine/`; where even that fails it stays and is reported so.
pub(crate) fn set_aside(
    root: &Path,
    kind: &'static str,
    name: &str,
    path: &Path,
    reason: String,
) -> Quarantined {
    let aside = root.join(format!("quarantine/{kind}-{name}-{}", crate::random_hex(4)));
    let path = match disk::rename(path, &aside) {
        Ok(()) => aside,
        Err(_) => path.to_owned(),
    };
    Quarantined {
        kind,
        name: name.to_owned(),
        path,
        reason,
    }
}

impl Store {
    /// Makes files and rows agree. Only what open must not go on without is an error.
    pub(crate) fn reconcile(&self, report: &mut OpenReport) -> Result<(), OpenError> {
        for name in disk::names(&self.staging_dir())? {
            let path = self.staging_dir().join(name);
            if !crate::blobs::is_resumable(&path) {
                self.trash_leftover(&path);
            }
        }
        if self.boot().new_boot {
            self.drop_ephemeral()?;
        }
        self.reconcile_containers(report)?;
        self.reconcile_volumes(report)?;
        self.reconcile_networks()?;
        self.queue().add(|p| {
            p.reap = true;
            p.gc = true;
            p.images = true;
        });
        Ok(())
    }

    /// The machine restarted: what didn't have to survive that is gone.
    fn drop_ephemeral(&self) -> Result<(), OpenError> {
        let any: bool = self.meta().read(|db| {
            db.prepare("SELECT 1 FROM containers WHERE ephemeral <> 0")
                .and_then(|mut s| s.exists([]))
                .map_err(MetaError::from)
        })?;
        if any {
            self.meta().write(|db| {
                db.execute("DELETE FROM containers WHERE ephemeral <> 0", [])
                    .map_err(MetaError::from)
            })?;
        }
        Ok(())
    }

    fn reconcile_containers(&self, report: &mut OpenReport) -> Result<(), OpenError> {
        let rows: BTreeSet<String> = self
            .meta()
            .read(|db| column(db, "SELECT id FROM containers"))?;
        let mut dirs = BTreeSet::new();
        for name in disk::names(&self.containers_dir())? {
            match name.into_string() {
                Ok(name) if rows.contains(&name) => {
                    dirs.insert(name);
                }
                Ok(name) => self.trash_leftover(&self.container_dir(&name)),
                Err(odd) => self.trash_leftover(&self.containers_dir().join(odd)),
            }
        }
        for id in &rows {
            let missing = !dirs.contains(id);
            if missing || report.unclean {
                let fs = self.container_fs(id);
                disk::ensure_dir(&fs.dir, 0o710)?;
                for (dir, mode) in [(&fs.upper, 0o755), (&fs.work, 0o700)] {
                    if !dir.exists() {
                        disk::create_dir(dir, mode)?;
                    }
                }
            }
            if missing {
                report.repaired.push(format!(
                    "container {id}: its directory is made again, empty"
                ));
            }
        }
        self.queue().add(|p| p.records.extend(rows));
        Ok(())
    }

    fn reconcile_volumes(&self, report: &mut OpenReport) -> Result<(), OpenError> {
        let rows: BTreeSet<String> = self
            .meta()
            .read(|db| column(db, "SELECT name FROM volumes"))?;
        let mut dirs = BTreeSet::new();
        for name in disk::names(&self.volumes_dir())? {
            let name = name.to_string_lossy().into_owned();
            if !rows.contains(&name) {
                self.unlisted_volume(&name, report)?;
            }
            dirs.insert(name);
        }
        for name in rows.difference(&dirs) {
            report.quarantined.push(Quarantined {
                kind: "volume",
                name: name.clone(),
                path: self.volumes_dir().join(name),
                reason: "its directory is missing".to_owned(),
            });
        }
        self.reconcile_volume_trash(report)
    }

    fn reconcile_volume_trash(&self, report: &mut OpenReport) -> Result<(), OpenError> {
        let rows: BTreeSet<String> = self
            .meta()
            .read(|db| column(db, "SELECT uid FROM volume_trash"))?;
        let mut dirs = BTreeSet::new();
        for uid in disk::names(&self.volume_trash_dir())? {
            let uid = uid.to_string_lossy().into_owned();
            let path = self.volume_trash_dir().join(&uid);
            if !rows.contains(&uid) {
                let dir = path.clone();
                let taken_in: Result<(), String> = self
                    .meta()
                    .write(move |db| Ok::<_, MetaError>(crate::volumes::adopt_trashed(db, &dir)))?;
                if let Err(reason) = taken_in {
                    report.quarantined.push(Quarantined {
                        kind: "removed volume",
                        name: uid.clone(),
                        path,
                        reason,
                    });
                }
            }
            dirs.insert(uid);
        }
        for uid in rows.difference(&dirs).cloned() {
            self.meta().write(move |db| {
                db.execute("DELETE FROM volume_trash WHERE uid = ?1", [uid])
                    .map_err(MetaError::from)
            })?;
        }
        Ok(())
    }

    fn unlisted_volume(&self, name: &str, report: &mut OpenReport) -> Result<(), OpenError> {
        let place = self.volumes_dir().join(name);
        if let Err(error) = self.finish_removal(&place) {
            report.quarantined.push(Quarantined {
                kind: "volume",
                name: name.to_owned(),
                path: place,
                reason: error.to_string(),
            });
            return Ok(());
        }
        if !place.exists() {
            report
                .repaired
                .push(format!("volume {name}: its removal is finished"));
            return Ok(());
        }
        let path = place.clone();
        let taken_in: Result<(), String> = self
            .meta()
            .write(move |db| Ok::<_, MetaError>(crate::volumes::adopt(db, &path)))?;
        match taken_in {
            Ok(()) => report
                .repaired
                .push(format!("volume {name}: taken into the index")),
            Err(reason) => report.quarantined.push(Quarantined {
                kind: "volume",
                name: name.to_owned(),
                path: place,
                reason,
            }),
        }
        Ok(())
    }

    pub(crate) fn quarantine(
        &self,
        kind: &'static str,
        name: &str,
        path: &Path,
        reason: String,
    ) -> Quarantined {
        set_aside(self.root(), kind, name, path, reason)
    }
}

pub(crate) fn column(db: &Connection, sql: &str) -> Result<BTreeSet<String>, MetaError> {
    Ok(db
        .prepare(sql)?
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?)
}
