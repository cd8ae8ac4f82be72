//! /etc/ld.so.cache: names of libraries to their files.
//!
//! ```text
//! "glibc-ld.so.cache1.1"  n entries: u32  bytes of strings: u32  5 x u32
//! n x { flags: i32, name: u32, file: u32, os version: u32, hwcap: u64 }
//! strings, by their offset from the magic
//! ```
//!
//! Before it may stand the format of glibc 2.1. Entries with a hwcap are variants for some
//! processors; each has one without beside it, which is taken: the image may run elsewhere.
//! source: glibc sysdeps/generic/dl-cache.h

use std::collections::BTreeMap;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// Files by name, in the cache's order.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    files: BTreeMap<String, Vec<String>>,
}

impl Cache {
    /// The host's; empty where there is none (musl) or where it is not understood.
    pub(crate) fn of_host() -> Self {
        std::fs::read("/etc/ld.so.cache").map_or_else(|_| Self::default(), |b| Self::parse(&b))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut cache = Self::default();
        let Some(start) = bytes.windows(MAGIC.len()).position(|w| w == MAGIC) else {
            return cache;
        };
        let cache_bytes = &bytes[start..];
        let number = |at: usize| -> Option<usize> {
            let four: [u8; 4] = cache_bytes.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_ne_bytes(four)).ok()
        };
        let text = |at: usize| -> Option<String> {
            let rest = cache_bytes.get(at..)?;
            let end = rest.iter().position(|b| *b == 0)?;
            String::from_utf8(rest[..end].to_vec()).ok()
        };
        let count = number(MAGIC.len()).unwrap_or(0);
        for at in (0..count).map(|i| HEADER + i * ENTRY) {
            let (Some(name), Some(file), Some(low), Some(high)) = (
                number(at + 4),
                number(at + 8),
                number(at + 16),
                number(at + 20),
            ) else {
                break;
            };
            if (low, high) != (0, 0) {
                continue;
            }
            if let (Some(name), Some(file)) = (text(name), text(file)) {
                cache.files.entry(name).or_default().push(file);
            }
        }
        cache
    }

    pub(crate) fn find(&self, name: &str) -> &[String] {
        self.files.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let strings = b"libx.so.1\0/lib/libx.so.1\0/lib/fast/libx.so.1\0";
        let base = u32::try_from(HEADER + 2 * ENTRY).expect("small");
        let mut bytes = MAGIC.to_vec();
        bytes.extend(2_u32.to_ne_bytes());
        bytes.extend(u32::try_from(strings.len()).expect("small").to_ne_bytes());
        bytes.resize(HEADER, 0);
        for (file, hwcap) in [(25_u32, 1_u64 << 62), (10, 0)] {
            bytes.extend(0x303_i32.to_ne_bytes());
            bytes.extend(base.to_ne_bytes());
            bytes.extend((base + file).to_ne_bytes());
            bytes.extend(0_u32.to_ne_bytes());
            bytes.extend(hwcap.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn the_plain_variant_is_found() {
        let cache = Cache::parse(&sample());
        assert_eq!(cache.find("libx.so.1"), ["/lib/libx.so.1"]);
        assert!(cache.find("liby.so").is_empty());
        // behind the older format
        let mut old = b"ld.so-1.7.0\0\0\0\0\0".to_vec();
        old.extend(sample());
        assert_eq!(Cache::parse(&old).find("libx.so.1"), ["/lib/libx.so.1"]);
    }

    #[test]
    fn damage_does_no_harm() {
        let whole = sample();
        for cut in 0..whole.len() {
            Cache::parse(&whole[..cut]);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            Cache::parse(&damaged);
        }
    }
}
