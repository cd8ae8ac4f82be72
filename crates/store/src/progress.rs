//! How far a long operation has come.

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The blob has its turn later.
    Waiting,
    /// Bytes of a blob taken in.
    Loading,
    /// Bytes of a layer unpacked.
    Extracting,
    /// Bytes of a new layer compressed.
    Compressing,
    /// Bytes of a blob written out.
    Saving,
    /// Waiting for the disk.
    Syncing,
    /// The layer is there now.
    Done,
    /// The layer was there before.
    Exists,
}

/// A step forward. Sent at most every megabyte, and at the end of each part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// The first 12 digits of the digest where it is known, or a name.
    pub id: &'a str,
    pub action: Action,
    /// Bytes.
    pub done: u64,
    pub total: Option<u64>,
}

/// Told of progress from several threads.
pub trait Progress: Sync {
    fn update(&self, update: &Update<'_>);
}

/// For who does not care.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn update(&self, _: &Update<'_>) {}
}
