//! Saving images: an OCI layout that `docker load` of all versions understands.
//!
//! ```text
//! blobs/sha256/<hex>   manifests, configurations, layers: the same bytes as they came
//! index.json           one descriptor per image and name
//! manifest.json        for docker load before 25
//! oci-layout
//! repositories         for tools that look names up
//! ```
//! The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{ImageError, ImageInfo, SaveError};
use crate::Store;
use crate::archive::{MANIFEST_TYPES, NAME_ANNOTATION, OCI_INDEX, REF_ANNOTATION};
use crate::layers::short;
use crate::leases::Resource;
use crate::progress::{Action, Progress, Update};
use crate::reference::Reference;
use crate::tar::{Entry, Kind, Writer};

const PIECE: usize = 256 << 10;

/// An image and the names under which it is saved, in full.
type Chosen = Vec<(ImageInfo, Vec<Reference>)>;

impl Store {
    /// Writes images as an OCI layout that `docker load` of old understands too. What was named by
    /// id is saved without a name.
    ///
    /// # Errors
    /// No such image, a blob is damaged, or the sink refuses.
    pub fn save(
        &self,
        names: &[String],
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<(), SaveError> {
        let chosen = self.choose(names)?;
        let lease = self.lease();
        let mut tar = Writer::new(io::BufWriter::with_capacity(PIECE, out));
        let dir = |path: &str| Entry::new(Kind::Directory, path.as_bytes(), 0o755);
        for path in ["blobs", "blobs/sha256"] {
            tar.start(&dir(path)).map_err(SaveError::Write)?;
        }
        let mut written = BTreeSet::new();
        let mut index = Vec::new();
        for (image, names) in &chosen {
            lease.hold(Resource::Image(image.id.clone()));
            index.extend(self.save_image(image, names, &mut written, &mut tar, progress)?);
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index,
        });
        for (path, document) in [
            ("index.json", index),
            ("manifest.json", docker_manifest(&chosen)),
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("repositories", repositories(&chosen)),
        ] {
            let bytes = document.to_string().into_bytes();
            let mut entry = Entry::new(Kind::File, path.as_bytes(), 0o644);
            entry.size = bytes.len() as u64;
            tar.append(&entry, &bytes).map_err(SaveError::Write)?;
        }
        tar.finish()
            .and_then(|mut w| w.flush())
            .map_err(SaveError::Write)
    }

    fn choose(&self, names: &[String]) -> Result<Chosen, SaveError> {
        let mut chosen: Chosen = Vec::new();
        for text in names {
            let image = self.image(text)?;
            let mut wanted = Vec::new();
            if let Ok(reference) = Reference::parse(text) {
                let full = reference.clone().with_default_tag();
                let shown = full.familiar();
                if image.names.contains(&shown) {
                    wanted.push(full);
                }
            }
            match chosen.iter_mut().find(|(i, _)| i.id == image.id) {
                Some((_, names)) => names.extend(wanted),
                None => chosen.push((image, wanted)),
            }
        }
        if chosen.is_empty() {
            return Err(ImageError::NotFound(String::new()).into());
        }
        for (_, names) in &mut chosen {
            names.sort();
            names.dedup();
        }
        Ok(chosen)
    }

    /// Writes the blobs of an image; answers with its descriptors for the index.
    fn save_image<W: Write>(
        &self,
        image: &ImageInfo,
        names: &[Reference],
        written: &mut BTreeSet<String>,
        tar: &mut Writer<W>,
        progress: &dyn Progress,
    ) -> Result<Vec<Value>, SaveError> {
        let blob_error = |digest: &str, source: io::Error| SaveError::Blob {
            image: image.id.clone(),
            digest: digest.to_owned(),
            source,
        };
        let manifest = std::fs::read(self.blob_path(&image.manifest))
            .map_err(|e| blob_error(&image.manifest, e))?;
        let digests = image
            .layers
            .iter()
            .map(|l| l.blob.as_str())
            .chain([image.id.as_str(), image.manifest.as_str()]);
        for digest in digests {
            if written.insert(digest.to_owned()) {
                self.save_blob(digest, tar, progress).map_err(|e| match e {
                    BlobFailure::Source(e) => blob_error(digest, e),
                    BlobFailure::Sink(e) => SaveError::Write(e),
                })?;
            }
        }
        let own = serde_json::from_slice::<Value>(&manifest).ok();
        let media_type = own
            .as_ref()
            .and_then(|m| m["mediaType"].as_str())
            .unwrap_or(MANIFEST_TYPES[0]);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": image.manifest,
            "size": manifest.len(),
            "platform": {"architecture": image.config.architecture, "os": image.config.os},
        });
        if names.is_empty() {
            return Ok(vec![descriptor]);
        }
        Ok(names
            .iter()
            .map(|name| {
                let mut d = descriptor.clone();
                d["annotations"] = json!({
                    NAME_ANNOTATION: name.to_string(),
                    REF_ANNOTATION: name.tag().unwrap_or_default(),
                });
                d
            })
            .collect())
    }

    /// Writes one blob, and fails at its end if its content is not what its name says: the archive
    /// is cut off then.
    fn save_blob<W: Write>(
        &self,
        digest: &str,
        tar: &mut Writer<W>,
        progress: &dyn Progress,
    ) -> Result<(), BlobFailure> {
        let mut file = std::fs::File::open(self.blob_path(digest)).map_err(BlobFailure::Source)?;
        let size = file.metadata().map_err(BlobFailure::Source)?.len();
        let hex = digest.trim_start_matches("sha256:");
        let mut entry = Entry::new(Kind::File, format!("blobs/sha256/{hex}").as_bytes(), 0o644);
        entry.size = size;
        tar.start(&entry).map_err(BlobFailure::Sink)?;
        let mut buffer = vec![0; PIECE];
        let mut sum = Sha256::new();
        let mut left = size;
        while left > 0 {
            let n = file.read(&mut buffer).map_err(BlobFailure::Source)?;
            if n == 0 {
                return Err(BlobFailure::Source(io::ErrorKind::UnexpectedEof.into()));
            }
            sum.update(&buffer[..n]);
            tar.write_data(&buffer[..n]).map_err(BlobFailure::Sink)?;
            left = left.saturating_sub(n as u64);
            progress.update(&Update {
                id: short(digest),
                action: Action::Saving,
                done: size - left,
                total: Some(size),
            });
        }
        if hex::encode(sum.finalize()) != hex {
            return Err(BlobFailure::Source(io::Error::other(
                "its content does not have its digest",
            )));
        }
        Ok(())
    }
}

enum BlobFailure {
    Source(io::Error),
    Sink(io::Error),
}

fn blob_member(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

fn docker_manifest(chosen: &Chosen) -> Value {
    let list: Vec<Value> = chosen
        .iter()
        .map(|(image, names)| {
            let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
            let layers: Vec<String> = image.layers.iter().map(|l| blob_member(&l.blob)).collect();
            json!({
                "Config": blob_member(&image.id),
                "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
                "Layers": layers,
            })
        })
        .collect();
    Value::Array(list)
}

fn repositories(chosen: &Chosen) -> Value {
    let mut map: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (image, names) in chosen {
        for name in names {
            let top = image.layers.last().map_or(&image.id, |l| &l.chain);
            map.entry(name.familiar_repository()).or_default().insert(
                name.tag().unwrap_or_default().to_owned(),
                top.trim_start_matches("sha256:").to_owned(),
            );
        }
    }
    json!(map)
}
