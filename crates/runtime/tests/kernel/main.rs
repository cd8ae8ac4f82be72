//! Containers on the real kernel: each test starts some and looks at what is inside.
//!
//! Needs root, busybox (static) at /bin/busybox; fails without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod cgroups;
mod crash;
mod escape;
mod exec;
mod failures;
mod files;
mod filters;
mod harness;
mod mounts;
mod namespaces;
mod old_kernels;
mod plans;
mod privileges;
mod rootless;
mod scheduling;
mod seccomp;
mod start;
mod terminal;
mod vm;

use harness::Container;

/// A container's child that allocates fails its test here: it ends before it executes anything.
#[global_allocator]
static ALLOCATOR: sys::tripwire::Tripwire = sys::tripwire::Tripwire;
