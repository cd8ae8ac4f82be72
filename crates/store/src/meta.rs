//! The index of everything: one SQLite database, WAL, `synchronous=FULL`.
//!
//! Writers combine: whoever holds the connection runs, in one transaction with one sync, the
//! changes of all who wait for it. A change that fails is rolled back alone (savepoint); a commit
//! that fails fails every change in it.
//!
//! A *relaxed* change is committed without waiting for the disk. It survives a killed process, not
//! a power cut; it serves what isn't promised beyond this boot (`--rm` containers).
//!
//! The write-ahead log is laid out in full before the first commit and overwritten in place from then
//! on: a commit then changes no metadata of the file system, so it needs neither space on a full
//! disk nor a commit of the file system's own journal.
//!
//! Format: table `format` says which schema wrote the database and which is the oldest that may
//! still use it; table `features` names what a reader must know (`incompatible`) or may ignore. A
//! newer version only adds tables and columns with defaults, so that its predecessor can go on
//! using the database; rows are written by column name so that it may.
//!
//! Lock order: `queue` is never held while `writer` is taken or used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use rusqlite::{Connection, OptionalExtension};
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
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Why a database can't be used. Damage is not among the reasons a user sees: it is rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetaOpenError {
    #[error("the database has no tables of ours")]
    Empty,
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    TooNew(String),
    #[error(transparent)]
    Meta(MetaError),
}

impl From<rusqlite::Error> for MetaOpenError {
    fn from(error: rusqlite::Error) -> Self {
        MetaError::from(error).into()
    }
}

impl From<MetaError> for MetaOpenError {
    fn from(error: MetaError) -> Self {
        use rusqlite::ErrorCode as C;
        let MetaError::Database { source, .. } = &error else {
            return Self::Meta(error);
        };
        match source.sqlite_error().map(|e| (e.code, e.extended_code)) {
            // 522: a read past the end of a truncated file
            Some(
                (C::NotADatabase | C::DatabaseCorrupt | C::TypeMismatch, _)
                | (C::SystemIoFailure, 522),
            ) => Self::Damaged(source.to_string()),
            _ => Self::Meta(error),
        }
    }
}

/// Of the tables below. Raised by one with each change; see the module's header.
/// 2: networks.
const SCHEMA_VERSION: i64 = 2;
/// The oldest version that can use what we write.
const READABLE_FROM: i64 = 1;
/// Names of incompatible features this version knows.
const KNOWN_FEATURES: &[&str] = &[];

const FORMAT: &str = "
CREATE TABLE IF NOT EXISTS format (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS features (name TEXT PRIMARY KEY, incompatible INTEGER NOT NULL) STRICT;
";

const SCHEMAS: &[&str] = &[
    crate::containers::SCHEMA,
    crate::images::SCHEMA,
    crate::images::steps::SCHEMA,
    crate::volumes::SCHEMA,
    crate::networks::SCHEMA,
];

impl Meta {
    /// Opens a database that is whole, of a version we can use, and has our tables.
    pub(crate) fn open(path: &Path) -> Result<Self, MetaOpenError> {
        let found = std::fs::symlink_metadata(path);
        match found {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(MetaOpenError::Empty),
            Ok(m) if !m.is_file() => {
                return Err(MetaOpenError::Damaged("it isn't a regular file".to_owned()));
            }
            _ => {}
        }
        lay_out_log(path)?;
        let db = connect(path)?;
        check_whole(&db)?;
        check_format(&db)?;
        for schema in SCHEMAS {
            db.execute_batch(schema)?; // what a newer version of ours added
        }
        Ok(Self::with(path, db))
    }

    /// Makes a database, with what `fill` puts into it, in one transaction: after a crash there is
    /// either all of it or a database without tables, which [`Meta::open`] calls empty.
    pub(crate) fn create<E: From<MetaError>>(
        path: &Path,
        fill: impl FnOnce(&Connection) -> Result<(), E>,
    ) -> Result<Self, E> {
        // SQLite drops a log it finds beside an empty database: laid out at the end
        let db = connect(path)?;
        let make = |sql: &str| db.execute_batch(sql).map_err(MetaError::from);
        make("BEGIN IMMEDIATE")?;
        make(FORMAT)?;
        for (key, value) in [("schema", SCHEMA_VERSION), ("readable-from", READABLE_FROM)] {
            db.execute(
                "INSERT OR REPLACE INTO format VALUES (?1, ?2)",
                (key, value),
            )
            .map_err(MetaError::from)?;
        }
        for schema in SCHEMAS {
            make(schema)?;
        }
        fill(&db)?;
        point("store.commit").map_err(|e| MetaError::Commit {
            path: path.to_owned(),
            source: Arc::new(e),
        })?;
        make("COMMIT")?;
        lay_out_log(path)?;
        Ok(Self::with(path, db))
    }

    fn with(path: &Path, writer: Connection) -> Self {
        Self {
            path: path.to_owned(),
            queue: Mutex::default(),
            writer: Mutex::new(writer),
        }
    }

    /// Moves the log's content into the database file and starts the log over.
    pub(crate) fn checkpoint(&self) -> Result<(), MetaError> {
        let writer = lock(&self.writer);
        writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        Ok(())
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

    /// Reads a consistent state. The body calls neither this nor [`Meta::write`].
    pub(crate) fn read<T, E>(&self, body: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: From<MetaError>,
    {
        let mut writer = lock(&self.writer);
        if !writer.is_autocommit() {
            writer.execute_batch("ROLLBACK").map_err(MetaError::from)?;
        }
        let tx = writer.transaction().map_err(MetaError::from)?;
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
    // made here for its mode, which log and index take over
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| MetaError::Commit {
            path: path.to_owned(),
            source: Arc::new(e),
        })?;
    let db = Connection::open(path)?;
    // keeps the log in place when the process ends in order
    db.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        true,
    )?;
    // one connection, for good: the log's index is kept in memory and not in a file, which can't be
    // made on a full disk
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // what is sorted and what a statement may have to undo stays out of the host's /var/tmp
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// 4 MiB: about a thousand pages, which is when SQLite starts the log over.
const LOG_BYTES: u64 = 4 << 20;

/// Fills the log file up with zeros, which its reader takes for the end.
fn lay_out_log(path: &Path) -> Result<(), MetaError> {
    let log = log_path(path, "-wal");
    let extend = || {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)?;
        let len = file.metadata()?.len();
        if len >= LOG_BYTES {
            return Ok(());
        }
        point("store.meta.log")?;
        let zeros = vec![0u8; 1 << 20];
        let mut missing = LOG_BYTES - len;
        while missing > 0 {
            let n = zeros
                .len()
                .min(usize::try_from(missing).unwrap_or(usize::MAX));
            file.write_all(&zeros[..n])?;
            missing -= n as u64;
        }
        file.sync_data()
    };
    let done: std::io::Result<()> = extend();
    match done {
        // without it commits are slower and may fail on a full disk: not a reason to stay down
        Err(error) if crate::disk::out_of_space(&error) => Ok(()),
        other => other.map_err(|e| MetaError::Commit {
            path: log.clone(),
            source: Arc::new(e),
        }),
    }
}

pub(crate) fn log_path(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn check_whole(db: &Connection) -> Result<(), MetaOpenError> {
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(MetaOpenError::Damaged(verdict))
    }
}

fn check_format(db: &Connection) -> Result<(), MetaOpenError> {
    let ours = db
        .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'format'")?
        .exists([])?;
    if !ours {
        return Err(MetaOpenError::Empty);
    }
    let number = |key: &str| -> Result<i64, MetaOpenError> {
        db.query_row("SELECT value FROM format WHERE key = ?1", [key], |r| {
            r.get(0)
        })
        .optional()?
        .ok_or_else(|| MetaOpenError::Damaged(format!("its format table lacks {key}")))
    };
    let (schema, readable_from) = (number("schema")?, number("readable-from")?);
    if readable_from > SCHEMA_VERSION {
        return Err(MetaOpenError::TooNew(format!(
            "schema {schema} (readable from schema {readable_from}, this is {SCHEMA_VERSION})"
        )));
    }
    let mut features = db.prepare("SELECT name FROM features WHERE incompatible <> 0")?;
    for name in features.query_map([], |r| r.get::<_, String>(0))? {
        let name = name?;
        if !KNOWN_FEATURES.contains(&name.as_str()) {
            return Err(MetaOpenError::TooNew(format!("feature {name}")));
        }
    }
    Ok(())
}
