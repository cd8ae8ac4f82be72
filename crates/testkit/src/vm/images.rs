//! Kernels and root file systems from Debian's packages, made once and kept below target/vm.
//!
//! ```text
//! target/vm/
//!   kernel-<suite>/vmlinuz  kernel-<suite>/modules/<name>.ko     unpacked, never installed
//!   root-<suite>-<recipe>.ext4                                   systemd, D-Bus, AppArmor's tools
//!   run-<lab>-<test run>                                         what one boot reported
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::{LabError, io_error};
use crate::instance::command;

/// A distribution's kernel, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(super) image: PathBuf,
    /// By name, with `_` for `-`.
    modules: BTreeMap<String, PathBuf>,
}

/// What the virtual machines need of a kernel that is built as modules somewhere.
const WANTED: [&str; 3] = ["virtio_pci", "virtio_blk", "overlay"];

impl Kernel {
    /// The kernel for cloud machines of a Debian release (`bookworm` 6.1, `trixie` 6.12).
    ///
    /// # Errors
    /// When it can't be downloaded or unpacked, by name.
    pub fn debian(suite: &str) -> Result<Self, LabError> {
        let dir = directory()?.join(format!("kernel-{suite}"));
        made_once(&dir, |staged| unpack(suite, staged))?;
        let mut modules = BTreeMap::new();
        let list = dir.join("modules");
        for entry in fs::read_dir(&list).map_err(io_error("read", &list))? {
            let path = entry.map_err(io_error("read", &list))?.path();
            if let Some(name) = module_name(&path) {
                modules.insert(name, path);
            }
        }
        Ok(Self {
            image: dir.join("vmlinuz"),
            modules,
        })
    }

    /// These modules and what they depend on, in the order they must be loaded; what is built in is
    /// left out.
    pub(super) fn load_order(&self, wanted: &[&str]) -> Result<Vec<PathBuf>, LabError> {
        let mut order = Vec::new();
        for name in WANTED.iter().chain(wanted) {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<(), LabError> {
        let Some(path) = self.modules.get(name).filter(|p| !order.contains(p)) else {
            return Ok(());
        };
        let content = fs::read(path).map_err(io_error("read", path))?;
        for dependency in dependencies(&content) {
            self.add(&dependency.replace('-', "_"), order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// `depends=a,b` of the `.modinfo` section: NUL-terminated text, found without reading the ELF.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let text = &module[at + KEY.len()..];
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    let text = String::from_utf8_lossy(&text[..end]);
    let names = text.split(',').filter(|n| !n.is_empty());
    names.map(str::to_owned).collect()
}

/// A root file system of `suite` with systemd and D-Bus, as an ext4 image.
///
/// # Errors
/// When mmdebstrap or mkfs.ext4 fail, with what they said.
pub fn root_disk(suite: &str) -> Result<PathBuf, LabError> {
    // another recipe is another disk
    let recipe = hex::encode(&Sha256::digest(RECIPE.concat())[..4]);
    let disk = directory()?.join(format!("root-{suite}-{recipe}.ext4"));
    made_once(&disk, |staged| {
        let tree = staged.with_extension("tree");
        let made = make_root(suite, &tree, staged);
        if tree.exists() {
            fs::remove_dir_all(&tree).map_err(io_error("remove", &tree))?;
        }
        made
    })?;
    Ok(disk)
}

/// Packages, and what is done with them: nothing starts that no test needs.
const RECIPE: [&str; 2] = [
    "systemd,systemd-sysv,dbus,apparmor,busybox-static",
    "chroot \"$1\" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
     fstrim.timer e2scrub_all.timer apparmor.service getty@tty1.service serial-getty@ttyS0.service \
     systemd-firstboot.service",
];

fn make_root(suite: &str, tree: &Path, disk: &Path) -> Result<(), LabError> {
    let mut debstrap = program("mmdebstrap", "mmdebstrap")?;
    debstrap.args(["--quiet", "--mode=root", "--variant=minbase"]);
    let [packages, quiet] = RECIPE;
    debstrap.arg(format!("--include={packages}"));
    debstrap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    for unread in ["doc", "man", "locale", "info"] {
        debstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{unread}/*"));
    }
    debstrap.arg(format!("--customize-hook={quiet}"));
    said(debstrap.arg(suite).arg(tree))?;
    let mut mkfs = program("mkfs.ext4", "e2fsprogs")?;
    mkfs.args(["-q", "-F", "-m", "0", "-d"]).arg(tree).arg(disk);
    said(mkfs.arg("1G"))
}

fn unpack(suite: &str, staged: &Path) -> Result<(), LabError> {
    let work = staged.with_extension("work");
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(io_error("make", &unpacked))?;
    let result = download(suite, &work)
        .and_then(|packages| {
            packages.iter().try_for_each(|package| {
                let mut dpkg = program("dpkg-deb", "dpkg")?;
                said(dpkg.arg("-x").arg(package).arg(&unpacked))
            })
        })
        .and_then(|()| keep(&unpacked, staged));
    fs::remove_dir_all(&work).map_err(io_error("remove", &work))?;
    result
}

/// The suite's kernel, which newer ones split into several packages. apt runs with a configuration of its own that mmdebstrap makes, so
/// that the suite needn't be the host's and nothing of the host's is touched.
fn download(suite: &str, work: &Path) -> Result<Vec<PathBuf>, LabError> {
    let mut debstrap = program("mmdebstrap", "mmdebstrap")?;
    debstrap.args(["--quiet", "--mode=root", "--variant=custom"]);
    debstrap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    let hook = format!(
        "--customize-hook=cd '{}' && export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" && \
         apt-get -q -o APT::Sandbox::User=root download \
         $(apt-cache depends --important --recurse linux-image-cloud-amd64 \
         | grep -oE 'linux-(image|binary|modules)-[0-9][^ ]*cloud-amd64$' | sort -u)",
        work.display()
    );
    said(debstrap.arg(hook).arg(suite).arg(work.join("lists")))?;
    let entries = fs::read_dir(work).map_err(io_error("read", work))?;
    let packages: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "deb"))
        .collect();
    if packages.is_empty() {
        return Err(LabError::NoKernel(suite.to_owned()));
    }
    Ok(packages)
}

/// Image and modules, decompressed: the guest loads them with nothing but `insmod`.
fn keep(unpacked: &Path, staged: &Path) -> Result<(), LabError> {
    let modules = staged.join("modules");
    fs::create_dir_all(&modules).map_err(io_error("make", &modules))?;
    for path in files(unpacked) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (from, to) = if name.starts_with("vmlinuz") {
            (path.clone(), staged.join("vmlinuz"))
        } else if let Some(plain) = name.strip_suffix(".xz").filter(|n| n.ends_with(".ko")) {
            said(program("xz", "xz-utils")?.arg("-d").arg(&path))?;
            (path.with_file_name(plain), modules.join(plain))
        } else if name.ends_with(".ko") {
            (path.clone(), modules.join(name.as_ref()))
        } else {
            continue;
        };
        fs::rename(&from, &to).map_err(io_error("move", &from))?;
    }
    let image = staged.join("vmlinuz");
    let there = fs::metadata(&image).map(drop);
    there.map_err(io_error("find", &image))
}

fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![below.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => left.push(entry.path()),
                Ok(t) if t.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// `target/vm`, from where the test binary lies in cargo's target directory.
pub(super) fn directory() -> Result<PathBuf, LabError> {
    let me = std::env::current_exe().map_err(io_error("find", Path::new("the test's program")))?;
    let target = me
        .ancestors()
        .find(|d| d.join("CACHEDIR.TAG").exists())
        .ok_or_else(|| LabError::NoTarget(me.clone()))?;
    let dir = target.join("vm");
    fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
    Ok(dir)
}

/// Lets one test of all that run make something, the others wait; what is there is complete.
pub(super) fn made_once(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), LabError>,
) -> Result<(), LabError> {
    let lock = path.with_extension("lock");
    let file = File::create(&lock).map_err(io_error("make", &lock))?;
    file.lock().map_err(io_error("lock", &lock))?;
    if path.exists() {
        return Ok(());
    }
    let staged = path.with_extension("staged");
    if staged.is_dir() {
        fs::remove_dir_all(&staged).map_err(io_error("remove", &staged))?;
    } else if staged.exists() {
        fs::remove_file(&staged).map_err(io_error("remove", &staged))?;
    }
    make(&staged)?;
    fs::rename(&staged, path).map_err(io_error("move", &staged))
}

/// A program of the host, or the package that has it.
pub(super) fn program(name: &'static str, package: &'static str) -> Result<Command, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|d| d.join(name))
        .find(|p| p.is_file())
        .map(command)
        .ok_or(LabError::NoProgram { name, package })
}

pub(super) fn said(command: &mut Command) -> Result<(), LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(io_error("run", Path::new(&name)))?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Failed {
        program: name,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let module = b"\x7fELF..\0license=GPL\0depends=virtio,virtio_ring\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["virtio", "virtio_ring"]);
        assert!(dependencies(b"\0depends=\0name=overlay\0").is_empty());
        assert!(dependencies(b"no such thing").is_empty());
    }
}
