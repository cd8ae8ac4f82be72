//! Descriptors that are waited on.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What tells when there is something to be read. It must not block at reading.
///
/// # Errors
/// It cannot be polled, or there is no room for another.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type could give another descriptor each time it \
              is asked, which those used here do not"
)]
pub(crate) fn readable<T: AsRawFd>(what: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(what, Interest::READABLE)
}
