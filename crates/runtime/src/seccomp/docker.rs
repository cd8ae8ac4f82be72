//! Docker's profile format: an OCI profile whose rules apply depending on capabilities and machine.
//!
//! source: docs.docker.com, engine/security/seccomp; moby/profiles seccomp.

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::CompileError;
use crate::capability::bit;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Profile {
    arch_map: Vec<ArchMap>,
    syscalls: Vec<Map<String, Value>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
}

impl Filter {
    fn take(rule: &mut Map<String, Value>, key: &str) -> Result<Self, CompileError> {
        match rule.remove(key) {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(v) => serde_json::from_value(v).map_err(CompileError::Json),
        }
    }

    fn has_cap(&self, capabilities: u64) -> Option<bool> {
        let caps = self.caps.as_ref().filter(|c| !c.is_empty())?;
        let held = |c: &String| bit(c).is_some_and(|b| capabilities & 1 << b != 0);
        Some(caps.iter().any(held))
    }

    fn has_arch(&self) -> Option<bool> {
        let own = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let arches = self.arches.as_ref().filter(|a| !a.is_empty())?;
        Some(arches.iter().any(|a| a == own))
    }

    /// As `includes`: everything named holds.
    fn admits(&self, capabilities: u64) -> bool {
        self.has_cap(capabilities) != Some(false) && self.has_arch() != Some(false)
    }

    /// As `excludes`: anything named holds.
    fn excludes(&self, capabilities: u64) -> bool {
        self.has_cap(capabilities) == Some(true) || self.has_arch() == Some(true)
    }
}

pub(super) fn resolve(json: &[u8], capabilities: u64) -> Result<LinuxSeccomp, CompileError> {
    let profile: Profile = serde_json::from_slice(json).map_err(CompileError::Json)?;
    let mut out = profile.rest;
    let own = if cfg!(target_arch = "aarch64") {
        "SCMP_ARCH_AARCH64"
    } else {
        "SCMP_ARCH_X86_64"
    };
    if let Some(map) = profile.arch_map.iter().find(|m| m.architecture == own) {
        let mut all = vec![own.to_owned()];
        all.extend(map.sub_architectures.iter().flatten().cloned());
        out.insert("architectures".into(), all.into());
    }
    let mut rules = Vec::new();
    for mut rule in profile.syscalls {
        let includes = Filter::take(&mut rule, "includes")?;
        let excludes = Filter::take(&mut rule, "excludes")?;
        if !includes.admits(capabilities) || excludes.excludes(capabilities) {
            continue;
        }
        // the oldest profiles name one call in each rule
        if let Some(name) = rule.remove("name").filter(Value::is_string) {
            rule.insert("names".into(), Value::Array(vec![name]));
        }
        if rule.get("args").is_some_and(Value::is_null) {
            rule.remove("args");
        }
        rules.push(Value::Object(rule));
    }
    out.insert("syscalls".into(), rules.into());
    serde_json::from_value(out.into()).map_err(CompileError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}},
            {"name": "write", "action": "SCMP_ACT_ALLOW", "args": null}
        ]
    }"#;

    fn names(capabilities: u64) -> Vec<String> {
        let p = resolve(PROFILE.as_bytes(), capabilities).unwrap();
        p.syscalls()
            .iter()
            .flatten()
            .flat_map(|s| s.names().clone())
            .collect()
    }

    #[test]
    fn rules_apply_by_capability() {
        assert_eq!(names(0), ["read", "ptrace", "clone3", "write"]);
        assert_eq!(names(1 << 21), ["read", "ptrace", "mount", "write"]);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(resolve(b"{}", 0).is_err());
        assert!(resolve(b"[", 0).is_err());
    }
}
