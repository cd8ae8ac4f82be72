//! `info` and `stats`.

use std::collections::BTreeMap;
use std::sync::Arc;

use host::CgroupMode;

use crate::container::{Command, Live};
use crate::error::Error;
use crate::inner::{Inner, ask};
use crate::model::{ErrorKind, Phase};
use crate::procfs;
use crate::registry::Entry;
use crate::views::{BlkioEntry, CgroupDriver, Info, StatsSample};

pub(crate) fn info(inner: &Inner) -> Info {
    let views = inner.containers.views();
    let count = |f: &dyn Fn(Phase) -> bool| views.iter().filter(|v| f(v.phase)).count();
    let running = count(&|p| {
        matches!(
            p,
            Phase::Running | Phase::Stopping | Phase::Restarting | Phase::Starting
        )
    });
    let paused = count(&|p| p == Phase::Paused);
    let facts = &inner.config.facts;
    let cgroup = &facts.cgroup;
    let has = |name: &str| cgroup.controller(name).is_some();
    let uname = rustix::system::uname();
    let driver = match inner.store.driver() {
        store::Driver::Overlay => "overlay",
        store::Driver::Vfs => "vfs",
    };
    Info {
        id: inner.instance.clone(),
        containers: views.len(),
        running,
        paused,
        stopped: views.len() - running - paused,
        images: inner.images.load().len(),
        driver: driver.to_owned(),
        driver_status: vec![("Reason".to_owned(), inner.driver_reason.clone())],
        kernel_version: facts.kernel_release.clone(),
        operating_system: operating_system(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        ncpu: std::thread::available_parallelism().map_or(1, usize::from),
        mem_total: procfs::memory_total(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        data_root: inner.config.data_root.clone(),
        labels: inner.labels.load_full().to_vec(),
        cgroup_version: if cgroup.mode == CgroupMode::V2 {
            "2"
        } else {
            "1"
        }
        .to_owned(),
        cgroup_driver: match inner.config.cgroup_driver {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        }
        .to_owned(),
        security_options: security_options(inner),
        memory_limit: has("memory"),
        swap_limit: cgroup.swap_accounting,
        cpu_cfs: cgroup.cpu_quota,
        cpu_shares: has("cpu"),
        cpuset: has("cpuset"),
        pids_limit: cgroup.pids,
        oom_kill_disable: cgroup.mode != CgroupMode::V2 && has("memory"),
        warnings: inner.warnings.clone(),
        log_drivers: crate::logdriver::DRIVERS.map(str::to_owned).to_vec(),
        debug: inner.config.debug,
    }
}

fn security_options(inner: &Inner) -> Vec<String> {
    let facts = &inner.config.facts;
    let mut out = Vec::new();
    if facts.lsm.apparmor {
        out.push("name=apparmor".to_owned());
    }
    if facts.seccomp.filter {
        out.push("name=seccomp,profile=builtin".to_owned());
    }
    if facts.lsm.selinux {
        out.push("name=selinux".to_owned());
    }
    if facts.cgroup.mode == CgroupMode::V2 {
        out.push("name=cgroupns".to_owned());
    }
    out
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |l| l.trim_matches('"').to_owned())
}

/// Of one that does not run: zeros, as Docker answers.
pub(crate) async fn stats(engine: &Arc<Inner>, entry: &Arc<Entry>) -> Result<StatsSample, Error> {
    if !entry.view.load().is_running() {
        return Ok(StatsSample {
            read: jiff::Timestamp::now().as_nanosecond(),
            ..StatsSample::default()
        });
    }
    let live: Live = ask(entry, |reply| Command::Live {
        unpaused: false,
        reply,
    })
    .await?;
    engine
        .blocking("read the container's counters", move |_| {
            let stats = live.cgroup.stats();
            let stats = stats.map_err(|e| {
                Error::caused(ErrorKind::Conflict, "the container has just ended", e)
            })?;
            let mut sample = sample(stats);
            sample.interfaces = procfs::interfaces(live.pid, live.pid_start_time);
            Ok(sample)
        })
        .await
}

fn sample(s: runtime::cgroup::Stats) -> StatsSample {
    let (system_cpu_ns, online_cpus) = procfs::system_cpu();
    let mut blkio: Vec<BlkioEntry> = Vec::new();
    for (major, minor, op, bytes) in s.io_bytes {
        blkio.push(BlkioEntry {
            major,
            minor,
            op,
            bytes,
            ios: 0,
        });
    }
    for (major, minor, op, ios) in s.io_ops {
        let known = blkio
            .iter_mut()
            .find(|e| (e.major, e.minor) == (major, minor) && e.op == op);
        match known {
            Some(entry) => entry.ios = ios,
            None => blkio.push(BlkioEntry {
                major,
                minor,
                op,
                bytes: 0,
                ios,
            }),
        }
    }
    StatsSample {
        read: jiff::Timestamp::now().as_nanosecond(),
        cpu_total_ns: s.cpu_usage_ns,
        cpu_user_ns: s.cpu_user_ns,
        cpu_system_ns: s.cpu_system_ns,
        system_cpu_ns,
        online_cpus,
        throttling_periods: s.throttled_total_periods,
        throttled_periods: s.throttled_periods,
        throttled_ns: s.throttled_ns,
        memory_usage: s.memory_usage,
        memory_max_usage: s.memory_max_usage.unwrap_or(0),
        memory_limit: s.memory_limit.unwrap_or_else(procfs::memory_total),
        memory_failcnt: s.memory_failcnt,
        memory_stats: s.memory_stat.into_iter().collect(),
        pids_current: s.pids,
        pids_limit: s.pids_limit.unwrap_or(0),
        blkio,
        interfaces: BTreeMap::new(),
    }
}
