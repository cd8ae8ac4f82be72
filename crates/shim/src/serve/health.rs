//! Health checks. The shim runs them, so that they go on while no engine does.
//!
//! ```text
//! waiting --due--> running --ended, output drained--> result, waiting
//!                     |
//!                     +--deadline--> result, all of it killed --ended--> waiting
//! ```
//!
//! A check runs in a cgroup of its own below the container's, and whatever it leaves there is
//! killed when it ends. There is never more than one: a check that does not die (its file system
//! hangs) has failed at its deadline all the same, and none is started beside it.
//!
//! source: Docker's rules of what counts (start period, retries) are those of `HEALTHCHECK` in the
//! Dockerfile reference.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use runtime::StepError;
use runtime::cgroup::Cgroup;

use super::Server;
use super::process::Life;
use super::start::Refusal;
use crate::jsonlog::encode::Time;
use crate::launch::{HEALTH_CGROUP, Health, HealthCheck, HealthResult, HealthStatus, Phase};
use crate::wire::{self, Writer, kind};

/// Results that are remembered.
const RESULTS: usize = 5;
/// Bytes of output that are remembered of each.
const OUTPUT: usize = 4096;
/// What an earlier check left was killed, and may take this long to go.
const LEFTOVERS: Duration = Duration::from_millis(100);
/// A paused container's check is looked at again after this.
const PAUSED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Checks {
    check: HealthCheck,
    plan: OwnedFd,
    pub(super) known: Health,
    since: Instant,
    next: Instant,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    at: u32,
    start: String,
    started: Instant,
    until: Instant,
    /// Killed at its deadline; its result is known.
    late: bool,
    output: Vec<u8>,
    more: bool,
}

impl Running {
    fn output(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.output).into_owned();
        // what replaces a byte is longer than it
        truncate(&mut text, OUTPUT);
        if self.more {
            text.push_str("...");
        }
        text
    }
}

fn truncate(text: &mut String, most: usize) {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

impl Checks {
    pub(super) fn new(check: HealthCheck, plan: OwnedFd) -> Self {
        let now = Instant::now();
        let mut new = Self {
            check,
            plan,
            known: Health::default(),
            since: now,
            next: now,
            running: None,
        };
        new.next = new.after(now);
        new
    }

    /// When there is something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.running {
            None => Some(self.next),
            Some(running) => (!running.late).then_some(running.until),
        }
    }

    /// Output of a process that may be the check.
    pub(super) fn heard(&mut self, at: u32, bytes: &[u8]) {
        if let Some(running) = self.running.as_mut().filter(|r| r.at == at) {
            let room = OUTPUT - running.output.len();
            let taken = bytes.len().min(room);
            running.output.extend_from_slice(&bytes[..taken]);
            running.more |= taken < bytes.len();
        }
    }

    fn is_running(&self, at: u32) -> bool {
        self.running.as_ref().is_some_and(|r| r.at == at)
    }

    fn in_start_period(&self, at: Instant) -> bool {
        self.known.status == HealthStatus::Starting
            && at.saturating_duration_since(self.since) < self.check.start_period
    }

    fn after(&self, now: Instant) -> Instant {
        let pause = if self.in_start_period(now) {
            self.check.start_interval
        } else {
            self.check.interval
        };
        // further than a clock reaches is never, near enough
        now.checked_add(pause)
            .unwrap_or(now + Duration::from_secs(86_400 * 365))
    }

    fn note(&mut self, started: Instant, result: HealthResult) {
        let good = result.code == 0;
        let excused = self.in_start_period(started);
        let known = &mut self.known;
        if good {
            known.failing_streak = 0;
            known.status = HealthStatus::Healthy;
        } else if !excused {
            known.failing_streak = known.failing_streak.saturating_add(1);
            if known.failing_streak >= self.check.retries {
                known.status = HealthStatus::Unhealthy;
            }
        }
        let mut log = VecDeque::from(std::mem::take(&mut known.log));
        log.push_back(result);
        while log.len() > RESULTS {
            log.pop_front();
        }
        known.log = log.into();
    }
}

/// Where checks run: what they enter, and what of that is theirs.
fn cgroup(container: &Cgroup) -> (Cgroup, Cgroup) {
    container.nested(HEALTH_CGROUP)
}

impl Server {
    /// Starts the check that is due, kills the one that is late.
    pub(super) fn check_health(&mut self) {
        let Some(checks) = self.health.as_mut() else {
            return;
        };
        let now = Instant::now();
        let due = checks.deadline().is_some_and(|at| at <= now);
        if !due || self.phase != Phase::Running || self.ending.is_some() {
            return;
        }
        if self.cgroup.as_ref().is_some_and(Cgroup::is_frozen) {
            match &mut checks.running {
                Some(running) => running.until = now + PAUSED,
                None => checks.next = now + PAUSED,
            }
        } else if checks.running.is_some() {
            self.check_is_late();
        } else {
            self.begin_check(now);
        }
    }

    fn begin_check(&mut self, now: Instant) {
        let start = Time::now().rfc3339();
        let Some(mut checks) = self.health.take() else {
            return;
        };
        let own = self.cgroup.as_ref().map(|c| cgroup(c).1);
        // made anew: a process born into a cgroup that was killed before may die at birth
        let fresh = |own: Cgroup| own.remove(LEFTOVERS).and_then(|()| own.make());
        let started = match own.map(fresh) {
            Some(Err(e)) => Err(format!("make its cgroup: {}", std::io::Error::other(e))),
            _ => self.start_check(&checks.plan).map_err(|e| e.to_string()),
        };
        match started {
            Ok(at) => {
                let until = now.checked_add(checks.check.timeout);
                checks.running = Some(Running {
                    at,
                    start,
                    started: now,
                    until: until.unwrap_or(now + Duration::from_secs(86_400 * 365)),
                    late: false,
                    output: Vec::new(),
                    more: false,
                });
                self.health = Some(checks);
            }
            Err(why) => {
                checks.next = checks.after(now);
                self.health = Some(checks);
                self.note_check(now, start, -1, format!("the check did not start: {why}"));
            }
        }
    }

    fn check_is_late(&mut self) {
        let Some(checks) = self.health.as_mut() else {
            return;
        };
        let timeout = checks.check.timeout;
        let Some(running) = checks.running.as_mut() else {
            return;
        };
        running.late = true;
        let mut text = format!("Health check exceeded timeout ({timeout:?})");
        let output = running.output();
        if !output.is_empty() {
            text = format!("{text}: {output}");
            truncate(&mut text, OUTPUT);
        }
        let (at, started, start) = (running.at, running.started, running.start.clone());
        self.kill_check(at);
        self.note_check(started, start, -1, text);
    }

    fn kill_check(&self, at: u32) {
        if let Some(own) = self.cgroup.as_ref().map(|c| cgroup(c).1) {
            // one that could not be killed is killed with the container
            drop(own.kill_all());
        }
        // before it is in its cgroup, and without one; ours and not reaped, so the pid is its own
        if let Some(process) = self.processes.get(at).filter(|p| !p.ended()) {
            drop(sys::process::kill(process.pid, libc::SIGKILL));
        }
    }

    fn note_check(&mut self, started: Instant, start: String, code: i32, output: String) {
        let Some(checks) = self.health.as_mut() else {
            return;
        };
        let result = HealthResult {
            start,
            end: Time::now().rfc3339(),
            code,
            output,
        };
        checks.note(started, result);
        let mut event = Writer::message(kind::HEALTH_IS, 0);
        wire::put_health(&mut event, &checks.known);
        self.tell(&event);
    }

    /// Its first process was reaped: what it started goes with it.
    pub(super) fn check_ended(&mut self, at: u32) {
        if self.health.as_ref().is_some_and(|h| h.is_running(at)) {
            self.kill_check(at);
        }
    }

    /// Whether this process was the check; then it is forgotten.
    pub(super) fn check_over(&mut self, at: u32) -> bool {
        let Some(checks) = self.health.as_mut().filter(|h| h.is_running(at)) else {
            return false;
        };
        let running = checks.running.take();
        checks.next = checks.after(Instant::now());
        let life = self.processes.remove(at).map(|p| p.life);
        let ended = self.ending.is_some();
        if let (Some(running), Some(Life::Ended { code, .. })) = (running, life)
            && !running.late
            && !ended
        {
            let output = running.output();
            self.note_check(running.started, running.start, code, output);
            if let Some(checks) = self.health.as_mut() {
                // the status may have changed which interval holds
                checks.next = checks.after(Instant::now());
            }
        }
        true
    }

    /// As [`Server::check_over`], of one whose program was never reached.
    pub(super) fn check_not_started(&mut self, at: u32, error: StepError) -> bool {
        let Some(checks) = self.health.as_mut().filter(|h| h.is_running(at)) else {
            return false;
        };
        let running = checks.running.take();
        checks.next = checks.after(Instant::now());
        self.processes.remove(at);
        if let Some(running) = running.filter(|r| !r.late) {
            let text = format!("the check did not start: {}", Refusal::Step(error));
            self.note_check(running.started, running.start, -1, text);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(start_period: u64, retries: u32) -> Checks {
        let plan = std::fs::File::open("/dev/null").unwrap().into();
        let check = HealthCheck {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(1),
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(5),
            retries,
        };
        Checks::new(check, plan)
    }

    fn result(code: i32) -> HealthResult {
        HealthResult {
            code,
            ..HealthResult::default()
        }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let mut c = checks(0, 3);
        let now = Instant::now();
        for status in [
            HealthStatus::Starting,
            HealthStatus::Starting,
            HealthStatus::Unhealthy,
        ] {
            c.note(now, result(1));
            assert_eq!(c.known.status, status);
        }
        c.note(now, result(0));
        assert_eq!(c.known.status, HealthStatus::Healthy);
        assert_eq!(c.known.failing_streak, 0);
        for _ in 0..4 {
            c.note(now, result(0));
        }
        assert_eq!(c.known.log.len(), RESULTS);
    }

    #[test]
    fn the_start_period_excuses_failures_until_the_first_success() {
        let mut c = checks(100, 1);
        let start = c.since;
        assert_eq!(c.next, start + Duration::from_secs(5));
        c.note(start + Duration::from_secs(99), result(1));
        assert_eq!(
            (c.known.status, c.known.failing_streak),
            (HealthStatus::Starting, 0)
        );
        c.note(start + Duration::from_secs(99), result(0));
        assert_eq!(c.after(start), start + Duration::from_secs(30));
        c.note(start + Duration::from_secs(99), result(1));
        assert_eq!(c.known.status, HealthStatus::Unhealthy);
        let mut late = checks(100, 1);
        late.note(late.since + Duration::from_secs(100), result(1));
        assert_eq!(late.known.status, HealthStatus::Unhealthy);
    }

    #[test]
    fn output_is_bounded_and_valid_text() {
        let mut c = checks(0, 1);
        c.running = Some(Running {
            at: 7,
            start: String::new(),
            started: c.since,
            until: c.since,
            late: false,
            output: Vec::new(),
            more: false,
        });
        c.heard(8, b"another's");
        c.heard(7, &[0xff; 5000]);
        c.heard(7, b"more");
        let text = c.running.unwrap().output();
        assert!(
            text.len() <= OUTPUT + 3 && text.ends_with("..."),
            "{}",
            text.len()
        );
    }
}
