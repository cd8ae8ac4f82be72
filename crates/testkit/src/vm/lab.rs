//! Tests that run in a guest, all in one boot.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::images::{self, made_once, program, said};
use super::{Entry, Kernel, LabError, Machine, io_error, root_disk, tail};

/// Name of the lab that a test runs in.
const INSIDE: &str = "PLIMSOLL_LAB";
/// Older reports than this belong to nobody.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// For one test in the guest, which is ten times slower than the host.
const ONE_TEST: u32 = 120;

/// The guest's PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// A script that mounts what every host has, cgroup v2 alone among it.
    Script,
    Systemd,
}

/// A kind of machine, and the tests that run in it.
#[derive(Debug)]
pub struct Lab {
    pub name: &'static str,
    /// The Debian release whose kernel boots; `PLIMSOLL_LAB_KERNEL` names another one.
    pub kernel: &'static str,
    pub init: Init,
    /// Kernel modules beside those every lab has.
    pub modules: &'static [&'static str],
    /// Beginning of the names of the tests that run in it.
    pub tests: &'static str,
    /// Beginning of the names of tests that don't, although the former says so.
    pub except: &'static [&'static str],
    /// Files of the project that the guest finds: (path in the workspace, path in the guest).
    pub files: &'static [(&'static str, &'static str)],
    /// Of the whole boot.
    pub deadline: Duration,
}

/// How a test ended in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub said: String,
}

/// What a boot reported, by test.
#[derive(Debug)]
pub struct Report {
    pub outcomes: BTreeMap<String, Outcome>,
    /// The guest came to its end.
    pub complete: bool,
    pub console: String,
}

impl Lab {
    /// In the guest, `body`. On the host, what the guest said of the test that calls this.
    ///
    /// # Panics
    /// When the test fails in the guest, or the guest can't be had: by name of what is missing.
    #[track_caller]
    pub fn test<F: FnOnce()>(&self, body: F) {
        if std::env::var_os(INSIDE).is_some_and(|l| l == self.name) {
            body();
            return;
        }
        // `crate::module::test::{{closure}}`: the caller's own name as the test runner knows it
        let name = std::any::type_name::<F>();
        let name = name.trim_end_matches("::{{closure}}");
        let name = name.split_once("::").map_or(name, |(_, n)| n);
        let report = self.report();
        match report.outcomes.get(name) {
            Some(o) if o.code == 0 => {}
            Some(o) => panic!("in the {} lab, {name} failed:\n{}", self.name, o.said),
            None => panic!(
                "the {} lab ended before {name} did:\n{}",
                self.name, report.console
            ),
        }
    }

    /// What the guest said; the first to ask boots it.
    ///
    /// # Panics
    /// When the guest can't be had.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> Report {
        crate::needs_root();
        match self.boot_once() {
            Ok(dir) => Report::read(&dir),
            Err(e) => {
                let mut text = format!("the {} lab, a virtual machine: {e}", self.name);
                let mut next = std::error::Error::source(&e);
                while let Some(cause) = next {
                    text.push_str(&format!(": {cause}"));
                    next = cause.source();
                }
                panic!("{text}");
            }
        }
    }

    fn boot_once(&self) -> Result<PathBuf, LabError> {
        let all = images::directory()?;
        forget_old(&all);
        // nextest runs each test in a process of its own: the run's id is what they share
        let run =
            std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
        let dir = all.join(format!("run-{}-{run}", self.name));
        made_once(&dir, |staged| {
            fs::create_dir(staged).map_err(io_error("make", staged))?;
            self.boot(staged)
        })?;
        Ok(dir)
    }

    fn boot(&self, dir: &Path) -> Result<(), LabError> {
        // for a look at newer ones: PLIMSOLL_LAB_KERNEL=sid
        let suite = std::env::var("PLIMSOLL_LAB_KERNEL");
        let kernel = Kernel::debian(suite.as_deref().unwrap_or(self.kernel))?;
        let root = root_disk("trixie")?;
        let machine = Machine {
            kernel: &kernel,
            root: &root,
            modules: self.modules,
            init: match self.init {
                Init::Script => "/lab/init",
                Init::Systemd => "/lib/systemd/systemd",
            },
            append: match self.init {
                Init::Script => "cgroup_no_v1=all",
                Init::Systemd => {
                    "systemd.show_status=0 systemd.machine_id=706c696d736f6c6c6c61626c61626c61"
                }
            },
            files: self.entries(dir)?,
            deadline: self.deadline,
        };
        let before = Instant::now();
        machine.run(dir)?;
        let took = format!("{:.1} s\n", before.elapsed().as_secs_f64());
        fs::write(dir.join("took"), took).map_err(io_error("write", dir))
    }

    fn entries(&self, dir: &Path) -> Result<Vec<(String, Entry)>, LabError> {
        let me = std::env::current_exe().map_err(io_error("find", Path::new("the test")))?;
        let mut files = vec![
            ("/lab/tests".to_owned(), stripped(&me, dir)?),
            ("/lab/run".to_owned(), script(&self.run())),
            ("/lab/init".to_owned(), script(BARE)),
        ];
        // a lab of a crate that has nothing to do with the whole program is also useful
        let plimsoll = crate::instance::find_program();
        if let Some(plimsoll) = plimsoll {
            files.push((
                "/usr/local/bin/plimsoll".to_owned(),
                stripped(&plimsoll, dir)?,
            ));
        }
        for (from, to) in self.files {
            let path = workspace(&me).join(from);
            let content = fs::read(&path).map_err(io_error("read", &path))?;
            let entry = Entry::File {
                mode: 0o644,
                content,
            };
            files.push(((*to).to_owned(), entry));
        }
        if self.init == Init::Systemd {
            let unit = Entry::File {
                mode: 0o644,
                content: UNIT.as_bytes().to_vec(),
            };
            files.push(("/etc/systemd/system/lab.service".to_owned(), unit));
            let target = "../lab.service".to_owned();
            files.push((
                "/etc/systemd/system/multi-user.target.wants/lab.service".to_owned(),
                Entry::Symlink { target },
            ));
        }
        Ok(files)
    }

    /// Runs the tests one by one and reports each.
    fn run(&self) -> String {
        let mut except = String::new();
        for name in self.except {
            except.push_str(&format!(" | grep -v '^{name}'"));
        }
        format!(
            "#!/bin/sh\n\
             export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root\n\
             export {INSIDE}={name} PLIMSOLL_BIN=/usr/local/bin/plimsoll INSTA_WORKSPACE_ROOT=/\n\
             stty -F /dev/ttyS1 -opost\n\
             exec > /dev/ttyS1 2>&1 < /dev/null\n\
             cd /tmp\n\
             for t in $(/lab/tests --list --format terse | sed -n 's/: test$//p' \
             | grep '^{tests}'{except}); do\n\
             echo \"@@ begin $t\"\n\
             timeout -s KILL {ONE_TEST} /lab/tests --exact \"$t\" --nocapture > /tmp/said 2>&1\n\
             code=$?\n\
             [ $code = 0 ] || tail -c 6000 /tmp/said\n\
             echo\n\
             echo \"@@ end $code $(cut -d' ' -f1 /proc/uptime)\"\n\
             done\n\
             echo '@@ done'\n\
             busybox poweroff -f\n",
            name = self.name,
            tests = self.tests,
        )
    }
}

/// PID 1 of [`Init::Script`]: what an init mounts on a host with nothing but cgroup v2.
const BARE: &str = "#!/bin/sh\n\
    export PATH=/usr/sbin:/usr/bin\n\
    bb() { busybox \"$@\"; }\n\
    bb mount -t proc proc /proc\n\
    bb mount -t sysfs sysfs /sys\n\
    bb mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup\n\
    bb mkdir -p /dev/pts /dev/shm\n\
    bb mount -t devpts devpts /dev/pts\n\
    bb mount -t tmpfs tmpfs /dev/shm\n\
    bb mount -t tmpfs tmpfs /run\n\
    bb ip link set lo up\n\
    bb hostname lab\n\
    /lab/run\n\
    bb poweroff -f\n";

const UNIT: &str = "[Unit]\n\
    Description=Tests of the lab\n\
    After=multi-user.target dbus.service\n\
    [Service]\n\
    Type=exec\n\
    ExecStart=/lab/run\n\
    Delegate=yes\n\
    TasksMax=infinity\n\
    LimitNOFILE=65536\n";

fn script(text: &str) -> Entry {
    Entry::File {
        mode: 0o755,
        content: text.as_bytes().to_vec(),
    }
}

/// Without symbols: a debug build is ten times the size, and all of it goes through the guest.
fn stripped(path: &Path, dir: &Path) -> Result<Entry, LabError> {
    let thin = dir.join("stripped");
    said(program("strip", "binutils")?.arg("-o").arg(&thin).arg(path))?;
    let content = fs::read(&thin).map_err(io_error("read", &thin))?;
    fs::remove_file(&thin).map_err(io_error("remove", &thin))?;
    Ok(Entry::File {
        mode: 0o755,
        content,
    })
}

/// The directory of the workspace: where the lock file is, above the test's crate.
fn workspace(me: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let mut above = here.ancestors().chain(me.ancestors());
    let found = above.find(|d| d.join("Cargo.lock").exists());
    found.map_or(here.clone(), Path::to_owned)
}

fn forget_old(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| {
            SystemTime::now()
                .duration_since(t)
                .is_ok_and(|d| d > FORGOTTEN)
        });
        let name = entry.file_name();
        if old && name.to_string_lossy().starts_with("run-") {
            // another test run may be forgetting the same
            let _gone = fs::remove_dir_all(entry.path());
            let _gone = fs::remove_file(entry.path());
        }
    }
}

impl Report {
    fn read(dir: &Path) -> Self {
        let text = fs::read(dir.join("results")).unwrap_or_default();
        let mut report = Self::parse(&String::from_utf8_lossy(&text));
        report.console = tail(&dir.join("console"));
        report
    }

    fn parse(text: &str) -> Self {
        let mut outcomes = BTreeMap::new();
        let mut now: Option<(String, String)> = None;
        let mut complete = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("@@ begin ") {
                now = Some((name.to_owned(), String::new()));
            } else if let Some(rest) = line.strip_prefix("@@ end ") {
                let code = rest.split(' ').next().and_then(|c| c.parse().ok());
                if let Some((name, said)) = now.take() {
                    let code = code.unwrap_or(-1);
                    outcomes.insert(name, Outcome { code, said });
                }
            } else if line == "@@ done" {
                complete = true;
            } else if let Some((_, said)) = &mut now {
                said.push_str(line);
                said.push('\n');
            }
        }
        Self {
            outcomes,
            complete,
            console: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_up_to_where_it_ends() {
        let text =
            "@@ begin a::b\nhello\n\n@@ end 0 1.5\n@@ begin a::c\n@@ end 101 2\n@@ begin d\n";
        let report = Report::parse(text);
        assert_eq!(report.outcomes["a::b"].code, 0);
        assert_eq!(report.outcomes["a::b"].said, "hello\n\n");
        assert_eq!(report.outcomes["a::c"].code, 101);
        assert!(!report.outcomes.contains_key("d") && !report.complete);
        assert!(Report::parse("@@ done\n").complete);
    }
}
