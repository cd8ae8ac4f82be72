//! Programs that tests, demonstration and benchmarks need, from the distribution's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Failed;
use crate::run::{program, run, target};

/// A program and the Debian package that has it.
pub(crate) type Need = (&'static str, &'static str);

/// Where a program is, if it is anywhere a root shell looks.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}

/// Installs what is missing.
pub(crate) fn install(needs: &[Need]) -> Result<(), Failed> {
    let mut missing: Vec<&str> = needs
        .iter()
        .filter(|(name, _)| find(name).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        return Err(format!("please install: {}", missing.join(", ")).into());
    }
    println!("installing {}", missing.join(", "));
    let _policy = NoServices::hold()?;
    let apt = |arguments: &[&str]| {
        let mut command = program("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-o", "Acquire::Check-Valid-Until=false"])
            .args(arguments);
        command
    };
    let mut packages = vec!["install", "--yes", "--no-install-recommends"];
    packages.extend(&missing);
    // lists may be absent or old: only then fetch them
    if run(&mut apt(&packages)).is_err() {
        run(&mut apt(&["update"]))?;
        run(&mut apt(&packages))?;
    }
    for (name, package) in needs {
        if find(name).is_none() {
            return Err(format!("{package} is installed, but there is no {name}").into());
        }
    }
    Ok(())
}

/// Client libraries that tests use, of pinned versions, in cargo's target directory: made anew when their list changes.
pub(crate) fn clients() -> Result<(), Failed> {
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/tests/e2e/clients");
    let into = target()?.join("clients");
    fs::create_dir_all(&into)?;
    let at = |name: &str| into.join(name);
    library(&lists, &["requirements.txt"], &at("python"), |dir| {
        let mut pip = program("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(dir)
            .arg("--requirement")
            .arg(lists.join("requirements.txt"));
        pip
    })?;
    let of_node = ["package.json", "package-lock.json"];
    library(&lists, &of_node, &at("node"), |dir| {
        let mut npm = program("npm");
        // nothing of theirs runs while they are installed
        npm.args([
            "ci",
            "--ignore-scripts",
            "--omit=optional",
            "--no-audit",
            "--no-fund",
        ])
        .current_dir(dir);
        npm
    })
}

fn library(
    lists: &Path,
    names: &[&str],
    dir: &Path,
    install: impl Fn(&Path) -> std::process::Command,
) -> Result<(), Failed> {
    let mut wanted = Vec::new();
    for name in names {
        wanted.extend(fs::read(lists.join(name))?);
    }
    let stamp = dir.join(".installed");
    if fs::read(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    println!("installing client libraries into {}", dir.display());
    let _absent = fs::remove_dir_all(dir);
    fs::create_dir_all(dir)?;
    for name in names {
        fs::copy(lists.join(name), dir.join(name))?;
    }
    run(&mut install(dir))?;
    // last: what was broken off is done again
    fs::write(stamp, wanted)?;
    Ok(())
}

/// While this lives, installing a package starts no service.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn hold() -> Result<Self, Failed> {
        let path = Path::new("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self(None));
        }
        // invoke-rc.d(8): 101 is "action forbidden by policy"
        fs::write(path, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(path.to_owned())))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _left = fs::remove_file(path);
        }
    }
}

/// Containers need root; say so before anything else fails in a stranger way.
pub(crate) fn needs_root(what: &str) -> Result<(), Failed> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(format!("{what} makes containers and installs packages: run it as root").into())
}

/// Where version 2 is mounted beside version 1, if it is: crun refuses such hosts.
pub(crate) fn unified_beside_v1() -> Result<Option<PathBuf>, Failed> {
    let cgroups = host::cgroups::read()?;
    let hybrid = cgroups.mode == host::CgroupMode::Hybrid;
    Ok(cgroups.v2().filter(|_| hybrid).map(|h| h.mount.clone()))
}

/// Runs the whole command again in a mount namespace that doesn't show the version 2 hierarchy.
/// `None` where there is none beside version 1, or we are in there already.
///
/// Peers must be given what they understand: crun refuses version 1 beside a version 2 hierarchy.
pub(crate) fn without_unified(
    command: &str,
    arguments: &[String],
) -> Result<Option<Result<(), Failed>>, Failed> {
    const INSIDE: &str = "PLIMSOLL_WITHOUT_UNIFIED";
    let Some(v2) = unified_beside_v1()? else {
        return Ok(None);
    };
    if std::env::var_os(INSIDE).is_some() {
        return Err("the version 2 hierarchy is still shown".into());
    }
    let mut again = program("unshare");
    again
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("umount \"$1\" && shift && exec \"$@\"")
        .arg("sh")
        .arg(v2)
        .arg(std::env::current_exe()?)
        .arg(command)
        .args(arguments)
        .env(INSIDE, "1");
    Ok(Some(run(&mut again)))
}
