//! `events` and `update`: a running container's counters and limits.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::container::STATE;
use super::{Container, OciError, Runtime};
use crate::cgroup::{Counter, Details, OomWatch, Stats};

/// What [`Watch::next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The interval is over.
    Time,
    /// The container ran out of memory.
    Oom,
    /// Its first process has ended.
    End,
}

/// A container that is looked at again and again.
#[derive(Debug)]
pub struct Watch {
    pidfd: std::os::fd::OwnedFd,
    oom: Option<OomWatch>,
}

impl Watch {
    /// Waits for the next news.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn next(&self, interval: Duration) -> Result<News, OciError> {
        let end = Instant::now() + interval;
        loop {
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if let Some(oom) = &self.oom {
                let kind = if oom.priority {
                    PollFlags::PRI
                } else {
                    PollFlags::IN
                };
                fds.push(PollFd::new(&oom.fd, kind));
            }
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
            match poll(&mut fds, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) | Ok(0) => return Ok(News::Time),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(News::End),
                Ok(_) => {
                    if let Some(oom) = &self.oom {
                        oom.read()?;
                    }
                    return Ok(News::Oom);
                }
            }
        }
    }
}

impl Runtime {
    /// The counters of a running container, in the shape of runc's `events`.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn stats(&self, container: &Container) -> Result<Value, OciError> {
        container.pidfd().ok_or(OciError::NotRunning)?;
        let cgroup = container.freezer()?;
        Ok(data(&cgroup.stats()?, &cgroup.details()))
    }

    /// # Errors
    /// When it isn't running.
    pub fn watch(&self, container: &Container) -> Result<Watch, OciError> {
        Ok(Watch {
            pidfd: container.pidfd().ok_or(OciError::NotRunning)?,
            oom: container.freezer()?.oom_watch()?,
        })
    }

    /// Changes the limits of a container.
    ///
    /// # Errors
    /// When it isn't running, or the kernel refuses a value.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), OciError> {
        let mut container = self.container(id)?;
        container.pidfd().ok_or(OciError::NotRunning)?;
        let facts = Self::cgroup_facts()?;
        let now = container.freezer()?.clone();
        let all = now.extended(&facts, resources);
        if all != now {
            // what will be made is written down first
            container.record.cgroup = Some(all);
            let path = container.directory.path.join(STATE);
            let bytes = serde_json::to_vec(&container.record)
                .map_err(|e| super::error::io("write", &path)(std::io::Error::other(e)))?;
            container.directory.replace(STATE, &bytes)?;
        }
        for warning in now.update(&facts, resources)? {
            self.warn(warning);
        }
        Ok(())
    }
}

fn entry(c: Counter) -> Value {
    json!({
        "limit": c.limit.unwrap_or(u64::MAX),
        "usage": c.usage,
        "max": c.max,
        "failcnt": c.failcnt
    })
}

fn cpuset(d: &Details) -> Value {
    let lists = d.cpuset_lists.iter().map(|(k, v)| (*k, json!(v)));
    let flags = d.cpuset_flags.iter().map(|(k, v)| (*k, json!(v)));
    let all: BTreeMap<&str, Value> = lists.chain(flags).collect();
    json!(all)
}

fn hugetlb(d: &Details) -> Value {
    let one = |c: &Counter| json!({"usage": c.usage, "max": c.max, "failcnt": c.failcnt});
    let all: BTreeMap<&str, Value> = d
        .hugetlb
        .iter()
        .map(|(k, c)| (k.as_str(), one(c)))
        .collect();
    json!(all)
}

fn io(list: &[(u64, u64, String, u64)]) -> Value {
    list.iter()
        .map(|(major, minor, op, value)| {
            json!({"major": major, "minor": minor, "op": op, "value": value})
        })
        .collect()
}

fn data(s: &Stats, d: &Details) -> Value {
    let memory = Counter {
        usage: s.memory_usage,
        max: s.memory_max_usage.unwrap_or(0),
        limit: s.memory_limit,
        failcnt: s.memory_failcnt,
    };
    let raw: BTreeMap<&str, u64> = s
        .memory_stat
        .iter()
        .map(|(k, v)| (k.as_str(), *v))
        .collect();
    json!({
        "cpu": {
            "usage": {
                "total": s.cpu_usage_ns,
                "percpu": s.cpu_percpu_ns,
                "percpu_kernel": d.percpu_kernel,
                "percpu_user": d.percpu_user,
                "kernel": s.cpu_system_ns,
                "user": s.cpu_user_ns
            },
            "throttling": {
                "periods": s.throttled_total_periods,
                "throttledPeriods": s.throttled_periods,
                "throttledTime": s.throttled_ns
            }
        },
        "cpuset": cpuset(d),
        "memory": {
            "cache": raw.get("cache").or_else(|| raw.get("file")),
            "usage": entry(memory),
            "swap": entry(d.swap),
            "kernel": entry(d.kernel),
            "kernelTCP": entry(d.kernel_tcp),
            "raw": raw
        },
        "pids": {"current": s.pids, "limit": s.pids_limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": io(&s.io_bytes),
            "ioServicedRecursive": io(&s.io_ops)
        },
        "hugetlb": hugetlb(d),
        "intel_rdt": {},
        "network_interfaces": null
    })
}

impl Container {
    /// Whether the first process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.pidfd()
            .is_none_or(|fd| super::delete::ends_within(fd.as_fd(), Duration::ZERO))
    }
}
