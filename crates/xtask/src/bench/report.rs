//! The table: what was measured, what was promised.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::Failed;
use crate::run::{output, program};

/// What the issue promises for a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At least this many times better than that peer.
    Ratio(&'static str, f64),
    /// At most this, in the row's unit.
    AtMost(f64),
    /// At least this, in the row's unit.
    AtLeast(f64),
    /// At most this share of that peer's value.
    Share(&'static str, f64),
}

struct Row {
    what: String,
    unit: &'static str,
    values: BTreeMap<&'static str, f64>,
    targets: Vec<Target>,
    /// More is better.
    rate: bool,
}

pub(crate) struct Table {
    /// The first is ours.
    columns: &'static [&'static str],
    rows: Vec<Row>,
    notes: Vec<String>,
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

const COLUMNS: &[&str] = &["plimsoll", "docker", "podman", "floor"];

impl Default for Table {
    fn default() -> Self {
        Self::with(COLUMNS)
    }
}

impl Table {
    /// An empty one with these columns.
    pub(crate) fn with(columns: &'static [&'static str]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A row where less is better.
    pub(crate) fn row(
        &mut self,
        what: &str,
        unit: &'static str,
        values: &BTreeMap<&'static str, f64>,
        targets: &[Target],
    ) {
        self.push(what, unit, values, targets, false);
    }

    /// A row where more is better.
    pub(crate) fn rate(
        &mut self,
        what: &str,
        unit: &'static str,
        values: &BTreeMap<&'static str, f64>,
        targets: &[Target],
    ) {
        self.push(what, unit, values, targets, true);
    }

    fn push(
        &mut self,
        what: &str,
        unit: &'static str,
        values: &BTreeMap<&'static str, f64>,
        targets: &[Target],
        rate: bool,
    ) {
        let row = Row {
            what: what.to_owned(),
            unit,
            values: values.clone(),
            targets: targets.to_vec(),
            rate,
        };
        println!("{}", row.markdown(self.columns));
        self.rows.push(row);
    }

    pub(crate) fn note(&mut self, note: String) {
        println!("{note}");
        self.notes.push(note);
    }

    pub(crate) fn text(&self) -> String {
        let names = self.columns.join(" | ");
        let lines = "---:|".repeat(self.columns.len());
        let mut out = format!("| measured | {names} | ratios | promised |\n|---|{lines}---|---|\n");
        for row in &self.rows {
            let _infallible = writeln!(out, "{}", row.markdown(self.columns));
        }
        out
    }

    /// The page for the repository.
    pub(crate) fn document(&self, title: &str, about: &str) -> Result<String, Failed> {
        let kernel = output(program("uname").arg("-r"))?;
        let cores = std::thread::available_parallelism()?;
        let mut out = format!("# {title}\n\n{about}\n");
        let _infallible = write!(
            out,
            "Linux {}, {cores} cores. Compare the ratios: absolute times belong to this machine \
             and this hour.\n\n",
            kernel.trim()
        );
        out.push_str(&self.text());
        out.push('\n');
        for note in &self.notes {
            let _infallible = writeln!(out, "- {note}");
        }
        Ok(out)
    }
}

impl Row {
    fn value(&self, name: &str) -> String {
        self.values.get(name).map_or_else(
            || "-".to_owned(),
            |v| {
                let digits = match *v {
                    v if v < 10.0 => 2,
                    v if v < 100.0 => 1,
                    _ => 0,
                };
                format!("{v:.digits$} {}", self.unit)
            },
        )
    }

    /// How many times better than another; above 1 is better.
    fn ratio(&self, other: &str) -> Option<f64> {
        let (ours, theirs) = (self.values.get("plimsoll")?, self.values.get(other)?);
        if *ours == 0.0 {
            return None;
        }
        Some(if self.rate {
            ours / theirs
        } else {
            theirs / ours
        })
    }

    fn markdown(&self, columns: &[&str]) -> String {
        let ratios: Vec<String> = columns
            .iter()
            .skip(1)
            .filter_map(|name| Some(format!("{:.1}x {name}", self.ratio(name)?)))
            .collect();
        let promised: Vec<String> = self.targets.iter().map(|t| self.promise(*t)).collect();
        let values: Vec<String> = columns.iter().map(|name| self.value(name)).collect();
        format!(
            "| {} | {} | {} | {} |",
            self.what,
            values.join(" | "),
            ratios.join(", "),
            promised.join(", ")
        )
    }

    fn promise(&self, target: Target) -> String {
        let (text, kept) = match target {
            Target::Ratio(peer, times) => (
                format!("{}x {peer}", shortest(times)),
                self.ratio(peer).map(|r| r >= times),
            ),
            Target::Share(peer, share) => (
                format!("at most {share}x {peer}"),
                self.ratio(peer).map(|r| r * share >= 1.0),
            ),
            Target::AtLeast(least) => (
                format!("at least {least} {}", self.unit),
                self.values.get("plimsoll").map(|v| *v >= least),
            ),
            Target::AtMost(most) => (
                format!("at most {most} {}", self.unit),
                self.values.get("plimsoll").map(|v| *v <= most),
            ),
        };
        match kept {
            Some(true) => format!("{text}: kept"),
            Some(false) => format!("{text}: **missed**"),
            None => format!("{text}: not measured"),
        }
    }
}

/// At most two digits after the point, none that are zero.
fn shortest(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_and_promises() {
        let mut table = Table::default();
        let values = BTreeMap::from([("plimsoll", 10.0), ("docker", 150.0)]);
        let targets = [
            Target::Ratio("docker", 12.0),
            Target::Ratio("podman", 8.0),
            Target::AtMost(5.0),
        ];
        table.row("x", "ms", &values, &targets);
        let text = table.text();
        let line = text.lines().last().unwrap();
        assert_eq!(
            line,
            "| x | 10.0 ms | 150 ms | - | - | 15.0x docker | 12x docker: kept, \
             8x podman: not measured, at most 5 ms: **missed** |"
        );
    }

    #[test]
    fn the_median_of_few() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
