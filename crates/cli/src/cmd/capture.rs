//! `capture`: an image of this machine's own programs, for where there is no registry.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::images::send_archive;
use crate::capture::CaptureError;
use crate::capture::accounts;
use crate::capture::archive;
use crate::capture::closure::{Closure, Made, Node};
use crate::flags::{switch, value};
use crate::http::Query;
use crate::parse;
use crate::progress;
use crate::table::align;
use crate::verb::{Context, Failure, Offer, Operands, Outcome, Verb, chain};

#[derive(Debug, Default)]
pub(crate) struct CaptureOptions {
    tag: String,
    add: Vec<PathBuf>,
    packages: Vec<String>,
    user: Option<String>,
    accounts: Vec<String>,
    certs: bool,
    zoneinfo: bool,
    env: Vec<String>,
    entrypoint: Option<String>,
    workdir: String,
    labels: Vec<String>,
    volumes: Vec<String>,
    dry_run: bool,
    output: Option<PathBuf>,
}

#[rustfmt::skip]
pub(crate) static CAPTURE: Verb<CaptureOptions> = Verb {
    path: "capture",
    aliases: &["image capture"],
    usage: "[OPTIONS] -t NAME[:TAG] PROGRAM [PROGRAM...]",
    about: "Make an image of this machine's own programs with the libraries they need",
    operands: Operands::AtLeast(1),
    offer: Offer::Files,
    interspersed: true,
    flags: &[&[
        value("tag", Some('t'), "string", |o, v| { v.clone_into(&mut o.tag); Ok(()) }, "Name of the image"),
        value("add", None, "list", |o, v| { o.add.push(v.into()); Ok(()) }, "Add a file or directory, with the libraries its files need"),
        value("package", None, "list", |o, v| { o.packages.push(v.to_owned()); Ok(()) }, "Add the files of an installed Debian package"),
        value("user", Some('u'), "string", |o, v| { o.user = Some(v.to_owned()); Ok(()) }, "Add this user's account and home, and run as it"),
        value("account", None, "list", |o, v| { o.accounts.push(v.to_owned()); Ok(()) }, "Add a user's account and home"),
        switch("certs", None, |o, v| o.certs = v, "Add the certificates of authorities"),
        switch("zoneinfo", None, |o, v| o.zoneinfo = v, "Add the time zones"),
        value("env", Some('e'), "list", |o, v| { o.env.push(parse::env(v)?); Ok(()) }, "Set an environment variable of the image"),
        value("entrypoint", None, "string", |o, v| { o.entrypoint = Some(v.to_owned()); Ok(()) }, "Entry point of the image; without, the first program is its command"),
        value("workdir", Some('w'), "string", |o, v| { v.clone_into(&mut o.workdir); Ok(()) }, "Working directory of the image"),
        value("label", Some('l'), "list", |o, v| { o.labels.push(parse::label(v)?); Ok(()) }, "Label the image"),
        value("volume", Some('v'), "list", |o, v| { o.volumes.push(v.to_owned()); Ok(()) }, "Directory that is a volume of each container"),
        switch("dry-run", None, |o, v| o.dry_run = v, "List the files and why each is there; make nothing"),
        value("output", Some('o'), "string", |o, v| { o.output = Some(v.into()); Ok(()) }, "Write the archive to a file instead of loading it"),
    ]],
    run: capture,
};

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        Self::say(chain(&error))
    }
}

fn capture(context: &Context, o: CaptureOptions, programs: Vec<String>) -> Outcome {
    if o.tag.is_empty() && !o.dry_run {
        return Err(Failure::Usage {
            message: "give the image a name with -t".into(),
            code: 125,
        });
    }
    let mut closure = Closure::new();
    let mut paths = Vec::new();
    for program in &programs {
        paths.push(closure.program(program)?);
    }
    for path in &o.add {
        closure.path(path, "asked for with --add")?;
    }
    for package in &o.packages {
        closure.package(package)?;
    }
    data(&mut closure, &o)?;
    skeleton(&mut closure, &o)?;
    for warning in &closure.warnings {
        context.warn(&format!("WARNING: {warning}"));
    }
    if o.dry_run {
        return context.print(&listing(&closure));
    }
    let config = config(&o, &paths);
    let comment = format!("capture {}", programs.join(" "));
    build(context, &o, &closure, &config, &comment)
}

/// Certificates and time zones.
fn data(closure: &mut Closure, o: &CaptureOptions) -> Result<(), CaptureError> {
    let mut any = |what: &'static str, places: &[&str]| -> Result<(), CaptureError> {
        let there: Vec<&&str> = places.iter().filter(|p| Path::new(p).exists()).collect();
        if there.is_empty() {
            return Err(CaptureError::NoData {
                what,
                places: places.iter().map(|p| (*p).to_owned()).collect(),
            });
        }
        there
            .iter()
            .try_for_each(|p| closure.path(Path::new(p), what))
    };
    if o.certs {
        any(
            "certificates of authorities",
            &[
                "/etc/ssl/certs",
                "/etc/ssl/openssl.cnf",
                "/etc/ssl/cert.pem",
                "/etc/pki/tls/certs",
                "/etc/pki/ca-trust/extracted",
            ],
        )?;
    }
    if o.zoneinfo {
        any(
            "time zones",
            &["/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone"],
        )?;
    }
    Ok(())
}

/// What every root file system has: directories to mount on, accounts, where names come from.
fn skeleton(closure: &mut Closure, o: &CaptureOptions) -> Result<(), CaptureError> {
    const WHY: &str = "every image has it";
    let directory = |mode| Made::Directory {
        mode,
        uid: 0,
        gid: 0,
    };
    for (path, mode) in [
        ("/dev", 0o755),
        ("/etc", 0o755),
        ("/proc", 0o555),
        ("/root", 0o700),
        ("/run", 0o755),
        ("/sys", 0o555),
        ("/tmp", 0o1777),
        ("/usr", 0o755),
        ("/usr/bin", 0o755),
        ("/var", 0o755),
        ("/var/tmp", 0o1777),
    ] {
        closure.make(path, directory(mode), WHY);
    }
    closure.make("/bin", Made::Link("usr/bin".into()), WHY);
    closure.make("/var/run", Made::Link("/run".into()), WHY);
    let names: Vec<String> = o.user.iter().chain(&o.accounts).cloned().collect();
    let read = |path: &str| fs::read_to_string(path).map_err(CaptureError::io("read", path));
    // a numeric user needs no account
    let names: Vec<String> = names
        .iter()
        .map(|n| n.split(':').next().unwrap_or_default().to_owned())
        .filter(|n| n.parse::<u32>().is_err())
        .collect();
    let chosen = accounts::select(&read("/etc/passwd")?, &read("/etc/group")?, &names)?;
    // ours, not the host's, even where a package or --add brought the host's
    for (path, text) in [("/etc/passwd", chosen.passwd), ("/etc/group", chosen.group)] {
        closure.items.remove(Path::new(path));
        closure.make(path, Made::File(text.into_bytes()), "accounts");
    }
    closure.make(
        "/etc/nsswitch.conf",
        Made::File(b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n".to_vec()),
        "names of users and hosts",
    );
    for user in chosen.users.iter().filter(|u| u.home.starts_with('/')) {
        home(closure, &user.home, user.uid, user.gid);
    }
    Ok(())
}

/// The home of an account: empty, its own.
fn home(closure: &mut Closure, home: &str, uid: u32, gid: u32) {
    let path = Path::new(home);
    let above: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .filter(|p| p.parent().is_some())
        .collect();
    for directory in above.into_iter().rev() {
        closure.make(
            directory,
            Made::Directory {
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
            "above a home",
        );
    }
    closure.make(
        path,
        Made::Directory {
            mode: 0o755,
            uid,
            gid,
        },
        "home of an account",
    );
}

fn listing(closure: &Closure) -> String {
    let mut lines = vec!["PATH\tSIZE\tWHY".to_owned()];
    let mut total = 0;
    for (path, item) in &closure.items {
        let size = match &item.node {
            Node::File => fs::metadata(path).map_or(0, |m| m.len()),
            Node::Made(Made::File(bytes)) => bytes.len() as u64,
            _ => 0,
        };
        total += size;
        let shown = match &item.node {
            Node::Link(target) | Node::Made(Made::Link(target)) => {
                format!("{} -> {}", path.display(), target.display())
            }
            Node::Directory | Node::Made(Made::Directory { .. }) => format!("{}/", path.display()),
            _ => path.display().to_string(),
        };
        lines.push(format!(
            "{shown}\t{}\t{}",
            crate::human::size4(size as f64),
            item.why
        ));
    }
    let count = closure.items.len();
    format!(
        "{}{count} entries, {}\n",
        align(&lines, 10, 3),
        crate::human::size4(total as f64)
    )
}

fn config(o: &CaptureOptions, programs: &[PathBuf]) -> Value {
    let mut config = Map::new();
    // where the programs are comes first, then the usual places
    let mut path: Vec<String> = Vec::new();
    let usual = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    let own = programs
        .iter()
        .filter_map(|p| p.parent())
        .map(|p| p.display().to_string());
    for directory in usual.iter().map(|u| (*u).to_owned()).chain(own) {
        if !path.contains(&directory) {
            path.push(directory);
        }
    }
    let mut env = vec![format!("PATH={}", path.join(":"))];
    env.extend(o.env.iter().filter(|e| e.contains('=')).cloned());
    config.insert("Env".into(), json!(env));
    match &o.entrypoint {
        Some(entry) if !entry.is_empty() => {
            config.insert("Entrypoint".into(), json!([entry]));
        }
        _ => {
            config.insert("Cmd".into(), json!([programs[0].display().to_string()]));
        }
    }
    if let Some(user) = &o.user {
        config.insert("User".into(), json!(user));
    }
    if !o.workdir.is_empty() {
        config.insert("WorkingDir".into(), json!(o.workdir));
    }
    if !o.labels.is_empty() {
        let labels: Map<String, Value> = o
            .labels
            .iter()
            .map(|l| parse::key_value(l))
            .map(|(k, v)| (k, Value::String(v)))
            .collect();
        config.insert("Labels".into(), Value::Object(labels));
    }
    if !o.volumes.is_empty() {
        let volumes: Map<String, Value> =
            o.volumes.iter().map(|v| (v.clone(), json!({}))).collect();
        config.insert("Volumes".into(), Value::Object(volumes));
    }
    Value::Object(config)
}

fn build(
    context: &Context,
    o: &CaptureOptions,
    closure: &Closure,
    config: &Value,
    comment: &str,
) -> Outcome {
    let bar = progress::bar("packing", None);
    let packed = archive::layer(&closure.items, &|n| bar.inc(n));
    bar.finish_and_clear();
    let layer = packed?;
    let name = if o.tag.rsplit('/').next().is_some_and(|n| n.contains(':')) {
        o.tag.clone()
    } else {
        format!("{}:latest", o.tag)
    };
    let created = jiff::Timestamp::now().to_string();
    if let Some(path) = &o.output {
        let mut file = fs::File::create(path).map_err(CaptureError::io("make", path))?;
        archive::image(layer, &name, config, &created, comment, &mut file)?;
        file.sync_all().map_err(CaptureError::io("sync", path))?;
        return Ok(());
    }
    let size = layer.size;
    let (reader, mut writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let writing = scope
            .spawn(move || archive::image(layer, &name, config, &created, comment, &mut writer));
        let mut source = Whole {
            reader,
            writing: Some(writing),
        };
        let query = Query::new("/images/load").flag("quiet", true).build();
        send_archive(context, &query, "loading", &mut source, Some(size), false)
    })
}

/// Reads what a thread writes. If writing fails, reading fails: an archive that merely ends would
/// be taken for a whole one.
struct Whole<'s> {
    reader: io::PipeReader,
    writing: Option<std::thread::ScopedJoinHandle<'s, Result<(), CaptureError>>>,
}

impl Read for Whole<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        if n == 0
            && let Some(writing) = self.writing.take()
        {
            match writing.join() {
                Ok(outcome) => outcome.map_err(|e| io::Error::other(chain(&e)))?,
                Err(_) => return Err(io::Error::other("the packing thread panicked")),
            }
        }
        Ok(n)
    }
}
