//! `cargo xtask bench`: this engine and its peers from the distribution's packages, interleaved in
//! one run, with medians and ratios.
//!
//! Absolute times drift from machine to machine and from hour to hour: what counts are the ratios
//! of one run. Each engine is a daemon of its own in a directory of its own, without any network but
//! in the part that measures networks.
//!
//! ```text
//! meter     CPU time of an engine: a cpuacct cgroup that daemon, clients and containers run in
//! peers     how each engine is started, asked, and what its processes are
//! measure   the measurements
//! unpack    a large image against gzip | tar
//! api       the API under load: a page of its own
//! oci       the runtime alone beside crun and runc: a page of its own
//! network   links, ports, names, throughput: a page of its own
//! report    the table, with the issue's targets
//! ```

mod api;
mod measure;
mod meter;
mod network;
mod oci;
mod peers;
mod report;
mod unpack;

use crate::Failed;
use crate::dist;
use crate::run::{program, run};
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
const PARTS: [&str; 8] = [
    "run", "calls", "parallel", "unpack", "floor", "api", "oci", "network",
];
/// Those with a page of their own.
const PAGES: [&str; 3] = ["api", "oci", "network"];

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

    /// Whether nothing is asked for but what has pages of its own.
    fn is_pages(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|p| PAGES.contains(&p.as_str()))
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }
}

/// Size of the file system measured on; a sparse file.
const DISK_GIB: u64 = 40;

/// Runs the measurement in a mount namespace of its own, which goes with it and in which
///
/// - temporary directories, and so every engine's roots, are on a fresh ext4 as mkfs makes it: what
///   hosts have. A root file system without a journal, as some virtual machines have, looks at every
///   inode freed in the last minutes whenever it makes one, and what is measured then is the past.
/// - the version 2 hierarchy is not shown beside version 1: crun refuses such hosts.
///
/// and in a network namespace of its own, whose links and firewall are the engines' alone.
fn in_own_namespace(arguments: &[String]) -> Result<Option<Result<(), Failed>>, Failed> {
    const INSIDE: &str = "PLIMSOLL_BENCH_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let disk = tempfile::Builder::new().prefix("pl-bench-").tempdir()?;
    let (image, mount) = (disk.path().join("ext4"), disk.path().join("m"));
    std::fs::create_dir(&mount)?;
    std::fs::File::create(&image)?.set_len(DISK_GIB << 30)?;
    run(program("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
    let hidden = setup::unified_beside_v1()?;
    const SCRIPT: &str = "mount -o loop \"$1\" \"$2\" && { test -z \"$3\" || umount \"$3\"; } \
                          && ip link set lo up && TMPDIR=$2 && export TMPDIR && shift 3 && \"$@\"";
    let mut command = program("unshare");
    command
        .args(["--mount", "--net", "--propagation", "private"])
        .args(["sh", "-c", SCRIPT])
        .arg("sh")
        .args([&image, &mount])
        .arg(hidden.unwrap_or_default())
        .arg(std::env::current_exe()?)
        .arg("bench")
        .args(arguments)
        .env(INSIDE, "1");
    Ok(Some(run(&mut command)))
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
    setup::install(&[
        ("busybox", "busybox-static"),
        ("mmdebstrap", "mmdebstrap"),
        ("mkfs.ext4", "e2fsprogs"),
        ("ip", "iproute2"),
    ])?;
    if options.engines.iter().any(|e| e == "plimsoll") {
        dist::program_to_show()?;
    }
    if options.wants("oci") {
        setup::install(oci::NEEDS)?;
        dist::oci_to_show()?;
    }
    if options.wants("network") {
        setup::install(network::NEEDS)?;
    }
    if let Some(done) = in_own_namespace(arguments)? {
        return done;
    }
    if options.wants("oci") {
        oci::oci(&options)?;
    }
    if options.wants("network") {
        network::network(&options)?;
    }
    if options.wants("api") {
        api::api(&options)?;
    }
    if options.is_pages() {
        return Ok(());
    }
    let mut table = report::Table::default();
    let mut engines = peers::start(&options, false)?;
    let measured = measure::all(&options, &mut engines, &mut table);
    drop(engines);
    println!("\n{}", table.text());
    measured?;
    if options.engines.len() == ENGINES.len() && options.parts.is_empty() {
        let path = crate::run::root().join("bench/RESULTS.md");
        let about = format!(
            "Written by `cargo xtask bench`: all engines in one run, interleaved, medians of {} \
             rounds; peers as Debian\npackages them, each with a root of its own on a fresh \
             ext4 and without networks. CPU is that of all processes: command line, daemon,\nhelpers, container.",
            options.rounds
        );
        std::fs::write(&path, table.document("Results", &about)?)?;
        println!("written: bench/RESULTS.md");
    }
    Ok(())
}
