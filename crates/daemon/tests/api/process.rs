//! The process: start, signals, pid file, service manager, configuration.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use testkit::http::Api;
use testkit::instance::{Instance, command, program};
use testkit::until;

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends the child where a test fails before it did.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn status_of(mut child: Ended) -> (i32, String) {
    let mut text = String::new();
    let status = until("the daemon ends", PATIENCE, || {
        child.0.try_wait().expect("a child can be waited for")
    });
    if let Some(mut out) = child.0.stderr.take() {
        out.read_to_string(&mut text).expect("its stderr is text");
    }
    (status.code().unwrap_or(-1), text)
}

fn daemon(dir: &std::path::Path, more: &[&str]) -> Ended {
    let mut command = command(program());
    command
        .args(["daemon", "--bridge=none", "--data-root"])
        .arg(dir.join("data"))
        .arg("--exec-root")
        .arg(dir.join("exec"))
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ended(command.spawn().expect("plimsoll can be executed"))
}

#[test]
fn sigterm_ends_it_and_its_socket_and_pid_file() {
    let mut engine = Instance::new();
    assert!(engine.socket().exists());
    let process = engine.daemon().unwrap();
    process.signal(Signal::TERM);
    until("the daemon ends", PATIENCE, || {
        engine.has_ended().then_some(())
    });
    assert!(!engine.socket().exists(), "{}", engine.log());
    assert!(!engine.path().join("pid").exists());
    engine.start();
    assert_eq!(engine.api().get("/_ping").unwrap().text(), "OK");
}

/// FAILURES "live-restore bugs": the engine may die at any instant; what it leaves (a socket, a pid
/// file with its lock gone) is no obstacle.
#[test]
fn a_killed_one_is_followed_by_another_at_the_same_place() {
    let mut engine = Instance::new();
    for _ in 0..3 {
        engine.kill9();
        assert!(engine.socket().exists() && engine.path().join("pid").exists());
        engine.start();
    }
}

#[test]
fn a_second_one_at_the_same_place_is_refused_by_name() {
    let engine = Instance::new();
    let dir = tempfile::tempdir().unwrap();
    let pid = engine.path().join("pid").display().to_string();
    let own = format!("unix://{}", dir.path().join("s").display());
    let (code, text) = status_of(daemon(dir.path(), &["-H", &own, "-p", &pid]));
    assert_eq!(code, 1);
    assert!(
        text.contains("another engine runs with the pid file") && text.contains(&pid),
        "{text}"
    );
    let (code, text) = status_of(daemon(dir.path(), &["-H", &engine.host()]));
    assert_eq!(code, 1);
    assert!(text.contains("another process answers on"), "{text}");
    assert_eq!(engine.api().get("/_ping").unwrap().status, 200);
}

/// FAILURES "Nothing restarts a hung daemon": the watchdog is fed only while requests are answered.
#[test]
fn the_service_manager_is_told_and_the_watchdog_fed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 256];
        let n = manager
            .recv(&mut buffer)
            .expect("the daemon tells the service manager");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let mut engine = Instance::prepared();
    engine.set_environment(&[
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "300000"),
    ]);
    engine.start();
    assert_eq!(next(), "READY=1");
    assert_eq!(next(), "WATCHDOG=1");
    assert_eq!(next(), "WATCHDOG=1");
    engine.daemon().unwrap().signal(Signal::TERM);
    let last = std::iter::repeat_with(next).find(|told| told != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}

#[test]
fn a_socket_of_the_service_manager_is_served_and_left_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("activated");
    let listener = UnixListener::bind(&path).unwrap();
    let mut command = command("sh");
    command
        .args([
            "-c",
            "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"",
            "sh",
        ])
        .arg(program())
        .args(["daemon", "-H", "fd://", "--bridge=none", "--data-root"])
        .arg(dir.path().join("data"))
        .arg("--exec-root")
        .arg(dir.path().join("exec"))
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::piped());
    let child = Ended(command.spawn().unwrap());
    let api = Api::new(&path).with_deadline(Duration::from_secs(10));
    assert_eq!(api.get("/_ping").unwrap().text(), "OK");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child.0), Signal::TERM)
        .unwrap();
    let (code, text) = status_of(child);
    assert_eq!(code, 0, "{text}");
    assert!(path.exists(), "the service manager goes on listening");
}

/// FAILURES "Bad config or stored state stops the daemon": refused at the first start, by the key's
/// name; after that the last good one stays.
#[test]
fn a_bad_file_is_refused_at_the_start_and_ignored_on_reload() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon.json");
    let file_flag = format!("--config-file={}", file.display());
    std::fs::write(&file, r#"{"debugg": true}"#).unwrap();
    for more in [
        vec![file_flag.as_str()],
        vec![file_flag.as_str(), "--validate"],
    ] {
        let (code, text) = status_of(daemon(dir.path(), &more));
        assert_eq!(code, 1);
        assert!(text.contains("debugg"), "{text}");
    }
    assert!(
        !dir.path().join("data").exists(),
        "refused before anything was done"
    );

    std::fs::write(&file, r#"{"debug": false}"#).unwrap();
    let (code, _) = status_of(daemon(dir.path(), &[&file_flag, "--validate"]));
    assert_eq!(code, 0);
    let mut engine = Instance::prepared().arguments(&[&file_flag]);
    engine.start();
    let debug = || engine.api().get("/info").unwrap().json()["Debug"] == true;
    assert!(!debug());
    let hup = || engine.daemon().unwrap().signal(Signal::HUP);
    std::fs::write(&file, r#"{"debug": true}"#).unwrap();
    hup();
    until("debug is on", PATIENCE, || debug().then_some(()));
    std::fs::write(&file, r#"{"debug": "#).unwrap();
    hup();
    until("the bad file is told", PATIENCE, || {
        engine
            .log()
            .contains("the last good one stays")
            .then_some(())
    });
    assert!(debug());
}

#[test]
fn instances_run_side_by_side() {
    let (one, two) = (Instance::new(), Instance::new());
    for engine in [&one, &two] {
        let info = engine.api().get("/info").unwrap().ok().json();
        assert_eq!(
            info["DockerRootDir"],
            engine.data_root().display().to_string()
        );
    }
}
