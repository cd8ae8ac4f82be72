//! Authorization plugins: programs of the operator's that are asked about each request.
//!
//! The protocol is Docker's (docs.docker.com/engine/extend/plugins_authorization), so that its plugins can be used:
//! HTTP on a unix socket `/run/docker/plugins/NAME.sock`, or one that a file `NAME.spec` names.
//! `/AuthZPlugin.AuthZReq` before the request is carried out, `/AuthZPlugin.AuthZRes` before its answer goes out.
//!
//! A plugin that is not there, answers wrongly or late refuses: nothing passes unasked. A body of JSON is always shown
//! whole; what can't be shown whole is refused (CVE-2024-41110: a plugin that saw no body let through what the engine
//! then read). Files and archives are not shown, as with dockerd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::answer::Body;
use super::call::Upload;
use super::failure::Failure;
use super::peer::Peer;

/// Where plugins are looked for, first to last.
const SOCKETS: [&str; 2] = ["/run/docker/plugins", "/run/plimsoll/plugins"];
const SPECS: [&str; 3] = [
    "/etc/docker/plugins",
    "/usr/lib/docker/plugins",
    "/etc/plimsoll/plugins",
];
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: usize = 1024 * 1024;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question {
    user: String,
    #[serde(rename = "UserAuthNMethod")]
    user_authn_method: &'static str,
    request_method: String,
    #[serde(rename = "RequestUri")]
    request_uri: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    request_body: String,
    request_headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request_peer_certificates: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status_code: Option<u16>,
    #[serde(skip_serializing_if = "String::is_empty")]
    response_body: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    response_headers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Verdict {
    allow: bool,
    msg: String,
    err: String,
}

/// The questions that one request leads to.
#[derive(Debug)]
pub(super) struct Asked {
    plugins: Vec<String>,
    question: Question,
}

/// Why it is refused, and by which plugin.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) plugin: String,
    pub(super) failure: Failure,
}

impl Asked {
    /// Asks all about a request, whose body is in memory then if it is JSON.
    pub(super) async fn before(
        plugins: &[String],
        peer: &Peer,
        request: &mut Request<Upload>,
    ) -> Result<Self, Refusal> {
        let body = match shown_body(request).await {
            Ok(body) => body,
            Err(failure) => {
                let plugin = plugins.first().cloned().unwrap_or_default();
                return Err(Refusal { plugin, failure });
            }
        };
        let (user, certificates) = match peer {
            Peer::Local { .. } => (None, &[][..]),
            Peer::Remote {
                user, certificates, ..
            } => (user.clone(), &**certificates),
        };
        let asked = Self {
            plugins: plugins.to_vec(),
            question: Question {
                user_authn_method: if user.is_some() { "TLS" } else { "" },
                user: user.unwrap_or_default(),
                // see `hijack`
                request_method: match *request.method() {
                    Method::CONNECT => "POST".to_owned(),
                    ref other => other.to_string(),
                },
                request_uri: request.uri().to_string(),
                request_body: api::base64::encode(&body),
                request_headers: headers(request.headers()),
                request_peer_certificates: certificates.iter().map(|c| pem(c)).collect(),
                response_status_code: None,
                response_body: String::new(),
                response_headers: BTreeMap::new(),
            },
        };
        asked.ask("/AuthZPlugin.AuthZReq").await?;
        Ok(asked)
    }

    /// The same with its answer. The last plugin is asked first, as with dockerd.
    pub(super) fn answered(mut self, response: &Response<Body>) -> Self {
        self.plugins.reverse();
        self.question.response_status_code = Some(response.status().as_u16());
        self.question.response_headers = headers(response.headers());
        if let Body::Full(bytes) = response.body() {
            self.question.response_body = api::base64::encode(bytes);
        }
        self
    }

    /// Asks all again, about the answer.
    pub(super) async fn after(self) -> Result<(), Refusal> {
        self.ask("/AuthZPlugin.AuthZRes").await
    }

    async fn ask(&self, path: &'static str) -> Result<(), Refusal> {
        for plugin in &self.plugins {
            let refusal = |status, text| Refusal {
                plugin: plugin.clone(),
                failure: Failure::new(status, text),
            };
            let failed = |why: String| {
                let text = format!("plugin {plugin} failed with error: {why}");
                refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
            };
            let answer = tokio::time::timeout(PATIENCE, call(plugin, path, &self.question)).await;
            let verdict = match answer {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(why)) => return Err(failed(why)),
                Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
            };
            if !verdict.err.is_empty() {
                return Err(failed(verdict.err));
            }
            if !verdict.allow {
                let text = format!("authorization denied by plugin {plugin}: {}", verdict.msg);
                return Err(refusal(StatusCode::FORBIDDEN, text));
            }
        }
        Ok(())
    }
}

/// What a plugin is shown of the body: the whole where it is JSON.
async fn shown_body(request: &mut Request<Upload>) -> Result<Bytes, Failure> {
    let kind = request.headers().get(CONTENT_TYPE);
    let json = kind.is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if !json {
        return Ok(Bytes::new());
    }
    // passwords
    let secret = request.uri().path().ends_with("/auth");
    let bytes = request.body_mut().peek().await?;
    Ok(if secret { Bytes::new() } else { bytes })
}

/// Without those that hold secrets.
fn headers(all: &HeaderMap) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for (name, value) in all {
        let name = name.as_str();
        if matches!(
            name,
            "authorization" | "x-registry-auth" | "x-registry-config"
        ) {
            continue;
        }
        out.insert(
            canonical(name),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        );
    }
    out
}

/// `content-type` as `Content-Type`: plugins in Go know no other.
fn canonical(name: &str) -> String {
    let mut upper = true;
    let letters = name.chars().map(|c| {
        let out = if upper { c.to_ascii_uppercase() } else { c };
        upper = c == '-';
        out
    });
    letters.collect()
}

fn pem(der: &[u8]) -> String {
    let text = api::base64::encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|b| char::from(*b)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

async fn call(plugin: &str, path: &'static str, question: &Question) -> Result<Verdict, String> {
    let socket = find(plugin)?;
    let told = |e: &dyn std::error::Error| format!("{}: {}", socket.display(), crate::chain(e));
    let stream = UnixStream::connect(&socket).await.map_err(|e| told(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| told(&e))?;
    let driven = tokio::spawn(connection);
    let body = serde_json::to_vec(question).map_err(|e| told(&e))?;
    let request = Request::post(path)
        .header(HOST, "plugin")
        .header(CONTENT_TYPE, "application/vnd.docker.plugins.v1.1+json")
        .header("Accept", "application/vnd.docker.plugins.v1.1+json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| told(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| told(&e))?;
    let status = answer.status();
    let read = Limited::new(answer.into_body(), ANSWER_LIMIT)
        .collect()
        .await;
    driven.abort();
    let bytes = read
        .map_err(|e| format!("{}: {e}", socket.display()))?
        .to_bytes();
    if status != StatusCode::OK {
        return Err(format!("{}: status {status}", socket.display()));
    }
    serde_json::from_slice(&bytes).map_err(|e| told(&e))
}

fn find(plugin: &str) -> Result<PathBuf, String> {
    for dir in SOCKETS {
        let beside = Path::new(dir).join(format!("{plugin}.sock"));
        let within = Path::new(dir).join(plugin).join(format!("{plugin}.sock"));
        if let Some(found) = [beside, within].into_iter().find(|p| p.exists()) {
            return Ok(found);
        }
    }
    for dir in SPECS {
        let spec = Path::new(dir).join(format!("{plugin}.spec"));
        let Ok(text) = std::fs::read_to_string(&spec) else {
            continue;
        };
        return match text.trim().strip_prefix("unix://") {
            Some(path) => Ok(PathBuf::from(path)),
            None => Err(format!("{}: only unix:///path is built", spec.display())),
        };
    }
    Err(format!("no socket {}/{plugin}.sock", SOCKETS[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_protocol() {
        assert_eq!(canonical("content-type"), "Content-Type");
        assert_eq!(canonical("x-a-b"), "X-A-B");
        let mut all = HeaderMap::new();
        all.insert("x-registry-auth", "secret".parse().unwrap());
        all.insert("user-agent", "docker".parse().unwrap());
        let shown = headers(&all);
        assert_eq!(shown.len(), 1);
        assert_eq!(shown["User-Agent"], "docker");
        let text = pem(&[1; 60]);
        assert!(
            text.starts_with("-----BEGIN CERTIFICATE-----\nAQEB"),
            "{text}"
        );
        assert!(text.lines().all(|l| l.len() <= 64), "{text}");
        let verdict: Verdict = serde_json::from_str(r#"{"Allow":true}"#).unwrap();
        assert!(verdict.allow && verdict.err.is_empty());
    }
}
