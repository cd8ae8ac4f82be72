//! TLS of the API: certificates of the server and its clients.
//!
//! dockerd's words: `--tls` shows a certificate, `--tlsverify` asks the client for one of the authority
//! `--tlscacert` too. The files are read anew at each SIGHUP, so that certificates are renewed without a
//! restart; what connects before keeps what it had.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Decode;

/// Files in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Clients must show a certificate of the authority.
    pub verify: bool,
    pub authority: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("--tls needs {0}: a file in PEM")]
    Missing(&'static str),
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    #[error("the certificate of {certificate} and the key of {key} can't be used")]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the authority of {path} can't be used")]
    Authority {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is shown to clients now; nothing where the API is served without TLS.
#[derive(Debug, Default)]
pub(crate) struct Tls(ArcSwapOption<Loaded>);

struct Loaded {
    acceptor: TlsAcceptor,
    verify: bool,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// From now on, for connections to come.
    ///
    /// # Errors
    /// Naming the file that is missing or wrong; what was in use stays in use.
    pub(crate) fn load(&self, settings: Option<&TlsSettings>) -> Result<(), TlsError> {
        let loaded = settings.map(load).transpose()?;
        self.0.store(loaded.map(Arc::new));
        Ok(())
    }

    /// `None`: without TLS.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.load().as_ref().map(|l| l.acceptor.clone())
    }

    /// Whether whoever gets through has shown a certificate.
    pub(crate) fn verifies(&self) -> bool {
        self.0.load().as_ref().is_some_and(|l| l.verify)
    }
}

/// As [`Tls::load`], of what is to be used later.
pub(crate) fn check(settings: &TlsSettings) -> Result<(), TlsError> {
    load(settings).map(drop)
}

fn load(settings: &TlsSettings) -> Result<Loaded, TlsError> {
    let path = |given: &Option<PathBuf>, flag| given.clone().ok_or(TlsError::Missing(flag));
    let certificate = path(&settings.certificate, "--tlscert")?;
    let key = path(&settings.key, "--tlskey")?;
    let chain = certificates(&certificate)?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|source| TlsError::Read {
        path: key.clone(),
        source,
    })?;
    let builder =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| pair(&certificate, &key, source))?;
    let builder = if settings.verify {
        let authority = path(&settings.authority, "--tlscacert")?;
        builder.with_client_cert_verifier(verifier(&authority)?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|source| pair(&certificate, &key, source))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        verify: settings.verify,
    })
}

fn pair(certificate: &Path, key: &Path, source: rustls::Error) -> TlsError {
    TlsError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let all = CertificateDer::pem_file_iter(path).map_err(read)?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(read)?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(all)
}

fn verifier(path: &Path) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| TlsError::Authority {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| wrong(e.into()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| wrong(e.into()))
}

/// Who a certificate says that one is: its common name, else the whole subject.
pub(crate) fn subject(certificate: &[u8]) -> io::Result<String> {
    let parsed = x509_cert::Certificate::from_der(certificate).map_err(io::Error::other)?;
    let subject = parsed.tbs_certificate().subject();
    let common = subject.common_name().map_err(io::Error::other)?;
    Ok(common.map_or_else(|| subject.to_string(), |name| name.value().into_owned()))
}
