//! Seccomp filters: our own compiler and default profile.
//!
//! ```text
//! table.rs     system calls: numbers and default verdicts
//! docker.rs    a profile in Docker's format, resolved for capabilities
//! compile.rs   rules -> BPF
//! ```
//!
//! Programs are kept by what they were made of, so a profile is compiled once in a daemon's life.

mod compile;
mod docker;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};

use compile::{Alternative, Condition, ENOSYS, ERRNO, Rulebook, Rules, Test, Verdict};
use table::{LAST_KNOWN, Machine};

/// A compiled program: `struct sock_filter`s as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub(crate) program: Vec<u8>,
    pub(crate) flags: u32,
    /// Some calls are judged by an agent: the kernel makes a listener.
    pub(crate) notifies: bool,
}

impl Filter {
    /// Number of BPF instructions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.program.len() / 8
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }

    /// The `struct sock_filter`s, for tests and tools that read them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.program
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{0} is not supported in a seccomp profile here")]
    Unsupported(String),
    #[error("the seccomp action {0} takes no errnoRet: leave it out")]
    Errno(LinuxSeccompAction),
    #[error(
        "the seccomp action SCMP_ACT_NOTIFY can't be used for {0}: it would stop the start itself"
    )]
    Notify(String),
    #[error("seccomp profile of {0} instructions exceeds the kernel's 4096")]
    TooLong(usize),
    #[error("seccomp profile can't be read")]
    Json(#[source] serde_json::Error),
}

/// What a program was made of.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Default(u64),
    Profile([u8; 32]),
}

/// Programs made so far. Bounded: a user can name any number of profiles.
static MADE: Mutex<Option<HashMap<Key, Arc<Filter>>>> = Mutex::new(None);
const MOST_KEPT: usize = 64;

fn kept(
    key: Key,
    make: impl FnOnce() -> Result<Filter, CompileError>,
) -> Result<Arc<Filter>, CompileError> {
    let lock = || MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(f) = lock().as_ref().and_then(|m| m.get(&key)) {
        return Ok(f.clone());
    }
    let filter = Arc::new(make()?);
    let mut guard = lock();
    let map = guard.get_or_insert_default();
    if map.len() >= MOST_KEPT {
        map.clear();
    }
    map.insert(key, filter.clone());
    Ok(filter)
}

/// The default profile for a set of capabilities (as a mask), compiled once.
#[must_use]
pub fn default_filter(capabilities: u64) -> Arc<Filter> {
    let made = kept(Key::Default(capabilities), || {
        let program = compile::compile(&default_rules(capabilities))?;
        // as runc: a filter must not turn speculation mitigations on for the whole container
        let flags = sys::seccomp::FLAG_SPEC_ALLOW;
        Ok(Filter {
            program,
            flags,
            notifies: false,
        })
    });
    // a table of constants: that it fits is tested for all and no capabilities
    made.unwrap_or_else(|_| Arc::new(deny_everything()))
}

/// Calls that the default allows to everyone, by name: for profiles made from it.
#[must_use]
pub fn allowed_names() -> Vec<String> {
    let allowed = |e: &&table::Entry| e.rule == table::Rule::Allow;
    let all = table::TABLE.iter().filter(allowed);
    all.map(|e| e.name.to_owned()).collect()
}

/// Fails closed: execve itself is refused.
fn deny_everything() -> Filter {
    let mut program = vec![0x06, 0, 0, 0];
    program.extend_from_slice(&0x8000_0000_u32.to_ne_bytes());
    Filter {
        program,
        flags: 0,
        notifies: false,
    }
}

fn default_rules(capabilities: u64) -> Rulebook {
    const EPERM: u32 = 1;
    let default = ERRNO | EPERM;
    let mut machines = BTreeMap::new();
    for m in Machine::native() {
        let mut rules = Rules::new();
        for entry in table::TABLE {
            let Some(number) = entry.number(*m) else {
                continue;
            };
            let (alternatives, otherwise) = entry.rule.resolve(capabilities);
            let verdict = Verdict {
                alternatives,
                otherwise,
            };
            rules.calls.insert(number, verdict);
        }
        machines.insert(*m, rules);
    }
    Rulebook {
        machines,
        default,
        beyond: ENOSYS,
    }
}

/// Compiles an OCI profile for this machine; the result is kept by its hash.
///
/// # Errors
/// Rules that can't be expressed. Unknown system call names are skipped, as Docker does.
pub fn compile(profile: &LinuxSeccomp) -> Result<Arc<Filter>, CompileError> {
    use sha2::{Digest, Sha256};
    let text = serde_json::to_vec(profile).map_err(CompileError::Json)?;
    kept(Key::Profile(Sha256::digest(&text).into()), || {
        compile_once(profile)
    })
}

/// As [`compile()`], kept nowhere: for a process that starts one container.
///
/// # Errors
/// As [`compile()`].
pub fn compile_once(profile: &LinuxSeccomp) -> Result<Filter, CompileError> {
    let notifies = notifies(profile)?;
    let book = rulebook(profile)?;
    Ok(Filter {
        program: compile::compile(&book)?,
        flags: flags(profile, notifies)?,
        notifies,
    })
}

/// Whether an agent is needed; and not for calls that the start itself still makes.
fn notifies(profile: &LinuxSeccomp) -> Result<bool, CompileError> {
    const NOTIFY: LinuxSeccompAction = LinuxSeccompAction::ScmpActNotify;
    if profile.default_action() == NOTIFY {
        return Err(CompileError::Notify("every call (defaultAction)".into()));
    }
    let mut any = false;
    for s in profile.syscalls().iter().flatten() {
        if s.action() != NOTIFY {
            continue;
        }
        any = true;
        // by it the listener reaches the agent
        if s.names().iter().any(|n| n == "sendmsg") {
            return Err(CompileError::Notify("sendmsg".into()));
        }
    }
    Ok(any)
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> Result<u32, CompileError> {
    use LinuxSeccompFilterFlag as F;
    let Some(flags) = profile.flags() else {
        return Ok(sys::seccomp::FLAG_SPEC_ALLOW);
    };
    let mut all = 0;
    for f in flags {
        all |= match f {
            F::SeccompFilterFlagLog => sys::seccomp::FLAG_LOG,
            F::SeccompFilterFlagSpecAllow => sys::seccomp::FLAG_SPEC_ALLOW,
            F::SeccompFilterFlagTsync => sys::seccomp::FLAG_TSYNC,
            F::SeccompFilterFlagWaitKillableRecv if notifies => {
                sys::seccomp::FLAG_WAIT_KILLABLE_RECV
            }
            F::SeccompFilterFlagWaitKillableRecv => {
                let what = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV without SCMP_ACT_NOTIFY";
                return Err(CompileError::Unsupported(what.into()));
            }
        };
    }
    Ok(all)
}

fn action(a: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    use LinuxSeccompAction as A;
    if errno.is_some() && !matches!(a, A::ScmpActErrno | A::ScmpActTrace) {
        return Err(CompileError::Errno(a));
    }
    // the kernel takes 16 bits and answers at most 4095
    Ok(a.as_u32(errno.map(|e| e.min(4095))))
}

fn machines(profile: &LinuxSeccomp) -> BTreeSet<Machine> {
    let native = Machine::native();
    let listed = profile.architectures().iter().flatten().filter_map(|a| {
        Some(match a {
            Arch::ScmpArchNative => native[0],
            Arch::ScmpArchX86_64 => Machine::X86_64,
            Arch::ScmpArchX86 => Machine::I386,
            Arch::ScmpArchX32 => Machine::X32,
            Arch::ScmpArchAarch64 => Machine::Aarch64,
            _ => return None,
        })
    });
    let mut out: BTreeSet<_> = listed.filter(|m| native.contains(m)).collect();
    // the machine itself always: a profile for others alone would stop every program
    out.insert(native[0]);
    out
}

fn rulebook(profile: &LinuxSeccomp) -> Result<Rulebook, CompileError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut book = Rulebook {
        machines: BTreeMap::new(),
        default,
        beyond: default,
    };
    // A profile that answers EPERM by default can't have meant calls that are newer than itself.
    let refuses = profile.default_action() == LinuxSeccompAction::ScmpActErrno;
    if refuses && default != ENOSYS {
        book.beyond = ENOSYS;
    }
    let mut all: Vec<(Machine, Rules)> = machines(profile)
        .into_iter()
        .map(|m| (m, Rules::new()))
        .collect();
    for s in profile.syscalls().iter().flatten() {
        add(&mut all, s, default)?;
    }
    for (m, mut rules) in all {
        if refuses {
            let most = rules.calls.keys().next_back().copied();
            rules.last = most.unwrap_or(LAST_KNOWN);
        }
        book.machines.insert(m, rules);
    }
    Ok(book)
}

/// One rule of a profile: its names get its alternatives, after those they have already. What holds
/// always comes last, so that a later condition isn't lost behind it; the first such counts.
fn add(all: &mut [(Machine, Rules)], s: &LinuxSyscall, default: u32) -> Result<(), CompileError> {
    let action = action(s.action(), s.errno_ret())?;
    let alternatives = alternatives(s, action)?;
    // as in runc, one that says what the default says anyway is none
    if alternatives.is_empty() && action == default {
        return Ok(());
    }
    for name in s.names() {
        let Some(entry) = table::find(name) else {
            continue;
        };
        for (m, rules) in &mut *all {
            let Some(number) = entry.number(*m) else {
                continue;
            };
            let verdict = rules.calls.entry(number).or_default();
            if alternatives.is_empty() {
                verdict.otherwise.get_or_insert(action);
            } else {
                verdict.alternatives.extend(alternatives.iter().cloned());
            }
        }
    }
    Ok(())
}

/// All conditions of a rule must hold; but several on one argument are alternatives (as in runc:
/// libseccomp takes one comparison an argument). Empty: it holds always.
fn alternatives(s: &LinuxSyscall, action: u32) -> Result<Vec<Alternative>, CompileError> {
    let args = s.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let mut conditions = Vec::with_capacity(args.len());
    for a in args {
        let index = u32::try_from(a.index()).ok().filter(|i| *i < 6);
        let index = index
            .ok_or_else(|| CompileError::Unsupported(format!("argument number {}", a.index())))?;
        let (test, value) = match a.op() {
            LinuxSeccompOperator::ScmpCmpNe => (Test::NotEqual, a.value()),
            LinuxSeccompOperator::ScmpCmpLt => (Test::Less, a.value()),
            LinuxSeccompOperator::ScmpCmpLe => (Test::LessEqual, a.value()),
            LinuxSeccompOperator::ScmpCmpEq => (Test::Equal, a.value()),
            LinuxSeccompOperator::ScmpCmpGe => (Test::GreaterEqual, a.value()),
            LinuxSeccompOperator::ScmpCmpGt => (Test::Greater, a.value()),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (Test::Masked(a.value()), a.value_two().unwrap_or(0))
            }
        };
        conditions.push(Condition {
            index,
            test,
            value,
            low_word: false,
        });
    }
    let mut indices: Vec<_> = conditions.iter().map(|c| c.index).collect();
    indices.sort_unstable();
    let repeated = indices.windows(2).any(|w| w[0] == w[1]);
    if repeated {
        let alone = |c| Alternative {
            conditions: vec![c],
            action,
        };
        return Ok(conditions.into_iter().map(alone).collect());
    }
    Ok(vec![Alternative { conditions, action }])
}

/// Reads a profile in Docker's format (`--security-opt seccomp=file`): `archMap`, `includes`,
/// `excludes` are resolved for the capabilities (a mask, see [`crate::capability`]). `minKernel` counts as reached: versions lie
/// (backports), and an unknown call is refused by the kernel itself.
///
/// # Errors
/// Malformed JSON.
pub fn from_docker_profile(json: &[u8], capabilities: u64) -> Result<LinuxSeccomp, CompileError> {
    docker::resolve(json, capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fits_whatever_the_capabilities() {
        for caps in [0, u64::MAX, 1 << 21] {
            let n = default_filter(caps).len();
            assert!(n > 100 && n < 1281, "{n} instructions");
        }
    }

    #[test]
    fn a_program_is_made_once() {
        assert!(Arc::ptr_eq(&default_filter(5), &default_filter(5)));
    }
}
