//! Further processes.

use std::fs;

use serde_json::json;

use crate::harness::{Lab, PATIENCE};

fn running() -> Lab {
    let lab = Lab::sh("sleep 1000");
    lab.create();
    lab.start();
    lab
}

#[test]
fn output_and_exit_code() {
    let lab = running();
    let said = lab.oci(&["exec", lab.id(), "sh", "-c", "echo $$; hostname; exit 5"]);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.out.ends_with("box\n"), "{said:?}");
}

#[test]
fn flags_shape_the_process() {
    let lab = running();
    let said = lab.oci(&[
        "exec",
        "--user",
        "5:6",
        "--additional-gids",
        "7",
        "--env",
        "A=b",
        "--cwd",
        "/tmp",
        lab.id(),
        "sh",
        "-c",
        "id; pwd; echo $A; grep CapBnd /proc/self/status",
    ]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("uid=5 gid=6 groups="), "{said:?}");
    assert!(
        said.out.contains('7') && said.out.contains("/tmp\nb\n"),
        "{said:?}"
    );
    assert!(said.out.contains("0000000020000420"), "{said:?}");
    let said = lab.oci(&[
        "exec",
        "--cap",
        "CAP_SYS_TIME",
        lab.id(),
        "grep",
        "CapBnd",
        "/proc/self/status",
    ]);
    assert!(said.out.contains("0000000022000420"), "{said:?}");
}

#[test]
fn home_is_that_of_the_images_user() {
    let lab = Lab::sh("echo $HOME; sleep 1000");
    fs::write(
        lab.rootfs().join("etc/passwd"),
        "root:x:0:0::/roots:/bin/sh\nu:x:5:5::/us:/bin/sh\n",
    )
    .unwrap();
    lab.create();
    lab.start();
    testkit::until("output", PATIENCE, || {
        (lab.stdout() == "/roots\n").then_some(())
    });
    for (user, home) in [("5", "/us\n"), ("6", "/\n")] {
        let said = lab.oci(&["exec", "--user", user, lab.id(), "sh", "-c", "echo $HOME"]);
        assert_eq!((said.code, said.out.as_str()), (Some(0), home), "{said:?}");
    }
}

#[test]
fn a_process_file_says_it_all() {
    let lab = running();
    let file = lab.file("process.json");
    let process = json!({
        "user": {"uid": 3, "gid": 4}, "args": ["sh", "-c", "id; echo $X"],
        "env": ["PATH=/bin", "X=y"], "cwd": "/"
    });
    fs::write(&file, process.to_string()).unwrap();
    let said = lab.oci(&["exec", "--process", file.to_str().unwrap(), lab.id()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.starts_with("uid=3 gid=4") && said.out.ends_with("y\n"),
        "{said:?}"
    );
}

#[test]
fn detached_with_a_pid_file() {
    let lab = running();
    let file = lab.file("exec.pid");
    lab.ok(&[
        "exec",
        "--detach",
        "--pid-file",
        file.to_str().unwrap(),
        lab.id(),
        "sleep",
        "1000",
    ]);
    let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    let said = lab.oci(&["ps", "-f", "json", lab.id()]);
    let pids: Vec<i32> = serde_json::from_str(&said.out).unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
    assert_eq!(lab.oci(&["kill", "--all", lab.id(), "KILL"]).code, Some(0));
    lab.until_status("stopped");
}

#[test]
fn failures_are_255_and_say_why() {
    let lab = running();
    let said = lab.oci(&["exec", lab.id(), "nonesuch"]);
    assert_eq!(said.code, Some(255), "{said:?}");
    assert!(
        said.err
            .contains(r#"exec: \"nonesuch\": executable file not found in $PATH"#),
        "{said:?}"
    );
    assert_eq!(lab.oci(&["pause", lab.id()]).code, Some(0));
    assert_eq!(lab.status(), "paused");
    let said = lab.oci(&["exec", lab.id(), "true"]);
    assert_eq!(said.code, Some(255), "{said:?}");
    assert!(
        said.err.contains("cannot exec in a paused container"),
        "{said:?}"
    );
    let waiting = lab.spawn(&["exec", "--ignore-paused", lab.id(), "true"]);
    assert_eq!(lab.oci(&["resume", lab.id()]).code, Some(0));
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(lab.oci(&["kill", lab.id(), "KILL"]).code, Some(0));
    lab.until_status("stopped");
    let said = lab.oci(&["exec", lab.id(), "true"]);
    assert_eq!(said.code, Some(255), "{said:?}");
    assert!(said.err.contains("cannot exec"), "{said:?}");
}

#[test]
fn into_a_container_that_was_created_only() {
    let lab = Lab::sh("sleep 1000");
    lab.create();
    let said = lab.oci(&["exec", lab.id(), "echo", "early"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "early\n"),
        "{said:?}"
    );
    lab.start();
    testkit::until("running", PATIENCE, || {
        (lab.status() == "running").then_some(())
    });
}
