//! Verbs on the engine: info, version, system df, system prune, events, fsck.

use std::io::{BufRead, BufReader};

use api::system::{Event, FsckReport, SystemDf, Version};
use jiff::Timestamp;
use serde_json::Value;

use super::containers::{self, PruneOptions, confirmed, filter, with_filters};
use super::lists::{
    FORMAT_HELP, IMAGE_COLUMNS, PS_COLUMNS, VOLUME_COLUMNS, image_rows, ps_row, volume_row,
};
use super::{images, networks, volumes};
use crate::flags::{switch, value};
use crate::http::{API_VERSION, Body, HttpError, Query};
use crate::human::{binary_size, size4};
use crate::parse;
use crate::table::{Column, Format, Row, Table, column, row};
use crate::template::Template;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

#[derive(Debug, Default)]
pub(crate) struct FormatOptions {
    format: Option<String>,
    verbose: bool,
}

pub(crate) static DF: Verb<FormatOptions> = Verb {
    path: "system df",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Show disk usage",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value(
            "format",
            None,
            "string",
            |o, v| {
                o.format = Some(v.to_owned());
                Ok(())
            },
            FORMAT_HELP,
        ),
        switch(
            "verbose",
            Some('v'),
            |o, v| o.verbose = v,
            "Each image, container and volume",
        ),
    ]],
    run: df,
};

const DF_COLUMNS: &[Column] = &[
    column("Type", "TYPE"),
    column("TotalCount", "TOTAL"),
    column("Active", "ACTIVE"),
    column("Size", "SIZE"),
    column("Reclaimable", "RECLAIMABLE"),
];

fn df(context: &Context, o: FormatOptions, _: Vec<String>) -> Outcome {
    if o.verbose && o.format.is_some() {
        return Err(Failure::say("the verbose and the format options conflict"));
    }
    let usage: SystemDf = context.client.get_json("/system/df")?;
    if o.verbose {
        return context.print(&verbose_df(&usage)?);
    }
    let rows = df_rows(&usage);
    let format = Format::parse(
        o.format.as_deref(),
        false,
        "",
        "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    );
    let table = Table {
        columns: DF_COLUMNS,
        rows: &rows,
    };
    context.print(&table.render(&format)?)
}

/// One line of `system df`.
struct Share {
    kind: &'static str,
    total: usize,
    active: usize,
    size: i64,
    free: i64,
    /// Say how much of the size that is.
    percent: bool,
}

impl Share {
    fn row(&self) -> Row {
        let free = self.free.max(0);
        let share = if self.percent && self.size > 0 {
            format!(" ({}%)", free * 100 / self.size)
        } else {
            String::new()
        };
        row([
            ("Type", self.kind.to_owned()),
            ("TotalCount", self.total.to_string()),
            ("Active", self.active.to_string()),
            ("Size", size4(self.size as f64)),
            ("Reclaimable", format!("{}{share}", size4(free as f64))),
        ])
    }
}

fn df_rows(usage: &SystemDf) -> Vec<Row> {
    let images = usage.images.as_deref().unwrap_or_default();
    let used: i64 = images
        .iter()
        .filter(|i| i.containers > 0 && i.size > 0)
        .map(|i| i.size - i.shared_size.max(0))
        .sum();
    let containers = usage.containers.as_deref().unwrap_or_default();
    let lives = |state: &str| matches!(state, "running" | "paused" | "restarting");
    let size_of = |wanted: fn(bool) -> bool| -> i64 {
        containers
            .iter()
            .filter(|c| wanted(lives(&c.state)))
            .map(|c| c.size_rw)
            .sum()
    };
    let volumes: Vec<api::volume::UsageData> = usage
        .volumes
        .iter()
        .flatten()
        .map(|v| v.usage_data.clone().unwrap_or_default())
        .collect();
    let cache = usage.build_cache.as_deref().unwrap_or_default();
    let cache_size = |in_use: bool| -> i64 {
        cache
            .iter()
            .filter(|c| !c.shared && c.in_use == in_use)
            .map(|c| c.size)
            .sum()
    };
    let shares = [
        Share {
            kind: "Images",
            total: images.len(),
            active: images.iter().filter(|i| i.containers > 0).count(),
            size: usage.layers_size,
            free: usage.layers_size - used,
            percent: true,
        },
        Share {
            kind: "Containers",
            total: containers.len(),
            active: containers.iter().filter(|c| lives(&c.state)).count(),
            size: size_of(|_| true),
            free: size_of(|lives| !lives),
            percent: true,
        },
        Share {
            kind: "Local Volumes",
            total: volumes.len(),
            active: volumes.iter().filter(|u| u.ref_count > 0).count(),
            size: volumes.iter().map(|u| u.size.max(0)).sum(),
            free: volumes
                .iter()
                .filter(|u| u.ref_count == 0)
                .map(|u| u.size.max(0))
                .sum(),
            percent: true,
        },
        Share {
            kind: "Build Cache",
            total: cache.len(),
            active: cache.iter().filter(|c| c.in_use).count(),
            size: cache_size(true) + cache_size(false),
            free: cache_size(false),
            percent: false,
        },
    ];
    shares.iter().map(Share::row).collect()
}

fn verbose_df(usage: &SystemDf) -> Result<String, Failure> {
    let now = Timestamp::now();
    let table = |columns, rows: &[Row], template: &str| {
        Table { columns, rows }.render(&Format::Table(template.to_owned()))
    };
    let images: Vec<Row> = usage
        .images
        .iter()
        .flatten()
        .flat_map(|i| image_rows(i, false, false, now).into_iter().next())
        .collect();
    let list: Vec<Row> = usage
        .containers
        .iter()
        .flatten()
        .map(|c| {
            let mut row = ps_row(c, false, now);
            row.insert("Size".into(), Value::String(crate::human::size(c.size_rw)));
            row
        })
        .collect();
    let volumes: Vec<Row> = usage.volumes.iter().flatten().map(volume_row).collect();
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: {}\n\nCACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n",
        table(
            IMAGE_COLUMNS,
            &images,
            "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}"
        )?,
        table(
            PS_COLUMNS,
            &list,
            "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}"
        )?,
        table(VOLUME_COLUMNS, &volumes, "{{.Name}}\t{{.Links}}\t{{.Size}}")?,
        size4(
            usage
                .build_cache
                .iter()
                .flatten()
                .map(|c| c.size as f64)
                .sum()
        ),
    ))
}

#[rustfmt::skip]
pub(crate) static PRUNE: Verb<PruneOptions> = Verb {
    path: "system prune",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Remove unused data",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("all", Some('a'), |o, v| o.all = v, "All images that no container uses, not only those without a name"),
        switch("volumes", None, |o, v| o.volumes = v, "Anonymous volumes too; they go to the trash"),
        switch("force", Some('f'), |o, v| o.force = v, "Do not ask"),
        value("filter", None, "filter", |o, v| filter(&mut o.filters, v), "Only those that match (until=TIME, label=KEY=VALUE)"),
    ]],
    run: prune,
};

fn prune(context: &Context, o: PruneOptions, _: Vec<String>) -> Outcome {
    if o.volumes && o.filters.contains("until") {
        return Err(Failure::say(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    if !o.force {
        let mut what = vec!["all stopped containers"];
        if o.volumes {
            what.push("all anonymous volumes not used by at least one container");
        }
        what.push(if o.all {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        });
        what.push("the build cache");
        let list = format!("  - {}", what.join("\n  - "));
        if !confirmed(context, &format!("WARNING! This will remove:\n{list}\n"))? {
            return Ok(());
        }
    }
    let (mut text, mut freed) = containers::prune(context, &o.filters)?;
    if o.volumes {
        let (more, bytes) = volumes::prune(context, &mut o.filters.clone(), false)?;
        text.push_str(&more);
        freed += bytes;
    }
    text.push_str(&networks::prune(context, &o.filters)?);
    let (more, bytes) = images::prune(context, &mut o.filters.clone(), o.all)?;
    text.push_str(&more);
    freed += bytes;
    // a step has no labels: where they decide, none is meant
    if !o.filters.contains("label") && !o.filters.contains("label!") {
        let query = Query::new("/build/prune");
        let (more, bytes) = super::build::prune(context, with_filters(query, &o.filters))?;
        text.push_str(&more);
        freed += bytes;
    }
    context.print(&format!(
        "{text}Total reclaimed space: {}\n",
        size4(freed as f64)
    ))
}

#[rustfmt::skip]
pub(crate) static INFO: Verb<FormatOptions> = Verb {
    path: "info",
    aliases: &["system info"],
    usage: "[OPTIONS]",
    about: "Display system-wide information",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, "json, or a template"),
    ]],
    run: info,
};

/// The answer as it is, with what we say about ourselves beside it.
fn raw(context: &Context, path: &str) -> Result<Value, HttpError> {
    let bytes = context.client.get(path)?.bytes()?;
    serde_json::from_slice(&bytes).map_err(|e| HttpError::Decode {
        what: path.to_owned(),
        source: e.into(),
    })
}

fn formatted(context: &Context, format: &str, value: &Value) -> Outcome {
    if format == "json" {
        return context.println(&value.to_string());
    }
    let text = Template::parse(format)
        .and_then(|t| t.render(value))
        .map_err(|e| Failure::Message {
            message: e.to_string(),
            code: 64,
        })?;
    context.println(&text)
}

fn info(context: &Context, o: FormatOptions, _: Vec<String>) -> Outcome {
    let mut value = raw(context, "/info")?;
    if let Some(format) = o.format.as_deref().filter(|f| !f.is_empty()) {
        value["ClientInfo"] = serde_json::json!({
            "Debug": false, "Context": "default", "Version": env!("CARGO_PKG_VERSION"),
        });
        return formatted(context, format, &value);
    }
    let mut text = format!(
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    text.push_str(&info_text(&value));
    context.print(&text)?;
    for warning in value["Warnings"].as_array().into_iter().flatten() {
        context.warn(warning.as_str().unwrap_or_default());
    }
    Ok(())
}

fn info_text(v: &Value) -> String {
    let mut out = String::new();
    let mut line = |indent: usize, label: &str, text: String| {
        out.push_str(&format!("{:indent$}{label}: {text}\n", ""));
    };
    let show = |key: &str| match &v[key] {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    line(1, "Containers", show("Containers"));
    line(2, "Running", show("ContainersRunning"));
    line(2, "Paused", show("ContainersPaused"));
    line(2, "Stopped", show("ContainersStopped"));
    line(1, "Images", show("Images"));
    line(1, "Server Version", show("ServerVersion"));
    line(1, "Storage Driver", show("Driver"));
    for pair in v["DriverStatus"].as_array().into_iter().flatten() {
        let text = |i: usize| pair[i].as_str().unwrap_or_default();
        line(2, text(0), text(1).to_owned());
    }
    line(1, "Logging Driver", show("LoggingDriver"));
    line(1, "Cgroup Driver", show("CgroupDriver"));
    line(1, "Cgroup Version", show("CgroupVersion"));
    out.push_str(&plugins(&v["Plugins"]));
    out.push_str(&runtimes_and_security(v));
    let mut line = |label: &str, text: String| out.push_str(&format!(" {label}: {text}\n"));
    line("Kernel Version", show("KernelVersion"));
    line("Operating System", show("OperatingSystem"));
    line("OSType", show("OSType"));
    line("Architecture", show("Architecture"));
    line("CPUs", show("NCPU"));
    line(
        "Total Memory",
        binary_size(v["MemTotal"].as_f64().unwrap_or(0.0)),
    );
    line("Name", show("Name"));
    line("ID", show("ID"));
    line("Docker Root Dir", show("DockerRootDir"));
    line("Debug Mode", show("Debug"));
    let labels: Vec<&str> = v["Labels"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !labels.is_empty() {
        out.push_str(&format!(" Labels:\n  {}\n", labels.join("\n  ")));
    }
    out.push_str(&format!(
        " Experimental: {}\n Live Restore Enabled: {}\n",
        show("ExperimentalBuild"),
        show("LiveRestoreEnabled")
    ));
    out
}

fn plugins(v: &Value) -> String {
    let mut out = String::from(" Plugins:\n");
    for kind in ["Volume", "Network", "Authorization", "Log"] {
        let names: Vec<&str> = v[kind]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !names.is_empty() {
            out.push_str(&format!("  {kind}: {}\n", names.join(" ")));
        }
    }
    out
}

fn runtimes_and_security(v: &Value) -> String {
    let text = |key: &str| v[key].as_str().unwrap_or_default();
    let swarm = v["Swarm"]["LocalNodeState"].as_str().unwrap_or("inactive");
    let runtimes: Vec<&str> = v["Runtimes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k.as_str())
        .collect();
    let mut out = format!(
        " Swarm: {swarm}\n Runtimes: {}\n Default Runtime: {}\n Init Binary: {}\n",
        runtimes.join(" "),
        text("DefaultRuntime"),
        text("InitBinary"),
    );
    let options: Vec<&str> = v["SecurityOptions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !options.is_empty() {
        out.push_str(" Security Options:\n");
    }
    for option in options {
        for field in option.split(',') {
            match field.split_once('=') {
                Some(("name", name)) => out.push_str(&format!("  {name}\n")),
                Some(("profile", value)) => out.push_str(&format!("   Profile: {value}\n")),
                Some((key, value)) => out.push_str(&format!("   {key}: {value}\n")),
                None => out.push_str(&format!("  {field}\n")),
            }
        }
    }
    out
}

#[rustfmt::skip]
pub(crate) static VERSION: Verb<FormatOptions> = Verb {
    path: "version",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Show the version information",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, "json, or a template"),
    ]],
    run: version,
};

fn version(context: &Context, o: FormatOptions, _: Vec<String>) -> Outcome {
    let arch = super::create::architecture();
    let client = serde_json::json!({
        "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": API_VERSION,
        "DefaultAPIVersion": API_VERSION, "Os": "linux", "Arch": arch, "Context": "default",
    });
    let server = raw(context, "/version");
    if let Some(format) = o.format.as_deref().filter(|f| !f.is_empty()) {
        return match server {
            Ok(server) => formatted(
                context,
                format,
                &serde_json::json!({"Client": client, "Server": server}),
            ),
            Err(e) => {
                // what is said of the client alone is still of use; that the engine is missing
                // is the error to end with
                let known = serde_json::json!({"Client": client, "Server": null});
                drop(formatted(context, format, &known));
                Err(e.into())
            }
        };
    }
    context.print(&format!(
        "Client:\n Version:           {}\n API version:       {API_VERSION}\n OS/Arch:           linux/{arch}\n Context:           default\n",
        env!("CARGO_PKG_VERSION"),
    ))?;
    let server: Version =
        api::decode(server?.to_string().as_bytes()).map_err(|e| Failure::say(e.to_string()))?;
    context.print(&server_version(&server))
}

fn server_version(server: &Version) -> String {
    let mut out = format!("\nServer: {}\n", server.platform.name);
    for component in &server.components {
        out.push_str(&format!(
            " {}:\n  Version:          {}\n",
            component.name, component.version
        ));
        let detail = |key: &str| {
            component
                .details
                .get(key)
                .map(String::as_str)
                .unwrap_or_default()
        };
        if component.name == "Engine" {
            out.push_str(&format!(
                "  API version:      {} (minimum version {})\n  Go version:       {}\n  Git commit:       {}\n  Built:            {}\n  OS/Arch:          {}/{}\n  Experimental:     {}\n",
                detail("ApiVersion"), detail("MinAPIVersion"), detail("GoVersion"), detail("GitCommit"),
                detail("BuildTime"), detail("Os"), detail("Arch"), detail("Experimental"),
            ));
            continue;
        }
        for (key, value) in &component.details {
            out.push_str(&format!("  {:<18}{value}\n", format!("{key}:")));
        }
    }
    out
}

#[derive(Debug, Default)]
pub(crate) struct EventsOptions {
    since: Option<String>,
    until: Option<String>,
    format: Option<String>,
    filters: api::Filters,
}

#[rustfmt::skip]
pub(crate) static EVENTS: Verb<EventsOptions> = Verb {
    path: "events",
    aliases: &["system events"],
    usage: "[OPTIONS]",
    about: "Get real time events from the server",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value("since", None, "string", |o, v| { o.since = Some(v.to_owned()); Ok(()) }, "From a time (2024-01-02T13:23:37Z) or a while ago (42m)"),
        value("until", None, "string", |o, v| { o.until = Some(v.to_owned()); Ok(()) }, "Up to a time (2024-01-02T13:23:37Z) or a while ago (42m)"),
        value("format", None, "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, "json, or a template"),
        value("filter", Some('f'), "filter", |o, v| filter(&mut o.filters, v), "Only those that match (type=container, event=die, container=NAME, ...)"),
    ]],
    run: events,
};

fn events(context: &Context, o: EventsOptions, _: Vec<String>) -> Outcome {
    let now = Timestamp::now();
    let time = |t: &Option<String>| {
        t.as_deref()
            .map(|t| parse::timestamp(t, now))
            .transpose()
            .map_err(Failure::say)
    };
    let template = match o.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => {
            Some(
                Template::parse(&text.replace("\\t", "\t")).map_err(|e| Failure::Message {
                    message: e.to_string(),
                    code: 64,
                })?,
            )
        }
    };
    let query = Query::new("/events")
        .with_some("since", time(&o.since)?.as_deref())
        .with_some("until", time(&o.until)?.as_deref());
    let query = with_filters(query, &o.filters).build();
    for line in BufReader::new(context.client.get(&query)?).lines() {
        let line = line.map_err(|e| Failure::say(format!("the events end early: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let text = match (&template, o.format.as_deref()) {
            (Some(template), _) => {
                let value: Value =
                    serde_json::from_str(&line).map_err(|e| Failure::say(e.to_string()))?;
                template
                    .render(&value)
                    .map_err(|e| Failure::say(e.to_string()))?
            }
            (None, Some("json")) => line,
            _ => {
                let event: Event =
                    api::decode(line.as_bytes()).map_err(|e| Failure::say(e.to_string()))?;
                event_line(&event)
            }
        };
        context.println(&text)?;
    }
    Ok(())
}

fn event_line(event: &Event) -> String {
    let time = Timestamp::from_nanosecond(event.time_nano.into()).map_or_else(
        |_| String::new(),
        |t| {
            t.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
                .to_string()
                .replace("+00:00", "Z")
        },
    );
    let attributes: Vec<String> = event
        .actor
        .attributes
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        format!(" ({})", attributes.join(", "))
    };
    format!(
        "{time} {} {} {}{attributes}",
        event.kind, event.action, event.actor.id
    )
}

#[derive(Debug, Default)]
pub(crate) struct FsckOptions {
    repair: bool,
    format: Option<String>,
}

#[rustfmt::skip]
pub(crate) static FSCK: Verb<FsckOptions> = Verb {
    path: "fsck",
    aliases: &["system fsck"],
    usage: "[OPTIONS]",
    about: "Verify images, layers and records, and heal them with --repair",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("repair", None, |o, v| o.repair = v, "Heal what can be healed; set the rest aside"),
        value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, "json, or a template"),
    ]],
    run: fsck,
};

/// Exit codes as fsck(8): 0 clean, 1 everything found was repaired, 4 something is left.
fn fsck(context: &Context, o: FsckOptions, _: Vec<String>) -> Outcome {
    let query = Query::new("/plimsoll/fsck")
        .flag("repair", o.repair)
        .build();
    let spinner = crate::progress::bar("checking", None);
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let bytes = context
        .client
        .send("POST", &query, Body::Empty)
        .and_then(crate::http::Response::bytes);
    spinner.finish_and_clear();
    let bytes = bytes?;
    let report: FsckReport = api::decode(&bytes).map_err(|e| Failure::say(e.to_string()))?;
    if let Some(format) = o.format.as_deref() {
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| Failure::say(e.to_string()))?;
        formatted(context, format, &value)?;
    } else {
        let mut text = String::new();
        for finding in &report.findings {
            let mark = if finding.repaired {
                "repaired"
            } else {
                "damaged"
            };
            text.push_str(&format!(
                "{mark} {} {}: {}\n",
                finding.kind, finding.object, finding.problem
            ));
        }
        text.push_str(&format!(
            "{} blobs, {} layers, {} checked: {}\n",
            report.blobs_checked,
            report.layers_checked,
            size4(report.bytes_checked as f64),
            match (report.clean, report.findings.is_empty(), o.repair) {
                (true, true, _) => "clean",
                (true, false, _) => "clean after repair",
                (false, _, true) => "damage is left that cannot be healed here",
                (false, _, false) => "damaged: run `plimsoll fsck --repair`",
            }
        ));
        context.print(&text)?;
    }
    match (report.clean, report.findings.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => Err(Failure::Code(1)),
        (false, _) => Err(Failure::Code(4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_as_docker_prints_them() {
        let event = Event {
            kind: "container".into(),
            action: "create".into(),
            actor: api::system::EventActor {
                id: "abc".into(),
                attributes: [("name", "web"), ("image", "busybox")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            },
            time_nano: 1_700_000_000_123_456_789,
            ..Event::default()
        };
        assert!(event_line(&event).ends_with("container create abc (image=busybox, name=web)"));
    }
}
