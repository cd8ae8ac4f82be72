//! Numbered steps at which a test can end the process or make an effect fail.
//!
//! Every durable or kernel-visible effect of the product calls [`point`] just before it happens.
//! In release builds the call is nothing. In debug builds the environment decides:
//!
//! - `PLIMSOLL_FAULT=<role>:<n>:<action>` acts on the n-th point (from 1) of the process with that
//!   role. Actions: `kill` (SIGKILL to itself), `enospc`, `eio`. `<n>` may be a point's name
//!   instead of a number: then it acts on each passage of that name.
//! - `PLIMSOLL_FAULT_LOG=<file>` appends `<role> <n> <name>` for each passage, so that a test first
//!   counts the steps of an operation and then replays it once for each.
//!
//! - `PLIMSOLL_FAULT_FROM=<path>`: nothing is counted, logged or done before this path exists, so
//!   that a test numbers the steps of one operation and not those of all that came before it.
//!
//! A process takes its role with [`enter`]; a fork that becomes another role calls it again, which
//! restarts its count. Nothing is counted before `enter`.

use std::io;

/// Takes the role named, restarts the count. Called once at the start of each process of ours.
pub fn enter(role: &'static str) {
    #[cfg(debug_assertions)]
    active::enter(role);
    #[cfg(not(debug_assertions))]
    let _ = role;
}

/// A step: the effect named happens right after this returns `Ok`.
///
/// # Errors
/// Only in debug builds, and only when a test asked for it.
#[inline]
pub fn point(name: &'static str) -> io::Result<()> {
    #[cfg(debug_assertions)]
    return active::point(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        Ok(())
    }
}

#[cfg(debug_assertions)]
mod active {
    use std::io::{self, Write};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    static STEP: AtomicU64 = AtomicU64::new(0);
    static ROLE: Mutex<Option<Armed>> = Mutex::new(None);

    #[derive(Clone, Copy)]
    enum Action {
        Kill,
        Errno(i32),
    }

    enum Trigger {
        Step(u64),
        Name(String),
    }

    struct Armed {
        role: &'static str,
        trigger: Option<(Trigger, Action)>,
        log: Option<std::fs::File>,
        from: Option<std::path::PathBuf>,
    }

    pub(super) fn enter(role: &'static str) {
        STEP.store(0, Ordering::SeqCst);
        let trigger = std::env::var("PLIMSOLL_FAULT")
            .ok()
            .and_then(|v| parse(role, &v));
        let log = std::env::var_os("PLIMSOLL_FAULT_LOG").and_then(|p| {
            std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(p)
                .ok()
        });
        let armed = (trigger.is_some() || log.is_some()).then(|| Armed {
            role,
            trigger,
            log,
            from: std::env::var_os("PLIMSOLL_FAULT_FROM").map(Into::into),
        });
        *ROLE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = armed;
    }

    fn parse(role: &str, text: &str) -> Option<(Trigger, Action)> {
        let mut parts = text.splitn(3, ':');
        let (wanted, at, action) = (parts.next()?, parts.next()?, parts.next()?);
        if wanted != role {
            return None;
        }
        let action = match action {
            "kill" => Action::Kill,
            "enospc" => Action::Errno(libc::ENOSPC),
            "eio" => Action::Errno(libc::EIO),
            _ => return None,
        };
        let trigger = at
            .parse()
            .map_or_else(|_| Trigger::Name(at.to_owned()), Trigger::Step);
        Some((trigger, action))
    }

    pub(super) fn point(name: &'static str) -> io::Result<()> {
        let mut guard = ROLE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(armed) = guard.as_mut() else {
            return Ok(());
        };
        if armed.from.as_ref().is_some_and(|path| !path.exists()) {
            return Ok(());
        }
        let step = STEP.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(log) = armed.log.as_mut() {
            // its descriptor goes with the others just before a container's program is executed
            let _closed = log.write_all(format!("{} {step} {name}\n", armed.role).as_bytes());
        }
        let Some((trigger, action)) = &armed.trigger else {
            return Ok(());
        };
        let hit = match trigger {
            Trigger::Step(n) => *n == step,
            Trigger::Name(n) => n == name,
        };
        match (hit, action) {
            (false, _) => Ok(()),
            (true, Action::Kill) => {
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                )?;
                // the first process of a pid namespace is immune to its own SIGKILL
                crate::process::exit(137)
            }
            (true, Action::Errno(n)) => Err(io::Error::from_raw_os_error(*n)),
        }
    }
}
