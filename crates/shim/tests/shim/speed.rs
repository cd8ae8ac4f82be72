//! What spawner and shim add to a start. Not a bound: the machine is shared. Run it with
//! `--ignored --nocapture`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runtime::{Descriptors, EncodedPlan};
use rustix::fs::{Mode, OFlags};

use crate::harness::World;

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn launch_beside_the_bare_runtime() {
    let world = World::new();
    let (mut ours, mut exits, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..200 {
        let c = world.container("");
        let began = Instant::now();
        let mut r = c.start().await;
        ours.push(began.elapsed());
        r.exit().await;
        exits.push(began.elapsed());

        let c = world.container("");
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        let began = Instant::now();
        let plan = c.plan();
        let encoded = EncodedPlan::decode(plan.encode()).unwrap();
        let fds = Descriptors {
            root: None,
            stdio: [null.as_fd(); 3],
            target: None,
            passed: &[],
        };
        let spawned = runtime::spawn(&encoded, &fds).unwrap();
        bare.push(began.elapsed());
        let wait = rustix::process::WaitIdOptions::EXITED;
        let id = rustix::process::WaitId::PidFd(spawned.pidfd.as_fd());
        rustix::process::waitid(id, wait).unwrap();
        encoded
            .cgroup()
            .unwrap()
            .remove(Duration::from_secs(5))
            .unwrap();
    }
    let (ours, bare) = (median(ours), median(bare));
    println!(
        "launch {ours:?}, the bare runtime {bare:?}, difference {:?}",
        ours.saturating_sub(bare)
    );
    println!("launch to everything gone {:?}", median(exits));
}
