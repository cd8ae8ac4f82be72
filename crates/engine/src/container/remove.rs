//! Removal: record out, files to the trash, name free.

use std::sync::Arc;
use std::time::Duration;

use super::Reply;
use super::actor::{Actor, Internal, Then, answer};
use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerRecord, MountKind, Phase};
use crate::views::RemoveOptions;

/// How long what is left of the last run may take to go.
const REMAINS_DEADLINE: Duration = Duration::from_secs(10);

/// Its shim was never adopted: killed, it is found dead, and its container is ended for it.
async fn end_mute(engine: &Arc<Inner>, record: &ContainerRecord) {
    let run_dir = engine.shim_dir(&record.id);
    let killed = engine
        .blocking("kill a mute shim", move |_| {
            shim::kill_mute(&run_dir).map_err(Error::io("kill a mute shim"))
        })
        .await;
    if let Err(error) = killed {
        tracing::warn!(container = record.id, error = %error.report(), "the mute shim lives on");
    }
    let found = crate::reconcile::adopt(engine, record.clone()).await;
    tracing::info!(
        container = record.id,
        ?found,
        "ended a container whose shim was mute"
    );
}

impl Actor {
    pub(super) async fn remove(&mut self, options: RemoveOptions, reply: Reply<()>) {
        let name = &self.record.name;
        let first = match self.phase {
            Phase::Running | Phase::Stopping | Phase::Paused | Phase::Restarting => {
                "stop the container before removing or force remove"
            }
            Phase::Dead if self.mute => "its shim does not answer: force remove",
            _ => "",
        };
        if !first.is_empty() && !options.force {
            let state = match self.phase {
                Phase::Paused => "paused and must be unpaused first",
                Phase::Restarting => "restarting",
                Phase::Dead => "mute",
                _ => "running",
            };
            let text =
                format!("cannot remove container \"/{name}\": container is {state}: {first}");
            return answer(reply, Err(Error::conflict(text)));
        }
        match self.phase {
            Phase::Removing => {
                let text = format!("removal of container {name} is already in progress");
                answer(reply, Err(Error::conflict(text)));
            }
            Phase::Running | Phase::Stopping | Phase::Paused => {
                self.kill_then(Then::Remove(options), reply);
            }
            Phase::Restarting => {
                self.cancel_restart();
                self.remove_replies.push(reply);
                self.begin_remove(options);
            }
            Phase::Created | Phase::Exited | Phase::Dead | Phase::Starting => {
                self.remove_replies.push(reply);
                self.begin_remove(options);
            }
        }
    }

    /// Runs in a task; the actor hears of its end.
    pub(super) fn begin_remove(&mut self, options: RemoveOptions) {
        if self.phase == Phase::Removing {
            return;
        }
        self.set_phase(Phase::Removing);
        self.kept.clear();
        let (engine, record) = (self.engine.clone(), self.record.clone());
        let (previous, writes) = (self.previous.take(), self.take_writes());
        let (tell, mute) = (self.teller(), self.mute);
        let forwarder = self.forwarder.take();
        tokio::spawn(async move {
            if mute {
                end_mute(&engine, &record).await;
            }
            if let Some(shim) = previous {
                let gone = tokio::time::timeout(REMAINS_DEADLINE, shim.gone()).await;
                if gone.is_err() {
                    tracing::warn!(
                        container = record.id,
                        "the last run's remains do not go; removing all the same"
                    );
                }
            }
            if let Some(forwarder) = forwarder {
                forwarder.finish().await;
            }
            // one whose shim was never heard of still has its place
            crate::networks::detach(&engine, &record.id).await;
            if let Some(writes) = writes {
                drop(writes.await);
            }
            let owned: Vec<String> = record
                .mounts
                .iter()
                .filter(|m| {
                    options.volumes && m.kind == MountKind::Volume && m.spec.source.is_empty()
                })
                .map(|m| m.name.clone())
                .collect();
            let id = record.id.clone();
            let removed = engine
                .blocking("remove the container's record", move |inner| {
                    sys::fault::point("engine.container.remove").map_err(Error::io("remove"))?;
                    inner.remove_record(&id)?;
                    for volume in &owned {
                        inner.remove_own_volume(volume);
                    }
                    Ok(!owned.is_empty())
                })
                .await;
            if matches!(removed, Ok(true)) {
                engine.refresh_volumes().await;
            }
            // only a shutdown ends the actor earlier; reconcile goes on then
            drop(tell.send(Internal::Removed(removed.map(|_| ()))));
        });
    }

    pub(super) fn removed(&mut self, result: Result<(), Error>) {
        match result {
            Ok(()) => self.be_gone(),
            Err(error) => {
                let text = error.report();
                let kind = error.kind();
                self.record_mut().state.error = format!("driver failed to remove it: {text}");
                self.set_phase(if self.broken {
                    Phase::Dead
                } else {
                    Phase::Exited
                });
                for reply in std::mem::take(&mut self.remove_replies) {
                    answer(reply, Err(Error::new(kind, text.clone())));
                }
            }
        }
    }
}
