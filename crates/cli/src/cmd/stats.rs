//! `stats`: one thread per container reads its samples, the main one draws.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::Mutex;
use std::time::Duration;

use api::container::ContainerSummary;
use api::stats::Stats;

use super::lists::FORMAT_HELP;
use crate::endpoint::Endpoint;
use crate::flags::{switch, value};
use crate::http::{Client, Query, escape};
use crate::human::{binary_size, short_id, size};
use crate::table::{Column, Format, Row, Table, column, row};
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

#[derive(Debug, Default)]
pub(crate) struct StatsOptions {
    all: bool,
    no_stream: bool,
    no_trunc: bool,
    format: Option<String>,
}

#[rustfmt::skip]
pub(crate) static STATS: Verb<StatsOptions> = Verb {
    path: "stats",
    aliases: &["container stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Display a live stream of container(s) resource usage statistics",
    operands: Operands::AtLeast(0),
    offer: Offer::RunningContainers,
    interspersed: true,
    flags: &[&[
        switch("all", Some('a'), |o, v| o.all = v, "Show all containers, not only those that run"),
        switch("no-stream", None, |o, v| o.no_stream = v, "Show one sample and end"),
        switch("no-trunc", None, |o, v| o.no_trunc = v, "Do not cut"),
        value("format", None, "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, FORMAT_HELP),
    ]],
    run: stats,
};

const COLUMNS: &[Column] = &[
    column("Container", "CONTAINER"),
    column("ID", "CONTAINER ID"),
    column("Name", "NAME"),
    column("CPUPerc", "CPU %"),
    column("MemUsage", "MEM USAGE / LIMIT"),
    column("MemPerc", "MEM %"),
    column("NetIO", "NET I/O"),
    column("BlockIO", "BLOCK I/O"),
    column("PIDs", "PIDS"),
];

const DEFAULT: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// Samples by the name they were asked for.
type Samples = Mutex<BTreeMap<String, Result<Row, String>>>;

fn stats(context: &Context, o: StatsOptions, names: Vec<String>) -> Outcome {
    let listed = names.is_empty();
    let names = if listed { list(context, o.all)? } else { names };
    let format = Format::parse(o.format.as_deref(), false, "", DEFAULT);
    let samples = Samples::default();
    if o.no_stream {
        let endpoint = &context.client.endpoint;
        let (samples, full) = (&samples, o.no_trunc);
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(move || watch(endpoint, name, samples, true, full));
            }
        });
        return context.print(&draw(&names, samples, &format, listed)?);
    }
    follow(context, &o, names, listed, &format)
}

fn list(context: &Context, all: bool) -> Result<Vec<String>, Failure> {
    let query = Query::new("/containers/json").flag("all", all).build();
    let found: Vec<ContainerSummary> = context.client.get_json(&query)?;
    Ok(found.into_iter().map(|c| c.id).collect())
}

/// Draws twice a second until the user or the pipe's reader ends it. The watchers are not joined:
/// they end with the process.
fn follow(
    context: &Context,
    o: &StatsOptions,
    mut names: Vec<String>,
    listed: bool,
    format: &Format,
) -> Outcome {
    let samples: &'static Samples = Box::leak(Box::default());
    let mut watched = std::collections::BTreeSet::new();
    let terminal = crate::term::stdout_is_terminal();
    for turn in 0_u32.. {
        if listed && turn % 4 == 0 {
            names = list(context, o.all)?;
        }
        for name in &names {
            if watched.insert(name.clone()) {
                let (endpoint, name) = (context.client.endpoint.clone(), name.clone());
                let no_trunc = o.no_trunc;
                std::thread::spawn(move || watch(&endpoint, &name, samples, false, no_trunc));
            }
        }
        std::thread::sleep(Duration::from_millis(500));
        let text = draw(&names, samples, format, listed)?;
        if terminal {
            // home; each line cut where it ends; nothing below
            let text = text.replace('\n', "\x1b[K\n");
            context.print(&format!("\x1b[H{text}\x1b[J"))?;
        } else {
            context.print(&text)?;
        }
    }
    Ok(())
}

fn watch(endpoint: &Endpoint, name: &str, samples: &Samples, once: bool, full: bool) {
    let client = Client::new(endpoint.clone(), false);
    let path = Query::new(format!("/containers/{}/stats", escape(name)))
        .with("stream", if once { "0" } else { "1" })
        .build();
    let put = |row| {
        samples
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(name.to_owned(), row);
    };
    let response = match client.get(&path) {
        Ok(response) => response,
        Err(e) => return put(Err(e.to_string())),
    };
    for line in BufReader::new(response).lines() {
        let Ok(line) = line else { return };
        if let Ok(sample) = api::decode::<Stats>(line.as_bytes()) {
            put(Ok(sample_row(name, &sample, full)));
        }
    }
}

fn draw(
    names: &[String],
    samples: &Samples,
    format: &Format,
    listed: bool,
) -> Result<String, Failure> {
    let samples = samples
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut rows = Vec::new();
    for name in names {
        match samples.get(name) {
            Some(Ok(row)) => rows.push(row.clone()),
            // one that was asked for by name must be there
            Some(Err(e)) if !listed => return Err(Failure::say(e.clone())),
            _ => {}
        }
    }
    Table {
        columns: COLUMNS,
        rows: &rows,
    }
    .render(format)
}

fn sample_row(asked: &str, s: &Stats, full: bool) -> Row {
    let cut = |id: &str| {
        if full {
            id.to_owned()
        } else {
            short_id(id).to_owned()
        }
    };
    let cache = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|k| s.memory_stats.stats.get(*k))
        .copied()
        .unwrap_or(0);
    let used = if cache < s.memory_stats.usage {
        s.memory_stats.usage - cache
    } else {
        s.memory_stats.usage
    };
    let limit = s.memory_stats.limit;
    let share = if limit == 0 {
        0.0
    } else {
        used as f64 / limit as f64 * 100.0
    };
    let received: u64 = s.networks.values().map(|n| n.rx_bytes).sum();
    let sent: u64 = s.networks.values().map(|n| n.tx_bytes).sum();
    let block = |letter: char| -> u64 {
        s.blkio_stats
            .io_service_bytes_recursive
            .iter()
            .flatten()
            .filter(|e| e.op.to_ascii_lowercase().starts_with(letter))
            .map(|e| e.value)
            .sum()
    };
    let bytes = |n: u64| size(i64::try_from(n).unwrap_or(i64::MAX));
    row([
        ("Container", cut(asked)),
        ("ID", cut(&s.id)),
        ("Name", s.name.trim_start_matches('/').to_owned()),
        ("CPUPerc", format!("{:.2}%", cpu_percent(s))),
        (
            "MemUsage",
            format!(
                "{} / {}",
                binary_size(used as f64),
                binary_size(limit as f64)
            ),
        ),
        ("MemPerc", format!("{share:.2}%")),
        ("NetIO", format!("{} / {}", bytes(received), bytes(sent))),
        (
            "BlockIO",
            format!("{} / {}", bytes(block('r')), bytes(block('w'))),
        ),
        ("PIDs", s.pids_stats.current.to_string()),
    ])
}

fn cpu_percent(s: &Stats) -> f64 {
    let used = s
        .cpu_stats
        .cpu_usage
        .total_usage
        .saturating_sub(s.precpu_stats.cpu_usage.total_usage);
    let passed = s
        .cpu_stats
        .system_cpu_usage
        .saturating_sub(s.precpu_stats.system_cpu_usage);
    if used == 0 || passed == 0 {
        return 0.0;
    }
    used as f64 / passed as f64 * f64::from(s.cpu_stats.online_cpus.max(1)) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_as_docker_shows_it() {
        // the numbers of a sample that docker 28 shows as 10.00%, 18.12MiB / 1.863GiB, 0.95%
        let text = r#"{"pids_stats":{"current":3},"name":"/web","id":"0123456789abcdef",
            "blkio_stats":{"io_service_bytes_recursive":[{"op":"read","value":123456},{"op":"write","value":4096}]},
            "cpu_stats":{"cpu_usage":{"total_usage":200000000},"system_cpu_usage":20000000000,"online_cpus":2},
            "precpu_stats":{"cpu_usage":{"total_usage":100000000},"system_cpu_usage":18000000000,"online_cpus":2},
            "memory_stats":{"usage":20000000,"limit":2000000000,"stats":{"inactive_file":1000000}},
            "networks":{"eth0":{"rx_bytes":1500,"tx_bytes":0}}}"#;
        let sample: Stats = api::decode(text.as_bytes()).expect("a sample");
        let rows = [sample_row("web", &sample, false)];
        let table = Table {
            columns: COLUMNS,
            rows: &rows,
        };
        insta::assert_snapshot!(table.render(&Format::Table(DEFAULT.into())).expect("drawn"), @r"
        CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT     MEM %     NET I/O      BLOCK I/O       PIDS
        0123456789ab   web       10.00%    18.12MiB / 1.863GiB   0.95%     1.5kB / 0B   123kB / 4.1kB   3
        ");
    }
}
