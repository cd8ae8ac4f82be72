//! Limits, devices, freezing and killing on cgroup v2, through the engine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Instance, Snapshot, until};

use super::{DEBIAN, PATIENCE, cgroup};
use crate::{logs, post};

#[track_caller]
fn value(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

#[test]
fn limits_reach_version_2_and_can_be_changed() {
    DEBIAN.test(|| {
        let instance = Instance::with_busybox();
        let clean = Snapshot::take(&instance);
        let limits = json!({"HostConfig": {
            "Memory": 67_108_864, "MemorySwap": 134_217_728, "MemoryReservation": 33_554_432,
            "NanoCpus": 500_000_000, "CpuShares": 512, "PidsLimit": 20, "CpusetCpus": "1"
        }});
        let id = instance.create_with("limited", &["sleep", "1000"], limits);
        instance.start_container(&id);
        let dir = cgroup(&instance, &id);
        assert_eq!(value(&dir, "memory.max"), "67108864");
        assert_eq!(value(&dir, "memory.swap.max"), "67108864");
        assert_eq!(value(&dir, "memory.low"), "33554432");
        assert_eq!(value(&dir, "cpu.max"), "50000 100000");
        assert_eq!(value(&dir, "cpu.weight"), "59");
        assert_eq!(value(&dir, "pids.max"), "20");
        assert_eq!(value(&dir, "cpuset.cpus"), "1");
        let pid = instance.inspect(&id)["State"]["Pid"].to_string();
        assert_eq!(value(&dir, "cgroup.procs"), pid);
        let answer = instance.api().get(&format!("/containers/{id}/stats?stream=0&one-shot=1"));
        let stats = instance.answered(answer).ok().json();
        assert_eq!(stats["memory_stats"]["limit"], 67_108_864, "{stats}");
        assert_eq!(stats["pids_stats"]["current"], 1, "{stats}");
        assert!(stats["cpu_stats"]["cpu_usage"]["total_usage"].as_u64() > Some(0), "{stats}");
        let change = json!({"Memory": 134_217_728, "MemorySwap": 134_217_728, "NanoCpus": 250_000_000,
            "PidsLimit": 9, "CpusetCpus": "0"});
        let answer = instance.api().post(&format!("/containers/{id}/update"), &change);
        let warnings = instance.answered(answer).ok().json()["Warnings"].clone();
        assert!(warnings.as_array().is_none_or(Vec::is_empty), "{warnings}");
        assert_eq!(value(&dir, "memory.max"), "134217728");
        assert_eq!(value(&dir, "memory.swap.max"), "0");
        assert_eq!(value(&dir, "cpu.max"), "25000 100000");
        assert_eq!(value(&dir, "pids.max"), "9");
        assert_eq!(value(&dir, "cpuset.cpus"), "0");
        instance.remove(&id);
        assert!(!dir.exists());
        clean.assert_settled(&instance);
    });
}

#[test]
fn a_device_not_given_is_denied_by_the_filter() {
    DEBIAN.test(|| {
        let instance = Instance::with_busybox();
        let clean = Snapshot::take(&instance);
        // the node can be made: only the filter stands between it and the kernel's log
        let script = "mknod /k c 1 11; head -c1 /dev/zero | wc -c; \
                      head -c1 /k >/dev/null && echo read; echo hello > /k && echo wrote; true";
        let run = |name: &str, host: Value| {
            let fields = json!({"HostConfig": host});
            let id = instance.create_with(name, &["sh", "-c", script], fields);
            instance.start_container(&id);
            assert_eq!(instance.wait(&id), 0);
            let said = logs(&instance, &id);
            instance.remove(&id);
            said
        };
        assert_eq!(run("none", json!({})), "1\n");
        let rule = json!({"DeviceCgroupRules": ["c 1:11 w"]});
        assert_eq!(run("write", rule), "1\nwrote\n");
        let device = json!({"Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg",
            "CgroupPermissions": "rwm"}], "CapAdd": ["SYSLOG"]});
        assert_eq!(run("given", device), "1\nread\nwrote\n");
        clean.assert_settled(&instance);
    });
}

#[test]
fn out_of_memory_is_told() {
    DEBIAN.test(|| {
        let instance = Instance::with_busybox();
        let fields = json!({"HostConfig": {"Memory": 33_554_432, "MemorySwap": 33_554_432}});
        let id = instance.create_with("hog", &["tail", "/dev/zero"], fields);
        instance.start_container(&id);
        assert_eq!(instance.wait(&id), 137);
        assert_eq!(instance.inspect(&id)["State"]["OOMKilled"], true);
        instance.remove(&id);
    });
}

#[test]
fn pause_freezes_and_kill_leaves_nobody() {
    DEBIAN.test(|| {
        let instance = Instance::with_busybox();
        let clean = Snapshot::take(&instance);
        let script = "sleep 1000 & while :; do :; done";
        let id = instance.run("busy", &["sh", "-c", script]);
        let dir = cgroup(&instance, &id);
        until("both processes", PATIENCE, || {
            (value(&dir, "pids.current") == "2").then_some(())
        });
        post(&instance, &format!("/containers/{id}/pause")).unwrap();
        assert_eq!(instance.inspect(&id)["State"]["Status"], "paused");
        assert_eq!(value(&dir, "cgroup.freeze"), "1");
        assert!(value(&dir, "cgroup.events").contains("frozen 1"));
        let usage = || value(&dir, "cpu.stat").lines().next().map(str::to_owned);
        // what it used up to the stop is counted a little later
        let before = until("a frozen container to use no CPU", PATIENCE, || {
            let now = usage();
            std::thread::sleep(Duration::from_millis(300));
            (usage() == now).then_some(now)
        });
        post(&instance, &format!("/containers/{id}/unpause")).unwrap();
        assert_eq!(value(&dir, "cgroup.freeze"), "0");
        until("it to run again", PATIENCE, || {
            (usage() != before).then_some(())
        });
        post(&instance, &format!("/containers/{id}/pause")).unwrap();
        // killed although frozen, and its child with it
        post(&instance, &format!("/containers/{id}/kill")).unwrap();
        assert_eq!(instance.wait(&id), 137);
        instance.remove(&id);
        assert!(!dir.exists());
        clean.assert_settled(&instance);
    });
}
