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
//! oci       the runtime alone beside crun and runc: a page of its own
//! report    the table, with the issue's targets
//! ```

mod measure;
mod meter;
mod oci;
mod peers;
mod report;
mod unpack;

use crate::Failed;
use crate::dist;
use crate::setup;

/// What was asked for.
struct Options {
    /// Rounds of a measurement that takes milliseconds.
    rounds: usize,
    /// Containers of the parallel measurement.
    containers: usize,
    /// Names of the engines, ours among them.
    engines: Vec<String>,
    /// Names of the parts to measure; empty is all.
    parts: Vec<String>,
}

const ENGINES: [&str; 3] = ["plimsoll", "docker", "podman"];
const PARTS: [&str; 6] = ["run", "api", "parallel", "unpack", "floor", "oci"];

fn options(arguments: &[String]) -> Result<Options, Failed> {
    let mut options = Options {
        rounds: 21,
        containers: 200,
        engines: ENGINES.map(str::to_owned).to_vec(),
        parts: Vec::new(),
    };
    let usage = || {
        format!(
            "usage: cargo xtask bench [--rounds=N] [--containers=N] [--engines=A,B] [{}]...",
            PARTS.join("|")
        )
    };
    for argument in arguments {
        match argument.split_once('=') {
            Some(("--rounds", n)) => options.rounds = n.parse().map_err(|_| usage())?,
            Some(("--containers", n)) => options.containers = n.parse().map_err(|_| usage())?,
            Some(("--engines", names)) => {
                options.engines = names.split(',').map(str::to_owned).collect();
            }
            None if PARTS.contains(&argument.as_str()) => options.parts.push(argument.clone()),
            _ => return Err(usage().into()),
        }
    }
    Ok(options)
}

impl Options {
    fn has_peers(&self) -> bool {
        self.engines.iter().any(|e| e != "plimsoll")
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }
}

/// Measures and writes `bench/RESULTS.md` (only for a whole run with peers).
pub(crate) fn bench(arguments: &[String]) -> Result<(), Failed> {
    let options = options(arguments)?;
    setup::needs_root("cargo xtask bench")?;
    if options.has_peers() {
        setup::install(&[
            ("dockerd", "docker.io"),
            ("containerd", "containerd"),
            ("podman", "podman"),
            ("crun", "crun"),
            ("runc", "runc"),
        ])?;
    }
    if let Some(done) = setup::without_unified("bench", arguments)? {
        return done;
    }
    setup::install(&[("busybox", "busybox-static"), ("mmdebstrap", "mmdebstrap")])?;
    if options.engines.iter().any(|e| e == "plimsoll") {
        dist::program_to_show()?;
    }
    if options.wants("oci") {
        dist::program_to_show()?;
        oci::oci(&options)?;
        if options.parts.len() == 1 {
            return Ok(());
        }
    }
    let mut table = report::Table::default();
    let mut engines = peers::start(&options)?;
    let measured = measure::all(&options, &mut engines, &mut table);
    drop(engines);
    println!("\n{}", table.text());
    measured?;
    if options.engines.len() == ENGINES.len() && options.parts.is_empty() {
        let path = crate::run::root().join("bench/RESULTS.md");
        let about = format!(
            "Written by `cargo xtask bench`: all engines in one run, interleaved, medians of {} \
             rounds; peers as Debian\npackages them, each with a root of its own and without \
             networks. CPU is that of all processes: command line, daemon,\nhelpers, container.",
            options.rounds
        );
        std::fs::write(&path, table.document("Results", &about)?)?;
        println!("written: bench/RESULTS.md");
    }
    Ok(())
}
