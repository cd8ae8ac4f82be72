//! Attach: pipes and terminals, several clients, slow and vanishing ones.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::harness::{World, all_streams, read_frames, read_until, within, write};

#[tokio::test]
async fn attached_before_the_first_byte() {
    let world = World::new();
    let c = world.container("echo out; echo err >&2");
    let (mut r, stream) = c.start_with_client().await;
    assert_eq!(r.exit().await.code, 0);
    assert_eq!(read_frames(stream).await, ["out\n", "err\n", ""]);
}

#[tokio::test]
async fn input_ends_with_the_clients_half_close() {
    let world = World::new();
    let c = world.container("cat; echo done").interactive();
    let (mut r, mut stream) = c.start_with_client().await;
    // more than any pipe or buffer holds
    let big = vec![b'x'; 3 << 20];
    let (mut reader, mut writer) = stream.split();
    let mut got = Vec::new();
    let wrote = async {
        writer.write_all(&big).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut got);
    let both = async { tokio::join!(wrote, read) };
    within("the echo", both).await.1.unwrap();
    assert_eq!(got.iter().filter(|b| **b == b'x').count(), big.len());
    assert!(got.ends_with(b"done\n"));
    assert_eq!(r.exit().await.code, 0);
}

#[tokio::test]
async fn a_client_that_writes_and_leaves_is_heard() {
    let world = World::new();
    let c = world.container("wc -c").interactive();
    let (mut r, mut stream) = c.start_with_client().await;
    write(&mut stream, &[b'y'; 150_000]).await;
    stream.shutdown().await.unwrap();
    assert_eq!(r.exit().await.code, 0);
    assert_eq!(c.log(), [("stdout".into(), "150000\n".into())]);
}

/// Row "live-restore bugs" of FAILURES: a connection that is gone altogether is that of an engine
/// that died; the next engine's client goes on with the input.
#[tokio::test]
async fn a_client_lost_leaves_the_input_open() {
    let world = World::new();
    let c = world.container("read a; read b; echo $a$b").interactive();
    let (mut r, mut stream) = c.start_with_client().await;
    write(&mut stream, b"one\n").await;
    drop(stream);
    let stream = r.shim.attach(&all_streams()).await.unwrap();
    let mut stream = tokio::net::UnixStream::from_std(stream.stream).unwrap();
    write(&mut stream, b"two\n").await;
    assert_eq!(r.exit().await.code, 0);
    assert_eq!(c.log(), [("stdout".into(), "onetwo\n".into())]);
}

#[tokio::test]
async fn without_stdin_once_the_input_stays_open() {
    let world = World::new();
    let c = world
        .container("read a; read b; echo $a$b")
        .launch(|l| l.open_stdin = true);
    let mut r = c.start().await;
    for word in ["one\n", "two\n"] {
        let stream = r.shim.attach(&all_streams()).await.unwrap();
        let mut stream = tokio::net::UnixStream::from_std(stream.stream).unwrap();
        write(&mut stream, word.as_bytes()).await;
    }
    assert_eq!(r.exit().await.code, 0);
    assert_eq!(c.log(), [("stdout".into(), "onetwo\n".into())]);
}

#[tokio::test]
async fn a_terminal_and_its_size() {
    let world = World::new();
    let c = world
        .container("tty; stty size; read x; stty size; echo got $x")
        .tty()
        .launch(|l| {
            l.open_stdin = true;
            l.console_size = Some((30, 100));
        });
    let (mut r, mut stream) = c.start_with_client().await;
    let first = read_until(&mut stream, "30 100").await;
    assert!(first.contains("/dev/"), "{first}");
    r.shim.resize(None, 40, 120).await.unwrap();
    write(&mut stream, b"word\n").await;
    let rest = read_until(&mut stream, "got word").await;
    assert!(rest.contains("40 120"), "{rest}");
    assert_eq!(r.exit().await.code, 0);
    // raw on the stream, lines in the log
    assert!(
        c.log()
            .iter()
            .any(|(s, l)| s == "stdout" && l == "got word\r\n")
    );
}

// FAILURES: "stdout blocks the application": the sink stops reading
#[tokio::test]
async fn a_reader_that_stopped_is_dropped_and_the_container_goes_on() {
    let world = World::new();
    let c = world
        .container("yes | head -c 30000000; echo end")
        .launch(|l| l.log = None);
    let (mut r, stuck) = c.start_with_client().await;
    let began = Instant::now();
    assert_eq!(r.exit_record().await.code, 0);
    assert!(began.elapsed() < Duration::from_secs(10));
    // it was told why, in a frame of its own, after whole frames
    let [out, _, why] = read_frames(stuck).await;
    assert!(out.len() < 30_000_000);
    assert!(why.contains("detached"), "{why}");
    within("the shim to be gone", r.shim.gone()).await;
    c.assert_nothing_left();
}

/// `run IMAGE dump | gzip`: slower than its producer, and nothing may be lost.
#[tokio::test]
async fn a_slow_reader_loses_nothing() {
    let world = World::new();
    let c = world.container("seq 1 200000");
    let (mut r, mut stream) = c.start_with_client().await;
    let mut got = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut chunk);
        let n = within("the slow stream", read).await.unwrap();
        if n == 0 {
            break;
        }
        got.extend_from_slice(&chunk[..n]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (mut ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let copy = async {
        ours.write_all(&got).await.unwrap();
        drop(ours);
    };
    let ([out, _, why], ()) = tokio::join!(read_frames(theirs), copy);
    assert_eq!(why, "");
    let wanted: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(out == wanted, "{} of {} bytes", out.len(), wanted.len());
    assert_eq!(r.exit().await.code, 0);
}

#[tokio::test]
async fn several_clients_see_the_same() {
    let world = World::new();
    let c = world.container("read go; seq 1 5000").interactive();
    let (mut r, mut first) = c.start_with_client().await;
    let options = shim::AttachOptions {
        stdout: true,
        ..shim::AttachOptions::default()
    };
    let second = r.shim.attach(&options).await.unwrap();
    let second = tokio::net::UnixStream::from_std(second.stream).unwrap();
    write(&mut first, b"go\n").await;
    let (a, b) = tokio::join!(read_frames(first), read_frames(second));
    assert_eq!(a, b);
    assert!(a[0].ends_with("\n5000\n"));
    assert_eq!(r.exit().await.code, 0);
}

/// A grandchild that holds the output open does not hold up the exit.
#[tokio::test]
async fn a_held_output_does_not_hang_the_exit() {
    let world = World::new();
    let c = world.container("setsid sleep 1000 & echo bye");
    let began = Instant::now();
    let (mut r, stream) = c.start_with_client().await;
    assert_eq!(r.exit().await.code, 0);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(read_frames(stream).await[0], "bye\n");
}

/// Nothing of ours is open in the container, and no signal is blocked or ignored.
#[tokio::test]
async fn nothing_leaks_into_the_container() {
    let world = World::new();
    let wanted = [
        // 0, 1, 2 and the directory ls reads
        (vec!["ls", "/proc/self/fd"], "0\n1\n2\n3\n"),
        (
            vec!["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
            "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n",
        ),
    ];
    for (args, wanted) in wanted {
        let mut c = world.container("");
        c.spec["process"]["args"] = serde_json::json!(args);
        let mut r = c.start().await;
        assert_eq!(r.exit().await.code, 0);
        let log: String = c.log().into_iter().map(|(_, l)| l).collect();
        assert_eq!(log, wanted);
        let c = world.container("exec sleep 1000");
        let mut r = c.start().await;
        assert_eq!(
            read_frames(r.exec("e", &args, |_| {}).await).await[0],
            wanted
        );
        r.kill().await;
        r.exit().await;
    }
}
