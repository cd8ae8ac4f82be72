//! Loading archives: members are staged, hashed and (what may be a layer) unpacked while the stream
//! still comes; what they mean is only known at its end.
//!
//! ```text
//! stream -> tar reader -> staging/blob-*  --follow--> worker: decompress+hash -> unpack
//!  (this thread)                          --follow--> worker: ...
//!    end of stream: manifest.json, index.json -> which member is what (see `archive`) -> publish
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};

use super::publish::Batch;
use super::{LayerError, LoadError, LoadedImage};
use crate::Store;
use crate::archive::{self, Member, Members, Resolved};
use crate::blobs::{BlobWriter, Staged};
use crate::layers::{BlobFacts, StagedLayer, read_up_to, short};
use crate::meta::lock;
use crate::pipe::{Unpacker, sniff};
use crate::progress::{Action, Progress, Update};
use crate::tar::{Entry, Kind, Reader};
use crate::unpack::clean;

/// Members an archive may have.
const MAX_MEMBERS: usize = 100_000;
/// A document (manifest, configuration) may have this many bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// All documents together.
const MAX_DOCUMENTS: u64 = 64 << 20;
const TELL_EVERY: u64 = 1 << 20;

impl Store {
    /// Brings in the images of an archive: of `docker save` of any version since 1.10, of podman,
    /// skopeo and buildx; plain, gzip or zstd. Durable when it returns.
    ///
    /// # Errors
    /// The archive is refused, or the disk refuses; nothing is left behind then.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let pool = Pool::default();
        let taken = std::thread::scope(|scope| {
            for _ in 0..workers() {
                scope.spawn(|| pool.work(self, progress));
            }
            let taken = Intake::new(self, &pool, progress).run(archive);
            pool.close(taken.is_err());
            let members = taken?;
            // most of it is on its way to the disk already; the workers use the processors
            for staged in members.staged() {
                staged.sync()?;
            }
            Ok::<_, LoadError>(members)
        });
        let mut layers = pool.results();
        let batch = taken.and_then(|members| self.batch(members, &mut layers));
        for layer in layers.into_values().flatten() {
            self.drop_layer(&layer);
        }
        self.publish(batch.map_err(LoadError::classified)?, progress)
    }

    /// What the members mean, checked, with the layers the images need.
    fn batch(&self, mut members: Members, layers: &mut Results) -> Result<Batch, LoadError> {
        let images = archive::resolve(&members)?;
        let mut batch = Batch::default();
        let checked = images
            .iter()
            .try_for_each(|image| self.batch_image(&mut members, image, layers, &mut batch));
        if checked.is_err() {
            for layer in batch.layers.values() {
                self.drop_layer(layer);
            }
        }
        checked?;
        Ok(batch)
    }

    fn batch_image(
        &self,
        members: &mut Members,
        image: &Resolved,
        layers: &mut Results,
        batch: &mut Batch,
    ) -> Result<(), LoadError> {
        for (member, layer) in image.layer_members.iter().zip(&image.new.layers) {
            let missing = || LoadError::Missing {
                document: image.document.clone(),
                missing: member.clone(),
            };
            if let Some(unpacked) = layers.remove(member) {
                let unpacked = unpacked?;
                let found = unpacked.diff.clone();
                let slot = batch.layers.insert(layer.blob.clone(), unpacked);
                debug_assert!(slot.is_none(), "each member is unpacked once");
                check_diff(&layer.diff, found)?;
            } else if let Some(staged) = batch.layers.get(&layer.blob) {
                check_diff(&layer.diff, staged.diff.clone())?;
            } else {
                // not unpacked because an image has it: then its content is known
                let known = self.diff_of_blob(&layer.blob)?;
                check_diff(&layer.diff, known.ok_or_else(missing)?)?;
            }
            if !batch.blobs.contains_key(&layer.blob) {
                let staged = members.take_staged(member).ok_or_else(missing)?;
                batch.blobs.insert(layer.blob.clone(), staged);
            }
        }
        for bytes in [&image.new.config, &image.manifest] {
            let (digest, staged) = self.stage_bytes(bytes)?;
            batch.blobs.insert(digest, staged);
        }
        batch.images.push(image.new.clone());
        Ok(())
    }

    /// The digest of the content of a blob that some image has as a layer.
    pub(super) fn diff_of_blob(&self, blob: &str) -> Result<Option<String>, LoadError> {
        use rusqlite::OptionalExtension as _;
        Ok(self.meta().read(|db| {
            Ok::<_, crate::meta::MetaError>(
                db.prepare_cached("SELECT diff FROM image_layers WHERE blob = ?1 LIMIT 1")?
                    .query_row([blob], |r| r.get(0))
                    .optional()?,
            )
        })?)
    }

    /// Whether all layers made of this blob are unpacked and trusted.
    fn blob_is_unpacked(&self, blob: &str) -> Result<bool, LoadError> {
        let chains: Vec<String> = self.meta().read(|db| {
            Ok::<_, crate::meta::MetaError>(
                db.prepare_cached("SELECT DISTINCT chain FROM image_layers WHERE blob = ?1")?
                    .query_map([blob], |r| r.get(0))?
                    .collect::<Result<_, _>>()?,
            )
        })?;
        for chain in &chains {
            if !self.layer_usable(chain)? {
                return Ok(false);
            }
        }
        Ok(!chains.is_empty())
    }
}

pub(super) fn check_diff(wanted: &str, found: String) -> Result<(), LayerError> {
    if wanted == found {
        Ok(())
    } else {
        Err(LayerError::WrongDiff {
            diff: wanted.to_owned(),
            found,
        })
    }
}

pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4))
}

/// By the member's name.
pub(super) type Results = BTreeMap<String, Result<StagedLayer, LayerError>>;

/// A member that may be a layer.
pub(super) struct Job {
    pub(super) member: String,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) staged: Arc<Staged>,
}

/// Workers that unpack.
#[derive(Default)]
pub(super) struct Pool {
    queue: Mutex<Queue>,
    changed: Condvar,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    pub(super) fn add(&self, job: Job) {
        lock(&self.queue).jobs.push_back(job);
        self.changed.notify_one();
    }

    /// No more jobs come; with `give_up`, those that wait are not done either.
    pub(super) fn close(&self, give_up: bool) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        if give_up {
            queue.jobs.clear();
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// What was made, by member.
    pub(super) fn results(&self) -> Results {
        std::mem::take(&mut *lock(&self.results))
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    pub(super) fn work(&self, store: &Store, progress: &dyn Progress) {
        while let Some(job) = self.next() {
            let facts = BlobFacts {
                name: &job.name,
                size: Some(job.size),
                complete: false,
            };
            let done = store.stage_layer(job.staged.follow(), facts, None, progress);
            if done.is_ok() {
                progress.update(&Update {
                    id: &job.name,
                    action: Action::Done,
                    done: job.size,
                    total: Some(job.size),
                });
            }
            lock(&self.results).insert(job.member, done);
        }
    }
}

/// Reads the archive.
struct Intake<'a> {
    store: &'a Store,
    pool: &'a Pool,
    progress: &'a dyn Progress,
    members: Members,
    documents: u64,
}

impl<'a> Intake<'a> {
    fn new(store: &'a Store, pool: &'a Pool, progress: &'a dyn Progress) -> Self {
        Self {
            store,
            pool,
            progress,
            members: Members::default(),
            documents: 0,
        }
    }

    fn run(mut self, mut archive: &mut dyn Read) -> Result<Members, LoadError> {
        let mut head = [0; 6];
        let n = read_up_to(&mut archive, &mut head).map_err(LoadError::Read)?;
        let packing = sniff(&head[..n]).map_err(LoadError::Compression)?;
        let whole = io::Cursor::new(head).take(n as u64).chain(archive);
        let stream = Unpacker::new(whole, packing).map_err(LoadError::Read)?;
        let mut reader = Reader::new(BufReader::with_capacity(256 << 10, stream));
        while let Some(entry) = reader.next_entry()? {
            self.entry(&entry, &mut reader)?;
        }
        Ok(self.members)
    }

    fn entry<R: io::BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), LoadError> {
        let refuse = |what: &str| LoadError::Entry {
            name: entry.name(),
            what: what.to_owned(),
        };
        let path = clean(&entry.path).map_err(refuse)?;
        if entry.kind == Kind::Directory {
            return Ok(());
        }
        let path = String::from_utf8(path).map_err(|_| refuse("its name is not text"))?;
        if path.is_empty() {
            return Err(refuse("an empty name"));
        }
        if self.members.len() >= MAX_MEMBERS {
            return Err(refuse("more members than an image has"));
        }
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => self.file(entry, &path, reader)?,
            Kind::Symlink | Kind::HardLink => Member::Alias(alias(entry, &path).map_err(refuse)?),
            _ => {
                return Err(refuse(
                    "an archive of images has plain files, directories and links only",
                ));
            }
        };
        if !self.members.insert(path, member) {
            return Err(refuse("the archive has an entry of this name already"));
        }
        Ok(())
    }

    fn file<R: io::BufRead>(
        &mut self,
        entry: &Entry,
        path: &str,
        reader: &mut Reader<R>,
    ) -> Result<Member, LoadError> {
        // manifests and configurations are JSON; so may be the name of a layer's first file
        let is_json = matches!(reader.data()?.first(), Some(b'{' | b'['));
        let mut bytes = Vec::new();
        if is_json && entry.size <= MAX_DOCUMENT && self.documents + entry.size <= MAX_DOCUMENTS {
            bytes = read_whole(entry, reader)?;
            if bytes.get(257..262) != Some(b"ustar") {
                self.documents += entry.size;
                return document(entry, path, bytes);
            }
        }
        self.blob(entry, path, bytes, reader)
    }

    fn blob<R: io::BufRead>(
        &mut self,
        entry: &Entry,
        path: &str,
        head: Vec<u8>,
        reader: &mut Reader<R>,
    ) -> Result<Member, LoadError> {
        let mut writer = self.store.stage_blob()?;
        writer.write(&head)?;
        let name = short(path.rsplit('/').find(|p| p.len() >= 12).unwrap_or(path)).to_owned();
        let known = archive::digest_in_path(path);
        let unpacked = match &known {
            Some(digest) => self.store.blob_is_unpacked(digest)?,
            None => false,
        };
        if !unpacked {
            self.pool.add(Job {
                member: path.to_owned(),
                name: name.clone(),
                size: entry.size,
                staged: Arc::clone(&writer.staged),
            });
        }
        let staged = Arc::clone(&writer.staged);
        if let Err(e) = self.copy(&name, entry.size, &mut writer, reader) {
            staged.fail();
            return Err(e);
        }
        let digest = writer.finish().inspect_err(|_| staged.fail())?;
        self.tell(&name, entry.size, entry.size);
        if unpacked {
            self.progress.update(&Update {
                id: &name,
                action: Action::Exists,
                done: entry.size,
                total: Some(entry.size),
            });
        }
        check_name(entry, known.as_deref(), &digest)?;
        Ok(Member::Blob { digest, staged })
    }

    fn copy<R: io::BufRead>(
        &self,
        name: &str,
        size: u64,
        writer: &mut BlobWriter,
        reader: &mut Reader<R>,
    ) -> Result<(), LoadError> {
        let mut told = 0;
        loop {
            let data = reader.data()?;
            if data.is_empty() {
                return Ok(());
            }
            let n = data.len();
            writer.write(data)?;
            reader.consume(n);
            told += n as u64;
            if told >= TELL_EVERY {
                told = 0;
                self.tell(name, writer.staged.len(), size);
            }
        }
    }

    fn tell(&self, id: &str, done: u64, total: u64) {
        self.progress.update(&Update {
            id,
            action: Action::Loading,
            done,
            total: Some(total),
        });
    }
}

fn read_whole<R: io::BufRead>(entry: &Entry, reader: &mut Reader<R>) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::with_capacity(usize::try_from(entry.size).unwrap_or(0));
    loop {
        let data = reader.data()?;
        if data.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(data);
        let n = data.len();
        reader.consume(n);
    }
}

fn document(entry: &Entry, path: &str, bytes: Vec<u8>) -> Result<Member, LoadError> {
    let digest = archive::digest(&bytes);
    check_name(entry, archive::digest_in_path(path).as_deref(), &digest)?;
    Ok(Member::Document(bytes))
}

/// A member whose name is a digest must have it.
fn check_name(entry: &Entry, named: Option<&str>, found: &str) -> Result<(), LoadError> {
    match named {
        Some(named) if named != found => Err(LoadError::Entry {
            name: entry.name(),
            what: format!("its content has the digest {found}: it is damaged or forged"),
        }),
        _ => Ok(()),
    }
}

/// The member a link stands for: `docker save` of old links layers that are the same.
fn alias(entry: &Entry, path: &str) -> Result<String, &'static str> {
    let target = std::str::from_utf8(&entry.link).map_err(|_| "its target is not text")?;
    if entry.kind == Kind::HardLink {
        let target = clean(target.as_bytes())?;
        return String::from_utf8(target).map_err(|_| "its target is not text");
    }
    if target.starts_with('/') {
        return Err("a link with an absolute target");
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or("a link that leads out of the archive")?;
            }
            other => parts.push(other),
        }
    }
    Ok(parts.join("/"))
}
