//! Flags and the configuration file: one table of keys for both, so that both accept the same,
//! check the same and refuse the same.
//!
//! Names and meanings are dockerd's. A key of dockerd's that is not built is refused by its name
//! unless it is given the value that says what happens here anyway (`--iptables=false`). The file is
//! checked whole before anything of it is used; nothing is ever taken from a file with a mistake.

mod keys;
mod networks;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use engine::model::{LogSpec, NamespaceMode, Ulimit};
use engine::{CgroupDriver, NetworkSettings};

use crate::tls::TlsSettings;
use keys::{Built, KEYS, Key, Kind};

/// Read where it is there; one named by `--config-file` must be there.
const DEFAULT_FILE: &str = "/etc/plimsoll/daemon.json";
const DEFAULT_BRIDGE: &str = "plimsoll0";
/// With a directory for each registry, as dockerd has them.
const CERTIFICATES: [&str; 2] = ["/etc/plimsoll/certs.d", "/etc/docker/certs.d"];
/// source: CDI's SPEC.md
const CDI: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
const DEFAULT_HOST: &str = "unix:///run/plimsoll.sock";

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    Run(Box<Config>),
    /// `--validate`: the configuration has been read and is good.
    Valid,
    Help,
    Version,
}

/// Everything that can be configured, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub hosts: Vec<Host>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// `<exec-root>/plimsoll.pid` where none is given.
    pub pidfile: Option<PathBuf>,
    /// The file that was read, for SIGHUP.
    pub file: Option<PathBuf>,
    pub debug: bool,
    /// Start although the doctor forbids this host.
    pub carry_anyway: bool,
    pub log_level: tracing::Level,
    /// Owner of the unix sockets; `docker` where it exists, if none is given.
    pub group: Option<String>,
    pub labels: Vec<String>,
    pub cgroup_driver: CgroupDriver,
    pub log: LogSpec,
    pub defaults: ContainerDefaults,
    pub networks: NetworkSettings,
    pub registries: engine::RegistrySettings,
    /// Clients of TCP speak TLS.
    pub has_tls: bool,
    pub tls: TlsSettings,
    /// Asked about every request, in this order.
    pub authorization_plugins: Vec<String>,
    /// Where it is written who changed what.
    pub audit_log: Option<PathBuf>,
    pub cdi_dirs: Vec<PathBuf>,
}

/// What a container gets where its own options don't say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerDefaults {
    pub ulimits: Vec<Ulimit>,
    pub shm_size: Option<u64>,
    pub ipc_mode: NamespaceMode,
    pub cgroupns_mode: NamespaceMode,
    pub init: bool,
    pub no_new_privileges: bool,
    pub restart_unhealthy: bool,
    pub log: LogSpec,
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Unix(PathBuf),
    /// `host:port`; of a name, all its addresses.
    Tcp(String),
    /// Sockets handed over by the service manager; with a name: those of that name.
    Activated(Option<String>),
}

/// What is wrong with the flags or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("read the configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file {path} is not JSON")]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{place}: {problem}")]
    Key { place: String, problem: String },
    #[error("unexpected argument {0:?}; see plimsoll daemon --help")]
    Argument(String),
    #[error("{0}")]
    Together(String),
    #[error("{0} is given both as a flag and in the configuration file; keep one of them")]
    Twice(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            data_root: PathBuf::from("/var/lib/plimsoll"),
            exec_root: PathBuf::from("/run/plimsoll"),
            pidfile: None,
            file: None,
            debug: false,
            carry_anyway: false,
            log_level: tracing::Level::INFO,
            group: None,
            labels: Vec::new(),
            cgroup_driver: CgroupDriver::default(),
            log: LogSpec {
                driver: "json-file".to_owned(),
                options: BTreeMap::new(),
            },
            defaults: ContainerDefaults {
                ipc_mode: NamespaceMode::Private,
                ..Default::default()
            },
            registries: engine::RegistrySettings {
                certificates: CERTIFICATES.map(PathBuf::from).to_vec(),
                ..Default::default()
            },
            networks: NetworkSettings {
                bridge: Some(DEFAULT_BRIDGE.to_owned()),
                ..NetworkSettings::default()
            },
            has_tls: false,
            tls: TlsSettings::default(),
            authorization_plugins: Vec::new(),
            audit_log: None,
            cdi_dirs: CDI.map(PathBuf::from).to_vec(),
        }
    }
}

impl Config {
    #[must_use]
    pub fn pidfile(&self) -> PathBuf {
        self.pidfile
            .clone()
            .unwrap_or_else(|| self.exec_root.join("plimsoll.pid"))
    }

    /// `None`: TCP is served as it is.
    pub(crate) fn tls(&self) -> Option<&TlsSettings> {
        self.has_tls.then_some(&self.tls)
    }

    /// The level that `--debug` and `--log-level` make together.
    #[must_use]
    pub fn level(&self) -> tracing::Level {
        if self.debug {
            tracing::Level::DEBUG
        } else {
            self.log_level
        }
    }
}

/// Values by index into [`KEYS`], as text.
type Values = BTreeMap<usize, Vec<String>>;

/// Reads flags, then the file.
///
/// # Errors
/// Naming the flag or the key of the file.
pub fn read(args: &[OsString]) -> Result<Request, ConfigError> {
    let Flags {
        values,
        file,
        validate,
        help,
        version,
    } = flags(args)?;
    if help {
        return Ok(Request::Help);
    }
    if version {
        return Ok(Request::Version);
    }
    let mut config = Config::default();
    let path = file.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let from_file = match std::fs::read(&path) {
        Ok(text) => {
            config.file = Some(path.clone());
            file_values(&path, &text)?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            Values::new()
        }
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    if let Some(index) = from_file.keys().find(|index| values.contains_key(index)) {
        return Err(ConfigError::Twice(KEYS[*index].flag.to_owned()));
    }
    for (index, list) in &from_file {
        let key = &KEYS[*index];
        let place = format!("key {:?} of {}", key.in_file(), path.display());
        apply(&mut config, key, list).map_err(|problem| ConfigError::Key { place, problem })?;
    }
    for (index, list) in &values {
        let key = &KEYS[*index];
        let place = format!("--{}", key.flag);
        apply(&mut config, key, list).map_err(|problem| ConfigError::Key { place, problem })?;
    }
    engine::check_log(&config.log).map_err(|e| ConfigError::Key {
        place: "log-driver and log-opts".to_owned(),
        problem: e.report(),
    })?;
    config.defaults.log.clone_from(&config.log);
    config
        .networks
        .check()
        .map_err(|e| ConfigError::Together(e.report()))?;
    with_ports(&mut config.hosts, config.has_tls);
    check_tls(&config)?;
    if config.hosts.is_empty() {
        config.hosts = vec![host(DEFAULT_HOST).map_err(ConfigError::Argument)?];
    }
    Ok(if validate {
        Request::Valid
    } else {
        Request::Run(Box::new(config))
    })
}

#[derive(Default)]
struct Flags {
    values: Values,
    file: Option<PathBuf>,
    validate: bool,
    help: bool,
    version: bool,
}

fn flags(args: &[OsString]) -> Result<Flags, ConfigError> {
    let mut out = Flags::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg
            .to_str()
            .ok_or_else(|| ConfigError::Argument(arg.to_string_lossy().into_owned()))?;
        let (name, inline) = split(text).ok_or_else(|| ConfigError::Argument(text.to_owned()))?;
        let on = |inline: &Option<String>| inline.as_deref().is_none_or(|v| v != "false");
        match name {
            "validate" => out.validate = on(&inline),
            "help" | "h" => out.help = on(&inline),
            "version" | "v" => out.version = on(&inline),
            _ => {
                let index = KEYS.iter().position(|key| {
                    key.flag == name || (name.len() == 1 && key.short == Some(name))
                });
                let index = index
                    .filter(|index| !KEYS[*index].flag.is_empty())
                    .ok_or_else(|| ConfigError::Argument(text.to_owned()))?;
                let key = &KEYS[index];
                let value = match (inline, key.kind) {
                    (Some(value), _) => value,
                    (None, Kind::Bool) => "true".to_owned(),
                    (None, _) => {
                        let next = args.next().and_then(|next| next.to_str());
                        let missing = || ConfigError::Key {
                            place: format!("--{}", key.flag),
                            problem: "needs a value".to_owned(),
                        };
                        next.ok_or_else(missing)?.to_owned()
                    }
                };
                if key.flag == "config-file" {
                    out.file = Some(PathBuf::from(value));
                } else if key.kind.repeats() {
                    out.values.entry(index).or_default().push(value);
                } else {
                    out.values.insert(index, vec![value]);
                }
            }
        }
    }
    Ok(out)
}

/// `--name=value`, `--name`, `-xvalue`, `-x`.
fn split(text: &str) -> Option<(&str, Option<String>)> {
    if let Some(long) = text.strip_prefix("--") {
        return match long.split_once('=') {
            Some((name, value)) => Some((name, Some(value.to_owned()))),
            None => (!long.is_empty()).then_some((long, None)),
        };
    }
    let short = text.strip_prefix('-')?;
    let name = short.get(..1)?;
    let rest = &short[1..];
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    Some((name, (!rest.is_empty()).then(|| rest.to_owned())))
}

/// The keys of a file, as the flags would have given them.
fn file_values(path: &Path, text: &[u8]) -> Result<Values, ConfigError> {
    let json = |source| ConfigError::Json {
        path: path.to_owned(),
        source,
    };
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(json)?;
    let mut out = Values::new();
    for (name, value) in object {
        let error = |problem: String| ConfigError::Key {
            place: format!("key {name:?} of {}", path.display()),
            problem,
        };
        let index = KEYS.iter().position(|key| key.in_file() == name);
        let index = index.ok_or_else(|| error("is not known".to_owned()))?;
        out.insert(index, file_value(&KEYS[index], &value).map_err(error)?);
    }
    Ok(out)
}

fn file_value(key: &Key, value: &serde_json::Value) -> Result<Vec<String>, String> {
    use serde_json::Value::{Array, Bool, Number, Object, String as Text};
    fn wrong<T>(what: &str) -> Result<T, String> {
        Err(format!("must be {what}"))
    }
    match (key.kind, value) {
        (Kind::Bool, Bool(on)) => Ok(vec![on.to_string()]),
        (Kind::Bool, _) => wrong("true or false"),
        (Kind::Text, Text(text)) => Ok(vec![text.clone()]),
        (Kind::Text, Number(n)) => Ok(vec![n.to_string()]),
        (Kind::Text, _) => wrong("a string"),
        (Kind::List, Array(list)) => list
            .iter()
            .map(|item| {
                item.as_str()
                    .map_or_else(|| wrong("a list of strings"), |s| Ok(s.to_owned()))
            })
            .collect(),
        (Kind::List, _) => wrong("a list of strings"),
        (Kind::Map, Object(map)) => map
            .iter()
            .map(|(name, value)| map_entry(name, value))
            .collect(),
        (Kind::Map, _) => wrong("an object"),
        (Kind::Pools, Array(list)) => list.iter().map(networks::pool_of_file).collect(),
        (Kind::Pools, _) => wrong("a list of objects with base and size"),
        (Kind::NetworkOptions, Object(drivers)) => networks::options_of_file(drivers),
        (Kind::NetworkOptions, _) => wrong("an object of objects"),
        // keys that are not built: any shape, the refusal follows
        (Kind::Any, other) => Ok(vec![other.to_string()]),
    }
}

/// `name=value`; a ulimit's object becomes `name=soft:hard`.
fn map_entry(name: &str, value: &serde_json::Value) -> Result<String, String> {
    match value {
        serde_json::Value::String(text) => Ok(format!("{name}={text}")),
        serde_json::Value::Object(limit) => {
            let of = |key: &str| limit.get(key).and_then(serde_json::Value::as_i64);
            match (of("Soft"), of("Hard")) {
                (Some(soft), Some(hard)) => Ok(format!("{name}={soft}:{hard}")),
                _ => Err(format!("{name} must have numbers Soft and Hard")),
            }
        }
        _ => Err(format!("{name} must be a string")),
    }
}

fn apply(config: &mut Config, key: &Key, values: &[String]) -> Result<(), String> {
    let last = values.last().map_or("", String::as_str);
    match key.built {
        Built::Only(allowed, why) if values.iter().any(|v| !allowed.contains(&v.as_str())) => {
            return Err(why.to_owned());
        }
        Built::Only(..) => return Ok(()),
        Built::No(why) => return Err(why.to_owned()),
        Built::Yes => {}
    }
    match key.flag {
        "host" => config.hosts = values.iter().map(|v| host(v)).collect::<Result<_, _>>()?,
        "data-root" => config.data_root = absolute(last)?,
        "exec-root" => config.exec_root = absolute(last)?,
        "pidfile" => config.pidfile = Some(absolute(last)?),
        "debug" => config.debug = boolean(last)?,
        "carry-anyway" => config.carry_anyway = boolean(last)?,
        "log-level" => config.log_level = level(last)?,
        "group" => config.group = Some(last.to_owned()),
        "exec-opt" => config.cgroup_driver = cgroup_driver(values)?,
        "label" => config.labels = values.to_vec(),
        "log-driver" => config.log.driver = last.to_owned(),
        "log-opt" => config.log.options = log_options(values)?,
        "default-ulimit" => {
            config.defaults.ulimits = values.iter().map(|v| ulimit(v)).collect::<Result<_, _>>()?
        }
        "default-shm-size" => config.defaults.shm_size = Some(bytes(last)?),
        "default-ipc-mode" => {
            config.defaults.ipc_mode = match last {
                "private" => NamespaceMode::Private,
                "shareable" => NamespaceMode::Shareable,
                _ => return Err("must be private or shareable".to_owned()),
            }
        }
        "default-cgroupns-mode" => {
            config.defaults.cgroupns_mode = match last {
                "private" => NamespaceMode::Private,
                "host" => NamespaceMode::Host,
                _ => return Err("must be private or host".to_owned()),
            }
        }
        "restart-unhealthy" => config.defaults.restart_unhealthy = boolean(last)?,
        "init" => config.defaults.init = boolean(last)?,
        "no-new-privileges" => config.defaults.no_new_privileges = boolean(last)?,
        "insecure-registry" => config.registries.insecure = values.to_vec(),
        "registry-mirror" => config.registries.mirrors = mirrors(values)?,
        "tls" => config.has_tls |= boolean(last)?,
        "tlsverify" => {
            config.tls.verify = boolean(last)?;
            config.has_tls |= config.tls.verify;
        }
        "tlscacert" => config.tls.authority = Some(absolute(last)?),
        "tlscert" => config.tls.certificate = Some(absolute(last)?),
        "tlskey" => config.tls.key = Some(absolute(last)?),
        "authorization-plugin" => config.authorization_plugins = plugins(values)?,
        "cdi-spec-dir" => {
            config.cdi_dirs = values
                .iter()
                .map(|v| absolute(v))
                .collect::<Result<_, _>>()?;
        }
        "audit-log" => config.audit_log = Some(absolute(last)?),
        flag if networks::apply(&mut config.networks, flag, values)? => {}
        _ => return Err("is not built yet".to_owned()),
    }
    Ok(())
}

/// Names of sockets and files of theirs: no paths.
fn plugins(values: &[String]) -> Result<Vec<String>, String> {
    for name in values {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(format!("{name:?} is not the name of a plugin"));
        }
    }
    Ok(values.to_vec())
}

/// `https://mirror` of the default registry, or `registry=https://mirror` of any.
fn mirrors(values: &[String]) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut out = BTreeMap::<String, Vec<String>>::new();
    for value in values {
        let (of, mirror) = match value.split_once('=') {
            Some((of, mirror)) if !of.contains('/') => (of, mirror),
            _ => ("docker.io", value.as_str()),
        };
        engine::check_mirror(mirror)?;
        out.entry(of.to_owned())
            .or_default()
            .push(mirror.to_owned());
    }
    Ok(out)
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is not true or false")),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{text:?} is not an absolute path"))
    }
}

fn level(text: &str) -> Result<tracing::Level, String> {
    match text {
        "trace" => Ok(tracing::Level::TRACE),
        "debug" => Ok(tracing::Level::DEBUG),
        "info" => Ok(tracing::Level::INFO),
        "warn" => Ok(tracing::Level::WARN),
        "error" | "fatal" | "panic" => Ok(tracing::Level::ERROR),
        _ => Err(format!(
            "{text:?} is not one of debug, info, warn, error, fatal"
        )),
    }
}

fn host(text: &str) -> Result<Host, String> {
    match text.split_once("://") {
        Some(("unix", "")) => host(DEFAULT_HOST),
        Some(("unix", path)) => Ok(Host::Unix(absolute(path)?)),
        Some(("fd", "" | "*")) => Ok(Host::Activated(None)),
        Some(("fd", name)) => Ok(Host::Activated(Some(name.to_owned()))),
        Some(("tcp", address)) => tcp(address),
        _ => Err(format!(
            "{text:?} is not unix:///path, tcp://host:port or fd://"
        )),
    }
}

/// Without a host: the loopback. A port that is not given depends on `--tls`, and is put in when all is read.
fn tcp(address: &str) -> Result<Host, String> {
    let wrong = || format!("tcp://{address} is not tcp://host:port");
    let address = address.trim_end_matches('/');
    let bracketed_only = address.starts_with('[') && address.ends_with(']');
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !bracketed_only => (host, Some(port)),
        _ => (address, None),
    };
    if host.contains('/') || (host.contains(':') && !host.starts_with('[')) {
        return Err(wrong());
    }
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    match port {
        None => Ok(Host::Tcp(host.to_owned())),
        Some(port) => {
            let port: u16 = port.parse().map_err(|_| wrong())?;
            Ok(Host::Tcp(format!("{host}:{port}")))
        }
    }
}

/// dockerd's ports: 2376 with TLS, 2375 without.
fn with_ports(hosts: &mut [Host], tls: bool) {
    let port = if tls { 2376 } else { 2375 };
    for host in hosts {
        if let Host::Tcp(address) = host
            && (address.ends_with(']') || !address.contains(':'))
        {
            address.push_str(&format!(":{port}"));
        }
    }
}

/// No file without `--tls`, each one that is needed, and nothing open to a network by mistake.
fn check_tls(config: &Config) -> Result<(), ConfigError> {
    let together = |e: &dyn std::error::Error| ConfigError::Together(crate::chain(e));
    match config.tls() {
        Some(tls) => crate::tls::check(tls).map_err(|e| together(&e))?,
        None if config.tls != TlsSettings::default() => {
            return Err(ConfigError::Together(
                "--tlscacert, --tlscert and --tlskey need --tlsverify (or --tls)".to_owned(),
            ));
        }
        None => {}
    }
    let verified = config.tls().is_some_and(|tls| tls.verify);
    for host in &config.hosts {
        if let Host::Tcp(address) = host {
            crate::listen::check_address(address, verified).map_err(|e| together(&e))?;
        }
    }
    Ok(())
}

fn log_options(values: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for value in values {
        let (name, value) = value
            .split_once('=')
            .ok_or_else(|| format!("{value:?} is not name=value"))?;
        out.insert(name.to_owned(), value.to_owned());
    }
    Ok(out)
}

/// The only option of dockerd's runtime there is: `native.cgroupdriver`.
fn cgroup_driver(values: &[String]) -> Result<CgroupDriver, String> {
    let mut driver = CgroupDriver::default();
    for value in values {
        driver = match value.split_once('=') {
            Some(("native.cgroupdriver", "cgroupfs")) => CgroupDriver::Cgroupfs,
            Some(("native.cgroupdriver", "systemd")) => CgroupDriver::Systemd,
            Some(("native.cgroupdriver", other)) => {
                return Err(format!("no cgroup driver {other:?}: cgroupfs or systemd"));
            }
            _ => return Err(format!("{value:?} is not native.cgroupdriver=...")),
        };
    }
    Ok(driver)
}

/// `nofile=1024:2048` or `nofile=1024`; -1: without limit.
fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = || format!("{text:?} is not name=soft[:hard]");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let soft: i64 = soft.parse().map_err(|_| wrong())?;
    let hard: i64 = hard.parse().map_err(|_| wrong())?;
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(format!("{text:?}: the soft limit is above the hard one"));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// `64m`, `1g`, `65536`.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 64m");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    n.checked_mul(1 << shift).ok_or_else(wrong)
}

/// What `plimsoll daemon --help` prints.
#[must_use]
pub fn help() -> String {
    use std::fmt::Write as _;
    let mut out = String::from(
        "Usage: plimsoll daemon [OPTIONS]\n\nThe engine. Its options are dockerd's.\n\nOptions:\n",
    );
    for key in KEYS.iter().filter(|key| matches!(key.built, Built::Yes)) {
        let short = key
            .short
            .map_or_else(|| "    ".to_owned(), |s| format!("-{s}, "));
        let value = match key.kind {
            Kind::Bool => "",
            Kind::List => " list",
            Kind::Map | Kind::Pools | Kind::NetworkOptions => " name=value",
            Kind::Text | Kind::Any => " string",
        };
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "  {short}--{:<32}{}",
            format!("{}{value}", key.flag),
            key.help
        );
    }
    out.push_str("      --validate                        Check flags and file, and end\n");
    out.push_str("  -v, --version                         Print the version, and end\n");
    out.push_str("\nAny other option of dockerd's is refused by its name.\n");
    out
}

#[cfg(test)]
mod tests;
