//! The API over TCP and TLS, who may use it, and what is written down of who did what.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::image::BUSYBOX;
use testkit::instance::command;
use testkit::{Instance, Snapshot};

use crate::said as text;

/// An authority, what it gave the server and a client, and a client of another authority.
struct Papers(tempfile::TempDir);

impl Papers {
    fn new() -> Self {
        let papers = Self(tempfile::tempdir().unwrap());
        papers.shell(
            "for ca in ca other; do openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.pem; done; \
             printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth' >server.ext; printf 'extendedKeyUsage=clientAuth' >client.ext",
        );
        papers.issue("ca", "server", "server");
        papers.issue("ca", "operator", "client");
        papers.issue("other", "stranger", "client");
        papers
    }

    fn shell(&self, script: &str) {
        let mut shell = command("sh");
        let done = shell
            .args(["-ec", script])
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "openssl: install the package openssl: {said}"
        );
    }

    /// `name.pem` and `name.key`, whose common name is the name.
    fn issue(&self, authority: &str, name: &str, kind: &str) {
        self.shell(&format!(
            "openssl req -newkey rsa:2048 -nodes -subj /O=test/CN={name} -keyout {name}.key -out {name}.csr; \
             openssl x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 -extfile {kind}.ext -out {name}.pem"
        ));
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn until_soon<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    testkit::until(what, std::time::Duration::from_secs(30), condition)
}

fn tcp_address(instance: &Instance) -> SocketAddr {
    let log = instance.log();
    let mut lines = log
        .lines()
        .filter_map(|l| l.split_once("serving on tcp://"));
    lines
        .next_back()
        .expect("it serves TCP")
        .1
        .trim()
        .parse()
        .unwrap()
}

/// An engine with certificates, on a port of the loopback.
fn verified(papers: &Papers, further: &[&str]) -> Instance {
    let (ca, cert, key) = (
        papers.path("ca.pem"),
        papers.path("server.pem"),
        papers.path("server.key"),
    );
    let mut all = vec![
        "--host",
        "tcp://127.0.0.1:0",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    all.extend(further);
    let mut instance = Instance::prepared().arguments(&all);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    instance
}

/// The real docker command, with a certificate.
fn docker(instance: &Instance, papers: &Papers, who: &str) -> Command {
    let mut docker = instance.docker_command();
    let address = tcp_address(instance);
    docker.env_remove("DOCKER_HOST");
    docker.args(["--host", &format!("tcp://{address}"), "--tlsverify"]);
    docker.args(["--tlscacert", &papers.path("ca.pem")]);
    docker.args(["--tlscert", &papers.path(&format!("{who}.pem"))]);
    docker.args(["--tlskey", &papers.path(&format!("{who}.key"))]);
    docker
}

fn fed(mut command: Command, input: &[u8]) -> Output {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Connections to a port that its server has not closed: established, or closed by the client alone.
/// source: proc_pid_net(5)
fn clients_of(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let is_its = fields.next().is_some_and(|a| a.ends_with(&local));
        is_its && matches!(fields.nth(1), Some("01" | "08"))
    };
    table.lines().filter(open).count()
}

/// All that takes a connection over, through TLS: both streams, what is typed, the half-closed end.
#[test]
fn clients_with_a_certificate_do_everything() {
    let papers = Papers::new();
    let instance = verified(&papers, &[]);
    let clean = Snapshot::take(&instance);
    let run = |words: &[&str]| {
        text(
            &docker(&instance, &papers, "operator")
                .args(words)
                .output()
                .unwrap(),
        )
    };
    let both = run(&[
        "run",
        "--rm",
        "--network",
        "none",
        BUSYBOX,
        "sh",
        "-c",
        "echo out; echo err >&2",
    ]);
    assert!(both.contains("out") && both.contains("err"), "{both}");
    let mut cat = docker(&instance, &papers, "operator");
    cat.args(["run", "-i", "--rm", "--network", "none", BUSYBOX, "md5sum"]);
    let big = vec![b'x'; 3_000_000];
    let sum = text(&fed(cat, &big));
    let mut local = command("md5sum");
    local.stdin(Stdio::piped());
    assert_eq!(sum, text(&fed(local, &big)));
    run(&[
        "run",
        "-d",
        "--name",
        "long",
        "--network",
        "none",
        BUSYBOX,
        "sleep",
        "1000",
    ]);
    let mut exec = docker(&instance, &papers, "operator");
    exec.args(["exec", "-i", "long", "sh", "-c", "cat; exit 3"]);
    let done = fed(exec, b"typed");
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    assert_eq!(text(&done), "typed");
    // a client that goes ends what waits for it
    let port = tcp_address(&instance).port();
    until_soon("no client is there", || {
        (clients_of(port) == 0).then_some(())
    });
    let mut waiting = docker(&instance, &papers, "operator");
    let waiting = waiting.args(["wait", "long"]).stdout(Stdio::null());
    let mut waiting = waiting.spawn().unwrap();
    until_soon("the client is there", || {
        (clients_of(port) > 0).then_some(())
    });
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    until_soon("its connection has gone", || {
        (clients_of(port) == 0).then_some(())
    });
    run(&["rm", "-f", "long"]);
    clean.assert_settled(&instance);
}

#[test]
fn others_are_refused_and_told_why() {
    let papers = Papers::new();
    let instance = verified(&papers, &[]);
    let stranger = text(
        &docker(&instance, &papers, "stranger")
            .arg("ps")
            .output()
            .unwrap(),
    );
    assert!(stranger.contains("tls"), "{stranger}");
    let address = tcp_address(&instance);
    let mut bare = instance.docker_command();
    bare.env_remove("DOCKER_HOST")
        .args(["--host", &format!("tcp://{address}"), "ps"]);
    let bare = text(&bare.output().unwrap());
    assert!(bare.contains("HTTP request to an HTTPS server"), "{bare}");
    // who says nothing holds up nobody
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    assert!(instance.docker(&["ps"]).status.success());
    drop(silent);
    let ours = docker(&instance, &papers, "operator")
        .arg("ps")
        .output()
        .unwrap();
    assert!(ours.status.success(), "{ours:?}");
}

/// Who can use the API is root: nothing is open to a network by mistake.
#[test]
fn open_to_the_network_is_refused() {
    let papers = Papers::new();
    let (cert, key) = (papers.path("server.pem"), papers.path("server.key"));
    for (arguments, why) in [
        (&["--host", "tcp://0.0.0.0:0"][..], "root of this host"),
        (
            &[
                "--host",
                "tcp://0.0.0.0:0",
                "--tls",
                "--tlscert",
                &cert,
                "--tlskey",
                &key,
            ],
            "root of this host",
        ),
        (&["--host", "tcp://127.0.0.1:0", "--tlsverify"], "--tlscert"),
        (
            &["--host", "tcp://127.0.0.1:0", "--tlscert", &cert],
            "--tlsverify",
        ),
        (
            &[
                "--host",
                "tcp://127.0.0.1:0",
                "--tlsverify",
                "--tlscert",
                &cert,
                "--tlskey",
                &cert,
                "--tlscacert",
                &cert,
            ],
            "server.pem",
        ),
        (&["--host", "tcp://1:2:3"], "tcp://host:port"),
    ] {
        let mut instance = Instance::prepared().arguments(arguments);
        instance.spawn();
        until_soon("it ends", || instance.has_ended().then_some(()));
        assert!(
            instance.log().contains(why),
            "{arguments:?}: {}",
            instance.log()
        );
    }
}

/// Without TLS on the loopback: local programs are served, web pages are not.
#[test]
fn on_the_loopback_pages_are_refused() {
    let mut instance = Instance::prepared().arguments(&["--host", "tcp://127.0.0.1:0"]);
    instance.start();
    let address = tcp_address(&instance);
    let mut docker = instance.docker_command();
    docker
        .env_remove("DOCKER_HOST")
        .args(["--host", &format!("tcp://{address}"), "version"]);
    let version = docker.output().unwrap();
    assert!(version.status.success(), "{version:?}");
    for (headers, status) in [
        ("Host: localhost", "200"),
        ("Host: localhost\r\nOrigin: https://evil.example", "403"),
        ("Host: evil.example", "403"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET /info HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{headers}: {answer}"
        );
    }
    // a form of a page, as text: what is no JSON is not taken for it
    let answer = instance
        .api()
        .request(
            "POST",
            "/containers/create",
            "text/plain",
            br#"{"Image":"x"}"#,
        )
        .unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text().contains("Content-Type"), "{answer:?}");
}

/// SIGHUP: certificates are renewed, and a bad file changes nothing.
#[test]
fn certificates_labels_and_mirrors_are_read_anew() {
    let papers = Papers::new();
    let file = papers.path("daemon.json");
    let write = |value: Value| std::fs::write(&file, value.to_string()).unwrap();
    write(json!({"labels": ["a=1"]}));
    let instance = verified(&papers, &["--config-file", &file]);
    let hup = |wanted: &str| {
        let seen = instance.log().matches(wanted).count();
        instance.daemon().unwrap().signal(Signal::HUP);
        until_soon("the log says so", || {
            (instance.log().matches(wanted).count() > seen).then_some(())
        });
    };
    let info = || instance.api().get("/info").unwrap().ok().json();
    let serial = || {
        let mut openssl = command("openssl");
        let address = tcp_address(&instance).to_string();
        openssl.args(["s_client", "-connect", &address, "-showcerts"]);
        let said = text(&openssl.stdin(Stdio::null()).output().unwrap());
        let begin = said.find("-----BEGIN").expect("a certificate");
        said[begin..].lines().nth(5).unwrap().to_owned()
    };
    assert_eq!(info()["Labels"], json!(["a=1"]));
    let before = serial();
    papers.issue("ca", "server", "server");
    write(
        json!({"labels": ["b=2"], "registry-mirrors": ["https://mirror.example"], "insecure-registries": ["old.example"]}),
    );
    hup("configuration reloaded");
    assert_ne!(serial(), before);
    let now = info();
    assert_eq!(now["Labels"], json!(["b=2"]));
    let registries = &now["RegistryConfig"];
    assert_eq!(
        registries["Mirrors"],
        json!(["https://mirror.example"]),
        "{registries}"
    );
    assert_eq!(
        registries["IndexConfigs"]["old.example"]["Secure"], false,
        "{registries}"
    );
    let good = serial();
    for bad in [json!({"labels": "x"}), json!({"no-such-key": 1})] {
        write(bad);
        hup("the last good one stays");
    }
    write(json!({"labels": ["c=3"]}));
    std::fs::write(papers.path("server.pem"), "nonsense").unwrap();
    hup("the last good one stays");
    assert_eq!(info()["Labels"], json!(["b=2"]));
    assert_eq!(serial(), good);
    let ours = docker(&instance, &papers, "operator")
        .arg("ps")
        .output()
        .unwrap();
    assert!(ours.status.success(), "{ours:?}");
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Who did what, by process or certificate; kept through kill -9, told when its disk is full.
#[test]
fn changes_are_written_down_with_who_made_them() {
    let papers = Papers::new();
    let audit = papers.0.path().join("audit.log");
    let mut instance = verified(&papers, &["--audit-log", audit.to_str().unwrap()]);
    std::fs::write(&audit, "").unwrap();
    instance.docker(&["volume", "create", "one"]);
    instance.docker(&["volume", "ls"]);
    docker(&instance, &papers, "operator")
        .args(["volume", "rm", "one", "absent"])
        .output()
        .unwrap();
    instance.kill9();
    instance.restart();
    instance.docker(&["volume", "create", "two"]);
    let all = lines(&audit);
    let told: Vec<String> = all
        .iter()
        .map(|l| {
            let path = l["path"].as_str().unwrap();
            let path = path.split_once("/volumes").unwrap().1;
            format!("{} {path} {}", l["method"].as_str().unwrap(), l["status"])
        })
        .collect();
    assert_eq!(
        told,
        [
            "POST /create 201",
            "DELETE /one 204",
            "DELETE /absent 404",
            "POST /create 201"
        ]
    );
    assert_eq!(all[0]["client"]["uid"], 0, "{}", all[0]);
    assert_eq!(all[0]["client"]["command"], "docker", "{}", all[0]);
    assert_eq!(all[1]["client"]["user"], "operator", "{}", all[1]);
    let moved = papers.0.path().join("audit.1");
    std::fs::rename(&audit, &moved).unwrap();
    instance.daemon().unwrap().signal(Signal::HUP);
    until_soon("it is opened anew", || audit.exists().then_some(()));
    instance.docker(&["volume", "rm", "two"]);
    assert_eq!(lines(&audit).len(), 1);
    // its disk is full: nothing is held up, and what was lost is told
    std::fs::remove_file(&audit).unwrap();
    std::os::unix::fs::symlink("/dev/full", &audit).unwrap();
    let hup = || instance.daemon().unwrap().signal(Signal::HUP);
    let reloads = || instance.log().matches("configuration reloaded").count();
    let seen = reloads();
    hup();
    until_soon("it is read anew", || (reloads() > seen).then_some(()));
    assert!(
        instance
            .docker(&["volume", "create", "three"])
            .status
            .success()
    );
    std::fs::remove_file(&audit).unwrap();
    hup();
    until_soon("it is opened anew", || audit.exists().then_some(()));
    assert!(instance.docker(&["volume", "rm", "three"]).status.success());
    assert_eq!(lines(&audit)[0]["lost"], 1, "{:?}", lines(&audit));
}

/// What a plugin was asked, and what it says to each path of the API that it refuses.
struct Plugin {
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Plugin {
    /// Allows all but what `judge` has words for.
    fn new(socket: PathBuf, judge: fn(&str, &Value) -> Option<&'static str>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(socket).unwrap();
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut path, mut length) = (String::new(), 0);
                for line in stream.by_ref().lines() {
                    let line = line.unwrap();
                    if path.is_empty() {
                        path = line.split(' ').nth(1).unwrap().to_owned();
                    }
                    if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                        length = n.parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let question: Value = serde_json::from_slice(&body).unwrap();
                let verdict = match judge(&path, &question) {
                    Some(why) => json!({"Allow": false, "Msg": why}),
                    None => json!({"Allow": true}),
                };
                all.lock().unwrap().push(question);
                let text = verdict.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                );
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { asked }
    }

    /// The body it was shown with a request.
    fn body_of(&self, path: &str) -> Value {
        let all = self.asked.lock().unwrap();
        let found = all
            .iter()
            .find(|q| q["RequestUri"].as_str().unwrap().contains(path))
            .expect(path);
        let body = found["RequestBody"].as_str().unwrap_or_default();
        serde_json::from_slice(&api::base64::decode(body).unwrap()).unwrap()
    }
}

/// An engine on a host with a plugin that refuses privileges and what is to be known of the engine.
fn judged() -> (Instance, Plugin, PathBuf) {
    let mut instance = Instance::prepared();
    let sockets = instance.set_run().join("docker/plugins");
    std::fs::create_dir_all(&sockets).unwrap();
    let socket = sockets.join("judge.sock");
    let plugin = Plugin::new(socket.clone(), |path, question| {
        let shown = question["RequestBody"].as_str().unwrap_or_default();
        let body = String::from_utf8(api::base64::decode(shown).unwrap()).unwrap();
        let uri = question["RequestUri"].as_str().unwrap();
        match path {
            "/AuthZPlugin.AuthZReq" if body.contains(r#""Privileged":true"#) => {
                Some("no privileges")
            }
            "/AuthZPlugin.AuthZRes" if uri.contains("/info") => Some("secret"),
            _ => None,
        }
    });
    let audit = instance.path().join("audit.log");
    let audit = audit.to_str().unwrap();
    let arguments = ["--authorization-plugin", "judge", "--audit-log", audit];
    let mut instance = instance.arguments(&arguments);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    (instance, plugin, socket)
}

/// Docker's protocol; what is not allowed does not happen, and a plugin that has gone lets nothing through.
#[test]
fn a_plugin_decides_on_each_request() {
    let (instance, plugin, socket) = judged();
    let clean = Snapshot::take(&instance);
    let run = |words: &[&str]| text(&instance.docker(words));
    let out = run(&[
        "run",
        "--rm",
        "--network",
        "none",
        BUSYBOX,
        "echo",
        "allowed",
    ]);
    assert_eq!(out, "allowed");
    assert_eq!(plugin.body_of("/containers/create")["Image"], BUSYBOX);
    let refused = run(&[
        "create",
        "--privileged",
        "--network",
        "none",
        BUSYBOX,
        "true",
    ]);
    let why = "authorization denied by plugin judge: no privileges";
    assert!(refused.contains(why), "{refused}");
    // nor without saying that it is JSON (CVE-2024-41110: what a plugin does not see)
    let body = format!(r#"{{"Image":"{BUSYBOX}","HostConfig":{{"Privileged":true}}}}"#);
    for (kind, status) in [("application/json", 403), ("text/plain", 400), ("", 400)] {
        let answer = instance
            .api()
            .request("POST", "/containers/create", kind, body.as_bytes());
        assert_eq!(answer.unwrap().status, status, "{kind}");
    }
    assert_eq!(instance.containers(), Vec::<String>::new());
    assert_eq!(instance.api().get("/info").unwrap().status, 403);
    let audit = lines(&instance.path().join("audit.log"));
    for path in ["/containers/create", "/info"] {
        let told = |l: &&Value| {
            l["denied"] == "plugin judge" && l["path"].as_str().unwrap().ends_with(path)
        };
        assert!(audit.iter().any(|l| told(&l)), "{path}: {audit:?}");
    }
    std::fs::remove_file(&socket).unwrap();
    let answer = instance.api().get("/containers/json").unwrap();
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.text().contains("plugin judge failed"), "{answer:?}");
    Plugin::new(socket, |_, _| None);
    clean.assert_settled(&instance);
}

/// Our own command line, by flags, by environment, by a context; what is typed goes through too.
#[test]
fn our_command_line_speaks_tls() {
    let papers = Papers::new();
    let instance = verified(&papers, &[]);
    let host = format!("tcp://{}", tcp_address(&instance));
    let [ca, cert, key] = ["ca.pem", "operator.pem", "operator.key"].map(|f| papers.path(f));
    let bare = |arguments: &[&str]| {
        let mut ours = instance.plimsoll_command();
        ours.env_remove("DOCKER_HOST")
            .env("DOCKER_CONFIG", papers.path("config"));
        ours.args(arguments);
        ours
    };
    let said = |arguments: &[&str]| text(&bare(arguments).output().unwrap());
    let flags = [
        "-H",
        &host,
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ];
    let run = ["run", "-i", "--rm", "--network", "none", BUSYBOX, "md5sum"];
    let big = vec![b'y'; 3_000_000];
    let mut local = command("md5sum");
    local.stdin(Stdio::piped());
    let sum = text(&fed(local, &big));
    assert_eq!(text(&fed(bare(&[&flags[..], &run].concat()), &big)), sum);
    // without a certificate, and with one of another authority
    for (cert, key) in [(None, None), (Some("stranger.pem"), Some("stranger.key"))] {
        let [cert, key] = [cert, key].map(|f| f.map(|f| papers.path(f)));
        let mut words = vec!["-H", &host, "--tlsverify", "--tlscacert", &ca];
        if let (Some(cert), Some(key)) = (&cert, &key) {
            words.extend(["--tlscert", cert, "--tlskey", key]);
        }
        words.push("ps");
        let refused = said(&words);
        assert!(
            refused.contains("TLS") || refused.contains("alert"),
            "{refused}"
        );
    }
    let other = papers.path("other.pem");
    let distrusted = said(&["-H", &host, "--tlsverify", "--tlscacert", &other, "ps"]);
    assert!(distrusted.contains("certificate"), "{distrusted}");
    let place = format!("host={host},ca={ca},cert={cert},key={key}");
    assert!(said(&["context", "create", "far", "--docker", &place]).starts_with("far"));
    assert!(said(&["context", "create", "far", "--docker", &place]).contains("already exists"));
    assert!(said(&["--context", "far", "images"]).contains("busybox"));
    assert_eq!(said(&["context", "use", "far"]), "far");
    assert_eq!(said(&["context", "show"]), "far");
    assert!(said(&["images"]).contains("busybox"));
    let listed = said(&["context", "ls"]);
    assert!(
        listed.contains("far *") && listed.contains(&host),
        "{listed}"
    );
    // the docker command finds the same, and ours what it makes
    let mut docker = instance.docker_command();
    docker
        .env_remove("DOCKER_HOST")
        .env("DOCKER_CONFIG", papers.path("config"));
    let images = text(&docker.arg("images").output().unwrap());
    assert!(images.contains("busybox"), "{images}");
    assert!(said(&["context", "rm", "far"]).contains("in use"));
    assert_eq!(said(&["context", "rm", "-f", "far"]), "far");
    assert_eq!(said(&["context", "show"]), "default");
    assert!(said(&["--context", "far", "ps"]).contains("context not found"));
}

/// `ssh://`: whatever ssh is (here: a script that runs the command on this host), it carries the connection.
#[test]
fn our_command_line_goes_through_ssh() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let bin = instance.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = testkit::instance::program();
    std::os::unix::fs::symlink(&program, bin.join("plimsoll")).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$*\" >>{}/ssh.log\nfor last; do :; done\nDOCKER_HOST={} exec sh -c \"$last\"\n",
        bin.display(),
        instance.host()
    );
    let ssh = bin.join("ssh");
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut ours = instance.plimsoll_command();
    ours.env("PATH", &path)
        .env("DOCKER_HOST", "ssh://me@there:2222");
    ours.args(["run", "-i", "--rm", "--network", "none", BUSYBOX, "cat"]);
    assert_eq!(text(&fed(ours, b"typed")), "typed");
    let log = std::fs::read_to_string(bin.join("ssh.log")).unwrap();
    assert!(log.contains("-T -l me -p 2222 -- there"), "{log}");
    // and the docker command through ours
    let mut docker = instance.docker_command();
    docker.env("PATH", &path).env("DOCKER_HOST", "ssh://there");
    let script = std::fs::read_to_string(&ssh)
        .unwrap()
        .replace("\"$last\"", "'plimsoll system dial-stdio'");
    std::fs::write(&ssh, script).unwrap();
    let out = docker.args(["images"]).output().unwrap();
    assert!(text(&out).contains("busybox"), "{out:?}");
    clean.assert_settled(&instance);
}
