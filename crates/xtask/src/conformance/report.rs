//! The table of outcomes.

use std::fmt::Write as _;

use super::{Outcome, Runtime};
use crate::Failed;
use crate::run::{output, program};

/// Longer messages of programs are cut.
const SHOWN: usize = 160;

/// What runc or crun does and we do not, and why.
const ON_PURPOSE: &[(&str, &str)] = &[(
    "linux_ns_itype",
    "a container without a mount namespace: its mounts would be the host's, and would stay after it",
)];

pub(crate) struct Table {
    names: Vec<&'static str>,
    versions: Vec<String>,
    rows: Vec<(String, Vec<Outcome>)>,
}

impl Table {
    pub(super) fn new(runtimes: &[Runtime], suite: &str) -> Self {
        let mut versions = vec![format!("the programs: runtime-tools {suite}")];
        versions.extend(runtimes.iter().map(|r| r.version.clone()));
        let names = runtimes.iter().map(|r| r.name).collect();
        Self {
            names,
            versions,
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, program: &str, outcomes: Vec<Outcome>) {
        println!("{}", line(program, &outcomes));
        for (name, outcome) in self.names.iter().zip(&outcomes) {
            for reason in reasons(outcome) {
                println!("    {name}: {reason}");
            }
        }
        self.rows.push((program.to_owned(), outcomes));
    }

    /// Programs that another runtime passes, and this one doesn't, but for [`ON_PURPOSE`].
    pub(super) fn worse(&self, name: &str) -> Vec<&str> {
        let Some(at) = self.names.iter().position(|n| *n == name) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (program, outcomes) in &self.rows {
            let ours = outcomes.get(at).is_some_and(Outcome::is_pass);
            let meant = ON_PURPOSE.iter().any(|(name, _)| name == program);
            if !ours && !meant && outcomes.iter().any(Outcome::is_pass) {
                found.push(program.as_str());
            }
        }
        found
    }

    pub(super) fn sums(&self) -> String {
        let count = |at: usize, is: fn(&Outcome) -> bool| {
            let outcomes = self.rows.iter().filter_map(|(_, o)| o.get(at));
            outcomes.filter(|o| is(o)).count()
        };
        let mut text = format!("| of {} programs", self.rows.len());
        for at in 0..self.names.len() {
            let (pass, skip) = (count(at, Outcome::is_pass), count(at, Outcome::is_skip));
            let fail = self.rows.len() - pass - skip;
            let _infallible = write!(text, " | {pass} pass, {fail} fail, {skip} skip");
        }
        text.push_str(" |");
        text
    }

    /// The page for the repository.
    pub(super) fn document(&self) -> Result<String, Failed> {
        let kernel = output(program("uname").arg("-r"))?;
        let cgroups = host::cgroups::read()?;
        let mut out = String::from("# Conformance of `plimsoll oci`\n\n");
        let _infallible = write!(
            out,
            "Written by `cargo xtask oci-conformance`: the validation programs of OCI \
             runtime-tools with runc, crun and this\nproject's runtime (as a link named `runc`), \
             one after the other on one host. In brackets: how many checks a\nprogram printed \
             (some print none, and complain otherwise), or how many of them failed. The \
             references are asked\nagain when they fail, ours is not. What no runtime passes fails \
             by the program or the host. Linux {},\ncgroups: {:?}.\n\n",
            kernel.trim(),
            cgroups.mode
        );
        for version in &self.versions {
            let _infallible = writeln!(out, "- {version}");
        }
        let columns = self.names.join(" | ");
        let _infallible = write!(out, "\n| program | {columns} |\n|---|");
        out.push_str(&"---|".repeat(self.names.len()));
        out.push('\n');
        for (program, outcomes) in &self.rows {
            out.push_str(&line(program, outcomes));
            out.push('\n');
        }
        out.push_str(&self.sums());
        out.push_str("\n\n## What is refused on purpose\n\n");
        for (program, why) in ON_PURPOSE {
            let _infallible = writeln!(out, "- {program}: {why}");
        }
        out.push_str("\n## What failed\n\n");
        for (program, outcomes) in &self.rows {
            for (name, outcome) in self.names.iter().zip(outcomes) {
                for reason in reasons(outcome).into_iter().take(2) {
                    let _infallible = writeln!(out, "- {program}, {name}: {reason}");
                }
            }
        }
        Ok(out)
    }
}

fn line(program: &str, outcomes: &[Outcome]) -> String {
    let cells: Vec<String> = outcomes.iter().map(cell).collect();
    format!("| {program} | {} |", cells.join(" | "))
}

fn cell(outcome: &Outcome) -> String {
    if outcome.again {
        return format!("pass ({}), when asked again", outcome.passed);
    }
    if outcome.is_pass() {
        return format!("pass ({})", outcome.passed);
    }
    if outcome.is_skip() {
        return "skip".to_owned();
    }
    let all = outcome.passed + outcome.failed.len();
    match (outcome.failed.len(), &outcome.ended) {
        (0, Some(_)) => "**fail**".to_owned(),
        (failed, _) => format!("**fail** ({failed} of {all})"),
    }
}

/// Without what differs from run to run: identifiers, temporary directories, times.
fn reasons(outcome: &Outcome) -> Vec<String> {
    let ended = outcome.failed.is_empty().then_some(outcome.ended.as_ref());
    let all = outcome.failed.iter().chain(ended.flatten());
    all.map(|r| {
        let words: Vec<&str> = r.split(' ').map(stable).collect();
        words.join(" ").chars().take(SHOWN).collect()
    })
    .collect()
}

fn stable(word: &str) -> &str {
    let digits = word.bytes().filter(|b| b.is_ascii_hexdigit() || *b == b'-');
    if digits.count() >= 30 || word.contains("/tmp/") || word.starts_with("time=") {
        "…"
    } else {
        word
    }
}
