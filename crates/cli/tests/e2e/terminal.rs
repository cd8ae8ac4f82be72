//! `run -it` and `exec -it` on a real terminal: detach keys, window size, raw mode undone.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, LocalModes, Winsize};
use testkit::{Instance, until};

use crate::{engine, ok};

/// A terminal, and what was shown on it.
struct Terminal {
    master: File,
    slave: OwnedFd,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new())
            .expect("a name")
            .into_string()
            .expect("text");
        let slave: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(name)
            .expect("opened")
            .into();
        let terminal = Self {
            master: master.into(),
            slave,
            shown: Arc::default(),
        };
        terminal.resize(rows, columns);
        let (mut reader, shown) = (
            terminal.master.try_clone().expect("a descriptor"),
            terminal.shown.clone(),
        );
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            // ends with an error when the last holder of the other side has gone
            while let Ok(n @ 1..) = reader.read(&mut buf) {
                shown
                    .lock()
                    .expect("not poisoned")
                    .push_str(&String::from_utf8_lossy(&buf[..n]));
            }
        });
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        termios::tcsetwinsize(&self.master, size).expect("resized");
    }

    /// Runs plimsoll with this as its controlling terminal.
    fn run(&self, instance: &Instance, line: &[&str]) -> Child {
        let end = || Stdio::from(self.slave.try_clone().expect("a descriptor"));
        testkit::instance::command("setsid")
            .args(["--ctty", "--wait"])
            .arg(testkit::instance::program())
            .args(line)
            .env("DOCKER_HOST", instance.host())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid can be executed")
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("typed");
    }

    #[track_caller]
    fn sees(&self, text: &str) {
        until(
            &format!("{text:?} on the terminal; it shows {:?}", self.text()),
            Duration::from_secs(10),
            || self.text().contains(text).then_some(()),
        );
    }

    fn text(&self) -> String {
        self.shown.lock().expect("not poisoned").clone()
    }

    fn is_cooked(&self) -> bool {
        let modes = termios::tcgetattr(&self.slave).expect("modes").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }
}

#[test]
fn a_shell_on_a_terminal() {
    let instance = engine();
    let mut terminal = Terminal::new(33, 99);
    let mut child = terminal.run(
        &instance,
        &[
            "run",
            "-it",
            "--rm",
            "--name",
            "shell",
            "--network",
            "none",
            "busybox",
            "sh",
        ],
    );
    terminal.sees("# ");
    assert!(
        !terminal.is_cooked(),
        "the terminal is raw while the shell runs"
    );
    terminal.type_in("stty size; tty\n");
    terminal.sees("33 99");
    terminal.sees("/dev/pts/0");
    terminal.resize(40, 120);
    until("the new size", Duration::from_secs(10), || {
        terminal.type_in("stty size\n");
        std::thread::sleep(Duration::from_millis(50));
        terminal.text().contains("40 120").then_some(())
    });
    // ctrl-c is the program's, not ours
    terminal.type_in("sleep 100\n");
    let sleeps = || ok(&instance, &["top", "shell"]).contains("sleep 100");
    until("the program to run", Duration::from_secs(10), || {
        sleeps().then_some(())
    });
    terminal.type_in("\x03");
    until(
        "the program to be interrupted",
        Duration::from_secs(10),
        || (!sleeps()).then_some(()),
    );
    terminal.type_in("exit 6\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
    assert!(terminal.is_cooked(), "the terminal is as it was");
}

#[test]
fn detach_keys_leave_the_container_running() {
    let instance = engine();
    let mut terminal = Terminal::new(24, 80);
    let mut child = terminal.run(
        &instance,
        &[
            "run",
            "-it",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
        ],
    );
    terminal.sees("# ");
    terminal.type_in("\x10\x11");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(terminal.is_cooked());
    assert_eq!(
        ok(&instance, &["inspect", "-f", "{{.State.Running}}", "web"]),
        "true\n"
    );
    // attach again, with keys of one's own; ctrl-p alone goes through
    let mut child = terminal.run(&instance, &["attach", "--detach-keys", "ctrl-x,x", "web"]);
    terminal.type_in("echo a$((40+2))\n");
    terminal.sees("a42");
    terminal.type_in("\x18x");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    terminal.sees("read escape sequence");
    assert!(terminal.is_cooked());
    let mut child = terminal.run(&instance, &["attach", "web"]);
    terminal.type_in("exit 3\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(3));
}

#[test]
fn exec_on_a_terminal() {
    let instance = engine();
    ok(
        &instance,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    let mut terminal = Terminal::new(30, 90);
    let mut child = terminal.run(&instance, &["exec", "-it", "web", "sh"]);
    terminal.sees("# ");
    terminal.type_in("stty size\n");
    terminal.sees("30 90");
    terminal.type_in("exit 8\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(8));
    assert!(terminal.is_cooked());
}

#[test]
fn the_daemons_death_leaves_the_terminal_in_order() {
    let mut instance = engine();
    let mut terminal = Terminal::new(24, 80);
    let mut child = terminal.run(
        &instance,
        &[
            "run",
            "-it",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
        ],
    );
    terminal.sees("# ");
    instance.kill9();
    instance.start();
    terminal.type_in("echo b$((40+2)); exit 4\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(4));
    terminal.sees("b42");
    assert!(terminal.is_cooked());
}
