//! What the kernel does with our plans. Each test has a host of its own: a network namespace with
//! bridges, containers (namespaces too) and a neighbour on its wire, so nothing of this machine is
//! touched. Needs root.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod lab;
mod ports;
mod table;
