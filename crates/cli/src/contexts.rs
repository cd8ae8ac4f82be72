//! Engines by name, as the docker command keeps them: `contexts/meta/<id>/meta.json` and `contexts/tls/<id>/docker/*.pem` in
//! its directory, where `id` is the SHA-256 of the name; `currentContext` of `config.json`.
//! source: docs.docker.com/engine/manage-resources/contexts

use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::endpoint::Endpoint;
use crate::login;
use crate::tls::Files;
use crate::verb::{Failure, reason};

/// The engine of this host, or whatever the environment names.
pub(crate) const DEFAULT: &str = "default";
pub(crate) const HERE: &str = "unix:///run/plimsoll.sock";

/// Names of the files that a context holds, and of Docker's in `DOCKER_CERT_PATH`.
const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) host: String,
    skip_verify: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn directory(kind: &str, name: &str) -> Result<PathBuf, Failure> {
    let id: String = Sha256::digest(name)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    Ok(login::directory()?.join("contexts").join(kind).join(id))
}

fn failed(what: &str, path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::say(format!("{what} {}: {}", path.display(), reason(error)))
}

fn check(name: &str) -> Result<(), Failure> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    let good = name.len() >= 2 && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name == DEFAULT {
        return Err(Failure::say("\"default\" is a reserved context name"));
    }
    if good && name.chars().all(known) {
        return Ok(());
    }
    Err(Failure::say(format!(
        "context name \"{name}\" is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    )))
}

pub(crate) fn read(name: &str) -> Result<Stored, Failure> {
    let path = directory("meta", name)?.join("meta.json");
    let text = fs::read(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::say(format!("context \"{name}\": context not found")),
        _ => failed("read", &path, &e),
    })?;
    stored(&text).ok_or_else(|| Failure::say(format!("{}: is not a context", path.display())))
}

fn stored(text: &[u8]) -> Option<Stored> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let endpoint = &value["Endpoints"]["docker"];
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Some(Stored {
        name: value["Name"].as_str()?.to_owned(),
        description: word(&value["Metadata"]["Description"]),
        host: word(&endpoint["Host"]),
        skip_verify: endpoint["SkipTLSVerify"].as_bool().unwrap_or_default(),
    })
}

/// By name; what can't be read is left out.
pub(crate) fn all() -> Result<Vec<Stored>, Failure> {
    let dir = login::directory()?.join("contexts/meta");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("read", &dir, &e)),
    };
    let texts = entries
        .flatten()
        .filter_map(|e| fs::read(e.path().join("meta.json")).ok());
    let mut all: Vec<Stored> = texts.filter_map(|text| stored(&text)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Keeps a context, and copies of its files.
pub(crate) fn write(new: &Stored, files: &Files, replace: bool) -> Result<(), Failure> {
    check(&new.name)?;
    let there = read(&new.name).is_ok();
    if there && !replace {
        return Err(Failure::say(format!(
            "context \"{}\" already exists",
            new.name
        )));
    }
    // a name that can't be reached is not kept
    Endpoint::parse(&new.host, None).map_err(Failure::say)?;
    let tls = directory("tls", &new.name)?.join("docker");
    let given = [&files.authority, &files.certificate, &files.key];
    for (name, from) in FILES.iter().zip(given) {
        let Some(from) = from else { continue };
        let text = fs::read(from).map_err(|e| failed("read", from, &e))?;
        login::write_private(&tls.join(name), &text)?;
    }
    let meta = json!({
        "Name": new.name,
        "Metadata": {"Description": new.description},
        "Endpoints": {"docker": {"Host": new.host, "SkipTLSVerify": new.skip_verify}},
    });
    let path = directory("meta", &new.name)?.join("meta.json");
    login::write_private(&path, meta.to_string().as_bytes())
}

impl Stored {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            host: HERE.to_owned(),
            skip_verify: false,
        }
    }

    /// # Errors
    /// Where it asks for a connection to anybody.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        if self.skip_verify {
            return Err(Failure::say(format!(
                "context \"{}\": SkipTLSVerify takes any server for the engine and is not supported: give its authority (ca)",
                self.name
            )));
        }
        let dir = directory("tls", &self.name)?.join("docker");
        let files = in_directory(&dir);
        Endpoint::parse(&self.host, files).map_err(Failure::say)
    }
}

/// `None`: none of them is there.
fn in_directory(dir: &std::path::Path) -> Option<Files> {
    let [authority, certificate, key] =
        FILES.map(|name| Some(dir.join(name)).filter(|p| p.exists()));
    let files = Files {
        authority,
        certificate,
        key,
    };
    (files != Files::default()).then_some(files)
}

pub(crate) fn remove(name: &str, force: bool) -> Result<(), Failure> {
    if name == DEFAULT {
        return Err(Failure::say("context \"default\" cannot be removed"));
    }
    read(name)?;
    if current()? == name {
        if !force {
            return Err(Failure::say(format!(
                "context \"{name}\" is in use, set -f flag to force remove"
            )));
        }
        login::set_current("")?;
    }
    for kind in ["meta", "tls"] {
        let dir = directory(kind, name)?;
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &dir, &e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The one in use where the command line names none.
pub(crate) fn current() -> Result<String, Failure> {
    if variable("PLIMSOLL_HOST")
        .or_else(|| variable("DOCKER_HOST"))
        .is_some()
    {
        return Ok(DEFAULT.to_owned());
    }
    if let Some(name) = variable("DOCKER_CONTEXT") {
        return Ok(name);
    }
    Ok(login::current()?.unwrap_or_else(|| DEFAULT.to_owned()))
}

/// Flags that say where the engine is.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) host: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) tls: bool,
    pub(crate) verify: bool,
    pub(crate) files: Files,
}

/// The engine that is meant. Docker's order: `--host`, `--context`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context.
pub(crate) fn endpoint(given: &Given) -> Result<Endpoint, Failure> {
    if given.host.is_some() && given.context.is_some() {
        return Err(Failure::say(
            "conflicting options: either specify --host or --context, not both",
        ));
    }
    let name = match (&given.host, &given.context) {
        (Some(_), _) => DEFAULT.to_owned(),
        (None, Some(name)) => name.clone(),
        (None, None) => current()?,
    };
    if name != DEFAULT {
        return read(&name)?.endpoint();
    }
    let host = given.host.clone();
    let host = host
        .or_else(|| variable("PLIMSOLL_HOST"))
        .or_else(|| variable("DOCKER_HOST"));
    let host = host.unwrap_or_else(|| HERE.to_owned());
    Endpoint::parse(&host, files(given)?).map_err(Failure::say)
}

/// `None`: without TLS.
fn files(given: &Given) -> Result<Option<Files>, Failure> {
    let verify = given.verify || variable("DOCKER_TLS_VERIFY").is_some();
    let tls = verify || given.tls || variable("DOCKER_TLS").is_some();
    if !tls {
        return Ok(None);
    }
    if !verify {
        return Err(Failure::say(
            "--tls without --tlsverify takes any server for the engine and is not supported: give --tlsverify, and --tlscacert for an authority of your own",
        ));
    }
    let dir = match variable("DOCKER_CERT_PATH") {
        Some(dir) => PathBuf::from(dir),
        None => login::directory()?,
    };
    let default = in_directory(&dir).unwrap_or_default();
    let given = given.files.clone();
    Ok(Some(Files {
        authority: given.authority.or(default.authority),
        certificate: given.certificate.or(default.certificate),
        key: given.key.or(default.key),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "a-b.c_d+e", "0x"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "default", "-a", "a/b", "a b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dockers_file() {
        let text = br#"{"Name":"far","Metadata":{"Description":"d","x":1},"Endpoints":{"docker":{"Host":"tcp://far:2376","SkipTLSVerify":true}}}"#;
        let context = stored(text).expect("a context");
        assert_eq!(context.host, "tcp://far:2376");
        assert_eq!(context.description, "d");
        assert!(context.endpoint().is_err());
        assert_eq!(stored(b"{}"), None);
    }
}
