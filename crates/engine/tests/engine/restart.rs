//! Restart policies.

use std::time::{Duration, Instant};

use engine::WaitCondition;
use engine::model::{Phase, RestartKind, RestartPolicy};

use crate::lab::{Lab, idle, sh};

fn policy(kind: RestartKind, max_retries: u32) -> RestartPolicy {
    RestartPolicy { kind, max_retries }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_failure_tries_so_often_and_no_more() {
    let lab = Lab::new().await;
    let mut spec = sh("exit 4");
    spec.host.restart = policy(RestartKind::OnFailure, 2);
    let begin = Instant::now();
    let id = lab.run(spec).await;
    let view = lab.phase(&id, Phase::Exited).await;
    assert_eq!((view.restart_count, view.exit_code), (2, 4));
    // pauses of 100 and 200 ms
    assert!(
        begin.elapsed() >= Duration::from_millis(300),
        "{:?}",
        begin.elapsed()
    );
    let mut fine = sh("exit 0");
    fine.host.restart = policy(RestartKind::OnFailure, 0);
    let id = lab.run(fine).await;
    assert_eq!(lab.phase(&id, Phase::Exited).await.restart_count, 0);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn always_ends_when_a_user_stops_it() {
    let lab = Lab::new().await;
    let mut spec = sh("exit 0");
    spec.host.restart = policy(RestartKind::Always, 0);
    let id = lab.run(spec).await;
    lab.until("two restarts", || {
        (lab.view(&id).restart_count >= 2).then_some(())
    })
    .await;
    lab.phase(&id, Phase::Restarting).await;
    lab.engine().stop(&id, None, Some(1)).await.ok();
    lab.phase(&id, Phase::Exited).await;
    let count = lab.view(&id).restart_count;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lab.view(&id).restart_count, count);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_stopped_is_remembered_over_a_restart_of_the_engine() {
    let mut lab = Lab::new().await;
    let mut ids = Vec::new();
    for kind in [
        RestartKind::Always,
        RestartKind::UnlessStopped,
        RestartKind::No,
    ] {
        let mut spec = idle();
        spec.host.restart = policy(kind, 0);
        let id = lab.run(spec).await;
        lab.engine().stop(&id, None, Some(1)).await.unwrap();
        ids.push(id);
    }
    lab.drop_engine().await;
    lab.start().await;
    lab.phase(&ids[0], Phase::Running).await;
    for id in &ids[1..] {
        assert_eq!(lab.view(id).phase, Phase::Exited);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_by_hand_is_another_process() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let before = lab.view(&id).pid;
    let exit = lab
        .engine()
        .wait(&id, WaitCondition::NextExit)
        .await
        .unwrap();
    lab.engine().restart(&id, None, Some(2)).await.unwrap();
    exit.await.unwrap();
    let view = lab.view(&id);
    assert_eq!(view.phase, Phase::Running);
    assert_ne!(view.pid, before);
    lab.engine().stop(&id, None, Some(1)).await.unwrap();
    lab.engine().restart(&id, None, None).await.unwrap();
    assert_eq!(lab.view(&id).phase, Phase::Running);
    lab.end().await;
}
