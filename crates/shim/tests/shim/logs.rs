//! The log of a container, read while it is written.

use shim::jsonlog::{LogReader, ReadOptions, Watcher};

use crate::harness::{World, within};

#[tokio::test]
async fn followed_across_rotations() {
    let world = World::new();
    let c = world
        .container("for i in 1 2 3 4 5 6 7 8 9 10; do seq $((i*2000-1999)) $((i*2000)); usleep 50000; done")
        .launch(|l| l.log.as_mut().unwrap().max_size = 200_000);
    let path = c.launch.log.as_ref().unwrap().path.clone();
    let watcher = Watcher::new().unwrap();
    let (end, ended) = tokio::sync::watch::channel(false);
    let options = ReadOptions::default();
    let mut reader = LogReader::follow(&path, &options, &watcher, ended)
        .await
        .unwrap();
    let mut r = c.start().await;
    let read = async {
        let mut got = String::new();
        while let Some(batch) = reader.next().await.unwrap() {
            for entry in batch {
                got.push_str(std::str::from_utf8(&entry.bytes).unwrap());
            }
        }
        got
    };
    let wait = async {
        assert_eq!(r.exit().await.code, 0);
        end.send(true).unwrap();
    };
    let (got, ()) = within("the log", async { tokio::join!(read, wait) }).await;
    // five files of 200 kB hold less than all of it: what was followed is all of it
    let lines: Vec<u32> = got.lines().map(|l| l.parse().unwrap()).collect();
    assert!(
        lines.windows(2).all(|w| w[0] < w[1]),
        "repeated or out of order"
    );
    assert_eq!(lines.last(), Some(&20_000));
    assert!(path.with_extension("log.4").exists());
    assert!(!path.with_extension("log.5").exists());
}

// FAILURES: "stdout blocks the application": the log's disk is full
#[tokio::test]
async fn a_full_disk_does_not_stop_the_container() {
    let world =
        World::with_environment(&[("PLIMSOLL_FAULT", "shim:shim.log.write:enospc".to_owned())]);
    let c = world.container("seq 1 5000; exit 8");
    let mut r = c.start().await;
    let record = r.exit().await;
    assert_eq!(record.code, 8);
    assert_eq!(record.log_lines_dropped, 5000);
}
