//! Create, start, logs, exec, stop, remove, volumes.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Instance, Snapshot, until};

use crate::{logs, post, said};

#[test]
fn a_container_from_create_to_remove() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.create("one", &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(instance.inspect(&id)["State"]["Status"], "created");
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 7);
    let state = instance.inspect("one")["State"].clone();
    assert_eq!(state["Status"], "exited");
    assert_eq!(state["ExitCode"], 7);
    let answer = instance.api().get("/containers/one/logs?stdout=1&stderr=1");
    let body = answer.unwrap().ok().body;
    assert_eq!(testkit::http::stream_text(&body, 1), "out\n");
    assert_eq!(testkit::http::stream_text(&body, 2), "err\n");
    instance.remove(&id);
    assert_eq!(instance.containers(), Vec::<String>::new());
    clean.assert_settled(&instance);
}

/// FAILURES rows "Orphan layers, dead containers", "device or resource busy", "Leaked netns".
#[test]
fn a_hundred_cycles_leave_nothing() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for n in 0..100 {
        let id = instance.run(&format!("c{n}"), &["true"]);
        assert_eq!(instance.wait(&id), 0);
        instance.remove(&id);
    }
    clean.assert_settled(&instance);
}

/// As on a host without systemd, wherever this runs: in a mount namespace whose /run is empty.
#[test]
fn systemd_as_cgroup_driver_is_refused_where_there_is_none() {
    let instance = Instance::prepared();
    let script = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    let mut daemon = testkit::instance::command("unshare");
    daemon.args(["--mount", "sh", "-c", script, "sh"]);
    daemon.arg(testkit::instance::program()).arg("daemon");
    daemon.args(["--exec-opt", "native.cgroupdriver=systemd", "--bridge=none"]);
    daemon.arg("--host").arg(instance.host());
    daemon.arg("--data-root").arg(instance.data_root());
    daemon.arg("--exec-root").arg(instance.exec_root());
    let output = daemon.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("native.cgroupdriver=systemd"), "{said}");
    assert!(said.contains("is systemd the init of this host"), "{said}");
}

#[test]
fn removed_while_running() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    for n in 0..10 {
        let id = instance.run(&format!("c{n}"), &["sleep", "1000"]);
        instance.remove(&id);
    }
    clean.assert_settled(&instance);
}

#[test]
fn a_fault_of_the_program_is_the_container_s_exit_code() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.create("missing", &["/no/such/program"]);
    let path = format!("/containers/{id}/start");
    let answer = instance.api().post(&path, &Value::Null).unwrap();
    assert!(!answer.is_ok(), "{answer:?}");
    let said = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("/no/such/program"), "{said}");
    assert_eq!(instance.inspect(&id)["State"]["ExitCode"], 127);
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn stop_and_kill() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let id = instance.run("polite", &["sh", "-c", script]);
    until("the trap to be set", Duration::from_secs(10), || {
        logs(&instance, &id).contains("ready").then_some(())
    });
    post(&instance, &format!("/containers/{id}/stop?t=10")).unwrap();
    assert_eq!(instance.inspect(&id)["State"]["ExitCode"], 3);
    let deaf = instance.run("deaf", &["sleep", "1000"]);
    post(&instance, &format!("/containers/{deaf}/stop?t=0")).unwrap();
    assert_eq!(instance.inspect(&deaf)["State"]["ExitCode"], 137);
    let killed = instance.run("killed", &["sleep", "1000"]);
    post(&instance, &format!("/containers/{killed}/kill")).unwrap();
    assert_eq!(instance.wait(&killed), 137);
    instance.remove_all();
    clean.assert_settled(&instance);
}

#[test]
fn exec_in_a_running_container() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sleep", "1000"]);
    for code in [0, 5] {
        let script = format!("echo inside; exit {code}");
        let body = json!({
            "Cmd": ["sh", "-c", script],
            "AttachStdout": true,
            "AttachStderr": true,
        });
        let made = instance
            .api()
            .post(&format!("/containers/{id}/exec"), &body);
        let exec = made.unwrap().ok().json()["Id"].as_str().unwrap().to_owned();
        let start = format!("/exec/{exec}/start");
        let body = json!({"Detach": false, "Tty": false});
        let mut stream = instance.api().upgrade(&start, &body).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut bytes).unwrap();
        assert_eq!(testkit::http::stream_text(&bytes, 1), "inside\n");
        let done = instance.api().get(&format!("/exec/{exec}/json")).unwrap();
        assert_eq!(done.json()["ExitCode"], code, "{done:?}");
        assert_eq!(done.json()["Running"], false);
    }
    instance.remove(&id);
    clean.assert_settled(&instance);
}

/// FAILURES row "Zombies; health probes pile up": without an init that reaps, orphans of what is
/// exec'd are the program's own, as everywhere.
#[test]
fn a_forking_exec_leaves_no_zombie_under_init() {
    let instance = Instance::with_busybox();
    let init = json!({"HostConfig": {"Init": true}});
    let id = instance.create_with("one", &["sleep", "1000"], init);
    instance.start_container(&id);
    for _ in 0..20 {
        let fork = "(sleep 0.01 &) ; (true &) ; true";
        let done = instance.plimsoll(&["exec", "one", "sh", "-c", fork]);
        assert!(done.status.success(), "{done:?}");
    }
    let shim = instance.shim(&id).unwrap();
    until("zombies to be reaped", Duration::from_secs(10), || {
        let tree = testkit::procfs::tree(shim.pid);
        tree.iter().all(|p| !p.is_zombie()).then_some(())
    });
}

/// FAILURES row "Volume loss".
#[test]
fn a_volume_stays_until_it_is_named() {
    let instance = Instance::with_busybox();
    let mount = json!({"HostConfig": {"Binds": ["keep:/data"]}});
    let script = ["sh", "-c", "echo precious >/data/file"];
    let id = instance.create_with("writer", &script, mount.clone());
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 0);
    instance.remove(&id);
    let prune = instance.api().post("/volumes/prune", &Value::Null);
    instance.answered(prune).ok();
    let read = ["grep", "-q", "precious", "/data/file"];
    let reader = instance.create_with("reader", &read, mount);
    instance.start_container(&reader);
    assert_eq!(instance.wait(&reader), 0, "{}", logs(&instance, &reader));
    let busy = instance.api().delete("/volumes/keep").unwrap();
    assert_eq!(busy.status, 409, "{busy:?}");
    instance.remove(&reader);
    instance.api().delete("/volumes/keep").unwrap().ok();
}

#[test]
fn two_instances_side_by_side() {
    let (one, two) = (Instance::with_busybox(), Instance::with_busybox());
    one.run("same-name", &["sleep", "1000"]);
    two.run("same-name", &["sleep", "1000"]);
    let clean = Snapshot::take(&two);
    drop(one);
    clean.assert_settled(&two);
    assert_eq!(two.inspect("same-name")["State"]["Running"], true);
}

/// FAILURES row "OOM takes the engine or shim; Up after OOM".
#[test]
fn an_out_of_memory_kill_is_told() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let limit = json!({"HostConfig": {"Memory": 16 << 20, "MemorySwap": 16 << 20}});
    // tail keeps what it reads: a line without an end
    let hog = ["sh", "-c", "tail /dev/zero"];
    let id = instance.create_with("hog", &hog, limit);
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 137);
    assert_eq!(instance.inspect(&id)["State"]["OOMKilled"], true);
    instance.remove(&id);
    clean.assert_settled(&instance);
}

/// Volumes and binds of another container: named, without a name, by bind; not its tmpfs. What is asked for
/// at the same place wins, and what the other had without a name lives as long as one has it.
#[test]
fn volumes_from_another_container() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let bind = instance.path().join("bound");
    std::fs::create_dir(&bind).unwrap();
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        said(&instance.docker(&words))
    };
    let image = testkit::image::BUSYBOX;
    run(&format!(
        "run --name first --network none -v named:/named -v /nameless -v {}:/bound --tmpfs /gone {image} touch /named/a /nameless/b /bound/c /gone/d",
        bind.display()
    ));
    let base = "run --rm --network none --volumes-from";
    let seen = run(&format!("{base} first {image} ls /named /nameless /bound"));
    for file in ["a", "b", "c"] {
        assert!(seen.lines().any(|l| l == file), "{seen}");
    }
    assert!(run(&format!("{base} first {image} ls /gone")).contains("No such file"));
    let refused = run(&format!("{base} first:ro {image} touch /named/x"));
    assert!(refused.contains("Read-only file system"), "{refused}");
    let own = run(&format!("{base} first --tmpfs /named {image} ls /named"));
    assert_eq!(own, "");
    for (wrong, word) in [("first:x", "volumes-from"), ("none", "No such container")] {
        let text = run(&format!("{base} {wrong} {image} true"));
        assert!(text.contains(word), "{text}");
    }
    run(&format!(
        "create --name second --network none --volumes-from first {image} ls /nameless"
    ));
    run("rm -v first");
    assert!(run("start -a second").contains('b'));
    run("rm -v second");
    run("volume rm named");
    clean.assert_settled(&instance);
}

/// What a vendor's file says comes with its device: a node, a mount, variables; what is not there is refused.
#[test]
fn devices_of_vendors_by_name() {
    let mut instance = Instance::prepared();
    let dir = instance.path().join("cdi");
    std::fs::create_dir(&dir).unwrap();
    let file = json!({"cdiVersion": "0.6.0", "kind": "vendor.test/dev",
        "devices": [{"name": "one", "containerEdits": {
            "deviceNodes": [{"path": "/dev/given", "hostPath": "/dev/zero"}],
            "mounts": [{"hostPath": dir, "containerPath": "/given", "options": ["ro"]}],
            "env": ["GIVEN=yes"]}}]});
    std::fs::write(dir.join("vendor.json"), file.to_string()).unwrap();
    instance = instance.arguments(&["--cdi-spec-dir", dir.to_str().unwrap()]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    let clean = Snapshot::take(&instance);
    let script = "echo $GIVEN; head -c 3 /dev/given | wc -c; ls /given; touch /given/x";
    let image = testkit::image::BUSYBOX;
    let run = |flags: [&'static str; 2]| {
        let base = ["run", "--rm", "--network", "none"];
        let command = [image, "sh", "-c", script];
        [&base[..], &flags, &command].concat()
    };
    let by_name = run(["--device", "vendor.test/dev=one"]);
    for output in [instance.docker(&by_name), instance.plimsoll(&by_name)] {
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, "yes\n3\nvendor.json\n", "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Read-only file system"), "{said}");
    }
    for (flags, why) in [
        (
            ["--device", "vendor.test/dev=two"],
            "unresolvable CDI devices vendor.test/dev=two",
        ),
        (
            ["--gpus", "all"],
            "could not select device driver \"\" with capabilities: [[\"gpu\"]]",
        ),
    ] {
        for output in [instance.docker(&run(flags)), instance.plimsoll(&run(flags))] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains(why), "{said}");
        }
    }
    let info = instance.api().get("/info").unwrap().ok().json();
    assert_eq!(
        info["DiscoveredDevices"],
        json!([{"Source": "cdi", "ID": "vendor.test/dev=one"}])
    );
    clean.assert_settled(&instance);
}
