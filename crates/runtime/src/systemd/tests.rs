//! Names; a systemd that the test plays.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use oci_spec::runtime::LinuxResources;
use serde_json::json;

use super::wire::{METHOD_CALL, Message};
use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

fn scope(path: Option<&str>) -> Result<Scope, SystemdError> {
    Scope::parse(path, "plimsoll", "c1", Manager::System, Path::new("/"))
}

#[test]
fn cgroups_path_names_slice_and_unit() {
    for (given, directory) in [
        (None, "system.slice/plimsoll-c1.scope"),
        (Some(""), "system.slice/plimsoll-c1.scope"),
        (Some("system.slice:docker:x"), "system.slice/docker-x.scope"),
        (Some("::x"), "system.slice/x.scope"),
        (Some("-.slice:p:x"), "p-x.scope"),
        (
            Some("kubepods-besteffort-podab.slice:cri-containerd:ff"),
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab.slice/cri-containerd-ff.scope",
        ),
    ] {
        assert_eq!(
            scope(given).unwrap().directory(),
            Path::new(directory),
            "{given:?}"
        );
    }
    for wrong in [
        "/a/b",
        "a:b",
        "a.slice:b:c:d",
        "a:b:c",
        "a/b.slice:p:c",
        "a--b.slice:p:c",
        "-a.slice:p:c",
        ".slice:p:c",
        "a.slice:p:",
        "a.slice:p:../c",
        "a.slice:p:c.slice",
    ] {
        assert!(
            matches!(scope(Some(wrong)), Err(SystemdError::Name { .. })),
            "{wrong}"
        );
    }
    let base = Path::new("/user.slice/user-5.slice/user@5.service");
    let user = Scope::parse(None, "plimsoll", "c1", Manager::User, base).unwrap();
    assert_eq!(
        user.directory(),
        Path::new("user.slice/user-5.slice/user@5.service/user.slice/plimsoll-c1.scope")
    );
}

fn limited() -> LinuxResources {
    serde_json::from_value(json!({
        "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0-1"},
        "pids": {"limit": 20},
        "devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
        ]
    }))
    .unwrap()
}

/// The values that follow a property's name, as the bus carries them.
fn value_of<'b>(body: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mut needle = u32::try_from(name.len()).unwrap().to_le_bytes().to_vec();
    needle.extend(name.as_bytes());
    needle.push(0);
    let at = body.windows(needle.len()).position(|w| w == needle)?;
    Some(&body[at + needle.len()..])
}

fn number(body: &[u8], name: &str) -> Option<u64> {
    let rest = value_of(body, name)?;
    assert_eq!(&rest[..3], b"\x01t\0", "{name}");
    let start = rest.as_ptr().addr() - body.as_ptr().addr() + 3;
    let at = start.next_multiple_of(8);
    Some(u64::from_le_bytes(body[at..at + 8].try_into().unwrap()))
}

#[test]
fn limits_are_properties_of_the_scope() {
    let (body, pid_at) = request(&scope(None).unwrap(), Some(&limited()), true);
    assert_eq!(body[pid_at..pid_at + 4], [0; 4]);
    for (name, want) in [
        ("MemoryMax", Some(67_108_864)),
        ("MemorySwapMax", Some(67_108_864)),
        ("MemoryLow", Some(33_554_432)),
        ("CPUWeight", Some(59)),
        ("CPUQuotaPerSecUSec", Some(500_000)),
        ("CPUQuotaPeriodUSec", None),
        ("TasksMax", Some(20)),
        ("MemoryLimit", None),
        ("CPUShares", None),
    ] {
        assert_eq!(number(&body, name), want, "{name}");
    }
    assert!(
        value_of(&body, "AllowedCPUs")
            .unwrap()
            .starts_with(b"\x02ay\0")
    );
    assert!(value_of(&body, "/dev/char/10:229").is_some());
    assert!(value_of(&body, "char-136").is_some());
    let (body, _) = request(&scope(None).unwrap(), Some(&limited()), false);
    assert_eq!(number(&body, "MemoryLimit"), Some(67_108_864));
    assert_eq!(number(&body, "CPUShares"), Some(512));
    assert!(value_of(&body, "AllowedCPUs").is_none());
}

#[test]
fn the_request_byte_for_byte() {
    let small: LinuxResources = serde_json::from_value(json!({"pids": {"limit": 3}})).unwrap();
    let (body, pid_at) = request(&scope(Some("::c")).unwrap(), Some(&small), true);
    insta::assert_snapshot!(
        hex::encode(&body)
            .as_bytes()
            .chunks(64)
            .map(|c| String::from_utf8_lossy(c).into_owned())
            .collect::<Vec<_>>()
            .join("\n")
    );
    // then the empty list of auxiliary units, aligned for structures
    assert_eq!((pid_at + 8).next_multiple_of(8), body.len());
}

/// A bus with a systemd behind it, in a thread of the test: answers each call by what `answer` says.
struct Fake {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    thread: std::thread::JoinHandle<Vec<String>>,
}

/// What to say to a call: an error's name, or the answer's body, and a result of the job.
type Answer = fn(&Message, usize) -> Result<(Vec<u8>, Option<&'static str>), &'static str>;

fn text(value: &str) -> Vec<u8> {
    let mut w = Writer::default();
    w.string(value);
    w.into_bytes()
}

fn variant(value: &str) -> Vec<u8> {
    let mut w = Writer::default();
    w.signature("s");
    w.string(value);
    w.into_bytes()
}

fn message(kind: u8, fields: &[(u8, &str, &str)], reply_to: u32, body: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    for b in [b'l', kind, 0, 1] {
        w.byte(b);
    }
    w.u32(u32::try_from(body.len()).unwrap());
    w.u32(1);
    w.array(8, |w| {
        if reply_to != 0 {
            w.byte(5);
            w.signature("u");
            w.u32(reply_to);
        }
        for (code, kind, value) in fields {
            w.align(8);
            w.byte(*code);
            w.signature(kind);
            w.string(value);
        }
    });
    w.align(8);
    let mut out = w.into_bytes();
    out.extend(body);
    out
}

fn serve(mut stream: UnixStream, answer: Answer) -> Vec<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut until_line = |stream: &mut UnixStream| {
        line.clear();
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line.clone()).unwrap()
    };
    let mut said = vec![until_line(&mut stream).trim().replace('\0', "0 ")];
    stream.write_all(b"OK 0123\r\n").unwrap();
    assert_eq!(until_line(&mut stream), "BEGIN\r\n");
    let mut head = [0; 16];
    while stream.read_exact(&mut head).is_ok() {
        let mut bytes = head.to_vec();
        bytes.resize(Message::size(&head).unwrap(), 0);
        stream.read_exact(&mut bytes[16..]).unwrap();
        let call = Message::decode(&bytes).unwrap();
        assert_eq!(call.kind, METHOD_CALL);
        let serial = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        let times = said.iter().filter(|s| **s == call.member).count();
        said.push(call.member.clone());
        let bytes = match answer(&call, times) {
            Err(name) => message(3, &[(4, "s", name)], serial, &text("no")),
            Ok((body, job)) => {
                let mut out = Vec::new();
                if let Some(result) = job {
                    // of another job, then of this one, both before the answer: they must be kept
                    for job in ["/job/9", "/job/1"] {
                        let mut w = Writer::default();
                        w.u32(1);
                        w.string(job);
                        w.string("x.scope");
                        w.string(if job == "/job/1" { result } else { "failed" });
                        out.extend(message(4, &[(3, "s", "JobRemoved")], 0, &w.into_bytes()));
                    }
                }
                out.extend(message(2, &[], serial, &body));
                out
            }
        };
        stream.write_all(&bytes).unwrap();
    }
    said
}

impl Fake {
    fn new(answer: Answer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || serve(listener.accept().unwrap().0, answer));
        Self {
            _dir: dir,
            socket,
            thread,
        }
    }

    fn start(&self) -> Result<(), SystemdError> {
        let (body, at) = request(&scope(None).unwrap(), Some(&limited()), true);
        start_at(&self.socket, "plimsoll-c1.scope", &body, at, 4242, DEADLINE)
    }

    fn said(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

fn ordinary(call: &Message, _: usize) -> Result<(Vec<u8>, Option<&'static str>), &'static str> {
    match &*call.member {
        "StartTransientUnit" => {
            assert_eq!(Reader::new(&call.body).string(), Some("plimsoll-c1.scope"));
            let pid = 4242_u32.to_le_bytes();
            assert!(call.body.windows(4).any(|w| w == pid), "no pid");
            Ok((text("/job/1"), Some("done")))
        }
        "StopUnit" => Ok((text("/job/1"), Some("done"))),
        "Get" => Ok((variant("/user.slice"), None)),
        _ => Ok((Vec::new(), None)),
    }
}

#[test]
fn a_scope_is_started_and_its_job_awaited() {
    let fake = Fake::new(ordinary);
    fake.start().unwrap();
    let said = fake.said();
    let user = hex::encode(rustix::process::geteuid().as_raw().to_string());
    assert_eq!(said[0], format!("0 AUTH EXTERNAL {user}"));
    assert_eq!(
        said[1..],
        ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]
    );
}

#[test]
fn a_failed_unit_of_the_same_name_is_forgotten_first() {
    let fake = Fake::new(|call, times| match (&*call.member, times) {
        ("StartTransientUnit", 0) => Err("org.freedesktop.systemd1.UnitExists"),
        _ => ordinary(call, times),
    });
    fake.start().unwrap();
    assert_eq!(
        fake.said()[4..],
        [
            "StartTransientUnit",
            "ResetFailedUnit",
            "StartTransientUnit"
        ]
    );
}

#[test]
fn refusals_and_failed_jobs_are_errors() {
    let exists = Fake::new(|call, times| match &*call.member {
        "StartTransientUnit" => Err("org.freedesktop.systemd1.UnitExists"),
        _ => ordinary(call, times),
    });
    let error = exists.start().unwrap_err();
    assert_eq!(error.errno(), libc::EEXIST);
    assert!(error.to_string().contains("UnitExists"), "{error}");
    let failed = Fake::new(|call, times| match &*call.member {
        "StartTransientUnit" => Ok((text("/job/1"), Some("timeout"))),
        _ => ordinary(call, times),
    });
    let error = failed.start().unwrap_err();
    assert!(error.to_string().contains("\"timeout\""), "{error}");
}

#[test]
fn a_scope_is_stopped_and_one_that_is_gone_is_fine() {
    let fake = Fake::new(ordinary);
    stop_at(&fake.socket, "plimsoll-c1.scope", DEADLINE).unwrap();
    assert_eq!(fake.said()[4..], ["StopUnit", "ResetFailedUnit"]);
    let gone = Fake::new(|call, times| match &*call.member {
        "StopUnit" => Err("org.freedesktop.systemd1.NoSuchUnit"),
        _ => ordinary(call, times),
    });
    stop_at(&gone.socket, "plimsoll-c1.scope", DEADLINE).unwrap();
    assert_eq!(gone.said()[4..], ["StopUnit"]);
}

#[test]
fn where_the_managers_tree_begins() {
    let fake = Fake::new(ordinary);
    assert_eq!(
        base_at(&fake.socket, DEADLINE).unwrap(),
        Path::new("/user.slice")
    );
}

#[test]
fn a_mute_bus_costs_the_deadline_alone() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = base_at(&socket, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, SystemdError::Deadline(_)), "{error:?}");
    let error = base_at(&dir.path().join("none"), DEADLINE).unwrap_err();
    assert!(error.to_string().contains("init of this host"), "{error}");
}
