//! Terminals.

use std::fs::File;
use std::io::Read;

use serde_json::json;

use crate::Container;

/// All that comes out of a master until its last slave is closed (EIO).
fn all(master: &std::os::fd::OwnedFd) -> String {
    let mut out = Vec::new();
    let mut file = File::from(master.try_clone().unwrap());
    let mut buf = [0; 4096];
    while let Ok(n) = file.read(&mut buf) {
        if n == 0 {
            break;
        }
        out.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&out).replace("\r\n", "\n")
}

#[test]
fn a_terminal_with_size_job_control_and_console() {
    let script = "tty; stty size; ls -l /dev/console | cut -c1; cut -d' ' -f5-8 /proc/self/stat; ls /dev/pts; ls -ln /dev/pts/0";
    let c = Container::sh(script)
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 33, "width": 99}))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let r = c.start().unwrap();
    let out = all(r.spawned.terminal.as_ref().unwrap());
    assert!(out.starts_with("/dev/pts/0\n33 99\nc\n"), "{out}");
    // session 1, terminal 136:0, in its foreground
    assert!(out.contains("\n1 1 34816 1\n"), "{out}");
    assert!(out.contains("0     ptmx\n"), "{out}");
    assert!(out.contains("1000"), "the terminal is the user's: {out}");
    assert_eq!(r.wait(), 0);
}

#[test]
fn a_terminal_with_init() {
    let mut c =
        Container::sh("tty; cut -d' ' -f5,8 /proc/$$/stat").set("/process/terminal", json!(true));
    c.init = true;
    let r = c.start().unwrap();
    let out = all(r.spawned.terminal.as_ref().unwrap());
    let groups: Vec<_> = out.lines().nth(1).unwrap().split(' ').collect();
    assert_eq!(
        groups[0], groups[1],
        "the program is in the foreground: {out}"
    );
    assert_eq!(r.wait(), 0);
}

#[test]
fn exec_with_a_terminal() {
    let c = Container::sh("echo up; cat");
    let r = c.start().unwrap();
    r.line();
    let e = c
        .exec(&r, &["sh", "-c", "tty; stty size"], |p| {
            p["terminal"] = json!(true);
            p["consoleSize"] = json!({"height": 5, "width": 6});
        })
        .unwrap();
    assert_eq!(
        all(e.spawned.terminal.as_ref().unwrap()),
        "/dev/pts/0\n5 6\n"
    );
}

#[test]
fn a_false_ptmx_is_not_opened() {
    // a container that replaced its /dev/pts/ptmx gets no terminal from us on its own file
    let c = Container::sh("umount /dev/pts; mkdir -p /dev/pts; echo > /dev/pts/ptmx; echo up; cat")
        .caps(&["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"]);
    let r = c.start().unwrap();
    assert_eq!(r.line(), "up");
    let why = c
        .exec(&r, &["true"], |p| p["terminal"] = json!(true))
        .err()
        .unwrap();
    assert!(
        why.contains("terminal") && why.contains("kernel's own"),
        "{why}"
    );
}
