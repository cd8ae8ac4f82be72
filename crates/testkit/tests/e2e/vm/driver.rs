//! systemd as the cgroup driver.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{Instance, Snapshot, until};

use super::unit::systemctl;
use super::{DEBIAN, PATIENCE};
use crate::{logs, post};

fn engine() -> Instance {
    let mut instance =
        Instance::prepared().arguments(&["--exec-opt", "native.cgroupdriver=systemd"]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    instance
}

fn unit(instance: &Instance, id: &str) -> String {
    format!("{}-{id}.scope", instance.cgroup_name())
}

fn directory(instance: &Instance, id: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/system.slice").join(unit(instance, id))
}

#[track_caller]
fn value(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

#[track_caller]
fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit])
}

fn no_unit_left(instance: &Instance) {
    let pattern = format!("{}-*", instance.cgroup_name());
    until("the units to go", PATIENCE, || {
        let left = systemctl(&["list-units", "--all", "--plain", "--no-legend", &pattern]);
        left.is_empty().then_some(())
    });
}

#[test]
fn a_container_is_a_scope_with_its_limits() {
    DEBIAN.test(|| {
        let mut instance = engine();
        let clean = Snapshot::take(&instance);
        let info = instance.answered(instance.api().get("/info")).ok().json();
        assert_eq!(info["CgroupDriver"], "systemd");
        let limits = json!({"HostConfig": {
            "Memory": 67_108_864, "MemorySwap": 134_217_728, "NanoCpus": 500_000_000,
            "CpuShares": 512, "PidsLimit": 20, "CpusetCpus": "1"
        }});
        let id = instance.create_with("limited", &["sleep", "100000"], limits);
        instance.start_container(&id);
        let (unit, dir) = (unit(&instance, &id), directory(&instance, &id));
        let pid = instance.inspect(&id)["State"]["Pid"].to_string();
        // the keeper is gone
        assert_eq!(value(&dir, "cgroup.procs"), pid);
        for (name, want) in [
            ("ActiveState", "active"),
            ("Slice", "system.slice"),
            ("Delegate", "yes"),
            ("MemoryMax", "67108864"),
            ("MemorySwapMax", "67108864"),
            ("CPUWeight", "59"),
            ("CPUQuotaPerSecUSec", "500ms"),
            ("TasksMax", "20"),
            ("AllowedCPUs", "1"),
            ("DevicePolicy", "strict"),
        ] {
            assert_eq!(property(&unit, name), want, "{name}");
        }
        let same = |memory: &str, pids: &str| {
            assert_eq!(value(&dir, "memory.max"), memory);
            assert_eq!(value(&dir, "cpu.max"), "50000 100000");
            assert_eq!(value(&dir, "cpu.weight"), "59");
            assert_eq!(value(&dir, "cpuset.cpus"), "1");
            assert_eq!(value(&dir, "pids.max"), pids);
        };
        same("67108864", "20");
        let change = json!({"Memory": 134_217_728, "MemorySwap": 134_217_728, "PidsLimit": 9});
        let answer = instance
            .api()
            .post(&format!("/containers/{id}/update"), &change);
        let _updated = instance.answered(answer).ok();
        same("134217728", "9");
        // known to systemd too, which would put back what it knows
        assert_eq!(property(&unit, "MemoryMax"), "134217728");
        assert_eq!(property(&unit, "TasksMax"), "9");
        systemctl(&["daemon-reload"]);
        same("134217728", "9");
        // adopted, frozen, thawed and ended by an engine that comes later
        instance.kill9();
        instance.start();
        post(&instance, &format!("/containers/{id}/pause")).unwrap();
        assert_eq!(value(&dir, "cgroup.freeze"), "1");
        post(&instance, &format!("/containers/{id}/unpause")).unwrap();
        post(&instance, &format!("/containers/{id}/kill")).unwrap();
        assert_eq!(instance.wait(&id), 137);
        instance.start_container(&id);
        assert_eq!(property(&unit, "TasksMax"), "9");
        instance.remove(&id);
        assert!(!dir.exists());
        no_unit_left(&instance);
        clean.assert_settled(&instance);
    });
}

/// FAILURES row "daemon-reload drops devices".
#[test]
fn a_daemon_reload_drops_no_device() {
    DEBIAN.test(|| {
        let instance = engine();
        let script = "mknod /k c 1 11; echo made; while [ ! -e /go ]; do sleep 0.1; done; \
                      echo a > /k && echo wrote; head -c1 /k > /dev/null || echo denied; \
                      head -c1 /dev/zero | wc -c; mknod /m c 1 1; head -c1 /m || echo denied";
        let host = json!({"HostConfig": {"DeviceCgroupRules": ["c 1:11 w"]}});
        let id = instance.create_with("reload", &["sh", "-c", script], host);
        instance.start_container(&id);
        until("the node", PATIENCE, || {
            logs(&instance, &id).contains("made").then_some(())
        });
        systemctl(&["daemon-reload"]);
        systemctl(&["daemon-reexec"]);
        let body = json!({"Cmd": ["touch", "/go"]});
        let exec = post_with(&instance, &format!("/containers/{id}/exec"), &body);
        let exec = exec["Id"].as_str().unwrap().to_owned();
        let _started = post_with(
            &instance,
            &format!("/exec/{exec}/start"),
            &json!({"Detach": true}),
        );
        assert_eq!(instance.wait(&id), 0);
        let said = logs(&instance, &id);
        assert_eq!(said, "made\nwrote\ndenied\n1\ndenied\n");
        instance.remove(&id);
        no_unit_left(&instance);
    });
}

fn post_with(instance: &Instance, path: &str, body: &Value) -> Value {
    let answer = instance.answered(instance.api().post(path, body)).ok();
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

#[test]
fn failed_and_out_of_memory_leave_no_unit() {
    DEBIAN.test(|| {
        let instance = engine();
        let clean = Snapshot::take(&instance);
        let id = instance.create("missing", &["/no/such/program"]);
        assert!(post(&instance, &format!("/containers/{id}/start")).is_none());
        instance.remove(&id);
        let fields = json!({"HostConfig": {"Memory": 33_554_432, "MemorySwap": 33_554_432}});
        let id = instance.create_with("hog", &["tail", "/dev/zero"], fields);
        for _ in 0..2 {
            instance.start_container(&id);
            assert_eq!(instance.wait(&id), 137);
            assert_eq!(instance.inspect(&id)["State"]["OOMKilled"], true);
        }
        instance.remove(&id);
        no_unit_left(&instance);
        clean.assert_settled(&instance);
    });
}

/// `plimsoll oci --systemd-cgroup` with these arguments.
#[track_caller]
fn oci(root: &Path, arguments: &[&str]) {
    let mut command = testkit::instance::command(testkit::instance::program());
    command
        .arg("oci")
        .arg("--root")
        .arg(root)
        .arg("--systemd-cgroup");
    // a container that is started keeps what it inherits
    command.args(arguments).stdin(std::process::Stdio::null());
    let said = root.join("said");
    command.stderr(fs::File::create(&said).unwrap());
    let status = command
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{arguments:?}: {said}");
}

#[test]
fn the_oci_command_line_takes_systemd_cgroup() {
    DEBIAN.test(|| {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        let at = bundle.to_str().unwrap();
        oci(dir.path(), &["spec", "--bundle", at]);
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/busybox", "sleep", "100000"]);
        spec["linux"]["cgroupsPath"] = json!("lab-pods.slice:lab:x");
        spec["linux"]["resources"]["pids"] = json!({"limit": 7});
        fs::write(&config, spec.to_string()).unwrap();
        oci(dir.path(), &["run", "--detach", "--bundle", at, "x"]);
        let directory = Path::new("/sys/fs/cgroup/lab.slice/lab-pods.slice/lab-x.scope");
        assert_eq!(value(directory, "pids.max"), "7");
        assert_eq!(property("lab-x.scope", "TasksMax"), "7");
        assert_eq!(property("lab-x.scope", "Slice"), "lab-pods.slice");
        oci(dir.path(), &["update", "--pids-limit", "9", "x"]);
        assert_eq!(value(directory, "pids.max"), "9");
        assert_eq!(property("lab-x.scope", "TasksMax"), "9");
        oci(dir.path(), &["delete", "--force", "x"]);
        assert!(!directory.exists());
        let left = systemctl(&["list-units", "--all", "--plain", "--no-legend", "lab-x*"]);
        assert_eq!(left, "");
    });
}
