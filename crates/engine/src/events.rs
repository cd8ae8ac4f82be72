//! What happened: a ring in memory for replay, a broadcast for followers, a bounded file so that a
//! restart of the engine does not forget.
//!
//! ```text
//! <data root>/events.log      one JSON object per line, appended without sync
//!             events.log.1    the one before; together at most twice MAX_FILE
//! ```
//!
//! The ring's lock is held only to push or copy; the file is written by a task of its own, so a
//! slow disk never delays what is being reported. When the task falls behind, events are left out
//! of the file (never out of the ring) and counted.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc};

use crate::views::Event;

/// Events kept for replay.
const RING: usize = 4096;
/// A follower further behind than this misses events.
const FOLLOWERS: usize = 2048;
/// Events the file's task may be behind.
const BACKLOG: usize = 4096;
const MAX_FILE: u64 = 1 << 20;
pub(crate) const FILE: &str = "events.log";

#[derive(Debug)]
pub(crate) struct EventLog {
    ring: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
    file: mpsc::Sender<Arc<Event>>,
}

impl EventLog {
    /// Takes up what the file holds and starts its task.
    pub(crate) fn open(data_root: &Path) -> Self {
        let path = data_root.join(FILE);
        let mut ring = VecDeque::with_capacity(RING);
        for file in [older(&path), path.clone()] {
            read_into(&mut ring, &file);
        }
        let (file, rx) = mpsc::channel(BACKLOG);
        tokio::task::spawn_blocking(move || write(&path, rx));
        Self {
            ring: Mutex::new(ring),
            live: broadcast::channel(FOLLOWERS).0,
            file,
        }
    }

    pub(crate) fn emit(
        &self,
        kind: &str,
        action: impl Into<String>,
        actor: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        // replay by time relies on the ring being in order, also when the wall clock steps back
        let time = ring.back().map_or(now, |last| now.max(last.time + 1));
        let event = Arc::new(Event {
            time,
            kind: kind.to_owned(),
            action: action.into(),
            actor: actor.to_owned(),
            attributes,
        });
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // sent under the lock: a subscriber sees each event once, in the replay or live
        let nobody_listens = self.live.send(event.clone()).is_err();
        drop(ring);
        let left_out = self.file.try_send(event).is_err();
        tracing::trace!(nobody_listens, left_out, "event");
    }

    /// See `Engine::events`.
    pub(crate) fn replay(
        &self,
        since: Option<i64>,
        until: Option<i64>,
    ) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        // without a lower bound nothing of the past is asked for, unless an upper one names it
        let past = match (since, until) {
            (None, None) => Vec::new(),
            _ => ring
                .iter()
                .filter(|e| since.is_none_or(|t| e.time >= t) && until.is_none_or(|t| e.time <= t))
                .cloned()
                .collect(),
        };
        (past, live)
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A line that is not an event (torn by a power cut) is left out.
fn read_into(ring: &mut VecDeque<Arc<Event>>, path: &Path) {
    let Ok(bytes) = std::fs::read(path) else {
        return; // none yet
    };
    for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        if let Ok(event) = serde_json::from_slice::<Event>(line) {
            if ring.len() == RING {
                ring.pop_front();
            }
            ring.push_back(Arc::new(event));
        }
    }
}

fn write(path: &Path, mut rx: mpsc::Receiver<Arc<Event>>) {
    let mut file: Option<(std::fs::File, u64)> = None;
    let mut line = Vec::new();
    let mut failing = false;
    while let Some(event) = rx.blocking_recv() {
        line.clear();
        if serde_json::to_writer(&mut line, &*event).is_err() {
            continue;
        }
        line.push(b'\n');
        match append(path, &mut file, &line) {
            Ok(()) => failing = false,
            Err(error) => {
                file = None;
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(path = %path.display(), %error, "events are kept in memory only");
                }
            }
        }
    }
}

fn append(
    path: &Path,
    file: &mut Option<(std::fs::File, u64)>,
    line: &[u8],
) -> std::io::Result<()> {
    if file.as_ref().is_some_and(|(_, size)| *size >= MAX_FILE) {
        sys::fault::point("engine.events.rotate")?;
        std::fs::rename(path, older(path))?;
        *file = None;
    }
    let (f, size) = match file {
        Some(open) => open,
        None => {
            let f = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)?;
            let size = f.metadata()?.len();
            file.insert((f, size))
        }
    };
    sys::fault::point("engine.events.append")?;
    f.write_all(line)?;
    *size += line.len() as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replayed_and_live_events_do_not_overlap_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(dir.path());
        for n in 0..10 {
            log.emit("container", format!("a{n}"), "id", BTreeMap::new());
        }
        let (past, mut live) = log.replay(Some(0), None);
        assert_eq!(past.len(), 10);
        assert!(past.windows(2).all(|w| w[0].time < w[1].time));
        log.emit("container", "new", "id", BTreeMap::new());
        assert_eq!(live.recv().await.unwrap().action, "new");
        let middle = past[4].time;
        assert_eq!(log.replay(Some(middle), Some(middle)).0.len(), 1);
        drop(log);
        // the writer ends once it has written all
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let file = dir.path().join(FILE);
        while std::fs::read_to_string(&file).map_or(0, |t| t.lines().count()) < 11 {
            assert!(std::time::Instant::now() < deadline, "events not written");
            tokio::task::yield_now().await;
        }
        std::fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .unwrap()
            .write_all(b"{\"time\":1,\"ki")
            .unwrap();
        assert_eq!(EventLog::open(dir.path()).replay(Some(0), None).0.len(), 11);
    }
}
