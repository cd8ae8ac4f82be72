//! From OCI resources to values in files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{Cgroup, CgroupError, Dir, devices, read};

/// Files that depend on how the kernel was built and started, and that the host's facts know of: a
/// limit that needs an absent one is a warning, as in Docker, not a failed start.
const OPTIONAL: [&str; 7] = [
    "cpu.cfs_quota_us",
    "cpu.idle",
    "cpu.max",
    "cpu.rt_runtime_us",
    "io.weight",
    "memory.memsw.limit_in_bytes",
    "memory.swap.max",
];

/// A value for a file of the cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) path: PathBuf,
    pub(crate) value: String,
    /// What it limits, in words.
    pub(crate) what: String,
    /// A refusal is no failure: the kernel lacks what was only tidy to set.
    pub(crate) optional: bool,
}

/// Collects writes, and says what this host can't limit.
struct Collector<'a> {
    cgroup: &'a Cgroup,
    /// Files a cgroup has on this host; empty where that isn't known.
    files: &'a BTreeSet<String>,
    writes: Vec<Write>,
    warnings: Vec<String>,
}

impl Collector<'_> {
    fn put(&mut self, controller: &str, v1: &str, v2: &str, value: impl ToString, what: &str) {
        let Some(dir) = self.cgroup.dir(controller) else {
            self.lacks(what);
            return;
        };
        let name = if dir.v2 { v2 } else { v1 };
        let absent =
            OPTIONAL.contains(&name) && !self.files.is_empty() && !self.files.contains(name);
        if name.is_empty() || absent {
            self.lacks(what);
            return;
        }
        self.writes.push(Write {
            path: dir.file(name),
            value: value.to_string(),
            what: what.to_owned(),
            optional: false,
        });
    }

    fn lacks(&mut self, what: &str) {
        let text = format!("this host can't limit {what}: its kernel or control groups lack it");
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    fn is_v2(&self, controller: &str) -> bool {
        self.cgroup.dir(controller).is_some_and(|d| d.v2)
    }
}

/// All values for a new cgroup, in order, and what can't be limited here.
pub(crate) fn writes(
    cgroup: &Cgroup,
    files: &BTreeSet<String>,
    resources: &LinuxResources,
) -> (Vec<Write>, Vec<String>) {
    let mut c = collect(cgroup, files, resources);
    if let Some(m) = resources.memory() {
        memory(&mut c, m, false);
    }
    if let (Some(dir), Some(spec)) = (cgroup.dir("devices"), resources.devices())
        && !devices::unrestricted(Some(spec))
    {
        for (file, line) in devices::lines(spec) {
            c.writes.push(Write {
                path: dir.file(file),
                value: line,
                what: "devices".to_owned(),
                optional: false,
            });
        }
    }
    (c.writes, c.warnings)
}

/// Values that change a running cgroup.
pub(crate) fn update_writes(
    cgroup: &Cgroup,
    files: &BTreeSet<String>,
    resources: &LinuxResources,
) -> Result<(Vec<Write>, Vec<String>), CgroupError> {
    let mut c = collect(cgroup, files, resources);
    if let Some(m) = resources.memory() {
        // v1 insists on limit <= memsw at every moment: raise memsw first, lower it last
        let raise = match cgroup.dir("memory") {
            Some(d) if !d.v2 => {
                let now = read(&d.file("memory.limit_in_bytes"))?;
                let now: i64 = now.trim().parse().unwrap_or(i64::MAX);
                m.limit().is_some_and(|l| l == -1 || l > now)
            }
            _ => false,
        };
        memory(&mut c, m, raise);
    }
    Ok((c.writes, c.warnings))
}

fn collect<'a>(
    cgroup: &'a Cgroup,
    files: &'a BTreeSet<String>,
    resources: &LinuxResources,
) -> Collector<'a> {
    let mut c = Collector {
        cgroup,
        files,
        writes: Vec::new(),
        warnings: Vec::new(),
    };
    if let Some(cpu) = resources.cpu() {
        cpu_time(&mut c, cpu);
        if let Some(cpus) = cpu.cpus() {
            c.put("cpuset", "cpuset.cpus", "cpuset.cpus", cpus, "cpus");
        }
        if let Some(mems) = cpu.mems() {
            c.put("cpuset", "cpuset.mems", "cpuset.mems", mems, "memory nodes");
        }
    }
    if let Some(pids) = resources.pids() {
        let value = limit(pids.limit(), |n| n <= 0, "max");
        c.put("pids", "pids.max", "pids.max", value, "processes");
    }
    if let Some(io) = resources.block_io() {
        block_io(&mut c, io);
    }
    for h in resources.hugepage_limits().iter().flatten() {
        let v1 = format!("hugetlb.{}.limit_in_bytes", h.page_size());
        let v2 = format!("hugetlb.{}.max", h.page_size());
        c.put("hugetlb", &v1, &v2, h.limit(), "huge pages");
    }
    if let Some(net) = resources.network() {
        if let Some(class) = net.class_id() {
            c.put("net_cls", "net_cls.classid", "", class, "network class");
        }
        for p in net.priorities().iter().flatten() {
            let value = format!("{} {}", p.name(), p.priority());
            c.put(
                "net_prio",
                "net_prio.ifpriomap",
                "",
                value,
                "network priority",
            );
        }
    }
    unified(&mut c, resources);
    c
}

fn limit(n: i64, unlimited: impl Fn(i64) -> bool, word: &str) -> String {
    if unlimited(n) {
        word.to_owned()
    } else {
        n.to_string()
    }
}

fn memory(c: &mut Collector<'_>, m: &LinuxMemory, raise: bool) {
    let v2 = c.is_v2("memory");
    let word = if v2 { "max" } else { "-1" };
    let start = c.writes.len();
    if let Some(n) = m.limit().filter(|n| *n != 0) {
        let value = limit(n, |n| n < 0, word);
        c.put(
            "memory",
            "memory.limit_in_bytes",
            "memory.max",
            value,
            "memory",
        );
    }
    if let Some(n) = m.swap().filter(|n| *n != 0) {
        // OCI: memory and swap together; v2 counts swap alone
        let value = match (v2, m.limit()) {
            (true, Some(memory)) if n > 0 && memory > 0 => (n - memory).max(0).to_string(),
            _ => limit(n, |n| n < 0, word),
        };
        let v1 = "memory.memsw.limit_in_bytes";
        c.put("memory", v1, "memory.swap.max", value, "memory and swap");
        if raise && c.writes.len() == start + 2 {
            c.writes.swap(start, start + 1);
        }
    }
    if let Some(n) = m.reservation().filter(|n| *n != 0) {
        let v1 = "memory.soft_limit_in_bytes";
        let value = limit(n, |n| n < 0, word);
        c.put("memory", v1, "memory.low", value, "memory reservation");
    }
    if let Some(n) = m.swappiness() {
        c.put("memory", "memory.swappiness", "", n, "swappiness");
    }
    if m.disable_oom_killer() == Some(true) {
        c.put("memory", "memory.oom_control", "", 1, "the OOM killer");
    }
    // kernel memory is never limited: before 4.x its accounting leaks cgroups until the machine
    // stops (runc #1725), since 5.16 the kernel refuses it
}

/// Shares (2..262144, 1024 by default) to weight (1..10000, 100 by default): the quadratic of
/// runc 1.3 and crun 1.23, which maps default to default.
pub(crate) fn weight(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    let l = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    let weight = 10_f64.powf(exponent).ceil();
    (weight as u64).clamp(1, 10_000)
}

fn cpu_time(c: &mut Collector<'_>, cpu: &LinuxCpu) {
    let v2 = c.is_v2("cpu");
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        let value = if v2 { weight(shares) } else { shares };
        c.put("cpu", "cpu.shares", "cpu.weight", value, "cpu shares");
    }
    if v2 {
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = limit(cpu.quota().unwrap_or(-1), |n| n <= 0, "max");
            let value = format!("{quota} {}", cpu.period().unwrap_or(100_000));
            c.put("cpu", "", "cpu.max", value, "cpu quota");
        }
    } else {
        if let Some(period) = cpu.period().filter(|p| *p != 0) {
            c.put("cpu", "cpu.cfs_period_us", "", period, "cpu period");
        }
        if let Some(quota) = cpu.quota().filter(|q| *q != 0) {
            c.put("cpu", "cpu.cfs_quota_us", "", quota, "cpu quota");
        }
    }
    if let Some(burst) = cpu.burst() {
        c.put(
            "cpu",
            "cpu.cfs_burst_us",
            "cpu.max.burst",
            burst,
            "cpu burst",
        );
    }
    if let Some(idle) = cpu.idle() {
        c.put("cpu", "cpu.idle", "cpu.idle", idle, "cpu idle");
    }
    if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
        c.put("cpu", "cpu.rt_period_us", "", period, "real-time period");
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
        c.put("cpu", "cpu.rt_runtime_us", "", runtime, "real-time runtime");
    }
}

/// 10..1000 to 1..10000.
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

fn block_io(c: &mut Collector<'_>, io: &LinuxBlockIo) {
    let v2 = c.is_v2("io");
    let controller = if v2 { "io" } else { "blkio" };
    if let Some(w) = io.weight().filter(|w| *w != 0) {
        let value = if v2 {
            format!("default {}", io_weight(w))
        } else {
            w.to_string()
        };
        let v1 = weight_file(c, "blkio.weight", "blkio.bfq.weight");
        c.put(controller, &v1, "io.weight", value, "block I/O weight");
    }
    for d in io.weight_device().iter().flatten() {
        let Some(w) = d.weight().filter(|w| *w != 0) else {
            continue;
        };
        let w = if v2 { io_weight(w) } else { u64::from(w) };
        let value = format!("{}:{} {w}", d.major(), d.minor());
        let v1 = weight_file(c, "blkio.weight_device", "blkio.bfq.weight_device");
        c.put(
            controller,
            &v1,
            "io.weight",
            value,
            "block I/O weight of a device",
        );
    }
    let throttles = [
        (io.throttle_read_bps_device(), "read_bps_device", "rbps"),
        (io.throttle_write_bps_device(), "write_bps_device", "wbps"),
        (io.throttle_read_iops_device(), "read_iops_device", "riops"),
        (
            io.throttle_write_iops_device(),
            "write_iops_device",
            "wiops",
        ),
    ];
    for (devices, v1, key) in throttles {
        for d in devices.iter().flatten() {
            let at = format!("{}:{}", d.major(), d.minor());
            let value = if v2 {
                let rate = if d.rate() == 0 {
                    "max".to_owned()
                } else {
                    d.rate().to_string()
                };
                format!("{at} {key}={rate}")
            } else {
                format!("{at} {}", d.rate())
            };
            let v1 = format!("blkio.throttle.{v1}");
            c.put(controller, &v1, "io.max", value, "block I/O of a device");
        }
    }
}

/// v1's weight belongs to the I/O scheduler, and is named after it, or isn't there.
fn weight_file(c: &mut Collector<'_>, cfq: &str, bfq: &str) -> String {
    let Some(dir) = c.cgroup.dir("blkio") else {
        return cfq.to_owned();
    };
    let above: Option<&Dir> = Some(dir).filter(|d| !d.v2);
    let has = |name: &str| {
        let mut up = above.and_then(|d| d.path.parent());
        // the nearest directory that exists has the same files
        while let Some(p) = up.filter(|p| !p.exists()) {
            up = p.parent();
        }
        up.is_some_and(|p| p.join(name).exists())
    };
    [bfq, cfq]
        .iter()
        .find(|n| has(n))
        .map_or_else(String::new, |n| (*n).to_owned())
}

/// `unified`: files of v2 by name.
fn unified(c: &mut Collector<'_>, resources: &LinuxResources) {
    let Some(map) = resources.unified() else {
        return;
    };
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort();
    for (file, value) in entries {
        let controller = file.split('.').next().unwrap_or_default();
        let dir = c.cgroup.dirs.iter().find(|d| d.v2);
        let ours =
            dir.filter(|d| !file.contains('/') && (controller == "cgroup" || d.has(controller)));
        match ours {
            Some(d) => c.writes.push(Write {
                path: d.file(file),
                value: value.clone(),
                what: file.clone(),
                optional: false,
            }),
            None => c.lacks(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_shares_are_the_default_weight() {
        assert_eq!([1, 2, 1024, 262_144].map(weight), [1, 1, 100, 10_000]);
    }
}
