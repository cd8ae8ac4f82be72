//! What a command is: its words, its flags, its operands, and how it ends.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::flags::{self, FlagError, FlagInfo, Groups};
use crate::http::{Client, HttpError};

/// How many operands a command takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operands {
    None,
    Exactly(usize),
    AtLeast(usize),
    Between(usize, usize),
}

impl Operands {
    /// What is wrong with `n` operands, in Docker's words.
    fn complaint(self, n: usize) -> Option<String> {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        match self {
            Self::None if n > 0 => Some("accepts no arguments".into()),
            Self::Exactly(want) if n != want => {
                Some(format!("requires {want} argument{}", plural(want)))
            }
            Self::AtLeast(want) if n < want => {
                Some(format!("requires at least {want} argument{}", plural(want)))
            }
            Self::Between(low, high) if n < low || n > high => Some(format!(
                "requires at least {low} and at most {high} argument{}",
                plural(high)
            )),
            _ => None,
        }
    }
}

/// What completion offers for an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Nothing,
    Files,
    Containers,
    RunningContainers,
    Images,
    Volumes,
    Networks,
    TrashedVolumes,
    ContainersImagesVolumes,
}

/// Why a command did not succeed. The exit code is decided here and nowhere else.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Flags or operands: followed by the command's usage.
    Usage { message: String, code: u8 },
    /// A message and an exit code.
    Message { message: String, code: u8 },
    /// A message, an exit code, and a pointer to the help.
    Advice { message: String, code: u8 },
    /// The program's own exit code, or all has been said.
    Code(u8),
    /// Whoever read our output has gone.
    BrokenPipe,
}

pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    /// An ordinary error: exit code 1.
    pub(crate) fn say(message: impl Into<String>) -> Self {
        Self::Message {
            message: message.into(),
            code: 1,
        }
    }

    pub(crate) fn with_code(self, code: u8) -> Self {
        match self {
            Self::Message { message, .. } => Self::Message { message, code },
            Self::Usage { message, .. } => Self::Usage { message, code },
            Self::Advice { message, .. } => Self::Advice { message, code },
            other => other,
        }
    }
}

/// The kernel's words without the number: `no such file or directory`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// The message with the causes behind it, walked once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let message = match &error {
            HttpError::Connect { endpoint, source } => {
                let hint = match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "the socket belongs to another user or group: run as root or join its group"
                            .to_owned()
                    }
                    _ => format!(
                        "start one with `plimsoll daemon` (or `systemctl start plimsoll`), set PLIMSOLL_AUTOSTART=1, or name another with -H; {endpoint}: {}",
                        reason(source)
                    ),
                };
                format!("{error}\n{hint}")
            }
            other => chain(other),
        };
        Self::say(message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::say(reason(&error))
    }
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    /// `plimsoll run`: the words to print in messages.
    pub(crate) words: String,
}

impl Context {
    /// Prints to standard output.
    pub(crate) fn print(&self, text: &str) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    pub(crate) fn println(&self, line: &str) -> Outcome {
        self.print(&format!("{line}\n"))
    }

    /// Tells the user; nothing depends on its being read.
    pub(crate) fn warn(&self, line: &str) {
        drop(writeln!(io::stderr(), "{line}"));
    }

    /// Does `each` for all names, prints each that worked, and ends with 1 if one did not.
    pub(crate) fn for_each(
        &self,
        names: &[String],
        mut each: impl FnMut(&str) -> Result<Option<String>, Failure>,
    ) -> Outcome {
        let mut failed = false;
        for name in names {
            match each(name) {
                Ok(Some(line)) => self.println(&line)?,
                Ok(None) => {}
                Err(Failure::Message { message, .. }) => {
                    self.warn(&message);
                    failed = true;
                    // without a daemon each further name would only say the same again
                    if message.starts_with("Cannot connect") {
                        break;
                    }
                }
                Err(other) => return Err(other),
            }
        }
        if failed {
            Err(Failure::Code(1))
        } else {
            Ok(())
        }
    }
}

/// A command whose flags fill a `T`.
pub(crate) struct Verb<T: 'static> {
    /// `run`, `volume create`.
    pub(crate) path: &'static str,
    /// Other paths to the same: `container run`.
    pub(crate) aliases: &'static [&'static str],
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    pub(crate) operands: Operands,
    pub(crate) offer: Offer,
    /// Flags may follow operands.
    pub(crate) interspersed: bool,
    pub(crate) flags: Groups<T>,
    pub(crate) run: fn(&Context, T, Vec<String>) -> Outcome,
}

/// A [`Verb`] without its type of options.
pub(crate) trait Command: Sync {
    fn path(&self) -> &'static str;
    fn aliases(&self) -> &'static [&'static str];
    fn about(&self) -> &'static str;
    fn usage(&self) -> &'static str;
    fn offer(&self) -> Offer;
    fn flags(&self) -> Vec<FlagInfo>;
    fn invoke(&self, context: &Context, args: &[String]) -> Outcome;

    /// `Usage:  plimsoll run [OPTIONS] IMAGE`.
    fn usage_line(&self, words: &str) -> String {
        format!("Usage:  {words} {}", self.usage())
            .trim_end()
            .to_owned()
    }

    fn help(&self, words: &str, width: usize) -> String {
        let mut text = format!("{}\n\n{}\n", self.usage_line(words), self.about());
        if !self.aliases().is_empty() {
            let mut all: Vec<String> = self
                .aliases()
                .iter()
                .map(|a| format!("plimsoll {a}"))
                .collect();
            all.push(format!("plimsoll {}", self.path()));
            text.push_str(&format!("\nAliases:\n  {}\n", all.join(", ")));
        }
        let flags = self.flags();
        if !flags.is_empty() {
            text.push_str(&format!("\nOptions:\n{}", flags::render(&flags, width)));
        }
        text
    }
}

impl<T: Default + 'static> Command for Verb<T> {
    fn path(&self) -> &'static str {
        self.path
    }

    fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn usage(&self) -> &'static str {
        self.usage
    }

    fn offer(&self) -> Offer {
        self.offer
    }

    fn flags(&self) -> Vec<FlagInfo> {
        flags::describe(self.flags)
    }

    fn invoke(&self, context: &Context, args: &[String]) -> Outcome {
        let mut options = T::default();
        let operands = match flags::parse(self.flags, &mut options, args, self.interspersed) {
            Ok(operands) => operands,
            Err(FlagError::Help) => {
                return context.print(&self.help(&context.words, crate::term::help_width()));
            }
            Err(wrong) => {
                return Err(Failure::Usage {
                    message: wrong.to_string(),
                    code: 125,
                });
            }
        };
        if let Some(complaint) = self.operands.complaint(operands.len()) {
            return Err(Failure::Usage {
                message: format!("plimsoll: '{}' {complaint}", context.words),
                code: 1,
            });
        }
        (self.run)(context, options, operands)
    }
}

/// Says why, and gives the exit code.
pub(crate) fn conclude(outcome: Outcome, usage: Option<&str>, words: &str) -> ExitCode {
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Code(code)) => return ExitCode::from(code),
        // what a shell reports for a program ended by SIGPIPE
        Err(Failure::BrokenPipe) => return ExitCode::from(141),
        Err(Failure::Message { message, code }) => (message, code),
        Err(Failure::Advice { message, code }) => (
            format!("plimsoll: {message}\n\nRun '{words} --help' for more information"),
            code,
        ),
        Err(Failure::Usage { message, code }) => {
            let usage = usage.map_or_else(String::new, |u| format!("{u}\n\n"));
            (
                format!("{message}\n\n{usage}Run '{words} --help' for more information"),
                code,
            )
        }
    };
    drop(writeln!(io::stderr(), "{text}"));
    ExitCode::from(code)
}
