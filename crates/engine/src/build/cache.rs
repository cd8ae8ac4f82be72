//! The build cache: what it takes, its limit, and what is thrown out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use store::images::CommitError;
use store::images::steps::CachedStep;

use crate::error::Error;
use crate::images::{load_error, long};
use crate::inner::Inner;
use crate::model::ErrorKind;
use crate::prune as filters;
use crate::views::Filters;

/// No more than this, and no more than a tenth of the file system.
const LIMIT: u64 = 20 << 30;

/// Images that builds stand on now, by build.
#[derive(Debug, Default)]
pub(crate) struct Builds(
    Mutex<(u64, BTreeMap<u64, BTreeSet<String>>)>,
    Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
);

impl Builds {
    /// Of a cache that one `RUN` has at a time.
    pub(super) async fn turn(&self, cache: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(all.entry(cache.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    fn all(&self) -> BTreeSet<String> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.1.values().flatten().cloned().collect()
    }

    fn is_idle(&self) -> bool {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.1.is_empty()
    }
}

/// A build's own; they are free again when it goes.
#[derive(Debug)]
pub(super) struct InUse {
    engine: Arc<Inner>,
    build: u64,
}

impl InUse {
    pub(super) fn new(engine: &Arc<Inner>) -> Self {
        let mut table = engine
            .builds
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.0 += 1;
        let build = table.0;
        table.1.insert(build, BTreeSet::new());
        drop(table);
        Self {
            engine: Arc::clone(engine),
            build,
        }
    }

    pub(super) fn add(&self, image: &str) {
        let builds = &self.engine.builds.0;
        let mut table = builds.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .1
            .entry(self.build)
            .or_default()
            .insert(image.to_owned());
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let builds = &self.engine.builds.0;
        let mut table = builds.lock().unwrap_or_else(PoisonError::into_inner);
        table.1.remove(&self.build);
    }
}

pub(super) fn step_error(error: CommitError) -> Error {
    match error {
        CommitError::Load(e) => match load_error(e) {
            e if e.kind() == ErrorKind::InvalidArgument => {
                Error::internal(format!("make the step's layer: {}", e.report()))
            }
            e => e,
        },
        other => Error::store("make the step's image")(other),
    }
}

/// Blocking. What was used longest ago goes until the rest is within the limit; called whenever
/// something was added, before that is answered.
pub(super) fn obey_limit(inner: &Inner) {
    let total = rustix::fs::statvfs(&inner.config.data_root);
    let limit = total.map_or(LIMIT, |s| LIMIT.min(s.f_blocks * s.f_frsize / 10));
    let pruned = inner
        .store
        .prune_steps(limit.max(1), &inner.builds.all(), &|_| true);
    match pruned {
        Ok(pruned) if pruned.keys.is_empty() => {}
        Ok(pruned) => tracing::info!(
            steps = pruned.keys.len(),
            bytes = pruned.freed,
            "the build cache is back within its limit"
        ),
        Err(error) => tracing::warn!(%error, "the build cache may be above its limit"),
    }
}

/// What of the cache takes how much, for `system df`.
pub(crate) fn usage(inner: &Inner) -> Result<Vec<CachedStep>, Error> {
    let steps = inner.store.cached_steps();
    let mut steps = steps.map_err(Error::store("list the build cache"))?;
    let dirs = inner.store.build_dirs();
    for (name, path) in dirs.map_err(Error::store("list the caches of builds"))? {
        steps.push(CachedStep {
            key: name.clone(),
            image: String::new(),
            what: "a cache mount of RUN".to_owned(),
            created: String::new(),
            used: String::new(),
            uses: 0,
            size: crate::sizes::tree(&path),
            shared: false,
        });
    }
    Ok(steps)
}

/// What a prune of the build cache freed.
#[derive(Debug, Clone, Default)]
pub struct PrunedCache {
    pub keys: Vec<String>,
    /// Bytes.
    pub freed: u64,
}

/// `keep`: bytes that may stay; `until` in the filters: what was used since stays. Cache mounts go
/// where nothing is to be kept and no build is under way.
pub(crate) async fn prune(
    engine: &Arc<Inner>,
    wanted: &Filters,
    keep: u64,
) -> Result<PrunedCache, Error> {
    filters::known(wanted, &["until", "id"])?;
    let limit = filters::until(wanted)?;
    let ids = wanted.get("id").cloned().unwrap_or_default();
    let everything = keep == 0 && limit.is_none() && ids.is_empty();
    let pruned = long(engine, move |inner| {
        let fits = |step: &CachedStep| {
            filters::older(&step.used, limit)
                && (ids.is_empty() || ids.iter().any(|id| step.key.starts_with(id.as_str())))
        };
        let pruned = inner.store.prune_steps(keep, &inner.builds.all(), &fits);
        let pruned = pruned.map_err(Error::store("prune the build cache"))?;
        let mut out = PrunedCache {
            keys: pruned.keys,
            freed: pruned.freed,
        };
        if everything && inner.builds.is_idle() {
            let dirs = inner.store.build_dirs();
            for (name, path) in dirs.map_err(Error::store("list the caches of builds"))? {
                out.freed += crate::sizes::tree(&path);
                inner.store.discard_work(&path);
                out.keys.push(name);
            }
        }
        Ok(out)
    })
    .await?;
    engine.refresh_images().await;
    Ok(pruned)
}
