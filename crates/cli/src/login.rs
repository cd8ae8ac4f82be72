//! `config.json`, as the docker command keeps it: who one is to registries (`auths`), and the context in use.

use std::io;
use std::path::{Path, PathBuf};

use api::system::AuthConfig;
use serde_json::{Map, Value, json};

use crate::verb::{Failure, reason};

/// Of names without a registry; the key is of old.
const DEFAULT: &str = "https://index.docker.io/v1/";

/// `$DOCKER_CONFIG`, else `~/.docker`: what is shared with the docker command.
fn found() -> Option<PathBuf> {
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    own.or_else(|| std::env::home_dir().map(|h| h.join(".docker")))
}

pub(crate) fn directory() -> Result<PathBuf, Failure> {
    found().ok_or_else(|| Failure::say("there is no home directory: set DOCKER_CONFIG"))
}

fn path() -> Option<PathBuf> {
    Some(found()?.join("config.json"))
}

fn read() -> Result<Map<String, Value>, Failure> {
    let Some(path) = path() else {
        return Ok(Map::new());
    };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => {
            return Err(Failure::say(format!(
                "read {}: {}",
                path.display(),
                reason(&e)
            )));
        }
    };
    serde_json::from_slice(&text).map_err(|e| Failure::say(format!("{}: {e}", path.display())))
}

fn write(config: &Map<String, Value>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(config).map_err(|e| Failure::say(e.to_string()))?;
    write_private(&directory()?.join("config.json"), text.as_bytes())
}

/// Whole or not at all, and nobody else's to read.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let failed = |e: io::Error| Failure::say(format!("write {}: {}", path.display(), reason(&e)));
    if let Some(dir) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
    }
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    let put = || -> io::Result<()> {
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)?;
        io::Write::write_all(&mut file, text)?;
        file.sync_all()?;
        std::fs::rename(&staged, path)
    };
    put()
        .inspect_err(|_| drop(std::fs::remove_file(&staged)))
        .map_err(failed)
}

/// The context in use, if one is.
pub(crate) fn current() -> Result<Option<String>, Failure> {
    let config = read()?;
    let name = config.get("currentContext").and_then(Value::as_str);
    Ok(name.filter(|n| !n.is_empty()).map(str::to_owned))
}

/// Empty: none.
pub(crate) fn set_current(name: &str) -> Result<(), Failure> {
    let mut config = read()?;
    if name.is_empty() {
        config.remove("currentContext");
    } else {
        config.insert("currentContext".to_owned(), json!(name));
    }
    write(&config)
}

/// The registry of an image's name, as `auths` calls it.
pub(crate) fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => key(host),
        _ => DEFAULT.to_owned(),
    }
}

/// As `auths` calls a registry that somebody names.
pub(crate) fn key(registry: &str) -> String {
    let host = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "" | "docker.io" | "index.docker.io" => DEFAULT.to_owned(),
        host => host.to_owned(),
    }
}

/// The header that says who asks; empty where nobody is known to the registry.
pub(crate) fn header(image: &str) -> Result<String, Failure> {
    let registry = registry_of(image);
    let config = read()?;
    let auths = config.get("auths").and_then(Value::as_object);
    let known = auths.and_then(|a| a.get(&registry));
    let Some(entry) = known.filter(|e| e.as_object().is_some_and(|o| !o.is_empty())) else {
        return Ok(String::new());
    };
    let mut auth: AuthConfig = serde_json::from_value(entry.clone()).unwrap_or_default();
    auth.serveraddress = registry;
    let text = serde_json::to_vec(&auth).map_err(|e| Failure::say(e.to_string()))?;
    Ok(format!(
        "X-Registry-Auth: {}\r\n",
        api::base64::encode(&text)
    ))
}

/// The header of a build, which may ask any registry: all that is known.
pub(crate) fn all_header() -> Result<String, Failure> {
    let config = read()?;
    let auths = config.get("auths").and_then(Value::as_object);
    let Some(auths) = auths.filter(|a| !a.is_empty()) else {
        return Ok(String::new());
    };
    let text = serde_json::to_vec(auths).map_err(|e| Failure::say(e.to_string()))?;
    Ok(format!(
        "X-Registry-Config: {}\r\n",
        api::base64::encode(&text)
    ))
}

/// Keeps what lets somebody in.
pub(crate) fn keep(registry: &str, user: &str, password: &str) -> Result<(), Failure> {
    let mut config = read()?;
    let pair = api::base64::encode(format!("{user}:{password}").as_bytes());
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    if let Some(auths) = auths.as_object_mut() {
        auths.insert(key(registry), json!({"auth": pair}));
    }
    write(&config)
}

/// False: there was nothing.
pub(crate) fn forget(registry: &str) -> Result<bool, Failure> {
    let mut config = read()?;
    let auths = config.get_mut("auths").and_then(Value::as_object_mut);
    let gone = auths.and_then(|a| a.remove(&key(registry))).is_some();
    if gone {
        write(&config)?;
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_by_their_names() {
        for (image, registry) in [
            ("busybox", DEFAULT),
            ("a/b:1", DEFAULT),
            ("localhost/a", "localhost"),
            ("r.test:5000/a/b@sha256:00", "r.test:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
        assert_eq!(key("https://r.test/v2/"), "r.test");
        assert_eq!(key("docker.io"), DEFAULT);
    }
}
