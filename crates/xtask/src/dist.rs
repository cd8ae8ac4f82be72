//! The binary that users get: one static file.

use std::path::PathBuf;

use crate::Failed;
use crate::run::{cargo, output, program, run, target};

/// Builds it and tells where it is.
///
/// Linked against glibc's static archive, which every toolchain for this target has; a toolchain
/// with a musl target makes a smaller one with `cargo build --release --target`. The flags go to
/// the last crate alone, so that nothing else is built twice.
pub(crate) fn build() -> Result<PathBuf, Failed> {
    let triple = host_triple()?;
    run(cargo().args([
        "rustc",
        "--release",
        "--locked",
        "--package",
        "cli",
        "--bin",
        "plimsoll",
        "--target",
        &triple,
        "--",
        "-C",
        "target-feature=+crt-static",
    ]))?;
    let binary = target()?.join(triple).join("release/plimsoll");
    check_static(&binary)?;
    Ok(binary)
}

/// What is shown and measured: what users get, or the program that `PLIMSOLL_BIN` names.
pub(crate) fn program_to_show() -> Result<PathBuf, Failed> {
    match std::env::var_os("PLIMSOLL_BIN") {
        Some(path) => Ok(std::path::absolute(path)?),
        None => build(),
    }
}

/// For people: builds it, and says how large it is.
pub(crate) fn dist() -> Result<(), Failed> {
    let binary = build()?;
    let size = std::fs::metadata(&binary)?.len();
    println!("{}: {} KiB, static", binary.display(), size / 1024);
    Ok(())
}

/// A program that needs an interpreter (PT_INTERP) would not run in an empty root.
fn check_static(binary: &PathBuf) -> Result<(), Failed> {
    let headers = output(
        program("readelf")
            .args(["--program-headers", "--wide"])
            .arg(binary),
    )?;
    if headers.contains("INTERP") {
        return Err(format!("{} is not static", binary.display()).into());
    }
    Ok(())
}

fn host_triple() -> Result<String, Failed> {
    let said = output(program("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|l| l.strip_prefix("host: "));
    Ok(host.ok_or("rustc names no host")?.to_owned())
}
