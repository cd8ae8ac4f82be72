//! Filters: compared with a second opinion, and on the kernel.

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use serde_json::json;

use crate::Container;
use crate::filters::{Call, Rule, decide, interpret, profile};
use runtime::SeccompChoice;
use runtime::seccomp;

use crate::filters::{ALLOW, ERRNO, I386, X86_64};

/// The default profile once more, written as a decision about one call by name.
fn reference(name: Option<&str>, caps: u64, args: [u64; 6]) -> u32 {
    const EPERM: u32 = ERRNO | 1;
    let has = |n: &str| runtime::capability::bit(n).is_some_and(|b| caps & 1 << b != 0);
    let when = |c: bool| if c { ALLOW } else { EPERM };
    let Some(name) = name else { return EPERM };
    match name {
        "socket" => {
            let family = (args[0] & 0xffff_ffff) as u32;
            when(family != 38 && family != 40)
        }
        "personality" => when([0, 8, 0x20000, 0x20008, 0xffff_ffff].contains(&args[0])),
        "clone" => when(has("SYS_ADMIN") || args[0] & 0x7e02_0000 == 0),
        "clone3" if !has("SYS_ADMIN") => ERRNO | 38,
        "bpf" => when(has("SYS_ADMIN") || has("BPF")),
        "perf_event_open" => when(has("SYS_ADMIN") || has("PERFMON")),
        "syslog" => when(has("SYS_ADMIN") || has("SYSLOG")),
        "clone3" | "fanotify_init" | "fsconfig" | "fsmount" | "fsopen" | "fspick" | "mount"
        | "mount_setattr" | "move_mount" | "open_tree" | "quotactl" | "quotactl_fd"
        | "setdomainname" | "sethostname" | "setns" | "umount2" | "unshare" | "lookup_dcookie"
        | "lsm_get_self_attr" | "lsm_set_self_attr" | "lsm_list_modules" => when(has("SYS_ADMIN")),
        "open_by_handle_at" => when(has("DAC_READ_SEARCH")),
        "reboot" => when(has("SYS_BOOT")),
        "chroot" => when(has("SYS_CHROOT")),
        "delete_module" | "init_module" | "finit_module" => when(has("SYS_MODULE")),
        "acct" => when(has("SYS_PACCT")),
        "kcmp" | "pidfd_getfd" | "process_madvise" => when(has("SYS_PTRACE")),
        "iopl" | "ioperm" => when(has("SYS_RAWIO")),
        "settimeofday" | "clock_settime" => when(has("SYS_TIME")),
        "vhangup" => when(has("SYS_TTY_CONFIG")),
        "get_mempolicy" | "mbind" | "set_mempolicy" | "set_mempolicy_home_node" => {
            when(has("SYS_NICE"))
        }
        // refused whatever the capabilities
        "_sysctl" | "add_key" | "afs_syscall" | "create_module" | "file_getattr"
        | "file_setattr" | "get_kernel_syms" | "getpmsg" | "io_uring_enter"
        | "io_uring_register" | "io_uring_setup" | "kexec_file_load" | "kexec_load" | "keyctl"
        | "listns" | "migrate_pages" | "move_pages" | "nfsservctl" | "open_tree_attr"
        | "pivot_root" | "putpmsg" | "query_module" | "request_key" | "security" | "swapoff"
        | "swapon" | "sysfs" | "tuxcall" | "uprobe" | "uselib" | "userfaultfd" | "ustat"
        | "vserver" => EPERM,
        _ => ALLOW,
    }
}

/// x86_64's names by number, from the C library's constants and the kernel's later ones: a source
/// other than the product's table.
fn names() -> Vec<Option<String>> {
    let header = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
        .expect("linux-libc-dev must be installed");
    let mut out = vec![None; 471];
    for line in header.lines() {
        let Some(rest) = line.strip_prefix("#define __NR_") else {
            continue;
        };
        let (name, n) = rest.split_once(' ').unwrap();
        out[n.trim().parse::<usize>().unwrap()] = Some(name.to_owned());
    }
    let later = [
        (335, "uretprobe"),
        (336, "uprobe"),
        (451, "cachestat"),
        (452, "fchmodat2"),
        (453, "map_shadow_stack"),
        (454, "futex_wake"),
        (455, "futex_wait"),
        (456, "futex_requeue"),
        (457, "statmount"),
        (458, "listmount"),
        (459, "lsm_get_self_attr"),
        (460, "lsm_set_self_attr"),
        (461, "lsm_list_modules"),
        (462, "mseal"),
        (463, "setxattrat"),
        (464, "getxattrat"),
        (465, "listxattrat"),
        (466, "removexattrat"),
        (467, "open_tree_attr"),
        (468, "file_getattr"),
        (469, "file_setattr"),
        (470, "listns"),
    ];
    for (n, name) in later {
        out[n] = Some(name.to_owned());
    }
    out
}

fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(8),
        Just(38),
        Just(39),
        Just(40),
        Just(41),
        Just(0x20000),
        Just(0x20008),
        Just(0xffff_ffff),
        Just(0x1_0000_0026),
        Just(0xffff_ffff_0000_0026),
        Just(0x1000_0000),
        Just(0x0100_0000),
        0..64_u64,
        any::<u64>()
    ]
}

#[test]
fn every_number_of_the_default_is_decided_as_the_reference_does() {
    let names = names();
    for caps in [
        0,
        u64::MAX,
        runtime::capability::mask_of_names(crate::harness::DEFAULT_CAPS),
    ] {
        let filter = seccomp::default_filter(caps);
        let mut most = 0;
        for (nr, name) in (0..).zip(&names) {
            for first in [0, 2, 38, 40, 0x1_0000_0026, 0x1000_0000, 0x20] {
                let args = [first, 0, 0, 0, 0, 0];
                let (got, steps) = interpret(filter.bytes(), X86_64, nr, args);
                assert_eq!(
                    got,
                    reference(name.as_deref(), caps, args),
                    "{name:?} {first:#x}"
                );
                most = most.max(steps);
            }
        }
        println!("{} instructions, at most {most} executed", filter.len());
        assert!(most < 35, "{most} instructions for one call");
    }
}

proptest! {
    #[test]
    fn random_calls_are_decided_as_the_reference_does(
        nr in 0..471_u32, caps in any::<u64>(), a in interesting(), b in any::<u64>()
    ) {
        thread_local!(static NAMES: Vec<Option<String>> = names());
        let caps = caps & 0x1ff_ffff_ffff;
        let filter = seccomp::default_filter(caps);
        let args = [a, b, b, b, b, b];
        let name = NAMES.with(|n| n[nr as usize].clone());
        let (got, _) = interpret(filter.bytes(), X86_64, nr, args);
        prop_assert_eq!(got, reference(name.as_deref(), caps, args));
    }

    /// Any rules, with any number of conditions, actions and errnos, for any call on every
    /// architecture: the compiled filter decides as a reading of the profile does.
    #[test]
    fn a_profile_is_decided_as_its_rules_say(
        default in 0..5_u8,
        rules in proptest::collection::vec(rule(), 0..8),
        calls in proptest::collection::vec(call(), 16)
    ) {
        let json = profile(default, &rules);
        let profile: LinuxSeccomp = serde_json::from_value(json).unwrap();
        let filter = seccomp::compile_once(&profile).unwrap();
        for call in &calls {
            let (got, _) = interpret(filter.bytes(), call.arch(), call.number(), call.args);
            prop_assert_eq!(got, decide(default, &rules, call), "{:?}", call);
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let condition = (0..6_usize, 0..7_u8, interesting(), interesting());
    let conditions = proptest::collection::vec(condition, 0..4);
    (
        proptest::collection::vec(0..8_usize, 1..3),
        0..7_u8,
        any::<Option<u16>>(),
        conditions,
    )
        .prop_map(|(names, action, errno, conditions)| Rule {
            names,
            action,
            errno,
            conditions,
        })
}

fn call() -> impl Strategy<Value = Call> {
    (
        0..8_usize,
        0..4_u8,
        proptest::array::uniform6(interesting()),
    )
        .prop_map(|(name, machine, args)| Call {
            name,
            machine,
            args,
        })
}

#[test]
fn other_architectures() {
    let filter = seccomp::default_filter(0);
    let at = |arch, nr| interpret(filter.bytes(), arch, nr, [0; 6]).0;
    assert_eq!(at(I386, 3), ALLOW, "i386 read");
    assert_eq!(at(I386, 21), ERRNO | 1, "i386 mount");
    assert_eq!(at(X86_64, 0x4000_0000), ALLOW, "x32 read");
    assert_eq!(at(X86_64, 0x4000_0000 + 165), ERRNO | 1, "x32 mount");
    assert_eq!(at(X86_64, 0x4000_0000 + 520), ALLOW, "x32 execve");
    assert_eq!(at(X86_64, 471), ERRNO | 38, "newer than the table");
    assert_eq!(at(X86_64, u32::MAX), ERRNO | 38);
    assert_eq!(
        at(0xc000_00b7, 63),
        0x8000_0000,
        "an architecture that isn't there"
    );
}

#[test]
fn the_kernel_agrees() {
    let script = "unshare -m true 2>&1 | grep -c 'not permitted'; mount -t tmpfs t /tmp 2>&1 | grep -c 'permission\\|permitted\\|denied'; echo works";
    let out = Container::sh(script).caps(&["CAP_SYS_CHROOT"]).run();
    assert_eq!(out.stdout, "1\n1\nworks\n", "{out:?}");
    // with CAP_SYS_ADMIN the default profile lets them through
    let out = Container::sh("mount -t tmpfs t /tmp && echo mounted")
        .caps(&["CAP_SYS_ADMIN"])
        .run();
    assert_eq!(out.stdout, "mounted\n", "{out:?}");
}

#[test]
fn a_profile_of_the_users() {
    let json = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}
        ]
    });
    let caps = 1 << 21;
    let profile = seccomp::from_docker_profile(json.to_string().as_bytes(), caps).unwrap();
    let mut c = Container::sh("mkdir /x 2>&1 | grep -ci 'not supported'; hostname other")
        .caps(&["CAP_SYS_ADMIN"]);
    c.seccomp = SeccompChoice::Filter(seccomp::compile(&profile).unwrap());
    let out = c.run();
    assert_eq!(out.stdout, "1\n", "{out:?}");
    assert_eq!(out.code, 159, "killed by SIGSYS: {out:?}");
    // the same through the spec
    let c = Container::sh("mkdir /x || echo no")
        .set("/linux/seccomp", serde_json::to_value(&profile).unwrap());
    let c = Container {
        seccomp: SeccompChoice::Spec,
        ..c
    };
    assert_eq!(c.run().stdout, "no\n");
}
