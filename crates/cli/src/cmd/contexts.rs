//! Verbs on contexts, and what the other end of `ssh://` runs.

use std::io::{self, Read, Write};

use serde_json::json;

use super::lists::{FORMAT, ListOptions};
use crate::contexts::{self, DEFAULT, Stored};
use crate::flags::{refused, switch, value};
use crate::login;
use crate::parse;
use crate::table::{Column, Format, Row, Table, column, row};
use crate::tls::Files;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

pub(crate) static LS: Verb<ListOptions> = Verb {
    path: "context ls",
    aliases: &["context list"],
    usage: "[OPTIONS]",
    about: "List contexts",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("quiet", Some('q'), |o, v| o.quiet = v, "Only names"),
        FORMAT,
    ]],
    run: |context, o, _| {
        let current = contexts::current()?;
        let mut all = vec![local()];
        all.extend(contexts::all()?);
        let rows: Vec<Row> = all.iter().map(|c| line(c, c.name == current)).collect();
        let format = Format::parse(
            o.format.as_deref(),
            o.quiet,
            "{{.Name}}",
            "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}",
        );
        let table = Table {
            columns: COLUMNS,
            rows: &rows,
        };
        context.print(&table.render(&format)?)
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "NAME"),
    column("Current", "CURRENT"),
    column("Description", "DESCRIPTION"),
    column("DockerEndpoint", "DOCKER ENDPOINT"),
];

fn line(stored: &Stored, current: bool) -> Row {
    let mut line = row([
        ("Name", stored.name.clone()),
        ("Description", stored.description.clone()),
        ("DockerEndpoint", stored.host.clone()),
    ]);
    line.insert("Current".to_owned(), json!(current));
    line
}

/// What there is without any context: this host's engine, or the environment's.
fn local() -> Stored {
    let mut stored = Stored::new(DEFAULT);
    let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
    if let Some(host) = set("PLIMSOLL_HOST").or_else(|| set("DOCKER_HOST")) {
        stored.host = host;
    }
    "This host, or what DOCKER_HOST names".clone_into(&mut stored.description);
    stored
}

fn by_name(name: &str) -> Result<Stored, Failure> {
    if name == DEFAULT {
        return Ok(local());
    }
    contexts::read(name)
}

pub(crate) static SHOW: Verb<()> = Verb {
    path: "context show",
    aliases: &[],
    usage: "",
    about: "Print the name of the current context",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[],
    run: |context, (), _| context.println(&contexts::current()?),
};

pub(crate) static USE: Verb<()> = Verb {
    path: "context use",
    aliases: &[],
    usage: "CONTEXT",
    about: "Set the current context",
    operands: Operands::Exactly(1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        let name = &names[0];
        if name == DEFAULT {
            login::set_current("")?;
        } else {
            // one that can't be used is not taken
            contexts::read(name)?.endpoint()?;
            login::set_current(name)?;
        }
        context.println(name)?;
        if std::env::var("DOCKER_HOST").is_ok_and(|v| !v.is_empty()) {
            context.warn(
                "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, unset DOCKER_HOST.",
            );
        }
        Ok(())
    },
};

pub(crate) static INSPECT: Verb<()> = Verb {
    path: "context inspect",
    aliases: &[],
    usage: "[CONTEXT...]",
    about: "Show contexts in full",
    operands: Operands::AtLeast(0),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[],
    run: |context, (), names| {
        let mut names = names;
        if names.is_empty() {
            names.push(contexts::current()?);
        }
        let all: Result<Vec<_>, Failure> = names.iter().map(|n| by_name(n)).collect();
        let shown: Vec<_> = all?
            .iter()
            .map(|c| {
                json!({
                    "Name": c.name,
                    "Metadata": {"Description": c.description},
                    "Endpoints": {"docker": {"Host": c.host}},
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&shown).map_err(|e| Failure::say(e.to_string()))?;
        context.println(&text)
    },
};

#[derive(Debug, Default)]
pub(crate) struct Description {
    text: Option<String>,
    host: Option<String>,
    files: Files,
}

impl Description {
    /// `host=tcp://x:2376,ca=/a,cert=/b,key=/c`.
    fn endpoint(&mut self, text: &str) -> Result<(), String> {
        for field in parse::csv(text)? {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
            match key {
                "host" => self.host = Some(value.to_owned()),
                "ca" => self.files.authority = Some(value.into()),
                "cert" => self.files.certificate = Some(value.into()),
                "key" => self.files.key = Some(value.into()),
                "skip-tls-verify" if value == "false" => {}
                "skip-tls-verify" => {
                    return Err(
                        "skip-tls-verify takes any server for the engine and is not supported: give its authority (ca)"
                            .to_owned(),
                    );
                }
                _ => return Err(format!("unrecognized config key: {key}")),
            }
        }
        Ok(())
    }

    fn keep(&self, mut stored: Stored, replace: bool) -> Outcome {
        if let Some(text) = &self.text {
            text.clone_into(&mut stored.description);
        }
        if let Some(host) = &self.host {
            host.clone_into(&mut stored.host);
        }
        contexts::write(&stored, &self.files, replace)
    }
}

macro_rules! describing {
    ($name:ident, $path:literal, $about:literal, $run:expr) => {
        pub(crate) static $name: Verb<Description> = Verb {
            path: $path,
            aliases: &[],
            usage: "[OPTIONS] CONTEXT",
            about: $about,
            operands: Operands::Exactly(1),
            offer: Offer::Nothing,
            interspersed: true,
            flags: &[&[
                value(
                    "description",
                    None,
                    "string",
                    |o: &mut Description, v| {
                        o.text = Some(v.to_owned());
                        Ok(())
                    },
                    "What it is",
                ),
                value(
                    "docker",
                    None,
                    "stringToString",
                    |o, v| o.endpoint(v),
                    "Where the engine is (host=tcp://HOST:2376,ca=FILE,cert=FILE,key=FILE)",
                ),
                refused("from", None, "name the engine with --docker host=..."),
                refused("default-stack-orchestrator", None, "there is no swarm"),
            ]],
            run: $run,
        };
    };
}

describing!(
    CREATE,
    "context create",
    "Name an engine",
    |context, o, names| {
        o.keep(Stored::new(&names[0]), false)?;
        context.println(&names[0])?;
        context.warn(&format!("Successfully created context \"{}\"", names[0]));
        Ok(())
    }
);

describing!(
    UPDATE,
    "context update",
    "Change a context",
    |context, o, names| {
        o.keep(contexts::read(&names[0])?, true)?;
        context.println(&names[0])?;
        context.warn(&format!("Successfully updated context \"{}\"", names[0]));
        Ok(())
    }
);

#[derive(Debug, Default)]
pub(crate) struct RmOptions {
    force: bool,
}

pub(crate) static RM: Verb<RmOptions> = Verb {
    path: "context rm",
    aliases: &["context remove"],
    usage: "[OPTIONS] CONTEXT [CONTEXT...]",
    about: "Remove contexts",
    operands: Operands::AtLeast(1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[switch(
        "force",
        Some('f'),
        |o, v| o.force = v,
        "Also the one in use",
    )]],
    run: |context, o, names| {
        context.for_each(&names, |name| {
            contexts::remove(name, o.force)?;
            Ok(Some(name.to_owned()))
        })
    },
};

/// Standard input and output are the engine's connection: for `ssh://`, and whatever else carries bytes.
pub(crate) static DIAL: Verb<()> = Verb {
    path: "system dial-stdio",
    aliases: &[],
    usage: "",
    about: "Connect standard input and output to the engine",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[],
    run: |context, (), _| dial(context),
};

fn dial(context: &Context) -> Outcome {
    let endpoint = &context.client.endpoint;
    let failed = |e: io::Error| Failure::say(format!("connect to {endpoint}: {e}"));
    let mut from = endpoint.connect().map_err(failed)?;
    let to = std::os::fd::AsFd::as_fd(&from)
        .try_clone_to_owned()
        .map_err(failed)?;
    let mut to = std::os::unix::net::UnixStream::from(to);
    let sending = std::thread::Builder::new();
    sending
        .spawn(move || {
            // its end, like the engine's, is told by a half-closed connection
            drop(copy(&mut io::stdin().lock(), &mut to));
            drop(to.shutdown(std::net::Shutdown::Write));
        })
        .map_err(failed)?;
    copy(&mut from, &mut io::stdout().lock()).map_err(failed)
}

/// Each piece goes on at once.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                to.flush()?;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
