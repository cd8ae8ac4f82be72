//! `capture`: the host's own programs run in a container with nothing pulled.

use testkit::Instance;

use crate::{ok, plimsoll};

#[test]
fn captured_programs_run() {
    let instance = Instance::new();
    assert_eq!(
        ok(
            &instance,
            &[
                "capture",
                "-t",
                "tools",
                "--user",
                "nobody",
                "--zoneinfo",
                "bash",
                "busybox",
                "ls"
            ]
        ),
        "Loaded image: tools:latest\n"
    );
    let run = |command: &[&str]| {
        let line = [&["run", "--rm", "--network", "none", "tools"], command].concat();
        ok(&instance, &line)
    };
    assert_eq!(run(&["bash", "-c", "echo $((6*7)) $UID"]), "42 65534\n");
    assert!(run(&["ls", "/usr/bin"]).contains("bash"));
    assert_eq!(
        run(&["whoami"]),
        "nobody\n",
        "an applet of busybox, and an account"
    );
    assert!(run(&["ls", "/usr/share/zoneinfo"]).contains("UTC"));
    // its own first program is its command
    assert_eq!(
        ok(
            &instance,
            &["inspect", "-f", "{{json .Config.Cmd}}", "tools"]
        )
        .trim(),
        "[\"/usr/bin/bash\"]"
    );
}

#[test]
fn what_cannot_be_complete_is_refused_and_nothing_is_loaded() {
    let instance = Instance::new();
    let said = plimsoll(&instance, &["capture", "-t", "x", "no-such-program"]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (Some(1), "no-such-program: no such program in PATH\n")
    );
    let said = plimsoll(
        &instance,
        &["capture", "-t", "x", "--user", "no-such-user", "bash"],
    );
    assert!(said.err.contains("no-such-user"), "{said:?}");
    let said = plimsoll(&instance, &["capture", "bash"]);
    assert_eq!(said.code, Some(125));
    assert_eq!(ok(&instance, &["images", "-q"]), "");
    let listed = ok(&instance, &["capture", "--dry-run", "bash"]);
    assert!(
        listed.contains("libc.so.6") && listed.contains("needed by"),
        "{listed}"
    );
    assert_eq!(ok(&instance, &["images", "-q"]), "");
}
