//! Addresses with the length of their network, and hardware addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

/// What is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address and a length, as in 10.1.2.0/24")]
pub struct BadPrefix(pub String);

/// All addresses as numbers of 128 bits, IPv4 in the low 32.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

pub(crate) fn like(family: IpAddr, number: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(
            u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0),
        )),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl Prefix {
    #[must_use]
    pub fn bits(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn host_mask(&self) -> u128 {
        match u32::from(self.bits().saturating_sub(self.length)) {
            128 => u128::MAX,
            n => (1 << n) - 1,
        }
    }

    /// With the address's own bits zero.
    #[must_use]
    pub fn network(&self) -> Self {
        Self {
            address: like(self.address, number(self.address) & !self.host_mask()),
            length: self.length,
        }
    }

    /// The first and the last address.
    #[must_use]
    pub fn range(&self) -> (IpAddr, IpAddr) {
        let first = number(self.network().address);
        (
            like(self.address, first),
            like(self.address, first | self.host_mask()),
        )
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && number(address) & !self.host_mask() == number(self.network().address)
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network().address) || other.contains(self.network().address)
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let wrong = || BadPrefix(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let prefix = Self {
            address: address.parse().map_err(|_| wrong())?,
            length: length.parse().map_err(|_| wrong())?,
        };
        if prefix.length > prefix.bits() {
            return Err(wrong());
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// What is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC address: write six bytes, as in 02:42:ac:11:00:02")]
pub struct BadMac(pub String);

impl Mac {
    /// Locally administered, and the same for the same seed: nothing of it needs to be remembered.
    #[must_use]
    pub fn derived(seed: &str) -> Self {
        let h = crate::names::hash(seed).to_be_bytes();
        Self([(h[0] & 0xfc) | 0x02, h[1], h[2], h[3], h[4], h[5]])
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let wrong = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        // a group's address cannot be one's own
        if parts.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_their_ends() {
        let p = prefix("10.1.2.3/24");
        assert_eq!(p.network(), prefix("10.1.2.0/24"));
        assert_eq!(p.range().1.to_string(), "10.1.2.255");
        assert!(p.contains("10.1.2.255".parse().unwrap()));
        assert!(!p.contains("10.1.3.0".parse().unwrap()));
        assert!(!p.contains("::1".parse().unwrap()));
        assert!(prefix("0.0.0.0/0").contains("192.0.2.1".parse().unwrap()));
        assert!(prefix("::/0").overlaps(&prefix("fd00::/64")));
        assert!(!prefix("10.0.0.0/8").overlaps(&prefix("11.0.0.0/24")));
        for wrong in [
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "fd00::/129",
            "10.0.0.0/-1",
        ] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hardware_addresses() {
        let mac: Mac = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for wrong in [
            "",
            "02:42",
            "01:00:00:00:00:01",
            "02:42:ac:11:00:02:03",
            "zz:42:ac:11:00:02",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert_eq!(Mac::derived("a"), Mac::derived("a"));
        assert_ne!(Mac::derived("a"), Mac::derived("b"));
    }

    proptest! {
        #[test]
        fn overlap_is_mutual_and_true_of_the_range(a: u32, b: u32, x in 0u8..=32, y in 0u8..=32) {
            let p = Prefix { address: IpAddr::V4(a.into()), length: x };
            let q = Prefix { address: IpAddr::V4(b.into()), length: y };
            let ends = |p: &Prefix| { let (a, b) = p.range(); (number(a), number(b)) };
            let ((pa, pb), (qa, qb)) = (ends(&p), ends(&q));
            prop_assert_eq!(p.overlaps(&q), q.overlaps(&p));
            prop_assert_eq!(p.overlaps(&q), pa <= qb && qa <= pb);
        }

        #[test]
        fn text_comes_back(a: u128, length in 0u8..=128) {
            let p = Prefix { address: IpAddr::V6(a.into()), length };
            prop_assert_eq!(p.to_string().parse::<Prefix>().unwrap(), p);
        }

        #[test]
        fn derived_addresses_are_valid(seed: String) {
            let mac = Mac::derived(&seed);
            prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        }
    }
}
