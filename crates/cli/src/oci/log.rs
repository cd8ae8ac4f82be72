//! Errors as runc writes them: a line of text or of JSON, read by containerd and Podman.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use super::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    /// `None`: standard error.
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    pub(super) fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Self, Failure> {
        let open = |path: &Path| {
            let mut options = File::options();
            options.append(true).create(true);
            options.open(path).map_err(|e| {
                let why = crate::verb::reason(&e);
                Failure::Message(format!("open log file {}: {why}", path.display()), 1)
            })
        };
        Ok(Self {
            file: path.map(open).transpose()?,
            format,
            debug,
        })
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    /// To the log, and to the user where those are two.
    pub(super) fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            self.tell(message);
        }
    }

    pub(super) fn tell(&self, line: &str) {
        drop(writeln!(io::stderr(), "{line}"));
    }

    pub(super) fn write(&self, level: &str, message: &str) {
        let time = runtime::oci::rfc3339(SystemTime::now(), false);
        let line = match self.format {
            Format::Json => {
                serde_json::json!({"level": level, "msg": message, "time": time}).to_string()
            }
            Format::Text => format!(
                "time={} level={level} msg={}",
                quoted(&time),
                quoted(message)
            ),
        };
        // nobody can be told that the log doesn't take it
        match &self.file {
            Some(file) => drop(writeln!(&*file, "{line}")),
            None => self.tell(&line),
        }
    }
}

/// logrus' text form: plain where it can be, else quoted as a Go string.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_where_needed() {
        assert_eq!(quoted("a.b"), "a.b");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("exec: \"x\""), r#""exec: \"x\"""#);
        assert_eq!(quoted(""), "\"\"");
    }
}
