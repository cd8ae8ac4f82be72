//! Options that are not built are refused by their name where they carry anything but their
//! default: never accepted and ignored.

use api::container::{Config, HostConfig, Resources};
use api::network::EndpointSettings;

use crate::docker::failure::Failure;

type Checked = Result<(), Failure>;

fn refuse(asked: bool, option: &str) -> Checked {
    if asked {
        Err(Failure::not_built(option))
    } else {
        Ok(())
    }
}

pub(super) fn config(c: &Config) -> Checked {
    refuse(c.args_escaped, "ArgsEscaped, of Windows,")
}

pub(super) fn host(h: &HostConfig) -> Checked {
    refuse(
        !matches!(h.volume_driver.as_str(), "" | "local"),
        "VolumeDriver other than local (--volume-driver)",
    )?;
    refuse(!h.cgroup.is_empty(), "Cgroup")?;
    refuse(
        h.storage_opt.as_ref().is_some_and(|o| !o.is_empty()),
        "StorageOpt (--storage-opt)",
    )?;
    // runc's names are what clients ask for where they mean the usual one
    let runtime = matches!(
        h.runtime.as_str(),
        "" | "plimsoll" | "runc" | "io.containerd.runc.v2"
    );
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

/// Of a network's endpoint.
pub(super) fn endpoint(e: &EndpointSettings) -> Checked {
    let ipam = e.ipam_config.as_ref();
    refuse(
        ipam.is_some_and(|i| !i.link_local_ips.is_empty()),
        "LinkLocalIPs (--link-local-ip)",
    )
}
