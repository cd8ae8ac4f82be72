//! From an OCI spec and the host's facts to an operation list. Pure.
//!
//! ```text
//! in the host's view     cgroups, oom score, label file, namespaces to join, id maps, clock
//! namespaces             cgroup, loopback, host name
//! root                   "/" no longer sends mounts; the root is put on top of it
//! mounts                 in the spec's order; /dev's nodes right after /dev
//! hiding                 masked, read-only paths; sysctls; terminal; pivot_root
//! process                limits, directory, bounding set, ids, capabilities, filter, execve
//! ```

mod explain;
mod idmap;
mod mounts;
mod namespaces;
mod process;
mod scheduling;
mod seccomp_agent;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, PosixRlimitType, Process, Spec, State};

use crate::cgroup::{self, Cgroup};
use crate::ops::{
    CgroupDir, CgroupWrite, FORMAT, Header, MAGIC, MappedTree, NetDevice, Op, STAGE_HOOKS,
};
use crate::seccomp::Filter;
use crate::systemd::{self, Scope};
use crate::wire::{List, ListBuf, Reader, Wire};
use explain::{Hint, Label};
pub(crate) use namespaces::Namespaces;

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

impl Asked {
    fn with(&self, choices: &Choices, process: &Process) -> Self {
        if !choices.strict_limits {
            return self.clone();
        }
        let rlimits = process.rlimits().iter().flatten();
        Self {
            rlimits: rlimits.map(oci_spec::runtime::PosixRlimit::typ).collect(),
            oom_score_adj: true,
        }
    }
}

/// What a runtime's command line decides beside the spec. The defaults are a daemon's.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// chroot instead of pivot_root, for roots on an initramfs.
    pub no_pivot: bool,
    /// The process stays in the caller's session keyring.
    pub no_new_keyring: bool,
    /// What the spec says was asked for, all of it: a limit this host can't set fails the start, as
    /// an OCI runtime must. Else only what is in [`Asked`], and the rest are warnings, as Docker's.
    pub strict_limits: bool,
    /// Where relative sources of mounts begin.
    pub bundle: Option<PathBuf>,
    /// What a seccomp agent (`listenerPath`) is told of the container. Without a pid: that of the
    /// process which is started.
    pub state: Option<State>,
}

/// What the OCI life cycle asks of a start: the stops between `create` and the program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stages<'a> {
    /// Descriptors from 3 on that the program gets beside stdio.
    pub preserve: u32,
    /// The program stays in the caller's session keyring.
    pub keep_keyring: bool,
    /// Stop for hooks before the host's root is left; this is the path they know the root by.
    pub hooks: Option<&'a Path>,
    /// Stop when only the program is left to do.
    pub ready: bool,
    /// Then wait for `start` on this of [`crate::Descriptors::passed`].
    pub start: Option<u32>,
}

/// All that planning a container reads.
#[derive(Debug, Clone)]
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
    pub choices: Choices,
}

/// All that planning an exec reads. The target is passed at [`crate::spawn()`] as a pidfd.
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
    pub choices: Choices,
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
    #[error(transparent)]
    Limit(#[from] cgroup::LimitError),
    #[error("seccomp profile")]
    Seccomp(#[from] crate::seccomp::CompileError),
}

/// A container's start, or an exec, ready to be carried out.
#[derive(Debug, Clone)]
pub struct Plan {
    encoded: Vec<u8>,
    /// What each step is, in words, by step number.
    labels: Vec<Label>,
    warnings: Vec<String>,
}

impl Plan {
    /// The bytes for the shim.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.encoded
    }

    /// What the spec asks for and this host can't do, where that doesn't prevent the start.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The steps in words, one a line, for tests and people.
    ///
    /// # Panics
    /// Never for a plan made by this program.
    #[must_use]
    pub fn describe(&self) -> String {
        use std::fmt::Write;
        let plan = EncodedPlan::decode(&self.encoded).expect("the encoder's output decodes");
        let mut out = String::new();
        let h = plan.header;
        let mut line = |args: std::fmt::Arguments<'_>| {
            out.write_fmt(args).expect("a String takes everything");
            out.push('\n');
        };
        line(format_args!("clone {:#x}", h.clone_flags));
        if let Some(scope) = plan.scope() {
            line(format_args!("scope {} in {}", scope.unit, scope.slice));
        }
        for d in h.cgroup_dirs.iter() {
            line(format_args!("cgroup {:?}", d.path));
        }
        for w in h.cgroup_writes.iter() {
            line(format_args!("write {:?} {:?}", w.path, w.value));
        }
        for (step, op) in plan.ops() {
            let label = self.labels.get(step as usize).map_or("", |l| &l.what);
            match op {
                Op::Seccomp { program, flags } | Op::SeccompAgent { program, flags } => {
                    line(format_args!(
                        "{step:3} Seccomp {} instructions, flags {flags}   # {label}",
                        program.len() / 8
                    ));
                }
                op => line(format_args!("{step:3} {op:?}   # {label}")),
            }
        }
        line(format_args!(
            "exec {:?} argv {:?} envp {:?}",
            h.candidates, h.argv, h.envp
        ));
        out
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("plan is truncated or damaged")]
    Damaged,
    #[error("plan has format {found}, this program reads {expected}")]
    Format { found: u32, expected: u32 },
}

/// A plan as it lies in memory; every offset in it has been checked.
#[derive(Debug, Clone, Copy)]
pub struct EncodedPlan<'a> {
    pub(crate) header: Header<'a>,
}

impl<'a> EncodedPlan<'a> {
    /// Checks the whole plan, so that the child can walk it without failing.
    ///
    /// # Errors
    /// When the bytes aren't what [`Plan::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if u32::get(&mut r) != Some(MAGIC) {
            return Err(DecodeError::Damaged);
        }
        let found = u32::get(&mut r).ok_or(DecodeError::Damaged)?;
        if found != FORMAT {
            return Err(DecodeError::Format {
                found,
                expected: FORMAT,
            });
        }
        let header = Header::get(&mut Reader::new(bytes)).ok_or(DecodeError::Damaged)?;
        let mut ops = Reader::new(header.ops);
        while ops.left() > 0 {
            u32::get(&mut ops)
                .and_then(|_| Op::get(&mut ops))
                .ok_or(DecodeError::Damaged)?;
        }
        Ok(Self { header })
    }

    /// The child's operations with their step numbers.
    pub(crate) fn ops(&self) -> impl Iterator<Item = (u32, Op<'a>)> + use<'a> {
        let mut r = Reader::new(self.header.ops);
        std::iter::from_fn(move || Some((u32::get(&mut r)?, Op::get(&mut r)?)))
    }

    pub(crate) fn candidates(&self) -> List<'a, &'a CStr> {
        self.header.candidates
    }

    pub(crate) fn exec_step(&self) -> u32 {
        self.header.exec_step
    }

    /// The cgroup of the plan, to watch, freeze, and at last remove it. `None`: the plan makes
    /// none (an exec, which enters the container's).
    #[must_use]
    pub fn cgroup(&self) -> Option<Cgroup> {
        let dirs: Vec<_> = self
            .header
            .cgroup_dirs
            .iter()
            .map(|d| cgroup::Dir {
                v2: d.v2,
                controllers: d
                    .controllers
                    .to_string_lossy()
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
                path: PathBuf::from(std::ffi::OsStr::from_bytes(d.path.to_bytes())),
            })
            .collect();
        let scope = self.scope().map(Box::new);
        (!dirs.is_empty()).then_some(Cgroup { dirs, scope })
    }

    /// The unit that must be there before the cgroup is.
    pub(crate) fn scope(&self) -> Option<Scope> {
        serde_json::from_slice(self.header.scope).ok()
    }

    /// A terminal is made by the child: [`crate::Spawned::terminal`] will be there.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.header.terminal
    }
}

/// Whether a mount of a spec may have this option.
pub(crate) fn takes_mount_option(option: &str) -> bool {
    mounts::takes(option)
}

fn c_string(what: &str, bytes: &[u8]) -> Result<CString, PlanError> {
    CString::new(bytes).map_err(|_| PlanError::Nul { what: what.into() })
}

fn c_path(path: &Path) -> Result<CString, PlanError> {
    c_string(&path.display().to_string(), path.as_os_str().as_bytes())
}

fn invalid(what: impl Into<String>, why: impl Into<String>) -> PlanError {
    PlanError::Invalid {
        what: what.into(),
        why: why.into(),
    }
}

/// Collects operations and what they are called.
#[derive(Default)]
struct Builder {
    labels: Vec<Label>,
    ops: Vec<u8>,
    warnings: Vec<String>,
}

impl Builder {
    fn step(&mut self, what: impl Into<String>) -> u32 {
        self.label(Label {
            what: what.into(),
            hint: Hint::None,
        })
    }

    fn label(&mut self, label: Label) -> u32 {
        self.labels.push(label);
        u32::try_from(self.labels.len() - 1).unwrap_or(u32::MAX)
    }

    /// A step with its name.
    fn push(&mut self, what: impl Into<String>, op: Op<'_>) {
        let step = self.step(what);
        self.add(step, op);
    }

    fn add(&mut self, step: u32, op: Op<'_>) {
        step.put(&mut self.ops);
        op.put(&mut self.ops);
    }
}

/// What the parent does before the child exists, in owned strings.
#[derive(Default)]
struct Prelude {
    clone_flags: u64,
    joins_target: bool,
    pid_namespace: Option<CString>,
    maps: Option<(CString, CString)>,
    map_step: u32,
    map_by: u32,
    maps_asked: bool,
    mapped_trees: Vec<idmap::Tree>,
    /// Descriptors of sources the child keeps so far.
    slots: u32,
    net_devices: Vec<(CString, Option<CString>)>,
    agent: Option<seccomp_agent::Agent>,
    dirs: Vec<OwnedDir>,
    writes: Vec<(u32, CString, CString, bool)>,
    scope: Vec<u8>,
    scope_request: (Vec<u8>, usize),
    scope_step: u32,
    device_program: Vec<u8>,
    device_step: u32,
    born_in: Option<CString>,
    die_with_parent: bool,
}

struct OwnedDir {
    step: u32,
    v2: bool,
    controllers: CString,
    path: CString,
    cpuset: bool,
}

impl OwnedDir {
    fn record(&self) -> CgroupDir<'_> {
        CgroupDir {
            step: self.step,
            v2: self.v2,
            controllers: &self.controllers,
            path: &self.path,
            cpuset: self.cpuset,
            _life: std::marker::PhantomData,
        }
    }
}

impl Prelude {
    fn cgroup_lists(&self) -> (ListBuf, ListBuf) {
        let dirs = ListBuf::of(self.dirs.iter().map(OwnedDir::record));
        let writes =
            ListBuf::of(
                self.writes
                    .iter()
                    .map(|(step, path, value, required)| CgroupWrite {
                        step: *step,
                        path,
                        value,
                        required: *required,
                        _life: std::marker::PhantomData,
                    }),
            );
        (dirs, writes)
    }

    fn finish(self, b: Builder, program: &process::Program) -> Plan {
        let (dirs, writes) = self.cgroup_lists();
        let trees = ListBuf::of(self.mapped_trees.iter().map(idmap::Tree::record));
        let devices = ListBuf::of(self.net_devices.iter().map(|(name, rename)| NetDevice {
            name,
            rename: rename.as_deref(),
            _life: std::marker::PhantomData,
        }));
        let agent = self.agent.as_ref();
        let told = agent.map(|a| a.told.as_slice()).unwrap_or_default();
        let told = ListBuf::of(told.iter().map(Vec::as_slice));
        let strings = |list: &[CString]| ListBuf::of(list.iter().map(CString::as_c_str));
        let argv = strings(&program.argv);
        let envp = strings(&program.envp);
        let candidates = strings(&program.candidates);
        let header = Header {
            magic: MAGIC,
            format: FORMAT,
            clone_flags: self.clone_flags,
            terminal: program.terminal,
            joins_target: self.joins_target,
            pid_namespace: self.pid_namespace.as_deref(),
            uid_map: self.maps.as_ref().map(|m| m.0.as_c_str()),
            gid_map: self.maps.as_ref().map(|m| m.1.as_c_str()),
            map_step: self.map_step,
            map_by: self.map_by,
            maps_asked: self.maps_asked,
            mapped_trees: trees.list::<MappedTree<'_>>(),
            net_devices: devices.list(),
            agent: agent.map(|a| a.path.as_c_str()),
            agent_told: told.list(),
            agent_step: agent.map_or(0, |a| a.step),
            scope: &self.scope,
            scope_request: &self.scope_request.0,
            scope_pid_at: u32::try_from(self.scope_request.1).unwrap_or(u32::MAX),
            scope_step: self.scope_step,
            cgroup_dirs: dirs.list(),
            cgroup_writes: writes.list(),
            device_program: &self.device_program,
            device_step: self.device_step,
            born_in: self.born_in.as_deref(),
            ops: &b.ops,
            argv: argv.list(),
            envp: envp.list(),
            candidates: candidates.list(),
            exec_step: program.step,
            die_with_parent: self.die_with_parent,
            _life: std::marker::PhantomData,
        };
        let mut encoded = Vec::with_capacity(b.ops.len() + 4096);
        header.put(&mut encoded);
        Plan {
            encoded,
            labels: b.labels,
            warnings: b.warnings,
        }
    }

    /// Directories and values for a new cgroup.
    fn cgroup(
        &mut self,
        b: &mut Builder,
        cgroup: &Cgroup,
        input: &PlanInput<'_>,
        resources: Option<&LinuxResources>,
    ) -> Result<(), PlanError> {
        if let Some(scope) = &cgroup.scope {
            self.scope_step = b.step(format!("have systemd start {}", scope.unit));
            self.scope = serde_json::to_vec(scope).map_err(|e| invalid("scope", e.to_string()))?;
            let v2 = input.facts.cgroup.mode == host::CgroupMode::V2;
            self.scope_request = systemd::request(scope, resources, v2);
        }
        for d in &cgroup.dirs {
            self.dirs.push(OwnedDir {
                step: b.step(format!("make cgroup {}", d.path.display())),
                v2: d.v2,
                controllers: c_string("controllers", d.controllers.join(" ").as_bytes())?,
                path: c_path(&d.path)?,
                cpuset: !d.v2 && d.controllers.iter().any(|c| c == "cpuset"),
            });
        }
        let Some(resources) = resources else {
            return Ok(());
        };
        let writes = cgroup::writes(cgroup, &input.facts.cgroup.files, resources)?;
        b.warnings.extend(writes.warnings);
        if let (true, Some(what)) = (input.choices.strict_limits, writes.missing.first()) {
            return Err(PlanError::Host {
                what: format!("limiting {what}"),
                why: "its control groups lack the controller".to_owned(),
            });
        }
        for w in writes.list {
            let step = b.step(format!("limit {} to {}", w.what, w.value));
            let value = c_string(&w.what, w.value.as_bytes())?;
            self.writes
                .push((step, c_path(&w.path)?, value, !w.optional));
        }
        let devices_v1 = cgroup.dir("devices").is_some();
        if let (false, Some(d), Some(spec)) = (
            devices_v1,
            cgroup.dirs.iter().find(|d| d.v2),
            resources.devices(),
        ) && !cgroup::unrestricted(Some(spec))
        {
            self.device_step = b.step(format!("limit devices of {}", d.path.display()));
            let words = cgroup::device_program(spec);
            self.device_program = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        }
        Ok(())
    }

    /// v1: operations by which the child enters; v2: where it is born.
    fn enter(
        &mut self,
        b: &mut Builder,
        cgroup: &Cgroup,
        facts: &host::Facts,
    ) -> Result<(), PlanError> {
        for d in &cgroup.dirs {
            if d.v2 && facts.cgroup.clone_into_cgroup {
                self.born_in = Some(c_path(&d.path)?);
            } else {
                let file = if d.v2 { "cgroup.procs" } else { "tasks" };
                let tasks = c_path(&d.path.join(file))?;
                b.push(
                    format!("enter cgroup {}", d.path.display()),
                    Op::EnterCgroup { tasks: &tasks },
                );
            }
        }
        Ok(())
    }
}

/// Plans a container's start.
///
/// # Errors
/// When the spec asks for what can't be had, named.
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, PlanError> {
    plan_staged(input, &Stages::default())
}

/// [`plan`], with the stops of the OCI life cycle.
///
/// # Errors
/// As [`plan`].
pub fn plan_staged(input: &PlanInput<'_>, stages: &Stages<'_>) -> Result<Plan, PlanError> {
    let spec = input.spec;
    let process = spec
        .process()
        .as_ref()
        .ok_or(PlanError::Missing("process"))?;
    let linux = spec.linux().clone().unwrap_or_default();
    refuse(spec, stages)?;
    needs(input.facts)?;
    let namespaces = Namespaces::of(spec, input.facts)?;
    let mut b = Builder::default();
    b.step("start the container's first process");
    let without = undelegated(&mut b, input, linux.resources().as_ref())?;
    let input = without.as_ref().unwrap_or(input);
    let mut prelude = Prelude {
        die_with_parent: input.die_with_parent,
        ..Prelude::default()
    };
    namespaces.maps(&mut b, &mut prelude, &linux, input.facts)?;
    match input.cgroup {
        Some(cgroup) => prelude.cgroup(&mut b, cgroup, input, linux.resources().as_ref())?,
        None if input.choices.strict_limits && without.is_none() => {
            no_cgroup(linux.resources().as_ref(), input.facts)?;
        }
        None => {}
    }
    let asked = input.asked.with(&input.choices, process);
    process::before(&mut b, process, input.facts, &asked)?;
    namespaces.enter(&mut b, &mut prelude, input)?;
    namespaces.own(&mut b, &mut prelude, spec)?;
    mounts::plan(
        &mut b,
        &mut prelude,
        input,
        process,
        &namespaces,
        stages.hooks,
    )?;
    if stages.hooks.is_some() {
        let stage = STAGE_HOOKS;
        b.push("wait for the hooks", Op::Pause { stage });
    }
    let program = process::plan(
        &mut b,
        &mut prelude,
        process,
        &process::Context {
            facts: input.facts,
            asked: &asked,
            seccomp: &input.seccomp,
            profile: linux.seccomp().as_ref(),
            init: input.init,
            die_with_parent: input.die_with_parent,
            personality: linux.personality().as_ref(),
            memory_policy: linux.memory_policy().as_ref(),
            choices: &input.choices,
            first: Some(process::First {
                shared_mounts: namespaces.joins_mounts(),
                propagation: mounts::root_propagation(&linux)?,
            }),
            groups: namespaces.may_set_groups(&linux, input.facts),
            stages,
        },
    )?;
    Ok(prelude.finish(b, &program))
}

/// A limit that nothing would enforce is refused.
fn no_cgroup(resources: Option<&LinuxResources>, facts: &host::Facts) -> Result<(), PlanError> {
    if !resources.is_some_and(limits_anything) {
        return Ok(());
    }
    let why = if facts.cgroup.mode == host::CgroupMode::None {
        "this host has no control groups mounted"
    } else {
        "no control group is delegated to this user: leave the limits out, or use a cgroup that is \
         (--systemd-cgroup, or a systemd unit with Delegate=yes)"
    };
    Err(PlanError::Host {
        what: "limiting resources".to_owned(),
        why: why.to_owned(),
    })
}

/// Without privilege a container has a cgroup only where one is delegated to the user: else it
/// stays in the caller's, which is no loss as long as nothing is to be limited. The input without
/// the cgroup, where that is so.
fn undelegated<'a>(
    b: &mut Builder,
    input: &PlanInput<'a>,
    resources: Option<&LinuxResources>,
) -> Result<Option<PlanInput<'a>>, PlanError> {
    let Some(cgroup) = input.cgroup.filter(|_| input.facts.process.uid != 0) else {
        return Ok(None);
    };
    let closed = cgroup.dirs.iter().find(|d| {
        let mut all = input.facts.cgroup.hierarchies.iter();
        all.any(|h| !h.writable && d.path.starts_with(&h.mount))
    });
    let Some(closed) = closed else {
        return Ok(None);
    };
    if resources.is_some_and(limits_anything) {
        return Err(PlanError::Host {
            what: "limiting resources".to_owned(),
            why: format!(
                "{} is not delegated to this user: leave the limits out, or start from a systemd \
                 unit with Delegate=yes",
                closed.path.display()
            ),
        });
    }
    b.warnings
        .push("no control group is delegated to this user: the container has none".to_owned());
    Ok(Some(PlanInput {
        cgroup: None,
        ..input.clone()
    }))
}

/// Device rules aside, which a user namespace makes moot.
fn limits_anything(r: &LinuxResources) -> bool {
    let limits = [
        r.memory().is_some(),
        r.cpu().is_some(),
        r.pids().is_some(),
        r.block_io().is_some(),
        r.network().is_some(),
        r.hugepage_limits().as_ref().is_some_and(|h| !h.is_empty()),
        r.rdma().as_ref().is_some_and(|r| !r.is_empty()),
        r.unified().as_ref().is_some_and(|u| !u.is_empty()),
    ];
    limits.contains(&true)
}

/// What every start is made of. Older kernels than these calls (5.6) are not served.
fn needs(facts: &host::Facts) -> Result<(), PlanError> {
    // one without the right to mount can't find out; the container's user namespace gives it
    let unknown = !facts.process.has("CAP_SYS_ADMIN");
    let calls = [
        ("fsopen", unknown || facts.mount.fsopen),
        ("move_mount", unknown || facts.mount.move_mount),
        ("open_tree", unknown || facts.mount.open_tree),
        ("openat2", facts.syscalls.openat2),
        ("pidfd_open", facts.syscalls.pidfd_open),
    ];
    match calls.iter().find(|(_, there)| !there) {
        Some((call, _)) => Err(PlanError::Host {
            what: "starting containers".to_owned(),
            why: format!("its kernel, or a filter around this engine, has no {call}"),
        }),
        None => Ok(()),
    }
}

/// What isn't built is refused by name: a container must not run without what it was promised.
fn refuse(spec: &Spec, stages: &Stages<'_>) -> Result<(), PlanError> {
    // whoever stops when the container is ready runs them
    if !stages.ready && spec.hooks().as_ref().is_some_and(any_hook) {
        return Err(invalid("hooks", "it is not supported yet"));
    }
    let linux = spec.linux().as_ref();
    if linux.is_some_and(|l| l.intel_rdt().is_some()) {
        return Err(PlanError::Host {
            what: "linux.intelRdt".to_owned(),
            why: "this program doesn't drive the resctrl file system: leave intelRdt out"
                .to_owned(),
        });
    }
    Ok(())
}

fn any_hook(hooks: &oci_spec::runtime::Hooks) -> bool {
    let all = [
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    all.iter()
        .any(|h| h.as_ref().is_some_and(|h| !h.is_empty()))
}

/// Plans a further process in a running container.
///
/// # Errors
/// As [`plan`].
pub fn plan_exec(input: &ExecInput<'_>) -> Result<Plan, PlanError> {
    plan_exec_staged(input, &Stages::default())
}

/// [`plan_exec`], with the stops of the OCI life cycle.
///
/// # Errors
/// As [`plan`].
pub fn plan_exec_staged(input: &ExecInput<'_>, stages: &Stages<'_>) -> Result<Plan, PlanError> {
    let namespaces = Namespaces::of(input.container, input.facts)?;
    let mut b = Builder::default();
    b.step("start a process in the container");
    let mut prelude = Prelude {
        die_with_parent: input.die_with_parent,
        ..Prelude::default()
    };
    let asked = input.asked.with(&input.choices, input.process);
    process::before(&mut b, input.process, input.facts, &asked)?;
    scheduling::initial_affinity(&mut b, input.process)?;
    if let Some(cgroup) = input.cgroup {
        prelude.enter(&mut b, cgroup, input.facts)?;
    }
    namespaces.enter_target(&mut b, &mut prelude, input.facts);
    b.push("enter the container's root", Op::RootIsSlash {});
    let linux = input.container.linux().clone().unwrap_or_default();
    let program = process::plan(
        &mut b,
        &mut prelude,
        input.process,
        &process::Context {
            facts: input.facts,
            asked: &asked,
            seccomp: &input.seccomp,
            profile: linux.seccomp().as_ref(),
            init: false,
            die_with_parent: input.die_with_parent,
            personality: linux.personality().as_ref(),
            memory_policy: linux.memory_policy().as_ref(),
            choices: &input.choices,
            first: None,
            groups: namespaces.may_set_groups(&linux, input.facts),
            stages,
        },
    )?;
    Ok(prelude.finish(b, &program))
}
