//! System calls: their numbers on each architecture, and who may make them by default.
//!
//! Numbers: Linux arch/x86/entry/syscalls, include/uapi/asm-generic/unistd.h, up to 6.18. Verdicts:
//! as strict as Docker's default profile of 2026 (moby/profiles, seccomp/default.json).

use super::compile::{Alternative, Condition, Test};

/// Linux's last system call when the table was made: what comes later is answered with ENOSYS, so
/// that programs fall back as on an older kernel instead of taking EPERM for an answer.
pub(super) const LAST_KNOWN: u32 = 470;

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Allow,
    Deny,
    /// With any of these capabilities.
    With(u64),
    /// Without CAP_SYS_ADMIN no new namespaces.
    Clone,
    /// Its flags lie in memory, where no filter can see them: without CAP_SYS_ADMIN it doesn't
    /// exist, and libraries use clone.
    Clone3,
    /// Only execution domains that don't weaken anything.
    Personality,
    /// Not AF_ALG (attack surface), not AF_VSOCK (reaches the host).
    Socket,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// x86_64, i386, x32, aarch64; [`NO`] where it doesn't exist.
    numbers: [u16; 4],
    pub(super) rule: Rule,
}

/// An architecture as the kernel names it to filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Machine {
    X86_64 = 0,
    I386 = 1,
    X32 = 2,
    Aarch64 = 3,
}

impl Machine {
    /// AUDIT_ARCH_*; x32 shares x86_64's.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The machine this program runs on and those it can run programs of.
    pub(super) fn native() -> &'static [Self] {
        if cfg!(target_arch = "aarch64") {
            &[Self::Aarch64]
        } else {
            &[Self::X86_64, Self::I386, Self::X32]
        }
    }
}

impl Entry {
    pub(super) fn number(&self, on: Machine) -> Option<u32> {
        let n = self.numbers[on as usize];
        (n != NO).then_some(u32::from(n))
    }
}

/// The entry of a name.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    let at = TABLE.binary_search_by(|e| e.name.cmp(name)).ok()?;
    TABLE.get(at)
}

impl Rule {
    /// The conditions under which the call is allowed for a set of capabilities, and the action
    /// when none of them holds; `None`: the default.
    pub(super) fn resolve(self, capabilities: u64) -> (Vec<Alternative>, Option<u32>) {
        const ALLOW: u32 = 0x7fff_0000;
        let always = || (Vec::new(), Some(ALLOW));
        let when = |index, test, value| Alternative {
            conditions: vec![Condition {
                index,
                test,
                value,
                low_word: false,
            }],
            action: ALLOW,
        };
        match self {
            Self::Allow => always(),
            Self::Deny => (Vec::new(), None),
            Self::With(any) if capabilities & any != 0 => always(),
            Self::With(_) => (Vec::new(), None),
            Self::Clone | Self::Clone3 if capabilities & SYS_ADMIN != 0 => always(),
            Self::Clone => (vec![when(0, Test::Masked(NAMESPACES), 0)], None),
            Self::Clone3 => (Vec::new(), Some(super::compile::ENOSYS)),
            Self::Personality => {
                // PER_LINUX, PER_LINUX32, both with UNAME26, and the question "which one?"
                let domains = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
                (domains.map(|d| when(0, Test::Equal, d)).into(), None)
            }
            Self::Socket => {
                const AF_ALG: u64 = 38;
                const AF_VSOCK: u64 = 40;
                // The kernel takes an int: with the upper word in the comparison, a domain of
                // 2^32 + 38 would pass as "greater than 40".
                let family = |test, value| Alternative {
                    conditions: vec![Condition {
                        index: 0,
                        test,
                        value,
                        low_word: true,
                    }],
                    action: ALLOW,
                };
                let fine = vec![
                    family(Test::Less, AF_ALG),
                    family(Test::Equal, 39),
                    family(Test::Greater, AF_VSOCK),
                ];
                (fine, None)
            }
        }
    }
}

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u64 = 0x7e02_0000;

const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_MODULE: u64 = 1 << 16;
const SYS_RAWIO: u64 = 1 << 17;
const SYS_CHROOT: u64 = 1 << 18;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_PACCT: u64 = 1 << 20;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_BOOT: u64 = 1 << 22;
const SYS_NICE: u64 = 1 << 23;
const SYS_TIME: u64 = 1 << 25;
const SYS_TTY_CONFIG: u64 = 1 << 26;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// Not on this architecture.
const NO: u16 = u16::MAX;

const ALLOW: Rule = Rule::Allow;
const DENY: Rule = Rule::Deny;
const CLONE: Rule = Rule::Clone;
const CLONE3: Rule = Rule::Clone3;
const PERSONALITY: Rule = Rule::Personality;
const SOCKET: Rule = Rule::Socket;

const fn with(capabilities: u64) -> Rule {
    Rule::With(capabilities)
}

const fn e(
    name: &'static str,
    x86_64: u16,
    i386: u16,
    x32: u16,
    aarch64: u16,
    rule: Rule,
) -> Entry {
    Entry {
        name,
        numbers: [x86_64, i386, x32, aarch64],
        rule,
    }
}

/// Sorted by name. x86_64, i386, x32 (without its bit 30), aarch64.
#[rustfmt::skip]
pub(super) const TABLE: &[Entry] = &[
    e("_llseek", NO, 140, NO, NO, ALLOW),
    e("_newselect", NO, 142, NO, NO, ALLOW),
    e("_sysctl", 156, 149, NO, NO, DENY),
    e("accept", 43, NO, 43, 202, ALLOW),
    e("accept4", 288, 364, 288, 242, ALLOW),
    e("access", 21, 33, 21, NO, ALLOW),
    e("acct", 163, 51, 163, 89, with(SYS_PACCT)),
    e("add_key", 248, 286, 248, 217, DENY),
    e("adjtimex", 159, 124, 159, 171, ALLOW),
    e("afs_syscall", 183, 137, 183, NO, DENY),
    e("alarm", 37, 27, 37, NO, ALLOW),
    e("arch_prctl", 158, 384, 158, NO, ALLOW),
    e("bdflush", NO, 134, NO, NO, DENY),
    e("bind", 49, 361, 49, 200, ALLOW),
    e("bpf", 321, 357, 321, 280, with(SYS_ADMIN | BPF)),
    e("break", NO, 17, NO, NO, DENY),
    e("brk", 12, 45, 12, 214, ALLOW),
    e("cachestat", 451, 451, 451, 451, ALLOW),
    e("capget", 125, 184, 125, 90, ALLOW),
    e("capset", 126, 185, 126, 91, ALLOW),
    e("chdir", 80, 12, 80, 49, ALLOW),
    e("chmod", 90, 15, 90, NO, ALLOW),
    e("chown", 92, 182, 92, NO, ALLOW),
    e("chown32", NO, 212, NO, NO, ALLOW),
    e("chroot", 161, 61, 161, 51, with(SYS_CHROOT)),
    e("clock_adjtime", 305, 343, 305, 266, ALLOW),
    e("clock_adjtime64", NO, 405, NO, NO, ALLOW),
    e("clock_getres", 229, 266, 229, 114, ALLOW),
    e("clock_getres_time64", NO, 406, NO, NO, ALLOW),
    e("clock_gettime", 228, 265, 228, 113, ALLOW),
    e("clock_gettime64", NO, 403, NO, NO, ALLOW),
    e("clock_nanosleep", 230, 267, 230, 115, ALLOW),
    e("clock_nanosleep_time64", NO, 407, NO, NO, ALLOW),
    e("clock_settime", 227, 264, 227, 112, with(SYS_TIME)),
    e("clock_settime64", NO, 404, NO, NO, with(SYS_TIME)),
    e("clone", 56, 120, 56, 220, CLONE),
    e("clone3", 435, 435, 435, 435, CLONE3),
    e("close", 3, 6, 3, 57, ALLOW),
    e("close_range", 436, 436, 436, 436, ALLOW),
    e("connect", 42, 362, 42, 203, ALLOW),
    e("copy_file_range", 326, 377, 326, 285, ALLOW),
    e("creat", 85, 8, 85, NO, ALLOW),
    e("create_module", 174, 127, NO, NO, DENY),
    e("delete_module", 176, 129, 176, 106, with(SYS_MODULE)),
    e("dup", 32, 41, 32, 23, ALLOW),
    e("dup2", 33, 63, 33, NO, ALLOW),
    e("dup3", 292, 330, 292, 24, ALLOW),
    e("epoll_create", 213, 254, 213, NO, ALLOW),
    e("epoll_create1", 291, 329, 291, 20, ALLOW),
    e("epoll_ctl", 233, 255, 233, 21, ALLOW),
    e("epoll_ctl_old", 214, NO, NO, NO, ALLOW),
    e("epoll_pwait", 281, 319, 281, 22, ALLOW),
    e("epoll_pwait2", 441, 441, 441, 441, ALLOW),
    e("epoll_wait", 232, 256, 232, NO, ALLOW),
    e("epoll_wait_old", 215, NO, NO, NO, ALLOW),
    e("eventfd", 284, 323, 284, NO, ALLOW),
    e("eventfd2", 290, 328, 290, 19, ALLOW),
    e("execve", 59, 11, 520, 221, ALLOW),
    e("execveat", 322, 358, 545, 281, ALLOW),
    e("exit", 60, 1, 60, 93, ALLOW),
    e("exit_group", 231, 252, 231, 94, ALLOW),
    e("faccessat", 269, 307, 269, 48, ALLOW),
    e("faccessat2", 439, 439, 439, 439, ALLOW),
    e("fadvise64", 221, 250, 221, 223, ALLOW),
    e("fadvise64_64", NO, 272, NO, NO, ALLOW),
    e("fallocate", 285, 324, 285, 47, ALLOW),
    e("fanotify_init", 300, 338, 300, 262, with(SYS_ADMIN)),
    e("fanotify_mark", 301, 339, 301, 263, ALLOW),
    e("fchdir", 81, 133, 81, 50, ALLOW),
    e("fchmod", 91, 94, 91, 52, ALLOW),
    e("fchmodat", 268, 306, 268, 53, ALLOW),
    e("fchmodat2", 452, 452, 452, 452, ALLOW),
    e("fchown", 93, 95, 93, 55, ALLOW),
    e("fchown32", NO, 207, NO, NO, ALLOW),
    e("fchownat", 260, 298, 260, 54, ALLOW),
    e("fcntl", 72, 55, 72, 25, ALLOW),
    e("fcntl64", NO, 221, NO, NO, ALLOW),
    e("fdatasync", 75, 148, 75, 83, ALLOW),
    e("fgetxattr", 193, 231, 193, 10, ALLOW),
    e("file_getattr", 468, 468, 468, 468, DENY),
    e("file_setattr", 469, 469, 469, 469, DENY),
    e("finit_module", 313, 350, 313, 273, with(SYS_MODULE)),
    e("flistxattr", 196, 234, 196, 13, ALLOW),
    e("flock", 73, 143, 73, 32, ALLOW),
    e("fork", 57, 2, 57, NO, ALLOW),
    e("fremovexattr", 199, 237, 199, 16, ALLOW),
    e("fsconfig", 431, 431, 431, 431, with(SYS_ADMIN)),
    e("fsetxattr", 190, 228, 190, 7, ALLOW),
    e("fsmount", 432, 432, 432, 432, with(SYS_ADMIN)),
    e("fsopen", 430, 430, 430, 430, with(SYS_ADMIN)),
    e("fspick", 433, 433, 433, 433, with(SYS_ADMIN)),
    e("fstat", 5, 108, 5, 80, ALLOW),
    e("fstat64", NO, 197, NO, NO, ALLOW),
    e("fstatat64", NO, 300, NO, NO, ALLOW),
    e("fstatfs", 138, 100, 138, 44, ALLOW),
    e("fstatfs64", NO, 269, NO, NO, ALLOW),
    e("fsync", 74, 118, 74, 82, ALLOW),
    e("ftime", NO, 35, NO, NO, DENY),
    e("ftruncate", 77, 93, 77, 46, ALLOW),
    e("ftruncate64", NO, 194, NO, NO, ALLOW),
    e("futex", 202, 240, 202, 98, ALLOW),
    e("futex_requeue", 456, 456, 456, 456, ALLOW),
    e("futex_time64", NO, 422, NO, NO, ALLOW),
    e("futex_wait", 455, 455, 455, 455, ALLOW),
    e("futex_waitv", 449, 449, 449, 449, ALLOW),
    e("futex_wake", 454, 454, 454, 454, ALLOW),
    e("futimesat", 261, 299, 261, NO, ALLOW),
    e("get_kernel_syms", 177, 130, NO, NO, DENY),
    e("get_mempolicy", 239, 275, 239, 236, with(SYS_NICE)),
    e("get_robust_list", 274, 312, 531, 100, ALLOW),
    e("get_thread_area", 211, 244, NO, NO, ALLOW),
    e("getcpu", 309, 318, 309, 168, ALLOW),
    e("getcwd", 79, 183, 79, 17, ALLOW),
    e("getdents", 78, 141, 78, NO, ALLOW),
    e("getdents64", 217, 220, 217, 61, ALLOW),
    e("getegid", 108, 50, 108, 177, ALLOW),
    e("getegid32", NO, 202, NO, NO, ALLOW),
    e("geteuid", 107, 49, 107, 175, ALLOW),
    e("geteuid32", NO, 201, NO, NO, ALLOW),
    e("getgid", 104, 47, 104, 176, ALLOW),
    e("getgid32", NO, 200, NO, NO, ALLOW),
    e("getgroups", 115, 80, 115, 158, ALLOW),
    e("getgroups32", NO, 205, NO, NO, ALLOW),
    e("getitimer", 36, 105, 36, 102, ALLOW),
    e("getpeername", 52, 368, 52, 205, ALLOW),
    e("getpgid", 121, 132, 121, 155, ALLOW),
    e("getpgrp", 111, 65, 111, NO, ALLOW),
    e("getpid", 39, 20, 39, 172, ALLOW),
    e("getpmsg", 181, 188, 181, NO, DENY),
    e("getppid", 110, 64, 110, 173, ALLOW),
    e("getpriority", 140, 96, 140, 141, ALLOW),
    e("getrandom", 318, 355, 318, 278, ALLOW),
    e("getresgid", 120, 171, 120, 150, ALLOW),
    e("getresgid32", NO, 211, NO, NO, ALLOW),
    e("getresuid", 118, 165, 118, 148, ALLOW),
    e("getresuid32", NO, 209, NO, NO, ALLOW),
    e("getrlimit", 97, 76, 97, 163, ALLOW),
    e("getrusage", 98, 77, 98, 165, ALLOW),
    e("getsid", 124, 147, 124, 156, ALLOW),
    e("getsockname", 51, 367, 51, 204, ALLOW),
    e("getsockopt", 55, 365, 542, 209, ALLOW),
    e("gettid", 186, 224, 186, 178, ALLOW),
    e("gettimeofday", 96, 78, 96, 169, ALLOW),
    e("getuid", 102, 24, 102, 174, ALLOW),
    e("getuid32", NO, 199, NO, NO, ALLOW),
    e("getxattr", 191, 229, 191, 8, ALLOW),
    e("getxattrat", 464, 464, 464, 464, ALLOW),
    e("gtty", NO, 32, NO, NO, DENY),
    e("idle", NO, 112, NO, NO, DENY),
    e("init_module", 175, 128, 175, 105, with(SYS_MODULE)),
    e("inotify_add_watch", 254, 292, 254, 27, ALLOW),
    e("inotify_init", 253, 291, 253, NO, ALLOW),
    e("inotify_init1", 294, 332, 294, 26, ALLOW),
    e("inotify_rm_watch", 255, 293, 255, 28, ALLOW),
    e("io_cancel", 210, 249, 210, 3, ALLOW),
    e("io_destroy", 207, 246, 207, 1, ALLOW),
    e("io_getevents", 208, 247, 208, 4, ALLOW),
    e("io_pgetevents", 333, 385, 333, 292, ALLOW),
    e("io_pgetevents_time64", NO, 416, NO, NO, ALLOW),
    e("io_setup", 206, 245, 543, 0, ALLOW),
    e("io_submit", 209, 248, 544, 2, ALLOW),
    e("io_uring_enter", 426, 426, 426, 426, DENY),
    e("io_uring_register", 427, 427, 427, 427, DENY),
    e("io_uring_setup", 425, 425, 425, 425, DENY),
    e("ioctl", 16, 54, 514, 29, ALLOW),
    e("ioperm", 173, 101, 173, NO, with(SYS_RAWIO)),
    e("iopl", 172, 110, 172, NO, with(SYS_RAWIO)),
    e("ioprio_get", 252, 290, 252, 31, ALLOW),
    e("ioprio_set", 251, 289, 251, 30, ALLOW),
    e("ipc", NO, 117, NO, NO, ALLOW),
    e("kcmp", 312, 349, 312, 272, with(SYS_PTRACE)),
    e("kexec_file_load", 320, NO, 320, 294, DENY),
    e("kexec_load", 246, 283, 528, 104, DENY),
    e("keyctl", 250, 288, 250, 219, DENY),
    e("kill", 62, 37, 62, 129, ALLOW),
    e("landlock_add_rule", 445, 445, 445, 445, ALLOW),
    e("landlock_create_ruleset", 444, 444, 444, 444, ALLOW),
    e("landlock_restrict_self", 446, 446, 446, 446, ALLOW),
    e("lchown", 94, 16, 94, NO, ALLOW),
    e("lchown32", NO, 198, NO, NO, ALLOW),
    e("lgetxattr", 192, 230, 192, 9, ALLOW),
    e("link", 86, 9, 86, NO, ALLOW),
    e("linkat", 265, 303, 265, 37, ALLOW),
    e("listen", 50, 363, 50, 201, ALLOW),
    e("listmount", 458, 458, 458, 458, ALLOW),
    e("listns", 470, 470, 470, 470, DENY),
    e("listxattr", 194, 232, 194, 11, ALLOW),
    e("listxattrat", 465, 465, 465, 465, ALLOW),
    e("llistxattr", 195, 233, 195, 12, ALLOW),
    e("lock", NO, 53, NO, NO, DENY),
    e("lookup_dcookie", 212, 253, 212, 18, with(SYS_ADMIN)),
    e("lremovexattr", 198, 236, 198, 15, ALLOW),
    e("lseek", 8, 19, 8, 62, ALLOW),
    e("lsetxattr", 189, 227, 189, 6, ALLOW),
    e("lsm_get_self_attr", 459, 459, 459, 459, with(SYS_ADMIN)),
    e("lsm_list_modules", 461, 461, 461, 461, with(SYS_ADMIN)),
    e("lsm_set_self_attr", 460, 460, 460, 460, with(SYS_ADMIN)),
    e("lstat", 6, 107, 6, NO, ALLOW),
    e("lstat64", NO, 196, NO, NO, ALLOW),
    e("madvise", 28, 219, 28, 233, ALLOW),
    e("map_shadow_stack", 453, 453, 453, 453, ALLOW),
    e("mbind", 237, 274, 237, 235, with(SYS_NICE)),
    e("membarrier", 324, 375, 324, 283, ALLOW),
    e("memfd_create", 319, 356, 319, 279, ALLOW),
    e("memfd_secret", 447, 447, 447, 447, ALLOW),
    e("migrate_pages", 256, 294, 256, 238, DENY),
    e("mincore", 27, 218, 27, 232, ALLOW),
    e("mkdir", 83, 39, 83, NO, ALLOW),
    e("mkdirat", 258, 296, 258, 34, ALLOW),
    e("mknod", 133, 14, 133, NO, ALLOW),
    e("mknodat", 259, 297, 259, 33, ALLOW),
    e("mlock", 149, 150, 149, 228, ALLOW),
    e("mlock2", 325, 376, 325, 284, ALLOW),
    e("mlockall", 151, 152, 151, 230, ALLOW),
    e("mmap", 9, 90, 9, 222, ALLOW),
    e("mmap2", NO, 192, NO, NO, ALLOW),
    e("modify_ldt", 154, 123, 154, NO, ALLOW),
    e("mount", 165, 21, 165, 40, with(SYS_ADMIN)),
    e("mount_setattr", 442, 442, 442, 442, with(SYS_ADMIN)),
    e("move_mount", 429, 429, 429, 429, with(SYS_ADMIN)),
    e("move_pages", 279, 317, 533, 239, DENY),
    e("mprotect", 10, 125, 10, 226, ALLOW),
    e("mpx", NO, 56, NO, NO, DENY),
    e("mq_getsetattr", 245, 282, 245, 185, ALLOW),
    e("mq_notify", 244, 281, 527, 184, ALLOW),
    e("mq_open", 240, 277, 240, 180, ALLOW),
    e("mq_timedreceive", 243, 280, 243, 183, ALLOW),
    e("mq_timedreceive_time64", NO, 419, NO, NO, ALLOW),
    e("mq_timedsend", 242, 279, 242, 182, ALLOW),
    e("mq_timedsend_time64", NO, 418, NO, NO, ALLOW),
    e("mq_unlink", 241, 278, 241, 181, ALLOW),
    e("mremap", 25, 163, 25, 216, ALLOW),
    e("mseal", 462, 462, 462, 462, ALLOW),
    e("msgctl", 71, 402, 71, 187, ALLOW),
    e("msgget", 68, 399, 68, 186, ALLOW),
    e("msgrcv", 70, 401, 70, 188, ALLOW),
    e("msgsnd", 69, 400, 69, 189, ALLOW),
    e("msync", 26, 144, 26, 227, ALLOW),
    e("munlock", 150, 151, 150, 229, ALLOW),
    e("munlockall", 152, 153, 152, 231, ALLOW),
    e("munmap", 11, 91, 11, 215, ALLOW),
    e("name_to_handle_at", 303, 341, 303, 264, ALLOW),
    e("nanosleep", 35, 162, 35, 101, ALLOW),
    e("newfstatat", 262, NO, 262, 79, ALLOW),
    e("nfsservctl", 180, 169, NO, 42, DENY),
    e("nice", NO, 34, NO, NO, DENY),
    e("oldfstat", NO, 28, NO, NO, DENY),
    e("oldlstat", NO, 84, NO, NO, DENY),
    e("oldolduname", NO, 59, NO, NO, DENY),
    e("oldstat", NO, 18, NO, NO, DENY),
    e("olduname", NO, 109, NO, NO, DENY),
    e("open", 2, 5, 2, NO, ALLOW),
    e("open_by_handle_at", 304, 342, 304, 265, with(DAC_READ_SEARCH)),
    e("open_tree", 428, 428, 428, 428, with(SYS_ADMIN)),
    e("open_tree_attr", 467, 467, 467, 467, DENY),
    e("openat", 257, 295, 257, 56, ALLOW),
    e("openat2", 437, 437, 437, 437, ALLOW),
    e("pause", 34, 29, 34, NO, ALLOW),
    e("perf_event_open", 298, 336, 298, 241, with(SYS_ADMIN | PERFMON)),
    e("personality", 135, 136, 135, 92, PERSONALITY),
    e("pidfd_getfd", 438, 438, 438, 438, with(SYS_PTRACE)),
    e("pidfd_open", 434, 434, 434, 434, ALLOW),
    e("pidfd_send_signal", 424, 424, 424, 424, ALLOW),
    e("pipe", 22, 42, 22, NO, ALLOW),
    e("pipe2", 293, 331, 293, 59, ALLOW),
    e("pivot_root", 155, 217, 155, 41, DENY),
    e("pkey_alloc", 330, 381, 330, 289, ALLOW),
    e("pkey_free", 331, 382, 331, 290, ALLOW),
    e("pkey_mprotect", 329, 380, 329, 288, ALLOW),
    e("poll", 7, 168, 7, NO, ALLOW),
    e("ppoll", 271, 309, 271, 73, ALLOW),
    e("ppoll_time64", NO, 414, NO, NO, ALLOW),
    e("prctl", 157, 172, 157, 167, ALLOW),
    e("pread64", 17, 180, 17, 67, ALLOW),
    e("preadv", 295, 333, 534, 69, ALLOW),
    e("preadv2", 327, 378, 546, 286, ALLOW),
    e("prlimit64", 302, 340, 302, 261, ALLOW),
    e("process_madvise", 440, 440, 440, 440, with(SYS_PTRACE)),
    e("process_mrelease", 448, 448, 448, 448, ALLOW),
    e("process_vm_readv", 310, 347, 539, 270, ALLOW),
    e("process_vm_writev", 311, 348, 540, 271, ALLOW),
    e("prof", NO, 44, NO, NO, DENY),
    e("profil", NO, 98, NO, NO, DENY),
    e("pselect6", 270, 308, 270, 72, ALLOW),
    e("pselect6_time64", NO, 413, NO, NO, ALLOW),
    e("ptrace", 101, 26, 521, 117, ALLOW),
    e("putpmsg", 182, 189, 182, NO, DENY),
    e("pwrite64", 18, 181, 18, 68, ALLOW),
    e("pwritev", 296, 334, 535, 70, ALLOW),
    e("pwritev2", 328, 379, 547, 287, ALLOW),
    e("query_module", 178, 167, NO, NO, DENY),
    e("quotactl", 179, 131, 179, 60, with(SYS_ADMIN)),
    e("quotactl_fd", 443, 443, 443, 443, with(SYS_ADMIN)),
    e("read", 0, 3, 0, 63, ALLOW),
    e("readahead", 187, 225, 187, 213, ALLOW),
    e("readdir", NO, 89, NO, NO, DENY),
    e("readlink", 89, 85, 89, NO, ALLOW),
    e("readlinkat", 267, 305, 267, 78, ALLOW),
    e("readv", 19, 145, 515, 65, ALLOW),
    e("reboot", 169, 88, 169, 142, with(SYS_BOOT)),
    e("recvfrom", 45, 371, 517, 207, ALLOW),
    e("recvmmsg", 299, 337, 537, 243, ALLOW),
    e("recvmmsg_time64", NO, 417, NO, NO, ALLOW),
    e("recvmsg", 47, 372, 519, 212, ALLOW),
    e("remap_file_pages", 216, 257, 216, 234, ALLOW),
    e("removexattr", 197, 235, 197, 14, ALLOW),
    e("removexattrat", 466, 466, 466, 466, ALLOW),
    e("rename", 82, 38, 82, NO, ALLOW),
    e("renameat", 264, 302, 264, 38, ALLOW),
    e("renameat2", 316, 353, 316, 276, ALLOW),
    e("request_key", 249, 287, 249, 218, DENY),
    e("restart_syscall", 219, 0, 219, 128, ALLOW),
    e("rmdir", 84, 40, 84, NO, ALLOW),
    e("rseq", 334, 386, 334, 293, ALLOW),
    e("rt_sigaction", 13, 174, 512, 134, ALLOW),
    e("rt_sigpending", 127, 176, 522, 136, ALLOW),
    e("rt_sigprocmask", 14, 175, 14, 135, ALLOW),
    e("rt_sigqueueinfo", 129, 178, 524, 138, ALLOW),
    e("rt_sigreturn", 15, 173, 513, 139, ALLOW),
    e("rt_sigsuspend", 130, 179, 130, 133, ALLOW),
    e("rt_sigtimedwait", 128, 177, 523, 137, ALLOW),
    e("rt_sigtimedwait_time64", NO, 421, NO, NO, ALLOW),
    e("rt_tgsigqueueinfo", 297, 335, 536, 240, ALLOW),
    e("sched_get_priority_max", 146, 159, 146, 125, ALLOW),
    e("sched_get_priority_min", 147, 160, 147, 126, ALLOW),
    e("sched_getaffinity", 204, 242, 204, 123, ALLOW),
    e("sched_getattr", 315, 352, 315, 275, ALLOW),
    e("sched_getparam", 143, 155, 143, 121, ALLOW),
    e("sched_getscheduler", 145, 157, 145, 120, ALLOW),
    e("sched_rr_get_interval", 148, 161, 148, 127, ALLOW),
    e("sched_rr_get_interval_time64", NO, 423, NO, NO, ALLOW),
    e("sched_setaffinity", 203, 241, 203, 122, ALLOW),
    e("sched_setattr", 314, 351, 314, 274, ALLOW),
    e("sched_setparam", 142, 154, 142, 118, ALLOW),
    e("sched_setscheduler", 144, 156, 144, 119, ALLOW),
    e("sched_yield", 24, 158, 24, 124, ALLOW),
    e("seccomp", 317, 354, 317, 277, ALLOW),
    e("security", 185, NO, 185, NO, DENY),
    e("select", 23, 82, 23, NO, ALLOW),
    e("semctl", 66, 394, 66, 191, ALLOW),
    e("semget", 64, 393, 64, 190, ALLOW),
    e("semop", 65, NO, 65, 193, ALLOW),
    e("semtimedop", 220, NO, 220, 192, ALLOW),
    e("semtimedop_time64", NO, 420, NO, NO, ALLOW),
    e("sendfile", 40, 187, 40, 71, ALLOW),
    e("sendfile64", NO, 239, NO, NO, ALLOW),
    e("sendmmsg", 307, 345, 538, 269, ALLOW),
    e("sendmsg", 46, 370, 518, 211, ALLOW),
    e("sendto", 44, 369, 44, 206, ALLOW),
    e("set_mempolicy", 238, 276, 238, 237, with(SYS_NICE)),
    e("set_mempolicy_home_node", 450, 450, 450, 450, with(SYS_NICE)),
    e("set_robust_list", 273, 311, 530, 99, ALLOW),
    e("set_thread_area", 205, 243, NO, NO, ALLOW),
    e("set_tid_address", 218, 258, 218, 96, ALLOW),
    e("setdomainname", 171, 121, 171, 162, with(SYS_ADMIN)),
    e("setfsgid", 123, 139, 123, 152, ALLOW),
    e("setfsgid32", NO, 216, NO, NO, ALLOW),
    e("setfsuid", 122, 138, 122, 151, ALLOW),
    e("setfsuid32", NO, 215, NO, NO, ALLOW),
    e("setgid", 106, 46, 106, 144, ALLOW),
    e("setgid32", NO, 214, NO, NO, ALLOW),
    e("setgroups", 116, 81, 116, 159, ALLOW),
    e("setgroups32", NO, 206, NO, NO, ALLOW),
    e("sethostname", 170, 74, 170, 161, with(SYS_ADMIN)),
    e("setitimer", 38, 104, 38, 103, ALLOW),
    e("setns", 308, 346, 308, 268, with(SYS_ADMIN)),
    e("setpgid", 109, 57, 109, 154, ALLOW),
    e("setpriority", 141, 97, 141, 140, ALLOW),
    e("setregid", 114, 71, 114, 143, ALLOW),
    e("setregid32", NO, 204, NO, NO, ALLOW),
    e("setresgid", 119, 170, 119, 149, ALLOW),
    e("setresgid32", NO, 210, NO, NO, ALLOW),
    e("setresuid", 117, 164, 117, 147, ALLOW),
    e("setresuid32", NO, 208, NO, NO, ALLOW),
    e("setreuid", 113, 70, 113, 145, ALLOW),
    e("setreuid32", NO, 203, NO, NO, ALLOW),
    e("setrlimit", 160, 75, 160, 164, ALLOW),
    e("setsid", 112, 66, 112, 157, ALLOW),
    e("setsockopt", 54, 366, 541, 208, ALLOW),
    e("settimeofday", 164, 79, 164, 170, with(SYS_TIME)),
    e("setuid", 105, 23, 105, 146, ALLOW),
    e("setuid32", NO, 213, NO, NO, ALLOW),
    e("setxattr", 188, 226, 188, 5, ALLOW),
    e("setxattrat", 463, 463, 463, 463, ALLOW),
    e("sgetmask", NO, 68, NO, NO, DENY),
    e("shmat", 30, 397, 30, 196, ALLOW),
    e("shmctl", 31, 396, 31, 195, ALLOW),
    e("shmdt", 67, 398, 67, 197, ALLOW),
    e("shmget", 29, 395, 29, 194, ALLOW),
    e("shutdown", 48, 373, 48, 210, ALLOW),
    e("sigaction", NO, 67, NO, NO, DENY),
    e("sigaltstack", 131, 186, 525, 132, ALLOW),
    e("signal", NO, 48, NO, NO, DENY),
    e("signalfd", 282, 321, 282, NO, ALLOW),
    e("signalfd4", 289, 327, 289, 74, ALLOW),
    e("sigpending", NO, 73, NO, NO, DENY),
    e("sigprocmask", NO, 126, NO, NO, ALLOW),
    e("sigreturn", NO, 119, NO, NO, ALLOW),
    e("sigsuspend", NO, 72, NO, NO, DENY),
    e("socket", 41, 359, 41, 198, SOCKET),
    e("socketcall", NO, 102, NO, NO, ALLOW),
    e("socketpair", 53, 360, 53, 199, ALLOW),
    e("splice", 275, 313, 275, 76, ALLOW),
    e("ssetmask", NO, 69, NO, NO, DENY),
    e("stat", 4, 106, 4, NO, ALLOW),
    e("stat64", NO, 195, NO, NO, ALLOW),
    e("statfs", 137, 99, 137, 43, ALLOW),
    e("statfs64", NO, 268, NO, NO, ALLOW),
    e("statmount", 457, 457, 457, 457, ALLOW),
    e("statx", 332, 383, 332, 291, ALLOW),
    e("stime", NO, 25, NO, NO, with(SYS_TIME)),
    e("stty", NO, 31, NO, NO, DENY),
    e("swapoff", 168, 115, 168, 225, DENY),
    e("swapon", 167, 87, 167, 224, DENY),
    e("symlink", 88, 83, 88, NO, ALLOW),
    e("symlinkat", 266, 304, 266, 36, ALLOW),
    e("sync", 162, 36, 162, 81, ALLOW),
    e("sync_file_range", 277, 314, 277, 84, ALLOW),
    e("syncfs", 306, 344, 306, 267, ALLOW),
    e("sysfs", 139, 135, 139, NO, DENY),
    e("sysinfo", 99, 116, 99, 179, ALLOW),
    e("syslog", 103, 103, 103, 116, with(SYS_ADMIN | SYSLOG)),
    e("tee", 276, 315, 276, 77, ALLOW),
    e("tgkill", 234, 270, 234, 131, ALLOW),
    e("time", 201, 13, 201, NO, ALLOW),
    e("timer_create", 222, 259, 526, 107, ALLOW),
    e("timer_delete", 226, 263, 226, 111, ALLOW),
    e("timer_getoverrun", 225, 262, 225, 109, ALLOW),
    e("timer_gettime", 224, 261, 224, 108, ALLOW),
    e("timer_gettime64", NO, 408, NO, NO, ALLOW),
    e("timer_settime", 223, 260, 223, 110, ALLOW),
    e("timer_settime64", NO, 409, NO, NO, ALLOW),
    e("timerfd_create", 283, 322, 283, 85, ALLOW),
    e("timerfd_gettime", 287, 326, 287, 87, ALLOW),
    e("timerfd_gettime64", NO, 410, NO, NO, ALLOW),
    e("timerfd_settime", 286, 325, 286, 86, ALLOW),
    e("timerfd_settime64", NO, 411, NO, NO, ALLOW),
    e("times", 100, 43, 100, 153, ALLOW),
    e("tkill", 200, 238, 200, 130, ALLOW),
    e("truncate", 76, 92, 76, 45, ALLOW),
    e("truncate64", NO, 193, NO, NO, ALLOW),
    e("tuxcall", 184, NO, 184, NO, DENY),
    e("ugetrlimit", NO, 191, NO, NO, ALLOW),
    e("ulimit", NO, 58, NO, NO, DENY),
    e("umask", 95, 60, 95, 166, ALLOW),
    e("umount", NO, 22, NO, NO, with(SYS_ADMIN)),
    e("umount2", 166, 52, 166, 39, with(SYS_ADMIN)),
    e("uname", 63, 122, 63, 160, ALLOW),
    e("unlink", 87, 10, 87, NO, ALLOW),
    e("unlinkat", 263, 301, 263, 35, ALLOW),
    e("unshare", 272, 310, 272, 97, with(SYS_ADMIN)),
    e("uprobe", 336, NO, 336, NO, DENY),
    e("uretprobe", 335, NO, 335, NO, ALLOW),
    e("uselib", 134, 86, NO, NO, DENY),
    e("userfaultfd", 323, 374, 323, 282, DENY),
    e("ustat", 136, 62, 136, NO, DENY),
    e("utime", 132, 30, 132, NO, ALLOW),
    e("utimensat", 280, 320, 280, 88, ALLOW),
    e("utimensat_time64", NO, 412, NO, NO, ALLOW),
    e("utimes", 235, 271, 235, NO, ALLOW),
    e("vfork", 58, 190, 58, NO, ALLOW),
    e("vhangup", 153, 111, 153, 58, with(SYS_TTY_CONFIG)),
    e("vm86", NO, 166, NO, NO, DENY),
    e("vm86old", NO, 113, NO, NO, DENY),
    e("vmsplice", 278, 316, 532, 75, ALLOW),
    e("vserver", 236, 273, NO, NO, DENY),
    e("wait4", 61, 114, 61, 260, ALLOW),
    e("waitid", 247, 284, 529, 95, ALLOW),
    e("waitpid", NO, 7, NO, NO, ALLOW),
    e("write", 1, 4, 1, 64, ALLOW),
    e("writev", 20, 146, 516, 66, ALLOW),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_complete() {
        assert!(TABLE.windows(2).all(|w| w[0].name < w[1].name));
        let most = TABLE.iter().filter_map(|e| e.number(Machine::X86_64)).max();
        assert_eq!(most, Some(LAST_KNOWN));
    }

    #[test]
    fn numbers_are_those_of_the_c_library() {
        let of = |n: &str| find(n).and_then(|e| e.number(Machine::native()[0]));
        for (name, number) in [
            ("read", libc::SYS_read),
            ("execveat", libc::SYS_execveat),
            ("clone3", libc::SYS_clone3),
            ("socket", libc::SYS_socket),
            ("openat2", libc::SYS_openat2),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("futex_waitv", libc::SYS_futex_waitv),
        ] {
            assert_eq!(of(name).map(i64::from), Some(number), "{name}");
        }
    }
}
