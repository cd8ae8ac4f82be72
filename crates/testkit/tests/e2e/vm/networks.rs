//! What the kernel of the machine that tests run on may lack: ipvlan, VLANs, dummies, SCTP.

use std::net::SocketAddr;

use net::Namespace;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use serde_json::{Value, json};
use testkit::conservation::Snapshot;
use testkit::{Instance, until};

use super::{DEBIAN, PATIENCE};
use crate::networks::address;
use crate::networks::drivers::{Outside, remove_wire, within};

fn create(instance: &Instance, body: &Value) {
    let made = instance.api().post("/networks/create", body);
    instance.answered(made).ok();
}

fn remove(instance: &Instance, network: &str) {
    let gone = instance.api().delete(&format!("/networks/{network}"));
    instance.answered(gone).ok();
}

fn run(instance: &Instance, name: &str, network: &str, command: &[&str]) -> String {
    let fields = json!({"HostConfig": {"NetworkMode": network}});
    let id = instance.create_with(name, command, fields);
    instance.start_container(&id);
    id
}

const WEB: [&str; 6] = ["httpd", "-f", "-p", "80", "-h", "/etc"];

fn ip(arguments: &[&str]) {
    let done = testkit::instance::command("/bin/busybox")
        .arg("ip")
        .args(arguments)
        .status();
    assert!(done.unwrap().success(), "ip {arguments:?}");
}

/// Layer 2: neighbours of what is on the wire. Layer 3: reached by a route to the host, without a next
/// hop of their own.
#[test]
fn ipvlan_networks_of_both_layers() {
    DEBIAN.test(|| {
        let mut instance = Instance::networked();
        let clean = Snapshot::take(&instance);
        let outside = Outside::of(&instance);
        let network = |mode: &str, subnet: &Value| {
            json!({"Name": mode, "Driver": "ipvlan",
                "IPAM": {"Config": [subnet]},
                "Options": {"parent": "lan", "ipvlan_mode": mode}})
        };
        let street = json!({"Subnet": "198.51.100.0/24", "Gateway": "198.51.100.1",
            "AuxiliaryAddresses": {"outside": "198.51.100.2"}});
        create(&instance, &network("l2", &street));
        let id = run(&instance, "two", "l2", &WEB);
        let to = format!("{}:80", address(&instance, &id, "l2"));
        until("the neighbour to answer", PATIENCE, || outside.fetch(&to));
        let seen = instance.inspect(&id)["NetworkSettings"]["Networks"]["l2"].clone();
        assert_eq!(seen["MacAddress"], json!(""));
        instance.kill9();
        instance.start();
        assert!(outside.fetch(&to).is_some());
        instance.remove(&id);
        remove(&instance, "l2");

        create(
            &instance,
            &network("l3", &json!({"Subnet": "10.77.0.0/24"})),
        );
        outside.within(|| ip(&["route", "add", "10.77.0.0/24", "via", "198.51.100.1"]));
        let id = run(&instance, "three", "l3", &WEB);
        let to = format!("{}:80", address(&instance, &id, "l3"));
        until("the routed one to answer", PATIENCE, || outside.fetch(&to));
        let seen = instance.inspect(&id)["NetworkSettings"]["Networks"]["l3"].clone();
        assert_eq!(seen["Gateway"], json!(""));
        instance.remove(&id);
        remove(&instance, "l3");
        remove_wire(&instance);
        clean.assert_settled(&instance);
    });
}

/// A parent that is a VLAN of an interface is made, and goes with its network; so is a dummy where no
/// parent is named.
#[test]
fn parents_that_are_made_for_a_network() {
    DEBIAN.test(|| {
        let instance = Instance::networked();
        let clean = Snapshot::take(&instance);
        let outside = Outside::of(&instance);
        create(
            &instance,
            &json!({"Name": "tagged", "Driver": "macvlan",
                "IPAM": {"Config": [{"Subnet": "10.10.0.0/24"}]},
                "Options": {"parent": "lan.10"}}),
        );
        outside.within(|| {
            let own = net::Instance::new("outside");
            net::host::put_base(&own, "eth0.10", false).unwrap();
            ip(&["addr", "add", "10.10.0.200/24", "dev", "eth0.10"]);
        });
        let id = run(&instance, "web", "tagged", &WEB);
        let to = format!("{}:80", address(&instance, &id, "tagged"));
        until("the one in the VLAN to answer", PATIENCE, || {
            outside.fetch(&to)
        });
        instance.remove(&id);
        remove(&instance, "tagged");
        let left = instance.inside(|| std::path::Path::new("/proc/net/vlan/lan.10").exists());
        assert!(!left);

        create(&instance, &json!({"Name": "quiet", "Driver": "macvlan"}));
        let web = run(&instance, "web", "quiet", &WEB);
        let to = address(&instance, &web, "quiet");
        let ask = format!("printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {to} 80; ip route");
        let member = run(&instance, "member", "quiet", &["sh", "-c", &ask]);
        instance.wait(&member);
        let said = crate::logs(&instance, &member);
        assert!(said.contains("root") && !said.contains("default"), "{said}");
        instance.remove(&member);
        instance.remove(&web);
        remove(&instance, "quiet");
        remove_wire(&instance);
        clean.assert_settled(&instance);
    });
}

/// A published port of SCTP, by real sockets; and who has it is named.
#[test]
fn a_published_port_of_sctp() {
    DEBIAN.test(|| {
        let instance = Instance::networked();
        let clean = Snapshot::take(&instance);
        let outside = Outside::of(&instance);
        let wish = |name: &str| {
            let fields = json!({"HostConfig": {"NetworkMode": "default",
                "PortBindings": {"5000/sctp": [{"HostPort": "9000"}]}}});
            instance.create_with(name, &["sleep", "1000"], fields)
        };
        let id = wish("box");
        instance.start_container(&id);
        let pid = instance.inspect(&id)["State"]["Pid"].as_i64().unwrap();
        let inside = Namespace::of_process(i32::try_from(pid).unwrap()).unwrap();
        let socket = || {
            rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                Some(ipproto::SCTP),
            )
            .unwrap()
        };
        let listener = within(&inside, || {
            let listener = socket();
            let at: SocketAddr = "0.0.0.0:5000".parse().unwrap();
            rustix::net::bind(&listener, &at).unwrap();
            rustix::net::listen(&listener, 1).unwrap();
            listener
        });
        let server = std::thread::spawn(move || {
            let one = rustix::net::accept(&listener).unwrap();
            rustix::net::send(&one, b"hello", rustix::net::SendFlags::empty()).unwrap();
        });
        let said = outside.within(|| {
            let one = socket();
            let to: SocketAddr = "198.51.100.1:9000".parse().unwrap();
            rustix::net::connect(&one, &to).unwrap();
            let mut buffer = [0; 16];
            let (n, _) =
                rustix::net::recv(&one, &mut buffer[..], rustix::net::RecvFlags::empty()).unwrap();
            buffer[..n].to_vec()
        });
        assert_eq!(said, b"hello");
        server.join().unwrap();
        // it keeps the container's links
        drop(inside);
        let other = wish("other");
        let path = format!("/containers/{other}/start");
        let refused = instance.answered(instance.api().post(&path, &Value::Null));
        let text = refused.json()["message"].to_string();
        assert!(
            refused.status == 409 && text.contains("container box"),
            "{text}"
        );
        instance.remove(&other);
        instance.remove(&id);
        remove_wire(&instance);
        clean.assert_settled(&instance);
    });
}
