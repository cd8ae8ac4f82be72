//! The registry. Order: what the engine can't do without first.

use super::{Check, Context, Outcome, Tier};
use crate::facts::CgroupMode;

/// Every check there is.
pub const CHECKS: &[Check] = &[
    Check {
        name: "privileges",
        tier: Tier::Read,
        evidence: "capabilities(7)",
        run: privileges,
    },
    Check {
        name: "system calls",
        tier: Tier::Probe,
        evidence: "containers are held by pidfd: shims are adopted by identity, not by number",
        run: system_calls,
    },
    Check {
        name: "namespaces",
        tier: Tier::Probe,
        evidence: "RHEL/CentOS 6 (2.6.32): volume data lost",
        run: namespaces,
    },
    Check {
        name: "control groups",
        tier: Tier::Probe,
        evidence: "m#51111, runc 1.4.0: cgroup v1 is deprecated, systemd >= 258 refuses it",
        run: control_groups,
    },
    Check {
        name: "overlay",
        tier: Tier::Probe,
        evidence: "kernel 45aebeaf4f67 (ftype=0); moby overlay2/check.go",
        run: overlay,
    },
    Check {
        name: "data root file system",
        tier: Tier::Read,
        evidence: "m#35483 (NFS); m#23121 p#27134 kind#4061 (eCryptfs); gocryptfs#641 (FUSE)",
        run: file_system,
    },
    Check {
        name: "mount options",
        tier: Tier::Read,
        evidence: "kernel ext4 documentation: data=writeback, barrier; overlay: volatile",
        run: mount_options,
    },
    Check {
        name: "btrfs profiles",
        tier: Tier::Read,
        evidence: "btrfs-progs Status: RAID 5/6 is unstable",
        run: btrfs,
    },
    Check {
        name: "exact build",
        tier: Tier::Build,
        evidence: "Debian #1057843 (ext4), LWN 899420 (Ubuntu 5.13 cloud), XFS 6.3.0-6.3.3",
        run: exact_build,
    },
    Check {
        name: "direct append",
        tier: Tier::Probe,
        evidence: "Debian #1057843",
        run: direct_append,
    },
    Check {
        name: "read back",
        tier: Tier::Probe,
        evidence: "home-assistant/operating-system#4913: zero-byte files",
        run: read_back,
    },
    Check {
        name: "memory cgroup leak",
        tier: Tier::Probe,
        evidence: "r#1725 r#1857 m#37722: kernel 3.10 leaks until it panics",
        run: memory_cgroup_leak,
    },
    Check {
        name: "limits",
        tier: Tier::Probe,
        evidence: "moby check-config",
        run: limits,
    },
    Check {
        name: "seccomp",
        tier: Tier::Probe,
        evidence: "seccomp(2)",
        run: seccomp,
    },
    Check {
        name: "user namespaces",
        tier: Tier::Probe,
        evidence: "m#47480 nerdctl#2847: Ubuntu 23.10 and later want an AppArmor profile",
        run: user_namespaces,
    },
    Check {
        name: "security modules",
        tier: Tier::Read,
        evidence: "RHEL documentation: SELinux labels",
        run: security_modules,
    },
    Check {
        name: "resource limits",
        tier: Tier::Probe,
        evidence: "c#10468 #10308 m#51485: descriptors and inotify instances run out",
        run: resource_limits,
    },
    Check {
        name: "IPv4 forwarding",
        tier: Tier::Read,
        evidence: "Docker's nftables documentation",
        run: forwarding,
    },
    Check {
        name: "kernel log",
        tier: Tier::Read,
        evidence: "m#5618 #18156: unregister_netdevice: waiting for lo; disks that fail",
        run: kernel_log,
    },
    Check {
        name: "free space",
        tier: Tier::Read,
        evidence: "p#7800 m#10178 #32420",
        run: free_space,
    },
    Check {
        name: "clock",
        tier: Tier::Read,
        evidence: "certificates and logs need the time of day",
        run: clock,
    },
];

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Names of what is missing.
fn missing<'a>(wanted: &[(&'a str, bool)]) -> Vec<&'a str> {
    let gone = wanted.iter().filter(|(_, there)| !there);
    gone.map(|(name, _)| *name).collect()
}

fn privileges(c: &Context) -> Option<Outcome> {
    /// Without these no container can be made as an image asks for it.
    const NEEDED: [&str; 11] = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_ADMIN",
    ];
    let p = &c.facts.process;
    if p.uid != 0 {
        let saw = format!("runs as user {}", p.uid);
        return Some(Outcome::forbidden(
            saw,
            "run it as root: an engine without root isn't built yet",
        ));
    }
    let lacks: Vec<&str> = NEEDED.into_iter().filter(|n| !p.has(n)).collect();
    if !lacks.is_empty() {
        return Some(Outcome::forbidden(
            format!("this process lacks {}", list(lacks)),
            "give them to the service (CapabilityBoundingSet=), or run it on the host itself",
        ));
    }
    if p.missing_capabilities.is_empty() {
        return Some(Outcome::works("root with all capabilities"));
    }
    let lacks = list(p.missing_capabilities.iter().map(String::as_str));
    Some(Outcome::caveats(
        format!("root without {lacks}"),
        "nothing, unless a container asks for it: --privileged and --cap-add give what is there",
    ))
}

fn system_calls(c: &Context) -> Option<Outcome> {
    let s = &c.facts.syscalls;
    let needed = missing(&[
        ("clone3", s.clone3),
        ("pidfd_open", s.pidfd_open),
        ("pidfd_send_signal", s.pidfd_send_signal),
        ("waitid(P_PIDFD)", s.pidfd_wait),
        ("openat2", s.openat2),
        ("close_range", s.close_range),
    ]);
    if !needed.is_empty() {
        return Some(Outcome::forbidden(
            format!(
                "the kernel (or a filter around this process) refuses {}",
                list(needed)
            ),
            "use a kernel that has them (5.9 and later), or lift the filter",
        ));
    }
    let m = &c.facts.mount;
    let better = missing(&[
        ("fsopen", m.fsopen),
        ("open_tree", m.open_tree),
        ("move_mount", m.move_mount),
        ("mount_setattr", m.mount_setattr),
    ]);
    if better.is_empty() {
        return Some(Outcome::works("clone3, pidfd, openat2, the mount API"));
    }
    Some(Outcome::caveats(
        format!("no {}", list(better)),
        "nothing: the older calls are used; read-only binds are not recursive without mount_setattr",
    ))
}

fn namespaces(c: &Context) -> Option<Outcome> {
    let n = &c.facts.namespaces;
    let gone = missing(&[
        ("mount", n.mount),
        ("pid", n.pid),
        ("ipc", n.ipc),
        ("uts", n.uts),
        ("net", n.net),
    ]);
    if !gone.is_empty() {
        return Some(Outcome::forbidden(
            format!("no {} namespace", list(gone)),
            "use a kernel that has them; in a container, run it with its seccomp filter off",
        ));
    }
    let fewer = missing(&[("cgroup", n.cgroup), ("time", n.time)]);
    if fewer.is_empty() {
        return Some(Outcome::works("mount, pid, ipc, uts, net, cgroup, time"));
    }
    Some(Outcome::caveats(
        format!("no {} namespace", list(fewer)),
        "nothing: containers share the host's",
    ))
}

fn control_groups(c: &Context) -> Option<Outcome> {
    let g = &c.facts.cgroup;
    let unwritable: Vec<String> = g
        .hierarchies
        .iter()
        .filter(|h| !h.writable)
        .map(|h| h.mount.display().to_string())
        .collect();
    if g.mode == CgroupMode::None || unwritable.len() == g.hierarchies.len() {
        return Some(Outcome::forbidden(
            "no control group hierarchy that a cgroup can be made in",
            "mount cgroup2 at /sys/fs/cgroup, or delegate a cgroup to this service",
        ));
    }
    let shown = match g.mode {
        CgroupMode::V2 => return Some(Outcome::works("version 2")),
        CgroupMode::Hybrid => "version 1 with an additional version 2 hierarchy",
        CgroupMode::V1 | CgroupMode::None => "version 1",
    };
    let note = if unwritable.is_empty() {
        String::new()
    } else {
        format!("; not writable: {}", unwritable.join(", "))
    };
    Some(Outcome::caveats(
        format!("{shown}{note}"),
        "boot with systemd.unified_cgroup_hierarchy=1 when nothing on the host needs version 1",
    ))
}

fn overlay(c: &Context) -> Option<Outcome> {
    let o = &c.facts.overlay;
    if let Some(why) = &o.why_not {
        return Some(Outcome::caveats(
            format!("the vfs driver must be used: {why}"),
            "put the data root on ext4, XFS (ftype=1) or btrfs: vfs copies the whole image for \
             each container",
        ));
    }
    let defaults = missing(&[
        ("redirect_dir", !o.redirect_dir_default),
        ("metacopy", !o.metacopy_default),
    ]);
    if !defaults.is_empty() {
        return Some(Outcome::caveats(
            format!("the kernel turns {} on by default", list(defaults)),
            "nothing: the engine mounts without them; other engines' diffs are slow or wrong here",
        ));
    }
    Some(Outcome::works(
        "mount, copy-up, whiteout, opaque directory, rename, d_type tried in the data root",
    ))
}

fn file_system(c: &Context) -> Option<Outcome> {
    let kind = c.file_system.kind.as_str();
    let outcome = match kind {
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "afs" | "glusterfs" => {
            Outcome::forbidden(
                format!("the data root is on a network file system ({kind})"),
                "put the data root on a local disk; mount the share into containers as a volume",
            )
        }
        "ecryptfs" | "vfat" | "exfat" | "msdos" | "ntfs" | "ntfs3" | "fuseblk" => {
            Outcome::forbidden(
                format!("{kind} can't hold what images are made of (names, owners, links)"),
                "put the data root on ext4, XFS or btrfs",
            )
        }
        "tmpfs" | "ramfs" => Outcome::caveats(
            format!("the data root is in memory ({kind})"),
            "put the data root on a disk if anything is to survive a reboot",
        ),
        "zfs" | "bcachefs" | "overlay" | "aufs" => Outcome::caveats(
            format!("the data root is on {kind}"),
            "prefer ext4, XFS or btrfs: this one is tried by the probes, but not power-cut tested",
        ),
        k if k.starts_with("fuse") => Outcome::caveats(
            format!("the data root is on a FUSE file system ({k})"),
            "prefer a file system of the kernel: durability is up to that program",
        ),
        k => Outcome::works(k),
    };
    Some(outcome)
}

fn mount_options(c: &Context) -> Option<Outcome> {
    let o = &c.file_system.options;
    let has = |name: &str| o.iter().any(|x| x == name);
    if has("ro") {
        return Some(Outcome::forbidden(
            "the data root is mounted read-only",
            "mount it read-write; after an error, check the file system first",
        ));
    }
    let unsafe_ones = [
        "data=writeback",
        "nobarrier",
        "barrier=0",
        "volatile",
        "journal_async_commit",
    ];
    let found: Vec<&str> = unsafe_ones.into_iter().filter(|n| has(n)).collect();
    if found.is_empty() {
        return Some(Outcome::works("none that loses data"));
    }
    Some(Outcome::forbidden(
        format!("the data root is mounted with {}", list(found)),
        "mount it without: a power cut would leave files of old or random content",
    ))
}

fn btrfs(c: &Context) -> Option<Outcome> {
    if c.file_system.kind != "btrfs" {
        return None;
    }
    let bad = |p: &&String| p.starts_with("raid5") || p.starts_with("raid6");
    let found: Vec<&str> = c
        .btrfs_profiles
        .iter()
        .filter(bad)
        .map(String::as_str)
        .collect();
    if found.is_empty() {
        return Some(Outcome::works("no RAID 5/6"));
    }
    Some(Outcome::forbidden(
        format!("btrfs uses {}", list(found)),
        "convert the block groups: btrfs balance start -dconvert=raid1 -mconvert=raid1",
    ))
}

/// Builds known to corrupt or to panic. Distributions put the upstream version elsewhere, so both
/// `uname -r` and `uname -v` are looked at.
fn exact_build(c: &Context) -> Option<Outcome> {
    let words: Vec<&str> = c
        .facts
        .kernel_release
        .split(['-', '+', '_'])
        .take(1)
        .chain(c.kernel_version.split([' ', '-', '(', ')']))
        .collect();
    let is = |versions: &[&str]| words.iter().any(|w| versions.contains(w));
    let kind = c.file_system.kind.as_str();
    let release = c.facts.kernel_release.as_str();
    if kind == "ext4" && is(&["6.1.64", "6.1.65"]) {
        return Some(Outcome::forbidden(
            format!("{release}: ext4 overwrites what was just appended"),
            "update the kernel to 6.1.66 or later",
        ));
    }
    if kind == "xfs" && is(&["6.3.0", "6.3.1", "6.3.2", "6.3.3"]) {
        return Some(Outcome::forbidden(
            format!("{release}: XFS corrupts its metadata"),
            "update the kernel to 6.3.4 or later",
        ));
    }
    let panics = ["1027", "1028", "1029", "1030", "1031"]
        .iter()
        .any(|build| {
            let prefix = format!("5.13.0-{build}-");
            let flavour = release.strip_prefix(&prefix);
            flavour.is_some_and(|f| f == "aws" || f == "oracle")
        });
    if panics {
        return Some(Outcome::forbidden(
            format!("{release} panics when a container starts"),
            "update the kernel",
        ));
    }
    Some(Outcome::works(
        "not on the list of builds that corrupt or panic",
    ))
}

fn direct_append(c: &Context) -> Option<Outcome> {
    Some(match c.slow.as_ref()?.direct_append? {
        true => Outcome::works("two direct synchronous appends landed one after the other"),
        false => Outcome::forbidden(
            "a direct synchronous append overwrote the one before it",
            "update the kernel before any more is written to this file system",
        ),
    })
}

fn read_back(c: &Context) -> Option<Outcome> {
    Some(match c.slow.as_ref()?.read_back? {
        true => Outcome::works("a synced file reads back after its cache was dropped"),
        false => Outcome::forbidden(
            "a synced file read back otherwise than it was written",
            "check the disk and its cable or card: data written now is lost",
        ),
    })
}

fn memory_cgroup_leak(c: &Context) -> Option<Outcome> {
    let left = c.slow.as_ref()?.leaked_memory_cgroups?;
    if left < 100 {
        return Some(Outcome::works("200 memory cgroups made and gone"));
    }
    Some(Outcome::forbidden(
        format!("{left} of 200 memory cgroups stayed after they were removed"),
        "update the kernel, or boot with cgroup.memory=nokmem: it would panic in the end",
    ))
}

fn limits(c: &Context) -> Option<Outcome> {
    let g = &c.facts.cgroup;
    let has = |names: &[&str]| names.iter().any(|n| g.files.contains(*n));
    let gone = missing(&[
        ("memory", has(&["memory.limit_in_bytes", "memory.max"])),
        ("swap", g.swap_accounting),
        ("CPU shares", has(&["cpu.shares", "cpu.weight"])),
        ("CPU quota", g.cpu_quota),
        ("CPU sets", has(&["cpuset.cpus"])),
        ("processes", g.pids),
        (
            "devices",
            has(&["devices.allow"]) || c.facts.syscalls.bpf_cgroup_device,
        ),
        ("freezing", has(&["freezer.state", "cgroup.freeze"])),
    ]);
    if gone.is_empty() {
        return Some(Outcome::works(
            "memory, swap, CPU, CPU sets, processes, devices, freezing",
        ));
    }
    Some(Outcome::caveats(
        format!("can't be limited here: {}", list(gone)),
        "boot with swapaccount=1 or cgroup_enable=memory, or enable the controllers for this cgroup",
    ))
}

fn seccomp(c: &Context) -> Option<Outcome> {
    let s = &c.facts.seccomp;
    if s.filter && s.actions.contains("errno") {
        return Some(Outcome::works(list(s.actions.iter().map(String::as_str))));
    }
    Some(Outcome::caveats(
        "no seccomp filter can be installed",
        "use a kernel built with CONFIG_SECCOMP_FILTER; containers run unconfined until then",
    ))
}

fn user_namespaces(c: &Context) -> Option<Outcome> {
    let n = &c.facts.namespaces;
    if n.user && n.user_map {
        return Some(Outcome::works("can be made and mapped"));
    }
    let what = if n.user { "mapped" } else { "made" };
    Some(Outcome::caveats(
        format!("a user namespace can't be {what}"),
        "raise user.max_user_namespaces, or give plimsoll an AppArmor profile that allows userns; \
         only --userns needs it",
    ))
}

fn security_modules(c: &Context) -> Option<Outcome> {
    let l = &c.facts.lsm;
    let names = missing(&[
        ("AppArmor", !l.apparmor),
        ("SELinux", !l.selinux),
        ("Landlock", l.landlock.is_none()),
    ]);
    Some(Outcome::works(if names.is_empty() {
        "none that needs labels".to_owned()
    } else {
        list(names)
    }))
}

fn resource_limits(c: &Context) -> Option<Outcome> {
    let p = &c.facts.process;
    let mut notes = Vec::new();
    let files = p.rlimits.get("RLIMIT_NOFILE").and_then(|r| r.hard);
    if let Some(files) = files.filter(|n| *n < 65_536 && !p.can_raise_rlimits) {
        notes.push(format!("{files} open files at most, which can't be raised"));
    }
    let low = |name: &'static str, floor: u64| {
        let value = c.sysctls.get(name).filter(|v| **v < floor)?;
        Some(format!("{} is {value}", name.replace('/', ".")))
    };
    notes.extend(low("fs/inotify/max_user_instances", 128));
    notes.extend(low("fs/inotify/max_user_watches", 8192));
    notes.extend(low("kernel/pid_max", 32_768));
    notes.extend(low("kernel/random/entropy_avail", 128));
    if !p.can_lower_oom_score {
        notes.push("oom_score_adj can't be lowered".to_owned());
    }
    if notes.is_empty() {
        return Some(Outcome::works("files, inotify, processes, oom_score_adj"));
    }
    Some(Outcome::caveats(
        notes.join("; "),
        "give the service CAP_SYS_RESOURCE and raise the sysctls; until then containers get what \
         is there",
    ))
}

fn forwarding(c: &Context) -> Option<Outcome> {
    Some(match c.sysctls.get("net/ipv4/ip_forward")? {
        0 => Outcome::caveats(
            "net.ipv4.ip_forward is 0",
            "set it in /etc/sysctl.d for networks that reach further than this host",
        ),
        _ => Outcome::works("on"),
    })
}

fn kernel_log(c: &Context) -> Option<Outcome> {
    if c.troubles.is_empty() {
        return Some(Outcome::works("nothing of trouble since the boot"));
    }
    let said = c
        .troubles
        .iter()
        .map(|t| format!("{}: {}", t.what, t.message));
    Some(Outcome::caveats(
        said.collect::<Vec<_>>().join("; "),
        "a disk or file system: move the data root away and check it; what the kernel does not \
         release or blocks on: note the kernel's build, and start the machine anew when you can",
    ))
}

fn free_space(c: &Context) -> Option<Outcome> {
    const GIB: u64 = 1 << 30;
    let f = &c.file_system;
    let mib = f.free_bytes >> 20;
    let few_inodes = f.free_inodes.is_some_and(|n| n < 50_000);
    if f.free_bytes >= 2 * GIB && !few_inodes {
        return Some(Outcome::works(format!("{} GiB", f.free_bytes / GIB)));
    }
    let inodes = f
        .free_inodes
        .map_or(String::new(), |n| format!(", {n} inodes"));
    Some(Outcome::caveats(
        format!("{mib} MiB free in the data root{inodes}"),
        "make room: `plimsoll system prune`, or a larger disk",
    ))
}

fn clock(c: &Context) -> Option<Outcome> {
    if c.year >= 2025 {
        return Some(Outcome::works("plausible"));
    }
    Some(Outcome::caveats(
        format!("the clock says it is {}", c.year),
        "set the time, and keep it by NTP",
    ))
}
