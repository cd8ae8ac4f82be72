//! Builds: each instruction, the cache, what is refused, and builds that are killed.
//! FAILURES "Killed pull leaves half layers", "Orphan layers", "Build cache grows past its cap".

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use testkit::Instance;
use testkit::image::{BUSYBOX, Node, tar};

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

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
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

fn fsck_is_clean(instance: &Instance) {
    let report = instance.answered(instance.api().post("/plimsoll/fsck", &Value::Null));
    let report = report.ok().json();
    assert_eq!(report["Findings"], serde_json::json!([]), "{report}");
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
