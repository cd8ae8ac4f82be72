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
mod mounts;
mod process;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxNamespaceType, LinuxResources, PosixRlimitType, Process, Spec,
};

use crate::cgroup::{self, Cgroup};
use crate::ops::{CgroupDir, CgroupWrite, FORMAT, Header, MAGIC, Op, STAGE_HOOKS};
use crate::seccomp::Filter;
use crate::systemd::{self, Scope};
use crate::wire::{List, ListBuf, Reader, Wire};
use explain::{Hint, Label};

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
                Op::Seccomp { program, flags } => line(format_args!(
                    "{step:3} Seccomp {} instructions, flags {flags}   # {label}",
                    program.len() / 8
                )),
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
        let scope = self.scope();
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

impl Prelude {
    fn finish(self, b: Builder, program: &process::Program) -> Plan {
        let dirs = ListBuf::of(self.dirs.iter().map(|d| CgroupDir {
            step: d.step,
            v2: d.v2,
            controllers: &d.controllers,
            path: &d.path,
            cpuset: d.cpuset,
            _life: std::marker::PhantomData,
        }));
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
        facts: &host::Facts,
        resources: Option<&LinuxResources>,
    ) -> Result<(), PlanError> {
        if let Some(scope) = &cgroup.scope {
            self.scope_step = b.step(format!("have systemd start {}", scope.unit));
            self.scope = serde_json::to_vec(scope).map_err(|e| invalid("scope", e.to_string()))?;
            let v2 = facts.cgroup.mode == host::CgroupMode::V2;
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
        let (writes, warnings) = cgroup::writes(cgroup, &facts.cgroup.files, resources);
        b.warnings.extend(warnings);
        for w in writes {
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

const CLONE_NEWTIME: u32 = 0x80;

fn map_text(maps: &[LinuxIdMapping]) -> Result<CString, PlanError> {
    let lines: Vec<String> = maps
        .iter()
        .map(|m| format!("{} {} {}", m.container_id(), m.host_id(), m.size()))
        .collect();
    c_string("id map", lines.join("\n").as_bytes())
}

/// The namespaces of a spec: new ones as flags, joined ones by path.
pub(crate) struct Namespaces<'a> {
    new: u32,
    join: Vec<(LinuxNamespaceType, &'a Path)>,
}

impl<'a> Namespaces<'a> {
    pub(crate) fn of(spec: &'a Spec) -> Self {
        let list = spec
            .linux()
            .as_ref()
            .and_then(|l| l.namespaces().as_deref());
        let mut out = Self {
            new: 0,
            join: Vec::new(),
        };
        for n in list.unwrap_or_default() {
            match n.path().as_deref().filter(|p| !p.as_os_str().is_empty()) {
                Some(path) => out.join.push((n.typ(), path)),
                None => out.new |= n.typ() as u32,
            }
        }
        // a user namespace first: it gives the right to join those it owns
        out.join
            .sort_by_key(|(t, _)| *t != LinuxNamespaceType::User);
        out
    }

    fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new & kind as u32 != 0
    }

    pub(crate) fn all(&self) -> u32 {
        self.join.iter().fold(self.new, |m, (t, _)| m | *t as u32)
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
    refuse(spec, process, stages)?;
    needs(input.facts)?;
    let namespaces = Namespaces::of(spec);
    if !namespaces.is_new(LinuxNamespaceType::Mount) {
        return Err(invalid(
            "namespaces",
            "a container needs its own mount namespace",
        ));
    }
    let mut b = Builder::default();
    b.step("start the container's first process");
    let mut prelude = Prelude {
        die_with_parent: input.die_with_parent,
        ..Prelude::default()
    };
    let late = LinuxNamespaceType::Cgroup as u32 | CLONE_NEWTIME;
    prelude.clone_flags = u64::from(namespaces.new & !late);
    if namespaces.is_new(LinuxNamespaceType::User) {
        let maps = (
            map_text(linux.uid_mappings().as_deref().unwrap_or_default())?,
            map_text(linux.gid_mappings().as_deref().unwrap_or_default())?,
        );
        prelude.map_step = b.step("map user and group ids");
        prelude.maps = Some(maps);
    }
    if let Some(cgroup) = input.cgroup {
        prelude.cgroup(&mut b, cgroup, input.facts, linux.resources().as_ref())?;
    }
    process::before(&mut b, process, input.facts, &input.asked)?;
    join(&mut b, &mut prelude, &namespaces)?;
    if let Some(cgroup) = input.cgroup {
        prelude.enter(&mut b, cgroup, input.facts)?;
    }
    own_namespaces(&mut b, spec, &namespaces)?;
    mounts::plan(&mut b, input, process, &namespaces, stages.hooks)?;
    if stages.hooks.is_some() {
        let stage = STAGE_HOOKS;
        b.push("wait for the hooks", Op::Pause { stage });
    }
    let program = process::plan(
        &mut b,
        process,
        &process::Context {
            facts: input.facts,
            asked: &input.asked,
            seccomp: &input.seccomp,
            profile: linux.seccomp().as_ref(),
            init: input.init,
            die_with_parent: input.die_with_parent,
            personality: linux.personality().as_ref(),
            console: true,
            pivot: true,
            stages,
        },
    )?;
    Ok(prelude.finish(b, &program))
}

/// What every start is made of. Older kernels than these calls (5.6) are not served.
fn needs(facts: &host::Facts) -> Result<(), PlanError> {
    let calls = [
        ("fsopen", facts.mount.fsopen),
        ("move_mount", facts.mount.move_mount),
        ("open_tree", facts.mount.open_tree),
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
fn refuse(spec: &Spec, process: &Process, stages: &Stages<'_>) -> Result<(), PlanError> {
    let linux = spec.linux().as_ref();
    let asked = [
        (
            "hooks",
            // whoever stops when the container is ready runs them
            !stages.ready && spec.hooks().as_ref().is_some_and(any_hook),
        ),
        ("process.scheduler", process.scheduler().is_some()),
        (
            "process.execCPUAffinity",
            process.exec_cpu_affinity().is_some(),
        ),
        (
            "linux.intelRdt",
            linux.is_some_and(|l| l.intel_rdt().is_some()),
        ),
        (
            "linux.memoryPolicy",
            linux.is_some_and(|l| l.memory_policy().is_some()),
        ),
        (
            "linux.netDevices",
            linux.is_some_and(|l| l.net_devices().as_ref().is_some_and(|d| !d.is_empty())),
        ),
        (
            "linux.mountLabel",
            linux.is_some_and(|l| l.mount_label().as_ref().is_some_and(|m| !m.is_empty())),
        ),
    ];
    match asked.iter().find(|(_, yes)| *yes) {
        Some((what, _)) => Err(invalid(*what, "it is not supported yet")),
        None => Ok(()),
    }
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

fn join(b: &mut Builder, prelude: &mut Prelude, all: &Namespaces<'_>) -> Result<(), PlanError> {
    for (kind, path) in &all.join {
        let c = c_path(path)?;
        if *kind == LinuxNamespaceType::Pid {
            // only a process' children are in the pid namespace it joins: the parent's part
            prelude.pid_namespace = Some(c);
            continue;
        }
        let what = format!("join the {kind} namespace of {}", path.display());
        let passed = path.to_str().and_then(|p| p.strip_prefix("fd:"));
        let kind = *kind as u32;
        match passed.map(str::parse) {
            Some(Ok(index)) => b.push(what, Op::JoinPassed { kind, index }),
            Some(Err(_)) => return Err(invalid("namespace path", "fd:<index> needs a number")),
            None => b.push(what, Op::JoinPath { kind, path: &c }),
        }
    }
    Ok(())
}

/// Sets up the namespaces that are the container's own.
fn own_namespaces(b: &mut Builder, spec: &Spec, all: &Namespaces<'_>) -> Result<(), PlanError> {
    use LinuxNamespaceType as N;
    if all.is_new(N::User) {
        b.push("become root of the user namespace", Op::AwaitMaps {});
    }
    let linux = spec.linux().as_ref();
    if all.is_new(N::Time) {
        let offsets = linux.and_then(|l| l.time_offsets().as_ref());
        let mut lines: Vec<String> = offsets
            .into_iter()
            .flatten()
            .map(|(clock, o)| {
                format!(
                    "{clock} {} {}",
                    o.secs().unwrap_or(0),
                    o.nanosecs().unwrap_or(0)
                )
            })
            .collect();
        lines.sort();
        let text = c_string("time offsets", lines.join("\n").as_bytes())?;
        b.push("set time offsets", Op::TimeOffsets { text: &text });
    }
    if all.is_new(N::Cgroup) {
        // after the cgroups were entered, so that they are its root
        let kinds = N::Cgroup as u32;
        b.push("make a cgroup namespace", Op::Unshare { kinds });
    }
    if all.is_new(N::Network) {
        b.push("bring the loopback interface up", Op::LoopbackUp {});
    }
    if let Some(name) = spec.hostname().as_ref().filter(|n| !n.is_empty()) {
        if !all.is_new(N::Uts) {
            return Err(invalid("hostname", "it needs its own uts namespace"));
        }
        let name = name.as_bytes();
        b.push("set the host name", Op::Hostname { name });
    }
    if let Some(name) = spec.domainname().as_ref().filter(|n| !n.is_empty()) {
        let name = name.as_bytes();
        b.push("set the domain name", Op::Domainname { name });
    }
    Ok(())
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
    let namespaces = Namespaces::of(input.container);
    let mut b = Builder::default();
    b.step("start a process in the container");
    let pid = LinuxNamespaceType::Pid as u32;
    let mut prelude = Prelude {
        die_with_parent: input.die_with_parent,
        joins_target: namespaces.all() & pid != 0,
        ..Prelude::default()
    };
    process::before(&mut b, input.process, input.facts, &input.asked)?;
    if let Some(cgroup) = input.cgroup {
        prelude.enter(&mut b, cgroup, input.facts)?;
    }
    let kinds = namespaces.all() & !pid;
    b.push("enter the container", Op::JoinTarget { kinds });
    b.push("enter the container's root", Op::RootIsSlash {});
    let linux = input.container.linux().as_ref();
    let program = process::plan(
        &mut b,
        input.process,
        &process::Context {
            facts: input.facts,
            asked: &input.asked,
            seccomp: &input.seccomp,
            profile: linux.and_then(|l| l.seccomp().as_ref()),
            init: false,
            die_with_parent: input.die_with_parent,
            personality: linux.and_then(|l| l.personality().as_ref()),
            console: false,
            pivot: false,
            stages,
        },
    )?;
    Ok(prelude.finish(b, &program))
}
