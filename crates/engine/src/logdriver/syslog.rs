//! Syslog, in the formats that Docker writes.
//!
//! source: RFC 3164, RFC 5424, RFC 5425; moby daemon/logger/syslog, RackSec/srslog

use std::path::PathBuf;

use super::address::{Address, TlsFiles, server_name, split};
use super::message::{Message, Speaker};
use super::options::Options;
use crate::error::Error;

const PORT: u16 = 514;
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const DAEMON: usize = 3;
const ERROR: usize = 3;
const INFORMATION: usize = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) address: Address,
    facility: usize,
    format: Format,
    /// Each message is preceded by its length (RFC 5425).
    counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Without the host's name: local syslog's own.
    Unix,
    Rfc3164,
    Rfc5424 {
        micro: bool,
    },
}

pub(super) fn settings(options: &mut Options<'_>) -> Result<Settings, Error> {
    let given = options.take("syslog-address");
    let files = tls_files(options)?;
    let address = match given {
        None => Address::LocalSyslog,
        Some(text) => {
            let wrong = |why: &str| options.wrong("syslog-address", text, why);
            let (scheme, rest) = split(text, Some(PORT)).map_err(|e| wrong(&e))?;
            match scheme {
                "udp" => Address::Udp(rest),
                "tcp" => Address::Tcp(rest),
                "tcp+tls" => Address::Tls(rest, files.clone()),
                "unix" => Address::Unix(rest.into()),
                "unixgram" => Address::Datagrams(rest.into()),
                _ => return Err(wrong("one of udp, tcp, tcp+tls, unix, unixgram")),
            }
        }
    };
    let secure = matches!(address, Address::Tls(..));
    if let (Address::Tls(to, _), Some(text)) = (&address, given)
        && server_name(to).is_err()
    {
        let why = "no certificate can be of that name";
        return Err(options.wrong("syslog-address", text, why));
    }
    if !secure && files != TlsFiles::default() {
        let why = "only together with an address tcp+tls://";
        return Err(options.wrong("syslog-tls-*", "", why));
    }
    let facility = match options.take("syslog-facility") {
        None => DAEMON,
        Some(text) => facility(text).ok_or_else(|| {
            options.wrong(
                "syslog-facility",
                text,
                "a facility's name or its number to 23",
            )
        })?,
    };
    let format = match options.take("syslog-format") {
        None => Format::Unix,
        Some("rfc3164") => Format::Rfc3164,
        Some("rfc5424") => Format::Rfc5424 { micro: false },
        Some("rfc5424micro") => Format::Rfc5424 { micro: true },
        Some(other) => {
            let wanted = "rfc3164, rfc5424 or rfc5424micro";
            return Err(options.wrong("syslog-format", other, wanted));
        }
    };
    Ok(Settings {
        counted: secure && matches!(format, Format::Rfc5424 { .. }),
        address,
        facility,
        format,
    })
}

fn tls_files(options: &mut Options<'_>) -> Result<TlsFiles, Error> {
    if options.flag("syslog-tls-skip-verify")? == Some(true) {
        let why =
            "a sink's certificate is always verified: name its authority by syslog-tls-ca-cert";
        return Err(options.refused("syslog-tls-skip-verify", "true", why));
    }
    let authority = options.take("syslog-tls-ca-cert").map(PathBuf::from);
    let certificate = options.take("syslog-tls-cert").map(PathBuf::from);
    let key = options.take("syslog-tls-key").map(PathBuf::from);
    let own = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            let why = "a certificate and a key go together";
            return Err(options.wrong("syslog-tls-cert", "", why));
        }
    };
    Ok(TlsFiles { authority, own })
}

fn facility(text: &str) -> Option<usize> {
    let named = FACILITIES.iter().position(|f| *f == text && !f.is_empty());
    named.or_else(|| text.parse().ok().filter(|n| *n < FACILITIES.len()))
}

pub(super) fn encode(settings: &Settings, speaker: &Speaker, message: &Message<'_>) -> Vec<u8> {
    let severity = match message.stream {
        shim::jsonlog::Stream::Stdout => INFORMATION,
        shim::jsonlog::Stream::Stderr => ERROR,
    };
    let priority = settings.facility * 8 + severity;
    let (tag, pid, host) = (&speaker.tag, speaker.pid, &speaker.host);
    let time = message.time.to_zoned(speaker.zone.clone());
    let head = match settings.format {
        Format::Unix => {
            let stamp = time.strftime("%b %e %H:%M:%S");
            format!("<{priority}>{stamp} {tag}[{pid}]: ")
        }
        Format::Rfc3164 => {
            let stamp = time.strftime("%b %e %H:%M:%S");
            format!("<{priority}>{stamp} {host} {tag}[{pid}]: ")
        }
        Format::Rfc5424 { micro } => {
            let stamp = if micro {
                time.strftime("%Y-%m-%dT%H:%M:%S.%6f%:z")
            } else {
                time.strftime("%Y-%m-%dT%H:%M:%S%:z")
            };
            format!("<{priority}>1 {stamp} {host} {tag} {pid} {tag} - ")
        }
    };
    let mut out = head.into_bytes();
    out.extend_from_slice(message.line);
    out.push(b'\n');
    if settings.counted {
        out.splice(..0, format!("{} ", out.len()).into_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logdriver::message::tests::{message, speaker};

    fn encoded(address: Option<&str>, format: &str) -> String {
        let mut map = std::collections::BTreeMap::new();
        map.insert("syslog-format".to_owned(), format.to_owned());
        map.insert("syslog-facility".to_owned(), "local1".to_owned());
        map.extend(address.map(|a| ("syslog-address".to_owned(), a.to_owned())));
        let settings = settings(&mut Options::new("syslog", &map)).unwrap();
        String::from_utf8(encode(&settings, &speaker(), &message(b"hello"))).unwrap()
    }

    #[test]
    fn formats() {
        assert_eq!(encoded(None, ""), "<142>Jan  2 03:04:05 web[7]: hello\n");
        assert_eq!(
            encoded(Some("udp://h"), "rfc3164"),
            "<142>Jan  2 03:04:05 host web[7]: hello\n"
        );
        assert_eq!(
            encoded(Some("tcp://h"), "rfc5424"),
            "<142>1 2026-01-02T03:04:05+00:00 host web 7 web - hello\n"
        );
        let counted = "<142>1 2026-01-02T03:04:05.123456+00:00 host web 7 web - hello\n";
        assert_eq!(
            encoded(Some("tcp+tls://h"), "rfc5424micro"),
            format!("{} {counted}", counted.len())
        );
    }
}
