//! Attaching by websocket (RFC 6455): for browsers and whatever else takes no connection over.
//!
//! Output is one stream, both of the container's in the order in which they came: messages are binary since API 1.28,
//! text before. What the client sends is input; its close is the input's end.

use std::time::Duration;

use engine::AttachOptions;
use futures_util::{SinkExt, StreamExt};
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::answer::{Answer, Body, empty};
use super::call::Call;
use super::failure::Failure;
use super::hijack::{self, Framing, Policy, Taken};

/// Of one message that a client sends.
const MESSAGE_LIMIT: usize = 1024 * 1024;
const BUFFER: usize = 16 * 1024;
/// For the close that a client is told of.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) async fn attach(mut call: Call) -> Answer {
    let accepted = handshake(call.request.headers())?;
    let q = &call.query;
    // before 1.42 all three, whatever was said
    let all = !call.version.at_least(42);
    let options = AttachOptions {
        stdin: all || q.on("stdin"),
        stdout: all || q.on("stdout"),
        stderr: all || q.on("stderr"),
        stream: q.on("stream"),
        logs: q.on("logs"),
    };
    let detach = hijack::detach_keys(q.get("detachKeys").unwrap_or_default())?;
    let container = call.engine().find(&call.param)?;
    let spec = &container.record.spec;
    let policy = Policy {
        stdin: options.stdin && options.stream && spec.open_stdin,
        tty: spec.tty,
        detach,
        framing: Framing::between(spec.tty, true),
    };
    let stream = call.engine().attach(container.id(), options).await?;
    let binary = call.version.at_least(28);
    let client = hyper::upgrade::on(&mut call.request);
    tokio::spawn(async move {
        let Some(taken) = Taken::over(client).await else {
            return;
        };
        let (near, far) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => return tracing::warn!("a websocket: {error}"),
        };
        let bridged = bridge(taken, near, binary);
        let copied = Taken::of(far).copy(stream, policy, std::future::ready(()));
        tokio::join!(bridged, copied);
    });
    Ok(accepted)
}

/// The answer that makes a websocket of the connection.
fn handshake(headers: &HeaderMap) -> Result<Response<Body>, Failure> {
    let is = |name, wanted: &str| {
        let value = headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok());
        value.is_some_and(|v| v.eq_ignore_ascii_case(wanted))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|_| is(UPGRADE, "websocket")) else {
        return Err(Failure::invalid(
            "this is the websocket's way to attach: send Upgrade: websocket and Sec-WebSocket-Key",
        ));
    };
    if !is(SEC_WEBSOCKET_VERSION, "13") {
        return Err(Failure::invalid("Sec-WebSocket-Version must be 13"));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|e| Failure::invalid(e.to_string()))?;
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let out = response.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Messages on one side, bytes on the other, until both are through or the client has gone.
async fn bridge(client: Taken, near: UnixStream, binary: bool) {
    let (stream, early) = client.into_parts();
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let socket =
        WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
    let (sink, source) = socket.split();
    let (read, write) = near.into_split();
    tokio::select! {
        () = output(read, sink, binary) => {}
        () = input(source, write) => {}
    }
}

type Sink = futures_util::stream::SplitSink<WebSocketStream<UnixStream>, Message>;
type Source = futures_util::stream::SplitStream<WebSocketStream<UnixStream>>;

async fn output(mut from: OwnedReadHalf, mut to: Sink, binary: bool) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let message = if binary {
            Message::binary(buffer[..n].to_vec())
        } else {
            Message::text(String::from_utf8_lossy(&buffer[..n]).into_owned())
        };
        if to.send(message).await.is_err() {
            return;
        }
    }
    drop(tokio::time::timeout(FAREWELL, to.close()).await);
}

/// Returns where the connection is over; a close of the client's is the end of what it sends.
async fn input(mut from: Source, mut to: OwnedWriteHalf) {
    while let Some(message) = from.next().await {
        let data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Text(text)) => text.into(),
            Ok(Message::Close(_)) => break,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!("a websocket: {error}");
                return;
            }
        };
        if to.write_all(&data).await.is_err() {
            // its stdin is closed; its output may go on
            return std::future::pending().await;
        }
    }
    drop(to.shutdown().await);
}
