//! Which driver puts containers' root file systems together: found by trying, in the data directory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::Driver;

/// Tries an overlay in `dir` (empty, ours): mount, copy-up, whiteout, directory entry types,
/// trusted attributes. Says why, in either case.
pub(crate) fn probe(dir: &Path) -> (Driver, String) {
    match try_overlay(dir) {
        Ok(()) => (
            Driver::Overlay,
            "an overlay with whiteouts, entry types and trusted attributes works in the data directory"
                .to_owned(),
        ),
        Err((step, error)) => (
            Driver::Vfs,
            format!("no overlay in the data directory: {step}: {error}; each container gets a full copy of its image"),
        ),
    }
}

type Step<T> = Result<T, (&'static str, io::Error)>;

fn step<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|e| (what, e.into()))
}

fn try_overlay(dir: &Path) -> Step<()> {
    for sub in ["lower", "upper", "work"] {
        step("make directory", std::fs::create_dir(dir.join(sub)))?;
    }
    step("write", std::fs::write(dir.join("lower/gone"), b"x"))?;
    step("write", std::fs::write(dir.join("lower/kept"), b"x"))?;
    entry_types(dir)?;
    step(
        "set a trusted attribute",
        rustix::fs::setxattr(
            dir.join("upper"),
            "trusted.overlay.probe",
            b"y",
            XattrFlags::empty(),
        ),
    )?;
    let mount = mount(dir)?;
    step(
        "remove a file of the lower layer",
        rustix::fs::unlinkat(&mount, "gone", AtFlags::empty()),
    )?;
    let kept = step(
        "open for writing a file of the lower layer",
        rustix::fs::openat(
            &mount,
            "kept",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ),
    )?;
    step("write to it", rustix::io::write(&kept, b"z"))?;
    step(
        "replace a directory by rename",
        rustix::fs::mkdirat(&mount, "dir", Mode::from_raw_mode(0o700)),
    )?;
    let whiteout = step(
        "find the whiteout",
        rustix::fs::lstat(dir.join("upper/gone")),
    )?;
    let is_device = FileType::from_raw_mode(whiteout.st_mode) == FileType::CharacterDevice;
    if !is_device || whiteout.st_rdev != 0 {
        return Err(("make a whiteout", io::Error::other("not a 0:0 device")));
    }
    Ok(())
}

/// Overlay mounts where readdir tells no types (xfs with ftype=0) and then shows whiteouts as
/// files: it must be asked.
fn entry_types(dir: &Path) -> Step<()> {
    let handle = step("open", File::open(dir))?;
    for entry in step("list", rustix::fs::Dir::read_from(&handle))? {
        let entry = step("list", entry)?;
        if entry.file_type() == FileType::Unknown {
            return Err((
                "read entry types",
                io::Error::other("the file system tells none (xfs: format it with ftype=1)"),
            ));
        }
    }
    Ok(())
}

fn mount(dir: &Path) -> Step<OwnedFd> {
    let fs = step(
        "fsopen overlay",
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC),
    )?;
    for (key, sub) in [
        ("lowerdir", "lower"),
        ("upperdir", "upper"),
        ("workdir", "work"),
    ] {
        step(key, fsconfig_set_string(&fs, key, dir.join(sub)))?;
    }
    step("mount an overlay", fsconfig_create(&fs))?;
    step(
        "mount an overlay",
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()),
    )
}
