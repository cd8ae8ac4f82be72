//! End to end, through the real socket, with our command line and the real docker command, on the
//! real kernel. Every test takes an engine of its own and ends with the conservation oracle.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, and the instance then shows its log"
)]

mod build;
mod clients;
mod compose;
mod crash;
mod faults;
mod fuzz;
mod hang;
mod health;
mod lifecycle;
mod limits;
mod logging;
mod mounts;
mod names;
mod networks;
mod registry;
mod remote;
mod restart;
mod vm;

use std::process::Output;

use serde_json::Value;
use testkit::{Instance, Response};

/// What a command said on both streams.
fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text.trim().to_owned()
}

/// Combined stdout of a container's log.
#[track_caller]
fn logs(instance: &Instance, id: &str) -> String {
    let path = format!("/containers/{id}/logs?stdout=1&stderr=1");
    let answer = instance.answered(instance.api().get(&path)).ok();
    testkit::http::stream_text(&answer.body, 1)
}

/// A call whose answer may not come: the engine may die under it.
fn attempt(answer: std::io::Result<Response>) -> Option<Response> {
    answer.ok().filter(Response::is_ok)
}

fn post(instance: &Instance, path: &str) -> Option<Response> {
    attempt(instance.api().post(path, &Value::Null))
}
