//! D-Bus messages: as much of the wire format as talking to systemd takes.
//!
//! source: D-Bus specification 0.43, "Marshaling" and "Message Format". Always little-endian; what
//! arrives in the other order is refused.

/// Most bytes of a message that is read: systemd's answers and signals are far below it.
const MOST: usize = 1 << 20;

pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Values one after the other, each aligned as its type wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn align(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    pub(super) fn byte(&mut self, n: u8) {
        self.0.push(n);
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.align(4);
        self.0.extend(n.to_le_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.align(8);
        self.0.extend(n.to_le_bytes());
    }

    pub(super) fn boolean(&mut self, yes: bool) {
        self.u32(u32::from(yes));
    }

    /// `s` and `o`.
    pub(super) fn string(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// `g`.
    pub(super) fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements are aligned to `align`; the padding before the first isn't counted.
    pub(super) fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }
}

/// A method call, ready to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
    pub(super) body: &'a [u8],
}

impl Call<'_> {
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let fields = [
            (1, "o", self.path),
            (2, "s", self.interface),
            (3, "s", self.member),
            (6, "s", self.destination),
            (8, "g", self.signature),
        ];
        let mut w = Writer::default();
        w.byte(b'l');
        w.byte(METHOD_CALL);
        w.byte(0);
        w.byte(1);
        w.length(self.body.len());
        w.u32(serial);
        w.array(8, |w| {
            for (code, kind, value) in fields.iter().filter(|f| !f.2.is_empty()) {
                w.align(8);
                w.byte(*code);
                w.signature(kind);
                if *kind == "g" {
                    w.signature(value);
                } else {
                    w.string(value);
                }
            }
        });
        w.align(8);
        let mut out = w.into_bytes();
        out.extend_from_slice(self.body);
        out
    }
}

/// What arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) member: String,
    /// Of an error.
    pub(super) error: String,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// Bytes of the whole message, once the first 16 are there; `None` when it is none.
    pub(super) fn size(head: &[u8]) -> Option<usize> {
        let mut r = Reader::new(head);
        if r.byte()? != b'l' {
            return None;
        }
        r.skip(3)?;
        let body = r.u32()? as usize;
        r.u32()?;
        let fields = r.u32()? as usize;
        let size = 16 + fields.checked_next_multiple_of(8)?.checked_add(body)?;
        (size <= MOST).then_some(size)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        r.skip(1)?;
        let mut out = Self {
            kind: r.byte()?,
            ..Self::default()
        };
        r.skip(2)?;
        let body = r.u32()? as usize;
        r.u32()?;
        let end = r.u32()? as usize + 16;
        while r.at < end {
            r.align(8)?;
            let code = r.byte()?;
            match (code, r.signature()?) {
                (3, "s") => out.member = r.string()?.to_owned(),
                (4, "s") => out.error = r.string()?.to_owned(),
                (5, "u") => out.reply_to = r.u32()?,
                (_, "s" | "o") => drop(r.string()?),
                (_, "g") => drop(r.signature()?),
                (_, "u") => drop(r.u32()?),
                _ => return None,
            }
        }
        r.align(8)?;
        out.body = bytes.get(r.at..r.at.checked_add(body)?)?.to_vec();
        Some(out)
    }
}

/// Reads values; `None` when they aren't there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    pub(super) fn skip(&mut self, n: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(n)?;
        let part = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(part)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.skip(1).map(|b| b[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        Some(u32::from_le_bytes(self.skip(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        let text = self.skip(length)?;
        self.skip(1)?;
        std::str::from_utf8(text).ok()
    }

    pub(super) fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.skip(length)?;
        self.skip(1)?;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_byte_for_byte() {
        let call = Call {
            destination: "a.B",
            path: "/c",
            interface: "",
            member: "Hi",
            signature: "u",
            body: &[7, 0, 0, 0],
        };
        let want: [&[u8]; 9] = [
            b"l\x01\x00\x01\x04\x00\x00\x00\x09\x00\x00\x00\x37\x00\x00\x00",
            b"\x01\x01o\x00\x02\x00\x00\x00/c\x00",
            b"\x00\x00\x00\x00\x00",
            b"\x03\x01s\x00\x02\x00\x00\x00Hi\x00",
            b"\x00\x00\x00\x00\x00",
            b"\x06\x01s\x00\x03\x00\x00\x00a.B\x00",
            b"\x00\x00\x00\x00",
            b"\x08\x01g\x00\x01u\x00",
            b"\x00\x07\x00\x00\x00",
        ];
        assert_eq!(call.encode(9), want.concat());
    }

    #[test]
    fn an_answer_is_read() {
        let bytes = b"l\x02\x01\x01\x08\x00\x00\x00\x05\x00\x00\x00\x08\x00\x00\x00\
                      \x05\x01u\x00\x09\x00\x00\x00\x03\x00\x00\x00/jj\x00";
        assert_eq!(Message::size(&bytes[..16]), Some(bytes.len()));
        let message = Message::decode(bytes).unwrap();
        assert_eq!((message.kind, message.reply_to), (METHOD_RETURN, 9));
        assert_eq!(Reader::new(&message.body).string(), Some("/jj"));
        for cut in 0..bytes.len() {
            assert!(Message::decode(&bytes[..cut]).is_none(), "{cut}");
        }
        assert_eq!(
            Message::size(b"B\x02\x01\x01\xff\xff\xff\xff\x05\0\0\0\0\0\0\0"),
            None
        );
        assert_eq!(
            Message::size(b"l\x02\x01\x01\xff\xff\xff\xff\x05\0\0\0\0\0\0\0"),
            None
        );
    }

    #[test]
    fn arrays_count_no_padding_before_their_first_element() {
        let mut w = Writer::default();
        w.array(8, |w| w.u64(1));
        w.array(8, |_| {});
        assert_eq!(
            w.into_bytes(),
            [
                8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
            ]
        );
    }
}
