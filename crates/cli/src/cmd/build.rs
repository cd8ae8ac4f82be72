//! `build` and `builder prune`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use api::system::BuildPruneReport;
use dockerfile::ignore::Ignore;
use store::pick::{self, Choice, Found, Picked, Rules};

use super::containers::{confirmed, filter, with_filters};
use super::images::say_messages;
use crate::flags::{refused, switch, value};
use crate::http::{Body, Query};
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb, reason};
use crate::{human, parse};

const DOCKERFILE: &str = "Dockerfile";
/// Name of a Dockerfile that is not in the context.
const SENT: &str = ".dockerfile.sent";
const IGNORE: &str = ".dockerignore";
/// Bytes of an ignore file.
const IGNORE_LIMIT: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct BuildOptions {
    tags: Vec<String>,
    file: Option<String>,
    args: BTreeMap<String, Option<String>>,
    labels: BTreeMap<String, String>,
    hosts: Vec<String>,
    ulimits: Vec<serde_json::Value>,
    no_cache: bool,
    pull: bool,
    quiet: bool,
    image_file: Option<PathBuf>,
    keep_containers: bool,
    /// Parameters of the call that are passed on as they are.
    plain: Vec<(&'static str, String)>,
}

fn plain(o: &mut BuildOptions, name: &'static str, text: &str) -> Result<(), String> {
    o.plain.push((name, text.to_owned()));
    Ok(())
}

fn argument(o: &mut BuildOptions, text: &str) -> Result<(), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if name.is_empty() {
        return Err(format!("{text:?} has no name"));
    }
    o.args.insert(name.to_owned(), value);
    Ok(())
}

fn ulimit(o: &mut BuildOptions, text: &str) -> Result<(), String> {
    let (name, soft, hard) = parse::ulimit(text)?;
    o.ulimits
        .push(serde_json::json!({"Name": name, "Soft": soft, "Hard": hard}));
    Ok(())
}

pub(crate) static BUILD: Verb<BuildOptions> = Verb {
    path: "build",
    aliases: &["image build", "builder build"],
    usage: "[OPTIONS] PATH | -",
    about: "Build an image from a Dockerfile",
    operands: Operands::Exactly(1),
    offer: Offer::Files,
    interspersed: true,
    flags: &[
        &[
            value(
                "tag",
                Some('t'),
                "list",
                |o, v| {
                    o.tags.push(v.to_owned());
                    Ok(())
                },
                "Name of the image, as NAME[:TAG]",
            ),
            value(
                "file",
                Some('f'),
                "string",
                |o, v| {
                    o.file = Some(v.to_owned());
                    Ok(())
                },
                "The Dockerfile; - for standard input (default PATH/Dockerfile)",
            ),
            value(
                "build-arg",
                None,
                "list",
                argument,
                "Value of an ARG; without =VALUE, that of the environment",
            ),
            value(
                "label",
                None,
                "list",
                |o, v| {
                    let (name, value) = parse::key_value(&parse::label(v)?);
                    o.labels.insert(name, value);
                    Ok(())
                },
                "Set a label of the image",
            ),
            value(
                "target",
                None,
                "string",
                |o, v| plain(o, "target", v),
                "The stage to build",
            ),
            value(
                "platform",
                None,
                "string",
                |o, v| plain(o, "platform", v),
                "Platform of the base images",
            ),
            switch(
                "no-cache",
                None,
                |o, v| o.no_cache = v,
                "Take nothing from the cache",
            ),
            switch(
                "pull",
                None,
                |o, v| o.pull = v,
                "Ask the registries for newer base images",
            ),
            switch(
                "quiet",
                Some('q'),
                |o, v| o.quiet = v,
                "Print nothing but the image's id",
            ),
            switch(
                "rm",
                None,
                |o, v| o.keep_containers = !v,
                "Remove the containers of RUN (default true; they are removed always)",
            ),
            switch(
                "force-rm",
                None,
                |o, v| o.keep_containers &= !v,
                "The same after a failure",
            ),
            value(
                "iidfile",
                None,
                "string",
                |o, v| {
                    o.image_file = Some(v.into());
                    Ok(())
                },
                "Write the image's id to a file",
            ),
        ],
        &[
            value(
                "network",
                None,
                "string",
                |o, v| plain(o, "networkmode", v),
                "Network of RUN",
            ),
            value(
                "add-host",
                None,
                "list",
                |o, v| {
                    o.hosts.push(v.to_owned());
                    Ok(())
                },
                "Add a line to /etc/hosts of RUN, as NAME:IP",
            ),
            value(
                "shm-size",
                None,
                "bytes",
                |o, v| plain(o, "shmsize", &parse::bytes(v)?.to_string()),
                "Size of /dev/shm of RUN",
            ),
            value(
                "memory",
                Some('m'),
                "bytes",
                |o, v| plain(o, "memory", &parse::bytes(v)?.to_string()),
                "Memory of RUN",
            ),
            value(
                "memory-swap",
                None,
                "bytes",
                |o, v| plain(o, "memswap", &parse::swap_bytes(v)?.to_string()),
                "Memory and swap together; -1: without limit",
            ),
            value(
                "cpu-shares",
                Some('c'),
                "int",
                |o, v| plain(o, "cpushares", v),
                "Share of CPU time",
            ),
            value(
                "cpu-period",
                None,
                "int",
                |o, v| plain(o, "cpuperiod", v),
                "Period of the CPU quota, in microseconds",
            ),
            value(
                "cpu-quota",
                None,
                "int",
                |o, v| plain(o, "cpuquota", v),
                "CPU time in a period, in microseconds",
            ),
            value(
                "cpuset-cpus",
                None,
                "string",
                |o, v| plain(o, "cpusetcpus", v),
                "CPUs, as 0-3 or 0,1",
            ),
            value(
                "cpuset-mems",
                None,
                "string",
                |o, v| plain(o, "cpusetmems", v),
                "Memory nodes, as 0-3 or 0,1",
            ),
            value(
                "cgroup-parent",
                None,
                "string",
                |o, v| plain(o, "cgroupparent", v),
                "Parent of the cgroups of RUN",
            ),
            value("ulimit", None, "ulimit", ulimit, "Limits of RUN"),
        ],
        &[
            refused("squash", None, "copy what is wanted in a last stage"),
            refused("output", Some('o'), "copy files out by cp"),
            refused("cache-from", None, "the engine's own cache is used"),
            refused("secret", None, "not built"),
            refused("ssh", None, "not built"),
        ],
    ],
    run: build,
};

fn build(context: &Context, o: BuildOptions, operands: Vec<String>) -> Outcome {
    let path = operands[0].as_str();
    if o.keep_containers {
        return Err(Failure::say(
            "--rm=false is not built: the containers of a build are removed always",
        ));
    }
    if path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/") {
        return Err(Failure::say(format!(
            "a context from {path}: not built; fetch it and give the directory"
        )));
    }
    if path == "-" {
        if o.file.is_some() {
            return Err(Failure::say(
                "a context from standard input and --file: put the Dockerfile in the archive",
            ));
        }
        return from_input(context, &o);
    }
    let tree = Tree::open(Path::new(path), o.file.as_deref())?;
    std::thread::scope(|scope| {
        let (reader, mut writer) = io::pipe()?;
        let packer = scope.spawn(move || tree.pack(&mut writer));
        let name = tree_name(o.file.as_deref(), path);
        let mut reader = Packed {
            reader,
            packer: Some(packer),
        };
        send(context, &o, &name, &mut reader)
    })
}

/// What the packer says at its end comes after its last byte: an archive that is cut short must not
/// be taken for a whole one.
struct Packed<'a> {
    reader: io::PipeReader,
    packer: Option<std::thread::ScopedJoinHandle<'a, Result<(), pick::PickError>>>,
}

impl Read for Packed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        if n == 0
            && let Some(packer) = self.packer.take()
        {
            let packed = packer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            packed.map_err(io::Error::other)?;
        }
        Ok(n)
    }
}

/// Standard input: an archive, or a Dockerfile alone.
fn from_input(context: &Context, o: &BuildOptions) -> Outcome {
    let mut input = io::stdin().lock();
    let mut head = vec![0; 512];
    let mut n = 0;
    while n < head.len() {
        match input.read(&mut head[n..])? {
            0 => break,
            more => n += more,
        }
    }
    head.truncate(n);
    let packed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
    let is_archive =
        head.get(257..262) == Some(b"ustar") || packed.iter().any(|magic| head.starts_with(magic));
    let mut whole = io::Cursor::new(head).chain(input);
    if is_archive {
        return send(context, o, DOCKERFILE, &mut whole);
    }
    let mut text = Vec::new();
    whole.read_to_end(&mut text)?;
    let mut picked = Picked::default();
    picked.file(DOCKERFILE.as_bytes(), text, 0o644, (0, 0));
    let mut archive = Vec::new();
    picked
        .write(&mut archive, true)
        .map_err(|e| Failure::say(e.to_string()))?;
    send(context, o, DOCKERFILE, &mut archive.as_slice())
}

fn json(value: &impl serde::Serialize) -> String {
    // maps with string keys always serialise
    serde_json::to_string(value).unwrap_or_default()
}

fn send(context: &Context, o: &BuildOptions, name: &str, archive: &mut dyn Read) -> Outcome {
    let mut query = Query::new("/build")
        .with("dockerfile", name)
        .flag("nocache", o.no_cache)
        .flag("pull", o.pull)
        .flag("q", o.quiet || o.image_file.is_some());
    for tag in &o.tags {
        query = query.with("t", tag);
    }
    for host in &o.hosts {
        query = query.with("extrahosts", host);
    }
    for (key, value) in &o.plain {
        query = query.with(key, value);
    }
    if !o.args.is_empty() {
        query = query.with("buildargs", &json(&o.args));
    }
    if !o.labels.is_empty() {
        query = query.with("labels", &json(&o.labels));
    }
    if !o.ulimits.is_empty() {
        query = query.with("ulimits", &json(&o.ulimits));
    }
    let body = Body::Stream("application/x-tar", archive);
    let who = crate::login::all_header()?;
    let answer = context
        .client
        .send_with("POST", &query.build(), body, &who)?;
    let mut last = String::new();
    say_messages(answer, |line| {
        line.trim_end().clone_into(&mut last);
        context.print(line)
    })?;
    match &o.image_file {
        Some(path) => std::fs::write(path, &last)
            .map_err(|e| Failure::say(format!("write {}: {}", path.display(), reason(&e)))),
        None => Ok(()),
    }
}

/// A context that is a directory.
struct Tree {
    root: std::fs::File,
    ignore: Ignore,
    /// A Dockerfile from elsewhere.
    file: Option<Vec<u8>>,
    /// Path of the Dockerfile in the context.
    name: String,
}

/// The name by which the daemon finds the Dockerfile.
fn tree_name(file: Option<&str>, context: &str) -> String {
    match file {
        None => DOCKERFILE.to_owned(),
        Some(file) => inside(Path::new(file), Path::new(context)).unwrap_or(SENT.to_owned()),
    }
}

/// A file's path in a directory; `None`: it is not in it.
fn inside(file: &Path, dir: &Path) -> Option<String> {
    let (file, dir) = (file.canonicalize().ok()?, dir.canonicalize().ok()?);
    let below = file.strip_prefix(dir).ok()?;
    below.to_str().map(str::to_owned)
}

impl Tree {
    fn open(dir: &Path, file: Option<&str>) -> Result<Self, Failure> {
        let say = |path: &Path| {
            let path = path.display().to_string();
            move |e: io::Error| Failure::say(format!("{path}: {}", reason(&e)))
        };
        let root = std::fs::File::open(dir).map_err(say(dir))?;
        if !root.metadata().map_err(say(dir))?.is_dir() {
            return Err(Failure::say(format!(
                "{}: not a directory: give the directory that has the Dockerfile",
                dir.display()
            )));
        }
        let name = tree_name(file, &dir.to_string_lossy());
        let file = match file {
            Some("-") => {
                let mut text = Vec::new();
                io::stdin().read_to_end(&mut text)?;
                Some(text)
            }
            Some(path) if name == SENT => Some(std::fs::read(path).map_err(say(Path::new(path)))?),
            _ => None,
        };
        let read = |name: &str| -> Result<Option<Vec<u8>>, Failure> {
            let failed = |e: pick::PickError| Failure::say(format!("{name}: {e}"));
            let at = pick::resolve(Some(root.as_fd()), name.as_bytes()).map_err(failed)?;
            if at.found != Found::Other {
                return Ok(None);
            }
            pick::read(root.as_fd(), &at.path, IGNORE_LIMIT).map_err(failed)
        };
        if file.is_none() && read(&name)?.is_none() {
            return Err(Failure::say(format!(
                "unable to find the Dockerfile: {}",
                dir.join(&name).display()
            )));
        }
        let patterns = read(IGNORE)?.unwrap_or_default();
        let ignore = Ignore::parse(&String::from_utf8_lossy(&patterns));
        Ok(Self {
            ignore: ignore.map_err(|e| Failure::say(format!("{IGNORE}: {e}")))?,
            root,
            file,
            name,
        })
    }

    fn choose(&self, path: &[u8]) -> Choice {
        let path = String::from_utf8_lossy(path);
        // the daemon needs these two; it leaves them out of what is copied
        if path.is_empty() || path == self.name || path == IGNORE || !self.ignore.excludes(&path) {
            return Choice::Take;
        }
        let leads = self.name.starts_with(&format!("{path}/"));
        match self.ignore.can_skip(&path) && !leads {
            true => Choice::Leave,
            false => Choice::Below,
        }
    }

    /// Files are root's: who they belong to here means nothing there.
    fn pack(&self, out: &mut dyn Write) -> Result<(), pick::PickError> {
        let mut picked = Picked::default();
        let root = picked.root(self.root.as_fd());
        let rules = Rules {
            choose: &|path| self.choose(path),
            owner: Some((0, 0)),
            mode: &|mode, _| mode,
        };
        picked.take(root, b"", b"", true, &rules)?;
        if let Some(text) = &self.file {
            picked.file(SENT.as_bytes(), text.clone(), 0o644, (0, 0));
        }
        picked.write(out, true)
    }
}

#[derive(Debug, Default)]
pub(crate) struct PruneOptions {
    force: bool,
    all: bool,
    keep: Option<i64>,
    filters: api::Filters,
}

pub(crate) static PRUNE: Verb<PruneOptions> = Verb {
    path: "builder prune",
    aliases: &[],
    usage: "[OPTIONS]",
    about: "Remove the build cache",
    operands: Operands::None,
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[&[
        switch("force", Some('f'), |o, v| o.force = v, "Do not ask"),
        switch(
            "all",
            Some('a'),
            |o, v| o.all = v,
            "The same: no step is anybody's but the cache's",
        ),
        value(
            "filter",
            None,
            "filter",
            |o, v| filter(&mut o.filters, v),
            "Only what matches (until=AGE)",
        ),
        value(
            "keep-storage",
            None,
            "bytes",
            |o, v| {
                o.keep = Some(parse::bytes(v)?);
                Ok(())
            },
            "Bytes that may stay",
        ),
    ]],
    run: |context, o, _| {
        let warning = "WARNING! This will remove the build cache.";
        if !o.force && !confirmed(context, warning)? {
            return Ok(());
        }
        let mut query = Query::new("/build/prune").flag("all", o.all);
        if let Some(keep) = o.keep {
            query = query.with("keep-storage", &keep.to_string());
        }
        let (text, freed) = prune(context, with_filters(query, &o.filters))?;
        context.print(&format!(
            "{text}Total reclaimed space: {}\n",
            human::size4(freed as f64)
        ))
    },
};

/// Removes the build cache; the report and the bytes freed.
pub(crate) fn prune(context: &Context, query: Query) -> Result<(String, u64), Failure> {
    let report: BuildPruneReport = context
        .client
        .send("POST", &query.build(), Body::Empty)?
        .json()?;
    let deleted = report.caches_deleted.unwrap_or_default();
    let mut text = String::new();
    if !deleted.is_empty() {
        text = format!("Deleted build cache objects:\n{}\n\n", deleted.join("\n"));
    }
    Ok((text, report.space_reclaimed))
}
