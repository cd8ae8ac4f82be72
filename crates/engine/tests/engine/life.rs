//! From create to gone.

use engine::model::{ErrorKind, NamespaceMode, NetworkMode, Phase, Ulimit};
use engine::{AttachOptions, RemoveOptions, WaitCondition};

use crate::lab::{
    Lab, all_streams, idle, read_all, read_until, sh, spec, stdout, within, write_all,
};

#[tokio::test(flavor = "multi_thread")]
async fn runs_logs_exits_and_goes() {
    let lab = Lab::new().await;
    let (code, output) = lab.output(sh("echo out; echo err >&2; exit 3")).await;
    assert_eq!(code, 3);
    assert!(
        output.contains("out\n") && output.contains("err\n"),
        "{output}"
    );
    let view = lab.engine().snapshot().containers[0].clone();
    assert_eq!(
        (view.phase, view.exit_code, view.pid),
        (Phase::Exited, 3, 0)
    );
    assert!(view.started_at < view.finished_at);
    let (past, _) = lab.engine().events(Some(0), None);
    let actions: Vec<&str> = past
        .iter()
        .filter(|e| e.kind == "container")
        .map(|e| e.action.as_str())
        .collect();
    assert_eq!(actions, ["create", "start", "die"]);
    assert_eq!(past.last().unwrap().attributes["exitCode"], "3");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_before_start_loses_no_byte() {
    let lab = Lab::new().await;
    let mut spec = spec(&["cat"]);
    spec.open_stdin = true;
    spec.stdin_once = true;
    let id = lab.create(spec).await.unwrap();
    let stream = lab.engine().attach(&id, all_streams()).await.unwrap();
    let exit = lab
        .engine()
        .wait(&id, WaitCondition::NextExit)
        .await
        .unwrap();
    lab.engine().start_container(&id).await.unwrap();
    let text = "x".repeat(100_000);
    let writer = async {
        write_all(&stream, text.as_bytes()).await;
        rustix::net::shutdown(&stream, rustix::net::Shutdown::Write).unwrap();
    };
    // both at once: neither side holds that much
    let reader = async {
        let mut got = Vec::new();
        loop {
            let mut buffer = [0; 65536];
            within("output", stream.readable()).await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(0) => return got,
                Ok(n) => got.extend(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => panic!("read: {e}"),
            }
        }
    };
    let (_, got) = tokio::join!(writer, reader);
    assert_eq!(stdout(&got), text);
    assert_eq!(within("the exit", exit).await.unwrap().code, 0);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_a_running_one_with_its_log() {
    let lab = Lab::new().await;
    let id = lab.run(sh("echo before; sleep 1000")).await;
    lab.until("a line in the log", || {
        let log = lab.view(&id).paths.log.clone().unwrap();
        std::fs::read_to_string(log)
            .is_ok_and(|t| t.contains("before"))
            .then_some(())
    })
    .await;
    let options = AttachOptions {
        logs: true,
        stream: false,
        stdin: false,
        ..all_streams()
    };
    let stream = lab.engine().attach(&id, options).await.unwrap();
    assert_eq!(stdout(&read_all(stream).await), "before\n");
    lab.end().await;
}

/// What a client that comes while the container writes is given of the log, and what it is given as
/// it comes, is every line once; over rotations too.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_what_comes_are_every_line_once() {
    const LINES: usize = 20_000;
    let lab = Lab::new().await;
    let mut spec = sh(&format!(
        "i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); \
         test $((i % 500)) != 0 || sleep 0.02; done"
    ));
    spec.host.log.options = [("max-size", "64k"), ("max-file", "50")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let id = lab.run(spec).await;
    let options = AttachOptions {
        logs: true,
        stdin: false,
        ..all_streams()
    };
    let expected: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
    // one after the other, each from another moment on
    let mut readers = Vec::new();
    while lab.view(&id).is_running() && readers.len() < 50 {
        // refused at the very end
        if let Ok(stream) = lab.engine().attach(&id, options).await {
            readers.push(tokio::spawn(read_all(stream)));
        }
    }
    assert!(readers.len() > 2, "it ended too early to see anything");
    for reader in readers {
        let seen = stdout(&reader.await.unwrap());
        let odd = seen.lines().zip(expected.lines()).find(|(a, b)| a != b);
        assert_eq!(odd, None);
        assert_eq!(seen.len(), expected.len());
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_raw_and_has_a_size() {
    let lab = Lab::new().await;
    let mut spec = sh("stty size; read x; stty size");
    spec.tty = true;
    spec.open_stdin = true;
    spec.host.console_size = [24, 80];
    let id = lab.create(spec).await.unwrap();
    let stream = lab.engine().attach(&id, all_streams()).await.unwrap();
    lab.engine().start_container(&id).await.unwrap();
    read_until(&stream, "24 80\r\n").await;
    let size = engine::ConsoleSize {
        height: 33,
        width: 99,
    };
    lab.engine().resize(&id, size).await.unwrap();
    write_all(&stream, b"\n").await;
    read_until(&stream, "33 99\r\n").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_is_the_signal_then_the_kill() {
    let lab = Lab::new().await;
    let polite = lab.run(idle()).await;
    lab.until("its trap", || {
        let log = lab.view(&polite).paths.log.clone().unwrap();
        std::fs::read_to_string(log)
            .is_ok_and(|t| t.contains("ready"))
            .then_some(())
    })
    .await;
    lab.engine().stop(&polite, None, None).await.unwrap();
    assert_eq!(lab.view(&polite).exit_code, 7);
    let again = lab.engine().stop(&polite, None, None).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotModified);

    // as PID 1 sleep ignores what it does not handle
    let deaf = lab.run(spec(&["sleep", "1000"])).await;
    let (one, two) = tokio::join!(
        lab.engine().stop(&deaf, None, Some(1)),
        lab.engine().stop(&deaf, None, Some(100)),
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(lab.view(&deaf).exit_code, 137);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_signals_and_kills() {
    let lab = Lab::new().await;
    let id = lab
        .run(sh(
            "trap 'echo usr' USR1; echo ready; while :; do sleep 1000 & wait $!; done",
        ))
        .await;
    let logged = |text: &'static str| {
        let log = lab.view(&id).paths.log.clone().unwrap();
        move || {
            std::fs::read_to_string(&log)
                .is_ok_and(|t| t.contains(text))
                .then_some(())
        }
    };
    lab.until("its trap", logged("ready")).await;
    lab.engine().kill(&id, Some("SIGUSR1")).await.unwrap();
    lab.until("its answer", logged("usr")).await;
    assert!(lab.engine().kill(&id, Some("NOSUCH")).await.is_err());
    lab.engine().kill(&id, None).await.unwrap();
    assert_eq!(lab.view(&id).exit_code, 137);
    let again = lab.engine().kill(&id, None).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_stops_and_a_paused_one_can_be_killed() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    lab.engine().pause(&id).await.unwrap();
    assert_eq!(lab.view(&id).phase, Phase::Paused);
    let twice = lab.engine().pause(&id).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Conflict);
    let exec = lab.exec(&id, &["true"]).await.unwrap_err();
    assert_eq!(exec.kind(), ErrorKind::Conflict);
    lab.engine().unpause(&id).await.unwrap();
    assert_eq!(lab.exec(&id, &["echo", "on"]).await.unwrap().1, "on\n");
    lab.engine().pause(&id).await.unwrap();
    lab.engine().kill(&id, None).await.unwrap();
    assert_eq!(lab.view(&id).exit_code, 137);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique_and_can_be_changed() {
    let lab = Lab::new().await;
    let create = |name: &str| lab.engine().create(Some(name.to_owned()), idle());
    let first = create("one").await.unwrap().id;
    let taken = create("one").await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    assert!(taken.to_string().contains(&first), "{taken}");
    create("two").await.unwrap();
    let taken = lab.engine().rename("one", "two").await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    lab.engine().rename("one", "three").await.unwrap();
    assert_eq!(lab.view("three").id(), first);
    assert_eq!(lab.view(&first[..10]).name(), "three");
    create("one").await.unwrap();
    assert!(create("-bad").await.is_err());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why_and_leaves_nothing() {
    let lab = Lab::new().await;
    for (argv, code, words) in [
        (&["nothere"][..], 127, "executable file not found"),
        (&["/etc/passwd"], 126, "permission denied"),
        (&["/nothere"], 127, "no such file"),
    ] {
        let id = lab.create(spec(argv)).await.unwrap();
        let error = lab.engine().start_container(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotRun, "{}", error.report());
        assert!(
            error.report().to_lowercase().contains(words),
            "{}",
            error.report()
        );
        let view = lab.view(&id);
        assert_eq!((view.phase, view.exit_code), (Phase::Created, code));
    }
    let none = lab.create(engine::model::ContainerSpec {
        image: "nothere".to_owned(),
        ..Default::default()
    });
    assert_eq!(none.await.unwrap_err().kind(), ErrorKind::NotFound);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_ones_remove_themselves() {
    let lab = Lab::new().await;
    let mut short = sh("exit 5");
    short.host.auto_remove = true;
    let id = lab.create(short).await.unwrap();
    let removed = lab
        .engine()
        .wait(&id, WaitCondition::Removed)
        .await
        .unwrap();
    lab.engine().start_container(&id).await.unwrap();
    assert_eq!(within("its removal", removed).await.unwrap().code, 5);
    assert_eq!(
        lab.engine().find(&id).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    let mut broken = spec(&["nothere"]);
    broken.host.auto_remove = true;
    let id = lab.create(broken).await.unwrap();
    assert!(lab.engine().start_container(&id).await.is_err());
    lab.until("its removal", || {
        lab.engine().find(&id).is_err().then_some(())
    })
    .await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_needs_force_while_it_runs() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let refused = lab.engine().remove(&id, RemoveOptions::default()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let forced = RemoveOptions {
        force: true,
        volumes: false,
    };
    let waiter = lab
        .engine()
        .wait(&id, WaitCondition::Removed)
        .await
        .unwrap();
    let (one, two) = tokio::join!(
        lab.engine().remove(&id, forced),
        lab.engine().remove(&id, forced),
    );
    let kinds: Vec<_> = [one, two]
        .into_iter()
        .filter_map(|r| r.err().map(|e| e.kind()))
        .collect();
    assert!(kinds.len() <= 1, "{kinds:?}");
    assert_eq!(within("its removal", waiter).await.unwrap().code, 137);
    assert!(lab.engine().find(&id).is_err());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_and_remove_at_the_same_time() {
    let lab = Lab::new().await;
    let forced = RemoveOptions {
        force: true,
        volumes: false,
    };
    for _ in 0..5 {
        let id = lab.create(idle()).await.unwrap();
        let (_, removed) = tokio::join!(
            lab.engine().start_container(&id),
            lab.engine().remove(&id, forced),
        );
        removed.unwrap();
        assert!(lab.engine().find(&id).is_err());
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_it_is_as_docker_makes_it() {
    let lab = Lab::new().await;
    let mut spec = sh(
        "echo $PATH; hostname; echo $$; id -u; pwd; cat /etc/hostname; mount | grep -c /proc; \
         ls /sys/class/net; echo $HOME; grep CapEff /proc/self/status; ulimit -n; touch /x || echo ro",
    );
    spec.hostname = "keel".to_owned();
    spec.working_dir = "/made/here".to_owned();
    spec.host.network = NetworkMode::None;
    spec.host.ulimits = vec![Ulimit {
        name: "nofile".to_owned(),
        soft: 512,
        hard: 1024,
    }];
    let (code, output) = lab.output(spec).await;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(code, 0, "{output}");
    assert_eq!(
        lines[..6],
        [
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "keel",
            "1",
            "0",
            "/made/here",
            "keel"
        ]
    );
    assert!(
        output.contains("\nlo\n/root\nCapEff:\t00000000a80425fb\n512"),
        "{output}"
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_groups_of_the_image() {
    let lab = Lab::new().await;
    let mut spec = sh("id; grep CapEff /proc/self/status; echo $HOME");
    spec.user = "user".to_owned();
    spec.host.group_add = vec!["3000".to_owned()];
    let (_, output) = lab.output(spec).await;
    assert!(output.contains("uid=1000(user) gid=1000(user)"), "{output}");
    assert!(
        output.contains("2000(extra)") && output.contains("3000"),
        "{output}"
    );
    assert!(
        output.contains("CapEff:\t0000000000000000\n/home\n"),
        "{output}"
    );
    let mut wrong = sh("true");
    wrong.user = "nobody-here".to_owned();
    let id = lab.create(wrong).await.unwrap();
    let error = lab.engine().start_container(&id).await.unwrap_err();
    assert!(
        error.report().contains("unable to find user nobody-here"),
        "{}",
        error.report()
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_another_container() {
    let lab = Lab::new().await;
    let mut donor = idle();
    donor.host.ipc_mode = NamespaceMode::Shareable;
    let first = lab.run(donor).await;
    let mut spec = sh("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ps");
    spec.host.network = NetworkMode::Container(first.clone());
    spec.host.ipc_mode = NamespaceMode::Container(first.clone());
    spec.host.pid_mode = NamespaceMode::Container(first.clone());
    let (code, output) = lab.output(spec).await;
    assert_eq!(code, 0, "{output}");
    let pid = lab.view(&first).pid;
    for namespace in ["net", "ipc"] {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert!(output.contains(&*link.to_string_lossy()), "{output}");
    }
    assert!(
        output.contains("sleep 1000"),
        "the other's processes are seen: {output}"
    );
    lab.engine().stop(&first, None, Some(1)).await.unwrap();
    let mut late = sh("true");
    late.host.network = NetworkMode::Container(first);
    let id = lab.create(late).await.unwrap();
    let error = lab.engine().start_container(&id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_changed_and_counted() {
    let lab = Lab::new().await;
    let mut spec = idle();
    spec.host.resources.memory = 32 << 20;
    spec.host.resources.pids_limit = Some(50);
    let id = lab.run(spec).await;
    let sample = lab.engine().stats(&id).await.unwrap();
    assert_eq!((sample.memory_limit, sample.pids_limit), (32 << 20, 50));
    assert!(
        sample.pids_current >= 1 && sample.cpu_total_ns > 0,
        "{sample:?}"
    );
    let mut request = engine::UpdateRequest::default();
    request.resources.memory = 64 << 20;
    request.resources.memory_swap = 128 << 20;
    lab.engine().update(&id, request).await.unwrap();
    assert_eq!(
        lab.engine().stats(&id).await.unwrap().memory_limit,
        64 << 20
    );
    let top = lab.engine().top(&id, "").await.unwrap();
    assert!(
        top.rows.iter().any(|r| r.last().unwrap().contains("sleep")),
        "{top:?}"
    );
    lab.end().await;
}

// FAILURES.md "OOM takes the engine or shim; Up after OOM"
#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_is_noticed_and_told() {
    let lab = Lab::new().await;
    let mut spec = sh("x=a; while :; do x=$x$x; done");
    spec.host.resources.memory = 8 << 20;
    spec.host.resources.memory_swap = 8 << 20;
    let id = lab.run(spec).await;
    assert_eq!(lab.wait(&id).await.code, 137);
    assert!(lab.view(&id).oom_killed);
    let (past, _) = lab.engine().events(Some(0), None);
    assert!(past.iter().any(|e| e.action == "oom"));
    lab.end().await;
}
