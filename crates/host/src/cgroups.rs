//! Mounted hierarchies of control groups and where this process is in them.
//!
//! source: cgroups(7), "/proc files"; proc_pid_mountinfo(5).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::facts::{CgroupFacts, CgroupHierarchy, CgroupMode, CgroupVersion, ProbeError};
use crate::process::text;

/// Reads the mounts and the own paths; what a child cgroup can do is tried by the probes.
///
/// # Errors
/// When /proc can't be read.
pub fn read() -> Result<CgroupFacts, ProbeError> {
    let mounts = text("/proc/self/mountinfo")?;
    let own = text("/proc/self/cgroup")?;
    Ok(from_text(&mounts, &own, Path::new("/")))
}

struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

/// mountinfo escapes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let digits = (bytes[i] == b'\\')
            .then(|| field.get(i + 1..i + 4))
            .flatten()
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        if let Some(b) = digits {
            out.push(b);
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let root = unescape(left.next()?);
    let point = unescape(left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or("");
    (kind == "cgroup" || kind == "cgroup2").then_some(Mount {
        root,
        point,
        kind,
        options,
    })
}

/// Own path in a hierarchy: `controllers` is empty for version 2.
fn own_path(own: &str, is_mine: impl Fn(&str) -> bool) -> Option<&str> {
    own.lines().find_map(|l| {
        let mut f = l.splitn(3, ':');
        let (_, controllers, path) = (f.next()?, f.next()?, f.next()?);
        is_mine(controllers).then_some(path)
    })
}

/// `prefix` replaces `/` when the v2 controllers are read: for tests on made-up hosts.
fn from_text(mountinfo: &str, own: &str, prefix: &Path) -> CgroupFacts {
    let mut hierarchies: Vec<CgroupHierarchy> = Vec::new();
    for m in mountinfo.lines().filter_map(mount) {
        let v2 = m.kind == "cgroup2";
        let in_options = |c: &str| m.options.split(',').any(|o| o == c);
        let path = if v2 {
            own_path(own, str::is_empty)
        } else {
            own_path(own, |c| !c.is_empty() && c.split(',').all(in_options))
        };
        let Some(path) = path else { continue };
        // The later of two mounts on one point hides the earlier; a second mount of a hierarchy
        // elsewhere is somebody's bind: the first is the host's.
        if hierarchies.iter().any(|h| h.mount == m.point) {
            hierarchies.retain(|h| h.mount != m.point);
        }
        let below = Path::new(path)
            .strip_prefix(&m.root)
            .unwrap_or(Path::new(""));
        let dir = if below.as_os_str().is_empty() {
            m.point.clone()
        } else {
            m.point.join(below)
        };
        let controllers: Vec<String> = if v2 {
            let at = prefix.join(dir.strip_prefix("/").unwrap_or(&dir));
            std::fs::read_to_string(at.join("cgroup.controllers"))
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        } else {
            own.lines()
                .filter_map(|l| l.split(':').nth(1))
                .filter(|c| !c.is_empty() && c.split(',').all(in_options))
                .flat_map(|c| c.split(','))
                .map(str::to_owned)
                .collect()
        };
        let known = |h: &CgroupHierarchy| match (h.version, v2) {
            (CgroupVersion::V2, true) => true,
            (CgroupVersion::V1, false) => h.controllers == controllers,
            _ => false,
        };
        if !hierarchies.iter().any(known) {
            hierarchies.push(CgroupHierarchy {
                version: if v2 {
                    CgroupVersion::V2
                } else {
                    CgroupVersion::V1
                },
                mount: m.point,
                own: dir,
                controllers,
                writable: false,
            });
        }
    }
    CgroupFacts {
        mode: mode(&hierarchies),
        hierarchies,
        files: BTreeSet::new(),
        clone_into_cgroup: false,
        kill: false,
        swap_accounting: false,
        pids: false,
        cpu_quota: false,
        systemd: Path::new("/run/systemd/private").exists(),
    }
}

fn mode(hierarchies: &[CgroupHierarchy]) -> CgroupMode {
    let v1 = hierarchies.iter().any(|h| {
        h.version == CgroupVersion::V1 && h.controllers.iter().any(|c| !c.starts_with("name="))
    });
    let v2 = hierarchies.iter().any(|h| h.version == CgroupVersion::V2);
    match (v1, v2) {
        (false, false) => CgroupMode::None,
        (true, false) => CgroupMode::V1,
        (true, true) => CgroupMode::Hybrid,
        (false, true) => CgroupMode::V2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_OWN: &str = "9:name=systemd:/\n4:memory:/jobs/a b\n1:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn hybrid_with_an_own_cgroup_in_one_hierarchy() {
        let f = from_text(HYBRID, HYBRID_OWN, Path::new("/nonexistent"));
        assert_eq!(f.mode, CgroupMode::Hybrid);
        let memory = f.controller("memory").expect("mounted above");
        assert_eq!(memory.own, Path::new("/sys/fs/cgroup/memory/jobs/a b"));
        let cpu = f.controller("cpuacct").expect("mounted above");
        assert_eq!(cpu.controllers, ["cpu", "cpuacct"]);
        assert_eq!(cpu.own, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(f.controller("pids").is_none());
        assert!(f.v2().is_some());
    }

    #[test]
    fn a_container_without_cgroup_namespace_sees_its_own_root() {
        let mounts = "9 1 0:3 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw,nsdelegate\n";
        let f = from_text(mounts, "0::/docker/abc/inner\n", Path::new("/nonexistent"));
        assert_eq!(f.mode, CgroupMode::V2);
        assert_eq!(f.hierarchies[0].own, Path::new("/sys/fs/cgroup/inner"));
    }

    #[test]
    fn octal_escapes_of_mountinfo() {
        assert_eq!(unescape("/a\\040b\\134c\\"), Path::new("/a b\\c\\"));
    }

    #[test]
    fn nothing_mounted() {
        let f = from_text("", "0::/\n", Path::new("/nonexistent"));
        assert_eq!(f.mode, CgroupMode::None);
    }
}
