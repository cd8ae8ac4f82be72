//! Starts, ends, and what is told of them.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use shim::{LaunchError, Phase, read_exit};

use crate::harness::{DEADLINE, World, alive, signal, within};

#[tokio::test]
async fn output_code_and_record() {
    let world = World::new();
    let c = world.container("echo out; echo err >&2; exit 7");
    let mut r = c.start().await;
    let record = r.exit().await;
    assert_eq!(
        (record.code, record.signal, record.oom_killed),
        (7, None, false)
    );
    assert_eq!(record.pid, r.launched.pid);
    assert_eq!(record.start_time, r.launched.pid_start_time);
    assert!(record.started_at < record.finished_at);
    assert_eq!(read_exit(&c.launch.container_dir).unwrap(), Some(record));
    let mut log = c.log();
    log.sort();
    assert_eq!(
        log,
        [
            ("stderr".into(), "err\n".into()),
            ("stdout".into(), "out\n".into())
        ]
    );
    assert!(!alive(r.launched.shim_pid));
}

#[tokio::test]
async fn a_signal_is_128_more() {
    let world = World::new();
    for (number, code) in [(9, 137), (15, 143), (10, 138)] {
        let c = world.container("exec sleep 1000");
        let mut r = c.start().await;
        // an init without a handler is only killed by what its parent sends by force
        let script = format!("kill -{number} $$");
        let record = if number == 9 {
            r.kill().await;
            r.exit().await
        } else {
            r.kill().await;
            assert_eq!(r.exit().await.code, 137);
            let c = world.container(&format!(
                "trap 'exit {code}' {number}; {script}; sleep 1000"
            ));
            let mut r = c.start().await;
            r.exit().await
        };
        assert_eq!(record.code, code);
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_leaves_nothing() {
    let world = World::new();
    let mut c = world.container("");
    c.spec["process"]["args"] = json!(["nonesuch"]);
    let error = c.try_start(Vec::new(), DEADLINE).await.err().unwrap();
    assert!(matches!(error, LaunchError::Step { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 127, "{error}");
    assert!(error.to_string().contains("nonesuch"), "{error}");
    c.assert_nothing_left();
    c.spec["process"]["args"] = json!(["/tmp"]);
    let error = c.try_start(Vec::new(), DEADLINE).await.err().unwrap();
    assert_eq!(error.exit_code(), 126, "{error}");
    c.assert_nothing_left();
}

#[tokio::test]
async fn adoption_and_the_same_events() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let r = c.start().await;
    let (adopted, status) = shim::Shim::adopt(&c.launch.run_dir, DEADLINE)
        .await
        .unwrap();
    assert_eq!(status.phase, Phase::Running);
    assert_eq!(
        (status.pid, status.pid_start_time, status.shim_pid),
        (
            r.launched.pid,
            r.launched.pid_start_time,
            r.launched.shim_pid
        )
    );
    let mut events = adopted.events();
    adopted.signal(None, libc::SIGKILL, false).await.unwrap();
    let told = within("the exit", events.next()).await;
    assert!(
        matches!(told, Some(shim::Event::Exited(ref e)) if e.code == 137),
        "{told:?}"
    );
    assert_eq!(within("the end", events.next()).await, None);
    // a receiver made afterwards is told as well
    let mut late = adopted.events();
    assert_eq!(within("the exit", late.next()).await, told);
    assert_eq!(within("the end", late.next()).await, None);
    adopted.gone().await;
    c.assert_nothing_left();
}

// FAILURES: "One bad shim blocks start"
#[tokio::test]
async fn a_mute_shim_costs_its_deadline_alone() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    signal(r.launched.shim_pid, Signal::STOP);
    let asked = std::time::Instant::now();
    let deadline = Duration::from_millis(200);
    let error = shim::Shim::adopt(&c.launch.run_dir, deadline)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, shim::AdoptError::Mute { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(2));
    signal(r.launched.shim_pid, Signal::CONT);
    r.kill().await;
    assert_eq!(r.exit().await.code, 137);
}

#[tokio::test]
async fn adopting_nothing_says_so() {
    let world = World::new();
    let run_dir = world.dir.path().join("shims/none");
    let error = shim::Shim::adopt(&run_dir, DEADLINE).await.err().unwrap();
    assert!(
        matches!(error, shim::AdoptError::Absent { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_same_container_again_and_again() {
    let world = World::new();
    let c = world.container("echo again");
    for n in 1..=5 {
        let mut r = c.start().await;
        // not waiting for the shim to be gone: the next launch does
        assert_eq!(r.exit_record().await.code, 0);
        shim::remove_exit(&c.launch.container_dir).unwrap();
        assert_eq!(c.log().len(), n);
    }
}

// FAILURES: "OOM takes the engine or shim; Up after OOM"
#[tokio::test]
async fn running_out_of_memory_is_noticed() {
    let world = World::new();
    let mut c = world.container("exec dd if=/dev/zero of=/tmp/x bs=1M count=100");
    c.spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let mut r = c.start().await;
    let record = r.exit().await;
    assert!(record.oom_killed, "{record:?}");
    assert_eq!(record.code, 137);
}
