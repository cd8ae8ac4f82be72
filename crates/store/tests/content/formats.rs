//! The forms in which peers write images.

use serde_json::json;
use store::progress::NoProgress;
use store::tar::Kind;
use store::{ImageError, RemoveOptions, Removed};

use crate::kit::*;

fn layer() -> Vec<u8> {
    tar(&[dir("bin"), file("bin/sh", b"#!"), file("etc/os", b"x")])
}

fn upper() -> Vec<u8> {
    tar(&[dir("etc"), file("etc/.wh.os", b""), file("top", b"t")])
}

fn blob(members: &mut Vec<(store::tar::Entry, Vec<u8>)>, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    members.push(file(&format!("blobs/sha256/{}", &digest[7..]), bytes));
    digest
}

/// An OCI layout; `annotations` go to the descriptor in the index.
fn oci(
    layers: &[Vec<u8>],
    packed: &[Vec<u8>],
    annotations: serde_json::Value,
    nested: bool,
) -> Vec<u8> {
    let mut members = Vec::new();
    let diffs: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let list: Vec<_> = packed
        .iter()
        .map(|l| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                   "digest": blob(&mut members, l), "size": l.len()})
        })
        .collect();
    let config = config(&diffs);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": blob(&mut members, &config), "size": config.len()},
        "layers": list,
        "annotations": {"kept": "as it is"},
    });
    let manifest = serde_json::to_vec_pretty(&manifest).expect("json");
    let mut descriptor = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": blob(&mut members, &manifest), "size": manifest.len(),
    });
    if nested {
        descriptor["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json",
             "digest": digest(b"elsewhere"), "size": 3,
             "platform": {"os": "linux", "architecture": "s390x"}},
            descriptor,
            {"mediaType": "application/vnd.oci.image.manifest.v1+json",
             "digest": digest(b"provenance"), "size": 3,
             "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
             "platform": {"os": "unknown", "architecture": "unknown"}},
        ]})
        .to_string();
        descriptor = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": blob(&mut members, index.as_bytes()), "size": index.len(),
        });
    }
    descriptor["annotations"] = annotations;
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
    members.push(file("index.json", index.as_bytes()));
    members.push(file("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}"));
    tar(&members)
}

fn check(lab: &Lab, name: &str) {
    let image = lab.store.image(name).expect("it is there");
    assert_eq!(image.names, [name]);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.config.cmd, Some(vec!["/bin/sh".to_owned()]));
    let layers = lab.store.rootfs_layers(name).expect("its layers");
    assert_eq!(
        std::fs::read(layers[1].join("bin/sh")).expect("there"),
        b"#!"
    );
    assert_eq!(
        snapshot(&layers[0])[&b"etc/os"[..]].kind,
        "character device"
    );
    assert_eq!(image.size, 2 + 1 + 1);
}

#[test]
fn docker_save_of_old_is_read_plain_and_compressed() {
    for pack in [|b: &[u8]| b.to_vec(), gzip, zstd] {
        let lab = Lab::new();
        let archive = docker_archive("a/b:1", &[layer(), upper()]);
        let loaded = lab.load(&pack(&archive)).expect("it is valid");
        assert_eq!(loaded[0].names, ["a/b:1"]);
        check(&lab, "a/b:1");
    }
}

#[test]
fn docker_save_links_layers_that_are_the_same() {
    let lab = Lab::new();
    let (one, two) = (layer(), upper());
    let diffs = [digest(&one), digest(&two), digest(&one)];
    let config = config(&diffs);
    let name = format!("{}.json", &digest(&config)[7..]);
    let manifest = json!([{"Config": name, "RepoTags": ["l:1"],
        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}])
    .to_string();
    let archive = tar(&[
        dir("a"),
        file("a/VERSION", b"1.0"),
        file("a/json", b"{\"id\":\"a\"}"),
        file("a/layer.tar", &one),
        file("b/layer.tar", &two),
        link(Kind::Symlink, "c/layer.tar", "../a/layer.tar"),
        file(&name, &config),
        file("manifest.json", manifest.as_bytes()),
        file("repositories", b"{\"l\":{\"1\":\"c\"}}"),
    ]);
    lab.load(&archive).expect("it is valid");
    let layers = lab.store.rootfs_layers("l:1").expect("its layers");
    assert_eq!(layers.len(), 3);
    assert_eq!(
        std::fs::read(layers[0].join("bin/sh")).expect("there"),
        b"#!"
    );
}

#[test]
fn oci_layouts_of_buildx_and_skopeo_are_read() {
    let (plain, packed) = ([layer(), upper()], [gzip(&layer()), gzip(&upper())]);
    for (annotations, nested) in [
        (
            json!({"io.containerd.image.name": "docker.io/library/o:1",
                "org.opencontainers.image.ref.name": "1"}),
            true,
        ),
        (json!({"org.opencontainers.image.ref.name": "o:1"}), false),
    ] {
        let lab = Lab::new();
        lab.load(&oci(&plain, &packed, annotations, nested))
            .expect("it is valid");
        check(&lab, "o:1");
    }
    let lab = Lab::new();
    let bare = json!({"org.opencontainers.image.ref.name": "latest"});
    let loaded = lab
        .load(&oci(&plain, &packed, bare, false))
        .expect("it is valid");
    assert!(loaded[0].names.is_empty(), "a bare tag names no repository");
}

#[test]
fn another_platform_is_named() {
    let lab = Lab::new();
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(b"x"),
         "size": 1, "platform": {"os": "linux", "architecture": "s390x"}}]})
    .to_string();
    let error = lab
        .load(&tar(&[file("index.json", index.as_bytes())]))
        .expect_err("not for us");
    assert!(error.contains("linux/s390x"), "{error}");
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    let (plain, packed) = ([layer(), upper()], [gzip(&layer()), zstd(&upper())]);
    let archive = oci(
        &plain,
        &packed,
        json!({"io.containerd.image.name": "docker.io/library/o:1"}),
        true,
    );
    let (first, second) = (Lab::new(), Lab::new());
    first.load(&archive).expect("it is valid");
    let saved = save(&first.store, &["o:1"]);
    second.load(&saved).expect("our own form is read");
    let (a, b) = (
        first.store.image("o:1").expect("there"),
        second.store.image("o:1").expect("there"),
    );
    assert_eq!(
        (&a.id, &a.manifest, &a.layers),
        (&b.id, &b.manifest, &b.layers)
    );
    assert_eq!(a.config_bytes, b.config_bytes);
    assert_eq!(
        save(&second.store, &["o:1"]),
        saved,
        "the same image gives the same bytes"
    );
    let (original, again) = (members(&archive), members(&saved));
    for (name, data) in &again {
        if name.starts_with("blobs/") && !data.is_empty() {
            assert_eq!(original.get(name), Some(data), "{name} as it came");
        }
    }
}

#[test]
fn several_images_in_one_archive() {
    let lab = Lab::new();
    lab.load(&docker_archive("a:1", &[layer()])).expect("valid");
    lab.load(&docker_archive("b:1", &[layer(), upper()]))
        .expect("valid");
    lab.store.tag("b:1", "reg.example:5000/c").expect("a name");
    let saved = save(&lab.store, &["a:1", "b:1", "reg.example:5000/c:latest"]);
    let other = Lab::new();
    assert_eq!(other.load(&saved).expect("valid").len(), 2);
    let b = other.store.image("b:1").expect("there");
    assert_eq!(b.names, ["b:1", "reg.example:5000/c:latest"]);
    assert!(b.unique_size < b.size, "the lower layer is shared");
}

#[test]
fn loading_again_heals_a_damaged_blob() {
    let lab = Lab::new();
    let archive = docker_archive("a:1", &[layer()]);
    lab.load(&archive).expect("valid");
    let image = lab.store.image("a:1").expect("there");
    let hex = &image.layers[0].blob[7..];
    let path = lab
        .store
        .root()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex);
    std::fs::write(&path, b"\0damaged").expect("writable");
    let mut out = Vec::new();
    let names = ["a:1".to_owned()];
    lab.store
        .save(&names, &mut out, &NoProgress)
        .expect_err("a damaged blob is never passed on");
    lab.load(&archive).expect("valid");
    save(&lab.store, &["a:1"]);
}

#[test]
fn names_move_and_images_go_with_their_last_name() {
    let lab = Lab::new();
    lab.load(&docker_archive("a:1", &[layer()])).expect("valid");
    let id = lab.store.image("a:1").expect("there").id;
    let short = &id[7..19];
    assert_eq!(lab.store.image(short).expect("by prefix").id, id);
    lab.store.tag(short, "b").expect("a name");
    let options = RemoveOptions::default();
    let error = lab
        .store
        .image_remove(short, &options)
        .expect_err("two names");
    assert!(matches!(error, ImageError::ManyNames { .. }), "{error}");
    let removed = lab.store.image_remove("a:1", &options).expect("one of two");
    assert_eq!(removed, [Removed::Untagged("a:1".into())]);
    lab.load(&docker_archive("b:latest", &[upper()]))
        .expect("takes the name over");
    let old = lab.store.image(short).expect("it stays without a name");
    assert!(old.names.is_empty());
    lab.store
        .image_remove(short, &options)
        .expect("no name needed");
    let removed = lab
        .store
        .image_remove("b", &options)
        .expect("the last name");
    assert_eq!(removed.len(), 3, "{removed:?}");
    lab.assert_nothing_left();
    assert!(matches!(lab.store.image("b"), Err(ImageError::NotFound(_))));
}

#[test]
fn history_tells_the_newest_first() {
    let lab = Lab::new();
    lab.load(&docker_archive("a:1", &[layer(), upper()]))
        .expect("valid");
    let lines = lab.store.history("a:1").expect("there");
    assert_eq!(lines.len(), 2, "a layer without a line has one too");
    assert_eq!(lines[0].names, ["a:1"]);
    assert_eq!(lines[1].entry.created_by, "made for a test");
    assert_eq!(lines[1].size, 3);
}
