//! Networks, on a host that each test makes: a network namespace in which the engine runs.

mod cycles;
pub(crate) mod drivers;
mod settings;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::conservation::Snapshot;
use testkit::crash::{Action, Scenario, every_step};
use testkit::{Instance, until};

use crate::{attempt, crash, post, said};

const SOON: Duration = Duration::from_secs(20);

/// What the web server at `to` answers, from the engine's host.
fn fetch(instance: &Instance, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    instance.inside(|| ask(to))
}

fn ask(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.").then_some(text)
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn web(ports: Value) -> Value {
    json!({"HostConfig": {"NetworkMode": "default", "PortBindings": ports}})
}

const SERVER: [&str; 6] = ["httpd", "-f", "-p", "80", "-h", "/etc"];

fn serve(instance: &Instance, name: &str, port: &str) -> String {
    let fields = web(json!({"80/tcp": [{"HostPort": port}]}));
    let id = instance.create_with(name, &SERVER, fields);
    instance.start_container(&id);
    id
}

#[track_caller]
fn wait_for(instance: &Instance, to: &str) -> String {
    until(&format!("an answer at {to}"), SOON, || fetch(instance, to))
}

pub(crate) fn address(instance: &Instance, id: &str, network: &str) -> String {
    let settings = instance.inspect(id)["NetworkSettings"]["Networks"][network].clone();
    settings["IPAddress"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// P3, FAILURES "Stale port or endpoint": a published port works without an engine; the next one knows
/// all about it; with the container it is gone, and so is everything else of it.
#[test]
fn a_published_port_goes_on_without_an_engine() {
    let mut instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let id = serve(&instance, "web", "8080");
    wait_for(&instance, "127.0.0.1:8080");
    let own = address(&instance, &id, "bridge");
    wait_for(&instance, &format!("{own}:80"));
    let before = instance.inspect(&id)["NetworkSettings"].clone();
    assert_eq!(
        before["Ports"],
        json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]})
    );
    instance.kill9();
    assert!(fetch(&instance, "127.0.0.1:8080").is_some());
    instance.start();
    assert!(fetch(&instance, "127.0.0.1:8080").is_some());
    assert_eq!(instance.inspect(&id)["NetworkSettings"], before);
    // its address is nobody else's, and its port is still kept
    let other = instance.create_with("other", &["sleep", "1000"], web(json!({})));
    instance.start_container(&other);
    assert_ne!(address(&instance, &other, "bridge"), own);
    instance.remove(&id);
    instance.remove(&other);
    assert!(fetch(&instance, "127.0.0.1:8080").is_none());
    clean.assert_settled(&instance);
}

/// By the loopback address of IPv6 too, whether or not the container has IPv6: a name for this host means
/// it first. In both directions, at length, with ends that come one after the other.
#[test]
fn a_published_port_at_the_loopback_address_of_ipv6() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let body = json!({"Name": "six", "EnableIPv6": true});
    instance
        .answered(instance.api().post("/networks/create", &body))
        .ok();
    for (network, port) in [("default", 8080_u16), ("six", 8081)] {
        // answers with what it was told, once all was said
        let echo = ["sh", "-c", "while :; do nc -l -p 80 -e cat; done"];
        let fields = json!({"HostConfig": {"NetworkMode": network,
            "PortBindings": {"80/tcp": [{"HostPort": port.to_string()}]}}});
        instance.create_with(network, &echo, fields);
        instance.start_container(network);
        let to = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
        let long: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let heard = until("the echo by ::1", SOON, || {
            instance.inside(|| {
                let mut stream = TcpStream::connect(to).ok()?;
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                let mut said = stream.try_clone().unwrap();
                let long = long.clone();
                let writer = std::thread::spawn(move || {
                    said.write_all(&long)?;
                    said.shutdown(std::net::Shutdown::Write)
                });
                let mut heard = Vec::new();
                let read = stream.read_to_end(&mut heard);
                (writer.join().unwrap().is_ok() && read.is_ok() && !heard.is_empty())
                    .then_some(heard)
            })
        });
        assert!(heard == long, "{} of {} bytes", heard.len(), long.len());
        instance.remove(network);
        assert!(instance.inside(|| TcpStream::connect(to).is_err()));
    }
    let fields = web(json!({"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}));
    instance.create_with("alone", &SERVER, fields);
    let refused = instance.answered(instance.api().post("/containers/alone/start", &Value::Null));
    assert!(refused.json()["message"].to_string().contains("127.0.0.1"));
    instance.remove("alone");
    instance
        .answered(instance.api().delete("/networks/six"))
        .ok();
    clean.assert_settled(&instance);
}

/// A shim that is killed takes its container along, and what it had of the network.
#[test]
fn kill_9_of_a_shim_frees_its_port_and_address() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let id = serve(&instance, "web", "8080");
    wait_for(&instance, "127.0.0.1:8080");
    instance
        .shim(&id)
        .unwrap()
        .signal(rustix::process::Signal::KILL);
    until("the port to be free", SOON, || {
        let again = instance
            .api()
            .post(&format!("/containers/{id}/start"), &Value::Null);
        attempt(again).filter(|r| r.status == 204)
    });
    wait_for(&instance, "127.0.0.1:8080");
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn a_port_in_use_names_who_holds_it() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let first = serve(&instance, "web", "8080");
    let listener = instance.inside(|| std::net::TcpListener::bind("0.0.0.0:9090").unwrap());
    for (name, port, holder) in [
        ("second", "8080", "in use by container web".to_owned()),
        ("third", "9090", format!("(process {})", std::process::id())),
    ] {
        let fields = web(json!({"80/tcp": [{"HostPort": port}]}));
        let id = instance.create_with(name, &SERVER, fields);
        let path = format!("/containers/{id}/start");
        let refused = instance.answered(instance.api().post(&path, &Value::Null));
        assert_eq!(refused.status, 409);
        let text = refused.json()["message"].to_string();
        assert!(
            text.contains("port is already allocated") && text.contains(&holder),
            "{text}"
        );
        instance.remove(&id);
    }
    drop(listener);
    instance.remove(&first);
    clean.assert_settled(&instance);
}

/// FAILURES "Firewall reload wipes rules".
#[test]
fn a_flushed_table_is_back_and_the_event_is_told() {
    let instance = Instance::networked();
    let id = serve(&instance, "web", "8080");
    wait_for(&instance, "127.0.0.1:8080");
    let before = Snapshot::take(&instance);
    let nft = |what: &str| {
        let done = instance.inside(|| testkit::instance::command("nft").arg(what).status());
        assert!(done.expect("nft: install nftables").success());
    };
    nft("flush ruleset");
    wait_for(&instance, "127.0.0.1:8080");
    before.assert_settled(&instance);
    let path = format!("/events?since=0&until={}", now() + 1);
    let events = instance.answered(instance.api().get(&path)).ok();
    let text = String::from_utf8_lossy(&events.body).into_owned();
    assert!(
        text.contains("firewall-restored") && text.contains("nft (process "),
        "{text}"
    );
    instance.remove(&id);
}

/// The real docker command, through a life with two networks.
#[test]
fn networks_by_the_docker_command() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let docker = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        said(&instance.docker(&words))
    };
    docker("network create --subnet 10.9.0.0/24 --gateway 10.9.0.9 --label a=b one");
    docker("network create --internal --ipv6 two");
    assert_eq!(
        docker("network ls --format {{.Name}}"),
        "bridge\nhost\nnone\none\ntwo"
    );
    let image = testkit::image::BUSYBOX;
    docker(&format!(
        "run -d --name web --network one --ip 10.9.0.50 --mac-address 02:42:00:00:00:50 {image} httpd -f -p 80 -h /etc"
    ));
    docker(&format!(
        "run -d --name other --network one {image} sleep 1000"
    ));
    docker(&format!("run -d --name far {image} sleep 1000"));
    // not wget: a static busybox of glibc dies at looking names up
    let get = |from: &str, to: &str| {
        let ask = format!("printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {to} 80");
        said(&instance.docker(&["exec", from, "sh", "-c", &ask]))
    };
    let reached = || get("other", "10.9.0.50").contains("root").then_some(());
    until("the server to answer a member", SOON, reached);
    // another network, and the way from the host
    assert!(!get("far", "10.9.0.50").contains("root"));
    assert!(fetch(&instance, "10.9.0.50:80").is_some());
    docker("network connect one far");
    assert!(get("far", "10.9.0.50").contains("root"));
    assert_eq!(
        docker("inspect -f {{.NetworkSettings.Networks.one.MacAddress}} web"),
        "02:42:00:00:00:50"
    );
    let members = docker("network inspect -f {{range.Containers}}{{.Name}},{{end}} one");
    assert!(
        members.contains("web") && members.contains("far"),
        "{members}"
    );
    assert!(docker("network rm one").contains("has active endpoints"));
    docker("network disconnect one far");
    assert!(!get("far", "10.9.0.50").contains("root"));
    docker("network connect two web");
    let v6 = docker("inspect -f {{.NetworkSettings.Networks.two.GlobalIPv6Address}} web");
    assert!(v6.starts_with("fd"), "{v6}");
    assert!(docker("network create one").contains("already exists"));
    assert!(docker("network create --subnet 10.9.0.128/25 three").contains("overlaps"));
    assert!(docker("network rm bridge").contains("pre-defined"));
    assert!(
        docker(&format!("run --rm --network nowhere {image} true"))
            .contains("network nowhere not found")
    );
    docker("rm -f web other far");
    assert_eq!(
        docker("network prune -f").split_whitespace().last(),
        Some("two")
    );
    clean.assert_settled(&instance);
}

/// Two engines on one host: neither takes what the other has.
#[test]
fn a_second_instance_beside_the_first() {
    let first = Instance::networked();
    let id = serve(&first, "web", "8080");
    wait_for(&first, "127.0.0.1:8080");
    let before = Snapshot::take(&first);
    let mut same = Instance::beside(&first);
    same.start();
    let log = same.log();
    assert!(
        log.contains("plimsoll0 is there and is no bridge of this engine"),
        "{log}"
    );
    same.stop();
    let mut second = Instance::beside(&first).arguments(&["--bridge", "plimsoll1"]);
    second.start();
    second.load(&testkit::image::Image::busybox().unwrap());
    let other = serve(&second, "web", "8081");
    wait_for(&second, "127.0.0.1:8081");
    wait_for(&second, "127.0.0.1:8080");
    second.remove(&other);
    second.stop();
    assert!(fetch(&first, "127.0.0.1:8080").is_some());
    let mine = |o: &Instance| o.inspect(&id)["State"]["Running"].clone();
    assert_eq!(mine(&first), json!(true));
    drop(before);
    first.remove(&id);
}

/// `--bridge none`: nothing of the host is touched, and a run says what it gets.
#[test]
fn without_a_bridge_nothing_is_touched() {
    let mut instance = Instance::prepared_networked().arguments(&["--bridge", "none"]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    assert_eq!(instance.inside(net_links), ["lo"]);
    let forward = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(instance.inside(forward).trim(), "0");
    let done = instance.docker(&["run", "--rm", testkit::image::BUSYBOX, "ip", "-o", "link"]);
    let text = said(&done);
    assert!(text.contains("lo:") && !text.contains("eth0"), "{text}");
    assert_eq!(instance.inside(net_links), ["lo"]);
}

fn net_links() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = text.lines().skip(2).filter_map(|l| l.split(':').next());
    names.map(|n| n.trim().to_owned()).collect()
}

/// FAILURES "Address pool exhaustion, VPN overlap": what the host has a route into is not taken.
#[test]
fn a_subnet_avoids_the_hosts_routes() {
    let mut instance = Instance::prepared_networked();
    let vpn = net::Bridge {
        name: "vpn".to_owned(),
        mac: net::Mac::derived("vpn"),
        group: 0,
        mtu: 0,
        addresses: vec!["172.16.3.1/14".parse().unwrap()],
    };
    let made = instance.inside(|| net::host::put_bridges(std::slice::from_ref(&vpn)));
    made.unwrap();
    instance.start();
    let answer = instance
        .answered(instance.api().get("/networks/bridge"))
        .ok();
    assert_eq!(
        answer.json()["IPAM"]["Config"][0]["Subnet"],
        json!("172.20.0.0/22")
    );
    // one that comes later is told, and kept off by networks that are made after it
    let later = net::Bridge {
        name: "vpn2".to_owned(),
        mac: net::Mac::derived("vpn2"),
        addresses: vec!["172.20.0.1/14".parse().unwrap()],
        ..vpn
    };
    instance
        .inside(|| net::host::put_bridges(&[later]))
        .unwrap();
    let told = until("the event", SOON, || {
        let path = format!("/events?since=0&until={}", now() + 1);
        let events = instance.answered(instance.api().get(&path)).ok();
        let text = String::from_utf8_lossy(&events.body).into_owned();
        text.contains("overlap").then_some(text)
    });
    assert!(told.contains("172.20.0.0/14"), "{told}");
    let body = json!({"Name": "one"});
    instance
        .answered(instance.api().post("/networks/create", &body))
        .ok();
    let one = instance.answered(instance.api().get("/networks/one")).ok();
    assert_eq!(
        one.json()["IPAM"]["Config"][0]["Subnet"],
        json!("172.24.0.0/24")
    );
}

// ---- kill -9 at every step

fn template() -> Instance {
    let mut instance = Instance::networked();
    instance.stop();
    instance
}

pub(crate) fn replay(scenario: &Scenario<'_>) {
    every_step(
        scenario,
        &template(),
        &["daemon", "spawner", "shim"],
        &[Action::Kill],
    );
}

/// FAILURES "Leaked netns, addresses, watchers".
#[test]
fn a_start_with_a_port_killed_at_every_step() {
    replay(&Scenario {
        name: "start on the bridge",
        prepare: &|i| {
            drop(i.create_with(
                "box",
                &SERVER,
                web(json!({"80/tcp": [{"HostPort": "8080"}]})),
            ))
        },
        operation: &|i| {
            let started = post(i, "/containers/box/start");
            started.map(|_| "started".to_owned()).into_iter().collect()
        },
        check: &|i, _| {
            crash::goes_on(i);
            if i.inspect("box")["State"]["Status"] != json!("running") {
                i.start_container("box");
            }
            wait_for(i, "127.0.0.1:8080");
        },
    });
}

#[test]
fn an_end_with_a_port_killed_at_every_step() {
    replay(&Scenario {
        name: "end on the bridge",
        prepare: &|i| drop(serve(i, "box", "8080")),
        operation: &|i| {
            let removed = attempt(i.api().delete("/containers/box?force=1"));
            removed.map(|_| "removed".to_owned()).into_iter().collect()
        },
        check: &|i, acknowledged| {
            crash::goes_on(i);
            if acknowledged.contains("removed") {
                // its port is anybody's
                serve(i, "next", "8080");
            }
        },
    });
}

#[test]
fn a_network_made_and_joined_killed_at_every_step() {
    replay(&Scenario {
        name: "network create and connect",
        prepare: &|i| drop(serve(i, "box", "8080")),
        operation: &|i| {
            let body = json!({"Name": "mine", "Driver": "bridge"});
            let made = attempt(i.api().post("/networks/create", &body));
            let mut done: Vec<String> = made.map(|_| "made".to_owned()).into_iter().collect();
            let body = json!({"Container": "box"});
            let joined = attempt(i.api().post("/networks/mine/connect", &body));
            done.extend(joined.map(|_| "joined".to_owned()));
            done.into_iter().collect()
        },
        check: &|i, acknowledged| {
            crash::goes_on(i);
            let there = i.answered(i.api().get("/networks/mine")).is_ok();
            if acknowledged.contains("made") {
                assert!(there, "it was acknowledged");
            }
            let networks = i.inspect("box")["NetworkSettings"]["Networks"].clone();
            if acknowledged.contains("joined") {
                assert!(networks["mine"].is_object(), "{networks}");
            }
            i.remove_all();
            if there {
                i.answered(i.api().delete("/networks/mine")).ok();
            }
        },
    });
}
