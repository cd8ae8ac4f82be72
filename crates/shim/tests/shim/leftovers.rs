//! 100 launches leave nothing.

use std::fs;
use std::time::Instant;

use crate::harness::{World, until};

/// Of our directory, or of a container's root: other tests mount things too.
fn mounts(world: &World) -> Vec<String> {
    let dir = world.dir.path().to_string_lossy().into_owned();
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |l: &&str| l.contains(&dir) || l.contains("busybox");
    all.lines().filter(ours).map(str::to_owned).collect()
}

fn children() -> String {
    let pid = std::process::id();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .flatten()
        .filter_map(|t| fs::read_to_string(t.path().join("children")).ok())
        .collect()
}

// P2: nothing to clean up
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_launches() {
    let world = World::new();
    let mut shims = Vec::new();
    let began = Instant::now();
    let mut containers = Vec::new();
    for _ in 0..100 {
        containers.push(world.container("exit 0"));
    }
    for some in containers.chunks(10) {
        let all = some.iter().map(|c| async move {
            let mut r = c.start().await;
            assert_eq!(r.exit().await.code, 0);
            r.launched.shim_pid
        });
        for shim in all {
            shims.push(shim.await);
        }
    }
    println!("100 launches to their ends: {:?}", began.elapsed());
    until("the shims to be reaped", || {
        shims
            .iter()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    })
    .await;
    let spawner = world.spawner.pid().unwrap().to_string();
    let fds = fs::read_dir(format!("/proc/{spawner}/fd")).unwrap().count();
    // 0, 1, 2 and its socket
    assert_eq!(fds, 4);
    assert!(children().split_whitespace().any(|pid| pid == spawner));
    assert_eq!(mounts(&world), Vec::<String>::new());
    assert_eq!(
        fs::read_dir(world.dir.path().join("shims"))
            .unwrap()
            .count(),
        0
    );
}
