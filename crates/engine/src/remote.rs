//! Images from registries and to them.
//!
//! ```text
//! pull   manifest (of this platform) -> configuration -> the store takes the layers, asking for each
//!                                                        blob from where it broke off
//! push   layers that the registry does not have, three at a time -> configuration -> manifest
//! ```
//! What is pushed is what is kept: blobs and manifest as they came, or as they were made here.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use registry::manifest::{Document, choose};
use registry::{Access, Blob, Fetched, Platform, Session, Upload};
use store::images::{PullRequest, Source};
use store::reference::Reference;
use tokio::runtime::Handle;

use crate::error::Error;
use crate::images::{Relay, load_error, long};
use crate::inner::Inner;
use crate::model::ErrorKind;
use crate::views::{ImageView, Progress, ProgressSender};

pub use registry::Credentials;

/// A configuration may have this many bytes.
const MOST_CONFIG: usize = 8 << 20;
const MOST_NESTED: usize = 3;
const PUSHED_AT_ONCE: usize = 3;
/// How often a piece of an upload is sent.
const TRIES: u32 = 4;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// As shown to users, with its tag or digest.
    pub name: String,
    /// What the registry has under that name: an index or a manifest.
    pub digest: String,
    /// It was not here under this name before.
    pub is_newer: bool,
}

/// What was put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub tag: String,
    pub digest: String,
    /// Of the manifest.
    pub size: usize,
}

/// What a registry has under a name.
#[derive(Debug, Clone)]
pub struct Distribution {
    pub digest: String,
    pub media_type: String,
    pub size: usize,
    pub platforms: Vec<Platform>,
}

/// # Errors
/// Says how a mirror is written.
pub fn check_mirror(text: &str) -> Result<(), String> {
    registry::check_mirror(text).map_err(|e| e.to_string())
}

fn parsed(reference: &str) -> Result<Reference, Error> {
    let reference = Reference::parse(reference).map_err(|e| Error::invalid(e.to_string()))?;
    Ok(reference.with_default_tag())
}

/// In Docker's words.
fn registry_error(reference: &Reference) -> impl FnOnce(registry::Error) -> Error {
    let (name, repository) = (reference.familiar(), reference.familiar_repository());
    move |error| match &error {
        error if error.is_not_found() => {
            Error::not_found(format!("manifest for {name} not found: {error}"))
        }
        registry::Error::Unauthorized(why) => Error::not_found(format!(
            "pull access denied for {repository}, repository does not exist or may require 'docker login': {why}"
        )),
        registry::Error::Platform { .. } => Error::not_found(error.to_string()),
        registry::Error::Config(_) => Error::invalid(error.to_string()),
        registry::Error::Timeout { .. } => Error::timeout(error.to_string()),
        _ => Error::caused(ErrorKind::Internal, "ask the registry", error),
    }
}

fn session(
    engine: &Inner,
    reference: &Reference,
    credentials: Credentials,
    access: Access,
) -> Result<Session, Error> {
    let session = engine.remote.load().session(reference, credentials, access);
    session.map_err(registry_error(reference))
}

async fn say(progress: Option<&ProgressSender>, id: &str, status: impl Into<String>) {
    if let Some(progress) = progress {
        let line = Progress {
            id: id.to_owned(),
            status: status.into(),
            current: 0,
            total: 0,
        };
        // a client that went away does not end the work
        drop(progress.send(line).await);
    }
}

/// The manifest for a platform, through indexes.
async fn manifest_for(
    session: &Session,
    top: &Fetched,
    platform: &Platform,
) -> Result<(Fetched, registry::Descriptor), registry::Error> {
    let mut at = top.clone();
    for _ in 0..=MOST_NESTED {
        match at.document()? {
            Document::Manifest { config, .. } => return Ok((at, config)),
            Document::Index(list) => {
                let chosen = choose(&list, platform)?;
                at = session.manifest(&chosen.digest).await?;
            }
        }
    }
    Err(registry::Error::Protocol(format!(
        "{}: indexes are nested more than {MOST_NESTED} times",
        top.digest
    )))
}

pub(crate) async fn pull(
    engine: &Arc<Inner>,
    reference: &str,
    platform: Option<&str>,
    credentials: Credentials,
    progress: Option<ProgressSender>,
) -> Result<Pulled, Error> {
    let reference = parsed(reference)?;
    let failed = || registry_error(&reference);
    let platform = match platform {
        Some(text) => Platform::parse(text).map_err(failed())?,
        None => Platform::host(),
    };
    let session = Arc::new(session(engine, &reference, credentials, Access::Pull)?);
    let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
    let top = session.manifest(wanted).await.map_err(failed())?;
    let (manifest, config) = manifest_for(&session, &top, &platform)
        .await
        .map_err(failed())?;
    let path = reference.repository();
    let path = path.split_once('/').map_or(path.as_str(), |(_, p)| p);
    let shown = reference.tag().filter(|_| reference.digest().is_none());
    say(
        progress.as_ref(),
        shown.unwrap_or(&top.digest),
        format!("Pulling from {path}"),
    )
    .await;
    let config = session.small_blob(&config.digest, MOST_CONFIG).await;
    let by_digest = format!("{}@{}", reference.repository(), top.digest);
    let request = PullRequest {
        config: config.map_err(failed())?,
        manifest: manifest.bytes,
        names: match reference.digest() {
            Some(_) => vec![by_digest],
            None => vec![reference.to_string(), by_digest],
        },
    };
    let id = registry::manifest::digest(&request.config);
    let name = reference.familiar();
    let before = crate::images::find(&engine.images.load(), &name).ok();
    let source = Remote {
        session,
        handle: Handle::current(),
    };
    long(engine, move |inner| {
        let pulled = inner
            .store
            .pull(&request, &source, &Relay::of_pull(progress));
        pulled.map_err(load_error)
    })
    .await?;
    engine.refresh_images().await;
    engine.image_event("pull", &name, &name);
    Ok(Pulled {
        digest: top.digest,
        is_newer: before.is_none_or(|b| b.id != id),
        name,
    })
}

/// The store's threads ask the registry by it.
struct Remote {
    session: Arc<Session>,
    handle: Handle,
}

impl Source for Remote {
    fn open(&self, digest: &str, offset: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let blob = self.handle.block_on(self.session.blob(digest, offset));
        let blob = blob.map_err(as_io)?;
        let reader = BlobReader {
            handle: self.handle.clone(),
            current: Bytes::new(),
            blob: Some(blob),
        };
        Ok((
            reader.blob.as_ref().map_or(0, |b| b.offset),
            Box::new(reader),
        ))
    }
}

fn as_io(error: registry::Error) -> io::Error {
    let kind = match &error {
        e if e.is_not_found() => io::ErrorKind::NotFound,
        registry::Error::Unauthorized(_) => io::ErrorKind::PermissionDenied,
        registry::Error::Timeout { .. } => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

struct BlobReader {
    handle: Handle,
    current: Bytes,
    /// Absent: at its end.
    blob: Option<Blob>,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(blob) = &mut self.blob else {
                return Ok(0);
            };
            match self.handle.block_on(blob.next()).map_err(as_io)? {
                Some(piece) => self.current = piece,
                None => self.blob = None,
            }
        }
        let n = buffer.len().min(self.current.len());
        let piece = self.current.split_to(n);
        buffer
            .iter_mut()
            .zip(&piece)
            .for_each(|(to, from)| *to = *from);
        Ok(n)
    }
}

// ---- push

pub(crate) async fn push(
    engine: &Arc<Inner>,
    reference: &str,
    credentials: Credentials,
    progress: Option<ProgressSender>,
) -> Result<Pushed, Error> {
    let reference = parsed(reference)?;
    let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else {
        return Err(Error::invalid("cannot push a digest reference: name a tag"));
    };
    let failed = || push_error(&reference);
    let image = crate::images::find(&engine.images.load(), &reference.familiar())?;
    let session = session(engine, &reference, credentials, Access::Push)?;
    let session = session.mounting_from(neighbour(&image, &reference));
    let parts = parts(engine, &image.id).await?;
    say(
        progress.as_ref(),
        "",
        format!("The push refers to repository [{}]", reference.repository()),
    )
    .await;
    let mut blobs: Vec<(String, u64)> = Vec::new();
    for blob in parts.layers.iter().chain([&parts.config]) {
        if !blobs.contains(blob) {
            blobs.push(blob.clone());
        }
    }
    let (session, progress) = (&session, progress.as_ref());
    for (digest, _) in &blobs {
        say(progress, short(digest), "Preparing").await;
    }
    futures_util::stream::iter(blobs)
        .map(|(digest, size)| async move { send(engine, session, &digest, size, progress).await })
        .buffer_unordered(PUSHED_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .map_err(|e| match e {
            Sent::Registry(e) => failed()(e),
            Sent::Engine(e) => e,
        })?;
    let size = parts.manifest.len();
    let digest = session
        .put_manifest(tag, &parts.media_type, parts.manifest)
        .await
        .map_err(failed())?;
    let name = reference.familiar();
    let by_digest = format!("{}@{digest}", reference.repository());
    let id = image.id.clone();
    engine
        .blocking("note the image's digest", move |inner| {
            inner
                .store
                .note_digest(&id, &by_digest)
                .map_err(Error::store("note the digest"))
        })
        .await?;
    engine.refresh_images().await;
    engine.image_event("push", &name, &name);
    Ok(Pushed {
        tag: tag.to_owned(),
        digest,
        size,
    })
}

fn push_error(reference: &Reference) -> impl FnOnce(registry::Error) -> Error {
    let repository = reference.repository();
    move |error| match &error {
        registry::Error::Unauthorized(why) => Error::new(
            ErrorKind::Forbidden,
            format!("push access denied for {repository}: {why} (docker login)"),
        ),
        _ => Error::caused(ErrorKind::Internal, format!("push to {repository}"), error),
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// Another repository of the same registry that has the image.
fn neighbour(image: &ImageView, reference: &Reference) -> Option<String> {
    let all = image
        .digests
        .iter()
        .filter_map(|d| Reference::parse(d).ok());
    let other = all
        .filter(|r| r.domain() == reference.domain())
        .map(|r| r.repository())
        .find(|r| *r != reference.repository())?;
    other.split_once('/').map(|(_, path)| path.to_owned())
}

/// What an image is made of: digests and sizes.
struct Parts {
    layers: Vec<(String, u64)>,
    config: (String, u64),
    manifest: Vec<u8>,
    media_type: String,
}

async fn parts(engine: &Arc<Inner>, id: &str) -> Result<Parts, Error> {
    let id = id.to_owned();
    engine
        .blocking("read the image's manifest", move |inner| {
            let image = inner
                .store
                .image(&id)
                .map_err(Error::store("find the image"))?;
            let manifest = inner.store.read_blob(&image.manifest);
            let manifest = manifest.map_err(Error::store("read the image's manifest"))?;
            let said: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
            let media_type = said.get("mediaType").and_then(|m| m.as_str());
            let media_type = media_type.unwrap_or(registry::manifest::OCI_MANIFEST);
            Ok(Parts {
                layers: image
                    .layers
                    .iter()
                    .map(|l| (l.blob.clone(), l.blob_size))
                    .collect(),
                config: (image.id.clone(), image.config_bytes.len() as u64),
                media_type: media_type.to_owned(),
                manifest,
            })
        })
        .await
}

enum Sent {
    Registry(registry::Error),
    Engine(Error),
}

impl From<registry::Error> for Sent {
    fn from(error: registry::Error) -> Self {
        Self::Registry(error)
    }
}

/// One blob, unless it is there.
async fn send(
    engine: &Arc<Inner>,
    session: &Session,
    digest: &str,
    size: u64,
    progress: Option<&ProgressSender>,
) -> Result<(), Sent> {
    let id = short(digest);
    if session.has_blob(digest).await? {
        say(progress, id, "Layer already exists").await;
        return Ok(());
    }
    let mut at = match session.begin(digest).await? {
        Upload::Mounted => {
            say(progress, id, "Mounted").await;
            return Ok(());
        }
        Upload::At(uri) => uri,
    };
    let (mut done, mut failures) = (0, 0);
    while done < size {
        let length = Session::piece().min(size - done);
        let (blob, from) = (digest.to_owned(), done);
        let piece = engine
            .blocking("read a layer", move |inner| {
                let piece = inner.store.read_blob_at(&blob, from, length);
                piece.map_err(Error::store("read a layer"))
            })
            .await
            .map_err(Sent::Engine)?;
        match session.send(&at, done, piece.into()).await {
            Ok(next) => {
                (at, done, failures) = (next, done + length, 0);
            }
            Err(error) if error.is_passing() && failures < TRIES => {
                failures += 1;
                tracing::info!(blob = digest, %error, "broke off, and goes on");
                (done, at) = session.upload_state(&at).await?;
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(progress) = progress {
            let step = Progress {
                id: id.to_owned(),
                status: "Pushing".to_owned(),
                current: done,
                total: size,
            };
            drop(progress.try_send(step));
        }
    }
    session.finish(&at, digest).await?;
    say(progress, id, "Pushed").await;
    Ok(())
}

// ---- the rest

pub(crate) async fn log_in(
    engine: &Inner,
    registry: &str,
    credentials: Credentials,
) -> Result<(), Error> {
    let remote = engine.remote.load_full();
    let asked = remote.log_in(registry, credentials).await;
    let registry = if registry.is_empty() {
        "the default registry"
    } else {
        registry
    };
    asked.map_err(|error| match error {
        registry::Error::Unauthorized(why) => Error::new(
            ErrorKind::Unauthorized,
            format!("login attempt to {registry} failed: {why}"),
        ),
        registry::Error::Config(what) => Error::invalid(what),
        error => Error::caused(ErrorKind::Internal, format!("log in to {registry}"), error),
    })
}

pub(crate) async fn distribution(
    engine: &Inner,
    reference: &str,
    credentials: Credentials,
) -> Result<Distribution, Error> {
    let reference = parsed(reference)?;
    let failed = || registry_error(&reference);
    let session = session(engine, &reference, credentials, Access::Pull)?;
    let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
    let top = session.manifest(wanted).await.map_err(failed())?;
    let platforms = match top.document().map_err(failed())? {
        Document::Index(list) => list.into_iter().filter_map(|d| d.platform).collect(),
        Document::Manifest { config, .. } => {
            let bytes = session.small_blob(&config.digest, MOST_CONFIG).await;
            let platform = serde_json::from_slice(&bytes.map_err(failed())?);
            platform.into_iter().collect()
        }
    };
    Ok(Distribution {
        size: top.bytes.len(),
        digest: top.digest,
        media_type: top.media_type,
        platforms,
    })
}
