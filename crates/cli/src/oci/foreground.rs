//! A program that somebody waits for: its end, signals on the way to it, its terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime::oci::Running;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

use super::Failure;
use crate::term::{self, RawMode};

/// All signals are blocked from here on and taken from a queue.
#[derive(Debug)]
pub(super) struct Signals(());

pub(super) fn take_signals() -> Signals {
    sys::process::block_signals();
    Signals(())
}

/// Waits for the program's end; the exit code as a shell has it.
pub(super) fn attend(running: Running, _signals: Signals) -> Result<u8, Failure> {
    match running.terminal {
        Some(master) => relay(running.pidfd.as_fd(), &master),
        None => wait(running.pidfd.as_fd()),
    }
}

fn wait(pidfd: BorrowedFd<'_>) -> Result<u8, Failure> {
    loop {
        if let Some(code) = ended(pidfd)? {
            return Ok(code);
        }
        forward(pidfd, sys::process::next_signal());
    }
}

/// A program that is gone has no need of it: its end is the next news.
fn forward(pidfd: BorrowedFd<'_>, signal: i32) {
    // SIGURG is no news for anybody: runtimes written in Go send it to themselves
    if !matches!(signal, libc::SIGCHLD | libc::SIGURG) {
        let _gone = sys::signal::send_to(pidfd, signal);
    }
}

fn ended(pidfd: BorrowedFd<'_>) -> Result<Option<u8>, Failure> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd), options).map_err(io::Error::from)?;
    let Some(status) = status else {
        return Ok(None);
    };
    let code = status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0));
    Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Between the user's terminal and the program's.
fn relay(pidfd: BorrowedFd<'_>, master: &OwnedFd) -> Result<u8, Failure> {
    let raw = term::stdin_is_terminal().then(RawMode::enter).transpose()?;
    resize(master);
    let all: Vec<i32> = (1..=64)
        .filter(|s| !matches!(*s, libc::SIGKILL | libc::SIGSTOP | 32 | 33))
        .collect();
    let signals = sys::signal::signalfd(&all)?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let mut typing = true;
    let mut showing = true;
    loop {
        let mut ready = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(
                master,
                if showing {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                },
            ),
            PollFd::new(
                &stdin,
                if typing {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                },
            ),
        ];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(io::Error::from)?,
        };
        let said = ready.each_ref().map(PollFd::revents);
        if showing && !said[1].is_empty() {
            showing = copy(master.as_fd(), stdout.as_fd());
        }
        if typing && !said[2].is_empty() {
            typing = copy(stdin.as_fd(), master.as_fd());
            if !typing {
                // end of file, as a terminal says it
                let _gone = write_all(master.as_fd(), &[4]);
            }
        }
        if !said[0].is_empty() {
            news(&signals, pidfd, master);
        }
        if let Some(code) = ended(pidfd)? {
            drain(master, stdout.as_fd());
            drop(raw);
            return Ok(code);
        }
        if !showing && said[0].is_empty() {
            // the terminal's other side is closed: only the end is left to wait for
            forward(pidfd, sys::process::next_signal());
        }
    }
}

fn news(signals: &OwnedFd, pidfd: BorrowedFd<'_>, master: &OwnedFd) {
    while let Some(signal) = sys::signal::next(signals) {
        if signal == libc::SIGWINCH {
            resize(master);
        } else {
            forward(pidfd, signal);
        }
    }
}

/// No terminal of ours: the program's keeps the size it has.
fn resize(master: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(io::stdin()) {
        let _gone = tcsetwinsize(master, size);
    }
}

/// What is there now; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buf = [0; 8192];
    match rustix::io::read(from, &mut buf) {
        // EIO: nobody has the terminal open
        Ok(0) | Err(_) => false,
        Ok(n) => write_all(to, &buf[..n]).is_ok(),
    }
}

/// What the program wrote before its end.
fn drain(master: &OwnedFd, to: BorrowedFd<'_>) {
    let now = rustix::event::Timespec::default();
    loop {
        let mut ready = [PollFd::new(master, PollFlags::IN)];
        let readable = poll(&mut ready, Some(&now)).is_ok_and(|n| n > 0);
        if !readable || !copy(master.as_fd(), to) {
            return;
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut ready = [PollFd::new(&to, PollFlags::OUT)];
                poll(&mut ready, None)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
