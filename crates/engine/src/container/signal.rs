//! Stop, kill, pause, unpause; and what else changes a container that may be running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::actor::{Actor, Stopping, Then, answer};
use super::{Live, Reply};
use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ErrorKind, Phase, RestartKind};
use crate::names;
use crate::ocispec;
use crate::views::UpdateRequest;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// After SIGKILL the shim has this long to report the end, before it is taken for mute.
const MUTE_AFTER: Duration = Duration::from_secs(2);
/// After SIGKILL callers wait this long at most.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) async fn stop(
        &mut self,
        signal: Option<i32>,
        timeout: Option<i64>,
        reply: Reply<()>,
        then: Then,
    ) {
        match self.phase {
            Phase::Running | Phase::Paused | Phase::Stopping => {}
            Phase::Restarting => return self.stop_restarting(reply, then).await,
            Phase::Created | Phase::Exited if then == Then::Start => {
                self.emit("restart", &[]);
                return self.start_for(reply);
            }
            Phase::Created | Phase::Exited => {
                let text = format!("container {} is already stopped", self.record.name);
                return answer(reply, Err(Error::not_modified(text)));
            }
            Phase::Starting | Phase::Removing | Phase::Dead => {
                let text = format!("container {} cannot be stopped now", self.record.name);
                return answer(reply, Err(Error::conflict(text)));
            }
        }
        let reply = if then == Then::Stay {
            self.mark_stopped(reply)
        } else {
            reply
        };
        let own = self.record.spec.stop_signal.as_deref();
        let signal = signal
            .or_else(|| own.and_then(|s| names::signal(s).ok()))
            .unwrap_or(SIGTERM);
        let seconds = timeout
            .or(self.record.spec.stop_timeout)
            .unwrap_or(self.engine.config.stop_timeout);
        let now = Instant::now();
        let kill_at = u64::try_from(seconds)
            .ok()
            .map(|s| now + Duration::from_secs(s));
        let was_paused = self.phase == Phase::Paused;
        self.join_stop(kill_at, (reply, then));
        if seconds == 0 {
            self.sigkill(now, was_paused);
        } else {
            self.emit("kill", &[("signal", signal.to_string())]);
            self.send(signal, was_paused, None);
        }
        self.set_phase(Phase::Stopping);
    }

    fn join_stop(&mut self, kill_at: Option<Instant>, waiter: (Reply<()>, Then)) {
        match &mut self.stopping {
            Some(stopping) => {
                stopping.kill_at = match (stopping.kill_at, kill_at) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                stopping.replies.push(waiter);
            }
            None => {
                self.stopping = Some(Stopping {
                    kill_at,
                    force_at: None,
                    give_up_at: None,
                    replies: vec![waiter],
                });
            }
        }
    }

    /// That a user stopped it must outlive the machine where a policy would start it again: then
    /// the answer waits for the row.
    fn mark_stopped(&mut self, reply: Reply<()>) -> Reply<()> {
        self.record_mut().stopped_by_user = true;
        let record = &self.record;
        if record.spec.host.restart.kind == RestartKind::No || record.spec.host.auto_remove {
            return reply;
        }
        let written = self.write(|| ());
        let (done, ended) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let gone = || Err(Error::internal("the engine is shutting down"));
            let result: Result<(), Error> = ended.await.unwrap_or_else(|_| gone());
            let durable: Result<(), Error> = written.await.unwrap_or_else(|_| gone());
            answer(reply, result.and(durable));
        });
        done
    }

    async fn stop_restarting(&mut self, reply: Reply<()>, then: Then) {
        if then == Then::Start {
            self.emit("restart", &[]);
            return self.start_for(reply);
        }
        self.record_mut().stopped_by_user = true;
        self.cancel_restart();
        if then != Then::Killed {
            self.emit("stop", &[]);
        }
        let written = self.write_through().await;
        answer(reply, written);
    }

    pub(super) async fn kill(&mut self, signal: i32, reply: Reply<()>) {
        if self.phase == Phase::Restarting && matches!(signal, SIGKILL | SIGTERM) {
            return self.stop_restarting(reply, Then::Killed).await;
        }
        if self.run.is_none() {
            let id = &self.record.id;
            let text = format!("cannot kill container: {id}: container {id} is not running");
            return answer(reply, Err(Error::conflict(text)));
        }
        let own = self.record.spec.stop_signal.as_deref();
        let own = own.and_then(|s| names::signal(s).ok());
        let ends_it = matches!(signal, SIGKILL | SIGTERM | 2 | 3) || own == Some(signal);
        let reply = if ends_it {
            self.mark_stopped(reply)
        } else {
            reply
        };
        let was_paused = self.phase == Phase::Paused;
        if signal != SIGKILL {
            self.emit("kill", &[("signal", signal.to_string())]);
            self.send(signal, was_paused, Some(reply));
            return;
        }
        self.join_stop(None, (reply, Then::Killed));
        self.sigkill(Instant::now(), was_paused);
        self.set_phase(Phase::Stopping);
    }

    /// Kills it to remove it.
    pub(super) fn kill_then(&mut self, then: Then, reply: Reply<()>) {
        self.record_mut().stopped_by_user = true;
        let was_paused = self.phase == Phase::Paused;
        self.join_stop(None, (reply, then));
        self.sigkill(Instant::now(), was_paused);
        self.set_phase(Phase::Stopping);
    }

    fn sigkill(&mut self, now: Instant, was_paused: bool) {
        self.emit("kill", &[("signal", SIGKILL.to_string())]);
        self.send(SIGKILL, was_paused, None);
        if let Some(stopping) = &mut self.stopping {
            stopping.kill_at = None;
            stopping.force_at = Some(now + MUTE_AFTER);
            stopping.give_up_at = Some(now + GIVE_UP_AFTER);
        }
    }

    pub(super) async fn stop_alarm(&mut self, now: Instant) {
        let passed = |at: Option<Instant>| at.is_some_and(|t| t <= now);
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        if passed(stopping.kill_at) {
            self.sigkill(now, false);
        } else if passed(stopping.force_at) {
            stopping.force_at = None;
            if let Some(run) = &self.run {
                let id = self.record.id.clone();
                tokio::spawn(force(self.engine.clone(), id, run.live.clone()));
            }
        } else if passed(stopping.give_up_at) {
            let text = format!(
                "waited {} s for container {} to end after SIGKILL: a process of it hangs in the kernel, or its shim does",
                GIVE_UP_AFTER.as_secs(),
                self.record.name
            );
            for (reply, _) in self.stopping.take().into_iter().flat_map(|s| s.replies) {
                answer(reply, Err(Error::timeout(text.clone())));
            }
            self.set_phase(Phase::Running);
        }
    }

    /// In a task: a mute shim delays its own container alone. A paused container gets its signals
    /// only when it goes on.
    fn send(&self, signal: i32, thaw: bool, reply: Option<Reply<()>>) {
        let Some(run) = &self.run else { return };
        let (live, engine) = (run.live.clone(), self.engine.clone());
        let tell = (thaw && reply.is_some()).then(|| self.entry.commands.clone());
        tokio::spawn(async move {
            let sent = live.shim.signal(None, signal, false).await;
            let result = match sent {
                // it has ended meanwhile: what was wanted
                Ok(()) | Err(shim::ShimError::Gone { .. }) => Ok(()),
                Err(e) => Err(Error::caused(ErrorKind::Timeout, "signal the container", e)),
            };
            if let Some(commands) = tell {
                let (reply, thawed) = tokio::sync::oneshot::channel();
                if commands
                    .send(super::Command::Unpause { reply })
                    .await
                    .is_ok()
                {
                    drop(thawed.await);
                }
            } else if thaw {
                let cgroup = live.cgroup.clone();
                let thawed = engine
                    .blocking("thaw the container", move |_| {
                        sys::fault::point("engine.cgroup.thaw").map_err(Error::io("thaw"))?;
                        cgroup.thaw().map_err(cgroup_error)
                    })
                    .await;
                if let Err(error) = thawed {
                    tracing::debug!(error = %error.report(), "not thawed; it may be gone");
                }
            }
            match (reply, result) {
                (Some(reply), result) => answer(reply, result),
                (None, Err(error)) => {
                    tracing::warn!(error = %error.report(), "signal not sent");
                }
                (None, Ok(())) => {}
            }
        });
    }

    fn start_for(&mut self, reply: Reply<()>) {
        self.push_start(reply);
        self.begin_start();
    }
}

fn cgroup_error(error: runtime::cgroup::CgroupError) -> Error {
    Error::caused(ErrorKind::Internal, "change the container's cgroup", error)
}

/// What SIGKILL by way of the shim did not do.
async fn force(engine: Arc<Inner>, id: String, live: Live) {
    let cgroup = live.cgroup.clone();
    let killed = engine
        .blocking("kill the container's processes", move |_| {
            cgroup.kill_all().map_err(cgroup_error)
        })
        .await;
    if let Err(error) = killed {
        tracing::debug!(error = %error.report(), "cgroup not killed; it may be gone");
    }
    if live.shim.status().await.is_ok() {
        return; // it will tell
    }
    tracing::warn!(shim = live.shim_pid, "the shim is mute: killing it");
    let run_dir = engine.shim_dir(&id);
    let killed = engine
        .blocking("kill a mute shim", move |_| {
            shim::kill_mute(&run_dir).map_err(Error::io("kill a mute shim"))
        })
        .await;
    if let Err(error) = killed {
        tracing::warn!(shim = live.shim_pid, error = %error.report(), "the mute shim lives on");
    }
}

// ---- pause

impl Actor {
    pub(super) async fn pause(&mut self) -> Result<(), Error> {
        let name = &self.record.name;
        match self.phase {
            Phase::Running => {}
            Phase::Paused => {
                return Err(Error::conflict(format!(
                    "Container {name} is already paused"
                )));
            }
            Phase::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {name} is restarting, wait until the container is running"
                )));
            }
            _ => return Err(Error::conflict(format!("Container {name} is not running"))),
        }
        let live = self.live(false)?;
        self.engine
            .blocking("freeze the container", move |_| {
                sys::fault::point("engine.cgroup.freeze").map_err(Error::io("freeze"))?;
                live.cgroup.freeze(FREEZE_DEADLINE).map_err(|e| {
                    // half frozen is worse than not at all
                    drop(live.cgroup.thaw());
                    cgroup_error(e)
                })
            })
            .await?;
        self.set_phase(Phase::Paused);
        self.emit("pause", &[]);
        Ok(())
    }

    pub(super) async fn unpause(&mut self) -> Result<(), Error> {
        if self.phase != Phase::Paused {
            return Err(Error::conflict(format!(
                "Container {} is not paused",
                self.record.name
            )));
        }
        let live = self.live(false)?;
        self.engine
            .blocking("thaw the container", move |_| {
                sys::fault::point("engine.cgroup.thaw").map_err(Error::io("thaw"))?;
                live.cgroup.thaw().map_err(cgroup_error)
            })
            .await?;
        self.set_phase(Phase::Running);
        self.emit("unpause", &[]);
        Ok(())
    }
}

// ---- rename, update

impl Actor {
    pub(super) async fn rename(&mut self, name: &str) -> Result<(), Error> {
        if matches!(self.phase, Phase::Removing | Phase::Dead) {
            return Err(Error::conflict("the container is being removed"));
        }
        let old = self.record.name.clone();
        let id = self.record.id.clone();
        if old == name {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.engine.containers.claim_name(name, &id)?;
        let mut renamed = (*self.record).clone();
        name.clone_into(&mut renamed.name);
        let (document, new) = (renamed.clone(), name.to_owned());
        let written = self
            .engine
            .blocking("write the container's name", move |inner| {
                inner.rename_record(&document, &new)
            })
            .await;
        if let Err(error) = written {
            self.engine.containers.release_name(name, &id);
            return Err(error);
        }
        self.record = Arc::new(renamed);
        self.publish();
        self.engine.containers.release_name(&old, &id);
        let (of, new) = (id.clone(), name.to_owned());
        let known = self
            .engine
            .blocking("tell its networks the name", move |inner| {
                inner.networks.rename(&of, &new)
            })
            .await;
        if let Err(error) = known {
            // the record is what counts; its networks have it right at the next start
            tracing::warn!(container = %id, error = %error.report(), "its networks know the old name");
        }
        self.emit("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    pub(super) async fn update(&mut self, request: UpdateRequest) -> Result<Vec<String>, Error> {
        if matches!(self.phase, Phase::Removing | Phase::Dead) {
            return Err(Error::conflict(
                "container is marked for removal and cannot be \"update\"",
            ));
        }
        let mut host = self.record.spec.host.clone();
        crate::create::merge_resources(&mut host.resources, &request.resources);
        if let Some(restart) = request.restart {
            if host.auto_remove && restart.kind != RestartKind::No {
                return Err(Error::invalid(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            host.restart = restart;
        }
        let mut warnings =
            crate::create::check_resources(&mut host.resources, &self.engine.config.facts)?;
        let limits =
            ocispec::resources(&host.resources, &crate::devices::numbers(&host.resources))?;
        if let Some(run) = &mut self.run {
            let cgroup = run.live.cgroup.clone();
            // known before it is made: whatever comes of it is removed with the rest
            let joined = cgroup.extended(&self.engine.config.facts.cgroup, &limits);
            run.live.cgroup = Arc::new(joined);
            let refused = self
                .engine
                .blocking("change the container's limits", move |inner| {
                    sys::fault::point("engine.cgroup.update").map_err(Error::io("update"))?;
                    cgroup
                        .update(&inner.config.facts.cgroup, &limits)
                        .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "set a limit", e))
                })
                .await?;
            warnings.extend(refused);
        }
        self.record_mut().spec.host = host;
        self.publish();
        self.write_through().await?;
        self.emit("update", &[]);
        Ok(warnings)
    }
}
