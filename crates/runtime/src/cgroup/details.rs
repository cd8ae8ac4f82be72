//! Counters that runc's `events` has beside those of [`Stats`](super::Stats).

use std::collections::BTreeMap;

use super::observe::{bound, field, number};
use super::{Cgroup, Dir, read};

/// One counter of memory with its bounds. What a host doesn't count is 0, or `None` as a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) usage: u64,
    pub(crate) max: u64,
    /// `None`: unlimited.
    pub(crate) limit: Option<u64>,
    pub(crate) failcnt: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// Nanoseconds by CPU, in the kernel and outside of it; version 1 alone counts them.
    pub(crate) percpu_kernel: Vec<u64>,
    pub(crate) percpu_user: Vec<u64>,
    /// Version 1: memory and swap together, as its files count; version 2: swap alone.
    pub(crate) swap: Counter,
    pub(crate) kernel: Counter,
    pub(crate) kernel_tcp: Counter,
    /// By page size ("2MB").
    pub(crate) hugetlb: BTreeMap<String, Counter>,
    /// Files of cpuset as runc names them: lists of numbers, and flags.
    pub(crate) cpuset_lists: BTreeMap<&'static str, Vec<u64>>,
    pub(crate) cpuset_flags: BTreeMap<&'static str, i64>,
}

/// `memory.` and the like: a family of four files in version 1. source: kernel cgroup-v1/memory.rst.
fn v1(dir: &Dir, prefix: &str) -> Counter {
    let of = |name: &str| format!("{prefix}.{name}");
    Counter {
        usage: number(dir, &of("usage_in_bytes")).unwrap_or(0),
        max: number(dir, &of("max_usage_in_bytes")).unwrap_or(0),
        limit: bound(dir, &of("limit_in_bytes")),
        failcnt: number(dir, &of("failcnt")).unwrap_or(0),
    }
}

/// `0-2,4`: source: cpuset(7) "List format".
fn numbers(list: &str) -> Vec<u64> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<u64>().ok()?, to.parse::<u64>().ok()?);
        Some(from..=to.min(from.saturating_add(u64::from(u16::MAX))))
    };
    let parts = list.trim().split(',').filter_map(range);
    parts.flatten().collect()
}

impl Cgroup {
    /// Reads them; a cgroup that is gone counts nothing.
    pub(crate) fn details(&self) -> Details {
        let mut d = Details::default();
        self.percpu(&mut d);
        self.memory_details(&mut d);
        self.huge_pages(&mut d);
        self.cpuset(&mut d);
        d
    }

    fn percpu(&self, d: &mut Details) {
        let Some(dir) = self.dir("cpuacct") else {
            return;
        };
        // lines of "<cpu> <user> <system>" under a head line
        let text = read(&dir.file("cpuacct.usage_all")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let mut columns = line.split_whitespace().skip(1).map(str::parse::<u64>);
            if let (Some(Ok(user)), Some(Ok(system))) = (columns.next(), columns.next()) {
                d.percpu_user.push(user);
                d.percpu_kernel.push(system);
            }
        }
    }

    fn memory_details(&self, d: &mut Details) {
        let Some(dir) = self.dir("memory") else {
            return;
        };
        if dir.v2 {
            let stat = read(&dir.file("memory.stat")).unwrap_or_default();
            let of = |name| field(&stat, name).unwrap_or(0);
            let events = read(&dir.file("memory.swap.events")).unwrap_or_default();
            d.swap = Counter {
                usage: number(dir, "memory.swap.current").unwrap_or(0),
                max: number(dir, "memory.swap.peak").unwrap_or(0),
                limit: bound(dir, "memory.swap.max"),
                failcnt: field(&events, "max").unwrap_or(0),
            };
            d.kernel.usage = of("kernel");
            d.kernel_tcp.usage = of("sock");
        } else {
            d.swap = v1(dir, "memory.memsw");
            d.kernel = v1(dir, "memory.kmem");
            d.kernel_tcp = v1(dir, "memory.kmem.tcp");
        }
    }

    fn huge_pages(&self, d: &mut Details) {
        let Some(dir) = self.dir("hugetlb") else {
            return;
        };
        let names = std::fs::read_dir(&dir.path).into_iter().flatten().flatten();
        for name in names.filter_map(|e| e.file_name().into_string().ok()) {
            let size = name.strip_prefix("hugetlb.").and_then(|rest| {
                let size = rest.strip_suffix(if dir.v2 {
                    ".current"
                } else {
                    ".usage_in_bytes"
                })?;
                (!size.contains('.')).then(|| size.to_owned())
            });
            let Some(size) = size else { continue };
            let prefix = format!("hugetlb.{size}");
            let counter = if dir.v2 {
                let events = read(&dir.file(&format!("{prefix}.events"))).unwrap_or_default();
                Counter {
                    usage: number(dir, &name).unwrap_or(0),
                    max: 0,
                    limit: bound(dir, &format!("{prefix}.max")),
                    failcnt: field(&events, "max").unwrap_or(0),
                }
            } else {
                v1(dir, &prefix)
            };
            d.hugetlb.insert(size, counter);
        }
    }

    fn cpuset(&self, d: &mut Details) {
        let Some(dir) = self.dir("cpuset") else {
            return;
        };
        for (name, file) in [("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")] {
            let list = read(&dir.file(file)).unwrap_or_default();
            let effective = || read(&dir.file(&format!("{file}.effective"))).unwrap_or_default();
            let list = if list.trim().is_empty() {
                effective()
            } else {
                list
            };
            d.cpuset_lists.insert(name, numbers(&list));
        }
        for name in [
            "cpu_exclusive",
            "mem_hardwall",
            "mem_exclusive",
            "memory_migrate",
            "memory_spread_page",
            "memory_spread_slab",
            "memory_pressure",
            "sched_load_balance",
            "sched_relax_domain_level",
        ] {
            let text = read(&dir.file(&format!("cpuset.{name}")));
            if let Some(value) = text.ok().and_then(|t| t.trim().parse().ok()) {
                d.cpuset_flags.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(numbers("0-2,4\n"), [0, 1, 2, 4]);
        assert_eq!(numbers("\n"), [0_u64; 0]);
        assert_eq!(numbers("3-1,x,5"), [5]);
    }
}
