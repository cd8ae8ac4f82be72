//! ping, version, info, disk usage.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use api::system::{
    ComponentVersion, IndexConfig, Info, PlatformName, PluginsInfo, RegistryConfig, Runtime,
    SystemDf, Version,
};
use api::volume::UsageData;
use api::{ApiVersion, StringMap};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};

use super::answer::{Answer, Body, ok, with_type};
use super::call::Call;
use super::failure::Failure;
use super::translate::{summary, versions};
use super::{time, volumes};

pub(super) async fn ping(call: Call) -> Answer {
    // a reader that could not take the snapshot would not answer: that is what a ping asks
    drop(call.engine().snapshot());
    let mut response = with_type(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Body::Full(Bytes::from_static(b"OK")),
    );
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("builder-version"),
        HeaderValue::from_static("1"),
    );
    headers.insert(
        HeaderName::from_static("swarm"),
        HeaderValue::from_static("inactive"),
    );
    Ok(response)
}

/// Go's names of architectures.
fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) async fn version(call: Call) -> Answer {
    let info = call.engine().info();
    let details = StringMap::from(
        [
            ("ApiVersion", ApiVersion::MAX.to_string()),
            ("MinAPIVersion", ApiVersion::MIN.to_string()),
            ("Arch", goarch().to_owned()),
            ("Os", "linux".to_owned()),
            ("KernelVersion", info.kernel_version.clone()),
            ("GitCommit", String::new()),
            ("GoVersion", String::new()),
            ("BuildTime", String::new()),
            ("Experimental", "false".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    ok(&Version {
        platform: PlatformName {
            name: "Plimsoll".to_owned(),
        },
        components: vec![ComponentVersion {
            name: "Engine".to_owned(),
            version: crate::VERSION.to_owned(),
            details,
        }],
        version: crate::VERSION.to_owned(),
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        os: "linux".to_owned(),
        arch: goarch().to_owned(),
        kernel_version: info.kernel_version,
        ..Version::default()
    })
}

/// As dockerd lists them: the default registry, and those that need no certificate.
fn registries(settings: &engine::RegistrySettings) -> RegistryConfig {
    const DEFAULT: &str = "docker.io";
    let mirrors = settings.mirrors.get(DEFAULT).cloned().unwrap_or_default();
    let (ranges, names): (Vec<_>, Vec<_>) = settings
        .insecure
        .iter()
        .cloned()
        .partition(|i| i.contains('/'));
    let mut all = BTreeMap::new();
    let with_mirrors = settings.mirrors.keys().map(|name| (name.clone(), true));
    let insecure = names.into_iter().map(|name| (name, false));
    for (name, secure) in with_mirrors
        .chain([(DEFAULT.to_owned(), true)])
        .chain(insecure)
    {
        let config = IndexConfig {
            mirrors: settings.mirrors.get(&name).cloned().unwrap_or_default(),
            secure,
            official: name == DEFAULT,
            name: name.clone(),
        };
        all.insert(name, config);
    }
    let loopback = ["::1/128", "127.0.0.0/8"].map(str::to_owned);
    RegistryConfig {
        insecure_registry_cidrs: loopback.into_iter().chain(ranges).collect(),
        index_configs: all,
        mirrors: Some(mirrors),
    }
}

pub(super) async fn info(call: Call) -> Answer {
    let document = shown(&call);
    // not worth an error: what can't be read is not there
    let devices = call.engine().cdi_devices().await.unwrap_or_default();
    ok(&versions::info(&document, &devices, call.version)?)
}

fn shown(call: &Call) -> Info {
    let cdi_dirs = call.api.config.cdi_dirs.iter();
    let cdi_dirs = cdi_dirs.map(|d| d.display().to_string());
    let engine = call.engine().info();
    let pairs = engine.driver_status.into_iter();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let words = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
    let own = Runtime {
        path: "plimsoll".to_owned(),
    };
    Info {
        id: engine.id,
        containers: count(engine.containers),
        containers_running: count(engine.running),
        containers_paused: count(engine.paused),
        containers_stopped: count(engine.stopped),
        images: count(engine.images),
        driver: engine.driver,
        driver_status: Some(pairs.map(|(k, v)| [k, v]).collect()),
        plugins: PluginsInfo {
            volume: words(&["local"]),
            network: words(&["bridge", "host", "null"]),
            authorization: None,
            log: Some(engine.log_drivers),
        },
        memory_limit: engine.memory_limit,
        swap_limit: engine.swap_limit,
        cpu_cfs_period: engine.cpu_cfs,
        cpu_cfs_quota: engine.cpu_cfs,
        cpu_shares: engine.cpu_shares,
        cpu_set: engine.cpuset,
        pids_limit: engine.pids_limit,
        ipv4_forwarding: std::fs::read("/proc/sys/net/ipv4/ip_forward")
            .is_ok_and(|v| v.starts_with(b"1")),
        debug: call.api.debug.load(Ordering::Relaxed),
        n_fd: count(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)),
        oom_kill_disable: engine.oom_kill_disable,
        system_time: time::format(time::now()),
        logging_driver: call.api.config.log.driver.clone(),
        cgroup_driver: engine.cgroup_driver,
        cgroup_version: engine.cgroup_version,
        n_events_listener: count(call.api.listeners.load(Ordering::Relaxed)),
        kernel_version: engine.kernel_version,
        operating_system: engine.operating_system,
        os_type: "linux".to_owned(),
        architecture: engine.architecture,
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: Some(registries(&call.engine().registries())),
        ncpu: count(engine.ncpu),
        mem_total: i64::try_from(engine.mem_total).unwrap_or(i64::MAX),
        docker_root_dir: engine.data_root.display().to_string(),
        name: engine.hostname,
        labels: engine.labels,
        server_version: crate::VERSION.to_owned(),
        runtimes: BTreeMap::from([("plimsoll".to_owned(), own)]),
        default_runtime: "plimsoll".to_owned(),
        live_restore_enabled: true,
        cdi_spec_dirs: Some(cdi_dirs.collect()),
        security_options: engine.security_options,
        warnings: Some(engine.warnings).filter(|w| !w.is_empty()),
        ..Info::default()
    }
}

/// `type` limits what is counted; several may be given.
pub(super) async fn df(call: Call) -> Answer {
    let types = call.query.all("type");
    if let Some(bad) = types
        .iter()
        .find(|t| !matches!(t.as_str(), "container" | "image" | "volume" | "build-cache"))
    {
        return Err(Failure::invalid(format!("unknown object type: {bad}")));
    }
    let wanted = |name: &str| types.is_empty() || types.iter().any(|t| t == name);
    let usage = call.engine().disk_usage().await?;
    let snapshot = call.engine().snapshot();
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let listed = snapshot.images.iter().filter(|v| !v.intermediate);
    let images = listed.map(|view| {
        let mut line = summary::image(view, call.version);
        versions::image_line(&mut line, call.version, 0);
        if let Some(of) = usage.images.iter().find(|u| u.id == view.id) {
            (line.size, line.shared_size, line.containers) =
                (signed(of.size), signed(of.shared), signed(of.containers));
        }
        line
    });
    let containers = snapshot.containers.iter().map(|view| {
        let mut line = summary::container(view);
        versions::line(&mut line, call.version);
        if let Some(of) = usage.containers.iter().find(|u| u.id == view.id()) {
            (line.size_rw, line.size_root_fs) = (signed(of.size_rw), signed(of.size_root_fs));
        }
        line
    });
    let volumes = snapshot.volumes.iter().map(|view| {
        let mut line = volumes::wire(view);
        let of = usage.volumes.iter().find(|u| u.name == view.name);
        line.usage_data = of.map(|u| UsageData {
            ref_count: signed(u.references),
            size: signed(u.size),
        });
        line
    });
    ok(&SystemDf {
        layers_size: if wanted("image") {
            signed(usage.layers_size)
        } else {
            0
        },
        images: wanted("image").then(|| images.collect()),
        containers: wanted("container").then(|| containers.collect()),
        volumes: wanted("volume").then(|| volumes.collect()),
        build_cache: wanted("build-cache").then(|| usage.builds.iter().map(build_cache).collect()),
        builder_size: 0,
    })
}

fn build_cache(of: &engine::BuildUsage) -> api::system::BuildCache {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let kind = if of.is_mount {
        "exec.cachemount"
    } else {
        "regular"
    };
    api::system::BuildCache {
        id: of.id.clone(),
        r#type: kind.to_owned(),
        description: of.what.clone(),
        in_use: false,
        shared: of.shared,
        size: signed(of.size),
        created_at: of.created.clone(),
        last_used_at: Some(of.used.clone()).filter(|t| !t.is_empty()),
        usage_count: signed(of.uses),
    }
}
