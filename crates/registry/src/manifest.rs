//! Manifests and indexes.
//!
//! source: OCI image-spec 1.1 manifest.md, image-index.md; Docker "Image Manifest V2, Schema 2"

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::Error;

/// A manifest or an index may have this many bytes. source: distribution-spec, 4 MiB at least
pub const MOST: usize = 4 << 20;
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What a client asks for.
#[must_use]
pub fn accepted() -> String {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ")
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    pub variant: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub urls: Vec<String>,
    pub annotations: BTreeMap<String, String>,
    pub platform: Option<Platform>,
}

/// A manifest or an index as it came, its digest verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub digest: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Any {
    schema_version: u32,
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// What a document is.
#[derive(Debug, Clone)]
pub enum Document {
    Manifest {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
    Index(Vec<Descriptor>),
}

#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Platform {
    /// That of this host.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            other => (other, ""),
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// `linux/arm64/v8`, `linux/amd64`, `arm64`.
    ///
    /// # Errors
    /// It is not written so.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let fine = |p: &&str| {
            !p.is_empty()
                && p.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let wrong = || {
            Error::Config(format!(
                "invalid platform {text:?}: write os/architecture[/variant], as in linux/arm64"
            ))
        };
        if !parts.iter().all(fine) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux"] => ("linux", Self::host().architecture, ""),
            [architecture] => ("linux", (*architecture).to_owned(), ""),
            [os, architecture] => (*os, (*architecture).to_owned(), ""),
            [os, architecture, variant] => (*os, (*architecture).to_owned(), *variant),
            _ => return Err(wrong()),
        };
        let architecture = match architecture.as_str() {
            "x86_64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            _ => architecture,
        };
        Ok(Self {
            architecture,
            os: os.to_owned(),
            variant: variant.to_owned(),
        })
    }

    /// How well an image for `other` runs here; less is better, absent: not at all.
    fn fits(&self, other: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        match (self.variant.as_str(), other.variant.as_str()) {
            (a, b) if a == b => Some(0),
            ("v8", "") | ("", "v8") if self.architecture == "arm64" => Some(0),
            (_, "") => Some(1),
            ("", _) => Some(2),
            // a later ARM runs what is for an earlier one
            (a, b) if self.architecture == "arm" && b < a => Some(3),
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl Fetched {
    /// # Errors
    /// It is no image's manifest and no index.
    pub fn document(&self) -> Result<Document, Error> {
        let wrong = |what: &str| Error::Protocol(format!("manifest {}: {what}", self.digest));
        if SCHEMA_1.contains(&self.media_type.as_str()) {
            return Err(wrong(
                "it is of schema 1, which is not supported: push the image again with a present tool",
            ));
        }
        let any: Any = serde_json::from_slice(&self.bytes).map_err(|e| wrong(&e.to_string()))?;
        if any.schema_version != 2 {
            return Err(wrong("its schema version is not 2"));
        }
        let kind = if any.media_type.is_empty() {
            self.media_type.as_str()
        } else {
            any.media_type.as_str()
        };
        match (any.manifests, any.config, any.layers) {
            // what says it is both could be taken for either
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                Err(wrong("it is a manifest and an index at once"))
            }
            (Some(list), None, None) if kind != OCI_MANIFEST && kind != DOCKER_MANIFEST => {
                Ok(Document::Index(list))
            }
            (None, Some(config), Some(layers)) if kind != OCI_INDEX && kind != DOCKER_LIST => {
                let image = matches!(config.media_type.as_str(), DOCKER_CONFIG | OCI_CONFIG | "");
                if !image {
                    return Err(wrong(&format!(
                        "it is no image: its configuration is {}",
                        config.media_type
                    )));
                }
                if let Some(foreign) = layers.iter().find(|l| l.media_type.contains("foreign")) {
                    return Err(wrong(&format!(
                        "its layer {} is kept elsewhere (foreign), which is not built",
                        foreign.digest
                    )));
                }
                Ok(Document::Manifest { config, layers })
            }
            _ => Err(wrong("it is neither an image's manifest nor an index")),
        }
    }
}

/// The entry of an index that runs best on a platform.
///
/// # Errors
/// There is none.
pub fn choose<'a>(list: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, Error> {
    let usable = |d: &&Descriptor| !d.annotations.contains_key("vnd.docker.reference.type");
    let score = |d: &'a Descriptor| match &d.platform {
        Some(p) => wanted.fits(p).map(|s| (s, d)),
        // an index of one image may leave it out
        None => Some((9, d)),
    };
    let fitting = list.iter().filter(usable).filter_map(score);
    let best = fitting.min_by_key(|(score, _)| *score).map(|(_, d)| d);
    best.ok_or_else(|| {
        let all = list
            .iter()
            .filter(usable)
            .filter_map(|d| d.platform.as_ref());
        let found: Vec<String> = all.map(ToString::to_string).collect();
        Error::Platform {
            wanted: wanted.to_string(),
            found: found.join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(media_type: &str, text: &str) -> Fetched {
        Fetched {
            bytes: text.as_bytes().to_vec(),
            media_type: media_type.to_owned(),
            digest: "sha256:x".to_owned(),
        }
    }

    #[test]
    fn what_is_both_or_neither_is_refused() {
        for (kind, text) in [
            (
                OCI_INDEX,
                r#"{"schemaVersion": 2, "manifests": [], "layers": [], "config": {}}"#,
            ),
            (OCI_MANIFEST, r#"{"schemaVersion": 2, "manifests": []}"#),
            (
                OCI_INDEX,
                r#"{"schemaVersion": 2, "config": {}, "layers": []}"#,
            ),
            (
                OCI_MANIFEST,
                r#"{"schemaVersion": 1, "config": {}, "layers": []}"#,
            ),
            (
                OCI_MANIFEST,
                r#"{"schemaVersion": 2, "config": {"mediaType": "application/x"}, "layers": []}"#,
            ),
            (SCHEMA_1[1], "{}"),
            (OCI_MANIFEST, "["),
        ] {
            assert!(fetched(kind, text).document().is_err(), "{kind} {text}");
        }
        let text = r#"{"schemaVersion": 2, "config": {}, "layers": []}"#;
        assert!(matches!(
            fetched(DOCKER_MANIFEST, text).document(),
            Ok(Document::Manifest { .. })
        ));
    }

    #[test]
    fn the_platform_that_fits_best() {
        let entry = |text: &str| Descriptor {
            digest: text.to_owned(),
            platform: Some(Platform::parse(text).unwrap()),
            ..Descriptor::default()
        };
        let list: Vec<Descriptor> = [
            "linux/amd64",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64/v8",
            "windows/amd64",
        ]
        .map(entry)
        .to_vec();
        let chosen = |wanted: &str| {
            let wanted = Platform::parse(wanted).unwrap();
            choose(&list, &wanted).map(|d| d.digest.clone())
        };
        assert_eq!(chosen("linux/amd64").unwrap(), "linux/amd64");
        assert_eq!(chosen("aarch64").unwrap(), "linux/arm64/v8");
        assert_eq!(chosen("linux/arm/v7").unwrap(), "linux/arm/v7");
        assert_eq!(chosen("linux/arm/v6").unwrap(), "linux/arm/v6");
        let none = chosen("linux/riscv64").unwrap_err().to_string();
        assert!(
            none.contains("linux/riscv64") && none.contains("linux/amd64"),
            "{none}"
        );
        for wrong in ["", "a/b/c/d", "linux/", "li nux"] {
            assert!(Platform::parse(wrong).is_err(), "{wrong}");
        }
    }
}
