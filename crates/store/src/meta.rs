//! The index of everything: one SQLite database, WAL, `synchronous=FULL`.
//!
//! Writers combine: whoever holds the connection runs, in one transaction with one sync, the
//! changes of all who wait for it. A change that fails is rolled back alone (savepoint); a commit
//! that fails fails every change in it.
//!
//! A *relaxed* change is committed without waiting for the disk. It survives a killed process, not
//! a power cut; it serves what isn't promised beyond this boot (`--rm` containers).
//!
//! Lock order: `queue` is never held while `writer` is taken or used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use sys::fault::point;

/// The metadata database refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    #[error("use the metadata database {}", path.display())]
    Database {
        path: PathBuf,
        #[source]
        source: Arc<rusqlite::Error>,
    },
    #[error("commit to the metadata database {}", path.display())]
    Commit {
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("apply a change: the thread that combined it with others panicked")]
    Abandoned,
}

impl From<rusqlite::Error> for MetaError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Database {
            path: PathBuf::from("meta.db"),
            source: Arc::new(source),
        }
    }
}

impl MetaError {
    /// Whether deleting something, or the reserve, could help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Commit { source, .. } => crate::disk::out_of_space(source),
            Self::Abandoned => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Full,
    Relaxed,
}

/// One change that waits for a transaction.
trait Change: Send {
    /// Whether there is something to commit.
    fn apply(&mut self, db: &Connection) -> bool;
    fn finish(&mut self, outcome: Result<(), MetaError>);
    fn durability(&self) -> Durability;
}

struct Pending<F, T, E> {
    body: Option<F>,
    outcome: Option<Result<T, E>>,
    answer: Answer<T, E>,
    durability: Durability,
}

type Answer<T, E> = Arc<Mutex<Option<Result<T, E>>>>;

impl<F, T, E> Change for Pending<F, T, E>
where
    F: FnOnce(&Connection) -> Result<T, E> + Send,
    T: Send,
    E: From<MetaError> + Send,
{
    fn apply(&mut self, db: &Connection) -> bool {
        let Some(body) = self.body.take() else {
            return false;
        };
        let result = savepoint(db, body);
        let applied = result.is_ok();
        self.outcome = Some(result);
        applied
    }

    fn finish(&mut self, outcome: Result<(), MetaError>) {
        let result = match (self.outcome.take(), outcome) {
            (Some(Ok(_)) | None, Err(e)) => Err(e.into()),
            (Some(result), _) => result,
            (None, Ok(())) => Err(MetaError::Abandoned.into()),
        };
        *lock(&self.answer) = Some(result);
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

fn savepoint<T, E: From<MetaError>>(
    db: &Connection,
    body: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql| db.execute_batch(sql).map_err(MetaError::from);
    run("SAVEPOINT change")?;
    match body(db) {
        Ok(value) => {
            run("RELEASE change")?;
            Ok(value)
        }
        Err(error) => {
            run("ROLLBACK TO change; RELEASE change")?;
            Err(error)
        }
    }
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The database; shared by all threads of the process.
pub(crate) struct Meta {
    path: PathBuf,
    queue: Mutex<Vec<Box<dyn Change>>>,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Meta {
    pub(crate) fn open(path: &Path) -> Result<Self, MetaError> {
        let writer = connect(path)?;
        for schema in [
            crate::containers::SCHEMA,
            crate::images::SCHEMA,
            crate::volumes::SCHEMA,
            crate::leases::SCHEMA,
        ] {
            writer.execute_batch(schema)?;
        }
        Ok(Self {
            path: path.to_owned(),
            queue: Mutex::default(),
            reader: Mutex::new(connect(path)?),
            writer: Mutex::new(writer),
        })
    }

    /// Runs a change, durable when this returns `Ok`. The body may run together with others' in one
    /// transaction; what it did is undone if it returns an error.
    pub(crate) fn write<T, E>(
        &self,
        body: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetaError> + Send + 'static,
    {
        self.submit(Durability::Full, body)
    }

    /// As [`Meta::write`], but a power cut may undo it. A later [`Meta::write`] makes it durable.
    pub(crate) fn write_relaxed<T, E>(
        &self,
        body: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetaError> + Send + 'static,
    {
        self.submit(Durability::Relaxed, body)
    }

    /// Reads a consistent state; never waits for a writer.
    pub(crate) fn read<T, E>(&self, body: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: From<MetaError>,
    {
        let mut reader = lock(&self.reader);
        let tx = reader.transaction().map_err(MetaError::from)?;
        body(&tx)
    }

    fn submit<T, E>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<MetaError> + Send + 'static,
    {
        let answer: Answer<T, E> = Arc::default();
        lock(&self.queue).push(Box::new(Pending {
            body: Some(body),
            outcome: None,
            answer: Arc::clone(&answer),
            durability,
        }));
        let writer = lock(&self.writer);
        if let Some(result) = lock(&answer).take() {
            return result; // whoever held the connection before us ran it
        }
        let batch = std::mem::take(&mut *lock(&self.queue));
        self.run(&writer, batch);
        drop(writer);
        lock(&answer)
            .take()
            .unwrap_or_else(|| Err(MetaError::Abandoned.into()))
    }

    fn run(&self, db: &Connection, mut batch: Vec<Box<dyn Change>>) {
        let outcome = self.transaction(db, &mut batch);
        if outcome.is_err()
            && !db.is_autocommit()
            && let Err(error) = db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "roll back in the metadata database");
        }
        for change in &mut batch {
            change.finish(outcome.clone());
        }
    }

    fn transaction(&self, db: &Connection, batch: &mut [Box<dyn Change>]) -> Result<(), MetaError> {
        if !db.is_autocommit() {
            db.execute_batch("ROLLBACK")?; // a change panicked earlier
        }
        let full = batch.iter().any(|c| c.durability() == Durability::Full);
        db.execute_batch(if full {
            "PRAGMA synchronous=FULL; BEGIN IMMEDIATE"
        } else {
            "PRAGMA synchronous=NORMAL; BEGIN IMMEDIATE"
        })?;
        let mut changed = false;
        for change in batch.iter_mut() {
            changed |= change.apply(db);
        }
        if !changed {
            return Ok(db.execute_batch("ROLLBACK")?);
        }
        point("store.commit").map_err(|e| MetaError::Commit {
            path: self.path.clone(),
            source: Arc::new(e),
        })?;
        db.execute_batch("COMMIT")?;
        Ok(())
    }
}

fn connect(path: &Path) -> Result<Connection, MetaError> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}
