//! What this host can do, found by trying it.
//!
//! A distribution backports features and a security module takes them away, so a version number
//! says nothing: each feature is tried in a throwaway child ([`sys::throwaway`]) with a deadline.
//! The result is one value, [`Facts`], that planning reads and tests can write by hand.
//!
//! ```text
//! facts.rs    the value, its parts, and how it is cached for one boot
//! cgroups.rs  mounts and own paths of the control groups          (read from /proc)
//! process.rs  capabilities, limits, security modules              (read from /proc and /sys)
//! probe.rs    the children: each group of probes in one of them, all at the same time
//! kernel_log  what the kernel's log says of trouble
//! doctor.rs   checks {name, tier, evidence, fn} over the facts and the host; the verdict
//! ```

pub mod cgroups;
pub mod doctor;
pub mod facts;
pub mod kernel_log;
mod probe;
mod process;

pub use facts::{
    CgroupFacts, CgroupHierarchy, CgroupMode, CgroupVersion, Facts, Finding, LsmFacts, MountFacts,
    NamespaceFacts, OverlayFacts, ProbeError, ProcessFacts, Rlimit, SeccompFacts, SyscallFacts,
};
pub use kernel_log::{KernelLog, Trouble};
pub use process::CAPABILITIES;
