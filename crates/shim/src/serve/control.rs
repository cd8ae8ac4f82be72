//! The control socket: requests of the engine, and what it is told unasked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketFlags;

use super::health::Checks;
use super::poller::Token;
use super::process::{Asker, FIRST, Life, Process};
use super::start::{Refusal, not_running, set_size};
use super::{Server, wire};
use crate::jsonlog::LogWriter;
use crate::launch::{ExecStatus, Phase, Status};
use crate::wire::{Fields, Message, Writer, kind, tag};

/// More connections than this are refused: there is one engine.
const MAX_CONNECTIONS: usize = 32;

/// The longest request; plans come in files.
const MAX_REQUEST: usize = 4096;

/// Answer of a request that was understood.
type Answer = (Writer, Vec<OwnedFd>);

impl Server {
    pub(super) fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            let at = self.connections.vacant();
            let token = Token::Connection(at);
            if at as usize >= MAX_CONNECTIONS
                || self.poller.add(&socket, token, EventFlags::IN).is_err()
            {
                continue;
            }
            self.connections.insert(socket);
        }
    }

    pub(super) fn receive(&mut self, at: u32) {
        let mut buffer = [0; MAX_REQUEST];
        // a few per event, so that a busy client cannot starve the container's output
        for _ in 0..8 {
            let Some(connection) = self.connections.get(at) else {
                return;
            };
            let received = match sys::fdpass::recv(connection.as_fd(), &mut buffer, true) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.disconnect(at),
            };
            if received.len == 0 {
                return self.disconnect(at);
            }
            let message = Message::parse(&buffer[..received.len]);
            match message {
                Ok(message) if !received.truncated => self.handle(at, &message, received.fds),
                // not ours to guess at what it meant
                _ => return self.disconnect(at),
            }
        }
    }

    fn disconnect(&mut self, at: u32) {
        if let Some(connection) = self.connections.remove(at) {
            self.poller.remove(&connection);
        }
    }

    fn handle(&mut self, at: u32, message: &Message<'_>, fds: Vec<OwnedFd>) {
        let id = message.id;
        let answer = match message.kind {
            kind::STATUS => self.answer_status(id),
            kind::ATTACH => self.handle_attach(message, fds),
            kind::EXEC => match self.handle_exec(at, message, fds) {
                Ok(()) => return,
                Err(refusal) => Ok((refusal.answer(kind::FAILED, id), Vec::new())),
            },
            kind::SIGNAL => self.handle_signal(message),
            kind::RESIZE => self.handle_resize(message),
            kind::ROOT => self.handle_root(id),
            kind::HEALTH => self.handle_health(message, fds),
            kind::NAMES => self.handle_names(message, fds),
            kind::HOLD => self.hold(fds).map(|()| ok(message.id)),
            _ => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        };
        let (answer, fds) = answer.unwrap_or_else(|e| {
            let mut w = Writer::message(kind::ERROR, id);
            w.i32(tag::ERRNO, e.raw_os_error().unwrap_or(libc::EIO));
            (w, Vec::new())
        });
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.send(at, &answer, &fds);
        if message.kind == kind::STATUS
            && let Some(ending) = &self.ending
            && self.phase == Phase::Exited
        {
            // it was told before this client came
            let event = exited(&ending.record);
            self.send(at, &event, &[]);
        }
    }

    /// The process a request means.
    fn target(&self, fields: Fields<'_>) -> io::Result<(u32, &Process)> {
        let Some(wanted) = fields.str(tag::EXEC_ID) else {
            let first = self.first().ok_or_else(not_running)?;
            return Ok((FIRST, first));
        };
        self.processes
            .iter()
            .find(|(_, p)| p.exec_id.as_deref() == Some(wanted))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    fn answer_status(&self, id: u32) -> io::Result<Answer> {
        let execs = self.processes.iter().filter_map(|(_, p)| {
            Some(ExecStatus {
                exec_id: p.exec_id.clone()?,
                pid: p.pid,
                code: match p.life {
                    Life::Ended { code, .. } => Some(code),
                    _ => None,
                },
            })
        });
        let status = Status {
            id: self.launch.id.clone(),
            phase: self.phase,
            shim_pid: self.state.shim_pid,
            pid: self.state.pid,
            pid_start_time: self.state.pid_start_time,
            started_at: self.state.started_at.clone(),
            tty: self.launch.tty,
            oom_killed: self.oom_killed,
            log_lines_dropped: self
                .log
                .as_ref()
                .map_or(0, crate::jsonlog::LogWriter::dropped),
            execs: self.ended_execs.iter().cloned().chain(execs).collect(),
        };
        let mut w = Writer::message(kind::STATUS_IS, id);
        wire::put_status(&mut w, &status);
        let own = rustix::process::pidfd_open(
            rustix::process::getpid(),
            rustix::process::PidfdFlags::empty(),
        )?;
        let mut fds = vec![own];
        if let Some(pidfd) = self.first().and_then(|p| p.pidfd.as_ref()) {
            fds.push(pidfd.try_clone()?);
        }
        // as many as a message takes; who was not told of one cannot reap it, no more
        let running = self.processes.iter().filter(|(at, _)| *at != FIRST);
        for pidfd in running.filter_map(|(_, p)| p.pidfd.as_ref()).take(32) {
            fds.push(pidfd.try_clone()?);
        }
        Ok((w, fds))
    }

    fn handle_attach(&mut self, message: &Message<'_>, fds: Vec<OwnedFd>) -> io::Result<Answer> {
        let options = wire::attaches(message.fields).map_err(|_| invalid())?;
        let (Some(options), Some(fd)) = (options.first(), fds.into_iter().next()) else {
            return Err(invalid());
        };
        let at = match &options.exec_id {
            None => FIRST,
            Some(exec_id) => {
                let mut w = Writer::message(0, 0);
                w.str(tag::EXEC_ID, exec_id);
                let fields = Message::parse(w.as_bytes()).map_err(|_| invalid())?.fields;
                self.target(fields)?.0
            }
        };
        if self.ending.is_some() {
            return Err(not_running());
        }
        self.attach(fd, options, at)?;
        let (mut answer, fds) = ok(message.id);
        if at == FIRST
            && let Some(position) = self.log.as_mut().and_then(LogWriter::position)
        {
            answer
                .u64(tag::LOG_INODE, position.inode)
                .u64(tag::LOG_OFFSET, position.offset);
        }
        Ok((answer, fds))
    }

    fn handle_exec(
        &mut self,
        at: u32,
        message: &Message<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let refuse = |e| Refusal::Own("read the request", e);
        let exec = wire::exec(message.fields).ok_or_else(|| refuse(invalid()))?;
        let mut fds = fds.into_iter();
        let plan = fds.next().ok_or_else(|| refuse(invalid()))?;
        let options = wire::attaches(message.fields).map_err(|_| refuse(invalid()))?;
        let attach = options.into_iter().next().zip(fds.next());
        if self.phase != Phase::Running || self.ending.is_some() {
            return Err(Refusal::Own("find the container", not_running()));
        }
        let known = |(_, p): (u32, &Process)| p.exec_id.as_ref() == Some(&exec.exec_id);
        if self.processes.iter().any(known) {
            let exists = io::Error::from_raw_os_error(libc::EEXIST);
            return Err(Refusal::Own("start the process", exists));
        }
        let asker = Asker {
            connection: at,
            request: message.id,
        };
        self.start_exec(exec, &plan, attach, asker)
    }

    fn handle_signal(&self, message: &Message<'_>) -> io::Result<Answer> {
        let signal = message.fields.i32(tag::SIGNAL).ok_or_else(invalid)?;
        let (_, process) = self.target(message.fields)?;
        if !matches!(process.life, Life::Running) {
            return Err(not_running());
        }
        sys::fault::point("shim.signal")?;
        if message.fields.flag(tag::ALL) {
            self.signal_all(signal)?;
        } else {
            let pidfd = process.pidfd.as_ref().ok_or_else(not_running)?;
            sys::signal::send_to(pidfd, signal)?;
        }
        Ok(ok(message.id))
    }

    fn signal_all(&self, signal: i32) -> io::Result<()> {
        let cgroup = self.cgroup.as_ref().ok_or_else(not_running)?;
        if signal == libc::SIGKILL {
            return cgroup.kill_all().map_err(io::Error::other);
        }
        for pid in cgroup.pids().map_err(io::Error::other)? {
            let Some(pid) = rustix::process::Pid::from_raw(pid) else {
                continue;
            };
            // gone in the meantime is as good as signalled
            if let Ok(pidfd) =
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            {
                drop(sys::signal::send_to(&pidfd, signal));
            }
        }
        Ok(())
    }

    fn handle_resize(&self, message: &Message<'_>) -> io::Result<Answer> {
        let size = |t| {
            let n = message.fields.i32(t).ok_or_else(invalid)?;
            u16::try_from(n).map_err(|_| invalid())
        };
        let (rows, columns) = (size(tag::ROWS)?, size(tag::COLUMNS)?);
        let (_, process) = self.target(message.fields)?;
        let terminal = process
            .terminal()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTTY))?;
        set_size(terminal, rows, columns)?;
        Ok(ok(message.id))
    }

    /// The first plan that comes is the one that is run: a second engine's is the same.
    fn handle_health(&mut self, message: &Message<'_>, fds: Vec<OwnedFd>) -> io::Result<Answer> {
        if let Some(plan) = fds.into_iter().next() {
            let check = wire::check(message.fields).ok_or_else(invalid)?;
            if self.phase != Phase::Running || self.ending.is_some() {
                return Err(not_running());
            }
            if self.health.is_none() {
                self.health = Some(Box::new(Checks::new(check, plan)));
            }
        }
        let mut w = Writer::message(kind::HEALTH_IS, message.id);
        if let Some(checks) = &self.health {
            wire::put_health(&mut w, &checks.known);
        }
        Ok((w, Vec::new()))
    }

    fn handle_names(&mut self, message: &Message<'_>, fds: Vec<OwnedFd>) -> io::Result<Answer> {
        if !fds.is_empty() {
            let file = message.fields.path(tag::NAMES).ok_or_else(invalid)?;
            let sockets = <[OwnedFd; 2]>::try_from(fds).map_err(|_| invalid())?;
            self.serve_names(file, sockets)?;
        }
        let (mut answer, fds) = ok(message.id);
        answer.flag(tag::NAMES, self.names.is_some());
        Ok((answer, fds))
    }

    fn handle_root(&self, id: u32) -> io::Result<Answer> {
        let first = self.first().ok_or_else(not_running)?;
        if !matches!(first.life, Life::Running) {
            return Err(not_running());
        }
        // our child and not yet reaped, so the pid is still its own
        let root = rustix::fs::open(
            format!("/proc/{}/root", first.pid),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok((Writer::message(kind::OK, id), vec![root]))
    }

    /// To one connection. One that does not take it is closed: its owner then asks again.
    pub(super) fn send(&mut self, at: u32, message: &Writer, fds: &[BorrowedFd<'_>]) -> bool {
        let Some(connection) = self.connections.get(at) else {
            return false;
        };
        let sent = sys::fdpass::send(connection.as_fd(), message.as_bytes(), fds).is_ok();
        if !sent {
            self.disconnect(at);
        }
        sent
    }

    /// To all; whether anybody heard it.
    pub(super) fn tell(&mut self, event: &Writer) -> bool {
        let all: Vec<u32> = self.connections.iter().map(|(at, _)| at).collect();
        all.into_iter()
            .map(|at| self.send(at, event, &[]))
            .fold(false, |heard, sent| heard | sent)
    }
}

/// The event of the container's end.
pub(super) fn exited(record: &crate::ExitRecord) -> Writer {
    let mut w = Writer::message(kind::EXITED, 0);
    // a record of numbers and short strings always serializes
    w.bytes(tag::RECORD, &serde_json::to_vec(record).unwrap_or_default());
    w
}

fn ok(id: u32) -> Answer {
    (Writer::message(kind::OK, id), Vec::new())
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}
