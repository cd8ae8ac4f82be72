//! System calls that neither the standard library nor rustix offers safely, and nothing else.
//!
//! The only crate of the workspace in which `unsafe` is allowed; each block names the invariant
//! it rests on.

pub mod fault;
