//! `cargo xtask oci-conformance`: the OCI runtime-tools' validation programs against runc, crun
//! and ours, side by side.
//!
//! They were written by others, and no runtime passes all of them on every host: what counts is
//! the difference. A program that runc or crun passes here and ours fails is an error.
//!
//! ```text
//! source    gets and builds the programs
//! tap.go    the one library that the distribution lacks
//! report    the table
//! ```

mod report;
mod source;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::Failed;
use crate::dist;
use crate::run::{output, program};
use crate::setup;

/// The slowest takes 20 s with the slowest runtime.
const DEADLINE: Duration = Duration::from_secs(90);
const OURS: &str = "plimsoll";
const NAMES: [&str; 3] = ["runc", "crun", OURS];

/// A runtime with a state directory of its own.
struct Runtime {
    name: &'static str,
    version: String,
    /// A script that adds `--root`: the programs only know a command.
    command: PathBuf,
    root: PathBuf,
}

/// How a program went with a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    passed: usize,
    skipped: usize,
    /// Descriptions of what was `not ok`.
    failed: Vec<String>,
    /// The program itself did not end well.
    ended: Option<String>,
    /// Passed when it was asked again: references are, ours is not.
    again: bool,
}

impl Outcome {
    fn is_pass(&self) -> bool {
        self.failed.is_empty() && self.ended.is_none() && !self.is_skip()
    }

    fn is_skip(&self) -> bool {
        self.failed.is_empty() && self.ended.is_none() && self.passed == 0 && self.skipped > 0
    }
}

struct Options {
    runtimes: Vec<&'static str>,
    programs: Vec<String>,
    verbose: bool,
}

fn options(arguments: &[String]) -> Result<Options, Failed> {
    let usage = "usage: cargo xtask oci-conformance [--runtimes=A,B] [--verbose] [PROGRAM...]";
    let mut options = Options {
        runtimes: NAMES.to_vec(),
        programs: Vec::new(),
        verbose: false,
    };
    for argument in arguments {
        match argument.split_once('=') {
            Some(("--runtimes", names)) => {
                let known = |n: &str| NAMES.into_iter().find(|k| *k == n).ok_or(usage);
                options.runtimes = names.split(',').map(known).collect::<Result<_, _>>()?;
            }
            None if argument == "--verbose" => options.verbose = true,
            None if !argument.starts_with('-') => options.programs.push(argument.clone()),
            _ => return Err(usage.into()),
        }
    }
    Ok(options)
}

/// Runs all, or those named; a whole run writes `docs/oci-conformance.md`.
pub(crate) fn conformance(arguments: &[String]) -> Result<(), Failed> {
    let options = options(arguments)?;
    setup::needs_root("cargo xtask oci-conformance")?;
    setup::install(&[("runc", "runc"), ("crun", "crun")])?;
    if let Some(done) = setup::without_unified("oci-conformance", arguments)? {
        return done;
    }
    let suite = source::build()?;
    let dir = tempfile::Builder::new().prefix("pl-oci-").tempdir()?;
    let runtimes = options
        .runtimes
        .iter()
        .map(|name| runtime(name, dir.path()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut table = report::Table::new(&runtimes, &suite.version);
    for name in programs(&suite.programs, &options)? {
        let mut row = Vec::new();
        for runtime in &runtimes {
            let mut outcome = check(&suite, &name, runtime, dir.path(), &options)?;
            // some programs race with some runtimes: what these pass once counts as passed
            if runtime.name != OURS && !outcome.is_pass() {
                let second = check(&suite, &name, runtime, dir.path(), &options)?;
                let again = second.is_pass();
                outcome = Outcome { again, ..second };
            }
            row.push(outcome);
        }
        table.row(&name, row);
    }
    println!("{}", table.sums());
    if options.programs.is_empty() && runtimes.len() == NAMES.len() {
        let path = crate::run::root().join("docs/oci-conformance.md");
        fs::write(path, table.document()?)?;
        println!("written: docs/oci-conformance.md");
    }
    let worse = table.worse(OURS);
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!("others pass, {OURS} fails: {}", worse.join(", ")).into())
}

/// The binary that stands for a name: `RUNC`, `CRUN`, `PLIMSOLL_BIN`, or what is installed.
fn binary(name: &str, dir: &Path) -> Result<PathBuf, Failed> {
    if name == OURS {
        // what it is called decides: as a link named runc it behaves as runc
        let link = dir.join("runc");
        symlink(dist::oci_to_show()?, &link)?;
        return Ok(link);
    }
    match std::env::var_os(name.to_uppercase()) {
        Some(path) => Ok(path.into()),
        None => setup::find(name).ok_or_else(|| format!("no {name}").into()),
    }
}

fn runtime(name: &'static str, dir: &Path) -> Result<Runtime, Failed> {
    let dir = dir.join(name);
    let root = dir.join("state");
    fs::create_dir_all(&root)?;
    let binary = binary(name, &dir)?;
    let said = output(program(&binary).arg("--version"))?;
    let command = dir.join("command");
    let script = format!(
        "#!/bin/sh\nexec '{}' --root '{}' \"$@\"\n",
        binary.display(),
        root.display()
    );
    fs::write(&command, script)?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    Ok(Runtime {
        name,
        version: said.lines().next().unwrap_or("?").to_owned(),
        command,
        root,
    })
}

fn programs(dir: &Path, options: &Options) -> Result<Vec<String>, Failed> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    for wanted in &options.programs {
        if !names.contains(wanted) {
            return Err(format!("no program {wanted}: there are {}", names.join(", ")).into());
        }
    }
    names.retain(|n| options.programs.is_empty() || options.programs.contains(n));
    Ok(names)
}

/// One program with one runtime; whatever it left is removed.
fn check(
    suite: &source::Suite,
    name: &str,
    runtime: &Runtime,
    dir: &Path,
    options: &Options,
) -> Result<Outcome, Failed> {
    let (log, temporary) = (dir.join("log"), dir.join("tmp"));
    fs::create_dir_all(&temporary)?;
    let out = fs::File::create(&log)?;
    // a container without a mount namespace of its own mounts in ours: in one that goes with it
    let mut command = program("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .arg(suite.programs.join(name))
        .current_dir(&suite.work)
        .env("RUNTIME", &runtime.command)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        // a file: a container that stays would keep a pipe open
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0);
    let child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
    let ended = wait(child)?;
    sweep(runtime)?;
    fs::remove_dir_all(&temporary)?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let outcome = parse(&text, ended);
    if options.verbose {
        println!("== {name} with {}\n{text}", runtime.name);
    }
    Ok(outcome)
}

/// Waits; what went wrong with the program itself, if anything did.
fn wait(mut child: Child) -> Result<Option<String>, Failed> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| status.to_string()));
        }
        if Instant::now() > end {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
    child.wait()?;
    Ok(Some(format!("still there after {DEADLINE:?}")))
}

/// Deletes the containers that a program left.
fn sweep(runtime: &Runtime) -> Result<(), Failed> {
    for entry in fs::read_dir(&runtime.root)? {
        let id = entry?.file_name();
        let mut delete = program(&runtime.command);
        delete.args(["delete", "--force"]).arg(&id);
        delete.stdin(Stdio::null());
        let said = delete.output()?;
        if runtime.root.join(&id).join("state.json").exists() {
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            println!("{}: {} stays: {text}", runtime.name, id.to_string_lossy());
        }
    }
    Ok(())
}

/// Reads what a program printed: the Test Anything Protocol, and other lines between.
///
/// Some print no test at all: then they complain by how they end, or by an `error` in a diagnostic.
fn parse(text: &str, ended: Option<String>) -> Outcome {
    let mut outcome = Outcome {
        passed: 0,
        skipped: 0,
        failed: Vec::new(),
        ended,
        again: false,
    };
    let mut complaint = None;
    for line in text.lines() {
        let fails = line.strip_prefix("not ok ");
        match (line.starts_with("ok "), fails) {
            (true, _) if line.contains("# SKIP") => outcome.skipped += 1,
            (true, _) => outcome.passed += 1,
            (_, Some(rest)) if rest.contains("# TODO") => outcome.skipped += 1,
            (_, Some(rest)) => {
                let description = rest.split_once(" - ").map_or(rest, |(_, d)| d);
                outcome.failed.push(description.trim().to_owned());
            }
            _ => {
                let error = line.trim_start().strip_prefix("\"error\": ");
                complaint = complaint.or(error);
            }
        }
    }
    let silent = outcome.passed + outcome.skipped + outcome.failed.len() == 0;
    match (&mut outcome.ended, complaint) {
        (None, Some(error)) if silent => outcome.ended = Some(error.to_owned()),
        // what the runtime said helps more than the number that the program ended with
        (Some(ended), _) => {
            let words = |l: &&str| {
                let l = l.trim();
                !l.is_empty() && !l.starts_with("ok ") && !l.starts_with("1..") && *l != *ended
            };
            let noise = |l: &&str| !l.starts_with("exit status") && !l.starts_with("Refer to:");
            let last = text.lines().rev().filter(words).find(noise);
            *ended = last.map_or_else(|| ended.clone(), |l| format!("{ended}: {}", l.trim()));
        }
        _ => {}
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_protocol() {
        let text = "TAP version 13\nok 1 - one\nnot ok 2 - two\n  ---\n  \"not ok 9\"\n  ...\n\
                    not ok 3 # TODO - three\nok 4 # SKIP four\n1..4\n";
        let outcome = parse(text, None);
        assert_eq!(outcome.passed, 1);
        assert_eq!(outcome.skipped, 2);
        assert_eq!(outcome.failed, ["two"]);
        assert!(!outcome.is_pass() && !outcome.is_skip());
    }

    #[test]
    fn a_program_without_tests_complains_in_other_ways() {
        assert!(parse("TAP version 13\n1..0\n", None).is_pass());
        let error = parse(
            "TAP version 13\n  ---\n    \"error\": \"x\"\n  ...\n1..0\n",
            None,
        );
        assert!(!error.is_pass());
        // an error that was expected
        assert!(
            parse(
                "ok 1 - one\n  ---\n    \"error\": \"x\"\n  ...\n1..1\n",
                None
            )
            .is_pass()
        );
        let ended = parse("ok 1 - one\nfailed\n", Some("exit status: 1".to_owned()));
        assert!(!ended.is_pass());
        assert_eq!(ended.ended.as_deref(), Some("exit status: 1: failed"));
        assert!(parse("ok 1 # SKIP one\n1..1\n", None).is_skip());
    }
}
