//! What both managers share: the runtime under test, programs with a deadline, and what is left.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::procfs;

/// For any one command of a manager.
const DEADLINE: Duration = Duration::from_secs(60);

/// A link named runc: what it is called decides what it does.
pub(crate) fn runtime(dir: &Path) -> PathBuf {
    let dir = dir.join("bin");
    fs::create_dir(&dir).unwrap();
    let link = dir.join("runc");
    let program = match std::env::var_os("PLIMSOLL_DROP_IN") {
        Some(path) => path.into(),
        None => testkit::instance::program(),
    };
    symlink(program, &link).unwrap();
    link
}

/// A script that gives the runtime a root of its own, for a manager that cannot be told one.
pub(crate) fn runtime_below(root: &Path, dir: &Path) -> PathBuf {
    let (link, script) = (runtime(dir), dir.join("runc"));
    let (shown, root) = (link.display(), root.display());
    let text = format!("#!/bin/sh\nexec '{shown}' --root '{root}' \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl Said {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self.out
    }
}

/// Runs with a deadline. Output goes through files: what stays running would keep a pipe open.
#[track_caller]
pub(crate) fn said(command: &mut Command, input: &str) -> Said {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut stdin = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut stdin).unwrap();
    let mut child = command
        .stdin(Stdio::from(stdin))
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap())
        .spawn()
        .unwrap();
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} took more than {DEADLINE:?}:\n{}", text(err));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let signal = status.signal().map_or(-1, |s| 128 + s);
    Said {
        out: text(out),
        err: text(err),
        code: status.code().unwrap_or(signal),
    }
}

fn text(mut file: fs::File) -> String {
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A command on a terminal of its own: script(1) makes it.
#[track_caller]
pub(crate) fn on_terminal(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
    let mut command = testkit::instance::command("script");
    command.args(["--quiet", "--return", "--command", &quoted.join(" ")]);
    let said = said(command.arg("/dev/null"), "");
    assert_eq!(said.code, 0, "{words:?}: {}{}", said.out, said.err);
    // the end of our empty input comes back as ^@ or ^D
    said.out
        .replace(['\r', '\u{4}', '\u{8}'], "")
        .replace("^@", "")
        .replace("^D", "")
}

/// Names of the host's cgroups that hold `mark`, in any hierarchy.
fn cgroups(mark: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if entry.path().to_string_lossy().contains(mark) {
                    found.push(entry.path());
                }
                left.push(entry.path());
            }
        }
    }
    found
}

/// What an instance must not leave: state below its runtime's root, cgroups with its mark,
/// mounts and processes that name its directory.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) dir: PathBuf,
    pub(crate) root: PathBuf,
    /// In the path of every cgroup of its containers.
    pub(crate) mark: String,
    /// This too: a manager's own cgroups are not the runtime's.
    pub(crate) inside: &'static str,
}

impl Left {
    pub(crate) fn all(&self) -> Vec<String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let state = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut found: Vec<String> = state
            .map(|e| format!("state {}", e.path().display()))
            .collect();
        let mut named = cgroups(&self.mark);
        named.retain(|c| {
            let below = c.to_string_lossy();
            below
                .split(&self.mark)
                .last()
                .is_some_and(|b| b.contains(self.inside))
        });
        found.extend(named.iter().map(|c| format!("cgroup {}", c.display())));
        let processes = procfs::all();
        let mine = |p: &&procfs::Process| p.command.iter().any(|a| a.contains(&dir));
        found.extend(
            processes
                .iter()
                .filter(mine)
                .map(|p| format!("process {p:?}")),
        );
        found
    }

    /// Waits: managers clean up behind their answers.
    #[track_caller]
    pub(crate) fn assert_nothing(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.all();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind:\n{}", left.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends what a failed test left, by pid, and takes its mounts and cgroups away.
    pub(crate) fn clear(&self) {
        let dir = self.dir.to_string_lossy().into_owned();
        let groups = cgroups(&self.mark);
        let members = groups.iter().map(|g| g.join("cgroup.procs"));
        let members: String = members.filter_map(|p| fs::read_to_string(p).ok()).collect();
        let inside: Vec<i32> = members.lines().filter_map(|l| l.parse().ok()).collect();
        for process in procfs::all() {
            let named = process.command.iter().any(|a| a.contains(&dir));
            if named || inside.contains(&process.pid) {
                process.signal(Signal::KILL);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|l| l.split(' ').nth(4));
        let mine: Vec<&str> = points.filter(|p| p.starts_with(&dir)).collect();
        for point in mine.iter().rev() {
            let detach = rustix::mount::UnmountFlags::DETACH;
            let _gone = rustix::mount::unmount(*point, detach);
        }
        for group in groups.iter().rev() {
            let _gone = fs::remove_dir(group);
        }
    }
}

/// The inode that names a namespace of a process.
#[track_caller]
pub(crate) fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// A value of a container's first process in a version 1 controller.
#[track_caller]
pub(crate) fn cgroup_value(pid: i32, controller: &str, file: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |l: &str| {
        let mut parts = l.splitn(3, ':').skip(1);
        let named = parts.next()?.split(',').any(|c| c == controller);
        named.then(|| parts.next().map(str::to_owned)).flatten()
    };
    let path = text.lines().find_map(of).unwrap();
    let dir = Path::new("/sys/fs/cgroup").join(controller);
    let file = dir.join(path.trim_start_matches('/')).join(file);
    let value = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    value.trim().to_owned()
}

/// Fails unless a program is there: nothing is skipped.
#[track_caller]
pub(crate) fn needs(program: &str, package: &str) {
    testkit::needs_root();
    let found: Result<Output, _> = testkit::instance::command(program)
        .arg("--version")
        .output();
    assert!(found.is_ok(), "no {program}: install {package}");
}
