//! Bodies as clients send them: what is changed then is one thing among many that are right.

use serde_json::{Value, json};
use testkit::image::BUSYBOX;

use super::random::Random;

/// `None`: this route takes none.
pub(super) fn valid(random: &mut Random, pattern: &str, dir: &str) -> Option<Value> {
    let name = *random.pick(&["n0", "n1", "n2"]);
    let volume_name = *random.pick(&["v0", "v1", "v2", ""]);
    Some(match pattern {
        "/containers/create" => create(random, dir),
        "/commit" => json!({"Cmd": ["true"], "Env": ["A=b"], "Labels": {"fuzz": "1"}, "User": "0"}),
        "/containers/{id}/update" => with(random, json!({}), &update()),
        "/containers/{id}/exec" => with(
            random,
            json!({"Cmd": ["true"], "AttachStdout": true}),
            &exec(),
        ),
        "/exec/{id}/start" => {
            json!({"Detach": random.one_in(2), "Tty": false, "ConsoleSize": [1, 1]})
        }
        "/networks/create" => with(random, json!({"Name": name}), &network()),
        "/networks/{id}/connect" => json!({
            "Container": *random.pick(&["t0", "t1", "t2"]),
            "EndpointConfig": {
                "IPAMConfig": {"IPv4Address": "10.7.0.9"},
                "Aliases": ["a"],
                "Links": ["t1:x"],
                "MacAddress": "02:42:0a:07:00:09",
                "GwPriority": 1,
                "DriverOpts": {},
            },
        }),
        "/networks/{id}/disconnect" => json!({"Container": "t0", "Force": random.one_in(2)}),
        "/volumes/create" => with(random, json!({"Name": volume_name}), &volume(dir)),
        "/auth" => json!({"username": "x", "password": "y", "serveraddress": "127.0.0.1:1"}),
        "/swarm/init" | "/swarm/join" => json!({"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": []}),
        "/containers/{id}/checkpoints" => json!({"CheckpointID": "x", "Exit": true}),
        _ => return None,
    })
}

/// Some of these fields as well.
fn with(random: &mut Random, mut body: Value, fields: &[(&str, Value)]) -> Value {
    for _ in 0..random.below(3) {
        let (name, value) = random.pick(fields);
        body[*name] = value.clone();
    }
    body
}

fn exec() -> Vec<(&'static str, Value)> {
    vec![
        ("AttachStdin", json!(true)),
        ("AttachStderr", json!(true)),
        ("Tty", json!(true)),
        ("ConsoleSize", json!([24, 80])),
        ("DetachKeys", json!("ctrl-p,ctrl-q")),
        ("Env", json!(["X=y", "X"])),
        ("WorkingDir", json!("/tmp")),
        ("User", json!("1000:1000")),
        ("Privileged", json!(true)),
        ("Cmd", json!(["no-such-program"])),
    ]
}

fn network() -> Vec<(&'static str, Value)> {
    vec![
        ("Driver", json!("bridge")),
        ("Internal", json!(true)),
        ("Attachable", json!(true)),
        ("EnableIPv6", json!(true)),
        ("EnableIPv4", json!(false)),
        ("CheckDuplicate", json!(true)),
        ("Labels", json!({"fuzz": "1"})),
        ("Options", json!({"com.docker.network.driver.mtu": "1400"})),
        (
            "Options",
            json!({"com.docker.network.bridge.name": "fuzz0"}),
        ),
        ("Options", json!({"parent": "lo"})),
        (
            "IPAM",
            json!({"Driver": "default", "Config": [
                    {"Subnet": "10.7.0.0/24", "Gateway": "10.7.0.1", "IPRange": "10.7.0.128/25"}]}),
        ),
        ("IPAM", json!({"Config": [{"Subnet": "fd00:7::/64"}]})),
        ("ConfigFrom", json!({"Network": ""})),
        ("Scope", json!("local")),
    ]
}

fn volume(dir: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("Driver", json!("local")),
        ("Labels", json!({"fuzz": "1"})),
        (
            "DriverOpts",
            json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"}),
        ),
        (
            "DriverOpts",
            json!({"type": "none", "o": "bind", "device": format!("{dir}/given")}),
        ),
        ("ClusterVolumeSpec", json!({})),
    ]
}

fn update() -> Vec<(&'static str, Value)> {
    vec![
        ("Memory", json!(67_108_864)),
        ("MemorySwap", json!(-1)),
        ("MemoryReservation", json!(33_554_432)),
        ("CpuShares", json!(512)),
        ("CpuPeriod", json!(100_000)),
        ("CpuQuota", json!(50_000)),
        ("NanoCpus", json!(500_000_000)),
        ("CpusetCpus", json!("0")),
        ("CpusetMems", json!("0")),
        ("PidsLimit", json!(100)),
        ("BlkioWeight", json!(100)),
        ("OomKillDisable", json!(true)),
        (
            "RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": 2}),
        ),
        ("RestartPolicy", json!({"Name": "unless-stopped"})),
    ]
}

fn create(random: &mut Random, dir: &str) -> Value {
    let command = match random.below(6) {
        0 => json!(["true"]),
        1 => json!(["no-such-program"]),
        2 => json!(["sh", "-c", "echo out; echo err >&2; exit 3"]),
        _ => json!(["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]),
    };
    let start = json!({"Image": BUSYBOX, "Cmd": command, "Labels": {"fuzz": "1"}});
    let mut body = with(random, start, &config());
    let network = *random.pick(&[
        "none",
        "none",
        "bridge",
        "n0",
        "host",
        "container:t1",
        "default",
    ]);
    let start = json!({"NetworkMode": network});
    let mut host = with(random, start, &update());
    for fields in [limits(), files(dir), isolation()] {
        host = with(random, host, &fields);
    }
    body["HostConfig"] = host;
    body
}

fn config() -> Vec<(&'static str, Value)> {
    vec![
        ("Hostname", json!("h")),
        ("Domainname", json!("d")),
        ("User", json!("user:extra")),
        ("Env", json!(["A=b", "EMPTY=", "NOTHING"])),
        ("Tty", json!(true)),
        ("OpenStdin", json!(true)),
        ("StdinOnce", json!(true)),
        ("AttachStdout", json!(true)),
        ("Entrypoint", json!(["sh", "-c", "exec \"$@\"", "x"])),
        ("Entrypoint", json!("")),
        ("WorkingDir", json!("/tmp")),
        ("ExposedPorts", json!({"80/tcp": {}, "53/udp": {}})),
        ("Volumes", json!({"/data": {}})),
        ("StopSignal", json!("SIGQUIT")),
        ("StopTimeout", json!(1)),
        ("MacAddress", json!("02:42:ac:11:00:02")),
        ("NetworkDisabled", json!(true)),
        ("Shell", json!(["sh", "-c"])),
        ("OnBuild", json!(["RUN x"])),
        ("ArgsEscaped", json!(false)),
        (
            "Healthcheck",
            json!({
            "Test": ["CMD", "true"], "Interval": 1_000_000_000, "Timeout": 1_000_000_000,
            "Retries": 1, "StartPeriod": 0, "StartInterval": 1_000_000_000}),
        ),
        (
            "NetworkingConfig",
            json!({"EndpointsConfig": {"n0": {
            "Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.7.0.8"}}}}),
        ),
    ]
}

fn limits() -> Vec<(&'static str, Value)> {
    vec![
        ("AutoRemove", json!(true)),
        ("ShmSize", json!(1_048_576)),
        (
            "Ulimits",
            json!([{"Name": "nofile", "Soft": 100, "Hard": 200}]),
        ),
        ("OomScoreAdj", json!(500)),
        ("MemorySwappiness", json!(60)),
        ("KernelMemoryTCP", json!(0)),
        ("CpuRealtimePeriod", json!(0)),
        ("CpuCount", json!(0)),
        (
            "BlkioWeightDevice",
            json!([{"Path": "/dev/null", "Weight": 100}]),
        ),
        (
            "BlkioDeviceReadBps",
            json!([{"Path": "/dev/zero", "Rate": 1000}]),
        ),
        ("DeviceCgroupRules", json!(["c 1:3 rwm"])),
        (
            "Devices",
            json!([{
            "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rw"}]),
        ),
        (
            "DeviceRequests",
            json!([{"Driver": "cdi", "DeviceIDs": ["vendor.com/x=y"]}]),
        ),
        (
            "LogConfig",
            json!({"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}),
        ),
        ("LogConfig", json!({"Type": "local", "Config": {}})),
        ("LogConfig", json!({"Type": "none", "Config": {}})),
        ("StorageOpt", json!({"size": "100m"})),
        ("Annotations", json!({"a": "b"})),
        ("ConsoleSize", json!([24, 80])),
    ]
}

fn files(dir: &str) -> Vec<(&'static str, Value)> {
    let given = format!("{dir}/given");
    vec![
        ("Binds", json!([format!("{given}:/data:ro")])),
        ("Binds", json!(["v0:/data:nocopy", "v1:/other"])),
        (
            "Mounts",
            json!([{"Type": "bind", "Source": given, "Target": "/b",
            "BindOptions": {"Propagation": "rprivate", "CreateMountpoint": true}}]),
        ),
        (
            "Mounts",
            json!([{"Type": "volume", "Source": "v1", "Target": "/v", "ReadOnly": true,
            "VolumeOptions": {"Subpath": "x", "NoCopy": true, "Labels": {"a": "b"}}}]),
        ),
        (
            "Mounts",
            json!([{"Type": "tmpfs", "Target": "/t",
            "TmpfsOptions": {"SizeBytes": 65536, "Mode": 1023}}]),
        ),
        (
            "Mounts",
            json!([{"Type": "image", "Source": BUSYBOX, "Target": "/i"}]),
        ),
        ("Tmpfs", json!({"/run": "size=1m,mode=1777"})),
        ("VolumesFrom", json!(["t0:ro"])),
        ("VolumeDriver", json!("local")),
        ("ReadonlyRootfs", json!(true)),
        ("MaskedPaths", json!(["/proc/kcore"])),
        ("ReadonlyPaths", json!([])),
    ]
}

fn isolation() -> Vec<(&'static str, Value)> {
    vec![
        ("Privileged", json!(true)),
        ("CapAdd", json!(["NET_ADMIN", "ALL"])),
        ("CapDrop", json!(["ALL"])),
        (
            "SecurityOpt",
            json!([
                "no-new-privileges",
                "seccomp=unconfined",
                "apparmor=unconfined"
            ]),
        ),
        ("PidMode", json!("container:t0")),
        ("IpcMode", json!("shareable")),
        ("IpcMode", json!("container:t1")),
        ("UTSMode", json!("host")),
        ("UsernsMode", json!("host")),
        ("CgroupnsMode", json!("private")),
        ("GroupAdd", json!(["extra", "2001"])),
        ("Init", json!(true)),
        ("Runtime", json!("runc")),
        (
            "Sysctls",
            json!({"net.ipv4.ip_unprivileged_port_start": "0"}),
        ),
        ("Dns", json!(["127.0.0.1"])),
        ("DnsSearch", json!(["x.test"])),
        ("DnsOptions", json!(["ndots:1"])),
        ("ExtraHosts", json!(["a:1.2.3.4", "b:host-gateway"])),
        ("Links", json!(["t0:a"])),
        (
            "PortBindings",
            json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]}),
        ),
        ("PublishAllPorts", json!(true)),
        ("RestartPolicy", json!({"Name": "always"})),
        ("Isolation", json!("default")),
    ]
}
