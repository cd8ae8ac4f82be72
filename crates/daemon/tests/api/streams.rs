//! Connections that last: taken over, followed, waited on; and clients that are slow or gone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::instance::Instance;
use testkit::{Snapshot, until};

const PATIENCE: Duration = Duration::from_secs(20);

fn send(engine: &Instance, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).expect("the engine listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    stream
        .write_all(request.as_bytes())
        .expect("the engine reads");
    stream
}

/// The head of an answer, byte by byte: what follows stays in the stream.
fn head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer begins");
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// docker before 1.10, and every client that sends no `Upgrade`: `200`, then raw bytes both ways.
#[test]
fn a_plain_hijack_carries_both_directions() {
    let engine = Instance::with_busybox();
    let before = Snapshot::take(&engine);
    let fields = json!({"OpenStdin": true, "StdinOnce": true, "AttachStdin": true});
    let id = engine.create_with("plain", &["tr", "a-z", "A-Z"], fields);
    for upgrade in ["", "Upgrade: tcp\r\nConnection: Upgrade\r\n"] {
        let path = format!("/v1.24/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let mut stream = send(
            &engine,
            &format!("POST {path} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n"),
        );
        let head = head(&mut stream).to_ascii_lowercase();
        let first = if upgrade.is_empty() {
            "http/1.1 200 ok"
        } else {
            "http/1.1 101 upgraded"
        };
        assert!(head.starts_with(first), "{head}");
        assert!(
            head.contains("content-type: application/vnd.docker.raw-stream"),
            "{head}"
        );
        assert!(
            !head.contains("transfer-encoding") && !head.contains("content-length"),
            "{head}"
        );
        engine.start_container(&id);
        stream.write_all(b"loud\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut out = Vec::new();
        stream.read_to_end(&mut out).unwrap();
        assert_eq!(out, b"\x01\0\0\0\0\0\0\x05LOUD\n");
        assert_eq!(engine.wait(&id), 0);
    }
    engine.remove_all();
    before.assert_settled(&engine);
}

#[test]
fn exec_over_a_plain_hijack() {
    let engine = Instance::with_busybox();
    let id = engine.run("target", &["sleep", "1000"]);
    let api = engine.api();
    let made = api.post(
        &format!("/containers/{id}/exec"),
        &json!({"Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true}),
    );
    let exec = made.unwrap().ok().json()["Id"].as_str().unwrap().to_owned();
    let body = r#"{"Detach":false,"Tty":false}"#;
    let length = body.len();
    let mut stream = send(
        &engine,
        &format!(
            "POST /v1.24/exec/{exec}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}early "
        ),
    );
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 OK"));
    stream.write_all(b"late").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut out = Vec::new();
    stream.read_to_end(&mut out).unwrap();
    assert_eq!(testkit::http::stream_text(&out, 1), "early late");
    let ended = until("it has ended", PATIENCE, || {
        let view = api.get(&format!("/exec/{exec}/json")).unwrap().ok().json();
        (view["Running"] == false).then_some(view)
    });
    assert_eq!(ended["ExitCode"], 0);
    assert_eq!(ended["ContainerID"], id);
}

/// docker-py reads the head through a buffer and the stream beside it: what comes along with the
/// head is lost to it. And it asks for the exit code as soon as the output ends.
#[test]
fn the_head_comes_alone_and_the_end_with_an_exit_code() {
    let engine = Instance::with_busybox();
    let id = engine.run("quick", &["sleep", "1000"]);
    let api = engine.api();
    for _ in 0..20 {
        let wanted = json!({"Cmd": ["sh", "-c", "echo x; exit 4"], "AttachStdout": true});
        let made = api
            .post(&format!("/containers/{id}/exec"), &wanted)
            .unwrap();
        let exec = made.ok().json()["Id"].as_str().unwrap().to_owned();
        let mut stream = send(
            &engine,
            &format!(
                "POST /exec/{exec}/start HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
        );
        // a client that is slow to wake up
        std::thread::sleep(Duration::from_millis(15));
        let mut first = [0; 4096];
        let n = stream.read(&mut first).unwrap();
        assert!(
            first[..n].ends_with(b"\r\n\r\n"),
            "{}",
            String::from_utf8_lossy(&first[..n])
        );
        let mut out = Vec::new();
        stream.read_to_end(&mut out).unwrap();
        assert_eq!(testkit::http::stream_text(&out, 1), "x\n");
        assert_eq!(
            api.get(&format!("/exec/{exec}/json")).unwrap().ok().json()["ExitCode"],
            4
        );
    }
}

#[test]
fn a_wait_says_at_once_that_it_waits() {
    let engine = Instance::with_busybox();
    let id = engine.create("waited", &["true"]);
    let mut removed = send(
        &engine,
        &format!("POST /v1.51/containers/{id}/wait?condition=removed HTTP/1.1\r\nHost: x\r\n\r\n"),
    );
    let mut next = send(
        &engine,
        &format!(
            "POST /v1.51/containers/{id}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n"
        ),
    );
    for stream in [&mut removed, &mut next] {
        let head = head(stream);
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.contains("application/json"),
            "{head}"
        );
    }
    engine.start_container(&id);
    let line = |stream: &UnixStream| -> Value {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let json = lines
            .into_iter()
            .find(|l| l.starts_with('{'))
            .expect("a document");
        serde_json::from_str(&json).expect("it is JSON")
    };
    assert_eq!(line(&next), json!({"StatusCode": 0}));
    engine.remove(&id);
    assert_eq!(line(&removed), json!({"StatusCode": 0}));
    let bad = engine
        .api()
        .post(
            &format!("/containers/{id}/wait?condition=never"),
            &Value::Null,
        )
        .unwrap();
    assert_eq!(bad.status, 400, "{}", bad.text());
}

/// FAILURES "stdout blocks the application": a client that does not read slows nobody: not the
/// container, not another client.
#[test]
fn a_client_that_does_not_read_costs_nobody_else() {
    let engine = Instance::with_busybox();
    let script = "i=0; while [ $i -lt 200 ]; do head -c 65536 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; touch /done; sleep 1000";
    let id = engine.create("talker", &["sh", "-c", script]);
    let mut stuck: Vec<UnixStream> = Vec::new();
    for _ in 0..3 {
        let request = format!(
            "POST /containers/{id}/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
        );
        let mut stream = send(&engine, &request);
        head(&mut stream);
        stuck.push(stream);
    }
    engine.start_container(&id);
    for _ in 0..3 {
        let request =
            format!("GET /containers/{id}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        stuck.push(send(&engine, &request));
        stuck.push(send(
            &engine,
            "GET /events?since=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        ));
    }
    let api = engine.api();
    until("13 MB are written although nobody reads", PATIENCE, || {
        let there = api
            .request(
                "HEAD",
                &format!("/containers/{id}/archive?path=/done"),
                "",
                &[],
            )
            .ok()?;
        (there.status == 200).then_some(())
    });
    let began = Instant::now();
    api.get("/containers/json").unwrap().ok();
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "P4: {:?}",
        began.elapsed()
    );
    let process = engine.daemon().unwrap();
    let pss = process.pss_kib().unwrap();
    assert!(pss < 64 * 1024, "what is not read is not kept: {pss} KiB");
    drop(stuck);
}

#[test]
fn stats_in_their_three_ways() {
    let engine = Instance::with_busybox();
    let id = engine.run("busy", &["sh", "-c", "while :; do :; done"]);
    let api = engine.api();
    let get = |query: &str| {
        api.get(&format!("/containers/{id}/stats?{query}"))
            .unwrap()
            .ok()
            .json()
    };
    let one = get("stream=false&one-shot=true");
    assert_eq!(one["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    assert_eq!(one["name"], "/busy");
    let two = get("stream=false");
    let total = |v: &Value, which: &str| v[which]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(
        total(&two, "cpu_stats") > total(&two, "precpu_stats"),
        "{two}"
    );
    assert!(
        two["memory_stats"]["usage"].as_u64().unwrap() > 0
            && two["pids_stats"]["current"].as_u64().unwrap() >= 1
    );
    let request = format!("GET /containers/{id}/stats HTTP/1.1\r\nHost: x\r\n\r\n");
    let lines = BufReader::new(send(&engine, &request))
        .lines()
        .map_while(Result::ok);
    let two: Vec<Value> = lines
        .filter(|l| l.starts_with('{'))
        .take(2)
        .map(|l| serde_json::from_str(&l).unwrap())
        .collect();
    assert!(two[1]["preread"] == two[0]["read"], "{two:?}");
    engine.remove_all();
    let gone = api
        .get(&format!("/containers/{id}/stats?stream=false"))
        .unwrap();
    assert_eq!(gone.status, 404);
}

/// A terminal: raw bytes, resized, left by its detach keys.
#[test]
fn a_terminal_is_left_by_its_keys() {
    let engine = Instance::with_busybox();
    let fields = json!({"Tty": true, "OpenStdin": true});
    let id = engine.create_with("tty", &["cat"], fields);
    let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x");
    let mut stream = engine.api().upgrade(&path, &Value::Null).unwrap();
    engine.start_container(&id);
    engine
        .api()
        .post(&format!("/containers/{id}/resize?h=40&w=100"), &Value::Null)
        .unwrap()
        .ok();
    stream.write_all(b"typed\n").unwrap();
    let mut seen = vec![0; 14];
    stream.read_exact(&mut seen).unwrap();
    assert_eq!(
        seen, b"typed\r\ntyped\r\n",
        "the terminal's echo, then cat's"
    );
    stream.write_all(b"\x01x").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(
        engine.inspect(&id)["State"]["Running"],
        true,
        "the program goes on"
    );
    let size = engine.api().post(
        &format!("/containers/{id}/exec"),
        &json!({"Cmd": ["sh", "-c", "stty size </proc/1/fd/0"], "AttachStdout": true}),
    );
    let exec = size.unwrap().ok().json()["Id"].as_str().unwrap().to_owned();
    let mut out = Vec::new();
    engine
        .api()
        .upgrade(&format!("/exec/{exec}/start"), &json!({}))
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    assert_eq!(testkit::http::stream_text(&out, 1), "40 100\n");
}

/// What is stored is verified over the API, and by our own words for it.
#[test]
fn the_store_is_checked() {
    let engine = Instance::with_busybox();
    let api = engine.api();
    let report = api
        .post("/plimsoll/fsck", &Value::Null)
        .unwrap()
        .ok()
        .json();
    assert_eq!(report["Clean"], true, "{report}");
    assert!(
        report["BlobsChecked"].as_u64().unwrap() >= 1
            && report["LayersChecked"].as_u64().unwrap() >= 1,
        "{report}"
    );
    let doctor = api.get("/plimsoll/doctor").unwrap().ok().json();
    assert_eq!(doctor["DataRoot"], engine.data_root().display().to_string());
    assert!(!doctor["Findings"].as_array().unwrap().is_empty());
}

/// A message of a client's: one frame, masked. source: RFC 6455, section 5.2
fn ws_send(stream: &mut UnixStream, opcode: u8, data: &[u8]) {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![
        0x80 | opcode,
        0x80 | u8::try_from(data.len()).expect("a short message"),
    ];
    frame.extend(mask);
    frame.extend(data.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    stream.write_all(&frame).expect("the engine reads");
}

/// Messages until the close, by their kind.
fn ws_read(stream: &mut UnixStream) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    loop {
        let mut head = [0; 2];
        if stream.read_exact(&mut head).is_err() {
            return out;
        }
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                stream.read_exact(&mut long).expect("a length");
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut data = vec![0; length];
        stream.read_exact(&mut data).expect("a whole message");
        out.push((head[0] & 0xf, data));
    }
}

fn ws_open(engine: &Instance, path: &str) -> (UnixStream, String) {
    let mut stream = send(
        engine,
        &format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ),
    );
    let head = head(&mut stream);
    (stream, head)
}

/// One stream without frames, both ways; binary since API 1.28, text before.
#[test]
fn attach_by_websocket() {
    let engine = Instance::with_busybox();
    let fields = || json!({"OpenStdin": true, "StdinOnce": true});
    for (version, kind) in [("v1.51", 2), ("v1.27", 1)] {
        let script = "cat; echo err >&2";
        let id = engine.create_with(&format!("c{kind}"), &["sh", "-c", script], fields());
        let query = "stream=1&stdin=1&stdout=1&stderr=1";
        let (mut stream, head) = ws_open(
            &engine,
            &format!("/{version}/containers/{id}/attach/ws?{query}"),
        );
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // the RFC's own example
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        engine.start_container(&id);
        ws_send(&mut stream, 2, b"typed ");
        ws_send(&mut stream, 1, b"twice\n");
        // its close is the end of the input: what the program says then still comes
        ws_send(&mut stream, 8, &[]);
        engine.wait(&id);
        let (path, expected) = (
            format!("/containers/{id}/logs?stdout=1&stderr=1"),
            "typed twice\n",
        );
        let body = engine.api().get(&path).unwrap().ok().body;
        assert_eq!(testkit::http::stream_text(&body, 1), expected);
        let (mut again, _) = ws_open(
            &engine,
            &format!("/{version}/containers/{id}/attach/ws?logs=1&stdout=1&stderr=1"),
        );
        let seen = ws_read(&mut again);
        assert!(seen.iter().all(|(k, _)| [kind, 8].contains(k)), "{seen:?}");
        let text: Vec<u8> = seen
            .iter()
            .filter(|(k, _)| *k == kind)
            .flat_map(|(_, d)| d.clone())
            .collect();
        let mut lines: Vec<&str> = std::str::from_utf8(&text).unwrap().lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err", "typed twice"]);
    }
    let id = engine.create("plain", &["true"]);
    let answer = engine
        .api()
        .get(&format!("/containers/{id}/attach/ws"))
        .unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(
        ws_open(&engine, "/containers/absent/attach/ws")
            .1
            .split(' ')
            .nth(1),
        Some("404")
    );
}
