//! The measurements, interleaved: one round of each engine, then the next round.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::image::BUSYBOX;

use super::peers::{Engine, Kind};
use super::report::{Table, Target, median};
use super::{Options, unpack};
use crate::Failed;
use crate::run::{output, program, said};

/// What goes on behind an answer (cleaning up) belongs to its price: until it has settled.
const SETTLE: Duration = Duration::from_millis(150);
const CLIENTS: usize = 8;

/// Wall and CPU times by engine.
#[derive(Default)]
pub(super) struct Samples {
    wall: BTreeMap<&'static str, Vec<f64>>,
    cpu: BTreeMap<&'static str, Vec<f64>>,
}

impl Samples {
    /// Runs one action of an engine and notes what it took, in milliseconds.
    pub(super) fn take<R: Send>(
        &mut self,
        engine: &Engine,
        action: impl FnOnce() -> Result<R, String> + Send,
    ) -> Result<R, Failed> {
        let cpu = engine.meter.read()?;
        let (result, wall) = engine.meter.within(|| {
            let before = Instant::now();
            let result = action();
            (result, before.elapsed())
        });
        std::thread::sleep(SETTLE);
        let cpu = engine.meter.read()?.saturating_sub(cpu);
        let result = result.map_err(|e| format!("{}: {e}", engine.kind.name()))?;
        let name = engine.kind.name();
        self.wall.entry(name).or_default().push(millis(wall));
        self.cpu.entry(name).or_default().push(millis(cpu));
        Ok(result)
    }

    pub(super) fn report(&self, table: &mut Table, what: &str, wall: &[Target], cpu: &[Target]) {
        table.row(&format!("{what}: wall"), "ms", &medians(&self.wall), wall);
        table.row(&format!("{what}: CPU"), "ms", &medians(&self.cpu), cpu);
    }

    /// How much longer these took than those, by engine: the difference of the medians.
    pub(super) fn above(&self, less: &Self) -> BTreeMap<&'static str, f64> {
        let less = medians(&less.wall);
        let above = |(name, more): (&'static str, f64)| Some((name, more - less.get(name)?));
        medians(&self.wall).into_iter().filter_map(above).collect()
    }
}

fn medians(samples: &BTreeMap<&'static str, Vec<f64>>) -> BTreeMap<&'static str, f64> {
    samples.iter().map(|(k, v)| (*k, median(v))).collect()
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// Every part that is wanted.
pub(crate) fn all(
    options: &Options,
    engines: &mut [Engine],
    table: &mut Table,
) -> Result<(), Failed> {
    for engine in engines.iter() {
        table.note(format!("{} {}", engine.kind.name(), engine.version()));
    }
    if options.wants("floor") {
        floor(options, table)?;
    }
    idle(engines, table);
    if options.wants("run") {
        run(options, engines, table)?;
    }
    if options.wants("calls") {
        calls(options, engines, table)?;
    }
    if options.wants("parallel") {
        parallel(options, engines, table)?;
    }
    if options.wants("unpack") {
        unpack::unpack(engines, table)?;
    }
    Ok(())
}

/// The runtime's minimal program doing the same system calls.
fn floor(options: &Options, table: &mut Table) -> Result<(), Failed> {
    let example = crate::run::root().join("crates/runtime/examples/floor.rs");
    if !example.is_file() {
        table.note("no floor: the runtime has no such example".to_owned());
        return Ok(());
    }
    let build = [
        "build",
        "--release",
        "--locked",
        "-p",
        "runtime",
        "--example",
        "floor",
    ];
    crate::run::run(crate::run::cargo().args(build))?;
    let target = crate::run::target()?;
    let root = tempfile::Builder::new().prefix("pl-floor-").tempdir()?;
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir(root.path().join(dir))?;
    }
    std::fs::copy("/bin/busybox", root.path().join("bin/busybox"))?;
    std::os::unix::fs::symlink("/bin/busybox", root.path().join("bin/true"))?;
    let rounds = (options.rounds * 5).to_string();
    for (what, flags) in [
        ("the floor of a start", &[][..]),
        ("the floor with cgroups", &["--cgroup"]),
        (
            "the floor with cgroups and seccomp",
            &["--cgroup", "--seccomp"],
        ),
    ] {
        let mut command = program(target.join("release/examples/floor"));
        command.args(flags).arg(&rounds).arg(root.path());
        let text = output(command.arg("/bin/true"))?;
        let number = text.split(|c: char| !c.is_ascii_digit() && c != '.');
        let micros = number.filter_map(|n| n.parse::<f64>().ok()).next();
        let micros = micros.ok_or_else(|| format!("the floor says {text:?}"))?;
        let values = BTreeMap::from([("floor", micros / 1e3)]);
        table.row(what, "ms", &values, &[]);
    }
    Ok(())
}

fn idle(engines: &[Engine], table: &mut Table) {
    let pss = engines
        .iter()
        .map(|e| (e.kind.name(), pss_kib(&e.daemons()) / 1024.0))
        .collect();
    let targets = [Target::AtMost(15.0)];
    table.row(
        "daemon, idle: Pss of all its processes",
        "MiB",
        &pss,
        &targets,
    );
}

pub(super) fn pss_kib(processes: &[testkit::procfs::Process]) -> f64 {
    let kib: u64 = processes.iter().filter_map(|p| p.pss_kib()).sum();
    u32::try_from(kib).map_or(f64::MAX, f64::from)
}

// ---- the command line ---------------------------------------------------------------------------

fn run(options: &Options, engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    let (mut version, mut runs) = (Samples::default(), Samples::default());
    // the first round warms caches and doesn't count
    for round in 0..=options.rounds {
        let mut ignored = (Samples::default(), Samples::default());
        let (version, runs) = if round == 0 {
            (&mut ignored.0, &mut ignored.1)
        } else {
            (&mut version, &mut runs)
        };
        for engine in engines {
            version.take(engine, || client(engine, &["version"]))?;
            let mut arguments = vec!["run", "--rm", "--network", "none"];
            if let Some(parent) = engine.cgroup_parent() {
                arguments.extend(["--cgroup-parent", parent]);
            }
            arguments.extend([BUSYBOX, "true"]);
            runs.take(engine, || client(engine, &arguments))?;
        }
    }
    version.report(table, "command line alone (`version`)", &[], &[]);
    runs.report(
        table,
        "`run --rm --network none busybox true`",
        &[Target::Ratio("docker", 12.0), Target::Ratio("podman", 8.0)],
        &[Target::Ratio("docker", 15.0)],
    );
    Ok(())
}

pub(super) fn client(engine: &Engine, arguments: &[&str]) -> Result<(), String> {
    let output = engine
        .cli()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{arguments:?}: {}", said(&output)))
    }
}

// ---- the API ------------------------------------------------------------------------------------

fn body(engine: &Engine, command: &[&str]) -> Value {
    let mut body = json!({
        "Image": BUSYBOX,
        "Cmd": command,
        "HostConfig": {"NetworkMode": "none"},
    });
    if let Some(parent) = engine.cgroup_parent() {
        body["HostConfig"]["CgroupParent"] = parent.into();
    }
    body
}

pub(super) fn post(engine: &Engine, path: &str, body: &Value) -> Result<Value, String> {
    let answer = engine.api.post(path, body).map_err(|e| e.to_string())?;
    if answer.is_ok() {
        Ok(answer.json())
    } else {
        Err(format!("{path}: {answer:?}"))
    }
}

pub(super) fn create(engine: &Engine, command: &[&str]) -> Result<String, String> {
    let made = post(engine, "/containers/create", &body(engine, command))?;
    made["Id"].as_str().map(str::to_owned).ok_or("no id".into())
}

pub(super) fn start(engine: &Engine, id: &str) -> Result<(), String> {
    post(engine, &format!("/containers/{id}/start"), &Value::Null).map(drop)
}

/// Runs `true` in a container and reads until it has ended.
fn exec(engine: &Engine, id: &str) -> Result<(), String> {
    let wish = json!({"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true});
    let made = post(engine, &format!("/containers/{id}/exec"), &wish)?;
    let exec = made["Id"].as_str().unwrap_or_default();
    let how = json!({"Detach": false, "Tty": false});
    let stream = engine.api.upgrade(&format!("/exec/{exec}/start"), &how);
    let mut stream = stream.map_err(|e| e.to_string())?;
    std::io::copy(&mut stream, &mut std::io::sink()).map_err(|e| e.to_string())?;
    Ok(())
}

pub(super) fn remove(engine: &Engine, id: &str) -> Result<(), String> {
    let path = format!("/containers/{id}?force=1");
    let answer = engine.api.delete(&path).map_err(|e| e.to_string())?;
    if answer.is_ok() {
        Ok(())
    } else {
        Err(format!("{path}: {answer:?}"))
    }
}

const POLITE: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"];

fn calls(options: &Options, engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    let names = ["create", "start", "exec", "stop", "rm", "create + start"];
    let mut samples: Vec<Samples> = names.iter().map(|_| Samples::default()).collect();
    for round in 0..=options.rounds {
        let mut ignored: Vec<Samples> = names.iter().map(|_| Samples::default()).collect();
        let s = if round == 0 {
            &mut ignored
        } else {
            &mut samples
        };
        for engine in engines {
            let id = s[0].take(engine, || create(engine, &POLITE))?;
            s[1].take(engine, || start(engine, &id))?;
            s[2].take(engine, || exec(engine, &id))?;
            let stop = format!("/containers/{id}/stop?t=10");
            s[3].take(engine, || post(engine, &stop, &Value::Null))?;
            s[4].take(engine, || remove(engine, &id))?;
            let id = s[5].take(engine, || {
                let id = create(engine, &["sleep", "1000"])?;
                start(engine, &id).map(|()| id)
            })?;
            remove(engine, &id)?;
        }
    }
    let both = [Target::Ratio("docker", 15.0), Target::Ratio("podman", 5.0)];
    let tenth = [Target::Ratio("docker", 10.0), Target::Ratio("podman", 10.0)];
    for (name, samples) in names.iter().zip(&samples) {
        let targets: &[Target] = match *name {
            "create + start" => &both,
            "exec" | "stop" => &tenth,
            _ => &[],
        };
        samples.report(table, &format!("API {name}"), targets, &[]);
    }
    Ok(())
}

// ---- many at once -------------------------------------------------------------------------------

/// Runs `action` for 0..count by eight clients; containers a second.
pub(super) fn by_clients(
    engine: &Engine,
    count: usize,
    action: impl Fn(usize) -> Result<(), String> + Sync,
) -> Result<f64, Failed> {
    let next = AtomicUsize::new(0);
    let before = Instant::now();
    let results: Vec<Result<(), String>> = engine.meter.within(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let n = next.fetch_add(1, Ordering::Relaxed);
                            if n >= count {
                                return Ok(());
                            }
                            action(n)?;
                        }
                    })
                })
                .collect();
            let join =
                |c: std::thread::ScopedJoinHandle<'_, _>| c.join().expect("a client panicked");
            clients.into_iter().map(join).collect()
        })
    });
    let took = before.elapsed().as_secs_f64();
    for result in results {
        result.map_err(|e| format!("{}: {e}", engine.kind.name()))?;
    }
    Ok(u32::try_from(count).map_or(0.0, f64::from) / took)
}

fn parallel(options: &Options, engines: &mut [Engine], table: &mut Table) -> Result<(), Failed> {
    let count = options.containers;
    let shown = u32::try_from(count).map_or(1.0, f64::from);
    let mut started = BTreeMap::new();
    let mut memory = BTreeMap::new();
    let mut adopted = BTreeMap::new();
    let mut listed = BTreeMap::new();
    let mut removed = BTreeMap::new();
    for engine in engines {
        let name = engine.kind.name();
        println!("{count} containers of {name}");
        let ids = std::sync::Mutex::new(Vec::new());
        let rate = by_clients(engine, count, |_| {
            let id = create(engine, &["sleep", "100000"])?;
            start(engine, &id)?;
            ids.lock().map_err(|e| e.to_string())?.push(id);
            Ok(())
        })?;
        started.insert(name, rate);
        std::thread::sleep(Duration::from_secs(1));
        memory.insert(name, pss_kib(&engine.shims()) / shown);
        let list: Vec<f64> = (0..5)
            .map(|_| {
                engine
                    .api
                    .get("/containers/json")
                    .map_or(f64::NAN, |r| millis(r.took))
            })
            .collect();
        listed.insert(name, median(&list));
        // podman's API service holds nothing to adopt
        if engine.kind != Kind::Podman {
            let times: Result<Vec<f64>, Failed> = (0..3)
                .map(|_| engine.kill_and_start(count).map(millis))
                .collect();
            adopted.insert(name, median(&times?));
        }
        let ids = ids.into_inner()?;
        let rate = by_clients(engine, count, |n| {
            ids.get(n).map_or(Ok(()), |id| remove(engine, id))
        })?;
        removed.insert(name, rate);
    }
    let what = format!("{count} containers, create + start by {CLIENTS} clients");
    let ratios = [Target::Ratio("docker", 10.0), Target::Ratio("podman", 7.0)];
    table.rate(&what, "per s", &started, &ratios);
    let targets = [Target::AtMost(256.0)];
    table.row(
        "a running container: Pss of its shim",
        "KiB",
        &memory,
        &targets,
    );
    table.row(&format!("API list of {count}"), "ms", &listed, &[]);
    let what = format!("adoption of {count} after kill -9, until all are listed");
    table.row(&what, "ms", &adopted, &[Target::AtMost(100.0)]);
    let what = format!("{count} running containers, rm -f by {CLIENTS} clients");
    table.rate(&what, "per s", &removed, &[]);
    Ok(())
}
