//! Capability sets as bit masks, 41 bits used so far.

use std::io;

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets of this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

fn low(mask: u64) -> u32 {
    (mask & 0xffff_ffff) as u32
}

fn high(mask: u64) -> u32 {
    (mask >> 32) as u32
}

/// capget(2) of this thread.
///
/// # Errors
/// As the call.
pub fn get() -> io::Result<Sets> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 makes the kernel write exactly two data structs.
    let r = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    let join = |f: fn(&Data) -> u32| u64::from(f(&data[0])) | u64::from(f(&data[1])) << 32;
    Ok(Sets {
        effective: join(|d| d.effective),
        permitted: join(|d| d.permitted),
        inheritable: join(|d| d.inheritable),
    })
}

/// capset(2) of this thread.
///
/// # Errors
/// As the call.
pub fn set(sets: Sets) -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |f: fn(u64) -> u32| Data {
        effective: f(sets.effective),
        permitted: f(sets.permitted),
        inheritable: f(sets.inheritable),
    };
    let data = [half(low), half(high)];
    // SAFETY: version 3 makes the kernel read exactly two data structs.
    let r = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn prctl(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: the options used here take numbers only.
    let r = unsafe { libc::prctl(option, a, b, 0_u64, 0_u64) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(r)
}

/// The bounding set of this thread.
#[must_use]
pub fn bounding() -> u64 {
    let has = |cap: &u32| match prctl(libc::PR_CAPBSET_READ, u64::from(*cap), 0) {
        Ok(1) => Some(true),
        Ok(_) => Some(false),
        // the kernel doesn't know it, nor any above it
        Err(_) => None,
    };
    let mut mask = 0;
    for cap in 0..64_u32 {
        match has(&cap) {
            Some(true) => mask |= 1 << cap,
            Some(false) => {}
            None => break,
        }
    }
    mask
}

/// Drops everything from the bounding set that `keep` lacks. A capability the kernel doesn't know
/// ends the list.
///
/// # Errors
/// As PR_CAPBSET_DROP.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for cap in 0..64_u32 {
        if keep & (1 << cap) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, u64::from(cap), 0) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        };
    }
    Ok(())
}

/// Makes the ambient set exactly `mask`; what isn't both permitted and inheritable is refused.
///
/// # Errors
/// As PR_CAP_AMBIENT.
pub fn set_ambient(mask: u64) -> io::Result<()> {
    const RAISE: u64 = 2;
    const CLEAR_ALL: u64 = 4;
    prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0)?;
    for cap in (0..64_u32).filter(|c| mask & (1 << c) != 0) {
        prctl(libc::PR_CAP_AMBIENT, RAISE, u64::from(cap))?;
    }
    Ok(())
}

/// Keep permitted capabilities over a change of user id.
///
/// # Errors
/// As PR_SET_KEEPCAPS.
pub fn keep_over_setuid(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0).map(drop)
}
