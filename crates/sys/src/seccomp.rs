//! Installing a seccomp filter.

use std::io;

/// SECCOMP_FILTER_FLAG_LOG.
pub const FLAG_LOG: u32 = 2;
/// SECCOMP_FILTER_FLAG_SPEC_ALLOW.
pub const FLAG_SPEC_ALLOW: u32 = 4;

/// Installs a program of `struct sock_filter`s, given as bytes, for this thread and what it will
/// execute. Needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// As seccomp(2); `EINVAL` when the length isn't that of 1 to 4096 instructions.
pub fn install(program: &[u8], flags: u32) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: u32 = 1;
    let count = program.len() / 8;
    let Ok(len) = u16::try_from(count) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    if !program.len().is_multiple_of(8) || count == 0 || count > 4096 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies len * 8 bytes from the slice (checked above) without needing any
    // alignment, and never writes to it.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
