//! Log drivers: what a container says reaches its sink, whatever dies or hangs, and stays readable.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Instance, Snapshot, until};

const PATIENCE: Duration = Duration::from_secs(30);
const BOTH: &str = "echo to out; echo to err >&2";

fn driver(name: &str, options: Value) -> Value {
    json!({"HostConfig": {"LogConfig": {"Type": name, "Config": options}}})
}

fn run(instance: &Instance, name: &str, script: &str, fields: Value) -> String {
    let id = instance.create_with(name, &["sh", "-c", script], fields);
    instance.start_container(&id);
    id
}

/// All that comes to a listener, of all its connections.
fn collect(listener: TcpListener) -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tx) = (stream.unwrap(), tx.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 64 << 10];
                while let Ok(n) = stream.read(&mut buffer) {
                    if n == 0 || tx.send(buffer[..n].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    rx
}

/// What has come, until it holds all of these.
#[track_caller]
fn until_text(rx: &mpsc::Receiver<Vec<u8>>, wanted: &[&str]) -> String {
    let mut got = Vec::new();
    until(&format!("{wanted:?} at the sink"), PATIENCE, || {
        got.extend(rx.try_iter().flatten());
        let text = String::from_utf8_lossy(&got).into_owned();
        wanted.iter().all(|w| text.contains(w)).then_some(text)
    })
}

fn loopback() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn syslog_gets_both_streams_in_the_format_asked_for() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let (listener, address) = loopback();
    let sink = collect(listener);
    let options = json!({
        "syslog-address": format!("tcp://{address}"), "syslog-format": "rfc5424",
        "syslog-facility": "local3", "tag": "{{.Name}}/{{.ImageName}}",
    });
    let id = run(&instance, "one", BOTH, driver("syslog", options));
    let text = until_text(&sink, &["to out\n", "to err\n"]);
    let tag = format!("one/{}", testkit::image::BUSYBOX);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let said = |priority: &str, what: &str| {
        let fits = |l: &&str| l.starts_with(priority) && l.contains(&tag) && l.ends_with(what);
        assert!(lines.iter().any(fits), "{text}");
    };
    // local3: 19 * 8, and 6 of information or 3 of an error
    said("<158>1 20", " - to out");
    said("<155>1 20", " - to err");
    assert_eq!(instance.wait(&id), 0);
    let kept = crate::logs(&instance, &id);
    assert!(
        kept.contains("to out\n") || instance.inspect(&id)["LogPath"] == "",
        "{kept}"
    );
    instance.remove(&id);

    let path = instance.path().join("log");
    let local = UnixDatagram::bind(&path).unwrap();
    local.set_read_timeout(Some(PATIENCE)).unwrap();
    let options = json!({"syslog-address": format!("unixgram://{}", path.display())});
    let id = run(&instance, "two", "echo hello", driver("syslog", options));
    let mut buffer = [0; 1024];
    let n = local.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(text.starts_with("<30>"), "{text}");
    let short = &id[..12];
    assert!(
        text.contains(&format!(" {short}[")) && text.ends_with("]: hello\n"),
        "{text}"
    );
    instance.remove(&id);
    clean.assert_settled(&instance);
}

#[test]
fn the_journal_gets_fields_and_what_is_long() {
    let mut instance = Instance::prepared();
    let dir = instance.set_run().join("systemd/journal");
    std::fs::create_dir_all(&dir).unwrap();
    let journal = UnixDatagram::bind(dir.join("socket")).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    let mut fields = driver("journald", json!({"labels": "com.tier", "env": "STAGE"}));
    fields["Labels"] = json!({"com.tier": "front"});
    fields["Env"] = json!(["STAGE=test"]);
    let id = run(&instance, "one", "echo hello", fields);
    let mut buffer = [0; 64 << 10];
    let n = journal.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    for field in [
        "MESSAGE=hello\n".to_owned(),
        format!("CONTAINER_ID_FULL={id}\n"),
        "CONTAINER_NAME=one\n".to_owned(),
        "COM_TIER=front\n".to_owned(),
        "STAGE=test\n".to_owned(),
        "PRIORITY=6\n".to_owned(),
    ] {
        assert!(text.contains(&field), "no {field} in {text}");
    }
    // a line of 40 KiB comes in three entries that name each other
    let script = "head -c 40960 /dev/zero | tr '\\0' x; echo";
    run(&instance, "two", script, driver("journald", json!({})));
    let mut lengths = Vec::new();
    for _ in 0..3 {
        let n = journal.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let last = text.contains("CONTAINER_PARTIAL_LAST=true");
        let more = text.contains("CONTAINER_PARTIAL_MESSAGE=true");
        assert_eq!(more, !last, "{n}");
        lengths.push((text.matches('x').count() / 1024, last));
    }
    assert_eq!(lengths, [(16, false), (16, false), (8, true)]);
    // too much for a datagram: it comes as a file
    let mut fields = driver("journald", json!({"env-regex": "^LONG"}));
    let long = |n: u32| format!("LONG_{n}={}", "y".repeat(100_000));
    fields["Env"] = json!([long(1), long(2), long(3)]);
    run(&instance, "three", "echo still", fields);
    let text = received_file(&journal);
    assert!(text.contains("MESSAGE=still\n"), "{}", text.len());
    assert!(text.contains(&format!("{}\n", long(3))), "{}", text.len());
}

/// The contents of the one file that a datagram brings.
fn received_file(socket: &UnixDatagram) -> String {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [], &mut control, RecvFlags::empty()).unwrap();
    assert_eq!(got.bytes, 0);
    let mut fds = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let file = std::fs::File::from(fds.next().unwrap().next().unwrap());
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; length];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn gelf_over_udp_and_tcp() {
    let instance = Instance::with_busybox();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("udp://{}", udp.local_addr().unwrap());
    let options = json!({"gelf-address": address, "gelf-compression-type": "none", "tag": "t"});
    let id = run(&instance, "one", "echo hello", driver("gelf", options));
    let mut buffer = [0; 4096];
    let n = udp.recv(&mut buffer).unwrap();
    let said: Value = serde_json::from_slice(&buffer[..n]).unwrap();
    assert_eq!(said["short_message"], "hello");
    assert_eq!(said["_container_id"], id.as_str());
    assert_eq!(said["_tag"], "t");
    assert_eq!(said["_command"], "sh -c echo hello");

    let (listener, address) = loopback();
    let sink = collect(listener);
    let options = json!({"gelf-address": format!("tcp://{address}")});
    run(&instance, "two", BOTH, driver("gelf", options));
    // the command, which is in each document, says the same words
    let wanted = ["to out", "to err"].map(|m| format!("\"short_message\":\"{m}\""));
    let text = until_text(&sink, &wanted.each_ref().map(String::as_str));
    let documents: Vec<Value> = text
        .split_terminator('\0')
        .map(|t| serde_json::from_str(t).unwrap())
        .collect();
    let level = |message: &str| {
        let found = documents.iter().find(|d| d["short_message"] == message);
        found.unwrap()["level"].clone()
    };
    assert_eq!((level("to out"), level("to err")), (json!(6), json!(3)));
}

/// A sink that acknowledges only the second time gets the same batch, under the same id, again.
#[test]
fn fluentd_is_sent_again_until_it_acknowledges() {
    let instance = Instance::with_busybox();
    let (listener, address) = loopback();
    let options = json!({
        "fluentd-address": address, "fluentd-request-ack": "true", "fluentd-retry-wait": "10ms",
        "fluentd-async": "true", "tag": "app.{{.Name}}",
    });
    let id = run(&instance, "one", "echo hello", driver("fluentd", options));
    let batch = |listener: &TcpListener| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        let chunk = loop {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "{got:?}");
            got.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&got).into_owned();
            // the last field of the message, after the word and the length's byte or two
            if let Some((_, tail)) = text.split_once("chunk") {
                let at = tail.find(&id[..12]).unwrap();
                break tail[at..].to_owned();
            }
        };
        (stream, got, chunk)
    };
    let (first, got, chunk) = batch(&listener);
    let text = String::from_utf8_lossy(&got).into_owned();
    for part in ["app.one", "hello", "stdout", "/one", &id] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    drop(first);
    let (mut second, again, same) = batch(&listener);
    assert_eq!((&again, &same), (&got, &chunk));
    let mut answer = b"\x81\xa3ack\xd9".to_vec();
    answer.push(u8::try_from(chunk.len()).unwrap());
    answer.extend_from_slice(chunk.as_bytes());
    second.write_all(&answer).unwrap();
    until("its mark", PATIENCE, || {
        let dir = instance.data_root().join("containers").join(&id);
        dir.join("forward.json").exists().then_some(())
    });
    listener.set_nonblocking(true).unwrap();
    assert!(
        listener.accept().is_err(),
        "what was acknowledged comes no more"
    );
}

/// The container ends and the engine dies before the sink is there; what waits on disk goes on then,
/// each line once and in order.
#[test]
fn a_sink_that_comes_late_gets_all() {
    let mut instance = Instance::with_busybox();
    let (listener, address) = loopback();
    drop(listener);
    let options = json!({"syslog-address": format!("tcp://{address}")});
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let id = run(&instance, "one", script, driver("syslog", options));
    assert_eq!(instance.wait(&id), 0);
    assert_eq!(crate::logs(&instance, &id).lines().count(), 3000);
    instance.kill9();
    instance.start();
    let sink = collect(TcpListener::bind(&address).unwrap());
    let text = until_text(&sink, &["line 2999\n"]);
    let told: Vec<&str> = text
        .lines()
        .map(|l| l.rsplit_once(": ").unwrap().1)
        .collect();
    let wanted: Vec<String> = (0..3000).map(|n| format!("line {n}")).collect();
    assert_eq!(told, wanted);
    // and no more with the next engine, which begins with a line of its own
    until("the last mark", PATIENCE, || {
        let dir = instance.data_root().join("containers").join(&id);
        let mark = std::fs::read(dir.join("forward.json")).ok()?;
        let mark: Value = serde_json::from_slice(&mark).unwrap();
        (mark["count"] == 3000).then_some(())
    });
    instance.restart();
    instance.start_container(&id);
    assert_eq!(instance.wait(&id), 0);
    let text = until_text(&sink, &["line 2999\n"]);
    assert!(
        text.lines().next().unwrap().ends_with(": line 0"),
        "{}",
        &text[..200]
    );
    assert_eq!(text.lines().count(), 3000);
}

/// kill -9 of the engine while lines go on: none is lost.
#[test]
fn no_line_is_lost_when_the_engine_is_killed() {
    let mut instance = Instance::with_busybox();
    let (listener, address) = loopback();
    let sink = collect(listener);
    let options = json!({"syslog-address": format!("tcp://{address}")});
    let script = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); usleep 5000; done";
    let id = run(&instance, "one", script, driver("syslog", options));
    let mut all = until_text(&sink, &["line 20\n"]);
    for _ in 0..3 {
        instance.kill9();
        instance.start();
    }
    assert_eq!(instance.wait(&id), 0);
    all += &until_text(&sink, &["line 399\n"]);
    for n in 0..400 {
        assert!(
            all.contains(&format!(": line {n}\n")),
            "line {n} is missing"
        );
    }
}

/// FAILURES rows "Log fills the disk", "stdout blocks the application": a sink that takes nothing costs
/// the container no time and the disk no more than the cap; it is told what is missing.
#[test]
fn a_sink_that_hangs_holds_up_nobody() {
    let instance = Instance::with_busybox();
    let (listener, address) = loopback();
    let options = json!({
        "syslog-address": format!("tcp://{address}"),
        "cache-max-size": "256k", "cache-max-file": "2",
    });
    // the socket's buffers take some of it
    let script = "yes 0123456789012345678901234567890123456789 | head -c 32000000; echo the end";
    let id = run(&instance, "one", script, driver("syslog", options));
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(instance.wait(&id), 0);
    let dir = instance.data_root().join("containers").join(&id);
    let logs = std::fs::read_dir(&dir).unwrap().flatten();
    let size: u64 = logs
        .filter(|f| f.file_name().to_string_lossy().starts_with("json.log"))
        .map(|f| f.metadata().unwrap().len())
        .sum();
    assert!(size <= 512 << 10, "{size}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    let mut buffer = [0; 64 << 10];
    while !text.contains("the end\n") {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => text += &String::from_utf8_lossy(&buffer[..n]),
            // the write's deadline passed: the sink is asked anew
            _ => stream = listener.accept().unwrap().0,
        }
    }
    assert!(text.contains("plimsoll: entries may be missing here"));
}

/// A sink that hangs and then dies: what its kernel took and it never read goes to the one after it, and what
/// that one has read does not go again.
#[test]
fn what_a_sink_had_not_read_goes_to_the_next() {
    let mut instance = Instance::with_busybox();
    let (listener, address) = loopback();
    let options = json!({"syslog-address": format!("tcp://{address}")});
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; sleep 1000";
    let id = run(&instance, "one", script, driver("syslog", options));
    let (hung, _) = listener.accept().unwrap();
    let forwarded = |instance: &Instance| {
        let dir = instance.data_root().join("containers").join(&id);
        let mark = std::fs::read(dir.join("forward.json")).ok()?;
        let mark: Value = serde_json::from_slice(&mark).unwrap();
        mark["count"].as_u64().filter(|n| *n > 0)
    };
    until("a mark", PATIENCE, || forwarded(&instance));
    drop((hung, listener));
    let sink = collect(TcpListener::bind(&address).unwrap());
    let text = until_text(&sink, &["line 19999\n"]);
    let told: Vec<&str> = text
        .lines()
        .map(|l| l.rsplit_once(": ").unwrap().1)
        .collect();
    let wanted: Vec<String> = (0..20000).map(|n| format!("line {n}")).collect();
    assert_eq!(told, wanted);
    // that it has read all is known: nothing comes again
    until("the last mark", PATIENCE, || {
        (forwarded(&instance) == Some(20000)).then_some(())
    });
    instance.restart();
    instance
        .api()
        .post(&format!("/containers/{id}/kill"), &json!({}))
        .unwrap();
    instance.wait(&id);
    instance.remove(&id);
    assert_eq!(sink.try_iter().count(), 0);
}

/// `--rm`: the last words go on before the log goes.
#[test]
fn the_last_words_of_a_removed_container_go_on() {
    let instance = Instance::with_busybox();
    let clean = Snapshot::take(&instance);
    let (listener, address) = loopback();
    let sink = collect(listener);
    for n in 0..5 {
        let option = format!("syslog-address=tcp://{address}");
        let word = format!("word-{n}");
        let done = instance.plimsoll(&[
            "run",
            "--rm",
            "--log-driver",
            "syslog",
            "--log-opt",
            &option,
            testkit::image::BUSYBOX,
            "echo",
            &word,
        ]);
        assert!(done.status.success(), "{done:?}");
        assert_eq!(String::from_utf8_lossy(&done.stdout), format!("{word}\n"));
        until_text(&sink, &[&format!("{word}\n")]);
    }
    // nobody is there: the removal does not wait
    let done = instance.plimsoll(&[
        "run",
        "--rm",
        "--log-driver",
        "syslog",
        "--log-opt",
        "syslog-address=tcp://127.0.0.1:1",
        testkit::image::BUSYBOX,
        "true",
    ]);
    assert!(done.status.success(), "{done:?}");
    clean.assert_settled(&instance);
}

#[test]
fn syslog_over_tls_verifies_and_is_counted() {
    let instance = Instance::with_busybox();
    let dir = instance.path().join("tls");
    std::fs::create_dir(&dir).unwrap();
    testkit::registry::certify(&dir);
    let port = loopback().1.rsplit_once(':').unwrap().1.to_owned();
    let mut server = testkit::instance::command("openssl")
        .args([
            "s_server",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-quiet",
        ])
        .args(["-cert", "own.crt", "-key", "own.key"])
        .current_dir(&dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("openssl: install the package openssl");
    let options = json!({
        "syslog-address": format!("tcp+tls://127.0.0.1:{port}"), "syslog-format": "rfc5424",
        "syslog-tls-ca-cert": dir.join("ca.crt"), "tag": "t",
    });
    run(
        &instance,
        "one",
        "echo in confidence",
        driver("syslog", options),
    );
    let mut text = String::new();
    let mut out = server.stdout.take().unwrap();
    let mut buffer = [0; 1024];
    while !text.contains("in confidence\n") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{text}");
        text += &String::from_utf8_lossy(&buffer[..n]);
    }
    let (length, rest) = text.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), rest.len(), "{text}");
    // another's authority
    testkit::registry::certify(&dir);
    let options = json!({
        "syslog-address": format!("tcp+tls://127.0.0.1:{port}"),
        "syslog-tls-ca-cert": dir.join("ca.crt"),
    });
    run(
        &instance,
        "two",
        "echo not to strangers",
        driver("syslog", options),
    );
    until("the refusal in the daemon's log", PATIENCE, || {
        instance
            .log()
            .contains("the sink of a log cannot be reached")
            .then_some(())
    });
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn attributes_are_shown_with_details() {
    let instance = Instance::with_busybox();
    let mut fields = driver(
        "json-file",
        json!({"labels": "tier", "env": "STAGE", "tag": "{{.Name}}"}),
    );
    fields["Labels"] = json!({"tier": "front end"});
    fields["Env"] = json!(["STAGE=test"]);
    let id = run(&instance, "one", "echo hello", fields);
    instance.wait(&id);
    for command in [Instance::plimsoll, Instance::docker] {
        let shown = command(&instance, &["logs", "--details", "one"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        // docker's own command writes them anew
        let plain = text.replace('+', " ").replace("%20", " ");
        assert_eq!(plain, "STAGE=test,tag=one,tier=front end hello\n", "{text}");
        let shown = command(&instance, &["logs", "one"]);
        assert_eq!(String::from_utf8_lossy(&shown.stdout), "hello\n");
    }
}

/// The daemon's driver holds where a container names none; what it does not know it refuses at its start.
#[test]
fn the_daemon_s_driver_is_the_default() {
    let (listener, address) = loopback();
    let sink = collect(listener);
    let option = format!("gelf-address=tcp://{address}");
    let mut instance =
        Instance::prepared().arguments(&["--log-driver", "gelf", "--log-opt", &option]);
    instance.start();
    instance.load(&testkit::image::Image::busybox().unwrap());
    let id = run(&instance, "one", "echo hello", json!({}));
    until_text(&sink, &["hello"]);
    assert_eq!(
        instance.inspect(&id)["HostConfig"]["LogConfig"]["Type"],
        "gelf"
    );
    let info = instance.api().get("/info").unwrap().json();
    assert_eq!(info["LoggingDriver"], "gelf");
    let known = info["Plugins"]["Log"].as_array().unwrap();
    assert!(known.contains(&json!("journald")), "{known:?}");
    let refused = instance.api().post(
        "/containers/create",
        &json!({"Image": testkit::image::BUSYBOX, "HostConfig":
            {"LogConfig": {"Type": "gelf", "Config": {"gelf-addres": "x"}}}}),
    );
    let refused = refused.unwrap();
    assert_eq!(refused.status, 400);
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(
        text.contains("unknown log opt 'gelf-addres' for gelf log driver"),
        "{text}"
    );
}
