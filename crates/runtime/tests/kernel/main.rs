//! Containers on the real kernel: each test starts some and looks at what is inside.
//!
//! Needs root, busybox (static) at /bin/busybox; fails without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod start;

use harness::Container;
