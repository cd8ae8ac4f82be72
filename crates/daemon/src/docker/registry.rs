//! Registries: pull, push, log in, and what one has under a name.

use api::stream::ProgressMessage;
use api::system::{
    AuthConfig, AuthResponse, DistributionDescriptor, DistributionInspect, DistributionPlatform,
};
use engine::{Credentials, Pulled, Pushed};
use hyper::HeaderMap;

use super::answer::{Answer, ok};
use super::call::Call;
use super::failure::Failure;
use super::images::{AsyncWork, watched};

const HEADER: &str = "x-registry-auth";

/// Who asks, by the header; nobody where there is none, or one that can't be read: dockerd does so "to
/// increase compatibility", and its clients send such. A registry that wants to know refuses then.
fn credentials(headers: &HeaderMap) -> Credentials {
    read_header(headers).unwrap_or_else(|wrong| {
        tracing::warn!("a request goes on as nobody's: {}", wrong.message);
        Credentials::default()
    })
}

fn read_header(headers: &HeaderMap) -> Result<Credentials, Failure> {
    let Some(value) = headers.get(HEADER).filter(|v| !v.is_empty()) else {
        return Ok(Credentials::default());
    };
    let wrong = || Failure::invalid("invalid X-Registry-Auth header: not JSON in base64");
    let text = value.to_str().map_err(|_| wrong())?;
    let bytes = api::base64::decode(text).ok_or_else(wrong)?;
    if bytes.is_empty() || bytes == b"null" {
        return Ok(Credentials::default());
    }
    let auth: AuthConfig = api::decode(&bytes).map_err(|_| wrong())?;
    of(auth)
}

pub(super) fn of(auth: AuthConfig) -> Result<Credentials, Failure> {
    let mut out = Credentials {
        user: auth.username,
        password: auth.password,
        identity_token: auth.identitytoken,
        registry_token: auth.registrytoken,
    };
    if out.user.is_empty() && !auth.auth.is_empty() {
        let wrong = || Failure::invalid("invalid auth: not user:password in base64");
        let pair = api::base64::decode(&auth.auth).ok_or_else(wrong)?;
        let pair = String::from_utf8(pair).map_err(|_| wrong())?;
        let (user, password) = pair.split_once(':').ok_or_else(wrong)?;
        (out.user, out.password) = (user.to_owned(), password.to_owned());
    }
    Ok(out)
}

/// A repository with a tag or digest that comes beside it.
fn joined(image: &str, tag: Option<&str>) -> String {
    match tag {
        Some(digest) if digest.contains(':') => format!("{image}@{digest}"),
        Some(tag) => format!("{image}:{tag}"),
        None => image.to_owned(),
    }
}

struct Pull {
    reference: String,
    platform: Option<String>,
    credentials: Credentials,
}

impl AsyncWork<Pulled> for Pull {
    async fn run(
        self,
        engine: engine::Engine,
        _: engine::pipe::ChannelReader,
        progress: Option<engine::ProgressSender>,
    ) -> Result<Pulled, engine::Error> {
        let platform = self.platform.as_deref();
        engine
            .pull(&self.reference, platform, self.credentials, progress)
            .await
    }
}

fn status(text: String) -> ProgressMessage {
    ProgressMessage {
        status: text,
        ..ProgressMessage::default()
    }
}

pub(super) async fn pull(call: Call, image: &str) -> Answer {
    let tag = call.query.text("tag");
    let pull = Pull {
        reference: joined(image, tag),
        platform: call.query.text("platform").map(str::to_owned),
        credentials: credentials(call.request.headers()),
    };
    watched(call, false, pull, |pulled: Pulled| {
        let what = if pulled.is_newer {
            "Downloaded newer image"
        } else {
            "Image is up to date"
        };
        vec![
            status(format!("Digest: {}", pulled.digest)),
            status(format!("Status: {what} for {}", pulled.name)),
        ]
    })
    .await
}

struct Push {
    reference: String,
    credentials: Credentials,
}

impl AsyncWork<Pushed> for Push {
    async fn run(
        self,
        engine: engine::Engine,
        _: engine::pipe::ChannelReader,
        progress: Option<engine::ProgressSender>,
    ) -> Result<Pushed, engine::Error> {
        engine
            .push(&self.reference, self.credentials, progress)
            .await
    }
}

pub(super) async fn push(call: Call) -> Answer {
    if call.query.text("platform").is_some() {
        return Err(Failure::not_built("push of one platform"));
    }
    let push = Push {
        reference: joined(&call.param, call.query.text("tag")),
        credentials: credentials(call.request.headers()),
    };
    watched(call, false, push, |pushed: Pushed| {
        let (tag, digest, size) = (pushed.tag, pushed.digest, pushed.size);
        let aux = serde_json::json!({"Tag": tag, "Digest": digest, "Size": size});
        vec![
            status(format!("{tag}: digest: {digest} size: {size}")),
            ProgressMessage {
                aux: Some(aux),
                ..ProgressMessage::default()
            },
        ]
    })
    .await
}

pub(super) async fn log_in(mut call: Call) -> Answer {
    let auth: AuthConfig = call.json_or_default().await?;
    let registry = auth.serveraddress.clone();
    let engine = call.engine().clone();
    engine.log_in(&registry, of(auth)?).await?;
    ok(&AuthResponse {
        status: "Login Succeeded".to_owned(),
        identity_token: String::new(),
    })
}

pub(super) async fn distribution(call: Call) -> Answer {
    let credentials = credentials(call.request.headers());
    let found = call.engine().distribution(&call.param, credentials).await?;
    ok(&DistributionInspect {
        descriptor: DistributionDescriptor {
            media_type: found.media_type,
            digest: found.digest,
            size: i64::try_from(found.size).unwrap_or(i64::MAX),
        },
        platforms: found
            .platforms
            .into_iter()
            .map(|p| DistributionPlatform {
                architecture: p.architecture,
                os: p.os,
                variant: p.variant,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Result<Credentials, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, header.parse().unwrap());
        let read = read_header(&headers);
        assert_eq!(
            credentials(&headers).is_empty(),
            read.as_ref().map_or(true, Credentials::is_empty)
        );
        read
    }

    #[test]
    fn who_asks_by_the_header() {
        let of = |json: &str| read(&api::base64::encode(json.as_bytes()));
        let who = of(r#"{"username": "a", "password": "b", "serveraddress": "r.test"}"#).unwrap();
        assert_eq!((who.user.as_str(), who.password.as_str()), ("a", "b"));
        let pair = api::base64::encode(b"c:d:e");
        let who = of(&format!(r#"{{"auth": "{pair}"}}"#)).unwrap();
        assert_eq!((who.user.as_str(), who.password.as_str()), ("c", "d:e"));
        // bollard sends what it doesn't have as null
        let who = of(r#"{"username": "a", "password": null, "auth": null}"#).unwrap();
        assert_eq!((who.user.as_str(), who.password.as_str()), ("a", ""));
        for nobody in ["{}", "null"] {
            assert!(of(nobody).unwrap().is_empty(), "{nobody}");
        }
        assert!(read("").unwrap().is_empty());
        for wrong in ["%", "bm9uZQ=="] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let told = format!("{who:?}");
        assert!(!told.contains("d:e"), "{told}");
    }

    #[test]
    fn names_with_what_comes_beside_them() {
        assert_eq!(joined("a/b", Some("1")), "a/b:1");
        assert_eq!(joined("a/b", Some("sha256:00")), "a/b@sha256:00");
        assert_eq!(joined("a/b:2", None), "a/b:2");
    }
}
