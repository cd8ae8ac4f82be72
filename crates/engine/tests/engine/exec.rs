//! Programs added to a running container.

use engine::model::ErrorKind;
use engine::{ConsoleSize, ExecSpec};

use crate::lab::{Lab, idle, read_all, read_until, words, write_all};

#[tokio::test(flavor = "multi_thread")]
async fn output_code_and_what_it_inherits() {
    let lab = Lab::new().await;
    let mut spec = idle();
    spec.env = vec!["A=1".to_owned()];
    spec.working_dir = "/tmp".to_owned();
    let id = lab.run(spec).await;
    let (code, output) = lab
        .exec(&id, &["sh", "-c", "echo $A; pwd; id -u; hostname; exit 9"])
        .await
        .unwrap();
    assert_eq!(code, 9);
    assert_eq!(output, format!("1\n/tmp\n0\n{}\n", &id[..12]));
    let missing = lab.exec(&id, &["nothere"]).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::CannotRun, "{}", missing.report());
    assert!(
        missing.report().contains("executable file not found"),
        "{}",
        missing.report()
    );
    // nothing of the engine's own stays in it: the shell and its sleep
    let begin = std::time::Instant::now();
    loop {
        let top = lab.engine().top(&id, "-o comm").await.unwrap();
        if top.rows.len() <= 2 {
            break;
        }
        assert!(begin.elapsed() < crate::lab::PATIENCE, "{top:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_environment_and_place_of_its_own() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let spec = ExecSpec {
        argv: words(&["sh", "-c", "id -un; echo $B $HOME; pwd"]),
        env: vec!["B=2".to_owned()],
        user: "user".to_owned(),
        working_dir: "/etc".to_owned(),
        attach_stdout: true,
        ..ExecSpec::default()
    };
    let exec = lab.engine().exec_create(&id, spec).await.unwrap();
    let stream = lab
        .engine()
        .exec_start(&exec, true, None)
        .await
        .unwrap()
        .unwrap();
    let output = crate::lab::stdout(&read_all(stream).await);
    assert_eq!(output, "user\n2 /home\n/etc\n");
    let twice = lab
        .engine()
        .exec_start(&exec, true, None)
        .await
        .unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Conflict);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_terminal() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let spec = ExecSpec {
        argv: words(&["sh", "-c", "stty size; read x; echo got $x; stty size"]),
        tty: true,
        attach_stdin: true,
        attach_stdout: true,
        attach_stderr: true,
        ..ExecSpec::default()
    };
    let exec = lab.engine().exec_create(&id, spec).await.unwrap();
    let size = ConsoleSize {
        height: 20,
        width: 70,
    };
    let stream = lab
        .engine()
        .exec_start(&exec, true, Some(size))
        .await
        .unwrap()
        .unwrap();
    read_until(&stream, "20 70\r\n").await;
    let bigger = ConsoleSize {
        height: 21,
        width: 71,
    };
    lab.engine().exec_resize(&exec, bigger).await.unwrap();
    write_all(&stream, b"it\n").await;
    read_until(&stream, "got it\r\n21 71\r\n").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_container_all_ends() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let spec = ExecSpec {
        argv: words(&["sleep", "1000"]),
        ..ExecSpec::default()
    };
    let exec = lab.engine().exec_create(&id, spec.clone()).await.unwrap();
    assert!(
        lab.engine()
            .exec_start(&exec, false, None)
            .await
            .unwrap()
            .is_none()
    );
    let view = lab.engine().exec_inspect(&exec).unwrap();
    assert!(view.running && view.pid > 0);
    lab.until("the view shows it", || {
        (lab.view(&id).exec_ids == [exec.clone()]).then_some(())
    })
    .await;
    lab.engine().stop(&id, None, Some(1)).await.unwrap();
    let view = lab.engine().exec_inspect(&exec).unwrap();
    assert_eq!((view.running, view.exit_code), (false, Some(137)));
    assert!(crate::lab::is_dead(view.pid));
    let late = lab.engine().exec_create(&id, spec).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_ended_ones_are_forgotten() {
    let lab = Lab::new().await;
    let id = lab.run(idle()).await;
    let mut first = None;
    for round in 0..10 {
        let all = (0..10).map(|n| {
            let lab = &lab;
            let id = &id;
            async move {
                lab.exec(id, &["sh", "-c", &format!("exit {n}")])
                    .await
                    .unwrap()
                    .0
            }
        });
        let codes = futures_util::future::join_all(all).await;
        assert_eq!(codes, (0..10).collect::<Vec<_>>(), "round {round}");
        if first.is_none() {
            let (past, _) = lab.engine().events(Some(0), None);
            let event = past.iter().find(|e| e.action == "exec_die").unwrap();
            first = Some(event.attributes["execID"].clone());
        }
    }
    let forgotten = lab.engine().exec_inspect(&first.unwrap()).unwrap_err();
    assert_eq!(forgotten.kind(), ErrorKind::NotFound);
    lab.end().await;
}
