//! Connections to registries: certificates by registry, deadlines, redirects.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{Config, Error};

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

const CONNECT: Duration = Duration::from_secs(10);
/// Until the head of an answer is there.
const ANSWER: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 5;
const AGENT: &str = concat!("plimsoll/", env!("CARGO_PKG_VERSION"));

type Client = HttpClient<HttpsConnector<HttpConnector>, Body>;

pub(crate) struct Transport {
    pub(crate) config: Arc<Config>,
    provider: Arc<CryptoProvider>,
    /// By `host[:port]`: each has certificates of its own.
    clients: Mutex<HashMap<String, Client>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

pub(crate) fn nothing() -> Body {
    Empty::new().boxed()
}

pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).boxed()
}

/// What is asked for, to be sent as often as it takes.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: Vec<(hyper::header::HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn new(method: Method, uri: Uri) -> Self {
        Self {
            method,
            uri,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn header(
        mut self,
        name: hyper::header::HeaderName,
        value: &str,
    ) -> Result<Self, Error> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::Protocol(format!("{name} can't be {value:?}")))?;
        self.headers.push((name, value));
        Ok(self)
    }
}

impl Transport {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            clients: Mutex::default(),
        }
    }

    /// One try, and what it leads to. Who we are is told to nobody but whom it was for.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response<Incoming>, Error> {
        let mut call = call.clone();
        for _ in 0..=MOST_REDIRECTS {
            let response = self.once(&call).await?;
            let moved = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !moved || !matches!(call.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            let to = location(&call.uri, &response)?;
            if call.uri.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
                return Err(Error::Protocol(format!(
                    "{} redirects to {to}, which is not secure",
                    call.uri
                )));
            }
            if to.authority() != call.uri.authority() {
                call.headers.retain(|(name, _)| name != AUTHORIZATION);
            }
            call.uri = to;
        }
        Err(Error::Protocol(format!(
            "{} redirects more than {MOST_REDIRECTS} times",
            call.uri
        )))
    }

    async fn once(&self, call: &Call) -> Result<Response<Incoming>, Error> {
        let authority = call.uri.authority().map(ToString::to_string);
        let authority = authority.unwrap_or_default();
        let client = self.client(&authority)?;
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.uri.clone())
            .header(USER_AGENT, AGENT)
            .header(HOST, authority.as_str());
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let body = if call.body.is_empty() {
            nothing()
        } else {
            whole(call.body.clone())
        };
        let request = request
            .body(body)
            .map_err(|e| Error::Protocol(format!("{}: {e}", call.uri)))?;
        match tokio::time::timeout(ANSWER, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Error::Connect {
                host: authority,
                what: chain(&error),
            }),
            Err(_) => Err(Error::Timeout {
                host: authority,
                what: "an answer",
                seconds: ANSWER.as_secs(),
            }),
        }
    }

    fn client(&self, authority: &str) -> Result<Client, Error> {
        let lock = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = lock().get(authority) {
            return Ok(client.clone());
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls(authority)?)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(http);
        let client = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        lock().insert(authority.to_owned(), client.clone());
        Ok(client)
    }

    fn tls(&self, authority: &str) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Config(format!("TLS: {e}")))?;
        let own = Own::read(&self.config.certificates, authority)?;
        let builder = if self.config.is_insecure(authority) {
            let trusting = Arc::new(Trusting(Arc::clone(&self.provider)));
            builder
                .dangerous()
                .with_custom_certificate_verifier(trusting)
        } else {
            builder.with_root_certificates(own.authorities)
        };
        match own.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((certificates, key)) => builder
                .with_client_auth_cert(certificates, key)
                .map_err(|e| Error::Config(format!("the certificate for {authority}: {e}"))),
        }
    }
}

/// What a redirect or an upload's answer leads to.
pub(crate) fn location(from: &Uri, response: &Response<Incoming>) -> Result<Uri, Error> {
    let wrong = || Error::Protocol(format!("{from} leads nowhere: it has no good Location"));
    let text = response.headers().get(LOCATION).ok_or_else(wrong)?;
    let text = text.to_str().map_err(|_| wrong())?;
    let absolute = text.starts_with("http://") || text.starts_with("https://");
    let text = match (absolute, text.starts_with('/')) {
        (true, _) => text.to_owned(),
        (false, true) => format!(
            "{}://{}{text}",
            from.scheme_str().unwrap_or("https"),
            from.authority().map_or("", |a| a.as_str())
        ),
        (false, false) => return Err(wrong()),
    };
    text.parse().map_err(|_| wrong())
}

/// An error with what caused it: that is where the reason is.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// What is known of one registry's certificates.
struct Own {
    authorities: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Own {
    fn read(directories: &[PathBuf], authority: &str) -> Result<Self, Error> {
        let mut authorities = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        // one that cannot be read costs itself alone
        authorities.add_parsable_certificates(native.certs);
        let mut identity = None;
        for dir in directories {
            let Ok(entries) = std::fs::read_dir(dir.join(authority)) else {
                continue;
            };
            for path in entries.flatten().map(|e| e.path()) {
                match path.extension().and_then(|e| e.to_str()) {
                    Some("crt") => {
                        for certificate in certificates(&path)? {
                            authorities
                                .add(certificate)
                                .map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
                        }
                    }
                    Some("cert") => {
                        let key = path.with_extension("key");
                        let read = PrivateKeyDer::from_pem_file(&key);
                        let key =
                            read.map_err(|e| Error::Config(format!("{}: {e}", key.display())))?;
                        identity = Some((certificates(&path)?, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(Self {
            authorities,
            identity,
        })
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |e: String| Error::Config(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    CertificateDer::pem_reader_iter(BufReader::new(file))
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(e.to_string()))
}

/// For registries that the operator calls insecure.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
