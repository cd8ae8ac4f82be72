//! FAILURES row "Version strings mislead": the facts follow what the kernel does, not its version.
//!
//! A seccomp filter in a child takes system calls away, as an older kernel or a locked-down host
//! would; the same program on the same kernel must then reach the other verdict.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::{Duration, Instant};

use host::Facts;
use sys::throwaway::{Ended, deny, spawn};

const DEADLINE: Duration = Duration::from_secs(10);

/// Facts as found by a child for which these calls answer `errno`.
fn facts_without(calls: &[libc::c_long], errno: i32) -> Facts {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let answer = dir.path().join("facts.json");
    let child = spawn(|r| {
        deny(calls, errno).expect("seccomp filters can be installed");
        let facts = Facts::probe(&root, DEADLINE).expect("the probes run");
        std::fs::write(&answer, serde_json::to_vec(&facts).unwrap()).unwrap();
        r.tell(0, 0);
    })
    .unwrap();
    let ended = child.collect(Instant::now() + 2 * DEADLINE, |_, _| {});
    assert_eq!(ended, Ended::Exited);
    assert_eq!(
        std::fs::read_dir(&root).unwrap().count(),
        0,
        "nothing is left in the data root"
    );
    serde_json::from_slice(&std::fs::read(&answer).expect("the child came to its end")).unwrap()
}

#[track_caller]
fn as_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test must run as root: it mounts"
    );
}

#[test]
fn this_host_carries_containers() {
    as_root();
    let facts = facts_without(&[libc::SYS_acct], libc::EPERM);
    assert!(facts.overlay.works, "{:?}", facts.overlay.why_not);
    assert!(facts.mount.fsopen && facts.mount.open_tree && facts.syscalls.clone3);
    assert!(facts.namespaces.mount && facts.namespaces.pid && facts.namespaces.net);
    assert!(facts.seccomp.actions.contains("errno"));
}

#[test]
fn a_kernel_without_the_mount_api_still_has_overlay() {
    as_root();
    let gone = [
        libc::SYS_fsopen,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
    ];
    let facts = facts_without(&gone, libc::ENOSYS);
    assert!(!facts.mount.fsopen && !facts.mount.open_tree && !facts.mount.mount_setattr);
    assert!(!facts.overlay.lowerdir_plus);
    assert!(facts.overlay.works, "{:?}", facts.overlay.why_not);
}

#[test]
fn without_any_mount_there_is_no_overlay_and_the_reason_is_told() {
    as_root();
    let facts = facts_without(&[libc::SYS_fsopen, libc::SYS_mount], libc::EPERM);
    assert!(!facts.overlay.works);
    let why = facts.overlay.why_not.unwrap();
    assert!(why.contains("Operation not permitted"), "{why}");
}

#[test]
fn single_calls_taken_away_are_missing_alone() {
    as_root();
    let gone = [
        libc::SYS_clone3,
        libc::SYS_pidfd_open,
        libc::SYS_openat2,
        libc::SYS_close_range,
        libc::SYS_bpf,
    ];
    let facts = facts_without(&gone, libc::ENOSYS);
    assert!(!facts.syscalls.clone3 && !facts.cgroup.clone_into_cgroup);
    assert!(!facts.syscalls.pidfd_open && !facts.syscalls.openat2);
    assert!(!facts.syscalls.close_range && !facts.syscalls.bpf_cgroup_device);
    assert!(facts.overlay.works && facts.syscalls.memfd_sealed);
    let finding = facts.finding("syscall.openat2").unwrap();
    assert!(
        finding.answer.contains("not implemented"),
        "{}",
        finding.answer
    );
}

#[test]
fn namespaces_taken_away_are_missing() {
    as_root();
    // the calls that make namespaces: taken away as some container hosts do
    let facts = facts_without(&[libc::SYS_unshare], libc::EPERM);
    assert!(!facts.namespaces.user && !facts.namespaces.net && !facts.mount.idmapped);
    let finding = facts.finding("namespace.net").unwrap();
    assert!(finding.answer.contains("not permitted"), "{finding:?}");
}

#[test]
fn the_cache_counts_for_the_same_process_only() {
    as_root();
    let dir = tempfile::tempdir().unwrap();
    let (data, exec) = (dir.path().join("data"), dir.path().join("exec"));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(&exec).unwrap();
    let first = Facts::load_or_probe(&data, &exec, DEADLINE).unwrap();
    let before = Instant::now();
    assert_eq!(Facts::load_or_probe(&data, &exec, DEADLINE).unwrap(), first);
    let cached = before.elapsed();
    assert!(cached < Duration::from_millis(100), "{cached:?}");
    // the same cache read under a filter must be ignored
    let child = spawn(|r| {
        deny(&[libc::SYS_openat2], libc::ENOSYS).expect("seccomp filters can be installed");
        let facts = Facts::load_or_probe(&data, &exec, DEADLINE).expect("the probes run");
        r.tell(0, i32::from(facts.syscalls.openat2));
    })
    .unwrap();
    let mut openat2 = None;
    child.collect(Instant::now() + 2 * DEADLINE, |_, v| openat2 = Some(v));
    assert_eq!(openat2, Some(0));
}

#[test]
fn the_verdict_follows_what_the_kernel_answers() {
    use host::doctor::{Context, Depth, Verdict, examine};
    as_root();
    let verdict = |calls: &[libc::c_long]| {
        let facts = facts_without(calls, libc::ENOSYS);
        // the data root of the probes is gone by now
        let facts = Facts {
            data_root: std::env::temp_dir(),
            ..facts
        };
        examine(&Context::gather(&facts, Depth::Quick).unwrap())
    };
    let as_it_is = verdict(&[libc::SYS_acct]);
    assert!(as_it_is.verdict < Verdict::Forbidden, "{}", as_it_is.text());
    for needed in [libc::SYS_clone3, libc::SYS_pidfd_open, libc::SYS_openat2] {
        let without = verdict(&[needed]);
        assert!(without.is_forbidden(), "{}", without.text());
    }
    let older = verdict(&[libc::SYS_mount_setattr, libc::SYS_fsopen]);
    assert_eq!(older.verdict, Verdict::Caveats, "{}", older.text());
    assert!(older.text().contains("no fsopen, mount_setattr"));
}
