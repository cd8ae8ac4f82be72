//! Debian's dockerd, unmodified, beside an instance: what the same client sees of both.
//!
//! It has a network namespace, a mount namespace and directories of its own; nothing of it is shared with a dockerd
//! of the host.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::http::Api;
use crate::image::Image;
use crate::instance::command;
use crate::procfs;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running dockerd. Dropping it removes its containers and ends its processes.
#[derive(Debug)]
pub struct Dockerd {
    dir: tempfile::TempDir,
    child: Child,
    host: net::Namespace,
}

impl Dockerd {
    /// `None` where it isn't installed (Debian: docker.io).
    ///
    /// # Panics
    /// When it is, and doesn't come up: with its log.
    #[must_use]
    #[track_caller]
    pub fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
            .map(|d| d.join("dockerd"))
            .find(|p| p.is_file())?;
        crate::needs_root();
        let host = net::Namespace::create().expect("a network namespace");
        let lo = net::host::connect(&net::Instance::new("testkit"), &host, &[]);
        lo.expect("loopback can be brought up");
        let dir = tempfile::Builder::new()
            .prefix("pl-dockerd-")
            .tempdir()
            .expect("a temporary directory");
        let child = spawn(&program, dir.path(), &host);
        let mut dockerd = Self { dir, child, host };
        let end = Instant::now() + PATIENCE;
        while !dockerd.api().get("/_ping").is_ok_and(|r| r.status == 200) {
            let ended = dockerd.child.try_wait().is_ok_and(|s| s.is_some());
            assert!(
                !ended && Instant::now() < end,
                "dockerd doesn't come up:\n{}",
                dockerd.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(dockerd)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(&self.socket())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its version, and the newest version of the API that it speaks.
    ///
    /// # Panics
    /// When it doesn't answer.
    #[must_use]
    pub fn versions(&self) -> (String, String) {
        let said = self.api().get("/version").expect("dockerd answers").json();
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        (text("Version"), text("ApiVersion"))
    }

    /// # Panics
    /// When it refuses.
    #[track_caller]
    pub fn load(&self, image: &Image) {
        let loaded = self
            .api()
            .upload("POST", "/images/load?quiet=1", &image.archive());
        let _loaded = loaded.expect("dockerd answers").ok();
    }

    /// Runs something on the host that it runs on.
    ///
    /// # Panics
    /// When its namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.host, work)
    }
}

fn inside<T: Send>(host: &net::Namespace, work: impl FnOnce() -> T + Send) -> T {
    let done = net::netns::inside(host.as_fd(), || Ok::<T, net::netns::NamespaceError>(work()));
    done.expect("a namespace of ours can be entered")
}

fn spawn(program: &Path, dir: &Path, host: &net::Namespace) -> Child {
    let at = |name: &str| dir.join(name);
    let log = File::create(at("log")).expect("room for a log");
    fs::write(at("daemon.json"), "{}").expect("room for a file");
    let mut dockerd = command(program);
    dockerd
        .arg("--host")
        .arg(format!("unix://{}", at("s").display()))
        .arg("--data-root")
        .arg(at("data"))
        .arg("--exec-root")
        .arg(at("exec"))
        .arg("--pidfile")
        .arg(at("pid"))
        .arg("--config-file")
        .arg(at("daemon.json"))
        .arg("--cgroup-parent")
        .arg(cgroup(dir))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a free descriptor"))
        .stderr(log);
    // what it mounts ends with it
    let spawned = inside(host, move || {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                crate::powercut::enter_private_namespace()?;
                dockerd.spawn()
            });
            thread.join().expect("the thread that spawns")
        })
    });
    spawned.expect("dockerd can be executed")
}

/// Parent of its containers' cgroups.
fn cgroup(dir: &Path) -> String {
    dir.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let api = self.api().with_deadline(Duration::from_secs(30));
        let list = api.get("/containers/json?all=1").map(|r| r.json());
        for c in list.iter().filter_map(Value::as_array).flatten() {
            let id = c["Id"].as_str().unwrap_or_default();
            let _kept = api.delete(&format!("/containers/{id}?force=1&v=1"));
        }
        let tree = procfs::tree(i32::try_from(self.child.id()).unwrap_or(0));
        if let Some(daemon) = tree.first() {
            daemon.signal(Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && self.child.try_wait().is_ok_and(|s| s.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // its containerd too, where it has left it
        for process in tree {
            process.signal(Signal::KILL);
        }
        let _reaped = self.child.wait();
        crate::conservation::remove_cgroups(&cgroup(self.dir.path()));
    }
}
