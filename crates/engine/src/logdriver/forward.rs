//! The task that sends a container's log on, from the disk, from where the sink has it.
//!
//! ```text
//!   +-> read after the mark -> batch -> write -> look -> mark what is confirmed
//!   |                                     |        |
//!   +---- pause, go back to the mark <----+--------+  the connection broke
//! ```
//! It ends when the run has ended and all has gone on, when the container is removed, or with the
//! engine; the next one goes on from the mark.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shim::jsonlog::{Entry, LogReader, ReadError, ReadOptions, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::identity::{Identity, Template};
use super::message::{Failure, Item, Progress, Speaker, items, notice};
use super::outlet::{Batch, Outlet};
use super::{Driver, mark};
use crate::inner::Inner;
use crate::model::ContainerRecord;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A mark is written at most so often.
const MARK_EVERY: Duration = Duration::from_millis(200);
/// Where there is no inotify left: how often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether what was written has arrived: first, and at last.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_millis(200);
/// What a removed container still has to say gets so long.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Who is told to end may finish what it is sending for so long.
const GRACE: Duration = Duration::from_secs(2);
/// A sink of which one hears only refusals is back when it has not refused for so long.
const NO_REFUSAL: Duration = Duration::from_secs(5);

/// What a forwarder is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    GoOn,
    /// What is being sent may come to its end.
    End,
    EndNow,
}

/// A container's forwarder.
#[derive(Debug)]
pub(crate) struct Forwarder {
    container: String,
    order: watch::Sender<Order>,
    task: JoinHandle<()>,
    reachable: Arc<AtomicBool>,
}

impl Forwarder {
    /// `None` where the log goes nowhere. `ended` turns true with the run; absent: nothing runs, and what
    /// is left goes on. `previous` is stopped first.
    pub(crate) fn start(
        engine: &Inner,
        record: &ContainerRecord,
        ended: Option<watch::Receiver<bool>>,
        previous: Option<Self>,
    ) -> Option<Self> {
        // one that cannot be parsed was not made by this engine; its start says so
        let driver = super::parse(&record.spec.host.log).ok()??;
        let (order, orders) = watch::channel(Order::GoOn);
        let reachable = Arc::new(AtomicBool::new(true));
        let outlet = Outlet::new(driver.sink.clone()?);
        let work = Work {
            pause: outlet.pause().unwrap_or(FIRST_PAUSE),
            outlet,
            speaker: speaker(record, &driver),
            marker: Marker::new(engine.store.container_dir(&record.id)),
            watcher: engine.watcher.clone(),
            ended,
            orders,
            closing: engine.closing.subscribe(),
            reach: Reach::new(Arc::clone(&reachable)),
            at: None,
            _alive: engine.alive(),
        };
        let task = tokio::spawn(async move {
            if let Some(previous) = previous {
                previous.stop(Order::End).await;
            }
            work.run().await;
        });
        Some(Self {
            container: record.id.clone(),
            order,
            task,
            reachable,
        })
    }

    async fn stop(self, order: Order) {
        self.order.send_replace(order);
        // it has no more to say than its panic has said
        drop(self.task.await);
    }

    /// Of a container that is being removed: what is left may go on for a little while.
    pub(crate) async fn finish(mut self) {
        if self.reachable.load(Ordering::Relaxed) {
            drop(tokio::time::timeout(LAST_WORDS, &mut self.task).await);
        }
        if !self.task.is_finished() {
            let container = &self.container;
            tracing::warn!(
                container,
                "a container is removed whose log has not all gone on"
            );
            self.stop(Order::EndNow).await;
        }
    }
}

fn speaker(record: &ContainerRecord, driver: &Driver) -> Speaker {
    let identity = Identity::of(record, &driver.chosen);
    let tag = driver.tag.as_ref().map_or_else(
        || identity.short_id().to_owned(),
        |t: &Template| t.text(&identity),
    );
    let host = rustix::system::uname();
    Speaker {
        tag,
        identity,
        host: host.nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        zone: jiff::tz::TimeZone::system(),
        epoch: crate::names::new_id(),
    }
}

struct Work {
    outlet: Outlet,
    speaker: Speaker,
    marker: Marker,
    watcher: Option<Watcher>,
    ended: Option<watch::Receiver<bool>>,
    orders: watch::Receiver<Order>,
    closing: watch::Receiver<bool>,
    reach: Reach,
    /// Before the next attempt.
    pause: Duration,
    /// Written, over a connection that may break.
    at: Option<Progress>,
    /// The engine's end waits for the last mark.
    _alive: Option<mpsc::Sender<Infallible>>,
}

/// Why it goes no further.
#[derive(Debug)]
enum End {
    Told,
    Read(ReadError),
    Sink(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Sink(failure)
    }
}

impl Work {
    async fn run(mut self) {
        if let Some((progress, epoch)) = mark::load(&self.marker.dir) {
            self.speaker.epoch = epoch;
            self.at = Some(progress.clone());
            self.marker.confirmed = Some(progress);
        }
        loop {
            // asked before reading: what was written before the end is read
            let over = self.ended.as_ref().is_none_or(|e| *e.borrow());
            let stop = match self.all().await {
                Ok(()) => {
                    self.marker.write(&self.speaker).await;
                    over || self.follows() || self.rest(LOOK_EVERY).await
                }
                Err(End::Told) => {
                    self.conclude().await;
                    true
                }
                Err(End::Read(error)) => {
                    self.marker.write(&self.speaker).await;
                    tracing::warn!(container = self.speaker.identity.id, %error, "a log cannot be read to go on");
                    over || self.rest(LONGEST_PAUSE).await
                }
                Err(End::Sink(failure)) => {
                    self.go_back(failure);
                    let pause = self.pause;
                    self.pause = (pause * 2).min(LONGEST_PAUSE.max(pause));
                    self.rest(pause).await
                }
            };
            if stop {
                return self.marker.write(&self.speaker).await;
            }
        }
    }

    fn follows(&self) -> bool {
        self.watcher.is_some() && self.ended.is_some()
    }

    /// All there is and, where it can be followed, what comes.
    async fn all(&mut self) -> Result<(), End> {
        let path = self.marker.dir.join(crate::container::LOG_FILE);
        let options = ReadOptions {
            after: self.at.as_ref().map(|p| p.mark),
            ..ReadOptions::default()
        };
        let reader = match (&self.watcher, &self.ended) {
            (Some(watcher), Some(ended)) => {
                LogReader::follow(&path, &options, watcher, ended.clone()).await
            }
            _ => LogReader::open(&path, &options).await,
        };
        let mut reader = reader.map_err(End::Read)?;
        while let Some(entries) = self.next(&mut reader).await? {
            let missed = reader.missed();
            let notice = entries.first().filter(|_| missed).map(notice);
            let at = self.at.clone();
            let items = items(&entries, notice.as_ref(), at.as_ref());
            self.deliver(&items).await?;
        }
        self.settle().await
    }

    /// The next entries; meanwhile it is looked what has arrived, and the mark is written.
    async fn next(&mut self, reader: &mut LogReader) -> Result<Option<Vec<Entry>>, End> {
        let next = reader.next();
        tokio::pin!(next);
        let mut wait = FIRST_LOOK;
        loop {
            let pending = self.outlet.is_pending();
            tokio::select! {
                entries = &mut next => return entries.map_err(End::Read),
                () = told(&mut self.orders, &mut self.closing) => return Err(End::Told),
                () = self.outlet.changed() => self.look().await?,
                () = tokio::time::sleep(wait), if pending => {
                    self.look().await?;
                    wait = (wait * 2).min(LAST_LOOK);
                }
                () = self.marker.due() => self.marker.write(&self.speaker).await,
            }
        }
    }

    async fn deliver(&mut self, mut items: &[Item<'_>]) -> Result<(), End> {
        while !items.is_empty() {
            // all has gone on that went over one that the sink has closed since
            self.look().await?;
            if self.outlet.is_closing() {
                self.settle().await?;
            }
            let at = self.at.clone();
            tokio::select! {
                biased;
                () = told(&mut self.orders, &mut self.closing) => return Err(End::Told),
                opened = self.outlet.open(at.as_ref()) => opened?,
            }
            let batch = self.outlet.batch(&self.speaker, items);
            let written = self.write(&batch).await?;
            let done = batch.count.clamp(1, items.len());
            self.at.clone_from(&items[done - 1].after);
            items = &items[done..];
            if let Some(confirmed) = written {
                self.confirm(confirmed);
            }
            self.look().await?;
            if self.marker.is_due() {
                self.marker.write(&self.speaker).await;
            }
        }
        Ok(())
    }

    /// What is confirmed thereby. Meanwhile, which may be long, the mark is written.
    async fn write(&mut self, batch: &Batch) -> Result<Option<Option<Progress>>, End> {
        let write = self.outlet.write(batch);
        let told = told_a_while_ago(&mut self.orders, &mut self.closing);
        tokio::pin!(write, told);
        loop {
            tokio::select! {
                written = &mut write => return Ok(written?),
                () = &mut told => return Err(End::Told),
                () = self.marker.due() => self.marker.write(&self.speaker).await,
            }
        }
    }

    /// Until all that was written has arrived.
    async fn settle(&mut self) -> Result<(), End> {
        let mut wait = FIRST_LOOK;
        while self.outlet.is_pending() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = told(&mut self.orders, &mut self.closing) => return Err(End::Told),
            }
            self.look().await?;
            wait = (wait * 2).min(LAST_LOOK);
        }
        Ok(())
    }

    /// The same, for a little while, of one that is told to end.
    async fn conclude(&mut self) {
        let until = Instant::now() + GRACE;
        while self.outlet.is_pending() && Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep(FIRST_LOOK) => {}
                () = now(&mut self.orders) => return,
            }
            if let Err(End::Sink(failure)) = self.look().await {
                return self.go_back(failure);
            }
        }
    }

    async fn look(&mut self) -> Result<(), End> {
        if let Some(confirmed) = self.outlet.look().await? {
            self.confirm(confirmed);
        }
        Ok(())
    }

    fn confirm(&mut self, confirmed: Option<Progress>) {
        self.marker.set(confirmed);
        let hold = if self.outlet.is_deaf() {
            NO_REFUSAL
        } else {
            Duration::ZERO
        };
        if !self.reach.works(Instant::now(), hold) {
            return;
        }
        self.pause = self.outlet.pause().unwrap_or(FIRST_PAUSE);
        if self.reach.was_away() {
            let container = &self.speaker.identity.id;
            tracing::info!(container, "the sink of a log is back");
        }
    }

    /// To what is known to have arrived.
    fn go_back(&mut self, failure: Failure) {
        let error = &failure.error;
        if self.reach.fails(Instant::now()) {
            let container = &self.speaker.identity.id;
            tracing::warn!(container, %error, "the sink of a log cannot be reached: the log waits on disk");
        }
        self.at.clone_from(&failure.resume);
        self.marker.set(failure.resume);
    }

    /// True where it is told to end meanwhile.
    async fn rest(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = told(&mut self.orders, &mut self.closing) => true,
        }
    }
}

/// What is known to have arrived, and its file.
#[derive(Debug)]
struct Marker {
    dir: PathBuf,
    confirmed: Option<Progress>,
    written_at: Instant,
    /// The file says otherwise.
    changed: bool,
}

impl Marker {
    fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            confirmed: None,
            written_at: Instant::now(),
            changed: false,
        }
    }

    fn set(&mut self, confirmed: Option<Progress>) {
        self.changed |= self.confirmed != confirmed;
        self.confirmed = confirmed;
    }

    fn is_due(&self) -> bool {
        self.changed && self.written_at.elapsed() >= MARK_EVERY
    }

    /// Returns when it is to be written; never, if there is nothing new.
    async fn due(&self) {
        if self.changed {
            tokio::time::sleep(MARK_EVERY.saturating_sub(self.written_at.elapsed())).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    async fn write(&mut self, speaker: &Speaker) {
        self.written_at = Instant::now();
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let (dir, confirmed) = (self.dir.clone(), self.confirmed.clone());
        let epoch = speaker.epoch.clone();
        let save =
            tokio::task::spawn_blocking(move || mark::save(&dir, confirmed.as_ref(), &epoch));
        let saved = save.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        // of a container that is removed there is no directory any more
        if let Err(error) = saved
            && self.dir.exists()
        {
            tracing::warn!(container = speaker.identity.id, %error, "what has gone on cannot be marked; after a restart it goes on again");
        }
    }
}

async fn told(orders: &mut watch::Receiver<Order>, closing: &mut watch::Receiver<bool>) {
    tokio::select! {
        _ = orders.wait_for(|o| *o != Order::GoOn) => {}
        _ = closing.wait_for(|c| *c) => {}
    }
}

async fn now(orders: &mut watch::Receiver<Order>) {
    let told = orders.wait_for(|o| *o == Order::EndNow).await.is_ok();
    if !told {
        // nobody can tell it any more
        std::future::pending::<()>().await;
    }
}

async fn told_a_while_ago(
    orders: &mut watch::Receiver<Order>,
    closing: &mut watch::Receiver<bool>,
) {
    told(orders, closing).await;
    tokio::select! {
        () = tokio::time::sleep(GRACE) => {}
        () = now(orders) => {}
    }
}

/// Whether the sink takes anything, and when that is worth a word: once when it goes, once when it is
/// back.
#[derive(Debug)]
struct Reach {
    /// For those who wonder whether to wait.
    reachable: Arc<AtomicBool>,
    failed: Option<Instant>,
    said: bool,
}

impl Reach {
    fn new(reachable: Arc<AtomicBool>) -> Self {
        Self {
            reachable,
            failed: None,
            said: false,
        }
    }

    /// Whether it is to be said.
    fn fails(&mut self, at: Instant) -> bool {
        self.reachable.store(false, Ordering::Relaxed);
        self.failed = Some(at);
        !std::mem::replace(&mut self.said, true)
    }

    /// Whether it works for certain: has for so long.
    fn works(&mut self, at: Instant, hold: Duration) -> bool {
        self.reachable.store(true, Ordering::Relaxed);
        self.failed.is_none_or(|f| at.duration_since(f) >= hold)
    }

    fn was_away(&mut self) -> bool {
        std::mem::take(&mut self.said)
    }
}

#[cfg(test)]
mod tests;
