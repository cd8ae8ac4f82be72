use super::*;

fn args(list: &[&str]) -> Vec<OsString> {
    // a file that is there and empty, so that the machine's own does not matter
    list.iter().map(OsString::from).collect()
}

fn with_file(text: &str, list: &[&str]) -> Result<Request, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon.json");
    std::fs::write(&file, text).unwrap();
    let mut all = args(list);
    all.push("--config-file".into());
    all.push(file.into_os_string());
    read(&all).map_err(|e| {
        e.to_string()
            .replace(&dir.path().display().to_string(), "<dir>")
    })
}

fn config(text: &str, list: &[&str]) -> Config {
    match with_file(text, list) {
        Ok(Request::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_of_an_instance() {
    let c = config(
        "{}",
        &[
            "-H",
            "unix:///tmp/a.sock",
            "--host=fd://",
            "--data-root=/d",
            "--exec-root",
            "/e",
            "-D",
            "--bridge=none",
            "--iptables=true",
            "-lwarn",
        ],
    );
    assert_eq!(
        c.hosts,
        [Host::Unix("/tmp/a.sock".into()), Host::Activated(None)]
    );
    assert_eq!(
        (c.data_root.to_str(), c.exec_root.to_str()),
        (Some("/d"), Some("/e"))
    );
    assert_eq!(c.pidfile(), PathBuf::from("/e/plimsoll.pid"));
    assert_eq!(c.level(), tracing::Level::DEBUG);
    assert_eq!(c.log_level, tracing::Level::WARN);
}

#[test]
fn the_file_says_the_same_as_flags() {
    let file = config(
        r#"{"hosts":["unix:///tmp/a.sock"],"debug":true,"labels":["a=b"],"log-opts":{"max-size":"1m"},
           "default-ulimits":{"nofile":{"Name":"nofile","Hard":20,"Soft":10}},"default-shm-size":"1g"}"#,
        &[],
    );
    let mut flags = config(
        "{}",
        &[
            "-Hunix:///tmp/a.sock",
            "--debug",
            "--label=a=b",
            "--log-opt",
            "max-size=1m",
            "--default-ulimit",
            "nofile=10:20",
            "--default-shm-size=1g",
        ],
    );
    flags.file.clone_from(&file.file);
    assert_eq!(file, flags);
}

/// FAILURES: "Bad config or stored state stops the daemon": at the first start it is refused, by name.
#[test]
fn refusals_name_the_key() {
    let mut all = Vec::new();
    for (text, list) in [
        ("{}", vec!["--bridge=a/b"]),
        ("{}", vec!["--iptables=false"]),
        ("{}", vec!["--storage-driver=btrfs"]),
        ("{}", vec!["--registry-mirror", "x"]),
        ("{}", vec!["--nonsense"]),
        ("{}", vec!["run"]),
        ("{}", vec!["--data-root"]),
        ("{}", vec!["--data-root=relative"]),
        ("{}", vec!["-H", "tcp://0.0.0.0:2375"]),
        ("{}", vec!["-H", "tcp://[::]"]),
        ("{}", vec!["-H", "tcp://1:2:3"]),
        ("{}", vec!["-H", "tcp://localhost", "--tlsverify"]),
        ("{}", vec!["-H", "tcp://localhost", "--tlskey=/k"]),
        ("{}", vec!["--authorization-plugin", "../x"]),
        ("{}", vec!["--log-driver=splunk"]),
        ("{}", vec!["--log-opt", "colour=x"]),
        ("{}", vec!["--default-ulimit", "nofile=9:8"]),
        (r#"{"registry-mirrors": ["ftp://x"]}"#, vec![]),
        (r#"{"debug": "yes"}"#, vec![]),
        (r#"{"hots": []}"#, vec![]),
        (r#"{"hosts": "unix:///x"}"#, vec![]),
        (r#"{"log-opts": {"max-size": 3}}"#, vec![]),
        (r#"{"builder": {}}"#, vec![]),
        ("{", vec![]),
        (r#"{"debug": true}"#, vec!["-D"]),
    ] {
        let error = with_file(text, &list).expect_err("must be refused");
        all.push(format!("{text} {list:?}: {error}"));
    }
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn hosts_of_tcp() {
    for (given, bound) in [
        ("tcp://", "127.0.0.1:2375"),
        ("tcp://:1234", "127.0.0.1:1234"),
        ("tcp://localhost", "localhost:2375"),
        ("tcp://127.0.0.1:99/", "127.0.0.1:99"),
        ("tcp://[::1]", "[::1]:2375"),
        ("tcp://[::1]:99", "[::1]:99"),
    ] {
        let hosts = config("{}", &["-H", given]).hosts;
        assert_eq!(hosts, [Host::Tcp(bound.to_owned())], "{given}");
    }
}

#[test]
fn a_named_file_must_be_there() {
    let error = read(&args(&["--config-file", "/nonexistent/daemon.json"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "read the configuration file /nonexistent/daemon.json"
    );
}

#[test]
fn validate_checks_and_does_not_run() {
    assert!(matches!(
        with_file("{}", &["--validate"]),
        Ok(Request::Valid)
    ));
    assert!(with_file(r#"{"x":1}"#, &["--validate"]).is_err());
}

#[test]
fn no_key_is_there_twice() {
    let mut flags: Vec<_> = KEYS
        .iter()
        .map(|k| k.flag)
        .filter(|f| !f.is_empty())
        .collect();
    let mut files: Vec<_> = KEYS
        .iter()
        .map(Key::in_file)
        .filter(|f| !f.is_empty())
        .collect();
    for list in [&mut flags, &mut files] {
        let all = list.len();
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), all);
    }
}

#[test]
fn the_cgroup_driver_as_dockerd_takes_it() {
    let driver = |list: &[&str]| config("{}", list).cgroup_driver;
    assert_eq!(driver(&[]), CgroupDriver::Cgroupfs);
    let systemd = "native.cgroupdriver=systemd";
    assert_eq!(driver(&["--exec-opt", systemd]), CgroupDriver::Systemd);
    let from_file = config(r#"{"exec-opts": ["native.cgroupdriver=systemd"]}"#, &[]);
    assert_eq!(from_file.cgroup_driver, CgroupDriver::Systemd);
    for (wrong, said) in [
        ("native.cgroupdriver=none", "no cgroup driver \"none\""),
        ("native.umask=normal", "is not native.cgroupdriver"),
    ] {
        let error = with_file("{}", &["--exec-opt", wrong]).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}
