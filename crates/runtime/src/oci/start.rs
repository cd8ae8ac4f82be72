//! `start`.

use std::os::fd::AsFd;

use host::Facts;
use oci_spec::runtime::Spec;

use super::container::SOCKET;
use super::create::{failed, labels, plan_of};
use super::hooks::{self, Kind};
use super::{Container, OciError, Runtime, Status};
use crate::{Stages, StepError};

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
        let started = crate::start(connection.as_fd());
        let removed = container.directory.remove_file(SOCKET);
        started.map_err(|e| self.explain(&container, &spec, e))?;
        removed?;
        self.after_start(&container, &spec);
        Ok(())
    }

    /// The plan's own words: the steps are numbered the same each time.
    fn explain(&self, container: &Container, spec: &Spec, error: StepError) -> OciError {
        let plan = Self::cgroup_facts().and_then(|cgroups| {
            let facts = Facts::brief(cgroups, labels(spec.process().as_ref()));
            let record = &container.record;
            let rootfs = &record.rootfs;
            let stages = Stages {
                hooks: hooks::before_pivot(spec).then_some(rootfs.as_path()),
                ready: true,
                start: Some(0),
                ..Stages::default()
            };
            let place = (record.bundle.as_path(), record.no_pivot);
            plan_of(spec, &facts, rootfs, container.cgroup(), &stages, place)
        });
        match plan {
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
