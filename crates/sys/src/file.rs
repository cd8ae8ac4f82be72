//! What neither the standard library nor rustix offers about files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

/// Whether a descriptor of that number is open in this process.
#[must_use]
pub fn is_open(number: i32) -> bool {
    // SAFETY: F_GETFD takes no memory; a number that is no descriptor is reported, not followed.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

/// Starts writing a range of a file to the disk without waiting for it. Only a hint: nothing is
/// durable before an fsync, and a file system that does not know the call is left alone.
pub fn start_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return;
    };
    // SAFETY: the call takes numbers only; the descriptor is open as long as `file` is borrowed.
    let _hint = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// A file of the kernel's that is given whole by one read: no size is asked for, nothing allocated.
/// What is longer than the buffer is cut off.
///
/// # Errors
/// The file cannot be opened or read.
pub fn read_short<'a>(path: &str, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let length = File::open(path)?.read(buffer)?;
    Ok(&buffer[..length])
}
