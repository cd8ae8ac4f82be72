//! SPECIFICATION.md names tests; each must exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::run::root;

/// Complains of every `crate/file::function` in SPECIFICATION.md that is no function of that file.
pub(crate) fn check(files: &[PathBuf], complaints: &mut Vec<String>) {
    let Ok(text) = fs::read_to_string(root().join("SPECIFICATION.md")) else {
        complaints.push("SPECIFICATION.md: not there".into());
        return;
    };
    let known = functions(files);
    let named: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|w| w.contains("::"))
        .collect();
    if named.is_empty() {
        complaints.push("SPECIFICATION.md: names no test".into());
    }
    for name in named {
        if !known.contains(name) {
            complaints.push(format!("SPECIFICATION.md: no test {name}"));
        }
    }
}

/// All functions below `crates/`, as `crate/file::function`.
fn functions(files: &[PathBuf]) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for file in files {
        let mut parts = file.iter().filter_map(|p| p.to_str());
        let (Some("crates"), Some(crate_name)) = (parts.next(), parts.next()) else {
            continue;
        };
        let Some(stem) = file.file_stem().and_then(|s| s.to_str()) else {
            continue;
        };
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("fn ") else {
                continue;
            };
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            known.insert(format!("{crate_name}/{stem}::{name}"));
        }
    }
    known
}
