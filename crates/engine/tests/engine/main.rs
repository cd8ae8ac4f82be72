//! The engine on the real kernel: root, a static /bin/busybox, `plimsoll` beside the test as the
//! spawner (`cargo build -p cli`). What is missing fails a test and is named.
//!
//! Each test has an engine of its own in directories of its own, and ends with the conservation
//! check: cgroups, mounts, processes and run directories are as before.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect has failed"
)]

mod exec;
mod files;
mod lab;
mod life;
mod machine;
mod reconcile;
mod restart;
mod volumes;
