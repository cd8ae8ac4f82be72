//! At start: what is on record is compared with what lives, and what nobody owns is removed.
//!
//! ```text
//! row     run dir   shim      exit record   ->
//! any     yes       answers   -                adopted: running or paused
//! any     yes       mute      -                dead until it answers again; nothing else waits
//! any     yes       killed    (made up)        ended 137, said why
//! any     no        -         yes              ended as recorded
//! start'd no        -         no, this boot    the start never reached its shim: as before
//! start'd no        -         no, other boot   ended 255: the machine went down
//! none    yes       any       -                killed, removed
//! ```
//! Ephemeral containers that do not run are removed. Cgroups without a row are removed. All
//! containers are taken up at the same time, a few dozen shims at once; the engine is ready when
//! those that answer have, at most [`READY_WITHIN`] later.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::cgroup::Cgroup;
use shim::{AdoptError, Shim};
use store::ContainerRow;
use tokio::sync::{Semaphore, oneshot};

use crate::container::{self, Found};
use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerRecord, ContainerSpec, Phase, RecordedState};
use crate::networks;
use crate::registry::Entry;

/// Shims talked to at the same time.
const AT_ONCE: usize = 64;
/// A shim that lives answers within a millisecond; one that does not within this is mute.
const ADOPT_DEADLINE: Duration = Duration::from_secs(3);
/// Readiness waits this long for shims to answer.
const READY_WITHIN: Duration = Duration::from_millis(60);
const CGROUP_DEADLINE: Duration = Duration::from_secs(5);

/// Registers every container on record and takes them up.
pub(crate) async fn run(engine: &Arc<Inner>) -> Result<(), Error> {
    let (rows, run_dirs) = engine
        .blocking("read the containers on record", |inner| {
            let rows = inner.store.containers();
            let rows = rows.map_err(Error::store("read the containers on record"))?;
            let shims = inner.config.exec_root.join("shims");
            shim::discard_staged(&shims).map_err(Error::io("clear unfinished launches"))?;
            Ok((rows, run_dirs(inner)))
        })
        .await?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(rows.len());
    let mut done = Vec::with_capacity(rows.len());
    for row in rows {
        let (record, broken) = match row {
            Ok(row) => decode(row),
            Err(q) => (stand_in(&q.name, &q.name), Some(q.reason)),
        };
        let has_run_dir = run_dirs.contains(&record.id);
        let found = find(
            engine.clone(),
            record.clone(),
            broken,
            has_run_dir,
            slots.clone(),
        );
        let (tx, rx) = oneshot::channel();
        entries.push(container::spawn(engine, record, found, Some(tx)));
        done.push(rx);
    }
    let known: BTreeSet<String> = entries.iter().map(|e| e.id.to_string()).collect();
    engine.containers.fill(entries);
    let all = futures_util::future::join_all(done);
    let in_time = tokio::time::timeout(READY_WITHIN, all).await.is_ok();
    tracing::debug!(in_time, containers = known.len(), "containers taken up");
    let of_builds = engine.containers.all().into_iter();
    let of_builds = of_builds.filter(|e| e.view.load().record.spec.host.of_build);
    tokio::spawn(crate::build::remove_left(of_builds.collect()));
    tokio::spawn(sweep(engine.clone(), known));
    Ok(())
}

fn run_dirs(inner: &Inner) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(inner.config.exec_root.join("shims")) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// A document that cannot be read costs its container alone.
fn decode(row: ContainerRow) -> (ContainerRecord, Option<String>) {
    match serde_json::from_slice::<ContainerRecord>(&row.document) {
        Ok(mut record) if record.id == row.id => {
            // the row's name is the one that was claimed
            record.name = row.name;
            (record, None)
        }
        Ok(record) => {
            let reason = format!("its record is that of {}", record.id);
            (stand_in(&row.id, &row.name), Some(reason))
        }
        Err(e) => (
            stand_in(&row.id, &row.name),
            Some(format!("its record cannot be read: {e}")),
        ),
    }
}

fn stand_in(id: &str, name: &str) -> ContainerRecord {
    ContainerRecord {
        id: id.to_owned(),
        name: name.to_owned(),
        created: String::new(),
        image_id: String::new(),
        spec: ContainerSpec::default(),
        argv: Vec::new(),
        mounts: Vec::new(),
        state: RecordedState {
            phase: Phase::Dead,
            ..RecordedState::default()
        },
        restart_count: 0,
        stopped_by_user: false,
        networks: std::collections::BTreeMap::new(),
    }
}

async fn find(
    engine: Arc<Inner>,
    record: ContainerRecord,
    broken: Option<String>,
    has_run_dir: bool,
    slots: Arc<Semaphore>,
) -> Found {
    if let Some(reason) = broken {
        return Found::Broken(reason);
    }
    if !has_run_dir {
        return from_disk(engine, record).await;
    }
    let slot = slots.acquire_owned().await;
    let found = adopt(&engine, record).await;
    drop(slot);
    found
}

pub(crate) async fn adopt(engine: &Arc<Inner>, record: ContainerRecord) -> Found {
    let run_dir = engine.shim_dir(&record.id);
    match Shim::adopt(&run_dir, ADOPT_DEADLINE).await {
        Ok((shim, status)) => {
            let cgroup = shim.cgroup().cloned();
            let cgroup = cgroup.unwrap_or_else(|| container::cgroup_found(engine, &record));
            let cgroup = container::with_joined(engine, &record, cgroup);
            Found::Running {
                shim,
                status: Box::new(status),
                paused: cgroup.is_frozen(),
                cgroup: Arc::new(cgroup),
            }
        }
        Err(AdoptError::Absent { .. } | AdoptError::Dead { .. }) => {
            from_disk(engine.clone(), record).await
        }
        Err(error @ AdoptError::Mute { .. }) => Found::Mute(error.to_string()),
        Err(error) => Found::Broken(Error::store("take up its shim")(error).report()),
    }
}

/// No shim: the files say how it ended.
async fn from_disk(engine: Arc<Inner>, record: ContainerRecord) -> Found {
    let id = record.id.clone();
    let read = engine
        .blocking("read the exit record", move |inner| {
            let cgroup = container::cgroup_found(inner, &record);
            if let Err(error) = cgroup.remove(CGROUP_DEADLINE) {
                tracing::warn!(container = record.id, %error, "its cgroup stays");
            }
            let dir = inner.store.container_dir(&record.id);
            ended_by_record(shim::read_exit(&dir), &record, inner.store.boot_id())
        })
        .await;
    read.unwrap_or_else(|error| {
        tracing::warn!(container = id, error = %error.report(), "container set aside");
        Found::Broken(error.report())
    })
}

fn ended_by_record(
    read: Result<Option<shim::ExitRecord>, shim::RecordError>,
    record: &ContainerRecord,
    boot_id: &str,
) -> Result<Found, Error> {
    let started = record.state.phase == Phase::Starting;
    let went_down = started && record.state.boot_id != boot_id;
    let exit = match read {
        // between its rename and its syncs, so nobody was told of it
        Err(error @ shim::RecordError::Corrupt { .. }) if went_down => {
            tracing::warn!(container = record.id, %error, "torn when the machine went down; left out");
            None
        }
        read => read.map_err(Error::store("read the exit record"))?,
    };
    Ok(match exit {
        // the row was written, the record not yet taken away
        Some(exit) if record.state.finished_at.as_ref() == Some(&exit.finished_at) => Found::AtRest,
        // the row had it, the shim's own record was taken away, and then the shim was
        // killed before it had cleaned up: what was made up does not replace what was told
        Some(exit) if exit.shim_died && !started => Found::AtRest,
        Some(exit) => Found::Ended(exit),
        None if went_down => Found::Lost {
            code: 255,
            error: "the machine went down while it ran".to_owned(),
        },
        None => Found::AtRest,
    })
}

/// What no container owns.
async fn sweep(engine: Arc<Inner>, known: BTreeSet<String>) {
    let on_record = known.clone();
    let strange = engine
        .blocking("remove stray run directories", move |inner| {
            let known = |id: &str| on_record.contains(id) || inner.containers.get(id).is_some();
            shim::sweep_run_dirs(&inner.config.exec_root.join("shims"), known)
                .map_err(Error::io("read the run directories"))
        })
        .await;
    match strange {
        Ok(strange) => {
            for id in strange {
                end_strange(&engine.shim_dir(&id)).await;
                networks::detach(&engine, &id).await;
            }
        }
        Err(error) => tracing::warn!(error = %error.report(), "stray run directories stay"),
    }
    let swept = engine
        .blocking("remove stray cgroups", move |inner| {
            // made since: theirs are no strays
            let views = inner.containers.views();
            let now: Vec<&str> = views
                .iter()
                .map(|v| v.record.id.as_str())
                .chain(known.iter().map(String::as_str))
                .collect();
            let facts = &inner.config.facts.cgroup;
            let mut strays = Cgroup::strays(facts, &inner.instance, &now);
            if let Some(base) = &inner.systemd {
                strays.extend(Cgroup::stray_scopes(facts, &inner.instance, base, &now));
            }
            for stray in strays {
                if let Err(error) = stray.remove(CGROUP_DEADLINE) {
                    tracing::warn!(%error, "a stray cgroup stays");
                }
            }
            Ok(())
        })
        .await;
    if let Err(error) = swept {
        tracing::warn!(error = %error.report(), "stray cgroups stay");
    }
}

/// A shim whose container has no row: its create was never acknowledged, or it was removed.
async fn end_strange(run_dir: &Path) {
    match Shim::adopt(run_dir, ADOPT_DEADLINE).await {
        Ok((shim, status)) => {
            tracing::warn!(id = status.id, "ending a container that is not on record");
            drop(shim.signal(None, 9, true).await);
            drop(tokio::time::timeout(CGROUP_DEADLINE, shim.gone()).await);
        }
        Err(AdoptError::Mute { .. }) => {
            let dir = run_dir.to_owned();
            let killed = tokio::task::spawn_blocking(move || shim::kill_mute(&dir)).await;
            tracing::warn!(run_dir = %run_dir.display(), ?killed, "a mute shim that is not on record");
            drop(Shim::adopt(run_dir, ADOPT_DEADLINE).await);
        }
        Err(error) => tracing::debug!(%error, "no shim to end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torn() -> Result<Option<shim::ExitRecord>, shim::RecordError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("exit.json"), "{\"code\":").unwrap();
        shim::read_exit(dir.path())
    }

    fn started_in(boot: &str) -> ContainerRecord {
        let mut record = crate::testing::record();
        record.state.phase = Phase::Starting;
        record.state.boot_id = boot.to_owned();
        record
    }

    #[test]
    fn a_record_torn_by_a_power_cut_counts_as_none() {
        let found = ended_by_record(torn(), &started_in("before"), "now").unwrap();
        assert!(matches!(found, Found::Lost { code: 255, .. }));
        assert!(ended_by_record(torn(), &started_in("now"), "now").is_err());
        assert!(ended_by_record(torn(), &crate::testing::record(), "now").is_err());
    }
}
