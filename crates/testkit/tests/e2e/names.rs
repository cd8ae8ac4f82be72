//! Names in networks, on a host that each test makes. FAILURES "DNS inside containers".

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use net::Namespace;
use serde_json::{Value, json};
use testkit::conservation::Snapshot;
use testkit::crash::Scenario;
use testkit::{Instance, until};

use crate::{attempt, crash, networks, post};

const SOON: Duration = Duration::from_secs(20);
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const TXT: u16 = 16;
const SERVER: &str = "127.0.0.11:53";

/// An answer: its code, whether it was cut, and the addresses or names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    code: u8,
    cut: bool,
    values: Vec<String>,
}

fn values(all: &[&str]) -> Answer {
    Answer {
        code: 0,
        cut: false,
        values: all.iter().map(|v| (*v).to_owned()).collect(),
    }
}

fn failure(code: u8) -> Answer {
    Answer {
        code,
        cut: false,
        values: Vec::new(),
    }
}

fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

fn name_at(bytes: &[u8], mut at: usize) -> (String, usize) {
    let mut text = Vec::new();
    while bytes[at] != 0 {
        if bytes[at] & 0xc0 == 0xc0 {
            return (text.join("."), at + 2);
        }
        let length = usize::from(bytes[at]);
        text.push(String::from_utf8_lossy(&bytes[at + 1..=at + length]).into_owned());
        at += 1 + length;
    }
    (text.join("."), at + 1)
}

fn read(bytes: &[u8], id: u16) -> Answer {
    assert_eq!(bytes[..2], id.to_be_bytes(), "another question's answer");
    let count = u16::from_be_bytes([bytes[6], bytes[7]]);
    let mut at = name_at(bytes, 12).1 + 4;
    let mut values = Vec::new();
    for _ in 0..count {
        at = name_at(bytes, at).1;
        let kind = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let length = usize::from(u16::from_be_bytes([bytes[at + 8], bytes[at + 9]]));
        let data = &bytes[at + 10..at + 10 + length];
        at += 10 + length;
        values.push(match kind {
            A => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            AAAA => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            PTR => name_at(data, 0).0,
            _ => format!("{data:?}"),
        });
    }
    Answer {
        code: bytes[3] & 15,
        cut: bytes[2] & 2 != 0,
        values,
    }
}

/// A container's network, to ask in as its programs do.
struct Inside(Namespace);

impl Inside {
    fn of(instance: &Instance, id: &str) -> Self {
        let pid = instance.inspect(id)["State"]["Pid"].as_i64().unwrap();
        Self(Namespace::of_process(i32::try_from(pid).unwrap()).unwrap())
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = net::netns::inside(self.0.as_fd(), || {
            Ok::<T, net::netns::NamespaceError>(work())
        });
        done.unwrap()
    }

    fn try_ask(&self, name: &str, kind: u16) -> std::io::Result<Answer> {
        self.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.set_read_timeout(Some(SOON))?;
            socket.send_to(&query(7, name, kind), SERVER)?;
            let mut buffer = [0; 65535];
            let (got, from) = socket.recv_from(&mut buffer)?;
            assert_eq!(from.to_string(), SERVER);
            Ok(read(&buffer[..got], 7))
        })
    }

    #[track_caller]
    fn ask(&self, name: &str, kind: u16) -> Answer {
        self.try_ask(name, kind).unwrap()
    }

    /// Several questions on one connection, before the first answer is read.
    fn ask_by_connection(&self, names: &[&str], kind: u16) -> Vec<Answer> {
        self.run(|| {
            let mut stream = TcpStream::connect(SERVER).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            for (id, name) in (0..).zip(names) {
                stream.write_all(&framed(&query(id, name, kind))).unwrap();
            }
            let mut out = vec![failure(99); names.len()];
            for _ in names {
                let message = unframed(&mut stream).unwrap();
                let id = u16::from_be_bytes([message[0], message[1]]);
                out[usize::from(id)] = read(&message, id);
            }
            out
        })
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes()[..], message].concat()
}

fn unframed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// With a user's network `one`.
fn engine() -> Instance {
    let instance = Instance::networked();
    make(&instance, "one", &[]);
    instance
}

fn make(instance: &Instance, name: &str, further: &[&str]) {
    let mut line = vec!["network", "create"];
    line.extend(further);
    line.push(name);
    let said = instance.docker(&line);
    assert!(said.status.success(), "{said:?}");
}

fn member(instance: &Instance, name: &str, network: &str, aliases: &[&str]) -> String {
    let fields = json!({
        "HostConfig": {"NetworkMode": network},
        "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": aliases}}}
    });
    let id = instance.create_with(name, &["sleep", "1000"], fields);
    instance.start_container(&id);
    id
}

fn address(instance: &Instance, id: &str, network: &str) -> String {
    let endpoint = instance.inspect(id)["NetworkSettings"]["Networks"][network].clone();
    endpoint["IPAddress"].as_str().unwrap().to_owned()
}

fn end(instance: &Instance, clean: &Snapshot, inside: Vec<Inside>) {
    // its namespace would live on
    drop(inside);
    instance.remove_all();
    for network in ["one", "two"] {
        instance.docker(&["network", "rm", network]);
    }
    clean.assert_settled(instance);
    let left = std::fs::read_dir(instance.exec_root().join("names"));
    assert_eq!(
        left.map_or(0, Iterator::count),
        0,
        "files of names are left"
    );
}

#[test]
fn names_aliases_ids_and_addresses_in_both_families() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    make(&instance, "one", &["--ipv6"]);
    let web = member(&instance, "Web", "one", &["app"]);
    let other = member(&instance, "other", "one", &[]);
    let endpoint = instance.inspect(&web)["NetworkSettings"]["Networks"]["one"].clone();
    assert_eq!(endpoint["DNSNames"], json!(["Web", "app", web[..12]]));
    let four = endpoint["IPAddress"].as_str().unwrap();
    let six = endpoint["GlobalIPv6Address"].as_str().unwrap();
    let inside = Inside::of(&instance, &other);
    for name in ["web", "WEB", "app", &web[..12], "web.one", "app.ONE"] {
        assert_eq!(inside.ask(name, A), values(&[four]), "{name}");
        assert_eq!(inside.ask(name, AAAA), values(&[six]), "{name}");
        // a name of ours has an answer to all questions; nobody else is asked
        assert_eq!(inside.ask(name, TXT), values(&[]), "{name}");
    }
    let back: Vec<&str> = four.split('.').rev().collect();
    let back = format!("{}.in-addr.arpa", back.join("."));
    assert_eq!(inside.ask(&back, PTR), values(&["Web.one"]));
    let both = inside.ask_by_connection(&["web", "other"], A);
    let own = address(&instance, &other, "one");
    assert_eq!(both, [values(&[four]), values(&[&own])]);
    end(&instance, &clean, vec![inside]);
}

/// Without an address of a family there is an empty answer at once, for which no resolver waits.
#[test]
fn a_family_that_a_container_lacks_is_an_empty_answer() {
    let instance = engine();
    let id = member(&instance, "web", "one", &[]);
    let inside = Inside::of(&instance, &id);
    assert_eq!(inside.ask("web", AAAA), values(&[]));
    instance.remove_all();
}

#[test]
fn several_containers_of_one_alias_take_turns() {
    let instance = engine();
    let ids: Vec<String> = ["c1", "c2", "c3"]
        .iter()
        .map(|n| member(&instance, n, "one", &["app"]))
        .collect();
    let inside = Inside::of(&instance, &ids[0]);
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let answer = inside.ask("app", A);
        assert_eq!(answer.values.len(), 3, "{answer:?}");
        firsts.insert(answer.values[0].clone());
    }
    let all = ids.iter().map(|id| address(&instance, id, "one"));
    assert_eq!(firsts, all.collect());
    // one that has ended is no answer any more
    instance.remove(&ids[2]);
    until("two addresses", SOON, || {
        (inside.ask("app", A).values.len() == 2).then_some(())
    });
    instance.remove_all();
}

/// P3: the name server is the shim's.
#[test]
fn no_lookup_fails_while_the_engine_is_killed_and_comes_back() {
    let mut instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    make(&instance, "one", &[]);
    let web = member(&instance, "web", "one", &[]);
    let own = address(&instance, &web, "one");
    let other = member(&instance, "other", "one", &[]);
    let inside = Inside::of(&instance, &other);
    let (ended, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(inside.ask("web", A), values(&[&own]));
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..3 {
            let before = count.load(Ordering::Relaxed);
            instance.kill9();
            until("lookups without an engine", SOON, || {
                (count.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            instance.start();
        }
        ended.store(true, Ordering::Relaxed);
    });
    // the engine that came knows who is there, and who leaves
    instance.remove(&web);
    until("the name to be gone", SOON, || {
        (inside.ask("web", A).code != 0).then_some(())
    });
    end(&instance, &clean, vec![inside]);
}

#[test]
fn connect_disconnect_and_rename_count_at_once() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    make(&instance, "one", &[]);
    make(&instance, "two", &[]);
    let web = member(&instance, "web", "one", &[]);
    // in the default network, which has no names
    let late = instance.create_with(
        "late",
        &["sleep", "1000"],
        json!({"HostConfig": {"NetworkMode": "default"}}),
    );
    instance.start_container(&late);
    let said = instance.docker(&[
        "network", "connect", "--alias", "lately", "--link", "web:site", "one", "late",
    ]);
    assert!(said.status.success(), "{said:?}");
    let inside = Inside::of(&instance, &late);
    let (own, its) = (
        address(&instance, &late, "one"),
        address(&instance, &web, "one"),
    );
    assert_eq!(inside.ask("lately", A), values(&[&own]));
    assert_eq!(inside.ask("site", A), values(&[&its]));
    let there = Inside::of(&instance, &web);
    assert_eq!(there.ask("lately", A), values(&[&own]));
    // a link is a name for this container alone
    assert_ne!(there.ask("site", A).values, [its.as_str()]);
    let read = |file: &str| {
        let said = instance.docker(&["exec", "late", "cat", file]);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    assert!(read("/etc/resolv.conf").starts_with("nameserver 127.0.0.11\n"));
    assert!(read("/etc/hosts").contains(&own));
    // another network's names are its own
    let apart = member(&instance, "apart", "two", &[]);
    assert_ne!(Inside::of(&instance, &apart).ask("web", A).code, 0);
    for line in [
        &["rename", "web", "web2"][..],
        &["network", "disconnect", "one", "late"],
    ] {
        let said = instance.docker(line);
        assert!(said.status.success(), "{said:?}");
    }
    assert_eq!(there.ask("web2", A), values(&[&its]));
    assert_ne!(there.ask("web", A).values, [its.as_str()]);
    assert_ne!(there.ask("lately", A).values, [own.as_str()]);
    assert!(!read("/etc/hosts").contains(&own));
    // and again: the server that is there goes on
    let said = instance.docker(&["network", "connect", "one", "late"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(inside.ask("web2", A), values(&[&its]));
    assert_eq!(inside.ask("late", A).values.len(), 1);
    end(&instance, &clean, vec![inside, there]);
}

/// Compose's `network_mode: service:...`: what shares a network shares its names.
#[test]
fn a_container_in_another_s_network_has_its_names_too() {
    let instance = engine();
    let web = member(&instance, "web", "one", &[]);
    let fields = json!({"HostConfig": {"NetworkMode": "container:web"}});
    let side = instance.create_with("side", &["sleep", "1000"], fields);
    instance.start_container(&side);
    assert_eq!(
        Inside::of(&instance, &side).ask("web", A),
        values(&[&address(&instance, &web, "one")])
    );
    let read = |name: &str, file: &str| {
        let said = instance.docker(&["exec", name, "cat", file]);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    for file in [
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/hostname",
        "/proc/sys/kernel/hostname",
    ] {
        let own = read("web", file);
        assert!(!own.is_empty());
        assert_eq!(read("side", file), own, "{file}");
    }
    instance.remove(&side);
    assert!(read("web", "/etc/hosts").contains("127.0.0.1"));
    instance.remove_all();
}

/// Its sockets are not at port 53: images with a name server of their own bind it everywhere.
#[test]
fn a_container_can_be_a_name_server_itself() {
    let instance = engine();
    let id = member(&instance, "dns", "one", &[]);
    let inside = Inside::of(&instance, &id);
    inside.run(|| {
        let datagrams = UdpSocket::bind("0.0.0.0:53").unwrap();
        let connections = TcpListener::bind("0.0.0.0:53").unwrap();
        drop((datagrams, connections));
    });
    assert_eq!(inside.ask("dns", A).values.len(), 1);
    instance.remove_all();
}

/// What a server does with a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Answers 192.0.2.1, over datagrams cut where the name begins with "long".
    Answer,
    Silence,
    Refuse,
    /// First words of others: another number, another question, then its own answer.
    Noise,
}

/// A server at an address of the engine's host. It counts what it is asked.
fn upstream(instance: &Instance, at: &str, habit: Habit) -> Arc<AtomicUsize> {
    let at: SocketAddr = at.parse().unwrap();
    let (datagrams, connections) =
        instance.inside(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((got, from)) = datagrams.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let question = &buffer[..got];
            for reply in replies(question, habit, false) {
                datagrams.send_to(&reply, from).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = connections.accept() {
            while let Ok(question) = unframed(&mut stream) {
                for reply in replies(&question, habit, true) {
                    drop(stream.write_all(&framed(&reply)));
                }
            }
        }
    });
    asked
}

fn replies(question: &[u8], habit: Habit, whole: bool) -> Vec<Vec<u8>> {
    let mut reply = question.to_vec();
    reply[2] |= 0x80;
    let long = question[13..].starts_with(b"long");
    let count: u16 = if long && whole {
        2000
    } else {
        u16::from(!long)
    };
    if long && !whole {
        reply[2] |= 2;
    }
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    for n in 0..count {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0]);
        reply.extend((0x0201 + n).to_be_bytes());
    }
    let mut other = reply.clone();
    other[0] ^= 0xff;
    let mut wrong = reply.clone();
    wrong[13] ^= 1;
    let mut refusal = question.to_vec();
    refusal[2] |= 0x80;
    refusal[3] = 5;
    match habit {
        Habit::Answer => vec![reply],
        Habit::Silence => Vec::new(),
        Habit::Refuse => vec![refusal],
        Habit::Noise => vec![other, wrong, b"x".to_vec(), reply],
    }
}

/// A container on `one` in whose resolver the host's servers stand.
fn with_host_servers(servers: &[&str]) -> (Instance, Inside) {
    let mut instance = Instance::prepared_networked();
    instance.set_resolv_conf(&resolv_conf(servers));
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    make(&instance, "one", &[]);
    let id = member(&instance, "asker", "one", &[]);
    let inside = Inside::of(&instance, &id);
    (instance, inside)
}

fn resolv_conf(servers: &[&str]) -> String {
    servers
        .iter()
        .map(|s| format!("nameserver {s}\n"))
        .collect()
}

/// Servers at the host's loopback answer too: the shim asks from the host.
#[test]
fn what_is_no_containers_name_is_asked_of_the_hosts_servers_in_turn() {
    let (mut instance, inside) =
        with_host_servers(&["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4"]);
    // nobody at the first; the second refuses; the third says nothing; the fourth answers
    let refused = upstream(&instance, "127.0.1.2:53", Habit::Refuse);
    let silent = upstream(&instance, "127.0.1.3:53", Habit::Silence);
    let answered = upstream(&instance, "127.0.1.4:53", Habit::Answer);
    let count = |c: &AtomicUsize| c.load(Ordering::Relaxed);
    assert_eq!(inside.ask("example.org", A), values(&["192.0.2.1"]));
    assert_eq!(
        (count(&refused), count(&silent), count(&answered)),
        (1, 1, 1)
    );
    // the one that answered is asked first from then on
    assert_eq!(inside.ask("example.com", A), values(&["192.0.2.1"]));
    assert_eq!((count(&silent), count(&answered)), (1, 2));
    // an answer that is too long for a datagram comes by a connection
    let answer = inside.ask("long.example", A);
    assert!(answer.cut && answer.values.is_empty(), "{answer:?}");
    let answers = inside.ask_by_connection(&["long.example", "asker", "long2.example"], A);
    let lengths: Vec<usize> = answers.iter().map(|a| a.values.len()).collect();
    assert_eq!(lengths, [2000, 1, 2000]);
    // the host's file is read anew
    upstream(&instance, "127.0.1.9:53", Habit::Noise);
    instance.set_resolv_conf(&resolv_conf(&["127.0.1.9"]));
    instance.kill9();
    assert_eq!(inside.ask("example.net", A), values(&["192.0.2.1"]));
    instance.set_resolv_conf("");
    assert_eq!(inside.ask("example.net", A), failure(2));
    instance.start();
    instance.remove_all();
}

/// A container that floods its server, or sends it nonsense, harms nobody; answers go on.
#[test]
fn questions_that_hang_or_are_none_hold_nothing_up() {
    let (instance, inside) = with_host_servers(&["127.0.1.1"]);
    upstream(&instance, "127.0.1.1:53", Habit::Silence);
    inside.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for n in 0..1000_u16 {
            socket
                .send_to(&query(n, "slow.example", A), SERVER)
                .unwrap();
            socket
                .send_to(&n.to_be_bytes().repeat(usize::from(n % 300)), SERVER)
                .unwrap();
        }
        let mut idle: Vec<TcpStream> = Vec::new();
        for _ in 0..40 {
            idle.extend(TcpStream::connect(SERVER));
        }
        for stream in &mut idle {
            // a length that nothing follows
            drop(stream.write_all(&[0xff, 0xff, 1]));
        }
    });
    for _ in 0..20 {
        assert_eq!(inside.ask("asker", A).values.len(), 1);
    }
    instance.remove_all();
}

#[test]
fn servers_of_its_own_are_asked_from_its_own_network() {
    let instance = Instance::networked();
    let clean = Snapshot::take(&instance);
    make(&instance, "one", &[]);
    let gateway = |id: &str| {
        instance.inspect(id)["NetworkSettings"]["Networks"]["one"]["Gateway"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = member(&instance, "first", "one", &[]);
    let server = gateway(&first);
    let asked = upstream(&instance, &format!("{server}:53"), Habit::Answer);
    let fields = json!({"HostConfig": {
        "NetworkMode": "one", "Dns": [server], "DnsOptions": ["ndots:1"], "DnsSearch": ["example.org"]
    }});
    let id = instance.create_with("second", &["sleep", "1000"], fields);
    instance.start_container(&id);
    let inside = Inside::of(&instance, &id);
    assert_eq!(inside.ask("example.com", A), values(&["192.0.2.1"]));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(inside.ask("first", A).values.len(), 1);
    // the resolver is to try it with its search list: nobody is asked for it as it is
    assert_eq!(inside.ask("single", A), values(&[]));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let said = instance.docker(&["exec", "second", "cat", "/etc/resolv.conf"]);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "nameserver 127.0.0.11\nsearch example.org\noptions ndots:1\n"
    );
    end(&instance, &clean, vec![inside]);
}

#[test]
fn an_internal_network_asks_nobody() {
    let mut instance = Instance::prepared_networked();
    instance.set_resolv_conf(&resolv_conf(&["127.0.1.1"]));
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    make(&instance, "two", &["--internal"]);
    let asked = upstream(&instance, "127.0.1.1:53", Habit::Answer);
    let id = member(&instance, "web", "two", &[]);
    let inside = Inside::of(&instance, &id);
    assert_eq!(inside.ask("web", A).values.len(), 1);
    assert_eq!(inside.ask("example.org", A), failure(2));
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    instance.remove_all();
}

#[test]
fn aliases_belong_to_networks_that_have_names() {
    let instance = Instance::networked();
    let body = testkit::instance::create_body(
        &["true"],
        json!({
            "HostConfig": {"NetworkMode": "default"},
            "NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["x"]}}}
        }),
    );
    let refused = instance.api().post("/containers/create", &body).unwrap();
    assert_eq!(refused.status, 400);
    let text: Value = refused.json();
    assert!(
        text["message"]
            .to_string()
            .contains("user defined networks"),
        "{text}"
    );
}

fn in_one(instance: &Instance) {
    let body = json!({"Name": "one"});
    drop(instance.api().post("/networks/create", &body).unwrap());
}

fn without_one(instance: &Instance) {
    instance.remove_all();
    until("the network to be removable", SOON, || {
        let gone = instance.api().delete("/networks/one");
        attempt(gone).filter(|r| r.status == 204 || r.status == 404)
    });
}

/// What was begun is whole or gone, and the name is right in the end.
fn found_by_name(instance: &Instance, name: &str) {
    crash::goes_on(instance);
    if instance.inspect("box")["State"]["Status"] != json!("running") {
        instance.start_container("box");
    }
    let inside = Inside::of(instance, "box");
    assert_eq!(
        inside.ask(name, A),
        values(&[&address(instance, "box", "one")])
    );
}

#[test]
fn a_start_with_names_killed_at_every_step() {
    networks::replay(&Scenario {
        name: "start in a network with names",
        prepare: &|i| {
            in_one(i);
            let fields = json!({"HostConfig": {"NetworkMode": "one"}});
            drop(i.create_with("box", &["sleep", "1000"], fields));
        },
        operation: &|i| {
            let started = post(i, "/containers/box/start");
            started.map(|_| "started".to_owned()).into_iter().collect()
        },
        check: &|i, _| {
            found_by_name(i, "box");
            without_one(i);
        },
    });
}

/// One that fails leaves no half of it: neither where its names can't be written nor where its name
/// server can't be made.
#[test]
fn a_connect_that_fails_leaves_nothing() {
    for step in ["net.resolver.open", "engine.names.file"] {
        let mut instance = Instance::prepared_networked();
        let begun = instance.path().join("faults-from-here");
        let fault = format!("daemon:{step}:eio");
        let from = begun.to_str().unwrap().to_owned();
        instance.set_environment(&[("PLIMSOLL_FAULT", &fault), ("PLIMSOLL_FAULT_FROM", &from)]);
        instance.start();
        instance.load(&testkit::image::Image::busybox().unwrap());
        in_one(&instance);
        let fields = json!({"HostConfig": {"NetworkMode": "default"}});
        let id = instance.create_with("box", &["sleep", "1000"], fields);
        instance.start_container(&id);
        let before = instance.inspect("box")["NetworkSettings"]["Networks"].clone();
        std::fs::write(&begun, "").unwrap();
        let body = json!({"Container": "box"});
        let refused = instance.api().post("/networks/one/connect", &body).unwrap();
        assert_eq!(refused.status, 500, "{step}");
        let after = instance.inspect("box")["NetworkSettings"]["Networks"].clone();
        assert_eq!(after, before, "{step}");
        std::fs::remove_file(&begun).unwrap();
        let gone = instance.api().delete("/networks/one").unwrap();
        assert_eq!(gone.status, 204, "{step}: nobody is in it");
        instance.remove_all();
    }
}

#[test]
fn a_connect_killed_at_every_step() {
    networks::replay(&Scenario {
        name: "connect to a network with names",
        prepare: &|i| {
            in_one(i);
            let fields = json!({"HostConfig": {"NetworkMode": "default"}});
            let id = i.create_with("box", &["sleep", "1000"], fields);
            i.start_container(&id);
        },
        operation: &|i| {
            let body = json!({"Container": "box", "EndpointConfig": {"Aliases": ["also"]}});
            let done = attempt(i.api().post("/networks/one/connect", &body));
            done.map(|_| "connected".to_owned()).into_iter().collect()
        },
        check: &|i, acknowledged| {
            crash::goes_on(i);
            let networks = i.inspect("box")["NetworkSettings"]["Networks"].clone();
            if acknowledged.contains("connected") {
                assert!(networks["one"].is_object(), "{networks}");
            }
            // what was not acknowledged is taken back, not kept by halves
            until("the networks to be settled", SOON, || {
                let view = i.inspect("box");
                let asked = view["NetworkSettings"]["Networks"]["one"]["Aliases"].clone();
                let whole = asked == json!(["also"]) || acknowledged.is_empty();
                whole.then_some(())
            });
            if i.inspect("box")["NetworkSettings"]["Networks"]["one"]["Aliases"].is_array() {
                found_by_name(i, "also");
            }
            without_one(i);
        },
    });
}
