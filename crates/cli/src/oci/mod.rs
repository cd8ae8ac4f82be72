//! `plimsoll oci`: an OCI runtime with runc's command line; also what a link named `runc` is.
//!
//! ```text
//! main -> argv[0] = runc | argv[1] = oci -> Global flags -> verb's flags -> runtime::oci
//!                                              |                              |
//!                                           log file <--- error, warnings ----+
//! ```
//!
//! A process of its own for each verb, whose time is the container's: no thread, nothing probed,
//! nothing read that the verb doesn't need.

mod exec;
mod foreground;
mod life;
mod limits;
mod log;
mod look;

use std::path::PathBuf;
use std::process::ExitCode;

use runtime::oci::{Driver, OciError, Runtime};
use runtime::systemd::Manager;

use crate::flags::{self, FlagError, FlagInfo, Groups, go_bool, switch, value};
use crate::verb::chain;
use log::{Format, Log};

/// Where containers are kept unless `--root` says otherwise: not runc's own directory, whose
/// records are of another format.
const ROOT: &str = "/run/plimsoll-oci";

#[derive(Debug)]
struct Global {
    root: Option<PathBuf>,
    log: Option<PathBuf>,
    format: Format,
    debug: bool,
    systemd: bool,
    /// `None`: auto.
    rootless: Option<bool>,
    version: bool,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            root: None,
            log: None,
            format: Format::Text,
            debug: false,
            systemd: false,
            rootless: None,
            version: false,
        }
    }
}

const GLOBAL: Groups<Global> = &[&[
    value(
        "root",
        None,
        "dir",
        |o, v| {
            o.root = Some(v.into());
            Ok(())
        },
        "Directory for the state of containers (/run/plimsoll-oci), best on a tmpfs",
    ),
    value(
        "log",
        None,
        "file",
        |o, v| {
            o.log = (v != "/dev/stderr" && !v.is_empty()).then(|| v.into());
            Ok(())
        },
        "File that errors are appended to (standard error)",
    ),
    value(
        "log-format",
        None,
        "text|json",
        |o, v| {
            o.format = match v {
                "text" => Format::Text,
                "json" => Format::Json,
                _ => return Err("it is text or json".to_owned()),
            };
            Ok(())
        },
        "How errors are written (text)",
    ),
    switch("debug", None, |o, v| o.debug = v, "Log what is done"),
    switch(
        "systemd-cgroup",
        None,
        |o, v| o.systemd = v,
        "Let systemd make cgroups",
    ),
    value(
        "rootless",
        None,
        "bool|auto",
        |o, v| {
            o.rootless = match v {
                "auto" => None,
                other => Some(go_bool(other)?),
            };
            Ok(())
        },
        "Tolerate that cgroups can't be made (auto: when not root)",
    ),
    value("criu", None, "path", |_, _| Ok(()), ""),
    switch(
        "version",
        Some('v'),
        |o, v| o.version = v,
        "Print the version and quit",
    ),
]];

/// Why a verb failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// With the exit code.
    Message(String, u8),
    /// Flags or operands: with the usage on standard error.
    Usage(String),
    /// All has been said.
    Code(u8),
}

impl From<OciError> for Failure {
    fn from(e: OciError) -> Self {
        Self::Message(chain(&e), 1)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Message(crate::verb::reason(&e), 1)
    }
}

pub(crate) type Outcome = Result<(), Failure>;

/// What every verb is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) runtime: Runtime,
    /// `runc`, `plimsoll oci`.
    pub(crate) name: &'static str,
}

impl Context {
    pub(crate) fn print(&self, text: &str) -> Outcome {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// runc's words before the reason.
    pub(crate) fn failed(&self, verb: &str, e: OciError) -> Failure {
        Failure::Message(format!("{} {verb} failed: {}", self.name, chain(&e)), 1)
    }
}

/// A verb whose flags fill a `T`.
pub(crate) struct Verb<T: 'static> {
    pub(crate) name: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    /// Least and most operands.
    pub(crate) operands: (usize, usize),
    pub(crate) flags: Groups<T>,
    pub(crate) run: fn(&Context, T, &[String]) -> Outcome,
}

/// A [`Verb`] without its type of options.
trait Command: Sync {
    fn name(&self) -> &'static str;
    fn about(&self) -> &'static str;
    fn usage(&self) -> &'static str;
    fn flags(&self) -> Vec<FlagInfo>;
    fn invoke(&self, context: &Context, words: &[String]) -> Outcome;

    fn help(&self, context: &Context) -> String {
        let mut text = format!(
            "Usage:  {} {} {}\n\n{}\n",
            context.name,
            self.name(),
            self.usage(),
            self.about()
        );
        let flags = self.flags();
        if !flags.is_empty() {
            text.push_str("\nOptions:\n");
            text.push_str(&flags::render(&flags, crate::term::help_width()));
        }
        text
    }
}

impl<T: Default + 'static> Command for Verb<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn usage(&self) -> &'static str {
        self.usage
    }

    fn flags(&self) -> Vec<FlagInfo> {
        flags::describe(self.flags)
    }

    fn invoke(&self, context: &Context, words: &[String]) -> Outcome {
        let mut options = T::default();
        let operands = match flags::parse(self.flags, &mut options, words, false) {
            Ok(operands) => operands,
            Err(FlagError::Help) => return context.print(&self.help(context)),
            Err(wrong) => return Err(Failure::Usage(wrong.to_string())),
        };
        let (least, most) = self.operands;
        if operands.len() < least || operands.len() > most {
            let wants = match self.operands {
                (0, 0) => "no argument".to_owned(),
                (n, m) if n == m => format!("exactly {n} argument(s)"),
                (n, usize::MAX) => format!("a minimum of {n} argument(s)"),
                (n, m) => format!("{n} to {m} arguments"),
            };
            return Err(Failure::Usage(format!(
                "{} {}: {:?} requires {wants}",
                context.name, self.name, self.name
            )));
        }
        (self.run)(context, options, &operands)
    }
}

static VERBS: &[&dyn Command] = &[
    &life::CREATE,
    &life::START,
    &life::RUN,
    &life::STATE,
    &life::KILL,
    &life::DELETE,
    &exec::EXEC,
    &life::PAUSE,
    &life::RESUME,
    &look::LIST,
    &look::PS,
    &limits::UPDATE,
    &limits::EVENTS,
    &look::FEATURES,
    &look::SPEC,
];

/// Whether this process was called to be an OCI runtime, and how many words say so.
pub(crate) fn is_called(arguments: &[std::ffi::OsString]) -> Option<(&'static str, usize)> {
    let program = std::path::Path::new(arguments.first()?).file_name();
    if program.is_some_and(|n| n == "runc") {
        return Some(("runc", 1));
    }
    let oci = arguments.get(1).is_some_and(|a| a == "oci");
    oci.then_some(("plimsoll oci", 2))
}

/// Runs a command line (without the words that [`is_called`] found).
pub(crate) fn main(name: &'static str, arguments: Vec<std::ffi::OsString>) -> ExitCode {
    sys::fault::enter("oci");
    let mut log = Log::default();
    let words: Result<Vec<String>, _> = arguments.into_iter().map(|a| a.into_string()).collect();
    let Ok(words) = words else {
        return conclude(
            &log,
            Err(Failure::Usage("an argument is not UTF-8".to_owned())),
            None,
        );
    };
    let mut global = Global::default();
    let words = match flags::parse(GLOBAL, &mut global, &words, false) {
        Ok(words) => words,
        Err(FlagError::Help) => Vec::new(),
        Err(wrong) => return conclude(&log, Err(Failure::Usage(wrong.to_string())), None),
    };
    log = match Log::open(global.log.as_deref(), global.format, global.debug) {
        Ok(log) => log,
        Err(e) => return conclude(&log, Err(e), None),
    };
    let context = match context(name, &global) {
        Ok(context) => context,
        Err(e) => return conclude(&log, Err(e), None),
    };
    if global.version {
        return conclude(&log, version(&context), None);
    }
    dispatch(&log, &context, &words)
}

fn context(name: &'static str, global: &Global) -> Result<Context, Failure> {
    let privileged = rustix::process::geteuid().is_root();
    let rootless = global.rootless.unwrap_or(!privileged);
    let driver = match (global.systemd, privileged) {
        (false, _) => Driver::Cgroupfs,
        (true, true) => Driver::Systemd(Manager::System),
        (true, false) => Driver::Systemd(Manager::User),
    };
    let own = || {
        let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
        directory.map(|d| PathBuf::from(d).join("plimsoll-oci"))
    };
    let root = global.root.clone();
    let root = root.or_else(|| own().filter(|_| rootless && !privileged));
    let root = root.unwrap_or_else(|| ROOT.into());
    let root = std::path::absolute(&root)?;
    Ok(Context {
        runtime: Runtime::new(root, driver, rootless),
        name,
    })
}

fn version(context: &Context) -> Outcome {
    context.print(&format!(
        "{} version {}\nspec: {}\n",
        context.name,
        env!("CARGO_PKG_VERSION"),
        runtime::oci::SPEC_VERSION
    ))
}

fn dispatch(log: &Log, context: &Context, words: &[String]) -> ExitCode {
    let Some(first) = words.first() else {
        return conclude(log, context.print(&overview(context)), None);
    };
    let outcome = match VERBS.iter().find(|v| v.name() == first) {
        Some(verb) => {
            log.debug(&format!("{} {}", context.name, words.join(" ")));
            let outcome = verb.invoke(context, &words[1..]);
            for warning in context.runtime.take_warnings() {
                log.write("warning", &warning);
            }
            let usage = format!("Usage:  {} {} {}", context.name, verb.name(), verb.usage());
            return conclude(log, outcome, Some(&usage));
        }
        None => unknown(context, first, words.get(1).map(String::as_str)),
    };
    conclude(log, outcome, None)
}

fn unknown(context: &Context, first: &str, second: Option<&str>) -> Outcome {
    match first {
        "help" | "h" => match VERBS.iter().find(|v| Some(v.name()) == second) {
            Some(verb) => context.print(&verb.help(context)),
            None => context.print(&overview(context)),
        },
        "checkpoint" | "restore" => Err(Failure::Message(
            format!("{first} is not supported: it needs CRIU, which this runtime doesn't use"),
            1,
        )),
        _ => Err(Failure::Usage(format!(
            "unknown command {first:?}; see {} --help",
            context.name
        ))),
    }
}

fn overview(context: &Context) -> String {
    let mut text = format!(
        "Usage:  {} [OPTIONS] COMMAND [ARG...]\n\nAn OCI runtime with the command line of runc\n\nCommands:\n",
        context.name
    );
    for verb in VERBS {
        text.push_str(&format!("  {:<11} {}\n", verb.name(), verb.about()));
    }
    text.push_str("\nOptions:\n");
    text.push_str(&flags::render(
        &flags::describe(GLOBAL),
        crate::term::help_width(),
    ));
    text
}

fn conclude(log: &Log, outcome: Outcome, usage: Option<&str>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Code(code)) => ExitCode::from(code),
        Err(Failure::Message(message, code)) => {
            log.error(&message);
            ExitCode::from(code)
        }
        Err(Failure::Usage(message)) => {
            if let Some(usage) = usage {
                log.tell(usage);
            }
            log.error(&message);
            ExitCode::from(1)
        }
    }
}
