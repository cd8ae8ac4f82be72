//! Names in networks: what a container's own DNS server knows and says. Pure; the sockets are in
//! `serve/names.rs`.
//!
//! The engine writes, the shim reads at each question, so that a change counts at once and answers
//! need no engine:
//!
//! ```text
//! <exec root>/names/<network>.hosts    who is in a network, as hosts(5); first its name as a comment
//!                   <container>.conf   what a container may ask: see `Config`
//! ```

pub mod message;
pub mod zone;

pub use message::{Kind, Question, Record};
pub use zone::{Config, Zone};
