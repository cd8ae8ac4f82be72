//! `forward.json` in the container's directory: how far the log has gone on.
//!
//! ```text
//! {"inode":12,"offset":345,"time":"2026-...","count":7,"epoch":"0f...","parts":{}}
//! ```
//! Replaced by renaming and not synced: after a power cut it may be an older one, or none, and entries
//! go on a second time.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shim::jsonlog::{LogMark, LogPosition};

use super::message::{Parts, Progress};

const FILE: &str = "forward.json";
const NEW: &str = "forward.json.new";

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    inode: u64,
    offset: u64,
    time: jiff::Timestamp,
    #[serde(default)]
    count: u64,
    epoch: String,
    #[serde(default)]
    parts: Parts,
}

/// And the epoch of its ordinals. What cannot be read counts as none: too much goes on, rather than
/// too little.
pub(super) fn load(dir: &Path) -> Option<(Progress, String)> {
    let text = std::fs::read(dir.join(FILE)).ok()?;
    let w: Written = serde_json::from_slice(&text).ok()?;
    let position = LogPosition {
        inode: w.inode,
        offset: w.offset,
    };
    let progress = Progress {
        mark: LogMark {
            position,
            time: w.time,
        },
        count: w.count,
        parts: w.parts,
    };
    Some((progress, w.epoch))
}

/// `None`: nothing has gone on.
pub(super) fn save(dir: &Path, progress: Option<&Progress>, epoch: &str) -> io::Result<()> {
    let Some(progress) = progress else {
        return match std::fs::remove_file(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    };
    let text = serde_json::to_vec(&Written {
        inode: progress.mark.position.inode,
        offset: progress.mark.position.offset,
        time: progress.mark.time,
        count: progress.count,
        epoch: epoch.to_owned(),
        parts: progress.parts.clone(),
    })?;
    std::fs::write(dir.join(NEW), text)?;
    std::fs::rename(dir.join(NEW), dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);
        let parts = r#"{"stdout":{"id":"1f","ordinal":3,"last":false}}"#;
        let progress = Progress {
            mark: LogMark {
                position: LogPosition {
                    inode: 7,
                    offset: 9,
                },
                time: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
            },
            count: 8,
            parts: serde_json::from_str(parts).unwrap(),
        };
        save(dir.path(), Some(&progress), "e").unwrap();
        assert_eq!(load(dir.path()), Some((progress, "e".to_owned())));
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"inode":7,"offset":9,"time":"2026-01-02T03:04:05.000000006Z","count":8,"epoch":"e","parts":{parts}}}"#
            )
        );
        std::fs::write(dir.path().join(FILE), "{\"inode\":7").unwrap();
        assert_eq!(load(dir.path()), None);
        save(dir.path(), None, "e").unwrap();
        save(dir.path(), None, "e").unwrap();
        assert!(!dir.path().join(FILE).exists());
    }
}
