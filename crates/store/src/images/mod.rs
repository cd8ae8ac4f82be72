//! Images: the index of them, their names, and the calls on them.
//!
//! ```text
//! tag, digest name --> image (id = digest of its configuration)
//!                        |- manifest blob, configuration blob
//!                        `- layers, lowest first: chain id, diff id, blob
//!                                                    |
//!                              layers/<chain id>/ <--'  the unpacked cache (see `layers`)
//! ```
//!
//! Blobs and layers are shared; what no image, no lease refers to any more is moved to the trash
//! together with the image that did so last.

mod commit;
mod import;
mod index;
mod load;
mod publish;
mod pull;
pub(crate) mod records;
mod remove;
mod save;
pub mod steps;

use std::sync::Arc;

use crate::config::{ChangeError, History, ImageConfig};
use crate::disk::DiskError;
use crate::meta::MetaError;
use crate::reference::ReferenceError;
use crate::tar::TarError;
use crate::unpack::UnpackError;

pub use index::ImagesUsage;
pub(crate) use index::{NewImage, SCHEMA, hex_of, referenced_blobs, referenced_layers};
pub use pull::{PullRequest, Source};
pub use remove::{RemoveOptions, Removed};

/// An image as the index has it.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// `sha256:` and the digest of the configuration.
    pub id: String,
    /// Digest of the manifest blob.
    pub manifest: String,
    pub config: Arc<ImageConfig>,
    /// The configuration's bytes as received: its digest is the id.
    pub config_bytes: Arc<[u8]>,
    /// As shown to users, sorted: `ubuntu:latest`.
    pub names: Vec<String>,
    /// As shown to users, sorted: `ubuntu@sha256:...`.
    pub digests: Vec<String>,
    /// Bytes of all layers unpacked.
    pub size: u64,
    /// Bytes of the layers that no other image has.
    pub unique_size: u64,
    /// RFC 3339; empty where the configuration has none.
    pub created: String,
    /// When it was last brought in or tagged here; RFC 3339.
    pub added: String,
    /// Image this one was committed from, if it is known.
    pub parent: Option<String>,
    /// A step of a build that has no name and is nobody's result: the build cache's.
    pub intermediate: bool,
    /// Lowest first.
    pub layers: Vec<LayerInfo>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Names the layer together with all below it.
    pub chain: String,
    /// Digest of the uncompressed tar.
    pub diff: String,
    /// Digest of the blob as received.
    pub blob: String,
    pub media_type: String,
    pub blob_size: u64,
    /// Bytes of its files, unpacked; 0 until it was unpacked once.
    pub size: u64,
}

/// What `load` brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    pub id: String,
    /// As shown to users.
    pub names: Vec<String>,
}

/// A name and what happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    pub id: String,
    /// As shown to users.
    pub name: String,
    /// The image that had the name before.
    pub displaced: Option<String>,
}

/// What `import` is asked for.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Name of the new image; none leaves it without.
    pub reference: Option<String>,
    pub message: String,
    /// Lines in Dockerfile's words.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`; the host's where empty.
    pub platform: String,
    /// What the image runs, before `changes`.
    pub config: crate::config::RunConfig,
}

/// Compression of a new layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    Gzip,
    Zstd,
    None,
}

/// What `commit` is asked for.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Id of the image the container stands on.
    pub parent: String,
    /// Id of the container whose changes become the layer.
    pub container: String,
    pub reference: Option<String>,
    pub author: String,
    pub message: String,
    pub changes: Vec<String>,
    /// What the new image runs, before `changes`: usually the container's own configuration.
    pub config: crate::config::RunConfig,
    /// Paths, absolute in the container, that the engine made for mounts: left out.
    pub exclude: Vec<String>,
    pub compression: Compression,
}

/// One line of an image's history, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryLine {
    /// The image's id for the newest; empty for those below, whose images are not known.
    pub id: String,
    pub names: Vec<String>,
    pub size: u64,
    pub entry: History,
}

/// Why an image was not found, named or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("no such image: {0}")]
    NotFound(String),
    #[error("the id {0} fits more than one image: give more digits")]
    Ambiguous(String),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("give a tag, not a digest: {0}")]
    DigestAsTag(String),
    #[error("image {name} is in use by {state} container {container}: {advice}")]
    InUse {
        name: String,
        container: String,
        state: &'static str,
        advice: &'static str,
    },
    #[error("image {name} has several names ({names}): remove them one by one, or use force")]
    ManyNames { name: String, names: String },
    #[error("image {id}: its configuration in the index can't be read: {what}")]
    Damaged { id: String, what: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Layer(#[from] LayerError),
}

impl From<rusqlite::Error> for ImageError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Meta(error.into())
    }
}

impl ImageError {
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

/// Why an unpacked layer can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer {chain}: its blob {blob} is missing: load the image again")]
    NoBlob { chain: String, blob: String },
    #[error("layer {diff}: its content has the digest {found}: the archive is damaged or forged")]
    WrongDiff { diff: String, found: String },
    #[error("blob {digest}: its content has the digest {found}: it is damaged")]
    WrongBlob { digest: String, found: String },
    #[error("{place}")]
    Unpack {
        /// Which layer.
        place: String,
        source: UnpackError,
    },
    #[error("manifest of layer {chain}: {what}")]
    Manifest { chain: String, what: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why an archive was not loaded. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("read the archive")]
    Read(#[source] std::io::Error),
    #[error("read the archive: it is compressed with {0}: recompress it with gzip or zstd")]
    Compression(&'static str),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry {name}: {what}")]
    Entry { name: String, what: String },
    #[error(
        "the archive has neither manifest.json nor index.json: use `import` for the files of a root file system"
    )]
    NotAnImage,
    #[error("{document}: {what}")]
    Document { document: String, what: String },
    #[error("{document} names {missing}, which is not in the archive: it is incomplete")]
    Missing { document: String, missing: String },
    #[error("blob {digest} can't be had")]
    Source {
        digest: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no image for this host's platform {wanted}: the archive has {found}")]
    Platform { wanted: String, found: String },
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(
        "not enough space on the disk: remove images, containers or volumes, or empty the trash"
    )]
    NoSpace {
        #[source]
        source: Box<LoadError>,
    },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl LayerError {
    /// Whether deleting something could help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => source.is_out_of_space(),
            Self::Disk(e) => e.is_out_of_space(),
            Self::Meta(e) => e.is_out_of_space(),
            _ => false,
        }
    }
}

impl LoadError {
    /// What is caused by a full disk says so first.
    fn classified(self) -> Self {
        let full = match &self {
            Self::Layer(e) => e.is_out_of_space(),
            Self::Disk(e) => e.is_out_of_space(),
            Self::Meta(e) => e.is_out_of_space(),
            _ => false,
        };
        if full {
            Self::NoSpace {
                source: Box::new(self),
            }
        } else {
            self
        }
    }
}

/// Why a root file system was not imported. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("platform {0:?}: write os[/architecture[/variant]], such as linux/amd64")]
    Platform(String),
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "blob {digest} of image {image} is missing or damaged: run fsck --repair or load the image again"
    )]
    Blob {
        image: String,
        digest: String,
        #[source]
        source: std::io::Error,
    },
    #[error("write the archive")]
    Write(#[source] std::io::Error),
}

/// Why a container was not committed. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Diff(#[from] crate::diff::DiffError),
    #[error(transparent)]
    Pick(#[from] crate::pick::PickError),
    #[error(transparent)]
    Load(#[from] LoadError),
}
