//! A container in the foreground: its streams, its signals, its exit code.
//!
//! ```text
//!  created --start--> streaming --end of stream--> waiting --answer of wait--> exit code
//!                        |  ^                         |
//!        connection lost |  | attached again, what    | connection lost
//!                        v  | was shown left out      v
//!                     reconnecting (bounded) <--------+----> the exit code from its record
//! ```
//!
//! The daemon may die while a container runs (P3): the container goes on, so its foreground does
//! too. What was shown is counted per stream; after a reconnect the logs are read from their start
//! and that many bytes are left out.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use api::container::{ContainerInspect, WaitResponse};

use crate::http::{Body, Hijacked, HttpError, Query, Response};
use crate::stream::{Ended, Printer, Session, wait_readable};
use crate::term::{self, DetachKeys, DetachScanner, RawMode};
use crate::verb::{Context, Failure};

/// How long a daemon may stay away before the foreground gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Signals that are the program's business: everything that can be caught and is not about us.
const PROXIED: &[(i32, &str)] = &[
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (29, "IO"),
    (30, "PWR"),
];
const SIGWINCH: i32 = 28;

/// How a container is attached to.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) detach_keys: DetachKeys,
    pub(crate) sig_proxy: bool,
    /// `removed` of containers that remove themselves.
    pub(crate) condition: &'static str,
    /// Start it once attached.
    pub(crate) start: bool,
}

/// How the foreground ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Exited(u8),
    Detached,
}

/// Why it could not go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The daemon's refusal to start the program.
    Start(HttpError),
    Other(Failure),
}

impl From<HttpError> for Trouble {
    fn from(error: HttpError) -> Self {
        Self::Other(error.into())
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

/// Descriptor of the signals, when they are ours to pass on.
pub(crate) fn block_signals(proxy: bool, tty: bool) -> Result<Option<OwnedFd>, Failure> {
    let mut numbers: Vec<i32> = Vec::new();
    if proxy {
        numbers.extend(PROXIED.iter().map(|(n, _)| *n));
    }
    if tty {
        numbers.push(SIGWINCH);
    }
    if numbers.is_empty() {
        return Ok(None);
    }
    sys::signal::signalfd(&numbers)
        .map(Some)
        .map_err(|e| Failure::say(format!("watch for signals: {e}")))
}

/// Passes a signal on; sets a new window size.
fn on_signal(context: &Context, id: &str, tty: bool, signal: i32) {
    // a client of its own: this one's connection may be in the middle of an answer
    if signal == SIGWINCH {
        if tty {
            resize(context, &format!("/containers/{id}/resize"));
        }
        return;
    }
    if let Some((_, name)) = PROXIED.iter().find(|(n, _)| *n == signal) {
        let path = Query::new(format!("/containers/{id}/kill"))
            .with("signal", name)
            .build();
        // a container that has just ended cannot take it, and needs not
        drop(context.client.post(&path));
    }
}

/// Tells the daemon the size of our terminal.
pub(crate) fn resize(context: &Context, path: &str) {
    if let Some((rows, columns)) = term::size() {
        let path = Query::new(path)
            .with("h", &rows.to_string())
            .with("w", &columns.to_string())
            .build();
        // cosmetic: a program that ended meanwhile has no terminal to resize
        drop(context.client.post(&path));
    }
}

/// Attaches, starts if asked, copies, and waits for the end.
pub(crate) fn supervise(context: &Context, plan: &Plan) -> Result<Outcome, Trouble> {
    let signals = block_signals(plan.sig_proxy && !plan.tty, plan.tty).map_err(Trouble::Other)?;
    let stream = attach(context, plan, false)?;
    let waiter = wait(context, plan)?;
    if plan.start {
        start(context, plan)?;
    }
    let raw = (plan.tty && plan.stdin && term::stdin_is_terminal())
        .then(RawMode::enter)
        .transpose()?;
    if plan.tty && !plan.start {
        // makes the program draw itself anew
        resize(context, &format!("/containers/{}/resize", plan.id));
    }
    let mut foreground = Foreground {
        context,
        plan,
        signals,
        printer: Printer::new(plan.tty),
        stdin_open: plan.stdin,
        scanner: plan.tty.then(|| DetachScanner::new(&plan.detach_keys)),
        since: now(),
    };
    let outcome = foreground.run(stream, waiter);
    drop(raw);
    outcome
}

fn now() -> String {
    crate::parse::stamp(jiff::Timestamp::now())
}

fn attach(context: &Context, plan: &Plan, logs: bool) -> Result<Hijacked, HttpError> {
    let path = Query::new(format!("/containers/{}/attach", plan.id))
        .with("stream", "1")
        .flag("logs", logs)
        .flag("stdin", plan.stdin)
        .flag("stdout", plan.stdout)
        .flag("stderr", plan.stderr)
        .build();
    context.client.hijack(&path, Body::Empty)
}

fn wait<'c>(context: &'c Context, plan: &Plan) -> Result<Response<'c>, HttpError> {
    let path = Query::new(format!("/containers/{}/wait", plan.id))
        .with("condition", plan.condition)
        .build();
    context.client.send("POST", &path, Body::Empty)
}

/// Starts it. A daemon that dies while it is asked leaves it open whether it did: then ask again,
/// for a start of what runs already is no error.
fn start(context: &Context, plan: &Plan) -> Result<(), Trouble> {
    let path = format!("/containers/{}/start", plan.id);
    match context.client.post(&path) {
        Err(e) if e.is_transport() && context.client.wait_ready(PATIENCE) => {
            context.client.post(&path).map_err(Trouble::Start)
        }
        other => other.map_err(Trouble::Start),
    }
}

struct Foreground<'a> {
    context: &'a Context,
    plan: &'a Plan,
    signals: Option<OwnedFd>,
    printer: Printer,
    stdin_open: bool,
    scanner: Option<DetachScanner>,
    /// When this began: events from then on are about this run.
    since: String,
}

/// What a reconnect found.
enum Found<'a> {
    Running(Hijacked, Response<'a>),
    Ended(u8),
}

impl<'a> Foreground<'a> {
    fn run(&mut self, mut stream: Hijacked, mut waiter: Response<'a>) -> Result<Outcome, Trouble> {
        loop {
            let (context, plan) = (self.context, self.plan);
            let mut passed = |signal| on_signal(context, &plan.id, plan.tty, signal);
            let ended = Session {
                printer: &mut self.printer,
                stdin_open: &mut self.stdin_open,
                detach: self.scanner.as_mut(),
                signals: self.signals.as_ref(),
                on_signal: &mut passed,
            }
            .run(stream)?;
            if matches!(ended, Ended::Detached) {
                return Ok(Outcome::Detached);
            }
            match self.exit_code(waiter)? {
                Some(code) => return Ok(Outcome::Exited(code)),
                None => match self.reconnect()? {
                    Found::Ended(code) => return Ok(Outcome::Exited(code)),
                    Found::Running(s, w) => (stream, waiter) = (s, w),
                },
            }
        }
    }

    /// The answer of `wait`; `None` if the connection broke before it.
    fn exit_code(&self, waiter: Response<'a>) -> Result<Option<u8>, Trouble> {
        let (context, plan) = (self.context, self.plan);
        let mut passed = |signal| on_signal(context, &plan.id, plan.tty, signal);
        let (fd, buffered) = waiter.poll_state();
        if !buffered {
            wait_readable(fd, self.signals.as_ref(), &mut passed)?;
        }
        let Ok(bytes) = waiter.bytes() else {
            return Ok(None);
        };
        let Ok(answer) = api::decode::<WaitResponse>(&bytes) else {
            return Ok(None);
        };
        if let Some(error) = answer.error.filter(|e| !e.message.is_empty()) {
            return Err(Trouble::Other(
                Failure::say(format!("Error response from daemon: {}", error.message))
                    .with_code(125),
            ));
        }
        Ok(Some(code(answer.status_code)))
    }

    /// The daemon has gone: wait for the next one and find the container again.
    fn reconnect(&mut self) -> Result<Found<'a>, Trouble> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.context.client.wait_ready(left) {
                return Err(Trouble::Other(
                    Failure::say(format!(
                        "the daemon at {} went away and was not back within {} s; the container goes on: start the daemon, then see `plimsoll logs {id}` and `plimsoll wait {id}`",
                        self.context.client.endpoint,
                        PATIENCE.as_secs(),
                        id = self.plan.id,
                    ))
                    .with_code(125),
                ));
            }
            match self.find() {
                Ok(found) => return Ok(found),
                // it ended between two questions, or the daemon went away again
                Err(Trouble::Other(_)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn find(&mut self) -> Result<Found<'a>, Trouble> {
        let (context, plan) = (self.context, self.plan);
        let path = format!("/containers/{}/json", plan.id);
        let state: ContainerInspect = match context.client.get_json(&path) {
            Ok(state) => state,
            // it removed itself when it ended: its end is an event
            Err(e) if e.status() == Some(404) => return self.code_of_events().map(Found::Ended),
            Err(e) => return Err(e.into()),
        };
        let logged = state.host_config.log_config.r#type != "none";
        if state.state.status == "created" && plan.start {
            let stream = attach(context, plan, false)?;
            let waiter = wait(context, plan)?;
            start(context, plan)?;
            self.printer.reconnect();
            return Ok(Found::Running(stream, waiter));
        }
        if state.state.running || state.state.restarting {
            let waiter = wait(context, plan)?;
            let stream = attach(context, plan, logged)?;
            if logged {
                self.printer.replay();
            } else {
                self.printer.reconnect();
            }
            return Ok(Found::Running(stream, waiter));
        }
        if logged {
            self.rest_of_logs()?;
        }
        Ok(Found::Ended(code(state.state.exit_code)))
    }

    fn rest_of_logs(&mut self) -> Result<(), Trouble> {
        let path = Query::new(format!("/containers/{}/logs", self.plan.id))
            .flag("stdout", self.plan.stdout)
            .flag("stderr", self.plan.stderr)
            .build();
        let bytes = self.context.client.get(&path)?.bytes()?;
        self.printer.replay();
        self.printer.feed(&bytes)?;
        Ok(())
    }

    fn code_of_events(&self) -> Result<u8, Trouble> {
        let mut filters = api::Filters::default();
        filters.add("container", &self.plan.id);
        filters.add("event", "die");
        let path = Query::new("/events")
            .with("since", &self.since)
            .with("until", &now())
            .with("filters", &filters.to_json())
            .build();
        let bytes = self.context.client.get(&path)?.bytes()?;
        let last = String::from_utf8_lossy(&bytes)
            .lines()
            .filter_map(|l| api::decode::<api::system::Event>(l.as_bytes()).ok())
            .filter_map(|e| e.actor.attributes.get("exitCode")?.parse::<i64>().ok())
            .next_back();
        last.map(code).ok_or_else(|| {
            Trouble::Other(
                Failure::say(format!(
                    "container {} was removed while the daemon was away, and its exit code is not known",
                    self.plan.id
                ))
                .with_code(125),
            )
        })
    }
}

/// What a process can return of a status.
pub(crate) fn code(status: i64) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(u8::MAX)
}
