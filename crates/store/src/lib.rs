//! The store: everything that lasts, under one root directory owned by one process.
//!
//! ```text
//! <root>/                 0711
//!   lock                  held (flock) by the process that opened the store; its pid is inside
//!   boot.json             boot id of the last open and whether it ended in order
//!   driver                what the last trial of overlays said
//!   meta.db               SQLite (WAL, synchronous=FULL): the index; rebuildable from the files below
//!   blobs/sha256/ab/<hex> compressed blobs as received, verified, synced: the truth about images
//!   builds/<hex>/         what `RUN --mount=type=cache` keeps from build to build: a cache
//!   images/<hex>.json     copies of the index's rows of images
//!   layers/<chain id>/    unpacked layers: a cache
//!   containers/<id>/      record.json, upper, work, and what engine and shim keep there
//!   targets/              what every container mounts on, where its image lacks it
//!   volumes/<name>/_data  user data
//!   trash/                what was removed, until it is reaped; volumes until purged
//!   staging/              work in flight; emptied at open
//!   quarantine/           what could not be understood, set aside for a human
//!   reserve               ballast, released when the disk is full so that deletion stays possible
//! ```
//!
//! Order of every durable change: write in staging -> sync -> rename -> record commit -> answer.
//!
//! GC roots: images in the index (tagged or not), images that containers stand on, leases.
//!
//! Lock order: `meta` queue, `meta` writer, lease table; none is held across another's I/O.

mod archive;
pub mod archive_path;
mod blobs;
mod boot;
pub mod config;
mod containers;
mod copy;
pub mod diff;
pub mod disk;
mod driver;
mod fsck;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gc;
pub mod images;
mod layers;
mod leases;
mod manifest;
mod meta;
mod networks;
pub mod pick;
mod pipe;
pub mod progress;
mod reconcile;
pub mod reference;
mod reserve;
pub mod tar;
mod trash;
mod tree;
pub mod unpack;
mod usage;
mod vfs;
mod volumes;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use containers::{ContainerError, ContainerFs, ContainerRow, NewContainer};
pub use disk::DiskError;
pub use fsck::{FsckReport, Problem, Remedy, Scrubbed};
pub use gc::Collected;
pub use images::{
    CommitRequest, ImageError, ImageInfo, ImportRequest, LoadedImage, RemoveOptions, Removed,
};
pub use leases::{Lease, Resource};
pub use meta::MetaError;
pub use networks::{NetworkError, NetworkRow};
pub use reserve::AdmitError;
pub use trash::Unreaped;
pub use usage::DiskUsage;
pub use volumes::{NewVolume, TrashPolicy, TrashedVolume, VolumeError, VolumeInfo};

use boot::{Boot, RootLock};
use disk::Context;
use meta::Meta;
use worker::{Queue, Worker};

/// How a container's root file system is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Layers stacked by the kernel.
    Overlay,
    /// A full copy per container, where an overlay can't be had.
    Vfs,
}

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Instead of a probe.
    pub driver: Option<Driver>,
    /// Instead of the kernel's; for tests of what happens after a power cut.
    pub boot_id: Option<String>,
    /// Bytes of ballast; 64 MiB where absent, never more than a hundredth of the file system.
    pub reserve: Option<u64>,
    /// No background thread: [`Store::maintain`] does its work. For tests that count steps.
    pub manual: bool,
}

/// An object that could not be understood. It costs itself alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// `container`, `volume`, `image`, `layer`, ...
    pub kind: &'static str,
    pub name: String,
    /// Where it was set aside.
    pub path: PathBuf,
    pub reason: String,
}

/// What was found and done at open.
#[derive(Debug, Clone)]
pub struct OpenReport {
    /// The machine went down without the store having been closed: what was not synced may be
    /// damaged, unpacked layers not marked stable are not trusted.
    pub unclean: bool,
    /// Why the index was set aside and rebuilt from files, if it was.
    pub rebuilt: Option<String>,
    pub quarantined: Vec<Quarantined>,
    /// Repairs made, one line each.
    pub repaired: Vec<String>,
    pub driver: Driver,
    /// Why this driver.
    pub driver_reason: String,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("use {}: it was written by a newer version and needs {what}: use that version", root.display())]
    TooNew { root: PathBuf, what: String },
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
    #[error("lock {}: it is in use by process {holder}: stop that one or use another --data-root", root.display())]
    Locked { root: PathBuf, holder: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl OpenError {
    fn is_out_of_space(&self) -> bool {
        match self {
            Self::Disk(e) => e.is_out_of_space(),
            Self::Meta(e) => e.is_out_of_space(),
            _ => false,
        }
    }
}

/// Why a store could not be closed in order; the next open treats it as killed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// An open store. Synchronous; share it between threads by reference or [`Arc`].
#[derive(Debug)]
pub struct Store {
    // before `shared`: joined before the lock goes
    worker: Mutex<Option<Worker>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    meta: Meta,
    leases: Arc<Mutex<leases::Table>>,
    boot: Boot,
    driver: Driver,
    reserve: u64,
    queue: Arc<Queue>,
    /// Held while blobs and layers are renamed into their places or out of them: between looking
    /// whether one is needed and moving it, nobody may come to need it.
    content: Mutex<()>,
    /// Held while a layer is unpacked again, so that two who want it do it once.
    healing: Mutex<()>,
    // last: everything else is closed before another process may open the store
    _lock: RootLock,
}

impl Store {
    /// Opens the store at `root`, making it if there is none, and puts in order what the last
    /// process or the last boot left.
    ///
    /// # Errors
    /// Another process has it open, a newer version wrote it, or the disk refuses. Damage is never
    /// an error: it is repaired or set aside, and reported.
    pub fn open(root: &Path, options: &OpenOptions) -> Result<(Self, OpenReport), OpenError> {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        std::fs::create_dir_all(&root).on("make directory", &root)?;
        let lock = RootLock::take(&root)?;
        let reserve = options.reserve.unwrap_or(reserve::DEFAULT);
        // a full disk must not keep us from the deleting that would help it
        let first = Self::open_locked(&root, options);
        let (meta, boot, mut report) = match first {
            Err(error) if error.is_out_of_space() && reserve::release(&root) => {
                Self::open_locked(&root, options)?
            }
            other => other?,
        };
        let store = Self {
            shared: Arc::new(Shared {
                driver: report.driver,
                root,
                meta,
                leases: Arc::default(),
                boot,
                reserve,
                queue: Arc::default(),
                content: Mutex::default(),
                healing: Mutex::default(),
                _lock: lock,
            }),
            worker: Mutex::default(),
        };
        store.reconcile(&mut report)?;
        if let Err(error) = store.restore_reserve() {
            report
                .repaired
                .push(format!("no reserve: {}: {}", error, error.source));
        }
        if !options.manual {
            *meta::lock(&store.worker) = Some(store.start_worker()?);
        }
        Ok((store, report))
    }

    fn open_locked(
        root: &Path,
        options: &OpenOptions,
    ) -> Result<(Meta, Boot, OpenReport), OpenError> {
        for (dir, mode) in TREE {
            disk::ensure_dir(&root.join(dir), *mode)?;
        }
        for file in TARGET_FILES {
            disk::ensure_empty(&root.join("targets").join(file), 0o644)?;
        }
        let boot = Boot::begin(root, options.boot_id.clone())?;
        let (driver, driver_reason) = match options.driver {
            Some(driver) => (driver, "asked for".to_owned()),
            None => probe_driver(root)?,
        };
        let mut report = OpenReport {
            unclean: boot.unclean,
            rebuilt: None,
            quarantined: Vec::new(),
            repaired: Vec::new(),
            driver,
            driver_reason,
        };
        let meta = reconcile::open_index(root, &mut report)?;
        Ok((meta, boot, report))
    }

    fn start_worker(&self) -> Result<Worker, OpenError> {
        let shared = Arc::clone(&self.shared);
        let queue = Arc::clone(&self.shared.queue);
        Worker::start(queue, move || {
            // a handle of its own, without a worker: the thread never joins itself
            let store = Self {
                worker: Mutex::default(),
                shared: Arc::clone(&shared),
            };
            for left in store.maintain() {
                tracing::warn!(path = %left.path.display(), reason = left.reason, "can't be deleted; it stays in the trash");
            }
        })
        .map_err(OpenError::Thread)
    }

    /// What the background thread does, once and at once: copies records, reaps the trash, starts
    /// the database's log over, takes the reserve again. Answers with what could not be deleted.
    pub fn maintain(&self) -> Vec<Unreaped> {
        let work = self.queue().take();
        self.copy_records(&work);
        if work.gc
            && let Err(error) = self.gc()
        {
            tracing::warn!(%error, "what no image needs stays");
        }
        if work.layers
            && let Err(error) = self.stabilise_layers()
        {
            tracing::warn!(%error, "unpacked layers are not marked stable yet");
        }
        let reap = work.reap || self.queue().take_reap();
        let left = if reap {
            trash::reap(&self.root().join("trash/reap"), &|| self.queue().stopped())
        } else {
            Vec::new()
        };
        if let Err(error) = self.restore_reserve() {
            tracing::debug!(%error, "the reserve stays away");
        }
        left
    }

    fn copy_records(&self, work: &worker::Pending) {
        for id in &work.records {
            if let Err(error) = self.copy_record(id) {
                tracing::warn!(container = id, %error, "the record's copy stays behind");
            }
        }
        if work.images
            && let Err(error) = self.copy_images()
        {
            tracing::warn!(%error, "the copies of the images' records stay behind");
        }
    }

    /// Waits until everything is on disk and notes that the store was closed in order. Nothing may
    /// be changed through this store afterwards.
    ///
    /// # Errors
    /// The disk refuses; the next open treats the store as killed then.
    pub fn close(&self) -> Result<(), CloseError> {
        if let Some(mut worker) = meta::lock(&self.worker).take() {
            worker.stop();
        }
        self.copy_records(&self.queue().take());
        if let Err(error) = self.stabilise_layers() {
            tracing::warn!(%error, "unpacked layers will be unpacked again");
        }
        if let Err(error) = self.meta().checkpoint() {
            tracing::warn!(%error, "the database's log is not folded in");
        }
        let root = std::fs::File::open(self.root()).on("open", self.root())?;
        disk::syncfs(&root, self.root())?;
        self.boot().end_clean()?;
        Ok(())
    }

    /// The root directory, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// How containers' root file systems are to be put together.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.shared.driver
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.shared.meta
    }

    fn boot(&self) -> &Boot {
        &self.shared.boot
    }

    /// Names this boot of the machine: what was made in another and not synced can't be trusted.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.shared.boot.id
    }

    fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    fn reserve_size(&self) -> u64 {
        self.shared.reserve
    }

    /// See [`Shared::healing`].
    pub(crate) fn healing_lock(&self) -> std::sync::MutexGuard<'_, ()> {
        meta::lock(&self.shared.healing)
    }

    /// Has the background thread sync what was unpacked.
    pub(crate) fn request_stabilise(&self) {
        self.queue().add(|p| p.layers = true);
    }

    /// See [`Shared::content`].
    pub(crate) fn content_lock(&self) -> std::sync::MutexGuard<'_, ()> {
        meta::lock(&self.shared.content)
    }

    fn lease_table(&self) -> &Arc<Mutex<leases::Table>> {
        &self.shared.leases
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        self.shared.root.join("blobs/sha256")
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.shared.root.join("images")
    }

    /// Names or images changed: their files are to follow.
    pub(crate) fn image_records_are_behind(&self) {
        self.queue().add(|p| p.images = true);
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.shared.root.join("layers")
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.shared.root.join("containers")
    }

    pub(crate) fn volumes_dir(&self) -> PathBuf {
        self.shared.root.join("volumes")
    }

    pub(crate) fn volume_trash_dir(&self) -> PathBuf {
        self.shared.root.join("trash/volumes")
    }

    pub(crate) fn staging_dir(&self) -> PathBuf {
        self.shared.root.join("staging")
    }

    /// A fresh name in staging; whoever makes it renames it out or calls [`Store::trash_leftover`].
    pub(crate) fn staging(&self, what: &str) -> PathBuf {
        self.staging_dir().join(format!("{what}-{}", random_hex(8)))
    }

    /// Renames a file or tree of ours out of the way, to be deleted in the background. That it is
    /// gone already is fine; that it can't be moved is left to the next open.
    pub(crate) fn trash_leftover(&self, path: &Path) {
        if let Err(error) = self.to_trash(path) {
            tracing::warn!(%error, cause = %error.source, "can't be moved to the trash; left to the next start");
        }
    }

    /// As [`Store::trash_leftover`], where what can't be moved must be known.
    pub(crate) fn to_trash(&self, path: &Path) -> Result<(), DiskError> {
        let grave = self.shared.root.join("trash/reap").join(random_hex(8));
        let mut moved = disk::rename(path, &grave);
        if moved
            .as_ref()
            .is_err_and(|e| e.source.raw_os_error() == Some(EPERM))
            && let Ok(stuck) = std::fs::File::open(path)
        {
            trash::make_mutable(std::os::fd::AsFd::as_fd(&stuck));
            moved = disk::rename(path, &grave);
        }
        match moved {
            Ok(()) => {
                self.queue().add(|p| p.reap = true);
                Ok(())
            }
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();

/// Directories and their modes.
/// Files of `targets/`, which the engine binds its own over.
const TARGET_FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

const TREE: &[(&str, u32)] = &[
    ("", 0o711),
    ("blobs", 0o700),
    ("blobs/sha256", 0o700),
    ("images", 0o700),
    ("builds", 0o711),
    ("layers", 0o700),
    ("containers", 0o710),
    ("targets", 0o755),
    ("targets/dev", 0o755),
    ("targets/etc", 0o755),
    ("targets/proc", 0o755),
    ("targets/sys", 0o755),
    ("volumes", 0o701),
    ("networks", 0o700),
    ("trash", 0o700),
    ("trash/reap", 0o700),
    ("trash/volumes", 0o700),
    ("staging", 0o700),
    ("quarantine", 0o700),
];

/// Tries an overlay; on a full disk, where nothing can be tried, goes by the last trial.
fn probe_driver(root: &Path) -> Result<(Driver, String), DiskError> {
    let dir = root
        .join("staging")
        .join(format!("probe-{}", random_hex(8)));
    let last = root.join("driver");
    match disk::create_dir(&dir, 0o700) {
        Err(error) if error.is_out_of_space() => {
            let driver = match disk::read_optional(&last)?.as_deref() {
                Some(b"vfs") => Driver::Vfs,
                _ => Driver::Overlay,
            };
            return Ok((driver, "as before: the disk is too full to try".to_owned()));
        }
        other => other?,
    }
    let (driver, why) = driver::probe(&dir); // its files stay in staging, which is emptied next
    let name: &[u8] = match driver {
        Driver::Overlay => b"overlay",
        Driver::Vfs => b"vfs",
    };
    if disk::read_optional(&last)?.as_deref() != Some(name) {
        match disk::write_lazy(&last, name, 0o600) {
            Err(error) if error.is_out_of_space() => {}
            other => other?,
        }
    }
    Ok((driver, why))
}

/// RFC 3339, nanoseconds, UTC.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0u8; bytes];
    let mut filled = 0;
    while filled < bytes {
        filled +=
            rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())
                .expect("getrandom with a valid buffer only fails before Linux 3.17");
    }
    hex::encode(buffer)
}
