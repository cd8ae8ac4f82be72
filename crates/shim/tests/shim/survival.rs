//! kill -9 of spawner, shim and client.

use std::time::Duration;

use rustix::process::Signal;
use shim::{Shim, read_exit};

use crate::harness::{DEADLINE, World, alive, read_until, signal, until, within};

// P3: the engine may die at any time
#[tokio::test]
async fn a_container_survives_its_spawner() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let first = world.spawner.pid().unwrap();
    signal(i32::try_from(first).unwrap(), Signal::KILL);
    assert!(r.shim.status().await.is_ok());
    // another spawner is started for the next launch
    let other = world.container("exit 5");
    let mut o = other.start().await;
    assert_eq!(o.exit().await.code, 5);
    assert_ne!(world.spawner.pid(), Some(first));
    r.kill().await;
    assert_eq!(r.exit().await.code, 137);
}

#[tokio::test]
async fn a_stopped_spawner_is_replaced() {
    let world = World::new();
    let pid = world.spawner.pid().unwrap();
    signal(i32::try_from(pid).unwrap(), Signal::STOP);
    let c = world.container("exit 6");
    let error = c
        .try_start(Vec::new(), Duration::from_millis(300))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, shim::LaunchError::Deadline { .. }),
        "{error:?}"
    );
    c.assert_nothing_left();
    let mut r = c.start().await;
    assert_eq!(r.exit().await.code, 6);
}

// A shim's death is its container's, and is told as such.
#[tokio::test]
async fn a_killed_shim_takes_its_container_along() {
    let world = World::new();
    // a change of user clears the parent death signal: then the client's kill must do
    for user in [0, 1000] {
        let mut c = world.container("exec sleep 1000");
        c.spec["process"]["user"] = serde_json::json!({"uid": user, "gid": user});
        let mut r = c.start().await;
        let stream = r.exec("e", &["sleep", "1005"], |_| {}).await;
        signal(r.launched.shim_pid, Signal::KILL);
        let record = r.exit().await;
        assert_eq!((record.code, record.shim_died), (137, true));
        assert_eq!(read_exit(&c.launch.container_dir).unwrap(), Some(record));
        assert!(!alive(r.launched.pid));
        drop(stream);
    }
}

#[tokio::test]
async fn a_shim_found_dead_at_adoption() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let r = c.start().await;
    // as if the engine had been dead when the shim died: a copy of its traces
    let state = std::fs::read(c.launch.run_dir.join("state.json")).unwrap();
    signal(r.launched.shim_pid, Signal::KILL);
    within("the shim to be gone", r.shim.gone()).await;
    shim::remove_exit(&c.launch.container_dir).unwrap();
    std::fs::create_dir(&c.launch.run_dir).unwrap();
    std::fs::write(c.launch.run_dir.join("state.json"), state).unwrap();
    let error = Shim::adopt(&c.launch.run_dir, DEADLINE)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, shim::AdoptError::Dead { .. }), "{error:?}");
    let record = read_exit(&c.launch.container_dir).unwrap().unwrap();
    assert!(record.shim_died);
    c.assert_nothing_left();
}

#[tokio::test]
async fn what_died_with_the_engine_is_swept() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let r = c.start().await;
    let state = std::fs::read(c.launch.run_dir.join("state.json")).unwrap();
    let shims = world.dir.path().join("shims");
    let names = shim::sweep_run_dirs(&shims, |_| false).unwrap();
    assert_eq!(
        names,
        std::slice::from_ref(&c.launch.id),
        "a living shim is left alone"
    );
    signal(r.launched.shim_pid, Signal::KILL);
    within("the shim to be gone", r.shim.gone()).await;
    for name in [".new-a", ".new-b", "empty", "dead"] {
        std::fs::create_dir(shims.join(name)).unwrap();
    }
    std::fs::write(shims.join(".new-a/.state.json.tmp"), "").unwrap();
    std::fs::write(shims.join("dead/state.json"), state).unwrap();
    assert!(shim::sweep_run_dirs(&shims, |_| false).unwrap().is_empty());
    let left = || std::fs::read_dir(&shims).unwrap().count();
    assert_eq!(left(), 2, "a launch that is under way is left alone");
    shim::discard_staged(&shims).unwrap();
    assert_eq!(left(), 0);
}

/// The engine is gone and comes back: output, log, exit code are as if it had never been away.
#[tokio::test]
async fn the_client_gone_and_back() {
    let world = World::new();
    let c = world.container("read x; echo got $x; exit 9").interactive();
    let run_dir = c.launch.run_dir.clone();
    {
        // an engine of its own runtime: dropped with all its connections
        let r = c.start().await;
        drop(r);
    }
    let (adopted, _) = Shim::adopt(&run_dir, DEADLINE).await.unwrap();
    let stream = adopted
        .attach(&crate::harness::all_streams())
        .await
        .unwrap();
    let mut stream = tokio::net::UnixStream::from_std(stream.stream).unwrap();
    crate::harness::write(&mut stream, b"word\n").await;
    read_until(&mut stream, "got word").await;
    within("the shim to be gone", adopted.gone()).await;
    assert_eq!(read_exit(&c.launch.container_dir).unwrap().unwrap().code, 9);
    c.assert_nothing_left();
}

#[tokio::test]
async fn a_failed_exit_record_is_written_when_it_can_be() {
    let world =
        World::with_environment(&[("PLIMSOLL_FAULT", "shim:shim.exit.write:enospc".to_owned())]);
    let c = world.container("exit 3");
    let mut r = c.start().await;
    // told at once, though not yet durable
    assert_eq!(r.exit_record().await.code, 3);
    // who adopts now is told as well
    let (adopted, status) = Shim::adopt(&c.launch.run_dir, DEADLINE).await.unwrap();
    assert_eq!(status.phase, shim::Phase::Exited);
    let told = within("the exit", adopted.events().next()).await;
    assert!(matches!(told, Some(shim::Event::Exited(e)) if e.code == 3));
    signal(r.launched.shim_pid, Signal::KILL);
    within("the shim to be gone", r.shim.gone()).await;
}

/// kill -9, ENOSPC and EIO at every step of a launch: it works, or it fails and nothing is left;
/// in both cases the next launch works.
#[tokio::test]
async fn faults_at_every_step_of_a_launch() {
    let log = tempfile::NamedTempFile::new().unwrap();
    {
        let path = log.path().to_string_lossy().into_owned();
        let world = World::with_environment(&[("PLIMSOLL_FAULT_LOG", path)]);
        let c = world.container("exec sleep 1000");
        let mut r = c.start().await;
        r.kill().await;
        r.exit().await;
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    let steps: Vec<(&str, &str, &str)> = text
        .lines()
        .map(|l| {
            let mut words = l.split(' ');
            (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            )
        })
        .collect();
    assert!(steps.len() > 10, "{text}");
    for role in ["spawner", "shim", "init"] {
        assert!(
            steps.iter().any(|s| s.0 == role),
            "no steps of {role}: {text}"
        );
    }
    for (role, n, name) in steps {
        for action in ["kill", "enospc"] {
            let step = format!("{role}:{n}:{action}");
            let world = World::with_environment(&[("PLIMSOLL_FAULT", step.clone())]);
            let c = world.container("exec sleep 1000");
            // the spawner dies anew each time it is tried
            let started = c.try_start(Vec::new(), Duration::from_secs(5)).await;
            let what = format!("{step} ({name})");
            match started {
                Ok((launched, shim)) => {
                    if shim.signal(None, libc::SIGKILL, false).await.is_err() && alive(launched.pid)
                    {
                        // the signal was the step that failed
                        signal(launched.pid, Signal::KILL);
                    }
                    within(&what, shim.gone()).await;
                    until(&what, || !alive(launched.pid)).await;
                }
                Err(e) => assert!(!e.to_string().is_empty(), "{what}"),
            }
            let leftover = c.cgroup();
            let gone = || !c.launch.run_dir.exists() && leftover.paths().all(|p| !p.exists());
            assert!(gone(), "{what} leaves {:?}", c.launch.run_dir);
        }
    }
}

// P5: a start that hangs in a dead file system costs its deadline, and nothing is left of it; the
// next launch does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_hangs_costs_its_deadline_alone() {
    let world = World::new();
    let at = world.dir.path().join("hung");
    std::fs::create_dir(&at).unwrap();
    let hung = testkit::fuse::HungFs::mount(&at).expect("this test needs /dev/fuse");
    let mut c = world.container("cat /mnt/file");
    let source = at.join("file");
    c.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!(
            {"destination": "/tmp/file", "type": "bind", "source": source, "options": ["bind"]}
        ));
    hung.hang();
    let other = world.container("exit 4");
    let beside = async {
        let mut r = other.start().await;
        r.exit().await.code
    };
    let began = std::time::Instant::now();
    let slow = c.try_start(Vec::new(), Duration::from_secs(2));
    let (slow, code) = tokio::join!(slow, beside);
    assert_eq!(code, 4);
    let error = slow.err().unwrap();
    assert!(
        matches!(error, shim::LaunchError::Deadline { .. }),
        "{error:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // a process whose request the file system already has cannot be killed until that answers
    drop(hung);
    let run_dir = &c.launch.run_dir;
    until("the launch to be cleaned up after", || !run_dir.exists()).await;
    c.assert_nothing_left();
}
