//! `exec`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::IdResponse;
use api::exec::{ExecCreateRequest, ExecInspect, ExecStartRequest};

use crate::flags::{switch, value};
use crate::foreground::{block_signals, code, resize};
use crate::http::{Body, HttpError, escape};
use crate::parse;
use crate::stream::{Ended, Printer, Session};
use crate::term::{self, DetachKeys, DetachScanner, RawMode};
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb};

#[derive(Debug, Default)]
pub(crate) struct ExecOptions {
    request: ExecCreateRequest,
    interactive: bool,
    env: Vec<String>,
    env_files: Vec<PathBuf>,
    detach_keys: Option<String>,
}

pub(crate) static EXEC: Verb<ExecOptions> = Verb {
    path: "exec",
    aliases: &["container exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    operands: Operands::AtLeast(2),
    offer: Offer::RunningContainers,
    interspersed: false,
    flags: &[&[
        switch(
            "detach",
            Some('d'),
            |o, v| o.request.detach = v,
            "Leave the command in the background",
        ),
        switch(
            "interactive",
            Some('i'),
            |o, v| o.interactive = v,
            "Keep standard input open",
        ),
        switch(
            "tty",
            Some('t'),
            |o, v| o.request.tty = v,
            "Give the command a terminal",
        ),
        switch(
            "privileged",
            None,
            |o, v| o.request.privileged = v,
            "Give the command the host's privileges",
        ),
        value(
            "env",
            Some('e'),
            "list",
            |o, v| {
                o.env.push(parse::env(v)?);
                Ok(())
            },
            "Set an environment variable",
        ),
        value(
            "env-file",
            None,
            "list",
            |o, v| {
                o.env_files.push(v.into());
                Ok(())
            },
            "Read environment variables from a file",
        ),
        value(
            "user",
            Some('u'),
            "string",
            |o, v| {
                v.clone_into(&mut o.request.user);
                Ok(())
            },
            "User and group to run as (name|uid[:group|gid])",
        ),
        value(
            "workdir",
            Some('w'),
            "string",
            |o, v| {
                v.clone_into(&mut o.request.working_dir);
                Ok(())
            },
            "Working directory in the container",
        ),
        value(
            "detach-keys",
            None,
            "string",
            |o, v| {
                o.detach_keys = Some(v.to_owned());
                Ok(())
            },
            "Keys that detach from the command (ctrl-p,ctrl-q)",
        ),
    ]],
    run: exec,
};

fn exec(context: &Context, mut options: ExecOptions, mut operands: Vec<String>) -> Outcome {
    let container = operands.remove(0);
    let keys = options
        .detach_keys
        .as_deref()
        .map_or_else(|| Ok(DetachKeys::default()), DetachKeys::parse)
        .map_err(Failure::say)?;
    let mut env = Vec::new();
    for file in &options.env_files {
        env.extend(parse::key_value_file(file, true).map_err(Failure::say)?);
    }
    env.append(&mut options.env);
    let mut request = options.request;
    request.env = (!env.is_empty()).then_some(env);
    request.cmd = Some(operands);
    request.attach_stdin = options.interactive && !request.detach;
    request.attach_stdout = !request.detach;
    request.attach_stderr = !request.detach;
    if request.attach_stdin && request.tty && !term::stdin_is_terminal() {
        return Err(Failure::say("the input device is not a TTY"));
    }
    let size = term::size().map(|(rows, columns)| [rows.into(), columns.into()]);
    request.console_size = size.filter(|_| request.tty);
    let created: IdResponse = context
        .client
        .send(
            "POST",
            &format!("/containers/{}/exec", escape(&container)),
            json(&request)?,
        )
        .and_then(crate::http::Response::json)?;
    let start = ExecStartRequest {
        detach: request.detach,
        tty: request.tty,
        console_size: request.console_size,
    };
    let path = format!("/exec/{}/start", created.id);
    if request.detach {
        return context
            .client
            .send("POST", &path, json(&start)?)
            .and_then(crate::http::Response::discard)
            .map_err(not_started);
    }
    interact(context, &created.id, &request, &path, json(&start)?, &keys)
}

fn json<T: serde::Serialize>(body: &T) -> Result<Body<'static>, Failure> {
    serde_json::to_vec(body)
        .map(Body::Json)
        .map_err(|e| Failure::say(e.to_string()))
}

fn not_started(error: HttpError) -> Failure {
    let text = error.to_string();
    let any = |parts: &[&str]| parts.iter().any(|p| text.contains(p));
    let code = if error.is_transport() {
        1
    } else if any(&["executable file not found", "no such file or directory"]) {
        127
    } else if any(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        1
    };
    Failure::from(error).with_code(code)
}

fn interact(
    context: &Context,
    id: &str,
    request: &ExecCreateRequest,
    path: &str,
    body: Body<'_>,
    keys: &DetachKeys,
) -> Outcome {
    let signals = block_signals(false, request.tty)?;
    let stream = context.client.hijack(path, body).map_err(not_started)?;
    let raw = (request.tty && request.attach_stdin)
        .then(RawMode::enter)
        .transpose()?;
    let mut printer = Printer::new(request.tty);
    let mut stdin_open = request.attach_stdin;
    let mut scanner = request.tty.then(|| DetachScanner::new(keys));
    let resize_path = format!("/exec/{id}/resize");
    let ended = Session {
        printer: &mut printer,
        stdin_open: &mut stdin_open,
        detach: scanner.as_mut(),
        signals: signals.as_ref(),
        on_signal: &mut |_| resize(context, &resize_path),
    }
    .run(stream);
    drop(raw);
    match ended? {
        Ended::Detached => return Err(Failure::say("read escape sequence")),
        Ended::Broken(e) => {
            return Err(Failure::say(format!(
                "the connection to the daemon broke during exec: {e}; the command may still run"
            )));
        }
        Ended::Eof => {}
    }
    match exit_code(context, id)? {
        Some(0) => Ok(()),
        Some(status) => Err(Failure::Code(code(status))),
        None => Err(Failure::say(
            "the connection to the daemon ended before the command did; it may still run",
        )),
    }
}

/// The exit code, once it is known: its streams may end a moment before it is recorded, and a
/// program may close them long before it ends.
fn exit_code(context: &Context, id: &str) -> Result<Option<i64>, Failure> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_millis(1);
    loop {
        let state: ExecInspect = context.client.get_json(&format!("/exec/{id}/json"))?;
        if state.exit_code.is_some() || Instant::now() >= deadline {
            return Ok(state.exit_code);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
