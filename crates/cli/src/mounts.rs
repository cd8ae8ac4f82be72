//! `-v` and `--mount`.

use api::container::{BindOptions, DriverConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions};

use crate::flags::go_bool;
use crate::parse;

/// `./data:/data`: a relative source is the user's, so it is made absolute here.
pub(crate) fn absolute_source(spec: &str) -> Result<String, String> {
    if spec.split(':').any(str::is_empty) {
        return Err(format!(
            "invalid spec: {spec}: empty section between colons"
        ));
    }
    if !spec.starts_with('.') {
        return Ok(spec.to_owned());
    }
    let (source, rest) = spec.split_once(':').unwrap_or((spec, ""));
    Ok(format!("{}:{rest}", absolute(source)?))
}

/// Absolute and without `.` and `..`, as Go's filepath.Abs: names only, links are not followed.
fn absolute(path: &str) -> Result<String, String> {
    let joined = std::path::absolute(path).map_err(|e| format!("{path}: {e}"))?;
    let mut out = std::path::PathBuf::new();
    for part in joined.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out.into_os_string()
        .into_string()
        .map_err(|p| format!("{}: the path is not UTF-8", p.display()))
}

/// One `--mount`.
/// source: docs.docker.com/reference/cli/docker/container/run/#mount
pub(crate) fn parse(spec: &str) -> Result<Mount, String> {
    let mut mount = Mount {
        r#type: "volume".into(),
        ..Mount::default()
    };
    let mut bind = BindOptions::default();
    let mut volume = VolumeOptions::default();
    let mut driver = DriverConfig::default();
    let mut tmpfs = TmpfsOptions::default();
    let mut image = ImageOptions::default();
    for field in parse::csv(spec)? {
        let (key, value) = match field.split_once('=') {
            Some((k, v)) => (k.to_ascii_lowercase(), Some(v)),
            None => (field.to_ascii_lowercase(), None),
        };
        let bare = matches!(
            key.as_str(),
            "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive"
        );
        if value.is_none() && !bare {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        }
        let text = value.unwrap_or_default();
        let on = || match value {
            None => Ok(true),
            Some(v) => go_bool(v).map_err(|_| format!("invalid value for {key}: {v}")),
        };
        match key.as_str() {
            "type" => mount.r#type = text.to_ascii_lowercase(),
            "source" | "src" => text.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => text.clone_into(&mut mount.target),
            "readonly" | "ro" => mount.read_only = on()?,
            "consistency" => mount.consistency = text.to_ascii_lowercase(),
            "bind-propagation" => bind.propagation = text.to_ascii_lowercase(),
            "bind-nonrecursive" => bind.non_recursive = on()?,
            "bind-recursive" => recursive(&mut bind, text)?,
            "volume-subpath" => text.clone_into(&mut volume.subpath),
            "volume-nocopy" => volume.no_copy = on()?,
            "volume-label" => {
                let (k, v) = parse::key_value(text);
                volume.labels.insert(k, v);
            }
            "volume-driver" => text.clone_into(&mut driver.name),
            "volume-opt" => {
                let (k, v) = parse::key_value(text);
                driver.options.insert(k, v);
            }
            "image-subpath" => text.clone_into(&mut image.subpath),
            "tmpfs-size" => {
                tmpfs.size_bytes =
                    parse::bytes(text).map_err(|_| format!("invalid value for {key}: {text}"))?;
            }
            "tmpfs-mode" => {
                tmpfs.mode = u32::from_str_radix(text, 8)
                    .map_err(|_| format!("invalid value for {key}: {text}"))?;
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if driver != DriverConfig::default() {
        volume.driver_config = Some(driver);
    }
    mount.bind_options = Some(bind).filter(|o| *o != BindOptions::default());
    mount.volume_options = Some(volume).filter(|o| *o != VolumeOptions::default());
    mount.tmpfs_options = Some(tmpfs).filter(|o| *o != TmpfsOptions::default());
    mount.image_options = Some(image).filter(|o| *o != ImageOptions::default());
    check(&mut mount)?;
    Ok(mount)
}

fn recursive(bind: &mut BindOptions, text: &str) -> Result<(), String> {
    match text {
        "enabled" => {}
        "disabled" => bind.non_recursive = true,
        "writable" => bind.read_only_non_recursive = true,
        "readonly" => bind.read_only_force_recursive = true,
        _ => {
            return Err(format!(
                "invalid value for bind-recursive: {text} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
            ));
        }
    }
    Ok(())
}

/// Options must belong to the type.
fn check(mount: &mut Mount) -> Result<(), String> {
    if mount.target.is_empty() {
        return Err("target is required".into());
    }
    let kind = mount.r#type.as_str();
    if !matches!(kind, "bind" | "volume" | "tmpfs" | "image") {
        return Err(format!(
            "mount type '{kind}' is not supported by this version: bind, volume, tmpfs and image are"
        ));
    }
    for (family, given) in [
        ("bind", mount.bind_options.is_some()),
        ("volume", mount.volume_options.is_some()),
        ("tmpfs", mount.tmpfs_options.is_some()),
        ("image", mount.image_options.is_some()),
    ] {
        if given && family != kind {
            return Err(format!(
                "cannot mix '{family}-*' options with mount type '{kind}'"
            ));
        }
    }
    if kind == "bind" && mount.source.starts_with('.') {
        mount.source = absolute(&mount.source)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(spec: &str) -> String {
        match parse(spec) {
            Ok(m) => serde_json::to_string(&m).expect("json"),
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn mounts() {
        for (spec, want) in [
            (
                "type=bind,src=/a,dst=/b,readonly",
                r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}"#,
            ),
            (
                "type=bind,src=/a,dst=/b,ro=false,bind-propagation=rshared",
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"rshared"}}"#,
            ),
            (
                "source=data,target=/b,volume-nocopy,volume-label=a=b,volume-subpath=x/y",
                r#"{"Type":"volume","Source":"data","Target":"/b","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"},"Subpath":"x/y"}}"#,
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}}"#,
            ),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=writable",
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"ReadOnlyNonRecursive":true}}"#,
            ),
            (
                "\"type=bind\",\"src=/a,b\",dst=/b",
                r#"{"Type":"bind","Source":"/a,b","Target":"/b"}"#,
            ),
            ("foo", "! invalid field 'foo' must be a key=value pair"),
            ("foo=1", "! unexpected key 'foo' in 'foo=1'"),
            ("type=bind,src=/a", "! target is required"),
            (
                "type=bind,src=/a,dst=/b,volume-nocopy",
                "! cannot mix 'volume-*' options with mount type 'bind'",
            ),
            (
                "type=volume,dst=/b,tmpfs-size=1",
                "! cannot mix 'tmpfs-*' options with mount type 'volume'",
            ),
            (
                "type=npipe,src=a,dst=/b",
                "! mount type 'npipe' is not supported by this version: bind, volume, tmpfs and image are",
            ),
            (
                "type=bind,src=/a,dst=/b,readonly=maybe",
                "! invalid value for readonly: maybe",
            ),
        ] {
            assert_eq!(json(spec), want, "{spec}");
        }
    }

    #[test]
    fn relative_sources_become_absolute() {
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(
            absolute_source("./a/../b:/c:ro"),
            Ok(format!("{}/b:/c:ro", here.display()))
        );
        assert_eq!(absolute_source("vol:/c"), Ok("vol:/c".into()));
        assert_eq!(absolute_source("/x/./y:/c"), Ok("/x/./y:/c".into()));
    }
}
