//! Blobs: from a stream to a durable, verified file.
//!
//! ```text
//! staging/blob-<random>   being written and hashed; readers may follow the writer
//!         | fsync (its pages were sent to the disk while it was written)
//!         v rename, under the content lock, leased
//! blobs/sha256/ab/<hex>   + fsync of the directory, before the index refers to it
//! ```
//! An existing blob is replaced by the new copy: that heals one that was damaged on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use sha2::{Digest as _, Sha256};
use sys::fault::point;

use crate::Store;
use crate::disk::{self, Context as _, DiskError};
use crate::images::{ImageError, LayerError, hex_of};
use crate::leases::{Lease, Resource};
use crate::meta::lock;

/// Pages are sent to the disk in pieces of this size, so that the sync at the end has little left.
const WRITE_OUT: u64 = 8 << 20;
/// How often the free space is looked at.
const LOOK_EVERY: u64 = 32 << 20;
/// Names of files in staging that a later process may go on with, for [`RESUMABLE_FOR`].
const RESUMABLE: &str = "pull-";
const RESUMABLE_FOR: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Whether a file in staging stays at open: a blob that broke off not long ago.
pub(crate) fn is_resumable(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let young = || {
        let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok()?;
        let age = modified.elapsed().unwrap_or_default();
        Some(age < RESUMABLE_FOR)
    };
    name.starts_with(RESUMABLE) && young().unwrap_or(false)
}

/// Left free besides the store's reserve.
pub(crate) const KEEP_FREE: u64 = 32 << 20;

/// A file in staging that grows, is then sealed, and is removed unless it was kept.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    sealed: bool,
    failed: bool,
    kept: bool,
    /// It may be gone on with later.
    resumable: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let state = lock(&self.state);
        if !state.kept && !state.resumable {
            disk::discard(&self.path);
        }
    }
}

impl Staged {
    pub(crate) fn create(path: PathBuf) -> Result<Arc<Self>, DiskError> {
        let open = || {
            point("store.blob.create")?;
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
        };
        let file = open().on("make", &path)?;
        Ok(Arc::new(Self {
            path,
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// One that broke off, or a new one: it stays when it is dropped before it was kept.
    fn resume(path: PathBuf) -> Result<Arc<Self>, DiskError> {
        let open = || {
            point("store.blob.create")?;
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        };
        let file = open().on("make", &path)?;
        // held by who works on it: another pull of the same blob takes a file of its own
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .on("lock", &path)?;
        let len = file.metadata().on("look at", &path)?.len();
        Ok(Arc::new(Self {
            path,
            file,
            state: Mutex::new(State {
                len,
                resumable: true,
                ..State::default()
            }),
            changed: Condvar::new(),
        }))
    }

    /// What is in it is not to be gone on with.
    pub(crate) fn spoil(&self) {
        lock(&self.state).resumable = false;
    }

    pub(crate) fn len(&self) -> u64 {
        lock(&self.state).len
    }

    /// Followers read to the end and stop.
    pub(crate) fn seal(&self) {
        lock(&self.state).sealed = true;
        self.changed.notify_all();
    }

    /// Followers get an error.
    pub(crate) fn fail(&self) {
        lock(&self.state).failed = true;
        self.changed.notify_all();
    }

    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        disk::sync_file(&self.file, &self.path)
    }

    /// Reads from the start, waiting for the writer where it must.
    pub(crate) fn follow(self: &Arc<Self>) -> Follow {
        Follow {
            staged: Arc::clone(self),
            at: 0,
        }
    }
}

/// A reader that follows a writer.
#[derive(Debug)]
pub(crate) struct Follow {
    staged: Arc<Staged>,
    at: u64,
}

impl Read for Follow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.staged.state);
        while state.len <= self.at && !state.sealed && !state.failed {
            state = self
                .staged
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if state.failed {
            return Err(io::Error::other("its stream was given up"));
        }
        let ready = usize::try_from(state.len - self.at).unwrap_or(usize::MAX);
        drop(state);
        let n = ready.min(buf.len());
        let n = rustix::io::retry_on_intr(|| {
            rustix::io::pread(&self.staged.file, &mut buf[..n], self.at)
        })?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Writes a [`Staged`] and hashes what it writes.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    pub(crate) staged: Arc<Staged>,
    hash: Sha256,
    at: u64,
    sent: u64,
    looked: u64,
}

impl BlobWriter {
    pub(crate) fn new(staged: Arc<Staged>) -> Self {
        Self {
            staged,
            hash: Sha256::new(),
            at: 0,
            sent: 0,
            looked: 0,
        }
    }

    /// Goes on with what is in the file.
    fn resume(staged: Arc<Staged>) -> Result<Self, DiskError> {
        let mut writer = Self::new(Arc::clone(&staged));
        let mut buffer = vec![0; 256 << 10];
        while writer.at < staged.len() {
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::pread(&staged.file, &mut buffer[..], writer.at)
            })
            .on("read", &staged.path)?;
            if read == 0 {
                break;
            }
            writer.hash.update(&buffer[..read]);
            writer.at += read as u64;
        }
        Ok(writer)
    }

    pub(crate) fn len(&self) -> u64 {
        self.at
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), DiskError> {
        let path = &self.staged.path;
        let mut rest = data;
        while !rest.is_empty() {
            let n =
                rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.staged.file, rest, self.at))
                    .on("write", path)?;
            rest = &rest[n..];
            self.at += n as u64;
        }
        self.hash.update(data);
        lock(&self.staged.state).len = self.at;
        self.staged.changed.notify_all();
        if self.at - self.sent >= WRITE_OUT {
            sys::file::start_writeback(&self.staged.file, self.sent, self.at - self.sent);
            self.sent = self.at;
        }
        if self.at - self.looked >= LOOK_EVERY {
            self.looked = self.at;
            let free = free_space(path)?;
            if free < KEEP_FREE {
                return Err(DiskError {
                    action: "write",
                    path: path.clone(),
                    source: io::Error::from(rustix::io::Errno::NOSPC),
                });
            }
        }
        Ok(())
    }

    /// Ends the file; answers with its digest. It is not synced yet.
    pub(crate) fn finish(self) -> Result<String, DiskError> {
        point("store.blob.written").on("write", &self.staged.path)?;
        if self.at > self.sent {
            sys::file::start_writeback(&self.staged.file, self.sent, self.at - self.sent);
        }
        self.staged.seal();
        Ok(format!("sha256:{}", hex::encode(self.hash.finalize())))
    }
}

impl io::Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // the disk's own error is kept, so that "no space" stays visible
        Self::write(self, buf).map_err(|e| e.source)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn free_space(path: &Path) -> Result<u64, DiskError> {
    let dir = path.parent().unwrap_or(path);
    let st = rustix::fs::statvfs(dir).on("look at the free space of", dir)?;
    Ok(st.f_bavail.saturating_mul(st.f_frsize))
}

impl Store {
    /// Where a blob is, whether or not there is one.
    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = hex_of(digest).unwrap_or("00");
        self.blobs_dir().join(&hex[..2]).join(hex)
    }

    /// Starts a blob in staging.
    pub(crate) fn stage_blob(&self) -> Result<BlobWriter, DiskError> {
        Ok(BlobWriter::new(Staged::create(self.staging("blob"))?))
    }

    /// Goes on with a blob that broke off, or starts it; one that somebody is at is started anew.
    pub(crate) fn resume_blob(&self, digest: &str) -> Result<BlobWriter, DiskError> {
        let hex = hex_of(digest).unwrap_or("00");
        let path = self.staging_dir().join(format!("{RESUMABLE}{hex}"));
        match Staged::resume(path) {
            Ok(staged) => BlobWriter::resume(staged),
            Err(e) if e.source.kind() == io::ErrorKind::WouldBlock => self.stage_blob(),
            Err(e) => Err(e),
        }
    }

    /// A small blob in staging, with its digest.
    pub(crate) fn stage_bytes(&self, bytes: &[u8]) -> Result<(String, Arc<Staged>), DiskError> {
        let mut writer = self.stage_blob()?;
        writer.write(bytes)?;
        let staged = Arc::clone(&writer.staged);
        Ok((writer.finish()?, staged))
    }

    /// Syncs staged blobs and puts them in their places, durably. The caller holds the lease until
    /// the index refers to them.
    pub(crate) fn keep_blobs(
        &self,
        lease: &Lease,
        blobs: &[(String, Arc<Staged>)],
    ) -> Result<(), DiskError> {
        for (_, staged) in blobs {
            staged.sync()?;
        }
        // the shelves' own directory too: one that is there may have been made by a process that
        // was killed before it could sync it
        let mut dirs = std::collections::BTreeSet::from([self.blobs_dir()]);
        {
            let _content = self.content_lock();
            for (digest, staged) in blobs {
                lease.hold(Resource::Blob(digest.clone()));
                let path = self.blob_path(digest);
                let dir = path
                    .parent()
                    .expect("a blob lies in a directory")
                    .to_owned();
                if !dir.exists() {
                    disk::ensure_dir(&dir, 0o700)?;
                }
                disk::rename(&staged.path, &path)?;
                lock(&staged.state).kept = true;
                dirs.insert(dir);
            }
        }
        for dir in dirs {
            disk::sync_dir(&dir)?;
        }
        Ok(())
    }

    /// Opens a blob; its content is not verified.
    pub(crate) fn open_blob(&self, digest: &str) -> Result<File, DiskError> {
        let path = self.blob_path(digest);
        File::open(&path).on("open", &path)
    }

    /// A small blob as a whole; not verified.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub fn read_blob(&self, digest: &str) -> Result<Vec<u8>, DiskError> {
        let path = self.blob_path(digest);
        std::fs::read(&path).on("read", &path)
    }

    /// Some bytes of a blob; fewer where it ends. Not verified.
    ///
    /// # Errors
    /// There is none, or the disk refuses.
    pub fn read_blob_at(&self, digest: &str, at: u64, most: u64) -> Result<Vec<u8>, DiskError> {
        let path = self.blob_path(digest);
        let mut file = self.open_blob(digest)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(at)).on("read", &path)?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).on("read", &path)?;
        Ok(bytes)
    }

    /// Reads all blobs and unpacked layers of an image and says what is not as it must be.
    ///
    /// # Errors
    /// No such image, or the disk refuses.
    pub fn verify_image(&self, image: &str) -> Result<Vec<String>, ImageError> {
        let image = self.image(image)?;
        let mut wrong = Vec::new();
        let blobs = image.layers.iter().map(|l| l.blob.as_str());
        for digest in blobs.chain([image.id.as_str(), image.manifest.as_str()]) {
            match self.verify_blob(digest) {
                Err(e @ (LayerError::NoBlob { .. } | LayerError::WrongBlob { .. })) => {
                    wrong.push(e.to_string());
                }
                other => other?,
            }
        }
        for layer in &image.layers {
            match self.verify_layer(&layer.chain) {
                Ok(list) => wrong.extend(
                    list.into_iter()
                        .map(|m| format!("layer {}: {}: {}", layer.chain, m.path, m.what)),
                ),
                Err(e @ LayerError::Manifest { .. }) => wrong.push(e.to_string()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(wrong)
    }

    /// Reads a blob to its end and compares its digest.
    pub(crate) fn verify_blob(&self, digest: &str) -> Result<(), LayerError> {
        let path = self.blob_path(digest);
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(LayerError::NoBlob {
                    chain: String::new(),
                    blob: digest.to_owned(),
                });
            }
            other => other.on("open", &path)?,
        };
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut hash).on("read", &path)?;
        let found = format!("sha256:{}", hex::encode(hash.finalize()));
        if found == digest {
            Ok(())
        } else {
            Err(LayerError::WrongBlob {
                digest: digest.to_owned(),
                found,
            })
        }
    }
}
