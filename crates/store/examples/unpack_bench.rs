//! Wall time of loading an image against that of `gzip -dc | tar x` of the same layers.
//!
//! ```text
//! unpack_bench make SOURCE-DIR OUT-DIR [LAYERS [MEGABYTES]]   OUT-DIR/layer-N.tar.gz, OUT-DIR/image.tar
//! unpack_bench run OUT-DIR WORK-DIR [ROUNDS]                  medians and their ratio, as JSON
//! ```
//! `make` takes files of SOURCE-DIR in order of their names until it has enough, gzip's default
//! level. `run` empties WORK-DIR before each measurement; both sides read from the page cache. The
//! load is durable when it is counted (blobs and index synced), `tar x` is not. On a machine that does
//! other things too, the CPU times say more than the wall times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use store::progress::NoProgress;
use store::tar::{Entry, Kind, Writer};
use store::{OpenOptions, Store};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["make", source, out, rest @ ..] => {
            let layers = rest.first().map_or(Ok(7), |n| n.parse())?;
            let megabytes: u64 = rest.get(1).map_or(Ok(500), |n| n.parse())?;
            make(Path::new(source), Path::new(out), layers, megabytes << 20)
        }
        ["run", out, work, rest @ ..] => {
            let rounds = rest.first().map_or(Ok(5), |n| n.parse())?;
            run(Path::new(out), Path::new(work), rounds)
        }
        _ => {
            Err("usage: unpack_bench make SOURCE OUT [LAYERS [MB]] | run OUT WORK [ROUNDS]".into())
        }
    }
}

fn make(source: &Path, out: &Path, layers: usize, bytes: u64) -> Result<(), Failure> {
    std::fs::create_dir_all(out)?;
    let mut files = Vec::new();
    collect(source, bytes, &mut 0, &mut files)?;
    let mut diffs = Vec::new();
    for (i, part) in files.chunks(files.len().div_ceil(layers)).enumerate() {
        let path = out.join(format!("layer-{i}.tar.gz"));
        let gzip = flate2::write::GzEncoder::new(
            BufWriter::new(File::create(&path)?),
            flate2::Compression::new(6),
        );
        let tar = pack(
            source,
            part,
            Summed {
                inner: gzip,
                sum: Sha256::new(),
            },
        )?;
        diffs.push(format!("sha256:{}", hex::encode(tar.sum.finalize())));
        tar.inner.finish()?.flush()?;
    }
    image(out, &diffs)
}

/// Files and their directories, parents first, until there are enough bytes.
fn collect(dir: &Path, limit: u64, sum: &mut u64, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if *sum >= limit || !(kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            continue;
        }
        files.push(entry.path());
        if kind.is_dir() {
            collect(&entry.path(), limit, sum, files)?;
        } else {
            *sum += entry.metadata()?.len();
        }
    }
    Ok(())
}

struct Summed<W> {
    inner: W,
    sum: Sha256,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.sum.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn pack<W: Write>(root: &Path, files: &[PathBuf], out: W) -> Result<W, Failure> {
    let mut tar = Writer::new(out);
    for path in files {
        let meta = path.symlink_metadata()?;
        let kind = if meta.is_dir() {
            Kind::Directory
        } else if meta.is_symlink() {
            Kind::Symlink
        } else {
            Kind::File
        };
        let name = path.strip_prefix(root)?.as_os_str().as_bytes();
        let mut entry = Entry::new(kind, name, meta.mode() & 0o7777);
        entry.mtime.sec = meta.mtime();
        let mut data = Vec::new();
        match kind {
            Kind::Symlink => entry.link = std::fs::read_link(path)?.as_os_str().as_bytes().to_vec(),
            Kind::File => data = std::fs::read(path)?,
            _ => {}
        }
        entry.size = data.len() as u64;
        tar.append(&entry, &data)?;
    }
    Ok(tar.finish()?)
}

fn image(out: &Path, diffs: &[String]) -> Result<(), Failure> {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    })
    .to_string();
    let mut tar = Writer::new(BufWriter::new(File::create(out.join("image.tar"))?));
    let mut names = Vec::new();
    for i in 0..diffs.len() {
        let data = std::fs::read(out.join(format!("layer-{i}.tar.gz")))?;
        let name = format!("{}.tar.gz", hex::encode(Sha256::digest(&data)));
        put(&mut tar, &name, &data)?;
        names.push(name);
    }
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    put(&mut tar, &config_name, config.as_bytes())?;
    let manifest = serde_json::json!([
        {"Config": config_name, "RepoTags": ["bench:latest"], "Layers": names}
    ]);
    put(&mut tar, "manifest.json", manifest.to_string().as_bytes())?;
    tar.finish()?.flush()?;
    Ok(())
}

fn put<W: Write>(tar: &mut Writer<W>, name: &str, data: &[u8]) -> Result<(), Failure> {
    let mut entry = Entry::new(Kind::File, name.as_bytes(), 0o644);
    entry.size = data.len() as u64;
    Ok(tar.append(&entry, data)?)
}

fn run(out: &Path, work: &Path, rounds: usize) -> Result<(), Failure> {
    let mut layers: Vec<PathBuf> = std::fs::read_dir(out)?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.to_string_lossy().ends_with(".tar.gz"))
        .collect();
    layers.sort();
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut cpu: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for _ in 0..rounds {
        for (name, measure) in [
            (
                "load",
                load as fn(&Path, &[PathBuf], &Path) -> Result<Duration, Failure>,
            ),
            ("tar", gzip_tar),
        ] {
            fresh(work)?;
            let before = cpu_time()?;
            times
                .entry(name)
                .or_default()
                .push(measure(out, &layers, work)?);
            cpu.entry(name).or_default().push(cpu_time()? - before);
        }
    }
    fresh(work)?;
    let middle = |list: &[Duration]| {
        let mut list = list.to_vec();
        list.sort();
        list[list.len() / 2].as_secs_f64()
    };
    let median = |name: &str| middle(&times[name]);
    let result = serde_json::json!({
        "load_s": median("load"), "gzip_tar_s": median("tar"),
        "ratio": median("load") / median("tar"), "rounds": rounds,
        "load_cpu_s": middle(&cpu["load"]), "gzip_tar_cpu_s": middle(&cpu["tar"]),
    });
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{result}")?;
    Ok(())
}

/// Of this process and the children it waited for.
fn cpu_time() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().ok_or("no fields")?;
    let mut ticks = 0;
    // utime, stime, cutime, cstime; a tick is 10 ms on every Linux we run on
    for field in fields.split_whitespace().skip(11).take(4) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(10 * ticks))
}

fn fresh(work: &Path) -> Result<(), Failure> {
    if work.exists() {
        std::fs::remove_dir_all(work)?;
    }
    std::fs::create_dir_all(work)?;
    rustix::fs::syncfs(File::open(work)?)?;
    Ok(())
}

fn load(out: &Path, _: &[PathBuf], work: &Path) -> Result<Duration, Failure> {
    let (store, _) = Store::open(work, &OpenOptions::default())?;
    let mut archive = File::open(out.join("image.tar"))?;
    let start = Instant::now();
    store.load(&mut archive, &NoProgress)?;
    let taken = start.elapsed();
    store.close()?;
    Ok(taken)
}

/// What `gzip -dc | tar x` does, by those programs, one layer after the other.
#[expect(
    clippy::disallowed_methods,
    reason = "the measure is what those programs take"
)]
fn gzip_tar(_: &Path, layers: &[PathBuf], work: &Path) -> Result<Duration, Failure> {
    let start = Instant::now();
    for layer in layers {
        let mut gzip = std::process::Command::new("gzip")
            .arg("-dc")
            .arg(layer)
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let pipe = gzip.stdout.take().ok_or("gzip has no output")?;
        let status = std::process::Command::new("tar")
            .args(["-x", "-C"])
            .arg(work)
            .stdin(pipe)
            .status()?;
        if !gzip.wait()?.success() || !status.success() {
            return Err("gzip or tar failed".into());
        }
    }
    Ok(start.elapsed())
}
