//! Hints about files that neither the standard library nor rustix offers.

use std::fs::File;
use std::os::fd::AsRawFd;

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
