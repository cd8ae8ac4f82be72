//! Builds: each instruction, the cache, what is refused, and builds that are killed.
//! FAILURES "Killed pull leaves half layers", "Orphan layers", "Build cache grows past its cap".

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::crash::{Acknowledged, Action, Scenario, every_step};
use testkit::image::{BUSYBOX, Node, tar};
use testkit::{Instance, Snapshot, until};

use crate::crash::template;
use crate::{attempt, said as text};

const SOON: Duration = Duration::from_secs(20);

/// A build context of files: path and content.
struct Context(tempfile::TempDir);

impl Context {
    fn new(files: &[(&str, &str)]) -> Self {
        let context = Self(tempfile::tempdir().unwrap());
        files
            .iter()
            .for_each(|(path, text)| context.write(path, text));
        context
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.path().join(path), permissions).unwrap();
    }

    /// As a client sends it.
    fn archive(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes = fs::read(entry.path()).expect("a context of files alone");
            entries.push((name, Node::File(bytes, 0o644)));
        }
        tar(&entries)
    }
}

/// `docker build`, as it is where there is no buildx.
fn docker_build(instance: &Instance, context: &Context, options: &[&str]) -> Output {
    let path = context.path().to_str().unwrap();
    let mut command = instance.docker_command();
    command.env("DOCKER_BUILDKIT", "0").arg("build");
    command.args(options).arg(path).output().unwrap()
}

#[track_caller]
fn built(instance: &Instance, context: &Context, options: &[&str]) -> String {
    let output = docker_build(instance, context, options);
    let said = text(&output);
    assert!(output.status.success(), "{said}\n{}", instance.log());
    said
}

#[track_caller]
fn refused(instance: &Instance, context: &Context, options: &[&str]) -> String {
    let output = docker_build(instance, context, options);
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

/// What a container of an image says.
#[track_caller]
fn run(instance: &Instance, image: &str, command: &[&str]) -> String {
    let mut words = vec!["run", "--rm", "--network=none", image];
    words.extend(command);
    let output = instance.docker(&words);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said.trim().to_owned()
}

fn image(instance: &Instance, name: &str) -> Value {
    let path = format!("/images/{name}/json");
    instance.answered(instance.api().get(&path)).ok().json()
}

fn images(instance: &Instance) -> usize {
    let list = instance.answered(instance.api().get("/images/json"));
    list.ok().json().as_array().unwrap().len()
}

fn id_of(instance: &Instance, name: &str) -> String {
    image(instance, name)["Id"].as_str().unwrap().to_owned()
}

fn findings(instance: &Instance) -> Vec<Value> {
    let report = instance.answered(instance.api().post("/plimsoll/fsck", &Value::Null));
    let report = report.ok().json();
    report["Findings"].as_array().unwrap().clone()
}

fn fsck_is_clean(instance: &Instance) {
    assert_eq!(findings(instance), Vec::<Value>::new());
}

fn fits(lines: &[&str]) -> String {
    format!("FROM {BUSYBOX}\n{}\n", lines.join("\n"))
}

/// What `docker build` says and what comes of it: a whole small build by the real command.
#[test]
fn a_build_by_the_docker_command() {
    let instance = Instance::with_busybox();
    let file = fits(&[
        "ARG WHO=world",
        "ENV GREETING=hello",
        "WORKDIR /app/in",
        "COPY greet.sh .",
        "RUN chmod +x greet.sh && echo $WHO > who && echo ran-$GREETING",
        "USER user",
        "CMD [\"./greet.sh\"]",
    ]);
    let script = "#!/bin/sh\necho \"$GREETING, $(cat who)\"\n";
    let context = Context::new(&[("Dockerfile", &file), ("greet.sh", script)]);
    let said = built(&instance, &context, &["-t", "greet:1", "-t", "greet:2"]);
    for line in [
        "Step 1/8 : FROM busybox:test",
        "Step 6/8 : RUN chmod +x greet.sh",
        " ---> Running in ",
        "ran-hello",
        " ---> Removed intermediate container ",
        "Successfully built ",
        "Successfully tagged greet:1",
        "Successfully tagged greet:2",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(run(&instance, "greet:1", &[]), "hello, world");
    assert_eq!(instance.containers(), Vec::<String>::new());
    // the steps are not listed, the base and the result are
    assert_eq!(images(&instance), 2);
    let again = built(&instance, &context, &["-t", "greet:3"]);
    assert!(again.contains(" ---> Using cache"), "{again}");
    assert!(!again.contains("Running in"), "{again}");
    assert_eq!(id_of(&instance, "greet:1"), id_of(&instance, "greet:3"));
    let history = text(&instance.docker(&["history", "--no-trunc", "greet:1"]));
    assert!(history.contains("WORKDIR /app/in"), "{history}");
    let quiet = built(&instance, &context, &["-q"]);
    assert!(quiet.contains(&id_of(&instance, "greet:1")), "{quiet}");
    fsck_is_clean(&instance);
}

/// Every instruction that changes the configuration, in the image's own words.
#[test]
fn instructions_that_configure() {
    let instance = Instance::with_busybox();
    let file = fits(&[
        "MAINTAINER me",
        "ARG V=1",
        "ENV A=$V B=\"two words\"",
        "LABEL one=1 two=${V}",
        "EXPOSE 80 53/udp",
        "VOLUME /data",
        "USER 1000:1000",
        "STOPSIGNAL SIGINT",
        "SHELL [\"/bin/sh\", \"-ec\"]",
        "HEALTHCHECK --interval=5s --retries=3 CMD true",
        "ONBUILD RUN echo triggered",
        "CMD echo hi",
        "ENTRYPOINT [\"echo\"]",
    ]);
    let context = Context::new(&[("Dockerfile", &file)]);
    let arguments = ["-t", "c", "--build-arg", "V=9", "--label", "three=3"];
    built(&instance, &context, &arguments);
    let found = image(&instance, "c");
    let config = &found["Config"];
    assert_eq!(found["Author"], "me");
    let env: Vec<&str> = config["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.as_str().unwrap())
        .collect();
    assert!(
        env.contains(&"A=9") && env.contains(&"B=two words"),
        "{env:?}"
    );
    assert!(!env.iter().any(|e| e.starts_with("V=")), "{env:?}");
    assert_eq!(
        config["Labels"],
        serde_json::json!({"one": "1", "two": "9", "three": "3"})
    );
    assert_eq!(
        config["ExposedPorts"],
        serde_json::json!({"80/tcp": {}, "53/udp": {}})
    );
    assert_eq!(config["Volumes"], serde_json::json!({"/data": {}}));
    assert_eq!(config["User"], "1000:1000");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Shell"], serde_json::json!(["/bin/sh", "-ec"]));
    let health = serde_json::json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 3});
    assert_eq!(config["Healthcheck"], health);
    assert_eq!(config["OnBuild"], serde_json::json!(["RUN echo triggered"]));
    assert_eq!(
        config["Cmd"],
        serde_json::json!(["/bin/sh", "-ec", "echo hi"])
    );
    assert_eq!(config["Entrypoint"], serde_json::json!(["echo"]));
    // an entry point of one's own makes the base's arguments meaningless; triggers run and go
    let child = Context::new(&[("Dockerfile", "FROM c\nUSER root\nENTRYPOINT [\"true\"]\n")]);
    let said = built(&instance, &child, &["-t", "child"]);
    assert!(
        said.contains("# Executing 1 build trigger") && said.contains("triggered"),
        "{said}"
    );
    let found = image(&instance, "child");
    assert!(found["Config"]["Cmd"].is_null(), "{found}");
    assert!(found["Config"]["OnBuild"].is_null(), "{found}");
    // nothing is made of configuration alone
    assert_eq!(
        image(&instance, "c")["RootFS"]["Layers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// Stages: only those that the target needs, files and bases from each other, and from nothing.
#[test]
fn stages_and_targets() {
    let instance = Instance::with_busybox();
    let file = format!(
        "ARG BASE={BUSYBOX}\n\
         FROM $BASE AS never\nRUN echo never-needed && false\n\
         FROM $BASE AS make\nRUN mkdir -p /out/deep && echo made > /out/deep/file && chown 1000:2000 /out/deep/file && ln -s file /out/deep/link && ln /out/deep/file /out/deep/hard\n\
         FROM make AS more\nRUN echo more >> /out/deep/file\n\
         FROM scratch AS files\nCOPY --from=make /out /\n\
         FROM $BASE\nCOPY --from=files / /got/\nCOPY --from=1 /out/deep/file /num\nCOPY --from=more --chown=user /out/deep/file /more\nCOPY --from={BUSYBOX} /etc/group /other\n"
    );
    let context = Context::new(&[("Dockerfile", &file)]);
    let said = built(&instance, &context, &["-t", "staged"]);
    assert!(!said.contains("never-needed"), "{said}");
    let look = "cat /got/deep/file /more; stat -c '%u:%g' /got/deep/file /more; readlink /got/deep/link; stat -c %h /got/deep/hard; test -s /other && cmp /num /got/deep/file";
    let found = run(&instance, "staged", &["sh", "-c", look]);
    assert_eq!(found, "made\nmade\nmore\n1000:2000\n1000:1000\nfile\n2");
    built(&instance, &context, &["-t", "only", "--target", "FILES"]);
    assert_eq!(
        image(&instance, "only")["RootFS"]["Layers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let wrong = refused(&instance, &context, &["--target", "fils"]);
    assert!(wrong.contains("fils") && wrong.contains("files"), "{wrong}");
    fsck_is_clean(&instance);
}

/// What COPY and ADD make of modes, owners, patterns, links and archives.
#[test]
fn files_are_copied_as_docker_copies_them() {
    let instance = Instance::with_busybox();
    let file = fits(&[
        "COPY a.txt b.txt /multi/",
        "COPY *.txt pattern/",
        "COPY --chmod=640 --chown=1000:2000 a.txt /owned/deep/a",
        "COPY tree /tree",
        "COPY --exclude=*.md tree /no-md",
        "COPY --parents tree/in/x.md /parents/",
        "COPY --link a.txt /link",
        "ADD files.tar /unpacked/",
        "COPY files.tar /kept.tar",
        "COPY <<EOF /here\nline $HOME\nEOF",
        "WORKDIR /home",
        "COPY a.txt ./rel",
        "RUN ln -s /multi /way",
        "COPY b.txt /way/c.txt",
    ]);
    let context = Context::new(&[
        ("Dockerfile", &file),
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("tree/x.md", "1"),
        ("tree/y", "2"),
        ("tree/in/x.md", "3"),
    ]);
    context.mode("a.txt", 0o604);
    let inner = tar(&[
        ("d".to_owned(), Node::Directory(0o750)),
        ("d/f".to_owned(), Node::File(b"packed".to_vec(), 0o600)),
        ("l".to_owned(), Node::Symlink("d/f".to_owned())),
    ]);
    fs::write(context.path().join("files.tar"), inner).unwrap();
    built(&instance, &context, &["-t", "copied"]);
    let look = "ls /multi /pattern; stat -c '%a %u:%g %n' /multi/a.txt /owned /owned/deep/a; \
        ls /tree /no-md /no-md/in /parents/tree/in; cat /link /home/rel /unpacked/l; stat -c %a /unpacked/d; test -f /kept.tar && cat /here; \
        test -h /way && cat /multi/c.txt";
    let found = run(&instance, "copied", &["sh", "-c", look]);
    let want = "/multi:\na.txt\nb.txt\nc.txt\n\n/pattern:\na.txt\nb.txt\n\
        604 0:0 /multi/a.txt\n755 1000:2000 /owned\n640 1000:2000 /owned/deep/a\n\
        /no-md:\nin\ny\n\n/no-md/in:\nx.md\n\n/parents/tree/in:\nx.md\n\n/tree:\nin\nx.md\ny\n\
        aapacked750\nline \nb";
    assert_eq!(found, want);
    fsck_is_clean(&instance);
}

/// .dockerignore, also of what a client sends anyway.
#[test]
fn ignored_files_are_not_there() {
    let instance = Instance::with_busybox();
    let file = fits(&["COPY . /all"]);
    let context = Context::new(&[
        ("Dockerfile", &file),
        (
            ".dockerignore",
            "*.log\nDockerfile\n!keep.log\n.dockerignore\n",
        ),
        ("a", "a"),
        ("x.log", "x"),
        ("keep.log", "k"),
    ]);
    built(&instance, &context, &["-t", "ignored"]);
    assert_eq!(
        run(&instance, "ignored", &["ls", "-A", "/all"]),
        "a\nkeep.log"
    );
    let archive = context.archive();
    let sent = instance.api().upload("POST", "/build?t=raw", &archive);
    let sent = instance.answered(sent).ok().text();
    assert!(sent.contains("Successfully tagged raw:latest"), "{sent}");
    assert_eq!(run(&instance, "raw", &["ls", "-A", "/all"]), "a\nkeep.log");
    context.write("Dockerfile", &fits(&["COPY x.log /"]));
    let wrong = refused(&instance, &context, &[]);
    assert!(
        wrong.contains("excluded by .dockerignore: stat x.log"),
        "{wrong}"
    );
}

/// Content, mode and arguments count; times do not.
#[test]
fn the_cache_hits_and_misses() {
    let instance = Instance::with_busybox();
    let file = fits(&[
        "ARG WHAT=1",
        "COPY f /f",
        "RUN echo $WHAT > /made; cat /proc/sys/kernel/random/uuid > /once",
    ]);
    let context = Context::new(&[("Dockerfile", &file), ("f", "one")]);
    let hits = |options: &[&str]| {
        let said = built(&instance, &context, &[options, &["-t", "c"]].concat());
        let hits = said.matches("Using cache").count();
        (hits, id_of(&instance, "c"))
    };
    let (cold, first) = hits(&[]);
    assert_eq!(cold, 0);
    let touched = fs::File::options()
        .write(true)
        .open(context.path().join("f"))
        .unwrap();
    touched
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(hits(&[]), (2, first.clone()));
    assert_eq!(hits(&["--build-arg", "WHAT=2"]).0, 1);
    assert_eq!(hits(&[]), (2, first.clone()));
    context.mode("f", 0o755);
    assert_eq!(hits(&[]).0, 0);
    context.write("f", "two");
    assert_eq!(hits(&[]).0, 0);
    let (none, fresh) = hits(&["--no-cache"]);
    assert_eq!(none, 0);
    assert_eq!(
        hits(&[]),
        (2, fresh),
        "what was made without the cache is in it"
    );
}

/// `system df`, `builder prune`: what images have is not the cache's to free.
#[test]
fn the_cache_is_told_of_and_pruned() {
    let instance = Instance::with_busybox();
    let file = fits(&[
        "RUN head -c 3000000 /dev/urandom > /big",
        "RUN echo top > /top",
    ]);
    let context = Context::new(&[("Dockerfile", &file)]);
    let cache = || {
        let df = instance
            .answered(instance.api().get("/system/df"))
            .ok()
            .json();
        let all = df["BuildCache"].as_array().unwrap().clone();
        let own = all.iter().filter(|c| c["Shared"] == false);
        (
            all.len(),
            own.map(|c| c["Size"].as_u64().unwrap()).sum::<u64>(),
        )
    };
    let prune = |path: &str| {
        let answer = instance.answered(instance.api().post(path, &Value::Null));
        answer.ok().json()["SpaceReclaimed"].as_u64().unwrap()
    };
    built(&instance, &context, &["-t", "big"]);
    assert_eq!(cache(), (2, 0), "the image has all of it");
    assert_eq!(instance.docker(&["rmi", "big"]).status.code(), Some(0));
    let (count, size) = cache();
    assert!(count == 1 && size > 3_000_000, "{count} {size}");
    assert_eq!(prune("/build/prune?keep-storage=100000000"), 0);
    assert_eq!(
        prune("/build/prune?filters=%7B%22until%22%3A%5B%221h%22%5D%7D"),
        0
    );
    let said = text(&instance.docker(&["builder", "prune", "-f", "-a"]));
    assert!(said.contains("Total"), "{said}");
    assert_eq!(cache(), (0, 0));
    let all = instance
        .answered(instance.api().get("/images/json?all=1"))
        .ok()
        .json();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    built(&instance, &context, &["-t", "big"]);
    prune("/build/prune");
    assert_eq!(run(&instance, "big", &["cat", "/top"]), "top");
    fsck_is_clean(&instance);
}

/// A build that fails says these words; answers with the command's exit code.
#[track_caller]
fn says(instance: &Instance, lines: &[&str], options: &[&str], words: &[&str]) -> Option<i32> {
    let context = Context::new(&[("f", "x"), ("Dockerfile", &fits(lines))]);
    let output = docker_build(instance, &context, options);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
    output.status.code()
}

/// In Docker's words, with the exit code of the step, or with the file's lines.
#[test]
fn failures_have_their_words() {
    let instance = Instance::with_busybox();
    let code = says(
        &instance,
        &["RUN echo before; exit 7"],
        &[],
        &[
            "before",
            "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7",
        ],
    );
    assert_eq!(code, Some(7));
    for (line, words) in [
        (
            "COPY nope /",
            [
                "COPY failed: file not found in build context",
                "stat nope: file does not exist",
            ],
        ),
        (
            "COPY no* /",
            ["COPY failed", "no source files were specified"],
        ),
        (
            "COPY f Dockerfile /x",
            [
                "more than one source file",
                "destination must be a directory and end with a /",
            ],
        ),
        (
            "COPPY f /x",
            [
                "unknown instruction: COPPY (did you mean COPY?)",
                ">>> COPPY f /x",
            ],
        ),
        (
            "COPY --chown=nobody-here f /x",
            ["unable to find user", "nobody-here"],
        ),
        ("RUN [\"/no/such\"]", ["/no/such", "no such file"]),
    ] {
        says(&instance, &[line], &[], &words);
    }
    assert_eq!(instance.containers(), Vec::<String>::new());
    assert_eq!(images(&instance), 1);
}

/// Nothing is accepted without effect.
#[test]
fn what_is_not_there_is_refused_by_name() {
    let instance = Instance::with_busybox();
    for (line, word) in [
        ("ADD https://example.test/x /x", "ADD of a URL is not built"),
        (
            "ADD https://example.test/x.git /x",
            "ADD of a git repository is not built",
        ),
        ("RUN --mount=type=ssh true", "type=ssh is not built"),
        (
            "RUN --security=insecure true",
            "--security=insecure is not built",
        ),
        (
            "RUN --mount=type=bind,rw,target=/x true",
            "bind,rw is not built",
        ),
        (
            "RUN --mount=type=secret,id=s,required=true true",
            "secret s not found",
        ),
    ] {
        says(&instance, &[line], &[], &[word]);
    }
    for (options, word) in [
        (["--squash", "--rm"], "squash"),
        (["--cache-from", "x"], "--cache-from"),
        (["--security-opt", "x=y"], "--security-opt"),
        (["-f", "Other"], "Other"),
        (["-t", "UPPER"], "UPPER"),
    ] {
        says(&instance, &["RUN true"], &options, &[word]);
    }
    let archive = small(false);
    for (path, word) in [
        ("/build?version=2", "BuildKit"),
        ("/build?remote=https%3A%2F%2Fx.test%2Fy.git", "remote"),
        ("/build?rm=0", "--rm=false"),
    ] {
        let answer = instance.answered(instance.api().upload("POST", path, &archive));
        assert!(
            !answer.is_ok() && answer.text().contains(word),
            "{path}: {}",
            answer.text()
        );
    }
}

/// What a RUN has around it: shells, heredocs, networks, mounts.
#[test]
fn runs_and_their_mounts() {
    let instance = Instance::with_busybox();
    let file = fits(&[
        "COPY f /f",
        "RUN [\"/bin/sh\", \"-c\", \"echo exec-$0\"]",
        "RUN <<EOF\necho one\necho two > /two\nEOF",
        "RUN <<EOF\n#!/bin/sh\necho script-$0\nEOF",
        "RUN --network=none test ! -e /sys/class/net/eth0",
        "RUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x && grep -q '/t tmpfs' /proc/mounts",
        "RUN --mount=type=bind,target=/ctx cat /ctx/f && ! touch /ctx/x",
        "RUN --mount=type=bind,from=busybox:test,source=/etc,target=/e test -e /e/passwd",
        "RUN --mount=type=cache,target=/cache echo $(cat /cache/n) && echo kept >> /cache/n",
        "RUN --mount=type=cache,target=/cache,sharing=locked echo again-$(cat /cache/n)",
        "RUN --mount=type=secret,id=none test ! -e /run/secrets/none",
        "USER user",
        "RUN id -u",
    ]);
    let context = Context::new(&[("Dockerfile", &file), ("f", "from-context")]);
    let said = built(&instance, &context, &["-t", "runs"]);
    for line in [
        "exec-/bin/sh",
        "\none\n",
        "script-/dev/pipes/EOF",
        "from-context",
        "again-kept",
        "\n1000\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let left = run(
        &instance,
        "runs",
        &[
            "sh",
            "-c",
            "cat /two; ls -d /t /ctx /e /cache /run/secrets 2>&1 | grep -v 'No such' | wc -l",
        ],
    );
    assert_eq!(left, "two\n0", "mount points are no part of the image");
}

/// A build as it is replayed: a file, and with `run` a container.
fn small(run: bool) -> Vec<u8> {
    let lines: &[&str] = match run {
        true => &["RUN echo made > /made", "CMD [\"cat\", \"/made\"]"],
        false => &["COPY f /made", "CMD [\"cat\", \"/made\"]"],
    };
    tar(&[
        (
            "Dockerfile".to_owned(),
            Node::File(fits(lines).into_bytes(), 0o644),
        ),
        ("f".to_owned(), Node::File(b"made\n".to_vec(), 0o644)),
    ])
}

fn send(instance: &Instance, archive: &[u8]) -> Acknowledged {
    let answer = attempt(instance.api().upload("POST", "/build?t=small:1", archive));
    let worked = answer.filter(|a| a.text().contains("Successfully tagged small:1"));
    worked.map(|_| "done".to_owned()).into_iter().collect()
}

fn is_named(instance: &Instance) -> bool {
    let found = instance.api().get("/images/small:1/json");
    instance.answered(found).is_ok()
}

/// Whatever became of it: nothing but finished steps is left, and the next one works.
#[track_caller]
fn is_whole_or_again(instance: &Instance, acknowledged: &Acknowledged, archive: &[u8]) {
    until("a build's container is gone", SOON, || {
        instance.containers().is_empty().then_some(())
    });
    let named = is_named(instance);
    assert!(
        named || !acknowledged.contains("done"),
        "its build was acknowledged"
    );
    // all that a failed build leaves is the cache's
    assert_eq!(images(instance), 1 + usize::from(named));
    let staging = instance.data_root().join("staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    if named {
        let fields = serde_json::json!({"Image": "small:1", "Cmd": null});
        let id = instance.create_with("reader", &[], fields);
        instance.start_container(&id);
        assert_eq!(instance.wait(&id), 0);
        assert_eq!(crate::logs(instance, &id), "made\n");
        instance.remove(&id);
    }
    assert!(!send(instance, archive).is_empty(), "{}", instance.log());
    // blobs that nobody came to need are collected in the background
    until("all that is stored to be needed", SOON, || {
        findings(instance).is_empty().then_some(())
    });
}

fn replay(name: &'static str, run: bool, actions: &[Action]) {
    let archive = small(run);
    let scenario = Scenario {
        name,
        prepare: &|_| {},
        operation: &|i| send(i, &archive),
        check: &|i, acknowledged| is_whole_or_again(i, acknowledged, &archive),
    };
    every_step(&scenario, &template(), &["daemon"], actions);
}

#[test]
fn a_copy_with_a_fault_at_every_step() {
    replay("build with a copy", false, &[Action::Kill, Action::Enospc]);
}

/// What spawner and shim do at their deaths is the business of containers: see `crash`.
#[test]
fn a_run_killed_at_every_step() {
    replay("build with a run", true, &[Action::Kill]);
}

/// The engine is killed while a RUN goes on: the next one ends it, and what was finished is found.
#[test]
fn kill_9_in_the_middle_of_a_run() {
    let mut instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let context = Context::new(&[(
        "Dockerfile",
        &fits(&["RUN echo first", "RUN echo second; sleep 1000"]),
    )]);
    let path = context.path().to_str().unwrap().to_owned();
    let mut command = instance.docker_command();
    let mut client = command
        .env("DOCKER_BUILDKIT", "0")
        .args(["build", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap() == "second"), "it comes that far");
    instance.kill9();
    assert!(!client.wait().unwrap().success());
    instance.start();
    until("the RUN's container is gone", SOON, || {
        instance.containers().is_empty().then_some(())
    });
    clean.without(&["layers"]).assert_settled(&instance);
    context.write("Dockerfile", &fits(&["RUN echo first", "RUN echo other"]));
    let said = built(&instance, &context, &[]);
    assert_eq!(said.matches("Using cache").count(), 1, "{said}");
}

/// A client that goes away ends its build, and leaves nothing.
#[test]
fn a_client_that_goes_away_ends_its_build() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let context = Context::new(&[("Dockerfile", &fits(&["RUN echo begun; sleep 1000"]))]);
    let path = context.path().to_str().unwrap().to_owned();
    let mut command = instance.docker_command();
    let mut client = command
        .env("DOCKER_BUILDKIT", "0")
        .args(["build", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap() == "begun"), "it comes that far");
    client.kill().unwrap();
    client.wait().unwrap();
    until("the RUN's container is gone", SOON, || {
        instance.containers().is_empty().then_some(())
    });
    clean.assert_settled(&instance);
}

/// `plimsoll build`: a directory, a Dockerfile from elsewhere, an archive and a Dockerfile on standard input.
#[test]
fn our_command_line_builds_the_same() {
    let instance = Instance::with_busybox();
    let file = fits(&["ARG WHO", "COPY . /all", "RUN echo $WHO > /who"]);
    let files = [
        ("Dockerfile", file.as_str()),
        (".dockerignore", "*.log\n"),
        ("x.log", "x"),
        ("in/f", "f"),
    ];
    let context = Context::new(&files);
    let path = context.path().to_str().unwrap();
    let build = |arguments: &[&str]| {
        let output = instance.plimsoll(&[&["build"], arguments].concat());
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said
    };
    build(&["-t", "ours", "--build-arg", "WHO=me", path]);
    let look = ["sh", "-c", "cd /all; find . -type f | sort; cat /who"];
    let found = run(&instance, "ours", &look);
    assert_eq!(found, "./.dockerignore\n./Dockerfile\n./in/f\nme");
    let docker = built(
        &instance,
        &context,
        &["-t", "docker", "--build-arg", "WHO=me"],
    );
    assert!(docker.contains("Using cache"), "{docker}");
    assert_eq!(id_of(&instance, "ours"), id_of(&instance, "docker"));
    let elsewhere = Context::new(&[("other", &fits(&["COPY in/f /g"]))]);
    let other = elsewhere.path().join("other");
    let id = build(&["-q", "-t", "other", "-f", other.to_str().unwrap(), path]);
    assert_eq!(id.trim(), id_of(&instance, "other"));
    assert_eq!(run(&instance, "other", &["cat", "/g"]), "f");
    let input = |bytes: &[u8], name: &str| {
        let mut command = instance.plimsoll_command();
        let mut child = command
            .args(["build", "-t", name, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
    };
    input(fits(&["RUN echo alone > /alone"]).as_bytes(), "alone");
    assert_eq!(run(&instance, "alone", &["cat", "/alone"]), "alone");
    input(&small(false), "piped");
    assert_eq!(run(&instance, "piped", &[]), "made");
    let wrong = instance.plimsoll(&["build", "--squash", path]);
    assert!(text(&wrong).contains("squash"), "{}", text(&wrong));
    let pruned = text(&instance.plimsoll(&["builder", "prune", "-f"]));
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
}
