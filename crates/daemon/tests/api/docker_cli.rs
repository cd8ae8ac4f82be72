//! What people do with docker, done by the real docker command.

use std::fs;
use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::time::Duration;

use testkit::image::BUSYBOX;
use testkit::instance::Instance;
use testkit::{Snapshot, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// An engine with busybox, and the docker command; nothing is left behind at the end.
struct Docker {
    engine: Instance,
    before: Snapshot,
}

/// A command line: text, in which single quotes hold words together, or a list.
trait Words {
    fn list(&self) -> Vec<String>;
}

impl Words for &str {
    fn list(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (n, part) in self.split('\'').enumerate() {
            if n % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }
}

impl<const N: usize> Words for &[&str; N] {
    fn list(&self) -> Vec<String> {
        self.iter().map(|w| (*w).to_owned()).collect()
    }
}

impl Words for &Vec<String> {
    fn list(&self) -> Vec<String> {
        self.to_vec()
    }
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Docker {
    fn new() -> Self {
        let engine = Instance::with_busybox();
        // the store makes what was loaded stable in the background
        let data = engine.data_root().display().to_string();
        until("the store is at rest", PATIENCE, || {
            let open = engine.daemon()?.descriptors();
            (!open.values().any(|path| *path == data)).then_some(())
        });
        let before = Snapshot::take(&engine);
        Self { engine, before }
    }

    fn command(&self, words: &impl Words) -> std::process::Command {
        let mut command = self.engine.docker_command();
        command.args(words.list());
        command
    }

    fn run(&self, words: impl Words) -> Said {
        let mut command = self.command(&words);
        Said::of(
            command
                .stdin(Stdio::null())
                .output()
                .expect("there is a docker command"),
        )
    }

    /// Must succeed; its output without the last newline.
    #[track_caller]
    fn ok(&self, words: impl Words) -> String {
        let list = words.list();
        let said = self.run(words);
        let what = format!(
            "docker {list:?}: {}{}\n{}",
            said.out,
            said.err,
            self.engine.log()
        );
        assert_eq!(said.code, 0, "{what}");
        said.out.trim_end().to_owned()
    }

    /// Must fail with this code; what it says.
    #[track_caller]
    fn fails(&self, code: i32, words: impl Words) -> String {
        let list = words.list();
        let said = self.run(words);
        let what = format!(
            "docker {list:?}: {}{}\n{}",
            said.out,
            said.err,
            self.engine.log()
        );
        assert_eq!(said.code, code, "{what}");
        said.err
    }

    /// With bytes for its stdin.
    fn fed(&self, words: impl Words, input: &[u8]) -> Said {
        let mut command = self.command(&words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker can be executed");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("docker ends");
        // a program that ends early closes its input: what it said is what counts
        drop(writer.join().expect("the writer does not panic"));
        Said::of(output)
    }

    /// Conservation: mounts, control groups, processes, descriptors as before.
    fn nothing_is_left(&self) {
        self.engine.remove_all();
        self.before.assert_settled(&self.engine);
    }
}

/// `docker run` of busybox without a network, which is all there is.
fn run(flags: impl Words, command: impl Words) -> Vec<String> {
    let mut words = "run --network none".list();
    words.extend(flags.list());
    words.push(BUSYBOX.to_owned());
    words.extend(command.list());
    words
}

#[test]
fn a_life_step_by_step() {
    let d = Docker::new();
    let id = d.ok("create --network none --name web --label tier=1 busybox:test sh -c 'echo out; echo err >&2; sleep 1000'");
    assert_eq!(id.len(), 64);
    assert_eq!(d.ok("ps -aq --no-trunc"), id);
    assert_eq!(d.ok("ps -q"), "");
    assert_eq!(
        d.ok("ps -a --format '{{.Names}} {{.Image}} {{.Status}} {{.Label \"tier\"}}'"),
        format!("web {BUSYBOX} Created 1")
    );
    assert_eq!(d.ok("start web"), "web");
    assert!(d.ok("ps --format {{.Status}}").starts_with("Up "));
    assert_eq!(
        d.ok("inspect -f '{{.State.Status}} {{.State.Running}} {{.Name}} {{.HostConfig.NetworkMode}}' web"),
        "running true /web none"
    );
    until("both lines are logged", PATIENCE, || {
        let said = d.run("logs web");
        (said.out == "out\n" && said.err == "err\n").then_some(())
    });
    assert_eq!(
        d.fails(1, "create --name web busybox:test")
            .matches("Conflict")
            .count(),
        1
    );
    assert_eq!(d.ok("rename web site"), "");
    assert_eq!(d.ok("ps --filter name=^/site$ --format {{.Names}}"), "site");
    assert_eq!(d.ok("pause site"), "site");
    assert!(d.ok("ps --format {{.Status}}").ends_with("(Paused)"));
    assert_eq!(d.ok("unpause site"), "site");
    assert_eq!(d.ok("update --memory 64m --memory-swap 64m site"), "site");
    assert_eq!(d.ok("inspect -f {{.HostConfig.Memory}} site"), "67108864");
    assert!(d.fails(1, "rm site").contains("running"));
    assert_eq!(d.ok("restart -t 1 site"), "site");
    assert_eq!(d.ok("kill site"), "site");
    assert_eq!(d.ok("wait site"), "137");
    assert!(
        d.ok("ps -a --format {{.Status}}")
            .starts_with("Exited (137) ")
    );
    assert_eq!(d.ok("start site"), "site");
    assert_eq!(d.ok("stop -t 1 site"), "site");
    assert_eq!(d.ok("rm site"), "site");
    assert!(d.fails(1, "inspect site").contains("No such object"));
    d.nothing_is_left();
}

#[test]
fn run_and_its_exit_codes() {
    let d = Docker::new();
    let said = d.run(&run("--rm", "sh -c 'echo out; echo err >&2; exit 7'"));
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (7, "out\n", "err\n")
    );
    let said = d.fed(&run("--rm -i", "cat"), b"fed\n");
    assert_eq!((said.code, said.out.as_str()), (0, "fed\n"), "{}", said.err);
    let large: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| [b'a' + (n % 26) as u8])
        .collect();
    let said = d.fed(
        &run("--rm -i", "sh -c 'cat; cat /proc/self/nothing'"),
        &large,
    );
    assert_eq!(
        (said.code, said.out.len()),
        (1, large.len()),
        "{}",
        said.err
    );
    assert_eq!(
        d.ok(&run("--rm -t", "echo x")),
        "x",
        "a terminal's newline is \\r\\n"
    );
    assert!(
        d.fails(127, &run("--rm", "nonexistent"))
            .contains("executable file not found in $PATH")
    );
    assert!(
        d.fails(126, &run("--rm", "/etc"))
            .contains("permission denied")
    );
    assert!(
        d.fails(125, "run --pull never nonexistent")
            .contains("No such image")
    );
    assert!(
        d.fails(125, "run 127.0.0.1:1/nonexistent")
            .contains("127.0.0.1:1: client error"),
        "it says which registry does not answer"
    );
    assert!(
        d.fails(125, &run("-p 80:80", "true"))
            .contains("ports cannot be published")
    );
    let said = d.run(&run(
        "--rm -e A=1 -w /tmp -u user -h box",
        "sh -c 'echo $A $(pwd) $(id -un) $(hostname)'",
    ));
    assert_eq!(said.out, "1 /tmp user box\n", "{}", said.err);
    until("they are removed", PATIENCE, || {
        d.ok("ps -aq --filter status=exited")
            .is_empty()
            .then_some(())
    });
    d.nothing_is_left();
}

#[test]
fn logs_in_all_their_ways() {
    let d = Docker::new();
    d.ok(&run(
        "-d --name talk",
        "sh -c 'for i in 1 2 3 4 5; do echo line $i; done; sleep 1; echo last'",
    ));
    until("five lines are there", PATIENCE, || {
        (d.ok("logs talk").lines().count() >= 5).then_some(())
    });
    let followed = d.ok("logs -f talk");
    assert!(followed.ends_with("line 5\nlast"), "{followed}");
    assert_eq!(d.ok("logs --tail 2 talk"), "line 5\nlast");
    let stamped = d.ok("logs -t --tail 1 talk");
    let (stamp, text) = stamped.split_once(' ').expect("a time and a line");
    assert_eq!(
        (text, stamp.len()),
        ("last", "2024-01-02T03:04:05.123456789Z".len())
    );
    assert_eq!(d.ok(&["logs", "--since", stamp, "talk"]), "last");
    assert_eq!(d.ok(&["logs", "--until", stamp, "talk"]).lines().count(), 6);
    assert_eq!(d.ok("logs --until 2020-01-01T00:00:00 talk"), "");
    d.nothing_is_left();
}

#[test]
fn exec_attached_detached_and_not_startable() {
    let d = Docker::new();
    d.ok(&run("-d --name box", "sleep 1000"));
    let said = d.run("exec -e A=2 -w /tmp box sh -c 'echo $A $(pwd); echo bad >&2; exit 3'");
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (3, "2 /tmp\n", "bad\n")
    );
    let said = d.fed("exec -i box tr a-z A-Z", b"loud");
    assert_eq!((said.code, said.out.as_str()), (0, "LOUD"));
    let missing = d.run("exec box nonexistent");
    assert_eq!(missing.code, 127, "{}{}", missing.out, missing.err);
    assert!((missing.out + &missing.err).contains("executable file not found in $PATH"));
    assert_eq!(d.run("exec box /etc").code, 126);
    d.ok("exec -d box sh -c 'echo done > /tmp/detached'");
    until("the detached one is done", PATIENCE, || {
        (d.run("exec box cat /tmp/detached").out == "done\n").then_some(())
    });
    let top = d.ok("top box");
    assert!(top.contains("sleep 1000") && top.contains("PID"), "{top}");
    let stats = d.ok("stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}'");
    assert!(
        stats.starts_with("box 1 ") && stats.contains("B / "),
        "{stats}"
    );
    d.ok("kill box");
    assert!(d.fails(1, "exec box true").contains("is not running"));
    d.nothing_is_left();
}

#[test]
fn attach_and_start_with_streams() {
    let d = Docker::new();
    d.ok("create --network none -i --name box busybox:test cat");
    let said = d.fed("start -ai box", b"one\n");
    assert_eq!((said.code, said.out.as_str()), (0, "one\n"), "{}", said.err);
    d.ok(&run(
        "-d --name bee",
        "sh -c 'while ! [ -e /tmp/go ]; do sleep 0.1; done; echo heard; exit 5'",
    ));
    let mut attach = d.engine.docker_command();
    let mut attach = attach
        .args(["attach", "bee"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    d.ok("exec bee touch /tmp/go");
    let mut heard = String::new();
    attach
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut heard)
        .unwrap();
    assert_eq!(
        (attach.wait().unwrap().code(), heard.as_str()),
        (Some(5), "heard\n")
    );
    d.nothing_is_left();
}

#[test]
fn volumes_keep_what_containers_leave() {
    let d = Docker::new();
    assert_eq!(d.ok("volume create --label a=b data"), "data");
    assert_eq!(
        d.ok("volume create data"),
        "data",
        "asked for again it is the same"
    );
    d.ok(&run("--rm -v data:/data", "sh -c 'echo kept > /data/file'"));
    assert_eq!(
        d.ok(&run(
            "--rm --mount type=volume,src=data,dst=/x,readonly",
            "cat /x/file"
        )),
        "kept"
    );
    let denied = d.run(&run("--rm -v data:/data:ro", "touch /data/x"));
    assert!(
        denied.code == 1 && denied.err.contains("Read-only file system"),
        "{}",
        denied.err
    );
    assert_eq!(
        d.ok("volume inspect -f '{{.Name}} {{.Driver}} {{.Labels.a}}' data"),
        "data local b"
    );
    d.ok("create --name holder -v data:/data busybox:test");
    assert!(d.fails(1, "volume rm data").contains("in use"));
    assert_eq!(d.ok("volume ls -q --filter dangling=true"), "");
    d.ok("rm holder");
    assert_eq!(d.ok("volume rm data"), "data");
    // older clients say it themselves, with a capital letter
    let gone = d.fails(1, "volume inspect data").to_lowercase();
    assert!(gone.contains("no such volume"), "{gone}");
    // P7: from the trash it comes back
    let api = d.engine.api();
    assert_eq!(
        api.get("/plimsoll/volumes/trash").unwrap().ok().json()[0]["Name"],
        "data"
    );
    api.post("/plimsoll/volumes/data/restore", &serde_json::Value::Null)
        .unwrap()
        .ok();
    assert_eq!(d.ok(&run("--rm -v data:/d", "cat /d/file")), "kept");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("in"), "from the host").unwrap();
    let bind = format!("{}:/host", host.path().display());
    assert_eq!(
        d.ok(&run(
            &["--rm", "-v", &bind],
            "sh -c 'cat /host/in; echo back > /host/out'"
        )),
        "from the host"
    );
    assert_eq!(
        fs::read_to_string(host.path().join("out")).unwrap(),
        "back\n"
    );
    assert_eq!(
        d.ok(&run(
            "--rm --tmpfs /t:size=64k",
            &["sh", "-c", "mount | grep -c 'on /t type tmpfs'"]
        )),
        "1"
    );
    d.ok("volume rm data");
    d.nothing_is_left();
}

#[test]
fn copies_in_and_out() {
    let d = Docker::new();
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name).display().to_string();
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/a"), "A").unwrap();
    std::os::unix::fs::symlink("a", at("dir/link")).unwrap();
    for (name, started) in [("stopped", false), ("running", true)] {
        d.ok(&[
            "create",
            "--network",
            "none",
            "--name",
            name,
            BUSYBOX,
            "sleep",
            "1000",
        ]);
        if started {
            d.ok(&["start", name]);
        }
        d.ok(&["cp", &at("dir"), &format!("{name}:/tmp/")]);
        d.ok(&["cp", &format!("{name}:/tmp/dir"), &at(name)]);
        assert_eq!(fs::read_to_string(at(&format!("{name}/a"))).unwrap(), "A");
        assert_eq!(
            fs::read_link(at(&format!("{name}/link"))).unwrap().to_str(),
            Some("a")
        );
        let said = d.run(&["cp", &format!("{name}:/nonexistent"), &at("x")]);
        assert!(
            said.code == 1 && said.err.contains("/nonexistent"),
            "{}",
            said.err
        );
        let diff = d.ok(&["diff", name]);
        assert!(
            diff.contains("A /tmp/dir/a") && diff.contains("C /tmp"),
            "{diff}"
        );
        let said = d.run(&["export", "-o", &at("tree.tar"), name]);
        assert_eq!(said.code, 0, "{}", said.err);
        let tar = fs::read(at("tree.tar")).unwrap();
        assert!(tar.windows(9).any(|w| w == b"tmp/dir/a"));
    }
    d.nothing_is_left();
}

#[test]
fn images_in_and_out() {
    let d = Docker::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(d.ok("images --format {{.Repository}}:{{.Tag}}"), BUSYBOX);
    d.ok("tag busybox:test other/name:v1");
    let id = d.ok("images -q --no-trunc other/name:v1");
    assert_eq!(
        d.ok("inspect --type image -f '{{.Id}} {{index .Config.Cmd 0}} {{.Os}}' other/name:v1"),
        format!("{id} sh linux")
    );
    d.ok(&["save", "-o", &at("saved.tar"), "other/name:v1"]);
    assert!(
        d.ok("rmi other/name:v1")
            .contains("Untagged: other/name:v1")
    );
    assert!(d.ok("rmi busybox:test").contains("Deleted: sha256:"));
    assert_eq!(d.ok("images -q"), "");
    assert!(
        d.ok(&["load", "-i", &at("saved.tar")])
            .contains("Loaded image: other/name:v1")
    );
    assert_eq!(d.ok("images -q --no-trunc"), id, "the same image again");
    assert!(d.fails(1, "load -i /etc/passwd").contains("archive"));
    d.ok("tag other/name:v1 busybox:test");
    d.ok(&run("--name box", "sh -c 'echo made > /made'"));
    let made =
        d.ok("commit -m 'a message' -a me -c 'ENV X=1' -c 'CMD [\"cat\", \"/made\"]' box made:1");
    assert!(made.starts_with("sha256:"));
    assert_eq!(d.ok("run --rm --network none made:1"), "made");
    assert!(d.ok("history --no-trunc made:1").contains("a message"));
    d.ok(&["export", "-o", &at("tree.tar"), "box"]);
    d.ok(&[
        "import",
        "-c",
        "CMD [\"cat\", \"/made\"]",
        &at("tree.tar"),
        "flat:1",
    ]);
    assert_eq!(d.ok("run --rm --network none flat:1"), "made");
    let said = d.fails(1, &["rmi", &id]);
    assert!(said.contains("several names"), "{said}");
    d.ok("rm box");
    assert!(d.ok("images --filter reference=made --format {{.Tag}}") == "1");
    d.ok("rmi made:1 flat:1");
    d.nothing_is_left();
}

#[test]
fn events_are_replayed_and_streamed() {
    let d = Docker::new();
    let since = d.engine.api().get("/info").unwrap().json()["SystemTime"]
        .as_str()
        .unwrap()
        .to_owned();
    d.ok(&run("--rm --name eve", "true"));
    until("its end is recorded", PATIENCE, || {
        d.ok("ps -aq").is_empty().then_some(())
    });
    let now = d.engine.api().get("/info").unwrap().json()["SystemTime"]
        .as_str()
        .unwrap()
        .to_owned();
    let events = d.ok(&[
        "events",
        "--since",
        &since,
        "--until",
        &now,
        "--filter",
        "container=eve",
        "--format",
        "{{.Action}}",
    ]);
    assert_eq!(
        events
            .lines()
            .filter(|l| *l != "attach")
            .collect::<Vec<_>>(),
        ["create", "start", "die", "destroy"]
    );
    let code = d.ok(&[
        "events",
        "--since",
        &since,
        "--until",
        &now,
        "--filter",
        "event=die",
        "--format",
        "{{.Actor.Attributes.exitCode}} {{.Actor.Attributes.name}}",
    ]);
    assert_eq!(code, "0 eve");
    d.nothing_is_left();
}

#[test]
fn the_system_and_its_prunes() {
    let d = Docker::new();
    assert!(d.ok("version").contains("Plimsoll"));
    let info = d.ok(
        "info --format '{{.Driver}} {{.LiveRestoreEnabled}} {{.Swarm.LocalNodeState}} {{.Images}}'",
    );
    assert!(info.ends_with(" true inactive 1"), "{info}");
    d.ok(&run("--name done", "true"));
    d.ok(&run("-d --name alive", "sleep 1000"));
    let df = d.ok("system df");
    assert!(
        df.contains("Images") && df.contains("Local Volumes"),
        "{df}"
    );
    assert!(d.ok("system df -v").contains("alive"));
    assert!(d.ok("ps -as --format {{.Size}}").contains("virtual"));
    let pruned = d.ok("system prune -f");
    assert!(pruned.contains("Deleted Containers"), "{pruned}");
    assert_eq!(d.ok("ps -a --format {{.Names}}"), "alive");
    d.ok("volume create named");
    d.ok("volume prune -f");
    assert_eq!(
        d.ok("volume ls -q"),
        "named",
        "a named volume goes only by name"
    );
    d.ok("volume rm named");
    d.ok("rm -f alive");
    d.ok("image prune -f");
    d.ok("container prune -f");
    d.nothing_is_left();
}
