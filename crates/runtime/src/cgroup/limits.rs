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

/// A limit that contradicts itself, or that this host can't have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {what}: {why}")]
pub struct LimitError {
    pub what: String,
    pub why: String,
}

fn refused(what: &str, why: impl Into<String>) -> LimitError {
    LimitError {
        what: what.to_owned(),
        why: why.into(),
    }
}

/// Values for a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) list: Vec<Write>,
    /// What this host can't limit.
    pub(crate) warnings: Vec<String>,
    /// Of these: what an OCI runtime must not go on without.
    pub(crate) missing: Vec<String>,
}

/// Collects writes, and says what this host can't limit.
struct Collector<'a> {
    cgroup: &'a Cgroup,
    /// Files a cgroup has on this host; empty where that isn't known.
    files: &'a BTreeSet<String>,
    writes: Vec<Write>,
    warnings: Vec<String>,
    missing: Vec<String>,
}

impl Collector<'_> {
    fn put(&mut self, controller: &str, v1: &str, v2: &str, value: impl ToString, what: &str) {
        let Some(dir) = self.cgroup.dir(controller) else {
            self.lacks(what);
            self.missing.push(what.to_owned());
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

    /// A file that only some kernels have, and without which nothing is lost.
    fn put_where_there(&mut self, controller: &str, v1: &str, v2: &str, value: &str, what: &str) {
        let Some(dir) = self.cgroup.dir(controller) else {
            return;
        };
        let name = if dir.v2 { v2 } else { v1 };
        self.writes.push(Write {
            path: dir.file(name),
            value: value.to_owned(),
            what: what.to_owned(),
            optional: true,
        });
    }

    fn finish(self) -> Writes {
        Writes {
            list: self.writes,
            warnings: self.warnings,
            missing: self.missing,
        }
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
) -> Result<Writes, LimitError> {
    let mut c = collect(cgroup, files, resources)?;
    if let Some(m) = resources.memory() {
        memory(&mut c, m, false)?;
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
    Ok(c.finish())
}

/// Values that change a running cgroup.
pub(crate) fn update_writes(
    cgroup: &Cgroup,
    files: &BTreeSet<String>,
    resources: &LinuxResources,
) -> Result<(Vec<Write>, Vec<String>), CgroupError> {
    let mut c = collect(cgroup, files, resources)?;
    if let Some(m) = resources.memory() {
        // v1 insists on limit <= memsw at every moment: raise memsw first, lower it last
        let raise = match cgroup.dir("memory") {
            Some(d) if !d.v2 => {
                let now = read(&d.file("memory.limit_in_bytes"))?;
                let now: i64 = now.trim().parse().unwrap_or(i64::MAX);
                m.limit().is_some_and(|l| l == -1 || l > now)
            }
            Some(d) => {
                check_usage(d, m)?;
                false
            }
            None => false,
        };
        memory(&mut c, m, raise)?;
    }
    Ok((c.writes, c.warnings))
}

/// v2 kills where v1 refuses: `checkBeforeUpdate` asks for v1's way.
fn check_usage(d: &Dir, m: &LinuxMemory) -> Result<(), CgroupError> {
    let limit = m.limit().filter(|l| *l > 0);
    let (Some(limit), Some(true)) = (limit, m.check_before_update()) else {
        return Ok(());
    };
    let used = read(&d.file("memory.current"))?;
    let used: i64 = used.trim().parse().unwrap_or(0);
    if used > limit {
        let why = format!("{limit} bytes are less than the {used} in use");
        return Err(refused("memory", why).into());
    }
    Ok(())
}

fn collect<'a>(
    cgroup: &'a Cgroup,
    files: &'a BTreeSet<String>,
    resources: &LinuxResources,
) -> Result<Collector<'a>, LimitError> {
    let mut c = Collector {
        cgroup,
        files,
        writes: Vec::new(),
        warnings: Vec::new(),
        missing: Vec::new(),
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
    devices_of_networks(&mut c, resources);
    unified(&mut c, resources)?;
    Ok(c)
}

/// Huge pages, RDMA, and what packets are marked with.
fn devices_of_networks(c: &mut Collector<'_>, resources: &LinuxResources) {
    for h in resources.hugepage_limits().iter().flatten() {
        let (size, limit) = (h.page_size(), h.limit().to_string());
        let v1 = format!("hugetlb.{size}.limit_in_bytes");
        let v2 = format!("hugetlb.{size}.max");
        c.put("hugetlb", &v1, &v2, &limit, "huge pages");
        // reservations, which a program meets as an error of mmap instead of a SIGBUS
        let v1 = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        let v2 = format!("hugetlb.{size}.rsvd.max");
        c.put_where_there("hugetlb", &v1, &v2, &limit, "reserved huge pages");
    }
    let rdma = resources.rdma().as_ref();
    let mut rdma: Vec<_> = rdma.into_iter().flatten().collect();
    rdma.sort_by_key(|(device, _)| *device);
    for (device, r) in rdma {
        let mut value = device.clone();
        for (key, n) in [
            ("hca_handle", r.hca_handles()),
            ("hca_object", r.hca_objects()),
        ] {
            if let Some(n) = n {
                value.push_str(&format!(" {key}={n}"));
            }
        }
        c.put("rdma", "rdma.max", "rdma.max", value, "rdma");
    }
    let Some(net) = resources.network() else {
        return;
    };
    if let Some(class) = net.class_id() {
        c.put("net_cls", "net_cls.classid", "", class, "network class");
    }
    for p in net.priorities().iter().flatten() {
        let value = format!("{} {}", p.name(), p.priority());
        let v1 = "net_prio.ifpriomap";
        c.put("net_prio", v1, "", value, "network priority");
    }
}

fn limit(n: i64, unlimited: impl Fn(i64) -> bool, word: &str) -> String {
    if unlimited(n) {
        word.to_owned()
    } else {
        n.to_string()
    }
}

/// Memory and swap together, as OCI and v1 count, for v2, which counts swap alone. The cases and
/// their refusals are runc's. `None`: nothing to write.
fn swap_alone(together: i64, memory: i64) -> Result<Option<i64>, LimitError> {
    let what = "memory and swap";
    match (memory, together) {
        // no limit of memory means none of swap, as with v1
        (-1, 0) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some(-1)),
        (0 | -1, _) => Err(refused(what, "it needs a limit of memory")),
        (memory, _) if memory < 0 => Err(refused("memory", "it is negative")),
        (memory, together) if together < memory => {
            Err(refused(what, "it is lower than that of memory"))
        }
        (memory, together) => Ok(Some(together - memory)),
    }
}

fn memory(c: &mut Collector<'_>, m: &LinuxMemory, raise: bool) -> Result<(), LimitError> {
    let v2 = c.is_v2("memory");
    let word = if v2 { "max" } else { "-1" };
    let start = c.writes.len();
    let (limited, swap) = (m.limit().unwrap_or(0), m.swap().unwrap_or(0));
    if limited != 0 {
        let value = limit(limited, |n| n < 0, word);
        let v1 = "memory.limit_in_bytes";
        c.put("memory", v1, "memory.max", value, "memory");
    }
    let swap = match swap_alone(swap, limited)? {
        Some(alone) if v2 => Some(alone),
        None => None,
        // with memory unlimited and swap left open, v1 would keep the old bound
        Some(_) => Some(if swap == 0 { -1 } else { swap }),
    };
    if let Some(n) = swap {
        let value = limit(n, |n| n < 0, word);
        let v1 = "memory.memsw.limit_in_bytes";
        // unlimited is what a new cgroup is: no reason to warn where the kernel doesn't count it
        if n < 0 {
            c.put_where_there("memory", v1, "memory.swap.max", &value, "memory and swap");
        } else {
            c.put("memory", v1, "memory.swap.max", value, "memory and swap");
        }
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
        if n > 100 {
            return Err(refused("swappiness", "it must be 0 to 100"));
        }
        c.put("memory", "memory.swappiness", "", n, "swappiness");
    }
    if m.disable_oom_killer() == Some(true) {
        c.put("memory", "memory.oom_control", "", 1, "the OOM killer");
    }
    if let Some(n) = m.kernel_tcp().filter(|n| *n != 0) {
        let v1 = "memory.kmem.tcp.limit_in_bytes";
        c.put("memory", v1, "", n, "kernel memory of TCP");
    }
    // kernel memory is never limited: before 4.x its accounting leaks cgroups until the machine
    // stops (runc #1725), since 5.16 the kernel refuses it. useHierarchy is what every kernel
    // does since 5.11, and can't be turned off.
    Ok(())
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
        let given = |n: i64| n != 0;
        if cpu.quota().is_some_and(given) || cpu.period().is_some_and(|p| p != 0) {
            let quota = limit(cpu.quota().unwrap_or(-1), |n| n <= 0, "max");
            let value = format!(
                "{quota} {}",
                cpu.period().filter(|p| *p != 0).unwrap_or(100_000)
            );
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
        if v2 && c.files.contains("io.bfq.weight") {
            // the scheduler's own file takes the same range as v1's
            c.put(controller, "", "io.bfq.weight", w, "block I/O weight");
        } else {
            c.put(controller, &v1, "io.weight", value, "block I/O weight");
        }
    }
    if let Some(w) = io.leaf_weight().filter(|w| *w != 0) {
        let v1 = weight_file(c, "blkio.leaf_weight", "blkio.leaf_weight");
        c.put(controller, &v1, "", w, "block I/O leaf weight");
    }
    for d in io.weight_device().iter().flatten() {
        if let Some(w) = d.leaf_weight().filter(|w| *w != 0) {
            let v1 = weight_file(c, "blkio.leaf_weight_device", "blkio.leaf_weight_device");
            let value = format!("{}:{} {w}", d.major(), d.minor());
            c.put(controller, &v1, "", value, "block I/O leaf weight");
        }
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

/// `unified`: files of v2 by name. What isn't there is an error, as the spec demands.
fn unified(c: &mut Collector<'_>, resources: &LinuxResources) -> Result<(), LimitError> {
    let Some(map) = resources.unified() else {
        return Ok(());
    };
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort();
    let dir = c.cgroup.dirs.iter().find(|d| d.v2);
    for (file, value) in entries {
        if file.is_empty() || file.contains('/') {
            return Err(refused(file, "it is no file of a cgroup"));
        }
        let controller = file.split('.').next().unwrap_or_default();
        let Some(d) = dir.filter(|d| controller == "cgroup" || d.has(controller)) else {
            let why = format!(
                "unified needs the controller {controller} on cgroup version 2, which this host \
                 hasn't got"
            );
            return Err(refused(file, why));
        };
        c.writes.push(Write {
            path: d.file(file),
            value: value.clone(),
            what: file.clone(),
            optional: false,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_alone_is_what_runc_makes_of_it() {
        let of = |together, memory| swap_alone(together, memory).ok();
        assert_eq!(of(3000, 1000), Some(Some(2000)));
        assert_eq!(of(1000, 1000), Some(Some(0)));
        assert_eq!(of(-1, 1000), Some(Some(-1)));
        assert_eq!(of(0, -1), Some(Some(-1)));
        assert_eq!(of(0, 1000), Some(None));
        assert_eq!(of(999, 1000), None);
        assert_eq!(of(1000, 0), None);
        assert_eq!(of(1000, -1), None);
    }

    #[test]
    fn default_shares_are_the_default_weight() {
        assert_eq!([1, 2, 1024, 262_144].map(weight), [1, 1, 100, 10_000]);
    }
}
