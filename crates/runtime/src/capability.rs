//! Capabilities as bit masks.
//!
//! source: linux/capability.h.

use oci_spec::runtime::Capability;

/// Names by bit, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit of a name, with or without `CAP_`.
#[must_use]
pub fn bit(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let at = NAMES.iter().position(|n| *n == bare)?;
    u32::try_from(at).ok()
}

/// The mask of a set from a spec.
pub fn mask<'a>(set: impl IntoIterator<Item = &'a Capability>) -> u64 {
    set.into_iter()
        .filter_map(|c| bit(&c.to_string()))
        .fold(0, |m, b| m | 1 << b)
}

/// The mask of names such as `CAP_KILL`; unknown ones are ignored.
pub fn mask_of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    names.into_iter().filter_map(bit).fold(0, |m, b| m | 1 << b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_the_spec_has_its_bit() {
        assert_eq!(
            mask(&[Capability::Chown, Capability::CheckpointRestore]),
            1 | 1 << 40
        );
        assert_eq!(
            mask_of_names(["CAP_SYS_ADMIN", "sys_admin", "nonsense"]),
            1 << 21
        );
    }
}
