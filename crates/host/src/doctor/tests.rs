use super::Finding;
use super::*;
use crate::facts::*;
use std::collections::{BTreeMap, BTreeSet};

/// A modern host on which everything works.
#[expect(clippy::too_many_lines, reason = "one value, field by field")]
fn good() -> Context {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let facts = Facts {
        probe_version: 1,
        boot_id: "boot".to_owned(),
        kernel_release: "6.12.1".to_owned(),
        data_root: "/var/lib/plimsoll".into(),
        cgroup: CgroupFacts {
            mode: CgroupMode::V2,
            hierarchies: vec![CgroupHierarchy {
                version: CgroupVersion::V2,
                mount: "/sys/fs/cgroup".into(),
                own: "/sys/fs/cgroup/system.slice".into(),
                controllers: vec!["memory".to_owned()],
                writable: true,
            }],
            files: set(&[
                "memory.max",
                "memory.swap.max",
                "cpu.weight",
                "cpu.max",
                "cpuset.cpus",
                "pids.max",
                "cgroup.freeze",
                "cgroup.kill",
            ]),
            clone_into_cgroup: true,
            kill: true,
            swap_accounting: true,
            pids: true,
            cpu_quota: true,
            systemd: true,
        },
        overlay: OverlayFacts {
            works: true,
            ..OverlayFacts::default()
        },
        mount: MountFacts {
            fsopen: true,
            move_mount: true,
            open_tree: true,
            mount_setattr: true,
            ..MountFacts::default()
        },
        namespaces: NamespaceFacts {
            mount: true,
            pid: true,
            ipc: true,
            uts: true,
            net: true,
            user: true,
            user_map: true,
            cgroup: true,
            time: true,
        },
        seccomp: SeccompFacts {
            filter: true,
            actions: set(&["errno", "allow"]),
            ..SeccompFacts::default()
        },
        lsm: LsmFacts::default(),
        syscalls: SyscallFacts {
            clone3: true,
            pidfd_open: true,
            pidfd_send_signal: true,
            pidfd_wait: true,
            close_range: true,
            openat2: true,
            bpf_cgroup_device: true,
            ..SyscallFacts::default()
        },
        process: ProcessFacts {
            capabilities: set(&[
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
            ]),
            can_raise_rlimits: true,
            can_lower_oom_score: true,
            ..ProcessFacts::default()
        },
        findings: Vec::new(),
    };
    Context {
        facts,
        file_system: FileSystem {
            kind: "ext4".to_owned(),
            source: "/dev/sda1".to_owned(),
            options: vec!["rw".to_owned(), "relatime".to_owned()],
            free_bytes: 100 << 30,
            free_inodes: Some(1_000_000),
        },
        kernel_version: "#1 SMP Debian 6.12.1-1 (2026-01-01)".to_owned(),
        sysctls: BTreeMap::from([("net/ipv4/ip_forward", 1)]),
        btrfs_profiles: Vec::new(),
        year: 2026,
        troubles: Vec::new(),
        slow: Some(Slow {
            direct_append: Some(true),
            read_back: Some(true),
            leaked_memory_cgroups: Some(0),
        }),
    }
}

/// The finding of the one check that isn't fine.
#[track_caller]
fn only(context: &Context) -> Finding {
    let report = examine(context);
    let worse: Vec<_> = report
        .findings
        .into_iter()
        .filter(|f| f.verdict != Verdict::Works)
        .collect();
    assert_eq!(worse.len(), 1, "{worse:?}");
    assert!(!worse[0].advice.is_empty(), "{worse:?}");
    worse.into_iter().next().unwrap()
}

#[test]
fn a_good_host_works() {
    let report = examine(&good());
    assert_eq!(report.verdict, Verdict::Works, "{}", report.text());
    assert!(report.findings.len() >= 15);
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = CHECKS.iter().map(|c| c.name).collect();
    assert_eq!(names.len(), CHECKS.len());
}

/// HOSTS rows that a change of one thing must turn.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_row_of_the_host_matrix() {
    type Change = fn(&mut Context);
    let rows: [(&str, Verdict, Change); 23] = [
        ("overlay", Verdict::Caveats, |c| {
            c.facts.overlay.works = false;
            c.facts.overlay.why_not = Some("no d_type".to_owned());
        }),
        ("namespaces", Verdict::Forbidden, |c| {
            c.facts.namespaces.pid = false
        }),
        ("namespaces", Verdict::Caveats, |c| {
            c.facts.namespaces.time = false
        }),
        ("memory cgroup leak", Verdict::Forbidden, |c| {
            c.slow.as_mut().unwrap().leaked_memory_cgroups = Some(200);
        }),
        ("direct append", Verdict::Forbidden, |c| {
            c.slow.as_mut().unwrap().direct_append = Some(false);
        }),
        ("read back", Verdict::Forbidden, |c| {
            c.slow.as_mut().unwrap().read_back = Some(false);
        }),
        ("data root file system", Verdict::Forbidden, |c| {
            c.file_system.kind = "nfs4".to_owned();
        }),
        ("data root file system", Verdict::Forbidden, |c| {
            c.file_system.kind = "ecryptfs".to_owned();
        }),
        ("data root file system", Verdict::Caveats, |c| {
            c.file_system.kind = "fuse.gocryptfs".to_owned();
        }),
        ("mount options", Verdict::Forbidden, |c| {
            c.file_system.options.push("data=writeback".to_owned());
        }),
        ("mount options", Verdict::Forbidden, |c| {
            c.file_system.options.push("nobarrier".to_owned());
        }),
        ("btrfs profiles", Verdict::Forbidden, |c| {
            c.file_system.kind = "btrfs".to_owned();
            c.btrfs_profiles = vec!["raid6".to_owned()];
        }),
        ("exact build", Verdict::Forbidden, |c| {
            c.facts.kernel_release = "6.1.0-14-amd64".to_owned();
            c.kernel_version = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.64-1 (2023-11-30)".to_owned();
        }),
        ("exact build", Verdict::Forbidden, |c| {
            c.facts.kernel_release = "5.13.0-1029-aws".to_owned();
        }),
        ("control groups", Verdict::Caveats, |c| {
            c.facts.cgroup.mode = CgroupMode::V1
        }),
        ("control groups", Verdict::Forbidden, |c| {
            c.facts.cgroup.mode = CgroupMode::None;
            c.facts.cgroup.hierarchies.clear();
        }),
        ("limits", Verdict::Caveats, |c| {
            c.facts.cgroup.swap_accounting = false
        }),
        ("IPv4 forwarding", Verdict::Caveats, |c| {
            c.sysctls.insert("net/ipv4/ip_forward", 0);
        }),
        ("kernel log", Verdict::Caveats, |c| {
            c.troubles = vec![crate::Trouble {
                what: "network device not released",
                message: "unregister_netdevice: waiting for lo to become free".to_owned(),
            }];
        }),
        ("user namespaces", Verdict::Caveats, |c| {
            c.facts.namespaces.user_map = false
        }),
        ("resource limits", Verdict::Caveats, |c| {
            c.sysctls.insert("fs/inotify/max_user_instances", 64);
        }),
        ("privileges", Verdict::Forbidden, |c| {
            c.facts.process.uid = 1000
        }),
        ("system calls", Verdict::Forbidden, |c| {
            c.facts.syscalls.pidfd_open = false
        }),
    ];
    for (name, verdict, change) in rows {
        let mut context = good();
        change(&mut context);
        let finding = only(&context);
        assert_eq!((finding.check, finding.verdict), (name, verdict));
        assert_eq!(examine(&context).verdict, verdict);
    }
}

#[test]
fn the_same_build_on_another_file_system_is_fine() {
    let mut context = good();
    context.facts.kernel_release = "6.1.64".to_owned();
    context.file_system.kind = "xfs".to_owned();
    assert_eq!(examine(&context).verdict, Verdict::Works);
}

#[test]
fn text_says_what_to_do() {
    let mut context = good();
    context.file_system.options.push("nobarrier".to_owned());
    let text = examine(&context).text();
    let head: Vec<&str> = text.lines().take(5).collect();
    insta::assert_snapshot!(head.join("\n"), @r"
    verdict: forbidden (kernel 6.12.1, ext4 at /var/lib/plimsoll)

    forbidden  mount options: the data root is mounted with nobarrier
               do: mount it without: a power cut would leave files of old or random content
               see: kernel ext4 documentation: data=writeback, barrier; overlay: volatile
    ");
}
