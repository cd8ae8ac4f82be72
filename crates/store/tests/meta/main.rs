//! The store's index, containers and volumes against a model, a killed process, a failing or full
//! disk, damaged files, other versions and power cuts.

#![expect(
    clippy::unwrap_used,
    reason = "in tests a panic is the message, and the child tells its parent"
)]

mod crash;
mod damage;
mod full;
mod model;
mod powercut;
mod sequences;

use std::path::Path;

use store::{OpenOptions, OpenReport, Store};

/// Without a background thread, so that steps come in the same order each time.
fn options(boot: &str) -> OpenOptions {
    OpenOptions {
        boot_id: Some(boot.to_owned()),
        reserve: Some(1 << 20),
        manual: true,
        ..OpenOptions::default()
    }
}

#[track_caller]
fn open(root: &Path, boot: &str) -> (Store, OpenReport) {
    match Store::open(root, &options(boot)) {
        Ok(opened) => opened,
        Err(error) => panic!("open: {}", chain(&error)),
    }
}

/// In memory where there is room for it: what a killed process left is the same there, and a sync
/// costs nothing.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
