//! Netlink messages: a header of a family's own, then attributes, all aligned to 4 bytes.
//!
//! ```text
//! nlmsghdr   length u32, type u16, flags u16, sequence u32, port u32       host byte order
//! attribute  length u16 (with these 4 bytes, without padding), type u16, payload, padding
//! ```
//! source: netlink(7), Documentation/userspace-api/netlink/intro.rst

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

/// Of attributes that hold attributes.
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// Messages that the kernel gets in one call.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where the message that is being written begins.
    at: usize,
    sequence: u32,
}

/// Where a nested attribute that is open begins.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(usize);

impl Batch {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Begins a message; the one before it is finished.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, header: &[u8]) {
        self.at = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        self.pad();
    }

    /// Adds a flag to the message that is being written.
    pub(crate) fn flag(&mut self, flag: u16) {
        let at = self.at + 6;
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            let have = u16::from_ne_bytes([place[0], place[1]]);
            place.copy_from_slice(&(have | flag).to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        let length = u32::try_from(self.bytes.len() - self.at).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(self.at..self.at + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // what is longer than an attribute can be is refused by the kernel as damaged
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// With the zero at the end that the kernel wants.
    pub(crate) fn str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut text = value.as_bytes().to_vec();
        text.push(0);
        self.bytes(kind, &text)
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// In the byte order of the host, as rtnetlink has it.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In the byte order of the network, as nftables has it.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn open(&mut self, kind: u16) -> Open {
        let open = Open(self.bytes.len());
        self.bytes(kind | NESTED, &[]);
        open
    }

    pub(crate) fn close(&mut self, open: Open) {
        let length = u16::try_from(self.bytes.len() - open.0).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(open.0..open.0 + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.pad();
    }

    /// An attribute of attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let open = self.open(kind);
        inner(self);
        self.close(open);
        self
    }

    /// Bytes inside an attribute that is open, before its attributes.
    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Length of the message that is being written.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len() - self.at
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram, up to the first that is damaged.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = usize::try_from(u32_at(header, 0)?).ok()?;
        let payload = bytes.get(HEADER..length)?;
        let message = Message {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            payload,
        };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes, up to the first that is damaged.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// Up to its zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut batch = Batch::default();
        batch.message(16, ACK, &[1, 2, 3, 4]);
        batch.str(3, "eth0").nest(18, |b| {
            b.u32(1, 7).nest(2, |b| {
                b.u8(1, 9);
            });
        });
        batch.message(17, 0, &[]);
        batch.flag(ACK);
        let all: Vec<Message<'_>> = messages(batch.as_bytes()).collect();
        assert_eq!((all[0].kind, all[0].flags), (16, 5));
        assert_eq!((all[1].kind, all[1].flags), (17, 5));
        let body = &all[0].payload[4..];
        assert_eq!(text(attribute(body, 3).unwrap()), "eth0");
        let nested = attribute(body, 18).unwrap();
        assert_eq!(attribute(nested, 1), Some(&7u32.to_ne_bytes()[..]));
        let deeper = attribute(nested, 2).unwrap();
        assert_eq!(attribute(deeper, 1), Some(&[9u8][..]));
    }

    proptest! {
        #[test]
        fn damaged_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            for message in messages(&bytes) {
                for (_, value) in attributes(message.payload) {
                    let _ = attributes(value).count();
                }
            }
        }
    }
}
