//! What the child can't do itself and asks the parent for, over the channel; and the sibling in
//! which it may go on.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::{
    Child, Failed, SAY_DEVICES, SAY_DONE, SAY_LISTENER, SAY_MAPPED, SAY_MAPS, SAY_REBORN, Step,
};
use crate::Detail;

impl Child<'_> {
    /// Says something and waits for its answer: done, or an errno.
    fn ask(&self, say: u8, fds: &[BorrowedFd<'_>]) -> Step {
        sys::fdpass::send(self.channel, &[say], fds)?;
        self.answer()
    }

    fn answer(&self) -> Step {
        let mut said = [0; 5];
        let got = sys::fdpass::recv(self.channel, &mut said, false)?;
        match (got.len, said) {
            (1, [SAY_MAPPED | SAY_DONE, ..]) => Ok(()),
            (5, [_, errno @ ..]) => Err(Failed {
                errno: i32::from_le_bytes(errno),
                detail: Detail::Parent,
            }),
            _ => Err(Errno::PIPE.into()),
        }
    }

    /// The parent writes the maps of the user namespace this process was born in.
    pub(super) fn await_maps(&self, groups: bool) -> Step {
        self.answer()?;
        become_root(groups)
    }

    pub(super) fn request_maps(&self) -> Step {
        self.ask(SAY_MAPS, &[])
    }

    pub(super) fn request_devices(&self) -> Step {
        let path = c"/proc/thread-self/ns/net";
        let here = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        super::genuine_namespace(here.as_fd())?;
        self.ask(SAY_DEVICES, &[here.as_fd()])
    }

    /// The listener goes to the parent, which knows the agent; nothing is waited for, since from
    /// here on a call may need the agent's word.
    pub(super) fn seccomp_agent(&self, program: &[u8], flags: u32) -> Step {
        let listener = sys::seccomp::install_with_listener(program, flags)?;
        sys::fdpass::send(self.listener(), &[SAY_LISTENER], &[listener.as_fd()])?;
        Ok(())
    }

    /// Goes on as a sibling in new namespaces, whose first process it is; this process says who
    /// that is and ends. The channel is the sibling's from then on.
    pub(super) fn rebirth(&self, flags: u64) -> Step {
        let (ready, begin) = sys::fdpass::pair()?;
        let flags = flags | libc::CLONE_PARENT as u64;
        let channel = self.channel;
        match sys::clone::clone3_both(flags)? {
            None => {
                drop(begin);
                // not before the parent knows whom it hears
                let mut said = [0];
                let got = sys::fdpass::recv(ready.as_fd(), &mut said, false)?;
                if got.len == 1 {
                    return Ok(());
                }
                sys::process::exit(127)
            }
            Some(sibling) => {
                let mut said = [SAY_REBORN; 5];
                said[1..].copy_from_slice(&sibling.pid.to_le_bytes());
                let told = sys::fdpass::send(channel, &said, &[sibling.pidfd.as_fd()])
                    .and_then(|_| sys::fdpass::send(begin.as_fd(), &[SAY_DONE], &[]));
                let code = if told.is_ok() { 0 } else { 127 };
                sys::process::exit(code)
            }
        }
    }
}

pub(super) fn become_root(groups: bool) -> Step {
    sys::process::setgid(0)?;
    sys::process::setuid(0)?;
    if groups {
        sys::process::setgroups(&[])?;
    }
    super::not_dumpable();
    Ok(())
}
