//! Client libraries, unmodified and of pinned versions, in what their users do on a day; the same against dockerd.
//!
//! A script asserts what must be so of any engine, and tells what it saw, a line for each step. What it sees of an
//! instance and of dockerd differs only where docs/clients.md says so, and says why.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::image::Image;
use testkit::{Dockerd, Instance, Snapshot};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clients");
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/clients.md");

/// Where `cargo xtask test` has put the libraries.
#[track_caller]
fn installed(part: &str) -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let target = me.ancestors().nth(3).unwrap();
    let dir = target.join("clients").join(part);
    assert!(
        dir.is_dir(),
        "no client libraries in {}: `cargo xtask clients` installs them",
        dir.display()
    );
    dir
}

fn python(script: &str) -> Command {
    let mut command = testkit::instance::command("python3");
    command
        .arg(Path::new(SCRIPTS).join(script))
        .env("PYTHONPATH", installed("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn node(script: &str) -> Command {
    let mut command = testkit::instance::command("node");
    command
        .arg(Path::new(SCRIPTS).join(script))
        .env("CLIENT_LIBRARIES", installed("node"));
    command
}

/// Of each step what was seen: paths in a document and what is there.
type Transcript = BTreeMap<String, String>;

/// Runs it to its end; `version`: the one of the API to speak, or the newest that both know.
#[track_caller]
fn transcript(mut client: Command, socket: &Path, version: Option<&str>) -> Transcript {
    let config = socket.with_file_name("docker-config");
    std::fs::create_dir_all(&config).unwrap();
    let client = client
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env("DOCKER_CONFIG", &config)
        .env("TMPDIR", config)
        .envs(version.map(|v| ("CLIENT_API_VERSION", v)))
        .stdin(Stdio::null());
    let output = client.output().expect("the client can be executed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.ends_with("[\"end\",\"\"]\n"),
        "{client:?}: {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut all = Transcript::new();
    for line in said.lines() {
        let (step, value): (String, Value) = serde_json::from_str(line).unwrap();
        flatten(&step, &value, &mut all);
    }
    all
}

fn flatten(path: &str, value: &Value, out: &mut Transcript) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                flatten(&format!("{path}.{name}"), field, out);
            }
        }
        other => drop(out.insert(path.to_owned(), other.to_string())),
    }
}

/// The table's differences of this client, and the version of dockerd that it is of.
fn documented(client: &str) -> (BTreeSet<String>, String) {
    let text = std::fs::read_to_string(TABLE).unwrap();
    let (_, table) = text.split_once("<!-- differences -->").unwrap();
    let (table, _) = table.split_once("<!-- /differences -->").unwrap();
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, of, step, _, _, why, _] = cells[..] else {
            return None;
        };
        assert!(!why.is_empty(), "a difference without a reason: {line}");
        (of == client).then(|| step.trim_matches('`').to_owned())
    });
    let rows = rows.collect();
    let (_, version) = text.split_once("compared with dockerd ").unwrap();
    let version = version.split_whitespace().next().unwrap();
    (rows, version.trim_end_matches(['.', ',', ':']).to_owned())
}

/// For who reads the test's output.
fn say(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").unwrap();
}

/// What a client sees of dockerd, in the newest version of the API that it speaks.
struct Reference {
    version: String,
    api: String,
    seen: Transcript,
}

/// `None` where there is no dockerd.
fn of_dockerd(client: impl Fn() -> Command + Sync) -> Option<Reference> {
    let dockerd = Dockerd::start()?;
    dockerd.load(&Image::busybox().unwrap());
    let (version, api) = dockerd.versions();
    let seen = dockerd.inside(|| transcript(client(), &dockerd.socket(), Some(&api)));
    Some(Reference { version, api, seen })
}

/// The client does what it does with an instance, in the newest version of the API and in dockerd's; of that it sees
/// what it sees of dockerd, but for what the table has.
#[track_caller]
fn as_with_dockerd(name: &str, client: impl Fn() -> Command + Sync) {
    let (instance, reference) = std::thread::scope(|scope| {
        // dockerd takes its time
        let reference = scope.spawn(|| of_dockerd(&client));
        let instance = Instance::networked();
        let clean = Snapshot::take(&instance);
        instance.inside(|| transcript(client(), &instance.socket(), None));
        clean.assert_settled(&instance);
        (
            instance,
            reference.join().expect("the client, with dockerd"),
        )
    });
    let Some(reference) = reference else {
        // the half of the test that is about the instance has run
        say(&format!(
            "{name} was not compared with dockerd: install the package docker.io"
        ));
        return;
    };
    let api = Some(reference.api.as_str());
    let ours = instance.inside(|| transcript(client(), &instance.socket(), api));
    compare(name, &ours, &reference);
}

#[track_caller]
fn compare(client: &str, ours: &Transcript, reference: &Reference) {
    let Reference { version, seen, .. } = reference;
    let steps: BTreeSet<&String> = ours.keys().chain(seen.keys()).collect();
    let differ: BTreeSet<String> = steps
        .into_iter()
        .filter(|step| ours.get(*step) != seen.get(*step))
        .cloned()
        .collect();
    let (known, of) = documented(client);
    let line = |step: &String| {
        let of = |all: &Transcript| all.get(step).cloned().unwrap_or_else(|| "-".to_owned());
        format!(
            "| {client} | `{step}` | `{}` | `{}` | |",
            of(seen),
            of(ours)
        )
    };
    let new: Vec<String> = differ.difference(&known).map(line).collect();
    let gone: Vec<&String> = known.difference(&differ).collect();
    let report = format!(
        "of dockerd {version}, not in the table of docs/clients.md:\n{}\nin the table, but the same: {gone:#?}",
        new.join("\n")
    );
    if version.starts_with(&of) {
        assert!(new.is_empty() && gone.is_empty(), "{report}");
    } else {
        // each version has its own fields: what must be so of any, the script has asserted
        say(&format!("the table is of dockerd {of}; {report}"));
    }
}

#[test]
fn docker_py() {
    as_with_dockerd("docker-py", || python("docker_py.py"));
}

#[test]
fn testcontainers_for_python() {
    as_with_dockerd("testcontainers-python", || python("testcontainers_py.py"));
}

#[test]
fn dockerode() {
    as_with_dockerd("dockerode", || node("dockerode.mjs"));
}

#[test]
fn testcontainers_for_node() {
    as_with_dockerd("testcontainers-node", || node("testcontainers.mjs"));
}
