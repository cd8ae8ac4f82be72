//! Commands that make a request and print: against the engine, and against the real docker command
//! on the same engine.

use testkit::{Instance, Snapshot};

use crate::{Said, engine, feed, ok, plimsoll};

#[test]
fn the_life_of_a_container() {
    let instance = engine();
    let before = Snapshot::take(&instance);
    let id = ok(
        &instance,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--label",
            "a=b",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo out; echo err >&2; sleep 1000",
        ],
    );
    assert_eq!(ok(&instance, &["ps", "-q", "--no-trunc"]), id);
    assert_eq!(ok(&instance, &["ps", "-q", "-f", "label=a=c"]), "");
    assert_eq!(
        ok(
            &instance,
            &["ps", "--format", "{{.Names}} {{.Label \"a\"}}"]
        ),
        "web b\n"
    );
    let logs = plimsoll(&instance, &["logs", "web"]);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("out\n", "err\n"));
    assert_eq!(ok(&instance, &["pause", "web"]), "web\n");
    assert_eq!(
        ok(&instance, &["inspect", "-f", "{{.State.Status}}", "web"]),
        "paused\n"
    );
    assert_eq!(ok(&instance, &["unpause", "web"]), "web\n");
    assert!(ok(&instance, &["top", "web"]).contains("sleep 1000"));
    assert!(ok(&instance, &["stats", "--no-stream", "web"]).contains("web"));
    assert_eq!(ok(&instance, &["rename", "web", "shop"]), "");
    assert_eq!(
        ok(&instance, &["update", "--pids-limit", "77", "shop"]),
        "shop\n"
    );
    assert_eq!(
        ok(
            &instance,
            &["inspect", "-f", "{{.HostConfig.PidsLimit}}", "shop"]
        ),
        "77\n"
    );
    assert_eq!(ok(&instance, &["restart", "-t", "0", "shop"]), "shop\n");
    let refused = plimsoll(&instance, &["rm", "shop"]);
    assert_eq!(
        refused.code,
        Some(1),
        "a running container is not removed: {refused:?}"
    );
    assert_eq!(ok(&instance, &["kill", "shop"]), "shop\n");
    assert_eq!(ok(&instance, &["wait", "shop"]), "137\n");
    assert!(
        ok(&instance, &["diff", "shop"])
            .lines()
            .all(|l| l.starts_with(['A', 'C', 'D']))
    );
    assert_eq!(ok(&instance, &["rm", "shop"]), "shop\n");
    let gone = plimsoll(&instance, &["stop", "shop"]);
    assert_eq!(
        (gone.code, gone.err.as_str()),
        (
            Some(1),
            "Error response from daemon: No such container: shop\n"
        )
    );
    before.assert_settled(&instance);
}

#[test]
fn events_are_filtered_and_formatted() {
    let instance = engine();
    let said = plimsoll(
        &instance,
        &[
            "run",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "exit 3",
        ],
    );
    assert_eq!(said.code, Some(3));
    let line = [
        "events",
        "--since",
        "1m",
        "--until",
        "0s",
        "--filter",
        "container=web",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ];
    let out = ok(&instance, &line);
    for action in ["create web", "start web", "die web"] {
        assert!(out.lines().any(|l| l == action), "{action} in {out}");
    }
}

#[test]
fn volumes_go_to_the_trash_and_come_back() {
    let instance = engine();
    assert_eq!(
        ok(&instance, &["volume", "create", "--label", "a=b", "data"]),
        "data\n"
    );
    let run = |command: &str| {
        ok(
            &instance,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "-v",
                "data:/d",
                "busybox",
                "sh",
                "-c",
                command,
            ],
        )
    };
    run("echo kept > /d/f");
    assert_eq!(
        ok(
            &instance,
            &["volume", "ls", "--format", "{{.Name}} {{.Label \"a\"}}"]
        ),
        "data b\n"
    );
    // Row "Volume loss" of FAILURES
    assert_eq!(ok(&instance, &["volume", "rm", "data"]), "data\n");
    assert_eq!(ok(&instance, &["volume", "ls", "-q"]), "");
    assert_eq!(ok(&instance, &["volume", "ls", "-q", "--trash"]), "data\n");
    assert_eq!(ok(&instance, &["volume", "restore", "data"]), "data\n");
    assert_eq!(run("cat /d/f"), "kept\n");
    assert!(plimsoll(&instance, &["volume", "rm", "nope"]).code == Some(1));
}

#[test]
fn images_travel() {
    let instance = engine();
    let archive = instance.path().join("image.tar");
    let archive = archive.to_str().expect("text");
    ok(&instance, &["tag", "busybox", "other:1"]);
    ok(&instance, &["save", "-o", archive, "busybox", "other:1"]);
    assert_eq!(ok(&instance, &["rmi", "other:1"]), "Untagged: other:1\n");
    assert!(ok(&instance, &["rmi", "busybox"]).contains("Deleted: sha256:"));
    assert_eq!(ok(&instance, &["images", "-q"]), "");
    let loaded = ok(&instance, &["load", "-i", archive]);
    assert!(
        loaded.contains("Loaded image: busybox:latest") && loaded.contains("Loaded image: other:1"),
        "{loaded}"
    );
    // commit, export, import
    ok(
        &instance,
        &[
            "run",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo new > /new",
        ],
    );
    let id = ok(
        &instance,
        &[
            "commit",
            "-m",
            "a file",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "web",
            "made:1",
        ],
    );
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(
        ok(&instance, &["run", "--rm", "--network", "none", "made:1"]),
        "new\n"
    );
    assert!(ok(&instance, &["history", "made:1"]).contains("a file"));
    let tar = instance.path().join("root.tar");
    let tar = tar.to_str().expect("text");
    ok(&instance, &["export", "-o", tar, "web"]);
    ok(
        &instance,
        &[
            "import",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "-c",
            "ENV PATH=/bin",
            tar,
            "back:1",
        ],
    );
    assert_eq!(
        ok(&instance, &["run", "--rm", "--network", "none", "back:1"]),
        "new\n"
    );
    // from standard input, and what is no archive
    let bytes = std::fs::read(archive).expect("saved");
    assert!(
        feed(&instance, &["load"], &bytes)
            .out
            .contains("Loaded image: busybox:latest")
    );
    assert_eq!(feed(&instance, &["load"], b"no archive").code, Some(1));
    assert_eq!(plimsoll(&instance, &["save", "nope"]).code, Some(1));
}

#[test]
fn the_engine_is_described() {
    let instance = engine();
    assert!(ok(&instance, &["info"]).contains("Images: 1"));
    assert!(ok(&instance, &["version", "-f", "{{.Server.Version}}"]).starts_with("0."));
    assert!(ok(&instance, &["system", "df"]).contains("Images          1"));
    assert_eq!(plimsoll(&instance, &["fsck"]).code, Some(0));
    assert!(ok(&instance, &["system", "prune", "-f"]).contains("Total reclaimed space"));
    let offered = ok(&instance, &["__complete", "run", "bus"]);
    assert_eq!(offered, "busybox\timage\n");
}

#[test]
fn an_engine_is_started_only_where_that_is_asked_for() {
    let instance = Instance::prepared();
    let line = || {
        let mut command = instance.plimsoll_command();
        command.args(["version", "-f", "{{.Server.Version}}"]);
        command
    };
    let said: Said = line().output().expect("it runs").into();
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("Cannot connect") && said.err.contains("plimsoll daemon"),
        "{said:?}"
    );
    let flags = format!(
        "--bridge none --data-root {} --exec-root {} --pidfile {}",
        instance.data_root().display(),
        instance.exec_root().display(),
        instance.path().join("pid").display()
    );
    let said: Said = line()
        .env("PLIMSOLL_AUTOSTART", flags)
        // the mark by which the harness finds what it has to end
        .env("PLIMSOLL_TEST_INSTANCE", instance.path())
        .output()
        .expect("it runs")
        .into();
    assert_eq!(said.code, Some(0), "{said:?}");
    // the next command finds it
    assert!(line().status().expect("it runs").success());
}

/// Both clients, one engine: what a script sees must be the same.
#[test]
fn docker_and_plimsoll_say_the_same() {
    let instance = engine();
    ok(
        &instance,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "none",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "echo out; sleep 1000",
        ],
    );
    ok(
        &instance,
        &[
            "run",
            "--name",
            "done",
            "--network",
            "none",
            "busybox",
            "true",
        ],
    );
    for line in [
        &["ps", "-aq", "--no-trunc"][..],
        &[
            "ps",
            "-a",
            "--format",
            "{{.ID}} {{.Image}} {{.Command}} {{.Names}} {{.State}} {{.Mounts}} {{.Networks}}",
        ],
        &[
            "ps",
            "-a",
            "--format",
            "table {{.Names}}\t{{.Command}}\t{{.Ports}}",
        ],
        &["ps", "-q", "--filter", "status=exited"],
        &[
            "images",
            "--no-trunc",
            "--format",
            "{{.Repository}} {{.Tag}} {{.ID}} {{.Size}}",
        ],
        &["images", "-q"],
        &["volume", "ls"],
        &["volume", "inspect", "data"],
        &[
            "inspect",
            "-f",
            "{{.Id}} {{.State.Running}} {{json .HostConfig.Binds}} {{.Name}}",
            "web",
        ],
        &[
            "inspect",
            "-f",
            "{{range .Mounts}}{{.Name}}:{{.Destination}} {{end}}",
            "web",
        ],
        &["inspect", "-f", "{{.Nope}}", "web"],
        &["inspect", "nope"],
        &["logs", "web"],
        &["logs", "nope"],
        &["diff", "done"],
        &["port", "web"],
        &["wait", "done"],
        &["exec", "web", "sh", "-c", "echo a; echo b >&2; exit 5"],
        &["exec", "web", "nope"],
        &["exec", "done", "true"],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "exit 42",
        ],
        &["run", "--rm", "--network", "none", "busybox", "nope"],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "--entrypoint",
            "/etc/passwd",
            "busybox",
        ],
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-e",
            "A=1",
            "-u",
            "5",
            "busybox",
            "sh",
            "-c",
            "echo $A; id -u",
        ],
        &["history", "--format", "{{.CreatedBy}} {{.Size}}", "busybox"],
        &["stop", "nope"],
        &["rmi", "nope"],
        &["volume", "rm", "data"],
        &["volume", "rm", "nope"],
        &["rm", "web"],
        &["kill", "done"],
        &["tag", "nope", "x:y"],
        &["rename", "done", "web"],
        &["run", "--memory", "x", "busybox"],
        &["run", "--nope"],
        &["ps", "x"],
        &["frobnicate"],
    ] {
        let ours = plimsoll(&instance, line);
        let theirs: Said = instance.docker(line).into();
        assert_eq!(
            (ours.code, &ours.out),
            (theirs.code, &theirs.out),
            "{line:?}: {} {}",
            ours.err,
            theirs.err
        );
    }
}
