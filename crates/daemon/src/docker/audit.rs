//! The audit log: a line of JSON for each change and each request that was refused for whose it is.
//!
//! ```text
//! {"time":"2026-01-02T03:04:05.678901234Z","client":{"uid":0,"gid":0,"pid":42,"command":"docker"},
//!  "method":"DELETE","path":"/v1.51/containers/web","query":"force=1","status":204,"ms":12.3}
//! ```
//! `client` of TCP: `address`, and `user`, the common name of its certificate. `status` is null where the client
//! went before the answer: what it had begun is carried out. `denied` says who refused. Not logged: bodies and
//! headers (they hold secrets), and what only looks.
//!
//! The line is in the file before the client has its answer (in the kernel's hands: kill -9 loses none, a power cut
//! may). A file that can't be written holds up nobody for longer than [`PATIENCE`]: how many lines were lost is said
//! in the next one that is written (`lost`), and in the daemon's log.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use serde::Serialize;
use tokio::sync::oneshot;

use super::peer::Peer;

const PATIENCE: Duration = Duration::from_secs(1);
/// Lines that wait for the disk.
const WAITING: usize = 1024;

/// None where no file is configured.
#[derive(Debug, Default)]
pub(crate) struct Audit(Option<Writer>);

#[derive(Debug)]
struct Writer {
    lines: SyncSender<Message>,
    lost: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Line(Line, oneshot::Sender<io::Result<()>>),
    /// Opens the file anew: it has been moved away.
    Reopen,
}

#[derive(Debug, Serialize)]
struct Line {
    time: String,
    client: Client,
    method: String,
    path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    query: String,
    status: Option<u16>,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

impl Line {
    fn new<B>(peer: &Peer, request: &Request<B>) -> Self {
        Self {
            time: String::new(),
            client: client(peer),
            // see `hijack`
            method: match *request.method() {
                Method::CONNECT => "POST".to_owned(),
                ref other => other.to_string(),
            },
            path: request.uri().path().to_owned(),
            query: without_secrets(request.uri().query().unwrap_or_default()),
            status: None,
            ms: 0.0,
            denied: None,
            lost: 0,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Client {
    Local {
        uid: u32,
        gid: u32,
        pid: i32,
        command: String,
    },
    Remote {
        address: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    audit: &'a Audit,
    only_if_denied: bool,
    line: Option<Line>,
    began: Instant,
}

impl Audit {
    /// # Errors
    /// When the file can't be opened for appending.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let file = open(path)?;
        let (lines, waiting) = sync_channel(WAITING);
        let path = path.to_owned();
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread
            .stack_size(128 << 10)
            .spawn(move || write(&path, file, &waiting))?;
        Ok(Self(Some(Writer {
            lines,
            lost: AtomicU64::new(0),
        })))
    }

    pub(crate) fn reopen(&self) {
        if let Some(writer) = &self.0
            && writer.lines.try_send(Message::Reopen).is_err()
        {
            tracing::warn!("the audit log is not opened anew: its disk does not keep up");
        }
    }

    /// `None`: nothing is logged.
    pub(super) fn begin<B>(&self, peer: &Peer, request: &Request<B>) -> Option<Entry<'_>> {
        self.0.as_ref()?;
        let looks = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS
        );
        Some(Entry {
            audit: self,
            only_if_denied: looks && !takes_out(request.uri().path()),
            line: Some(Line::new(peer, request)),
            began: Instant::now(),
        })
    }
}

/// Reading that hands files or memory of containers over.
fn takes_out(path: &str) -> bool {
    ["/archive", "/export", "/get", "/attach/ws"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// Arguments of a build may be secrets.
fn without_secrets(query: &str) -> String {
    let parts = query.split('&').map(|part| match part.split_once('=') {
        Some(("buildargs", _)) => "buildargs=...",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("&")
}

fn client(peer: &Peer) -> Client {
    match peer {
        Peer::Local { uid, gid, pid } => Client::Local {
            uid: *uid,
            gid: *gid,
            pid: *pid,
            // gone meanwhile: empty
            command: std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .map(|c| c.trim_end().to_owned())
                .unwrap_or_default(),
        },
        Peer::Remote { address, user, .. } => Client::Remote {
            address: address.to_string(),
            user: user.clone(),
        },
    }
}

impl Entry<'_> {
    /// The line is written when this returns, or [`PATIENCE`] is over.
    pub(super) async fn end(mut self, status: u16, denied: Option<String>) {
        let Some(mut line) = self.line.take() else {
            return;
        };
        if self.only_if_denied && denied.is_none() {
            return;
        }
        line.denied = denied;
        if let Some(written) = self.send(line, Some(status)) {
            let done = tokio::time::timeout(PATIENCE, written).await;
            match done {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::error!("the audit log: {error}"),
                Ok(Err(_)) | Err(_) => {
                    tracing::error!("the audit log: its disk does not answer");
                }
            }
        }
    }

    fn send(
        &self,
        mut line: Line,
        status: Option<u16>,
    ) -> Option<oneshot::Receiver<io::Result<()>>> {
        let writer = self.audit.0.as_ref()?;
        line.time = jiff::Timestamp::now().to_string();
        line.ms = (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        line.status = status;
        line.lost = writer.lost.swap(0, Ordering::Relaxed);
        let lost = line.lost;
        let (tx, rx) = oneshot::channel();
        match writer.lines.try_send(Message::Line(line, tx)) {
            Ok(()) => Some(rx),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                writer.lost.fetch_add(lost + 1, Ordering::Relaxed);
                tracing::error!("the audit log: its disk does not keep up, a line is lost");
                None
            }
        }
    }
}

/// The client has gone, and what it had begun goes on.
impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(line) = self.line.take()
            && !self.only_if_denied
        {
            self.send(line, None);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

fn write(path: &Path, mut file: File, waiting: &Receiver<Message>) {
    let mut lost = 0;
    while let Ok(message) = waiting.recv() {
        match message {
            Message::Reopen => match open(path) {
                Ok(new) => file = new,
                Err(error) => {
                    tracing::error!("open the audit log {} anew: {error}", path.display());
                }
            },
            Message::Line(mut line, done) => {
                line.lost += lost;
                lost = 0;
                let before = line.lost;
                let written = append(&mut file, &line);
                if written.is_err() {
                    lost = before + 1;
                }
                // nobody waits any more
                drop(done.send(written));
            }
        }
    }
}

/// By one write, so that no other's line comes between; a part that got there is ended.
fn append(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
    text.push(b'\n');
    sys::fault::point("daemon.audit.write")?;
    let n = file.write(&text)?;
    if n < text.len() {
        return file
            .write_all(b"\n")
            .and(Err(io::Error::from(io::ErrorKind::WriteZero)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Peer = Peer::Local {
        uid: 1,
        gid: 2,
        pid: 0,
    };

    fn request(method: &str, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn changes_refusals_and_what_is_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let audit = Audit::open(Some(&path)).unwrap();
        for (method, uri) in [
            ("DELETE", "/containers/a?force=1"),
            ("GET", "/containers/json"),
            ("GET", "/containers/a/archive?path=/etc"),
            ("POST", "/build?buildargs=%7Bsecret%7D&t=x"),
            ("CONNECT", "/exec/1/start"),
        ] {
            let request = request(method, uri);
            audit.begin(&ME, &request).unwrap().end(204, None).await;
        }
        let denied = audit.begin(&ME, &request("GET", "/info")).unwrap();
        denied.end(403, Some("plugin p".to_owned())).await;
        drop(audit.begin(&ME, &request("GET", "/info")));
        drop(audit.begin(&ME, &request("POST", "/containers/a/start")));
        // after a rotation
        let moved = dir.path().join("moved");
        while lines(&path).len() < 6 {
            tokio::task::yield_now().await;
        }
        std::fs::rename(&path, &moved).unwrap();
        audit.reopen();
        audit
            .begin(&ME, &request("POST", "/late"))
            .unwrap()
            .end(200, None)
            .await;
        let seen: Vec<_> = lines(&moved)
            .iter()
            .chain(&lines(&path))
            .map(|l| {
                let of = |k: &str| l[k].as_str().unwrap_or("-").to_owned();
                let status = &l["status"];
                format!(
                    "{} {} {} {status} {}",
                    of("method"),
                    of("path"),
                    of("query"),
                    of("denied")
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                "DELETE /containers/a force=1 204 -",
                "GET /containers/a/archive path=/etc 204 -",
                "POST /build buildargs=...&t=x 204 -",
                "POST /exec/1/start - 204 -",
                "GET /info - 403 plugin p",
                "POST /containers/a/start - null -",
                "POST /late - 200 -",
            ]
        );
        assert_eq!(lines(&path)[0]["client"]["uid"], 1);
    }

    #[tokio::test]
    async fn a_full_disk_holds_up_nobody_and_is_told_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let audit = Audit::open(Some(&path)).unwrap();
        for _ in 0..3 {
            audit
                .begin(&ME, &request("POST", "/x"))
                .unwrap()
                .end(200, None)
                .await;
        }
        std::fs::remove_file(&path).unwrap();
        audit.reopen();
        for _ in 0..2 {
            audit
                .begin(&ME, &request("POST", "/y"))
                .unwrap()
                .end(200, None)
                .await;
        }
        let lost: Vec<_> = lines(&path).iter().map(|l| l["lost"].clone()).collect();
        assert_eq!(lost, [serde_json::json!(3), serde_json::Value::Null]);
        assert!(Audit::open(Some(Path::new("/no/such/dir/x"))).is_err());
    }
}
