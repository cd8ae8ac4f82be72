//! Is this host fit to carry containers? A registry of checks and the verdict over them.
//!
//! The worst outcome decides: `works`, `caveats` (carried, and told what to mind) or `forbidden`
//! (the engine doesn't start unless told to: data or the host would be lost). Each check looks at
//! what was tried on this very host; a version decides only in [`Tier::Build`], the list of exact
//! builds that corrupt or panic in a way no probe may provoke.
//!
//! ```text
//! Context::gather   reads what the checks need          (I/O, some of it slow: Depth::Full)
//! CHECKS            {name, tier, evidence, run}         (pure: Context -> Outcome)
//! examine           runs them all                       -> Report {verdict, findings}
//! ```

mod checks;
mod context;

use std::fmt::{self, Write as _};

use serde::Serialize;

pub use checks::CHECKS;
pub use context::{Context, Depth, FileSystem, Slow};

/// How a check reaches its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Something was tried in a throwaway child.
    Probe,
    /// Something was read from the kernel.
    Read,
    /// An exact build is known to corrupt or panic.
    Build,
}

/// From best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Works,
    Caveats,
    Forbidden,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Works => "works",
            Self::Caveats => "caveats",
            Self::Forbidden => "forbidden",
        })
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// What was seen on this host.
    pub saw: String,
    /// What to do about it; empty where nothing needs to be done.
    pub advice: String,
}

impl Outcome {
    fn works(saw: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Works,
            saw: saw.into(),
            advice: String::new(),
        }
    }

    fn caveats(saw: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Caveats,
            saw: saw.into(),
            advice: advice.into(),
        }
    }

    fn forbidden(saw: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Forbidden,
            saw: saw.into(),
            advice: advice.into(),
        }
    }
}

/// One thing to know about a host.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    pub name: &'static str,
    pub tier: Tier,
    /// Where it is recorded that this matters (`m#` is moby/moby, `r#` opencontainers/runc, ..).
    pub evidence: &'static str,
    /// `None`: doesn't apply to this host, or wasn't looked at in this depth.
    pub run: fn(&Context) -> Option<Outcome>,
}

/// A check with its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub tier: Tier,
    pub verdict: Verdict,
    pub saw: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
    pub evidence: &'static str,
}

/// The verdict over a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    pub kernel: String,
    pub data_root: std::path::PathBuf,
    pub file_system: String,
    /// Worst first, in the order of the registry within a verdict.
    pub findings: Vec<Finding>,
}

/// Runs every check that applies.
#[must_use]
pub fn examine(context: &Context) -> Report {
    let mut findings: Vec<Finding> = CHECKS
        .iter()
        .filter_map(|check| {
            let outcome = (check.run)(context)?;
            Some(Finding {
                check: check.name,
                tier: check.tier,
                verdict: outcome.verdict,
                saw: outcome.saw,
                advice: outcome.advice,
                evidence: check.evidence,
            })
        })
        .collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.verdict));
    Report {
        verdict: findings.first().map_or(Verdict::Works, |f| f.verdict),
        kernel: context.facts.kernel_release.clone(),
        data_root: context.facts.data_root.clone(),
        file_system: context.file_system.kind.clone(),
        findings,
    }
}

impl Report {
    /// The engine must not start here unless told to.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.verdict == Verdict::Forbidden
    }

    /// Findings of one verdict.
    pub fn of(&self, verdict: Verdict) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |f| f.verdict == verdict)
    }

    /// For people: the verdict, then what to mind, then what works in a word each.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _infallible = writeln!(
            out,
            "verdict: {} (kernel {}, {} at {})\n",
            self.verdict,
            self.kernel,
            self.file_system,
            self.data_root.display()
        );
        let worse = self.findings.iter().filter(|f| f.verdict != Verdict::Works);
        for f in worse {
            let _infallible = writeln!(out, "{:<10} {}: {}", f.verdict, f.check, f.saw);
            if !f.advice.is_empty() {
                let _infallible = writeln!(out, "{:<10} do: {}", "", f.advice);
            }
            let _infallible = writeln!(out, "{:<10} see: {}", "", f.evidence);
        }
        for f in self.of(Verdict::Works) {
            let _infallible = writeln!(out, "{:<10} {}: {}", f.verdict, f.check, f.saw);
        }
        out
    }
}

#[cfg(test)]
mod tests;
