//! The OCI life cycle: what `create`, `start`, `exec`, `kill`, `delete` and the other verbs of a
//! runc-compatible runtime do. Never prints, never reads arguments or environment.
//!
//! ```text
//! <root>/<id>/           locked (flock) by whoever makes the container, until it is complete
//!   state.json           bundle, cgroups, annotations; written before any kernel object is made
//!   config.json          the bundle's as it was at create
//!   init                 "<pid> <start time>\n": the container is complete
//!   start.sock           the first process waits here for `start`
//!
//!            mkdir        init written     start: connected    first process ends
//!   (none) ----------> creating ---------> created ---------> running ----------> stopped
//!                         |  killed: no init, no lock            |  ^  pause         |
//!                         v                                      v  |  resume        | delete
//!                      stopped                                  paused               v
//! ```
//!
//! A process of ours that is killed leaves a directory from which `delete --force`, or the next
//! `create` of that id, finds everything: cgroups are named in `state.json`, processes are in them,
//! mounts go with the processes. The container's first process ends by itself when its creator dies
//! before `init` is written, so that nothing runs that nobody knows of.
//!
//! A pid alone is never trusted: with it goes the process' start time.
//!
//! source: OCI runtime-spec 1.2 runtime.md; runc(8) for what the specification leaves open.

mod cgroups;
mod console;
mod container;
mod create;
mod delete;
mod error;
mod exec;
mod features;
mod hooks;
mod list;
mod process;
mod signal;
mod spec;
mod start;
mod state;
mod stats;
mod time;

use std::cell::RefCell;
use std::path::PathBuf;

pub use cgroups::Driver;
pub use container::{Container, Status};
pub use create::{Create, Running, size_console};
pub use error::OciError;
pub use exec::{Exec, SubCgroup};
pub use features::features;
pub use list::{Process, process};
pub use signal::signal_number;
pub use spec::example;
pub use state::State;
pub use stats::{News, Watch};
pub use time::rfc3339;

/// The newest runtime-spec that configurations are read by.
pub const SPEC_VERSION: &str = "1.2.1";

/// A runtime with its directory of containers.
#[derive(Debug)]
pub struct Runtime {
    pub root: PathBuf,
    pub driver: Driver,
    /// A refusal to make or limit cgroups doesn't fail a container that asks for no limit.
    pub rootless: bool,
    warnings: RefCell<Vec<String>>,
}

impl Runtime {
    #[must_use]
    pub fn new(root: PathBuf, driver: Driver, rootless: bool) -> Self {
        Self {
            root,
            driver,
            rootless,
            warnings: RefCell::new(Vec::new()),
        }
    }

    /// What went wrong without making a verb fail, since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }
}
