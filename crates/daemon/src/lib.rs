//! Front doors of the engine: translation only.
//!
//! ```text
//! config   flags and daemon.json, one table of keys for both
//! run      the process: pid file, engine, sockets, READY, signals, watchdog
//! listen   sockets: bound here, or handed over
//! serve    from sockets to connections; TCP comes through a relay
//! tls      certificates of the server and its clients
//! notify   what the service manager is told
//! docker/  Docker Engine API 1.24 to 1.51
//! ```
//!
//! Crash-only: a kill -9 at any instant loses nothing that was acknowledged, and the next start
//! takes up every container. SIGTERM and SIGINT end the engine, never a container.

pub mod config;
pub mod docker;
mod listen;
mod notify;
mod pidfile;
mod run;
mod serve;
mod tls;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use config::Request;

pub use engine::is_cdi_device;
pub use serve::unix as serve;

/// What is printed for `--version`, and what `/version` says.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `plimsoll daemon ARGS...`: `args` are those behind `daemon`.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut out = std::io::stdout();
    // a reader that went away (`| head`) is no failure of ours
    let mut say = |text: &str| drop(out.write_all(text.as_bytes()));
    match config::read(&args) {
        Ok(Request::Help) => say(&config::help()),
        Ok(Request::Version) => say(&format!("Plimsoll version {VERSION}\n")),
        Ok(Request::Valid) => say("configuration OK\n"),
        Ok(Request::Run(config)) => {
            return match run::run(*config, args) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
        Err(error) => return fail(&error),
    }
    ExitCode::SUCCESS
}

/// The one place where errors of the process are told; with the chain of causes.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    let text = format!("plimsoll daemon: failed to start: {}\n", chain(error));
    drop(std::io::stderr().write_all(text.as_bytes()));
    ExitCode::FAILURE
}

/// An error and its causes, joined by `: `.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
