//! Leases: what garbage collection must leave alone although nothing in the index refers to it yet.
//!
//! A [`Lease`] protects what one operation of this process is making, and ends with it. No lease
//! outlives the process that took it, and none ends by time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::Store;
use crate::meta::lock;

#[derive(Debug, Default)]
pub(crate) struct Table {
    next: u64,
    held: BTreeMap<u64, BTreeSet<Resource>>,
}

/// Something garbage collection could take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A blob, by digest (`sha256:...`).
    Blob(String),
    /// An unpacked layer, by chain id (`sha256:...`).
    Layer(String),
    /// An image, by id (`sha256:...`).
    Image(String),
}

/// Protects resources until it is dropped.
#[derive(Debug)]
pub struct Lease {
    table: Arc<Mutex<Table>>,
    key: u64,
}

impl Lease {
    /// Protects one thing more.
    pub fn hold(&self, resource: Resource) {
        lock(&self.table)
            .held
            .entry(self.key)
            .or_default()
            .insert(resource);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.table).held.remove(&self.key);
    }
}

impl Store {
    /// Takes a lease. Whoever makes blobs or layers holds them before they appear under their name.
    #[must_use]
    pub fn lease(&self) -> Lease {
        let table = Arc::clone(self.lease_table());
        let key = {
            let mut held = lock(&table);
            held.next += 1;
            held.next
        };
        Lease { table, key }
    }

    pub(crate) fn leased(&self) -> BTreeSet<Resource> {
        lock(self.lease_table())
            .held
            .values()
            .flatten()
            .cloned()
            .collect()
    }
}
