//! Drivers and what a network of each may be told; ports that move with their container.

use std::os::fd::AsFd;

use net::{Bridge, Endpoint, Joint, Mac, Namespace};

use super::*;

/// A host on the same wire as the engine's: its interface `lan`, 198.51.100.1/24; this one is .2.
pub(crate) struct Outside(pub(crate) Namespace);

impl Outside {
    pub(crate) fn of(instance: &Instance) -> Self {
        let wire = net::Instance::new("wire");
        let bridge = Bridge {
            name: "lan".to_owned(),
            mac: Mac::derived("lan"),
            group: wire.group(),
            mtu: 0,
            addresses: vec!["198.51.100.1/24".parse().unwrap()],
        };
        instance
            .inside(|| net::host::put_bridges(&[bridge]))
            .unwrap();
        let namespace = Namespace::create().unwrap();
        let end = Endpoint {
            joint: Joint::Port {
                bridge: "lan".to_owned(),
                host: wire.veth("lan", "outside", 0),
                isolated: false,
            },
            name: "eth0".to_owned(),
            mac: None,
            mtu: 0,
            addresses: vec!["198.51.100.2/24".parse().unwrap()],
            gateways: vec!["198.51.100.1".parse().unwrap()],
            sysctls: Vec::new(),
        };
        instance
            .inside(|| net::host::connect(&wire, &namespace, &[end]))
            .unwrap();
        Self(namespace)
    }

    pub(crate) fn fetch(&self, to: &str) -> Option<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.within(|| ask(to))
    }

    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.0, work)
    }
}

pub(crate) fn within<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    let done = net::netns::inside(namespace.as_fd(), || {
        Ok::<_, net::netns::NamespaceError>(work())
    });
    done.unwrap()
}

fn docker(instance: &Instance, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    said(&instance.docker(&words))
}

const IMAGE: &str = testkit::image::BUSYBOX;

/// Whatever runs in it, `web` answers at its port 80.
fn run_web(instance: &Instance, flags: &str) -> String {
    docker(
        instance,
        &format!("run -d --name web {flags} {IMAGE} httpd -f -p 80 -h /etc"),
    )
}

fn inspected(instance: &Instance, network: &str) -> Value {
    let path = format!("/networks/{network}");
    instance.answered(instance.api().get(&path)).ok().json()
}

const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";

/// A routed network is reached at the members' own addresses, and takes no port of the host.
#[test]
fn gateway_modes_by_the_docker_command() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let outside = Outside::of(&instance);
    docker(
        &instance,
        &format!("network create --subnet 10.9.0.0/24 -o {MODE4}=routed one"),
    );
    run_web(&instance, "--network one --ip 10.9.0.2 -p 8080:80");
    until("the routed server to answer", SOON, || {
        outside.fetch("10.9.0.2:80")
    });
    assert!(outside.fetch("198.51.100.1:8080").is_none());
    let ports = instance.inspect("web")["NetworkSettings"]["Ports"].clone();
    assert_eq!(ports, json!({"80/tcp": null}));
    // the port of the host is anybody's
    let free = instance.inside(|| std::net::TcpListener::bind("0.0.0.0:8080").is_ok());
    assert!(free);
    instance.remove("web");
    docker(
        &instance,
        &format!("network create --subnet 10.8.0.0/24 -o {MODE4}=nat-unprotected open"),
    );
    run_web(&instance, "--network open --ip 10.8.0.2");
    until("the open server to answer", SOON, || {
        outside.fetch("10.8.0.2:80")
    });
    instance.remove("web");
    let text = docker(
        &instance,
        &format!("network create -o {MODE4}=isolated alone"),
    );
    assert!(text.contains("internal"), "{text}");
    docker(
        &instance,
        &format!("network create --internal --subnet 10.7.0.0/24 -o {MODE4}=isolated alone"),
    );
    run_web(&instance, "--network alone --ip 10.7.0.2");
    assert!(fetch(&instance, "10.7.0.2:80").is_none());
    let ask = "printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w 2 10.7.0.2 80";
    let member = ["run", "--rm", "--network", "alone", IMAGE, "sh", "-c", ask];
    let asked = said(&instance.docker(&member));
    assert!(asked.contains("root"), "{asked}");
    instance.remove("web");
    for network in ["one", "open", "alone"] {
        docker(&instance, &format!("network rm {network}"));
    }
    remove_wire(&instance);
    clean.assert_settled(&instance);
}

pub(crate) fn remove_wire(instance: &Instance) {
    let wire = net::Instance::new("wire");
    let gone = instance.inside(|| net::host::remove_strays(&wire, &Default::default()));
    gone.unwrap();
}

/// A neighbour of what is on the host's wire, through kill -9 of the engine, and in and out of it while
/// it runs.
#[test]
fn a_macvlan_network() {
    let mut instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let outside = Outside::of(&instance);
    docker(
        &instance,
        "network create -d macvlan --subnet 198.51.100.0/24 --gateway 198.51.100.1 \
         --aux-address printer=198.51.100.2 -o parent=lan street"
            .replace("         ", "")
            .as_str(),
    );
    let seen = inspected(&instance, "street");
    assert_eq!(seen["Driver"], json!("macvlan"));
    assert_eq!(
        seen["IPAM"]["Config"][0]["AuxiliaryAddresses"],
        json!({"printer": "198.51.100.2"})
    );
    let refused = run_web(&instance, "--network street -p 8080:80");
    assert!(
        refused.contains("cannot be published in the network street"),
        "{refused}"
    );
    instance.remove("web");
    run_web(
        &instance,
        "--network street --mac-address 02:42:00:00:00:50",
    );
    // neither the gateway's nor the printer's, nor the one that was freed just now
    assert_eq!(address(&instance, "web", "street"), "198.51.100.4");
    until("the neighbour to answer", SOON, || {
        outside.fetch("198.51.100.4:80")
    });
    instance.kill9();
    assert!(outside.fetch("198.51.100.4:80").is_some());
    instance.start();
    assert!(outside.fetch("198.51.100.4:80").is_some());
    let settings = instance.inspect("web")["NetworkSettings"]["Networks"]["street"].clone();
    assert_eq!(settings["MacAddress"], json!("02:42:00:00:00:50"));
    assert_eq!(settings["Gateway"], json!("198.51.100.1"));
    let told = docker(&instance, "network disconnect street web");
    assert_eq!(told, "");
    assert!(outside.fetch("198.51.100.4:80").is_none());
    docker(&instance, "network connect --ip 198.51.100.9 street web");
    until("the neighbour to answer again", SOON, || {
        outside.fetch("198.51.100.9:80")
    });
    // names work as in any network of users
    let asked = docker(
        &instance,
        &format!("run --rm --network street {IMAGE} nslookup web 127.0.0.11"),
    );
    assert!(asked.contains("198.51.100.9"), "{asked}");
    instance.remove("web");
    let text = docker(&instance, "network create -d macvlan -o parent=lan second");
    assert!(text.contains("another network"), "{text}");
    let text = docker(
        &instance,
        "network create -d macvlan -o parent=nowhere third",
    );
    assert!(text.contains("no interface nowhere"), "{text}");
    docker(&instance, "network rm street");
    remove_wire(&instance);
    clean.assert_settled(&instance);
}

/// Where a published port leads follows its container from network to network, with the port that the
/// host has given it; also where the container had no network that could be reached at first.
#[test]
fn a_published_port_moves_with_its_container() {
    let mut instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    for network in ["one", "two", "--internal inner"] {
        docker(&instance, &format!("network create {network}"));
    }
    run_web(&instance, "--network one -p 8080:80");
    wait_for(&instance, "127.0.0.1:8080");
    let published = json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]});
    let ports = |i: &Instance| i.inspect("web")["NetworkSettings"]["Ports"].clone();
    docker(&instance, "network connect two web");
    docker(&instance, "network disconnect one web");
    wait_for(&instance, "127.0.0.1:8080");
    assert_eq!(ports(&instance), published);
    docker(&instance, "network disconnect two web");
    assert!(fetch(&instance, "127.0.0.1:8080").is_none());
    assert_eq!(ports(&instance), json!({"80/tcp": null}));
    // it is still this container's
    let taken = instance.inside(|| std::net::TcpListener::bind("0.0.0.0:8080").is_err());
    assert!(taken);
    instance.kill9();
    instance.start();
    docker(&instance, "network connect one web");
    wait_for(&instance, "127.0.0.1:8080");
    assert_eq!(ports(&instance), published);
    instance.remove("web");

    run_web(&instance, "--network inner -p 8080:80");
    assert_eq!(ports(&instance), json!({"80/tcp": null}));
    docker(&instance, "network connect two web");
    wait_for(&instance, "127.0.0.1:8080");
    instance.kill9();
    instance.start();
    let taken = instance.inside(|| std::net::TcpListener::bind("0.0.0.0:8080").is_err());
    assert!(taken, "its shim holds the port");
    instance.remove("web");
    let free = instance.inside(|| std::net::TcpListener::bind("0.0.0.0:8080").is_ok());
    assert!(free);
    docker(&instance, "network rm one two inner");
    clean.assert_settled(&instance);
}

#[test]
fn a_port_that_moves_killed_at_every_step() {
    replay(&Scenario {
        name: "a container's port moves to another network",
        prepare: &|i| {
            for name in ["one", "two"] {
                let body = json!({"Name": name, "Driver": "bridge"});
                i.answered(i.api().post("/networks/create", &body)).ok();
            }
            let fields = json!({"HostConfig": {"NetworkMode": "one",
                "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}});
            let id = i.create_with("box", &SERVER, fields);
            i.start_container(&id);
            wait_for(i, "127.0.0.1:8080");
        },
        operation: &|i| {
            let body = json!({"Container": "box"});
            let mut done = std::collections::BTreeSet::new();
            for (what, path) in [
                ("joined", "/networks/two/connect"),
                ("left", "/networks/one/disconnect"),
            ] {
                let answer = attempt(i.api().post(path, &body));
                done.extend(answer.map(|_| what.to_owned()));
            }
            done
        },
        check: &|i, acknowledged| {
            crash::goes_on(i);
            let networks = i.inspect("box")["NetworkSettings"]["Networks"].clone();
            if acknowledged.contains("joined") {
                assert!(networks["two"].is_object(), "{networks}");
            }
            if acknowledged.contains("left") {
                assert!(networks["one"].is_null(), "{networks}");
            }
            if i.inspect("box")["State"]["Status"] != json!("running") {
                i.start_container("box");
            }
            wait_for(i, "127.0.0.1:8080");
            i.remove_all();
            for name in ["one", "two"] {
                i.answered(i.api().delete(&format!("/networks/{name}")))
                    .ok();
            }
        },
    });
}

/// FAILURES "unregister_netdevice: waiting for lo": an event, and a word of the doctor's.
#[test]
fn what_the_kernel_does_not_release_is_told() {
    let instance = Instance::new();
    let message = format!(
        "unregister_netdevice: waiting for lo to become free. Usage count = {}",
        std::process::id()
    );
    std::fs::write("/dev/kmsg", format!("<4>{message}")).expect("this test needs /dev/kmsg");
    let told = until("the event", SOON, || {
        let path = format!("/events?since=0&until={}", now() + 1);
        let events = instance.answered(instance.api().get(&path)).ok();
        let text = String::from_utf8_lossy(&events.body).into_owned();
        text.contains("kernel-trouble").then_some(text)
    });
    assert!(told.contains(&message), "{told}");
    let doctor = instance.answered(instance.api().get("/plimsoll/doctor"));
    let findings = doctor.ok().json()["Findings"].to_string();
    assert!(
        findings.contains("network device not released"),
        "{findings}"
    );
}
