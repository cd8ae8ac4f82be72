//! Running one of the system's setuid helpers (newuidmap, newgidmap): the only programs ever
//! executed beside a container's own, because only they may map ids that aren't the caller's.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::process::CStrArray;

/// Executes `path` with an empty environment and waits for its end. What it has to say goes to our
/// stderr.
///
/// # Errors
/// `ENOENT` when it isn't there, `EPERM` when it refuses, `ETIMEDOUT` when it doesn't end.
pub fn run(path: &CStr, argv: &[&CStr], deadline: Duration) -> io::Result<()> {
    const NOT_FOUND: i32 = 127;
    let argv: CStrArray<'_> = argv.iter().copied().collect();
    let envp: CStrArray<'_> = std::iter::empty().collect();
    let child = crate::clone::clone3(0, None, || {
        crate::process::reset_signals();
        // stdout and stdin may be the container's
        let _closed_is_fine = crate::process::cloexec_from(3);
        let e = crate::process::execve(path, &argv, &envp);
        let missing = e.raw_os_error() == Some(libc::ENOENT);
        crate::process::exit(if missing { NOT_FOUND } else { 126 })
    })?;
    let timeout = Timespec::try_from(deadline).map_err(|_| io::ErrorKind::InvalidInput)?;
    let ended = poll(
        &mut [PollFd::new(&child.pidfd, PollFlags::IN)],
        Some(&timeout),
    )? > 0;
    if !ended {
        let _ended_meanwhile = pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    let code = status.and_then(|s| s.exit_status());
    match (ended, code) {
        (false, _) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        (true, Some(0)) => Ok(()),
        (true, Some(NOT_FOUND)) => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        (true, _) => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_apart() {
        let run = |path: &CStr, args: &[&CStr]| {
            let e = run(path, args, Duration::from_millis(300));
            e.err().and_then(|e| e.raw_os_error())
        };
        assert_eq!(run(c"/bin/true", &[c"true"]), None);
        assert_eq!(run(c"/bin/false", &[c"false"]), Some(libc::EPERM));
        assert_eq!(run(c"/no/such", &[c"such"]), Some(libc::ENOENT));
        assert_eq!(run(c"/bin/sleep", &[c"sleep", c"9"]), Some(libc::ETIMEDOUT));
    }
}
