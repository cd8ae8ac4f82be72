//! Targets of requests as people type them: `curl -g '…/containers/json?filters={"status":["exited"]}'`.
//!
//! RFC 3986 wants a quotation mark encoded, and hyper refuses a request with one in its query; dockerd takes
//! it. So what is refused is encoded before hyper sees it.

/// What hyper's URI refuses of the characters that a request line can hold.
const REFUSED: &[u8] = b"\"<>`";

/// Encodes what is refused in the target of a request, whose head is the first `len` bytes. The head's
/// length then.
pub(super) fn encode_refused(bytes: &mut Vec<u8>, len: usize) -> usize {
    let line = bytes[..len].iter().position(|b| *b == b'\n');
    let line = line.unwrap_or(len);
    if !bytes[..line].iter().any(|b| REFUSED.contains(b)) {
        return len;
    }
    let mut encoded = Vec::with_capacity(line + 64);
    for byte in &bytes[..line] {
        if REFUSED.contains(byte) {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            encoded.push(*byte);
        }
    }
    let more = encoded.len() - line;
    bytes.splice(..line, encoded);
    len + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_target_changes() {
        for (head, want) in [
            (
                "GET /a?filters={\"b\":[\"<c>\"]} HTTP/1.1\r\nX: \"y\"\r\n\r\n",
                "GET /a?filters={%22b%22:[%22%3Cc%3E%22]} HTTP/1.1\r\nX: \"y\"\r\n\r\n",
            ),
            (
                "GET /a?b=%22 HTTP/1.1\r\n\r\n",
                "GET /a?b=%22 HTTP/1.1\r\n\r\n",
            ),
        ] {
            let mut bytes = [head.as_bytes(), b"\"body\""].concat();
            let len = encode_refused(&mut bytes, head.len());
            assert_eq!(std::str::from_utf8(&bytes[..len]), Ok(want));
            assert_eq!(&bytes[len..], b"\"body\"");
        }
    }
}
