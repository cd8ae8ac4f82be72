//! Which containers there are: ids, names, and each one's current view.
//!
//! Readers take the map (one atomic load) and each entry's view (another): they never wait, and a
//! change of one container's state touches that container's cell alone. The map is replaced as a
//! whole when a container comes, goes or is renamed; writers take turns by a lock that is held for
//! memory operations only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::container::Command;
use crate::error::Error;
use crate::views::ContainerView;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: Arc<str>,
    pub(crate) view: ArcSwap<ContainerView>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Who mounts the root for writing, a start or a copy into a container that does not run, does
    /// so in turns.
    pub(crate) root_turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    map: ArcSwap<Map>,
    writing: Mutex<()>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Map {
    by_id: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Also names of containers that are just being made: id without an entry.
    by_name: HashMap<Arc<str>, Arc<str>>,
    /// In order of creation, by [`Entry::made`].
    order: Vec<Arc<Entry>>,
}

impl Entry {
    /// When it was made; its id where several were at once.
    fn made(&self) -> (jiff::Timestamp, Arc<str>) {
        let made = self.view.load().record.created.parse();
        (made.unwrap_or_default(), self.id.clone())
    }
}

impl Map {
    /// Where it belongs, which is at the end but for those that are being made at the same time: the next
    /// engine must not show another order.
    fn put_in_order(&mut self, entry: Arc<Entry>) {
        let made = entry.made();
        let later = self.order.iter().rev().take_while(|e| e.made() > made);
        let at = self.order.len() - later.count();
        self.order.insert(at, entry);
    }
}

impl Registry {
    fn change<T>(&self, f: impl FnOnce(&mut Map) -> Result<T, Error>) -> Result<T, Error> {
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = Map::clone(&self.map.load());
        let out = f(&mut map)?;
        self.map.store(Arc::new(map));
        drop(turn);
        Ok(out)
    }

    /// Claims a name for a container that is being made. [`Registry::release_name`] gives it back.
    pub(crate) fn claim_name(&self, name: &str, id: &str) -> Result<(), Error> {
        self.change(|map| match map.by_name.get(name) {
            Some(holder) => Err(name_taken(name, holder)),
            None => {
                map.by_name.insert(name.into(), id.into());
                Ok(())
            }
        })
    }

    pub(crate) fn release_name(&self, name: &str, id: &str) {
        let done = self.change(|map| {
            if map.by_name.get(name).is_some_and(|holder| **holder == *id) {
                map.by_name.remove(name);
            }
            Ok(())
        });
        debug_assert!(done.is_ok(), "giving back cannot fail");
    }

    /// Its name was claimed before.
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        let done = self.change(|map| {
            map.by_id.insert(entry.id.clone(), entry.clone());
            map.put_in_order(entry);
            Ok(())
        });
        debug_assert!(done.is_ok(), "inserting cannot fail");
    }

    /// All at once, at start. A name that two claim stays with the first.
    pub(crate) fn fill(&self, entries: Vec<Arc<Entry>>) {
        let done = self.change(|map| {
            for entry in entries {
                let name: Arc<str> = entry.view.load().record.name.as_str().into();
                map.by_name.entry(name).or_insert_with(|| entry.id.clone());
                map.by_id.insert(entry.id.clone(), entry.clone());
                map.put_in_order(entry);
            }
            Ok(())
        });
        debug_assert!(done.is_ok(), "filling cannot fail");
    }

    pub(crate) fn remove(&self, id: &str) {
        let done = self.change(|map| {
            map.by_id.remove(id);
            map.by_name.retain(|_, holder| **holder != *id);
            map.order.retain(|e| *e.id != *id);
            Ok(())
        });
        debug_assert!(done.is_ok(), "removing cannot fail");
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.map.load().order.clone()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.map.load().by_id.get(id).cloned()
    }

    /// By full id, by name, by unambiguous prefix of an id, in this order.
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<Entry>, Error> {
        let map = self.map.load();
        let none = || Error::not_found(format!("No such container: {wanted}"));
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        if wanted.is_empty() {
            return Err(Error::invalid("a container's name or id must not be empty"));
        }
        if let Some(entry) = map.by_id.get(wanted) {
            return Ok(entry.clone());
        }
        if let Some(entry) = map.by_name.get(name).and_then(|id| map.by_id.get(id)) {
            return Ok(entry.clone());
        }
        if !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(none());
        }
        let from: Arc<str> = wanted.into();
        let mut hits = map
            .by_id
            .range(from..)
            .take_while(|(id, _)| id.starts_with(wanted));
        match (hits.next(), hits.next()) {
            (None, _) => Err(none()),
            (Some((_, entry)), None) => Ok(entry.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "multiple IDs found with provided prefix: {wanted}"
            ))),
        }
    }

    /// Newest first.
    pub(crate) fn views(&self) -> Vec<Arc<ContainerView>> {
        let map = self.map.load();
        map.order.iter().rev().map(|e| e.view.load_full()).collect()
    }
}

fn name_taken(name: &str, holder: &str) -> Error {
    Error::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    ))
}
