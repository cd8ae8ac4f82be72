//! `doctor`: is this host fit to carry containers? Works without a daemon.

use std::path::PathBuf;
use std::time::Duration;

use host::Facts;
use host::doctor::{Context as Gathered, Depth, Verdict, examine};

use crate::flags::{switch, value};
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb, chain};

#[derive(Debug)]
pub(crate) struct DoctorOptions {
    data_root: PathBuf,
    quick: bool,
    format: Option<String>,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        Self {
            data_root: "/var/lib/plimsoll".into(),
            quick: false,
            format: None,
        }
    }
}

#[rustfmt::skip]
pub(crate) static DOCTOR: Verb<DoctorOptions> = Verb {
    path: "doctor",
    aliases: &["system doctor"],
    usage: "[OPTIONS]",
    about: "Probe this host and say whether it is fit to carry containers",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        value("data-root", None, "string", |o, v| { o.data_root = v.into(); Ok(()) }, "Where the engine's data lie or shall lie (/var/lib/plimsoll)"),
        switch("quick", None, |o, v| o.quick = v, "Only what the daemon probes when it starts"),
        value("format", Some('f'), "string", |o, v| { o.format = Some(v.to_owned()); Ok(()) }, "json"),
    ]],
    run: doctor,
};

/// How long the probes may take together.
const PATIENCE: Duration = Duration::from_secs(30);

/// Exit codes: 0 where containers can be carried, with caveats or without, 2 where not.
fn doctor(context: &Context, o: DoctorOptions, _: Vec<String>) -> Outcome {
    let made = !o.data_root.exists();
    if made {
        std::fs::create_dir_all(&o.data_root).map_err(|e| {
            Failure::say(format!(
                "make {} to probe in: {}",
                o.data_root.display(),
                crate::verb::reason(&e)
            ))
        })?;
    }
    let depth = if o.quick { Depth::Quick } else { Depth::Full };
    let report = Facts::probe(&o.data_root, PATIENCE)
        .and_then(|facts| Gathered::gather(&facts, depth))
        .map(|gathered| examine(&gathered));
    if made {
        // only if it is empty, that is: if nothing else took it meanwhile
        drop(std::fs::remove_dir(&o.data_root));
    }
    let report = report.map_err(|e| Failure::say(chain(&e)))?;
    match o.format.as_deref() {
        None => context.print(&report.text())?,
        Some("json") => {
            let text = serde_json::to_string(&report).map_err(|e| Failure::say(e.to_string()))?;
            context.println(&text)?;
        }
        Some(other) => {
            return Err(Failure::say(format!(
                "--format {other} is not supported by this version: json is"
            )));
        }
    }
    if report.verdict == Verdict::Forbidden {
        return Err(Failure::Code(2));
    }
    Ok(())
}
