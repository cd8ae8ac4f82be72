//! The process: limits, ids, capabilities, filter, program.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use host::Facts;
use oci_spec::runtime::{
    Capabilities, LinuxMemoryPolicy, LinuxPersonality, LinuxSeccomp, PosixRlimitType, Process,
};

use super::explain::{Hint, Label};
use super::{
    Asked, Builder, Choices, PlanError, Prelude, SeccompChoice, Stages, c_string, invalid,
    scheduling, seccomp_agent,
};
use crate::capability::{bit, mask, mask_of_names};
use crate::execute::MAX_GROUPS;
use crate::ops::{Op, STAGE_READY};
use crate::seccomp::{self, Filter};
use crate::wire::ListBuf;

/// What execve gets.
pub(super) struct Program {
    pub(super) argv: Vec<CString>,
    pub(super) envp: Vec<CString>,
    pub(super) candidates: Vec<CString>,
    label: Label,
    pub(super) step: u32,
    pub(super) terminal: bool,
}

pub(super) struct Context<'a> {
    pub(super) facts: &'a Facts,
    pub(super) asked: &'a Asked,
    pub(super) seccomp: &'a SeccompChoice,
    pub(super) profile: Option<&'a LinuxSeccomp>,
    pub(super) init: bool,
    pub(super) die_with_parent: bool,
    pub(super) personality: Option<&'a LinuxPersonality>,
    pub(super) memory_policy: Option<&'a LinuxMemoryPolicy>,
    pub(super) choices: &'a Choices,
    /// The container's first process, which leaves the host's root here and whose terminal is
    /// /dev/console.
    pub(super) first: Option<First>,
    /// Supplementary groups may be set: not where an id was mapped without privilege.
    pub(super) groups: bool,
    pub(super) stages: &'a Stages<'a>,
}

#[derive(Clone, Copy)]
pub(super) struct First {
    /// Its mount namespace has other processes too.
    pub(super) shared_mounts: bool,
    /// Of the root, once it is "/": `MS_SHARED` and its like; 0 is no change.
    pub(super) propagation: u64,
}

/// Steps while the host's /proc is in reach.
pub(super) fn before(
    b: &mut Builder,
    process: &Process,
    facts: &Facts,
    asked: &Asked,
) -> Result<(), PlanError> {
    if let Some(score) = process.oom_score_adj() {
        let value = c_string("oom_score_adj", score.to_string().as_bytes())?;
        let required = asked.oom_score_adj || score >= facts.process.oom_score_adj;
        b.push(
            format!("set oom_score_adj to {score}"),
            Op::OomScore {
                value: &value,
                required,
            },
        );
    }
    let Some(label) = label(process, facts)? else {
        return Ok(());
    };
    let file = if label.starts_with("exec ") {
        c"/proc/thread-self/attr/apparmor/exec"
    } else {
        c"/proc/thread-self/attr/exec"
    };
    b.push("open the security label", Op::OpenLabel { file });
    Ok(())
}

/// The label in the form its security module wants. A profile that nobody would enforce is refused.
fn label(process: &Process, facts: &Facts) -> Result<Option<String>, PlanError> {
    let absent = |what: &str, module: &str| PlanError::Host {
        what: what.to_owned(),
        why: format!("{module} is not enabled on it"),
    };
    let named = |l: &Option<String>| l.clone().filter(|l| !l.is_empty());
    let profile = named(process.apparmor_profile());
    let selinux = named(process.selinux_label());
    if profile.is_some() && !facts.lsm.apparmor {
        // nothing is confined where nothing is asked to be
        if profile.as_deref() != Some("unconfined") {
            return Err(absent("process.apparmorProfile", "AppArmor"));
        }
        return Ok(None);
    }
    if selinux.is_some() && !facts.lsm.selinux {
        return Err(absent("process.selinuxLabel", "SELinux"));
    }
    Ok(profile.map(|p| format!("exec {p}")).or(selinux))
}

pub(super) fn plan(
    b: &mut Builder,
    prelude: &mut Prelude,
    process: &Process,
    c: &Context<'_>,
) -> Result<Program, PlanError> {
    let user = process.user();
    if !process.cwd().is_absolute() {
        return Err(invalid("process.cwd", "it is not an absolute path"));
    }
    stdio(b, process, c);
    if let Some(first) = c.first {
        root(b, first, c.choices);
    }
    if !c.choices.no_new_keyring && !c.stages.keep_keyring {
        b.push("make a session keyring", Op::Keyring {});
    }
    limits(b, process, c);
    scheduling::plan(b, process, c)?;
    let cwd = c_string("working directory", process.cwd().as_os_str().as_bytes())?;
    let step = b.label(Label {
        what: format!("change to directory {}", process.cwd().display()),
        hint: Hint::Cwd(process.cwd().clone()),
    });
    b.add(step, Op::Cwd { path: &cwd });
    if let Some(text) = label(process, c.facts)? {
        let value = c_string("security label", text.as_bytes())?;
        b.push("set the security label", Op::SetLabel { value: &value });
    }
    let mask = user.umask().unwrap_or(0o022);
    b.push("set the file mode mask", Op::Umask { mask });
    let first = 3 + c.stages.preserve;
    b.push("close other descriptors", Op::CloseRest { first });
    let mut program = program(process)?;
    privileges(b, prelude, process, c, &program)?;
    if c.init {
        b.push("fork from init", Op::ForkInit {});
    }
    program.step = b.label(program.label.clone());
    Ok(program)
}

/// The stops before the program. Before the filter: it needn't allow what the waiting takes.
fn stops(b: &mut Builder, stages: &Stages<'_>, program: &Program) {
    if !stages.ready {
        return;
    }
    // who creates is to hear that there is no such program, not who starts
    let candidates = ListBuf::of(program.candidates.iter().map(CString::as_c_str));
    let candidates = candidates.list();
    let step = b.label(program.label.clone());
    b.add(step, Op::FindProgram { candidates });
    let stage = STAGE_READY;
    b.push("report that all is ready", Op::Pause { stage });
    if let Some(passed) = stages.start {
        b.push("wait for the start", Op::AwaitStart { passed });
    }
}

fn root(b: &mut Builder, first: First, choices: &Choices) {
    let op = if first.shared_mounts || choices.no_pivot {
        Op::Chroot {}
    } else {
        Op::PivotRoot {}
    };
    b.push("change to the container's root", op);
    if first.propagation != 0 {
        // not before: a root with peers can't be pivoted to
        let attrs = super::mounts::propagation_alone(first.propagation);
        let target = c"/";
        let op = Op::MountAttrs { target, attrs };
        b.push("set the propagation of the root", op);
    }
}

fn stdio(b: &mut Builder, process: &Process, c: &Context<'_>) {
    let uid = process.user().uid();
    if process.terminal() == Some(true) {
        let size = process.console_size();
        let small = |n: u64| u32::try_from(n).unwrap_or(0);
        let op = Op::Terminal {
            rows: size.map_or(0, |s| small(s.height())),
            columns: size.map_or(0, |s| small(s.width())),
            uid,
            console: c.first.is_some(),
        };
        b.push("make the terminal", op);
    } else {
        b.push("lead a session", Op::NewSession {});
        b.push("connect stdin, stdout, stderr", Op::Stdio { owner: uid });
    }
}

fn limits(b: &mut Builder, process: &Process, c: &Context<'_>) {
    for r in process.rlimits().iter().flatten() {
        let step = b.label(Label {
            what: format!("set {} to {}:{}", r.typ(), r.soft(), r.hard()),
            hint: Hint::Rlimit,
        });
        let op = Op::Rlimit {
            resource: rlimit_number(r.typ()),
            soft: r.soft(),
            hard: r.hard(),
            required: c.asked.rlimits.contains(&r.typ()),
        };
        b.add(step, op);
    }
}

fn rlimit_number(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as R;
    match kind {
        R::RlimitCpu => libc::RLIMIT_CPU,
        R::RlimitFsize => libc::RLIMIT_FSIZE,
        R::RlimitData => libc::RLIMIT_DATA,
        R::RlimitStack => libc::RLIMIT_STACK,
        R::RlimitCore => libc::RLIMIT_CORE,
        R::RlimitRss => libc::RLIMIT_RSS,
        R::RlimitNproc => libc::RLIMIT_NPROC,
        R::RlimitNofile => libc::RLIMIT_NOFILE,
        R::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        R::RlimitAs => libc::RLIMIT_AS,
        R::RlimitLocks => libc::RLIMIT_LOCKS,
        R::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        R::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        R::RlimitNice => libc::RLIMIT_NICE,
        R::RlimitRtprio => libc::RLIMIT_RTPRIO,
        R::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// Capability sets of a process, cut to what this host can give.
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

fn sets(process: &Process, facts: &Facts) -> Sets {
    // what this process lacks it can't give; what the kernel doesn't know isn't there
    let host = mask_of_names(facts.process.bounding.iter().map(String::as_str));
    let of = |set: Option<&Capabilities>| set.map_or(0, mask) & host;
    let caps = process.capabilities().as_ref();
    let permitted = of(caps.and_then(|c| c.permitted().as_ref()));
    let inheritable = of(caps.and_then(|c| c.inheritable().as_ref()));
    let user = process.user().uid();
    Sets {
        bounding: of(caps.and_then(|c| c.bounding().as_ref())),
        // a user other than root has capabilities through execve only where they are ambient
        effective: of(caps.and_then(|c| c.effective().as_ref())) & permitted,
        permitted,
        inheritable: if user == 0 {
            inheritable
        } else {
            inheritable & permitted
        },
        ambient: of(caps.and_then(|c| c.ambient().as_ref())) & permitted & inheritable,
    }
}

/// From root with everything to what the spec says, in the one order that works: a filter needs
/// CAP_SYS_ADMIN or no_new_privs, a change of user needs CAP_SETUID and clears what isn't kept.
fn privileges(
    b: &mut Builder,
    prelude: &mut Prelude,
    process: &Process,
    c: &Context<'_>,
    program: &Program,
) -> Result<(), PlanError> {
    warn_of_missing(b, process, c.facts);
    let sets = sets(process, c.facts);
    let user = process.user();
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        return Err(invalid("user", format!("more than {MAX_GROUPS} groups")));
    }
    if !c.groups && !groups.is_empty() {
        return Err(invalid(
            "user.additionalGids",
            "a user without privilege that maps its own id alone can't set groups",
        ));
    }
    let keep = sets.bounding;
    b.push(
        "drop capabilities from the bounding set",
        Op::Bounding { keep },
    );
    let list = ListBuf::of(groups.iter().copied());
    let (uid, gid, groups) = (user.uid(), user.gid(), list.list());
    let step = b.label(Label {
        what: format!("become user {uid}:{gid}"),
        hint: Hint::User,
    });
    let op = if c.groups {
        Op::Ids { uid, gid, groups }
    } else {
        Op::IdsAlone { uid, gid }
    };
    b.add(step, op);
    if c.die_with_parent {
        // after the change of user, which disarms it
        b.push("tie the container's life to its shim", Op::DieWithParent {});
    }
    stops(b, c.stages, program);
    let capabilities = Op::Capabilities {
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
        ambient: sets.ambient,
    };
    let filter = filter(c, sets.bounding)?;
    if filter.as_ref().is_some_and(|f| f.notifies) {
        prelude.agent = Some(seccomp_agent::plan(b, c.profile, c.choices)?);
    }
    let install = |b: &mut Builder| {
        if let Some(f) = &filter {
            let (program, flags) = (f.program.as_slice(), f.flags);
            let op = if f.notifies {
                Op::SeccompAgent { program, flags }
            } else {
                Op::Seccomp { program, flags }
            };
            b.push("install the seccomp filter", op);
        }
    };
    if process.no_new_privileges() == Some(true) {
        b.push("set capabilities", capabilities);
        b.push("set no_new_privs", Op::NoNewPrivileges {});
        install(b);
    } else {
        install(b);
        b.push("set capabilities", capabilities);
    }
    Ok(())
}

/// What this kernel doesn't know is left out, and said.
/// What is left out of the sets that [`sets`] makes. source: runtime-spec config.md "Linux Process":
/// what can't be granted is a warning.
fn warn_of_missing(b: &mut Builder, process: &Process, facts: &Facts) {
    let Some(caps) = process.capabilities().as_ref() else {
        return;
    };
    let all = [
        caps.bounding(),
        caps.effective(),
        caps.permitted(),
        caps.inheritable(),
        caps.ambient(),
    ];
    let wanted = all.iter().flat_map(|set| set.iter().flatten());
    let wanted: BTreeSet<String> = wanted.map(ToString::to_string).collect();
    let known = |name: &&String| bit(name).is_some_and(|b| b <= facts.process.last_capability);
    let (known, unknown): (Vec<&String>, Vec<&String>) = wanted.iter().partition(known);
    let ours = mask_of_names(facts.process.bounding.iter().map(String::as_str));
    let lacking = |name: &&&String| bit(name).is_some_and(|b| ours & 1 << b == 0);
    let lacking: Vec<&String> = known.iter().filter(lacking).copied().collect();
    let mut warn = |why: &str, names: &[&String]| {
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
            b.warnings
                .push(format!("{why} {}: they are left out", names.join(", ")));
        }
    };
    warn("this kernel doesn't know the capabilities", &unknown);
    let why = "this runtime was started without, and can't give, the capabilities";
    warn(why, &lacking);
}

fn filter(c: &Context<'_>, capabilities: u64) -> Result<Option<std::sync::Arc<Filter>>, PlanError> {
    Ok(match c.seccomp {
        SeccompChoice::Unconfined => None,
        SeccompChoice::Default => Some(seccomp::default_filter(capabilities)),
        SeccompChoice::Filter(f) => Some(f.clone()),
        SeccompChoice::Spec => {
            let made = c.profile.map(seccomp::compile_once).transpose()?;
            made.map(std::sync::Arc::new)
        }
    }
    .filter(|f| !f.is_empty()))
}

fn program(process: &Process) -> Result<Program, PlanError> {
    let args = process.args().as_deref().unwrap_or_default();
    let argv0 = args.first().filter(|a| !a.is_empty());
    let argv0 = argv0.ok_or(PlanError::Missing("program to run"))?;
    let env = process.env().as_deref().unwrap_or_default();
    let strings = |what: &str, list: &[String]| -> Result<Vec<CString>, PlanError> {
        list.iter().map(|s| c_string(what, s.as_bytes())).collect()
    };
    let in_path = !argv0.contains('/');
    let candidates = if in_path {
        let path = env
            .iter()
            .find_map(|e| e.strip_prefix("PATH="))
            .unwrap_or("");
        // a directory that isn't absolute would depend on the working directory: skipped, as Go
        // and so Docker do
        path.split(':')
            .filter(|d| d.starts_with('/'))
            .map(|d| format!("{}/{argv0}", d.trim_end_matches('/')))
            .collect()
    } else {
        vec![argv0.clone()]
    };
    let label = Label {
        what: format!("exec {argv0}"),
        hint: Hint::Program {
            argv0: argv0.clone(),
            in_path,
        },
    };
    Ok(Program {
        argv: strings("an argument", args)?,
        envp: strings("an environment variable", env)?,
        candidates: strings("the program", &candidates)?,
        label,
        step: 0,
        terminal: process.terminal() == Some(true),
    })
}
