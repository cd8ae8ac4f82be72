//! Handing a terminal's master to whoever asked for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::OciError;
use super::error::{errno, io};

/// Connects before anything is made: a socket nobody listens on fails early.
pub(super) fn open(path: &Path) -> Result<OwnedFd, OciError> {
    let flags = SocketFlags::CLOEXEC;
    let failed = errno("connect to console socket", path);
    let go = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    go().map_err(failed)
}

/// One message: the name of the terminal with its descriptor. source: runc docs/terminals.md.
pub(super) fn send(socket: BorrowedFd<'_>, master: &OwnedFd) -> io::Result<()> {
    sys::fault::point("oci.console")?;
    sys::fdpass::send(socket, b"/dev/ptmx", &[master.as_fd()]).map(drop)
}

/// The caller polls for this file: it appears whole or not at all.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<(), OciError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let put = || {
        sys::fault::point("oci.pid_file")?;
        fs::write(&staged, pid.to_string())?;
        fs::rename(&staged, path)
    };
    put().map_err(|e| {
        // the error is the news; a stray file beside it is not
        let _stray = fs::remove_file(&staged);
        io("write", path)(e)
    })
}
