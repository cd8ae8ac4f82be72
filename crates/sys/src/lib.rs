//! System calls that neither the standard library nor rustix offers safely, and nothing else.
//!
//! The only crate of the workspace in which `unsafe` is allowed; each block names the invariant
//! it rests on.

#![expect(
    unsafe_code,
    reason = "this crate exists to keep the workspace's unsafe code in one place"
)]

pub mod activation;
pub mod bpf;
pub mod caps;
pub mod clone;
pub mod fault;
pub mod fdpass;
pub mod file;
pub mod fork;
pub mod helper;
pub mod malloc;
pub mod mount;
pub mod priority;
pub mod process;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod throwaway;
pub mod tripwire;
