//! What the operator and the user may say of networks and of a container's place in one.

use super::*;

fn docker(instance: &Instance, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    said(&instance.docker(&words))
}

const IMAGE: &str = testkit::image::BUSYBOX;

fn network(instance: &Instance, name: &str) -> Value {
    let path = format!("/networks/{name}");
    instance.answered(instance.api().get(&path)).ok().json()
}

/// dockerd's flags of the default network, of pools and of names.
#[test]
fn the_default_network_is_as_the_operator_says() {
    let mut instance = Instance::prepared_networked().arguments(&[
        "--bip=10.44.0.9/24",
        "--fixed-cidr=10.44.0.128/25",
        "--ipv6",
        "--bip6=fd00:44::1/64",
        "--mtu=1400",
        "--icc=false",
        "--ip=127.0.0.1",
        "--dns=10.44.0.53",
        "--dns-search=example.test",
        "--dns-opt=timeout:1",
        "--default-address-pool=base=10.60.0.0/16,size=26",
        "--default-network-opt=bridge=com.docker.network.driver.mtu=1300",
        "--host-gateway-ip=192.0.2.7",
    ]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    let clean = Snapshot::take(&instance);
    let seen = network(&instance, "bridge");
    assert_eq!(
        seen["IPAM"]["Config"],
        json!([
            {"Subnet": "10.44.0.0/24", "IPRange": "10.44.0.128/25", "Gateway": "10.44.0.9"},
            {"Subnet": "fd00:44::/64", "Gateway": "fd00:44::1"},
        ])
    );
    assert_eq!(seen["EnableIPv6"], json!(true));
    let said = docker(
        &instance,
        &format!(
            "run --rm --add-host up:host-gateway {IMAGE} sh -c {}",
            "cat${IFS}/etc/resolv.conf${IFS}/etc/hosts${IFS}/sys/class/net/eth0/mtu;ip${IFS}-o${IFS}addr"
        ),
    );
    for wanted in [
        "nameserver 10.44.0.53",
        "search example.test",
        "options timeout:1",
        "192.0.2.7\tup",
        "1400",
        "10.44.0.129/24",
        "fd00:44::2/64",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    docker(&instance, "network create one");
    let one = network(&instance, "one");
    assert_eq!(
        one["IPAM"]["Config"][0]["Subnet"],
        json!("10.60.0.0/26"),
        "{one}"
    );
    assert_eq!(
        one["Options"]["com.docker.network.driver.mtu"],
        json!("1300")
    );
    // at the address that ports are published at unless they name one
    let id = serve(&instance, "web", "8080");
    wait_for(&instance, "127.0.0.1:8080");
    assert_eq!(
        instance.inspect(&id)["NetworkSettings"]["Ports"],
        json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]})
    );
    instance.remove(&id);
    docker(&instance, "network rm one");
    clean.assert_settled(&instance);
}

/// Another network for the containers to come, once nobody is in the old one.
#[test]
fn the_default_network_changes_when_nobody_is_in_it() {
    let mut instance = Instance::prepared_networked().arguments(&["--bip=10.44.0.1/24"]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    let id = serve(&instance, "web", "8080");
    wait_for(&instance, "127.0.0.1:8080");
    instance.stop();
    instance = instance.arguments(&["--bip=10.45.0.1/24"]);
    instance.start();
    let subnet = |i: &Instance| network(i, "bridge")["IPAM"]["Config"][0]["Subnet"].clone();
    assert_eq!(subnet(&instance), json!("10.44.0.0/24"));
    assert!(instance.log().contains("it keeps its subnets"));
    wait_for(&instance, "127.0.0.1:8080");
    instance.remove(&id);
    instance.stop();
    instance.start();
    assert_eq!(subnet(&instance), json!("10.45.0.0/24"));
    let id = serve(&instance, "web", "8080");
    wait_for(&instance, "127.0.0.1:8080");
    instance.remove(&id);
}

/// FAILURES "Published port bypasses the host's firewall": the host's rules for input decide, where the
/// operator says so, and for what is forwarded where not.
#[test]
fn the_hosts_firewall_decides_on_published_ports() {
    for (policy, hook) in [("input", "input"), ("forward", "forward")] {
        let flag = format!("--publish-policy={policy}");
        let mut instance = Instance::prepared_networked().arguments(&[&flag]);
        instance.start();
        instance.load(&testkit::image::Image::busybox().unwrap());
        let clean = Snapshot::take(&instance);
        let outside = drivers::Outside::of(&instance);
        let id = serve(&instance, "web", "8080");
        let reached = || outside.fetch("198.51.100.1:8080");
        until("the published port to answer", SOON, reached);
        wait_for(&instance, "127.0.0.1:8080");
        wait_for(&instance, "[::1]:8080");
        let nft = |what: &str| {
            let done = instance.inside(|| testkit::instance::command("nft").arg(what).status());
            assert!(done.expect("nft: install nftables").success());
        };
        nft(&format!(
            "table inet firewall {{ chain c {{ type filter hook {hook} priority 0; iifname lan tcp dport {{ 80, 8080 }} drop; }} ; }}"
        ));
        assert!(reached().is_none(), "{policy}");
        // this host is not outside
        wait_for(&instance, "127.0.0.1:8080");
        nft("delete table inet firewall");
        until("the published port to answer again", SOON, reached);
        instance.remove(&id);
        if policy == "input" {
            let fields = web(json!({"53/udp": [{"HostPort": "5353"}]}));
            let id = instance.create_with("udp", &["sleep", "1000"], fields);
            let path = format!("/containers/{id}/start");
            let refused = instance.answered(instance.api().post(&path, &Value::Null));
            let text = refused.json()["message"].to_string();
            assert!(text.contains("publish-policy"), "{text}");
            instance.remove(&id);
        }
        drivers::remove_wire(&instance);
        clean.assert_settled(&instance);
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused_by_name() {
    for (flags, word) in [
        (&["--bip=10.0.0.1"][..], "no network"),
        (&["--bip=fd00::1/64"], "IPv4"),
        (&["--bip=10.0.0.1/24", "--fixed-cidr=10.1.0.0/25"], "--bip"),
        (&["--default-gateway=10.0.0.1"], "--default-gateway"),
        (&["--default-address-pool=base=10.0.0.0/24,size=16"], "/16"),
        (&["--default-address-pool=10.0.0.0/8"], "base="),
        (&["--mtu=9"], "mtu"),
        (&["--dns=nowhere"], "nowhere"),
        (&["--default-network-opt=bridge=x=y"], "option x"),
    ] {
        let mut command = testkit::instance::command(testkit::instance::program());
        let output = command
            .args(["daemon", "--validate"])
            .args(flags)
            .output()
            .unwrap();
        let text = said(&output);
        assert!(text.contains(word), "{flags:?}: {text}");
    }
}

/// Names of interfaces, settings of the kernel, addresses that are others'.
#[test]
fn what_a_user_says_of_a_containers_place() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    docker(
        &instance,
        "network create --subnet 10.9.0.0/29 --aux-address router=10.9.0.2 -o com.docker.network.container_iface_prefix=lan one",
    );
    docker(&instance, "network create --subnet 10.8.0.0/24 two");
    let fields = json!({
        "HostConfig": {"NetworkMode": "one"},
        "NetworkingConfig": {"EndpointsConfig": {
            "one": {},
            "two": {"DriverOpts": {
                "com.docker.network.endpoint.ifname": "back",
                "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
            }},
        }},
    });
    let id = instance.create_with("box", &["sleep", "1000"], fields);
    instance.start_container(&id);
    let said = docker(
        &instance,
        "exec box sh -c ls${IFS}/sys/class/net;ip${IFS}-o${IFS}-4${IFS}addr;cat${IFS}/proc/sys/net/ipv4/conf/back/log_martians",
    );
    for wanted in ["lan0", "back", "10.9.0.3/29", "10.8.0.2/24"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(said.ends_with('1'), "{said}");
    let settings = instance.inspect(&id)["NetworkSettings"]["Networks"]["two"].clone();
    assert_eq!(
        settings["DriverOpts"]["com.docker.network.endpoint.ifname"],
        json!("back")
    );
    for (options, word) in [
        (json!({"x": "y"}), "endpoint option x"),
        (
            json!({"com.docker.network.endpoint.sysctls": "net.ipv4.ip_forward=1"}),
            "IFNAME",
        ),
        (
            json!({"com.docker.network.endpoint.ifname": "lan0"}),
            "interface lan0 already",
        ),
    ] {
        docker(&instance, "network create three");
        let body = json!({"Container": "box", "EndpointConfig": {"DriverOpts": options}});
        let refused = instance.answered(instance.api().post("/networks/three/connect", &body));
        let text = refused.json()["message"].to_string();
        assert!(refused.status >= 400 && text.contains(word), "{text}");
        docker(&instance, "network rm three");
    }
    instance.remove(&id);
    docker(&instance, "network rm one two");
    clean.assert_settled(&instance);
}

/// Of old: lines in /etc/hosts and variables; the address follows when the other starts anew.
#[test]
fn links_on_the_default_network() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    docker(
        &instance,
        &format!("run -d --name db --expose 5432 -e KIND=x {IMAGE} sleep 1000"),
    );
    let own = address(&instance, "db", "bridge");
    let environment = docker(&instance, &format!("run --rm --link db:sql {IMAGE} env"));
    for wanted in [
        format!("SQL_PORT=tcp://{own}:5432"),
        format!("SQL_PORT_5432_TCP_ADDR={own}"),
        "SQL_ENV_KIND=x".to_owned(),
    ] {
        assert!(
            environment.lines().any(|l| l == wanted),
            "{wanted}: {environment}"
        );
    }
    docker(
        &instance,
        &format!("run -d --name app --link db:sql {IMAGE} sleep 1000"),
    );
    let short = instance.inspect("db")["Id"].as_str().unwrap()[..12].to_owned();
    let hosts = || docker(&instance, "exec app cat /etc/hosts");
    let line = |address: &str| format!("{address}\tsql {short} db");
    assert!(hosts().contains(&line(&own)), "{}", hosts());
    assert_eq!(
        instance.inspect("app")["HostConfig"]["Links"],
        json!(["/db:/app/sql"])
    );
    docker(&instance, "restart -t 0 db");
    let next = address(&instance, "db", "bridge");
    assert_ne!(next, own);
    until("the new address", SOON, || {
        hosts().contains(&line(&next)).then_some(())
    });
    docker(&instance, "kill db");
    let refused = docker(&instance, &format!("run --rm --link db:sql {IMAGE} true"));
    assert!(
        refused.contains("Cannot link to a non running container: /db AS /"),
        "{refused}"
    );
    let refused = docker(&instance, &format!("run --rm --link none {IMAGE} true"));
    assert!(refused.contains("No such container"), "{refused}");
    instance.remove_all();
    clean.assert_settled(&instance);
}
