//! The task that sends a container's log on, from the disk, from where the sink has it.
//!
//! ```text
//! read a batch -> send it, however often that takes -> mark it -> read on
//! ```
//! It ends when the run has ended and all has gone on, when the container is removed, or with the
//! engine; the next one goes on from the mark.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shim::jsonlog::{Entry, LogMark, LogReader, ReadError, ReadOptions, Stream, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::address::Connection;
use super::identity::{Identity, Template};
use super::{Driver, Sink, fluentd, gelf, journald, mark, syslog};
use crate::inner::Inner;
use crate::model::ContainerRecord;

/// Entries sent at a time.
const AT_ONCE: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// A mark is written at most so often.
const MARK_EVERY: Duration = Duration::from_millis(200);
/// Where there is no inotify left: how often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a removed container still has to say gets so long.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Who speaks, for all entries.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    pub(super) identity: Identity,
    pub(super) tag: String,
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) zone: jiff::tz::TimeZone,
}

/// One entry as a sink gets it.
#[derive(Debug, Clone)]
pub(super) struct Message<'a> {
    pub(super) stream: Stream,
    pub(super) time: jiff::Timestamp,
    /// Without its end.
    pub(super) line: &'a [u8],
    pub(super) part: Option<Part>,
}

/// Of a line that was too long for one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: String,
    pub(super) ordinal: u32,
    pub(super) last: bool,
}

/// Which piece of a long line comes next, for each stream.
#[derive(Debug, Default)]
struct Parts {
    stdout: Option<Part>,
    stderr: Option<Part>,
}

impl Parts {
    fn message<'a>(&mut self, entry: &'a Entry) -> Message<'a> {
        let line = entry.bytes.strip_suffix(b"\n");
        let open = match entry.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let last = line.is_some();
        let part = match open.take() {
            Some(before) => Some(Part {
                ordinal: before.ordinal + 1,
                last,
                ..before
            }),
            // all pieces of a line have its first one's time
            None if !last => Some(Part {
                id: format!("{:x}", entry.time.as_nanosecond()),
                ordinal: 1,
                last,
            }),
            None => None,
        };
        if !last {
            open.clone_from(&part);
        }
        Message {
            stream: entry.stream,
            time: entry.time,
            line: line.unwrap_or(&entry.bytes),
            part,
        }
    }
}

/// A container's forwarder.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: watch::Sender<bool>,
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
        let (stop, stopped) = watch::channel(false);
        let reachable = Arc::new(AtomicBool::new(true));
        let work = Work {
            outlet: Outlet::new(driver.sink.clone()?),
            speaker: speaker(record, &driver),
            dir: engine.store.container_dir(&record.id),
            watcher: engine.watcher.clone(),
            ended,
            stopped,
            closing: engine.closing.subscribe(),
            reachable: Arc::clone(&reachable),
            parts: Parts::default(),
            mark: None,
            marked_at: Instant::now(),
            unmarked: false,
            _alive: engine.alive(),
        };
        let task = tokio::spawn(async move {
            if let Some(previous) = previous {
                previous.stop().await;
            }
            work.run().await;
        });
        Some(Self {
            stop,
            task,
            reachable,
        })
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        // it has no more to say than its panic has said
        drop(self.task.await);
    }

    /// Of a container that is being removed: what is left may go on for a little while.
    pub(crate) async fn finish(mut self) {
        if self.reachable.load(Ordering::Relaxed) {
            drop(tokio::time::timeout(LAST_WORDS, &mut self.task).await);
        }
        if !self.task.is_finished() {
            tracing::warn!("a container is removed whose log has not all gone on");
            self.stop().await;
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
    }
}

struct Work {
    outlet: Outlet,
    speaker: Speaker,
    dir: PathBuf,
    watcher: Option<Watcher>,
    ended: Option<watch::Receiver<bool>>,
    stopped: watch::Receiver<bool>,
    closing: watch::Receiver<bool>,
    reachable: Arc<AtomicBool>,
    parts: Parts,
    mark: Option<LogMark>,
    marked_at: Instant,
    /// `mark` is newer than its file.
    unmarked: bool,
    /// The engine's end waits for the last mark.
    _alive: Option<mpsc::Sender<Infallible>>,
}

/// Why it goes no further.
enum End {
    Told,
    Read(ReadError),
}

impl Work {
    async fn run(mut self) {
        self.mark = mark::load(&self.dir);
        loop {
            // asked before reading: what was written before the end is read
            let over = self.ended.as_ref().is_none_or(|e| *e.borrow());
            match self.all().await {
                Ok(()) => {
                    self.write_mark();
                    if over || self.follows() || self.rest(LOOK_EVERY).await {
                        return;
                    }
                }
                Err(End::Told) => return self.write_mark(),
                Err(End::Read(error)) => {
                    self.write_mark();
                    tracing::warn!(container = self.speaker.identity.id, %error, "a log cannot be read to go on");
                    if over || self.rest(LONGEST_PAUSE).await {
                        return;
                    }
                }
            }
        }
    }

    fn follows(&self) -> bool {
        self.watcher.is_some() && self.ended.is_some()
    }

    /// All there is and, where it can be followed, what comes.
    async fn all(&mut self) -> Result<(), End> {
        let path = self.dir.join(crate::container::LOG_FILE);
        let options = ReadOptions {
            after: self.mark,
            ..ReadOptions::default()
        };
        let reader = match (&self.watcher, &self.ended) {
            (Some(watcher), Some(ended)) => {
                LogReader::follow(&path, &options, watcher, ended.clone()).await
            }
            _ => LogReader::open(&path, &options).await,
        };
        let mut reader = reader.map_err(End::Read)?;
        loop {
            let Some(mut entries) = self.next(&mut reader).await? else {
                return Ok(());
            };
            if reader.missed()
                && let Some(first) = entries.first()
            {
                entries.insert(0, notice(first));
            }
            self.deliver(&entries).await?;
            if let Some(last) = entries.last() {
                self.mark = Some(LogMark {
                    position: last.end,
                    time: last.time,
                });
                self.unmarked = true;
            }
            if self.marked_at.elapsed() >= MARK_EVERY {
                self.write_mark();
            }
        }
    }

    /// The next entries; meanwhile the mark is written.
    async fn next(&mut self, reader: &mut LogReader) -> Result<Option<Vec<Entry>>, End> {
        let next = reader.next();
        tokio::pin!(next);
        loop {
            let unmarked = self.unmarked;
            tokio::select! {
                entries = &mut next => return entries.map_err(End::Read),
                () = told(&mut self.stopped, &mut self.closing) => return Err(End::Told),
                () = tokio::time::sleep(MARK_EVERY), if unmarked => self.write_mark(),
            }
        }
    }

    async fn deliver(&mut self, entries: &[Entry]) -> Result<(), End> {
        let messages: Vec<Message<'_>> = entries.iter().map(|e| self.parts.message(e)).collect();
        for batch in messages.chunks(AT_ONCE) {
            let mut sent = 0;
            let mut pause = self.outlet.sink.pause().unwrap_or(FIRST_PAUSE);
            while sent < batch.len() {
                let left = &batch[sent..];
                let outcome = tokio::select! {
                    outcome = self.outlet.send(&self.speaker, left) => outcome,
                    () = told(&mut self.stopped, &mut self.closing) => return Err(End::Told),
                };
                match outcome {
                    Ok(()) => {
                        sent = batch.len();
                        self.note(None);
                    }
                    Err((n, error)) => {
                        sent += n;
                        self.note(Some(&error));
                        if self.rest(pause).await {
                            return Err(End::Told);
                        }
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
        }
        Ok(())
    }

    /// Said once when a sink goes, and once when it is back.
    fn note(&self, error: Option<&io::Error>) {
        let before = self.reachable.swap(error.is_none(), Ordering::Relaxed);
        let container = &self.speaker.identity.id;
        match error {
            Some(error) if before => {
                tracing::warn!(container, %error, "the sink of a log cannot be reached: the log waits on disk");
            }
            None if !before => tracing::info!(container, "the sink of a log is back"),
            _ => {}
        }
    }

    /// True where it is told to end meanwhile.
    async fn rest(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = told(&mut self.stopped, &mut self.closing) => true,
        }
    }

    fn write_mark(&mut self) {
        self.marked_at = Instant::now();
        if !std::mem::take(&mut self.unmarked) {
            return;
        }
        let Some(mark) = &self.mark else { return };
        // of a container that is removed there is no directory any more
        if let Err(error) = mark::save(&self.dir, mark)
            && self.dir.exists()
        {
            tracing::warn!(container = self.speaker.identity.id, %error, "what has gone on cannot be marked; after a restart it goes on again");
        }
    }
}

async fn told(stopped: &mut watch::Receiver<bool>, closing: &mut watch::Receiver<bool>) {
    tokio::select! {
        _ = stopped.wait_for(|s| *s) => {}
        _ = closing.wait_for(|c| *c) => {}
    }
}

fn notice(before: &Entry) -> Entry {
    Entry {
        stream: Stream::Stderr,
        time: before.time,
        end: before.end,
        bytes:
            b"plimsoll: entries may be missing here: the log was rotated before they could go on\n"
                .to_vec(),
        attributes: std::collections::BTreeMap::new(),
    }
}

/// A sink and the connection to it.
#[derive(Debug)]
struct Outlet {
    sink: Sink,
    connection: Option<Connection>,
}

impl Sink {
    fn pause(&self) -> Option<Duration> {
        match self {
            Self::Fluentd(settings) => settings.pause,
            Self::Gelf(settings) => settings.pause,
            Self::Syslog(_) | Self::Journald => None,
        }
    }
}

impl Outlet {
    fn new(sink: Sink) -> Self {
        Self {
            sink,
            connection: None,
        }
    }

    /// How many were taken before it failed.
    async fn send(
        &mut self,
        speaker: &Speaker,
        messages: &[Message<'_>],
    ) -> Result<(), (usize, io::Error)> {
        let mut connection = match self.connection.take().filter(|c| !c.has_ended()) {
            Some(connection) => connection,
            None => self.open().await.map_err(|e| (0, e))?,
        };
        let sent = self.write(&mut connection, speaker, messages).await;
        if sent.is_ok() {
            self.connection = Some(connection);
        }
        sent
    }

    async fn open(&self) -> io::Result<Connection> {
        match &self.sink {
            Sink::Syslog(s) => Connection::open(&s.address).await,
            Sink::Gelf(s) => Connection::open(&s.address).await,
            Sink::Fluentd(s) => Connection::open(&s.address).await,
            Sink::Journald => Connection::open(&journald::address()).await,
        }
    }

    async fn write(
        &self,
        connection: &mut Connection,
        speaker: &Speaker,
        messages: &[Message<'_>],
    ) -> Result<(), (usize, io::Error)> {
        if let Sink::Fluentd(settings) = &self.sink {
            let (bytes, chunk) = fluentd::encode(settings, speaker, messages);
            let limit = settings.write_within.unwrap_or(WRITE_WITHIN);
            let write = connection.write(&bytes, limit).await;
            write.map_err(|e| (0, e))?;
            if let Some(chunk) = chunk {
                let ack = fluentd::acknowledged(connection, &chunk).await;
                ack.map_err(|e| (0, e))?;
            }
            return Ok(());
        }
        if connection.is_stream() {
            let all = messages.iter().flat_map(|m| self.frames(speaker, m));
            let bytes = all.flatten().collect::<Vec<u8>>();
            let write = connection.write(&bytes, WRITE_WITHIN).await;
            return write.map_err(|e| (0, e));
        }
        for (number, message) in messages.iter().enumerate() {
            for frame in self.frames(speaker, message) {
                let sent = self.datagram(connection, &frame).await;
                sent.map_err(|e| (number, e))?;
            }
        }
        Ok(())
    }

    async fn datagram(&self, connection: &mut Connection, frame: &[u8]) -> io::Result<()> {
        let too_long =
            |e: &io::Error| e.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error());
        match connection.write(frame, WRITE_WITHIN).await {
            Err(e) if too_long(&e) => match (&self.sink, connection) {
                (Sink::Journald, Connection::Datagrams(socket)) => {
                    journald::send_file(socket, frame).await
                }
                _ => {
                    // it would never go
                    tracing::warn!(bytes = frame.len(), "an entry is too long for its sink");
                    Ok(())
                }
            },
            other => other,
        }
    }

    fn frames(&self, speaker: &Speaker, message: &Message<'_>) -> Vec<Vec<u8>> {
        match &self.sink {
            Sink::Syslog(settings) => vec![syslog::encode(settings, speaker, message)],
            Sink::Journald => vec![journald::encode(speaker, message)],
            Sink::Gelf(settings) => {
                gelf::encode(settings, speaker, message).unwrap_or_else(|why| {
                    tracing::warn!(why, "an entry cannot be sent as GELF");
                    Vec::new()
                })
            }
            // in batches
            Sink::Fluentd(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn speaker() -> Speaker {
        Speaker {
            identity: Identity {
                id: "0123456789abcdef".to_owned(),
                name: "web".to_owned(),
                image_id: "sha256:ab".to_owned(),
                image: "busybox".to_owned(),
                command: "sh -c x".to_owned(),
                created: "2026-01-02T03:04:05Z".to_owned(),
                ..Identity::default()
            },
            tag: "web".to_owned(),
            host: "host".to_owned(),
            pid: 7,
            zone: jiff::tz::TimeZone::UTC,
        }
    }

    pub(crate) fn message(line: &[u8]) -> Message<'_> {
        Message {
            stream: Stream::Stdout,
            time: "2026-01-02T03:04:05.123456789Z".parse().unwrap(),
            line,
            part: None,
        }
    }

    #[test]
    fn pieces_of_a_line_are_numbered() {
        let entry = |stream, text: &str| Entry {
            stream,
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            end: shim::jsonlog::LogPosition {
                inode: 1,
                offset: 0,
            },
            bytes: text.into(),
            attributes: std::collections::BTreeMap::new(),
        };
        let mut parts = Parts::default();
        let mut said = Vec::new();
        for (stream, text) in [
            (Stream::Stdout, "a\n"),
            (Stream::Stdout, "b"),
            (Stream::Stderr, "c\n"),
            (Stream::Stdout, "d"),
            (Stream::Stdout, "e\n"),
            (Stream::Stdout, "f\n"),
        ] {
            let entry = entry(stream, text);
            let message = parts.message(&entry);
            said.push(message.part.map(|p| (p.ordinal, p.last)));
        }
        let want = [
            None,
            Some((1, false)),
            None,
            Some((2, false)),
            Some((3, true)),
            None,
        ];
        assert_eq!(said, want);
    }
}
