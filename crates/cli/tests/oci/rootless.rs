//! The command line of a user without any privilege.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, Said, command, root_file_system};

const USER: u32 = 4711;

/// A home of that user with a bundle and a copy of the runtime, which may lie where others can't go.
struct Home {
    dir: TempDir,
    spec: Value,
    /// Lines of /etc/subuid and /etc/subgid, as this user's processes see them.
    lent: Option<String>,
}

impl Home {
    /// A bundle of `spec --rootless` whose program is `sh -c script`.
    fn sh(script: &str) -> Self {
        testkit::needs_root();
        let dir = TempDir::new().unwrap();
        root_file_system(&dir.path().join("bundle/rootfs"));
        fs::create_dir(dir.path().join("run")).unwrap();
        let program = env!("CARGO_BIN_EXE_plimsoll-oci");
        fs::copy(program, dir.path().join("plimsoll-oci")).unwrap();
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), open).unwrap();
        own(dir.path());
        let mut home = Self {
            dir,
            spec: Value::Null,
            lent: None,
        };
        let said = home.oci(&["spec", "--rootless"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let spec = fs::read(home.bundle().join("config.json")).unwrap();
        home.spec = serde_json::from_slice(&spec).unwrap();
        home.spec["process"]["terminal"] = json!(false);
        home.spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        home
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn command(&self, line: &[&str]) -> Command {
        if !self.spec.is_null() {
            let config = serde_json::to_vec(&self.spec).unwrap();
            fs::write(self.bundle().join("config.json"), config).unwrap();
        }
        let mut as_user = match &self.lent {
            None => command(Path::new("setpriv")),
            Some(lines) => {
                let files = self.dir.path().join("lent");
                fs::create_dir_all(&files).unwrap();
                let passwd = fs::read_to_string("/etc/passwd").unwrap();
                let user = format!("{passwd}plimtest:x:{USER}:{USER}::/:/bin/sh\n");
                for (name, text) in [("passwd", &user), ("subuid", lines), ("subgid", lines)] {
                    fs::write(files.join(name), text).unwrap();
                    if !Path::new("/etc").join(name).exists() {
                        fs::write(Path::new("/etc").join(name), "").unwrap();
                    }
                }
                let mut lent = command(Path::new("unshare"));
                lent.args(["--mount", "--propagation", "private", "sh", "-c"]);
                lent.arg("for f in passwd subuid subgid; do mount --bind \"$0/$f\" /etc/$f; done; exec setpriv \"$@\"");
                lent.arg(files);
                lent
            }
        };
        let id = USER.to_string();
        as_user.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        as_user.args(["--inh-caps=-all", "env", "-i", "PATH=/usr/bin:/bin"]);
        let run = self.dir.path().join("run");
        as_user.arg(format!("XDG_RUNTIME_DIR={}", run.display()));
        as_user.arg(self.dir.path().join("plimsoll-oci")).args(line);
        as_user.current_dir(self.bundle()).stdin(Stdio::null());
        as_user
    }

    fn oci(&self, line: &[&str]) -> Said {
        self.command(line).output().unwrap().into()
    }

    /// Of a command whose container keeps its output open.
    fn quietly(&self, line: &[&str]) -> (Option<i32>, String) {
        let out = fs::File::create(self.dir.path().join("out")).unwrap();
        let both = (out.try_clone().unwrap(), out);
        let mut command = self.command(line);
        let status = command.stdout(both.0).stderr(both.1).status().unwrap();
        (status.code(), self.output())
    }

    fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    fn ok(&self, line: &[&str]) -> String {
        let said = self.oci(line);
        assert_eq!(said.code, Some(0), "{line:?}: {said:?}");
        said.out
    }
}

/// Gives the tree to the user.
fn own(dir: &Path) {
    chown(dir, Some(USER), Some(USER)).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            t if t.is_dir() => own(&entry.path()),
            t if t.is_file() => chown(entry.path(), Some(USER), Some(USER)).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn a_life_without_privilege_and_without_id_ranges() {
    let home = Home::sh("id -u; cat /proc/self/uid_map; sleep 1000");
    let (code, out) = home.quietly(&["create", "c"]);
    assert_eq!(code, Some(0), "{out}");
    home.ok(&["start", "c"]);
    testkit::until("the map", PATIENCE, || {
        home.output().contains("4711").then_some(())
    });
    assert!(home.output().starts_with("0\n"), "{}", home.output());
    let state: Value = serde_json::from_str(&home.ok(&["state", "c"])).unwrap();
    assert_eq!(state["status"], "running");
    let owner = home.ok(&["list"]);
    assert!(owner.contains("#4711"), "{owner}");
    let pids: Vec<i64> = serde_json::from_str(&home.ok(&["ps", "-f", "json", "c"])).unwrap();
    assert!(pids.contains(&state["pid"].as_i64().unwrap()), "{pids:?}");
    let said = home.oci(&["exec", "c", "sh", "-c", "id -u; exit 3"]);
    assert_eq!((said.code, said.out.as_str()), (Some(3), "0\n"), "{said:?}");
    home.ok(&["kill", "c", "KILL"]);
    testkit::until("its end", PATIENCE, || {
        let state: Value = serde_json::from_str(&home.ok(&["state", "c"])).unwrap();
        (state["status"] == "stopped").then_some(())
    });
    home.ok(&["delete", "c"]);
    let left = fs::read_dir(home.dir.path().join("run/plimsoll-oci")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn id_ranges_that_were_lent_are_mapped_by_newuidmap() {
    let mut home = Home::sh("cat /proc/self/uid_map /proc/self/gid_map");
    let several = json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": 700_000, "size": 1000}
    ]);
    home.spec["linux"]["uidMappings"] = several.clone();
    home.spec["linux"]["gidMappings"] = several;
    home.lent = Some(format!("{USER}:700000:1000\n"));
    let said = home.oci(&["run", "c"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let lines: Vec<Vec<&str>> = said
        .out
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let map = [["0", "4711", "1"], ["1", "700000", "1000"]];
    assert_eq!(lines, [map[0], map[1], map[0], map[1]], "{said:?}");
    home.lent = Some(String::new());
    let said = home.oci(&["run", "c"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("/etc/subuid"), "{said:?}");
}

#[test]
fn what_needs_a_cgroup_says_so_where_none_is_delegated() {
    let mut home = Home::sh("sleep 1000");
    let (code, out) = home.quietly(&["run", "--detach", "c"]);
    assert_eq!(code, Some(0), "{out}");
    for line in [&["pause", "c"][..], &["update", "--pids-limit", "9", "c"]] {
        let said = home.oci(line);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("delegated"), "{said:?}");
    }
    home.ok(&["delete", "--force", "c"]);
    home.spec["linux"]["resources"] = json!({"pids": {"limit": 5}});
    let (code, out) = home.quietly(&["run", "--detach", "c"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("delegated"), "{out}");
}
