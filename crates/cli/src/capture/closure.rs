//! From programs to every file they need, each with the reason why.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use super::CaptureError;
use super::elf::{self, Needs};
use super::ldcache::Cache;

/// What an image gets at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// As the host has it.
    Directory,
    File,
    Link(PathBuf),
    /// Made up for the image.
    Made(Made),
}

/// What does not come from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Made {
    Directory { mode: u32, uid: u32, gid: u32 },
    File(Vec<u8>),
    Link(PathBuf),
}

/// A path in the image, and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) node: Node,
    pub(crate) why: String,
}

/// How a file came in: decides whether a library it lacks is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// A program asked for, and what it needs: must be complete.
    Program,
    /// One of many in a directory or package: a plug-in may lack its library, and say so when used.
    Bulk,
}

/// A file whose needs are still to be looked at.
#[derive(Debug)]
struct Pending {
    path: PathBuf,
    demand: Demand,
    /// RPATHs of those that loaded it, nearest first.
    inherited: Vec<String>,
    /// The program it is for.
    program: String,
}

/// Collects.
#[derive(Debug)]
pub(crate) struct Closure {
    pub(crate) items: BTreeMap<PathBuf, Item>,
    pub(crate) warnings: Vec<String>,
    cache: Cache,
    search: Vec<PathBuf>,
    pending: Vec<Pending>,
    seen: BTreeSet<PathBuf>,
}

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Closure {
    pub(crate) fn new() -> Self {
        let path = std::env::var("PATH").unwrap_or_else(|_| PATH.to_owned());
        Self {
            items: BTreeMap::new(),
            warnings: Vec::new(),
            cache: Cache::of_host(),
            search: path
                .split(':')
                .chain(PATH.split(':'))
                .map(PathBuf::from)
                .collect(),
            pending: Vec::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Adds a program by its name or path, and everything it needs; gives its path.
    pub(crate) fn program(&mut self, name: &str) -> Result<PathBuf, CaptureError> {
        let path = self
            .locate(name)
            .ok_or_else(|| CaptureError::NoProgram(name.to_owned()))?;
        self.demand(
            &path,
            "asked for",
            Demand::Program,
            Vec::new(),
            &path.display().to_string(),
        )?;
        self.work()?;
        Ok(path)
    }

    /// Adds a file or a whole directory, and what its files need.
    pub(crate) fn path(&mut self, path: &Path, why: &str) -> Result<(), CaptureError> {
        let path = std::path::absolute(path).map_err(CaptureError::io("resolve", path))?;
        self.bulk(&path, why)?;
        self.work()
    }

    /// Adds the files of an installed package, without its documentation.
    pub(crate) fn package(&mut self, name: &str) -> Result<(), CaptureError> {
        let list = package_list(name)?;
        let why = format!("package {name}");
        for line in list.lines() {
            let path = Path::new(line);
            let documentation = [
                "/usr/share/doc",
                "/usr/share/man",
                "/usr/share/locale",
                "/usr/share/lintian",
                "/usr/share/info",
            ];
            if line == "/." || documentation.iter().any(|d| path.starts_with(d)) {
                continue;
            }
            match fs::symlink_metadata(path) {
                Ok(m) if m.is_dir() => drop(self.resolve(path, &why)?),
                Ok(_) => self.bulk(path, &why)?,
                // removed by hand, or a configuration file that was never made
                Err(_) => self
                    .warnings
                    .push(format!("{line} of package {name} is not there")),
            }
        }
        self.work()
    }

    /// Puts something of our own making.
    pub(crate) fn make(&mut self, path: impl Into<PathBuf>, made: Made, why: &str) {
        self.items.entry(path.into()).or_insert_with(|| Item {
            node: Node::Made(made),
            why: why.to_owned(),
        });
    }

    /// A program of the search path, or the path itself.
    fn locate(&self, name: &str) -> Option<PathBuf> {
        let runs = |p: &Path| {
            fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        if name.contains('/') {
            return std::path::absolute(name).ok().filter(|p| runs(p));
        }
        self.search
            .iter()
            .map(|d| d.join(name))
            .find(|p| p.is_absolute() && runs(p))
    }

    fn bulk(&mut self, path: &Path, why: &str) -> Result<(), CaptureError> {
        let Some(real) = self.resolve(path, why)? else {
            self.warnings
                .push(format!("{} leads nowhere", path.display()));
            return Ok(());
        };
        let metadata = fs::symlink_metadata(&real).map_err(CaptureError::io("look at", &real))?;
        if metadata.is_file() {
            return self.demand(&real, why, Demand::Bulk, Vec::new(), why);
        }
        if !metadata.is_dir() {
            self.items.remove(&real);
            self.warnings
                .push(format!("{} is no file: left out", real.display()));
            return Ok(());
        }
        if !self.seen.insert(real.clone()) {
            return Ok(());
        }
        for entry in fs::read_dir(&real).map_err(CaptureError::io("list", &real))? {
            let entry = entry.map_err(CaptureError::io("list", &real))?;
            self.bulk(&entry.path(), why)?;
        }
        Ok(())
    }

    /// Puts the path and every link on the way; notes the file for a look at its needs.
    fn demand(
        &mut self,
        path: &Path,
        why: &str,
        demand: Demand,
        inherited: Vec<String>,
        program: &str,
    ) -> Result<(), CaptureError> {
        let Some(real) = self.resolve(path, why)? else {
            return Err(CaptureError::Io {
                action: "open",
                path: path.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            });
        };
        if self.seen.insert(real.clone()) {
            self.pending.push(Pending {
                path: real,
                demand,
                inherited,
                program: program.to_owned(),
            });
        }
        Ok(())
    }

    /// Walks a path part by part; directories and links on it become items, as does what is at its
    /// end. Gives the path without links; `None` where it leads nowhere.
    fn resolve(&mut self, path: &Path, why: &str) -> Result<Option<PathBuf>, CaptureError> {
        let mut left: Vec<PathBuf> = Vec::new();
        let push = |left: &mut Vec<PathBuf>, p: &Path| {
            let parts: Vec<PathBuf> = p
                .components()
                .map(|c| PathBuf::from(c.as_os_str()))
                .collect();
            left.extend(parts.into_iter().rev());
        };
        push(&mut left, path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.components().next() {
                Some(Component::RootDir) => {
                    at = PathBuf::from("/");
                    continue;
                }
                Some(Component::ParentDir) => {
                    at.pop();
                    continue;
                }
                Some(Component::Normal(name)) => at.push(name),
                _ => continue,
            }
            let metadata = match fs::symlink_metadata(&at) {
                Ok(m) => m,
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(None);
                }
                Err(e) => return Err(CaptureError::io("look at", &at)(e)),
            };
            if metadata.is_symlink() {
                links += 1;
                if links > 40 {
                    return Err(CaptureError::Loop(path.to_owned()));
                }
                let target = fs::read_link(&at).map_err(CaptureError::io("read the link", &at))?;
                self.put(&at, Node::Link(target.clone()), why);
                at.pop();
                push(&mut left, &target);
            } else if metadata.is_dir() {
                self.put(&at, Node::Directory, "on the way");
            } else {
                self.put(&at, Node::File, why);
            }
        }
        Ok(Some(at))
    }

    fn put(&mut self, path: &Path, node: Node, why: &str) {
        self.items.entry(path.to_owned()).or_insert_with(|| Item {
            node,
            why: why.to_owned(),
        });
    }

    fn work(&mut self) -> Result<(), CaptureError> {
        while let Some(next) = self.pending.pop() {
            let start = head(&next.path)?;
            if start.starts_with(b"#!") {
                self.script(&next, &start)?;
            } else if elf::is_elf(&start) {
                self.elf(&next)?;
            }
        }
        Ok(())
    }

    /// `#!/usr/bin/env -S python3 -x`
    fn script(&mut self, next: &Pending, start: &[u8]) -> Result<(), CaptureError> {
        let executable =
            fs::metadata(&next.path).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
        let line = start[2..].split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        let Some(interpreter) = words.next().filter(|_| executable) else {
            return Ok(());
        };
        let why = format!("interpreter of {}", next.path.display());
        self.interpreter(next, interpreter, &why)?;
        if Path::new(interpreter).file_name() == Some(OsStr::new("env")) {
            let program = words.find(|w| !w.starts_with('-') && !w.contains('='));
            if let Some(program) = program {
                self.interpreter(next, program, &why)?;
            }
        }
        Ok(())
    }

    fn interpreter(&mut self, next: &Pending, name: &str, why: &str) -> Result<(), CaptureError> {
        match self.locate(name) {
            Some(path) => self.demand(&path, why, next.demand, Vec::new(), &next.program),
            None if next.demand == Demand::Bulk => {
                self.warnings
                    .push(format!("{}: no interpreter {name}", next.path.display()));
                Ok(())
            }
            None => Err(CaptureError::NoProgram(format!("{name} ({why})"))),
        }
    }

    fn elf(&mut self, next: &Pending) -> Result<(), CaptureError> {
        let bytes = fs::read(&next.path).map_err(CaptureError::io("read", &next.path))?;
        let needs = match elf::read(&next.path, &bytes) {
            Ok(needs) => needs,
            // an object file for a linker, a core: data among other data
            Err(_) if next.demand == Demand::Bulk => return Ok(()),
            Err(e) => return Err(e),
        };
        if let Some(loader) = &needs.interpreter {
            let why = format!("loader of {}", next.path.display());
            self.demand(
                Path::new(loader),
                &why,
                next.demand,
                Vec::new(),
                &next.program,
            )?;
            if bytes.windows(5).any(|w| w == b"[\0[[\0") {
                self.applets(next, &bytes);
            }
        } else if next.demand == Demand::Program {
            self.applets(next, &bytes);
        }
        let inherited = rpaths(next, &needs);
        for library in &needs.libraries {
            self.library(next, &needs, library, &inherited)?;
        }
        Ok(())
    }

    fn library(
        &mut self,
        next: &Pending,
        needs: &Needs,
        library: &str,
        inherited: &[String],
    ) -> Result<(), CaptureError> {
        let why = format!("needed by {}", next.path.display());
        let mut searched = Vec::new();
        let found = if library.contains('/') {
            searched.push(library.to_owned());
            Some(PathBuf::from(library)).filter(|p| fits(p, needs))
        } else {
            self.search_library(next, needs, library, inherited, &mut searched)
        };
        let Some(found) = found else {
            if next.demand == Demand::Bulk {
                self.warnings.push(format!(
                    "{} needs {library}, which is not here",
                    next.path.display()
                ));
                return Ok(());
            }
            let program = if next.program == next.path.display().to_string() {
                next.program.clone()
            } else {
                format!("{} (for {})", next.path.display(), next.program)
            };
            return Err(CaptureError::MissingLibrary {
                program,
                library: library.to_owned(),
                searched,
            });
        };
        self.demand(&found, &why, next.demand, inherited.to_vec(), &next.program)?;
        if library == "libc.so.6" {
            self.name_service(&found)?;
        }
        Ok(())
    }

    /// source: ld.so(8): RPATHs of the loading chain unless there is a RUNPATH, the RUNPATH, the
    /// cache, the standard directories. LD_LIBRARY_PATH belongs to a shell, not to a program.
    fn search_library(
        &mut self,
        next: &Pending,
        needs: &Needs,
        library: &str,
        inherited: &[String],
        searched: &mut Vec<String>,
    ) -> Option<PathBuf> {
        let mut directories: Vec<String> = if needs.runpath.is_empty() {
            inherited.to_vec()
        } else {
            needs
                .runpath
                .iter()
                .map(|d| expand(d, &next.path, needs))
                .collect()
        };
        directories.dedup();
        for directory in &directories {
            searched.push(directory.clone());
            let path = Path::new(directory).join(library);
            if fits(&path, needs) {
                return Some(path);
            }
        }
        searched.push("/etc/ld.so.cache".into());
        if let Some(path) = self
            .cache
            .find(library)
            .iter()
            .map(PathBuf::from)
            .find(|p| fits(p, needs))
        {
            // the image's loader looks where ours looked
            self.put(Path::new("/etc"), Node::Directory, "on the way");
            self.put(
                Path::new("/etc/ld.so.cache"),
                Node::File,
                "tells the loader where libraries are",
            );
            return Some(path);
        }
        for prefix in ["/", "/usr", "/usr/local"] {
            for lib in needs.machine.lib_dirs() {
                let directory = Path::new(prefix).join(lib);
                searched.push(directory.display().to_string());
                let path = directory.join(library);
                if fits(&path, needs) {
                    return Some(path);
                }
            }
        }
        None
    }

    /// The C library loads these by name when a program looks up a user or a host. Since glibc 2.34
    /// they are part of it, and what is left of them does no harm.
    fn name_service(&mut self, libc: &Path) -> Result<(), CaptureError> {
        for module in ["libnss_files.so.2", "libnss_dns.so.2"] {
            let path = libc.with_file_name(module);
            if path.exists() {
                let why = "names of users and hosts";
                self.demand(&path, why, Demand::Bulk, Vec::new(), why)?;
            }
        }
        Ok(())
    }

    /// BusyBox holds the names of its applets one after the other, `[` and `[[` first: each becomes
    /// a link, so that `run IMAGE ls` works.
    fn applets(&mut self, next: &Pending, bytes: &[u8]) {
        let start = b"[\0[[\0";
        let Some(at) = bytes.windows(start.len()).position(|w| w == start) else {
            return;
        };
        if next
            .path
            .file_name()
            .is_none_or(|n| !n.as_bytes().starts_with(b"busybox"))
        {
            return;
        }
        for name in bytes[at..].split(|b| *b == 0) {
            let plain = |b: &u8| b.is_ascii_alphanumeric() || b"[_-.".contains(b);
            if name.is_empty() || name.len() > 24 || !name.iter().all(plain) {
                break;
            }
            let link = Path::new("/usr/bin").join(OsStr::from_bytes(name));
            self.make(link, Made::Link(next.path.clone()), "applet of busybox");
        }
    }
}

/// RPATHs that hold for the libraries of this file: its own, then those of its loaders. A file with
/// a RUNPATH has none of its own.
fn rpaths(next: &Pending, needs: &Needs) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    if needs.runpath.is_empty() {
        all.extend(needs.rpath.iter().map(|d| expand(d, &next.path, needs)));
    }
    for inherited in &next.inherited {
        if !all.contains(inherited) {
            all.push(inherited.clone());
        }
    }
    all
}

fn expand(directory: &str, path: &Path, needs: &Needs) -> String {
    let origin = path
        .parent()
        .map(|p| p.display().to_string())
        .unwrap_or_default();
    let lib = needs.machine.lib_dirs()[0];
    let platform = needs.machine.platform();
    let mut out = directory.to_owned();
    for (token, value) in [
        ("ORIGIN", origin.as_str()),
        ("LIB", lib),
        ("PLATFORM", platform),
    ] {
        out = out
            .replace(&format!("${{{token}}}"), value)
            .replace(&format!("${token}"), value);
    }
    out
}

/// A library of the right kind is there.
fn fits(path: &Path, needs: &Needs) -> bool {
    fs::read(path).is_ok_and(|bytes| {
        elf::is_elf(&bytes) && elf::read(path, &bytes).is_ok_and(|n| n.machine == needs.machine)
    })
}

fn head(path: &Path) -> Result<Vec<u8>, CaptureError> {
    use std::io::Read as _;
    let mut start = Vec::new();
    fs::File::open(path)
        .and_then(|f| f.take(256).read_to_end(&mut start))
        .map_err(CaptureError::io("read", path))?;
    Ok(start)
}

/// dpkg's own list of a package's files; of a foreign or multiarch one by its full name.
fn package_list(name: &str) -> Result<String, CaptureError> {
    let info = Path::new("/var/lib/dpkg/info");
    let missing = || CaptureError::NoPackage(name.to_owned());
    if name.contains('/') {
        return Err(missing());
    }
    if let Ok(text) = fs::read_to_string(info.join(format!("{name}.list"))) {
        return Ok(text);
    }
    let arch = crate::cmd::create::architecture();
    fs::read_to_string(info.join(format!("{name}:{arch}.list"))).map_err(|_| missing())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "ldd is the oracle")]
    fn ldd(program: &Path) -> BTreeSet<PathBuf> {
        let output = std::process::Command::new("ldd")
            .arg(program)
            .output()
            .expect("ldd runs");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| {
                let path = line.split("=>").last()?.split_whitespace().next()?;
                path.starts_with('/')
                    .then(|| fs::canonicalize(path).expect("ldd's own answer"))
            })
            .collect()
    }

    fn libraries(program: &str) -> (PathBuf, BTreeSet<PathBuf>) {
        let mut closure = Closure::new();
        let path = closure.program(program).expect(program);
        let real = fs::canonicalize(&path).expect("there");
        let files = closure
            .items
            .iter()
            .filter(|(p, i)| {
                i.node == Node::File
                    && **p != real
                    && i.why != "names of users and hosts"
                    && !p.starts_with("/etc")
            })
            .map(|(p, _)| p.clone())
            .collect();
        (real, files)
    }

    /// Every program of this machine that is dynamically linked, against the loader itself.
    #[test]
    fn closures_are_those_of_the_loader() {
        let mut compared = 0;
        for program in [
            "bash", "ls", "tar", "git", "psql", "perl", "openssl", "curl", "gcc", "ssh",
        ] {
            if Closure::new().locate(program).is_none() {
                continue;
            }
            let (real, found) = libraries(program);
            if head(&real).expect("read").starts_with(b"#!") {
                continue;
            }
            assert_eq!(found, ldd(&real), "{program}");
            compared += 1;
        }
        assert!(
            compared >= 3,
            "this machine has too few programs to compare with"
        );
    }

    #[test]
    fn a_missing_library_is_named_with_the_places_searched() {
        let dir = tempfile::tempdir().expect("a directory");
        let bash = fs::read("/bin/bash").expect("bash");
        // the name in the string table, made into one that nobody has
        let at = bash
            .windows(9)
            .position(|w| w == b"libc.so.6")
            .expect("needs libc");
        let mut broken = bash;
        broken[at..at + 9].copy_from_slice(b"libq.so.6");
        let path = dir.path().join("broken");
        fs::write(&path, broken).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        let name = path.display().to_string();
        let error = Closure::new()
            .program(&name)
            .expect_err("lacks a library")
            .to_string();
        assert!(
            error.starts_with(&format!("{name} needs libq.so.6, which is in none of ")),
            "{error}"
        );
        assert!(
            error.contains("/etc/ld.so.cache") && error.contains("/usr/lib"),
            "{error}"
        );
    }

    #[test]
    fn scripts_bring_their_interpreters() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("script");
        fs::write(&path, "#!/usr/bin/env -S A=1 bash -x\ntrue\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        let mut closure = Closure::new();
        closure
            .program(&path.display().to_string())
            .expect("complete");
        let has = |name: &str| closure.items.keys().any(|p| p.ends_with(name));
        assert!(has("bin/env") && has("bin/bash") && has("libc.so.6"));
    }

    #[test]
    fn links_are_kept_and_loops_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("there");
        fs::create_dir(root.join("real")).expect("made");
        fs::write(root.join("real/f"), "x").expect("written");
        std::os::unix::fs::symlink("real", root.join("link")).expect("linked");
        std::os::unix::fs::symlink("loop", root.join("loop")).expect("linked");
        let mut closure = Closure::new();
        closure
            .path(&root.join("link/f"), "asked for")
            .expect("added");
        assert_eq!(
            closure.items[&root.join("link")].node,
            Node::Link("real".into())
        );
        assert_eq!(closure.items[&root.join("real/f")].node, Node::File);
        assert!(matches!(
            closure.path(&root.join("loop"), "asked for"),
            Err(CaptureError::Loop(_))
        ));
    }
}
