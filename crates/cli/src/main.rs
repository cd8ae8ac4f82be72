//! `plimsoll`: every process of the engine is this binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os().collect())
}
