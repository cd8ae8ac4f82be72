//! Cgroups made by systemd, as transient scopes: the driver for hosts where systemd must be the only
//! one to write to the tree it manages.
//!
//! ```text
//! cgroupsPath  slice:prefix:name      system.slice:plimsoll:c1
//! unit         <prefix>-<name>.scope  plimsoll-c1.scope
//! directory    <slice, expanded>/unit /system.slice/plimsoll-c1.scope
//!
//! keeper (a child that only waits) -> StartTransientUnit with its pid -> JobRemoved "done"
//!   limits that systemd doesn't know, device program; the container enters -> the keeper is killed
//! ```
//! A scope can't be without a process, and the container must not exist before its limits do: the
//! keeper stands in for it. All limits, and every device that may be used, are also properties of the
//! scope: whatever systemd isn't told, it takes back at the next daemon-reload.
//!
//! source: org.freedesktop.systemd1(5), systemd.resource-control(5), systemd.special(7).

mod bus;
mod properties;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use bus::Bus;
pub(crate) use properties::request;
use wire::{Reader, Writer};

/// Whose systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    System,
    /// The caller's own, for who may not use the system's.
    User,
}

/// A container's unit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Scope {
    pub manager: Manager,
    /// `system.slice`, or `-.slice` for the root.
    pub slice: String,
    /// `plimsoll-c1.scope`
    pub unit: String,
    /// Where the manager's own tree begins below the mounts of the hierarchies: `/` for the system's.
    pub base: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error(
        "connect to systemd's message bus at {}: is systemd the init of this host, and dbus installed?", path.display()
    )]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "no message bus of this user: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set"
    )]
    NoUserBus,
    #[error("the message bus does not let us in: {0}")]
    Refused(String),
    #[error("systemd refuses: {said} ({name})")]
    Answer { name: String, said: String },
    #[error("systemd ended a job of {unit} with \"{result}\"")]
    Job { unit: String, result: String },
    #[error("talk to systemd")]
    Io(#[source] io::Error),
    #[error("a message of systemd can't be read")]
    Garbled,
    #[error("waited for {0}")]
    Deadline(&'static str),
    #[error("{what} {given:?} is invalid: {why}")]
    Name {
        what: &'static str,
        given: String,
        why: &'static str,
    },
}

impl SystemdError {
    /// For where only a number fits.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Connect { source, .. } | Self::Io(source) => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Self::NoUserBus => libc::ENOENT,
            Self::Refused(_) => libc::EACCES,
            Self::Answer { name, .. } => match name.rsplit('.').next() {
                Some("UnitExists") => libc::EEXIST,
                Some("NoSuchUnit") => libc::ENOENT,
                Some("AccessDenied" | "InteractiveAuthorizationRequired") => libc::EACCES,
                Some("InvalidArgs" | "PropertyReadOnly") => libc::EINVAL,
                _ => libc::EREMOTEIO,
            },
            Self::Job { .. } => libc::ECANCELED,
            Self::Garbled => libc::EBADMSG,
            Self::Deadline(_) => libc::ETIMEDOUT,
            Self::Name { .. } => libc::EINVAL,
        }
    }

    fn is(&self, error: &str) -> bool {
        matches!(self, Self::Answer { name, .. } if name.ends_with(error))
    }
}

fn name(what: &'static str, given: &str, why: &'static str) -> SystemdError {
    SystemdError::Name {
        what,
        given: given.to_owned(),
        why,
    }
}

impl Scope {
    /// From an OCI spec's `cgroupsPath`, `slice:prefix:name`; an absent one is the default slice with
    /// `prefix` and the container's id, and so is each part that is left empty.
    ///
    /// # Errors
    /// When it has another form, or names no unit can have.
    pub fn parse(
        cgroups_path: Option<&str>,
        prefix: &str,
        id: &str,
        manager: Manager,
        base: &Path,
    ) -> Result<Self, SystemdError> {
        let given = cgroups_path.unwrap_or_default();
        if given.is_empty() {
            return Self::new("", prefix, id, manager, base);
        }
        let parts: Vec<&str> = given.split(':').collect();
        let [slice, prefix, own] = parts[..] else {
            let why = "systemd's driver wants slice:prefix:name";
            return Err(name("cgroupsPath", given, why));
        };
        Self::new(slice, prefix, own, manager, base)
    }

    /// # Errors
    /// When systemd would not take the names.
    pub fn new(
        slice: &str,
        prefix: &str,
        own: &str,
        manager: Manager,
        base: &Path,
    ) -> Result<Self, SystemdError> {
        let slice = match (slice, manager) {
            ("", Manager::System) => "system.slice",
            ("", Manager::User) => "user.slice",
            (given, _) => given,
        };
        expanded(slice)?;
        if own.ends_with(".slice") {
            let why = "a container's unit is a scope, not a slice";
            return Err(name("unit", own, why));
        }
        let unit = match prefix {
            "" => format!("{own}.scope"),
            _ => format!("{prefix}-{own}.scope"),
        };
        // systemd.unit(5): at most 255 characters of these
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
        if own.is_empty() || unit.len() > 255 || !unit.chars().all(allowed) {
            let why = "a unit's name has 1 to 255 letters, digits and any of : - _ . \\";
            return Err(name("unit", &unit, why));
        }
        Ok(Self {
            manager,
            slice: slice.to_owned(),
            unit,
            base: base.to_owned(),
        })
    }

    /// Below each hierarchy's mount.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        let base = self.base.strip_prefix("/").unwrap_or(&self.base);
        // checked when this was made
        base.join(expanded(&self.slice).unwrap_or_default())
            .join(&self.unit)
    }

    /// Limits of a running scope, as far as systemd knows them.
    ///
    /// # Errors
    /// When systemd refuses one or doesn't answer in time.
    pub fn set(
        &self,
        resources: &LinuxResources,
        v2: bool,
        deadline: Duration,
    ) -> Result<(), SystemdError> {
        let body = properties::update(&self.unit, resources, v2);
        let mut bus = Bus::connect(&bus::socket(self.manager)?, deadline)?;
        bus.manager("SetUnitProperties", "sba(sv)", &body).map(drop)
    }

    /// Ends the unit, with all processes that are left in it; one that is gone is fine.
    ///
    /// # Errors
    /// When systemd doesn't answer in time.
    pub fn stop(&self, deadline: Duration) -> Result<(), SystemdError> {
        stop_at(&bus::socket(self.manager)?, &self.unit, deadline)
    }
}

fn stop_at(socket: &Path, unit: &str, deadline: Duration) -> Result<(), SystemdError> {
    let mut bus = Bus::connect(socket, deadline)?;
    bus.subscribe()?;
    let mut body = Writer::default();
    body.string(unit);
    body.string("replace");
    match bus.manager("StopUnit", "ss", &body.into_bytes()) {
        Ok(answer) => {
            let job = Reader::new(&answer).string().ok_or(SystemdError::Garbled)?;
            // a scope that came to its end meanwhile is what was wanted
            let _how = bus.job_result(job)?;
        }
        Err(e) if e.is("NoSuchUnit") => return Ok(()),
        Err(e) => return Err(e),
    }
    reset_failed(&mut bus, unit);
    Ok(())
}

/// A failed unit would keep its name from being used again.
fn reset_failed(bus: &mut Bus, unit: &str) {
    let mut body = Writer::default();
    body.string(unit);
    let _not_failed = bus.manager("ResetFailedUnit", "s", &body.into_bytes());
}

/// Starts the scope of a plan's request, with `pid` in it.
pub(crate) fn start(
    manager: Manager,
    unit: &str,
    request: &[u8],
    pid_at: usize,
    pid: i32,
    deadline: Duration,
) -> Result<(), SystemdError> {
    start_at(&bus::socket(manager)?, unit, request, pid_at, pid, deadline)
}

fn start_at(
    socket: &Path,
    unit: &str,
    request: &[u8],
    pid_at: usize,
    pid: i32,
    deadline: Duration,
) -> Result<(), SystemdError> {
    let mut body = request.to_vec();
    let place = pid_at
        .checked_add(4)
        .and_then(|end| body.get_mut(pid_at..end))
        .ok_or(SystemdError::Garbled)?;
    place.copy_from_slice(&pid.to_le_bytes());
    let mut bus = Bus::connect(socket, deadline)?;
    bus.subscribe()?;
    let begin = |bus: &mut Bus| bus.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
    let answer = match begin(&mut bus) {
        // one that failed, and that nobody has looked after
        Err(e) if e.is("UnitExists") => {
            reset_failed(&mut bus, unit);
            begin(&mut bus)?
        }
        other => other?,
    };
    let job = Reader::new(&answer).string().ok_or(SystemdError::Garbled)?;
    let result = bus.job_result(job)?;
    if result == "done" {
        return Ok(());
    }
    Err(SystemdError::Job {
        unit: unit.to_owned(),
        result,
    })
}

/// Where this manager's own tree begins, asked from it: also the proof that it can be talked to.
///
/// # Errors
/// When there is no such manager, with what to do about it.
pub fn base(manager: Manager, deadline: Duration) -> Result<PathBuf, SystemdError> {
    base_at(&bus::socket(manager)?, deadline)
}

fn base_at(socket: &Path, deadline: Duration) -> Result<PathBuf, SystemdError> {
    let own = Bus::connect(socket, deadline)?.property("ControlGroup")?;
    Ok(PathBuf::from(if own.is_empty() { "/" } else { &own }))
}

/// `a-b.slice` is in `a.slice`: `a.slice/a-b.slice`. The root slice is `-.slice`.
fn expanded(slice: &str) -> Result<PathBuf, SystemdError> {
    let wrong = |why| name("slice", slice, why);
    let Some(stem) = slice.strip_suffix(".slice") else {
        return Err(wrong("its name must end in .slice"));
    };
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    if stem.contains('/') {
        return Err(wrong("it is a name, not a path"));
    }
    let mut out = PathBuf::new();
    let mut above = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return Err(wrong("a dash separates the names of the slices above it"));
        }
        above.push_str(part);
        out.push(format!("{above}.slice"));
        above.push('-');
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
