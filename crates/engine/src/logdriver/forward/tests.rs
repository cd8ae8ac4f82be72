//! A log on disk, a sink of the test's own, and the forwarder between them.

use std::io::Write as _;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::logdriver::message::tests::speaker;
use crate::logdriver::{Sink, parse};
use crate::model::LogSpec;

const PATIENCE: Duration = Duration::from_secs(30);

/// A container's directory and its forwarder's ears.
struct Case {
    dir: tempfile::TempDir,
    sink: Sink,
    run: watch::Sender<bool>,
    order: watch::Sender<Order>,
    closing: watch::Sender<bool>,
    reachable: Arc<AtomicBool>,
}

impl Case {
    fn new(driver: &str, options: &[(&str, &str)]) -> Self {
        let spec = LogSpec {
            driver: driver.to_owned(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            sink: parse(&spec).unwrap().unwrap().sink.unwrap(),
            run: watch::Sender::new(false),
            order: watch::Sender::new(Order::GoOn),
            closing: watch::Sender::new(false),
            reachable: Arc::new(AtomicBool::new(true)),
        }
    }

    async fn syslog() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        (
            Self::new("syslog", &[("syslog-address", &address)]),
            listener,
        )
    }

    fn start(&self) -> JoinHandle<()> {
        let work = Work {
            outlet: Outlet::new(self.sink.clone()),
            speaker: speaker(),
            marker: Marker::new(self.dir.path().to_owned()),
            watcher: Some(Watcher::new().unwrap()),
            ended: Some(self.run.subscribe()),
            orders: self.order.subscribe(),
            closing: self.closing.subscribe(),
            reach: Reach::new(Arc::clone(&self.reachable)),
            pause: Duration::from_millis(10),
            at: None,
            _alive: None,
        };
        tokio::spawn(work.run())
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.path().join(crate::container::LOG_FILE)
    }

    fn say(&self, lines: std::ops::Range<u64>) {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut all = String::new();
        for n in lines {
            let time = jiff::Timestamp::from_nanosecond(1_700_000_000_000_000_000 + i128::from(n));
            let time = time.unwrap();
            all +=
                &format!("{{\"log\":\"line {n}\\n\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
        }
        file.write_all(all.as_bytes()).unwrap();
    }

    fn marked(&self) -> u64 {
        mark::load(self.dir.path()).map_or(0, |(progress, _)| progress.count)
    }

    async fn finish(self, task: JoinHandle<()>) {
        self.run.send_replace(true);
        within("the forwarder's end", task).await.unwrap();
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| panic!("waited for {what}"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    within("a connection", listener.accept()).await.unwrap().0
}

/// Up to and with the line of that number.
async fn read_to(stream: &mut (impl AsyncRead + Unpin), last: u64) -> Vec<String> {
    let end = format!("line {last}\n");
    let mut text = String::new();
    let mut buffer = vec![0; 64 << 10];
    while !text.ends_with(&end) {
        let n = within(&end, stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "it ends before {end}");
        text += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    let lines = text.lines().map(|l| l.split_once("]: ").unwrap().1);
    lines.map(str::to_owned).collect()
}

fn lines(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("line {n}")).collect()
}

/// Its kernel takes what its process never reads: when it dies, that goes to the next one.
#[tokio::test]
async fn what_a_hung_sink_has_not_read_goes_again() {
    let (case, listener) = Case::syslog().await;
    case.say(0..40_000);
    let task = case.start();
    let hung = accept(&listener).await;
    // acknowledged by the kernel, on a connection that lives
    until("a mark", || case.marked() > 0).await;
    drop(hung);
    let mut next = accept(&listener).await;
    assert_eq!(read_to(&mut next, 39_999).await, lines(0..40_000));
    case.finish(task).await;
}

/// One that never even accepts: the connections in its queue are reset when it goes.
#[tokio::test]
async fn what_was_never_accepted_goes_again() {
    let (case, listener) = Case::syslog().await;
    let address = listener.local_addr().unwrap();
    case.say(0..10);
    let task = case.start();
    until("a mark", || case.marked() == 10).await;
    drop(listener);
    let listener = TcpListener::bind(address).await.unwrap();
    let mut next = accept(&listener).await;
    assert_eq!(read_to(&mut next, 9).await, lines(0..10));
    case.finish(task).await;
}

/// It gets nothing, which is noticed, and nothing is marked.
#[tokio::test]
async fn a_sink_that_closes_at_once_has_nothing() {
    let (case, listener) = Case::syslog().await;
    case.say(0..10);
    let task = case.start();
    for _ in 0..3 {
        drop(accept(&listener).await);
    }
    until("the failure", || !case.reachable.load(Ordering::Relaxed)).await;
    let mut last = accept(&listener).await;
    assert_eq!(read_to(&mut last, 9).await, lines(0..10));
    case.finish(task).await;
}

/// A sink that has read all and closes in order gets nothing twice.
#[tokio::test]
async fn a_sink_that_is_restarted_gets_each_line_once() {
    let (case, listener) = Case::syslog().await;
    let task = case.start();
    for n in 0..5 {
        case.say(n * 10..(n + 1) * 10);
        let mut stream = accept(&listener).await;
        let got = read_to(&mut stream, n * 10 + 9).await;
        assert_eq!(got, lines(n * 10..(n + 1) * 10));
    }
    until("the last mark", || case.marked() == 50).await;
    assert!(case.reachable.load(Ordering::Relaxed));
    case.finish(task).await;
}

/// One that has closed its half of the connection from the start, as a sink that only reads may: what it
/// takes counts, and comes once.
#[tokio::test]
async fn a_sink_that_has_nothing_to_say_gets_each_line_once() {
    let (case, listener) = Case::syslog().await;
    case.say(0..2000);
    let task = case.start();
    let mut all = Vec::new();
    while all.last().is_none_or(|l| l != "line 1999") {
        let mut stream = accept(&listener).await;
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        within("the end", stream.read_to_string(&mut text))
            .await
            .unwrap();
        let lines = text.lines().map(|l| l.split_once("]: ").unwrap().1);
        all.extend(lines.map(str::to_owned));
    }
    assert_eq!(all, lines(0..2000));
    assert!(case.reachable.load(Ordering::Relaxed));
    case.finish(task).await;
}

/// A sink that reads now and then, more slowly than it is waited for at first.
#[tokio::test]
async fn a_slow_sink_gets_all_in_the_end() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut case = Case::new("fluentd", &[("fluentd-address", &address)]);
    if let Sink::Fluentd(settings) = &mut case.sink {
        settings.write_within = Some(Duration::from_millis(20));
    }
    case.say(0..4000);
    let task = case.start();
    let mut stream = accept(&listener).await;
    let (mut got, mut attempts) = (Vec::new(), 1);
    let mut buffer = vec![0; 64 << 10];
    within("the last line", async {
        while !String::from_utf8_lossy(&got).contains("line 3999") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            tokio::select! {
                biased;
                next = listener.accept() => {
                    stream = next.unwrap().0;
                    attempts += 1;
                    got.clear();
                }
                // one that was given up ends
                n = stream.read(&mut buffer) => got.extend_from_slice(&buffer[..n.unwrap_or(0)]),
                () = std::future::ready(()) => {}
            }
        }
    })
    .await;
    assert!(attempts > 1, "it was fast enough from the start");
    let text = String::from_utf8_lossy(&got).into_owned();
    let mut rest = text.as_str();
    for n in 0..4000 {
        let line = format!("line {n}");
        rest = rest
            .split_once(&line)
            .unwrap_or_else(|| panic!("no {line}"))
            .1;
    }
    case.finish(task).await;
}

/// By a close of TLS's own and without one: what is said after it is not lost.
#[tokio::test]
async fn a_tls_sink_s_end_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    testkit::registry::certify(dir.path());
    let acceptor = acceptor(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp+tls://{}", listener.local_addr().unwrap());
    let authority = dir.path().join("ca.crt").display().to_string();
    let case = Case::new(
        "syslog",
        &[
            ("syslog-address", &address),
            ("syslog-tls-ca-cert", &authority),
        ],
    );
    let task = case.start();
    for n in 0..4 {
        case.say(n..n + 1);
        let stream = within("TLS", acceptor.accept(accept(&listener).await)).await;
        let mut stream = stream.unwrap();
        assert_eq!(read_to(&mut stream, n).await, lines(n..n + 1));
        if n % 2 == 0 {
            // its own notice, over a connection that stays
            stream.shutdown().await.unwrap();
            let ended = within("the end", stream.read(&mut [0])).await;
            assert_eq!(ended.unwrap_or(0), 0);
        }
    }
    case.finish(task).await;
}

fn acceptor(dir: &Path) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::pem::PemObject as _;
    let own = rustls::pki_types::CertificateDer::pem_file_iter(dir.join("own.crt"))
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(dir.join("own.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own, key)
        .unwrap();
    Arc::new(config).into()
}

/// On this host a refusal is known at once, and the entry waits.
#[tokio::test]
async fn a_datagram_that_is_refused_goes_again() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let case = Case::new("syslog", &[("syslog-address", &format!("udp://{address}"))]);
    case.say(0..5);
    let task = case.start();
    until("the failure", || !case.reachable.load(Ordering::Relaxed)).await;
    let socket = UdpSocket::bind(address).await.unwrap();
    let mut buffer = [0; 1024];
    for n in 0..5 {
        let got = within("a datagram", socket.recv(&mut buffer))
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
        assert!(text.ends_with(&format!(": line {n}\n")), "{n}: {text}");
    }
    case.finish(task).await;
}

#[test]
fn a_sink_that_refuses_now_and_then_is_said_to_be_away_once() {
    let start = Instant::now();
    let mut reach = Reach::new(Arc::default());
    let mut said = Vec::new();
    for second in 0..20 {
        let at = start + Duration::from_secs(second);
        if second < 10 && reach.fails(at) {
            said.push((second, "away"));
        }
        if reach.works(at, NO_REFUSAL) && reach.was_away() {
            said.push((second, "back"));
        }
    }
    assert_eq!(said, [(0, "away"), (14, "back")]);
}

/// A sink that hears of its batches one by one and acknowledges each.
#[tokio::test]
async fn an_acknowledged_batch_goes_once_whoever_is_told_to_end() {
    for tell in ["order", "closing"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let case = Case::new(
            "fluentd",
            &[
                ("fluentd-address", &address),
                ("fluentd-request-ack", "true"),
            ],
        );
        // in one read of the log
        case.say(0..1000);
        let task = case.start();
        let mut stream = accept(&listener).await;
        let (first, chunk) = chunk(&mut stream).await;
        assert_eq!(first, "line 0");
        acknowledge(&mut stream, &chunk).await;
        let (second, id) = self::chunk(&mut stream).await;
        assert_eq!(second, "line 256");
        // in the middle of it
        if tell == "order" {
            case.order.send_replace(Order::End);
        } else {
            case.closing.send_replace(true);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        acknowledge(&mut stream, &id).await;
        within("the end", task).await.unwrap();
        assert_eq!(case.marked(), 512, "{tell}");
        case.order.send_replace(Order::GoOn);
        case.closing.send_replace(false);
        let task = case.start();
        let mut stream = accept(&listener).await;
        assert_eq!(self::chunk(&mut stream).await.0, "line 512", "{tell}");
        case.order.send_replace(Order::EndNow);
        within("the end", task).await.unwrap();
    }
}

/// The first line of the next batch, and its id.
async fn chunk(stream: &mut TcpStream) -> (String, String) {
    let mut got = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = within("a batch", stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0);
        got.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((records, tail)) = text.split_once("chunk") {
            let line = records.split_once("line ").unwrap().1;
            let number: String = line.chars().take_while(char::is_ascii_digit).collect();
            let id = &tail[tail.find("0123456789ab").unwrap()..];
            return (format!("line {number}"), id.to_owned());
        }
    }
}

async fn acknowledge(stream: &mut TcpStream, id: &str) {
    let mut answer = b"\x81\xa3ack\xd9".to_vec();
    answer.push(u8::try_from(id.len()).unwrap());
    answer.extend_from_slice(id.as_bytes());
    stream.write_all(&answer).await.unwrap();
}

/// A log whose beginning was rotated away before anything went on.
#[tokio::test]
async fn a_sink_that_never_had_anything_is_told_what_it_misses() {
    let (case, listener) = Case::syslog().await;
    case.say(0..1);
    let file = std::fs::File::open(case.log()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(&file, "user.plimsoll.number", b"3", flags)
        .expect("this test needs a file system with user attributes");
    let task = case.start();
    let mut stream = accept(&listener).await;
    let got = read_to(&mut stream, 0).await;
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(got[0].starts_with("plimsoll: entries may be missing here"));
    case.finish(task).await;
}
