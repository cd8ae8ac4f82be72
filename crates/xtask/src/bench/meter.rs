//! CPU time of everything an engine does, its clients and containers included.
//!
//! On version 1 a thread can enter a cpuacct cgroup alone, and what it forks is born there: the
//! daemon, each client, and (told by a parent cgroup) each container. Elsewhere the whole machine's
//! time is taken, which is right on a quiet one only.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::Failed;

#[derive(Debug)]
pub(crate) struct Meter {
    /// `None`: the whole machine.
    dir: Option<PathBuf>,
    /// As a parent cgroup for peers that must be told: relative to the hierarchies' roots.
    pub(crate) parent: String,
}

impl Meter {
    pub(crate) fn new(name: &str) -> Result<Self, Failed> {
        let parent = format!("/plimsoll-bench-{}-{name}", std::process::id());
        let cgroups = host::cgroups::read()?;
        let cpuacct = cgroups.controller("cpuacct");
        let dir = cpuacct.map(|h| h.mount.join(parent.trim_start_matches('/')));
        if let Some(dir) = &dir {
            match fs::create_dir(dir) {
                // ours: an engine of this name was metered before, and what it left isn't gone yet
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(Self { dir, parent })
    }

    /// Runs something on a thread whose time, and that of all it starts, is metered.
    pub(crate) fn within<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if let Some(dir) = &self.dir {
                    // 0 is the thread that writes
                    fs::write(dir.join("tasks"), "0").expect("a cgroup of ours takes us");
                }
                f()
            });
            thread.join().expect("a measurement panicked")
        })
    }

    /// Time used until now.
    pub(crate) fn read(&self) -> Result<Duration, Failed> {
        if let Some(dir) = &self.dir {
            let text = fs::read_to_string(dir.join("cpuacct.usage"))?;
            return Ok(Duration::from_nanos(text.trim().parse()?));
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let first = stat.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq
        let ticks: Vec<u64> = first
            .split_whitespace()
            .skip(1)
            .filter_map(|t| t.parse().ok())
            .collect();
        let used: u64 = [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum();
        Ok(Duration::from_millis(used * 10))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // peers make their parent cgroup in every hierarchy
        let name = self.parent.trim_start_matches('/');
        let Ok(cgroups) = host::cgroups::read() else {
            return;
        };
        for hierarchy in &cgroups.hierarchies {
            remove_tree(&hierarchy.mount.join(name));
        }
    }
}

fn remove_tree(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _busy = fs::remove_dir(dir);
}
