//! Responses.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use engine::pipe::ByteReceiver;
use futures_util::Stream;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::failure::Failure;

pub(crate) type Answer = Result<Response<Body>, Failure>;

/// A response's body. An error in a stream cuts the connection: the client must not take what it
/// has for all there is.
pub(crate) enum Body {
    Full(Bytes),
    Channel(ByteReceiver),
    Stream(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => None,
            Self::Full(bytes) => Some(Ok(std::mem::take(bytes))),
            Self::Channel(rx) => std::task::ready!(rx.poll_recv(cx)),
            Self::Stream(stream) => std::task::ready!(stream.as_mut().poll_next(cx)),
        };
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}

pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if !kind.is_empty() {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

/// Go's encoder ends a document with a newline; clients that read lines rely on it.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|error| {
        // wire types have string keys and no fallible serializers
        unreachable!("a wire type that is no JSON: {error}")
    });
    text.push(b'\n');
    text.into()
}

pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    with_type(status, "application/json", Body::Full(json_line(value)))
}

pub(crate) fn ok<T: Serialize>(value: &T) -> Answer {
    Ok(json(StatusCode::OK, value))
}

pub(crate) fn created<T: Serialize>(value: &T) -> Answer {
    Ok(json(StatusCode::CREATED, value))
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    with_type(status, "", Body::Full(Bytes::new()))
}

pub(crate) fn no_content() -> Answer {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// JSON documents, one at a time, each sent when it is there.
pub(crate) fn stream<S>(kind: &'static str, stream: S) -> Response<Body>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    with_type(StatusCode::OK, kind, Body::Stream(Box::pin(stream)))
}

pub(crate) fn channel(kind: &'static str, receiver: ByteReceiver) -> Response<Body> {
    with_type(StatusCode::OK, kind, Body::Channel(receiver))
}

/// One document that is not there yet; the header goes out at once.
pub(crate) fn later<F>(kind: &'static str, future: F) -> Response<Body>
where
    F: Future<Output = Bytes> + Send + 'static,
{
    stream(
        kind,
        futures_util::stream::once(async move { Ok(future.await) }),
    )
}
