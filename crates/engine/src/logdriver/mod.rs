//! Log drivers: where a container's output is kept, and to whom it goes on.
//!
//! ```text
//! shim --> json.log, rotated --> docker logs, whatever the driver
//!              |
//!              +--> forwarder (syslog, journald, fluentd, gelf) --> sink
//!                       forward.json: the last entry that the sink is known to have
//! ```
//! Every driver but `none` writes the log on disk first: that is the forwarder's queue, so a sink that
//! hangs or is away costs neither the container nor the engine anything but disk, up to the log's cap.
//! Where a sink is away for so long that the cap is reached, the oldest entries are lost, and the sink
//! is told.
//!
//! How often an entry goes on depends on what a sink lets know ([`window`]):
//! - one that acknowledges (fluentd-request-ack), and a unix socket, which the kernel tells is read: at
//!   least once;
//! - TCP and TLS: at least once, as long as a sink's death resets its connections, as it does where
//!   something is unread. Then up to 6 MiB go again, which is what it may not have read. A sink whose
//!   kernel took an entry and whose process never reads it is not told apart from one that did; if it
//!   is away without a reset when the container has ended or the engine restarts, that is lost;
//! - UDP: once, whether somebody is there or not, but for refusals.
//!
//! Options are Docker's. source: docs.docker.com/engine/logging; moby daemon/logger/*.

mod address;
mod connection;
mod fluentd;
mod forward;
mod gelf;
mod identity;
mod journald;
mod mark;
mod message;
mod options;
mod outlet;
mod syslog;
mod window;

pub(crate) use forward::Forwarder;
use identity::{Chosen, Identity, Template};
use options::Options;

use crate::error::Error;
use crate::model::{ContainerRecord, LogSpec};

/// Drivers of Docker's that run here, by name.
pub(crate) const DRIVERS: [&str; 7] = [
    "fluentd",
    "gelf",
    "journald",
    "json-file",
    "local",
    "none",
    "syslog",
];

/// Where output goes on to.
#[derive(Debug, Clone, PartialEq)]
enum Sink {
    Syslog(syslog::Settings),
    Journald,
    Fluentd(fluentd::Settings),
    Gelf(gelf::Settings),
}

/// What a container's log options come to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Driver {
    /// Bytes of one file; 0: without limit.
    max_size: u64,
    max_file: u32,
    /// Absent: Docker's default, which is the container's short id, or (of the log on disk) none.
    tag: Option<Template>,
    chosen: Chosen,
    sink: Option<Sink>,
}

/// `None` of the driver `none`.
pub(crate) fn parse(spec: &LogSpec) -> Result<Option<Driver>, Error> {
    let name = match spec.driver.as_str() {
        "none" => return Ok(None),
        "" => "json-file",
        name => name,
    };
    if matches!(name, "awslogs" | "gcplogs" | "splunk" | "etwlogs") {
        return Err(Error::unsupported(format!(
            "the log driver {name} is not built; {} are",
            DRIVERS.join(", ")
        )));
    }
    if !DRIVERS.contains(&name) {
        // in dockerd's words, to the letter: clients compare them; `info` lists those that there are
        return Err(Error::invalid(format!(
            "logger: no log driver named '{name}' is registered"
        )));
    }
    let mut options = Options::new(name, &spec.options);
    let sink = match name {
        "syslog" => Some(Sink::Syslog(syslog::settings(&mut options)?)),
        "journald" => Some(Sink::Journald),
        "fluentd" => Some(Sink::Fluentd(fluentd::settings(&mut options)?)),
        "gelf" => Some(Sink::Gelf(gelf::settings(&mut options)?)),
        _ => None,
    };
    let (max_size, max_file) = options.kept(sink.is_some())?;
    let driver = Driver {
        max_size,
        max_file,
        tag: options.tag()?,
        chosen: options.chosen()?,
        sink,
    };
    options.finish()?;
    Ok(Some(driver))
}

/// How a shim writes the log.
pub(crate) fn plan(
    record: &ContainerRecord,
    path: &std::path::Path,
) -> Result<Option<shim::LogPlan>, Error> {
    let Some(driver) = parse(&record.spec.host.log)? else {
        return Ok(None);
    };
    let attributes = match &driver.sink {
        // they are the sink's, in its own form
        Some(_) => std::collections::BTreeMap::new(),
        None => {
            let identity = Identity::of(record, &driver.chosen);
            let tag = driver.tag.as_ref().map(|t| t.text(&identity));
            let mut all = identity.attributes;
            all.extend(tag.map(|tag| ("tag".to_owned(), tag)));
            all
        }
    };
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&attributes)
            .map_err(|e| Error::invalid(format!("the log's attributes: {e}")))?
    };
    Ok(Some(shim::LogPlan {
        path: path.to_owned(),
        max_size: driver.max_size,
        max_file: driver.max_file,
        attributes,
    }))
}

/// Refuses what cannot be logged to. Files that are named are looked at here, and at each connection:
/// a container whose sink's authority went since starts all the same.
pub(crate) fn check(spec: &LogSpec) -> Result<(), Error> {
    let sink = parse(spec)?.and_then(|driver| driver.sink);
    if let Some(Sink::Syslog(settings)) = sink
        && let address::Address::Tls(_, files) = &settings.address
        && *files != address::TlsFiles::default()
    {
        let wrong = |e| Error::invalid(format!("log opt syslog-tls-*: {e}"));
        address::tls(files).map_err(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(driver: &str, options: &[(&str, &str)]) -> LogSpec {
        LogSpec {
            driver: driver.to_owned(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn caps() {
        let caps = |driver: &str, options: &[(&str, &str)]| {
            let parsed = parse(&spec(driver, options)).unwrap().unwrap();
            (parsed.max_size, parsed.max_file)
        };
        assert!(parse(&spec("none", &[])).unwrap().is_none());
        assert_eq!(caps("json-file", &[]), (20 << 20, 5));
        assert_eq!(caps("local", &[("compress", "false")]), (20 << 20, 5));
        let own = [("max-size", "10m"), ("max-file", "3")];
        assert_eq!(caps("", &own), (10 << 20, 3));
        let cache = [("cache-max-size", "1m"), ("cache-max-file", "2")];
        assert_eq!(caps("journald", &cache), (1 << 20, 2));
        assert_eq!(caps("json-file", &[("max-size", "-1")]), (0, 5));
        let buffered = [("mode", "non-blocking"), ("max-buffer-size", "4m")];
        assert_eq!(caps("local", &buffered), (20 << 20, 5));
    }

    const WRONG: &[(&str, &[(&str, &str)])] = &[
        ("nonsense", &[]),
        ("splunk", &[]),
        ("json-file", &[("max-size", "ten")]),
        ("json-file", &[("max-file", "0")]),
        ("json-file", &[("max-file", "1001")]),
        ("json-file", &[("compress", "true")]),
        ("json-file", &[("colour", "red")]),
        ("json-file", &[("mode", "blocking")]),
        ("json-file", &[("max-buffer-size", "1m")]),
        (
            "json-file",
            &[("mode", "non-blocking"), ("max-buffer-size", "1g")],
        ),
        ("json-file", &[("tag", "{{.Nothing}}")]),
        ("json-file", &[("tag", "{{.Name")]),
        ("json-file", &[("labels-regex", "(")]),
        ("journald", &[("max-size", "1m")]),
        ("journald", &[("cache-disabled", "true")]),
        ("syslog", &[("syslog-address", "http://h")]),
        ("syslog", &[("syslog-address", "udp://")]),
        ("syslog", &[("syslog-facility", "kitchen")]),
        ("syslog", &[("syslog-format", "rfc1")]),
        ("syslog", &[("syslog-tls-ca-cert", "/ca.pem")]),
        (
            "syslog",
            &[
                ("syslog-address", "tcp+tls://h:1"),
                ("syslog-tls-skip-verify", "true"),
            ],
        ),
        ("gelf", &[]),
        ("gelf", &[("gelf-address", "udp://h")]),
        (
            "gelf",
            &[
                ("gelf-address", "udp://h:1"),
                ("gelf-compression-type", "lz4"),
            ],
        ),
        (
            "gelf",
            &[
                ("gelf-address", "udp://h:1"),
                ("gelf-compression-level", "12"),
            ],
        ),
        (
            "gelf",
            &[
                ("gelf-address", "tcp://h:1"),
                ("gelf-compression-type", "gzip"),
            ],
        ),
        (
            "gelf",
            &[
                ("gelf-address", "udp://h:1"),
                ("gelf-tcp-reconnect-delay", "0"),
            ],
        ),
        ("fluentd", &[("fluentd-async", "false")]),
        ("fluentd", &[("fluentd-buffer-limit", "10")]),
        ("fluentd", &[("fluentd-address", "tls://h:1")]),
        ("fluentd", &[("fluentd-retry-wait", "soon")]),
        ("fluentd", &[("fluentd-write-timeout", "87600h")]),
        ("syslog", &[("syslog-address", "tcp+tls://a_b..c:1")]),
        ("syslog", &[("syslog-address", "tcp://a b:1")]),
        ("syslog", &[("syslog-address", "tcp://h:0")]),
        ("syslog", &[("kitchen", "")]),
        (
            "gelf",
            &[
                ("gelf-address", "tcp://h:1"),
                ("gelf-tcp-reconnect-delay", "99999"),
            ],
        ),
    ];

    #[test]
    fn refusals_name_the_option() {
        let mut text = String::new();
        for (driver, options) in WRONG {
            let error = parse(&spec(driver, options)).unwrap_err();
            text += &format!("{driver} {options:?}: {error}\n");
        }
        insta::assert_snapshot!(text);
    }

    /// A compose file's `${X:-}`.
    #[test]
    fn an_empty_option_is_none() {
        let options = |driver, keys: &[&'static str]| {
            let all: Vec<_> = keys.iter().map(|key| (*key, "")).collect();
            assert_eq!(
                parse(&spec(driver, &all)).unwrap(),
                parse(&spec(driver, &[])).unwrap()
            );
        };
        options("json-file", &["max-size", "max-file", "compress", "mode"]);
        options(
            "syslog",
            &["syslog-address", "syslog-facility", "syslog-format", "tag"],
        );
        options(
            "fluentd",
            &[
                "fluentd-address",
                "fluentd-async",
                "fluentd-retry-wait",
                "fluentd-read-timeout",
                "fluentd-buffer-limit",
            ],
        );
        let refused = parse(&spec("gelf", &[("gelf-address", "")])).unwrap_err();
        assert!(refused.to_string().contains("is needed"), "{refused}");
    }

    #[test]
    fn files_that_are_not_there_are_refused_at_create() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem").display().to_string();
        let spec = spec(
            "syslog",
            &[
                ("syslog-address", "tcp+tls://h:1"),
                ("syslog-tls-ca-cert", &path),
            ],
        );
        let refused = check(&spec).unwrap_err().to_string();
        assert!(refused.contains(&path), "{refused}");
        // one that was created before is not
        parse(&spec).unwrap();
    }

    #[test]
    fn attributes_of_the_log_on_disk() {
        let mut record = crate::testing::record();
        record.name = "web".to_owned();
        record.spec.labels = [("tier", "front"), ("com.x", "1"), ("other", "no")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        record.spec.env = vec!["STAGE=test".to_owned(), "SECRET=x".to_owned()];
        record.spec.host.log = spec(
            "json-file",
            &[
                ("labels", "tier,absent"),
                ("labels-regex", "^com\\."),
                ("env", "STAGE"),
                ("tag", "{{.Name}}/{{.ID}}"),
            ],
        );
        let plan = plan(&record, std::path::Path::new("/l")).unwrap().unwrap();
        let short = &record.id[..12.min(record.id.len())];
        assert_eq!(
            plan.attributes,
            format!(r#"{{"STAGE":"test","com.x":"1","tag":"web/{short}","tier":"front"}}"#)
        );
    }
}
