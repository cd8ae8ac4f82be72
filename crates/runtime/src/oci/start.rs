//! `start`.

use std::os::fd::AsFd;

use host::Facts;
use oci_spec::runtime::{ContainerState, Spec};

use super::container::SOCKET;
use super::create::{decoded, failed, labels, plan_of};
use super::hooks::{self, Kind};
use super::state::{for_agent, has_agent};
use super::{Container, OciError, Runtime, Status};
use crate::{Plan, Stages, StepError};

impl Runtime {
    /// Runs the program of a container that was created.
    ///
    /// # Errors
    /// When it isn't waiting for that, or the program can't be executed; then the container has
    /// stopped.
    pub fn start(&self, id: &str) -> Result<(), OciError> {
        let container = self.container(id)?;
        match container.status() {
            Status::Created => {}
            Status::Stopped => return Err(OciError::CannotStartStopped),
            Status::Creating | Status::Running | Status::Paused => {
                return Err(OciError::AlreadyRunning);
            }
        }
        // another `start` may have been faster: then nobody listens any more
        let connection = container.connect().map_err(|_| OciError::AlreadyRunning)?;
        let spec = container.spec()?;
        if hooks::any(Kind::StartContainer, &spec) {
            let pidfd = container.pidfd().ok_or(OciError::CannotStartStopped)?;
            let facts = Facts::brief(Self::cgroup_facts()?, labels(spec.process().as_ref()));
            if let Err(e) = hooks::in_container(&container, &spec, &facts, pidfd.as_fd()) {
                // a container that was not prepared must not stay to be started
                container.kill_processes()?;
                return Err(e);
            }
        }
        sys::fault::point("oci.start")
            .map_err(super::error::io("start", &container.directory.path))?;
        let agent = Self::agent(&container, &spec)?;
        let agent = match &agent {
            Some((plan, pid)) => Some((decoded(plan)?, *pid)),
            None => None,
        };
        let started = crate::start(connection.as_fd(), agent);
        if started.is_err() && agent.is_some() {
            // its calls would wait for an agent that doesn't know of them
            container.kill_processes()?;
        }
        let removed = container.directory.remove_file(SOCKET);
        started.map_err(|e| Self::explain(&container, &spec, e))?;
        removed?;
        self.after_start(&container, &spec);
        Ok(())
    }

    /// The plan that the container was made by.
    fn plan_again(container: &Container, spec: &Spec) -> Result<Plan, OciError> {
        let facts = Facts::brief(Self::cgroup_facts()?, labels(spec.process().as_ref()));
        let record = &container.record;
        let stages = Stages {
            hooks: hooks::before_pivot(spec).then_some(record.rootfs.as_path()),
            ready: true,
            start: Some(0),
            ..Stages::default()
        };
        let (created, pid) = (ContainerState::Created, container.init.map(|i| i.pid));
        let told = for_agent(spec, container.id(), record, created, pid);
        plan_of(spec, &facts, record, &stages, told)
    }

    /// Of a container whose seccomp agent is still to be told: `start` does it, the process that
    /// made the container is gone.
    fn agent(container: &Container, spec: &Spec) -> Result<Option<(Plan, i32)>, OciError> {
        match container.init.filter(|_| has_agent(spec)) {
            Some(init) => Ok(Some((Self::plan_again(container, spec)?, init.pid))),
            None => Ok(None),
        }
    }

    /// The plan's own words: the steps are numbered the same each time.
    fn explain(container: &Container, spec: &Spec, error: StepError) -> OciError {
        match Self::plan_again(container, spec) {
            Ok(plan) => failed(&plan, error),
            Err(_) => OciError::Start {
                words: error.to_string(),
                error,
            },
        }
    }

    /// poststart: a failure is told and changes nothing.
    pub(super) fn after_start(&self, container: &Container, spec: &Spec) {
        if hooks::any(Kind::Poststart, spec) {
            let state = container.brief(Status::Running);
            self.tolerate(hooks::run_each(Kind::Poststart, spec, &state));
        }
    }

    /// poststop: likewise.
    pub(super) fn after_stop(&self, container: &Container, spec: &Spec) {
        if hooks::any(Kind::Poststop, spec) {
            let state = container.brief(Status::Stopped);
            self.tolerate(hooks::run_each(Kind::Poststop, spec, &state));
        }
    }

    fn tolerate(&self, result: Result<(), OciError>) {
        if let Err(e) = result {
            self.warn(chain(&e));
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
