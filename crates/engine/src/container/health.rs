//! Health: the shim checks, the actor is told.
//!
//! After each start, and when a shim is taken up, the shim is asked whether it checks; where an
//! engine was killed before it could say so, it is told now.

use std::sync::Arc;
use std::time::Duration;

use shim::{Health, HealthCheck, HealthStatus};

use super::actor::{Actor, Internal, Then};
use super::{Live, exec};
use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerRecord, HealthSpec, NamespaceMode, NetworkMode, Phase};
use crate::views::ExecSpec;

/// `true`: a container that becomes unhealthy is stopped and started again; `false`: not, whatever the daemon's default is.
pub(crate) const RESTART_LABEL: &str = "plimsoll.restart-on-unhealthy";

const SECOND: i64 = 1_000_000_000;
/// The shortest time that may be asked for.
const SHORTEST: i64 = 1_000_000;

/// What runs; `None`: nothing is checked.
fn argv(spec: &HealthSpec) -> Option<Vec<String>> {
    let (kind, rest) = spec.test.split_first()?;
    match kind.as_str() {
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" => {
            let shell = ["/bin/sh", "-c"].map(str::to_owned);
            Some(shell.into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => None,
    }
}

fn times(spec: &HealthSpec) -> HealthCheck {
    let or = |n: i64, default: i64| {
        let n = if n == 0 { default } else { n };
        Duration::from_nanos(u64::try_from(n).unwrap_or(0))
    };
    HealthCheck {
        interval: or(spec.interval, 30 * SECOND),
        timeout: or(spec.timeout, 30 * SECOND),
        start_period: or(spec.start_period, 0),
        start_interval: or(spec.start_interval, 5 * SECOND),
        retries: u32::try_from(spec.retries)
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or(3),
    }
}

/// What the image says, where the container says nothing.
pub(crate) fn inherit(own: &mut Option<HealthSpec>, image: Option<&HealthSpec>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (own, image) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *own == 0 {
            *own = image;
        }
    }
}

/// Refuses what cannot be checked, in dockerd's words where it has any.
pub(crate) fn check(spec: &HealthSpec) -> Result<(), Error> {
    for (name, value) in [
        ("Interval", spec.interval),
        ("Timeout", spec.timeout),
        ("StartPeriod", spec.start_period),
        ("StartInterval", spec.start_interval),
    ] {
        if value != 0 && value < SHORTEST {
            return Err(Error::invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if spec.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    match spec.test.split_first() {
        None => Ok(()),
        Some((kind, rest)) => match (kind.as_str(), rest) {
            ("NONE", []) | ("CMD", [_, ..]) | ("CMD-SHELL", [_]) => Ok(()),
            ("NONE" | "CMD" | "CMD-SHELL", _) => Err(Error::invalid(format!(
                "Test in Healthcheck: NONE takes nothing, CMD a program and its words, CMD-SHELL one line; not {} after {kind}",
                rest.len()
            ))),
            _ => Err(Error::invalid(format!(
                "unknown kind of Test in Healthcheck: {kind:?} (NONE, CMD, CMD-SHELL)"
            ))),
        },
    }
}

async fn begin(
    engine: Arc<Inner>,
    record: Arc<ContainerRecord>,
    live: Live,
    spec: HealthSpec,
    argv: Vec<String>,
) -> Result<Health, Error> {
    let failed = |e| Error::caused(crate::ErrorKind::Internal, "check health", e);
    if let Some(known) = live.shim.health().await.map_err(failed)? {
        return Ok(known);
    }
    let for_plan = live.clone();
    let plan = engine
        .blocking("plan the health check", move |inner| {
            let wanted = ExecSpec {
                argv,
                ..ExecSpec::default()
            };
            let (entered, _) = for_plan.cgroup.nested(shim::HEALTH_CGROUP);
            exec::plan(inner, &record, &for_plan, &wanted, None, &entered)
        })
        .await?;
    live.shim
        .check_health(&times(&spec), &plan)
        .await
        .map_err(failed)
}

impl Actor {
    /// Of the run that has just begun or been taken up.
    pub(super) fn watch_health(&mut self) {
        self.health = None;
        let Some(spec) = self.record.spec.health.clone() else {
            return;
        };
        let (Some(argv), Some(run)) = (argv(&spec), &self.run) else {
            return;
        };
        self.health = Some(Arc::default());
        let (live, tell) = (run.live.clone(), self.teller());
        let (engine, record) = (self.engine.clone(), self.record.clone());
        let pid = live.pid;
        tokio::spawn(async move {
            let ended = live.ended.clone();
            match begin(engine, record.clone(), live, spec, argv).await {
                Ok(health) => drop(tell.send(Internal::Health(pid, health))),
                // one that ended at once was never checked
                Err(_) if *ended.borrow() => {}
                Err(error) => {
                    let (container, error) = (&record.id, error.report());
                    tracing::warn!(
                        container,
                        error,
                        "health is not checked; restart the container"
                    );
                }
            }
        });
    }

    /// What the shim says now.
    pub(super) async fn health_is(&mut self, health: Health) {
        let Some(before) = self.health.as_ref().map(|h| h.status) else {
            return;
        };
        let now = health.status;
        self.health = Some(Arc::new(health));
        self.publish();
        if now == before {
            return;
        }
        let dependents = match now {
            HealthStatus::Unhealthy => self.dependents(),
            _ => Vec::new(),
        };
        let more = [("dependents", dependents.join(","))];
        let told = if dependents.is_empty() {
            &[][..]
        } else {
            &more
        };
        self.emit(format!("health_status: {}", word(now)), told);
        let spec = &self.record.spec;
        let label = spec.labels.get(RESTART_LABEL);
        let restarts = label.map_or(spec.host.restart_unhealthy, |v| v == "true");
        if now == HealthStatus::Unhealthy && restarts && self.phase == Phase::Running {
            let (reply, nobody_waits) = tokio::sync::oneshot::channel();
            drop(nobody_waits);
            self.stop(None, None, reply, Then::Again).await;
        }
    }

    /// Names of those that need it: they are in its namespaces, have its volumes or a link to it, or Compose started
    /// them after it.
    fn dependents(&self) -> Vec<String> {
        let views = self.engine.containers.views();
        let others = views.iter().filter(|v| v.id() != self.record.id);
        let mut names: Vec<String> = others
            .filter(|v| depends(&v.record, &self.record))
            .map(|v| v.record.name.clone())
            .collect();
        names.sort();
        names
    }

    /// As dockerd: what is not checked any more is not healthy.
    pub(super) fn health_ended(&mut self) {
        if let Some(health) = &mut self.health {
            Arc::make_mut(health).status = HealthStatus::Unhealthy;
        }
    }
}

fn depends(one: &ContainerRecord, on: &ContainerRecord) -> bool {
    let host = &one.spec.host;
    let is_it = |name: &str| {
        let name = name.trim_start_matches('/');
        name == on.name || (name.len() >= 12 && on.id.starts_with(name))
    };
    let joins = |mode: &NamespaceMode| matches!(mode, NamespaceMode::Container(c) if is_it(c));
    let first = |text: &str| is_it(text.split(':').next().unwrap_or_default());
    matches!(&host.network, NetworkMode::Container(c) if is_it(c))
        || [&host.pid_mode, &host.ipc_mode].into_iter().any(joins)
        || host.volumes_from.iter().any(|v| first(v))
        || host.links.iter().any(|l| first(l))
        || is_composed_after(one, on)
}

/// Compose writes `db:service_healthy:false,cache:service_started:false`.
fn is_composed_after(one: &ContainerRecord, on: &ContainerRecord) -> bool {
    const PROJECT: &str = "com.docker.compose.project";
    const SERVICE: &str = "com.docker.compose.service";
    const AFTER: &str = "com.docker.compose.depends_on";
    let label = |r: &ContainerRecord, key: &str| r.spec.labels.get(key).cloned();
    let (Some(project), Some(service)) = (label(on, PROJECT), label(on, SERVICE)) else {
        return false;
    };
    let after = label(one, AFTER).unwrap_or_default();
    let mut services = after
        .split(',')
        .map(|s| s.split(':').next().unwrap_or_default());
    label(one, PROJECT) == Some(project) && services.any(|s| s == service)
}

/// Docker's word for it.
#[must_use]
pub fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(test: &[&str]) -> HealthSpec {
        HealthSpec {
            test: test.iter().map(|w| (*w).to_owned()).collect(),
            ..HealthSpec::default()
        }
    }

    #[test]
    fn the_image_s_check_fills_what_is_not_said() {
        let image = HealthSpec {
            interval: 7,
            ..spec(&["CMD", "a"])
        };
        let mut own = None;
        inherit(&mut own, Some(&image));
        assert_eq!(own.as_ref(), Some(&image));
        let mut own = Some(HealthSpec {
            retries: 2,
            ..HealthSpec::default()
        });
        inherit(&mut own, Some(&image));
        let own = own.unwrap();
        assert_eq!(
            (own.test, own.interval, own.retries),
            (image.test.clone(), 7, 2)
        );
        let mut none = Some(spec(&["NONE"]));
        inherit(&mut none, Some(&image));
        assert_eq!(argv(&none.unwrap()), None);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        assert!(check(&spec(&["CMD-SHELL", "true"])).is_ok());
        for wrong in [
            spec(&["CMD"]),
            spec(&["true"]),
            spec(&["CMD-SHELL", "a", "b"]),
            HealthSpec {
                interval: 999_999,
                ..spec(&["CMD", "a"])
            },
            HealthSpec {
                retries: -1,
                ..spec(&["CMD", "a"])
            },
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }
}
