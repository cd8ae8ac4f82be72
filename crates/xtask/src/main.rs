//! Automation: `cargo xtask demo`, `test`, `clients`, `tidy`, `bench`, `oci-conformance`.
//!
//! ```text
//! demo    the main job on real input: PostgreSQL on a volume that survives everything
//! test    all tests, doing their set-up first; what the continuous integration runs
//! clients the client libraries that tests use; test installs them too
//! tidy    the rules that no compiler checks
//! dist    the static binary
//! bench   side by side with the peers of the distribution
//! oci-conformance   others' programs judge runc, crun and ours
//! ```
//! Unlike the product, this runs other programs, and prints.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool for people"
)]

mod bench;
mod conformance;
mod demo;
mod dist;
mod run;
mod setup;
mod specification;
mod tests;
mod tidy;

use std::process::ExitCode;

/// What went wrong, in words for whoever ran the command.
type Failed = Box<dyn std::error::Error>;

const USAGE: &str = "usage: cargo xtask demo | test [STAGE...] | clients | tidy | dist | bench [OPTION...] | \
                     oci-conformance [OPTION...]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    let result = match arguments.first().map(String::as_str) {
        Some("demo") => demo::demo(rest),
        Some("bench") => bench::bench(rest),
        Some("oci-conformance") => conformance::conformance(rest),
        Some("test") => tests::test(rest),
        Some("clients") => setup::clients(),
        Some("tidy") => tidy::tidy(),
        Some("dist") => dist::dist(),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}
