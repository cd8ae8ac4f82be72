//! Registries to pull from and push to, on loopback: Debian's, and one that does what a test says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::image::{Image, digest};
use crate::instance::command;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Who may use a registry with a password: `user`, `secret`.
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Debian's registry.
#[derive(Debug)]
pub struct Debian {
    dir: tempfile::TempDir,
    child: Child,
    /// `127.0.0.1:port`
    pub address: String,
}

/// What it wants of its clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wants {
    pub password: bool,
    /// With a certificate of an authority of the test's.
    pub tls: bool,
}

impl Debian {
    /// # Panics
    /// Without the package docker-registry.
    #[must_use]
    #[track_caller]
    pub fn start(wants: Wants) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pl-reg-")
            .tempdir()
            .expect("a temporary directory");
        // as late as can be: nobody else is to take the port
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound").to_string();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            path("data")
        );
        if wants.tls {
            certify(dir.path());
            let (own, key) = (path("own.crt"), path("own.key"));
            let _infallible = write!(config, "  tls:\n    certificate: {own}\n    key: {key}\n");
        }
        if wants.password {
            fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("room for a file");
            let _infallible = write!(
                config,
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                path("htpasswd")
            );
        }
        fs::write(dir.path().join("config.yml"), config).expect("room for a file");
        drop(free);
        let child = command("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry: install the package docker-registry");
        let registry = Self {
            dir,
            child,
            address,
        };
        crate::until("the registry", Duration::from_secs(20), || {
            TcpStream::connect(&registry.address).ok()
        });
        registry
    }

    /// Where the authority is in a directory for each registry.
    #[must_use]
    pub fn certificates(&self) -> std::path::PathBuf {
        self.dir.path().join("certs.d")
    }

    /// A directory with its authority, named after it.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn trust(&self, certificates: &Path) {
        let dir = certificates.join(&self.address);
        fs::create_dir_all(&dir).expect("room for a directory");
        fs::copy(self.dir.path().join("ca.crt"), dir.join("ca.crt")).expect("room for a file");
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
pub fn certify(dir: &Path) {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca \
                  -keyout ca.key -out ca.crt && \
                  openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout own.key -out own.csr && \
                  printf 'subjectAltName=IP:127.0.0.1,DNS:registry.test' > san && \
                  openssl x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                  -extfile san -out own.crt";
    let done = command("sh")
        .args(["-c", script])
        .current_dir(dir)
        .output()
        .expect("sh");
    assert!(
        done.status.success(),
        "openssl: install the package openssl: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    /// First byte of a range that is asked for.
    #[must_use]
    pub fn range(&self) -> Option<usize> {
        let range = self.headers.get("range")?.strip_prefix("bytes=")?;
        range.split('-').next()?.parse().ok()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// As a registry should.
    Right,
    /// Status, headers, body.
    Other(u16, Vec<(String, String)>, Vec<u8>),
    /// As it should, but the connection ends after so many bytes of the body.
    Cut(usize),
    /// As it should, but this is the content.
    Instead(Vec<u8>),
}

/// A registry with one image, that behaves as it is told.
#[derive(Debug)]
pub struct Scripted {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Digests of its layers, lowest first.
    pub layers: Vec<String>,
    /// Digest of its manifest.
    pub manifest: String,
}

type Behaviour = dyn Fn(&Asked, usize) -> Reply + Send + Sync;

impl Scripted {
    /// Has `image` as `any:1`; `behaviour` is told what is asked and how often it was before.
    ///
    /// # Panics
    /// Without a port.
    #[must_use]
    pub fn serve(
        image: &Image,
        behaviour: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (layers, config) = image.parts();
        let names: Vec<String> = layers
            .iter()
            .map(|l| format!("sha256:{}", digest(l)))
            .collect();
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()});
        let list: Vec<_> = layers
            .iter()
            .map(|l| descriptor("application/vnd.oci.image.layer.v1.tar", l))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": list,
        });
        let manifest = manifest.to_string().into_bytes();
        let mut blobs: BTreeMap<String, Vec<u8>> = names.iter().cloned().zip(layers).collect();
        blobs.insert(format!("sha256:{}", digest(&config)), config);
        let manifest_digest = format!("sha256:{}", digest(&manifest));
        blobs.insert(manifest_digest.clone(), manifest);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let server = Arc::new(Server {
            blobs,
            manifest: manifest_digest.clone(),
            asked: asked.clone(),
            behaviour: Box::new(behaviour),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.connection(&stream));
            }
        });
        Self {
            address,
            asked,
            layers: names,
            manifest: manifest_digest,
        }
    }

    /// As `host:port/any:1`.
    #[must_use]
    pub fn image(&self) -> String {
        format!("{}/any:1", self.address)
    }

    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Server {
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    behaviour: Box<Behaviour>,
}

impl Server {
    fn connection(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read(&mut reader) {
            let before = {
                let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                let before = all.iter().filter(|a| a.path == asked.path).count();
                all.push(asked.clone());
                before
            };
            let reply = (self.behaviour)(&asked, before);
            if self.answer(stream, &asked, reply).is_none() {
                return;
            }
        }
    }

    /// `None`: the connection is over.
    fn answer(&self, mut stream: &TcpStream, asked: &Asked, reply: Reply) -> Option<()> {
        let cut = match reply {
            Reply::Cut(at) => Some(at),
            _ => None,
        };
        let (status, headers, body) = match reply {
            Reply::Other(status, headers, body) => (status, headers, body),
            Reply::Instead(body) => self.right(asked, Some(body)),
            Reply::Right | Reply::Cut(_) => self.right(asked, None),
        };
        let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            let _infallible = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        if asked.method == "HEAD" {
            return Some(());
        }
        let end = cut.unwrap_or(body.len()).min(body.len());
        stream.write_all(&body[..end]).ok()?;
        cut.is_none().then_some(())
    }

    fn right(
        &self,
        asked: &Asked,
        instead: Option<Vec<u8>>,
    ) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let path = asked.path.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return (200, Vec::new(), Vec::new());
        }
        let is_manifest = path.contains("/manifests/");
        let name = path.rsplit('/').next().unwrap_or_default();
        let name = if name == "1" { &self.manifest } else { name };
        let Some(content) = instead.or_else(|| self.blobs.get(name).cloned()) else {
            let unknown =
                br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#;
            return (404, Vec::new(), unknown.to_vec());
        };
        let mut headers = Vec::new();
        if is_manifest {
            headers.push(("Content-Type".to_owned(), MANIFEST.to_owned()));
            headers.push(("Docker-Content-Digest".to_owned(), name.to_owned()));
        }
        match asked.range() {
            Some(from) if from < content.len() => {
                let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
                headers.push(("Content-Range".to_owned(), range));
                (206, headers, content[from..].to_vec())
            }
            Some(_) => (416, headers, Vec::new()),
            None => (200, headers, content),
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        headers,
    })
}
