//! Starts the daemon where none listens, if `PLIMSOLL_AUTOSTART` asks for it: `1`, or the daemon's
//! flags. Without it nobody gets an engine that they did not start.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const VARIABLE: &str = "PLIMSOLL_AUTOSTART";

/// The flags asked for; `None`: not asked for.
fn asked() -> Option<Vec<String>> {
    let text = std::env::var(VARIABLE).ok()?;
    match text.as_str() {
        "" | "0" | "false" => None,
        "1" | "true" => Some(Vec::new()),
        flags => Some(flags.split_whitespace().map(str::to_owned).collect()),
    }
}

/// Starts a daemon that will listen on `socket`; false if that was not asked for. What it says goes
/// to a file beside the socket.
pub(crate) fn start(socket: &Path) -> io::Result<bool> {
    let Some(flags) = asked() else {
        return Ok(false);
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(socket.with_extension("log"))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "no helper: this very program, as the daemon"
    )]
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("daemon")
        .arg("-H")
        .arg(format!("unix://{}", socket.display()))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // a ctrl-c at this command is not meant for the engine
        .process_group(0)
        .spawn()?;
    Ok(true)
}
