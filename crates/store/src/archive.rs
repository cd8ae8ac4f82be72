//! What the members of an image archive mean.
//!
//! Two forms, often both in one archive:
//! - OCI layout: `index.json` -> descriptors -> `blobs/sha256/<hex>` (manifests, configurations, layers)
//! - docker-archive: `manifest.json` lists configuration, layers and names by member
//!
//! The OCI form wins where both describe an image, because it has the manifest whose digest others
//! know; names of both are taken.
//! source: OCI image-spec 1.1 image-layout.md, image-index.md; Docker image specification 1.2

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::blobs::Staged;
use crate::config::ImageConfig;
use crate::images::{LayerInfo, LoadError, NewImage};
use crate::layers::chain_id;
use crate::reference::{Reference, is_digest};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const LAYER_PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";
pub(crate) const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
/// An index may point to an index, a few times.
const MAX_NESTING: usize = 4;
pub(crate) const MAX_LAYERS: usize = 500;

/// One member of the archive.
#[derive(Debug)]
pub(crate) enum Member {
    /// Kept in memory: it looked like text and is small.
    Document(Vec<u8>),
    /// In staging.
    Blob { digest: String, staged: Arc<Staged> },
    /// Another name of a member.
    Alias(String),
}

/// All members by name.
#[derive(Debug, Default)]
pub(crate) struct Members {
    map: BTreeMap<String, Member>,
}

impl Members {
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// `false`: there is one of that name already.
    pub(crate) fn insert(&mut self, path: String, member: Member) -> bool {
        match self.map.entry(path) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(member);
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    /// The name under which the content is, through links.
    fn real_name<'a>(&'a self, path: &'a str) -> Option<&'a str> {
        let mut path = path;
        for _ in 0..8 {
            match self.map.get(path)? {
                Member::Alias(target) => path = target,
                _ => return Some(path),
            }
        }
        None
    }

    fn get(&self, path: &str) -> Option<&Member> {
        self.map.get(self.real_name(path)?)
    }

    fn document(&self, path: &str) -> Option<&[u8]> {
        match self.get(path)? {
            Member::Document(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn staged(&self) -> impl Iterator<Item = &Arc<Staged>> {
        self.map.values().filter_map(|m| match m {
            Member::Blob { staged, .. } => Some(staged),
            _ => None,
        })
    }

    pub(crate) fn take_staged(&mut self, path: &str) -> Option<Arc<Staged>> {
        match self.map.get(path)? {
            Member::Blob { staged, .. } => Some(Arc::clone(staged)),
            _ => None,
        }
    }
}

/// An image found in the archive.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) new: NewImage,
    /// The manifest's bytes: as received, or made of a docker-archive.
    pub(crate) manifest: Vec<u8>,
    /// Member of each layer, lowest first.
    pub(crate) layer_members: Vec<String>,
    /// The document that describes it, for messages.
    pub(crate) document: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

/// A manifest or an index; which one is told by what it has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyManifest {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// A manifest as we write it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The digest a member's name promises: `blobs/sha256/<hex>`, `<hex>.json`, `<hex>.tar`. In an
/// archive of old, `<hex>/layer.tar` is no promise: that is an id.
pub(crate) fn digest_in_path(path: &str) -> Option<String> {
    let hex = path
        .strip_prefix("blobs/sha256/")
        .or_else(|| path.strip_suffix(".json"))
        .filter(|h| !h.contains('/'))?;
    let digest = format!("sha256:{hex}");
    is_digest(&digest).then_some(digest)
}

/// The bytes of an OCI manifest for these parts.
pub(crate) fn make_manifest(config: &[u8], layers: &[LayerInfo]) -> Vec<u8> {
    let plain = |media_type: &str, digest: String, size: u64| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        annotations: BTreeMap::new(),
        platform: None,
    };
    let manifest = NewManifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: plain(OCI_CONFIG, digest(config), config.len() as u64),
        layers: layers
            .iter()
            .map(|l| plain(&l.media_type, l.blob.clone(), l.blob_size))
            .collect(),
    };
    serde_json::to_vec(&manifest).expect("a manifest has string keys only")
}

/// All images of the archive for this host's platform.
pub(crate) fn resolve(members: &Members) -> Result<Vec<Resolved>, LoadError> {
    let mut images: Vec<Resolved> = Vec::new();
    if let Some(bytes) = members.document("index.json") {
        let index: AnyManifest = parse("index.json", bytes)?;
        let mut finder = Finder {
            members,
            images: Vec::new(),
            passed_over: Vec::new(),
        };
        finder.descriptors(index.manifests.as_deref().unwrap_or_default(), &[], 0)?;
        if finder.images.is_empty() && !finder.passed_over.is_empty() {
            finder.passed_over.dedup();
            return Err(LoadError::Platform {
                wanted: format!("linux/{}", host_architecture()),
                found: finder.passed_over.join(", "),
            });
        }
        images = finder.images;
    }
    if let Some(bytes) = members.document("manifest.json") {
        let list: Vec<DockerImage> = parse("manifest.json", bytes)?;
        for item in &list {
            docker_image(members, item, &mut images)?;
        }
    } else if images.is_empty() {
        return Err(if members.document("repositories").is_some() {
            LoadError::Document {
                document: "repositories".into(),
                what: "the archive is in the form before Docker 1.10: load it into Docker 1.10 to 24 and save it again".into(),
            }
        } else {
            LoadError::NotAnImage
        });
    }
    if images.is_empty() {
        return Err(LoadError::NotAnImage);
    }
    Ok(images)
}

fn parse<'a, T: Deserialize<'a>>(document: &str, bytes: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|e| LoadError::Document {
        document: document.to_owned(),
        what: e.to_string(),
    })
}

/// The host's architecture in Go's words, which images use.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

struct Finder<'a> {
    members: &'a Members,
    images: Vec<Resolved>,
    passed_over: Vec<String>,
}

impl Finder<'_> {
    fn descriptors(
        &mut self,
        list: &[Descriptor],
        names: &[String],
        depth: usize,
    ) -> Result<(), LoadError> {
        if depth > MAX_NESTING {
            return Err(LoadError::Document {
                document: "index.json".into(),
                what: "indexes are nested too deeply".into(),
            });
        }
        for d in list {
            if d.annotations.contains_key("vnd.docker.reference.type") || !self.fits(d) {
                continue;
            }
            let mut names = names.to_vec();
            names.extend(names_in(&d.annotations));
            let path = member_of("index.json", &d.digest)?;
            let missing = || LoadError::Missing {
                document: "index.json".into(),
                missing: path.clone(),
            };
            let Some(bytes) = self.members.document(&path) else {
                // an archive may hold only some of the platforms its index lists
                if depth > 0 && self.members.get(&path).is_none() {
                    self.passed_over
                        .push(format!("{} (not included)", shown(d)));
                    continue;
                }
                return Err(missing());
            };
            let any: AnyManifest = parse(&path, bytes)?;
            let is_index = matches!(d.media_type.as_str(), OCI_INDEX | DOCKER_LIST);
            match (&any.manifests, &any.config) {
                (Some(inner), _) if is_index || any.config.is_none() => {
                    self.descriptors(inner, &names, depth + 1)?;
                }
                (_, Some(config)) if is_image(config) => {
                    self.image(&path, bytes, &any, config, &names)?;
                }
                _ => {} // an artifact that is no image
            }
        }
        Ok(())
    }

    /// Whether it is for this host, or does not say.
    fn fits(&mut self, d: &Descriptor) -> bool {
        let Some(p) = &d.platform else { return true };
        if p.os.is_empty() || (p.os == "linux" && p.architecture == host_architecture()) {
            return true;
        }
        if p.os != "unknown" {
            self.passed_over.push(shown(d));
        }
        false
    }

    fn image(
        &mut self,
        path: &str,
        bytes: &[u8],
        manifest: &AnyManifest,
        config: &Descriptor,
        names: &[String],
    ) -> Result<(), LoadError> {
        let config_path = member_of(path, &config.digest)?;
        let layers = manifest
            .layers
            .iter()
            .map(|l| Ok((member_of(path, &l.digest)?, l.media_type.clone())))
            .collect::<Result<Vec<_>, LoadError>>()?;
        let image = build(
            self.members,
            path,
            &config_path,
            &layers,
            Some(bytes),
            names.to_vec(),
        )?;
        add(&mut self.images, image);
        Ok(())
    }
}

fn shown(d: &Descriptor) -> String {
    let p = d.platform.clone().unwrap_or_default();
    let variant = if p.variant.is_empty() { "" } else { "/" };
    format!("{}/{}{variant}{}", p.os, p.architecture, p.variant)
}

fn is_image(config: &Descriptor) -> bool {
    matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "")
}

/// Names a descriptor carries. A bare tag in the reference annotation names no repository.
fn names_in(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let full = annotations.get(NAME_ANNOTATION);
    let short = annotations
        .get(REF_ANNOTATION)
        .filter(|r| full.is_none() && r.contains(['/', ':']));
    full.or(short).cloned().into_iter().collect()
}

fn member_of(document: &str, digest: &str) -> Result<String, LoadError> {
    if !is_digest(digest) {
        return Err(LoadError::Document {
            document: document.to_owned(),
            what: format!("{digest:?} is not a sha256 digest"),
        });
    }
    Ok(digest
        .replacen(':', "/", 1)
        .replacen("sha256", "blobs/sha256", 1))
}

fn docker_image(
    members: &Members,
    item: &DockerImage,
    images: &mut Vec<Resolved>,
) -> Result<(), LoadError> {
    let names = item.repo_tags.clone().unwrap_or_default();
    let layers: Vec<(String, String)> = item
        .layers
        .iter()
        .flatten()
        .map(|path| (path.clone(), String::new()))
        .collect();
    let image = build(members, "manifest.json", &item.config, &layers, None, names)?;
    add(images, image);
    Ok(())
}

/// An image that is there already only gets the names.
fn add(images: &mut Vec<Resolved>, image: Resolved) {
    match images.iter_mut().find(|i| i.new.id == image.new.id) {
        Some(known) => {
            for name in image.new.names {
                if !known.new.names.contains(&name) {
                    known.new.names.push(name);
                }
            }
        }
        None => images.push(image),
    }
}

fn build(
    members: &Members,
    document: &str,
    config_path: &str,
    layers: &[(String, String)],
    manifest: Option<&[u8]>,
    names: Vec<String>,
) -> Result<Resolved, LoadError> {
    let wrong = |what: String| LoadError::Document {
        document: document.to_owned(),
        what,
    };
    let missing = |path: &str| LoadError::Missing {
        document: document.to_owned(),
        missing: path.to_owned(),
    };
    let bytes = members
        .document(config_path)
        .ok_or_else(|| missing(config_path))?;
    let config: ImageConfig = parse(config_path, bytes)?;
    let diffs = &config.rootfs.diff_ids;
    if diffs.len() != layers.len() {
        return Err(wrong(format!(
            "it lists {} layers, but the configuration {config_path} has {}",
            layers.len(),
            diffs.len()
        )));
    }
    if diffs.len() > MAX_LAYERS {
        return Err(wrong(format!("more than {MAX_LAYERS} layers")));
    }
    let mut infos: Vec<LayerInfo> = Vec::with_capacity(layers.len());
    let mut layer_members = Vec::with_capacity(layers.len());
    for ((path, media_type), diff) in layers.iter().zip(diffs) {
        if !is_digest(diff) {
            return Err(wrong(format!("{diff:?} is not a sha256 digest")));
        }
        let real = members.real_name(path).ok_or_else(|| missing(path))?;
        let Some(Member::Blob { digest, staged }) = members.map.get(real) else {
            return Err(wrong(format!("{path} is not a layer")));
        };
        let parent = infos.last().map(|l| l.chain.as_str());
        infos.push(LayerInfo {
            chain: chain_id(parent, diff),
            diff: diff.clone(),
            blob: digest.clone(),
            media_type: if media_type.is_empty() {
                sniffed_type(staged)
            } else {
                media_type.clone()
            },
            blob_size: staged.len(),
            size: 0,
        });
        layer_members.push(real.to_owned());
    }
    let names = names
        .iter()
        .map(|n| {
            let full = Reference::parse(n).map_err(|e| wrong(e.to_string()))?;
            Ok(full.with_default_tag().to_string())
        })
        .collect::<Result<Vec<_>, LoadError>>()?;
    let manifest = manifest.map_or_else(|| make_manifest(bytes, &infos), <[u8]>::to_vec);
    Ok(Resolved {
        new: NewImage {
            step: None,
            id: digest(bytes),
            manifest: digest(&manifest),
            config: bytes.to_vec(),
            parent: None,
            layers: infos,
            names,
        },
        manifest,
        layer_members,
        document: document.to_owned(),
    })
}

fn sniffed_type(staged: &Arc<Staged>) -> String {
    let mut head = [0; 6];
    let n = crate::layers::read_up_to(&mut staged.follow(), &mut head).unwrap_or(0);
    media_type(crate::pipe::sniff(&head[..n]).unwrap_or(crate::pipe::Packing::Plain)).to_owned()
}

pub(crate) fn media_type(packing: crate::pipe::Packing) -> &'static str {
    match packing {
        crate::pipe::Packing::Plain => LAYER_PLAIN,
        crate::pipe::Packing::Gzip => LAYER_GZIP,
        crate::pipe::Packing::Zstd => LAYER_ZSTD,
    }
}

pub(crate) const MANIFEST_TYPES: [&str; 2] = [OCI_MANIFEST, DOCKER_MANIFEST];
