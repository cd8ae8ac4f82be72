//! `cargo xtask demo`: the main job on real input, checked at every step.
//!
//! ```text
//! doctor     the verdict on this host
//! images     Debian by mmdebstrap and `plimsoll import`; PostgreSQL likewise: no registry
//! database   PostgreSQL in a container on a named volume; pgbench fills it and runs
//! kill -9    the engine, twice, in the middle: pgbench, its log and its exit code go on
//! adoption   the engine again, which takes the containers over
//! volume     the container removed, another on the same volume: every row is there
//! leftovers  nothing: mounts, cgroups, links, descriptors, processes as before
//! ```
//! Everything is in a temporary directory and goes with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::procfs::Process;
use testkit::{Instance, Snapshot};

use crate::Failed;
use crate::dist;
use crate::run::{output, program, run, said, target};
use crate::setup;

/// The issue's promise for an adoption.
const ADOPTION: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds that pgbench runs.
const BENCH: u64 = 12;
/// pgbench's scale: 100,000 accounts each.
const SCALE: u64 = 5;

/// Where the database's image keeps its programs differs by version: the shell finds out.
const PROFILE: &str = "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); export PATH PGDATA; ";

/// What was checked, for the table at the end.
#[derive(Default)]
struct Checks(Vec<(bool, String, String)>);

impl Checks {
    fn check(&mut self, what: &str, holds: bool, seen: impl Into<String>) {
        let seen = seen.into();
        let word = if holds { "ok" } else { "FAILED" };
        println!("  {word}: {what}: {seen}");
        self.0.push((holds, what.to_owned(), seen));
    }

    fn table(&self) -> Result<(), Failed> {
        let width = self.0.iter().map(|c| c.1.len()).max().unwrap_or(0);
        println!("\nresults");
        for (holds, what, seen) in &self.0 {
            let word = if *holds { "ok" } else { "FAILED" };
            println!("  {word:<7} {what:<width$}  {seen}");
        }
        match self.0.iter().filter(|c| !c.0).count() {
            0 => {
                println!("\nall {} checks hold", self.0.len());
                Ok(())
            }
            n => Err(format!("{n} of {} checks failed", self.0.len()).into()),
        }
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// The whole demonstration.
pub(crate) fn demo(arguments: &[String]) -> Result<(), Failed> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("demo takes no arguments, not {unknown}").into());
    }
    setup::needs_root("cargo xtask demo")?;
    heading("set-up");
    setup::install(&[("mmdebstrap", "mmdebstrap")])?;
    let program = dist::program_to_show()?;
    let mut checks = Checks::default();
    let mut engine = Instance::of(program).log_level("info");
    heading("the doctor's verdict on this host");
    let data_root = engine.data_root();
    let mut doctor = engine.plimsoll_command();
    run(doctor.arg("doctor").arg("--data-root").arg(data_root))?;
    heading("the engine, on a root of its own");
    let nothing = Snapshot::take(&engine);
    let ready = engine.start();
    println!("answers after {ready:?}");
    let result = scenario(&mut engine, &mut checks);
    if let Err(e) = &result {
        checks.check("the demonstration ran to its end", false, e.to_string());
        println!("\nwhat the engine said:\n{}", engine.log());
        if engine.has_ended() {
            engine.start();
        }
        engine.remove_all();
    }
    heading("the end of the engine");
    engine.stop();
    let left = nothing
        .without(&["volumes", "layers", "containers on disk", "run directory"])
        .settled(&engine, Duration::from_secs(5));
    checks.check(
        "nothing of it is left on the host",
        left.is_ok(),
        left.err()
            .unwrap_or_else(|| "as before it started".to_owned()),
    );
    checks.table()
}

fn scenario(engine: &mut Instance, checks: &mut Checks) -> Result<(), Failed> {
    images(engine, checks)?;
    let clean = Snapshot::take(engine).without(&["volumes", "layers", "run directory"]);
    let before = database(engine, checks)?;
    let rows = survive(engine, checks, before)?;
    another_on_the_same_volume(engine, checks, &rows)?;
    heading("conservation: mounts, cgroups, links, descriptors, processes");
    let settled = clean.settled(engine, Duration::from_secs(5));
    checks.check(
        "nothing is left of the containers",
        settled.is_ok(),
        settled
            .err()
            .unwrap_or_else(|| "as before the first one".to_owned()),
    );
    plimsoll(engine, &["volume", "rm", "pgdata", "pgsocket"])?;
    plimsoll(engine, &["rmi", "debian:demo", "postgres:demo"])?;
    Ok(())
}

/// Runs our command line, quietly; its stdout.
fn plimsoll(engine: &Instance, arguments: &[&str]) -> Result<String, Failed> {
    println!("$ plimsoll {}", arguments.join(" "));
    let output = engine.plimsoll(arguments);
    if !output.status.success() {
        return Err(format!("plimsoll {}: {}", arguments.join(" "), said(&output)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

// ---- images -------------------------------------------------------------------------------------

/// The release this host runs, or Debian's stable one.
fn suite() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(|v| v.trim_matches('"').to_owned())
    };
    let debian = field("ID=").as_deref() == Some("debian");
    field("VERSION_CODENAME=")
        .filter(|_| debian)
        .unwrap_or_else(|| "stable".to_owned())
}

/// A root file system from the distribution's packages, kept for the next demonstration.
pub(crate) fn root_file_system(name: &str, packages: &[&str]) -> Result<PathBuf, Failed> {
    let dir = target()?.join("demo");
    fs::create_dir_all(&dir)?;
    let suite = suite();
    let path = dir.join(format!("{suite}-{name}.tar"));
    let fresh = fs::metadata(&path)
        .and_then(|m| m.modified())
        .is_ok_and(|t| t.elapsed().is_ok_and(|e| e < Duration::from_secs(86_400)));
    if fresh {
        println!("{} of the last day is used", path.display());
        return Ok(path);
    }
    // mmdebstrap decides on the format by the name's end
    let staged = dir.join(format!("staged-{}-{name}.tar", std::process::id()));
    let mut command = program("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    let made = run(command.arg(&suite).arg(&staged));
    if made.is_err() {
        let _none = fs::remove_file(&staged);
    }
    made?;
    fs::rename(&staged, &path)?;
    Ok(path)
}

fn images(engine: &Instance, checks: &mut Checks) -> Result<(), Failed> {
    heading("a Debian image and a PostgreSQL image, without any registry");
    let debian = root_file_system("base", &[])?;
    let postgres = root_file_system("postgresql", &["postgresql"])?;
    import(engine, &debian, "debian:demo", &["CMD [\"bash\"]"])?;
    import(
        engine,
        &postgres,
        "postgres:demo",
        &["USER postgres", "ENV PGDATA=/var/lib/postgresql/demo"],
    )?;
    let version = plimsoll(
        engine,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "debian:demo",
            "cat",
            "/etc/debian_version",
        ],
    )?;
    checks.check("a Debian container runs", !version.is_empty(), version);
    Ok(())
}

fn import(engine: &Instance, tar: &Path, name: &str, changes: &[&str]) -> Result<(), Failed> {
    let before = Instant::now();
    let mut command = engine.plimsoll_command();
    command.arg("import");
    for change in changes {
        command.args(["--change", change]);
    }
    output(command.arg(tar).arg(name))?;
    let mib = fs::metadata(tar)?.len() >> 20;
    println!("imported {name}: {mib} MiB in {:?}", before.elapsed());
    Ok(())
}

// ---- the database -------------------------------------------------------------------------------

const VOLUMES: [&str; 4] = [
    "--volume",
    "pgdata:/var/lib/postgresql",
    "--volume",
    "pgsocket:/tmp",
];

fn server(engine: &Instance, name: &str) -> Result<String, Failed> {
    let script = format!(
        "{PROFILE}if ! test -s $PGDATA/PG_VERSION; then initdb --auth=trust >/dev/null; fi; \
         exec postgres -c listen_addresses= -c unix_socket_directories=/tmp"
    );
    let mut arguments = vec!["run", "--detach", "--name", name, "--network", "none"];
    arguments.extend([
        "--memory",
        "1g",
        "--pids-limit",
        "200",
        "--stop-signal",
        "SIGINT",
    ]);
    arguments.extend(VOLUMES);
    arguments.extend(["postgres:demo", "sh", "-c", &script]);
    let id = plimsoll(engine, &arguments)?;
    let end = Instant::now() + PATIENCE;
    while sql(engine, name, "select 1").as_deref().ok() != Some("1") {
        if Instant::now() > end {
            let logs = engine.plimsoll(&["logs", name]);
            let said = String::from_utf8_lossy(&logs.stderr).into_owned();
            return Err(format!("PostgreSQL doesn't answer:\n{said}").into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(id)
}

/// A query by psql in the server's container.
fn sql(engine: &Instance, name: &str, query: &str) -> Result<String, Failed> {
    let output = engine.plimsoll(&[
        "exec", name, "psql", "-h", "/tmp", "-Atc", query, "postgres",
    ]);
    if !output.status.success() {
        return Err(format!("{query}: {}", said(&output)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn rows(engine: &Instance, name: &str, table: &str) -> Result<u64, Failed> {
    Ok(sql(engine, name, &format!("select count(*) from {table}"))?.parse()?)
}

/// PostgreSQL with pgbench's tables; a snapshot is taken by the caller before.
fn database(engine: &Instance, checks: &mut Checks) -> Result<u64, Failed> {
    heading("PostgreSQL in a container with a named volume, filled by pgbench");
    server(engine, "db")?;
    let fill = format!("{PROFILE}pgbench -h /tmp -i -q -s {SCALE} postgres");
    plimsoll(engine, &["exec", "db", "sh", "-c", &fill])?;
    let accounts = rows(engine, "db", "pgbench_accounts")?;
    checks.check(
        "pgbench filled the volume",
        accounts == SCALE * 100_000,
        format!("{accounts} accounts"),
    );
    Ok(accounts)
}

/// Runs a detached container of the PostgreSQL image with a shell script.
fn detached(engine: &Instance, name: &str, script: &str) -> Result<(), Failed> {
    let script = format!("{PROFILE}{script}");
    let mut arguments = vec!["run", "--detach", "--name", name, "--network", "none"];
    arguments.extend(VOLUMES);
    arguments.extend(["postgres:demo", "sh", "-c", &script]);
    plimsoll(engine, &arguments).map(drop)
}

/// A container's first process.
fn process(engine: &Instance, name: &str) -> Result<Process, Failed> {
    let pid = engine.inspect(name)["State"]["Pid"].as_i64().unwrap_or(0);
    let process = i32::try_from(pid).ok().and_then(Process::read);
    process.ok_or_else(|| format!("{name} has no process {pid}").into())
}

/// What must be the same before and after.
struct Rows {
    accounts: u64,
    history: u64,
}

fn survive(engine: &mut Instance, checks: &mut Checks, accounts: u64) -> Result<Rows, Failed> {
    heading("pgbench, with kill -9 of the engine in the middle");
    let bench = format!("pgbench -h /tmp -n -c 4 -j 2 -T {BENCH} -P 1 postgres");
    detached(engine, "bench", &bench)?;
    detached(engine, "witness", "sleep 2; echo last words; exit 42")?;
    let (bench, database) = (process(engine, "bench")?, process(engine, "db")?);
    let log = PathBuf::from(
        engine.inspect("bench")["LogPath"]
            .as_str()
            .unwrap_or_default(),
    );
    wait_for("pgbench's first lines", || lines(&log) >= 2)?;

    println!("kill -9 of the engine");
    engine.kill9();
    let (before, at) = (lines(&log), Instant::now());
    wait_for("two more lines of a log nobody reads", || {
        lines(&log) >= before + 2
    })?;
    checks.check(
        "without an engine pgbench goes on and its log is written",
        bench.is_alive() && database.is_alive(),
        format!(
            "{} lines in {:.1} s",
            lines(&log) - before,
            at.elapsed().as_secs_f64()
        ),
    );
    adopt(engine, checks, 3)?;
    let same = process(engine, "bench")?.pid == bench.pid && bench.is_alive();
    checks.check(
        "the same processes run on",
        same && database.is_alive(),
        format!("pid {}", bench.pid),
    );
    exit_code(engine, checks, "witness", 42, "ended while no engine ran")?;
    let words = plimsoll(engine, &["logs", "witness"])?;
    checks.check(
        "its last words are in the log",
        words == "last words",
        words,
    );

    println!("kill -9 of the engine, until pgbench has ended");
    engine.kill9();
    wait_for("pgbench to end", || !bench.is_alive())?;
    adopt(engine, checks, 3)?;
    exit_code(
        engine,
        checks,
        "bench",
        0,
        "pgbench ended while no engine ran",
    )?;
    let report = engine.plimsoll(&["logs", "bench"]);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    let done = report
        .lines()
        .find_map(|l| l.strip_prefix("number of transactions actually processed: "))
        .and_then(|n| n.split('/').next()?.trim().parse::<u64>().ok());
    let history = rows(engine, "db", "pgbench_history")?;
    checks.check(
        "each transaction that pgbench reports is a row",
        done == Some(history) && history > 0,
        format!("{} reported, {history} rows", done.unwrap_or(0)),
    );
    plimsoll(engine, &["rm", "bench", "witness"])?;
    Ok(Rows { accounts, history })
}

/// Further kills: each of them has to be survived as fast.
const MORE_KILLS: usize = 4;

fn adopt(engine: &mut Instance, checks: &mut Checks, containers: usize) -> Result<(), Failed> {
    let mut times = vec![engine.start()];
    let all = engine.containers().len() == containers;
    for _ in 0..MORE_KILLS {
        engine.kill9();
        times.push(engine.start());
    }
    let slowest = times.iter().max().copied().unwrap_or(Duration::MAX);
    let shown: Vec<String> = times
        .iter()
        .map(|t| format!("{:.0}", t.as_secs_f64() * 1e3))
        .collect();
    checks.check(
        "the engine starts again and adopts in under 100 ms",
        slowest < ADOPTION && all && engine.containers().len() == containers,
        format!(
            "{containers} containers; answers after {} ms",
            shown.join(", ")
        ),
    );
    println!("{}", plimsoll(engine, &["ps", "--all"])?);
    Ok(())
}

fn exit_code(
    engine: &Instance,
    checks: &mut Checks,
    name: &str,
    code: i64,
    what: &str,
) -> Result<(), Failed> {
    let seen = plimsoll(engine, &["wait", name])?;
    checks.check(
        &format!("the exit code of {name} is known ({what})"),
        seen == code.to_string(),
        seen,
    );
    Ok(())
}

fn lines(log: &Path) -> usize {
    fs::read(log).map_or(0, |b| b.iter().filter(|c| **c == b'\n').count())
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Failed> {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            return Err(format!("waited {PATIENCE:?} for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn another_on_the_same_volume(
    engine: &Instance,
    checks: &mut Checks,
    expected: &Rows,
) -> Result<(), Failed> {
    heading("the container removed, another on the same volume");
    // not stopped first: what was committed must be there after a kill, too
    plimsoll(engine, &["rm", "--force", "db"])?;
    server(engine, "db2")?;
    let accounts = rows(engine, "db2", "pgbench_accounts")?;
    let history = rows(engine, "db2", "pgbench_history")?;
    checks.check(
        "every row is on the volume",
        accounts == expected.accounts && history == expected.history,
        format!("{accounts} accounts, {history} transactions"),
    );
    let before = Instant::now();
    plimsoll(engine, &["stop", "db2"])?;
    let code = plimsoll(engine, &["wait", "db2"])?;
    checks.check(
        "PostgreSQL shuts down when it is stopped",
        code == "0",
        format!("exit code {code} in {:?}", before.elapsed()),
    );
    plimsoll(engine, &["rm", "db2"])?;
    Ok(())
}
