//! Containers under real shims of a real spawner.
//!
//! Needs root and busybox (static) at /bin/busybox; fails without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod launch;
mod leftovers;
mod logs;
mod memory;
mod processes;
mod speed;
mod streams;
mod survival;
