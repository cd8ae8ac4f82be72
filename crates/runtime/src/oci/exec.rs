//! `exec`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use host::{CgroupFacts, CgroupMode, Facts};
use oci_spec::runtime::{ContainerState, Process, Spec};
use rustix::process::WaitIdStatus;

use super::create::{
    asked, check_console, check_preserved, choices, decoded, failed, give_home, labels, stdio,
};
use super::state::for_agent;
use super::{Container, OciError, Running, Runtime, Status, console};
use crate::cgroup::Cgroup;
use crate::{Descriptors, ExecInput, Plan, SeccompChoice, Stages};

/// A cgroup below the container's: of one controller, or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubCgroup {
    pub controller: Option<String>,
    pub path: PathBuf,
}

/// What `exec` is asked for.
#[derive(Debug)]
pub struct Exec<'a> {
    pub process: &'a Process,
    pub pid_file: Option<&'a Path>,
    pub console_socket: Option<&'a Path>,
    pub pidfd_socket: Option<&'a Path>,
    pub preserve_fds: u32,
    pub cgroups: &'a [SubCgroup],
    pub ignore_paused: bool,
    pub detach: bool,
}

/// The exit code of an ended process; 128 and the signal's number for a killed one.
pub(super) fn code(status: &WaitIdStatus) -> i32 {
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0))
}

/// What planning needs to know of cgroups that are there already.
fn no_cgroup_facts() -> CgroupFacts {
    CgroupFacts {
        mode: CgroupMode::None,
        hierarchies: Vec::new(),
        files: std::collections::BTreeSet::new(),
        clone_into_cgroup: true,
        kill: true,
        swap_accounting: false,
        pids: false,
        cpu_quota: false,
        systemd: false,
    }
}

fn planned(
    container: &Container,
    spec: &Spec,
    process: &Process,
    cgroup: Option<&Cgroup>,
    wanted: &Exec<'_>,
) -> Result<Plan, OciError> {
    let facts = Facts::brief(no_cgroup_facts(), labels(Some(process)));
    let stages = Stages {
        preserve: wanted.preserve_fds,
        ..Stages::default()
    };
    let running = ContainerState::Running;
    let pid = container.init.map(|i| i.pid);
    let record = &container.record;
    let told = for_agent(spec, container.id(), record, running, pid);
    let input = ExecInput {
        container: spec,
        process,
        facts: &facts,
        cgroup,
        seccomp: SeccompChoice::Spec,
        asked: asked(Some(process)),
        die_with_parent: false,
        choices: choices(record, told),
    };
    Ok(crate::plan_exec_staged(&input, &stages)?)
}

impl Runtime {
    /// Runs a further process in a container.
    ///
    /// # Errors
    /// When the container has stopped or is paused, or the program can't be executed.
    pub fn exec(&self, container: &Container, wanted: &Exec<'_>) -> Result<Running, OciError> {
        check_preserved(wanted.preserve_fds)?;
        check_console(Some(wanted.process), wanted.detach, wanted.console_socket)?;
        let target = container.pidfd().ok_or(OciError::ExecStopped)?;
        let frozen = container
            .cgroup()
            .is_some_and(crate::cgroup::Cgroup::is_frozen);
        if frozen && !wanted.ignore_paused {
            return Err(OciError::ExecPaused);
        }
        if container.status() == Status::Creating {
            return Err(OciError::ExecStopped);
        }
        let socket = wanted.console_socket.map(console::open).transpose()?;
        let pidfd_socket = wanted.pidfd_socket.map(console::open).transpose()?;
        let mut cgroup = container.cgroup().cloned();
        for sub in wanted.cgroups {
            cgroup = cgroup.map(|c| c.below(sub.controller.as_deref(), &sub.path));
        }
        let spec = container.spec()?;
        let mut process = wanted.process.clone();
        if let Some(init) = container.init {
            give_home(
                &mut process,
                &PathBuf::from(format!("/proc/{}/root", init.pid)),
            );
        }
        let plan = planned(container, &spec, &process, cgroup.as_ref(), wanted)?;
        plan.warnings().iter().for_each(|w| self.warn(w.as_str()));
        let encoded = decoded(&plan)?;
        let fds = Descriptors {
            root: None,
            stdio: stdio(),
            target: Some(target.as_fd()),
            passed: &[],
        };
        let spawned = crate::spawn(&encoded, &fds).map_err(|e| failed(&plan, e))?;
        let mut running = Running {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            terminal: spawned.terminal,
        };
        if let Err(e) = tell(wanted, &mut running, socket.as_ref(), pidfd_socket.as_ref()) {
            // nobody would know of it
            let _just_ended = sys::signal::send_to(&running.pidfd, libc::SIGKILL);
            return Err(e);
        }
        Ok(running)
    }
}

fn tell(
    wanted: &Exec<'_>,
    running: &mut Running,
    socket: Option<&std::os::fd::OwnedFd>,
    pidfd_socket: Option<&std::os::fd::OwnedFd>,
) -> Result<(), OciError> {
    let io = super::error::io;
    if let (Some(socket), Some(master)) = (socket, running.terminal.as_ref()) {
        let path = wanted.console_socket.unwrap_or(Path::new(""));
        console::send(socket.as_fd(), master).map_err(io("send the terminal to", path))?;
        running.terminal = None;
    }
    if let Some(socket) = pidfd_socket {
        let path = wanted.pidfd_socket.unwrap_or(Path::new(""));
        sys::fdpass::send(socket.as_fd(), b"pidfd", &[running.pidfd.as_fd()])
            .map_err(io("send the pidfd to", path))?;
    }
    match wanted.pid_file {
        Some(path) => console::write_pid_file(path, running.pid),
        None => Ok(()),
    }
}
