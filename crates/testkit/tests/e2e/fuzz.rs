//! Every route of the API with requests that a client would not send, over a socket, against an engine with
//! containers, images, volumes and networks.
//!
//! What must hold, whatever is asked:
//!
//! - the engine lives, and nothing in it panicked;
//! - every request that is one is answered, every error's body is `{"message"}`, and no error of the engine's
//!   own is without its cause;
//! - what was not named is as it was, also for the next engine after kill -9;
//! - when all that the requests made is removed, nothing is left.
//!
//! `PLIMSOLL_FUZZ_SECONDS` makes it longer, `PLIMSOLL_FUZZ_SEED` another one.

mod bodies;
mod random;
mod requests;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::image::{BUSYBOX, Image};
use testkit::{Instance, Snapshot};

use random::Random;
use requests::Target;
use wire::{Answer, End, Sent};

const CLIENTS: usize = 3;
/// More containers than this are removed again while it runs.
const CONTAINERS: usize = 24;

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |v| {
        v.parse()
            .unwrap_or_else(|_| panic!("{name}={v} is no number"))
    })
}

/// What nobody names, and what it looks like.
struct Kept {
    paths: Vec<String>,
    ids: Vec<String>,
}

impl Kept {
    fn make(instance: &Instance) -> Self {
        let image = Image::busybox()
            .unwrap()
            .named("keep:1")
            .config("Labels", json!({"keep": "1"}));
        instance.load(&image);
        let post = |path: &str, body: Value| {
            instance
                .answered(instance.api().post(path, &body))
                .ok()
                .json()
        };
        post("/volumes/create", json!({"Name": "keep-volume"}));
        let network = post("/networks/create", json!({"Name": "keep-network"}));
        let sleep = ["sleep", "100000"];
        let host = json!({"NetworkMode": "keep-network", "Binds": ["keep-volume:/v"]});
        let fields = json!({"Image": "keep:1", "HostConfig": host});
        let one = instance.create_with("keep-running", &sleep, fields.clone());
        let two = instance.create_with("keep-paused", &sleep, fields);
        instance.start_container(&one);
        instance.start_container(&two);
        post(&format!("/containers/{two}/pause"), Value::Null);
        let id = |v: &Value| v["Id"].as_str().unwrap().to_owned();
        let image = id(&instance
            .answered(instance.api().get("/images/keep:1/json"))
            .ok()
            .json());
        Self {
            paths: vec![
                format!("/containers/{one}/json"),
                format!("/containers/{two}/json"),
                "/images/keep:1/json".to_owned(),
                "/volumes/keep-volume".to_owned(),
                "/networks/keep-network".to_owned(),
            ],
            ids: vec![one, two, image, id(&network)],
        }
    }

    fn look(&self, instance: &Instance) -> BTreeMap<String, Value> {
        let look = |path: &String| {
            let answer = instance.answered(instance.api().get(path)).ok();
            (path.clone(), answer.json())
        };
        self.paths.iter().map(look).collect()
    }
}

/// Things to name. What the requests removed is made again.
fn stock(instance: &Instance, kept: &Kept) {
    let api = instance.api();
    let mut all = instance.containers();
    all.retain(|id| !kept.ids.contains(id));
    let surplus = all.len().saturating_sub(CONTAINERS);
    for id in all.iter().rev().take(surplus) {
        let _gone = api.delete(&format!("/containers/{id}?force=1&v=1"));
    }
    // either may be another request's by now
    let make = |path: &str, body: Value| drop(api.post(path, &body));
    if api
        .get(&format!("/images/{BUSYBOX}/json"))
        .is_ok_and(|r| r.status == 404)
    {
        let image = Image::busybox().unwrap().archive();
        drop(api.upload("POST", "/images/load?quiet=1", &image));
    }
    make(
        &format!("/images/{BUSYBOX}/tag?repo=fuzz&tag=1"),
        Value::Null,
    );
    for name in ["v0", "v1"] {
        make("/volumes/create", json!({"Name": name}));
    }
    make("/networks/create", json!({"Name": "n0"}));
    for name in ["t0", "t1", "t2", "t3"] {
        let body = testkit::instance::create_body(
            &[
                "sh",
                "-c",
                "trap 'exit 0' TERM; echo here; sleep 1000 & wait",
            ],
            json!({"Labels": {"fuzz": "1"}}),
        );
        make(&format!("/containers/create?name={name}"), body);
        if name != "t3" {
            make(&format!("/containers/{name}/start"), Value::Null);
        }
    }
}

/// Why this answer is not one that the engine may give.
fn fault(answer: &Answer) -> Option<String> {
    let head = answer.head.to_ascii_lowercase();
    if !(100..600).contains(&answer.status) {
        return Some("no status of HTTP".to_owned());
    }
    // refused by the library that reads requests: they were none
    let none = head.contains("content-length: 0\r\n") && !head.contains("api-version:");
    if answer.status < 400
        || answer.is_head
        || answer.body.is_empty() && [400, 414, 431].contains(&answer.status) && none
    {
        return None;
    }
    if answer.body.is_empty() {
        return Some("an error without a body".to_owned());
    }
    let body: Value = match serde_json::from_slice(&answer.body) {
        Ok(body) => body,
        Err(error) => return Some(format!("an error that is not JSON: {error}")),
    };
    if !head.contains("content-type: application/json") {
        return Some("an error that is not said to be JSON".to_owned());
    }
    let message = match (
        body.as_object().map(serde_json::Map::len),
        body["message"].as_str(),
    ) {
        (Some(1), Some(message)) => message.trim(),
        _ => return Some("an error that is not {\"message\"}".to_owned()),
    };
    let vague = [
        "internal error",
        "internal server error",
        "unknown error",
        "error",
        "failed",
    ];
    let is_vague = vague.contains(&message.to_ascii_lowercase().as_str());
    // a cause follows what failed
    let has_cause = answer.status != 500 || message.contains(": ");
    if message.len() < 8 || is_vague || !has_cause || message.contains("ended early") {
        return Some("an error that does not say why".to_owned());
    }
    None
}

/// The beginning of a message, without names and numbers.
fn gist(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or_default();
    let letters = |c: char| if c.is_alphabetic() { c } else { ' ' };
    let words: String = message.chars().take(200).map(letters).collect();
    let words: Vec<&str> = words.split_whitespace().take(9).collect();
    format!("{} {}", answer.status, words.join(" "))
}

struct Run<'a> {
    instance: &'a Instance,
    kept: &'a Kept,
    target: Target,
    until: Instant,
    faults: Mutex<Vec<String>>,
    /// How often each status came.
    statuses: Mutex<BTreeMap<u16, usize>>,
    /// What was answered with an error, without what differs from request to request.
    refusals: Mutex<BTreeMap<String, usize>>,
}

impl Run<'_> {
    fn client(&self, seed: u64) {
        let mut random = Random::new(seed);
        for n in 0.. {
            if Instant::now() > self.until || self.faults.lock().unwrap().len() >= 5 {
                return;
            }
            if n % 100 == 0 {
                stock(self.instance, self.kept);
            }
            let sent = self.target.next(&mut random);
            let started = self.one(&sent, || format!("seed {seed}, request {n}"));
            for id in started {
                self.target.learn(&id);
                if random.one_in(2) {
                    let path = format!(
                        "POST /containers/{id}/start HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                    );
                    let sent = Sent {
                        bytes: path.into_bytes(),
                        heads: Vec::new(),
                        ends: false,
                        patience: Duration::from_secs(60),
                    };
                    self.one(&sent, || format!("seed {seed}, start after request {n}"));
                }
            }
        }
    }

    /// Ids that were answered.
    fn one(&self, sent: &Sent, which: impl Fn() -> String) -> Vec<String> {
        let socket = self.instance.socket();
        let (bytes, end) = match wire::exchange(&socket, sent) {
            Ok(came) => came,
            Err(error) => {
                self.tell(&which(), sent, &format!("no connection: {error}"));
                return Vec::new();
            }
        };
        let (answers, rest) = wire::answers(&bytes, &sent.heads);
        if end == End::HungUp
            && sent.patience >= Duration::from_secs(10)
            && bytes.len() < 1024 * 1024
        {
            self.tell(&which(), sent, "no answer, or one that has no end");
        }
        if end == End::Closed && !rest.is_empty() {
            self.tell(&which(), sent, &format!("not HTTP: {rest:?}"));
        }
        let mut ids = Vec::new();
        for answer in &answers {
            *self
                .statuses
                .lock()
                .unwrap()
                .entry(answer.status)
                .or_default() += 1;
            if let Some(fault) = fault(answer) {
                self.tell(&which(), sent, &format!("{fault}:\n{}", answer.shown()));
            }
            if answer.status >= 400 {
                *self
                    .refusals
                    .lock()
                    .unwrap()
                    .entry(gist(answer))
                    .or_default() += 1;
            }
            if answer.status == 201 {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                ids.extend(body["Id"].as_str().map(str::to_owned));
            }
        }
        ids
    }

    fn tell(&self, which: &str, sent: &Sent, what: &str) {
        let shown = sent.bytes[..sent.bytes.len().min(1_500)].escape_ascii();
        let shown = shown.to_string().replace("\\r\\n", "\n");
        let text = format!("--- {which}: {what}\n--- sent:\n{shown}\n");
        self.faults.lock().unwrap().push(text);
    }
}

/// Removes all that isn't kept.
fn clear(instance: &Instance, kept: &Kept) {
    let api = instance.api();
    let list = |path: &str| instance.answered(api.get(path)).ok().json();
    for id in instance.containers() {
        if !kept.ids.contains(&id) {
            instance.remove(&id);
        }
    }
    for network in list("/networks").as_array().unwrap() {
        let name = network["Name"].as_str().unwrap();
        let id = network["Id"].as_str().unwrap();
        if !["none", "host", "bridge", "keep-network"].contains(&name) {
            instance
                .answered(api.delete(&format!("/networks/{id}")))
                .ok();
        }
    }
    for volume in list("/volumes")["Volumes"].as_array().unwrap() {
        let name = volume["Name"].as_str().unwrap();
        if name != "keep-volume" {
            instance
                .answered(api.delete(&format!("/volumes/{name}?force=1")))
                .ok();
        }
    }
    for image in list("/images/json?all=1").as_array().unwrap() {
        let id = image["Id"].as_str().unwrap();
        if !kept.ids.iter().any(|k| k == id) {
            instance
                .answered(api.delete(&format!("/images/{id}?force=1")))
                .ok();
        }
    }
}

#[test]
fn no_request_does_harm() {
    let seconds = setting("PLIMSOLL_FUZZ_SECONDS", 20);
    let seed = setting("PLIMSOLL_FUZZ_SEED", 1);
    let mut instance = Instance::prepared_networked().log_level("info");
    instance.set_resolv_conf("nameserver 127.0.0.1\n");
    std::fs::create_dir(instance.path().join("given")).unwrap();
    instance.start();
    let kept = Kept::make(&instance);
    let before = kept.look(&instance);
    let clean = Snapshot::take(&instance);
    let pid = instance.daemon().unwrap().pid;
    let run = Run {
        instance: &instance,
        kept: &kept,
        target: Target::new(instance.path().display().to_string(), kept.ids.clone()),
        until: Instant::now() + Duration::from_secs(seconds),
        faults: Mutex::default(),
        statuses: Mutex::default(),
        refusals: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for n in 0..CLIENTS as u64 {
            let run = &run;
            scope.spawn(move || run.client(seed.wrapping_mul(1_000).wrapping_add(n)));
        }
    });
    let (faults, statuses) = (
        run.faults.into_inner().unwrap(),
        run.statuses.into_inner().unwrap(),
    );
    let refusals = run.refusals.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // it went deep: most of what is answered in a day was
    for status in [200, 201, 204, 304, 400, 404, 409] {
        assert!(
            statuses.contains_key(&status),
            "no {status} among {statuses:?}"
        );
    }
    let log = instance.log();
    assert!(!log.contains("panicked"), "a panic");
    assert_eq!(
        instance.daemon().map(|d| d.pid),
        Some(pid),
        "the engine lives"
    );
    assert_eq!(kept.look(&instance), before, "what was not named");
    instance.kill9();
    instance.start();
    assert_eq!(
        kept.look(&instance),
        before,
        "what was not named, for the next engine"
    );
    clear(&instance, &kept);
    clean.assert_settled(&instance);
    println!("{statuses:?}");
    let mut refusals: Vec<_> = refusals.into_iter().collect();
    refusals.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    for (gist, times) in refusals.iter().take(60) {
        println!("{times:6} {gist}");
    }
}
