//! The OCI runtime: a container is planned, executed, observed.
//!
//! ```text
//!  daemon                              shim                               container's first process
//!  plan(spec, facts) -> Plan           spawn(EncodedPlan, Descriptors)
//!    pure; every string prepared         make the cgroups
//!    Plan::encode -> sealed memfd  ==>   clone3 -------------------------> walk the operation list
//!                                        write id maps, say go               no allocation, no Drop
//!  Plan::explain(StepError)       <==    read {step, errno} or end  <----- execve | _exit
//! ```
//!
//! `plan.rs` turns an OCI spec into operations; `ops.rs` is the flat encoding; `execute.rs` is the only
//! code that runs in the child; `spawn.rs` is the parent's side, `service.rs` what the child asks of
//! it on the way (id maps, the host's links, the seccomp agent); `config` reads bundles; `cgroup` and
//! `rootfs` make and observe the kernel objects that live longer than the call; `systemd` has cgroups
//! made by it; `seccomp` compiles filters; `users`
//! resolves names inside an image.
//!
//! source: OCI runtime-spec 1.2, config.md and config-linux.md.

pub mod capability;
pub mod cgroup;
pub mod config;
mod error;
mod execute;
mod netlink;
pub mod oci;
mod ops;
mod plan;
pub mod rootfs;
pub mod seccomp;
mod service;
mod spawn;
pub mod systemd;
pub mod users;
mod wire;

pub use error::{Detail, StepError};
/// The types of an OCI configuration.
pub use oci_spec::runtime as spec;
pub use plan::{
    Asked, Choices, DecodeError, EncodedPlan, ExecInput, Plan, PlanError, PlanInput, Rootfs,
    SeccompChoice, Stages, plan, plan_exec, plan_exec_staged, plan_staged,
};
pub use spawn::{Descriptors, Pending, Progress, Spawned, Stop, begin, spawn, start};
