//! A configuration to begin with.

use serde_json::{Value, json};

use super::SPEC_VERSION;

/// A shell with few rights in namespaces of its own; `rootless` with a user namespace in which the
/// caller is root.
#[must_use]
pub fn example(rootless: Option<(u32, u32)>) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": caps, "effective": caps, "permitted": caps
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "plimsoll",
        "mounts": mounts(rootless.is_some()),
        "linux": linux(rootless)
    })
}

fn mounts(rootless: bool) -> Value {
    let guarded = ["nosuid", "noexec", "nodev"];
    // a sysfs can be mounted by the owner of the network namespace alone, which a rootless container
    // shares with the host; the group of terminals isn't mapped
    let sys = if rootless {
        json!({
            "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]
        })
    } else {
        json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]
        })
    };
    let mut terminals = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if !rootless {
        terminals.push("gid=5");
    }
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]
        },
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": terminals},
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": guarded},
        sys,
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
        }
    ])
}

fn linux(rootless: Option<(u32, u32)>) -> Value {
    let mut out = json!({
        "namespaces": [
            {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
            {"type": "cgroup"}
        ],
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
            "/proc/scsi"
        ],
        "readonlyPaths": [
            "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
        ]
    });
    let kind = match rootless {
        Some((uid, gid)) => {
            let map = |id| json!([{"containerID": 0, "hostID": id, "size": 1}]);
            out["uidMappings"] = map(uid);
            out["gidMappings"] = map(gid);
            "user"
        }
        None => {
            out["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
            "network"
        }
    };
    if let Some(all) = out["namespaces"].as_array_mut() {
        all.push(json!({"type": kind}));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_configuration() {
        for rootless in [None, Some((1000, 1000))] {
            let spec: oci_spec::runtime::Spec = serde_json::from_value(example(rootless)).unwrap();
            assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
        }
    }
}
