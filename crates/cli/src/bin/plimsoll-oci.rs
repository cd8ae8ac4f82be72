//! `plimsoll-oci`: the OCI runtime alone, for whoever runs it in runc's place: without the engine
//! linked in, each of its short processes maps and touches a tenth of the pages.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::oci_main(std::env::args_os().collect())
}
