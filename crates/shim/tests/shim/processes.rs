//! Exec'd processes.

use std::time::{Duration, Instant};

use shim::{LaunchError, ShimError};

use crate::harness::{DEADLINE, World, alive, read_frames, read_until, until, write};

#[tokio::test]
async fn several_with_own_streams_and_codes() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let script = |n: i32| format!("echo out{n}; echo err{n} >&2; exit {n}");
    let mut streams = Vec::new();
    for n in 1..=5 {
        let stream = r
            .exec(&format!("e{n}"), &["sh", "-c", &script(n)], |_| {})
            .await;
        streams.push((n, stream));
    }
    for (n, stream) in streams {
        let wanted = [format!("out{n}\n"), format!("err{n}\n"), String::new()];
        assert_eq!(read_frames(stream).await, wanted);
    }
    let status = r.shim.status().await.unwrap();
    for n in 1..=5 {
        let exec = status.execs.iter().find(|e| e.exec_id == format!("e{n}"));
        assert_eq!(exec.unwrap().code, Some(n));
    }
    assert!(c.log().is_empty(), "what execs say is not logged");
    let stream = r.exec("e", &["sh", "-c", "kill -9 $$"], |_| {}).await;
    assert_eq!(r.exec_exit("e").await, 137);
    drop(stream);
    r.kill().await;
    assert_eq!(r.exit().await.code, 137);
}

#[tokio::test]
async fn input_and_terminal() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let mut stream = r.exec("cat", &["cat"], |e| e.open_stdin = true).await;
    write(&mut stream, b"echoed").await;
    tokio::io::AsyncWriteExt::shutdown(&mut stream)
        .await
        .unwrap();
    assert_eq!(read_frames(stream).await[0], "echoed");
    assert_eq!(r.exec_exit("cat").await, 0);

    let mut stream = r
        .exec(
            "tty",
            &["sh", "-c", "stty size; read x; stty size; exit 3"],
            |e| {
                e.tty = true;
                e.open_stdin = true;
                e.console_size = Some((20, 70));
            },
        )
        .await;
    read_until(&mut stream, "20 70").await;
    r.shim.resize(Some("tty"), 21, 71).await.unwrap();
    write(&mut stream, b"\n").await;
    read_until(&mut stream, "21 71").await;
    assert_eq!(r.exec_exit("tty").await, 3);
    r.kill().await;
    r.exit().await;
}

#[tokio::test]
async fn what_cannot_start_is_said() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let exec = shim::ExecLaunch {
        exec_id: "x".to_owned(),
        ..shim::ExecLaunch::default()
    };
    let plan = c.exec_plan(&["nonesuch"], &exec);
    let error = r
        .shim
        .exec(&exec, &plan, None, DEADLINE)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, LaunchError::Step { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 127, "{error}");
    let error = r.shim.signal(Some("x"), 15, false).await.err().unwrap();
    assert!(matches!(error, ShimError::NoSuchExec { .. }), "{error:?}");
    r.kill().await;
    r.exit().await;
    let error = r.shim.signal(None, 15, false).await.err().unwrap();
    assert!(matches!(error, ShimError::Gone { .. }), "{error:?}");
}

// FAILURES: "exec outlives its client"
#[tokio::test]
async fn killed_with_its_client_where_asked() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let script = "sleep 1001 & exec sleep 1002";
    let stream = r
        .exec("e", &["sh", "-c", script], |e| e.kill_on_disconnect = true)
        .await;
    drop(stream);
    assert_eq!(r.exec_exit("e").await, 137);
    let cgroup = c.cgroup();
    until("its processes to be gone", || {
        cgroup.pids().unwrap().len() == 1
    })
    .await;
    // where it was not asked for it goes on
    let stream = r.exec("f", &["sh", "-c", "sleep 1; exit 4"], |_| {}).await;
    drop(stream);
    assert_eq!(r.exec_exit("f").await, 4);
    r.kill().await;
    r.exit().await;
}

/// A process that an exec leaves behind and that holds its output does not keep the exec open.
#[tokio::test]
async fn an_exec_ends_though_its_output_is_held() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let began = Instant::now();
    let stream = r
        .exec("e", &["sh", "-c", "sleep 1003 & echo started"], |_| {})
        .await;
    assert_eq!(read_frames(stream).await[0], "started\n");
    assert_eq!(r.exec_exit("e").await, 0);
    assert!(began.elapsed() < Duration::from_secs(5));
    r.kill().await;
    r.exit().await;
}

#[tokio::test]
async fn execs_end_with_the_container() {
    let world = World::new();
    let c = world.container("exec sleep 1000");
    let mut r = c.start().await;
    let stream = r.exec("e", &["sleep", "1004"], |_| {}).await;
    let pid = r.shim.status().await.unwrap().execs[0].pid;
    assert!(alive(pid));
    r.kill().await;
    assert_eq!(r.exec_exit("e").await, 137);
    assert_eq!(r.exit().await.code, 137);
    assert!(!alive(pid));
    drop(stream);
}

// FAILURES: "Zombies; health probes pile up": those that are the shim's to reap
#[tokio::test]
async fn no_zombies_of_the_shim() {
    let world = World::new();
    let mut c = world.container("while true; do true & wait; usleep 1000; done");
    // in the host's pid namespace the shim is who orphans go to
    c.spec["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}, {"type": "network"}]);
    let mut r = c.start().await;
    for n in 0..20 {
        let stream = r
            .exec(
                &format!("p{n}"),
                &["sh", "-c", "(true &) ; (true &)"],
                |_| {},
            )
            .await;
        read_frames(stream).await;
        assert_eq!(r.exec_exit(&format!("p{n}")).await, 0);
    }
    let of_shim = format!("/proc/{0}/task/{0}/children", r.launched.shim_pid);
    until("only the container to be the shim's child", || {
        std::fs::read_to_string(&of_shim)
            .unwrap()
            .split_whitespace()
            .count()
            == 1
    })
    .await;
    r.kill().await;
    r.exit().await;
}

/// With `--init` also those that go to PID 1, whatever the program is.
#[tokio::test]
async fn no_zombies_with_init() {
    let world = World::new();
    // a program that forks and never waits
    let script =
        "n=0; while [ $n -lt 200 ]; do (true & ); n=$((n+1)); done; echo done; exec sleep 1000";
    let mut c = world.container(script);
    c.init = true;
    let mut r = c.start().await;
    for n in 0..10 {
        let stream = r
            .exec(
                &format!("p{n}"),
                &["sh", "-c", "(true &) ; (true &)"],
                |_| {},
            )
            .await;
        read_frames(stream).await;
    }
    until("the program to be done", || !c.log().is_empty()).await;
    let cgroup = c.cgroup();
    until("no zombies", || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let zombies = all.filter(|p| {
            let status = std::fs::read_to_string(p.path().join("stat")).unwrap_or_default();
            let fields: Vec<&str> = status
                .rsplit_once(") ")
                .map_or("", |(_, s)| s)
                .split(' ')
                .collect();
            fields[0] == "Z" && fields.get(1) == Some(&&*r.launched.pid.to_string())
        });
        zombies.count() == 0 && cgroup.pids().unwrap().len() == 2
    })
    .await;
    r.kill().await;
    assert_eq!(r.exit().await.code, 137);
}

#[tokio::test]
async fn faults_of_an_exec() {
    for (action, survives) in [("enospc", true), ("kill", false)] {
        let fault = format!("shim:shim.exec:{action}");
        let world = World::with_environment(&[("PLIMSOLL_FAULT", fault)]);
        let c = world.container("exec sleep 1000");
        let mut r = c.start().await;
        let exec = shim::ExecLaunch {
            exec_id: "x".to_owned(),
            ..shim::ExecLaunch::default()
        };
        let plan = c.exec_plan(&["true"], &exec);
        let error = r
            .shim
            .exec(&exec, &plan, None, DEADLINE)
            .await
            .err()
            .unwrap();
        if survives {
            assert!(matches!(error, LaunchError::Refused { .. }), "{error:?}");
            r.kill().await;
        } else {
            assert!(matches!(error, LaunchError::ShimDied { .. }), "{error:?}");
        }
        let record = r.exit().await;
        assert_eq!((record.code, record.shim_died), (137, !survives));
    }
}
