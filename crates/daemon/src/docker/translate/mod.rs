//! Wire types to the engine's and back. Pure.
//!
//! `unbuilt` names what is asked for and not there; `create` reads a request; `inspect` and
//! `summary` show what the engine has; `versions` is about older clients.

pub(super) mod create;
pub(super) mod inspect;
pub(super) mod mounts;
pub(super) mod summary;
mod unbuilt;
pub(super) mod versions;

#[cfg(test)]
pub(super) mod tests;
