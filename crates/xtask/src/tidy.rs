//! The rules that no compiler checks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Failed;
use crate::run::{cargo, output, program, root};

/// Each crate depends on crates of a lower rank only. `testkit` and `xtask` are for development:
/// they may use any, and no crate of the product may use them but in its tests.
const RANKS: [(&str, u8); 15] = [
    ("sys", 0),
    ("api", 0),
    ("dockerfile", 0),
    ("host", 1),
    ("net", 1),
    ("store", 1),
    ("runtime", 2),
    ("registry", 2),
    ("shim", 3),
    ("engine", 4),
    ("build", 5),
    ("daemon", 6),
    ("cli", 7),
    ("testkit", 8),
    ("xtask", 9),
];

/// A new dependency should be worth raising this.
const MOST_PACKAGES: usize = 220;

/// Licences that go with Apache-2.0.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

type Complaints = Vec<String>;

/// Runs every check and lists what is wrong.
pub(crate) fn tidy() -> Result<(), Failed> {
    let files = tracked()?;
    let mut complaints = Complaints::new();
    architecture(&mut complaints);
    crate::specification::check(&files, &mut complaints);
    dependencies(&mut complaints)?;
    lock_file(&mut complaints)?;
    for file in &files {
        // a file being deleted is tracked still
        if let Ok(text) = fs::read_to_string(root().join(file)) {
            machine_paths(file, &text, &mut complaints);
            if file.extension().is_some_and(|e| e == "rs") {
                source(file, &text, &mut complaints);
            }
        }
    }
    if complaints.is_empty() {
        println!("tidy: {} files are in order", files.len());
        return Ok(());
    }
    Err(format!("not tidy:\n  {}", complaints.join("\n  ")).into())
}

/// Files of the repository; without git, all but what a build makes.
fn tracked() -> Result<Vec<PathBuf>, Failed> {
    let listed = output(program("git").args(["ls-files", "-z"]));
    if let Ok(list) = listed {
        return Ok(list
            .split('\0')
            .filter(|f| !f.is_empty())
            .map(PathBuf::from)
            .collect());
    }
    let mut found = Vec::new();
    let mut left = vec![root()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                left.push(path);
            } else if path.is_file() {
                found.push(path.strip_prefix(root())?.to_owned());
            }
        }
    }
    Ok(found)
}

fn crates() -> Vec<String> {
    let Ok(entries) = fs::read_dir(root().join("crates")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.path().join("Cargo.toml").is_file())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn architecture(complaints: &mut Complaints) {
    let Ok(text) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        complaints.push("there is no ARCHITECTURE.md".to_owned());
        return;
    };
    for name in crates() {
        if !text.contains(&format!("`{name}`")) {
            complaints.push(format!("ARCHITECTURE.md doesn't name the crate `{name}`"));
        }
    }
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn dependencies(complaints: &mut Complaints) -> Result<(), Failed> {
    let ranks: BTreeMap<&str, u8> = RANKS.into_iter().collect();
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    for package in array(&metadata, "packages") {
        let name = text(package, "name");
        if !package["source"].is_null() {
            licence(package, complaints);
            continue;
        }
        let Some(rank) = ranks.get(name) else {
            complaints.push(format!("crate {name} has no rank in xtask's tidy check"));
            continue;
        };
        for dependency in array(package, "dependencies") {
            let to = text(dependency, "name");
            let is_ours = dependency["source"].is_null();
            // kind is null for what the crate itself needs
            if !is_ours || !dependency["kind"].is_null() {
                continue;
            }
            if ranks.get(to).is_some_and(|r| r >= rank) {
                complaints.push(format!("{name} depends on {to}, which isn't below it"));
            }
        }
    }
    Ok(())
}

/// At least one alternative must be made of licences of the list.
fn licence(package: &Value, complaints: &mut Complaints) {
    let expression = text(package, "license")
        .replace('/', " OR ")
        .replace(['(', ')'], "");
    let fits = expression.split(" OR ").any(|alternative| {
        alternative
            .split(" AND ")
            .all(|l| LICENCES.contains(&l.trim()))
    });
    // in "(A OR B) AND C" each part must hold: the split above sees "B AND C", which is enough
    if !fits {
        complaints.push(format!(
            "{} has the licence {expression:?}",
            text(package, "name")
        ));
    }
}

fn lock_file(complaints: &mut Complaints) -> Result<(), Failed> {
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let packages = lock.matches("[[package]]").count();
    if packages > MOST_PACKAGES {
        complaints.push(format!(
            "{packages} packages in Cargo.lock: the ceiling is {MOST_PACKAGES}"
        ));
    }
    let registry = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    for line in lock.lines() {
        if line.starts_with("source = ") && line != registry {
            complaints.push(format!("Cargo.lock: {line}"));
        }
    }
    Ok(())
}

/// Paths of somebody's machine say nothing to anybody else. (In two halves, or this file would
/// find itself.)
const MACHINE: [&str; 4] = [
    concat!("/wo", "rk/"),
    concat!("/root/", ".cargo"),
    concat!("/home/", "runner"),
    concat!("process", "_api"),
];

fn machine_paths(file: &Path, text: &str, complaints: &mut Complaints) {
    for (number, line) in text.lines().enumerate() {
        for path in MACHINE {
            if line.contains(path) {
                complaints.push(format!("{}:{}: {path}", file.display(), number + 1));
            }
        }
    }
}

/// Code of a line: comments and what is said in strings may use any word.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

fn source(file: &Path, text: &str, complaints: &mut Complaints) {
    let parts: Vec<&str> = file.iter().filter_map(|p| p.to_str()).collect();
    let (owner, folder) = match parts.as_slice() {
        ["crates", owner, folder, ..] => (*owner, *folder),
        _ => return,
    };
    let development = owner == "testkit" || owner == "xtask" || folder != "src";
    // unit tests run programs as tests do
    let mut in_tests = file.file_stem().is_some_and(|s| s == "tests");
    // what an expectation with its reason covers: the command line starts the daemon
    let mut excused_until = None;
    for (number, line) in text.lines().enumerate() {
        let code = code(line);
        in_tests |= code.contains("#[cfg(test)]");
        if code.contains("clippy::disallowed_methods") {
            excused_until = Some(number + 6);
        }
        let mut complain = |what: &str| {
            complaints.push(format!("{}:{}: {what}", file.display(), number + 1));
        };
        let unsafe_code = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
        if owner != "sys" && unsafe_code.iter().any(|u| code.contains(u)) {
            complain("unsafe code belongs in `sys`");
        }
        if code.contains("#[allow(") || code.contains("#![allow(") {
            complain("use #[expect(.., reason = ..)]");
        }
        // the daemon starts its own binary as the spawner, and nothing else
        let starts_itself = file.ends_with("shim/src/client/spawner.rs");
        if !development
            && !in_tests
            && excused_until.is_none_or(|n| number > n)
            && !starts_itself
            && code.contains("Command::new")
        {
            complain("the product runs no other programs");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_of(path: &str, text: &str) -> Complaints {
        let mut found = Complaints::new();
        source(Path::new(path), text, &mut found);
        machine_paths(Path::new(path), text, &mut found);
        found
    }

    #[test]
    fn finds_what_it_should() {
        let unsafe_block = "let x = unsafe { y() };\n";
        assert_eq!(
            complaints_of("crates/store/src/a.rs", unsafe_block).len(),
            1
        );
        assert_eq!(complaints_of("crates/sys/src/a.rs", unsafe_block).len(), 0);
        assert_eq!(
            complaints_of("crates/store/src/a.rs", "// unsafe { }\n").len(),
            0
        );
        let command = "std::process::Command::new(\"tar\")\n";
        assert_eq!(complaints_of("crates/cli/src/a.rs", command).len(), 1);
        assert_eq!(complaints_of("crates/cli/tests/a.rs", command).len(), 0);
        let path = format!("cd {}\n", MACHINE[0]);
        assert_eq!(complaints_of("README.md", &path).len(), 1);
    }

    #[test]
    fn licences() {
        let of = |l: &str| {
            let mut found = Complaints::new();
            licence(&serde_json::json!({"name": "x", "license": l}), &mut found);
            found.len()
        };
        assert_eq!(of("MIT OR Apache-2.0"), 0);
        assert_eq!(of("MIT/Apache-2.0"), 0);
        assert_eq!(of("(MIT OR Apache-2.0) AND Unicode-3.0"), 0);
        assert_eq!(of("GPL-3.0"), 1);
        assert_eq!(of("MIT AND GPL-2.0"), 1);
        assert_eq!(of(""), 1);
    }
}
