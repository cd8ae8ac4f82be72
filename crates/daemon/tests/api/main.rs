//! The daemon as its clients meet it: a process, a socket, Docker's API, the real docker command.
//!
//! Each test has an engine of its own. All of them need root, and say so.

mod docker_cli;
mod process;
mod streams;
mod wire;
