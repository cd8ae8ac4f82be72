//! Clients that attach before there is anything to attach to.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Attachment;
use super::actor::Actor;
use crate::error::Error;
use crate::model::ErrorKind;
use crate::views::AttachOptions;

/// More clients than anybody has before a start.
const MOST_KEPT: usize = 64;

impl Actor {
    /// One end for the client, the other for the shim, which gets it with the launch: no byte of
    /// output is lost.
    pub(super) fn keep(&mut self, options: &AttachOptions) -> Result<Attachment, Error> {
        self.kept.retain(|(_, fd)| !hung_up(fd));
        if self.kept.len() >= MOST_KEPT {
            return Err(Error::conflict(format!(
                "{MOST_KEPT} clients are attached to container {} already and it is not started",
                self.record.name
            )));
        }
        let (ours, shims) = StdStream::pair()
            .map_err(|e| Error::caused(ErrorKind::Internal, "make a socket pair", e))?;
        ours.set_nonblocking(true)
            .map_err(|e| Error::caused(ErrorKind::Internal, "prepare a socket", e))?;
        let options = shim::AttachOptions {
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            ..shim::AttachOptions::default()
        };
        self.kept.push((options, shims.into()));
        Ok(Attachment::Kept(ours))
    }
}

fn hung_up(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}
