//! Names that are derived, so that a kernel object tells whose it is and nothing needs to be
//! remembered: a crash leaves nothing unknown.
//!
//! ```text
//! table      plimsoll-<8 hex of the instance>
//! group      of links: 30 bits of the instance
//! bridge     br-<12 hex of the network>, or as its option says
//! dummy      dm-<12 hex of the network>
//! veth       v-<13 hex of instance, network and container>      at most 15 characters
//! ```

/// FNV-1a with a last mix: the same for ever, on every machine.
pub(crate) fn hash(text: &str) -> u64 {
    let mut h = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

/// 32 hex digits that are the same for the same text.
#[must_use]
pub fn long_hash(text: &str) -> String {
    format!("{:016x}{:016x}", hash(text), hash(&format!("{text}\n")))
}

/// One engine among those that may share a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
}

impl Instance {
    /// `name`: what tells the instance from others on this machine (its exec root).
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    #[must_use]
    pub fn table(&self) -> String {
        let [a, b, c, d, ..] = hash(&self.name).to_be_bytes();
        format!("plimsoll-{a:02x}{b:02x}{c:02x}{d:02x}")
    }

    /// Links of this instance carry it; 0 is the group of links that nobody put into one.
    #[must_use]
    pub fn group(&self) -> u32 {
        let low = u32::try_from(hash(&self.name) & 0x3fff_ffff).unwrap_or(0);
        0x4000_0000 | low
    }

    /// The host's end of a container's link to a network. `run` tells the container's runs apart: the
    /// kernel takes its time to remove the link of the last one.
    #[must_use]
    pub fn veth(&self, network: &str, container: &str, run: u64) -> String {
        let h = hash(&format!("{}\n{network}\n{container}\n{run}", self.name));
        format!("v-{:013x}", h >> 12)
    }
}

/// The bridge of a network that has no name of its own for it.
#[must_use]
pub fn bridge(network_id: &str) -> String {
    format!("br-{}", network_id.get(..12).unwrap_or(network_id))
}

/// The interface of a network that is above none of the host's.
#[must_use]
pub fn dummy(network_id: &str) -> String {
    format!("dm-{}", network_id.get(..12).unwrap_or(network_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_and_short_enough() {
        let a = Instance::new("/run/a");
        assert_eq!(a, Instance::new("/run/a"));
        assert_ne!(a.table(), Instance::new("/run/b").table());
        assert!(a.group() >= 0x4000_0000 && a.group() < 0x8000_0000);
        assert_eq!(a.veth("n", "c", 1).len(), 15);
        assert_ne!(a.veth("n", "c", 1), a.veth("n", "d", 1));
        assert_ne!(a.veth("n", "c", 1), a.veth("n", "c", 2));
        assert_ne!(
            a.veth("n", "c", 1),
            Instance::new("/run/b").veth("n", "c", 1)
        );
        assert_eq!(bridge("0123456789abcdef"), "br-0123456789ab");
    }
}
