//! Where and when the process runs: scheduler, affinity, memory policy, priority, personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process,
    Scheduler,
};

use super::explain::{Hint, Label};
use super::process::Context;
use super::{Builder, PlanError, invalid};
use crate::ops::Op;

/// Most processors and memory nodes a list may name: the kernel's own bound (NR_CPUS).
const MOST: u32 = 8192;

pub(super) fn plan(b: &mut Builder, process: &Process, c: &Context<'_>) -> Result<(), PlanError> {
    io_priority(b, process)?;
    if let Some(s) = process.scheduler() {
        scheduler(b, s)?;
    }
    if c.first.is_none() {
        final_affinity(b, process)?;
    }
    if let Some(p) = c.memory_policy {
        memory_policy(b, p)?;
    }
    if let Some(p) = c.personality {
        personality(b, p)?;
    }
    Ok(())
}

fn io_priority(b: &mut Builder, process: &Process) -> Result<(), PlanError> {
    let Some(io) = process.io_priority() else {
        return Ok(());
    };
    let class = match io.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = i32::try_from(io.priority())
        .ok()
        .filter(|p| (0..8).contains(p))
        .ok_or_else(|| invalid("I/O priority", "it must be 0 to 7"))?;
    let value = class << 13 | level;
    b.push("set the I/O priority", Op::IoPriority { value });
    Ok(())
}

/// source: sched_setattr(2); OCI runtime-spec 1.2 config.md "Linux Process".
fn scheduler(b: &mut Builder, s: &Scheduler) -> Result<(), PlanError> {
    use LinuxSchedulerPolicy as P;
    let what = "process.scheduler";
    let (nice, priority) = (s.nice().unwrap_or(0), s.priority().unwrap_or(0));
    let policy = match s.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let real_time = matches!(s.policy(), P::SchedFifo | P::SchedRr);
    if !(-20..=19).contains(&nice) {
        return Err(invalid(what, "nice must be -20 to 19"));
    }
    if priority != 0 && !real_time {
        let why = "priority is for the policies SCHED_FIFO and SCHED_RR";
        return Err(invalid(what, why));
    }
    let times = [s.runtime(), s.deadline(), s.period()].map(|t| t.unwrap_or(0));
    if times != [0; 3] && *s.policy() != P::SchedDeadline {
        let why = "runtime, deadline and period are for the policy SCHED_DEADLINE";
        return Err(invalid(what, why));
    }
    let mut flags = 0;
    for f in s.flags().iter().flatten() {
        flags |= scheduler_flag(*f)?;
    }
    let step = b.label(Label {
        what: format!("set the scheduler to {}", s.policy()),
        hint: Hint::Scheduler,
    });
    b.add(
        step,
        Op::Scheduler {
            policy,
            flags,
            nice,
            priority: u32::try_from(priority).map_err(|_| invalid(what, "priority is negative"))?,
            runtime: times[0],
            deadline: times[1],
            period: times[2],
        },
    );
    Ok(())
}

fn scheduler_flag(flag: LinuxSchedulerFlag) -> Result<u64, PlanError> {
    use LinuxSchedulerFlag as F;
    Ok(match flag {
        F::SchedResetOnFork => sys::sched::RESET_ON_FORK,
        F::SchedFlagReclaim => sys::sched::RECLAIM,
        F::SchedFlagDLOverrun => sys::sched::DL_OVERRUN,
        F::SchedFlagKeepPolicy => sys::sched::KEEP_POLICY,
        F::SchedFlagKeepParams => sys::sched::KEEP_PARAMS,
        F::SchedFlagUtilClampMin | F::SchedFlagUtilClampMax => {
            // the spec has the flags but no field for the values they announce
            let why = format!("{flag} needs a value, for which the spec has no field");
            return Err(invalid("process.scheduler", why));
        }
    })
}

/// `0-3,7` as bits, lowest first, in whole 64-bit words.
pub(super) fn bits(what: &str, list: &str) -> Result<Vec<u8>, PlanError> {
    let bad = || invalid(what, format!("{list:?} is no list of numbers and ranges"));
    let mut out = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: u32 = from.trim().parse().map_err(|_| bad())?;
        let to: u32 = to.trim().parse().map_err(|_| bad())?;
        if from > to {
            return Err(bad());
        }
        if to >= MOST {
            return Err(invalid(what, format!("{to} is beyond {}", MOST - 1)));
        }
        for n in from..=to {
            let at = n as usize / 8;
            if out.len() <= at {
                out.resize((at + 1).next_multiple_of(8), 0_u8);
            }
            out[at] |= 1 << (n % 8);
        }
    }
    Ok(out)
}

/// Before the cgroup is entered: an exec may be meant to start away from isolated processors.
pub(super) fn initial_affinity(b: &mut Builder, process: &Process) -> Result<(), PlanError> {
    let affinity = process.exec_cpu_affinity().as_ref();
    affinity_to(b, affinity.and_then(|a| a.initial().as_deref()))
}

fn final_affinity(b: &mut Builder, process: &Process) -> Result<(), PlanError> {
    let affinity = process.exec_cpu_affinity().as_ref();
    affinity_to(b, affinity.and_then(|a| a.cpu_affinity_final().as_deref()))
}

fn affinity_to(b: &mut Builder, list: Option<&str>) -> Result<(), PlanError> {
    let Some(list) = list.filter(|l| !l.is_empty()) else {
        return Ok(());
    };
    let mask = bits("process.execCPUAffinity", list)?;
    b.push(
        format!("run on processors {list}"),
        Op::Affinity { mask: &mask },
    );
    Ok(())
}

/// source: set_mempolicy(2); OCI runtime-spec 1.3 config-linux.md "Memory policy".
fn memory_policy(b: &mut Builder, p: &LinuxMemoryPolicy) -> Result<(), PlanError> {
    use MemoryPolicyModeType as M;
    let what = "linux.memoryPolicy";
    let mode = match p.mode() {
        M::MpolDefault => 0,
        M::MpolPreferred => 1,
        M::MpolBind => 2,
        M::MpolInterleave => 3,
        M::MpolLocal => 4,
        M::MpolPreferredMany => 5,
        M::MpolWeightedInterleave => 6,
    };
    let nodes = p.nodes().as_deref().filter(|n| !n.is_empty());
    let needs = !matches!(p.mode(), M::MpolDefault | M::MpolLocal | M::MpolPreferred);
    if needs && nodes.is_none() {
        return Err(invalid(what, format!("{} needs nodes", p.mode())));
    }
    if matches!(p.mode(), M::MpolDefault | M::MpolLocal) && nodes.is_some() {
        return Err(invalid(what, format!("{} takes no nodes", p.mode())));
    }
    let flags = p.flags().iter().flatten().fold(0, |all, f| {
        all | match f {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        }
    });
    let nodes = nodes
        .map(|n| bits(what, n))
        .transpose()?
        .unwrap_or_default();
    let op = Op::MemoryPolicy {
        mode: mode | flags,
        nodes: &nodes,
    };
    b.push(format!("set the memory policy to {}", p.mode()), op);
    Ok(())
}

fn personality(b: &mut Builder, p: &LinuxPersonality) -> Result<(), PlanError> {
    if let Some(flag) = p.flags().iter().flatten().next() {
        // the spec reserves the field: no flag is defined
        return Err(invalid("linux.personality", format!("unknown flag {flag}")));
    }
    let persona = match p.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    b.push("set the personality", Op::Personality { persona });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_bits() {
        assert_eq!(bits("x", "0-3,7").unwrap(), [0x8f, 0, 0, 0, 0, 0, 0, 0]);
        let wide = bits("x", "64").unwrap();
        assert_eq!((wide.len(), wide[8]), (16, 1));
        for bad in ["", "a", "3-1", "1-", "-1", "99999999", "1,,2"] {
            assert!(bits("x", bad).is_err(), "{bad}");
        }
    }
}
