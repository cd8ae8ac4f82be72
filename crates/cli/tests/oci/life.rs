//! From create to delete.

use std::fs;
use std::os::fd::AsRawFd;

use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, other};

#[test]
fn run_gives_output_and_exit_code_and_leaves_nothing() {
    let lab = Lab::sh("echo hello; hostname; exit 7");
    let said = lab.oci(&["run", lab.id()]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(7), "hello\nbox\n"),
        "{said:?}"
    );
    lab.assert_gone();
}

#[test]
fn a_program_killed_by_a_signal_is_128_and_more() {
    let lab = Lab::sh("sleep 100");
    let run = lab.spawn(&["run", lab.id()]);
    testkit::until("the container", PATIENCE, || {
        (lab.oci(&["kill", lab.id(), "KILL"]).code == Some(0)).then_some(())
    });
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(137));
    lab.assert_gone();
}

#[test]
fn a_life_step_by_step() {
    let lab = Lab::sh("echo started; exec sleep 1000")
        .set("/annotations", json!({"org.example.key": "value"}));
    lab.create();
    let state = lab.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], lab.id());
    assert_eq!(state["bundle"], lab.bundle().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(lab.stdout(), "", "the program ran before start");
    lab.start();
    testkit::until("output", PATIENCE, || {
        (lab.stdout() == "started\n").then_some(())
    });
    assert_eq!(lab.status(), "running");
    let again = lab.oci(&["start", lab.id()]);
    assert!(
        again
            .err
            .contains("cannot start an already running container"),
        "{again:?}"
    );
    let early = lab.oci(&["delete", lab.id()]);
    assert_eq!(early.code, Some(1));
    assert!(
        early.err.contains("that is not stopped: running"),
        "{early:?}"
    );
    assert_eq!(lab.oci(&["kill", lab.id(), "SIGKILL"]).code, Some(0));
    lab.until_status("stopped");
    assert_eq!(lab.state()["pid"], 0);
    for (line, words) in [
        (["kill", lab.id()], "container not running"),
        (
            ["start", lab.id()],
            "cannot start a container that has stopped",
        ),
    ] {
        let said = lab.oci(&line);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(words), "{said:?}");
    }
    assert_eq!(lab.oci(&["delete", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn a_created_container_is_deleted_without_force() {
    let lab = Lab::sh("true");
    lab.create();
    assert_eq!(lab.oci(&["delete", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn an_id_is_given_once() {
    let lab = Lab::sh("sleep 1000");
    lab.create();
    let said = lab.oci(&["create", lab.id()]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("container with given ID already exists"),
        "{said:?}"
    );
    assert_eq!(lab.status(), "created", "the first one goes on");
}

#[test]
fn no_such_container_and_no_id() {
    let lab = Lab::sh("true");
    for line in [
        ["state", "none"],
        ["start", "none"],
        ["kill", "none"],
        ["delete", "none"],
    ] {
        let said = lab.oci(&line);
        assert_eq!(said.code, Some(1), "{line:?}");
        assert!(said.err.contains("container does not exist"), "{said:?}");
    }
    assert_eq!(lab.oci(&["delete", "--force", "none"]).code, Some(0));
    for id in ["a b", "../x", "a/b"] {
        let said = lab.oci(&["run", id]);
        assert_eq!(said.code, Some(1), "{id}");
        assert!(said.err.contains("invalid container ID format"), "{said:?}");
    }
}

#[test]
fn a_program_that_is_not_there_fails_create_and_leaves_nothing() {
    let lab = Lab::new(&["nonesuch"]);
    let said = lab.oci(&["create", lab.id()]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err
            .contains(r#"exec: \"nonesuch\": executable file not found in $PATH"#),
        "{said:?}"
    );
    lab.assert_gone();
}

#[test]
fn a_program_that_is_no_program_fails_start_and_the_container_has_stopped() {
    let lab = Lab::new(&["/bin/text"]);
    let path = lab.rootfs().join("bin/text");
    fs::write(&path, "no program").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    lab.create();
    let said = lab.oci(&["start", lab.id()]);
    if other().is_none() {
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("exec format error"), "{said:?}");
    }
    lab.until_status("stopped");
    assert_eq!(lab.oci(&["delete", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn errors_reach_the_log_in_both_forms() {
    let lab = Lab::sh("true");
    let log = lab.file("log");
    let path = log.to_str().unwrap();
    let said = lab.oci(&["--log", path, "--log-format", "json", "state", "none"]);
    assert_eq!(said.err.trim(), "container does not exist");
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container does not exist");
    assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    fs::remove_file(&log).unwrap();
    lab.oci(&["--log", path, "state", "none"]);
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains(r#"level=error msg="container does not exist""#),
        "{text}"
    );
}

#[test]
fn the_pid_file_names_the_first_process() {
    let lab = Lab::sh("sleep 1000");
    let file = lab.file("pid");
    lab.ok(&["create", "--pid-file", file.to_str().unwrap(), lab.id()]);
    let pid = fs::read_to_string(&file).unwrap();
    assert_eq!(pid, lab.pid().to_string());
}

#[test]
fn a_detached_run_goes_on_without_its_runtime() {
    let lab = Lab::sh("sleep 1000");
    lab.ok(&["run", "--detach", lab.id()]);
    assert_eq!(lab.status(), "running");
    assert_eq!(lab.oci(&["delete", "--force", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn keep_keeps_what_has_stopped() {
    let lab = Lab::sh("exit 3");
    assert_eq!(lab.oci(&["run", "--keep", lab.id()]).code, Some(3));
    if other().is_some() {
        // runc 1.1 has no such flag
        return;
    }
    assert_eq!(lab.status(), "stopped");
    assert_eq!(lab.oci(&["delete", lab.id()]).code, Some(0));
    lab.assert_gone();
}

#[test]
fn signals_reach_the_program() {
    let lab = Lab::sh("trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    lab.create();
    lab.start();
    testkit::until("ready", PATIENCE, || {
        lab.stdout().contains("ready").then_some(())
    });
    assert_eq!(lab.oci(&["kill", lab.id()]).code, Some(0));
    lab.until_status("stopped");
    assert!(lab.stdout().contains("got"), "{}", lab.stdout());
}

#[test]
fn the_runtime_in_the_foreground_forwards_signals() {
    let lab = Lab::sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    let mut run = lab.spawn(&["run", lab.id()]);
    let mut ready = [0; 6];
    std::io::Read::read_exact(run.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(9));
    lab.assert_gone();
}

#[test]
fn descriptors_asked_for_are_there_and_no_others() {
    let lab = Lab::sh("ls /proc/self/fd; cat <&3");
    let file = lab.file("three");
    fs::write(&file, "third\n").unwrap();
    // a shell names one digit only
    let open = || {
        let file = fs::File::open(&file).unwrap();
        rustix::io::fcntl_dupfd_cloexec(&file, 7).unwrap()
    };
    let (three, four) = (open(), open());
    let shell = format!(
        "exec 3<&{} 4<&{}; exec \"$@\"",
        three.as_raw_fd(),
        four.as_raw_fd()
    );
    for fd in [&three, &four] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let plain = lab.command();
    let mut command = crate::harness::command(std::path::Path::new("/bin/sh"));
    command
        .args(["-c", &shell, "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .args(["run", "--preserve-fds", "1", lab.id()])
        .current_dir(lab.bundle());
    let said: crate::harness::Said = command.output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}");
    // ls itself opens the directory as the next one
    assert_eq!(said.out, "0\n1\n2\n3\n4\nthird\n", "{said:?}");
}

#[test]
fn sockets_of_systemd_are_handed_on() {
    let lab = Lab::sh("echo $LISTEN_FDS $LISTEN_PID; cat <&3");
    let file = lab.file("three");
    fs::write(&file, "third\n").unwrap();
    let plain = lab.command();
    let shell = "exec 3<\"$0\"; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let said: crate::harness::Said = crate::harness::command(std::path::Path::new("/bin/sh"))
        .args(["-c", shell])
        .arg(&file)
        .arg(plain.get_program())
        .args(plain.get_args())
        .args(["run", lab.id()])
        .current_dir(lab.bundle())
        .output()
        .unwrap()
        .into();
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "1 1\nthird\n"),
        "{said:?}"
    );
}

#[test]
fn a_preserved_descriptor_that_is_not_open_is_refused() {
    let lab = Lab::sh("true");
    let said = lab.oci(&["run", "--preserve-fds", "7", lab.id()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    lab.assert_gone();
}

#[test]
fn list_and_ps_show_what_is_there() {
    let lab = Lab::sh("sleep 1000");
    lab.create();
    let pid = lab.pid();
    let table = lab.oci(&["list"]).out;
    assert!(table.starts_with("ID"), "{table}");
    assert!(
        table.contains(lab.id()) && table.contains("created"),
        "{table}"
    );
    assert_eq!(lab.oci(&["list", "--quiet"]).out.trim(), lab.id());
    let all: Value = serde_json::from_str(&lab.oci(&["list", "-f", "json"]).out).unwrap();
    assert_eq!(all[0]["pid"], pid);
    assert_eq!(all[0]["owner"], "root");
    let pids: Vec<i32> =
        serde_json::from_str(&lab.oci(&["ps", "--format", "json", lab.id()]).out).unwrap();
    assert_eq!(pids, [pid]);
    let table = lab.oci(&["ps", lab.id()]).out;
    assert!(table.starts_with("UID"), "{table}");
    assert!(table.contains(&pid.to_string()), "{table}");
}

#[test]
fn features_and_spec_are_what_others_read() {
    let lab = Lab::sh("true");
    let features: Value = serde_json::from_str(&lab.oci(&["features"]).out).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert!(features["linux"]["namespaces"].as_array().unwrap().len() >= 7);
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
    let fresh = lab.file("fresh");
    fs::create_dir(&fresh).unwrap();
    let dir = fresh.to_str().unwrap();
    assert_eq!(lab.oci(&["spec", "--bundle", dir]).code, Some(0));
    let spec: Value =
        serde_json::from_slice(&fs::read(fresh.join("config.json")).unwrap()).unwrap();
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    let again = lab.oci(&["spec", "--bundle", dir]);
    assert!(again.err.contains("File config.json exists"), "{again:?}");
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let lab = Lab::sh("true");
    if other().is_some() {
        return;
    }
    for (line, words) in [
        (&["checkpoint", "x"][..], "CRIU"),
        (&["restore", "x"], "CRIU"),
        (&["update", "--l3-cache-schema", "x", "y"], "RDT"),
        (&["run"], "requires"),
        (&["run", "--nonesuch", "x"], "unknown flag"),
        (&["nonesuch"], "unknown command"),
    ] {
        let said = lab.oci(line);
        assert_eq!(said.code, Some(1), "{line:?}: {said:?}");
        assert!(said.err.contains(words), "{line:?}: {said:?}");
    }
}

#[test]
fn a_link_named_runc_is_the_same() {
    let lab = Lab::sh("echo linked");
    if other().is_some() {
        return;
    }
    let link = lab.file("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plimsoll"), &link).unwrap();
    drop(lab.command());
    let mut command = crate::harness::command(&link);
    command.current_dir(lab.bundle());
    command
        .arg("--root")
        .arg(lab.state_root())
        .args(["run", lab.id()]);
    let said: crate::harness::Said = command.output().unwrap().into();
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "linked\n"),
        "{said:?}"
    );
}

/// A path of the spec may name anything: whoever is in it must not be taken for the container.
#[test]
fn a_cgroup_in_use_is_refused_and_left_alone() {
    let lab = Lab::sh("sleep 1000").set("/linux/cgroupsPath", json!("/"));
    if other().is_some() {
        return;
    }
    let said = lab.oci(&["create", lab.id()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("it is in use"), "{said:?}");
    lab.assert_gone();
    let path = format!("/{}", lab.id());
    let lab = lab.set("/linux/cgroupsPath", json!(path));
    lab.create();
    let said = lab.oci(&["create", "plimsoll-test-another"]);
    assert!(said.err.contains("it is in use"), "{said:?}");
    assert_eq!(lab.status(), "created", "the one in it is unharmed");
}
