//! Volumes and binds.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use engine::RemoveOptions;
use engine::model::{ContainerSpec, ErrorKind, MountKind, MountSpec};
use testkit::image::{Image, Node};

use crate::lab::{Lab, idle, sh};

pub(crate) fn mount(kind: MountKind, source: &str, target: &str) -> MountSpec {
    serde_json::from_value(serde_json::json!({
        "kind": kind, "source": source, "target": target, "read_only": false
    }))
    .unwrap()
}

fn with(mut spec: ContainerSpec, mounts: Vec<MountSpec>) -> ContainerSpec {
    spec.host.mounts = mounts;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_volume_outlives_containers_and_comes_back_from_the_trash() {
    let lab = Lab::new().await;
    let data = || vec![mount(MountKind::Volume, "data", "/data")];
    let (code, _) = lab
        .output(with(sh("echo precious >/data/file"), data()))
        .await;
    assert_eq!(code, 0);
    let first = lab.engine().snapshot().containers[0].record.id.clone();
    let used = lab.engine().remove_volume("data", false).await.unwrap_err();
    assert_eq!(used.kind(), ErrorKind::Conflict);
    lab.remove(&first).await; // also with its anonymous volumes: this one has a name
    let (_, output) = lab.output(with(sh("cat /data/file"), data())).await;
    assert_eq!(output, "precious\n");
    let second = lab.engine().snapshot().containers[0].record.id.clone();
    lab.remove(&second).await;
    lab.engine().remove_volume("data", false).await.unwrap();
    assert!(lab.engine().volume("data").is_err());
    assert_eq!(
        lab.engine().volumes_in_trash().await.unwrap()[0].name,
        "data"
    );
    lab.engine().restore_volume("data").await.unwrap();
    let (_, output) = lab.output(with(sh("cat /data/file"), data())).await;
    assert_eq!(output, "precious\n");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_s_files_fill_a_new_volume_once() {
    let lab = Lab::bare().await;
    let image = Image::busybox()
        .unwrap()
        .named("filled:1")
        .layer(vec![
            ("srv".to_owned(), Node::Directory(0o755)),
            ("srv/data".to_owned(), Node::Directory(0o2750)),
            (
                "srv/data/seed".to_owned(),
                Node::File(b"seed\n".to_vec(), 0o640),
            ),
        ])
        .config("Volumes", serde_json::json!({"/srv/data": {}}));
    lab.engine()
        .load(Box::new(std::io::Cursor::new(image.archive())), None)
        .await
        .unwrap();
    let of = |script: &str, mounts| {
        let mut spec = with(sh(script), mounts);
        spec.image = "filled:1".to_owned();
        spec
    };
    // the image's VOLUME: anonymous, filled, gone with the container only when asked
    let id = lab.run(of("cat /srv/data/seed; sleep 1000", vec![])).await;
    let point = lab.view(&id).record.mounts[0].clone();
    assert_eq!(point.destination, "/srv/data");
    assert_eq!(
        std::fs::read_to_string(format!("{}/seed", point.source)).unwrap(),
        "seed\n"
    );
    let mode = std::fs::metadata(&point.source).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o2750, "the directory's own mode comes too");
    let keep = RemoveOptions {
        force: true,
        volumes: false,
    };
    lab.engine().remove(&id, keep).await.unwrap();
    assert!(lab.engine().volume(&point.name).unwrap().anonymous);

    let named = |no_copy| {
        let mut m = mount(MountKind::Volume, "kept", "/srv/data");
        m.no_copy = no_copy;
        vec![m]
    };
    let (_, output) = lab
        .output(of(
            "ls /srv/data; rm /srv/data/seed; touch /srv/data/own",
            named(false),
        ))
        .await;
    assert_eq!(output, "seed\n");
    let (_, output) = lab.output(of("ls /srv/data", named(false))).await;
    assert_eq!(output, "own\n", "a volume in use is not filled again");
    let mut empty = mount(MountKind::Volume, "bare", "/srv/data");
    empty.no_copy = true;
    let (_, output) = lab.output(of("ls /srv/data", vec![empty])).await;
    assert_eq!(output, "");
    let pruned = lab.engine().prune_volumes(&BTreeMap::new()).await.unwrap();
    assert_eq!(pruned.volumes, [point.name]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_are_made_refused_and_read_only() {
    let lab = Lab::new().await;
    let host = lab.dir.path().join("host");
    let source = host.to_string_lossy().into_owned();
    let refused = lab
        .create(with(idle(), vec![mount(MountKind::Bind, &source, "/b")]))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().contains(&source), "{refused}");
    let mut made = mount(MountKind::Bind, &source, "/b");
    made.create_source = true;
    let (_, output) = lab
        .output(with(sh("echo in >/b/x; ls /b"), vec![made]))
        .await;
    assert_eq!(output, "x\n");
    assert_eq!(std::fs::read_to_string(host.join("x")).unwrap(), "in\n");
    let mut ro = mount(MountKind::Bind, &source, "/b");
    ro.read_only = true;
    let file = mount(MountKind::Bind, &format!("{source}/x"), "/one/file");
    let (code, output) = lab
        .output(with(sh("cat /one/file; touch /b/y"), vec![ro, file]))
        .await;
    assert_ne!(code, 0);
    assert!(
        output.starts_with("in\n") && output.contains("Read-only"),
        "{output}"
    );
    let twice = vec![
        mount(MountKind::Bind, &source, "/b"),
        mount(MountKind::Volume, "v", "/b/"),
    ];
    assert!(lab.create(with(idle(), twice)).await.is_err());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tmpfs_shm_and_a_read_only_root() {
    let lab = Lab::new().await;
    let mut spec = sh(
        "touch /x; touch /run/y && df -k /run /dev/shm | awk '{print $2}'; mount | grep ' /run '",
    );
    spec.host.read_only = true;
    spec.host.shm_size = Some(1 << 20);
    spec.host
        .tmpfs
        .insert("/run".to_owned(), "size=2m,mode=700".to_owned());
    let (_, output) = lab.output(spec).await;
    assert!(
        output.contains("Read-only") && output.contains("2048\n1024\n"),
        "{output}"
    );
    assert!(output.contains("noexec"), "{output}");
    lab.end().await;
}

// FAILURES.md "ps hangs": a volume's file system that stops answering costs its container alone
#[tokio::test(flavor = "multi_thread")]
async fn a_bind_that_hangs_does_not_hang_the_engine() {
    let lab = Lab::new().await;
    let at = lab.dir.path().join("hung");
    std::fs::create_dir(&at).unwrap();
    let hung = testkit::fuse::HungFs::mount(&at).expect("root and /dev/fuse");
    hung.hang();
    let source = at.join("inside").to_string_lossy().into_owned();
    let asked = std::time::Instant::now();
    let create = lab.create(with(idle(), vec![mount(MountKind::Bind, &source, "/b")]));
    let other = async {
        let id = lab.run(idle()).await;
        lab.engine().stop(&id, None, Some(1)).await.unwrap();
        let begin = std::time::Instant::now();
        assert!(!lab.engine().snapshot().containers.is_empty());
        assert!(begin.elapsed() < std::time::Duration::from_millis(100));
    };
    let (created, ()) = tokio::join!(create, other);
    let error = created.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains(&source), "{error}");
    assert!(asked.elapsed() < std::time::Duration::from_secs(20));
    drop(hung);
    lab.end().await;
}
