//! Device nodes of the host: by path, by directory, all of them for a privileged container.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::model::{ContainerRecord, Resources};
use crate::ocispec::HostDevice;

/// Directories of /dev that hold no devices of the host for a container, or their own mounts.
const NOT_HOSTS: [&str; 6] = ["pts", "shm", "mqueue", "fd", "lxc", ".udev"];
/// A container has a terminal of its own.
const CONSOLE: &str = "/dev/console";
const DEPTH: usize = 8;

pub(crate) fn of(record: &ContainerRecord) -> Result<Vec<HostDevice>, Error> {
    let host = &record.spec.host;
    let mut out = Vec::new();
    if host.privileged {
        walk(Path::new("/dev"), Path::new("/dev"), "rwm", 0, &mut out);
        out.retain(|d| d.path != Path::new(CONSOLE) && d.path != Path::new("/dev/tty"));
    }
    for device in &host.devices {
        let source = Path::new(&device.path_on_host);
        let target = if device.path_in_container.is_empty() {
            source
        } else {
            Path::new(&device.path_in_container)
        };
        let access = if device.permissions.is_empty() {
            "rwm"
        } else {
            &device.permissions
        };
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        let meta = std::fs::metadata(source).map_err(|e| {
            Error::caused(
                crate::model::ErrorKind::InvalidArgument,
                format!(
                    "error gathering device information while adding custom device \"{}\"",
                    source.display()
                ),
                e,
            )
        })?;
        let before = out.len();
        if meta.is_dir() {
            walk(source, target, access, 0, &mut out);
        } else {
            out.extend(one(target.to_owned(), &meta, access));
        }
        if out.len() == before {
            return Err(Error::invalid(format!(
                "error gathering device information while adding custom device \"{}\": not a device node",
                source.display()
            )));
        }
    }
    Ok(out)
}

fn one(path: PathBuf, meta: &std::fs::Metadata, access: &str) -> Option<HostDevice> {
    let kind = meta.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| HostDevice {
        path,
        block: kind.is_block_device(),
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        permissions: access.to_owned(),
    })
}

/// What cannot be read is left out: nodes of /dev come and go.
fn walk(source: &Path, target: &Path, access: &str, depth: usize, out: &mut Vec<HostDevice>) {
    let Ok(entries) = std::fs::read_dir(source) else {
        return;
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if NOT_HOSTS.iter().any(|n| name == *n) {
            continue;
        }
        let (Ok(kind), target) = (entry.file_type(), target.join(&name)) else {
            continue;
        };
        if kind.is_dir() && depth < DEPTH {
            walk(&entry.path(), &target, access, depth + 1, out);
        } else if let Ok(meta) = entry.metadata() {
            out.extend(one(target, &meta, access));
        }
    }
}

/// Numbers of the devices that limits of block I/O name; one that is not there is left out.
pub(crate) fn numbers(r: &Resources) -> BTreeMap<String, (i64, i64)> {
    let paths = r.blkio_weight_device.iter().map(|d| &d.path).chain(
        [
            &r.device_read_bps,
            &r.device_write_bps,
            &r.device_read_iops,
            &r.device_write_iops,
        ]
        .into_iter()
        .flatten()
        .map(|d| &d.path),
    );
    paths
        .filter_map(|p| {
            let meta = std::fs::metadata(p).ok()?;
            let numbers = (
                i64::from(rustix::fs::major(meta.rdev())),
                i64::from(rustix::fs::minor(meta.rdev())),
            );
            meta.file_type()
                .is_block_device()
                .then(|| (p.clone(), numbers))
        })
        .collect()
}
