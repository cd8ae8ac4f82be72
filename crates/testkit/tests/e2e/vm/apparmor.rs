//! AppArmor, which Debian's kernels enforce.

use std::fs;

use serde_json::{Value, json};
use testkit::{Instance, Snapshot};

use super::DEBIAN;
use crate::logs;

const PROFILE: &str = "profile plimsoll-lab flags=(attach_disconnected,mediate_deleted) {\n\
    file,\n capability,\n network,\n signal,\n deny /secret r,\n}\n";

fn load() {
    let file = "/tmp/plimsoll-lab";
    fs::write(file, PROFILE).unwrap();
    let mut parser = testkit::instance::command("apparmor_parser");
    let output = parser.args(["--replace", "--skip-cache", file]).output();
    let output = output.expect("the root disk has apparmor");
    assert!(output.status.success(), "{output:?}");
}

fn confined(instance: &Instance, name: &str, option: &str, script: &str) -> String {
    let fields = json!({"HostConfig": {"SecurityOpt": [option]}});
    let id = instance.create_with(name, &["sh", "-c", script], fields);
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 0);
    let said = logs(instance, &id);
    instance.remove(&id);
    said
}

#[test]
fn a_profile_confines_the_container_and_what_is_executed_in_it() {
    DEBIAN.test(|| {
        load();
        let instance = Instance::with_busybox();
        let clean = Snapshot::take(&instance);
        let script = "cat /proc/self/attr/current; echo x > /secret; cat /secret || echo denied";
        let said = confined(&instance, "named", "apparmor=plimsoll-lab", script);
        assert_eq!(said, "plimsoll-lab (enforce)\ndenied\n");
        let said = confined(&instance, "none", "apparmor=unconfined", script);
        assert_eq!(said, "unconfined\nx\n");
        // an exec gets the same
        let fields = json!({"HostConfig": {"SecurityOpt": ["apparmor=plimsoll-lab"]}});
        let id = instance.create_with("exec", &["sleep", "1000"], fields);
        instance.start_container(&id);
        let body = json!({"Cmd": ["cat", "/proc/self/attr/current"], "AttachStdout": true});
        let path = format!("/containers/{id}/exec");
        let exec = instance
            .answered(instance.api().post(&path, &body))
            .ok()
            .json();
        let path = format!("/exec/{}/start", exec["Id"].as_str().unwrap());
        let answer = instance.answered(instance.api().post(&path, &json!({})));
        let said = testkit::http::stream_text(&answer.ok().body, 1);
        assert_eq!(said, "plimsoll-lab (enforce)\n");
        instance.remove(&id);
        // one that isn't loaded is an error, not a container without it
        let fields = json!({"HostConfig": {"SecurityOpt": ["apparmor=no-such-profile"]}});
        let id = instance.create_with("unknown", &["true"], fields);
        let path = format!("/containers/{id}/start");
        let answer = instance.answered(instance.api().post(&path, &Value::Null));
        assert!(!answer.is_ok(), "{answer:?}");
        let said = answer.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(said.contains("label"), "{said}");
        instance.remove(&id);
        clean.assert_settled(&instance);
    });
}
