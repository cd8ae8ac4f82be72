//! Which subnet a network gets, and which address a container. Pure: who holds what is told.
//!
//! Subnets are small (/24 of IPv4, /64 of IPv6): 4,096 networks fit into the pool. One that the host
//! has a route into is not taken, so that a VPN or a neighbour stays reachable.
//!
//! An address is given again as late as can be: the next one in order first, and one that was
//! freed within [`GRACE`] only when no other is left. Neighbours may still hold it for the one before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::addr::{Prefix, like, number};

/// Of an address that was in use.
pub const GRACE: Duration = Duration::from_secs(60);

/// Where subnets come from, and their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub base: Prefix,
    pub length: u8,
}

/// Of IPv4: 172.16.0.0/12, then 192.168.0.0/16 and the upper half of 10.0.0.0/8.
///
/// # Panics
/// Never: the literals are prefixes.
#[must_use]
pub fn default_pools() -> Vec<Pool> {
    ["172.16.0.0/12", "192.168.0.0/16", "10.128.0.0/9"]
        .iter()
        .filter_map(|text| text.parse().ok())
        .map(|base| Pool { base, length: 24 })
        .collect()
}

/// The first subnet of the pools that overlaps nothing of `taken`.
#[must_use]
pub fn free_subnet(pools: &[Pool], taken: &[Prefix]) -> Option<Prefix> {
    pools.iter().find_map(|pool| {
        let mut in_the_way: Vec<(u128, u128)> = taken
            .iter()
            .filter(|t| t.overlaps(&pool.base))
            .map(|t| (number(t.range().0), number(t.range().1)))
            .collect();
        in_the_way.sort_unstable();
        let step = 1u128 << u32::from(pool.base.bits().checked_sub(pool.length)?);
        let (first, last) = pool.base.range();
        let mut at = number(first);
        for (low, high) in in_the_way {
            if low >= at + step {
                break;
            }
            if high >= at {
                at = (high + 1).next_multiple_of(step);
            }
        }
        (at <= number(last)).then(|| Prefix {
            address: like(first, at),
            length: pool.length,
        })
    })
}

/// A unique local /64, the same for the same network.
#[must_use]
pub fn unique_local(network_id: &str) -> Prefix {
    let h = crate::names::hash(network_id);
    let address = (0xfd_u128 << 120) | (u128::from(h) << 64 & !(0xff << 120));
    Prefix {
        address: IpAddr::V6(address.into()),
        length: 64,
    }
}

/// Why an address was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no address of {subnet} is free: {used} containers have one each")]
    Exhausted { subnet: Prefix, used: usize },
    #[error("{address} is not in the network's subnet {subnet}")]
    Outside { address: IpAddr, subnet: Prefix },
    #[error("Address already in use: {address} is that of {holder}")]
    InUse { address: IpAddr, holder: String },
}

/// The addresses of one subnet.
#[derive(Debug, Clone)]
pub struct Addresses {
    subnet: Prefix,
    /// What is given out without being asked for by name.
    range: Prefix,
    used: BTreeMap<IpAddr, String>,
    freed: BTreeMap<IpAddr, Instant>,
    /// Number of the last one given.
    last: u128,
}

const GATEWAY: &str = "the network's gateway";
const OUTSIDE: &str = "something that is no container";

impl Addresses {
    #[must_use]
    pub fn new(subnet: Prefix, range: Option<Prefix>, gateway: Option<IpAddr>) -> Self {
        let subnet = subnet.network();
        let mut used = BTreeMap::new();
        if let Some(gateway) = gateway {
            used.insert(gateway, GATEWAY.to_owned());
        }
        let range = range.unwrap_or(subnet).network();
        Self {
            subnet,
            range,
            used,
            freed: BTreeMap::new(),
            last: number(range.range().0),
        }
    }

    /// Has it be nobody's here.
    pub fn reserve(&mut self, address: IpAddr) {
        self.used.insert(address, OUTSIDE.to_owned());
    }

    #[must_use]
    pub fn subnet(&self) -> Prefix {
        self.subnet
    }

    /// Neither the network's own name nor, of IPv4, everybody's.
    fn is_for_one(&self, address: IpAddr) -> bool {
        let (first, last) = self.subnet.range();
        self.subnet.length + 1 >= self.subnet.bits()
            || (address != first && (address.is_ipv6() || address != last))
    }

    /// The one that is asked for.
    ///
    /// # Errors
    /// It is another's, or none of this subnet.
    pub fn take(&mut self, address: IpAddr, holder: &str) -> Result<(), AddressError> {
        if !self.subnet.contains(address) || !self.is_for_one(address) {
            return Err(AddressError::Outside {
                address,
                subnet: self.subnet,
            });
        }
        match self.used.get(&address) {
            Some(other) if other != holder => Err(AddressError::InUse {
                address,
                holder: other.clone(),
            }),
            _ => {
                self.freed.remove(&address);
                self.used.insert(address, holder.to_owned());
                Ok(())
            }
        }
    }

    /// The next one.
    ///
    /// # Errors
    /// None is left.
    pub fn give(&mut self, holder: &str, now: Instant) -> Result<IpAddr, AddressError> {
        self.freed
            .retain(|_, at| now.saturating_duration_since(*at) < GRACE);
        let (first, last) = self.range.range();
        let (low, high) = (number(first), number(last));
        let after = (self.last + 1..=high).chain(low..=self.last.min(high));
        // more than all that are taken need not be looked at
        let most = self.used.len() + self.freed.len() + 3;
        let next = after.take(most.max(3)).map(|n| like(first, n)).find(|a| {
            !self.used.contains_key(a) && !self.freed.contains_key(a) && self.is_for_one(*a)
        });
        let oldest = || {
            let all = self.freed.iter().filter(|(a, _)| self.range.contains(**a));
            all.min_by_key(|(_, at)| **at).map(|(a, _)| *a)
        };
        let address = next.or_else(oldest).ok_or(AddressError::Exhausted {
            subnet: self.subnet,
            used: self.used.len(),
        })?;
        self.freed.remove(&address);
        self.last = number(address);
        self.used.insert(address, holder.to_owned());
        Ok(address)
    }

    pub fn free(&mut self, address: IpAddr, now: Instant) {
        if self.used.remove(&address).is_some() {
            self.freed.insert(address, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    /// FAILURES "Address pool exhaustion, VPN overlap".
    #[test]
    fn two_thousand_networks_and_none_over_a_route() {
        let pools = default_pools();
        let mut taken = vec![
            prefix("172.16.0.0/13"),
            prefix("172.24.7.0/25"),
            prefix("10.0.0.0/8"),
        ];
        let routes = taken.len();
        for _ in 0..2000 {
            let subnet = free_subnet(&pools, &taken).unwrap();
            assert!(!taken.iter().any(|t| t.overlaps(&subnet)), "{subnet}");
            assert_eq!(subnet.length, 24);
            taken.push(subnet);
        }
        assert_eq!(taken[routes], prefix("172.24.0.0/24"));
        assert!(!taken[routes..].contains(&prefix("172.24.7.0/24")));
        assert_eq!(free_subnet(&pools, &[prefix("0.0.0.0/0")]), None);
    }

    #[test]
    fn unique_local_subnets() {
        let a = unique_local("a");
        assert!(prefix("fd00::/8").contains(a.address), "{a}");
        assert_eq!(a, a.network());
        assert_ne!(a, unique_local("b"));
    }

    #[test]
    fn an_address_is_given_again_as_late_as_can_be() {
        let gateway = "10.0.0.1".parse().unwrap();
        let mut pool = Addresses::new(prefix("10.0.0.0/29"), None, Some(gateway));
        let now = Instant::now();
        let first = pool.give("a", now).unwrap();
        assert_eq!(first.to_string(), "10.0.0.2");
        pool.free(first, now);
        for last in ["3", "4", "5", "6"] {
            assert_eq!(
                pool.give("b", now).unwrap().to_string(),
                format!("10.0.0.{last}")
            );
        }
        // nothing else is left
        assert_eq!(pool.give("c", now).unwrap(), first);
        assert!(matches!(
            pool.give("d", now),
            Err(AddressError::Exhausted { used: 6, .. })
        ));
        let late = now + GRACE;
        pool.free(first, now);
        assert_eq!(pool.give("d", late).unwrap(), first);
    }

    #[test]
    fn asked_for_by_name() {
        let mut pool = Addresses::new(prefix("10.0.0.0/24"), Some(prefix("10.0.0.128/25")), None);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(pool.take(ip("10.0.0.9"), "a"), Ok(()));
        assert_eq!(pool.take(ip("10.0.0.9"), "a"), Ok(()));
        assert!(matches!(
            pool.take(ip("10.0.0.9"), "b"),
            Err(AddressError::InUse { .. })
        ));
        for outside in ["10.0.1.9", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            let refused = pool.take(ip(outside), "b");
            assert!(
                matches!(refused, Err(AddressError::Outside { .. })),
                "{outside}"
            );
        }
        assert_eq!(pool.give("b", Instant::now()).unwrap(), ip("10.0.0.129"));
    }

    proptest! {
        #[test]
        fn no_two_hold_the_same(steps in proptest::collection::vec((any::<bool>(), 0usize..12), 1..200)) {
            let mut pool = Addresses::new(prefix("10.0.0.0/28"), None, None);
            let mut held: Vec<IpAddr> = Vec::new();
            let start = Instant::now();
            for (i, (give, which)) in (0u64..).zip(steps) {
                let now = start + Duration::from_secs(i * 7);
                if give {
                    match pool.give("x", now) {
                        Ok(address) => {
                            prop_assert!(!held.contains(&address));
                            prop_assert!(pool.subnet().contains(address));
                            held.push(address);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 14),
                    }
                } else if which < held.len() {
                    pool.free(held.swap_remove(which), now);
                }
            }
        }
    }
}
