//! Bytes from the processes to the log and the clients, and back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::Server;
use super::poller::Token;
use super::process::{FIRST, Life, Process};
use crate::jsonlog::LogWriter;
use crate::jsonlog::encode::Time;

/// Reads per event and output, so that one busy output cannot starve the rest.
const READS: usize = 8;

/// How long an ended exec's clients may take nothing: nobody waits for them, so long.
const EXEC_LINGER: Duration = Duration::from_secs(3600);

impl Server {
    /// Reads an output and passes it on.
    pub(super) fn pump(&mut self, at: u32, which: u8) {
        for _ in 0..READS {
            let Some(process) = self.processes.get_mut(at) else {
                return;
            };
            let ended = process.ended();
            let Some(source) = process.sources[usize::from(which)].as_mut() else {
                return;
            };
            if source.paused {
                return;
            }
            self.scratch.clear();
            match rustix::io::read(&source.fd, spare_capacity(&mut self.scratch)) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                // a terminal without its other side is EIO
                Ok(0) | Err(_) => {
                    self.close_source(at, which);
                    break;
                }
                Ok(_) => {}
            }
            let stream = source.stream;
            if let Some(checks) = self.health.as_mut() {
                checks.heard(at, &self.scratch);
            }
            if let (Some(splitter), Some(log)) = (source.splitter.as_mut(), self.log.as_mut()) {
                splitter.feed(&self.scratch, Time::now(), |s, text, whole, time| {
                    log.push(s, text, whole, time);
                });
            }
            let mut gone = Vec::new();
            let mut waiting = Vec::new();
            let mut full = false;
            for (number, client) in self.clients.iter_mut() {
                if client.process != at {
                    continue;
                }
                let before = client.pending();
                if client.output(stream, &self.scratch).is_err() {
                    gone.push(number);
                    continue;
                }
                full |= client.is_full();
                if before == 0 && client.pending() > 0 {
                    waiting.push(number);
                }
            }
            for number in waiting {
                self.interest(number);
            }
            for number in gone {
                self.drop_client(number);
            }
            if full && !ended {
                self.pause(at);
                break;
            }
        }
        if let Some(log) = self.log.as_mut() {
            log.flush();
        }
    }

    fn pause(&mut self, at: u32) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        for (which, source) in (0..).zip(process.sources.iter_mut()) {
            if let Some(source) = source {
                source.paused = true;
                let token = Token::Source(at, which);
                self.poller.set(fd(&source.fd), token, EventFlags::empty());
            }
        }
    }

    /// Reads the outputs of a process again, if no client holds them back any more.
    pub(super) fn resume_sources(&mut self, at: u32) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        let ended = process.ended();
        let held = self
            .clients
            .iter()
            .any(|(_, c)| c.process == at && c.holds());
        if held && !ended {
            return;
        }
        for (which, source) in (0..).zip(process.sources.iter_mut()) {
            if let Some(source) = source.as_mut().filter(|s| s.paused) {
                source.paused = false;
                let token = Token::Source(at, which);
                self.poller.set(fd(&source.fd), token, EventFlags::IN);
            }
        }
    }

    /// The end of an output, or of our patience with it.
    pub(super) fn close_source(&mut self, at: u32, which: u8) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        let Some(mut source) = process.sources[usize::from(which)].take() else {
            return;
        };
        self.poller.remove(&source.fd);
        if let (Some(splitter), Some(log)) = (source.splitter.as_mut(), self.log.as_mut()) {
            splitter.finish(Time::now(), |s, text, whole, time| {
                log.push(s, text, whole, time);
            });
        }
        self.log.iter_mut().for_each(LogWriter::flush);
        if !process.outputs_open() {
            process.drained_by = None;
        }
    }

    /// The standard input takes more.
    pub(super) fn feed(&mut self, at: u32) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        let Some(sink) = process.sink.as_mut() else {
            return;
        };
        if sink.flush() {
            let waits = !sink.queue.is_empty();
            let flags = if waits {
                EventFlags::OUT
            } else {
                EventFlags::empty()
            };
            self.poller.set(fd(&sink.fd), Token::Sink(at), flags);
        } else {
            self.close_sink(at);
        }
        self.refresh_clients(at);
    }

    /// As [`Server::feed`], and takes what clients have to say to it.
    pub(super) fn sink_ready(&mut self, at: u32) {
        self.feed(at);
        let of: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, c)| c.process == at && c.stdin)
            .map(|(at, _)| at)
            .collect();
        for at in of {
            self.take_input(at);
        }
    }

    fn close_sink(&mut self, at: u32) {
        if let Some(sink) = self.processes.get_mut(at).and_then(|p| p.sink.take()) {
            self.poller.remove(&sink.fd);
        }
    }

    /// The input of the process ends when what is queued has been taken. A terminal's never does.
    fn end_input(&mut self, at: u32) {
        if let Some(process) = self.processes.get_mut(at)
            && process.stdin_once
            && !process.tty
            && let Some(sink) = process.sink.as_mut()
        {
            sink.ending = true;
            self.feed(at);
        }
    }

    pub(super) fn client_ready(&mut self, at: u32, flags: EventFlags) {
        let Some(client) = self.clients.get_mut(at) else {
            return;
        };
        let process = client.process;
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            client.hang_up();
            self.poller.remove(&client.fd);
        } else if flags.contains(EventFlags::OUT) {
            if client.flush().is_err() {
                self.drop_client(at);
                return;
            }
            if client.closing && client.pending() == 0 {
                self.drop_client(at);
                return;
            }
            self.interest(at);
            self.resume_sources(process);
        }
        self.take_input(at);
    }

    /// Passes a client's input on, as much as there is room for.
    fn take_input(&mut self, at: u32) {
        loop {
            let Some(client) = self.clients.get_mut(at) else {
                return;
            };
            let process = client.process;
            let starting = self.processes.get(process).is_some_and(is_starting);
            let sink = self
                .processes
                .get_mut(process)
                .and_then(|p| p.sink.as_mut());
            if !client.stdin {
                break;
            }
            let Some(sink) = sink else {
                // its terminal is yet to come, or its input has ended and nobody will read this
                client.stdin = starting;
                break;
            };
            if !sink.has_room() {
                break;
            }
            self.scratch.clear();
            match rustix::io::read(&client.fd, spare_capacity(&mut self.scratch)) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(0) | Err(_) => {
                    client.stdin = false;
                    // its end is said by half a close; a connection that is gone altogether is
                    // that of an engine that died, and the next one goes on with the input. To an
                    // exec'd process nobody comes back
                    let lost = client.hung_up();
                    let exec = self
                        .processes
                        .get(process)
                        .is_some_and(|p| p.exec_id.is_some());
                    if !lost || exec {
                        self.end_input(process);
                    }
                    break;
                }
                Ok(_) => {
                    sink.queue.extend_from_slice(&self.scratch);
                    self.feed(process);
                }
            }
        }
        self.interest(at);
        let hung_up = |c: &super::Client| c.hung_up() && !c.stdin;
        if self.clients.get(at).is_some_and(hung_up) {
            self.drop_client(at);
        }
    }

    /// What has become possible for the clients of a process by a change of its input.
    pub(super) fn refresh_clients(&mut self, process: u32) {
        let of: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, c)| c.process == process)
            .map(|(at, _)| at)
            .collect();
        for at in of {
            self.interest(at);
        }
    }

    /// Says to epoll what we wait for from a client.
    pub(super) fn interest(&self, at: u32) {
        let Some(client) = self.clients.get(at) else {
            return;
        };
        let has_room = self
            .processes
            .get(client.process)
            .and_then(|p| p.sink.as_ref())
            .is_some_and(super::process::Sink::has_room);
        let mut flags = EventFlags::empty();
        if client.stdin && has_room {
            flags |= EventFlags::IN;
        }
        if client.pending() > 0 || client.closing {
            flags |= EventFlags::OUT;
        }
        self.poller.set(fd(&client.fd), Token::Client(at), flags);
    }

    pub(super) fn drop_client(&mut self, at: u32) {
        let Some(client) = self.clients.remove(at) else {
            return;
        };
        self.poller.remove(&client.fd);
        let process = client.process;
        if client.stdin {
            self.end_input(process);
        }
        let alone = !self.clients.iter().any(|(_, c)| c.process == process);
        if alone
            && let Some(p) = self.processes.get(process)
            && p.kill_on_disconnect
        {
            kill_tree(p);
        }
        self.resume_sources(process);
    }

    pub(super) fn drop_clients_of(&mut self, process: u32) {
        let of: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, c)| c.process == process)
            .map(|(at, _)| at)
            .collect();
        for at in of {
            self.clients.remove(at);
        }
    }

    /// No more output comes: the clients get what is queued and then the end.
    pub(super) fn close_clients_of(&mut self, process: u32) {
        let linger = if process == FIRST {
            super::exit::LINGER
        } else {
            EXEC_LINGER
        };
        let mut done = Vec::new();
        for (at, client) in self.clients.iter_mut() {
            if client.process != process {
                continue;
            }
            client.stdin = false;
            client.close(linger);
            if client.pending() == 0 {
                done.push(at);
            }
        }
        for at in done {
            self.clients.remove(at);
        }
        self.refresh_clients(process);
    }
}

fn fd(fd: &OwnedFd) -> BorrowedFd<'_> {
    fd.as_fd()
}

fn is_starting(process: &Process) -> bool {
    matches!(process.life, Life::Starting(_))
}

/// Kills a process and those of its process group.
fn kill_tree(process: &Process) {
    if !matches!(process.life, Life::Running) {
        return;
    }
    if let Some(pid) = Pid::from_raw(process.pid)
        && rustix::process::getpgid(Some(pid)) == Ok(pid)
    {
        // not reaped yet, so the number is still its own
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    if let Some(pidfd) = &process.pidfd {
        let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    }
}
