//! The command line against a real engine, on the real kernel. Needs root; fails without it.
//!
//! Each test has an engine of its own (`testkit::Instance`) and takes the conservation oracle where
//! containers were made and removed.

#![expect(
    clippy::too_many_lines,
    reason = "a test tells one story, or is one table"
)]

mod capture;
mod commands;
mod copy;
mod foreground;
mod survive;
mod terminal;

use std::io::Write as _;
use std::process::{Output, Stdio};

use testkit::Instance;

/// An engine with the image `busybox`.
#[track_caller]
fn engine() -> Instance {
    let instance = Instance::new();
    let image = testkit::image::Image::busybox().expect("busybox makes an image");
    instance.load(&image.named("busybox:latest"));
    instance
}

/// What a command line said and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

/// Runs `plimsoll` with the words of the line.
fn plimsoll(instance: &Instance, line: &[&str]) -> Said {
    instance.plimsoll(line).into()
}

/// Runs it, and it must succeed; its output.
#[track_caller]
fn ok(instance: &Instance, line: &[&str]) -> String {
    let said = plimsoll(instance, line);
    assert_eq!(said.code, Some(0), "{line:?}: {said:?}");
    said.out
}

/// Runs it with this on standard input.
#[track_caller]
fn feed(instance: &Instance, line: &[&str], input: &[u8]) -> Said {
    let mut child = instance
        .plimsoll_command()
        .args(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("plimsoll can be executed");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // by a thread: a program that answers before it has read all would block both
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    // a program that ends early does not read the rest
    drop(writing.join().expect("the writer does not panic"));
    output.into()
}
