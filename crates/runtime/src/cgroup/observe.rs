//! Counters, and the news that memory ran out.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{Cgroup, CgroupError, Dir, failed, read, write};

/// A reading of a cgroup's counters. What a host doesn't count is `None` or 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_usage_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    pub cpu_percpu_ns: Vec<u64>,
    pub throttled_periods: u64,
    pub throttled_total_periods: u64,
    pub throttled_ns: u64,
    pub memory_usage: u64,
    pub memory_max_usage: Option<u64>,
    /// `None`: unlimited.
    pub memory_limit: Option<u64>,
    pub memory_failcnt: u64,
    /// `memory.stat` as the kernel has it.
    pub memory_stat: Vec<(String, u64)>,
    pub pids: u64,
    pub pids_limit: Option<u64>,
    pub oom_kills: u64,
    /// (major, minor, operation, bytes).
    pub io_bytes: Vec<(u64, u64, String, u64)>,
    pub io_ops: Vec<(u64, u64, String, u64)>,
}

/// A descriptor that becomes readable (EPOLLIN on v1's eventfd, EPOLLPRI on v2's memory.events)
/// when the container runs out of memory.
#[derive(Debug)]
pub struct OomWatch {
    /// Register with EPOLLIN | EPOLLPRI (v2's file is always "readable": EPOLLPRI alone there).
    pub fd: OwnedFd,
    /// EPOLLPRI is the event, not EPOLLIN.
    pub priority: bool,
    counter: PathBuf,
}

impl OomWatch {
    /// Consumes the event; the number of processes killed for want of memory so far. On v1 the
    /// news comes before the kill, so the number may still be the old one: read it again at the
    /// container's end with [`Cgroup::oom_kills`].
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn read(&self) -> Result<u64, CgroupError> {
        let mut buf = [0; 8];
        if self.priority {
            let mut buf = [0; 512];
            rustix::io::pread(&self.fd, &mut buf, 0)
                .map_err(|e| failed("read", &self.counter)(e.into()))?;
        } else {
            // not blocking: nothing new is fine
            let _none_new = rustix::io::read(&self.fd, &mut buf);
        }
        kills(&self.counter)
    }
}

fn kills(file: &Path) -> Result<u64, CgroupError> {
    Ok(field(&read(file)?, "oom_kill").unwrap_or(0))
}

pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| {
        let (key, value) = l.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

pub(super) fn number(dir: &Dir, file: &str) -> Option<u64> {
    read(&dir.file(file)).ok()?.trim().parse().ok()
}

/// A limit: `max` and v1's largest value are none.
pub(super) fn bound(dir: &Dir, file: &str) -> Option<u64> {
    number(dir, file).filter(|n| *n < 0x7fff_ffff_ffff_0000)
}

impl Cgroup {
    /// What the kernel has counted.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut s = Stats::default();
        if let Some(dir) = self.dirs.first() {
            // the one read that tells a cgroup that is gone from one that counts nothing
            read(&dir.file("cgroup.procs"))?;
        }
        self.cpu(&mut s);
        self.memory(&mut s);
        if let Some(d) = self.dir("pids") {
            s.pids = number(d, "pids.current").unwrap_or(0);
            s.pids_limit = bound(d, "pids.max");
        }
        self.io(&mut s);
        Ok(s)
    }

    fn cpu(&self, s: &mut Stats) {
        const TICK_NS: u64 = 10_000_000;
        if let Some(d) = self.dir("cpuacct") {
            s.cpu_usage_ns = number(d, "cpuacct.usage").unwrap_or(0);
            let per = read(&d.file("cpuacct.usage_percpu")).unwrap_or_default();
            s.cpu_percpu_ns = per
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            let stat = read(&d.file("cpuacct.stat")).unwrap_or_default();
            s.cpu_user_ns = field(&stat, "user").unwrap_or(0) * TICK_NS;
            s.cpu_system_ns = field(&stat, "system").unwrap_or(0) * TICK_NS;
        }
        let Some(d) = self.dir("cpu").or_else(|| self.v2()) else {
            return;
        };
        let stat = read(&d.file("cpu.stat")).unwrap_or_default();
        if d.has("cpu") {
            s.throttled_total_periods = field(&stat, "nr_periods").unwrap_or(0);
            s.throttled_periods = field(&stat, "nr_throttled").unwrap_or(0);
            s.throttled_ns = field(&stat, "throttled_time")
                .or_else(|| field(&stat, "throttled_usec").map(|n| n * 1000))
                .unwrap_or(0);
        }
        if d.v2 && self.dir("cpuacct").is_none() {
            let us = |name| field(&stat, name).unwrap_or(0) * 1000;
            s.cpu_usage_ns = us("usage_usec");
            s.cpu_user_ns = us("user_usec");
            s.cpu_system_ns = us("system_usec");
        }
    }

    fn memory(&self, s: &mut Stats) {
        let Some(d) = self.dir("memory") else { return };
        let stat = read(&d.file("memory.stat")).unwrap_or_default();
        s.memory_stat = stat
            .lines()
            .filter_map(|l| l.split_once(' '))
            .filter_map(|(k, v)| Some((k.to_owned(), v.parse().ok()?)))
            .collect();
        if d.v2 {
            s.memory_usage = number(d, "memory.current").unwrap_or(0);
            s.memory_max_usage = number(d, "memory.peak");
            s.memory_limit = bound(d, "memory.max");
            let events = read(&d.file("memory.events")).unwrap_or_default();
            s.memory_failcnt = field(&events, "max").unwrap_or(0);
            s.oom_kills = field(&events, "oom_kill").unwrap_or(0);
        } else {
            s.memory_usage = number(d, "memory.usage_in_bytes").unwrap_or(0);
            s.memory_max_usage = number(d, "memory.max_usage_in_bytes");
            s.memory_limit = bound(d, "memory.limit_in_bytes");
            s.memory_failcnt = number(d, "memory.failcnt").unwrap_or(0);
            s.oom_kills = kills(&d.file("memory.oom_control")).unwrap_or(0);
        }
    }

    fn io(&self, s: &mut Stats) {
        if let Some(d) = self.dir("blkio") {
            s.io_bytes = v1_io(d, "blkio.throttle.io_service_bytes_recursive");
            s.io_ops = v1_io(d, "blkio.throttle.io_serviced_recursive");
        } else if let Some(d) = self.dir("io") {
            for line in read(&d.file("io.stat")).unwrap_or_default().lines() {
                let mut words = line.split(' ');
                let Some((major, minor)) = words.next().and_then(device) else {
                    continue;
                };
                for (key, n) in words.filter_map(|w| w.split_once('=')) {
                    let Ok(n) = n.parse() else { continue };
                    let (list, op) = match key {
                        "rbytes" => (&mut s.io_bytes, "Read"),
                        "wbytes" => (&mut s.io_bytes, "Write"),
                        "rios" => (&mut s.io_ops, "Read"),
                        "wios" => (&mut s.io_ops, "Write"),
                        _ => continue,
                    };
                    list.push((major, minor, op.to_owned(), n));
                }
            }
        }
    }

    /// Processes of this cgroup killed for want of memory so far; 0 where nobody counts.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let Some(d) = self.dir("memory") else {
            return 0;
        };
        let file = if d.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        kills(&d.file(file)).unwrap_or(0)
    }

    /// `None` where no memory controller is there.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>, CgroupError> {
        use rustix::fs::{Mode, OFlags, open};
        use std::os::fd::AsRawFd;
        let Some(d) = self.dir("memory") else {
            return Ok(None);
        };
        let name = if d.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let counter = d.file(name);
        let file = open(&counter, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open", &counter)(e.into()))?;
        if d.v2 {
            let watch = OomWatch {
                fd: file,
                priority: true,
                counter,
            };
            watch.read()?;
            return Ok(Some(watch));
        }
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags)
            .map_err(|e| failed("make an eventfd for", &counter)(e.into()))?;
        let control = d.file("cgroup.event_control");
        write(
            &control,
            &format!("{} {}", event.as_raw_fd(), file.as_raw_fd()),
        )?;
        Ok(Some(OomWatch {
            fd: event,
            priority: false,
            counter,
        }))
    }
}

fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn v1_io(dir: &Dir, file: &str) -> Vec<(u64, u64, String, u64)> {
    let text = read(&dir.file(file)).unwrap_or_default();
    let line = |l: &str| {
        let mut words = l.split(' ');
        let (major, minor) = device(words.next()?)?;
        let op = words.next()?.to_owned();
        Some((major, minor, op, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
