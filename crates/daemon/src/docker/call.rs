//! One request: version, parameters, body.

use std::future::Future;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use api::{ApiVersion, Filters};
use bytes::Bytes;
use engine::Engine;
use engine::pipe::ChannelReader;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT};
use hyper::{Request, StatusCode};
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::{Api, Counted};

/// Bound of a JSON body. The largest that clients send (create with many mounts) has some KiB.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) version: ApiVersion,
    pub(crate) query: Query,
    /// What stands for the braces of the route's pattern.
    pub(crate) param: String,
    pub(crate) request: Request<Upload>,
}

/// A request's body. What nobody has read of it when this is dropped is read and thrown away: a
/// client that is still sending reads its answer only then, and would see a broken pipe instead.
#[derive(Debug)]
pub(crate) struct Upload {
    /// What comes, or what has been read already.
    body: Option<Either<Full<Bytes>, Incoming>>,
    /// The client sends it only when it is told to go on.
    waits: bool,
}

/// Bounds of what is thrown away, behind which the connection is closed.
const DISCARD_LIMIT: usize = 16 * 1024 * 1024;
const DISCARD_DEADLINE: Duration = Duration::from_secs(10);

impl Upload {
    pub(crate) fn of(request: Request<Incoming>) -> Request<Self> {
        let waits = request.headers().contains_key(EXPECT);
        request.map(|body| Self {
            body: Some(Either::Right(body)),
            waits,
        })
    }

    /// All of it, up to a limit.
    async fn read(&mut self) -> Result<Bytes, Failure> {
        let Some(body) = self.body.as_mut() else {
            return Ok(Bytes::new());
        };
        let too_large = || {
            let message = format!("the body is larger than {BODY_LIMIT} bytes");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        // where its length is told, nothing of it is kept
        if body.size_hint().lower() > BODY_LIMIT as u64 {
            return Err(too_large());
        }
        match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
            Err(error) => Err(Failure::invalid(format!(
                "the body could not be read: {error}"
            ))),
        }
    }

    /// As it is read later, too.
    pub(super) async fn peek(&mut self) -> Result<Bytes, Failure> {
        let bytes = self.read().await?;
        self.body = Some(Either::Left(Full::new(bytes.clone())));
        Ok(bytes)
    }

    /// `None`: that was all.
    async fn chunk(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let frame = self.body.as_mut()?.frame().await?;
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                Ok(Err(_trailers)) => {}
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let rest = self
            .body
            .take()
            .filter(|b| !self.waits && !b.is_end_stream());
        let Some(Either::Right(rest)) = rest else {
            return;
        };
        tokio::spawn(async move {
            let mut rest = Limited::new(rest, DISCARD_LIMIT);
            let all = async { while let Some(Ok(_)) = rest.frame().await {} };
            drop(tokio::time::timeout(DISCARD_DEADLINE, all).await);
        });
    }
}

impl Call {
    pub(crate) fn engine(&self) -> &Engine {
        &self.api.engine
    }

    /// Runs a change to its end even where the client goes away meanwhile: half a change is
    /// nobody's wish.
    pub(crate) async fn change<F, T>(&self, change: F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, engine::Error>> + Send + 'static,
        T: Send + 'static,
    {
        let counted = Counted::new(&self.api, |api| &api.changes);
        let task = tokio::spawn(async move {
            let _counted = counted;
            change.await
        });
        match task.await {
            Ok(done) => Ok(done?),
            Err(error) => Err(Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the call ended early: {error}"),
            )),
        }
    }

    /// The whole body; refused where it is larger than any that makes sense.
    pub(crate) async fn body(&mut self) -> Result<Bytes, Failure> {
        self.request.body_mut().read().await
    }

    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let body = self.body().await?;
        self.must_be_json(&body)?;
        if body.is_empty() {
            return Err(Failure::invalid("the body is empty, and must be JSON"));
        }
        Ok(api::decode(&body)?)
    }

    /// As [`Call::json`]; an empty body (or `null`) is the default.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(
        &mut self,
    ) -> Result<T, Failure> {
        let body = self.body().await?;
        self.must_be_json(&body)?;
        if body.trim_ascii().is_empty() || body.trim_ascii() == b"null" {
            return Ok(T::default());
        }
        Ok(api::decode(&body)?)
    }

    /// As dockerd. It is more than a form: a web page can't send this type to another site unasked, and what
    /// has it is what authorization plugins are shown.
    fn must_be_json(&self, body: &Bytes) -> Result<(), Failure> {
        let given = self.request.headers().get(CONTENT_TYPE);
        let given = given.map_or("", |v| v.to_str().unwrap_or("?"));
        let kind = given.split(';').next().unwrap_or_default().trim();
        if body.is_empty() || kind.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "unsupported Content-Type header ({given}): must be 'application/json'"
        )))
    }

    /// The body as an input for blocking code, however large; fed by a task of its own that ends
    /// with the client or the reader.
    pub(crate) fn body_stream(self) -> ChannelReader {
        let (tx, rx) = engine::pipe::input();
        let mut upload = self.request.into_body();
        tokio::spawn(async move {
            while let Some(chunk) = upload.chunk().await {
                let failed = chunk.is_err();
                if tx.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        rx
    }

    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, Failure> {
        let filters =
            Filters::parse(self.query.get("filters").unwrap_or_default()).map_err(|error| {
                Failure::invalid(format!("invalid filters: {}", crate::chain(&error)))
            })?;
        match filters.unknown(known) {
            Some(key) => Err(Failure::invalid(format!("invalid filter '{key}'"))),
            None => Ok(filters),
        }
    }
}

/// Parameters of the URL.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent(name, true), percent(value, true))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// As [`Query::get`]; empty is absent.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// Docker's booleans: anything but these is true.
    pub(crate) fn on(&self, name: &str) -> bool {
        self.on_or(name, false)
    }

    pub(crate) fn on_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            None => default,
            Some(v) => !matches!(
                v.trim().to_ascii_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            ),
        }
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        match self.text(name) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(Failure::invalid(format!(
                    "{name}: {text:?} is not a number that fits"
                ))),
            },
        }
    }
}

/// Percent-decoding; `+` is a space in a query, and itself in a path. What is not UTF-8 becomes U+FFFD.
pub(crate) fn percent(text: &str, query: bool) -> String {
    if !(text.contains('%') || query && text.contains('+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                i += 3;
            }
            (b'+', ..) if query => {
                out.push(b' ');
                i += 1;
            }
            (byte, ..) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let q =
            Query::parse("all=1&name=a%2Fb+c&force=false&v=True&names=x&names=y&t=&n=12&bad=%zz%4");
        assert!(q.on("all") && q.on("v") && !q.on("force") && !q.on("missing") && !q.on("t"));
        assert_eq!(q.get("name"), Some("a/b c"));
        assert_eq!(q.all("names"), ["x", "y"]);
        assert_eq!(q.text("t"), None);
        assert_eq!(q.number::<u8>("n").unwrap(), Some(12));
        assert!(q.number::<u8>("name").is_err());
        assert_eq!(q.get("bad"), Some("%zz%4"));
        assert_eq!(percent("a+b%20c", false), "a+b c");
    }
}
