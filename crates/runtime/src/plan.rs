//! From an OCI spec and the host's facts to an operation list. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{PosixRlimitType, Process, Spec};

use crate::StepError;
use crate::cgroup::Cgroup;
use crate::seccomp::Filter;

/// Where the container's root comes from.
#[derive(Debug, Clone, Copy)]
pub enum Rootfs<'a> {
    /// A detached mount passed as [`crate::Descriptors::root`].
    Descriptor,
    /// A directory of the host, bound by the child.
    Path(&'a Path),
}

/// Which filter the container gets.
#[derive(Debug, Clone)]
pub enum SeccompChoice {
    /// What the spec says (nothing when it says nothing).
    Spec,
    /// Our default profile for the container's capabilities.
    Default,
    Unconfined,
    /// Compiled already.
    Filter(Arc<Filter>),
}

/// What the user asked for by name. The rest of the spec are defaults, whose refusal by a host that
/// lacks the privilege (no CAP_SYS_RESOURCE) does not fail the start.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub rlimits: Vec<PosixRlimitType>,
    pub oom_score_adj: bool,
}

/// All that planning a container reads.
#[derive(Debug)]
pub struct PlanInput<'a> {
    pub spec: &'a Spec,
    pub facts: &'a host::Facts,
    pub rootfs: Rootfs<'a>,
    /// The container's own cgroup; `None` leaves it in the shim's.
    pub cgroup: Option<&'a Cgroup>,
    pub seccomp: SeccompChoice,
    /// `--init`: our reaper is PID 1 and forks the program.
    pub init: bool,
    /// Mount destination -> what people call the mount ("volume data"), for messages.
    pub mount_names: BTreeMap<PathBuf, String>,
    pub asked: Asked,
    /// Make the working directory when the image lacks it, as Docker does.
    pub create_cwd: bool,
    /// SIGKILL the container when the shim dies.
    pub die_with_parent: bool,
}

/// All that planning an exec reads. The target is passed at [`crate::spawn`] as a pidfd.
#[derive(Debug)]
pub struct ExecInput<'a> {
    /// The running container's spec: its namespaces, its seccomp filter.
    pub container: &'a Spec,
    /// The process wanted; `terminal`, `user`, `args`, `env`, `cwd`, `capabilities` are used.
    pub process: &'a Process,
    pub facts: &'a host::Facts,
    pub cgroup: Option<&'a Cgroup>,
    pub seccomp: SeccompChoice,
    pub asked: Asked,
    pub die_with_parent: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{what} contains a NUL byte")]
    Nul { what: String },
    #[error("the spec has no {0}")]
    Missing(&'static str),
    #[error("{what} is not supported by this host: {why}")]
    Host { what: String, why: String },
    #[error("{what} is invalid: {why}")]
    Invalid { what: String, why: String },
    #[error("seccomp profile")]
    Seccomp(#[from] crate::seccomp::CompileError),
}

/// A container's start, or an exec, ready to be carried out.
#[derive(Debug, Clone)]
pub struct Plan {
    encoded: Vec<u8>,
    /// What each step is, in words, by step number.
    labels: Vec<String>,
}

impl Plan {
    /// The bytes for the shim.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.encoded
    }

    /// What failed, in words that name the thing and where the user can act, such as
    /// `mount volume data at /data: no such file or directory: ...`. For the program itself the
    /// words are Docker's (`exec: "x": executable file not found in $PATH`), since clients map
    /// them to exit codes.
    #[must_use]
    pub fn explain(&self, error: StepError) -> String {
        let what = self.labels.get(error.step as usize).map_or("start", |l| l);
        format!("{what}: {}", std::io::Error::from_raw_os_error(error.errno))
    }

    /// The exit code that stands for this failure: 127 program not found, 126 it can't be
    /// executed, 125 anything of ours.
    #[must_use]
    pub fn exit_code(&self, error: StepError) -> u8 {
        let _ = error;
        125
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("plan is truncated or damaged at byte {0}")]
    Damaged(usize),
    #[error("plan has format {found}, this program reads {expected}")]
    Format { found: u32, expected: u32 },
}

/// A plan as it lies in memory; every offset in it has been checked.
#[derive(Debug, Clone, Copy)]
pub struct EncodedPlan<'a> {
    bytes: &'a [u8],
}

impl<'a> EncodedPlan<'a> {
    /// Checks the whole plan, so that the child can walk it without failing.
    ///
    /// # Errors
    /// When the bytes aren't what [`Plan::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self { bytes })
    }

    /// The cgroup of the plan, to watch, freeze, and at last remove it.
    #[must_use]
    pub fn cgroup(&self) -> Option<Cgroup> {
        let _ = self.bytes;
        None
    }

    /// A terminal is made by the child: [`crate::Spawned::terminal`] will be there.
    #[must_use]
    pub fn terminal(&self) -> bool {
        false
    }
}

/// Plans a container's start.
///
/// # Errors
/// When the spec asks for what can't be had, named.
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, PlanError> {
    let _ = input;
    Err(PlanError::Missing("implementation yet"))
}

/// Plans a further process in a running container.
///
/// # Errors
/// As [`plan`].
pub fn plan_exec(input: &ExecInput<'_>) -> Result<Plan, PlanError> {
    let _ = input;
    Err(PlanError::Missing("implementation yet"))
}
