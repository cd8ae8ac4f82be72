//! `list`, `ps`, `features`, `spec`.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use runtime::oci::{Process, rfc3339};
use serde::Serialize;

use super::{Context, Failure, Outcome, Verb};
use crate::flags::{Flag, switch, value};

#[derive(Debug, Default)]
pub(super) struct Format {
    json: bool,
    quiet: bool,
}

const fn format_flag() -> Flag<Format> {
    value(
        "format",
        Some('f'),
        "table|json",
        |o, v| {
            o.json = match v {
                "table" => false,
                "json" => true,
                _ => return Err("invalid format option".to_owned()),
            };
            Ok(())
        },
        "How to print it (table)",
    )
}

pub(super) static LIST: Verb<Format> = Verb {
    name: "list",
    usage: "[OPTIONS]",
    about: "List containers",
    operands: (0, 0),
    flags: &[&[
        format_flag(),
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Print ids only"),
    ]],
    run: list,
};

fn list(context: &Context, format: Format, _: &[String]) -> Outcome {
    let mut all = context.runtime.list()?;
    let names = user_names();
    for state in &mut all {
        if let Some(owner) = &mut state.owner {
            let name = owner.parse().ok().and_then(|uid: u32| names.get(&uid));
            *owner = name.cloned().unwrap_or_else(|| format!("#{owner}"));
        }
    }
    if format.quiet {
        return context.print(
            &all.iter()
                .map(|s| format!("{}\n", s.id))
                .collect::<String>(),
        );
    }
    if format.json {
        return context.print(&compact(&all)?);
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(all.into_iter().map(|s| {
        [
            s.id,
            s.pid.to_string(),
            s.status.to_string(),
            s.bundle.display().to_string(),
            s.created.unwrap_or_default(),
            s.owner.unwrap_or_default(),
        ]
    }));
    context.print(&columns(&rows))
}

/// As wide as needed, 12 columns at least, three between.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |n: usize| {
        rows.iter()
            .map(|r| r[n].len() + 3)
            .max()
            .unwrap_or(0)
            .max(12)
    };
    let mut out = String::new();
    for row in rows {
        for (n, cell) in row.iter().enumerate() {
            if n + 1 == N {
                out.push_str(cell);
            } else {
                out.push_str(&format!("{cell:<width$}", width = width(n)));
            }
        }
        out.push('\n');
    }
    out
}

fn compact(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value).map_err(io::Error::from)?)
}

/// The host's users by id. source: passwd(5).
fn user_names() -> HashMap<u32, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = |l: &str| {
        let mut fields = l.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(line).collect()
}

pub(super) static PS: Verb<Format> = Verb {
    name: "ps",
    usage: "[OPTIONS] CONTAINER",
    about: "Show the processes of a container",
    operands: (1, usize::MAX),
    flags: &[&[format_flag()]],
    run: ps,
};

fn ps(context: &Context, format: Format, operands: &[String]) -> Outcome {
    let pids = context.runtime.pids(&operands[0])?;
    if format.json {
        return context.print(&format!("{}\n", compact(&pids)?));
    }
    match &operands[1..] {
        [] => {}
        [one] if one == "-ef" => {}
        other => {
            return Err(Failure::Message(
                format!(
                    "ps options {other:?} are not supported: no ps is executed; -ef and --format json are there"
                ),
                1,
            ));
        }
    }
    let names = user_names();
    let mut text = "UID          PID    PPID  C STIME TTY          TIME CMD\n".to_owned();
    for p in pids.into_iter().filter_map(runtime::oci::process) {
        text.push_str(&ps_line(&p, &names));
    }
    context.print(&text)
}

fn ps_line(p: &Process, names: &HashMap<u32, String>) -> String {
    let user = names.get(&p.uid).cloned();
    let user = user.unwrap_or_else(|| p.uid.to_string());
    let age = boot_age().saturating_sub(Duration::from_secs(p.started));
    let load = (p.time * 100).checked_div(age.as_secs()).unwrap_or(0);
    let started = rfc3339(SystemTime::now() - age, false);
    let day = rfc3339(SystemTime::now(), false)[..10] == started[..10];
    let started = if day {
        &started[11..16]
    } else {
        &started[5..10]
    };
    let terminal = match (p.terminal >> 8 & 0xfff, p.terminal & 0xff) {
        (0, 0) => "?".to_owned(),
        (136..=143, n) => format!("pts/{n}"),
        (_, n) => format!("tty{n}"),
    };
    let (h, m, s) = (p.time / 3600, p.time / 60 % 60, p.time % 60);
    format!(
        "{user:<8} {:>7} {:>7} {load:>2} {started} {terminal:<8} {h:02}:{m:02}:{s:02} {}\n",
        p.pid, p.parent, p.command
    )
}

fn boot_age() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0))
}

pub(super) static FEATURES: Verb<()> = Verb {
    name: "features",
    usage: "",
    about: "Print what this runtime can do as JSON",
    operands: (0, 0),
    flags: &[],
    run: |context, (), _| {
        let text = serde_json::to_string_pretty(&runtime::oci::features());
        context.print(&format!("{}\n", text.map_err(io::Error::from)?))
    },
};

#[derive(Debug, Default)]
pub(super) struct SpecOptions {
    bundle: PathBuf,
    rootless: bool,
}

pub(super) static SPEC: Verb<SpecOptions> = Verb {
    name: "spec",
    usage: "[OPTIONS]",
    about: "Write a configuration to begin with",
    operands: (0, 0),
    flags: &[&[
        value(
            "bundle",
            Some('b'),
            "dir",
            |o, v| {
                o.bundle = v.into();
                Ok(())
            },
            "Directory to write config.json to (the current one)",
        ),
        switch(
            "rootless",
            None,
            |o, v| o.rootless = v,
            "For a container made without privilege",
        ),
    ]],
    run: spec,
};

fn spec(_: &Context, options: SpecOptions, _: &[String]) -> Outcome {
    let ids = options.rootless.then(|| {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        (uid.as_raw(), gid.as_raw())
    });
    let mut bytes = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut out = serde_json::Serializer::with_formatter(&mut bytes, tabs);
    let example = runtime::oci::example(ids);
    example.serialize(&mut out).map_err(io::Error::from)?;
    let path = options.bundle.join("config.json");
    let file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = file.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::Message("File config.json exists. Remove it first".to_owned(), 1)
        }
        _ => Failure::Message(
            format!("{}: {}", path.display(), crate::verb::reason(&e)),
            1,
        ),
    })?;
    Ok(io::Write::write_all(&mut file, &bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ps() {
        let p = Process {
            uid: 4_000_000,
            pid: 7,
            parent: 1,
            terminal: 136 << 8 | 3,
            time: 3661,
            started: 0,
            command: "sh -c x".to_owned(),
        };
        let line = ps_line(&p, &HashMap::new());
        assert!(line.starts_with("4000000        7       1 "), "{line}");
        assert!(line.ends_with(" pts/3    01:01:01 sh -c x\n"), "{line}");
    }
}
