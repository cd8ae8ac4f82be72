//! The `plimsoll` command line: Docker's words and flags over the Docker Engine API.
//!
//! ```text
//! main -> argv[1] = oci     -> runtime  (an OCI runtime with runc's command line; also argv[0] = runc)
//!      -> argv[1] = spawner -> shim     (no argument of its own, nothing of this crate)
//!      -> argv[1] = daemon  -> daemon   (dockerd's flags)
//!      -> else              -> commands: find the Verb, read its Flags, call the API by Client,
//!                              print Tables and Templates, end with Docker's exit codes
//! ```
//!
//! All I/O is blocking on one thread: a command makes a few requests and then polls descriptors.

mod autostart;
mod capture;
mod cmd;
mod commands;
mod contexts;
mod endpoint;
mod flags;
mod foreground;
mod http;
mod human;
mod login;
mod mounts;
mod oci;
mod parse;
mod progress;
mod stream;
mod table;
mod template;
mod term;
mod tls;
mod verb;

use std::ffi::OsString;
use std::process::ExitCode;

/// The OCI runtime alone: `arguments` as the process got them, its own name included.
#[must_use]
pub fn oci_main(arguments: Vec<OsString>) -> ExitCode {
    let (name, words) = oci::is_called(&arguments).unwrap_or(("plimsoll-oci", 1));
    oci::main(name, arguments.into_iter().skip(words).collect())
}

/// The whole program: `arguments` as the process got them, its own name included.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    if let Some((name, words)) = oci::is_called(&arguments) {
        return oci::main(name, arguments.into_iter().skip(words).collect());
    }
    match arguments.get(1).and_then(|a| a.to_str()) {
        Some("spawner") => {
            let code = shim::spawner::main();
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Some("daemon") => {
            sys::fault::enter("daemon");
            daemon::main(arguments.into_iter().skip(2).collect())
        }
        _ => {
            sys::fault::enter("cli");
            commands::main(arguments.into_iter().skip(1).collect())
        }
    }
}
