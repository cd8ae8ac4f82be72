//! Clients of older versions: what their requests mean, and the answers that they know.
//!
//! Fields that came later are left out of an answer where dockerd leaves them out, and what was taken away later is kept.
//! source: moby's docs/api/version-history.md, and what its routers do by version

use api::ApiVersion;
use api::container::{ContainerInspect, ContainerSummary, CreateRequest, Mount};
use api::image::{ImageInspect, ImageSummary};
use engine::model::{ContainerSpec, MountKind};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::summary;
use crate::docker::failure::Failure;

// ---- requests

/// As a client of this version means it.
pub(crate) fn asked(request: &mut CreateRequest, version: ApiVersion) -> Result<(), Failure> {
    let host = &mut request.host_config;
    let before = |minor| !version.at_least(minor);
    for mount in host.mounts.iter_mut().flatten() {
        older_mount(mount, version)?;
    }
    if before(40) && host.ipc_mode.is_empty() {
        "shareable".clone_into(&mut host.ipc_mode);
    }
    if before(42) {
        host.console_size = Default::default();
    }
    if before(43) {
        host.annotations = None;
    }
    let endpoints = request.networking_config.endpoints_config.iter_mut();
    let endpoints = endpoints.flat_map(|all| all.iter_mut());
    if before(44) {
        if let Some(health) = &mut request.config.healthcheck {
            health.start_interval = 0;
        }
        let names: Vec<&str> = endpoints.map(|(name, _)| name.as_str()).collect();
        if names.len() > 1 {
            return Err(Failure::invalid(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
    }
    if before(48) {
        let endpoints = request.networking_config.endpoints_config.iter_mut();
        for endpoint in endpoints.flat_map(|all| all.values_mut()) {
            endpoint.gw_priority = 0;
        }
    }
    Ok(())
}

fn older_mount(mount: &mut Mount, version: ApiVersion) -> Result<(), Failure> {
    let before = |minor| !version.at_least(minor);
    let needs = |what: &str, minor: u16| {
        Err(Failure::invalid(format!(
            "{what} needs API v1.{minor} or newer"
        )))
    };
    if before(42) {
        // combinations that nobody looked at
        if mount.r#type != "volume" {
            mount.volume_options = None;
        }
        if mount.r#type != "tmpfs" {
            mount.tmpfs_options = None;
        }
    }
    if let Some(bind) = &mut mount.bind_options {
        bind.non_recursive &= version.at_least(40);
        bind.create_mountpoint &= version.at_least(42);
        if before(44) && bind.read_only_force_recursive {
            return needs("BindOptions.ReadOnlyForceRecursive", 44);
        }
    }
    if before(45)
        && mount
            .volume_options
            .as_ref()
            .is_some_and(|o| !o.subpath.is_empty())
    {
        return needs("VolumeOptions.Subpath", 45);
    }
    if before(48) && mount.r#type == "image" {
        return needs("Mount type \"Image\"", 48);
    }
    Ok(())
}

/// Before 1.44 a read-only bind left what is mounted below it writable.
pub(crate) fn meant(spec: &mut ContainerSpec, version: ApiVersion) {
    if version.at_least(44) {
        return;
    }
    for mount in &mut spec.host.mounts {
        mount.read_only_non_recursive |= mount.kind == MountKind::Bind && mount.read_only;
    }
}

// ---- answers

/// Whether [`line()`] leaves a line as it is.
pub(crate) fn has_whole_lines(version: ApiVersion) -> bool {
    version.at_least(46)
}

pub(crate) fn line(line: &mut ContainerSummary, version: ApiVersion) {
    if !has_whole_lines(version) {
        line.host_config.annotations = None;
    }
}

/// Before 1.45 the names that are found by the container's own were among its aliases.
pub(crate) fn container(document: &mut ContainerInspect, version: ApiVersion) {
    if version.at_least(45) {
        return;
    }
    let short: String = document.id.chars().take(12).collect();
    let own = [short, document.config.hostname.clone()];
    for (name, endpoint) in &mut document.network_settings.networks {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let aliases = endpoint.aliases.get_or_insert_default();
        for name in own.iter().filter(|n| !n.is_empty()) {
            if !aliases.contains(name) {
                aliases.push(name.clone());
            }
        }
    }
}

/// `users`: containers of the image.
pub(crate) fn image_line(line: &mut ImageSummary, version: ApiVersion, users: usize) {
    if version.at_least(51) {
        line.containers = i64::try_from(users).unwrap_or(i64::MAX);
    }
    if !version.at_least(43) && line.repo_tags.is_empty() && line.repo_digests.is_empty() {
        line.repo_tags.push("<none>:<none>".to_owned());
        line.repo_digests.push("<none>@<none>".to_owned());
    }
}

pub(crate) fn image(
    document: &ImageInspect,
    config: &engine::ImageConfig,
    version: ApiVersion,
) -> Result<Value, Failure> {
    let mut out = value(document)?;
    if version.at_least(50) {
        // there also where they are empty
        let shown = &mut out["Config"];
        for (key, empty) in [
            ("Cmd", Value::Null),
            ("Entrypoint", Value::Null),
            ("Env", Value::Null),
            ("Labels", Value::Null),
            ("OnBuild", Value::Null),
            ("User", json!("")),
            ("Volumes", Value::Null),
            ("WorkingDir", json!("")),
        ] {
            if shown.get(key).is_none() {
                shown[key] = empty;
            }
        }
    } else {
        // a container's configuration, with all its fields
        out["Config"] = value(&summary::image_config_before_1_50(config))?;
    }
    if !version.at_least(45) {
        out["Container"] = json!("");
        out["ContainerConfig"] = value(&api::container::Config::default())?;
    }
    if !version.at_least(44) && out.get("Created").is_none() {
        out["Created"] = json!(api::container::NO_TIME);
    }
    Ok(out)
}

/// `devices`: by the names that CDI gives them.
pub(crate) fn info(
    document: &api::system::Info,
    devices: &[String],
    version: ApiVersion,
) -> Result<Value, Failure> {
    let mut out = value(document)?;
    if version.at_least(50) && !devices.is_empty() {
        let devices = devices.iter().map(|id| json!({"Source": "cdi", "ID": id}));
        out["DiscoveredDevices"] = devices.collect();
    }
    if version.at_least(49) {
        out["FirewallBackend"] = json!({"Driver": "nftables"});
    } else {
        for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            let id = out[commit]["ID"].clone();
            out[commit]["Expected"] = id;
        }
    }
    if !version.at_least(50) {
        out["BridgeNfIptables"] = json!(false);
        out["BridgeNfIp6tables"] = json!(false);
    }
    if !version.at_least(47) {
        let registries = &mut out["RegistryConfig"];
        registries["AllowNondistributableArtifactsCIDRs"] = Value::Null;
        registries["AllowNondistributableArtifactsHostnames"] = Value::Null;
    }
    Ok(out)
}

/// Whether a client is told of an event.
pub(crate) fn tells(event: &engine::Event, version: ApiVersion) -> bool {
    version.at_least(46) || (event.kind.as_str(), event.action.as_str()) != ("image", "create")
}

fn value<T: Serialize>(document: &T) -> Result<Value, Failure> {
    let out = serde_json::to_value(document).map_err(|e| Failure::invalid(e.to_string()))?;
    Ok(if out.is_object() {
        out
    } else {
        Value::Object(Map::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ContainerDefaults;
    use crate::docker::translate::{create, inspect};

    /// From the newest to the oldest: the whole document of the newest, then of each version where it differs from the
    /// one above, the whole again.
    fn golden(of: impl Fn(ApiVersion) -> Value) -> String {
        let mut out = String::new();
        let mut last = Value::Null;
        for minor in (ApiVersion::MIN.minor..=ApiVersion::MAX.minor).rev() {
            let document = of(ApiVersion::new(1, minor));
            if document == last {
                continue;
            }
            let text = serde_json::to_string_pretty(&document).unwrap();
            out.push_str(&format!("--- up to 1.{minor}\n{text}\n"));
            last = document;
        }
        out
    }

    fn view() -> engine::ContainerView {
        let mut view = crate::docker::translate::tests::view(spec(51).unwrap());
        view.record = std::sync::Arc::new(engine::model::ContainerRecord {
            networks: [("mine".to_owned(), engine::model::EndpointSpec::default())].into(),
            ..(*view.record).clone()
        });
        view
    }

    const REQUEST: &str = r#"{"Image": "busybox", "Hostname": "h", "Healthcheck": {"Test": ["NONE"], "StartInterval": 1000000000},
      "HostConfig": {"Binds": ["/a:/b:ro"], "Annotations": {"a": "b"}, "ConsoleSize": [24, 80],
        "Mounts": [{"Type": "bind", "Source": "/s", "Target": "/t", "BindOptions": {"NonRecursive": true, "CreateMountpoint": true}}]},
      "NetworkingConfig": {"EndpointsConfig": {"mine": {"GwPriority": 3}}}}"#;

    fn spec_of(body: &str, minor: u16) -> Result<ContainerSpec, String> {
        let version = ApiVersion::new(1, minor);
        let mut request: CreateRequest = api::decode(body.as_bytes()).unwrap();
        let told = |f: Failure| f.message;
        asked(&mut request, version).map_err(told)?;
        let mut spec = create::spec(request, &ContainerDefaults::default()).map_err(told)?;
        meant(&mut spec, version);
        Ok(spec)
    }

    fn spec(minor: u16) -> Result<ContainerSpec, String> {
        spec_of(REQUEST, minor)
    }

    #[test]
    fn what_requests_mean() {
        let text = golden(|version| {
            let spec = spec(version.minor).unwrap();
            let health = spec.health.as_ref().unwrap();
            json!({
                "start_interval": health.start_interval,
                "ipc": format!("{:?}", spec.host.ipc_mode),
                "annotations": spec.host.annotations,
                "console": spec.host.console_size,
                "priority": spec.host.endpoints["mine"].gw_priority,
                "mounts": spec.host.mounts.iter().map(|m| json!({
                    "non_recursive": m.non_recursive,
                    "create": m.create_source,
                    "only_the_top_is_read_only": m.read_only_non_recursive,
                })).collect::<Vec<_>>(),
            })
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn what_older_clients_cannot_ask() {
        let mounts = |m: &str| format!(r#"{{"Image": "x", "HostConfig": {{"Mounts": [{m}]}}}}"#);
        let two = r#"{"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}"#;
        let subpath = mounts(
            r#"{"Type": "volume", "Source": "vol", "Target": "/t", "VolumeOptions": {"Subpath": "a"}}"#,
        );
        let image = mounts(r#"{"Type": "image", "Source": "i", "Target": "/t"}"#);
        for (body, since, why) in [
            (two, 44, "multiple network endpoints: a, b"),
            (&subpath, 45, "VolumeOptions.Subpath needs API v1.45"),
            (&image, 48, "Mount type \"Image\" needs API v1.48"),
        ] {
            let refused = spec_of(body, since - 1).unwrap_err();
            assert!(refused.contains(why), "{refused}");
            assert!(spec_of(body, since).is_ok(), "{why}");
        }
        // of another type: nobody looked at that before 1.42
        let other =
            mounts(r#"{"Type": "tmpfs", "Target": "/t", "VolumeOptions": {"NoCopy": true}}"#);
        assert!(spec_of(&other, 41).is_ok());
        assert!(spec_of(&other, 42).is_err());
    }

    #[test]
    fn a_container() {
        let text = golden(|version| {
            let mut document = inspect::container(&view(), "overlay2");
            container(&mut document, version);
            value(&document).unwrap()
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_line_of_containers() {
        let text = golden(|version| {
            let mut shown = summary::container(&view());
            // its age is another at each run
            shown.status.clear();
            line(&mut shown, version);
            value(&shown).unwrap()
        });
        insta::assert_snapshot!(text);
    }

    fn an_image() -> engine::ImageView {
        engine::ImageView {
            id: format!("sha256:{}", "ab".repeat(32)),
            created: String::new(),
            size: 12345,
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            layers: vec![format!("sha256:{}", "cd".repeat(32))],
            ..engine::ImageView::default()
        }
    }

    #[test]
    fn an_image_inspected() {
        let text = golden(|version| {
            let view = an_image();
            let document = summary::image_inspect(&view, version, "overlay2");
            image(&document, &view.config, version).unwrap()
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_line_of_images() {
        let text = golden(|version| {
            let mut shown = summary::image(&an_image(), version);
            image_line(&mut shown, version, 2);
            value(&shown).unwrap()
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_engine() {
        let text = golden(|version| {
            let document = api::system::Info {
                registry_config: Some(Default::default()),
                ..Default::default()
            };
            info(&document, &["v.test/c=x".to_owned()], version).unwrap()
        });
        insta::assert_snapshot!(text);
    }
}
