//! A sink and the connection to it: batches go in, and what of them the sink is known to have comes out.

use std::io;
use std::time::{Duration, Instant};

use super::connection::{Connection, Health};
use super::message::{Failure, Item, Message, Progress, Speaker};
use super::window::Window;
use super::{Sink, fluentd, gelf, journald, syslog};

/// Entries sent at a time, and bytes, of which there are more only where one entry has them.
const MOST_ENTRIES: usize = 256;
pub(super) const MOST_BYTES: usize = 1 << 20;
/// Nothing moves for so long: the sink is asked anew, and the next time waited for twice as long, so
/// that one that is merely slow gets on.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// What a sink's kernel may hold unread: the largest receive buffer by default (tcp(7), `tcp_rmem`).
const UNREAD: u64 = 6 << 20;

#[derive(Debug)]
pub(super) struct Outlet {
    sink: Sink,
    open: Option<Open>,
    /// Attempts to reach it that failed, one after the other.
    failures: usize,
    patience: Duration,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    window: Window<Option<Progress>>,
    patience: Duration,
    /// When its window moved last.
    moved: Instant,
    /// The sink has closed it: nothing more is written.
    closed: bool,
}

/// Of one sending. Datagrams are one entry each.
#[derive(Debug)]
pub(super) struct Batch {
    /// A piece of a stream, or an entry's datagrams.
    frames: Vec<Vec<u8>>,
    /// What the sink answers.
    chunk: Option<String>,
    /// Entries in it.
    pub(super) count: usize,
    end: Option<Progress>,
}

impl Outlet {
    pub(super) fn new(sink: Sink) -> Self {
        let patience = sink.patience();
        Self {
            sink,
            open: None,
            failures: 0,
            patience,
        }
    }

    /// How long to wait before the second attempt, where the options say so.
    pub(super) fn pause(&self) -> Option<Duration> {
        match &self.sink {
            Sink::Fluentd(settings) => settings.pause,
            Sink::Gelf(settings) => settings.pause,
            Sink::Syslog(_) | Sink::Journald => None,
        }
    }

    /// Whether a sink that is away is not noticed for certain.
    pub(super) fn is_deaf(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|o| !o.connection.is_stream())
    }

    /// Whether something is written of which it is not known that it has arrived.
    pub(super) fn is_pending(&self) -> bool {
        self.open.as_ref().is_some_and(|o| o.window.is_pending())
    }

    /// Whether nothing more can be written until it is known what of the last has arrived.
    pub(super) fn is_closing(&self) -> bool {
        self.open.as_ref().is_some_and(|o| o.closed)
    }

    /// Returns when there is something to look at; never, without a connection.
    pub(super) async fn changed(&self) {
        match &self.open {
            Some(open) if !open.closed => open.connection.changed().await,
            _ => std::future::pending().await,
        }
    }

    /// What is newly confirmed. A connection that the sink has closed in order is dropped.
    pub(super) async fn look(&mut self) -> Result<Option<Option<Progress>>, Failure> {
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        let looked = open.connection.look().await;
        let left = match open.connection.unacknowledged() {
            Ok(left) => left,
            Err(e) => return Err(self.failed(&open.window, e)),
        };
        match looked {
            Health::Broken(e) => Err(self.failed(&open.window, e)),
            Health::Alive | Health::Closed => {
                open.closed |= matches!(looked, Health::Closed);
                self.moved(open, left)
            }
        }
    }

    fn moved(&mut self, mut open: Open, left: u64) -> Result<Option<Option<Progress>>, Failure> {
        let before = open.window.acknowledged();
        let confirmed = if open.closed {
            open.window.closed(left)
        } else {
            open.window.lives(left)
        };
        let pending = open.window.is_pending();
        if open.window.acknowledged() > before || !pending {
            open.moved = Instant::now();
        }
        if open.moved.elapsed() > open.patience {
            let text = format!("took nothing for {} s", open.patience.as_secs_f32());
            let e = io::Error::new(io::ErrorKind::TimedOut, text);
            return Err(self.failed(&open.window, e));
        }
        if confirmed.is_some() && !pending {
            self.works();
        }
        if pending || !open.closed {
            self.open = Some(open);
        }
        Ok(confirmed)
    }

    fn works(&mut self) {
        self.failures = 0;
        self.patience = self.sink.patience();
    }

    fn failed(&mut self, window: &Window<Option<Progress>>, error: io::Error) -> Failure {
        self.failures += 1;
        if error.kind() == io::ErrorKind::TimedOut {
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
        }
        // a reset that follows a close in order (tcp(7): EPIPE): what was acknowledged before was read
        let unread = error.kind() != io::ErrorKind::BrokenPipe;
        Failure {
            resume: window.resume(unread),
            error,
        }
    }

    /// A connection, if there is none. `at` has gone on, all of it.
    pub(super) async fn open(&mut self, at: Option<&Progress>) -> Result<(), Failure> {
        if self.open.is_some() {
            return Ok(());
        }
        let journal = journald::address();
        let address = match &self.sink {
            Sink::Syslog(s) => &s.address,
            Sink::Gelf(s) => &s.address,
            Sink::Fluentd(s) => &s.address,
            Sink::Journald => &journal,
        };
        match Connection::open(address, self.failures, self.patience).await {
            Ok(connection) => {
                // what an acknowledgement is for is not asked of the kernel, and of datagrams it knows
                // nothing
                let known = connection.tells_what_is_read()
                    || !connection.is_stream()
                    || self.acknowledges();
                let unread = if known { 0 } else { UNREAD };
                self.open = Some(Open {
                    window: Window::new(at.cloned(), unread),
                    patience: self.patience,
                    moved: Instant::now(),
                    closed: false,
                    connection,
                });
                Ok(())
            }
            Err(error) => {
                self.failures += 1;
                let resume = at.cloned();
                Err(Failure { error, resume })
            }
        }
    }

    fn acknowledges(&self) -> bool {
        matches!(&self.sink, Sink::Fluentd(s) if s.request_ack)
    }

    /// As many as go at a time, at least one of those given.
    pub(super) fn batch(&self, speaker: &Speaker, items: &[Item<'_>]) -> Batch {
        let items = &items[..items.len().min(MOST_ENTRIES)];
        let stream = self.open.as_ref().is_some_and(|o| o.connection.is_stream());
        let mut frames = Vec::new();
        let mut chunk = None;
        let count = if let Sink::Fluentd(settings) = &self.sink {
            let (bytes, id, count) = fluentd::encode(settings, speaker, items);
            frames.push(bytes);
            chunk = id;
            count
        } else if stream {
            let mut piece = Vec::new();
            let mut count = 0;
            for item in items {
                let frame = self.frames(speaker, &item.message).concat();
                if count > 0 && piece.len() + frame.len() > MOST_BYTES {
                    break;
                }
                piece.extend_from_slice(&frame);
                count += 1;
            }
            frames.push(piece);
            count
        } else {
            let first = items.first();
            frames.extend(
                first
                    .into_iter()
                    .flat_map(|i| self.frames(speaker, &i.message)),
            );
            1
        };
        let end = count.checked_sub(1).and_then(|n| items.get(n));
        Batch {
            frames,
            chunk,
            count,
            end: end.and_then(|i| i.after.clone()),
        }
    }

    /// What is confirmed thereby.
    pub(super) async fn write(
        &mut self,
        batch: &Batch,
    ) -> Result<Option<Option<Progress>>, Failure> {
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        if let Err(e) = self.put(&mut open, batch).await {
            return Err(self.failed(&open.window, e));
        }
        if !open.window.is_pending() {
            open.moved = Instant::now();
        }
        let bytes = batch.frames.iter().map(Vec::len).sum();
        open.window.wrote(bytes, batch.end.clone());
        let confirmed = if batch.chunk.is_some() || !open.connection.is_stream() {
            self.works();
            open.window.all()
        } else {
            None
        };
        self.open = Some(open);
        Ok(confirmed)
    }

    async fn put(&self, open: &mut Open, batch: &Batch) -> io::Result<()> {
        let connection = &mut open.connection;
        for frame in &batch.frames {
            match connection.write(frame, open.patience).await {
                Err(e) if is_too_long(&e) => match (&self.sink, &mut *connection) {
                    (Sink::Journald, Connection::Datagrams(socket)) => {
                        journald::send_file(socket, frame).await?;
                    }
                    // it would never go
                    _ => tracing::warn!(bytes = frame.len(), "an entry is too long for its sink"),
                },
                other => other?,
            }
        }
        if let (Some(id), Sink::Fluentd(settings)) = (&batch.chunk, &self.sink) {
            fluentd::acknowledged(settings, connection, id).await?;
        }
        Ok(())
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

impl Sink {
    fn patience(&self) -> Duration {
        let own = match self {
            Self::Fluentd(settings) => settings.write_within,
            _ => None,
        };
        own.unwrap_or(PATIENCE)
    }
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}
