//! Loading a large image, against `gzip -dc | tar x` of the same layers one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use testkit::image::{Node, digest, tar};

use super::peers::Engine;
use super::report::{Table, Target, median};
use crate::Failed;
use crate::run::{output, program};

const LAYERS: usize = 7;
const ROUNDS: usize = 3;
const NAME: &str = "large:bench";

/// Measures.
pub(crate) fn unpack(engines: &[Engine], table: &mut Table) -> Result<(), Failed> {
    let root_file_system = crate::demo::root_file_system("postgresql", &["postgresql"])?;
    let dir = tempfile::Builder::new().prefix("pl-unpack-").tempdir()?;
    let (archive, layers, size) = image(dir.path(), &root_file_system)?;
    table.note(format!(
        "the large image: {LAYERS} layers, {} MiB unpacked, {} MiB gzipped",
        size >> 20,
        fs::metadata(&archive)?.len() >> 20
    ));
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for engine in engines {
            let before = Instant::now();
            engine.load(&archive)?;
            let took = before.elapsed().as_secs_f64();
            times.entry(engine.kind.name()).or_default().push(took);
            engine.remove_image(NAME)?;
        }
        let floor = pipeline(dir.path(), &layers)?;
        times.entry("floor").or_default().push(floor);
    }
    let medians = times.iter().map(|(k, v)| (*k, median(v))).collect();
    let targets = [Target::Ratio("floor", 1.0 / 0.6)];
    table.row(
        "load of the large image; floor: `gzip -dc | tar x` of its layers",
        "s",
        &medians,
        &targets,
    );
    Ok(())
}

/// `gzip -dc layer | tar x` for each layer, into one directory.
fn pipeline(dir: &Path, layers: &[PathBuf]) -> Result<f64, Failed> {
    let to = dir.join("floor");
    fs::create_dir(&to)?;
    let before = Instant::now();
    for layer in layers {
        let script = "gzip -dc \"$1\" | tar -x -C \"$2\"";
        let mut command = program("sh");
        command.args(["-c", script, "sh"]).arg(layer).arg(&to);
        output(&mut command)?;
    }
    let took = before.elapsed().as_secs_f64();
    fs::remove_dir_all(&to)?;
    Ok(took)
}

/// A docker-archive with gzipped layers of about the same size, made of a root file system.
fn image(dir: &Path, from: &Path) -> Result<(PathBuf, Vec<PathBuf>, u64), Failed> {
    let tree = dir.join("tree");
    fs::create_dir(&tree)?;
    output(program("tar").arg("-xf").arg(from).arg("-C").arg(&tree))?;
    let mut files = Vec::new();
    list(&tree, &tree, &mut files)?;
    files.sort();
    let total: u64 = files.iter().map(|f| f.1).sum();
    let share = total / LAYERS as u64 + 1;
    let mut lists: Vec<Vec<u8>> = vec![Vec::new(); LAYERS];
    let mut seen = 0;
    for (path, size) in &files {
        let layer = usize::try_from(seen / share)?.min(LAYERS - 1);
        if let Some(list) = lists.get_mut(layer) {
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(0);
        }
        seen += size;
    }
    let (mut layers, mut ids, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (n, list) in lists.iter().enumerate() {
        let names = dir.join(format!("list{n}"));
        fs::write(&names, list)?;
        let plain = dir.join(format!("layer{n}.tar"));
        let mut command = program("tar");
        command.arg("-cf").arg(&plain).arg("-C").arg(&tree);
        command.args(["--no-recursion", "--null", "--numeric-owner", "-T"]);
        output(command.arg(&names))?;
        ids.push(format!("sha256:{}", digest(&fs::read(&plain)?)));
        output(program("gzip").arg("-6").arg(&plain))?;
        let packed = dir.join(format!("layer{n}.tar.gz"));
        entries.push((
            format!("layer{n}.tar.gz"),
            Node::File(fs::read(&packed)?, 0o644),
        ));
        layers.push(packed);
    }
    fs::remove_dir_all(&tree)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", digest(&config));
    let names: Vec<&str> = entries.iter().map(|e| e.0.as_str()).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [NAME], "Layers": names}]);
    entries.push((config_name, Node::File(config, 0o644)));
    let manifest = manifest.to_string().into_bytes();
    entries.push(("manifest.json".to_owned(), Node::File(manifest, 0o644)));
    let archive = dir.join("image.tar");
    fs::File::create(&archive)?.write_all(&tar(&entries))?;
    Ok((archive, layers, total))
}

/// Paths relative to `root` with their sizes; directories before what is in them when sorted.
fn list(root: &Path, at: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<(), Failed> {
    for entry in fs::read_dir(at)? {
        let entry = entry?;
        let meta = entry.path().symlink_metadata()?;
        let path = entry.path().strip_prefix(root)?.to_owned();
        files.push((path, if meta.is_file() { meta.len() } else { 0 }));
        if meta.is_dir() {
            list(root, &entry.path(), files)?;
        }
    }
    Ok(())
}
