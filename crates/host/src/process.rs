//! What this process may do, and what guards the host: read, not tried.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::facts::{LsmFacts, ProbeError, ProcessFacts, Rlimit};

/// All capabilities there are, by number. source: linux/capability.h.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const RLIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

pub(crate) fn text(path: &str) -> Result<String, ProbeError> {
    use std::io::Read;
    // /proc gives no size: room for all of it, or it is read in small pieces
    let mut text = String::with_capacity(16 << 10);
    std::fs::File::open(path)
        .and_then(|mut f| f.read_to_string(&mut text))
        .map_err(|source| ProbeError::Read {
            path: path.into(),
            source,
        })?;
    Ok(text)
}

pub(crate) fn line(path: &str) -> Result<String, ProbeError> {
    Ok(text(path)?.trim().to_owned())
}

fn names(mask: u64, last: u32) -> BTreeSet<String> {
    (0..=last.min(63))
        .filter(|n| mask & (1 << n) != 0)
        .map(|n| {
            CAPABILITIES
                .get(n as usize)
                .map_or_else(|| format!("CAP_{n}"), |s| (*s).to_owned())
        })
        .collect()
}

/// Everything about this process.
pub(crate) fn read() -> Result<ProcessFacts, ProbeError> {
    let status = text("/proc/self/status")?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let mask = |name: &str| {
        field(name)
            .and_then(|v| u64::from_str_radix(v, 16).ok())
            .unwrap_or(0)
    };
    let last_capability = line("/proc/sys/kernel/cap_last_cap")?.parse().unwrap_or(40);
    let capabilities = names(mask("CapEff"), last_capability);
    let all = names(u64::MAX, last_capability);
    let rlimits = RLIMITS
        .iter()
        .map(|(name, resource)| {
            let r = getrlimit(*resource);
            let (soft, hard) = (r.current, r.maximum);
            ((*name).to_owned(), Rlimit { soft, hard })
        })
        .collect();
    let can_raise = capabilities.contains("CAP_SYS_RESOURCE");
    Ok(ProcessFacts {
        uid: rustix::process::geteuid().as_raw(),
        missing_capabilities: all.difference(&capabilities).cloned().collect(),
        bounding: names(mask("CapBnd"), last_capability),
        capabilities,
        last_capability,
        rlimits,
        can_raise_rlimits: can_raise,
        nr_open: line("/proc/sys/fs/nr_open")
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(1 << 20),
        oom_score_adj: line("/proc/self/oom_score_adj")?.parse().unwrap_or(0),
        can_lower_oom_score: can_raise,
        no_new_privileges: field("NoNewPrivs") == Some("1"),
    })
}

/// The kernel's sets have 64 bits; those it does not know are never set.
const LAST_BIT: u32 = 63;

/// What planning reads of this process, and no more: for a process that lives for one start.
pub(crate) fn brief() -> ProcessFacts {
    ProcessFacts {
        uid: rustix::process::geteuid().as_raw(),
        // who can't be asked what it may is taken for one without rights
        capabilities: names(sys::caps::get().map_or(0, |sets| sets.effective), LAST_BIT),
        bounding: names(sys::caps::bounding(), LAST_BIT),
        last_capability: LAST_BIT,
        // a score below the own is the kernel's to refuse
        oom_score_adj: i32::MIN,
        ..ProcessFacts::default()
    }
}

/// The security modules that need a label for each container.
pub(crate) fn lsm() -> LsmFacts {
    let first = |path: &str| std::fs::read(path).ok().and_then(|b| b.first().copied());
    // An interface in securityfs is what a label is written through; the module's parameter alone
    // says "Y" also in a container where none can be set.
    let apparmor = first("/sys/module/apparmor/parameters/enabled") == Some(b'Y')
        && Path::new("/proc/self/attr/apparmor/exec").exists();
    let selinux = first("/sys/fs/selinux/enforce");
    LsmFacts {
        apparmor,
        selinux: selinux.is_some(),
        selinux_enforcing: selinux == Some(b'1'),
        landlock: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brief_facts_are_the_whole_ones() {
        let (brief, whole) = (brief(), read().unwrap());
        assert_eq!(brief.uid, whole.uid);
        assert_eq!(brief.capabilities, whole.capabilities);
        assert_eq!(brief.bounding, whole.bounding);
    }
}
