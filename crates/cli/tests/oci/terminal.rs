//! Terminals: handed over by socket, or relayed in the foreground.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::harness::{Lab, PATIENCE, other};

fn received(listener: &UnixListener) -> (String, File) {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let got = sys::fdpass::recv(stream.as_fd(), &mut name, false).unwrap();
    let master = got.fds.into_iter().next().expect("a descriptor");
    (
        String::from_utf8_lossy(&name[..got.len]).into_owned(),
        master.into(),
    )
}

fn reads_until(master: &mut File, wanted: &str) {
    let mut shown = String::new();
    let mut buf = [0; 256];
    while !shown.contains(wanted) {
        let patience = rustix::event::Timespec::try_from(PATIENCE).unwrap();
        let mut ready = [PollFd::new(&*master, PollFlags::IN)];
        let n = rustix::event::poll(&mut ready, Some(&patience)).unwrap();
        assert!(n > 0, "no {wanted:?} in time: {shown:?}");
        let n = master.read(&mut buf).unwrap_or(0);
        assert!(n > 0, "the terminal ended before {wanted:?}: {shown:?}");
        shown.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
}

#[test]
fn the_master_goes_to_the_console_socket() {
    let lab = Lab::sh("tty; stty size; read line; echo \"got $line\"")
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 33, "width": 44}));
    let socket = lab.file("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    lab.ok(&[
        "create",
        "--console-socket",
        socket.to_str().unwrap(),
        lab.id(),
    ]);
    let (name, mut master) = received(&listener);
    assert!(name.contains("ptmx") || name.contains("/dev/pts"), "{name}");
    lab.start();
    reads_until(&mut master, "33 44");
    master.write_all(b"word\n").unwrap();
    reads_until(&mut master, "got word");
    lab.until_status("stopped");
}

#[test]
fn exec_with_a_console_socket() {
    let lab = Lab::sh("sleep 1000");
    lab.create();
    lab.start();
    let socket = lab.file("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let line = [
        "exec",
        "--tty",
        "--detach",
        "--console-socket",
        socket.to_str().unwrap(),
        lab.id(),
        "sh",
        "-c",
        "tty && echo yes",
    ];
    lab.ok(&line);
    let (_, mut master) = received(&listener);
    reads_until(&mut master, "yes");
}

#[test]
fn a_terminal_needs_somebody_to_take_it_and_only_then() {
    let lab = Lab::sh("true").set("/process/terminal", json!(true));
    let said = lab.oci(&["create", lab.id()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("cannot allocate tty if"), "{said:?}");
    let lab = lab.set("/process/terminal", json!(false));
    let said = lab.oci(&["create", "--console-socket", "x.sock", lab.id()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("cannot use console socket if"),
        "{said:?}"
    );
    lab.assert_gone();
}

/// A terminal, with the runtime in its foreground.
fn on_terminal(lab: &Lab, line: &[&str]) -> (File, std::process::Child) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave: OwnedFd = File::options()
        .read(true)
        .write(true)
        .open(name)
        .unwrap()
        .into();
    let size = rustix::termios::Winsize {
        ws_row: 21,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let plain = lab.command();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let child = crate::harness::command(std::path::Path::new("/usr/bin/setsid"))
        .args(["--ctty", "--wait"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .args(line)
        .current_dir(lab.bundle())
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    (master.into(), child)
}

#[test]
fn run_relays_its_terminal() {
    if other().is_some() {
        // runc sets the size when the program runs already, which may look too early
        return;
    }
    let lab = Lab::sh("stty size; read line; echo \"got $line\"; exit 6")
        .set("/process/terminal", json!(true));
    let (mut master, mut child) = on_terminal(&lab, &["run", lab.id()]);
    reads_until(&mut master, "21 77");
    master.write_all(b"word\r").unwrap();
    reads_until(&mut master, "got word");
    let status = testkit::until("the end", PATIENCE, || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(6));
    lab.assert_gone();
}

#[test]
fn exec_relays_its_terminal_and_resizes_it() {
    if other().is_some() {
        // runc sets the size when the program runs already, which may look too early
        return;
    }
    let lab = Lab::sh("sleep 1000");
    lab.create();
    lab.start();
    let script = "stty size; read line; stty size; exit 3";
    let line = ["exec", "--tty", lab.id(), "sh", "-c", script];
    let (mut master, mut child) = on_terminal(&lab, &line);
    reads_until(&mut master, "21 77");
    let size = rustix::termios::Winsize {
        ws_row: 30,
        ws_col: 90,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    // the signal and the key take different ways: the size must have arrived first
    std::thread::sleep(std::time::Duration::from_millis(200));
    master.write_all(b"\r").unwrap();
    reads_until(&mut master, "30 90");
    let status = testkit::until("the end", PATIENCE, || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(3));
}
