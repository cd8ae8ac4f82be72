//! The whole engine on a disk whose power fails: what its API had acknowledged is there.
//! FAILURES: corruption after power loss, zero-length files; volume loss. P1.
//!
//! Every crash state is looked at through the store; some also by an engine that is started on it.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the message")]

use std::fs;
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::json;
use store::{OpenOptions, Store};
use testkit::image::{BUSYBOX, Image};
use testkit::powercut::{FileSystem, Marks, enter_private_namespace, record};
use testkit::{Instance, needs_root};

/// What a program in a container wrote into the volume and synced, and told nobody but us.
const WRITTEN: &str = "kept whatever happens\n";
const SUBNET: &str = "10.99.0.0/24";
const PROGRAM: &str = "echo kept whatever happens | dd of=/data/file conv=fsync";

/// Puts the lab's disk under the data root of an instance.
struct OnDisk<'a> {
    instance: &'a mut Instance,
}

impl<'a> OnDisk<'a> {
    fn start(instance: &'a mut Instance, disk: &Path) -> Self {
        let data = disk.join("data");
        fs::create_dir_all(&data).unwrap();
        mount_bind(&data, instance.data_root()).unwrap();
        instance.start();
        Self { instance }
    }

    fn end(self) {
        self.instance.stop();
        testkit::until(
            "the data root to be let go",
            std::time::Duration::from_secs(10),
            || unmount(self.instance.data_root(), UnmountFlags::empty()).ok(),
        );
    }
}

/// The machine's boot id, as processes of this mount namespace see it: a power cut changes it.
struct Boot {
    file: tempfile::NamedTempFile,
}

impl Boot {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        mount_bind(file.path(), "/proc/sys/kernel/random/boot_id").unwrap();
        let boot = Self { file };
        boot.set("11111111-1111-4111-8111-111111111111");
        boot
    }

    fn again(&self) {
        self.set("22222222-2222-4222-8222-222222222222");
    }

    fn set(&self, id: &str) {
        fs::write(self.file.path(), format!("{id}\n")).unwrap();
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _gone = unmount("/proc/sys/kernel/random/boot_id", UnmountFlags::DETACH);
    }
}

/// What is done, each step acknowledged in the log when the API has answered.
fn workload(instance: &Instance, marks: &Marks) {
    let post = |path: &str, body: &serde_json::Value| {
        instance
            .answered(instance.api().post(path, body))
            .ok()
            .json()
    };
    instance.load(&Image::busybox().unwrap());
    marks.acknowledge("image");
    post("/volumes/create", &json!({"Name": "data"}));
    marks.acknowledge("volume");
    for name in ["mine", "short"] {
        let subnet = json!([{"Subnet": if name == "mine" { SUBNET } else { "10.98.0.0/24" }}]);
        post(
            "/networks/create",
            &json!({"Name": name, "IPAM": {"Config": subnet}}),
        );
    }
    marks.acknowledge("networks");
    instance
        .answered(instance.api().delete("/networks/short"))
        .ok();
    marks.acknowledge("network removed");
    let bind = json!({"HostConfig": {"Binds": ["data:/data"], "NetworkMode": "mine"}});
    let writer = instance.create_with("writer", &["sh", "-c", PROGRAM], bind.clone());
    marks.acknowledge("created");
    instance.start_container(&writer);
    assert_eq!(instance.wait(&writer), 0);
    marks.acknowledge("written");
    let fails = instance.create_with("fails", &["sh", "-c", "exit 7"], json!({}));
    instance.start_container(&fails);
    assert_eq!(instance.wait(&fails), 7);
    marks.acknowledge("failed");
    post(
        &format!("/commit?container={writer}&repo=committed&tag=1"),
        &json!({}),
    );
    marks.acknowledge("committed");
    post(
        &format!("/images/{BUSYBOX}/tag?repo=other&tag=2"),
        &json!({}),
    );
    marks.acknowledge("tagged");
    instance.remove(&fails);
    marks.acknowledge("removed");
    post(
        &format!("/containers/{writer}/rename?name=renamed"),
        &json!({}),
    );
    marks.acknowledge("renamed");
}

/// Through the store.
fn look(disk: &Path, marks: &[&str]) -> Result<(), String> {
    let options = OpenOptions {
        boot_id: Some("after the power cut".to_owned()),
        manual: true,
        ..OpenOptions::default()
    };
    let opened = Store::open(&disk.join("data"), &options);
    let (store, report) = opened.map_err(|e| e.to_string())?;
    if report.rebuilt.is_some() || !report.quarantined.is_empty() {
        return Err(format!("{report:?}"));
    }
    let has = |what: &str| marks.contains(&what);
    for (mark, name) in [
        ("image", BUSYBOX),
        ("committed", "committed:1"),
        ("tagged", "other:2"),
    ] {
        if has(mark) {
            let layers = store
                .rootfs_layers(name)
                .map_err(|e| format!("{name}: {e}"))?;
            let busybox = layers.iter().map(|l| l.join("bin/busybox"));
            let found = busybox.filter_map(|p| fs::read(p).ok()).next();
            if found != fs::read("/bin/busybox").ok() {
                return Err(format!("{name}: its busybox isn't the one loaded"));
            }
        }
    }
    let report = store.fsck(false).map_err(|e| e.to_string())?;
    if report.problems.iter().any(|p| p.kind != "orphan") {
        return Err(report.to_string());
    }
    if has("volume") {
        store.volume("data").map_err(|e| e.to_string())?;
    }
    let networks = store.networks().map_err(|e| e.to_string())?;
    let network = |name: &str| networks.iter().find(|n| n.name == name);
    if has("networks") && network("mine").is_none_or(|n| !n.document.contains(SUBNET)) {
        return Err(format!("the network is gone: {networks:?}"));
    }
    if has("network removed") && network("short").is_some() {
        return Err("the removed network is back".to_owned());
    }
    if has("written") {
        let file = fs::read_to_string(store.volume_dir("data").join("file"));
        if file.as_deref().ok() != Some(WRITTEN) {
            return Err(format!("the volume's file: {file:?}"));
        }
    }
    let names: Vec<String> = store
        .containers()
        .map_err(|e| e.to_string())?
        .into_iter()
        .flatten()
        .map(|c| c.name)
        .collect();
    let expected = [
        ("writer", has("created") && !has("removed")),
        ("fails", has("failed") && !has("committed")),
        ("renamed", has("renamed")),
    ];
    for (name, there) in expected {
        if there && !names.iter().any(|n| n == name) {
            return Err(format!("container {name} is gone: {names:?}"));
        }
    }
    if has("removed") && names.iter().any(|n| n == "fails") {
        return Err("the removed container is back".to_owned());
    }
    Ok(())
}

/// Through an engine.
fn ask(disk: &Path, marks: &[&str]) -> Result<(), String> {
    let mut instance = Instance::prepared_networked();
    let engine = OnDisk::start(&mut instance, disk);
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        questions(engine.instance, marks);
    }));
    engine.instance.remove_all();
    engine.end();
    asked.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| "the engine doesn't answer as it should".to_owned())
    })
}

fn questions(instance: &Instance, marks: &[&str]) {
    let has = |what: &str| marks.contains(&what);
    if has("written") {
        let name = if has("renamed") { "renamed" } else { "writer" };
        if !has("removed") || has("renamed") {
            let state = &instance.inspect(name)["State"];
            assert_eq!(
                (&state["Status"], &state["ExitCode"]),
                (&json!("exited"), &json!(0))
            );
        }
        let bind = json!({"HostConfig": {"Binds": ["data:/data"], "NetworkMode": "mine"}});
        let test = format!("test \"$(cat /data/file)\" = '{}'", WRITTEN.trim());
        let reader = instance.create_with("reader", &["sh", "-c", &test], bind);
        instance.start_container(&reader);
        assert_eq!(instance.wait(&reader), 0, "{}", instance.log());
    }
    if has("failed") && !has("committed") {
        assert_eq!(instance.inspect("fails")["State"]["ExitCode"], 7);
    }
    if has("image") {
        assert_eq!(instance.wait(&instance.run("again", &["true"])), 0);
    }
}

fn survives(file_system: FileSystem) {
    needs_root();
    enter_private_namespace().unwrap();
    let boot = Boot::new();
    let recording = record(file_system, |disk, marks| {
        let mut instance = Instance::prepared_networked();
        let engine = OnDisk::start(&mut instance, disk);
        workload(engine.instance, marks);
        engine.end();
    })
    .unwrap();
    let crashes = recording.crashes(60, 3);
    boot.again();
    let mut state = 0;
    let outcome = recording
        .replay(&crashes, |disk, marks| {
            state += 1;
            // the engine's own recovery where it begins from what the crash left
            if state % 8 == 0 {
                ask(disk, marks)
            } else {
                look(disk, marks)
            }
        })
        .unwrap();
    assert!(outcome.states >= 60, "{}", outcome.states);
    assert!(
        outcome.failures.is_empty(),
        "{} of {} states lost something:\n{}",
        outcome.failures.len(),
        outcome.states,
        outcome.failures.join("\n")
    );
}

#[test]
fn ext4_keeps_what_the_api_acknowledged() {
    survives(FileSystem::Ext4);
}

#[test]
fn xfs_keeps_what_the_api_acknowledged() {
    survives(FileSystem::Xfs);
}

#[test]
fn btrfs_keeps_what_the_api_acknowledged() {
    survives(FileSystem::Btrfs);
}
