//! Options that are not built are refused by their name where they carry anything but their
//! default: never accepted and ignored.

use api::container::{Config, HostConfig, Resources};
use api::network::{EndpointSettings, NetworkingConfig};

use crate::docker::failure::Failure;

type Checked = Result<(), Failure>;

fn refuse(asked: bool, option: &str) -> Checked {
    if asked {
        Err(Failure::not_built(option))
    } else {
        Ok(())
    }
}

fn some<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|l| !l.is_empty())
}

pub(super) fn config(c: &Config) -> Checked {
    let health = c.healthcheck.as_ref().and_then(|h| h.test.first());
    refuse(
        health.is_some_and(|first| first != "NONE"),
        "Healthcheck (--health-cmd)",
    )?;
    refuse(c.network_disabled, "NetworkDisabled (use --network none)")?;
    refuse(!c.mac_address.is_empty(), "MacAddress (--mac-address)")?;
    refuse(some(c.on_build.as_ref()), "OnBuild")
}

pub(super) fn host(h: &HostConfig) -> Checked {
    let published = h
        .port_bindings
        .as_ref()
        .is_some_and(|ports| !ports.is_empty());
    refuse(published, "PortBindings: publishing ports (--publish)")?;
    refuse(h.publish_all_ports, "PublishAllPorts (--publish-all)")?;
    refuse(
        some(h.volumes_from.as_ref()),
        "VolumesFrom (--volumes-from)",
    )?;
    refuse(
        !matches!(h.volume_driver.as_str(), "" | "local"),
        "VolumeDriver other than local (--volume-driver)",
    )?;
    refuse(some(h.links.as_ref()), "Links (--link)")?;
    refuse(!h.cgroup.is_empty(), "Cgroup")?;
    refuse(
        h.storage_opt.as_ref().is_some_and(|o| !o.is_empty()),
        "StorageOpt (--storage-opt)",
    )?;
    let runtime = matches!(h.runtime.as_str(), "" | "plimsoll");
    refuse(
        !runtime,
        &format!(
            "Runtime {:?}: another runtime than plimsoll's own",
            h.runtime
        ),
    )?;
    let isolation = matches!(h.isolation.as_str(), "" | "default");
    refuse(!isolation, &format!("Isolation {:?}", h.isolation))?;
    resources(&h.resources)
}

pub(super) fn resources(r: &Resources) -> Checked {
    refuse(
        r.cpu_realtime_period != 0,
        "CpuRealtimePeriod (--cpu-rt-period)",
    )?;
    refuse(
        r.cpu_realtime_runtime != 0,
        "CpuRealtimeRuntime (--cpu-rt-runtime)",
    )?;
    refuse(some(r.device_requests.as_ref()), "DeviceRequests (--gpus)")?;
    // leaks on old kernels, gone from new ones
    refuse(r.kernel_memory != 0, "KernelMemory (--kernel-memory)")?;
    refuse(r.kernel_memory_tcp != 0, "KernelMemoryTCP")?;
    refuse(r.cpu_count != 0, "CpuCount, of Windows,")?;
    refuse(r.cpu_percent != 0, "CpuPercent, of Windows,")?;
    refuse(r.io_maximum_iops != 0, "IOMaximumIOps, of Windows,")?;
    refuse(
        r.io_maximum_bandwidth != 0,
        "IOMaximumBandwidth, of Windows,",
    )
}

/// Clients send an empty entry for the network mode.
pub(super) fn endpoints(n: &NetworkingConfig) -> Checked {
    for (name, endpoint) in n.endpoints_config.iter().flatten() {
        let known = matches!(name.as_str(), "none" | "host" | "default");
        refuse(
            !known,
            &format!("a network other than none and host ({name})"),
        )?;
        let asked = EndpointSettings {
            network_id: String::new(),
            ..endpoint.clone()
        };
        let empty = |l: Option<Vec<String>>| l.filter(|l| !l.is_empty());
        let asked = EndpointSettings {
            links: empty(asked.links.clone()),
            aliases: empty(asked.aliases.clone()),
            ..asked
        };
        let asked = EndpointSettings {
            driver_opts: asked.driver_opts.clone().filter(|o| !o.is_empty()),
            ..asked
        };
        let asked = EndpointSettings {
            ipam_config: asked
                .ipam_config
                .clone()
                .filter(|i| *i != Default::default()),
            ..asked
        };
        refuse(
            asked != EndpointSettings::default(),
            "an address, alias or option of a network's endpoint",
        )?;
    }
    Ok(())
}
