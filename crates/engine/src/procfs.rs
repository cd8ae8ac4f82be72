//! What /proc says of processes: identity, and the table of `top`.

use std::collections::{BTreeMap, HashMap};
use std::io;

use crate::error::Error;
use crate::views::{InterfaceCounters, TopTable};

/// Fields of /proc/pid/stat that are used here. source: proc_pid_stat(5).
#[derive(Debug, Clone, Default)]
struct Stat {
    state: char,
    parent: i32,
    group: i32,
    session: i32,
    terminal: i32,
    ticks: u64,
    nice: i64,
    start: u64,
    rss_pages: u64,
    name: String,
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other("unreadable /proc/pid/stat"))
}

/// The name is in parentheses and may hold any byte, also parentheses and spaces.
fn parse_stat(text: &str) -> Option<Stat> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let fields: Vec<&str> = text[close + 1..].split_whitespace().collect();
    // the first of these is field 3
    let field = |n: usize| fields.get(n - 3);
    Some(Stat {
        name: text[open + 1..close].to_owned(),
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        terminal: field(7)?.parse().ok()?,
        ticks: field(14)?.parse::<u64>().ok()? + field(15)?.parse::<u64>().ok()?,
        nice: field(19)?.parse().ok()?,
        start: field(22)?.parse().ok()?,
        rss_pages: field(24)?.parse().unwrap_or(0),
    })
}

/// A process's parent, and its start time in ticks since boot.
pub(crate) fn parent_and_start(pid: i32) -> io::Result<(i32, u64)> {
    stat(pid).map(|s| (s.parent, s.start))
}

/// Counters of the interfaces that a process sees, but the loopback; none where it sees the host's, or has ended.
pub(crate) fn interfaces(pid: i32, start: u64) -> BTreeMap<String, InterfaceCounters> {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let (own, its) = (namespace("self"), namespace(&pid.to_string()));
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev"));
    // asked last: all that was read before is this process's, then
    let same = parent_and_start(pid).is_ok_and(|(_, s)| s == start);
    match text {
        Ok(text) if same && its.is_some() && its != own => parse_net_dev(&text),
        _ => BTreeMap::new(),
    }
}

/// Two lines of titles, then `name: 8 of what came, 8 of what went`. source: proc_pid_net(5).
fn parse_net_dev(text: &str) -> BTreeMap<String, InterfaceCounters> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let n: Vec<u64> = rest
            .split_whitespace()
            .map_while(|w| w.parse().ok())
            .collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, ..] = n[..] else {
            return None;
        };
        let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = *n.get(8..)? else {
            return None;
        };
        let counters = InterfaceCounters {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        };
        Some((name.trim().to_owned(), counters)).filter(|(name, _)| name != "lo")
    };
    text.lines().filter_map(line).collect()
}

struct Host {
    uptime: f64,
    now: jiff::Timestamp,
    users: HashMap<u32, String>,
    memory: u64,
    ticks: u64,
    page: u64,
}

impl Host {
    fn read() -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let first = uptime.split_whitespace().next().unwrap_or("0");
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let users = passwd.lines().filter_map(|l| {
            let mut f = l.split(':');
            let (name, uid) = (f.next()?, f.nth(1)?);
            Some((uid.parse().ok()?, name.to_owned()))
        });
        Self {
            uptime: first.parse().unwrap_or(0.0),
            now: jiff::Timestamp::now(),
            users: users.collect(),
            memory: memory_total(),
            ticks: rustix::param::clock_ticks_per_second(),
            page: rustix::param::page_size() as u64,
        }
    }
}

/// Bytes.
pub(crate) fn memory_total() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("MemTotal:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The host's CPU time of all CPUs in nanoseconds, and how many CPUs are online.
pub(crate) fn system_cpu() -> (u64, u32) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut lines = text.lines();
    // user nice system idle iowait irq softirq steal; guest is in user already
    let ticks: u64 = lines
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|f| f.parse::<u64>().ok())
        .sum();
    let online = lines.take_while(|l| l.starts_with("cpu")).count();
    let per_tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    (ticks * per_tick, u32::try_from(online).unwrap_or(1))
}

/// A column of `ps`.
type Column = (&'static str, fn(&Host, &Stat, i32) -> String);

const FULL: [Column; 8] = [
    ("UID", |h, _, pid| user(h, pid)),
    ("PID", |_, _, pid| pid.to_string()),
    ("PPID", |_, s, _| s.parent.to_string()),
    ("C", |h, s, _| format!("{:.0}", cpu_percent(h, s))),
    ("STIME", start),
    ("TTY", |_, s, _| terminal(s)),
    ("TIME", |h, s, _| cpu_time(h, s)),
    ("CMD", |_, s, pid| command(s, pid)),
];

const AUX: [Column; 11] = [
    ("USER", |h, _, pid| user(h, pid)),
    ("PID", |_, _, pid| pid.to_string()),
    ("%CPU", |h, s, _| format!("{:.1}", cpu_percent(h, s))),
    ("%MEM", |h, s, _| memory_percent(h, s)),
    ("VSZ", |_, _, pid| vsz(pid)),
    ("RSS", |h, s, _| (s.rss_pages * h.page / 1024).to_string()),
    ("TTY", |_, s, _| terminal(s)),
    ("STAT", |_, s, _| s.state.to_string()),
    ("START", start),
    ("TIME", |h, s, _| cpu_time(h, s)),
    ("COMMAND", |_, s, pid| command(s, pid)),
];

fn column(name: &str) -> Option<Column> {
    Some(match name {
        "pid" => ("PID", |_, _, pid| pid.to_string()),
        "ppid" => ("PPID", |_, s, _| s.parent.to_string()),
        "pgid" | "pgrp" => ("PGID", |_, s, _| s.group.to_string()),
        "sid" | "sess" => ("SID", |_, s, _| s.session.to_string()),
        "user" | "uname" | "euser" => ("USER", |h, _, pid| user(h, pid)),
        "uid" | "euid" => ("UID", |_, _, pid| uid(pid).to_string()),
        "cmd" | "args" | "command" => ("CMD", |_, s, pid| command(s, pid)),
        "comm" | "ucmd" => ("COMMAND", |_, s, _| s.name.clone()),
        "time" | "cputime" => ("TIME", |h, s, _| cpu_time(h, s)),
        "tty" | "tt" | "tname" => ("TTY", |_, s, _| terminal(s)),
        "stat" | "state" | "s" => ("STAT", |_, s, _| s.state.to_string()),
        "rss" | "rssize" => ("RSS", |h, s, _| (s.rss_pages * h.page / 1024).to_string()),
        "vsz" | "vsize" => ("VSZ", |_, _, pid| vsz(pid)),
        "%cpu" | "pcpu" => ("%CPU", |h, s, _| format!("{:.1}", cpu_percent(h, s))),
        "%mem" | "pmem" => ("%MEM", |h, s, _| memory_percent(h, s)),
        "nice" | "ni" => ("NI", |_, s, _| s.nice.to_string()),
        "stime" | "start" | "start_time" => ("STIME", start),
        "etime" => ("ELAPSED", |h, s, _| clock(age(h, s))),
        _ => return None,
    })
}

/// The table of `ps` with these arguments, for these processes. No `ps` is executed: what is
/// understood is `-ef`, `aux` and lists of columns; the rest is refused by name.
pub(crate) fn table(pids: &[i32], arguments: &str) -> Result<TopTable, Error> {
    let columns = columns(arguments)?;
    let host = Host::read();
    let mut rows = Vec::with_capacity(pids.len());
    for pid in pids {
        // one that ended since the list was taken is left out
        if let Ok(stat) = stat(*pid) {
            rows.push(columns.iter().map(|(_, f)| f(&host, &stat, *pid)).collect());
        }
    }
    Ok(TopTable {
        titles: columns.iter().map(|(t, _)| (*t).to_owned()).collect(),
        rows,
    })
}

fn columns(arguments: &str) -> Result<Vec<Column>, Error> {
    let mut words = arguments.split_whitespace();
    let Some(first) = words.next() else {
        return Ok(FULL.to_vec());
    };
    let mut names: Vec<&str> = Vec::new();
    match first {
        "-ef" | "-f" | "-fe" | "-e" => {}
        "aux" | "-aux" | "u" | "-u" | "aux.w" | "auxww" | "auxwww" => return Ok(AUX.to_vec()),
        _ => words = arguments.split_whitespace(),
    }
    while let Some(word) = words.next() {
        let list = match word {
            "-eo" | "-o" | "o" | "-Ao" | "axo" => words.next(),
            _ => word.strip_prefix("-o").or_else(|| word.strip_prefix("-eo")),
        };
        let Some(list) = list else {
            return Err(Error::unsupported(format!(
                "top: the argument {word} of ps is not built yet (-ef, aux, -o COLUMN,...)"
            )));
        };
        names.extend(list.split(',').filter(|n| !n.is_empty()));
    }
    if names.is_empty() {
        return Ok(FULL.to_vec());
    }
    names
        .into_iter()
        .map(|n| {
            column(&n.to_ascii_lowercase())
                .ok_or_else(|| Error::invalid(format!("top: unknown column {n}")))
        })
        .collect()
}

fn uid(pid: i32) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}")).map_or(0, |m| m.uid())
}

fn user(host: &Host, pid: i32) -> String {
    let uid = uid(pid);
    host.users
        .get(&uid)
        .cloned()
        .unwrap_or_else(|| uid.to_string())
}

fn age(host: &Host, stat: &Stat) -> u64 {
    let started = stat.start / host.ticks.max(1);
    std::time::Duration::try_from_secs_f64(host.uptime)
        .map_or(0, |u| u.as_secs())
        .saturating_sub(started)
}

fn cpu_percent(host: &Host, stat: &Stat) -> f64 {
    let seconds = u32::try_from(stat.ticks / host.ticks.max(1)).unwrap_or(u32::MAX);
    let age = u32::try_from(age(host, stat).max(1)).unwrap_or(u32::MAX);
    100.0 * f64::from(seconds) / f64::from(age)
}

fn memory_percent(host: &Host, stat: &Stat) -> String {
    let permille = (stat.rss_pages * host.page * 1000)
        .checked_div(host.memory)
        .unwrap_or(0);
    format!("{}.{}", permille / 10, permille % 10)
}

fn vsz(pid: i32) -> String {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm
        .split_whitespace()
        .next()
        .and_then(|p| p.parse().ok())
        .unwrap_or(0);
    (pages * rustix::param::page_size() as u64 / 1024).to_string()
}

fn start(host: &Host, stat: &Stat, _: i32) -> String {
    let seconds = i64::try_from(age(host, stat)).unwrap_or(0);
    let at = host.now - jiff::SignedDuration::from_secs(seconds);
    at.strftime("%H:%M").to_string()
}

fn terminal(stat: &Stat) -> String {
    let number = stat.terminal.cast_unsigned();
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    );
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

fn clock(seconds: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn cpu_time(host: &Host, stat: &Stat) -> String {
    clock(stat.ticks / host.ticks.max(1))
}

/// Arguments joined by spaces; the name in brackets where it has none (a thread of the kernel).
fn command(stat: &Stat, pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect();
    if words.is_empty() {
        format!("[{}]", stat.name)
    } else {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_without_the_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets errs\n    \
            lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0:1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n bad: 1\n";
        let all = parse_net_dev(text);
        let eth0 = InterfaceCounters {
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 5,
            tx_packets: 6,
            tx_errors: 7,
            tx_dropped: 8,
        };
        assert_eq!(all, BTreeMap::from([("eth0".to_owned(), eth0)]));
    }

    #[test]
    fn interfaces_of_the_host_are_nobodys() {
        let pid = std::process::id().cast_signed();
        let (_, start) = parent_and_start(pid).unwrap();
        assert!(interfaces(pid, start).is_empty());
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "7 (a) (b c) S 3 7 7 34818 7 0 0 0 0 0 5 6 0 0 20 0 1 0 99 1000 25 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.name, "a) (b c");
        assert_eq!(
            (stat.parent, stat.start, stat.ticks, stat.rss_pages),
            (3, 99, 11, 25)
        );
        assert_eq!(terminal(&stat), "pts/2");
    }

    #[test]
    fn own_process_in_all_three_forms() {
        let own = i32::try_from(std::process::id()).unwrap();
        for (arguments, titles) in [("", 8), ("-ef", 8), ("aux", 11), ("-o pid,comm,%mem", 3)] {
            let table = table(&[own, i32::MAX], arguments).unwrap();
            assert_eq!(table.titles.len(), titles, "{arguments}");
            assert_eq!(table.rows.len(), 1);
            assert_eq!(table.rows[0].len(), titles);
        }
        assert!(table(&[], "-o nonsense").is_err());
        assert!(table(&[], "--forest").is_err());
    }
}
