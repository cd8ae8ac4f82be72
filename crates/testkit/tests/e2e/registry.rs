//! Images from registries and to them: Debian's own, and one that misbehaves.
//! FAILURES "Pull success without the layer", "Killed pull leaves half layers", "Resumable pull".

use std::time::Duration;

use serde_json::Value;
use testkit::crash::{Action, Scenario, every_step};
use testkit::image::{BUSYBOX, Image, Node};
use testkit::registry::{Asked, Debian, Reply, Scripted, Wants};
use testkit::{Instance, Response, until};

use crate::crash::{goes_on, template};
use crate::{attempt, post, said};

fn docker(instance: &Instance, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    said(&instance.docker(&words))
}

/// Two layers, the upper one long enough to break off in the middle.
fn image() -> Image {
    let long: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    Image::busybox()
        .unwrap()
        .layer(vec![("payload".to_owned(), Node::File(long, 0o644))])
}

fn pull(instance: &Instance, image: &str) -> Response {
    let (name, tag) = image.rsplit_once(':').unwrap();
    let path = format!("/images/create?fromImage={name}&tag={tag}");
    instance.answered(instance.api().post(&path, &Value::Null))
}

/// What a pull says in the end: its status, or its error.
fn end_of(response: &Response) -> String {
    if !response.is_ok() {
        return response.json()["message"].to_string();
    }
    let text = response.text();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let error = last["error"].as_str().map(str::to_owned);
    error.unwrap_or_else(|| last["status"].as_str().unwrap_or_default().to_owned())
}

fn images(instance: &Instance) -> usize {
    let list = instance.answered(instance.api().get("/images/json"));
    list.ok().json().as_array().unwrap().len()
}

/// Its payload is whole, as a container sees it.
fn is_whole(instance: &Instance, image: &str) {
    let script = "test $(stat -c %s /payload) = 2000000 && od -An -j 1999996 -N 4 -t u4 /payload | grep -q 499999";
    let fields = serde_json::json!({"Image": image});
    let id = instance.create_with("reader", &["sh", "-c", script], fields);
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 0, "{}", crate::logs(instance, &id));
    instance.remove(&id);
}

fn fsck_is_clean(instance: &Instance) {
    let report = instance.answered(instance.api().post("/plimsoll/fsck", &Value::Null));
    let report = report.ok().json();
    assert_eq!(report["Findings"], serde_json::json!([]), "{report}");
}

/// The docker command, through a registry with TLS of a private authority and a password.
#[test]
fn push_and_pull_by_the_docker_command() {
    let wants = Wants {
        password: true,
        tls: true,
    };
    let registry = Debian::start(wants);
    let at = &registry.address;
    let (one, two) = (Instance::with_busybox(), Instance::new());
    let refused = docker(&one, &format!("push {at}/my/box:1"));
    assert!(
        refused.contains("does not exist") || refused.contains("No such image"),
        "{refused}"
    );
    docker(&one, &format!("tag {BUSYBOX} {at}/my/box:1"));
    let refused = docker(&one, &format!("push {at}/my/box:1"));
    assert!(refused.contains("access denied"), "{refused}");
    let wrong = docker(&one, &format!("login -u user -p wrong {at}"));
    assert!(
        wrong.contains("unauthorized") || wrong.contains("401"),
        "{wrong}"
    );
    for instance in [&one, &two] {
        let text = docker(instance, &format!("login -u user -p secret {at}"));
        assert!(text.contains("Login Succeeded"), "{text}");
    }
    let pushed = docker(&one, &format!("push {at}/my/box:1"));
    let digest = pushed.split("digest: ").nth(1).expect(&pushed);
    let digest = digest.split(' ').next().unwrap();
    let again = docker(&one, &format!("push {at}/my/box:1"));
    assert!(again.contains("Layer already exists"), "{again}");
    let pulled = docker(&two, &format!("pull {at}/my/box:1"));
    assert!(pulled.contains("Downloaded newer image"), "{pulled}");
    assert!(pulled.contains(digest), "{pulled}");
    let again = docker(&two, &format!("pull {at}/my/box:1"));
    assert!(again.contains("Image is up to date"), "{again}");
    let ran = docker(&two, &format!("run --rm {at}/my/box:1 echo ran"));
    assert_eq!(ran, "ran");
    // by digest, and what is not there
    docker(&two, &format!("rmi {at}/my/box:1"));
    assert_eq!(images(&two), 0);
    docker(&two, &format!("pull {at}/my/box@{digest}"));
    assert_eq!(images(&two), 1);
    let none = docker(&two, &format!("pull {at}/my/box:2"));
    assert!(none.contains("manifest unknown"), "{none}");
    // run fetches what is lacking
    docker(&two, &format!("rmi {at}/my/box@{digest}"));
    let ran = docker(&two, &format!("run --rm {at}/my/box:1 echo fetched"));
    assert!(ran.starts_with("fetched"), "{ran}");
    fsck_is_clean(&two);
    // the same in a second repository is mounted, or there already
    docker(&one, &format!("tag {BUSYBOX} {at}/other/box:1"));
    let mounted = docker(&one, &format!("push {at}/other/box:1"));
    assert!(
        mounted.contains("Mounted") || mounted.contains("already"),
        "{mounted}"
    );
}

type Behaviour = Box<dyn Fn(&Asked, usize) -> Reply + Send + Sync>;

/// Of the registry's upper layer, another content.
fn instead(content: Vec<u8>) -> Behaviour {
    let top = top_layer().0;
    Box::new(move |a, _| match a.path.ends_with(&top) {
        true => Reply::Instead(content.clone()),
        false => Reply::Right,
    })
}

fn of_manifests(reply: Reply) -> Behaviour {
    Box::new(move |a, _| match a.path.contains("/manifests/") {
        true => reply.clone(),
        false => Reply::Right,
    })
}

/// Digest and content.
fn top_layer() -> (String, Vec<u8>) {
    let top = image().parts().0.remove(1);
    (testkit::image::digest(&top), top)
}

/// What it does, how, and a word of what is said of it.
fn ways_to_misbehave() -> Vec<(&'static str, Behaviour, &'static str)> {
    let (digest, top) = top_layer();
    let middle = top.len() / 2;
    let mut flipped = top.clone();
    flipped[middle] ^= 1;
    let mut longer = top.clone();
    longer.extend([0; 512]);
    let kind = |t: &str| vec![("Content-Type".to_owned(), t.to_owned())];
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let around = vec![("Location".to_owned(), "/v2/any/manifests/1".to_owned())];
    let long = Reply::Other(200, kind(oci), vec![b' '; 5 << 20]);
    let none = Reply::Other(200, kind(oci), b"[]".to_vec());
    let old = Reply::Other(200, kind(signed), b"{}".to_vec());
    let circle = Reply::Other(302, around, Vec::new());
    let lacks: Behaviour = Box::new(move |a, _| match a.path.ends_with(&digest) {
        true => Reply::Other(404, Vec::new(), Vec::new()),
        false => Reply::Right,
    });
    vec![
        ("another content", instead(flipped), "digest"),
        ("more than it says", instead(longer), "digest"),
        (
            "less than it says",
            instead(top[..middle].to_vec()),
            "it ends at",
        ),
        (
            "a manifest without an end",
            of_manifests(long),
            "longer than",
        ),
        ("a manifest that is none", of_manifests(none), "manifest"),
        ("schema 1", of_manifests(old), "schema 1"),
        ("a circle", of_manifests(circle), "redirects"),
        ("no layer", lacks, "404"),
    ]
}

/// Each way to misbehave: a clear error, nothing is left, and the next pull of a good registry works.
#[test]
fn a_registry_that_misbehaves() {
    let instance = Instance::new();
    for (what, behaviour, word) in ways_to_misbehave() {
        let bad = Scripted::serve(&image(), behaviour);
        let end = end_of(&pull(&instance, &bad.image()));
        assert!(end.contains(word), "{what}: {end}");
        assert_eq!(images(&instance), 0, "{what}");
    }
    fsck_is_clean(&instance);
    let good = Scripted::serve(&image(), |_, _| Reply::Right);
    let end = end_of(&pull(&instance, &good.image()));
    assert!(end.contains("Downloaded newer image"), "{end}");
    is_whole(&instance, &good.image());
    fsck_is_clean(&instance);
}

/// Cut at any byte, told to wait, refused for a while: it is asked again from where it broke off, and
/// no byte comes twice.
#[test]
fn a_pull_goes_on_where_it_broke_off() {
    let moody = Scripted::serve(&image(), |asked, before| {
        if asked.path.contains("/manifests/") && before == 0 {
            let wait = vec![("Retry-After".to_owned(), "0".to_owned())];
            return Reply::Other(429, wait, Vec::new());
        }
        if !asked.path.contains("/blobs/") {
            return Reply::Right;
        }
        match before {
            0 => Reply::Other(503, Vec::new(), Vec::new()),
            1..=4 => Reply::Cut(150_001 * before),
            _ => Reply::Right,
        }
    });
    let instance = Instance::new();
    let end = end_of(&pull(&instance, &moody.image()));
    assert!(end.contains("Downloaded newer image"), "{end}");
    is_whole(&instance, &moody.image());
    let asked = moody.asked();
    let ranges: Vec<usize> = asked
        .iter()
        .filter(|a| a.path.ends_with(&moody.layers[1]))
        .filter_map(Asked::range)
        .collect();
    assert!(ranges.len() >= 3 && ranges.is_sorted(), "{ranges:?}");
    fsck_is_clean(&instance);
}

/// What had come before the engine was killed does not come again.
#[test]
fn a_pull_goes_on_after_kill_9() {
    let registry = Scripted::serve(&image(), |asked, before| {
        let is_long = asked.path.contains("/blobs/") && before == 0;
        match is_long {
            true => Reply::Cut(1_000_000),
            false if asked.path.contains("/blobs/") && before < 4 => {
                // the engine is killed while it waits
                std::thread::sleep(Duration::from_secs(2));
                Reply::Other(503, Vec::new(), Vec::new())
            }
            false => Reply::Right,
        }
    });
    let mut instance = Instance::new();
    let top = registry.layers[1].clone();
    std::thread::scope(|scope| {
        let (api, name) = (instance.api(), registry.address.to_string());
        scope.spawn(move || {
            let path = format!("/images/create?fromImage={name}/any&tag=1");
            drop(api.post(&path, &Value::Null));
        });
        until("the pull to break off", Duration::from_secs(20), || {
            let asked = registry.asked();
            asked
                .iter()
                .any(|a| a.path.ends_with(&top) && a.range().is_some())
                .then_some(())
        });
        instance.kill9();
    });
    instance.start();
    let before = registry.asked().len();
    let end = end_of(&pull(&instance, &registry.image()));
    assert!(end.contains("Downloaded newer image"), "{end}");
    let asked = registry.asked();
    let first = asked[before..]
        .iter()
        .find(|a| a.path.ends_with(&top))
        .unwrap();
    assert_eq!(first.range(), Some(1_000_000), "{first:?}");
    is_whole(&instance, &registry.image());
    fsck_is_clean(&instance);
}

/// A mirror is asked first; what it does not have comes from the registry itself.
#[test]
fn mirrors_of_any_registry() {
    let origin = Scripted::serve(&image(), |_, _| Reply::Right);
    let mirror = Scripted::serve(&image(), {
        let lacks = origin.layers[1].clone();
        move |asked, _| match asked.path.ends_with(&lacks) {
            true => Reply::Other(404, Vec::new(), Vec::new()),
            false => Reply::Right,
        }
    });
    let flag = format!(
        "--registry-mirror={}=http://{}",
        origin.address, mirror.address
    );
    let mut instance = Instance::prepared().arguments(&[&flag]);
    instance.start();
    let end = end_of(&pull(&instance, &origin.image()));
    assert!(end.contains("Downloaded newer image"), "{end}");
    is_whole(&instance, &origin.image());
    let blobs = |s: &Scripted| {
        let asked = s.asked();
        let blobs = asked.iter().filter(|a| a.path.contains("/blobs/"));
        blobs.map(|a| a.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(blobs(&mirror).len(), 3, "{:?}", blobs(&mirror));
    assert!(
        blobs(&origin)
            .iter()
            .all(|p| p.ends_with(&origin.layers[1]))
    );
    assert!(
        !origin
            .asked()
            .iter()
            .any(|a| a.path.contains("/manifests/"))
    );
}

/// FAILURES "Killed pull leaves half layers", "Disk full".
#[test]
fn a_pull_with_a_fault_at_every_step() {
    // few entries: each one made is a step, and each step is an engine of its own
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let small = Image::of(vec![("busybox".to_owned(), Node::File(busybox, 0o755))]).layer(vec![(
        "payload".to_owned(),
        Node::File(vec![7; 100_000], 0o644),
    )]);
    let registry = Scripted::serve(&small, |_, _| Reply::Right);
    let name = registry.image();
    let path = format!("/images/create?fromImage={}/any&tag=1", registry.address);
    every_step(
        &Scenario {
            name: "pull",
            prepare: &|_| {},
            operation: &|i| {
                let answer = post(i, &path);
                let worked = answer.filter(|a| !a.text().contains("errorDetail"));
                worked.map(|_| "pulled".to_owned()).into_iter().collect()
            },
            check: &|i, acknowledged| {
                goes_on(i);
                let there = attempt(i.api().get(&format!("/images/{name}/json"))).is_some();
                assert!(
                    there || !acknowledged.contains("pulled"),
                    "it was acknowledged"
                );
                let end = end_of(&pull(i, &name));
                assert!(end.starts_with("Status: "), "{end}");
                let fields = serde_json::json!({"Image": name});
                let test = "test $(/busybox stat -c %s /payload) = 100000";
                let id = i.create_with("reader", &["/busybox", "sh", "-c", test], fields);
                i.start_container(&id);
                assert_eq!(i.wait(&id), 0);
                i.remove_all();
                fsck_is_clean(i);
                i.answered(i.api().delete(&format!("/images/{name}"))).ok();
            },
        },
        &template(),
        &["daemon"],
        &[Action::Kill, Action::Enospc, Action::Eio],
    );
}

/// Our own command line: login, push, pull, and a run that fetches what it lacks.
#[test]
fn push_and_pull_by_our_own_command_line() {
    let registry = Debian::start(Wants {
        password: true,
        tls: false,
    });
    let at = &registry.address;
    let (one, two) = (Instance::with_busybox(), Instance::new());
    let plimsoll = |instance: &Instance, words: &str, input: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = instance.plimsoll_command();
        command
            .args(&words)
            .env("DOCKER_CONFIG", one.path().join("docker-config"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        said(&child.wait_with_output().unwrap())
    };
    plimsoll(&one, &format!("tag {BUSYBOX} {at}/a/b"), "");
    let refused = plimsoll(&one, &format!("push {at}/a/b"), "");
    assert!(refused.contains("push access denied"), "{refused}");
    let wrong = plimsoll(&one, &format!("login -u user --password-stdin {at}"), "x");
    assert!(wrong.contains("login attempt to"), "{wrong}");
    let login = plimsoll(
        &one,
        &format!("login -u user --password-stdin {at}"),
        "secret\n",
    );
    assert_eq!(login, "Login Succeeded");
    let pushed = plimsoll(&one, &format!("push {at}/a/b"), "");
    assert!(pushed.contains("latest: digest: sha256:"), "{pushed}");
    let never = plimsoll(&two, &format!("run --rm --pull never {at}/a/b echo x"), "");
    assert!(never.contains("No such image"), "{never}");
    let ran = plimsoll(&two, &format!("run --rm {at}/a/b echo fetched"), "");
    assert!(
        ran.contains("Unable to find image") && ran.contains("fetched"),
        "{ran}"
    );
    let pulled = plimsoll(&two, &format!("pull {at}/a/b"), "");
    assert!(
        pulled.contains("Image is up to date") && pulled.ends_with(":latest"),
        "{pulled}"
    );
    let quiet = plimsoll(&two, &format!("pull -q {at}/a/b"), "");
    assert_eq!(quiet, format!("{at}/a/b:latest"));
    let out = plimsoll(&one, &format!("logout {at}"), "");
    assert!(out.starts_with("Removing login credentials"), "{out}");
    let refused = plimsoll(&two, &format!("pull {at}/a/b"), "");
    assert!(refused.contains("pull access denied"), "{refused}");
}
