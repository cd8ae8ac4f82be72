//! The daemon: front doors of the engine; translation only.

use std::ffi::OsString;
use std::process::ExitCode;

/// `plimsoll daemon ARGS...`: `args` are those behind `daemon`.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
