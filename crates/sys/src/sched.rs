//! Scheduling, processor affinity and memory policy of the calling thread. Nothing here allocates.

use std::io;

/// `struct sched_attr` of linux/sched/types.h, its first version.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

pub const RESET_ON_FORK: u64 = 0x01;
pub const RECLAIM: u64 = 0x02;
pub const DL_OVERRUN: u64 = 0x04;
pub const KEEP_POLICY: u64 = 0x08;
pub const KEEP_PARAMS: u64 = 0x10;
pub const UTIL_CLAMP_MIN: u64 = 0x20;
pub const UTIL_CLAMP_MAX: u64 = 0x40;

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// sched_setattr(2); `size` is filled in.
///
/// # Errors
/// As the call.
pub fn set_attr(attr: &Attr) -> io::Result<()> {
    let attr = Attr {
        size: std::mem::size_of::<Attr>() as u32,
        ..*attr
    };
    // SAFETY: the kernel reads `size` bytes of a struct that lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
}

/// sched_setaffinity(2): one bit a processor, lowest first.
///
/// # Errors
/// As the call; `EINVAL` also when none of them is in the cgroup's cpuset.
pub fn set_affinity(mask: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads mask.len() bytes from the slice.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr()) })
}

/// set_mempolicy(2): one bit a memory node, lowest first.
///
/// # Errors
/// As the call; `EINVAL` for a mask that is no whole number of 64-bit words.
pub fn set_memory_policy(mode: i32, nodes: &[u8]) -> io::Result<()> {
    if !nodes.len().is_multiple_of(8) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let bits = match nodes.len() {
        0 => 0,
        // the kernel reads one bit less than it is told
        n => n * 8 + 1,
    };
    let mask = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: the kernel reads bits - 1 bits, rounded up to words: nodes.len() bytes (checked to
    // be whole words), or nothing for a null mask.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_an_affinity_and_refuses_none() {
        // in a thread of its own: the others keep theirs
        std::thread::spawn(|| {
            set_affinity(&[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            let none = set_affinity(&[0; 8]).unwrap_err();
            assert_eq!(none.raw_os_error(), Some(libc::EINVAL));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_default_memory_policy_has_no_nodes() {
        set_memory_policy(0, &[]).unwrap();
        assert!(set_memory_policy(2, &[1]).is_err());
    }
}
