//! What this runtime can do, for callers that ask before they ask for it.
//!
//! source: OCI runtime-spec 1.2 features.md.

use serde_json::{Value, json};

use crate::oci::SPEC_VERSION;

/// Options to be told of, where a plan takes them.
const MOUNT_OPTIONS: [&str; 66] = [
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
    "rrelatime",
    "rnorelatime",
    "nosilent",
    "rnosymfollow",
];

/// The document that `features` prints.
#[must_use]
pub fn features() -> Value {
    let options: Vec<&str> = MOUNT_OPTIONS
        .into_iter()
        .filter(|o| crate::plan::takes_mount_option(o))
        .collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop"
        ],
        "mountOptions": options,
        "linux": linux(),
        "annotations": {
            "dev.plimsoll.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.runc.checkpoint.enabled": "false"
        },
        "potentiallyUnsafeConfigAnnotations": []
    })
}

fn linux() -> Value {
    let there = |path: &str| std::path::Path::new(path).exists();
    let namespaces = [
        ("cgroup", "cgroup"),
        ("ipc", "ipc"),
        ("mount", "mnt"),
        ("network", "net"),
        ("pid", "pid"),
        ("time", "time"),
        ("user", "user"),
        ("uts", "uts"),
    ];
    let namespaces: Vec<&str> = namespaces
        .into_iter()
        .filter(|(_, file)| there(&format!("/proc/self/ns/{file}")))
        .map(|(name, _)| name)
        .collect();
    json!({
        "namespaces": namespaces,
        "capabilities": host::CAPABILITIES.as_slice(),
        "cgroup": {
            "v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": false
        },
        "seccomp": seccomp(),
        "apparmor": {"enabled": true},
        "selinux": {"enabled": true},
        "intelRdt": {"enabled": false},
        "mountExtensions": {"idmap": {"enabled": crate::plan::takes_mount_option("idmap")}}
    })
}

/// Actions that the compiler takes.
fn seccomp() -> Value {
    const ACTIONS: [&str; 9] = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ];
    let takes = |action: &&str| {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": action}]
        });
        serde_json::from_value(profile).is_ok_and(|p| crate::seccomp::compile(&p).is_ok())
    };
    let actions: Vec<&str> = ACTIONS.into_iter().filter(takes).collect();
    let archs = if cfg!(target_arch = "x86_64") {
        vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else {
        vec!["SCMP_ARCH_AARCH64"]
    };
    json!({
        "enabled": true,
        "actions": actions,
        "operators": [
            "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE",
            "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"
        ],
        "archs": archs,
        "knownFlags": [
            "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
        ],
        "supportedFlags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG"]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_plan_takes_is_promised() {
        let text = features().to_string();
        // the types of the specification read it
        let read: oci_spec::runtime::Features = serde_json::from_str(&text).unwrap();
        let options = read.mount_options().clone().unwrap();
        assert!(options.iter().any(|o| o == "rro"), "{options:?}");
        for o in &options {
            assert!(crate::plan::takes_mount_option(o), "{o}");
        }
    }
}
