//! The commands. Each file holds the verbs of one subject.

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod run;
