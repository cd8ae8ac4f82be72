//! All commands, how one is found, and what is said when there is none.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cmd;
use crate::contexts;
use crate::endpoint::Endpoint;
use crate::flags::{self, FlagError, Groups, refused, switch, value};
use crate::http::Client;
use crate::term;
use crate::verb::{Command, Context, Failure, Outcome, conclude};

/// In the order of the help text.
pub(crate) static COMMANDS: &[&dyn Command] = &[
    &cmd::run::RUN,
    &cmd::exec::EXEC,
    &cmd::create::CREATE,
    &cmd::run::START,
    &cmd::run::ATTACH,
    &cmd::containers::STOP,
    &cmd::containers::KILL,
    &cmd::containers::RESTART,
    &cmd::containers::PAUSE,
    &cmd::containers::UNPAUSE,
    &cmd::containers::RM,
    &cmd::containers::RENAME,
    &cmd::containers::WAIT,
    &cmd::containers::TOP,
    &cmd::containers::DIFF,
    &cmd::containers::PORT,
    &cmd::containers::UPDATE,
    &cmd::containers::LOGS,
    &cmd::containers::PRUNE,
    &cmd::lists::PS,
    &cmd::lists::IMAGES,
    &cmd::lists::HISTORY,
    &cmd::lists::VOLUME_LS,
    &cmd::build::BUILD,
    &cmd::build::PRUNE,
    &cmd::images::LOAD,
    &cmd::images::SAVE,
    &cmd::images::IMPORT,
    &cmd::images::EXPORT,
    &cmd::images::COMMIT,
    &cmd::images::TAG,
    &cmd::images::RMI,
    &cmd::registry::PULL,
    &cmd::registry::PUSH,
    &cmd::registry::LOGIN,
    &cmd::registry::LOGOUT,
    &cmd::images::PRUNE,
    &cmd::volumes::CREATE,
    &cmd::volumes::RM,
    &cmd::volumes::RESTORE,
    &cmd::volumes::PRUNE,
    &cmd::networks::CREATE,
    &cmd::networks::LS,
    &cmd::networks::RM,
    &cmd::networks::PRUNE,
    &cmd::networks::CONNECT,
    &cmd::networks::DISCONNECT,
    &cmd::inspect::ANY,
    &cmd::inspect::CONTAINER,
    &cmd::inspect::IMAGE,
    &cmd::inspect::VOLUME,
    &cmd::inspect::NETWORK,
    &cmd::stats::STATS,
    &cmd::system::EVENTS,
    &cmd::system::INFO,
    &cmd::system::VERSION,
    &cmd::system::DF,
    &cmd::system::PRUNE,
    &cmd::system::FSCK,
    &cmd::contexts::DIAL,
    &cmd::copy::CP,
    &cmd::contexts::LS,
    &cmd::contexts::SHOW,
    &cmd::contexts::USE,
    &cmd::contexts::INSPECT,
    &cmd::contexts::CREATE,
    &cmd::contexts::UPDATE,
    &cmd::contexts::RM,
    &cmd::capture::CAPTURE,
    &cmd::doctor::DOCTOR,
    &cmd::completion::COMPLETION,
];

/// Words that hold commands: `container ls`.
const GROUPS: &[(&str, &str)] = &[
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("builder", "Manage builds"),
    ("volume", "Manage volumes"),
    ("network", "Manage networks"),
    ("context", "Manage contexts: engines by name"),
    ("system", "Manage Plimsoll"),
];

/// Docker's commands that are not built yet.
const LATER: &[(&str, &str)] = &[
    ("buildx", "BuildKit's own interface is not built; use build"),
    ("search", "registries are not searched yet"),
    ("manifest", "the docker command reads manifests"),
    (
        "trust",
        "signatures of content trust (notary) are not built",
    ),
    (
        "compose",
        "use docker-compose with DOCKER_HOST set to this engine's socket",
    ),
    ("plugin", "plug-ins are not planned"),
    ("checkpoint", "checkpoints come later"),
    (
        "swarm",
        "Plimsoll runs under Kubernetes and has no scheduler of its own",
    ),
    (
        "node",
        "Plimsoll runs under Kubernetes and has no scheduler of its own",
    ),
    (
        "service",
        "Plimsoll runs under Kubernetes and has no scheduler of its own",
    ),
    (
        "stack",
        "Plimsoll runs under Kubernetes and has no scheduler of its own",
    ),
    (
        "secret",
        "Plimsoll runs under Kubernetes and has no scheduler of its own",
    ),
    (
        "config",
        "Plimsoll runs under Kubernetes and has no scheduler of its own",
    ),
];

#[derive(Debug, Default)]
struct Global {
    at: contexts::Given,
    debug: bool,
    version: bool,
}

fn file(into: &mut Option<PathBuf>, path: &str) -> Result<(), String> {
    *into = Some(PathBuf::from(path));
    Ok(())
}

const GLOBAL: Groups<Global> = &[&[
    value(
        "host",
        Some('H'),
        "string",
        |o, v| {
            o.at.host = Some(v.to_owned());
            Ok(())
        },
        "Daemon to talk to (unix://PATH, tcp://HOST:PORT, ssh://USER@HOST)",
    ),
    value(
        "context",
        Some('c'),
        "string",
        |o, v| {
            o.at.context = Some(v.to_owned());
            Ok(())
        },
        "Name of the context to use",
    ),
    switch(
        "debug",
        Some('D'),
        |o, v| o.debug = v,
        "Show the requests made",
    ),
    switch(
        "version",
        Some('v'),
        |o, v| o.version = v,
        "Print the version and quit",
    ),
    switch(
        "tls",
        None,
        |o, v| o.at.tls = v,
        "Use TLS; needs --tlsverify",
    ),
    switch(
        "tlsverify",
        None,
        |o, v| o.at.verify = v,
        "Use TLS and verify the daemon",
    ),
    value(
        "tlscacert",
        None,
        "string",
        |o, v| file(&mut o.at.files.authority, v),
        "Trust certificates of this authority",
    ),
    value(
        "tlscert",
        None,
        "string",
        |o, v| file(&mut o.at.files.certificate, v),
        "Certificate of this client",
    ),
    value(
        "tlskey",
        None,
        "string",
        |o, v| file(&mut o.at.files.key, v),
        "Key of this client",
    ),
    refused("config", None, "set DOCKER_CONFIG"),
    refused("log-level", Some('l'), "use --debug"),
]];

/// Runs a command line (without the program's name).
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut words = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match argument.into_string() {
            Ok(word) => words.push(word),
            Err(raw) => {
                let outcome = Err(Failure::say(format!(
                    "argument {} is not UTF-8, and the API carries JSON",
                    raw.display()
                )));
                return conclude(outcome, None, "plimsoll");
            }
        }
    }
    let mut global = Global::default();
    let words = match flags::parse(GLOBAL, &mut global, &words, false) {
        Ok(words) => words,
        Err(FlagError::Help) => Vec::new(),
        Err(wrong) => {
            return conclude(
                Err(Failure::Usage {
                    message: wrong.to_string(),
                    code: 125,
                }),
                Some("Usage:  plimsoll [OPTIONS] COMMAND [ARG...]"),
                "plimsoll",
            );
        }
    };
    let endpoint = match contexts::endpoint(&global.at) {
        Ok(endpoint) => endpoint,
        // what is wrong with a context is put right by these
        Err(_) if words.first().is_some_and(|w| w == "context") => {
            Endpoint::Unix(PathBuf::from("/run/plimsoll.sock"))
        }
        Err(failure) => return conclude(Err(failure), None, "plimsoll"),
    };
    let mut context = Context {
        client: Client::new(endpoint, global.debug),
        words: "plimsoll".to_owned(),
    };
    if global.version {
        let line = format!("Plimsoll version {}", env!("CARGO_PKG_VERSION"));
        return conclude(context.println(&line), None, "plimsoll");
    }
    dispatch(&mut context, &words)
}

/// The command for the words, and how many of them name it.
pub(crate) fn find(words: &[String]) -> Option<(&'static dyn Command, &'static str)> {
    let matches = |path: &str| {
        let mut rest = words.iter();
        path.split(' ')
            .all(|part| rest.next().is_some_and(|w| w == part))
    };
    COMMANDS.iter().find_map(|command| {
        std::iter::once(command.path())
            .chain(command.aliases().iter().copied())
            .find(|path| matches(path))
            .map(|path| (*command, path))
    })
}

fn dispatch(context: &mut Context, words: &[String]) -> ExitCode {
    if let Some((command, path)) = find(words) {
        let taken = path.split(' ').count();
        context.words = format!("plimsoll {path}");
        let outcome = command.invoke(context, &words[taken..]);
        let usage = command.usage_line(&context.words);
        return conclude(outcome, Some(&usage), &context.words);
    }
    if words.first().is_some_and(|w| w == "__complete") {
        let outcome = cmd::completion::complete(context, &words[1..]);
        return conclude(outcome, None, "plimsoll");
    }
    let Some(first) = words.first() else {
        return conclude(
            context.print(&overview_of(term::help_width())),
            None,
            "plimsoll",
        );
    };
    let outcome = unknown(context, first, words.get(1).map(String::as_str));
    conclude(outcome, None, "plimsoll")
}

fn unknown(context: &Context, first: &str, second: Option<&str>) -> Outcome {
    if first == "help" || first == "--help" {
        let topic: Vec<String> = second.into_iter().map(str::to_owned).collect();
        return match find(&topic) {
            Some((command, path)) => {
                context.print(&command.help(&format!("plimsoll {path}"), term::help_width()))
            }
            None => context.print(&overview_of(term::help_width())),
        };
    }
    if let Some((group, about)) = GROUPS.iter().find(|(name, _)| *name == first) {
        return match second {
            None | Some("--help" | "-h" | "help") => context.print(&group_help(group, about)),
            Some(word) => {
                context.warn(&format!("plimsoll: unknown command: plimsoll {first} {word}\n\nUsage:  plimsoll {first} COMMAND\n\nRun 'plimsoll {first} --help' for more information"));
                Err(Failure::Code(1))
            }
        };
    }
    if let Some((_, hint)) = LATER.iter().find(|(name, _)| *name == first) {
        return Err(Failure::say(format!(
            "plimsoll: '{first}' is not supported by this version: {hint}"
        )));
    }
    context.warn(&format!(
        "plimsoll: unknown command: plimsoll {first}\n\nRun 'plimsoll --help' for more information"
    ));
    Err(Failure::Code(1))
}

fn group_help(group: &str, about: &str) -> String {
    let mut text = format!("Usage:  plimsoll {group} COMMAND\n\n{about}\n\nCommands:\n");
    let prefix = format!("{group} ");
    let mut lines: Vec<(String, &str)> = COMMANDS
        .iter()
        .filter_map(|c| {
            // the first name in the group is the one to show
            std::iter::once(c.path())
                .chain(c.aliases().iter().copied())
                .find_map(|p| p.strip_prefix(prefix.as_str()))
                .map(|name| (name.to_owned(), c.about()))
        })
        .collect();
    lines.sort();
    for (name, about) in lines {
        text.push_str(&format!("  {name:<11} {about}\n"));
    }
    text.push_str(&format!(
        "\nRun 'plimsoll {group} COMMAND --help' for more information on a command.\n"
    ));
    text
}

fn overview_of(width: usize) -> String {
    let mut text = String::from(
        "Usage:  plimsoll [OPTIONS] COMMAND [ARG...]\n\nA container engine for machines that must not lose data\n\nCommands:\n",
    );
    let mut lines: Vec<(&str, &str)> = COMMANDS
        .iter()
        .filter(|c| !c.path().contains(' '))
        .map(|c| (c.path(), c.about()))
        .collect();
    lines.push(("daemon", "Run the engine"));
    lines.push(("oci", "Be an OCI runtime with the command line of runc"));
    lines.sort_unstable();
    for (name, about) in lines {
        text.push_str(&format!("  {name:<11} {about}\n"));
    }
    text.push_str("\nManagement Commands:\n");
    for (name, about) in GROUPS {
        text.push_str(&format!("  {name:<11} {about}\n"));
    }
    text.push_str("\nGlobal Options:\n");
    text.push_str(&flags::render(&flags::describe(GLOBAL), width));
    text.push_str("\nRun 'plimsoll COMMAND --help' for more information on a command.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_flag_and_path_is_there_once() {
        let mut paths = BTreeSet::new();
        for command in COMMANDS {
            for path in std::iter::once(command.path()).chain(command.aliases().iter().copied()) {
                assert!(paths.insert(path), "{path} twice");
            }
            let (mut long, mut short) = (BTreeSet::new(), BTreeSet::new());
            for flag in command.flags() {
                assert!(long.insert(flag.long), "{} --{}", command.path(), flag.long);
                if let Some(c) = flag.short {
                    assert!(short.insert(c), "{} -{c}", command.path());
                }
            }
        }
    }

    /// What users read: a change of it is a decision.
    #[test]
    fn help_texts() {
        let mut text = overview_of(80);
        for (group, about) in GROUPS {
            text.push_str(&format!("\n== {group}\n{}", group_help(group, about)));
        }
        for command in COMMANDS {
            let words = format!("plimsoll {}", command.path());
            text.push_str(&format!("\n== {words}\n{}", command.help(&words, 80)));
        }
        insta::assert_snapshot!(text);
    }
}
