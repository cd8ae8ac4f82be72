//! What /proc says about processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A process at the moment it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Ticks since boot: with the pid it names a process for good.
    pub start_time: u64,
    pub state: char,
    pub name: String,
    /// User and system time in clock ticks, its own.
    pub ticks: u64,
    /// User and system time of its reaped children.
    pub children_ticks: u64,
    pub command: Vec<String>,
}

impl Process {
    /// Reads one process; `None` when it is gone.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name may hold spaces and parentheses: it ends at the last one
        let (open, close) = (stat.find('(')?, stat.rfind(')')?);
        let fields: Vec<&str> = stat.get(close + 2..)?.split(' ').collect();
        let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            start_time: number(19)?,
            state: fields.first()?.chars().next()?,
            name: stat.get(open + 1..close)?.to_owned(),
            ticks: number(11)? + number(12)?,
            children_ticks: number(13)? + number(14)?,
            command: command
                .split(|b| *b == 0)
                .filter(|a| !a.is_empty())
                .map(|a| String::from_utf8_lossy(a).into_owned())
                .collect(),
        })
    }

    #[must_use]
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// Still the same process, not another one with its number.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|p| p.start_time == self.start_time && !p.is_zombie())
    }

    /// Sends a signal if it is still the same process.
    pub fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            let _gone = kill_process(pid, signal);
        }
    }

    /// Whether its environment held this text when it was exec'd.
    #[must_use]
    pub fn environment_holds(&self, text: &str) -> bool {
        let environ = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        environ.split(|b| *b == 0).any(|v| v == text.as_bytes())
    }

    /// Its open descriptors and what they lead to.
    #[must_use]
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return BTreeMap::new();
        };
        entries
            .flatten()
            .filter_map(|e| {
                let number = e.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(e.path()).ok()?;
                Some((number, target.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Proportional set size in KiB.
    #[must_use]
    pub fn pss_kib(&self) -> Option<u64> {
        field_kib(&format!("/proc/{}/smaps_rollup", self.pid), "Pss:")
    }

    /// Its mount namespace, as a link's text.
    #[must_use]
    pub fn mount_namespace(&self) -> Option<String> {
        let link = fs::read_link(format!("/proc/{}/ns/mnt", self.pid)).ok()?;
        Some(link.to_string_lossy().into_owned())
    }
}

fn field_kib(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Every process of the host.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name();
            Process::read(std::str::from_utf8(name.as_bytes()).ok()?.parse().ok()?)
        })
        .collect()
}

/// A process and everything below it, itself first.
#[must_use]
pub fn tree(root: i32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = all.iter().filter(|p| p.pid == root).cloned().collect();
    let mut at = 0;
    while let Some(parent) = found.get(at).map(|p| p.pid) {
        found.extend(all.iter().filter(|p| p.parent == parent).cloned());
        at += 1;
    }
    found
}

/// Lines of a process's mountinfo without what differs from read to read.
#[must_use]
pub fn mounts(pid: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new("/proc").join(pid).join("mountinfo"));
    let mut lines: Vec<String> = text
        .unwrap_or_default()
        .lines()
        .filter_map(|l| {
            let f: Vec<&str> = l.split(' ').collect();
            let separator = f.iter().position(|w| *w == "-")?;
            Some(format!(
                "{} on {} ({})",
                f.get(separator + 2)?,
                f.get(4)?,
                f.get(separator + 1)?
            ))
        })
        .collect();
    lines.sort();
    lines
}
