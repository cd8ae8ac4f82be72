//! The commands. Each file holds the verbs of one subject.

pub(crate) mod build;
pub(crate) mod capture;
pub(crate) mod completion;
pub(crate) mod containers;
pub(crate) mod contexts;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod doctor;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lists;
pub(crate) mod networks;
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod volumes;
