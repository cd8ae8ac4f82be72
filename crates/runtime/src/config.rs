//! Reading a bundle's configuration.
//!
//! A configuration comes from whoever wrote the bundle: it is bounded, and what it says that can't
//! be understood is named. Capabilities nobody knows are left out with a warning, as newer callers
//! on older hosts expect.

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Most bytes of a config.json: some hundred times the largest that orchestrators write.
pub const MOST_BYTES: usize = 16 << 20;

/// A configuration, and what of it was left out.
#[derive(Debug, Clone)]
pub struct Config {
    pub spec: Spec,
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("it is larger than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    #[error("it is no JSON: {0}")]
    Json(serde_json::Error),
    #[error("it is not valid: {0}")]
    Invalid(serde_json::Error),
    #[error("{what}: {why}")]
    Field {
        what: &'static str,
        why: &'static str,
    },
}

/// Reads the bytes of a config.json.
///
/// # Errors
/// What is wrong, with the place where JSON knows it.
pub fn read(bytes: &[u8]) -> Result<Config, ConfigError> {
    let mut value = parse(bytes)?;
    let mut warnings = Vec::new();
    if let Some(process) = value.get_mut("process") {
        capabilities(process, &mut warnings);
    }
    linux(&value)?;
    let spec = typed(value)?;
    Ok(Config { spec, warnings })
}

/// Reads the bytes of a process (`exec --process`), and what of it was left out.
///
/// # Errors
/// As [`read`].
pub fn read_process(bytes: &[u8]) -> Result<(Process, Vec<String>), ConfigError> {
    let mut value = parse(bytes)?;
    let mut warnings = Vec::new();
    capabilities(&mut value, &mut warnings);
    Ok((typed(value)?, warnings))
}

fn parse(bytes: &[u8]) -> Result<Value, ConfigError> {
    if bytes.len() > MOST_BYTES {
        return Err(ConfigError::TooLarge);
    }
    serde_json::from_slice(bytes).map_err(ConfigError::Json)
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ConfigError> {
    serde_json::from_value(value).map_err(ConfigError::Invalid)
}

/// What the types can't hold and would leave out in silence.
fn linux(value: &Value) -> Result<(), ConfigError> {
    let rdt = value.pointer("/linux/intelRdt").filter(|r| !r.is_null());
    if rdt.is_some() {
        return Err(ConfigError::Field {
            what: "linux.intelRdt",
            why: "this program doesn't drive the resctrl file system: leave intelRdt out",
        });
    }
    Ok(())
}

fn capabilities(process: &mut Value, warnings: &mut Vec<String>) {
    let Some(sets) = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let mut unknown = Vec::new();
    for set in sets.values_mut() {
        let Some(list) = set.as_array_mut() else {
            continue;
        };
        list.retain(|name| {
            let known = name
                .as_str()
                .is_none_or(|n| crate::capability::bit(n).is_some());
            if !known {
                unknown.push(name.as_str().unwrap_or_default().to_owned());
            }
            known
        });
    }
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        warnings.push(format!("unknown capabilities {names} are left out"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"}}"#;

    #[test]
    fn unknown_capabilities_are_left_out_and_said() {
        let text = r#"{"ociVersion": "1.2.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_TELEPORT"]}}}"#;
        let config = read(text.as_bytes()).unwrap();
        let process = config.spec.process().as_ref().unwrap();
        let caps = process.capabilities().as_ref().unwrap();
        assert_eq!(caps.bounding().as_ref().unwrap().len(), 1);
        assert!(config.warnings[0].contains("CAP_TELEPORT"));
    }

    #[test]
    fn malformed_configurations_are_errors_with_a_place() {
        assert!(read(MINIMAL.as_bytes()).is_ok());
        let why = |b: &[u8]| read(b).unwrap_err().to_string();
        assert!(why(b"").contains("no JSON"));
        assert!(why(b"{").contains("line 1"));
        assert!(why(br#"{"ociVersion": 1}"#).contains("not valid"));
        assert!(why(&[b'['; 100_000]).contains("recursion"));
        assert!(why(&vec![b' '; MOST_BYTES + 1]).contains("larger"));
        let rdt = br#"{"ociVersion": "1.2.0", "linux": {"intelRdt": {"closID": "a"}}}"#;
        assert!(why(rdt).contains("linux.intelRdt"));
    }
}
