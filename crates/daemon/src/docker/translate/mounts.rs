//! `-v` and `--mount`.

use api::container::Mount;
use engine::model::{MountKind, MountSpec};

use crate::docker::failure::Failure;

/// Where it is mounted: absolute, and not the root itself.
fn target(path: &str, whole: &str) -> Result<(), Failure> {
    if !path.starts_with('/') {
        return Err(Failure::invalid(format!(
            "invalid mount {whole:?}: the path in the container must be absolute"
        )));
    }
    if path.trim_end_matches('/').is_empty() {
        return Err(Failure::invalid(format!(
            "invalid mount {whole:?}: the destination can't be '/'"
        )));
    }
    Ok(())
}

/// `[source:]target[:options]`
pub(crate) fn bind(text: &str) -> Result<MountSpec, Failure> {
    let wrong =
        |why: &str| Failure::invalid(format!("invalid volume specification {text:?}: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, path, options) = match parts[..] {
        [path] => ("", path, ""),
        [source, path] => (source, path, ""),
        [source, path, options] => (source, path, options),
        _ => return Err(wrong("too many colons")),
    };
    target(path, text)?;
    let mut spec = if source.starts_with('/') {
        MountSpec {
            create_source: true,
            ..MountSpec::plain(MountKind::Bind, source, path)
        }
    } else {
        if parts.len() > 1 {
            volume_name(source)?;
        }
        MountSpec::plain(MountKind::Volume, source, path)
    };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "rw" => spec.read_only = false,
            "ro" => spec.read_only = true,
            "nocopy" if spec.kind == MountKind::Volume => spec.no_copy = true,
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave"
                if spec.kind == MountKind::Bind =>
            {
                spec.propagation = Some(option.to_owned());
            }
            // hints for hosts that are virtual machines; dockerd on Linux takes them without effect
            "consistent" | "cached" | "delegated" => {}
            "z" | "Z" => spec.relabel = true,
            _ => return Err(wrong(&format!("unknown option {option:?}"))),
        }
    }
    spec.given = Some(text.to_owned());
    Ok(spec)
}

/// The names a volume may have.
pub(crate) fn volume_name(name: &str) -> Result<(), Failure> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() > 1 && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

pub(crate) fn mount(m: &Mount) -> Result<MountSpec, Failure> {
    let wrong = |why: &str| {
        Failure::invalid(format!(
            "invalid mount config for type {:?}: {why}",
            m.r#type
        ))
    };
    if m.target.is_empty() {
        return Err(wrong("field Target must not be empty"));
    }
    target(&m.target, &m.target)?;
    let (bind, volume, tmpfs) = (
        m.bind_options.as_ref(),
        m.volume_options.as_ref(),
        m.tmpfs_options.as_ref(),
    );
    let foreign = |present: bool, what: &str| {
        if present {
            Err(wrong(&format!("field {what} must not be specified")))
        } else {
            Ok(())
        }
    };
    let spec = match m.r#type.as_str() {
        "bind" => {
            foreign(volume.is_some(), "VolumeOptions")?;
            foreign(tmpfs.is_some(), "TmpfsOptions")?;
            if !m.source.starts_with('/') {
                return Err(wrong("field Source must be an absolute path"));
            }
            bind_mount(m)
        }
        "volume" => {
            foreign(bind.is_some(), "BindOptions")?;
            foreign(tmpfs.is_some(), "TmpfsOptions")?;
            if !m.source.is_empty() {
                volume_name(&m.source)?;
            }
            volume_mount(m)?
        }
        "tmpfs" => {
            foreign(bind.is_some(), "BindOptions")?;
            foreign(volume.is_some(), "VolumeOptions")?;
            foreign(!m.source.is_empty(), "Source")?;
            tmpfs_mount(m)?
        }
        "image" => {
            foreign(bind.is_some(), "BindOptions")?;
            foreign(volume.is_some(), "VolumeOptions")?;
            foreign(tmpfs.is_some(), "TmpfsOptions")?;
            if m.source.is_empty() {
                return Err(wrong("field Source must not be empty"));
            }
            let subpath = m.image_options.as_ref().map(|o| o.subpath.clone());
            MountSpec {
                subpath: subpath.filter(|s| !s.is_empty()),
                ..MountSpec::plain(MountKind::Image, &m.source, &m.target)
            }
        }
        "npipe" | "cluster" => {
            return Err(Failure::not_built(format!("a mount of type {}", m.r#type)));
        }
        _ => return Err(wrong("unknown type")),
    };
    Ok(MountSpec {
        read_only: m.read_only,
        ..spec
    })
}

fn bind_mount(m: &Mount) -> MountSpec {
    let options = m.bind_options.clone().unwrap_or_default();
    MountSpec {
        propagation: Some(options.propagation).filter(|p| !p.is_empty()),
        non_recursive: options.non_recursive,
        create_source: options.create_mountpoint,
        read_only_non_recursive: options.read_only_non_recursive,
        ..MountSpec::plain(MountKind::Bind, &m.source, &m.target)
    }
}

fn volume_mount(m: &Mount) -> Result<MountSpec, Failure> {
    let options = m.volume_options.clone().unwrap_or_default();
    let driver = options.driver_config.unwrap_or_default();
    if !matches!(driver.name.as_str(), "" | "local") {
        return Err(Failure::not_built(format!(
            "the volume driver {:?}",
            driver.name
        )));
    }
    Ok(MountSpec {
        no_copy: options.no_copy,
        subpath: Some(options.subpath).filter(|s| !s.is_empty()),
        volume_labels: options.labels,
        volume_options: driver.options,
        ..MountSpec::plain(MountKind::Volume, &m.source, &m.target)
    })
}

fn tmpfs_mount(m: &Mount) -> Result<MountSpec, Failure> {
    let options = m.tmpfs_options.clone().unwrap_or_default();
    let mut further = Vec::new();
    for option in &options.options {
        further.push(match &option[..] {
            [flag] => flag.clone(),
            [key, value] => format!("{key}={value}"),
            _ => {
                return Err(Failure::invalid(
                    "an option of a tmpfs is a word, or a key and its value",
                ));
            }
        });
    }
    let size = u64::try_from(options.size_bytes)
        .map_err(|_| Failure::invalid("the size of a tmpfs must not be negative"))?;
    Ok(MountSpec {
        tmpfs_size: Some(size).filter(|s| *s > 0),
        tmpfs_mode: Some(options.mode).filter(|mode| *mode > 0),
        tmpfs_options: further,
        ..MountSpec::plain(MountKind::Tmpfs, "", &m.target)
    })
}
