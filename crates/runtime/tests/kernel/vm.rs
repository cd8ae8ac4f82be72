//! The other tests of this program once more, on a kernel and an init that this host isn't.

use std::time::Duration;

use testkit::vm::{Init, Lab};

/// Debian 12's kernel, with cgroup version 2 alone.
const VERSION_2: Lab = Lab {
    name: "cgroup-v2",
    kernel: "bookworm",
    init: Init::Script,
    modules: &[],
    tests: "",
    // pure ones are the same everywhere, and compare with files of the host; the crash points and
    // the races take minutes of a slow machine and are no different there. Not on that machine:
    // tmpfs with mapped ids (Linux 6.6), veth, the packages uidmap and of the file systems.
    except: &[
        "vm::",
        "plans::",
        "crash::",
        "seccomp::every_number",
        "seccomp::random",
        "escape::a_race_of_links",
        "escape::an_exec_into_a_hostile",
        "mounts::a_bind_with_mapped_ids",
        "mounts::mapped_ids_on_each",
        "namespaces::a_network_device",
        "rootless::lent_ranges",
        "rootless::ranges_that_are_not_lent",
    ],
    files: &[],
    deadline: Duration::from_secs(480),
};

#[test]
fn every_test_on_cgroup_version_2_alone() {
    let report = VERSION_2.report();
    let failed: Vec<String> = report
        .outcomes
        .iter()
        .filter(|(_, o)| o.code != 0)
        .map(|(name, o)| format!("{name}: {}\n{}", o.code, o.said))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(report.complete, "{}", report.console);
    assert!(report.outcomes.len() > 50);
}
