//! Networks: what a link and a published port cost at a start, how fast packets and names go.
//!
//! Everything is in a network namespace that the benchmark makes: dockerd's iptables rules, podman's
//! and our table are side by side in it, and the client of a published port is in another one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use net::netns::{self, NamespaceError};
use net::{Bridge, Endpoint, Instance, Joint, Mac, Namespace, Prefix};
use serde_json::{Value, json};
use testkit::image::BUSYBOX;

use super::Options;
use super::measure::{Samples, by_clients, client, post, pss_kib, remove, start};
use super::peers::{self, Engine, Kind};
use super::report::{Table, Target, median};
use crate::Failed;
use crate::run::{output, program};
use crate::setup::Need;

/// Of containers with a published port; the peers get fewer.
const CONTAINERS: usize = 500;
const PEER_CONTAINERS: usize = 100;
const HUNDRED: usize = 100;
const FIRST_PORT: u16 = 20_000;
const LOOKUPS: usize = 2000;
/// Containers whose shims have answered questions.
const SERVING: usize = 98;
const IPERF: &str = "iperf:test";
const SECONDS: &str = "4";

/// Programs, and the packages that have them.
pub(crate) const NEEDS: &[Need] = &[
    ("iperf3", "iperf3"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("/usr/lib/podman/netavark", "netavark"),
    ("/usr/lib/podman/aardvark-dns", "aardvark-dns"),
];

/// Measures everything and writes `bench/NETWORK.md`.
pub(crate) fn network(options: &Options) -> Result<(), Failed> {
    let mut table = Table::default();
    let engines = peers::start(options, true)?;
    for engine in &engines {
        table.note(format!("{} {}", engine.kind.name(), engine.version()));
    }
    starts(options, &engines, &mut table)?;
    names(&engines, &mut table)?;
    throughput(&engines, &mut table)?;
    many(&engines, &mut table)?;
    drop(engines);
    println!("\n{}", table.text());
    if !options.has_peers() {
        return Ok(());
    }
    let about = format!(
        "Written by `cargo xtask bench network`: all engines in one network namespace in one run, \
         interleaved, medians of {}\nrounds. Peers as Debian packages them (podman with netavark and \
         aardvark-dns), dockerd with its proxies.",
        options.rounds
    );
    let path = crate::run::root().join("bench/NETWORK.md");
    std::fs::write(path, table.document("Networks beside their peers", &about)?)?;
    println!("written: bench/NETWORK.md");
    Ok(())
}

// ---- what a start costs -------------------------------------------------------------------------

fn starts(options: &Options, engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    let kinds: [(&str, &[&str]); 3] = [
        ("--network none", &["--network", "none"]),
        ("--network bridge", &["--network", "bridge"]),
        (
            "--network bridge -p 8080:80",
            &["--network", "bridge", "-p", "8080:80"],
        ),
    ];
    let mut samples: Vec<Samples> = kinds.iter().map(|_| Samples::default()).collect();
    for round in 0..=options.rounds {
        let mut ignored = Samples::default();
        for engine in engines {
            for ((_, flags), counted) in kinds.iter().zip(&mut samples) {
                let mut arguments = vec!["run", "--rm"];
                arguments.extend(*flags);
                if let Some(parent) = engine.cgroup_parent() {
                    arguments.extend(["--cgroup-parent", parent]);
                }
                arguments.extend([BUSYBOX, "true"]);
                let samples = if round == 0 { &mut ignored } else { counted };
                samples.take(engine, || client(engine, &arguments))?;
            }
        }
    }
    for ((what, _), samples) in kinds.iter().zip(&samples) {
        samples.report(table, &format!("`run --rm {what}`"), &[], &[]);
    }
    for (what, more, less, most) in [
        ("the bridge costs", 1, 0, 4.0),
        ("a published port costs", 2, 1, 1.0),
    ] {
        let differences = samples[more].above(&samples[less]);
        table.row(what, "ms", &differences, &[Target::AtMost(most)]);
    }
    Ok(())
}

// ---- names --------------------------------------------------------------------------------------

/// A question for the address of a name. source: RFC 1035 4.1.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut q = id.to_be_bytes().to_vec();
    q.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        q.push(u8::try_from(label.len()).unwrap_or(0));
        q.extend(label.as_bytes());
    }
    q.extend([0, 0, 1, 0, 1]);
    q
}

/// One after the other; milliseconds of each.
fn look_up(server: IpAddr, count: usize) -> Result<Vec<f64>, String> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(|e| e.to_string())?;
    let deadline = Some(Duration::from_secs(5));
    socket
        .set_read_timeout(deadline)
        .map_err(|e| e.to_string())?;
    let at = SocketAddr::new(server, 53);
    socket.connect(at).map_err(|e| e.to_string())?;
    let mut buffer = [0; 512];
    (0..count)
        .map(|n| {
            let asked = question(u16::try_from(n % 60_000).unwrap_or(0), "web");
            let before = Instant::now();
            socket.send(&asked).map_err(|e| e.to_string())?;
            let read = socket.recv(&mut buffer).map_err(|e| e.to_string())?;
            // an answer, without an error, with a record
            let answered = read > 12 && buffer[..2] == asked[..2] && buffer[3] & 15 == 0;
            if !answered || buffer[7] == 0 {
                return Err(format!("no address of web: {:?}", &buffer[..read]));
            }
            Ok(before.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

fn names(engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    let (mut medians, mut rates, mut memory) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for engine in engines {
        let name = engine.kind.name();
        let failed = |e: String| format!("{name}: {e}");
        client(engine, &["network", "create", "names"]).map_err(failed)?;
        let web = run_in(engine, "names", "web", &["sleep", "100000"])?;
        let asks = run_in(engine, "names", "asks", &["sleep", "100000"])?;
        let pid = pid(engine, &asks)?;
        let server = if engine.kind == Kind::Podman {
            gateway(engine, &asks, "names")?
        } else {
            IpAddr::from([127, 0, 0, 11])
        };
        let inside = Namespace::of_process(pid)?;
        let (times, rate) = in_namespace(&inside, || {
            look_up(server, 100)?;
            let times = look_up(server, LOOKUPS)?;
            let before = Instant::now();
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| in_namespace(&inside, || look_up(server, LOOKUPS))))
                    .collect();
                let join = |t: std::thread::ScopedJoinHandle<'_, Result<Vec<f64>, String>>| {
                    t.join()
                        .unwrap_or_else(|_| Err("a client panicked".to_owned()))
                };
                all.into_iter().map(join).collect::<Result<Vec<_>, _>>()
            })?;
            let asked = f64::from(u32::try_from(4 * LOOKUPS).unwrap_or(0));
            Ok((times, asked / before.elapsed().as_secs_f64()))
        })
        .map_err(failed)?;
        medians.insert(name, median(&times));
        rates.insert(name, rate);
        let mut all = vec![web, asks];
        if engine.kind == Kind::Plimsoll {
            all.extend(serving(engine)?);
            let count = f64::from(u32::try_from(all.len())?);
            memory.insert(name, pss_kib(&engine.shims()) / count);
        }
        for id in all {
            remove(engine, &id).map_err(failed)?;
        }
        client(engine, &["network", "rm", "names"]).map_err(failed)?;
    }
    table.row(
        "a lookup of a name: median",
        "ms",
        &medians,
        &[Target::AtMost(1.0)],
    );
    let what = "lookups by 4 clients";
    table.rate(what, "per s", &rates, &[Target::AtLeast(1000.0)]);
    let what = "a shim that serves names, after them: Pss";
    table.row(what, "KiB", &memory, &[Target::AtMost(256.0)]);
    Ok(())
}

/// Containers each of which has asked for names, so that what shims share is shared by many.
fn serving(engine: &Engine) -> Result<Vec<String>, Failed> {
    let failed = |e: String| format!("{}: {e}", engine.kind.name());
    let mut all = Vec::new();
    for n in 0..SERVING {
        let id = run_in(engine, "names", &format!("more{n}"), &["sleep", "100000"])?;
        let inside = Namespace::of_process(pid(engine, &id)?)?;
        let own = IpAddr::from([127, 0, 0, 11]);
        in_namespace(&inside, || look_up(own, 100)).map_err(failed)?;
        all.push(id);
    }
    Ok(all)
}

fn in_namespace<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let done = netns::inside(namespace.as_fd(), || Ok::<_, NamespaceError>(work()));
    done.map_err(|e| e.to_string())?
}

// ---- containers ---------------------------------------------------------------------------------

fn body(engine: &Engine, network: &str, image: &str, command: &[&str]) -> Value {
    let mut body = json!({
        "Image": image,
        "Cmd": command,
        "HostConfig": {"NetworkMode": network},
    });
    if let Some(parent) = engine.cgroup_parent() {
        body["HostConfig"]["CgroupParent"] = parent.into();
    }
    body
}

fn made(engine: &Engine, name: &str, body: &Value) -> Result<String, String> {
    let path = if name.is_empty() {
        "/containers/create".to_owned()
    } else {
        format!("/containers/create?name={name}")
    };
    let answer = post(engine, &path, body)?;
    let id = answer["Id"].as_str().ok_or("no id")?.to_owned();
    start(engine, &id)?;
    Ok(id)
}

fn run_in(engine: &Engine, network: &str, name: &str, command: &[&str]) -> Result<String, Failed> {
    let id = made(engine, name, &body(engine, network, BUSYBOX, command));
    Ok(id.map_err(|e| format!("{}: {e}", engine.kind.name()))?)
}

fn inspect(engine: &Engine, id: &str) -> Result<Value, Failed> {
    Ok(engine.api.get(&format!("/containers/{id}/json"))?.json())
}

fn pid(engine: &Engine, id: &str) -> Result<i32, Failed> {
    let pid = inspect(engine, id)?["State"]["Pid"].as_i64();
    Ok(pid.and_then(|p| i32::try_from(p).ok()).ok_or("no pid")?)
}

fn field(engine: &Engine, id: &str, network: &str, field: &str) -> Result<IpAddr, Failed> {
    let all = inspect(engine, id)?;
    let place = &all["NetworkSettings"]["Networks"][network];
    let text = place[field].as_str().unwrap_or_default();
    Ok(text.parse().map_err(|_| format!("no {field}: {place}"))?)
}

fn gateway(engine: &Engine, id: &str, network: &str) -> Result<IpAddr, Failed> {
    field(engine, id, network, "Gateway")
}

// ---- throughput ---------------------------------------------------------------------------------

/// A host beside this one, on a wire of its own.
struct Outside {
    namespace: Namespace,
    wire: Instance,
}

const HOST: &str = "198.51.100.1";

impl Outside {
    fn new() -> Result<Self, Failed> {
        let wire = Instance::new("bench-wire");
        let at = |address: &str| address.parse::<Prefix>();
        net::host::put_bridges(&[Bridge {
            name: "lan".to_owned(),
            mac: Mac::derived("lan"),
            group: wire.group(),
            mtu: 0,
            addresses: vec![at("198.51.100.1/24")?],
        }])?;
        let namespace = Namespace::create()?;
        let end = Endpoint {
            joint: Joint::Port {
                bridge: "lan".to_owned(),
                host: wire.veth("lan", "outside", 0),
                isolated: false,
            },
            name: "eth0".to_owned(),
            mac: None,
            mtu: 0,
            sysctls: Vec::new(),
            addresses: vec![at("198.51.100.2/24")?],
            gateways: vec![HOST.parse()?],
        };
        net::host::connect(&wire, &namespace, &[end])?;
        Ok(Self { namespace, wire })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _gone = net::host::remove_strays(&self.wire, &std::collections::BTreeSet::new());
    }
}

/// An image with the host's iperf3, for every engine.
fn iperf_image(engines: &[Engine]) -> Result<(), Failed> {
    let ours = engines.iter().find(|e| e.kind == Kind::Plimsoll);
    let ours = ours.ok_or("throughput is measured with our engine among them")?;
    output(ours.cli().args(["capture", "-t", IPERF, "iperf3", "sleep"]))?;
    let archive = output_bytes(ours.cli().args(["save", IPERF]))?;
    for engine in engines.iter().filter(|e| e.kind != Kind::Plimsoll) {
        let answer = engine.api.upload("POST", "/images/load", &archive)?;
        if !answer.is_ok() {
            return Err(format!("{}: load: {answer:?}", engine.kind.name()).into());
        }
    }
    Ok(())
}

fn output_bytes(command: &mut std::process::Command) -> Result<Vec<u8>, Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(crate::run::said(&output).into())
}

/// Gigabits a second, as the receiver counted.
fn gigabits(text: &str) -> Result<f64, String> {
    let all: Value = serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))?;
    let bits = all["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.map(|b| b / 1e9)
        .ok_or_else(|| format!("iperf3: {}", all["error"]))
}

fn throughput(engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    iperf_image(engines)?;
    let outside = Outside::new()?;
    let whats = [
        "container to container",
        "host to container",
        "from outside through a published port",
    ];
    let mut rates: [BTreeMap<&'static str, Vec<f64>>; 3] = Default::default();
    for (engine, port) in engines.iter().zip(5201_u16..) {
        let name = engine.kind.name();
        let failed = |e: String| format!("{name}: {e}");
        client(engine, &["network", "create", "fast"]).map_err(failed)?;
        let mut server = body(engine, "fast", IPERF, &["iperf3", "-s"]);
        server["ExposedPorts"] = json!({"5201/tcp": {}});
        server["HostConfig"]["PortBindings"] =
            json!({"5201/tcp": [{"HostIp": "", "HostPort": port.to_string()}]});
        let server = made(engine, "fast-server", &server).map_err(failed)?;
        let other = body(engine, "fast", IPERF, &["sleep", "100000"]);
        let other = made(engine, "fast-client", &other).map_err(failed)?;
        let to = field(engine, &server, "fast", "IPAddress")?.to_string();
        let neighbour = Namespace::of_process(pid(engine, &other)?)?;
        for _ in 0..3 {
            let ask = |address: &str, port: u16| {
                let mut command = program("iperf3");
                let port = port.to_string();
                command.args(["-J", "-t", SECONDS, "-c", address, "-p", &port]);
                let text = output(&mut command).map_err(|e| e.to_string())?;
                gigabits(&text)
            };
            std::thread::sleep(Duration::from_millis(300));
            let near = in_namespace(&neighbour, || ask(&to, 5201)).map_err(failed)?;
            std::thread::sleep(Duration::from_millis(300));
            let host = ask(&to, 5201).map_err(failed)?;
            std::thread::sleep(Duration::from_millis(300));
            let far = in_namespace(&outside.namespace, || ask(HOST, port)).map_err(failed)?;
            for (rates, value) in rates.iter_mut().zip([near, host, far]) {
                rates.entry(name).or_default().push(value);
            }
        }
        for id in [server, other] {
            remove(engine, &id).map_err(failed)?;
        }
        client(engine, &["network", "rm", "fast"]).map_err(failed)?;
    }
    for (what, rates) in whats.iter().zip(&rates) {
        let rates = rates.iter().map(|(k, v)| (*k, median(v))).collect();
        let what = format!("{what}, one stream of TCP");
        // a tenth is what two runs differ by
        table.rate(&what, "Gbit/s", &rates, &[Target::Ratio("docker", 0.9)]);
    }
    Ok(())
}

// ---- many with a published port -----------------------------------------------------------------

fn rules() -> Result<f64, Failed> {
    let text = output(program("nft").args(["-n", "list", "ruleset"]))?;
    let is_rule = |line: &&str| {
        let line = line.trim();
        line.contains(" accept")
            || line.contains(" drop")
            || line.contains(" counter")
            || line.contains(" jump ")
            || line.contains("dnat ")
            || line.contains("masquerade")
    };
    Ok(f64::from(u32::try_from(
        text.lines().filter(is_rule).count(),
    )?))
}

fn many(engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    let (mut first, mut slower) = (BTreeMap::new(), BTreeMap::new());
    let (mut rate, mut grown) = (BTreeMap::new(), BTreeMap::new());
    for engine in engines {
        let name = engine.kind.name();
        let count = if engine.kind == Kind::Plimsoll {
            CONTAINERS
        } else {
            PEER_CONTAINERS
        };
        println!("{count} containers of {name} with a published port each");
        let before = rules()?;
        let begun = Mutex::new(Vec::new());
        let ids = Mutex::new(Vec::new());
        let per_second = by_clients(engine, count, |n| {
            let mut wish = body(engine, "bridge", BUSYBOX, &["sleep", "100000"]);
            let port = FIRST_PORT + u16::try_from(n).map_err(|e| e.to_string())?;
            wish["ExposedPorts"] = json!({"80/tcp": {}});
            wish["HostConfig"]["PortBindings"] =
                json!({"80/tcp": [{"HostIp": "", "HostPort": port.to_string()}]});
            let id = made(engine, "", &wish)?;
            begun
                .lock()
                .map_err(|e| e.to_string())?
                .push(Instant::now());
            ids.lock().map_err(|e| e.to_string())?.push(id);
            Ok(())
        })?;
        rate.insert(name, per_second);
        grown.insert(name, (rules()? - before) / f64::from(u32::try_from(count)?));
        let at = begun.into_inner()?;
        let span = |some: &[Instant]| match (some.first(), some.last()) {
            (Some(a), Some(b)) => b.duration_since(*a).as_secs_f64() * 1e3 / 99.0,
            _ => f64::NAN,
        };
        first.insert(name, span(&at[..HUNDRED]));
        if count > HUNDRED {
            slower.insert(name, span(&at[count - HUNDRED..]) / span(&at[..HUNDRED]));
        }
        let ids = ids.into_inner()?;
        by_clients(engine, count, |n| {
            ids.get(n).map_or(Ok(()), |id| remove(engine, id))
        })?;
    }
    let what = "containers with a published port, create + start by 8 clients";
    table.rate(what, "per s", &rate, &[]);
    table.row("of these the first hundred, each", "ms", &first, &[]);
    let what = format!("of {CONTAINERS} the last hundred, to the first");
    table.row(&what, "times", &slower, &[Target::AtMost(1.1)]);
    let what = "rules of the firewall for each of them";
    table.row(what, "rules", &grown, &[Target::AtMost(0.0)]);
    Ok(())
}
