//! Our runtime in runc's place: below Debian's podman and Debian's containerd.
//!
//! Each test has an instance of its own, with its own directories, and ends with a look at what is
//! left. `PLIMSOLL_DROP_IN=/usr/sbin/runc` runs the same tests with another runtime: what fails
//! there too is the host's or the manager's.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod containerd;
mod harness;
mod podman;
