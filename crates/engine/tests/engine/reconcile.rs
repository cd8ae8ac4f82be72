//! The engine goes, containers stay; what happened meanwhile is found out.

use std::time::Duration;

use engine::WaitCondition;
use engine::model::{ErrorKind, Phase};
use rustix::process::Signal;

use crate::lab::{Lab, idle, is_dead, parent_of, sh, signal, within};

// FAILURES.md "live-restore bugs"
#[tokio::test(flavor = "multi_thread")]
async fn living_containers_are_adopted_with_all_they_had() {
    let mut lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let paused = lab.run(idle()).await;
    lab.engine().pause(&paused).await.unwrap();
    let before = lab.view(&id);
    for _ in 0..3 {
        lab.drop_engine().await;
        assert!(!is_dead(before.pid));
        let took = lab.start().await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        let view = lab.view(&id);
        assert_eq!((view.phase, view.pid), (Phase::Running, before.pid));
        assert_eq!(view.started_at, before.started_at);
        assert_eq!(lab.view(&paused).phase, Phase::Paused);
    }
    assert_eq!(
        lab.exec(&id, &["echo", "alive"]).await.unwrap().1,
        "alive\n"
    );
    let exit = lab
        .engine()
        .wait(&id, WaitCondition::NotRunning)
        .await
        .unwrap();
    lab.engine().stop(&id, None, None).await.unwrap();
    assert_eq!(within("the exit", exit).await.unwrap().code, 7);
    lab.engine().unpause(&paused).await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_nobody_looked_is_found_on_record() {
    let mut lab = Lab::new().await;
    let id = lab
        .run(sh(
            "while [ ! -e /go ]; do sleep 0.01; done; echo last; exit 11",
        ))
        .await;
    let mut spec = idle();
    spec.host.auto_remove = true;
    let ephemeral = lab.run(spec).await;
    let (pid, gone) = (lab.view(&id).pid, lab.view(&ephemeral).pid);
    let root = lab.view(&id).paths.upper.clone();
    lab.drop_engine().await;
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    assert!(root.join("go").exists());
    signal(gone, Signal::KILL);
    let begin = std::time::Instant::now();
    while !is_dead(pid) || !is_dead(gone) {
        assert!(begin.elapsed() < Duration::from_secs(20), "they do not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.start().await;
    let view = lab.phase(&id, Phase::Exited).await;
    assert_eq!((view.exit_code, view.pid), (11, 0));
    assert_eq!(lab.logs(&id).await, "last\n");
    lab.until("the ephemeral one's removal", || {
        lab.engine().find(&ephemeral).is_err().then_some(())
    })
    .await;
    // and once more: the record was taken in
    lab.drop_engine().await;
    lab.start().await;
    assert_eq!(lab.view(&id).exit_code, 11);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_ends_its_container_and_that_is_told() {
    let mut lab = Lab::new().await;
    let (first, second, third) = (
        lab.run(idle()).await,
        lab.run(idle()).await,
        lab.run(idle()).await,
    );
    // under the engine's eyes
    let pid = lab.view(&first).pid;
    signal(parent_of(pid), Signal::KILL);
    let view = lab.phase(&first, Phase::Exited).await;
    assert_eq!(view.exit_code, 137);
    assert!(view.error.contains("shim"), "{}", view.error);
    lab.until("its process's end", || is_dead(pid).then_some(()))
        .await;
    // and while the engine is away
    let pid = lab.view(&second).pid;
    lab.drop_engine().await;
    signal(parent_of(pid), Signal::KILL);
    lab.start().await;
    let view = lab.phase(&second, Phase::Exited).await;
    assert_eq!(view.exit_code, 137);
    assert!(view.error.contains("shim"), "{}", view.error);
    assert!(is_dead(pid));
    assert_eq!(lab.view(&third).phase, Phase::Running);
    lab.engine().start_container(&first).await.unwrap();
    lab.end().await;
}

// FAILURES.md "One bad shim blocks start", "ps hangs"
#[tokio::test(flavor = "multi_thread")]
async fn a_mute_shim_costs_its_container_alone() {
    let mut lab = Lab::new().await;
    let (mute, fine) = (lab.run(idle()).await, lab.run(idle()).await);
    let shim = parent_of(lab.view(&mute).pid);
    signal(shim, Signal::STOP);
    lab.engine().stop(&fine, None, Some(1)).await.unwrap();
    lab.engine().start_container(&fine).await.unwrap();
    lab.drop_engine().await;
    let took = lab.start().await;
    assert!(took < Duration::from_secs(1), "ready after {took:?}");
    assert_eq!(lab.view(&fine).phase, Phase::Running);
    let view = lab.phase(&mute, Phase::Dead).await;
    assert!(view.error.contains("shim"), "{}", view.error);
    signal(shim, Signal::CONT);
    lab.phase(&mute, Phase::Running).await;
    // and it can be removed while it is mute
    signal(shim, Signal::STOP);
    within("its removal", lab.remove(&mute)).await;
    assert!(is_dead(shim));
    // also one that was never heard of since the engine started
    let mute = lab.run(idle()).await;
    let (init, shim) = (lab.view(&mute).pid, parent_of(lab.view(&mute).pid));
    signal(shim, Signal::STOP);
    lab.drop_engine().await;
    lab.start().await;
    lab.phase(&mute, Phase::Dead).await;
    within("its removal", lab.remove(&mute)).await;
    assert!(is_dead(shim) && is_dead(init));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_is_set_aside() {
    let mut lab = Lab::new().await;
    let (bad, good) = (lab.create(idle()).await.unwrap(), lab.run(idle()).await);
    let dir = lab.view(&bad).paths.dir.clone();
    lab.drop_engine().await;
    std::fs::write(dir.join("exit.json"), "{ torn").unwrap();
    lab.start().await;
    let view = lab.phase(&bad, Phase::Dead).await;
    assert!(view.error.contains("exit"), "{}", view.error);
    let refused = lab.engine().start_container(&bad).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(lab.view(&good).phase, Phase::Running);
    lab.remove(&bad).await;
    lab.end().await;
}

// FAILURES.md "Orphan layers, dead containers"
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_without_an_owner_go() {
    let mut lab = Lab::new().await;
    let id = lab.run(idle()).await;
    lab.drop_engine().await;
    let exec = lab.dir.path().join("exec");
    std::fs::create_dir_all(exec.join("shims").join("f".repeat(64))).unwrap();
    std::fs::create_dir_all(
        lab.dir
            .path()
            .join("data/containers")
            .join("e".repeat(64))
            .join("upper"),
    )
    .unwrap();
    let instance = runtime::cgroup::instance_name(&exec);
    let memory = lab
        .config()
        .facts
        .cgroup
        .hierarchies
        .iter()
        .find(|h| h.writable)
        .unwrap()
        .own
        .clone();
    let stray = memory.join(&instance).join("d".repeat(64));
    std::fs::create_dir_all(&stray).unwrap();
    lab.start().await;
    lab.until("strays to go", || {
        let own = lab.remains().iter().all(|r| r.contains(&id));
        (own && !stray.exists()).then_some(())
    })
    .await;
    assert_eq!(lab.view(&id).phase, Phase::Running);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_before_are_still_told() {
    let mut lab = Lab::new().await;
    let id = lab.create(idle()).await.unwrap();
    lab.engine().shutdown().await;
    lab.drop_engine().await;
    lab.start().await;
    let begin = std::time::Instant::now();
    loop {
        let (past, _) = lab.engine().events(Some(0), None);
        if past.iter().any(|e| e.actor == id && e.action == "create") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{past:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lab.end().await;
}
