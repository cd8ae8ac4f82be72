//! The binaries that users get, each one static file: `plimsoll`, and `plimsoll-oci`, the OCI
//! runtime alone for whoever runs it in runc's place.

use std::path::{Path, PathBuf};

use crate::Failed;
use crate::run::{cargo, output, program, run, target};

/// A binary, the profile it is built with, and what the linker is told besides.
struct Static {
    name: &'static str,
    profile: &'static str,
    /// Of the environment: a ready program instead.
    instead: &'static str,
    flags: &'static [&'static str],
}

const ENGINE: Static = Static {
    name: "plimsoll",
    profile: "release",
    instead: "PLIMSOLL_BIN",
    flags: &[],
};

/// At fixed addresses: there is nothing to relocate, and no page is written for it.
const OCI: Static = Static {
    name: "plimsoll-oci",
    profile: "small",
    instead: "PLIMSOLL_OCI_BIN",
    flags: &["-C", "relocation-model=static"],
};

impl Static {
    /// Builds it and tells where it is.
    ///
    /// Linked against glibc's static archive, which every toolchain for this target has; a toolchain
    /// with a musl target makes a smaller one with `cargo build --release --target`. The flags go to
    /// the last crate alone, so that nothing else is built twice.
    fn build(&self) -> Result<PathBuf, Failed> {
        let triple = host_triple()?;
        run(cargo()
            .args(["rustc", "--locked", "--package", "cli"])
            .args(["--bin", self.name, "--profile", self.profile])
            .args(["--target", &triple])
            .args(["--", "-C", "target-feature=+crt-static"])
            .args(self.flags))?;
        let binary = target()?.join(triple).join(self.profile).join(self.name);
        check_static(&binary)?;
        Ok(binary)
    }

    fn to_show(&self) -> Result<PathBuf, Failed> {
        match std::env::var_os(self.instead) {
            Some(path) => Ok(std::path::absolute(path)?),
            None => self.build(),
        }
    }
}

/// What is shown and measured: what users get, or the program that `PLIMSOLL_BIN` names.
pub(crate) fn program_to_show() -> Result<PathBuf, Failed> {
    ENGINE.to_show()
}

/// The same of the OCI runtime alone; `PLIMSOLL_OCI_BIN` names another.
pub(crate) fn oci_to_show() -> Result<PathBuf, Failed> {
    OCI.to_show()
}

/// For people: builds them, and says how large they are.
pub(crate) fn dist() -> Result<(), Failed> {
    for binary in [ENGINE.build()?, OCI.build()?] {
        let size = std::fs::metadata(&binary)?.len();
        println!("{}: {} KiB, static", binary.display(), size / 1024);
    }
    Ok(())
}

/// A program that needs an interpreter (PT_INTERP) would not run in an empty root.
fn check_static(binary: &Path) -> Result<(), Failed> {
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
