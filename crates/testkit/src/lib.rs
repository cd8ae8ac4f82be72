//! Harnesses for tests against the real kernel.
//!
//! ```text
//! http          Docker's API over a unix socket, blocking, with deadlines
//! instance      an engine of its own: data root, exec root and socket in a temporary directory
//! image         docker-archive bytes made from the host's busybox
//! dockerd       the reference: what a client sees of it is compared with what it sees of an instance
//! conservation  mounts, links, cgroups, processes, descriptors, leftovers: before and after
//! crash         runs an operation once for each of its steps, with a kill or an error there
//! fuse          a file system that answers until it is told to hang
//! powercut      records what reaches a disk, replays crash states of it
//! vm            other kernels and a real systemd, in virtual machines
//! ```
//!
//! What needs root fails without it and says so; nothing is skipped.

pub mod conservation;
pub mod crash;
pub mod dockerd;
pub mod fuse;
pub mod http;
pub mod image;
pub mod instance;
pub mod powercut;
pub mod procfs;
pub mod registry;
pub mod vm;

pub use conservation::Snapshot;
pub use dockerd::Dockerd;
pub use http::{Api, Response};
pub use instance::Instance;

use std::time::{Duration, Instant};

/// Polls until `condition` gives something, or panics with `what` after the deadline.
///
/// # Panics
/// When the deadline passes.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// # Panics
/// Without root: a test that needs it must not pass without having run.
#[track_caller]
pub fn needs_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: it makes containers"
    );
}
