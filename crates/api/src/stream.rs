//! What streams carry: progress lines, and the frames of multiplexed output.

use serde::{Deserialize, Serialize};

use crate::go;

/// One line of a load, import, build or pull.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProgressMessage {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub stream: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// The same as text, for clients that draw nothing themselves.
    #[serde(skip_serializing_if = "go::is_zero")]
    pub progress: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub id: String,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

impl ProgressMessage {
    /// A stream cannot change its status once begun: this is how it ends badly.
    #[must_use]
    pub fn failure(message: &str) -> Self {
        Self {
            error: message.to_owned(),
            error_detail: Some(ErrorDetail {
                code: 0,
                message: message.to_owned(),
            }),
            ..Self::default()
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub current: i64,
    #[serde(skip_serializing_if = "go::is_zero")]
    pub total: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    #[serde(skip_serializing_if = "go::is_zero")]
    pub code: i64,
    pub message: String,
}

/// Which of a container's streams a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdStream {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// Out of band: the engine says why the stream ends.
    System = 3,
}

/// Bytes of a frame's header: stream, three zeros, length in network order.
pub const FRAME_HEADER: usize = 8;

/// Header of a frame of multiplexed output (`application/vnd.docker.multiplexed-stream`).
#[must_use]
pub const fn frame_header(stream: StdStream, len: u32) -> [u8; FRAME_HEADER] {
    let n = len.to_be_bytes();
    [stream as u8, 0, 0, 0, n[0], n[1], n[2], n[3]]
}

/// Reads a header; `None` where it is not one.
#[must_use]
pub const fn parse_frame_header(header: [u8; FRAME_HEADER]) -> Option<(StdStream, u32)> {
    let stream = match header[0] {
        0 => StdStream::Stdin,
        1 => StdStream::Stdout,
        2 => StdStream::Stderr,
        3 => StdStream::System,
        _ => return None,
    };
    if header[1] != 0 || header[2] != 0 || header[3] != 0 {
        return None;
    }
    Some((
        stream,
        u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
    ))
}

/// Raw bytes of a terminal.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";
/// Frames.
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(len: u32, which in 0..4u8) {
            let stream = [StdStream::Stdin, StdStream::Stdout, StdStream::Stderr, StdStream::System][which as usize];
            prop_assert_eq!(parse_frame_header(frame_header(stream, len)), Some((stream, len)));
        }

        #[test]
        fn no_header_panics(bytes: [u8; 8]) {
            if let Some((stream, len)) = parse_frame_header(bytes) {
                prop_assert_eq!(frame_header(stream, len), bytes);
            }
        }
    }
}
