//! Many clients, slow ones, large bodies, many containers: what one client does costs it alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::image::Image;
use testkit::instance::create_body;
use testkit::{Instance, Snapshot};

const SOON: Duration = Duration::from_secs(30);
/// What clients that misbehave may cost, all together: in memory of the engine's process.
const GROWTH_KIB: u64 = 24 * 1024;

fn quiet() -> Instance {
    let mut instance = Instance::prepared().log_level("warn");
    instance.start();
    instance.load(&Image::busybox().unwrap());
    instance
}

/// Proportional set size of the engine's process.
fn memory_kib(instance: &Instance) -> u64 {
    instance.daemon().unwrap().pss_kib().unwrap()
}

#[track_caller]
fn grew_little(instance: &Instance, before: u64) {
    let now = memory_kib(instance);
    let grew = now.saturating_sub(before);
    assert!(grew < GROWTH_KIB, "{before} KiB became {now} KiB");
}

/// A request of which nobody reads the answer.
fn deaf(instance: &Instance, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(instance.socket()).unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// As [`deaf`], once the engine has begun to answer: what happens from then on is told.
fn deaf_once_answered(instance: &Instance, request: &str) -> UnixStream {
    let mut stream = deaf(instance, request);
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(status.escape_ascii().to_string(), "HTTP/1.1 200");
    stream
}

/// By this many clients at a time, each with its number.
fn at_once(clients: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for n in 0..clients {
            let work = &work;
            scope.spawn(move || work(n));
        }
    });
}

#[test]
fn two_hundred_clients_get_their_own_answers() {
    let instance = quiet();
    let clean = Snapshot::take(&instance);
    let command = |n: usize| n.to_string();
    let ids: Vec<String> = (0..10)
        .map(|n| instance.create(&format!("c{n}"), &["echo", &command(n)]))
        .collect();
    // as many again that hold a connection and say nothing, or half of something
    let idle: Vec<UnixStream> = (0..400)
        .map(|n| {
            let mut stream = UnixStream::connect(instance.socket()).unwrap();
            let said: &[u8] = if n % 2 == 0 {
                b""
            } else {
                b"GET /containers/json HTTP/1.1\r\nX: "
            };
            stream.write_all(said).unwrap();
            stream
        })
        .collect();
    let api = instance.api();
    at_once(200, |client| {
        for round in 0..5 {
            let n = (client + round) % ids.len();
            let one = instance
                .answered(api.get(&format!("/containers/c{n}/json")))
                .ok()
                .json();
            assert_eq!(one["Id"], ids[n]);
            assert_eq!(one["Args"], json!([command(n)]));
            // as it is typed, with nothing encoded
            let filter = format!("/containers/json?all=1&filters={{\"name\":[\"^/c{n}$\"]}}");
            let list = instance.answered(api.get(&filter)).ok().json();
            assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
            assert_eq!(list[0]["Id"], ids[n]);
            let name = format!("nobody-{client}-{round}");
            let none = instance.answered(api.get(&format!("/containers/{name}/json")));
            assert_eq!(none.status, 404);
            assert!(none.text().contains(&name), "{none:?}");
        }
        // and a change each
        let name = format!("v{client}");
        let made = instance
            .answered(api.post("/volumes/create", &json!({"Name": name})))
            .ok();
        assert_eq!(made.json()["Name"], name);
        instance
            .answered(api.delete(&format!("/volumes/{name}")))
            .ok();
    });
    drop(idle);
    instance.remove_all();
    clean.assert_settled(&instance);
}

/// Numbers of the events of `kill`, in their order.
fn signals(lines: &str) -> Vec<u64> {
    let events = lines
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let kills = events.filter(|e| e["Action"] == "kill");
    kills.filter_map(|e| e["timeNano"].as_u64()).collect()
}

/// Lines of a chunked answer, as far as it came.
fn lines(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let _cut = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let json = text.lines().filter(|l| l.starts_with('{'));
    json.map(|l| format!("{l}\n")).collect()
}

/// Who reads gets every event. Who does not is cut off, and does not take a part for the whole.
#[test]
fn readers_of_events_that_do_not_read() {
    const EVENTS: usize = 3_600;
    let instance = quiet();
    let clean = Snapshot::take(&instance);
    let id = instance.run("one", &["sleep", "1000"]);
    let path = "GET /events?filters=%7B%22event%22%3A%5B%22kill%22%5D%7D";
    let slow: Vec<UnixStream> = (0..30)
        .map(|_| deaf_once_answered(&instance, path))
        .collect();
    let good = deaf_once_answered(&instance, path);
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(good).lines().map_while(Result::ok);
        let events = lines.filter(|l| l.starts_with('{')).take(EVENTS);
        signals(&events.collect::<Vec<_>>().join("\n"))
    });
    let before = memory_kib(&instance);
    let api = instance.api();
    let kill = format!("/containers/{id}/kill?signal=CONT");
    at_once(4, |_| {
        for _ in 0..EVENTS / 4 {
            instance.answered(api.post(&kill, &Value::Null)).ok();
        }
    });
    let told = reader.join().unwrap();
    assert_eq!(told.len(), EVENTS, "every event, to who reads");
    grew_little(&instance, before);
    for mut late in slow {
        let got = signals(&lines(&mut late));
        assert!(got.len() < EVENTS, "it was cut off");
        assert_eq!(got, told[..got.len()], "without a gap");
    }
    instance.remove(&id);
    clean.assert_settled(&instance);
}

/// A log as it comes, to its end.
fn followed(instance: &Instance, id: &str) -> String {
    let path = format!("/containers/{id}/logs?stdout=1&stderr=1&follow=1");
    let answer = instance.answered(instance.api().get(&path)).ok();
    testkit::http::stream_text(&answer.body, 1)
}

/// FAILURES row "stdout blocks the application": many that don't read a log, or what they are attached to.
#[test]
fn readers_of_output_that_do_not_read() {
    const LINES: usize = 30_000;
    let instance = quiet();
    let clean = Snapshot::take(&instance);
    let script = format!(
        "i=0; while test $i -lt {LINES}; do echo line $i of many; i=$((i+1)); done; exit 9"
    );
    let id = instance.create("talker", &["sh", "-c", &script]);
    let attach = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
    let attached: Vec<UnixStream> = (0..15)
        .map(|_| instance.api().upgrade(&attach, &Value::Null).unwrap())
        .collect();
    let logs = format!("GET /containers/{id}/logs?stdout=1&stderr=1&follow=1");
    let before = memory_kib(&instance);
    instance.start_container(&id);
    let following: Vec<UnixStream> = (0..15).map(|_| deaf(&instance, &logs)).collect();
    let good = followed(&instance, &id);
    assert_eq!(instance.wait(&id), 9);
    assert_eq!(good.lines().count(), LINES, "every line, to who reads");
    grew_little(&instance, before);
    // who is slow gets all of a log: it is on disk
    let mut late = following.into_iter();
    let mut one = late.next().unwrap();
    one.set_read_timeout(Some(SOON)).unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0; 65536]);
    let last = format!("line {} of many", LINES - 1);
    while !text.windows(last.len()).any(|w| w == last.as_bytes()) {
        let n = one.read(&mut buffer).unwrap();
        assert!(n > 0, "the whole log");
        let kept = text.len().saturating_sub(last.len());
        text.drain(..kept);
        text.extend_from_slice(&buffer[..n]);
    }
    drop((attached, late, one));
    instance.remove(&id);
    clean.assert_settled(&instance);
}

/// What is larger than any request that makes sense is refused with 413, and is not kept in memory.
#[test]
fn bodies_are_bounded() {
    let instance = quiet();
    let id = instance.create("one", &["true"]);
    let before = memory_kib(&instance);
    let api = instance.api();
    let large = vec![b' '; 5 * 1024 * 1024];
    at_once(8, |_| {
        for path in [
            "/containers/create".to_owned(),
            format!("/containers/{id}/update"),
            format!("/containers/{id}/exec"),
            "/volumes/create".to_owned(),
            "/networks/create".to_owned(),
            "/commit".to_owned(),
            "/auth".to_owned(),
        ] {
            let answer = api.request("POST", &path, "application/json", &large);
            let answer = instance.answered(answer);
            assert_eq!(answer.status, 413, "{path}: {answer:?}");
            let message = answer.json()["message"].as_str().map(str::to_owned);
            assert!(message.is_some_and(|m| m.contains("4194304")), "{answer:?}");
        }
    });
    // a head without end
    let mut stream = UnixStream::connect(instance.socket()).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let _head = stream.write_all(b"GET / HTTP/1.1\r\n");
    let line = format!("X-Y: {}\r\n", "x".repeat(1000));
    while stream.write_all(line.as_bytes()).is_ok() {}
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    grew_little(&instance, before);
    instance.remove_all();
}

/// A client that asks for much and takes nothing of it holds no more than a buffer.
#[test]
fn readers_of_answers_that_do_not_read() {
    let instance = quiet();
    let labels: serde_json::Map<String, Value> = (0..200)
        .map(|n| (format!("label-{n}"), json!("x".repeat(300))))
        .collect();
    let id = instance.create_with("one", &["true"], json!({"Labels": labels}));
    let before = memory_kib(&instance);
    let inspect = format!("GET /containers/{id}/json");
    let request = format!("{inspect} HTTP/1.1\r\nHost: x\r\n\r\n");
    // pipelined, far more than a buffer holds
    let slow: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut stream = deaf(&instance, &inspect);
            stream.set_nonblocking(true).unwrap();
            while stream.write(request.as_bytes()).is_ok() {}
            stream
        })
        .collect();
    assert_eq!(instance.inspect("one")["Id"], id);
    grew_little(&instance, before);
    drop(slow);
    instance.remove_all();
}

#[test]
fn a_thousand_containers_are_known_after_kill_9() {
    const CONTAINERS: usize = 1_000;
    let mut instance = quiet();
    let clean = Snapshot::take(&instance);
    let api = instance.api();
    let running = instance.run("running", &["sleep", "1000"]);
    at_once(8, |client| {
        for n in (client..CONTAINERS).step_by(8) {
            let body = create_body(
                &["echo", &n.to_string()],
                json!({"Labels": {"n": n.to_string()}}),
            );
            let path = format!("/containers/create?name=many-{n}");
            instance.answered(api.post(&path, &body)).ok();
        }
    });
    let list = |instance: &Instance| {
        let all = instance
            .answered(instance.api().get("/containers/json?all=1"))
            .ok()
            .json();
        let mut all = all.as_array().unwrap().clone();
        for one in &mut all {
            // "Up 3 seconds"
            one["Status"] = Value::Null;
        }
        all
    };
    let before = list(&instance);
    assert_eq!(before.len(), CONTAINERS + 1);
    instance.kill9();
    instance.start();
    let after = list(&instance);
    assert_eq!(after.len(), before.len());
    for (a, b) in after.iter().zip(&before) {
        assert_eq!(a, b);
    }
    let page = instance
        .answered(instance.api().get("/containers/json?all=1&limit=7"))
        .ok()
        .json();
    let first = page.as_array().unwrap().iter().map(|c| &c["Id"]);
    assert!(first.eq(after[..7].iter().map(|c| &c["Id"])), "{page}");
    assert_eq!(instance.inspect(&running)["State"]["Running"], true);
    let prune = instance
        .answered(instance.api().post("/containers/prune", &Value::Null))
        .ok();
    assert_eq!(
        prune.json()["ContainersDeleted"].as_array().map(Vec::len),
        Some(CONTAINERS)
    );
    instance.remove_all();
    clean
        .without(&["descriptors of the daemon"])
        .assert_settled(&instance);
}

/// On version 1 a limit that comes later makes a cgroup in one more hierarchy, which its shim does not know.
#[test]
fn cgroups_that_an_update_joined_go_with_the_container() {
    let mut instance = quiet();
    let clean = Snapshot::take(&instance);
    for killed in [false, true] {
        let id = instance.run("one", &["sleep", "1000"]);
        let wish = json!({"CpuShares": 512, "CpusetCpus": "0"});
        let path = format!("/containers/{id}/update");
        instance.answered(instance.api().post(&path, &wish)).ok();
        if killed {
            instance.kill9();
            instance.start();
        }
        let stop = format!("/containers/{id}/kill");
        instance
            .answered(instance.api().post(&stop, &Value::Null))
            .ok();
        assert_eq!(instance.wait(&id), 137);
        // again, with what is there from the start
        instance.start_container(&id);
        instance.remove(&id);
        clean
            .clone()
            .without(&["descriptors of the daemon"])
            .assert_settled(&instance);
    }
}
