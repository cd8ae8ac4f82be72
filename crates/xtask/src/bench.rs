//! `cargo xtask bench`: this engine and its peers from the distribution's packages, interleaved in
//! one run, with medians and ratios.
//!
//! Absolute times drift from machine to machine and from hour to hour: what counts are the ratios
//! of one run. Each engine is a daemon of its own in a directory of its own, without any network.
//!
//! ```text
//! meter     CPU time of an engine: a cpuacct cgroup that daemon, clients and containers run in
//! peers     how each engine is started, asked, and what its processes are
//! measure   the measurements
//! unpack    a large image against gzip | tar
//! report    the table, with the issue's targets
//! ```

mod measure;
mod meter;
mod peers;
mod report;
mod unpack;

use crate::Failed;
use crate::run::{cargo, run};
use crate::setup;

/// What was asked for.
struct Options {
    /// Rounds of a measurement that takes milliseconds.
    rounds: usize,
    /// Containers of the parallel measurement.
    containers: usize,
    peers: bool,
    /// Names of the parts to measure; empty is all.
    parts: Vec<String>,
}

const PARTS: [&str; 5] = ["run", "api", "parallel", "unpack", "floor"];

fn options(arguments: &[String]) -> Result<Options, Failed> {
    let mut options = Options {
        rounds: 21,
        containers: 200,
        peers: true,
        parts: Vec::new(),
    };
    let usage = || {
        format!(
            "usage: cargo xtask bench [--rounds=N] [--containers=N] [--no-peers] [{}]...",
            PARTS.join("|")
        )
    };
    for argument in arguments {
        match argument.split_once('=') {
            Some(("--rounds", n)) => options.rounds = n.parse().map_err(|_| usage())?,
            Some(("--containers", n)) => options.containers = n.parse().map_err(|_| usage())?,
            None if argument == "--no-peers" => options.peers = false,
            None if PARTS.contains(&argument.as_str()) => options.parts.push(argument.clone()),
            _ => return Err(usage().into()),
        }
    }
    Ok(options)
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }
}

/// Measures and writes `bench/RESULTS.md` (only for a whole run with peers).
pub(crate) fn bench(arguments: &[String]) -> Result<(), Failed> {
    let options = options(arguments)?;
    setup::needs_root("cargo xtask bench")?;
    if options.peers {
        setup::install(&[
            ("dockerd", "docker.io"),
            ("containerd", "containerd"),
            ("podman", "podman"),
            ("crun", "crun"),
            ("runc", "runc"),
        ])?;
    }
    setup::install(&[("busybox", "busybox-static"), ("mmdebstrap", "mmdebstrap")])?;
    run(cargo().args(["build", "--release", "--locked", "--package", "cli"]))?;
    let mut table = report::Table::default();
    let mut engines = peers::start(&options)?;
    let measured = measure::all(&options, &mut engines, &mut table);
    drop(engines);
    println!("\n{}", table.text());
    measured?;
    if options.peers && options.parts.is_empty() {
        let path = crate::run::root().join("bench/RESULTS.md");
        std::fs::write(&path, table.document(&options)?)?;
        println!("written: bench/RESULTS.md");
    }
    Ok(())
}
