//! `cargo xtask test`: everything that must be green, set-up included.

use std::time::{Duration, Instant};

use crate::Failed;
use crate::run::{cargo, tee};
use crate::setup::{self, Need};
use crate::tidy;

/// What tests run besides our own programs.
const NEEDS: [Need; 24] = [
    ("busybox", "busybox-static"),
    ("docker", "docker.io"),
    // what clients see of it is compared with what they see of us
    ("dockerd", "docker.io"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("losetup", "mount"),
    ("newuidmap", "uidmap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("docker-registry", "docker-registry"),
    ("docker-compose", "docker-compose"),
    ("openssl", "openssl"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
    ("nft", "nftables"),
    // our runtime in runc's place: below these two, and with terminals that script(1) makes
    ("podman", "podman"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("script", "bsdutils"),
    // client libraries are installed with these
    ("pip3", "python3-pip"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

struct Stage {
    name: &'static str,
    run: fn() -> Result<Vec<String>, Failed>,
}

const STAGES: [Stage; 7] = [
    Stage {
        name: "tidy",
        run: || tidy::tidy().map(|()| Vec::new()),
    },
    Stage {
        name: "fmt",
        run: || cargo_stage(&["fmt", "--all", "--check"]),
    },
    Stage {
        name: "clippy",
        run: || {
            cargo_stage(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Stage {
        name: "build",
        run: || cargo_stage(&["build", "--locked", "--package", "cli"]),
    },
    Stage {
        name: "tests",
        run: tests,
    },
    Stage {
        name: "doc tests",
        run: || cargo_stage(&["test", "--workspace", "--locked", "--doc"]),
    },
    Stage {
        name: "doc",
        run: || {
            let mut command = cargo();
            // private items are documented too: a link to one leads somewhere
            let flags = "-D warnings -A rustdoc::private-intra-doc-links";
            command.env("RUSTDOCFLAGS", flags);
            command.args(["doc", "--workspace", "--locked", "--no-deps"]);
            command.arg("--document-private-items");
            finish(&mut command)
        },
    },
];

fn cargo_stage(arguments: &[&str]) -> Result<Vec<String>, Failed> {
    finish(cargo().args(arguments))
}

fn finish(command: &mut std::process::Command) -> Result<Vec<String>, Failed> {
    let (ok, lines) = tee(command)?;
    let closing = closing_lines(&lines);
    if ok {
        Ok(closing)
    } else {
        Err(closing.join("\n").into())
    }
}

/// What a test runner says last: nextest's summary and failures, or each binary's result.
fn closing_lines(lines: &[String]) -> Vec<String> {
    let summary = lines
        .iter()
        .rposition(|l| l.trim_start().starts_with("Summary ["));
    let wanted = |l: &&String| {
        l.starts_with("test result:") || l.starts_with("error") || l.ends_with("FAILED")
    };
    match summary {
        Some(at) => lines[at..].to_vec(),
        None => lines.iter().filter(wanted).cloned().collect(),
    }
}

/// nextest where it is installed: a process a test, so that one that hangs is killed alone.
fn tests() -> Result<Vec<String>, Failed> {
    let nextest = cargo().args(["nextest", "--version"]).output();
    if nextest.is_ok_and(|o| o.status.success()) {
        return cargo_stage(&[
            "nextest",
            "run",
            "--workspace",
            "--locked",
            "--no-fail-fast",
        ]);
    }
    cargo_stage(&[
        "test",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--lib",
        "--bins",
        "--tests",
        "--examples",
    ])
}

/// How a stage went.
struct Row {
    name: &'static str,
    took: Duration,
    result: Result<Vec<String>, String>,
}

/// Runs all stages, or those named.
pub(crate) fn test(names: &[String]) -> Result<(), Failed> {
    for name in names {
        if !STAGES.iter().any(|s| s.name == name) {
            let known: Vec<&str> = STAGES.iter().map(|s| s.name).collect();
            return Err(format!("no stage {name}: there are {}", known.join(", ")).into());
        }
    }
    setup::needs_root("cargo xtask test")?;
    setup::install(&NEEDS)?;
    if let Err(e) = setup::clients() {
        // the tests that want them fail, and say so; the others run
        println!("client libraries cannot be installed: {e}");
    }
    let mut table = Vec::new();
    for stage in &STAGES {
        if !names.is_empty() && !names.iter().any(|n| n == stage.name) {
            continue;
        }
        println!("\n== {}", stage.name);
        let before = Instant::now();
        let result = (stage.run)().map_err(|e| e.to_string());
        table.push(Row {
            name: stage.name,
            took: before.elapsed(),
            result,
        });
    }
    println!("\n== closing lines");
    let mut failed = Vec::new();
    for Row { name, took, result } in &table {
        let (word, lines) = match result {
            Ok(lines) => ("ok", lines.clone()),
            Err(e) => ("FAILED", e.lines().map(str::to_owned).collect()),
        };
        println!("{name:<10} {word:<7} {:>7.1} s", took.as_secs_f64());
        for line in lines {
            println!("    {line}");
        }
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        println!("all stages are green");
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")).into())
}
