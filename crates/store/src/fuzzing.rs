//! What fuzz targets reach inside. Compiled for them alone (`--cfg fuzzing`).

use sha2::{Digest as _, Sha256};

use crate::archive::{Member, Members, resolve};
use crate::manifest::Manifest;

/// What parses as a layer's manifest is written as something that parses to the same. The bytes are
/// also tried with a right checksum, without which nothing behind it would be reached.
///
/// # Panics
/// When the parser and the encoder disagree.
pub fn manifest(bytes: &[u8]) {
    for input in [bytes.to_vec(), sealed(bytes)] {
        if let Ok(manifest) = Manifest::parse(&input) {
            let again = Manifest::parse(&manifest.encode()).expect("what was encoded parses");
            assert_eq!(manifest, again);
        }
    }
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    // three lines of head, then the records
    let records = out
        .iter()
        .filter(|b| **b == b'\n')
        .count()
        .saturating_sub(3);
    let sum = hex::encode(Sha256::digest(&out));
    out.extend_from_slice(format!("end {records} {sum}\n").as_bytes());
    out
}

/// The documents of an image archive, one a line: images are found in them or an error is, and
/// nothing else happens. Each is also there under its digest, so that an index can lead to it.
pub fn archive(bytes: &[u8]) {
    const NAMES: [&str; 4] = ["manifest.json", "index.json", "oci-layout", "repositories"];
    let mut members = Members::default();
    for (n, document) in bytes.split(|b| *b == b'\n').enumerate() {
        let digest = hex::encode(Sha256::digest(document));
        let own = NAMES.get(n).map(|name| (*name).to_owned());
        for name in own.into_iter().chain([format!("blobs/sha256/{digest}")]) {
            members.insert(name, Member::Document(document.to_vec()));
        }
    }
    drop(resolve(&members));
}
