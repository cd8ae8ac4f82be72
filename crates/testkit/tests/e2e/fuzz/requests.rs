//! Requests: every route of the table, with what it takes, and with what it should not be given.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::image::{BUSYBOX, Image, Node};

use super::random::{Random, encode, mutate, spoil, text};
use super::wire::Sent;

/// For an answer that may come late, or never: then the client goes away.
const IMPATIENT: Duration = Duration::from_millis(250);
/// For every other one. A call that takes longer hangs.
const PATIENT: Duration = Duration::from_secs(60);

/// What all clients of one run share.
pub(super) struct Target {
    /// `(method, pattern)`, of the page that is tested against the router's table: built, and refused.
    built: Vec<(String, String)>,
    refused: Vec<(String, String)>,
    /// Ids that the engine told, of containers and executions.
    recent: Mutex<VecDeque<String>>,
    archives: Vec<Vec<u8>>,
    /// Ids of what is not to be named.
    pub(super) kept: Vec<String>,
    /// The only directory of the host that containers may be given.
    pub(super) dir: String,
}

impl Target {
    pub(super) fn new(dir: String, kept: Vec<String>) -> Self {
        let page = include_str!("../../../../../docs/docker-api.md");
        let table = page.split_once("<!-- routes -->").expect("its mark").1;
        let row = |line: &str| {
            let mut cells = line.split('|').map(str::trim);
            // between them: since which version
            let (method, path, state) = (cells.nth(1)?, cells.next()?, cells.nth(1)?);
            let path = path.strip_prefix('`')?.strip_suffix('`')?;
            Some((method.to_owned(), path.to_owned(), state == "built"))
        };
        let routes: Vec<_> = table.lines().filter_map(row).collect();
        let built = routes.iter().filter(|r| r.2).count();
        assert!(
            built > 60 && routes.len() > 100,
            "the table of routes was read"
        );
        let some = |built: bool| {
            let some = routes.iter().filter(|r| r.2 == built);
            some.map(|r| (r.0.clone(), r.1.clone())).collect()
        };
        let file = |text: &str| Node::File(text.as_bytes().to_vec(), 0o644);
        let entries = vec![
            ("etc".to_owned(), Node::Directory(0o755)),
            ("etc/f".to_owned(), file("from fuzz\n")),
            ("l".to_owned(), Node::Symlink("/etc/../../x".to_owned())),
            (
                "Dockerfile".to_owned(),
                file("FROM busybox:test\nRUN true\n"),
            ),
        ];
        let tar = testkit::image::tar(&entries);
        let image = Image::of(entries).named("fuzz:2").archive();
        Self {
            built: some(true),
            refused: some(false),
            recent: Mutex::default(),
            archives: vec![tar, image],
            kept,
            dir,
        }
    }

    pub(super) fn learn(&self, id: &str) {
        let mut recent = self.recent.lock().unwrap();
        recent.push_back(id.to_owned());
        if recent.len() > 12 {
            recent.pop_front();
        }
    }

    /// Whether this could be the beginning of what is kept.
    fn names_kept(&self, text: &str) -> bool {
        let text = text.trim_start_matches('/');
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        let is_of = |id: &String| id.trim_start_matches("sha256:").starts_with(bare);
        !bare.is_empty() && self.kept.iter().any(is_of)
    }

    /// Takes out what would reach the host's own files, or what is kept.
    fn tame(&self, value: &mut Value) {
        match value {
            Value::Object(members) => members.values_mut().for_each(|v| self.tame(v)),
            Value::Array(items) => items.iter_mut().for_each(|v| self.tame(v)),
            Value::String(text) => {
                let path = text.split([':', ',']).next().unwrap_or_default();
                let path = std::path::Path::new(path);
                let foreign = path.is_absolute()
                    && !path.starts_with(&self.dir)
                    && path
                        .parent()
                        .is_some_and(|p| p != std::path::Path::new("/dev"))
                    && (path.exists() || path.components().any(|c| c.as_os_str() == ".."));
                if foreign || path == std::path::Path::new("/") || self.names_kept(text) {
                    "/nowhere".clone_into(text);
                }
            }
            _ => {}
        }
    }

    /// Those that take most are asked most.
    fn route(&self, random: &mut Random) -> (String, String) {
        const RICH: &[&str] = &[
            "/containers/create",
            "/containers/create",
            "/containers/{id}/exec",
            "/exec/{id}/start",
            "/containers/{id}/start",
            "/containers/{id}/update",
            "/networks/create",
            "/networks/{id}/connect",
            "/volumes/create",
            "/commit",
            "/images/load",
            "/images/create",
        ];
        match random.below(20) {
            0 => random.pick(&self.refused).clone(),
            1..8 => ("POST".to_owned(), (*random.pick(RICH)).to_owned()),
            _ => random.pick(&self.built).clone(),
        }
    }

    /// The next connection's bytes.
    pub(super) fn next(&self, random: &mut Random) -> Sent {
        if random.one_in(400) {
            return Sent {
                bytes: random.bytes(3_000),
                heads: Vec::new(),
                ends: true,
                patience: PATIENT,
            };
        }
        let mut sent = Sent {
            bytes: Vec::new(),
            heads: Vec::new(),
            ends: false,
            patience: PATIENT,
        };
        let several = if random.one_in(15) {
            random.below(5)
        } else {
            0
        };
        for n in 0..=several {
            let (method, pattern) = self.route(random);
            let method = match random.below(60) {
                0 => *random.pick(&["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"]),
                _ => &method,
            };
            let request = self.request(random, (method, &pattern), n == several, &mut sent.ends);
            sent.bytes.extend(request);
            sent.heads.push(method == "HEAD");
            if may_wait(&pattern) {
                sent.patience = IMPATIENT;
            }
        }
        if random.one_in(25) {
            let at = random.below(sent.bytes.len());
            sent.bytes.truncate(at);
            sent.ends = true;
        }
        sent
    }

    fn request(
        &self,
        random: &mut Random,
        (method, pattern): (&str, &str),
        last: bool,
        ends: &mut bool,
    ) -> Vec<u8> {
        let path = self.path(random, pattern);
        let query = self.query(random, pattern);
        let (kind, body) = self.body(random, pattern);
        let mut head = format!("{method} {path}{query} HTTP/1.1\r\nHost: x\r\n");
        if last {
            head.push_str("Connection: close\r\n");
        }
        headers(random, pattern, kind, &mut head);
        let mut out = head.into_bytes();
        if random.one_in(8) {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(random.below(3_000) + 200) {
                out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
            let end = *random.pick(&["0\r\n\r\n", "0\r\n\r\n", "zz\r\n"]);
            out.extend_from_slice(end.as_bytes());
            return out;
        }
        let mut length = body.len().to_string();
        if last && random.one_in(100) {
            length = (*random.pick(&["-1", "0", "1", "99999999999999999999", "x"])).to_owned();
            // who says more than comes must be heard to say no more
            *ends = true;
        }
        out.extend_from_slice(format!("Content-Length: {length}\r\n\r\n").as_bytes());
        out.extend(body);
        out
    }

    fn path(&self, random: &mut Random, pattern: &str) -> String {
        let version = match random.below(100) {
            0..49 => String::new(),
            49..98 => format!("/v1.{}", 24 + random.below(28)),
            98 => format!("/v1.{}", random.below(100)),
            _ => {
                let odd = text(random);
                format!("/v{}", encode(random, &odd, false))
            }
        };
        let (Some(open), Some(close)) = (pattern.find('{'), pattern.find('}')) else {
            return format!("{version}{pattern}");
        };
        let name = self.name(random, pattern);
        let name = encode(random, &name, pattern[open..close].ends_with('*'));
        format!(
            "{version}{}{name}{}",
            &pattern[..open],
            &pattern[close + 1..]
        )
    }

    /// Something that is there, mostly.
    fn name(&self, random: &mut Random, pattern: &str) -> String {
        let there: &[&str] = match pattern.split('/').nth(1) {
            Some("images" | "distribution") => &["fuzz:1", "fuzz:2", BUSYBOX, "busybox", "x/y"],
            Some("volumes" | "plimsoll") => &["v0", "v1", "v2"],
            Some("networks") => &["n0", "n1", "none", "host", "bridge"],
            _ => &["t0", "t1", "t2", "t3"],
        };
        let recent = self
            .recent
            .lock()
            .unwrap()
            .iter()
            .cloned()
            .collect::<Vec<_>>();
        let name = match random.below(10) {
            0 => text(random),
            1..4 if !recent.is_empty() => random.pick(&recent).clone(),
            _ => (*random.pick(there)).to_owned(),
        };
        if self.names_kept(&name) {
            return "t0".to_owned();
        }
        name
    }

    fn query(&self, random: &mut Random, pattern: &str) -> String {
        let known = parameters(pattern);
        let needed = needed(pattern);
        let mut names: Vec<String> = Vec::new();
        if !random.one_in(8) {
            names.extend(needed.iter().map(|n| (*n).to_owned()));
        }
        for _ in 0..random.below(4) {
            let any = PARAMETERS[random.below(PARAMETERS.len())].1;
            let name = match random.below(12) {
                0 => text(random),
                1 => (*random.pick(any)).to_owned(),
                _ if known.is_empty() => continue,
                _ => (*random.pick(known)).to_owned(),
            };
            names.push(name);
        }
        let mut query = String::new();
        for (n, name) in names.iter().enumerate() {
            let value = self.value_of(random, name);
            query.push(if n == 0 { '?' } else { '&' });
            query.push_str(&encode(random, name, false));
            query.push('=');
            query.push_str(&encode(random, &value, true));
        }
        query.truncate(
            query
                .char_indices()
                .nth(60_000)
                .map_or(query.len(), |c| c.0),
        );
        query
    }

    fn value_of(&self, random: &mut Random, name: &str) -> String {
        if random.one_in(8) {
            let odd = text(random);
            return if self.names_kept(&odd) {
                "t0".to_owned()
            } else {
                odd
            };
        }
        match name {
            "filters" => self.filters(random),
            "container" => self.name(random, "/containers/{id}"),
            "names" | "fromImage" | "repo" => self.name(random, "/images/{name*}"),
            "name" => (*random.pick(&["t0", "t1", "t2", "t3", "v0", "n0"])).to_owned(),
            "path" => (*random.pick(&["/etc", "/tmp", "/", "etc/passwd", "/data", "/proc/1/fd"]))
                .to_owned(),
            "condition" => (*random.pick(&["next-exit", "removed", "not-running"])).to_owned(),
            "fromSrc" => "-".to_owned(),
            "signal" => (*random.pick(&["KILL", "0", "15", "SIGUSR1", "SIGCONT"])).to_owned(),
            "ps_args" => (*random.pick(&["-ef", "aux", "-o pid,cmd", "-eo x"])).to_owned(),
            "type" => (*random.pick(&["container", "image", "volume", "build-cache"])).to_owned(),
            "since" | "until" => {
                (*random.pick(&["0", "1700000000.5", "1h", "2030-01-01"])).to_owned()
            }
            "platform" => {
                (*random.pick(&["linux/amd64", "{\"os\":\"linux\"}", "plan9/mips"])).to_owned()
            }
            "changes" => {
                (*random.pick(&["ENV a=b", "CMD [\"x\"]", "EXPOSE 99999", "RUN x"])).to_owned()
            }
            _ => (*random.pick(&["1", "0", "true", "false", "2", "100"])).to_owned(),
        }
    }

    fn filters(&self, random: &mut Random) -> String {
        const KEYS: &[&str] = &[
            "status",
            "label",
            "label!",
            "name",
            "id",
            "ancestor",
            "before",
            "since",
            "exited",
            "health",
            "network",
            "publish",
            "expose",
            "volume",
            "is-task",
            "dangling",
            "reference",
            "until",
            "driver",
            "scope",
            "type",
            "event",
            "container",
            "image",
            "unused-for",
            "all",
        ];
        let mut filters = json!({});
        for _ in 0..=random.below(3) {
            let key = *random.pick(KEYS);
            let value = match random.below(3) {
                0 => text(random),
                1 => self.name(random, "/containers/{id}"),
                _ => (*random.pick(&["running", "exited", "1", "true", "false", "24h"])).to_owned(),
            };
            // the form of today, and that of old clients
            filters[key] = if random.one_in(2) {
                json!([value])
            } else {
                json!({ (value): true })
            };
        }
        if random.one_in(4) {
            mutate(random, &mut filters);
        }
        self.tame(&mut filters);
        let mut text = filters.to_string().into_bytes();
        if random.one_in(10) {
            spoil(random, &mut text);
            text.truncate(8_000);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its type, and its bytes.
    fn body(&self, random: &mut Random, pattern: &str) -> (&'static str, Vec<u8>) {
        if takes_archive(pattern) {
            let mut archive = random.pick(&self.archives).clone();
            match random.below(6) {
                0 => archive.truncate(random.below(archive.len())),
                1 => {
                    for _ in 0..=random.below(20) {
                        let at = random.below(archive.len());
                        archive[at] = archive[at].wrapping_add(1);
                    }
                }
                2 => archive = random.bytes(5_000),
                3 => archive = [&[0x1f, 0x8b, 8, 0][..], &random.bytes(3_000)].concat(),
                _ => {}
            }
            return ("application/x-tar", archive);
        }
        let Some(mut body) = super::bodies::valid(random, pattern, &self.dir) else {
            // not asked for: a few bring one all the same
            let brings = random.one_in(20);
            let odd = if brings {
                random.bytes(9_000)
            } else {
                Vec::new()
            };
            return ("application/json", odd);
        };
        if random.one_in(3) {
            for _ in 0..=random.below(3) {
                mutate(random, &mut body);
            }
        }
        self.tame(&mut body);
        let mut bytes = body.to_string().into_bytes();
        if random.one_in(12) {
            spoil(random, &mut bytes);
        }
        if random.one_in(500) {
            bytes = vec![b' '; 5 * 1024 * 1024];
        }
        ("application/json", bytes)
    }
}

fn may_wait(pattern: &str) -> bool {
    const LATE: &[&str] = &[
        "/events",
        "/logs",
        "/stats",
        "/wait",
        "/attach",
        "/attach/ws",
        "/stop",
        "/restart",
        "/images/create",
        "/push",
        "/auth",
        "/session",
        "/grpc",
        "/build",
    ];
    LATE.iter().any(|end| pattern.ends_with(end))
        || pattern.starts_with("/exec/") && pattern.ends_with("/start")
        || pattern.starts_with("/distribution/")
}

fn takes_archive(pattern: &str) -> bool {
    ["/archive", "/images/load", "/images/create", "/build"]
        .iter()
        .any(|end| pattern.ends_with(end))
}

fn headers(random: &mut Random, pattern: &str, kind: &str, head: &mut String) {
    let kind = match random.below(25) {
        0 => "text/plain",
        1 => "application/json; charset=\"",
        _ => kind,
    };
    head.push_str(&format!("Content-Type: {kind}\r\n"));
    let upgrades = pattern.ends_with("/attach") || pattern.ends_with("/start");
    if upgrades && random.one_in(2) {
        head.push_str("Upgrade: tcp\r\n");
    }
    if random.one_in(20) {
        let name = *random.pick(&[
            "X-Registry-Auth",
            "X-Registry-Config",
            "Accept",
            "Accept-Encoding",
            "Upgrade",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Expect",
            "Range",
            "Host",
            "X-Y",
        ]);
        let value = match random.below(5) {
            0 => "100-continue".to_owned(),
            1 => "e30=".to_owned(),
            2 => "websocket".to_owned(),
            3 => "eyJ1c2VybmFtZSI6MX0".to_owned(),
            _ => text(random).replace(['\r', '\n', '\0'], " "),
        };
        head.push_str(&format!("{name}: {value}\r\n"));
    }
}

/// The parameters of routes, by the end of their paths; the first that fits.
const PARAMETERS: &[(&str, &[&str])] = &[
    (
        "/containers/json",
        &["all", "limit", "size", "filters", "since", "before"],
    ),
    ("/containers/create", &["name", "platform"]),
    ("/prune", &["filters", "all"]),
    ("/events", &["since", "until", "filters"]),
    ("/df", &["type", "verbose"]),
    ("/start", &["detachKeys"]),
    ("/stop", &["t", "signal"]),
    ("/restart", &["t", "signal"]),
    ("/kill", &["signal"]),
    ("/rename", &["name"]),
    ("/wait", &["condition"]),
    ("/resize", &["h", "w"]),
    ("/containers/{id}", &["v", "force", "link"]),
    ("/top", &["ps_args"]),
    (
        "/logs",
        &[
            "follow",
            "stdout",
            "stderr",
            "since",
            "until",
            "timestamps",
            "tail",
            "details",
        ],
    ),
    ("/stats", &["stream", "one-shot"]),
    (
        "/attach",
        &["detachKeys", "logs", "stream", "stdin", "stdout", "stderr"],
    ),
    (
        "/ws",
        &["detachKeys", "logs", "stream", "stdin", "stdout", "stderr"],
    ),
    ("/archive", &["path", "noOverwriteDirNonDir", "copyUIDGID"]),
    (
        "/commit",
        &[
            "container",
            "repo",
            "tag",
            "comment",
            "author",
            "pause",
            "changes",
        ],
    ),
    (
        "/images/json",
        &["all", "filters", "shared-size", "digests", "manifests"],
    ),
    (
        "/images/create",
        &[
            "fromImage",
            "fromSrc",
            "repo",
            "tag",
            "message",
            "changes",
            "platform",
        ],
    ),
    ("/load", &["quiet", "platform"]),
    ("/get", &["names", "platform"]),
    ("/tag", &["repo", "tag"]),
    ("/push", &["tag", "platform"]),
    ("/images/{name*}", &["force", "noprune", "platforms"]),
    ("/history", &["platform"]),
    ("/search", &["term", "limit", "filters"]),
    ("/volumes", &["filters"]),
    ("/volumes/{name}", &["force", "version"]),
    ("/networks", &["filters"]),
    ("/networks/{id}", &["verbose", "scope"]),
    (
        "/build",
        &[
            "t",
            "dockerfile",
            "remote",
            "q",
            "nocache",
            "target",
            "buildargs",
            "version",
        ],
    ),
    ("/fsck", &["repair"]),
];

/// Without these nothing is done.
fn needed(pattern: &str) -> &'static [&'static str] {
    const NEEDED: &[(&str, &[&str])] = &[
        ("/resize", &["h", "w"]),
        ("/rename", &["name"]),
        ("/logs", &["stdout", "stderr"]),
        ("/archive", &["path"]),
        ("/commit", &["container", "repo"]),
        ("/images/create", &["fromSrc"]),
        ("/tag", &["repo", "tag"]),
        ("/images/get", &["names"]),
        ("/attach", &["stream", "stdout"]),
    ];
    let found = NEEDED.iter().find(|(end, _)| pattern.ends_with(end));
    found.map_or(&[], |(_, names)| *names)
}

fn parameters(pattern: &str) -> &'static [&'static str] {
    let found = PARAMETERS.iter().find(|(end, _)| pattern.ends_with(end));
    found.map_or(&[], |(_, names)| *names)
}
