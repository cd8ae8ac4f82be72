//! What an image's history says of how it was made, and what a progress line says, in BuildKit's
//! words: tools read both.

use std::fmt::Write as _;

use crate::expand::Expander;
use crate::instruction::{Command, Copy, Files, Healthcheck, Instruction, Located, Pair, Script};
use crate::scope::Scope;

/// One entry of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `created_by` of the image's configuration.
    pub created_by: String,
    /// The instruction changes the configuration alone.
    pub empty_layer: bool,
}

/// The entry of an instruction that was expanded; `scope` is the one that it ran in, `shell` the
/// stage's. `ONBUILD` has none. Of `WORKDIR` the caller knows the whole path, and whether it made a
/// layer: it says both.
#[must_use]
pub fn entry(instruction: &Instruction, scope: &Scope, shell: &[String]) -> Option<Entry> {
    let (created_by, empty_layer) = match instruction {
        Instruction::Onbuild(_) => return None,
        Instruction::Run(run) => {
            let argv = match run.script() {
                Script::Exec(argv) => argv,
                Script::Shell(line) => Command::Shell(line).argv(shell),
                Script::File { name, .. } => {
                    Command::Shell(format!("/dev/pipes/{name}")).argv(shell)
                }
            };
            let args = scope.args();
            let mut words = Vec::new();
            if !args.is_empty() {
                words.push(format!("|{}", args.len()));
            }
            words.extend(args.iter().map(|(name, value)| format!("{name}={value}")));
            words.extend(argv);
            (format!("RUN {} # buildkit", words.join(" ")), false)
        }
        Instruction::Add(add) => (copied("ADD", &add.files, false), false),
        Instruction::Copy(Copy { files, parents, .. }) => (copied("COPY", files, *parents), false),
        other => (configured(other, shell), true),
    };
    Some(Entry {
        created_by,
        empty_layer,
    })
}

fn copied(keyword: &str, files: &Files, parents: bool) -> String {
    let mut out = keyword.to_owned();
    let mut add = |text: String| {
        out.push(' ');
        out.push_str(&text);
    };
    if parents {
        add("--parents".to_owned());
    }
    if let Some(owner) = &files.chown {
        add(format!("--chown={owner}"));
    }
    if let Some(mode) = &files.chmod {
        add(format!("--chmod={mode}"));
    }
    files.sources.iter().for_each(|source| add(source.clone()));
    files
        .heredocs
        .iter()
        .for_each(|heredoc| add(format!("<<{}", heredoc.name)));
    add(files.destination.clone());
    out.push_str(" # buildkit");
    out
}

fn configured(instruction: &Instruction, shell: &[String]) -> String {
    let keyword = instruction.keyword().name();
    let said = match instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => joined(pairs),
        Instruction::Arg(args) => {
            let words = args.iter().map(|arg| match &arg.default {
                Some(value) => format!("{}={value}", arg.name),
                None => arg.name.clone(),
            });
            words.collect::<Vec<_>>().join(" ")
        }
        Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
            let quoted: Vec<String> = command.argv(shell).iter().map(|a| go_quote(a)).collect();
            format!("[{}]", quoted.join(" "))
        }
        Instruction::Expose(words) => {
            let ports = crate::port::exposed(words).unwrap_or_else(|_| words.clone());
            format!("[{}]", ports.join(" "))
        }
        Instruction::Volume(words) | Instruction::Shell(words) => format!("[{}]", words.join(" ")),
        Instruction::Healthcheck(check) => health(check),
        Instruction::Maintainer(text)
        | Instruction::StopSignal(text)
        | Instruction::User(text)
        | Instruction::Workdir(text) => text.clone(),
        Instruction::Add(_)
        | Instruction::Copy(_)
        | Instruction::Onbuild(_)
        | Instruction::Run(_) => String::new(),
    };
    format!("{keyword} {said}")
}

fn joined(pairs: &[Pair]) -> String {
    let words = pairs.iter().map(|p| format!("{}={}", p.name, p.value));
    words.collect::<Vec<_>>().join(" ")
}

/// As Go prints the structure.
fn health(check: &Healthcheck) -> String {
    let zero = std::time::Duration::ZERO;
    let (test, times, retries) = match check {
        Healthcheck::None => ("NONE".to_owned(), [zero; 4], 0),
        Healthcheck::Command {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        } => {
            let test = match command {
                Command::Shell(line) => format!("CMD-SHELL {line}"),
                Command::Exec(argv) => format!("CMD {}", argv.join(" ")),
            };
            let times = [*interval, *timeout, *start_period, *start_interval];
            (test, times, *retries)
        }
    };
    let [interval, timeout, period, start] = times.map(crate::duration::print);
    format!(
        "{{Test:[{test}] Interval:{interval} Timeout:{timeout} StartPeriod:{period} StartInterval:{start} Retries:{retries}}}"
    )
}

/// As Go's `%q`.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if c.is_ascii_control() => {
                // a String takes whatever is written to it
                write!(out, "\\x{:02x}", u32::from(c)).unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What a progress line says: the instruction in one line, its name in upper case, with the values of
/// variables that are set. A heredoc is told by its first line.
///
/// `x` is that of the scope; where the text cannot be expanded, it stays as it is.
#[must_use]
pub fn progress(found: &Located<Instruction>, x: &mut Expander<'_>) -> String {
    let mut text = found.text.clone();
    if let Instruction::Run(run) = &found.value
        && let Some(first) = run.heredocs.first()
        && !matches!(run.script(), Script::Exec(_))
    {
        let mut lines = first.content.trim().lines();
        let line = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() { "..." } else { "" };
        text = format!("{text} ({line}{more})");
    }
    let text = match &found.value {
        Instruction::Run(_) => x.shown(&text),
        _ => x.word(&text),
    }
    .unwrap_or(text);
    let (keyword, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let prefix = if found.is_trigger { "ONBUILD " } else { "" };
    format!("{prefix}{} {rest}", keyword.to_uppercase())
}
