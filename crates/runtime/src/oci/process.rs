//! A process by its pid and start time, so that a number used again is not taken for it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

/// source: proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// In clock ticks since the boot.
    pub(super) started: u64,
}

impl Identity {
    /// Of a process that is there now, a zombie included.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        Ok(stat(pid)?.0)
    }

    /// Still there and not a zombie.
    pub(super) fn is_alive(self) -> bool {
        matches!(stat(self.pid), Ok((now, state)) if now == self && !matches!(state, b'Z' | b'X'))
    }

    /// A descriptor of exactly this process.
    pub(super) fn open(self) -> io::Result<OwnedFd> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let pid = rustix::process::Pid::from_raw(self.pid).ok_or_else(gone)?;
        let flags = rustix::process::PidfdFlags::empty();
        let fd = rustix::process::pidfd_open(pid, flags)?;
        // looked at after the descriptor was made: what is alive now is what it stands for
        if self.is_alive() { Ok(fd) } else { Err(gone()) }
    }

    pub(super) fn to_line(self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    /// `None`: cut short by a crash.
    pub(super) fn from_line(text: &str) -> Option<Self> {
        let (pid, started) = text.strip_suffix('\n')?.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }
}

fn stat(pid: i32) -> io::Result<(Identity, u8)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(pid, &text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The name, in parentheses, may itself contain any byte.
fn parse(pid: i32, text: &str) -> Option<(Identity, u8)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((Identity { pid, started }, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let line = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 999 1\n";
        let (id, state) = parse(7, line).unwrap();
        assert_eq!((id.started, state), (4711, b'S'));
        assert_eq!(Identity::from_line(&id.to_line()), Some(id));
        assert_eq!(Identity::from_line("7 47"), None);
    }

    #[test]
    fn this_process_is_alive() {
        let me = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive());
        let before = Identity {
            started: me.started - 1,
            ..me
        };
        assert!(!before.is_alive());
        assert!(before.open().is_err());
    }
}
