//! `forward.json` in the container's directory: the last entry that the sink has.
//!
//! Replaced by renaming and not synced: after a power cut it may be an older one, or none, and entries
//! go on a second time.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shim::jsonlog::{LogMark, LogPosition};

const FILE: &str = "forward.json";
const NEW: &str = "forward.json.new";

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    inode: u64,
    offset: u64,
    time: jiff::Timestamp,
}

/// What cannot be read counts as none: too much goes on, rather than too little.
pub(super) fn load(dir: &Path) -> Option<LogMark> {
    let text = std::fs::read(dir.join(FILE)).ok()?;
    let w: Written = serde_json::from_slice(&text).ok()?;
    Some(LogMark {
        position: LogPosition {
            inode: w.inode,
            offset: w.offset,
        },
        time: w.time,
    })
}

pub(super) fn save(dir: &Path, mark: &LogMark) -> io::Result<()> {
    let text = serde_json::to_vec(&Written {
        inode: mark.position.inode,
        offset: mark.position.offset,
        time: mark.time,
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
        let mark = LogMark {
            position: LogPosition {
                inode: 7,
                offset: 9,
            },
            time: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
        };
        save(dir.path(), &mark).unwrap();
        assert_eq!(load(dir.path()), Some(mark));
        std::fs::write(dir.path().join(FILE), "{\"inode\":7").unwrap();
        assert_eq!(load(dir.path()), None);
    }
}
