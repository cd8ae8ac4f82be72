//! Namespaces: new ones, joined ones, and whose user namespace gives the right to which.
//!
//! ```text
//! plain      clone3(all new ones) -> join the others by path -> await maps
//! staged     clone3() -> join the others -> make or join the user namespace -> maps ->
//!            a sibling with all new ones
//! ```
//!
//! Staged is for a user namespace that is joined, or made while others are joined: a namespace
//! belongs to the user namespace it was made in, and may only be joined with rights over that one.

use std::path::Path;

use host::Facts;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};

use super::explain::{Hint, Label};
use super::{Builder, PlanError, PlanInput, Prelude, c_path, c_string, invalid};
use crate::ops::{MAP_DIRECT, MAP_HELPERS, MAP_SELF, Op};

const NEWTIME: u32 = 0x80;

/// The namespaces of a spec: new ones as flags, joined ones by path.
pub(crate) struct Namespaces<'a> {
    new: u32,
    join: Vec<(LinuxNamespaceType, &'a Path)>,
    staged: bool,
}

pub(super) fn map_text(maps: &[LinuxIdMapping]) -> Result<std::ffi::CString, PlanError> {
    let lines: Vec<String> = maps
        .iter()
        .map(|m| format!("{} {} {}", m.container_id(), m.host_id(), m.size()))
        .collect();
    c_string("id map", lines.join("\n").as_bytes())
}

/// Ranges must not overlap, nor be empty: the kernel's own refusal says neither which nor why.
pub(super) fn check_maps(what: &str, maps: &[LinuxIdMapping]) -> Result<(), PlanError> {
    const MOST: usize = 340;
    if maps.len() > MOST {
        return Err(invalid(what, format!("more than {MOST} ranges")));
    }
    let overlaps = |at: &dyn Fn(&LinuxIdMapping) -> u32| {
        let mut all: Vec<_> = maps
            .iter()
            .map(|m| (u64::from(at(m)), u64::from(at(m)) + u64::from(m.size())))
            .collect();
        all.sort_unstable();
        all.windows(2).any(|w| w[1].0 < w[0].1)
    };
    if maps.iter().any(|m| m.size() == 0) {
        return Err(invalid(what, "a range has size 0"));
    }
    if overlaps(&|m| m.container_id()) || overlaps(&|m| m.host_id()) {
        return Err(invalid(what, "two ranges overlap"));
    }
    Ok(())
}

fn is_unprivileged(facts: &Facts) -> bool {
    facts.process.uid != 0 || !facts.process.has("CAP_SETUID")
}

impl<'a> Namespaces<'a> {
    pub(super) fn of(spec: &'a Spec, facts: &Facts) -> Result<Self, PlanError> {
        use LinuxNamespaceType as N;
        let list = spec
            .linux()
            .as_ref()
            .and_then(|l| l.namespaces().as_deref());
        let mut out = Self {
            new: 0,
            join: Vec::new(),
            staged: false,
        };
        for n in list.unwrap_or_default() {
            if out.all() & n.typ() as u32 != 0 {
                return Err(invalid(
                    "namespaces",
                    format!("the {} namespace is given twice", n.typ()),
                ));
            }
            match n.path().as_deref().filter(|p| !p.as_os_str().is_empty()) {
                Some(path) => out.join.push((n.typ(), path)),
                None => out.new |= n.typ() as u32,
            }
        }
        if out.all() & N::Mount as u32 == 0 {
            return Err(invalid(
                "namespaces",
                "a container needs a mount namespace: its mounts would be the host's",
            ));
        }
        let others = out.join.iter().any(|(t, _)| *t != N::Pid);
        out.staged = out.joins(N::User) || out.is_new(N::User) && others;
        // one without rights must be in the user namespace before it may join what belongs to it
        let user_first = is_unprivileged(facts);
        out.join.sort_by_key(|(t, _)| (*t == N::User) != user_first);
        Ok(out)
    }

    /// Those a spec names, new or joined.
    pub(crate) fn kinds(spec: &Spec) -> u32 {
        let linux = spec.linux().as_ref();
        let list = linux.and_then(|l| l.namespaces().as_deref());
        let all = list.unwrap_or_default().iter();
        all.fold(0, |m, n| m | n.typ() as u32)
    }

    pub(super) fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new & kind as u32 != 0
    }

    fn joins(&self, kind: LinuxNamespaceType) -> bool {
        self.join.iter().any(|(t, _)| *t == kind)
    }

    /// The container's mounts are made in a namespace that isn't its own.
    pub(super) fn joins_mounts(&self) -> bool {
        self.joins(LinuxNamespaceType::Mount)
    }

    /// New and joined ones.
    pub(super) fn all(&self) -> u32 {
        self.join.iter().fold(self.new, |m, (t, _)| m | *t as u32)
    }

    /// Devices can't be made, and much can't be mounted, in a user namespace of one's own.
    pub(super) fn in_user_namespace(&self) -> bool {
        self.all() & LinuxNamespaceType::User as u32 != 0
    }

    /// The namespace file of a joined one.
    pub(super) fn path(&self, kind: LinuxNamespaceType) -> Option<&'a Path> {
        self.join.iter().find(|(t, _)| *t == kind).map(|(_, p)| *p)
    }

    /// How the maps of a new user namespace get written, and by whom.
    pub(super) fn maps(
        &self,
        b: &mut Builder,
        prelude: &mut Prelude,
        linux: &Linux,
        facts: &Facts,
    ) -> Result<(), PlanError> {
        let uids = linux.uid_mappings().as_deref().unwrap_or_default();
        let gids = linux.gid_mappings().as_deref().unwrap_or_default();
        if !self.is_new(LinuxNamespaceType::User) {
            let given = !uids.is_empty() || !gids.is_empty();
            if given && !self.in_user_namespace() {
                let why = "they need a user namespace among the namespaces";
                return Err(invalid("uidMappings, gidMappings", why));
            }
            return Ok(());
        }
        if uids.is_empty() || gids.is_empty() {
            return Err(invalid(
                "the user namespace",
                "it needs uidMappings and gidMappings",
            ));
        }
        check_maps("uidMappings", uids)?;
        check_maps("gidMappings", gids)?;
        prelude.map_step = b.label(Label {
            what: "map user and group ids".to_owned(),
            hint: Hint::Maps,
        });
        prelude.maps = Some((map_text(uids)?, map_text(gids)?));
        prelude.map_by = map_by(uids, gids, facts);
        prelude.maps_asked = self.staged;
        Ok(())
    }

    /// Whether the process may choose its supplementary groups.
    pub(super) fn may_set_groups(&self, linux: &Linux, facts: &Facts) -> bool {
        let uids = linux.uid_mappings().as_deref().unwrap_or_default();
        let gids = linux.gid_mappings().as_deref().unwrap_or_default();
        !self.is_new(LinuxNamespaceType::User) || map_by(uids, gids, facts) != MAP_SELF
    }

    /// From the host into the container's namespaces.
    pub(super) fn enter(
        &self,
        b: &mut Builder,
        prelude: &mut Prelude,
        input: &PlanInput<'_>,
    ) -> Result<(), PlanError> {
        use LinuxNamespaceType as N;
        let late = N::Cgroup as u32 | NEWTIME;
        let born = u64::from(self.new & !late);
        self.not_the_hosts(b, input.spec)?;
        if !self.staged {
            prelude.clone_flags = born;
            self.join_all(b, prelude, false)?;
            if let Some(cgroup) = input.cgroup {
                prelude.enter(b, cgroup, input.facts)?;
            }
            if self.is_new(N::User) {
                let what = "become root of the user namespace";
                let op = if prelude.map_by == MAP_SELF {
                    Op::AwaitOwnMap {}
                } else {
                    Op::AwaitMaps {}
                };
                b.push(what, op);
            }
            return Ok(());
        }
        // while still the host's root: v1's files are its own
        if let Some(cgroup) = input.cgroup {
            prelude.enter(b, cgroup, input.facts)?;
        }
        self.join_all(b, prelude, true)?;
        let user = N::User as u32;
        if self.is_new(N::User) {
            b.push("make a user namespace", Op::Unshare { kinds: user });
            b.add(prelude.map_step, Op::RequestMaps {});
        }
        let groups = prelude.map_by != MAP_SELF;
        b.push(
            "become root of the user namespace",
            Op::BecomeRoot { groups },
        );
        let flags = born & !u64::from(user);
        if flags != 0 || self.joins(N::Pid) {
            b.push("go on in the new namespaces", Op::Rebirth { flags });
        }
        Ok(())
    }

    fn join_all(
        &self,
        b: &mut Builder,
        prelude: &mut Prelude,
        staged: bool,
    ) -> Result<(), PlanError> {
        for (kind, path) in &self.join {
            let c = c_path(path)?;
            if *kind == LinuxNamespaceType::Pid && !staged {
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

    /// A host name or sysctl for a namespace joined by path must not turn out to be for the host's.
    fn not_the_hosts(&self, b: &mut Builder, spec: &Spec) -> Result<(), PlanError> {
        use LinuxNamespaceType as N;
        let linux = spec.linux().as_ref();
        let sysctls = linux.and_then(|l| l.sysctl().as_ref());
        let any = |prefix: &str| {
            let named = |k: &String| k.replace('/', ".").starts_with(prefix);
            sysctls.is_some_and(|s| s.keys().any(named))
        };
        let names = spec.hostname().is_some() || spec.domainname().is_some();
        let changed = [
            (N::Uts, names || any("kernel.")),
            (N::Network, any("net.")),
            (N::Ipc, any("kernel.") || any("fs.mqueue.")),
        ];
        for (kind, path) in &self.join {
            let path_given = !path.to_string_lossy().starts_with("fd:");
            if path_given && changed.contains(&(*kind, true)) {
                let c = c_path(path)?;
                let step = b.label(Label {
                    what: format!("check the {kind} namespace of {}", path.display()),
                    hint: Hint::HostsNamespace,
                });
                let kind = *kind as u32;
                b.add(step, Op::NotHosts { kind, path: &c });
            }
        }
        Ok(())
    }

    /// Sets up the namespaces that are the container's own.
    pub(super) fn own(
        &self,
        b: &mut Builder,
        prelude: &mut Prelude,
        spec: &Spec,
    ) -> Result<(), PlanError> {
        use LinuxNamespaceType as N;
        let linux = spec.linux().as_ref();
        let offsets = linux.and_then(|l| l.time_offsets().as_ref());
        if self.is_new(N::Time) {
            self.time(b, offsets)?;
        } else if offsets.is_some_and(|o| !o.is_empty()) {
            return Err(invalid("timeOffsets", "they need a new time namespace"));
        }
        if self.is_new(N::Cgroup) {
            // after the cgroups were entered, so that they are its root
            let kinds = N::Cgroup as u32;
            b.push("make a cgroup namespace", Op::Unshare { kinds });
        }
        if self.is_new(N::Network) {
            b.push("bring the loopback interface up", Op::LoopbackUp {});
        }
        if let Some(linux) = linux {
            self.devices(b, prelude, linux)?;
        }
        self.names(b, spec)
    }

    fn time(
        &self,
        b: &mut Builder,
        offsets: Option<&std::collections::HashMap<String, oci_spec::runtime::LinuxTimeOffset>>,
    ) -> Result<(), PlanError> {
        let mut lines: Vec<String> = Vec::new();
        for (clock, o) in offsets.into_iter().flatten() {
            if !["monotonic", "boottime"].contains(&clock.as_str()) {
                let why = format!("{clock} is none of the clocks monotonic and boottime");
                return Err(invalid("timeOffsets", why));
            }
            let (secs, nanosecs) = (o.secs().unwrap_or(0), o.nanosecs().unwrap_or(0));
            lines.push(format!("{clock} {secs} {nanosecs}"));
        }
        lines.sort();
        let text = c_string("time offsets", lines.join("\n").as_bytes())?;
        b.push("set time offsets", Op::TimeOffsets { text: &text });
        Ok(())
    }

    /// Links of the host that become the container's.
    fn devices(
        &self,
        b: &mut Builder,
        prelude: &mut Prelude,
        linux: &Linux,
    ) -> Result<(), PlanError> {
        let devices = super::mounts::sorted(linux.net_devices().as_ref());
        if devices.is_empty() {
            return Ok(());
        }
        if self.all() & LinuxNamespaceType::Network as u32 == 0 {
            return Err(invalid("netDevices", "they need a network namespace"));
        }
        for (name, device) in devices {
            let rename = device.name().as_ref().filter(|n| !n.is_empty());
            for n in std::iter::once(name).chain(rename) {
                // IFNAMSIZ with its NUL
                let odd = n.is_empty() || n.len() > 15 || n == "." || n == "..";
                if odd || n.contains(['/', ':']) || n.contains(char::is_whitespace) {
                    return Err(invalid("netDevices", format!("{n:?} is no interface name")));
                }
            }
            let rename = rename.map(|n| c_string("interface name", n.as_bytes()));
            let name = c_string("interface name", name.as_bytes())?;
            prelude.net_devices.push((name, rename.transpose()?));
        }
        let names: Vec<_> = prelude
            .net_devices
            .iter()
            .map(|(name, _)| name.to_string_lossy())
            .collect();
        let what = format!("move the host's {} into the container", names.join(", "));
        b.push(what, Op::RequestDevices {});
        Ok(())
    }

    fn names(&self, b: &mut Builder, spec: &Spec) -> Result<(), PlanError> {
        let has_uts = self.all() & LinuxNamespaceType::Uts as u32 != 0;
        let host = spec.hostname().as_ref().filter(|n| !n.is_empty());
        let domain = spec.domainname().as_ref().filter(|n| !n.is_empty());
        for (what, name) in [("hostname", host), ("domainname", domain)] {
            let Some(name) = name.map(String::as_bytes) else {
                continue;
            };
            if !has_uts {
                return Err(invalid(
                    what,
                    "it needs a uts namespace: it would be the host's",
                ));
            }
            if what == "hostname" {
                b.push("set the host name", Op::Hostname { name });
            } else {
                b.push("set the domain name", Op::Domainname { name });
            }
        }
        Ok(())
    }

    /// Into the namespaces of a running container.
    pub(super) fn enter_target(&self, b: &mut Builder, prelude: &mut Prelude, facts: &Facts) {
        let pid = LinuxNamespaceType::Pid as u32;
        let kinds = self.all();
        // without rights over the host's, the pid namespace opens only from inside the user's
        let inside = self.in_user_namespace() && is_unprivileged(facts);
        prelude.joins_target = kinds & pid != 0 && !inside;
        let kinds = if inside { kinds } else { kinds & !pid };
        b.push("enter the container", Op::JoinTarget { kinds });
        if inside && kinds & pid != 0 {
            b.push("go on in its pid namespace", Op::Rebirth { flags: 0 });
        }
    }
}

/// Who writes the maps: the kernel lets a process without rights map its own id alone.
fn map_by(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping], facts: &Facts) -> u32 {
    if !is_unprivileged(facts) {
        return MAP_DIRECT;
    }
    let single = |m: &[LinuxIdMapping]| m.len() == 1 && m[0].size() == 1;
    if single(uids) && single(gids) && uids[0].host_id() == facts.process.uid {
        MAP_SELF
    } else {
        MAP_HELPERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn map(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default()
            .container_id(container)
            .host_id(host)
            .size(size)
            .build()
            .unwrap()
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let ok = [map(0, 100_000, 10), map(10, 200_000, 5)];
        assert!(check_maps("uidMappings", &ok).is_ok());
        let here = [map(0, 100_000, 11), map(10, 200_000, 5)];
        assert!(check_maps("uidMappings", &here).is_err());
        let there = [map(0, 100_000, 10), map(10, 100_009, 5)];
        assert!(check_maps("uidMappings", &there).is_err());
        assert!(check_maps("uidMappings", &[map(0, 0, 0)]).is_err());
    }
}
