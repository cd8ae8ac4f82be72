//! Health checks: run by the shim, told by the engine.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Instance, Snapshot, until};

const MS: u64 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

fn check(script: &str, more: Value) -> Value {
    let mut health = json!({
        "Test": ["CMD-SHELL", script],
        "Interval": 50 * MS,
        "Timeout": 5_000 * MS,
        "Retries": 2,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        health[key] = value.clone();
    }
    json!({ "Healthcheck": health })
}

fn health(instance: &Instance, id: &str) -> Value {
    instance.inspect(id)["State"]["Health"].clone()
}

fn becomes(instance: &Instance, id: &str, status: &str) -> Value {
    until(&format!("{id} to be {status}"), PATIENCE, || {
        let health = health(instance, id);
        (health["Status"] == status).then_some(health)
    })
}

#[test]
fn status_follows_the_check_and_the_last_five_results_are_shown() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let script = "echo said; echo wrong >&2; test ! -e /ill";
    let id = instance.create_with("one", &["sleep", "1000"], check(script, json!({})));
    assert_eq!(health(&instance, &id), Value::Null);
    instance.start_container(&id);
    let shown = becomes(&instance, &id, "healthy");
    let first = &shown["Log"][0];
    assert_eq!(first["ExitCode"], 0);
    let output = first["Output"].as_str().unwrap();
    assert!(
        output.contains("said\n") && output.contains("wrong\n"),
        "{output}"
    );
    let listed = instance.plimsoll(&["ps", "--filter", "health=healthy"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("(healthy)"), "{listed}");
    instance.plimsoll(&["exec", "one", "touch", "/ill"]);
    becomes(&instance, &id, "unhealthy");
    until("five results and no more", PATIENCE, || {
        let shown = health(&instance, &id);
        let log = shown["Log"].as_array().unwrap().clone();
        assert!(log.len() <= 5, "{log:?}");
        (log.len() == 5 && log.iter().all(|r| r["ExitCode"] == 1)).then_some(())
    });
    let events = instance.plimsoll(&["events", "--since", "1", "--until", "0s"]);
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    let told = |word: &str| events.contains(&format!("health_status: {word}"));
    assert!(told("healthy") && told("unhealthy"), "{events}");
    instance.remove(&id);
    clean.assert_settled(&instance);
}

/// FAILURES row "Zombies; health probes pile up": all of a late check dies, and none runs beside it.
#[test]
fn a_late_check_is_killed_with_all_it_started() {
    let instance = Instance::with_busybox();
    let script = "sleep 4321 & setsid sleep 4321 & wait";
    let body = check(script, json!({"Timeout": 300 * MS, "Retries": 1}));
    let mut body = body;
    body["HostConfig"] = json!({"Init": true});
    let id = instance.create_with("one", &["sleep", "1000"], body);
    instance.start_container(&id);
    let shown = becomes(&instance, &id, "unhealthy");
    assert_eq!(shown["Log"][0]["ExitCode"], -1);
    let said = shown["Log"][0]["Output"].as_str().unwrap();
    assert!(said.contains("exceeded timeout"), "{said}");
    until("several checks", PATIENCE, || {
        let shown = health(&instance, &id);
        let log = shown["Log"].as_array().unwrap().clone();
        let late = |r: &Value| r["Output"].as_str().unwrap().contains("exceeded timeout");
        assert!(log.iter().all(late), "{log:?}");
        (log.len() >= 4).then_some(())
    });
    // of the check that runs now, at most: a shell and two of its children
    let shim = instance.shim(&id).unwrap();
    until("only one check's processes", PATIENCE, || {
        let tree = testkit::procfs::tree(shim.pid);
        let most = 3 + 3;
        (tree.len() <= most && tree.iter().all(|p| !p.is_zombie())).then_some(())
    });
}

#[test]
fn checks_go_on_without_the_engine_and_are_taken_up() {
    let mut instance = Instance::with_busybox();
    let script = "echo x >>/count; test ! -e /ill";
    let id = instance.create_with("one", &["sleep", "1000"], check(script, json!({})));
    instance.start_container(&id);
    becomes(&instance, &id, "healthy");
    let pid = instance.inspect(&id)["State"]["Pid"].as_i64().unwrap();
    instance.kill9();
    let root = format!("/proc/{pid}/root");
    let count = || std::fs::read_to_string(format!("{root}/count")).map_or(0, |t| t.len());
    let before = count();
    std::fs::write(format!("{root}/ill"), "").unwrap();
    until("checks while no engine runs", PATIENCE, || {
        (count() > before + 6).then_some(())
    });
    instance.start();
    becomes(&instance, &id, "unhealthy");
}

#[test]
fn an_unhealthy_container_is_restarted_where_its_label_says_so() {
    let instance = Instance::with_busybox();
    let mut body = check("test ! -e /ill", json!({}));
    body["Labels"] = json!({"plimsoll.restart-on-unhealthy": "true"});
    body["StopTimeout"] = json!(0);
    let script = "rm -f /ill; exec sleep 1000";
    let id = instance.create_with("one", &["sh", "-c", script], body);
    instance.start_container(&id);
    becomes(&instance, &id, "healthy");
    let first = instance.inspect(&id)["State"]["Pid"].clone();
    instance.plimsoll(&["exec", "one", "touch", "/ill"]);
    until("a new run", PATIENCE, || {
        let state = instance.inspect(&id)["State"].clone();
        (state["Running"] == true && state["Pid"] != first && state["Pid"] != 0).then_some(())
    });
    becomes(&instance, &id, "healthy");
    assert_eq!(instance.inspect(&id)["RestartCount"], 1);
}

/// The daemon's default, unless a label says otherwise; and who needs it is told with the event.
#[test]
fn an_unhealthy_container_s_dependents_are_told_and_the_default_restarts_it() {
    let mut instance = Instance::prepared().arguments(&["--restart-unhealthy"]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    let script = "rm -f /ill; exec sleep 1000";
    let composed = |service: &str, after: &str| {
        json!({"com.docker.compose.project": "p", "com.docker.compose.service": service,
            "com.docker.compose.depends_on": after})
    };
    let mut body = check("test ! -e /ill", json!({}));
    body["Labels"] = composed("db", "");
    body["StopTimeout"] = json!(0);
    let id = instance.create_with("db", &["sh", "-c", script], body.clone());
    body["Labels"] = json!({"plimsoll.restart-on-unhealthy": "false"});
    let kept = instance.create_with("kept", &["sh", "-c", script], body);
    let plain = |name: &str, fields: Value| instance.create_with(name, &["true"], fields);
    plain(
        "joined",
        json!({"HostConfig": {"NetworkMode": "container:db"}}),
    );
    plain(
        "after",
        json!({"Labels": composed("web", "cache:service_started:false,db:service_healthy:false")}),
    );
    plain(
        "apart",
        json!({"Labels": composed("other", "cache:service_started:false")}),
    );
    for id in [&id, &kept] {
        instance.start_container(id);
        becomes(&instance, id, "healthy");
    }
    let first = instance.inspect(&id)["State"]["Pid"].clone();
    for name in ["db", "kept"] {
        instance.plimsoll(&["exec", name, "touch", "/ill"]);
    }
    until("a new run", PATIENCE, || {
        let state = instance.inspect(&id)["State"].clone();
        (state["Running"] == true && state["Pid"] != first && state["Pid"] != 0).then_some(())
    });
    becomes(&instance, &kept, "unhealthy");
    assert_eq!(instance.inspect(&kept)["RestartCount"], 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let path = format!("/events?since=0&until={}", now.unwrap().as_secs() + 1);
    let events = instance.api().get(&path).unwrap().ok().text();
    let events: Vec<Value> = events
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let of = |name: &str| {
        let told = |e: &&Value| {
            e["Action"] == "health_status: unhealthy" && e["Actor"]["Attributes"]["name"] == name
        };
        events.iter().find(told).expect(name)["Actor"]["Attributes"]["dependents"].clone()
    };
    assert_eq!(of("db"), "after,joined");
    assert_eq!(of("kept"), Value::Null);
}

#[test]
fn the_command_line_s_flags_and_none() {
    let instance = Instance::with_busybox();
    let image = testkit::image::BUSYBOX;
    let run = ["run", "-d", "--name", "one", "--health-cmd", "true"];
    let flags = ["--health-interval", "50ms", "--health-retries", "1"];
    let command = [image, "sleep", "1000"];
    let all: Vec<&str> = run.into_iter().chain(flags).chain(command).collect();
    let done = instance.plimsoll(&all);
    assert!(done.status.success(), "{done:?}");
    becomes(&instance, "one", "healthy");
    let run = ["run", "-d", "--name", "two", "--no-healthcheck"];
    let all: Vec<&str> = run.into_iter().chain(command).collect();
    let done = instance.plimsoll(&all);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(health(&instance, "two"), Value::Null);
    assert_eq!(
        instance.inspect("two")["Config"]["Healthcheck"]["Test"][0],
        "NONE"
    );
}
