use std::sync::Arc;

use api::container::{CreateRequest, UpdateRequest};
use engine::model::{ContainerRecord, ContainerSpec, MountPoint, Phase};
use engine::{ContainerPaths, ContainerView};

use super::{create, inspect, mounts, summary};
use crate::config::ContainerDefaults;

fn spec(body: &str) -> Result<ContainerSpec, String> {
    let request: CreateRequest = api::decode(body.as_bytes()).map_err(|e| e.to_string())?;
    create::spec(request, &ContainerDefaults::default())
        .map_err(|f| format!("{} {}", f.status.as_u16(), f.message))
}

/// What docker 28 sends for `docker run -it --rm --name x -v ... busybox sh`, shortened.
const FULL: &str = r#"{
  "Hostname": "h", "Domainname": "", "User": "1:2", "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
  "Tty": true, "OpenStdin": true, "StdinOnce": true, "Env": ["A=1"], "Cmd": ["sh", "-c", "x"], "Image": "busybox",
  "Volumes": {"/anon": {}}, "WorkingDir": "/w", "Entrypoint": "/init", "OnBuild": null, "Labels": {"a": "b"},
  "StopSignal": "SIGINT", "StopTimeout": 3, "ExposedPorts": {"80/tcp": {}},
  "HostConfig": {
    "Binds": ["/src:/dst:ro,rslave", "data:/data:nocopy", "/only"], "ContainerIDFile": "/tmp/cid",
    "LogConfig": {"Type": "", "Config": {"max-size": "1m"}}, "NetworkMode": "none", "PortBindings": {},
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "AutoRemove": false, "ConsoleSize": [24, 80],
    "CapAdd": ["NET_ADMIN"], "CapDrop": null, "CgroupnsMode": "host", "Dns": [], "IpcMode": "shareable", "PidMode": "host",
    "ReadonlyRootfs": true, "SecurityOpt": ["no-new-privileges"], "Tmpfs": {"/t": "size=1m"}, "ShmSize": 1048576,
    "Memory": 1000000, "NanoCpus": 500000000, "PidsLimit": 10, "OomKillDisable": false, "BlkioWeightDevice": [],
    "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
    "Ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}], "MaskedPaths": null, "Init": true, "Sysctls": {"net.x": "1"},
    "Mounts": [
      {"Type": "volume", "Source": "vol", "Target": "/v", "VolumeOptions": {"NoCopy": true, "Labels": {"k": "v"}}},
      {"Type": "bind", "Source": "/s", "Target": "/b", "ReadOnly": true, "BindOptions": {"Propagation": "rshared"}},
      {"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448}}
    ]
  },
  "NetworkingConfig": {"EndpointsConfig": {"none": {"IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": ""}}}
}"#;

pub(in crate::docker) fn view(spec: ContainerSpec) -> ContainerView {
    let mounts = spec
        .host
        .mounts
        .iter()
        .map(|m| MountPoint {
            kind: m.kind,
            name: String::new(),
            source: m.source.clone(),
            destination: m.target.clone(),
            read_only: m.read_only,
            propagation: m.propagation.clone().unwrap_or_default(),
            spec: m.clone(),
        })
        .collect();
    let record = ContainerRecord {
        id: "0123456789abcdef".repeat(4),
        name: "web".to_owned(),
        created: "2024-01-02T03:04:05.123456789Z".to_owned(),
        image_id: "sha256:aa".to_owned(),
        argv: vec!["/init".to_owned(), "sh".to_owned()],
        mounts,
        spec,
        state: Default::default(),
        restart_count: 0,
        stopped_by_user: false,
        networks: Default::default(),
    };
    ContainerView {
        record: Arc::new(record),
        phase: Phase::Exited,
        pid: 0,
        started_at: Some("2024-01-02T03:04:06Z".to_owned()),
        finished_at: Some("2024-01-02T03:04:07Z".to_owned()),
        exit_code: 137,
        oom_killed: true,
        error: String::new(),
        restart_count: 2,
        exec_ids: Vec::new(),
        health: None,
        paths: ContainerPaths {
            log: Some("/c/log".into()),
            upper: "/c/upper".into(),
            ..Default::default()
        },
        image_name: "busybox:latest".to_owned(),
        membership: None,
        rendered: std::sync::OnceLock::new(),
    }
}

#[test]
fn what_is_asked_reaches_the_engine() {
    insta::assert_debug_snapshot!(spec(FULL).unwrap());
}

#[test]
fn what_was_asked_is_shown_again() {
    let shown = inspect::container(&view(spec(FULL).unwrap()), "overlay");
    insta::assert_json_snapshot!(shown);
}

#[test]
fn a_container_with_nothing_asked_is_shown_as_dockerd_shows_it() {
    let shown = inspect::container(&view(spec(r#"{"Image": "busybox"}"#).unwrap()), "overlay");
    insta::assert_json_snapshot!(shown);
}

/// A front door's translation loses nothing: what inspect shows makes the same container again.
#[test]
fn shown_and_asked_are_the_same() {
    let first = spec(FULL).unwrap();
    let shown = inspect::container(&view(first.clone()), "overlay");
    let again = CreateRequest {
        config: shown.config,
        host_config: shown.host_config,
        ..Default::default()
    };
    assert_eq!(
        create::spec(again, &ContainerDefaults::default()).unwrap(),
        first
    );
}

#[test]
fn a_line_of_ps() {
    let mut line = summary::container(&view(spec(FULL).unwrap()));
    assert!(
        line.status.starts_with("Exited (137) ") && line.status.ends_with(" ago"),
        "{}",
        line.status
    );
    line.status.clear();
    insta::assert_json_snapshot!(line);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let mut all = Vec::new();
    for part in [
        r#""ArgsEscaped": true"#,
        r#""HostConfig": {"VolumeDriver": "nfs"}"#,
        r#""HostConfig": {"StorageOpt": {"size": "1g"}}"#,
        r#""HostConfig": {"Runtime": "kata"}"#,
        r#""HostConfig": {"Isolation": "hyperv"}"#,
        r#""HostConfig": {"CpuRealtimePeriod": 1}"#,
        r#""HostConfig": {"CpuRealtimeRuntime": 1}"#,
        r#""HostConfig": {"KernelMemory": 1}"#,
        r#""HostConfig": {"KernelMemoryTCP": 1}"#,
        r#""HostConfig": {"CpuCount": 1}"#,
        r#""HostConfig": {"CpuPercent": 1}"#,
        r#""HostConfig": {"IOMaximumIOps": 1}"#,
        r#""HostConfig": {"IOMaximumBandwidth": 1}"#,
        r#""HostConfig": {"Mounts": [{"Type": "volume", "Target": "/x", "VolumeOptions": {"DriverConfig": {"Name": "x"}}}]}"#,
        r#""HostConfig": {"Mounts": [{"Type": "cluster", "Source": "x", "Target": "/x"}]}"#,
        r#""NetworkingConfig": {"EndpointsConfig": {"mine": {"IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}}}"#,
    ] {
        let error = spec(&format!(r#"{{"Image": "x", {part}}}"#)).expect_err(part);
        assert!(error.starts_with("501 "), "{part}: {error}");
        all.push(error);
    }
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let mut all = vec![spec("{}").unwrap_err()];
    for part in [
        r#""RestartPolicy": {"Name": "sometimes"}"#,
        r#""RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}"#,
        r#""RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}"#,
        r#""RestartPolicy": {"Name": "always"}, "AutoRemove": true"#,
        r#""PidMode": "private""#,
        r#""UTSMode": "container:x""#,
        r#""NetworkMode": "container:""#,
        r#""PortBindings": {"80/icmp": []}"#,
        r#""PortBindings": {"web": []}"#,
        r#""ShmSize": -1"#,
        r#""Binds": ["relative:/x"], "PidMode": """#,
        r#""Binds": ["./relative:/x"]"#,
        r#""Binds": ["/a:relative"]"#,
        r#""Binds": ["/a:/"]"#,
        r#""Binds": ["/a:/b:ro:x"]"#,
        r#""Binds": ["/a:/b:nocopy"]"#,
        r#""Binds": ["/a:/b:purple"]"#,
        r#""Mounts": [{"Type": "bind", "Source": "x", "Target": "/x"}]"#,
        r#""Mounts": [{"Type": "bind", "Source": "/x", "Target": ""}]"#,
        r#""Mounts": [{"Type": "tmpfs", "Source": "/x", "Target": "/x"}]"#,
        r#""Mounts": [{"Type": "volume", "Target": "/x", "BindOptions": {}}]"#,
        r#""Mounts": [{"Type": "purple", "Target": "/x"}]"#,
    ] {
        match spec(&format!(r#"{{"Image": "x", "HostConfig": {{{part}}}}}"#)) {
            Err(error) => all.push(error),
            // a relative source without a slash is a volume's name
            Ok(_) => assert!(part.contains("relative:/x"), "{part}"),
        }
    }
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn defaults_of_the_daemon() {
    let defaults = ContainerDefaults {
        ulimits: vec![
            engine::model::Ulimit {
                name: "nofile".to_owned(),
                soft: 1,
                hard: 2,
            },
            engine::model::Ulimit {
                name: "core".to_owned(),
                soft: 0,
                hard: 0,
            },
        ],
        shm_size: Some(5),
        init: true,
        no_new_privileges: true,
        ..ContainerDefaults::default()
    };
    let body = r#"{"Image": "x", "HostConfig": {"Init": false, "Ulimits": [{"Name": "nofile", "Hard": 9, "Soft": 8}]}}"#;
    let made = create::spec(api::decode(body.as_bytes()).unwrap(), &defaults)
        .unwrap()
        .host;
    let limits: Vec<_> = made
        .ulimits
        .iter()
        .map(|u| (u.name.as_str(), u.soft))
        .collect();
    assert_eq!(limits, [("nofile", 8), ("core", 0)]);
    assert_eq!((made.shm_size, made.init), (Some(5), false));
    assert_eq!(made.security_opt, ["no-new-privileges"]);
}

#[test]
fn updates() {
    let read = |text: &str| {
        let request: UpdateRequest = api::decode(text.as_bytes()).unwrap();
        create::update(request).map_err(|f| f.message)
    };
    let good =
        read(r#"{"Memory": 7, "CpusetCpus": "0", "RestartPolicy": {"Name": "always"}}"#).unwrap();
    assert_eq!(
        (good.resources.memory, good.resources.cpuset_cpus.as_str()),
        (7, "0")
    );
    assert!(good.restart.is_some());
    assert!(read("{}").unwrap().restart.is_none());
    assert!(
        read(r#"{"Ulimits": [{"Name": "nofile"}]}"#)
            .unwrap_err()
            .contains("Ulimits")
    );
    assert!(
        read(r#"{"KernelMemory": 1}"#)
            .unwrap_err()
            .contains("KernelMemory")
    );
}

#[test]
fn volume_names() {
    for good in ["ab", "a.b_c-d", "0x"] {
        assert!(mounts::volume_name(good).is_ok(), "{good}");
    }
    for bad in ["", "a", ".a", "a/b", "a b", "ü1"] {
        assert!(mounts::volume_name(bad).is_err(), "{bad}");
    }
}
