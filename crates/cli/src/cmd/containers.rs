//! Verbs on containers that need no stream: stop, kill, rm, rename, wait, top, diff, update, ...

use std::io::Write as _;

use api::container::{
    ContainerInspect, FilesystemChange, PruneReport, TopResponse, UpdateRequest, UpdateResponse,
    WaitResponse,
};

use crate::flags::{go_int, refused, switch, value};
use crate::http::{Body, Query, Response, escape};
use crate::human;
use crate::parse;
use crate::table::align;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

fn path(name: &str, action: &str) -> String {
    format!("/containers/{}/{action}", escape(name))
}

#[derive(Debug, Default)]
pub(crate) struct StopOptions {
    signal: Option<String>,
    timeout: Option<i64>,
}

#[rustfmt::skip]
const STOP_FLAGS: crate::flags::Groups<StopOptions> = &[&[
    value("signal", Some('s'), "string", |o, v| { o.signal = Some(v.to_owned()); Ok(()) }, "Signal to send"),
    value("timeout", Some('t'), "int", |o, v| { o.timeout = Some(go_int(v)?); Ok(()) }, "Seconds to wait before killing it; -1 waits for ever"),
    // before Docker 28 the flag was called so
    value("time", None, "int", |o, v| { o.timeout = Some(go_int(v)?); Ok(()) }, ""),
]];

pub(crate) static STOP: Verb<StopOptions> = Verb {
    path: "stop",
    aliases: &["container stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop one or more running containers",
    operands: Operands::AtLeast(1),
    offer: Offer::RunningContainers,
    interspersed: true,
    flags: STOP_FLAGS,
    run: |context, o, names| stop_or_restart(context, &o, &names, "stop"),
};

pub(crate) static RESTART: Verb<StopOptions> = Verb {
    path: "restart",
    aliases: &["container restart"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Restart one or more containers",
    operands: Operands::AtLeast(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: STOP_FLAGS,
    run: |context, o, names| stop_or_restart(context, &o, &names, "restart"),
};

fn stop_or_restart(context: &Context, o: &StopOptions, names: &[String], verb: &str) -> Outcome {
    context.for_each(names, |name| {
        let query = Query::new(path(name, verb))
            .with_some("signal", o.signal.as_deref())
            .with_some("t", o.timeout.map(|t| t.to_string()).as_deref());
        context.client.post(&query.build())?;
        Ok(Some(name.to_owned()))
    })
}

#[derive(Debug, Default)]
pub(crate) struct KillOptions {
    signal: Option<String>,
}

pub(crate) static KILL: Verb<KillOptions> = Verb {
    path: "kill",
    aliases: &["container kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Kill one or more running containers",
    operands: Operands::AtLeast(1),
    offer: Offer::RunningContainers,
    interspersed: true,
    flags: &[&[value(
        "signal",
        Some('s'),
        "string",
        |o, v| {
            o.signal = Some(v.to_owned());
            Ok(())
        },
        "Signal to send (KILL)",
    )]],
    run: |context, o, names| {
        context.for_each(&names, |name| {
            let query = Query::new(path(name, "kill")).with_some("signal", o.signal.as_deref());
            context.client.post(&query.build())?;
            Ok(Some(name.to_owned()))
        })
    },
};

/// Verbs without flags that take names.
macro_rules! plain {
    ($verb:ident, $word:literal, $about:literal, $offer:ident) => {
        pub(crate) static $verb: Verb<()> = Verb {
            path: $word,
            aliases: &[concat!("container ", $word)],
            usage: "CONTAINER [CONTAINER...]",
            about: $about,
            operands: Operands::AtLeast(1),
            offer: Offer::$offer,
            interspersed: true,
            flags: &[],
            run: |context, (), names| {
                context.for_each(&names, |name| {
                    context.client.post(&path(name, $word))?;
                    Ok(Some(name.to_owned()))
                })
            },
        };
    };
}

plain!(
    PAUSE,
    "pause",
    "Pause all processes within one or more containers",
    RunningContainers
);
plain!(
    UNPAUSE,
    "unpause",
    "Unpause all processes within one or more containers",
    Containers
);

#[derive(Debug, Default)]
pub(crate) struct RemoveOptions {
    force: bool,
    volumes: bool,
}

pub(crate) static RM: Verb<RemoveOptions> = Verb {
    path: "rm",
    aliases: &["container rm", "container remove"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    operands: Operands::AtLeast(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[&[
        switch(
            "force",
            Some('f'),
            |o, v| o.force = v,
            "Kill it first if it runs",
        ),
        switch(
            "volumes",
            Some('v'),
            |o, v| o.volumes = v,
            "Remove its anonymous volumes too",
        ),
        refused("link", Some('l'), "links come with networks"),
    ]],
    run: |context, o, names| {
        context.for_each(&names, |name| {
            let query = Query::new(format!(
                "/containers/{}",
                escape(name.trim_start_matches('/'))
            ))
            .flag("force", o.force)
            .flag("v", o.volumes)
            .build();
            match context
                .client
                .send("DELETE", &query, Body::Empty)
                .and_then(Response::discard)
            {
                // as `rm -f` of a file that is not there
                Err(e) if o.force && e.status() == Some(404) => {
                    context.warn(&e.to_string());
                    Ok(None)
                }
                other => {
                    other?;
                    Ok(Some(name.to_owned()))
                }
            }
        })
    },
};

pub(crate) static RENAME: Verb<()> = Verb {
    path: "rename",
    aliases: &["container rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Rename a container",
    operands: Operands::Exactly(2),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        let query = Query::new(path(&names[0], "rename"))
            .with("name", &names[1])
            .build();
        context.client.post(&query).map_err(|e| {
            context.warn(&e.to_string());
            Failure::say(format!(
                "Error: failed to rename container named {}",
                names[0]
            ))
        })
    },
};

pub(crate) static WAIT: Verb<()> = Verb {
    path: "wait",
    aliases: &["container wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Block until one or more containers stop, then print their exit codes",
    operands: Operands::AtLeast(1),
    offer: Offer::RunningContainers,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        context.for_each(&names, |name| {
            let answer: WaitResponse = context
                .client
                .send("POST", &path(name, "wait"), Body::Empty)?
                .json()?;
            match answer.error.filter(|e| !e.message.is_empty()) {
                Some(error) => Err(Failure::say(error.message)),
                None => Ok(Some(answer.status_code.to_string())),
            }
        })
    },
};

pub(crate) static TOP: Verb<()> = Verb {
    path: "top",
    aliases: &["container top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    operands: Operands::AtLeast(1),
    offer: Offer::RunningContainers,
    interspersed: false,
    flags: &[],
    run: |context, (), names| {
        let arguments = (names.len() > 1).then(|| names[1..].join(" "));
        let query = Query::new(path(&names[0], "top")).with_some("ps_args", arguments.as_deref());
        let answer: TopResponse = context.client.get_json(&query.build())?;
        let mut lines = vec![answer.titles.join("\t")];
        lines.extend(answer.processes.iter().map(|p| p.join("\t")));
        context.print(&align(&lines, 20, 3))
    },
};

pub(crate) static DIFF: Verb<()> = Verb {
    path: "diff",
    aliases: &["container diff"],
    usage: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    operands: Operands::Exactly(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        let changes: Option<Vec<FilesystemChange>> =
            context.client.get_json(&path(&names[0], "changes"))?;
        let mut text = String::new();
        for change in changes.unwrap_or_default() {
            let kind = match change.kind {
                0 => 'C',
                1 => 'A',
                _ => 'D',
            };
            text.push_str(&format!("{kind} {}\n", change.path));
        }
        context.print(&text)
    },
};

pub(crate) static PORT: Verb<()> = Verb {
    path: "port",
    aliases: &["container port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    operands: Operands::Between(1, 2),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[],
    run: port,
};

fn port(context: &Context, (): (), names: Vec<String>) -> Outcome {
    let found: serde_json::Value = context.client.get_json(&path(&names[0], "json"))?;
    let wanted = names.get(1).map(|p| {
        if p.contains('/') {
            p.clone()
        } else {
            format!("{p}/tcp")
        }
    });
    let mut lines = Vec::new();
    let ports = found["NetworkSettings"]["Ports"].as_object();
    for (private, bindings) in ports.into_iter().flatten() {
        if wanted.as_ref().is_some_and(|w| w != private) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            let text = |key: &str| binding[key].as_str().unwrap_or_default();
            let ip = text("HostIp");
            let address = if ip.contains(':') {
                format!("[{ip}]:{}", text("HostPort"))
            } else {
                format!("{ip}:{}", text("HostPort"))
            };
            lines.push(match wanted {
                Some(_) => address,
                None => format!("{private} -> {address}"),
            });
        }
    }
    if let Some(wanted) = wanted
        && lines.is_empty()
    {
        return Err(Failure::say(format!(
            "Error: No public port '{wanted}' published for {}",
            names[0]
        )));
    }
    lines.iter().try_for_each(|l| context.println(l))
}

#[derive(Debug, Default)]
pub(crate) struct UpdateOptions {
    request: UpdateRequest,
    given: bool,
}

fn note<T>(given: &mut bool, slot: &mut T, value: Result<T, String>) -> Result<(), String> {
    *slot = value?;
    *given = true;
    Ok(())
}

#[rustfmt::skip]
pub(crate) static UPDATE: Verb<UpdateOptions> = Verb {
    path: "update",
    aliases: &["container update"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    operands: Operands::AtLeast(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[&[
        value("memory", Some('m'), "bytes", |o, v| note(&mut o.given, &mut o.request.resources.memory, parse::bytes(v)), "Memory limit"),
        value("memory-swap", None, "bytes", |o, v| note(&mut o.given, &mut o.request.resources.memory_swap, parse::swap_bytes(v)), "Limit of memory and swap together; -1 leaves swap unlimited"),
        value("memory-reservation", None, "bytes", |o, v| note(&mut o.given, &mut o.request.resources.memory_reservation, parse::bytes(v)), "Memory the container keeps under pressure (soft limit)"),
        value("cpus", None, "decimal", |o, v| note(&mut o.given, &mut o.request.resources.nano_cpus, parse::cpus(v)), "Number of CPUs"),
        value("cpu-shares", Some('c'), "int", |o, v| note(&mut o.given, &mut o.request.resources.cpu_shares, go_int(v)), "Relative weight of CPU time"),
        value("cpu-period", None, "int", |o, v| note(&mut o.given, &mut o.request.resources.cpu_period, go_int(v)), "Period of the CPU quota in microseconds"),
        value("cpu-quota", None, "int", |o, v| note(&mut o.given, &mut o.request.resources.cpu_quota, go_int(v)), "CPU time per period in microseconds"),
        value("cpuset-cpus", None, "string", |o, v| note(&mut o.given, &mut o.request.resources.cpuset_cpus, Ok(v.to_owned())), "CPUs to run on (0-3, 0,1)"),
        value("cpuset-mems", None, "string", |o, v| note(&mut o.given, &mut o.request.resources.cpuset_mems, Ok(v.to_owned())), "Memory nodes to use (0-3, 0,1)"),
        value("pids-limit", None, "int", |o, v| note(&mut o.given, &mut o.request.resources.pids_limit, go_int(v).map(Some)), "Limit of processes; -1 for none"),
        value("blkio-weight", None, "uint16", |o, v| note(&mut o.given, &mut o.request.resources.blkio_weight, crate::flags::go_uint(v, 16).map(|n| u16::try_from(n).unwrap_or(u16::MAX))), "Relative weight of block I/O, 10 to 1000, 0 to disable"),
        value("restart", None, "string", |o, v| {
            let (name, maximum_retry_count) = parse::restart_policy(v)?;
            note(&mut o.given, &mut o.request.restart_policy, Ok(api::container::RestartPolicy { name, maximum_retry_count }))
        }, "When to start it again (no, on-failure[:n], always, unless-stopped)"),
        refused("kernel-memory", None, "it leaks memory cgroups on old kernels and is gone from new ones"),
        refused("cpu-rt-period", None, "real-time CPU limits come later"),
        refused("cpu-rt-runtime", None, "real-time CPU limits come later"),
    ]],
    run: update,
};

fn update(context: &Context, o: UpdateOptions, names: Vec<String>) -> Outcome {
    if !o.given {
        return Err(Failure::say(
            "you must provide one or more flags when using this command",
        ));
    }
    let body = serde_json::to_vec(&o.request).map_err(|e| Failure::say(e.to_string()))?;
    let mut warnings = Vec::new();
    let outcome = context.for_each(&names, |name| {
        let answer: UpdateResponse = context
            .client
            .send("POST", &path(name, "update"), Body::Json(body.clone()))?
            .json()?;
        warnings.extend(answer.warnings.unwrap_or_default());
        Ok(Some(name.to_owned()))
    });
    for warning in &warnings {
        context.println(warning)?;
    }
    outcome
}

#[derive(Debug, Default)]
pub(crate) struct PruneOptions {
    pub(crate) force: bool,
    pub(crate) all: bool,
    pub(crate) volumes: bool,
    pub(crate) filters: api::Filters,
}

/// Adds a `--filter KEY=VALUE`.
pub(crate) fn filter(filters: &mut api::Filters, text: &str) -> Result<(), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "bad format of filter (expected name=value)".to_owned())?;
    // `label!=x` is a filter of its own, named `label!`
    filters.add(&key.trim().to_ascii_lowercase(), value.trim());
    Ok(())
}

/// Asks the question; true if the answer begins with y.
pub(crate) fn confirmed(context: &Context, warning: &str) -> Result<bool, Failure> {
    context.print(&format!(
        "{warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.is_empty() {
        // the prompt's line is still open
        std::io::stdout().write_all(b"\n")?;
    }
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

pub(crate) static PRUNE: Verb<PruneOptions> = Verb {
    path: "container prune",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("force", Some('f'), |o, v| o.force = v, "Do not ask"),
        value(
            "filter",
            None,
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only those that match (until=TIME, label=KEY=VALUE)",
        ),
    ]],
    run: |context, o, _| {
        if !o.force && !confirmed(context, "WARNING! This will remove all stopped containers.")? {
            return Ok(());
        }
        let (text, freed) = prune(context, &o.filters)?;
        context.print(&format!(
            "{text}Total reclaimed space: {}\n",
            human::size4(freed as f64)
        ))
    },
};

/// Removes stopped containers; the report and the bytes freed.
pub(crate) fn prune(context: &Context, filters: &api::Filters) -> Result<(String, u64), Failure> {
    let query = with_filters(Query::new("/containers/prune"), filters).build();
    let report: PruneReport = context.client.send("POST", &query, Body::Empty)?.json()?;
    let deleted = report.containers_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted Containers:\n{}\n\n", deleted.join("\n"));
    }
    Ok((text, report.space_reclaimed))
}

pub(crate) fn with_filters(query: Query, filters: &api::Filters) -> Query {
    if filters.is_empty() {
        query
    } else {
        query.with("filters", &filters.to_json())
    }
}

#[derive(Debug, Default)]
pub(crate) struct LogsOptions {
    follow: bool,
    timestamps: bool,
    details: bool,
    tail: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

pub(crate) static LOGS: Verb<LogsOptions> = Verb {
    path: "logs",
    aliases: &["container logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Fetch the logs of a container",
    operands: Operands::Exactly(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[&[
        switch(
            "follow",
            Some('f'),
            |o, v| o.follow = v,
            "Go on with what is written from now on",
        ),
        switch(
            "timestamps",
            Some('t'),
            |o, v| o.timestamps = v,
            "Show when each line was written",
        ),
        value(
            "tail",
            Some('n'),
            "string",
            |o, v| {
                o.tail = Some(v.to_owned());
                Ok(())
            },
            "Lines to show from the end (all)",
        ),
        value(
            "since",
            None,
            "string",
            |o, v| {
                o.since = Some(v.to_owned());
                Ok(())
            },
            "From a time (2024-01-02T13:23:37Z) or a while ago (42m)",
        ),
        value(
            "until",
            None,
            "string",
            |o, v| {
                o.until = Some(v.to_owned());
                Ok(())
            },
            "Up to a time (2024-01-02T13:23:37Z) or a while ago (42m)",
        ),
        switch(
            "details",
            None,
            |o, v| o.details = v,
            "Show what the log's options add to each line",
        ),
    ]],
    run: logs,
};

fn logs(context: &Context, o: LogsOptions, names: Vec<String>) -> Outcome {
    let now = jiff::Timestamp::now();
    let time = |t: &Option<String>| {
        t.as_deref()
            .map(|t| parse::timestamp(t, now))
            .transpose()
            .map_err(Failure::say)
    };
    let found: ContainerInspect = context.client.get_json(&path(&names[0], "json"))?;
    let query = Query::new(format!("/containers/{}/logs", found.id))
        .with("stdout", "1")
        .with("stderr", "1")
        .flag("follow", o.follow)
        .flag("timestamps", o.timestamps)
        .flag("details", o.details)
        .with_some("tail", o.tail.as_deref())
        .with_some("since", time(&o.since)?.as_deref())
        .with_some("until", time(&o.until)?.as_deref())
        .build();
    let mut response = context.client.get(&query)?;
    let mut printer = crate::stream::Printer::new(found.config.tty);
    let mut buf = vec![0; 64 * 1024];
    loop {
        match std::io::Read::read(&mut response, &mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => printer.feed(&buf[..n])?,
            Err(e) => return Err(Failure::say(format!("the log ends early: {e}"))),
        }
    }
}
