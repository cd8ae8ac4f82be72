//! One task owns each container's state. It alone changes it; everybody else sends it commands and
//! reads the view it publishes.
//!
//! ```text
//!                    create
//!                      |
//!                      v        start                launched
//!                  Created ------------> Starting -------------> Running <---unpause--- Paused
//!                      ^                 |      ^                 | |  \------pause------^  |
//!                      |  never ran      |      |                 | |                       |
//!                      +-----failed------+      |                 | | stop, restart         |
//!                      |                 |      | start,          | v                       |
//!                      |  ran before     |      | policy's pause  | Stopping <----stop------+
//!                      |      +--failed--+      | is over         |   |
//!                      |      v                 |                 v   v
//!                      |    Exited -------------+------------- (exit record is durable)
//!                      |      ^ |               |                     |
//!                      |      | | policy says   |                     | policy says restart
//!                      |      | | no            +---- Restarting <----+
//!                      |      | +<------------------------------------+ else
//!                      v      v
//!                     Removing ---> gone            Dead: its record is broken; rm -> Removing
//! ```
//!
//! - A launch runs in a task of its own; commands that need its outcome wait in `pending`.
//! - Exit is known only from the shim, which tells after its record is durable. The container's row
//!   follows; only then is the record's file taken away, so a kill in between is seen at reconcile.
//! - Writes of the row are made in order by a chain of tasks; the actor waits for one only where its
//!   answer acknowledges something lasting.
//! - The actor holds no lock, and waits for nothing without a deadline.

mod actor;
mod attach;
mod exec;
mod health;
mod launch;
mod networks;
mod prepare;
mod remove;
mod signal;

use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use oci_spec::runtime::Spec;
use runtime::cgroup::Cgroup;
use shim::Shim;
use tokio::sync::{oneshot, watch};

pub(crate) use actor::{Found, paths, spawn};
pub(crate) use exec::{ExecCell, Execs, open_root, start as start_exec};
pub use health::word as health_word;
pub(crate) use health::{check as check_health, inherit as inherit_health};
pub(crate) use launch::LOG_FILE;
pub(crate) use prepare::{cgroup_found, hostname, mount_root, with_joined};

use crate::error::Error;
use crate::model::EndpointSpec;
use crate::views::{AttachOptions, ExitStatus, RemoveOptions, UpdateRequest, WaitCondition};

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a container can be asked. Each carries where its answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    Start {
        reply: Reply<()>,
    },
    Stop {
        signal: Option<i32>,
        /// Seconds; negative: for ever.
        timeout: Option<i64>,
        reply: Reply<()>,
    },
    Restart {
        signal: Option<i32>,
        timeout: Option<i64>,
        reply: Reply<()>,
    },
    Kill {
        signal: i32,
        reply: Reply<()>,
    },
    Pause {
        reply: Reply<()>,
    },
    Unpause {
        reply: Reply<()>,
    },
    Remove {
        options: RemoveOptions,
        reply: Reply<()>,
    },
    Rename {
        name: String,
        reply: Reply<()>,
    },
    Update {
        request: Box<UpdateRequest>,
        reply: Reply<Vec<String>>,
    },
    Wait {
        condition: WaitCondition,
        /// Answered once the waiter is registered.
        registered: oneshot::Sender<()>,
        reply: Reply<ExitStatus>,
    },
    Attach {
        options: AttachOptions,
        reply: Reply<Attachment>,
    },
    /// What a caller needs to talk to the running container itself.
    Live {
        /// Refuse also where it is paused.
        unpaused: bool,
        reply: Reply<Live>,
    },
    /// By name of the network.
    Connect {
        network: String,
        spec: Box<EndpointSpec>,
        reply: Reply<()>,
    },
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    /// An exec instance came or went: show it.
    ExecsChanged,
}

/// Where an attaching caller goes on.
#[derive(Debug)]
pub(crate) enum Attachment {
    /// It runs: ask its shim.
    Live(Live),
    /// Our end of a stream whose other end the shim gets at launch.
    Kept(StdStream),
}

/// A running container as other tasks use it.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) shim: Shim,
    pub(crate) shim_pid: i32,
    pub(crate) pid: i32,
    pub(crate) pid_start_time: u64,
    pub(crate) cgroup: Arc<Cgroup>,
    /// What it was started with; of an adopted one it is read from its file when it is needed.
    pub(crate) spec: Option<Arc<Spec>>,
    /// Turns true when this run has ended.
    pub(crate) ended: watch::Receiver<bool>,
}
