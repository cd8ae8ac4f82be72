//! cp, diff, export, commit.

use std::io::Cursor;

use engine::model::{ErrorKind, MountKind};
use engine::{ChangeKind, CommitOptions, PutOptions};
use testkit::image::{Node, tar};

use crate::lab::{Lab, idle, sh, spec};
use crate::volumes::mount;

async fn drain(mut rx: engine::pipe::ByteReceiver) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = rx.recv().await {
        all.extend(chunk.expect("the stream is whole"));
    }
    all
}

fn file(name: &str, text: &str) -> Vec<u8> {
    tar(&[(name.to_owned(), Node::File(text.as_bytes().to_vec(), 0o644))])
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out_whether_it_runs_or_not() {
    let lab = Lab::new().await;
    let engine = lab.engine();
    let mut spec = idle();
    spec.host.mounts = vec![mount(MountKind::Volume, "data", "/data")];
    let id = lab.create(spec).await.unwrap();
    let put = |path: &'static str, name: &'static str| {
        let bytes = file(name, name);
        engine.archive_put(
            &id,
            path,
            PutOptions::default(),
            Box::new(Cursor::new(bytes)),
        )
    };
    put("/tmp", "stopped").await.unwrap();
    put("/data", "in-volume").await.unwrap();
    let volume = engine.volume("data").unwrap().mountpoint;
    assert!(
        volume.join("in-volume").exists(),
        "into the volume, not under it"
    );
    engine.start_container(&id).await.unwrap();
    put("/tmp", "running").await.unwrap();
    let (code, output) = lab.exec(&id, &["ls", "/tmp", "/data"]).await.unwrap();
    assert_eq!(
        (code, output.as_str()),
        (0, "/data:\nin-volume\n\n/tmp:\nrunning\nstopped\n")
    );

    let stat = engine.archive_stat(&id, "/tmp/running").await.unwrap();
    assert_eq!((stat.name.as_str(), stat.size), ("running", 7));
    for _ in 0..2 {
        let (_, rx) = engine.archive_get(&id, "/tmp/running").await.unwrap();
        let bytes = drain(rx).await;
        assert!(bytes.windows(7).any(|w| w == b"running"));
        let missing = engine.archive_stat(&id, "/nothere").await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        // once more with the container stopped
        drop(engine.stop(&id, None, Some(1)).await);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_commit_see_what_was_done_and_no_more() {
    let lab = Lab::new().await;
    let engine = lab.engine();
    let id = lab
        .run(sh(
            "echo own >/new; rm /etc/group; echo >>/etc/passwd; sleep 1000",
        ))
        .await;
    lab.until("its work", || {
        let upper = lab.view(&id).paths.upper.clone();
        std::fs::read_to_string(upper.join("etc/passwd"))
            .is_ok_and(|t| t.ends_with("\n\n"))
            .then_some(())
    })
    .await;
    let changes = engine.changes(&id).await.unwrap();
    let kind = |path: &str| {
        changes
            .iter()
            .find(|c| c.path == path.as_bytes())
            .map(|c| c.kind)
    };
    assert_eq!(kind("/new"), Some(ChangeKind::Added));
    assert_eq!(kind("/etc/group"), Some(ChangeKind::Deleted));
    assert_eq!(kind("/etc/passwd"), Some(ChangeKind::Modified));
    assert_eq!(kind("/etc/hosts"), None, "{changes:?}");
    let options = CommitOptions {
        reference: Some("made:1".to_owned()),
        pause: true,
        changes: vec!["CMD [\"cat\", \"/new\"]".to_owned()],
        ..CommitOptions::default()
    };
    let image = engine.commit(&id, options, None).await.unwrap();
    assert_eq!(engine.image("made:1").unwrap().id, image);
    let mut made = spec(&[]);
    made.image = "made:1".to_owned();
    made.command = None;
    assert_eq!(lab.output(made).await, (0, "own\n".to_owned()));
    let exported = drain(engine.export(&id).await.unwrap()).await;
    assert!(exported.windows(3).any(|w| w == b"new"));
    lab.end().await;
}
