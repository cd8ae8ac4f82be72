//! One repository of one registry, and its mirrors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Response, StatusCode, Uri};
use serde::Deserialize;
use store::reference::Reference;

use crate::challenge::{self, Challenge};
use crate::manifest::{self, Fetched};
use crate::transport::{Call, Transport, location};
use crate::{Config, Credentials, Error};

const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// A registry that wants longer is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a blob may bring nothing.
const SILENCE: Duration = Duration::from_secs(30);
const MOST_ERROR: usize = 64 << 10;
const MOST_TOKEN: usize = 1 << 20;
/// Of an upload at a time.
const PIECE: u64 = 8 << 20;
/// Where the registry of names without a registry is.
const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_HOST: &str = "registry-1.docker.io";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What is to be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Pull,
    Push,
}

/// For all registries; cheap to clone. It keeps no connections: those are a session's, and go with it.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
}

/// A place that has the repository.
#[derive(Debug)]
struct Endpoint {
    authority: String,
    /// As configured; absent: to be found out.
    scheme: Mutex<Option<&'static str>>,
    /// Value of `Authorization`.
    known: Mutex<Option<String>>,
    is_mirror: bool,
}

/// Calls on one repository.
#[derive(Debug)]
pub struct Session {
    transport: Transport,
    /// Mirrors first.
    endpoints: Vec<Endpoint>,
    repository: String,
    credentials: Credentials,
    access: Access,
    /// Another repository, to mount blobs from.
    also: Option<String>,
}

/// A blob on its way.
#[derive(Debug)]
pub struct Blob {
    /// Where it begins.
    pub offset: u64,
    body: Incoming,
    host: String,
}

/// An upload that was begun, or needs none.
#[derive(Debug)]
pub enum Upload {
    /// The registry has the blob now.
    Mounted,
    At(Uri),
}

#[derive(Debug, Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OneError {
    code: String,
    message: String,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config: Arc::new(config),
        }
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// # Errors
    /// A mirror is not written as one.
    pub fn session(
        &self,
        reference: &Reference,
        credentials: Credentials,
        access: Access,
    ) -> Result<Session, Error> {
        let domain = reference.domain();
        let mut session = self.at(domain, credentials, access);
        let full = reference.repository();
        let path = full.strip_prefix(domain).unwrap_or(&full);
        path.trim_start_matches('/')
            .clone_into(&mut session.repository);
        let mirrors = self.config.mirrors.get(domain);
        if let (Some(mirrors), Access::Pull) = (mirrors, access) {
            let all = mirrors.iter().map(|m| mirror(m));
            let mut all = all.collect::<Result<Vec<_>, _>>()?;
            all.append(&mut session.endpoints);
            session.endpoints = all;
        }
        Ok(session)
    }

    /// Whether a registry lets somebody in.
    ///
    /// # Errors
    /// It does not, or does not answer.
    pub async fn log_in(&self, registry: &str, credentials: Credentials) -> Result<(), Error> {
        let host = registry
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        let domain = match host {
            "" | "index.docker.io" => DEFAULT_DOMAIN,
            host => host,
        };
        let session = self.at(domain, credentials, Access::Pull);
        let endpoint = session.endpoints.first();
        let endpoint = endpoint.ok_or_else(|| Error::Config("no registry".to_owned()))?;
        let call = Call::new(Method::GET, session.uri(endpoint, "").await?);
        session.call(endpoint, call).await.map(drop)
    }

    fn at(&self, domain: &str, credentials: Credentials, access: Access) -> Session {
        let host = match domain {
            DEFAULT_DOMAIN => DEFAULT_HOST,
            host => host,
        };
        Session {
            transport: Transport::new(Arc::clone(&self.config)),
            endpoints: vec![Endpoint::new(host, None, false)],
            repository: String::new(),
            credentials,
            access,
            also: None,
        }
    }
}

/// # Errors
/// Says how a mirror is written.
pub fn check_mirror(text: &str) -> Result<(), Error> {
    mirror(text).map(drop)
}

/// `https://host[:port]`
fn mirror(text: &str) -> Result<Endpoint, Error> {
    let wrong = || Error::Config(format!("the mirror {text:?} is not http[s]://host[:port]"));
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let scheme = match uri.scheme_str() {
        Some("https") => "https",
        Some("http") => "http",
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    if uri.path().len() > 1 {
        return Err(wrong());
    }
    Ok(Endpoint::new(authority.as_str(), Some(scheme), true))
}

impl Endpoint {
    fn new(authority: &str, scheme: Option<&'static str>, is_mirror: bool) -> Self {
        Self {
            authority: authority.to_owned(),
            scheme: Mutex::new(scheme),
            known: Mutex::default(),
            is_mirror,
        }
    }
}

impl Session {
    /// As a name of users, for messages.
    fn shown(&self) -> &str {
        &self.repository
    }

    /// Blobs of this repository are wanted too.
    #[must_use]
    pub fn mounting_from(mut self, repository: Option<String>) -> Self {
        self.also = repository;
        self
    }

    /// TLS, or where a registry may do without it and has none, none.
    async fn scheme(&self, endpoint: &Endpoint) -> Result<&'static str, Error> {
        if let Some(known) = *lock(&endpoint.scheme) {
            return Ok(known);
        }
        let mut scheme = "https";
        if self.transport.config.is_insecure(&endpoint.authority) {
            let uri = uri_of("https", &endpoint.authority, "/v2/")?;
            let call = Call::new(Method::GET, uri);
            if self.transport.send(&call).await.is_err() {
                scheme = "http";
            }
        }
        *lock(&endpoint.scheme) = Some(scheme);
        Ok(scheme)
    }

    async fn uri(&self, endpoint: &Endpoint, rest: &str) -> Result<Uri, Error> {
        let scheme = self.scheme(endpoint).await?;
        let path = match rest {
            "" => "/v2/".to_owned(),
            rest => format!("/v2/{}/{rest}", self.repository),
        };
        uri_of(scheme, &endpoint.authority, &path)
    }

    /// Asks mirrors in turn, then the registry: the first that has it.
    async fn ask(
        &self,
        make: impl Fn(Uri) -> Result<Call, Error>,
        rest: &str,
    ) -> Result<(usize, Response<Incoming>), Error> {
        let mut last = None;
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let asked = async {
                let call = make(self.uri(endpoint, rest).await?)?;
                self.call(endpoint, call).await
            };
            match asked.await {
                Ok(response) => return Ok((at, response)),
                Err(error) => {
                    if endpoint.is_mirror {
                        tracing::info!(mirror = endpoint.authority, %error, "the next is asked");
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Config("no registry".to_owned())))
    }

    /// Until it is answered: with a token where one is wanted, again where that may help.
    async fn call(&self, endpoint: &Endpoint, call: Call) -> Result<Response<Incoming>, Error> {
        let mut failures = 0;
        let mut told = false;
        loop {
            let mut with = call.clone();
            let known = lock(&endpoint.known).clone();
            if let Some(value) = known {
                with = with.header(AUTHORIZATION, &value)?;
            }
            let pause = match self.transport.send(&with).await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !told => {
                    told = true;
                    self.authenticate(endpoint, response).await?;
                    continue;
                }
                Ok(response) if response.status().as_u16() < 400 => return Ok(response),
                Ok(response) => {
                    let wait = retry_after(&response);
                    let error = refusal(response).await;
                    if failures + 1 >= TRIES || !error.is_passing() {
                        return Err(error);
                    }
                    wait
                }
                Err(error) if failures + 1 >= TRIES || !error.is_passing() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "tried again");
                    None
                }
            };
            let own = FIRST_PAUSE * 2_u32.pow(failures);
            tokio::time::sleep(pause.unwrap_or(own).min(LONGEST_PAUSE)).await;
            failures += 1;
        }
    }

    /// Learns what to tell with the next call.
    async fn authenticate(
        &self,
        endpoint: &Endpoint,
        response: Response<Incoming>,
    ) -> Result<(), Error> {
        let all = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> = all
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        // a mirror is somebody else: it is not told who we are to the registry
        let nobody = Credentials::default();
        let who = if endpoint.is_mirror {
            &nobody
        } else {
            &self.credentials
        };
        let bearer = challenges.iter().find_map(|c| match c {
            Challenge::Bearer { realm, service, .. } => Some((realm.clone(), service.clone())),
            Challenge::Basic => None,
        });
        let value = match bearer {
            Some(_) if !who.registry_token.is_empty() => format!("Bearer {}", who.registry_token),
            Some((realm, service)) => {
                let token = self.token(endpoint, who, &realm, service.as_deref());
                format!("Bearer {}", token.await?)
            }
            None if challenges.contains(&Challenge::Basic) && !who.user.is_empty() => basic(who),
            None => {
                let error = refusal(response).await;
                return Err(Error::Unauthorized(error.to_string()));
            }
        };
        *lock(&endpoint.known) = Some(value);
        Ok(())
    }

    fn scopes(&self) -> Vec<String> {
        if self.repository.is_empty() {
            return Vec::new();
        }
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let mut all = vec![format!("repository:{}:{actions}", self.repository)];
        all.extend(self.also.iter().map(|r| format!("repository:{r}:pull")));
        all
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        who: &Credentials,
        realm: &str,
        service: Option<&str>,
    ) -> Result<String, Error> {
        let wrong = || {
            Error::Protocol(format!(
                "{}: its realm {realm:?} is no address",
                endpoint.authority
            ))
        };
        let base: Uri = realm.parse().map_err(|_| wrong())?;
        let secure = self.scheme(endpoint).await? == "https";
        if base.scheme_str() != Some("https") && (secure || base.scheme_str() != Some("http")) {
            return Err(Error::Protocol(format!(
                "{}: its tokens are had at {realm:?}, which is not secure",
                endpoint.authority
            )));
        }
        let mut query: Vec<(&str, String)> = vec![("client_id", "plimsoll".to_owned())];
        query.extend(service.map(|s| ("service", s.to_owned())));
        let scopes = self.scopes();
        let call = if who.identity_token.is_empty() {
            query.extend(scopes.into_iter().map(|s| ("scope", s)));
            if !who.user.is_empty() {
                query.push(("account", who.user.clone()));
            }
            let joint = if realm.contains('?') { '&' } else { '?' };
            let uri = format!("{realm}{joint}{}", form(&query));
            let call = Call::new(Method::GET, uri.parse().map_err(|_| wrong())?);
            match who.user.is_empty() {
                true => call,
                false => call.header(AUTHORIZATION, &basic(who))?,
            }
        } else {
            query.push(("grant_type", "refresh_token".to_owned()));
            query.push(("refresh_token", who.identity_token.clone()));
            query.push(("scope", scopes.join(" ")));
            let mut call = Call::new(Method::POST, base);
            call.body = form(&query).into();
            call.header(CONTENT_TYPE, "application/x-www-form-urlencoded")?
        };
        let response = self.transport.send(&call).await?;
        if !response.status().is_success() {
            let error = refusal(response).await;
            return Err(Error::Unauthorized(error.to_string()));
        }
        let bytes = read(response, MOST_TOKEN, "a token").await?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Protocol(format!("the token of {realm}: {e}")))?;
        let token = [token.token, token.access_token]
            .into_iter()
            .find(|t| !t.is_empty());
        token.ok_or_else(|| Error::Protocol(format!("{realm} answers without a token")))
    }

    // ---- what is asked for

    /// A manifest or an index, by tag or digest.
    ///
    /// # Errors
    /// There is none, it is longer than [`manifest::MOST`], or not what its digest says.
    pub async fn manifest(&self, reference: &str) -> Result<Fetched, Error> {
        let rest = format!("manifests/{reference}");
        let make = |uri| Call::new(Method::GET, uri).header(ACCEPT, &manifest::accepted());
        let (_, response) = self.ask(make, &rest).await?;
        let header = |name: HeaderName| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let (told, kind) = (header(DIGEST), header(CONTENT_TYPE));
        let bytes = read(response, manifest::MOST, "a manifest").await?;
        let found = manifest::digest(&bytes);
        let wanted = match reference.starts_with("sha256:") {
            true => Some(reference.to_owned()),
            // of a tag the registry says itself; by another algorithm than ours it is not compared
            false => told.filter(|d| d.starts_with("sha256:")),
        };
        if let Some(wanted) = wanted.filter(|w| *w != found) {
            return Err(Error::Digest {
                what: format!("the manifest {reference} of {}", self.shown()),
                wanted,
                found,
            });
        }
        let kind = kind.unwrap_or_default();
        Ok(Fetched {
            bytes,
            media_type: kind.split(';').next().unwrap_or_default().trim().to_owned(),
            digest: found,
        })
    }

    /// A small blob as a whole.
    ///
    /// # Errors
    /// There is none, it is longer than `most`, or not what its digest says.
    pub async fn small_blob(&self, digest: &str, most: usize) -> Result<Vec<u8>, Error> {
        let blob = self.blob(digest, 0).await?;
        let mut blob = blob;
        let mut bytes = Vec::new();
        while let Some(piece) = blob.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > most {
                return Err(Error::Protocol(format!(
                    "{digest} is longer than {most} bytes"
                )));
            }
        }
        let found = manifest::digest(&bytes);
        if found == digest {
            return Ok(bytes);
        }
        Err(Error::Digest {
            what: format!("a blob of {}", self.shown()),
            wanted: digest.to_owned(),
            found,
        })
    }

    /// A blob from an offset on, or from its beginning where the registry knows no ranges. What comes is
    /// not verified.
    ///
    /// # Errors
    /// There is none, or the registry does not answer.
    pub async fn blob(&self, digest: &str, offset: u64) -> Result<Blob, Error> {
        let rest = format!("blobs/{digest}");
        let make = |uri| {
            let call = Call::new(Method::GET, uri);
            match offset {
                0 => Ok(call),
                offset => call.header(RANGE, &format!("bytes={offset}-")),
            }
        };
        let (at, response) = match self.ask(make, &rest).await {
            // it has less than we do: what we have is wrong
            Err(Error::Refused { status: 416, .. }) => {
                self.ask(|uri| Ok(Call::new(Method::GET, uri)), &rest)
                    .await?
            }
            other => other?,
        };
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE);
                let range = range.and_then(|v| v.to_str().ok());
                range.and_then(range_start).unwrap_or(offset)
            }
            _ => 0,
        };
        if begins > offset {
            return Err(Error::Protocol(format!(
                "{digest} was asked for from {offset} on and comes from {begins} on"
            )));
        }
        Ok(Blob {
            offset: begins,
            host: self
                .endpoints
                .get(at)
                .map_or_else(String::new, |e| e.authority.clone()),
            body: response.into_body(),
        })
    }

    fn origin(&self) -> Result<&Endpoint, Error> {
        let last = self.endpoints.last();
        last.ok_or_else(|| Error::Config("no registry".to_owned()))
    }

    /// # Errors
    /// The registry does not answer, or does not say.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, Error> {
        let endpoint = self.origin()?;
        let uri = self.uri(endpoint, &format!("blobs/{digest}")).await?;
        match self.call(endpoint, Call::new(Method::HEAD, uri)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins an upload; where the blob is in the other repository, none is needed.
    ///
    /// # Errors
    /// The registry refuses.
    pub async fn begin(&self, digest: &str) -> Result<Upload, Error> {
        let endpoint = self.origin()?;
        let rest = match &self.also {
            Some(other) => format!("blobs/uploads/?mount={digest}&from={}", escape(other)),
            None => "blobs/uploads/".to_owned(),
        };
        let uri = self.uri(endpoint, &rest).await?;
        let response = self
            .call(endpoint, Call::new(Method::POST, uri.clone()))
            .await?;
        match response.status() {
            StatusCode::CREATED => Ok(Upload::Mounted),
            _ => location(&uri, &response).map(Upload::At),
        }
    }

    /// Sends one piece of an upload and answers where the next goes.
    ///
    /// # Errors
    /// The registry refuses.
    pub async fn send(&self, at: &Uri, offset: u64, piece: Bytes) -> Result<Uri, Error> {
        let end = offset + piece.len() as u64;
        let mut call = Call::new(Method::PATCH, at.clone())
            .header(CONTENT_TYPE, "application/octet-stream")?
            .header(
                CONTENT_RANGE,
                &format!("{offset}-{}", end.saturating_sub(1)),
            )?;
        call.body = piece;
        let response = self.call(self.origin()?, call).await?;
        location(at, &response)
    }

    /// How many bytes an upload has, and where it goes on.
    ///
    /// # Errors
    /// The registry knows nothing of it.
    pub async fn upload_state(&self, at: &Uri) -> Result<(u64, Uri), Error> {
        let response = self
            .call(self.origin()?, Call::new(Method::GET, at.clone()))
            .await?;
        let range = response.headers().get(RANGE).and_then(|v| v.to_str().ok());
        let end = range.and_then(|r| r.rsplit_once('-')?.1.parse::<u64>().ok());
        let next = location(at, &response).unwrap_or_else(|_| at.clone());
        Ok((end.map_or(0, |e| e + u64::from(e > 0)), next))
    }

    /// Ends an upload: the registry compares the digest.
    ///
    /// # Errors
    /// The registry refuses.
    pub async fn finish(&self, at: &Uri, digest: &str) -> Result<(), Error> {
        let joint = if at.query().is_some() { '&' } else { '?' };
        let uri = format!("{at}{joint}digest={digest}");
        let uri = uri
            .parse()
            .map_err(|_| Error::Protocol(format!("{at} is no address of an upload")))?;
        let call = Call::new(Method::PUT, uri);
        self.call(self.origin()?, call).await.map(drop)
    }

    /// Puts a manifest under a tag or its digest; answers the digest that the registry has it by.
    ///
    /// # Errors
    /// The registry refuses: a blob is not there, or it may not be.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<String, Error> {
        let endpoint = self.origin()?;
        let uri = self
            .uri(endpoint, &format!("manifests/{reference}"))
            .await?;
        let digest = manifest::digest(&bytes);
        let mut call = Call::new(Method::PUT, uri).header(CONTENT_TYPE, media_type)?;
        call.body = bytes.into();
        self.call(endpoint, call).await?;
        Ok(digest)
    }

    /// Bytes of a piece of an upload.
    #[must_use]
    pub fn piece() -> u64 {
        PIECE
    }
}

impl Blob {
    /// What comes next; absent: that was all.
    ///
    /// # Errors
    /// The connection broke, or nothing came for long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(Error::Connect {
                        host: self.host.clone(),
                        what: error.to_string(),
                    });
                }
                Err(_) => {
                    return Err(Error::Timeout {
                        host: self.host.clone(),
                        what: "more of a blob",
                        seconds: SILENCE.as_secs(),
                    });
                }
            };
            // trailers say nothing here
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

fn uri_of(scheme: &str, authority: &str, path: &str) -> Result<Uri, Error> {
    format!("{scheme}://{authority}{path}")
        .parse()
        .map_err(|_| Error::Config(format!("{authority:?} is no name of a registry")))
}

fn basic(who: &Credentials) -> String {
    let pair = format!("{}:{}", who.user, who.password);
    format!("Basic {}", api::base64::encode(pair.as_bytes()))
}

/// As in a query or a form. source: RFC 3986 2.1
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn form(pairs: &[(&str, String)]) -> String {
    let all = pairs.iter().map(|(k, v)| format!("{k}={}", escape(v)));
    all.collect::<Vec<_>>().join("&")
}

/// `bytes 100-199/200`
fn range_start(value: &str) -> Option<u64> {
    let range = value.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.trim().parse().ok()
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

async fn read(
    response: Response<Incoming>,
    most: usize,
    what: &'static str,
) -> Result<Vec<u8>, Error> {
    let mut blob = Blob {
        offset: 0,
        host: "the registry".to_owned(),
        body: response.into_body(),
    };
    let mut bytes = Vec::new();
    while let Some(piece) = blob.next().await? {
        if bytes.len() + piece.len() > most {
            return Err(Error::Protocol(format!(
                "{what} is longer than {most} bytes"
            )));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// In the registry's own words.
async fn refusal(response: Response<Incoming>) -> Error {
    let status = response.status();
    let bytes = read(response, MOST_ERROR, "an error")
        .await
        .unwrap_or_default();
    let errors: Errors = serde_json::from_slice(&bytes).unwrap_or_default();
    let said: Vec<String> = errors
        .errors
        .iter()
        .map(|e| {
            let code = e.code.to_lowercase().replace('_', " ");
            format!("{code}: {}", e.message)
        })
        .collect();
    let message = match said.is_empty() {
        true => format!("the registry answers {status}"),
        false => said.join("; "),
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unauthorized(message),
        status => Error::Refused {
            status: status.as_u16(),
            message,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_words_of_http() {
        assert_eq!(range_start("bytes 100-199/200"), Some(100));
        assert_eq!(range_start("bytes */200"), None);
        let pairs = [("scope", "repository:a/b:pull,push".to_owned())];
        assert_eq!(form(&pairs), "scope=repository%3Aa%2Fb%3Apull%2Cpush");
        assert!(mirror("https://m.test:5000/").is_ok());
        for wrong in ["m.test", "ftp://m.test", "https://m.test/path", ""] {
            assert!(mirror(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_without_a_registry_have_the_default_one() {
        let client = Client::new(Config::default());
        let reference = Reference::parse("busybox").unwrap();
        let session = client
            .session(&reference, Credentials::default(), Access::Pull)
            .unwrap();
        assert_eq!(session.repository, "library/busybox");
        assert_eq!(session.endpoints[0].authority, DEFAULT_HOST);
        assert_eq!(session.scopes(), ["repository:library/busybox:pull"]);
    }
}
