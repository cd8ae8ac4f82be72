//! The protocol: versions, headers, statuses, connections that are kept, cut and taken over.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::instance::Instance;
use testkit::until;

const PATIENCE: Duration = Duration::from_secs(20);

fn connect(engine: &Instance) -> UnixStream {
    let stream = UnixStream::connect(engine.socket()).expect("the engine listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout above zero");
    stream
}

/// Sends bytes as they are, and reads to the end.
fn raw(engine: &Instance, request: &str) -> String {
    let mut stream = connect(engine);
    stream
        .write_all(request.as_bytes())
        .expect("the engine reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the engine answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn versions_are_negotiated() {
    let engine = Instance::new();
    let api = engine.api();
    for (path, status, needle) in [
        ("/_ping", 200, "OK"),
        ("/v1.24/_ping", 200, "OK"),
        ("/v1.51/version", 200, "\"ApiVersion\":\"1.51\""),
        (
            "/v1.23/_ping",
            400,
            "client version 1.23 is too old. Minimum supported API version is 1.24",
        ),
        (
            "/v1.52/_ping",
            400,
            "client version 1.52 is too new. Maximum supported API version is 1.51",
        ),
        ("/v1.x/_ping", 404, "page not found"),
    ] {
        let answer = api.get(path).unwrap();
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains(needle), "{path}: {}", answer.text());
    }
    let head = raw(
        &engine,
        "HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    let head = head.to_ascii_lowercase();
    for header in [
        "api-version: 1.51",
        "docker-experimental: false",
        "ostype: linux",
        "server: plimsoll/",
        "content-length: 2",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
}

#[test]
fn what_is_not_there_says_so() {
    let engine = Instance::new();
    let api = engine.api();
    let get = |path: &str| ("GET", path.to_owned(), Value::Null);
    let post = |path: &str| ("POST", path.to_owned(), json!({}));
    let all = [
        (get("/nothing"), 404),
        (post("/_ping"), 404),
        (get("/containers/nope/json"), 404),
        (post("/containers/nope/start"), 404),
        (post("/containers/nope/exec"), 400),
        (get("/images/nope/json"), 404),
        (get("/volumes/nope"), 404),
        (get("/networks/nope"), 404),
        (get("/exec/nope/json"), 404),
        (get("/swarm"), 503),
        (get("/services"), 503),
        (post("/swarm/init"), 501),
        (post("/build?version=2"), 501),
        (post("/build/cancel"), 501),
        (get("/images/search?term=x"), 501),
        (post("/networks/create"), 400),
        (post("/networks/nope/connect"), 404),
        (post("/networks/none/connect"), 403),
        (get("/plugins/x/json"), 404),
        (post("/images/create?fromImage=127.0.0.1:1/busybox"), 500),
        (post("/images/create?fromImage=Busybox"), 400),
        (post("/containers/create"), 400),
        (post("/volumes/create?x=%zz"), 201),
        (
            get("/containers/json?filters=%7B%22purple%22%3A%5B%221%22%5D%7D"),
            400,
        ),
        (get("/containers/json?filters=%7B"), 400),
        (get("/containers/json?limit=many"), 400),
        (get("/events?since=yesterday"), 400),
    ];
    let mut seen = Vec::new();
    for ((method, path, body), status) in all {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let answer = api
            .request(method, &path, "application/json", &body)
            .unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        if status >= 400 {
            let message = answer.json()["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            assert!(!message.is_empty(), "{method} {path}: {}", answer.text());
            seen.push(format!("{status} {method} {path}: {message}"));
        }
    }
    insta::assert_snapshot!(seen.join("\n"));
}

#[test]
fn bodies_are_bounded_and_must_be_json() {
    let engine = Instance::new();
    let api = engine.api();
    let large = vec![b' '; 5 << 20];
    let answer = api.request("POST", "/containers/create", "application/json", &large);
    // refused before it was read: the answer, or a closed connection where it was still being sent
    if let Ok(answer) = answer {
        assert_eq!(answer.status, 413, "{}", answer.text());
    }
    for (body, status) in [
        ("{", 400),
        ("[]", 400),
        ("\"x\"", 400),
        ("null", 400),
        ("{\"Image\": 7}", 400),
    ] {
        let answer = api
            .request(
                "POST",
                "/containers/create",
                "application/json",
                body.as_bytes(),
            )
            .unwrap();
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    assert_eq!(api.get("/_ping").unwrap().status, 200);
}

#[test]
fn nonsense_costs_its_own_connection_alone() {
    let engine = Instance::new();
    let mut good = connect(&engine);
    for nonsense in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "\0\u{1}\u{2}\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = connect(&engine);
        stream.write_all(nonsense.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{nonsense:?}: {answer}"
        );
    }
    // half a request, then gone
    connect(&engine)
        .write_all(b"POST /containers/create HTTP/1.1\r\nContent-Le")
        .unwrap();
    for _ in 0..3 {
        good.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut buffer = [0; 4096];
        let n = good.read(&mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..n]).contains("200 OK"));
    }
}

/// Old clients send no `Upgrade` and get a plain answer where there is nothing to take over.
#[test]
fn a_plain_hijack_that_is_refused_is_an_ordinary_answer() {
    let engine = Instance::new();
    let mut stream = connect(&engine);
    for _ in 0..2 {
        let request = "POST /v1.24/containers/nope/attach?stream=1 HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        assert!(
            text.starts_with("HTTP/1.1 404") && text.contains("No such container"),
            "{text}"
        );
        // the connection is not looked at any more: start anew
        stream = connect(&engine);
    }
}

/// A client that goes away leaves nothing behind: no descriptor, no listener.
#[test]
fn clients_that_go_away_take_their_requests_with_them() {
    let engine = Instance::new();
    let api = engine.api();
    let process = engine.daemon().unwrap();
    assert_eq!(api.get("/_ping").unwrap().status, 200);
    let sockets = || {
        process
            .descriptors()
            .values()
            .filter(|d| d.starts_with("socket:"))
            .count()
    };
    let before = sockets();
    let streams: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&engine);
            stream
                .write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).unwrap();
            stream
        })
        .collect();
    let listeners = || {
        api.get("/info").unwrap().json()["NEventsListener"]
            .as_i64()
            .unwrap()
    };
    assert_eq!(listeners(), 20);
    drop(streams);
    until("the listeners are gone", PATIENCE, || {
        (listeners() == 0).then_some(())
    });
    until("the sockets are closed", PATIENCE, || {
        (sockets() <= before).then_some(())
    });
}

#[test]
fn networks_that_are_there_without_any_of_ours() {
    let engine = Instance::new();
    let api = engine.api();
    let all = api.get("/networks").unwrap().ok().json();
    let names: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|n| n["Name"].as_str())
        .collect();
    assert_eq!(names, ["host", "none"]);
    let id = all[0]["Id"].as_str().unwrap();
    assert_eq!(
        api.get(&format!("/networks/{}", &id[..12]))
            .unwrap()
            .ok()
            .json()["Name"],
        "host"
    );
    assert_eq!(api.delete("/networks/none").unwrap().status, 403);
    let filtered = api
        .get("/networks?filters=%7B%22name%22%3A%5B%22non%22%5D%7D")
        .unwrap()
        .ok()
        .json();
    assert_eq!(filtered.as_array().unwrap().len(), 1);
}

/// A client that is still sending sees its answer, and no broken pipe; the connection goes on.
#[test]
fn what_is_refused_is_read_first() {
    let engine = Instance::new();
    let mut stream = connect(&engine);
    let body = vec![0; 4 << 20];
    for path in [
        "/build?version=2",
        "/containers/nobody/archive?path=/",
        "/nowhere",
    ] {
        let method = if path.contains("archive") {
            "PUT"
        } else {
            "POST"
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
            .write_all(&body)
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer[..n]).into_owned();
        assert!(
            text.starts_with("HTTP/1.1 404") || text.starts_with("HTTP/1.1 501"),
            "{path}: {text}"
        );
    }
}

/// As dockerd: its clients look for the error in the stream.
#[test]
fn an_archive_that_is_none_is_told_in_the_stream() {
    let engine = Instance::new();
    let api = engine.api();
    let loaded = api.upload("POST", "/images/load?quiet=1", b"abc").unwrap();
    assert_eq!(loaded.status, 200, "{loaded:?}");
    assert!(loaded.tells_of_failure(), "{loaded:?}");
    let told = loaded.json();
    assert_eq!(told["error"], told["errorDetail"]["message"], "{loaded:?}");
    let imported = api.upload("POST", "/images/create?fromSrc=-&repo=x", b"abc");
    assert_eq!(imported.unwrap().status, 400);
}
