//! `plimsoll oci` from outside: bundles of busybox, one runtime process for each verb, on the real
//! kernel. Needs root; fails without it.
//!
//! `PLIMSOLL_TEST_RUNTIME=/usr/sbin/runc` runs the same cases with another runtime, so that a
//! disagreement shows which of the two is wrong. What is said of our own records and crash points is
//! not run there and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod crash;
mod exec;
mod harness;
mod hooks;
mod life;
mod limits;
mod rootless;
mod terminal;
