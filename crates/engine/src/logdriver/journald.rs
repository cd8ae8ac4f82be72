//! systemd's journal, by its native protocol.
//!
//! source: systemd "Native Journal Protocol"; moby daemon/logger/journald

use std::collections::BTreeMap;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use shim::jsonlog::Stream;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::address::Address;
use super::message::{Message, Speaker};

const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) fn address() -> Address {
    Address::Datagrams(SOCKET.into())
}

pub(super) fn encode(speaker: &Speaker, message: &Message<'_>) -> Vec<u8> {
    let identity = &speaker.identity;
    let priority: &[u8] = match message.stream {
        Stream::Stdout => b"6",
        Stream::Stderr => b"3",
    };
    let mut out = Vec::with_capacity(512 + message.line.len());
    // over what the driver says, as in Docker
    let own: BTreeMap<String, &str> = identity
        .attributes
        .iter()
        .map(|(key, value)| (variable(key), value.as_str()))
        .collect();
    let time = message.time.to_string();
    let ordinal = message.ordinal.to_string();
    let fields: [(&str, &[u8]); 11] = [
        ("CONTAINER_ID", identity.short_id().as_bytes()),
        ("CONTAINER_ID_FULL", identity.id.as_bytes()),
        ("CONTAINER_NAME", identity.name.as_bytes()),
        ("CONTAINER_TAG", speaker.tag.as_bytes()),
        ("IMAGE_NAME", identity.image.as_bytes()),
        ("SYSLOG_IDENTIFIER", speaker.tag.as_bytes()),
        ("SYSLOG_TIMESTAMP", time.as_bytes()),
        ("CONTAINER_LOG_EPOCH", speaker.epoch.as_bytes()),
        ("CONTAINER_LOG_ORDINAL", ordinal.as_bytes()),
        ("PRIORITY", priority),
        ("MESSAGE", message.line),
    ];
    for (name, value) in fields {
        if matches!(name, "MESSAGE" | "PRIORITY") || !own.contains_key(name) {
            field(&mut out, name, value);
        }
    }
    for (name, value) in &own {
        field(&mut out, name, value.as_bytes());
    }
    if let Some(part) = &message.part {
        // what is not the last says that more follows
        if !part.last {
            field(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut out, "CONTAINER_PARTIAL_ID", part.id.as_bytes());
        let ordinal = part.ordinal.to_string();
        field(&mut out, "CONTAINER_PARTIAL_ORDINAL", ordinal.as_bytes());
        let last = part.last.to_string();
        field(&mut out, "CONTAINER_PARTIAL_LAST", last.as_bytes());
    }
    out
}

/// A name of the journal's: capitals, digits and `_`, the first none of the latter two.
fn variable(key: &str) -> String {
    let all = key.chars().map(|c| match c {
        'a'..='z' => c.to_ascii_uppercase(),
        'A'..='Z' | '0'..='9' => c,
        _ => '_',
    });
    let text: String = all.collect();
    text.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit())
        .to_owned()
}

/// With a length, which any value may have.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if name.is_empty() {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// What is too long for a datagram goes as a sealed file in memory.
pub(super) async fn send_file(socket: &UnixDatagram, bytes: &[u8]) -> io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("journal entry", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    loop {
        socket.writable().await?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [file.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            rustix::net::sendmsg(socket, &[], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        });
        match sent {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logdriver::message::tests::{message, speaker};

    #[test]
    fn fields() {
        let mut speaker = speaker();
        let attribute = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        speaker.identity.attributes =
            [attribute("com.x-y", "1"), attribute("9", "left out")].into();
        let text = encode(&speaker, &message(b"a\nb"));
        let text = String::from_utf8_lossy(&text).into_owned();
        insta::assert_snapshot!(text.escape_default().to_string().replace("\\n", "\n"));
    }

    #[test]
    fn a_piece_says_whether_more_follows() {
        for last in [false, true] {
            let mut message = message(b"a");
            message.part = Some(crate::logdriver::message::Part {
                id: "1f".to_owned(),
                ordinal: 3,
                last,
            });
            let text = encode(&speaker(), &message);
            let text = String::from_utf8_lossy(&text).into_owned();
            assert_eq!(text.contains("CONTAINER_PARTIAL_MESSAGE=true\n"), !last);
            assert!(text.contains(&format!("CONTAINER_PARTIAL_LAST={last}\n")));
            assert!(text.contains("CONTAINER_PARTIAL_ORDINAL=3\n"));
        }
    }
}
