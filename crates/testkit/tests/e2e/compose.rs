//! Debian's Compose, unmodified: a project through its life.

use std::process::Stdio;
use std::time::Duration;

use testkit::image::BUSYBOX;
use testkit::{Instance, Snapshot, until};

/// A database that others wait for, one that is published, several of a kind; networks of both sorts.
const PROJECT: &str = r#"
version: "2.4"
services:
  db:
    image: IMAGE
    command: httpd -f -p 80 -h /data
    volumes: [data:/data]
    healthcheck: {test: ["CMD", "test", "-e", "/data"], interval: 1s}
    networks: {back: {aliases: [database]}}
  web:
    image: IMAGE
    command: httpd -f -p 80 -h /etc
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80"]
    environment: {COLOUR: blue}
    networks: [back, front]
    links: ["db:sql"]
    restart: unless-stopped
    mem_limit: 64m
  worker:
    image: IMAGE
    command: sleep 1000
    networks: [front]
networks:
  back: {internal: true}
  front: {ipam: {config: [{subnet: 10.77.0.0/24}]}}
volumes:
  data: {labels: {kept: "no"}}
"#;

struct Project<'a> {
    instance: &'a Instance,
    dir: std::path::PathBuf,
}

impl<'a> Project<'a> {
    fn new(instance: &'a Instance, text: &str) -> Self {
        let dir = instance.path().join("project");
        std::fs::create_dir(&dir).unwrap();
        let text = text.replace("IMAGE", BUSYBOX);
        std::fs::write(dir.join("docker-compose.yml"), text).unwrap();
        Self { instance, dir }
    }

    /// What it prints; the test fails where it fails.
    #[track_caller]
    fn compose(&self, words: &str) -> String {
        let output = testkit::instance::command("docker-compose")
            .args(words.split(' '))
            .env("DOCKER_HOST", self.instance.host())
            .env("DOCKER_CONFIG", self.instance.path().join("docker-config"))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .expect("docker-compose: install the package docker-compose");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words}: {text}");
        text
    }
}

#[test]
fn a_project_up_scaled_restarted_and_down() {
    let mut instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    let project = Project::new(&instance, PROJECT);
    project.compose("up -d");
    let list = project.compose("ps");
    assert!(
        list.contains("healthy") && list.contains("0.0.0.0:8080->80/tcp"),
        "{list}"
    );
    // names, aliases and links of the project
    for name in ["db", "database", "sql"] {
        let asked = project.compose(&format!("exec -T web nslookup {name} 127.0.0.11"));
        assert!(asked.contains(&format!("Name:\t{name}")), "{asked}");
    }
    let environment = project.compose("exec -T web env");
    assert!(environment.contains("COLOUR=blue"), "{environment}");
    assert_eq!(project.compose("port web 80").trim(), "0.0.0.0:8080");
    project.compose("up -d -t 1 --scale worker=3");
    let workers = project.compose("ps -q worker");
    assert_eq!(workers.lines().count(), 3, "{workers}");
    // nothing has changed: nothing is made anew
    let before = project.compose("ps -q");
    let again = project.compose("up -d -t 1 --scale worker=3");
    assert!(again.contains("is up-to-date"), "{again}");
    assert_eq!(project.compose("ps -q"), before);
    let ran = project.compose("run --rm web echo ran");
    assert!(ran.contains("ran"), "{ran}");
    for words in [
        "restart -t 1 web",
        "pause worker",
        "unpause worker",
        "top web",
        "images",
    ] {
        project.compose(words);
    }
    until("the restarted server", Duration::from_secs(20), || {
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], 8080));
        instance.inside(|| std::net::TcpStream::connect(to).ok())
    });
    let dir = project.dir.clone();
    instance.kill9();
    instance.start();
    let project = Project {
        instance: &instance,
        dir,
    };
    assert_eq!(project.compose("ps -q").lines().count(), 5);
    let down = project.compose("down -v -t 1");
    assert!(down.contains("Removing volume"), "{down}");
    clean.assert_settled(&instance);
}
