//! OCI resources as properties of a unit. Pure.
//!
//! source: systemd.resource-control(5); what each is called on the bus, org.freedesktop.systemd1(5).

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::wire::Writer;
use super::{Manager, Scope};
use crate::cgroup::{self, device_nodes};

/// systemd's "infinity".
const INFINITY: u64 = u64::MAX;
/// The period that systemd takes when none is given.
const PERIOD: u64 = 100_000;

enum Value<'a> {
    Text(&'a str),
    Yes(bool),
    Number(u64),
    /// A set of numbers as bits, the lowest first.
    Set(Vec<u8>),
    Devices(&'a [(String, String)]),
}

/// `a(sv)`, one after the other.
struct Properties<'w>(&'w mut Writer);

impl Properties<'_> {
    fn put(&mut self, name: &str, value: &Value<'_>) {
        let w = &mut *self.0;
        w.align(8);
        w.string(name);
        match value {
            Value::Text(text) => {
                w.signature("s");
                w.string(text);
            }
            Value::Yes(yes) => {
                w.signature("b");
                w.boolean(*yes);
            }
            Value::Number(n) => {
                w.signature("t");
                w.u64(*n);
            }
            Value::Set(bytes) => {
                w.signature("ay");
                w.array(1, |w| bytes.iter().for_each(|b| w.byte(*b)));
            }
            Value::Devices(list) => {
                w.signature("a(ss)");
                w.array(8, |w| {
                    for (node, access) in *list {
                        w.align(8);
                        w.string(node);
                        w.string(access);
                    }
                });
            }
        }
    }

    fn number(&mut self, name: &str, n: u64) {
        self.put(name, &Value::Number(n));
    }

    fn limit(&mut self, name: &str, n: i64) {
        self.number(name, u64::try_from(n).unwrap_or(INFINITY));
    }
}

/// The body of StartTransientUnit (`ssa(sv)a(sa(sv))`), and where in it the four bytes of the pid are.
pub(crate) fn request(
    scope: &Scope,
    resources: Option<&LinuxResources>,
    v2: bool,
) -> (Vec<u8>, usize) {
    let mut w = Writer::default();
    w.string(&scope.unit);
    w.string("replace");
    let mut pid_at = 0;
    w.array(8, |w| {
        let mut p = Properties(w);
        let description = format!(
            "plimsoll container {}",
            scope.unit.trim_end_matches(".scope")
        );
        p.put("Description", &Value::Text(&description));
        p.put("Slice", &Value::Text(&scope.slice));
        // below it the container's own, whatever it makes there
        p.put("Delegate", &Value::Yes(true));
        p.put("DefaultDependencies", &Value::Yes(false));
        // one that failed (out of memory) goes like one that didn't
        p.put("CollectMode", &Value::Text("inactive-or-failed"));
        let io = if v2 {
            "IOAccounting"
        } else {
            "BlockIOAccounting"
        };
        for what in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", io] {
            p.put(what, &Value::Yes(true));
        }
        if let Some(resources) = resources {
            limits(&mut p, resources, v2);
            // a user's manager may not load the program it takes
            if scope.manager == Manager::System {
                devices(&mut p, resources);
            }
        }
        w.align(8);
        w.string("PIDs");
        w.signature("au");
        w.array(4, |w| w.u32(0));
        pid_at = w.len() - 4;
    });
    w.array(8, |_| {});
    (w.into_bytes(), pid_at)
}

/// The body of SetUnitProperties (`sba(sv)`): until the unit ends, not in a file.
pub(super) fn update(unit: &str, resources: &LinuxResources, v2: bool) -> Vec<u8> {
    let mut w = Writer::default();
    w.string(unit);
    w.boolean(true);
    w.array(8, |w| limits(&mut Properties(w), resources, v2));
    w.into_bytes()
}

fn limits(p: &mut Properties<'_>, r: &LinuxResources, v2: bool) {
    if let Some(m) = r.memory() {
        memory(p, m, v2);
    }
    if let Some(cpu) = r.cpu() {
        processors(p, cpu, v2);
    }
    if let Some(pids) = r.pids() {
        let n = pids.limit();
        p.limit("TasksMax", if n > 0 { n } else { -1 });
    }
    let weight = r.block_io().as_ref().and_then(|io| io.weight());
    if let Some(weight) = weight.filter(|w| *w != 0) {
        if v2 {
            p.number("IOWeight", cgroup::io_weight(weight));
        } else {
            p.number("BlockIOWeight", u64::from(weight));
        }
    }
    if v2 {
        unified(p, r);
    }
}

fn memory(p: &mut Properties<'_>, m: &LinuxMemory, v2: bool) {
    if let Some(n) = m.limit().filter(|n| *n != 0) {
        p.limit(if v2 { "MemoryMax" } else { "MemoryLimit" }, n);
    }
    if !v2 {
        // memory and swap together, and the soft limit, are no properties of version 1
        return;
    }
    if let Some(n) = m.reservation().filter(|n| *n != 0) {
        p.limit("MemoryLow", n);
    }
    if let Some(n) = m.swap().filter(|n| *n != 0) {
        let alone = match m.limit() {
            Some(memory) if n > 0 && memory > 0 => (n - memory).max(0),
            _ => n,
        };
        p.limit("MemorySwapMax", alone);
    }
}

fn processors(p: &mut Properties<'_>, cpu: &LinuxCpu, v2: bool) {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        if v2 {
            p.number("CPUWeight", cgroup::weight(shares));
        } else {
            p.number("CPUShares", shares);
        }
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        let period = cpu.period().filter(|p| *p != 0).unwrap_or(PERIOD);
        // before 242 it can't be set, and that it can't is no reason to fail where nobody asks
        if period != PERIOD {
            p.number("CPUQuotaPeriodUSec", period);
        }
        let quota = cpu.quota().filter(|q| *q > 0);
        let quota = quota.and_then(|q| u64::try_from(q).ok());
        let each_second = quota.map_or(INFINITY, |q| {
            // systemd keeps percents: rounded up, the limit is never below what was asked
            (q.saturating_mul(1_000_000) / period).next_multiple_of(10_000)
        });
        p.number("CPUQuotaPerSecUSec", each_second);
    }
    // version 1 has no such property; and 243 and older know none of them
    if v2 {
        for (name, list) in [
            ("AllowedCPUs", cpu.cpus()),
            ("AllowedMemoryNodes", cpu.mems()),
        ] {
            if let Some(set) = list.as_deref().and_then(bits) {
                p.put(name, &Value::Set(set));
            }
        }
    }
}

/// The same limits by their names in the file system.
fn unified(p: &mut Properties<'_>, r: &LinuxResources) {
    const KNOWN: [(&str, &str); 7] = [
        ("cpu.weight", "CPUWeight"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.max", "MemoryMax"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("pids.max", "TasksMax"),
    ];
    let Some(map) = r.unified() else { return };
    for (file, property) in KNOWN {
        match map.get(file).map(|v| v.trim()) {
            Some("max") => p.number(property, INFINITY),
            Some(n) => {
                if let Ok(n) = n.parse() {
                    p.number(property, n);
                }
            }
            None => {}
        }
    }
    for (file, property) in [
        ("cpuset.cpus", "AllowedCPUs"),
        ("cpuset.mems", "AllowedMemoryNodes"),
    ] {
        if let Some(set) = map.get(file).and_then(|v| bits(v)) {
            p.put(property, &Value::Set(set));
        }
    }
}

/// All that may be used, so that a daemon-reload takes nothing away. What systemd can't say (a denial
/// within what is allowed) our own program or list says besides: both must agree.
fn devices(p: &mut Properties<'_>, r: &LinuxResources) {
    let Some(nodes) = r.devices().as_deref().and_then(device_nodes) else {
        return;
    };
    p.put("DevicePolicy", &Value::Text("strict"));
    p.put("DeviceAllow", &Value::Devices(&nodes));
}

/// `0-2,7` as a set of bits.
fn bits(list: &str) -> Option<Vec<u8>> {
    // Linux's own bound on processors
    const MOST: usize = 8192;
    let mut out = Vec::new();
    for part in list.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        if out.len() <= last / 8 {
            out.resize(last / 8 + 1, 0);
        }
        for n in first..=last {
            out[n / 8] |= 1 << (n % 8);
        }
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_processors() {
        assert_eq!(bits("0"), Some(vec![1]));
        assert_eq!(bits("0-2,9"), Some(vec![7, 2]));
        assert_eq!(bits(" 8\n"), Some(vec![0, 1]));
        for wrong in ["", "a", "3-1", "0-100000", "1-"] {
            assert_eq!(bits(wrong), None, "{wrong}");
        }
    }
}
