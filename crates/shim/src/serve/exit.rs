//! The end of processes, of the container, and of the shim.
//!
//! Reap, kill what is left in the cgroup, drain the output (bounded), write the record, tell, end
//! the clients, remove the cgroups, unlink the socket, leave.

use std::time::{Duration, Instant};

use super::control::exited;
use super::process::{FIRST, Life};
use super::state::remove_run_dir;
use super::{Ending, REMEMBERED, Server};
use crate::jsonlog::LogWriter;
use crate::jsonlog::encode::Time;
use crate::launch::{ExecStatus, Phase};
use crate::record::{ExitRecord, write_exit};
use crate::wire::{Writer, kind, tag};

/// After a process's end its output may still be held open by a process it started. The
/// container's are killed, so there this is for what does not die; an exec's live on.
const FIRST_DRAIN: Duration = Duration::from_secs(2);
const EXEC_DRAIN: Duration = Duration::from_millis(500);

/// How long attached clients may take nothing of what is queued once the container has ended.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// A record that cannot be written (a full disk) is tried again; as long as nobody has been told
/// without end, and then this many times.
const RECORD_TRIES: u32 = 10;
const RECORD_RETRY: Duration = Duration::from_secs(1);

const CGROUP_REMOVAL: Duration = Duration::from_secs(5);

impl Server {
    /// A process of ours was reaped.
    pub(super) fn ended(&mut self, at: u32, life: Life) {
        let Life::Ended { code, signal } = life else {
            return;
        };
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        process.life = life;
        let drain = if at == FIRST { FIRST_DRAIN } else { EXEC_DRAIN };
        if process.outputs_open() {
            process.drained_by = Some(Instant::now() + drain);
        }
        process.sink = None;
        self.resume_sources(at);
        self.check_ended(at);
        if at == FIRST {
            self.notice_oom();
            if let Some(cgroup) = &self.cgroup {
                // nothing that is left may keep the output open or the cgroup busy
                drop(cgroup.kill_all());
            }
            self.ending = Some(Ending {
                record: ExitRecord {
                    code,
                    signal,
                    oom_killed: self.oom_killed,
                    started_at: self.state.started_at.clone(),
                    finished_at: Time::now().rfc3339(),
                    pid: self.state.pid,
                    start_time: self.state.pid_start_time,
                    shim_died: false,
                    log_lines_dropped: 0,
                },
                durable: false,
                tries: 0,
                try_again: None,
            });
        }
    }

    /// Ended execs whose output is drained are told and forgotten.
    pub(super) fn conclude_execs(&mut self) {
        let done: Vec<u32> = self
            .processes
            .iter()
            .filter(|(at, p)| *at != FIRST && p.ended() && !p.outputs_open())
            .map(|(at, _)| at)
            .collect();
        for at in done {
            // told before the streams end: who sees their end can ask for the code
            self.exec_is_over(at);
            self.close_clients_of(at);
        }
    }

    fn exec_is_over(&mut self, at: u32) {
        if self.check_over(at) {
            return;
        }
        let Some(process) = self.processes.remove(at) else {
            return;
        };
        let code = match process.life {
            Life::Ended { code, .. } => code,
            // the container ended and it with it
            _ => 128 + libc::SIGKILL,
        };
        let exec_id = process.exec_id.unwrap_or_default();
        let mut event = Writer::message(kind::EXEC_EXITED, 0);
        event.str(tag::EXEC_ID, &exec_id).i32(tag::CODE, code);
        self.ended_execs.push_back(ExecStatus {
            exec_id,
            pid: process.pid,
            code: Some(code),
        });
        if self.ended_execs.len() > REMEMBERED {
            self.ended_execs.pop_front();
        }
        self.tell(&event);
    }

    /// The container has ended and its output is drained: record, tell, clean up.
    pub(super) fn conclude(&mut self) {
        let Some(ending) = self.ending.as_ref() else {
            return;
        };
        let open = self.first().is_some_and(super::Process::outputs_open);
        let waiting = ending.try_again.is_some_and(|at| at > Instant::now());
        if open || ending.durable || waiting {
            return;
        }
        if self.phase != Phase::Exited {
            let others: Vec<u32> = self.processes.iter().map(|(at, _)| at).collect();
            for at in others.into_iter().filter(|at| *at != FIRST) {
                self.exec_is_over(at);
                self.close_clients_of(at);
            }
        }
        if let Some(log) = self.log.as_mut() {
            log.flush();
        }
        let dropped = self.log.as_ref().map_or(0, LogWriter::dropped);
        let Some(ending) = self.ending.as_mut() else {
            return;
        };
        ending.record.log_lines_dropped = dropped;
        let dir = &self.launch.container_dir;
        ending.durable = write_exit(dir, &ending.record, self.launch.ephemeral).is_ok();
        ending.tries += 1;
        ending.try_again = (!ending.durable).then(|| Instant::now() + RECORD_RETRY);
        if self.phase != Phase::Exited {
            self.phase = Phase::Exited;
            let event = exited(&ending.record);
            self.tell(&event);
            self.close_clients_of(FIRST);
            self.remove_cgroup();
        }
    }

    fn remove_cgroup(&mut self) {
        if let Some(cgroup) = &self.cgroup
            && cgroup.remove(CGROUP_REMOVAL).is_ok()
        {
            self.cgroup = None;
        }
    }

    pub(super) fn may_leave(&self) -> bool {
        let Some(ending) = &self.ending else {
            return false;
        };
        let told = !self.connections.is_empty();
        let given_up = told && ending.tries >= RECORD_TRIES;
        self.phase == Phase::Exited && self.clients.is_empty() && (ending.durable || given_up)
    }

    pub(super) fn leave(mut self) -> i32 {
        // what cannot be removed now either is found as a stray at the daemon's next start
        self.remove_cgroup();
        drop(self.root.take());
        // a directory that is left is found by the next adoption
        drop(remove_run_dir(&self.launch.run_dir, self.state.shim_pid));
        0
    }
}
