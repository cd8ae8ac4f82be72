//! Many lives, one after the other and at once: nothing of them is left.

use super::*;

/// How often in a run of all tests; `PLIMSOLL_CYCLES` says more.
const CYCLES: usize = 40;

fn cycles() -> usize {
    let asked = std::env::var("PLIMSOLL_CYCLES").ok();
    asked.map_or(CYCLES, |n| n.parse().expect("PLIMSOLL_CYCLES is a number"))
}

fn network(instance: &Instance, name: &str) {
    let body = json!({"Name": name, "Driver": "bridge"});
    instance
        .answered(instance.api().post("/networks/create", &body))
        .ok();
}

fn change(instance: &Instance, path: &str) {
    let body = json!({"Container": "box"});
    instance.answered(instance.api().post(path, &body)).ok();
}

/// FAILURES "Leaked netns, addresses, watchers", "Stale port or endpoint": create, connect, and the end
/// of something in between, with the same port and names each time.
#[test]
fn nothing_is_left_of_many_lives() {
    const KILL: rustix::process::Signal = rustix::process::Signal::KILL;
    let mut instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    network(&instance, "one");
    network(&instance, "two");
    for n in 0..cycles() {
        let fields = json!({"HostConfig": {"NetworkMode": "one",
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}});
        instance.create_with("box", &["sleep", "1000"], fields);
        instance.start_container("box");
        change(&instance, "/networks/two/connect");
        match n % 6 {
            0 => {
                instance.kill9();
                instance.start();
            }
            1 => {
                instance.spawner().unwrap().signal(KILL);
                post(&instance, "/containers/box/restart?t=0");
            }
            2 => instance.shim("box").unwrap().signal(KILL),
            3 => {
                let again = instance
                    .api()
                    .post("/containers/box/restart?t=0", &Value::Null);
                instance.answered(again).ok();
            }
            4 => change(&instance, "/networks/one/disconnect"),
            _ => {
                instance.shim("box").unwrap().signal(KILL);
                instance.kill9();
                instance.start();
            }
        }
        instance.remove("box");
    }
    for name in ["one", "two"] {
        instance
            .answered(instance.api().delete(&format!("/networks/{name}")))
            .ok();
    }
    clean.assert_settled(&instance);
}

/// FAILURES "Slow parallel start": eight clients, each container with a port and an address of its own.
#[test]
fn many_at_once_have_a_port_and_an_address_each() {
    const EACH: u16 = 12;
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    std::thread::scope(|scope| {
        for client in 0..8_u16 {
            let instance = &instance;
            scope.spawn(move || {
                for n in 0..EACH {
                    let port = 20_000 + client * EACH + n;
                    let fields = web(json!({"80/tcp": [{"HostPort": port.to_string()}]}));
                    let name = format!("c{port}");
                    instance.create_with(&name, &["sleep", "1000"], fields);
                    instance.start_container(&name);
                }
            });
        }
    });
    let list = instance.answered(instance.api().get("/containers/json"));
    let list = list.ok().json();
    let mut addresses = std::collections::BTreeSet::new();
    let mut ports = std::collections::BTreeSet::new();
    for container in list.as_array().unwrap() {
        let own = &container["NetworkSettings"]["Networks"]["bridge"]["IPAddress"];
        addresses.insert(own.to_string());
        ports.insert(container["Ports"][0]["PublicPort"].as_u64().unwrap());
    }
    let count = usize::from(EACH) * 8;
    assert_eq!((addresses.len(), ports.len()), (count, count));
    instance.remove_all();
    clean.assert_settled(&instance);
}
