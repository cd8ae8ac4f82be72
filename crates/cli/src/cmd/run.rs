//! `run`, `start` and `attach`: containers in the foreground.

use api::container::{ContainerInspect, CreateRequest};

use super::create::{CreateOptions, RUN_FLAGS, create, request};
use crate::flags::{refused, switch, value};
use crate::foreground::{self, Plan, Trouble, supervise};
use crate::http::HttpError;
use crate::term::{self, DetachKeys};
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

pub(crate) static RUN: Verb<CreateOptions> = Verb {
    path: "run",
    aliases: &["container run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    operands: Operands::AtLeast(1),
    offer: Offer::Images,
    interspersed: false,
    flags: RUN_FLAGS,
    run: |context, options, operands| run(context, options, operands),
};

fn keys(text: Option<&str>) -> Result<DetachKeys, Failure> {
    text.filter(|t| !t.is_empty())
        .map_or_else(|| Ok(DetachKeys::default()), DetachKeys::parse)
        .map_err(|e| {
            Failure::say(format!(
                "invalid detach keys ({}): {e}",
                text.unwrap_or_default()
            ))
        })
}

fn check_terminal(stdin: bool, tty: bool) -> Result<(), Failure> {
    if stdin && tty && !term::stdin_is_terminal() {
        return Err(Failure::say("the input device is not a TTY"));
    }
    Ok(())
}

fn run(context: &Context, mut options: CreateOptions, operands: Vec<String>) -> Outcome {
    let mut asked = request(&mut options, operands)?;
    let detach_keys = keys(options.detach_keys.as_deref())?;
    if options.detach {
        if !options.attach.is_empty() {
            return Err(Failure::say(
                "conflicting options: cannot specify both --attach and --detach",
            ));
        }
    } else {
        check_terminal(asked.config.attach_stdin, asked.config.tty)?;
    }
    if asked.config.tty
        && let Some((rows, columns)) = term::size()
    {
        asked.host_config.console_size = [rows.into(), columns.into()];
    }
    let created = create(context, &options, &asked).map_err(advice)?;
    if !attached(&asked) {
        return in_background(context, &created.id);
    }
    let plan = Plan {
        id: created.id,
        tty: asked.config.tty,
        stdin: asked.config.attach_stdin,
        stdout: asked.config.attach_stdout,
        stderr: asked.config.attach_stderr,
        detach_keys,
        sig_proxy: options.sig_proxy,
        condition: if asked.host_config.auto_remove {
            "removed"
        } else {
            "next-exit"
        },
        start: true,
    };
    conclude(supervise(context, &plan), false)
}

fn attached(asked: &CreateRequest) -> bool {
    let c = &asked.config;
    c.attach_stdin || c.attach_stdout || c.attach_stderr
}

fn in_background(context: &Context, id: &str) -> Outcome {
    match context.client.post(&format!("/containers/{id}/start")) {
        Ok(()) => context.println(id),
        Err(e) => Err(not_started(e)),
    }
}

/// Docker's exit codes of a program that could not be started.
fn not_started(error: HttpError) -> Failure {
    let text = error.to_string();
    let any = |parts: &[&str]| parts.iter().any(|p| text.contains(p));
    let code = if error.is_transport() {
        125
    } else if any(&["executable file not found", "no such file or directory"]) {
        127
    } else if any(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        125
    };
    advice(Failure::from(error).with_code(code))
}

/// What goes wrong before the program runs ends with 125 and a pointer to the help.
fn advice(failure: Failure) -> Failure {
    match failure {
        Failure::Message { message, code } => Failure::Advice {
            message,
            code: if code == 1 { 125 } else { code },
        },
        other => other,
    }
}

fn conclude(outcome: Result<foreground::Outcome, Trouble>, tell_detach: bool) -> Outcome {
    match outcome {
        Ok(foreground::Outcome::Exited(0)) => Ok(()),
        Ok(foreground::Outcome::Exited(code)) => Err(Failure::Code(code)),
        Ok(foreground::Outcome::Detached) if tell_detach => {
            Err(Failure::say("read escape sequence"))
        }
        Ok(foreground::Outcome::Detached) => Ok(()),
        Err(Trouble::Start(e)) => Err(not_started(e)),
        Err(Trouble::Other(f)) => Err(f),
    }
}

#[derive(Debug, Default)]
pub(crate) struct StartOptions {
    attach: bool,
    interactive: bool,
    detach_keys: Option<String>,
}

const CHECKPOINT: &str = "checkpoints come later";

pub(crate) static START: Verb<StartOptions> = Verb {
    path: "start",
    aliases: &["container start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    operands: Operands::AtLeast(1),
    offer: Offer::Containers,
    interspersed: true,
    flags: &[&[
        switch(
            "attach",
            Some('a'),
            |o, v| o.attach = v,
            "Attach standard output and error, and pass signals on",
        ),
        switch(
            "interactive",
            Some('i'),
            |o, v| o.interactive = v,
            "Attach standard input",
        ),
        value(
            "detach-keys",
            None,
            "string",
            |o, v| {
                o.detach_keys = Some(v.to_owned());
                Ok(())
            },
            "Keys that detach from the container (ctrl-p,ctrl-q)",
        ),
        refused("checkpoint", None, CHECKPOINT),
        refused("checkpoint-dir", None, CHECKPOINT),
    ]],
    run: start,
};

fn start(context: &Context, options: StartOptions, names: Vec<String>) -> Outcome {
    if !(options.attach || options.interactive) {
        let outcome = context.for_each(&names, |name| {
            context
                .client
                .post(&format!("/containers/{}/start", crate::http::escape(name)))?;
            Ok(Some(name.to_owned()))
        });
        if matches!(outcome, Err(Failure::Code(1))) {
            context.warn(&format!(
                "Error: failed to start containers: {}",
                names.join(", ")
            ));
        }
        return outcome;
    }
    let [name] = names.as_slice() else {
        return Err(Failure::say(
            "you cannot start and attach multiple containers at once",
        ));
    };
    let found = inspect(context, name)?;
    let stdin = options.interactive && found.config.open_stdin;
    check_terminal(stdin, found.config.tty)?;
    let plan = Plan {
        id: found.id,
        tty: found.config.tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys: keys(options.detach_keys.as_deref())?,
        sig_proxy: true,
        condition: if found.host_config.auto_remove {
            "removed"
        } else {
            "next-exit"
        },
        start: !found.state.running,
    };
    match supervise(context, &plan) {
        Err(Trouble::Start(e)) => Err(Failure::from(e)),
        other => conclude(other, false),
    }
}

fn inspect(context: &Context, name: &str) -> Result<ContainerInspect, Failure> {
    Ok(context
        .client
        .get_json(&format!("/containers/{}/json", crate::http::escape(name)))?)
}

#[derive(Debug)]
pub(crate) struct AttachOptions {
    no_stdin: bool,
    sig_proxy: bool,
    detach_keys: Option<String>,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            no_stdin: false,
            sig_proxy: true,
            detach_keys: None,
        }
    }
}

pub(crate) static ATTACH: Verb<AttachOptions> = Verb {
    path: "attach",
    aliases: &["container attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Attach to a running container",
    operands: Operands::Exactly(1),
    offer: Offer::RunningContainers,
    interspersed: true,
    flags: &[&[
        switch(
            "no-stdin",
            None,
            |o, v| o.no_stdin = v,
            "Leave standard input alone",
        ),
        switch(
            "sig-proxy",
            None,
            |o, v| o.sig_proxy = v,
            "Pass signals on to the program (default true)",
        ),
        value(
            "detach-keys",
            None,
            "string",
            |o, v| {
                o.detach_keys = Some(v.to_owned());
                Ok(())
            },
            "Keys that detach from the container (ctrl-p,ctrl-q)",
        ),
    ]],
    run: attach,
};

fn attach(context: &Context, options: AttachOptions, names: Vec<String>) -> Outcome {
    let found = inspect(context, &names[0])?;
    if !found.state.running {
        return Err(Failure::say(
            "cannot attach to a stopped container, start it first",
        ));
    }
    if found.state.paused {
        return Err(Failure::say(
            "cannot attach to a paused container, unpause it first",
        ));
    }
    if found.state.restarting {
        return Err(Failure::say(
            "cannot attach to a restarting container, wait until it is running",
        ));
    }
    let stdin = !options.no_stdin && found.config.open_stdin;
    check_terminal(stdin, found.config.tty)?;
    let plan = Plan {
        id: found.id,
        tty: found.config.tty,
        stdin,
        stdout: true,
        stderr: true,
        detach_keys: keys(options.detach_keys.as_deref())?,
        sig_proxy: options.sig_proxy,
        condition: "not-running",
        start: false,
    };
    conclude(supervise(context, &plan), true)
}
