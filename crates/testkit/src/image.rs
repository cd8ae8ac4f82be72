//! Small images from the host's static busybox, as docker-archive bytes.

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a tar entry is.
#[derive(Debug, Clone)]
pub enum Node {
    File(Vec<u8>, u32),
    Directory(u32),
    Symlink(String),
}

/// An image in the making: layers of entries and a configuration.
#[derive(Debug, Clone)]
pub struct Image {
    names: Vec<String>,
    layers: Vec<Vec<(String, Node)>>,
    config: Value,
}

/// Name of the image that [`Image::busybox`] makes.
pub const BUSYBOX: &str = "busybox:test";

impl Image {
    /// One layer: /bin/busybox with links for its applets, passwd and group, the usual directories.
    ///
    /// # Errors
    /// When the host has no static /bin/busybox (Debian: busybox-static).
    pub fn busybox() -> io::Result<Self> {
        let path = Path::new("/bin/busybox");
        let say = |e: &dyn std::fmt::Display| {
            io::Error::other(format!("/bin/busybox: {e}: install busybox-static"))
        };
        let program = std::fs::read(path).map_err(|e| say(&e))?;
        if has_interpreter(&program) {
            return Err(say(&"it is linked dynamically"));
        }
        let mut entries = Vec::new();
        for dir in [
            "bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var",
        ] {
            entries.push((dir.to_owned(), Node::Directory(0o755)));
        }
        entries.push(("tmp".to_owned(), Node::Directory(0o1777)));
        entries.push(("bin/busybox".to_owned(), Node::File(program, 0o755)));
        for applet in applets(path)? {
            let link = Node::Symlink("/bin/busybox".to_owned());
            entries.push((format!("bin/{applet}"), link));
        }
        let file = |text: &str| Node::File(text.as_bytes().to_vec(), 0o644);
        entries.push((
            "etc/passwd".to_owned(),
            file("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"),
        ));
        let groups = "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n";
        entries.push(("etc/group".to_owned(), file(groups)));
        Ok(Self {
            names: vec![BUSYBOX.to_owned()],
            layers: vec![entries],
            config: json!({
                "Cmd": ["sh"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            }),
        })
    }

    /// An image of these entries alone.
    #[must_use]
    pub fn of(entries: Vec<(String, Node)>) -> Self {
        Self {
            names: Vec::new(),
            layers: vec![entries],
            config: json!({}),
        }
    }

    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.names = vec![name.to_owned()];
        self
    }

    /// On top of what is there.
    #[must_use]
    pub fn layer(mut self, entries: Vec<(String, Node)>) -> Self {
        self.layers.push(entries);
        self
    }

    /// A field of the image's `config`, such as `Entrypoint`.
    #[must_use]
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Its layers as tar, lowest first, and its configuration.
    #[must_use]
    pub fn parts(&self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let layers: Vec<Vec<u8>> = self.layers.iter().map(|l| tar(l)).collect();
        let ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": self.config,
            "rootfs": {
                "type": "layers",
                "diff_ids": ids.iter().map(|i| format!("sha256:{i}")).collect::<Vec<_>>(),
            },
            "history": ids.iter().map(|_| json!({"created_by": "testkit"})).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        (layers, config)
    }

    /// The bytes that `load` takes.
    #[must_use]
    pub fn archive(&self) -> Vec<u8> {
        let (layers, config) = self.parts();
        let ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config_name = format!("{}.json", digest(&config));
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": self.names,
            "Layers": ids.iter().map(|i| format!("{i}/layer.tar")).collect::<Vec<_>>(),
        }]);
        let mut entries = vec![(config_name, Node::File(config, 0o644))];
        for (id, layer) in ids.iter().zip(layers) {
            let path = format!("{id}/layer.tar");
            // two equal layers are one file
            if !entries.iter().any(|e| e.0 == path) {
                entries.push((path, Node::File(layer, 0o644)));
            }
        }
        let manifest = manifest.to_string().into_bytes();
        entries.push(("manifest.json".to_owned(), Node::File(manifest, 0o644)));
        tar(&entries)
    }
}

/// Whether a 64-bit ELF program asks for a dynamic linker (a PT_INTERP header). source: elf(5).
fn has_interpreter(program: &[u8]) -> bool {
    const PT_INTERP: usize = 3;
    let number = |at: usize, width: usize| {
        let bytes = program.get(at..at + width)?;
        let digit = |n: u64, b: &u8| (n << 8) | u64::from(*b);
        usize::try_from(bytes.iter().rev().fold(0, digit)).ok()
    };
    let headers = || Some((number(32, 8)?, number(54, 2)?, number(56, 2)?));
    let Some((start, size, count)) = headers() else {
        return false;
    };
    (0..count).any(|n| number(start + n * size, 4) == Some(PT_INTERP))
}

fn applets(busybox: &Path) -> io::Result<Vec<String>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test asks busybox what it can do"
    )]
    let output = std::process::Command::new(busybox).arg("--list").output()?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| *l != "busybox")
        .map(str::to_owned)
        .collect())
}

/// SHA-256 in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A ustar archive of these entries, in this order. source: POSIX pax(1), ustar interchange format.
#[must_use]
pub fn tar(entries: &[(String, Node)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, node) in entries {
        let (kind, mode, content, link) = match node {
            Node::File(content, mode) => (b'0', *mode, content.as_slice(), ""),
            Node::Directory(mode) => (b'5', *mode, &[][..], ""),
            Node::Symlink(target) => (b'2', 0o777, &[][..], target.as_str()),
        };
        let mut header = [0_u8; 512];
        put(&mut header, 0, 100, name);
        put(&mut header, 100, 8, &format!("{mode:07o}"));
        put(&mut header, 108, 8, "0000000");
        put(&mut header, 116, 8, "0000000");
        put(&mut header, 124, 12, &format!("{:011o}", content.len()));
        put(&mut header, 136, 12, "15000000000");
        put(&mut header, 148, 8, "        ");
        header[156] = kind;
        put(&mut header, 157, 100, link);
        put(&mut header, 257, 8, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        put(&mut header, 148, 8, &format!("{sum:06o}\0 "));
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn put(header: &mut [u8; 512], at: usize, width: usize, text: &str) {
    assert!(text.len() <= width, "{text:?} doesn't fit a ustar header");
    header[at..at + text.len()].copy_from_slice(text.as_bytes());
}
