//! The universal oracle: what a workload leaves behind on the host.
//!
//! FAILURES.md: "mounts, network links, cgroups, open descriptors and processes are the same after
//! a workload as before it, with a kill -9 of any of our processes at any step in between".

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::instance::Instance;
use crate::procfs::{self, Process};

/// Everything an instance could leave behind, as sorted lines under a heading; a line may occur
/// more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<&'static str, Vec<String>>,
}

impl Snapshot {
    /// What is there once nothing has changed for a tenth of a second: what a test compares with.
    #[must_use]
    pub fn take(instance: &Instance) -> Self {
        let end = Instant::now() + Duration::from_secs(5);
        let mut last = Self::now(instance);
        let mut same = 0;
        while same < 5 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            let now = Self::now(instance);
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// What is there now.
    #[must_use]
    pub fn now(instance: &Instance) -> Self {
        let mut parts: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let dir = instance.path().to_string_lossy().into_owned();
        // the host's namespace: ours only, others' tests mount things too
        let mine = |l: &String| l.contains(&dir);
        parts.insert(
            "mounts of the host",
            procfs::mounts("self").into_iter().filter(mine).collect(),
        );
        let links = if instance.is_networked() {
            instance.network_objects()
        } else {
            names(Path::new("/sys/class/net"))
        };
        parts.insert("network links", links);
        parts.insert("cgroups", cgroups(&instance.cgroup_name()));
        let processes = instance.processes();
        parts.insert("processes", processes.iter().map(label).collect());
        for (what, process) in [
            ("mounts of the daemon", instance.daemon()),
            ("mounts of the spawner", instance.spawner()),
        ] {
            let mounts = process.map(|p| procfs::mounts(&p.pid.to_string()));
            let mounts = mounts.unwrap_or_default();
            parts.insert(what, mounts.into_iter().filter(mine).collect());
        }
        for (what, process) in [
            ("descriptors of the daemon", instance.daemon()),
            ("descriptors of the spawner", instance.spawner()),
        ] {
            parts.insert(what, process.map(|p| descriptors(&p)).unwrap_or_default());
        }
        parts.insert("run directory", files(&instance.exec_root()));
        let data = instance.data_root();
        for (what, part) in [
            ("containers on disk", "containers"),
            ("staging", "staging"),
            ("volumes", "volumes"),
            ("layers", "layers"),
        ] {
            parts.insert(what, names(&data.join(part)));
        }
        for lines in parts.values_mut() {
            lines.sort();
        }
        Self { parts }
    }

    /// Leaves these headings out of the comparison.
    #[must_use]
    pub fn without(mut self, headings: &[&str]) -> Self {
        self.parts.retain(|what, _| !headings.contains(what));
        self
    }

    /// What came (`+`) and went (`-`) since `self`; empty when nothing did.
    #[must_use]
    pub fn difference(&self, after: &Self) -> String {
        let mut out = String::new();
        for (what, before) in &self.parts {
            let after = after.parts.get(what).map_or(&[][..], Vec::as_slice);
            let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
            for line in before {
                *counts.entry(line).or_default() -= 1;
            }
            for line in after {
                *counts.entry(line).or_default() += 1;
            }
            counts.retain(|_, n| *n != 0);
            if counts.is_empty() {
                continue;
            }
            let _infallible = writeln!(out, "{what}:");
            for (line, n) in counts {
                let sign = if n > 0 { '+' } else { '-' };
                let times = n.unsigned_abs();
                let _infallible = writeln!(out, "  {sign} {line} (x{times})");
            }
        }
        out
    }

    /// Waits until everything is as it was: what is removed in the background gets this long.
    ///
    /// # Errors
    /// The difference that stayed.
    pub fn settled(&self, instance: &Instance, deadline: Duration) -> Result<(), String> {
        let end = Instant::now() + deadline;
        loop {
            let difference = self.difference(&Self::now(instance));
            if difference.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(difference);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// # Panics
    /// When something stayed: with the difference and the daemon's log.
    #[track_caller]
    pub fn assert_settled(&self, instance: &Instance) {
        if let Err(difference) = self.settled(instance, Duration::from_secs(5)) {
            panic!("not as before:\n{difference}\n{}", instance.log());
        }
    }
}

/// Without the numbers of descriptors that a program may be executed through.
fn label(process: &Process) -> String {
    let words: Vec<String> = [&process.name]
        .into_iter()
        .chain(&process.command)
        .map(|w| match w.rsplit_once('/') {
            Some((dir, n)) if n.bytes().all(|b| b.is_ascii_digit()) => format!("{dir}/N"),
            None if w.bytes().all(|b| b.is_ascii_digit()) => "N".to_owned(),
            _ => w.clone(),
        })
        .collect();
    words.join(" ")
}

/// By kind: numbers of sockets and pipes differ from run to run.
fn descriptors(process: &Process) -> Vec<String> {
    process
        .descriptors()
        .into_values()
        // what reaps the trash walks through it; the first event opens the record of events; the
        // list of steps is a test's own
        .filter(|t| !t.contains("/trash") && !t.ends_with("/events.log") && !t.ends_with("/steps"))
        .map(|target| match target.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None => target,
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
    entries.flatten().map(name).collect()
}

/// Every path below a directory.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            let shown = path.strip_prefix(dir).unwrap_or(&path);
            found.push(shown.display().to_string());
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                left.push(path);
            }
        }
    }
    found
}

/// Cgroups of an instance, in every hierarchy, its own parent cgroup left out: that one may stay
/// as long as the daemon runs.
fn cgroups(name: &str) -> Vec<String> {
    parents(name)
        .iter()
        .flat_map(|p| files_dirs(p))
        .map(|p| p.display().to_string())
        .collect()
}

fn files_dirs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(files_dirs(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

/// Where the instance's parent cgroup is: below our own cgroup in each hierarchy, or at its root.
fn parents(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own: Vec<&str> = own
        .lines()
        .filter_map(|l| l.splitn(3, ':').nth(2))
        .collect();
    let mut found = Vec::new();
    let root = Path::new("/sys/fs/cgroup");
    let mut mounts: Vec<PathBuf> = names(root).iter().map(|n| root.join(n)).collect();
    mounts.push(root.to_owned());
    for mount in mounts {
        for own in &own {
            let path = mount.join(own.trim_start_matches('/')).join(name);
            if path.is_dir() && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// Removes what a failed test left, deepest first. Busy ones stay.
pub(crate) fn remove_cgroups(name: &str) {
    for parent in parents(name) {
        for dir in files_dirs(&parent) {
            let _busy = fs::remove_dir(dir);
        }
        let _busy = fs::remove_dir(parent);
    }
}
