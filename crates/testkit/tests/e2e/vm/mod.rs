//! Debian 13 as it is installed (Linux 6.12, cgroup v2, systemd 257), in a virtual machine: see
//! [`testkit::vm`].

mod apparmor;
mod driver;
mod limits;
mod networks;
mod unit;

use std::path::PathBuf;
use std::time::Duration;

use testkit::Instance;
use testkit::vm::{Init, Lab};

const DEBIAN: Lab = Lab {
    name: "debian-13",
    kernel: "trixie",
    init: Init::Systemd,
    modules: &[
        "bridge",
        "veth",
        "nf_tables",
        "nft_ct",
        "nft_nat",
        "nft_masq",
        "nft_redir",
        "nft_chain_nat",
        "nft_fib_inet",
        "macvlan",
        "ipvlan",
        "dummy",
        "8021q",
        "sctp",
    ],
    tests: "vm::",
    except: &[],
    files: &[
        (
            "packaging/plimsoll.service",
            "/etc/systemd/system/plimsoll.service",
        ),
        (
            "packaging/plimsoll.socket",
            "/etc/systemd/system/plimsoll.socket",
        ),
    ],
    deadline: Duration::from_secs(400),
};

/// For everything in a guest that is ten times slower than its host.
const PATIENCE: Duration = Duration::from_secs(60);

/// The container's cgroup where the cgroupfs driver puts it.
fn cgroup(instance: &Instance, id: &str) -> PathBuf {
    PathBuf::from("/sys/fs/cgroup")
        .join(instance.cgroup_name())
        .join(id)
}
