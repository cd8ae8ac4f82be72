//! Random commands against a model: the phase and the class of every answer are as the model says.

use engine::RemoveOptions;
use engine::model::{ErrorKind, Phase};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::lab::{Lab, idle};

#[derive(Debug, Clone, Copy)]
enum Step {
    Start,
    Stop,
    Kill,
    Pause,
    Unpause,
    Restart,
    Remove { force: bool },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Start),
        2 => Just(Step::Stop),
        2 => Just(Step::Kill),
        2 => Just(Step::Pause),
        2 => Just(Step::Unpause),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(|force| Step::Remove { force }),
        1 => Just(Step::Reopen),
    ]
}

/// What the phase becomes (none: gone) and the class of the refusal.
fn model(phase: Phase, step: Step) -> (Option<Phase>, Option<ErrorKind>) {
    use ErrorKind::{Conflict, NotModified};
    use Phase::{Created, Exited, Paused, Running};
    match (step, phase) {
        (Step::Start, Created | Exited) => (Some(Running), None),
        (Step::Start, Running) => (Some(Running), Some(NotModified)),
        (Step::Start, _) => (Some(phase), Some(Conflict)),
        (Step::Stop, Running | Paused) => (Some(Exited), None),
        (Step::Stop, _) => (Some(phase), Some(NotModified)),
        (Step::Kill, Running | Paused) => (Some(Exited), None),
        (Step::Kill, _) => (Some(phase), Some(Conflict)),
        (Step::Pause, Running) => (Some(Paused), None),
        (Step::Pause, _) => (Some(phase), Some(Conflict)),
        (Step::Unpause, Paused) => (Some(Running), None),
        (Step::Unpause, _) => (Some(phase), Some(Conflict)),
        (Step::Restart, _) => (Some(Running), None),
        (Step::Remove { force: false }, Running | Paused) => (Some(phase), Some(Conflict)),
        (Step::Remove { .. }, _) => (None, None),
        (Step::Reopen, _) => (Some(phase), None),
    }
}

async fn run(steps: Vec<Step>) {
    let mut lab = Lab::new().await;
    let mut phase = None;
    let mut id = String::new();
    for (n, step) in steps.into_iter().enumerate() {
        let before = match phase {
            Some(phase) => phase,
            None => {
                id = lab.create(idle()).await.unwrap();
                Phase::Created
            }
        };
        let (after, refusal) = model(before, step);
        let engine = lab.engine().clone();
        let answer = match step {
            Step::Start => engine.start_container(&id).await,
            Step::Stop => engine.stop(&id, None, Some(0)).await,
            Step::Kill => engine.kill(&id, None).await,
            Step::Pause => engine.pause(&id).await,
            Step::Unpause => engine.unpause(&id).await,
            Step::Restart => engine.restart(&id, None, Some(0)).await,
            Step::Remove { force } => {
                let options = RemoveOptions {
                    force,
                    volumes: false,
                };
                engine.remove(&id, options).await
            }
            Step::Reopen => {
                drop(engine);
                lab.drop_engine().await;
                lab.start().await;
                // readiness waits for shims only so long; on a busy machine one is taken up after it
                lab.until("it is taken up", || {
                    (after.is_none() || after == Some(lab.view(&id).phase)).then_some(())
                })
                .await;
                Ok(())
            }
        };
        let place = format!("step {n}: {step:?} of {before:?}");
        let got = answer.as_ref().err().map(engine::Error::kind);
        assert_eq!(got, refusal, "{place}: {answer:?}");
        phase = after;
        match after {
            Some(after) => {
                let view = lab.view(&id);
                assert_eq!(view.phase, after, "{place}");
                let runs = matches!(after, Phase::Running | Phase::Paused);
                assert_eq!(view.pid != 0, runs, "{place}");
            }
            None => assert!(lab.engine().find(&id).is_err(), "{place}"),
        }
    }
    lab.end().await;
}

#[test]
fn every_answer_is_the_model_s() {
    let mut runner = TestRunner::new(Config {
        cases: 12,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Config::default()
    });
    let steps = prop::collection::vec(step(), 1..25);
    let outcome = runner.run(&steps, |steps| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(steps));
        Ok(())
    });
    outcome.unwrap();
}
