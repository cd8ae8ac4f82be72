//! Loading an eBPF program that decides on device access, and attaching it to a v2 cgroup.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` for BPF_PROG_LOAD that every kernel with this program type reads.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

fn bpf<T>(command: i32, attr: &T) -> io::Result<i32> {
    // SAFETY: attr is plain data of the size given; the pointers inside were made from slices that
    // the callers keep alive through the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            std::mem::size_of::<T>(),
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(r).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
}

/// Loads a device program of `struct bpf_insn`s given as 64-bit words.
///
/// # Errors
/// As bpf(2): `EINVAL`, `EACCES` when the verifier refuses it.
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        ..Load::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: the kernel just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attachment(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Attach {
    Attach {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    }
}

/// Attaches a device program to a cgroup; every program attached must allow an access. It stays
/// until it is detached or the cgroup goes.
///
/// # Errors
/// As bpf(2).
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_PROG_ATTACH, &attachment(cgroup, program)).map(drop)
}

/// The inverse of [`attach_device_program`].
///
/// # Errors
/// As bpf(2).
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_PROG_DETACH, &attachment(cgroup, program)).map(drop)
}
