//! `update` and `events`.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use runtime::oci::News;
use runtime::spec::LinuxResources;
use serde_json::{Map, Value, json};

use super::{Context, Failure, Outcome, Verb};
use crate::flags::{Flag, go_int, go_uint, refused, switch, value};
use crate::parse;

#[derive(Debug, Default)]
pub(super) struct UpdateOptions {
    file: Option<PathBuf>,
    /// Section, key, value, as in the configuration's `linux.resources`.
    values: Vec<(&'static str, &'static str, Value)>,
}

impl UpdateOptions {
    fn put(&mut self, section: &'static str, key: &'static str, value: impl Into<Value>) {
        self.values.push((section, key, value.into()));
    }
}

const RDT: &str = "no Intel RDT is managed by this runtime";

const UPDATE_FLAGS: &[Flag<UpdateOptions>] = &[
    value(
        "resources",
        Some('r'),
        "file",
        |o, v| {
            o.file = Some(v.into());
            Ok(())
        },
        "JSON file with the limits, - for standard input; other flags are then refused",
    ),
    value(
        "memory",
        None,
        "bytes",
        |o, v| {
            o.put("memory", "limit", parse::swap_bytes(v)?);
            Ok(())
        },
        "Memory limit",
    ),
    value(
        "memory-reservation",
        None,
        "bytes",
        |o, v| {
            o.put("memory", "reservation", parse::swap_bytes(v)?);
            Ok(())
        },
        "Memory left to the container under pressure",
    ),
    value(
        "memory-swap",
        None,
        "bytes",
        |o, v| {
            o.put("memory", "swap", parse::swap_bytes(v)?);
            Ok(())
        },
        "Limit of memory and swap together, -1 for none",
    ),
    value(
        "pids-limit",
        None,
        "n",
        |o, v| {
            o.put("pids", "limit", go_int(v)?);
            Ok(())
        },
        "Most processes, -1 for no limit",
    ),
    value(
        "blkio-weight",
        None,
        "n",
        |o, v| {
            o.put("blockIO", "weight", go_uint(v, 16)?);
            Ok(())
        },
        "Share of disks, 10 to 1000",
    ),
    refused("l3-cache-schema", None, RDT),
    refused("mem-bw-schema", None, RDT),
    refused("kernel-memory", None, "kernels no longer limit it apart"),
    refused(
        "kernel-memory-tcp",
        None,
        "kernels no longer limit it apart",
    ),
];

const CPU_FLAGS: &[Flag<UpdateOptions>] = &[
    value(
        "cpu-share",
        None,
        "n",
        |o, v| {
            o.put("cpu", "shares", go_uint(v, 64)?);
            Ok(())
        },
        "Share of CPU time, relative to other containers",
    ),
    value(
        "cpu-shares",
        None,
        "n",
        |o, v| {
            o.put("cpu", "shares", go_uint(v, 64)?);
            Ok(())
        },
        "",
    ),
    value(
        "cpu-quota",
        None,
        "us",
        |o, v| {
            o.put("cpu", "quota", go_int(v)?);
            Ok(())
        },
        "CPU time in each period",
    ),
    value(
        "cpu-period",
        None,
        "us",
        |o, v| {
            o.put("cpu", "period", go_uint(v, 64)?);
            Ok(())
        },
        "Length of a period",
    ),
    value(
        "cpu-burst",
        None,
        "us",
        |o, v| {
            o.put("cpu", "burst", go_uint(v, 64)?);
            Ok(())
        },
        "CPU time that may be saved up",
    ),
    value(
        "cpu-rt-period",
        None,
        "us",
        |o, v| {
            o.put("cpu", "realtimePeriod", go_uint(v, 64)?);
            Ok(())
        },
        "Length of a realtime period",
    ),
    value(
        "cpu-rt-runtime",
        None,
        "us",
        |o, v| {
            o.put("cpu", "realtimeRuntime", go_int(v)?);
            Ok(())
        },
        "Realtime CPU time in each period",
    ),
    value(
        "cpu-idle",
        None,
        "0|1",
        |o, v| {
            o.put("cpu", "idle", go_int(v)?);
            Ok(())
        },
        "Run only when nothing else wants to",
    ),
    value(
        "cpuset-cpus",
        None,
        "list",
        |o, v| {
            o.put("cpu", "cpus", v);
            Ok(())
        },
        "CPUs to use",
    ),
    value(
        "cpuset-mems",
        None,
        "list",
        |o, v| {
            o.put("cpu", "mems", v);
            Ok(())
        },
        "Memory nodes to use",
    ),
];

pub(super) static UPDATE: Verb<UpdateOptions> = Verb {
    name: "update",
    usage: "[OPTIONS] CONTAINER",
    about: "Change the limits of a container",
    operands: (1, 1),
    flags: &[UPDATE_FLAGS, CPU_FLAGS],
    run: update,
};

fn update(context: &Context, options: UpdateOptions, operands: &[String]) -> Outcome {
    let mut wanted = match &options.file {
        Some(_) if !options.values.is_empty() => {
            return Err(Failure::Usage(
                "--resources and flags for single limits exclude each other".to_owned(),
            ));
        }
        Some(path) => read(path)?,
        None => Value::Object(Map::new()),
    };
    for (section, key, value) in options.values {
        wanted[section][key] = value;
    }
    unset(&mut wanted);
    let resources: LinuxResources = serde_json::from_value(wanted)
        .map_err(|e| Failure::Message(format!("resources: {e}"), 1))?;
    Ok(context.runtime.update(&operands[0], &resources)?)
}

fn read(path: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    if path == std::path::Path::new("-") {
        io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).map_err(|e| {
            let why = crate::verb::reason(&e);
            Failure::Message(format!("read {}: {why}", path.display()), 1)
        })?;
    }
    serde_json::from_str(&text).map_err(|e| Failure::Message(format!("resources: {e}"), 1))
}

/// runc takes a zero and an empty string as "as it is"; only `idle` has a zero that says something.
fn unset(value: &mut Value) {
    let Value::Object(sections) = value else {
        return;
    };
    for section in sections.values_mut() {
        if let Value::Object(fields) = section {
            fields.retain(|key, v| {
                key == "idle" || !(v.is_null() || v.as_i64() == Some(0) || v.as_str() == Some(""))
            });
        }
    }
    sections.retain(|_, s| !s.is_null() && s.as_object().is_none_or(|o| !o.is_empty()));
}

#[derive(Debug)]
pub(super) struct EventsOptions {
    stats: bool,
    interval: Duration,
}

impl Default for EventsOptions {
    fn default() -> Self {
        Self {
            stats: false,
            interval: Duration::from_secs(5),
        }
    }
}

/// Go's duration of one unit: `500ms`, `5s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let n: u64 = number.parse().map_err(|_| "invalid duration".to_owned())?;
    let duration = match unit {
        "ms" => Duration::from_millis(n),
        "s" => Duration::from_secs(n),
        "m" => Duration::from_secs(n.saturating_mul(60)),
        "h" => Duration::from_secs(n.saturating_mul(3600)),
        _ => return Err("invalid duration: use ms, s, m or h".to_owned()),
    };
    if duration.is_zero() {
        return Err("duration interval must be greater than 0".to_owned());
    }
    Ok(duration)
}

pub(super) static EVENTS: Verb<EventsOptions> = Verb {
    name: "events",
    usage: "[OPTIONS] CONTAINER",
    about: "Print a container's counters and events as JSON lines",
    operands: (1, 1),
    flags: &[&[
        switch("stats", None, |o, v| o.stats = v, "Print the counters once"),
        value(
            "interval",
            None,
            "duration",
            |o, v| {
                o.interval = duration(v)?;
                Ok(())
            },
            "Time between counters (5s)",
        ),
    ]],
    run: events,
};

fn events(context: &Context, options: EventsOptions, operands: &[String]) -> Outcome {
    let id = &operands[0];
    let container = context.runtime.container(id)?;
    let tell = |kind: &str, data: Option<Value>| {
        let mut event = json!({"type": kind, "id": id});
        if let Some(data) = data {
            event["data"] = data;
        }
        context.print(&format!("{event}\n"))
    };
    if options.stats {
        return tell("stats", Some(context.runtime.stats(&container)?));
    }
    let watch = context.runtime.watch(&container)?;
    loop {
        match watch.next(options.interval)? {
            News::End => return Ok(()),
            News::Oom => tell("oom", None)?,
            News::Time if container.has_ended() => return Ok(()),
            News::Time => tell("stats", Some(context.runtime.stats(&container)?))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_as_it_is() {
        let mut v = json!({"memory": {"limit": 0, "swap": -1}, "cpu": {"shares": 0, "cpus": ""},
            "pids": null, "unified": {"memory.high": "1"}});
        unset(&mut v);
        assert_eq!(
            v,
            json!({"memory": {"swap": -1}, "unified": {"memory.high": "1"}})
        );
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "0s", "-1s", "1d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
