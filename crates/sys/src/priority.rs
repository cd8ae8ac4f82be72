//! How little a thread may disturb others.

use std::io;

use rustix::process::setpriority_process;

const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;

/// Gives the calling thread the disk only when nobody else wants it, and the processor last.
///
/// # Errors
/// The kernel refuses (some security modules do); the thread goes on as before.
pub fn background_thread() -> io::Result<()> {
    // SAFETY: ioprio_set takes three integers and reads no memory of ours; who = 0 is this thread.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // on Linux this is the calling thread's value alone
    Ok(setpriority_process(None, 10)?)
}
