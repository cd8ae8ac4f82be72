//! The validation programs: Debian's source package, built with Debian's Go and libraries.
//!
//! ```text
//! <target>/oci-conformance/
//!   apt/<suite>/     lists and archives of apt's, apart from the host's
//!   gopath/          the source where Go looks for it, and our stand-in for package tap
//!   programs/        one for each folder of validation/
//!   work/            where they run: runtimetest and the root file system's archive
//!   built            which source it was; rebuilt when it is another
//! ```
//! The library package lacks the programs, and the archive keeps only the newest source of a
//! package: suites are tried one after the other, and only the upstream tarball is wanted.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Failed;
use crate::run::{output, program, run, target};
use crate::setup::{self, Need};

const PACKAGE: &str = "golang-github-opencontainers-runtime-tools";
const IMPORT: &str = "src/github.com/opencontainers/runtime-tools";
const TAP: &str = include_str!("tap.go");
/// Tried after the host's own suite, in this order.
const SUITES: [&str; 4] = ["stable", "testing", "unstable", "oldstable"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const NEEDS: [Need; 7] = [
    ("go", "golang-go"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    (
        "/usr/share/gocode/src/github.com/opencontainers/runtime-tools/generate/generate.go",
        "golang-github-opencontainers-runtime-tools-dev",
    ),
    (
        "/usr/share/gocode/src/github.com/google/uuid/uuid.go",
        "golang-github-google-uuid-dev",
    ),
    (
        "/usr/share/gocode/src/github.com/mrunalp/fileutils/fileutils.go",
        "golang-github-mrunalp-fileutils-dev",
    ),
    (
        "/usr/share/gocode/src/github.com/urfave/cli/app.go",
        "golang-github-urfave-cli-dev",
    ),
];

/// What was built, and where.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) programs: PathBuf,
    pub(crate) work: PathBuf,
    /// Upstream's version and the compiler's, for the report.
    pub(crate) version: String,
}

/// Builds what is not built yet.
pub(crate) fn build() -> Result<Suite, Failed> {
    setup::install(&NEEDS)?;
    let dir = target()?.join("oci-conformance");
    fs::create_dir_all(&dir)?;
    let archive = archive(&dir)?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let upstream = name
        .trim_start_matches(&format!("{PACKAGE}_"))
        .split(".orig")
        .next()
        .unwrap_or_default();
    let go = output(program("go").arg("version"))?;
    let suite = Suite {
        programs: dir.join("programs"),
        work: dir.join("work"),
        version: format!("{upstream}, {}", go.trim()),
    };
    let stamp = format!("{}\n{TAP}", suite.version);
    if fs::read_to_string(dir.join("built")).is_ok_and(|b| b == stamp) {
        return Ok(suite);
    }
    unpack(&dir, &archive)?;
    compile(&dir, &suite)?;
    fs::write(dir.join("built"), stamp)?;
    Ok(suite)
}

fn unpack(dir: &Path, archive: &Path) -> Result<(), Failed> {
    let gopath = dir.join("gopath");
    if gopath.exists() {
        fs::remove_dir_all(&gopath)?;
    }
    let source = gopath.join(IMPORT);
    let tap = gopath.join("src/github.com/mndrix/tap-go");
    fs::create_dir_all(&source)?;
    fs::create_dir_all(&tap)?;
    fs::write(tap.join("tap.go"), TAP)?;
    let mut tar = program("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(&source);
    output(tar.arg("--strip-components=1")).map(drop)
}

fn compile(dir: &Path, suite: &Suite) -> Result<(), Failed> {
    let source = dir.join("gopath").join(IMPORT);
    for made in [&suite.programs, &suite.work] {
        if made.exists() {
            fs::remove_dir_all(made)?;
        }
        fs::create_dir_all(made)?;
    }
    let go = || {
        let mut go = program("go");
        // Debian's libraries are laid out for a GOPATH; nothing is fetched
        go.current_dir(&source)
            .env("GO111MODULE", "off")
            .env(
                "GOPATH",
                format!("{}:/usr/share/gocode", dir.join("gopath").display()),
            )
            .env("GOCACHE", dir.join("cache"))
            .env("GOFLAGS", "")
            .arg("build");
        go
    };
    // a slash at the end: a directory for all of them
    let programs = format!("{}/", suite.programs.display());
    run(go().args(["-o", &programs, "./validation/..."]))?;
    // runs in a container that has no library
    let mut inside = go();
    inside.env("CGO_ENABLED", "0");
    inside.args(["-tags", "netgo osusergo", "-o"]);
    inside.arg(suite.work.join("runtimetest"));
    run(inside.arg("./cmd/runtimetest"))?;
    for entry in fs::read_dir(&source)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("rootfs-") {
            fs::copy(entry.path(), suite.work.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The upstream tarball, from `PLIMSOLL_RUNTIME_TOOLS` or the first suite that has it.
fn archive(dir: &Path) -> Result<PathBuf, Failed> {
    if let Some(path) = std::env::var_os("PLIMSOLL_RUNTIME_TOOLS") {
        return Ok(path.into());
    }
    let mut suites = vec![codename()];
    suites.extend(SUITES.map(str::to_owned));
    let have = |suite: &String| tarball(&dir.join("apt").join(suite).join("got"));
    if let Some(found) = suites.iter().find_map(have) {
        return Ok(found);
    }
    let mut said = Vec::new();
    for suite in &suites {
        let apt = dir.join("apt").join(suite);
        let error = download(&apt, suite).err();
        // apt checks each file by itself: the tarball may be there while another part is gone
        if let Some(found) = tarball(&apt.join("got")) {
            return Ok(found);
        }
        said.push(format!(
            "{suite}: {}",
            error.map_or("no tarball".to_owned(), |e| e.to_string())
        ));
    }
    Err(format!(
        "no suite has the source of {PACKAGE}; name its upstream tarball in \
         PLIMSOLL_RUNTIME_TOOLS:\n{}",
        said.join("\n")
    )
    .into())
}

fn tarball(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?;
    let is_orig = |p: &PathBuf| p.to_string_lossy().contains(".orig.tar.");
    entries.flatten().map(|e| e.path()).find(is_orig)
}

/// `VERSION_CODENAME` of os-release(5).
fn codename() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or("stable").trim_matches('"').to_owned()
}

/// With lists of our own: the host's may have no source entries, and are not ours to change.
fn download(dir: &Path, suite: &str) -> Result<(), Failed> {
    let (lists, got) = (dir.join("lists"), dir.join("got"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(&got)?;
    let list = dir.join("source.list");
    let line = format!("deb-src [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    fs::write(&list, line)?;
    let apt = |arguments: &[&str]| {
        let mut command = program("apt-get");
        command.current_dir(&got).arg("-q");
        for (key, path) in [
            ("Dir::Etc::sourcelist", &list),
            ("Dir::State::lists", &lists),
            ("Dir::Cache", &dir.join("cache")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        // an unstable suite's release file may be past its date
        for option in [
            "Dir::Etc::sourceparts=-",
            "Acquire::Check-Valid-Until=false",
            "APT::Sandbox::User=root",
        ] {
            command.args(["-o", option]);
        }
        command.args(arguments);
        command
    };
    fs::create_dir_all(dir.join("cache"))?;
    output(&mut apt(&["update"]))?;
    output(&mut apt(&["source", "--download-only", PACKAGE])).map(drop)
}

/// Where the host gets Debian's packages.
fn mirror() -> Result<String, Failed> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    files.extend(parts.flatten().map(|e| e.path()));
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().filter(|l| !l.trim_start().starts_with('#'));
        let mut words = lines.flat_map(str::split_whitespace);
        let found = words.find(|w| {
            let path = w.trim_end_matches('/');
            w.contains("://") && path.ends_with("/debian")
        });
        if let Some(found) = found {
            return Ok(found.to_owned());
        }
    }
    Err("no Debian archive among apt's sources".into())
}
