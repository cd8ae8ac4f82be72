//! SPECIFICATION.md and the table of the API's routes name tests; each must exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::run::root;

const NAMING: [&str; 2] = ["SPECIFICATION.md", "docs/docker-api.md"];

/// Complains of every `crate/file::function` in these documents that is no function of that file.
pub(crate) fn check(files: &[PathBuf], complaints: &mut Vec<String>) {
    let known = functions(files);
    for document in NAMING {
        let Ok(text) = fs::read_to_string(root().join(document)) else {
            complaints.push(format!("{document}: not there"));
            continue;
        };
        let words = text.split('`').skip(1).step_by(2);
        let named: Vec<&str> = words
            .filter(|w| w.contains("::") && w.contains('/'))
            .collect();
        if named.is_empty() {
            complaints.push(format!("{document}: names no test"));
        }
        for name in named.into_iter().filter(|n| !known.contains(*n)) {
            complaints.push(format!("{document}: no test {name}"));
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
