//! Questions and answers on the wire.
//!
//! source: RFC 1035 section 4, RFC 6891 (EDNS).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest message over UDP where the asker says nothing of it.
pub const PLAIN_LIMIT: usize = 512;
/// What we say that we take.
const OUR_LIMIT: u16 = 1232;
const HEADER: usize = 12;
const QR: u8 = 0x80;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const IN: u16 = 1;
const OPT: u16 = 41;
/// Seconds. Short: a container's address may be another's tomorrow. (dockerd says 600.)
const TTL: u32 = 10;

pub const NO_ERROR: u8 = 0;
pub const FORMAT_ERROR: u8 = 1;
pub const SERVER_FAILURE: u8 = 2;
pub const NOT_IMPLEMENTED: u8 = 4;
pub const REFUSED: u8 = 5;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    Ptr,
    Other,
}

/// A question that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// In lower case, with dots between labels and none at the end. Absent: it has bytes that no host
    /// name has, so it is none of ours.
    pub name: Option<String>,
    pub kind: Kind,
    /// Where its bytes end in the message.
    end: usize,
    /// What the asker takes over UDP, and whether it speaks EDNS.
    limit: usize,
    edns: bool,
}

/// Why a message is not answered with what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswerable {
    /// Not a question at all.
    Silence,
    /// Say this code.
    Code(u8),
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Address(IpAddr),
    Pointer(String),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

/// The name at `at` and where it ends. Compressed ones are not read: a question has no need to be.
fn name(bytes: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let mut text = String::new();
    let (mut plain, start) = (true, at);
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((plain.then_some(text), at));
        }
        // two bits that are no length: a pointer, or nothing known
        if length > 63 || at + length - start > 254 {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        plain &= label.iter().all(|b| b.is_ascii_graphic() && *b != b'.');
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
    }
}

impl Question {
    /// Reads a message.
    ///
    /// # Errors
    /// What to do instead of answering it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unanswerable> {
        let wrong = Unanswerable::Code(FORMAT_ERROR);
        if bytes.len() < HEADER || bytes[2] & QR != 0 {
            return Err(Unanswerable::Silence);
        }
        if bytes[2] & 0x78 != 0 {
            return Err(Unanswerable::Code(NOT_IMPLEMENTED));
        }
        let counts = [4, 6, 8, 10].map(|at| u16_at(bytes, at).unwrap_or(0));
        if counts[0] != 1 {
            return Err(wrong);
        }
        let (name, end) = name(bytes, HEADER).ok_or(wrong)?;
        let kind = u16_at(bytes, end).ok_or(wrong)?;
        let class = u16_at(bytes, end + 2).ok_or(wrong)?;
        let end = end + 4;
        // the extension is a record of the root with nothing before it
        let opt = counts[1..] == [0, 0, 1] && bytes.get(end) == Some(&0);
        let edns = opt && u16_at(bytes, end + 1) == Some(OPT);
        let size = u16_at(bytes, end + 3).filter(|_| edns);
        let limit = usize::from(size.unwrap_or(0)).max(PLAIN_LIMIT);
        let kind = match (class, kind) {
            (IN, 1) => Kind::A,
            (IN, 28) => Kind::Aaaa,
            (IN, 12) => Kind::Ptr,
            _ => Kind::Other,
        };
        Ok(Self {
            name: name.filter(|_| class == IN),
            kind,
            end,
            limit,
            edns,
        })
    }

    /// The address that a question for a pointer means.
    #[must_use]
    pub fn reversed(&self) -> Option<IpAddr> {
        let name = self.name.as_deref().filter(|_| self.kind == Kind::Ptr)?;
        if let Some(four) = name.strip_suffix(".in-addr.arpa") {
            let mut octets = [0; 4];
            let mut parts = four.split('.').rev();
            for octet in &mut octets {
                *octet = parts.next()?.parse().ok()?;
            }
            return parts
                .next()
                .is_none()
                .then(|| Ipv4Addr::from(octets).into());
        }
        let six = name.strip_suffix(".ip6.arpa")?;
        let mut value: u128 = 0;
        let mut count = 0;
        for nibble in six.split('.').rev() {
            let digit = (nibble.len() == 1).then(|| u128::from_str_radix(nibble, 16).ok())??;
            value = value << 4 | digit;
            count += 1;
        }
        (count == 32).then(|| Ipv6Addr::from(value).into())
    }

    /// An answer to the message that this was read from. `stream`: it goes by TCP, where there is
    /// room for all.
    #[must_use]
    pub fn answer(&self, asked: &[u8], code: u8, records: &[Record], stream: bool) -> Vec<u8> {
        let limit = if stream {
            usize::from(u16::MAX)
        } else {
            self.limit
        };
        let mut out = bare(asked, code);
        out.extend_from_slice(asked.get(HEADER..self.end).unwrap_or_default());
        out[5] = 1;
        let extension = if self.edns { 11 } else { 0 };
        let mut count: u16 = 0;
        for record in records {
            let before = out.len();
            put(&mut out, record);
            if out.len() + extension > limit {
                out.truncate(before);
                out[2] |= TC;
                break;
            }
            count = count.saturating_add(1);
        }
        out[6..8].copy_from_slice(&count.to_be_bytes());
        if self.edns {
            out[11] = 1;
            out.push(0);
            out.extend_from_slice(&OPT.to_be_bytes());
            out.extend_from_slice(&OUR_LIMIT.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
        }
        out
    }

    /// Whether a message from a server answers this question, which was asked as `asked`.
    #[must_use]
    pub fn is_answered_by(&self, asked: &[u8], reply: &[u8]) -> bool {
        if reply.len() < self.end || reply[2] & QR == 0 || reply[..2] != asked[..2] {
            return false;
        }
        let same = reply[HEADER..self.end].eq_ignore_ascii_case(&asked[HEADER..self.end]);
        same && u16_at(reply, 4) == Some(1)
    }
}

/// An answer without the question, to a message that has none to repeat; `asked`: at least a header.
/// RA is said: what is not ours is asked on.
#[must_use]
pub fn bare(asked: &[u8], code: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&asked[..2]);
    out.push(QR | asked[2] & (0x78 | RD));
    out.push(RA | code & 0x0f);
    out.extend_from_slice(&[0; 8]);
    out
}

/// The code of a server's answer.
#[must_use]
pub fn code(reply: &[u8]) -> u8 {
    reply.get(3).map_or(SERVER_FAILURE, |b| b & 0x0f)
}

fn put(out: &mut Vec<u8>, record: &Record) {
    // the name of the question
    out.extend_from_slice(&[0xc0, HEADER as u8]);
    let mut head = |kind: u16| {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        out.extend_from_slice(&TTL.to_be_bytes());
    };
    let data = match record {
        Record::Address(IpAddr::V4(a)) => {
            head(1);
            a.octets().to_vec()
        }
        Record::Address(IpAddr::V6(a)) => {
            head(28);
            a.octets().to_vec()
        }
        Record::Pointer(name) => {
            head(12);
            labels(name)
        }
    };
    let length = u16::try_from(data.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&data);
}

/// A name as labels; what is too long for one is cut.
fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|l| !l.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        if out.len() + label.len() > 253 {
            break;
        }
        out.push(label.len() as u8);
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut out = vec![
            0xab,
            0xcd,
            RD,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::from(edns.is_some()),
        ];
        out.extend(labels(name));
        out.extend(kind.to_be_bytes());
        out.extend(IN.to_be_bytes());
        if let Some(size) = edns {
            out.push(0);
            out.extend(OPT.to_be_bytes());
            out.extend(size.to_be_bytes());
            out.extend([0; 6]);
        }
        out
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let bytes = asked("Web.Example", 1, None);
        let q = Question::parse(&bytes).unwrap();
        assert_eq!((q.name.as_deref(), q.kind), (Some("web.example"), Kind::A));
        let addresses: Vec<Record> = (0..3)
            .map(|n| Record::Address(Ipv4Addr::new(10, 0, 0, n).into()))
            .collect();
        let out = q.answer(&bytes, NO_ERROR, &addresses, false);
        assert_eq!(&out[..2], &bytes[..2]);
        assert_eq!((out[2], out[3]), (QR | RD, RA));
        assert_eq!(u16_at(&out, 6), Some(3));
        // as it was written
        assert_eq!(&out[HEADER..q.end], &bytes[HEADER..]);
        assert_eq!(&out[out.len() - 4..], &[10, 0, 0, 2]);
        assert!(q.is_answered_by(&bytes, &out));
        let mut other = out.clone();
        other[0] ^= 1;
        assert!(!q.is_answered_by(&bytes, &other));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let all: Vec<Record> = (0..100)
            .map(|n| Record::Address(Ipv4Addr::new(10, 0, 0, n).into()))
            .collect();
        let bytes = asked("many", 1, None);
        let q = Question::parse(&bytes).unwrap();
        let out = q.answer(&bytes, NO_ERROR, &all, false);
        assert!(
            out.len() <= PLAIN_LIMIT && out[2] & TC != 0,
            "{}",
            out.len()
        );
        let out = q.answer(&bytes, NO_ERROR, &all, true);
        assert_eq!((u16_at(&out, 6), out[2] & TC), (Some(100), 0));
        let bytes = asked("many", 1, Some(4096));
        let q = Question::parse(&bytes).unwrap();
        let out = q.answer(&bytes, NO_ERROR, &all, false);
        assert_eq!((u16_at(&out, 6), out[2] & TC, out[11]), (Some(100), 0, 1));
    }

    #[test]
    fn addresses_backwards() {
        let back = |name: &str| Question::parse(&asked(name, 12, None)).unwrap().reversed();
        assert_eq!(back("4.3.2.10.in-addr.arpa"), "10.2.3.4".parse().ok());
        let six = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa";
        assert_eq!(back(six), "4321:0:1:2:3:4:567:89ab".parse().ok());
        for wrong in [
            "3.2.10.in-addr.arpa",
            "5.4.3.2.10.in-addr.arpa",
            "x.ip6.arpa",
            "arpa",
        ] {
            assert_eq!(back(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_question() {
        let good = asked("a", 1, None);
        assert_eq!(Question::parse(&good[..11]), Err(Unanswerable::Silence));
        let mut reply = good.clone();
        reply[2] |= QR;
        assert_eq!(Question::parse(&reply), Err(Unanswerable::Silence));
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(
            Question::parse(&update),
            Err(Unanswerable::Code(NOT_IMPLEMENTED))
        );
        let mut two = good.clone();
        two[5] = 2;
        let mut pointer = good.clone();
        pointer[HEADER] = 0xc0;
        for wrong in [&two[..], &pointer, &good[..good.len() - 1]] {
            assert_eq!(
                Question::parse(wrong),
                Err(Unanswerable::Code(FORMAT_ERROR))
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(q) = Question::parse(&bytes) {
                let out = q.answer(&bytes, NO_ERROR, &[Record::Pointer("a.b".into())], false);
                prop_assert!(out.len() <= q.limit.max(bytes.len()));
                prop_assert!(q.is_answered_by(&bytes, &out));
                let _ = (q.reversed(), q.is_answered_by(&bytes, &bytes));
            }
        }

        #[test]
        fn questions_of_all_names(name in "[a-zA-Z0-9_-]{1,63}(\\.[a-zA-Z0-9_-]{1,20}){0,6}", kind: u16) {
            let bytes = asked(&name, kind, Some(1232));
            let q = Question::parse(&bytes).unwrap();
            prop_assert_eq!(q.name.clone(), Some(name.to_ascii_lowercase()));
            prop_assert_eq!(q.limit, 1232);
        }
    }
}
