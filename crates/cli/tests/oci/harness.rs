//! A bundle and a runtime with a state directory of its own.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a command line said and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

/// Another runtime than ours is tested.
pub(crate) fn other() -> Option<PathBuf> {
    std::env::var_os("PLIMSOLL_TEST_RUNTIME").map(Into::into)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test runs the program it tests"
)]
pub(crate) fn command(program: &Path) -> Command {
    Command::new(program)
}

pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) spec: Value,
    id: String,
}

/// Of busybox.
pub(crate) fn root_file_system(root: &Path) {
    for d in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(d)).expect("made");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "cat", "echo", "env", "false", "id", "ls", "pwd", "readlink", "sleep", "stty",
        "touch", "true", "tty", "kill", "grep", "test", "rm", "wc", "mount", "hostname",
    ] {
        let link = root.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", link).expect("linked");
    }
}

impl Lab {
    /// A bundle whose program is `sh -c script`.
    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn new(args: &[&str]) -> Self {
        testkit::needs_root();
        let dir = TempDir::new().expect("a temporary directory");
        root_file_system(&dir.path().join("bundle/rootfs"));
        // cgroups are named after the id: those of two tests must differ
        let id = format!("plimsoll-test-{}", std::process::id());
        Self {
            spec: spec(args),
            dir,
            id,
        }
    }

    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let at = self.spec.pointer_mut(parent).expect("there");
        match at {
            Value::Array(list) if key == "-" => list.push(value),
            other => other[key] = value,
        }
        self
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A file of the test's own, outside the bundle.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An executable script of the host.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("changed");
        path
    }

    /// The runtime with its global flags, in the bundle's directory, with the spec written down.
    pub(crate) fn command(&self) -> Command {
        let config = serde_json::to_vec(&self.spec).expect("JSON");
        let path = self.bundle().join("config.json");
        // not while another process reads it
        if fs::read(&path).ok().as_ref() != Some(&config) {
            fs::write(path, config).expect("written");
        }
        let mut command = match other() {
            Some(program) => command(&program),
            None => {
                let mut ours = command(Path::new(env!("CARGO_BIN_EXE_plimsoll")));
                ours.arg("oci");
                ours
            }
        };
        command.arg("--root").arg(self.state_root());
        command.current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    pub(crate) fn oci(&self, line: &[&str]) -> Said {
        self.command().args(line).output().expect("it runs").into()
    }

    /// With output that nobody reads to the end: a container keeps it open.
    pub(crate) fn quietly(&self, line: &[&str]) -> Said {
        let file = |name: &str| File::create(self.file(name)).expect("made");
        let status = self
            .command()
            .args(line)
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .status()
            .expect("it runs");
        Said {
            code: status.code(),
            out: self.stdout(),
            err: fs::read_to_string(self.file("stderr")).expect("read"),
        }
    }

    /// What the container of [`Lab::quietly`] has written by now.
    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(self.file("stdout")).expect("read")
    }

    #[track_caller]
    pub(crate) fn ok(&self, line: &[&str]) -> String {
        let said = self.quietly(line);
        assert_eq!(said.code, Some(0), "{line:?}: {said:?}");
        said.out
    }

    pub(crate) fn spawn(&self, line: &[&str]) -> Child {
        self.command()
            .args(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs")
    }

    #[track_caller]
    pub(crate) fn create(&self) {
        self.ok(&["create", &self.id]);
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        let said = self.oci(&["start", &self.id]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        let said = self.oci(&["state", &self.id]);
        assert_eq!(said.code, Some(0), "{said:?}");
        serde_json::from_str(&said.out).expect("JSON")
    }

    #[track_caller]
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().expect("a word").to_owned()
    }

    #[track_caller]
    pub(crate) fn until_status(&self, wanted: &str) {
        testkit::until(wanted, PATIENCE, || (self.status() == wanted).then_some(()));
    }

    pub(crate) fn pid(&self) -> i32 {
        let pid = self.state()["pid"].as_i64().expect("a number");
        i32::try_from(pid).expect("a pid")
    }

    /// Cgroups that carry this container's name.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        fn search(dir: &Path, name: &str, depth: u32, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                    continue;
                }
                if entry.file_name().to_string_lossy() == name {
                    out.push(entry.path());
                } else if depth > 0 {
                    search(&entry.path(), name, depth - 1, out);
                }
            }
        }
        let mut out = Vec::new();
        search(Path::new("/sys/fs/cgroup"), &self.id, 4, &mut out);
        out
    }

    /// Nothing of the container is left.
    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        let left: Vec<_> = fs::read_dir(self.state_root())
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        assert!(left.is_empty(), "state is left: {left:?}");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new(), "cgroups are left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let here = self.dir.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&here), "mounts are left");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let config = self.bundle().join("config.json");
        if config.exists() {
            drop(
                self.command()
                    .args(["delete", "--force", &self.id])
                    .output(),
            );
        }
    }
}

fn spec(args: &[&str]) -> Value {
    let caps = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps}
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}
            ]
        }
    })
}
