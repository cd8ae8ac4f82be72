//! What is said when the command line is wrong, without an engine: words and exit codes.

use testkit::instance::{command, program};

fn say(line: &[&str]) -> String {
    let output = command(program())
        .args(line)
        .env("DOCKER_HOST", "unix:///nonexistent/s")
        .env_remove("PLIMSOLL_HOST")
        .env_remove("PLIMSOLL_AUTOSTART")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("plimsoll can be executed");
    format!(
        "$ plimsoll {}\n{}{}? {}\n\n",
        line.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status.code().unwrap_or(-1)
    )
}

#[test]
fn errors() {
    let mut text = String::new();
    for line in [
        &["frobnicate"][..],
        &["volume", "frobnicate"],
        &["pull", "busybox"],
        &["build", "."],
        &["--nope", "ps"],
        &["--tls", "ps"],
        &["-H", "ssh://x", "ps"],
        &["run"],
        &["run", "--nope", "x"],
        &["run", "-p", "x:80", "x"],
        &["run", "--link-local-ip", "y", "x"],
        &["network", "frobnicate"],
        &["run", "--storage-opt", "size=1g", "x"],
        &["run", "--pull", "always", "x"],
        &["run", "-d", "-a", "stdout", "x"],
        &["run", "-it", "x"],
        &["run", "x"],
        &["exec", "x"],
        &["ps", "x"],
        &["ps"],
        &["tag", "a"],
        &["update", "x"],
        &["capture", "bash"],
        &["completion", "tcsh"],
        &["cp", "/a", "/b"],
        &["inspect", "-f", "{{.x", "y"],
        &["logs", "--since", "yesterday", "x"],
        &["import", "http://x/y.tar"],
        &["load", "-i", "/nonexistent"],
        &["--version"],
    ] {
        text.push_str(&say(line));
    }
    insta::assert_snapshot!(text);
}
