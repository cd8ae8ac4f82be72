//! `list` and `ps`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{OciError, Runtime, State};

/// A process of a container, as `ps -ef` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub uid: u32,
    pub pid: i32,
    pub parent: i32,
    /// Controlling terminal, 0 for none.
    pub terminal: i32,
    /// CPU time used, in seconds.
    pub time: u64,
    /// Seconds since the boot at which it started.
    pub started: u64,
    pub command: String,
}

impl Runtime {
    /// All containers, by id. One that can't be read is a warning and not in the list.
    ///
    /// # Errors
    /// When the directory can't be read; one that isn't there is empty.
    pub fn list(&self) -> Result<Vec<State>, OciError> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(super::error::io("read", &self.root))?,
        };
        let mut out = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str() else { continue };
            match self.container(id) {
                Ok(container) => {
                    let uid = entry.metadata().map_or(0, |m| m.uid());
                    out.push(State {
                        owner: Some(uid.to_string()),
                        ..container.state()
                    });
                }
                // removed meanwhile, or claimed and no container yet
                Err(OciError::NotFound) => {}
                Err(e) => self.warn(format!("container {id}: {e}")),
            }
        }
        out.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(out)
    }

    /// The ids of all processes in a container, as the caller sees them: those of its cgroup, and
    /// where it has none, those of its pid namespace.
    ///
    /// # Errors
    /// When the cgroup can't be read; when it has neither.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, OciError> {
        let container = self.container(id)?;
        let Some(cgroup) = container.cgroup() else {
            let init = container.init.filter(|i| i.is_alive());
            return init.map_or(Ok(Vec::new()), |i| in_namespace_of(i.pid));
        };
        Ok(cgroup.pids()?)
    }
}

fn in_namespace_of(init: i32) -> Result<Vec<i32>, OciError> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid"));
    let path = Path::new("/proc");
    let theirs = namespace(&init.to_string()).map_err(super::error::io("read", path))?;
    if namespace("self").is_ok_and(|own| own == theirs) {
        return Err(OciError::Refused {
            what: "listing the processes of a container without a cgroup and a pid namespace of its own".to_owned(),
            why: "nothing tells them from others".to_owned(),
        });
    }
    let entries = fs::read_dir(path).map_err(super::error::io("read", path))?;
    let names = entries.flatten().map(|e| e.file_name());
    let pids = names.filter_map(|n| n.to_str()?.parse::<i32>().ok());
    let mut pids: Vec<i32> = pids
        .filter(|pid| namespace(&pid.to_string()).is_ok_and(|n| n == theirs))
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// What /proc says of a process; `None`: it is gone. source: proc_pid_stat(5).
#[must_use]
pub fn process(pid: i32) -> Option<Process> {
    const TICKS: u64 = 100;
    let path = format!("/proc/{pid}");
    let uid = fs::metadata(&path).ok()?.uid();
    let stat = fs::read_to_string(format!("{path}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |n: usize| -> Option<u64> { fields.get(n - 3)?.parse().ok() };
    let arguments = fs::read(format!("{path}/cmdline")).unwrap_or_default();
    let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let command = match arguments.trim_end() {
        // a zombie, or one of the kernel's
        "" => format!("[{name}]"),
        given => given.to_owned(),
    };
    Some(Process {
        uid,
        pid,
        parent: i32::try_from(number(4)?).ok()?,
        terminal: fields.get(4)?.parse().ok()?,
        time: (number(14)? + number(15)?) / TICKS,
        started: number(22)? / TICKS,
        command,
    })
}
