//! System calls that neither the standard library nor rustix offers safely, and nothing else.
//!
//! The only crate of the workspace in which `unsafe` is allowed; each block names the invariant
//! it rests on.

#![expect(
    unsafe_code,
    reason = "this crate exists to keep the workspace's unsafe code in one place"
)]

pub mod activation;
pub mod fault;
pub mod file;
pub mod fdpass;
pub mod fork;
pub mod malloc;
pub mod priority;
pub mod signal;
pub mod throwaway;
