//! `stats`: one reading, two readings a second apart, or a reading each second.

use std::io;
use std::time::Duration;

use api::stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    ThrottlingData,
};
use engine::{Engine, InterfaceCounters, StatsSample};
use tokio::sync::mpsc;

use super::answer::{Answer, channel, json_line, ok};
use super::call::Call;
use super::time;

const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn stats(call: Call) -> Answer {
    let (stream, one_shot) = (call.query.on_or("stream", true), call.query.on("one-shot"));
    let container = call.engine().find(&call.param)?;
    let who = (container.id().to_owned(), format!("/{}", container.name()));
    let engine = call.engine().clone();
    if !container.is_running() && !stream {
        return ok(&named(Stats::default(), &who));
    }
    if !stream {
        let first = engine.stats(&who.0).await?;
        if one_shot {
            return ok(&named(wire(&first, None), &who));
        }
        tokio::time::sleep(EVERY).await;
        let second = engine.stats(&who.0).await?;
        return ok(&named(wire(&second, Some(&first)), &who));
    }
    let (out, body) = mpsc::channel(1);
    tokio::spawn(every_second(engine, who, out));
    Ok(channel("application/json", body))
}

/// Ends with the client or when the container is removed. While it does not run, zeros are sent.
async fn every_second(
    engine: Engine,
    who: (String, String),
    out: mpsc::Sender<io::Result<bytes::Bytes>>,
) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last: Option<StatsSample> = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = out.closed() => return,
        }
        let Ok(view) = engine.find(&who.0) else {
            return;
        };
        let sample = if view.is_running() {
            engine.stats(&who.0).await.ok()
        } else {
            None
        };
        let line = sample
            .as_ref()
            .map_or_else(Stats::default, |now| wire(now, last.as_ref()));
        last = sample;
        if out.send(Ok(json_line(&named(line, &who)))).await.is_err() {
            return;
        }
    }
}

fn named(stats: Stats, (id, name): &(String, String)) -> Stats {
    Stats {
        id: id.clone(),
        name: name.clone(),
        ..stats
    }
}

fn cpu(s: &StatsSample) -> CpuStats {
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: s.cpu_total_ns,
            percpu_usage: Vec::new(),
            usage_in_kernelmode: s.cpu_system_ns,
            usage_in_usermode: s.cpu_user_ns,
        },
        system_cpu_usage: s.system_cpu_ns,
        online_cpus: s.online_cpus,
        throttling_data: ThrottlingData {
            periods: s.throttling_periods,
            throttled_periods: s.throttled_periods,
            throttled_time: s.throttled_ns,
        },
    }
}

fn network((name, of): (&String, &InterfaceCounters)) -> (String, NetworkStats) {
    let counters = NetworkStats {
        rx_bytes: of.rx_bytes,
        rx_packets: of.rx_packets,
        rx_errors: of.rx_errors,
        rx_dropped: of.rx_dropped,
        tx_bytes: of.tx_bytes,
        tx_packets: of.tx_packets,
        tx_errors: of.tx_errors,
        tx_dropped: of.tx_dropped,
    };
    (name.clone(), counters)
}

fn wire(s: &StatsSample, before: Option<&StatsSample>) -> Stats {
    let blkio = |value: fn(&engine::BlkioEntry) -> u64| {
        let entries = s.blkio.iter().map(|b| BlkioEntry {
            major: b.major,
            minor: b.minor,
            op: b.op.clone(),
            value: value(b),
        });
        Some(entries.collect())
    };
    Stats {
        read: time::format(s.read),
        preread: before.map_or_else(
            || api::container::NO_TIME.to_owned(),
            |b| time::format(b.read),
        ),
        pids_stats: PidsStats {
            current: s.pids_current,
            limit: s.pids_limit,
        },
        blkio_stats: BlkioStats {
            io_service_bytes_recursive: blkio(|b| b.bytes),
            io_serviced_recursive: blkio(|b| b.ios),
            ..BlkioStats::default()
        },
        cpu_stats: cpu(s),
        precpu_stats: before.map(cpu).unwrap_or_default(),
        memory_stats: MemoryStats {
            usage: s.memory_usage,
            max_usage: s.memory_max_usage,
            stats: s.memory_stats.clone(),
            failcnt: s.memory_failcnt,
            limit: s.memory_limit,
        },
        networks: s.interfaces.iter().map(network).collect(),
        ..Stats::default()
    }
}
