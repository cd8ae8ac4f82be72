//! Images of the host's own programs: what a program needs to run, found without running it.
//!
//! ```text
//! elf      what a file says it needs: interpreter, libraries, search paths
//! ldcache  where the host's loader finds a library by name
//! closure  programs -> every file they need, each with the reason: a Tree
//! accounts passwd and group lines of the users asked for
//! archive  Tree -> one layer, configuration -> a docker-archive
//! ```
//!
//! The tree is read from the running host, so a file that changes while it is packed is an error.

pub(crate) mod accounts;
pub(crate) mod archive;
pub(crate) mod closure;
mod elf;
mod ldcache;

use std::path::PathBuf;

/// Why a capture failed. Nothing was loaded then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error("{0}: no such program in PATH")]
    NoProgram(String),
    #[error("{program} needs {library}, which is in none of {}: install its package, or leave the program out", searched.join(", "))]
    MissingLibrary {
        program: String,
        library: String,
        searched: Vec<String>,
    },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("read {} as an ELF file: {reason}", path.display())]
    Elf { path: PathBuf, reason: String },
    #[error("{}: too many symbolic links", .0.display())]
    Loop(PathBuf),
    #[error("{0} is in neither /etc/passwd nor its kin: name a user of this host")]
    NoUser(String),
    #[error("package {0} is not installed here: /var/lib/dpkg/info has no list of its files")]
    NoPackage(String),
    #[error("this host has no {what} in {}", places.join(", "))]
    NoData {
        what: &'static str,
        places: Vec<String>,
    },
    #[error("{} changed while it was read: capture again", .0.display())]
    Changed(PathBuf),
    #[error("write the image")]
    Write(#[source] std::io::Error),
}

impl CaptureError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
