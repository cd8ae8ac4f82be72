//! `plimsoll oci` beside crun and runc: one bundle, the same config for all, interleaved.
//!
//! CPU is read from a cpuacct cgroup that holds the runtime and, below it, its container. Memory is
//! the largest resident set among a runtime's processes, as wait4(2) tells it to time(1).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::image::BUSYBOX;

use super::Options;
use super::meter::Meter;
use super::peers::{self, Engine};
use super::report::{Table, Target, median};
use crate::Failed;
use crate::dist;
use crate::run::{output, program, said};
use crate::setup::{self, Need};

const COLUMNS: &[&str] = &[OURS, "crun", "runc", "floor"];
const OURS: &str = "plimsoll";
/// Starts of the floor in one round: it tells the median of them.
const FLOOR_STARTS: &str = "7";
const CYCLES: usize = 1000;
const PEER_CYCLES: usize = 100;

struct Runtime {
    name: &'static str,
    binary: PathBuf,
    root: PathBuf,
    meter: Meter,
}

impl Runtime {
    fn new(name: &'static str, dir: &Path) -> Result<Self, Failed> {
        let binary = if name == OURS {
            let link = dir.join("runc");
            symlink(dist::oci_to_show()?, &link)?;
            link
        } else {
            setup::find(name).ok_or_else(|| format!("no {name}"))?
        };
        Ok(Self {
            name,
            binary,
            root: dir.join(format!("state-{name}")),
            meter: Meter::new(&format!("oci-{name}"))?,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.binary);
        command.arg("--root").arg(&self.root).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let output = self
            .command(arguments)
            .output()
            .map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{} {arguments:?}: {}", self.name, said(&output)))
    }

    /// As [`Runtime::run`], where a container stays: it would keep a pipe of ours open.
    fn detached(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|e| e.to_string())?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{} {arguments:?}: {status}", self.name))
    }

    fn version(&self) -> Result<String, Failed> {
        let text = output(program(&self.binary).arg("--version"))?;
        Ok(text.lines().next().unwrap_or("?").to_owned())
    }
}

/// Programs, and the packages that have them.
pub(crate) const NEEDS: &[Need] = &[
    ("crun", "crun"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    ("time", "time"),
    ("dockerd", "docker.io"),
    ("containerd", "containerd"),
];

/// Measures everything and writes `bench/OCI.md`.
pub(crate) fn oci(options: &Options) -> Result<(), Failed> {
    let dir = tempfile::Builder::new().prefix("pl-boci-").tempdir()?;
    let runtimes = [OURS, "crun", "runc"]
        .into_iter()
        .map(|name| Runtime::new(name, dir.path()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut table = Table::with(COLUMNS);
    for runtime in &runtimes {
        table.note(runtime.version()?);
    }
    let rootfs = root_file_system(dir.path())?;
    let seccomp = docker_profile()?;
    let floor = Floor::build(dir.path())?;
    for (what, profile) in [
        ("runc's default spec", None),
        ("Docker's default profile", Some(&seccomp)),
    ] {
        let bundles = bundles(dir.path(), &rootfs, &runtimes, profile)?;
        runs(options, &runtimes, &bundles, &floor, what, &mut table)?;
        memory(&runtimes, &bundles, what, &mut table)?;
        execs(options, &runtimes, &bundles, what, &mut table)?;
        if profile.is_some() {
            cycles(&runtimes, &bundles, &mut table)?;
        }
    }
    println!("\n{}", table.text());
    let about = format!(
        "Written by `cargo xtask bench oci`: the three runtimes in one run, interleaved, medians \
         of {} rounds, one bundle of\nbusybox, one config: `runc spec`'s, running `true`, with \
         and without the seccomp profile that dockerd gives its\ncontainers. The floor is \
         crates/runtime/examples/floor.rs with cgroups, and with its filter beside the profile; \
         a row of its own has that\nprogram doing all that the config asks for (its cgroup mounts, \
         masks, read-only paths), started as a program like\na runtime. CPU is that of the runtime and its container.",
        options.rounds
    );
    let path = crate::run::root().join("bench/OCI.md");
    fs::write(
        path,
        table.document("`plimsoll oci` beside its peers", &about)?,
    )?;
    println!("written: bench/OCI.md");
    Ok(())
}

fn root_file_system(dir: &Path) -> Result<PathBuf, Failed> {
    let rootfs = dir.join("rootfs");
    for part in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(part))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
    for applet in ["true", "sleep"] {
        symlink("/bin/busybox", rootfs.join("bin").join(applet))?;
    }
    Ok(rootfs)
}

/// What Docker's daemon asks its runtime for: read from a container's bundle while it runs.
fn docker_profile() -> Result<Value, Failed> {
    let options = Options {
        rounds: 1,
        containers: 1,
        engines: vec!["docker".to_owned()],
        parts: Vec::new(),
    };
    let engines = peers::start(&options, false)?;
    let docker = engines.first().ok_or("docker didn't start")?;
    let spec = spec_of_a_container(docker)?;
    let profile = spec["linux"]["seccomp"].clone();
    if profile["syscalls"].as_array().is_none_or(Vec::is_empty) {
        return Err("docker's container has no seccomp profile".into());
    }
    Ok(profile)
}

fn spec_of_a_container(docker: &Engine) -> Result<Value, Failed> {
    let made = docker.api.post(
        "/containers/create",
        &json!({
            "Image": BUSYBOX,
            "Cmd": ["sleep", "1000"],
            "HostConfig": {"NetworkMode": "none"},
        }),
    )?;
    let id = made.json()["Id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/containers/{id}/start");
    let started = docker.api.post(&path, &Value::Null)?;
    if !started.is_ok() {
        return Err(format!("docker: {started:?}").into());
    }
    let bundle = docker.bundle(&id).ok_or("docker has no bundles")?;
    Ok(serde_json::from_slice(&fs::read(
        bundle.join("config.json"),
    )?)?)
}

/// A bundle for each runtime: they differ in their cgroup alone, which is below its meter.
fn bundles(
    dir: &Path,
    rootfs: &Path,
    runtimes: &[Runtime],
    profile: Option<&Value>,
) -> Result<Vec<PathBuf>, Failed> {
    let text = {
        let spec = dir.join("spec");
        if spec.exists() {
            fs::remove_dir_all(&spec)?;
        }
        fs::create_dir(&spec)?;
        output(program("runc").current_dir(&spec).arg("spec"))?;
        fs::read(spec.join("config.json"))?
    };
    let mut made = Vec::new();
    for runtime in runtimes {
        let bundle = dir.join(format!("bundle-{}", runtime.name));
        fs::create_dir_all(&bundle)?;
        let mut spec: Value = serde_json::from_slice(&text)?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = json!(["true"]);
        spec["root"]["path"] = rootfs.to_string_lossy().into();
        spec["linux"]["cgroupsPath"] = format!("{}/c", runtime.meter.parent).into();
        if let Some(profile) = profile {
            spec["linux"]["seccomp"] = profile.clone();
        }
        fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
        spec["process"]["args"] = json!(["sleep", "100000"]);
        let sleeping = dir.join(format!("bundle-{}-sleep", runtime.name));
        fs::create_dir_all(&sleeping)?;
        fs::write(sleeping.join("config.json"), serde_json::to_vec(&spec)?)?;
        made.push(bundle);
    }
    Ok(made)
}

fn sleeping(bundle: &Path) -> PathBuf {
    PathBuf::from(format!("{}-sleep", bundle.display()))
}

type Samples = BTreeMap<&'static str, Vec<f64>>;

fn medians(samples: &Samples) -> BTreeMap<&'static str, f64> {
    samples.iter().map(|(k, v)| (*k, median(v))).collect()
}

/// Wall and CPU in milliseconds.
#[derive(Default)]
struct Measured {
    wall: Samples,
    cpu: Samples,
}

impl Measured {
    /// One action.
    fn take(
        &mut self,
        name: &'static str,
        meter: &Meter,
        action: impl FnOnce() -> Result<(), String> + Send,
    ) -> Result<(), Failed> {
        let used = meter.read()?;
        let (result, took) = meter.within(|| {
            let before = Instant::now();
            let result = action();
            (result, before.elapsed())
        });
        result?;
        std::thread::sleep(Duration::from_millis(5));
        let used = meter.read()?.saturating_sub(used);
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        self.wall.entry(name).or_default().push(millis(took));
        self.cpu.entry(name).or_default().push(millis(used));
        Ok(())
    }

    /// Two rows: `what` with the targets of each.
    fn rows(&self, what: &str, about: &str, targets: [&[Target]; 2], table: &mut Table) {
        let both = [("wall", &self.wall), ("CPU", &self.cpu)];
        for ((unit, samples), targets) in both.into_iter().zip(targets) {
            let row = format!("{what}: {unit}{about}");
            table.row(&row, "ms", &medians(samples), targets);
        }
    }
}

struct Floor {
    program: PathBuf,
    rootfs: PathBuf,
    meter: Meter,
}

impl Floor {
    fn build(dir: &Path) -> Result<Self, Failed> {
        let mut build = crate::run::cargo();
        build.args(["build", "--release", "--locked", "-p", "runtime"]);
        crate::run::run(build.args(["--example", "floor"]))?;
        Ok(Self {
            program: crate::run::target()?.join("release/examples/floor"),
            rootfs: dir.join("rootfs"),
            meter: Meter::new("oci-floor")?,
        })
    }

    /// One start, as a program of its own that does what the spec asks for and nothing else: what a
    /// runtime could at best take.
    fn spec(&self, seccomp: bool) -> Result<(), String> {
        let mut command = program(&self.program);
        command.args(["--cgroup", "--spec"]);
        command.args(seccomp.then_some("--seccomp"));
        command.arg("1").arg(&self.rootfs).arg("/bin/true");
        output(&mut command).map(drop).map_err(|e| e.to_string())
    }

    /// Median of some starts, in milliseconds.
    fn take(&self, seccomp: bool) -> Result<f64, Failed> {
        let mut command = program(&self.program);
        command.arg("--cgroup");
        if seccomp {
            command.arg("--seccomp");
        }
        command.arg(FLOOR_STARTS).arg(&self.rootfs).arg("/bin/true");
        let text = output(&mut command)?;
        let number = text.split(|c: char| !c.is_ascii_digit() && c != '.');
        let micros = number.filter_map(|n| n.parse::<f64>().ok()).next();
        Ok(micros.ok_or_else(|| format!("the floor says {text:?}"))? / 1e3)
    }
}

fn runs(
    options: &Options,
    runtimes: &[Runtime],
    bundles: &[PathBuf],
    floor: &Floor,
    what: &str,
    table: &mut Table,
) -> Result<(), Failed> {
    let (mut all, mut least) = (Measured::default(), Measured::default());
    let seccomp = what.contains("profile");
    for round in 0..=options.rounds {
        if round == 1 {
            // the first warms caches and doesn't count
            (all, least) = (Measured::default(), Measured::default());
        }
        for (runtime, bundle) in runtimes.iter().zip(bundles) {
            let bundle = bundle.to_string_lossy();
            let arguments = ["run", "--bundle", &bundle, "bench"];
            let run = || runtime.run(&arguments);
            all.take(runtime.name, &runtime.meter, run)?;
        }
        let floors = all.wall.entry("floor").or_default();
        floors.push(floor.take(seccomp)?);
        least.take("floor", &floor.meter, || floor.spec(seccomp))?;
    }
    for name in [OURS, "runc"] {
        for (from, to) in [(&all.wall, &mut least.wall), (&all.cpu, &mut least.cpu)] {
            to.extend(from.get(name).map(|values| (name, values.clone())));
        }
    }
    let what = format!("`run`, {what}");
    let wall = [Target::Share("crun", 0.4), Target::Share("floor", 1.35)];
    let cpu = [Target::Share("crun", 0.6), Target::Share("runc", 0.15)];
    all.rows(&what, "", [&wall, &cpu], table);
    let about = "; floor: all that the config asks for";
    let wall = [Target::Share("floor", 1.35)];
    least.rows(&what, about, [&wall, &[]], table);
    Ok(())
}

/// The largest resident set of `run`, in MiB.
fn memory(
    runtimes: &[Runtime],
    bundles: &[PathBuf],
    what: &str,
    table: &mut Table,
) -> Result<(), Failed> {
    let mut largest = Samples::new();
    for _ in 0..7 {
        for (runtime, bundle) in runtimes.iter().zip(bundles) {
            let mut command = program("time");
            command.args(["--quiet", "--format", "%M"]);
            command
                .arg(&runtime.binary)
                .arg("--root")
                .arg(&runtime.root);
            command.args(["run", "--bundle"]).arg(bundle).arg("bench");
            let done = command.stdin(Stdio::null()).output()?;
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            let kib = text
                .trim()
                .lines()
                .last()
                .and_then(|l| l.parse::<f64>().ok());
            let kib = kib.ok_or_else(|| format!("{}: {text}", runtime.name))?;
            largest.entry(runtime.name).or_default().push(kib / 1024.0);
        }
    }
    let targets = [Target::Share("crun", 1.0)];
    let row = format!("`run`, {what}: largest resident set");
    table.row(&row, "MiB", &medians(&largest), &targets);
    Ok(())
}

fn execs(
    options: &Options,
    runtimes: &[Runtime],
    bundles: &[PathBuf],
    what: &str,
    table: &mut Table,
) -> Result<(), Failed> {
    for (runtime, bundle) in runtimes.iter().zip(bundles) {
        let bundle = sleeping(bundle);
        let bundle = bundle.to_string_lossy();
        runtime.detached(&["run", "--detach", "--bundle", &bundle, "bench"])?;
    }
    let measured = exec_rounds(options, runtimes);
    for runtime in runtimes {
        runtime.run(&["delete", "--force", "bench"])?;
    }
    let targets = [Target::Share("crun", 0.5)];
    measured?.rows(&format!("`exec`, {what}"), "", [&targets, &targets], table);
    Ok(())
}

fn exec_rounds(options: &Options, runtimes: &[Runtime]) -> Result<Measured, Failed> {
    let mut all = Measured::default();
    for round in 0..=options.rounds {
        if round == 1 {
            all = Measured::default();
        }
        for runtime in runtimes {
            let run = || runtime.run(&["exec", "bench", "true"]);
            all.take(runtime.name, &runtime.meter, run)?;
        }
    }
    Ok(all)
}

/// What could grow: cgroups, mounts, state directories, our own descriptors, processes.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    cgroups: usize,
    mounts: usize,
    state: usize,
    descriptors: usize,
    processes: usize,
}

impl Counts {
    fn take(runtime: &Runtime) -> Result<Self, Failed> {
        let root = runtime.root.to_string_lossy().into_owned();
        let mut cgroups = 0;
        for hierarchy in &host::cgroups::read()?.hierarchies {
            let dir = hierarchy
                .mount
                .join(runtime.meter.parent.trim_start_matches('/'));
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            cgroups += entries.filter(|e| e.path().is_dir()).count();
        }
        let processes = testkit::procfs::all();
        let mine = |p: &&testkit::procfs::Process| p.command.iter().any(|a| a.contains(&root));
        Ok(Self {
            cgroups,
            mounts: testkit::procfs::mounts("self").len(),
            state: fs::read_dir(&runtime.root).map_or(0, Iterator::count),
            descriptors: fs::read_dir("/proc/self/fd")?.count(),
            processes: processes.iter().filter(mine).count(),
        })
    }
}

/// create, start, delete, again and again: time of one, and nothing that grows.
fn cycles(runtimes: &[Runtime], bundles: &[PathBuf], table: &mut Table) -> Result<(), Failed> {
    let (mut wall, mut cpu) = (BTreeMap::new(), BTreeMap::new());
    for (runtime, bundle) in runtimes.iter().zip(bundles) {
        let count = if runtime.name == OURS {
            CYCLES
        } else {
            PEER_CYCLES
        };
        let bundle = bundle.to_string_lossy();
        let cycle = || -> Result<(), String> {
            runtime.detached(&["create", "--bundle", &bundle, "cycle"])?;
            runtime.run(&["start", "cycle"])?;
            runtime.run(&["delete", "--force", "cycle"])
        };
        runtime.meter.within(cycle)?;
        let counts = Counts::take(runtime)?;
        let used = runtime.meter.read()?;
        let before = Instant::now();
        runtime
            .meter
            .within(|| (0..count).try_for_each(|_| cycle()))?;
        let each = |d: Duration| {
            let count = u32::try_from(count).map_or(1.0, f64::from);
            d.as_secs_f64() * 1e3 / count
        };
        wall.insert(runtime.name, each(before.elapsed()));
        cpu.insert(
            runtime.name,
            each(runtime.meter.read()?.saturating_sub(used)),
        );
        let after = Counts::take(runtime)?;
        if runtime.name == OURS && counts != after {
            return Err(format!("after {count} cycles {counts:?} became {after:?}").into());
        }
    }
    let what = "create + start + delete of `true`, Docker's default profile";
    table.row(&format!("{what}: wall"), "ms", &wall, &[]);
    table.row(&format!("{what}: CPU"), "ms", &cpu, &[]);
    table.note(format!(
        "{CYCLES} cycles of {OURS} left as many cgroups, mounts, state directories, descriptors and \
         processes as there were"
    ));
    Ok(())
}
