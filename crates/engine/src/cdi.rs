//! Devices by the Container Device Interface: vendors' files say what a container gets with a device.
//!
//! Files are JSON or YAML in the CDI directories, read anew at each start; a device in a later directory hides one of
//! the same name in an earlier one. Nodes, mounts, variables, groups and network devices are given. What asks for hooks
//! or Intel RDT is refused by name: the engine runs no programs of vendors.
//! source: github.com/cncf-tags/container-device-interface, SPEC.md 1.1.0

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxNetDevice, Mount, Spec,
};
use serde::Deserialize;

use crate::error::Error;
use crate::model::DeviceRequest;

/// Of one file: vendors' have some KiB.
const FILE_LIMIT: u64 = 8 * 1024 * 1024;
const GPU: &str = "nvidia.com/gpu";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "known, and for others to read")]
    annotations: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "known, and for others to read")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<NetDevice>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    r#type: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bind {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

/// By qualified name: what it brings, its file's edits first.
#[derive(Debug, Default)]
pub(crate) struct Devices(BTreeMap<String, Vec<Edits>>);

/// All that the directories have. A file that can't be read is told, and its devices are not there.
pub(crate) fn load(directories: &[PathBuf]) -> Devices {
    let mut all = Devices::default();
    for directory in directories {
        let mut of_this = BTreeMap::new();
        for path in files(directory) {
            match read(&path) {
                Ok(file) => file.into_devices(&path, &mut of_this),
                Err(error) => tracing::warn!("CDI: {}: {error}", path.display()),
            }
        }
        all.0.extend(of_this);
    }
    all
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|e| e.path());
    let is_one = |p: &PathBuf| {
        let kind = p.extension().and_then(|e| e.to_str());
        matches!(kind, Some("json" | "yaml" | "yml"))
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_one).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<File, String> {
    let told = |e: &dyn std::fmt::Display| e.to_string();
    let size = std::fs::metadata(path).map_err(|e| told(&e))?.len();
    if size > FILE_LIMIT {
        return Err(format!("larger than {FILE_LIMIT} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| told(&e))?;
    let file: File = if path.extension().is_some_and(|e| e == "json") {
        serde_json::from_str(&text).map_err(|e| told(&e))?
    } else {
        serde_saphyr::from_str(&text).map_err(|e| told(&e))?
    };
    let version = file.cdi_version.split('.').next().unwrap_or_default();
    if !matches!(version, "0" | "1") {
        return Err(format!("cdiVersion {} is not known", file.cdi_version));
    }
    Ok(file)
}

impl File {
    fn into_devices(self, path: &Path, into: &mut BTreeMap<String, Vec<Edits>>) {
        for device in self.devices {
            let name = format!("{}={}", self.kind, device.name);
            let edits = vec![self.container_edits.clone(), device.container_edits];
            if into.insert(name.clone(), edits).is_some() {
                tracing::warn!(
                    "CDI: {name} is in {} and in another file beside it",
                    path.display()
                );
            }
        }
    }
}

/// `vendor.com/class=name`.
#[must_use]
pub fn is_qualified(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else {
        return false;
    };
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    let word = |text: &str, also: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    word(vendor, "_-.") && word(class, "_-.") && word(name, "_-.:")
}

impl Devices {
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Names of the devices that are asked for.
    ///
    /// # Errors
    /// In dockerd's words where nobody gives such devices.
    fn asked(&self, request: &DeviceRequest) -> Result<Vec<String>, Error> {
        let is_gpu = request.capabilities.iter().flatten().any(|c| c == "gpu");
        let names = match request.driver.as_str() {
            "cdi" => request.ids.clone(),
            "" | "nvidia" if is_gpu && self.0.keys().any(|n| n.starts_with(GPU)) => {
                match (request.ids.as_slice(), request.count) {
                    ([], -1) => vec![format!("{GPU}=all")],
                    ([], n) => (0..n).map(|i| format!("{GPU}={i}")).collect(),
                    (ids, _) => ids.iter().map(|id| format!("{GPU}={id}")).collect(),
                }
            }
            driver => {
                return Err(Error::invalid(format!(
                    "could not select device driver {driver:?} with capabilities: {:?}: no CDI file gives such devices",
                    request.capabilities
                )));
            }
        };
        Ok(names)
    }

    /// The edits of what is asked for, a file's own once.
    fn edits(&self, requests: &[DeviceRequest]) -> Result<Vec<&Edits>, Error> {
        let mut out: Vec<&Edits> = Vec::new();
        let mut kinds = Vec::new();
        for request in requests {
            for name in self.asked(request)? {
                let Some(edits) = self.0.get(&name) else {
                    return Err(Error::invalid(format!(
                        "CDI device injection failed: unresolvable CDI devices {name}"
                    )));
                };
                let kind = name.split('=').next().unwrap_or_default().to_owned();
                let skip = usize::from(kinds.contains(&kind));
                kinds.push(kind);
                out.extend(edits.iter().skip(skip));
                for edit in edits {
                    edit.check(&name)?;
                }
            }
        }
        Ok(out)
    }

    /// Whether all that is asked for is there and can be given.
    pub(crate) fn check(&self, requests: &[DeviceRequest]) -> Result<(), Error> {
        self.edits(requests).map(drop)
    }

    /// Gives a container what it asks for.
    pub(crate) fn apply(&self, requests: &[DeviceRequest], spec: &mut Spec) -> Result<(), Error> {
        for edits in self.edits(requests)? {
            edits.apply(spec)?;
        }
        Ok(())
    }
}

impl Edits {
    fn check(&self, device: &str) -> Result<(), Error> {
        if let Some(hook) = self.hooks.first() {
            return Err(Error::unsupported(format!(
                "the CDI device {device} needs its {} hook {} to be run, and hooks of vendors are not run",
                hook.hook_name,
                hook.path.display()
            )));
        }
        if self.intel_rdt.is_some() {
            return Err(Error::unsupported(format!(
                "the CDI device {device} needs intelRdt, which is not built"
            )));
        }
        Ok(())
    }

    fn apply(&self, spec: &mut Spec) -> Result<(), Error> {
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            for entry in &self.env {
                let key = entry.split('=').next().unwrap_or_default();
                env.retain(|e| e.split('=').next() != Some(key));
                env.push(entry.clone());
            }
            process.set_env(Some(env));
            let mut user = process.user().clone();
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            // 0 is root's: a file without the field says so
            groups.extend(self.additional_gids.iter().filter(|g| **g != 0));
            groups.sort_unstable();
            groups.dedup();
            user.set_additional_gids((!groups.is_empty()).then_some(groups));
            process.set_user(user);
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.extend(self.mounts.iter().map(Bind::mount));
        spec.set_mounts(Some(mounts));
        if let Some(linux) = spec.linux_mut() {
            let mut devices = linux.devices().clone().unwrap_or_default();
            let mut resources = linux.resources().clone().unwrap_or_default();
            let mut rules = resources.devices().clone().unwrap_or_default();
            for node in &self.device_nodes {
                let (device, rule) = node.give()?;
                devices.retain(|d| d.path() != device.path());
                devices.push(device);
                rules.push(rule);
            }
            linux.set_devices((!devices.is_empty()).then_some(devices));
            resources.set_devices(Some(rules));
            linux.set_resources(Some(resources));
            if !self.net_devices.is_empty() {
                let mut all = linux.net_devices().clone().unwrap_or_default();
                for device in &self.net_devices {
                    let mut given = LinuxNetDevice::default();
                    given.set_name(Some(device.name.clone()));
                    all.insert(device.host_interface_name.clone(), given);
                }
                linux.set_net_devices(Some(all));
            }
        }
        Ok(())
    }
}

impl Bind {
    fn mount(&self) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(self.container_path.clone());
        mount.set_source(Some(self.host_path.clone()));
        let kind = if self.r#type.is_empty() {
            "bind"
        } else {
            &self.r#type
        };
        mount.set_typ(Some(kind.to_owned()));
        let mut options = self.options.clone();
        let is_bind = options.iter().any(|o| o == "bind" || o == "rbind");
        if kind == "bind" && !is_bind {
            options.push("rbind".to_owned());
        }
        mount.set_options(Some(options));
        mount
    }
}

impl Node {
    /// What the file leaves out is the host's own node's.
    fn give(&self) -> Result<(LinuxDevice, LinuxDeviceCgroup), Error> {
        let source = self.host_path.as_ref().unwrap_or(&self.path);
        let there = std::fs::metadata(source);
        let wanted = (self.r#type.as_deref(), self.major, self.minor);
        let (typ, major, minor) = match wanted {
            (Some("b"), Some(major), Some(minor)) => (LinuxDeviceType::B, major, minor),
            (Some("c" | "u"), Some(major), Some(minor)) => (LinuxDeviceType::C, major, minor),
            _ => {
                let meta = there.as_ref().map_err(|e| {
                    Error::invalid(format!("the CDI device node {}: {e}", source.display()))
                })?;
                let typ = if meta.file_type().is_block_device() {
                    LinuxDeviceType::B
                } else if meta.file_type().is_char_device() {
                    LinuxDeviceType::C
                } else {
                    return Err(Error::invalid(format!(
                        "the CDI device node {} is no device",
                        source.display()
                    )));
                };
                let number = meta.rdev();
                (
                    typ,
                    rustix::fs::major(number).into(),
                    rustix::fs::minor(number).into(),
                )
            }
        };
        let mut device = LinuxDevice::default();
        device.set_path(self.path.clone());
        device.set_typ(typ);
        device.set_major(major);
        device.set_minor(minor);
        let own = there.ok();
        device.set_file_mode(self.file_mode.or(own.as_ref().map(|m| m.mode() & 0o7777)));
        device.set_uid(self.uid.or(own.as_ref().map(MetadataExt::uid)));
        device.set_gid(self.gid.or(own.as_ref().map(MetadataExt::gid)));
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(typ));
        rule.set_major(Some(major));
        rule.set_minor(Some(minor));
        rule.set_access(Some(
            self.permissions.clone().unwrap_or_else(|| "rwm".to_owned()),
        ));
        Ok((device, rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.test/dev", "containerEdits": {"env": ["ALL=1"]},
      "devices": [
        {"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/given", "hostPath": "/dev/null", "permissions": "r"}], "env": ["A=1"]}},
        {"name": "b", "containerEdits": {"mounts": [{"hostPath": "/etc", "containerPath": "/given", "options": ["ro"]}], "additionalGids": [44]}},
        {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}}]}"#;
    const YAML: &str = "cdiVersion: \"0.5.0\"\nkind: nvidia.com/gpu\ndevices:\n- name: all\n  containerEdits:\n    env:\n    - GPU=all\n- name: \"0\"\n  containerEdits:\n    env:\n    - GPU=0\n";

    fn request(driver: &str, count: i64, ids: &[&str], capability: &str) -> DeviceRequest {
        DeviceRequest {
            driver: driver.to_owned(),
            count,
            ids: ids.iter().map(|i| (*i).to_owned()).collect(),
            capabilities: vec![vec![capability.to_owned()]],
            options: BTreeMap::new(),
        }
    }

    fn written() -> (tempfile::TempDir, Devices) {
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (first, second) = (sub("first"), sub("second"));
        std::fs::write(first.join("vendor.json"), JSON).unwrap();
        std::fs::write(first.join("wrong.json"), "{").unwrap();
        std::fs::write(
            first.join("unknown.json"),
            r#"{"cdiVersion": "1.0.0", "kind": "x.y/z", "devices": [], "colour": 1}"#,
        )
        .unwrap();
        std::fs::write(second.join("gpu.yaml"), YAML).unwrap();
        let hides = JSON.replace("A=1", "A=2");
        std::fs::write(second.join("hides.json"), hides).unwrap();
        let devices = load(&[first, dir.path().join("absent"), second]);
        (dir, devices)
    }

    fn env_with(devices: &Devices, requests: &[DeviceRequest]) -> Result<Vec<String>, String> {
        let mut spec = Spec::default();
        devices.apply(requests, &mut spec).map_err(|e| e.report())?;
        let env = spec
            .process()
            .as_ref()
            .and_then(|p| p.env().clone())
            .unwrap_or_default();
        let ours = |e: &String| ["ALL", "A", "GPU"].contains(&e.split('=').next().unwrap());
        Ok(env.into_iter().filter(ours).collect())
    }

    #[test]
    fn devices_by_name() {
        let (_dir, devices) = written();
        assert_eq!(
            devices.names(),
            [
                "nvidia.com/gpu=0",
                "nvidia.com/gpu=all",
                "vendor.test/dev=a",
                "vendor.test/dev=b",
                "vendor.test/dev=hooked"
            ]
        );
        let cdi = |ids: &[&str]| [request("cdi", 0, ids, "")];
        // the later directory's; what is all devices' once
        assert_eq!(
            env_with(&devices, &cdi(&["vendor.test/dev=a", "vendor.test/dev=b"])).unwrap(),
            ["ALL=1", "A=2"]
        );
        for (count, ids, value) in [
            (-1, &[][..], "GPU=all"),
            (1, &[], "GPU=0"),
            (0, &["0"], "GPU=0"),
        ] {
            let gpus = [request("", count, ids, "gpu")];
            assert_eq!(env_with(&devices, &gpus).unwrap(), [value]);
        }
        for (requests, why) in [
            (
                cdi(&["vendor.test/dev=c"]),
                "unresolvable CDI devices vendor.test/dev=c",
            ),
            (
                cdi(&["vendor.test/dev=hooked"]),
                "createContainer hook /bin/x",
            ),
            (
                [request("", -1, &[], "tpu")],
                "could not select device driver \"\" with capabilities: [[\"tpu\"]]",
            ),
            (
                [request("other", 1, &[], "gpu")],
                "could not select device driver \"other\"",
            ),
        ] {
            let refused = env_with(&devices, &requests).unwrap_err();
            assert!(refused.contains(why), "{refused}");
            assert!(devices.check(&requests).is_err());
        }
        let none = load(&[]);
        assert!(none.check(&[request("", -1, &[], "gpu")]).is_err());
    }

    #[test]
    fn a_node_a_mount_and_a_group() {
        let (_dir, devices) = written();
        let mut spec = Spec::default();
        let asked = [request(
            "cdi",
            0,
            &["vendor.test/dev=a", "vendor.test/dev=b"],
            "",
        )];
        devices.apply(&asked, &mut spec).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let all = linux.devices().as_ref().unwrap();
        let node = all
            .iter()
            .find(|d| d.path() == Path::new("/dev/given"))
            .unwrap();
        assert_eq!(
            (node.typ(), node.major(), node.minor()),
            (LinuxDeviceType::C, 1, 3)
        );
        let rules = linux
            .resources()
            .as_ref()
            .unwrap()
            .devices()
            .as_ref()
            .unwrap();
        assert_eq!(rules.last().unwrap().access().as_deref(), Some("r"));
        let mounts = spec.mounts().as_ref().unwrap();
        assert_eq!(
            mounts.last().unwrap().options().as_ref().unwrap(),
            &["ro", "rbind"]
        );
        let groups = spec.process().as_ref().unwrap().user().additional_gids();
        assert_eq!(groups.as_ref().unwrap(), &[44]);
    }

    #[test]
    fn qualified_names() {
        for name in ["vendor.com/class=x", "a/b=0", "nvidia.com/gpu=GPU-1:2"] {
            assert!(is_qualified(name), "{name}");
        }
        for path in [
            "/dev/null",
            "/dev/a=b",
            "vendor.com/class",
            "v/c=",
            "/v/c=x",
            "v/c/d=x",
        ] {
            assert!(!is_qualified(path), "{path}");
        }
    }
}
