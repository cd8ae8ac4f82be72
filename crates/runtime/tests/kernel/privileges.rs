//! Capabilities, users, limits, no_new_privs.

use serde_json::json;

use crate::Container;
use crate::harness::DEFAULT_CAPS;
use runtime::SeccompChoice;

fn status(c: &Container, field: &str) -> String {
    let out = c.run();
    let line = out.stdout.lines().find(|l| l.starts_with(field));
    line.unwrap_or_else(|| panic!("{out:?}"))
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned()
}

#[test]
fn default_capabilities() {
    let c = || Container::new(&["cat", "/proc/self/status"]);
    let mask = format!("{:016x}", runtime::capability::mask_of_names(DEFAULT_CAPS));
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(status(&c(), set), mask, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(status(&c(), set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&c(), "Seccomp:"), "2");
    assert_eq!(status(&c(), "NoNewPrivs:"), "0");
}

#[test]
fn a_user_other_than_root_has_only_ambient_capabilities() {
    let c = || {
        Container::new(&["cat", "/proc/self/status"]).set(
            "/process/user",
            json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}),
        )
    };
    assert_eq!(status(&c(), "CapEff:"), "0000000000000000");
    assert_eq!(status(&c(), "Uid:"), "1000");
    assert_eq!(status(&c(), "Gid:"), "1001");
    let out = c().run().stdout;
    let groups = out.lines().find(|l| l.starts_with("Groups:")).unwrap();
    assert_eq!(groups.trim_end(), "Groups:\t5 6");
    let ambient = c()
        .set(
            "/process/capabilities/inheritable",
            json!(["CAP_NET_BIND_SERVICE"]),
        )
        .set(
            "/process/capabilities/ambient",
            json!(["CAP_NET_BIND_SERVICE"]),
        );
    assert_eq!(status(&ambient, "CapEff:"), "0000000000000400");
}

#[test]
fn no_new_privileges() {
    let c = Container::new(&["cat", "/proc/self/status"])
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(status(&c, "NoNewPrivs:"), "1");
    assert_eq!(status(&c, "Seccomp:"), "2");
}

#[test]
fn a_capability_that_cannot_be_given_is_a_warning() {
    let mut c = Container::sh("true").caps(&["CAP_KILL", "CAP_CHOWN"]);
    c.facts = crate::harness::facts().clone();
    c.facts.process.bounding.remove("CAP_KILL");
    let plan = c.plan().unwrap();
    let warnings = plan.warnings().join(" ");
    assert!(
        warnings.contains("KILL") && !warnings.contains("CHOWN"),
        "{warnings}"
    );
}

#[test]
fn privileged_gets_what_the_host_has() {
    let all: Vec<String> = crate::harness::facts()
        .process
        .bounding
        .iter()
        .cloned()
        .collect();
    let mut c = Container::new(&["cat", "/proc/self/status"])
        .caps(
            &all.iter()
                .map(String::as_str)
                .chain(["CAP_SYS_RESOURCE"])
                .collect::<Vec<_>>(),
        )
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set(
            "/linux/resources/devices",
            json!([{"allow": true, "access": "rwm"}]),
        );
    c.seccomp = SeccompChoice::Unconfined;
    let mask = runtime::capability::mask_of_names(all.iter().map(String::as_str));
    assert_eq!(status(&c, "CapEff:"), format!("{mask:016x}"));
    assert_eq!(status(&c, "Seccomp:"), "0");
}

#[test]
fn rlimits() {
    let limits = |soft: u64, hard: u64| {
        Container::sh("ulimit -Sn; ulimit -Hn; ulimit -Sc").set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
            ]),
        )
    };
    assert_eq!(limits(100, 200).run().stdout, "100\n200\n0\n");
    // A default above what this host can give is cut; one the user named is refused by name.
    if crate::harness::facts().process.can_raise_rlimits {
        return;
    }
    let much = 1 << 30;
    let out = limits(much, much).run();
    assert_eq!(out.code, 0, "{out:?}");
    let mut named = limits(much, much);
    named.asked.rlimits = vec![oci_spec::runtime::PosixRlimitType::RlimitNofile];
    let why = named.fails();
    assert!(
        why.contains("RLIMIT_NOFILE") && why.ends_with("(125)"),
        "{why}"
    );
}

#[test]
fn oom_score() {
    let score = |n: i32| {
        Container::new(&["cat", "/proc/self/oom_score_adj"]).set("/process/oomScoreAdj", json!(n))
    };
    assert_eq!(score(321).run().stdout, "321\n");
    if crate::harness::facts().process.can_lower_oom_score {
        return;
    }
    // a refused default is skipped, a wish isn't
    assert_eq!(score(-500).run().code, 0);
    let mut wish = score(-500);
    wish.asked.oom_score_adj = true;
    let why = wish.fails();
    assert!(why.contains("oom_score_adj"), "{why}");
}

#[test]
fn stdio_belongs_to_the_user() {
    let out = Container::sh("echo through > /dev/stdout; echo err > /dev/stderr")
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .run();
    assert_eq!(
        (out.stdout.as_str(), out.stderr.as_str()),
        ("through\n", "err\n")
    );
}

#[test]
fn umask_and_devices_are_limited() {
    let out = Container::sh("umask; mknod /tmp/mem c 1 1 && head -c1 /tmp/mem || echo refused")
        .in_cgroup()
        .run();
    assert_eq!(out.stdout, "0022\nrefused\n", "{out:?}");
}
