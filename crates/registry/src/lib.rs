//! Registries of images, as clients see them: the distribution API over HTTP.
//!
//! ```text
//! challenge   what a registry wants to be told before it answers        pure
//! manifest    what a manifest or an index says; which platform          pure
//! config      mirrors, registries without TLS, certificates
//! transport   connections, by registry; certificates; redirects
//! session     one repository: tokens, tries again, the API's calls
//! ```
//! Nothing that comes is trusted: manifests have a bound and are compared with their digest here, blobs
//! by who takes them. Every wait has a deadline. source: OCI distribution-spec 1.1

pub mod challenge;
pub mod config;
pub mod manifest;
mod session;
mod transport;

pub use config::{Config, Credentials};
pub use manifest::{Descriptor, Fetched, Platform};
pub use session::{Access, Blob, Client, Session, Upload, check_mirror};

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{host}: {what}")]
    Connect { host: String, what: String },
    #[error("{host} does not answer: waited {seconds} s for {what}")]
    Timeout {
        host: String,
        what: &'static str,
        seconds: u64,
    },
    /// In the registry's words, as far as it has any.
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    #[error("{0}")]
    Protocol(String),
    #[error(
        "{what} has the digest {found}, not {wanted}: it was changed on its way, or the registry is damaged"
    )]
    Digest {
        what: String,
        wanted: String,
        found: String,
    },
    #[error("no matching manifest for {wanted} in the manifest list entries: there are {found}")]
    Platform { wanted: String, found: String },
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether another try, or another mirror, may do better.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}
