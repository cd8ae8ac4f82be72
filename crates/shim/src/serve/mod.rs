//! The shim: one process, one thread, one container.
//!
//! It is forked by the spawner and never executes anything itself. All descriptors it polls do
//! not block, all its buffers are bounded, and it waits for nobody: not for a client that does not
//! read (see `client.rs`), not for a log that cannot be written (`jsonlog/writer.rs`), not for a
//! daemon that is gone.
//!
//! ```text
//! container stdout --pipe--> Source --> Splitter --> LogWriter --> json.log
//!                              |
//!                              +------> Client queue (bounded) --> attached stream
//! attached stream --> Sink queue (bounded) --pipe--> container stdin
//! ```

mod client;
mod control;
mod exit;
mod health;
mod loopback;
mod names;
mod poller;
pub(crate) mod process;
mod start;
pub(crate) mod state;
mod streams;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use runtime::cgroup::{Cgroup, OomWatch};
use rustix::event::epoll::EventFlags;

use crate::jsonlog::LogWriter;
use crate::launch::{AttachOptions, ExecStatus, Launch, Phase};
use crate::record::ExitRecord;
use crate::wire::{self, Message, Writer, kind, tag};
use client::Client;
use poller::{Poller, Slots, Token};
use process::{FIRST, Life, Process};
use state::State;

/// How many exec'd processes that have ended are remembered.
const REMEMBERED: usize = 64;

/// What the spawner hands over.
#[derive(Debug)]
pub(crate) struct Request {
    launch: Launch,
    plan: OwnedFd,
    root: Option<OwnedFd>,
    control: OwnedFd,
    attach: Vec<(AttachOptions, OwnedFd)>,
    held: Vec<OwnedFd>,
}

impl Request {
    /// Takes a LAUNCH message apart: plan, control, root if there is one, one descriptor per
    /// attached client, those that are held.
    pub(crate) fn decode(message: &Message<'_>, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let (plan, control) = (fds.next()?, fds.next()?);
        let root = if message.fields.flag(tag::ROOT) {
            Some(fds.next()?)
        } else {
            None
        };
        let options = wire::attaches(message.fields).ok()?;
        // by index: `zip` would take one more of the second than it pairs
        let attach: Vec<_> = options
            .into_iter()
            .map_while(|o| Some((o, fds.next()?)))
            .collect();
        let held: Vec<_> = fds.collect();
        let wanted = message.fields.u64(tag::HELD).unwrap_or(0);
        if u64::try_from(held.len()).ok() != Some(wanted) {
            return None;
        }
        Some(Self {
            launch: wire::launch(message.fields)?,
            plan,
            root,
            control,
            attach,
            held,
        })
    }
}

/// The shim's life, from the fork on; returns the process's exit code.
pub(crate) fn main(request: Request) -> i32 {
    sys::fault::enter("shim");
    match start::boot(request) {
        Ok(server) => server.run(),
        Err(()) => 1,
    }
}

/// The exit, between the end of the first process and that of the shim.
#[derive(Debug)]
struct Ending {
    record: ExitRecord,
    /// On disk.
    durable: bool,
    tries: u32,
    try_again: Option<Instant>,
}

#[derive(Debug)]
struct Server {
    launch: Launch,
    state: State,
    phase: Phase,
    poller: Poller,
    listener: OwnedFd,
    signals: OwnedFd,
    /// The network namespace and the sockets that keep its ports: theirs is the shim's life.
    held: Vec<OwnedFd>,
    /// The root file system. Who lets go of an overlay last writes back the whole file system below
    /// it: that is not to be the container, whose end somebody waits for.
    root: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    oom: Option<OomWatch>,
    oom_killed: bool,
    /// How often, and when next, the count of kills is looked at again.
    oom_looks: u32,
    oom_look_at: Instant,
    connections: Slots<OwnedFd>,
    processes: Slots<Process>,
    clients: Slots<Client>,
    log: Option<LogWriter>,
    /// Absent for most, which pay one pointer.
    health: Option<Box<health::Checks>>,
    /// Absent where the container is in no network with names.
    names: Option<Box<names::Names>>,
    /// Absent where no port of the container is published at `::1`.
    loopback: Option<Box<loopback::Ports>>,
    ended_execs: VecDeque<ExecStatus>,
    /// Children that ended before it was known whose they are.
    early: Vec<(i32, Life)>,
    ending: Option<Ending>,
    /// What one read from a process or a client takes.
    scratch: Vec<u8>,
    /// The launch failed: leave as soon as the answer is sent.
    failed: bool,
}

impl Server {
    fn run(mut self) -> i32 {
        loop {
            let deadline = self.next_deadline();
            for (token, flags) in self.poller.wait(deadline) {
                self.dispatch(token, flags);
            }
            self.expire();
            self.expire_names();
            self.look_for_oom_again();
            self.check_health();
            self.conclude_execs();
            self.conclude();
            if self.failed {
                return 1;
            }
            if self.may_leave() {
                return self.leave();
            }
        }
    }

    fn dispatch(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => {
                sys::signal::drain(&self.signals);
                self.reap();
            }
            Token::Oom => self.notice_oom(),
            Token::Connection(at) => self.receive(at),
            Token::Starting(at) => self.advance(at),
            Token::Source(at, which) => self.pump(at, which),
            Token::Sink(at) => self.sink_ready(at),
            Token::Client(at) => self.client_ready(at, flags),
            Token::Loopback(at, sub) => self.loopback(loopback::Which::of(at, sub)),
            Token::Names(at, sub) => self.name_server(names::Which::of(at, sub), flags),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let clients = self.clients.iter().filter_map(|(_, c)| c.deadline());
        let draining = self.processes.iter().filter_map(|(_, p)| p.drained_by);
        let retry = self.ending.iter().filter_map(|e| e.try_again);
        let oom = (self.oom_looks > 0).then_some(self.oom_look_at);
        let check = self.health.iter().filter_map(|h| h.deadline());
        let check = check.filter(|_| self.ending.is_none());
        let names = self.names.iter().filter_map(|n| n.deadline());
        clients
            .chain(draining)
            .chain(retry)
            .chain(oom)
            .chain(check)
            .chain(names)
            .min()
    }

    /// Acts on the deadlines that have passed.
    fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<(u32, bool)> = self
            .clients
            .iter()
            .filter(|(_, c)| c.deadline().is_some_and(|at| at <= now))
            .map(|(at, c)| (at, c.closing))
            .collect();
        for (at, closing) in late {
            let process = self.clients.get(at).map(|c| c.process);
            if closing {
                self.drop_client(at);
            } else if let Some(client) = self.clients.get_mut(at) {
                client.give_up("the reader took nothing for too long");
                self.interest(at);
            }
            if let Some(process) = process {
                self.resume_sources(process);
            }
        }
        let late: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, p)| p.drained_by.is_some_and(|at| at <= now))
            .map(|(at, _)| at)
            .collect();
        for at in late {
            self.close_source(at, 0);
            self.close_source(at, 1);
        }
    }

    /// Children end: ours are noted, orphans that came to us as subreaper are only reaped.
    fn reap(&mut self) {
        let options = rustix::process::WaitOptions::NOHANG;
        while let Ok(Some((pid, status))) = rustix::process::wait(options) {
            let signal = status.terminating_signal();
            let code = signal.map_or_else(|| status.exit_status().unwrap_or(255), |s| 128 + s);
            let life = Life::Ended { code, signal };
            let pid = pid.as_raw_pid();
            let of_pid = |(at, p): (u32, &Process)| {
                (matches!(p.life, Life::Running) && p.pid == pid).then_some(at)
            };
            let owner = self.processes.iter().find_map(of_pid);
            let any_starting = self
                .processes
                .iter()
                .any(|(_, p)| matches!(p.life, Life::Starting(_)));
            match owner {
                Some(at) => self.ended(at, life),
                None if any_starting => self.early.push((pid, life)),
                None => {}
            }
        }
    }

    /// On cgroup v1 the news comes before the kill: looked at again for a second.
    fn notice_oom(&mut self) {
        let kills = self.oom.as_ref().and_then(|w| w.read().ok()).unwrap_or(0);
        if kills == 0 {
            self.oom_looks = 50;
        } else if !self.oom_killed {
            self.oom_killed = true;
            self.tell(&Writer::message(kind::OOM, 0));
        }
    }

    fn look_for_oom_again(&mut self) {
        if self.oom_looks > 0 && self.oom_look_at <= Instant::now() {
            let looks = self.oom_looks - 1;
            self.oom_looks = 0;
            self.notice_oom();
            self.oom_looks = if self.oom_killed { 0 } else { looks };
            self.oom_look_at = Instant::now() + Duration::from_millis(20);
        }
    }

    fn first(&self) -> Option<&Process> {
        self.processes.get(FIRST)
    }
}
