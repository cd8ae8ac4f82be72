//! What a running container costs.

use std::fs;

use crate::harness::{World, until};

fn rollup(pid: i32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

// SPECIFICATION: at most 256 KiB of memory per running container, shim included
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_containers() {
    let world = World::new();
    let containers: Vec<_> = (0..50)
        .map(|_| world.container("echo up; exec sleep 1000"))
        .collect();
    let mut running = Vec::new();
    for c in &containers {
        running.push(c.start().await);
    }
    until("all to be up", || {
        containers.iter().all(|c| !c.log().is_empty())
    })
    .await;
    let mut sum = [0; 3];
    for r in &running {
        for (total, field) in sum.iter_mut().zip(["Pss:", "Private_Dirty:", "Rss:"]) {
            *total += rollup(r.launched.shim_pid, field);
        }
    }
    let per: Vec<u64> = sum.iter().map(|s| s / 50).collect();
    println!(
        "per shim: Pss {} KiB, private dirty {} KiB, Rss {} KiB",
        per[0], per[1], per[2]
    );
    assert!(per[0] <= 256, "a shim costs {} KiB", per[0]);
    for r in &mut running {
        r.kill().await;
        r.exit().await;
    }
}
