//! The API under load: what a list, an inspection, a reading of statistics take while others ask too, what
//! the daemon's memory is with many containers, and how long `ps -a` is.
//!
//! Each engine is measured alone while the others idle: with 200 containers of its own.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Options;
use super::measure::{by_clients, client, create, post, pss_kib, remove, start};
use super::peers::{self, Engine, Kind};
use super::report::{Table, Target, median};
use crate::Failed;

/// Clients of the load, each on connections of its own.
const CLIENTS: usize = 50;
const MANY_CLIENTS: usize = 200;
/// Each client's pause between the beginnings of two requests.
const PACE: Duration = Duration::from_millis(100);
const SECONDS: u64 = 5;
/// Every so many requests of a client are a list, the others inspections.
const LIST_EVERY: usize = 5;
const STATS: usize = 100;
const LIVES: usize = 96;
/// Containers known, and running, where `ps -a` of all engines is measured; then of ours alone.
const KNOWN: usize = 1_000;
const OURS_KNOWN: usize = 10_000;
const OURS_RUNNING: usize = 1_000;

type ByEngine = BTreeMap<&'static str, f64>;

/// Rows in the making: what was measured, then by engine.
#[derive(Default)]
struct Figures(BTreeMap<&'static str, ByEngine>);

impl Figures {
    fn note(&mut self, what: &'static str, engine: &Engine, value: f64) {
        println!("{}: {what}: {value:.2}", engine.kind.name());
        let row = self.0.entry(what).or_default();
        row.insert(engine.kind.name(), value);
    }

    fn of(&self, what: &str) -> ByEngine {
        self.0.get(what).cloned().unwrap_or_default()
    }
}

/// Measures everything and writes `bench/API.md`.
pub(crate) fn api(options: &Options) -> Result<(), Failed> {
    let mut table = Table::with(&["plimsoll", "docker", "podman"]);
    let engines = peers::start(options, false)?;
    for engine in &engines {
        table.note(format!("{} {}", engine.kind.name(), engine.version()));
    }
    let busy = std::fs::read_to_string("/proc/loadavg")?;
    let busy = busy.split(' ').next().unwrap_or_default();
    table.note(format!(
        "load average of the machine before it began: {busy}"
    ));
    let mut figures = Figures::default();
    for engine in &engines {
        measure(options, engine, &mut figures)?;
    }
    drop(engines);
    rows(options, &figures, &mut table);
    println!("\n{}", table.text());
    if !options.has_peers() {
        return Ok(());
    }
    let about = format!(
        "Written by `cargo xtask bench api`: one engine after the other in one run, each with {} running \
         containers, peers as Debian\npackages them. Every request is a connection of its own. The load is that \
         of {CLIENTS} clients that ask every {} ms each, one time in {LIST_EVERY}\nfor the list of all and else \
         for one container; in the rows \"without pauses\" each asks again at once, so that clients and engine\n\
         share the processors, and what is measured is mostly the queue.",
        options.containers,
        PACE.as_millis()
    );
    let path = crate::run::root().join("bench/API.md");
    std::fs::write(path, table.document("The API under load", &about)?)?;
    println!("written: bench/API.md");
    Ok(())
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn measure(options: &Options, engine: &Engine, figures: &mut Figures) -> Result<(), Failed> {
    let running = options.containers;
    println!("{running} containers of {}", engine.kind.name());
    let ids = make(engine, running, true)?;
    std::thread::sleep(Duration::from_secs(1));
    figures.note("memory", engine, pss_kib(&engine.daemons()) / 1024.0);
    let load = load(engine, &ids, CLIENTS, Some(PACE))?;
    figures.note("inspect", engine, percentile(&load.inspections, 99));
    figures.note("list", engine, percentile(&load.lists, 99));
    for (clients, [inspections, lists, rate]) in [
        (CLIENTS, ["inspect at once", "list at once", "rate at once"]),
        (
            MANY_CLIENTS,
            ["inspect of many", "list of many", "rate of many"],
        ),
    ] {
        let load = self::load(engine, &ids, clients, None)?;
        figures.note(inspections, engine, percentile(&load.inspections, 99));
        figures.note(lists, engine, percentile(&load.lists, 99));
        figures.note(rate, engine, load.rate);
    }
    figures.note("stats", engine, stats(engine, &ids)?);
    figures.note("lives", engine, lives(engine)?);
    figures.note("memory after", engine, pss_kib(&engine.daemons()) / 1024.0);
    let mut all = ids;
    all.extend(make(engine, KNOWN.saturating_sub(running), false)?);
    figures.note("ps", engine, ps(engine)?);
    if engine.kind == Kind::Plimsoll {
        all.extend(make(engine, OURS_RUNNING.saturating_sub(running), true)?);
        all.extend(make(engine, OURS_KNOWN - KNOWN.max(OURS_RUNNING), false)?);
        figures.note("ps of many", engine, ps(engine)?);
        figures.note(
            "list of all",
            engine,
            list(engine, "/containers/json?all=1")?,
        );
        figures.note("list of running", engine, list(engine, "/containers/json")?);
        figures.note(
            "memory of many",
            engine,
            pss_kib(&engine.daemons()) / 1024.0,
        );
    }
    by_clients(engine, all.len(), |n| {
        all.get(n).map_or(Ok(()), |id| remove(engine, id))
    })?;
    Ok(())
}

fn make(engine: &Engine, count: usize, starts: bool) -> Result<Vec<String>, Failed> {
    let ids = Mutex::new(Vec::new());
    by_clients(engine, count, |_| {
        let id = create(engine, &["sleep", "100000"])?;
        if starts {
            start(engine, &id)?;
        }
        ids.lock().map_err(|e| e.to_string())?.push(id);
        Ok(())
    })?;
    Ok(ids.into_inner()?)
}

/// The time below which this share of them is, in percent.
fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// What the clients saw, in milliseconds, and requests a second.
#[derive(Default)]
struct Load {
    inspections: Vec<f64>,
    lists: Vec<f64>,
    rate: f64,
}

/// `pace`: how often each asks; `None` is again at once.
fn load(
    engine: &Engine,
    ids: &[String],
    clients: usize,
    pace: Option<Duration>,
) -> Result<Load, Failed> {
    let began = Instant::now();
    let until = began + Duration::from_secs(SECONDS);
    let seen: Vec<Result<Load, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|n| {
                let clients = u32::try_from(clients).unwrap_or(1);
                let first = u32::try_from(n).unwrap_or(0);
                // spread over the pause, as clients of different people are
                let next = began + pace.unwrap_or_default() * first / clients;
                scope.spawn(move || one_client(engine, ids, (n, next), pace, until))
            })
            .collect();
        let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join().expect("a client panicked");
        threads.into_iter().map(join).collect()
    });
    let took = began.elapsed().as_secs_f64();
    let mut all = Load::default();
    for one in seen {
        let one = one.map_err(|e| format!("{}: {e}", engine.kind.name()))?;
        all.inspections.extend(one.inspections);
        all.lists.extend(one.lists);
    }
    let count = all.inspections.len() + all.lists.len();
    all.rate = u32::try_from(count).map_or(0.0, f64::from) / took;
    Ok(all)
}

fn one_client(
    engine: &Engine,
    ids: &[String],
    (number, mut next): (usize, Instant),
    pace: Option<Duration>,
    until: Instant,
) -> Result<Load, String> {
    let mut seen = Load::default();
    let mut asked = number;
    while next < until && Instant::now() < until {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let id = ids.get(asked % ids.len()).ok_or("no containers")?;
        let is_list = asked % LIST_EVERY == 0;
        let path = if is_list {
            "/containers/json".to_owned()
        } else {
            format!("/containers/{id}/json")
        };
        // as a client feels it: from when it wanted to ask
        let wanted = pace.map_or_else(Instant::now, |_| next);
        let answer = engine.api.get(&path).map_err(|e| e.to_string())?;
        let took = millis(wanted.elapsed());
        if !answer.is_ok() {
            return Err(format!("{path}: {answer:?}"));
        }
        let times = if is_list {
            &mut seen.lists
        } else {
            &mut seen.inspections
        };
        times.push(took);
        asked += 1;
        next = pace.map_or_else(Instant::now, |pace| next + pace);
    }
    Ok(seen)
}

/// Of a hundred containers, one after the other; milliseconds of all.
fn stats(engine: &Engine, ids: &[String]) -> Result<f64, Failed> {
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let before = Instant::now();
        for id in ids.iter().take(STATS) {
            let path = format!("/containers/{id}/stats?stream=0&one-shot=1");
            let answer = engine.api.get(&path)?;
            if !answer.is_ok() || answer.json()["cpu_stats"].is_null() {
                return Err(format!("{}: {path}: {answer:?}", engine.kind.name()).into());
            }
        }
        rounds.push(millis(before.elapsed()));
    }
    Ok(median(&rounds))
}

/// Whole lives of containers a second, beside those that run.
fn lives(engine: &Engine) -> Result<f64, Failed> {
    by_clients(engine, LIVES, |_| {
        let id = create(engine, &["true"])?;
        start(engine, &id)?;
        post(engine, &format!("/containers/{id}/wait"), &Value::Null)?;
        remove(engine, &id)
    })
}

fn ps(engine: &Engine) -> Result<f64, Failed> {
    let mut times = Vec::new();
    for _ in 0..11 {
        let before = Instant::now();
        client(engine, &["ps", "-a"]).map_err(|e| format!("{}: {e}", engine.kind.name()))?;
        times.push(millis(before.elapsed()));
    }
    Ok(median(&times))
}

fn list(engine: &Engine, path: &str) -> Result<f64, Failed> {
    let mut times = Vec::new();
    for _ in 0..11 {
        let answer = engine.api.get(path)?;
        if !answer.is_ok() {
            return Err(format!("{path}: {answer:?}").into());
        }
        times.push(millis(answer.took));
    }
    Ok(median(&times))
}

fn rows(options: &Options, figures: &Figures, table: &mut Table) {
    rows_of_load(options.containers, figures, table);
    rows_of_one(options.containers, figures, table);
}

fn rows_of_load(n: usize, figures: &Figures, table: &mut Table) {
    let load = format!("{CLIENTS} clients, {n} containers");
    let five = [Target::AtMost(5.0)];
    table.row(
        &format!("inspect, p99: {load}"),
        "ms",
        &figures.of("inspect"),
        &five,
    );
    table.row(
        &format!("list, p99: {load}"),
        "ms",
        &figures.of("list"),
        &five,
    );
    for (clients, [inspections, lists, rate]) in [
        (CLIENTS, ["inspect at once", "list at once", "rate at once"]),
        (
            MANY_CLIENTS,
            ["inspect of many", "list of many", "rate of many"],
        ),
    ] {
        let load = format!("{clients} clients without pauses");
        table.row(
            &format!("inspect, p99: {load}"),
            "ms",
            &figures.of(inspections),
            &[],
        );
        table.row(&format!("list, p99: {load}"), "ms", &figures.of(lists), &[]);
        table.rate(
            &format!("requests: {load}"),
            "per s",
            &figures.of(rate),
            &[],
        );
    }
}

fn rows_of_one(n: usize, figures: &Figures, table: &mut Table) {
    let what = format!("one-shot stats of {STATS} containers, one after the other");
    table.row(&what, "ms", &figures.of("stats"), &[Target::AtMost(100.0)]);
    table.rate(
        "create, start, wait, remove by 8 clients",
        "per s",
        &figures.of("lives"),
        &[Target::Ratio("docker", 10.0)],
    );
    for (when, what, targets) in [
        ("", "memory", &[Target::AtMost(40.0)][..]),
        (", after the load", "memory after", &[Target::AtMost(40.0)]),
    ] {
        let what_row = format!("daemon with {n} running containers{when}: Pss of its processes");
        table.row(&what_row, "MiB", &figures.of(what), targets);
    }
    let what = format!("`ps -a`: {KNOWN} containers, {n} run");
    table.row(&what, "ms", &figures.of("ps"), &[]);
    let many = format!("{OURS_KNOWN} containers, {OURS_RUNNING} run");
    let twenty = [Target::AtMost(20.0)];
    table.row(
        &format!("`ps -a`: {many}"),
        "ms",
        &figures.of("ps of many"),
        &twenty,
    );
    table.row(
        &format!("list of all: {many}"),
        "ms",
        &figures.of("list of all"),
        &twenty,
    );
    table.row(
        &format!("list of those that run: {many}"),
        "ms",
        &figures.of("list of running"),
        &[],
    );
    table.row(
        &format!("daemon: {many}: Pss"),
        "MiB",
        &figures.of("memory of many"),
        &[],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((percentile(&times, 99) - 199.0).abs() < f64::EPSILON);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 99).is_nan());
    }
}
