//! What the store promises, as a few maps; and operations that both understand.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;

use store::progress::NoProgress;
use store::{CommitRequest, ImportRequest, NewContainer, NewVolume, RemoveOptions, Store};
use testkit::image::{Image, Node, tar};

pub(crate) const IMAGE: &str = "sha256:feed";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    CreateVolume(u8),
    RemoveVolume(u8),
    RestoreVolume(u8),
    PurgeVolume(u8),
    /// A program writes a file into a volume and syncs it.
    Write(u8, u8),
    Create {
        id: u8,
        name: u8,
        volumes: Vec<u8>,
    },
    Update(u8, u8),
    Rename(u8, u8),
    Remove(u8),
    /// Two layers, the lower one shared by all.
    Load(u8),
    Import(u8),
    /// A container's changes on top of an image that was loaded.
    Commit {
        container: u8,
        image: u8,
    },
    Tag(u8, u8),
    RemoveImage(Kind, u8),
}

/// How an image came to its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Loaded,
    Imported,
    Committed,
    Tagged,
}

fn image_name(kind: Kind, n: u8) -> String {
    format!("{kind:?}:{n}").to_lowercase()
}

/// What is in the images made here: path and content.
fn image_files(kind: Kind, n: u8) -> Vec<(String, Vec<u8>)> {
    match kind {
        Kind::Imported => vec![(format!("imported-{n}"), vec![n; 7000])],
        _ => vec![
            ("etc/shared".to_owned(), vec![0x55; 20_000]),
            (format!("etc/own-{n}"), vec![n; 3000]),
        ],
    }
}

fn entries(files: &[(String, Vec<u8>)]) -> Vec<(String, Node)> {
    let file =
        |(path, content): &(String, Vec<u8>)| (path.clone(), Node::File(content.clone(), 0o644));
    let mut entries = vec![("etc".to_owned(), Node::Directory(0o755))];
    entries.extend(files.iter().map(file));
    entries
}

fn summary(files: &[(String, Vec<u8>)]) -> Files {
    files.iter().map(|(p, c)| (p.clone(), shown(c))).collect()
}

/// File to length and byte it is made of.
type Files = BTreeMap<String, String>;

const LENGTH: usize = 5000;

fn shown(content: &[u8]) -> String {
    match content.first() {
        Some(first) if content.iter().all(|b| b == first) => {
            format!("{} x {first}", content.len())
        }
        _ => format!("{} bytes, torn", content.len()),
    }
}

/// What a user can see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) volumes: BTreeMap<String, Files>,
    /// The latest removed last.
    pub(crate) trash: Vec<(String, Files)>,
    pub(crate) containers: BTreeMap<String, Container>,
    /// By name.
    pub(crate) images: BTreeMap<String, Files>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    name: String,
    volumes: Vec<String>,
    document: Vec<u8>,
}

pub(crate) fn volume_name(n: u8) -> String {
    format!("volume-{n}")
}

pub(crate) fn id(n: u8) -> String {
    format!("{n:064x}")
}

fn container_name(n: u8) -> String {
    format!("name-{n}")
}

fn document(n: u8) -> Vec<u8> {
    // not UTF-8 now and then: the engine's bytes are its own
    match n % 4 {
        0 => vec![n, 0xff, 0xfe, n],
        _ => format!(
            "{{\"state\": {n}, \"padding\": {:?}}}",
            "x".repeat(n.into())
        )
        .into_bytes(),
    }
}

impl State {
    /// Whether the store must accept the operation; changes the state if so.
    pub(crate) fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::CreateVolume(v) => {
                self.volumes.entry(volume_name(*v)).or_default();
                true
            }
            Op::RemoveVolume(v) => {
                let name = volume_name(*v);
                if self.containers.values().any(|c| c.volumes.contains(&name)) {
                    return false;
                }
                let Some(files) = self.volumes.remove(&name) else {
                    return false;
                };
                self.trash.push((name, files));
                true
            }
            Op::RestoreVolume(v) => {
                let name = volume_name(*v);
                if self.volumes.contains_key(&name) {
                    return false;
                }
                let Some(at) = self.trash.iter().rposition(|(n, _)| *n == name) else {
                    return false;
                };
                self.volumes.insert(name, self.trash.remove(at).1);
                true
            }
            Op::PurgeVolume(v) => {
                let name = volume_name(*v);
                let Some(at) = self.trash.iter().rposition(|(n, _)| *n == name) else {
                    return false;
                };
                self.trash.remove(at);
                true
            }
            Op::Write(v, n) => match self.volumes.get_mut(&volume_name(*v)) {
                Some(files) => {
                    files.insert(format!("file-{n}"), shown(&[*n; LENGTH]));
                    true
                }
                None => false,
            },
            Op::Load(_) | Op::Import(_) | Op::Commit { .. } | Op::Tag(..) | Op::RemoveImage(..) => {
                self.apply_image(op)
            }
            _ => self.apply_container(op),
        }
    }

    fn apply_image(&mut self, op: &Op) -> bool {
        match op {
            Op::Load(n) => {
                let files = summary(&image_files(Kind::Loaded, *n));
                self.images.insert(image_name(Kind::Loaded, *n), files);
                true
            }
            Op::Import(n) => {
                let files = summary(&image_files(Kind::Imported, *n));
                self.images.insert(image_name(Kind::Imported, *n), files);
                true
            }
            Op::Commit { container, image } => {
                let below = self.images.get(&image_name(Kind::Loaded, *image));
                let (Some(below), true) = (below, self.containers.contains_key(&id(*container)))
                else {
                    return false;
                };
                let mut files = below.clone();
                files.insert("work".to_owned(), shown(&[*container; LENGTH]));
                self.images
                    .insert(image_name(Kind::Committed, *container), files);
                true
            }
            Op::Tag(n, tag) => {
                let Some(files) = self.images.get(&image_name(Kind::Loaded, *n)) else {
                    return false;
                };
                let files = files.clone();
                self.images.insert(image_name(Kind::Tagged, *tag), files);
                true
            }
            Op::RemoveImage(kind, n) => self.images.remove(&image_name(*kind, *n)).is_some(),
            _ => unreachable!("only images come here"),
        }
    }

    fn apply_container(&mut self, op: &Op) -> bool {
        match op {
            Op::Create {
                id: n,
                name,
                volumes,
            } => {
                let mut volumes: Vec<String> = volumes.iter().map(|v| volume_name(*v)).collect();
                volumes.sort();
                volumes.dedup();
                if self.containers.contains_key(&id(*n))
                    || self.name_taken(*name)
                    || volumes.iter().any(|v| !self.volumes.contains_key(v))
                {
                    return false;
                }
                let container = Container {
                    name: container_name(*name),
                    volumes,
                    document: document(*n),
                };
                self.containers.insert(id(*n), container);
                true
            }
            Op::Update(n, d) => self
                .containers
                .get_mut(&id(*n))
                .map(|c| c.document = document(*d))
                .is_some(),
            Op::Rename(n, name) => {
                let own = self.containers.get(&id(*n)).map(|c| c.name.clone());
                if own.as_deref() != Some(&container_name(*name)) && self.name_taken(*name) {
                    return false;
                }
                self.containers
                    .get_mut(&id(*n))
                    .map(|c| {
                        c.name = container_name(*name);
                        c.document = document(*name);
                    })
                    .is_some()
            }
            Op::Remove(n) => self.containers.remove(&id(*n)).is_some(),
            _ => unreachable!("volumes are handled above"),
        }
    }

    fn name_taken(&self, name: u8) -> bool {
        let name = container_name(name);
        self.containers.values().any(|c| c.name == name)
    }

    /// What the store shows.
    pub(crate) fn of(store: &Store) -> Self {
        let files = |dir: &std::path::Path| -> Files {
            fs::read_dir(dir)
                .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
                .map(|e| {
                    let e = e.unwrap();
                    let name = e.file_name().into_string().unwrap();
                    (name, shown(&fs::read(e.path()).unwrap()))
                })
                .collect()
        };
        let volumes = store.volumes().unwrap().into_iter();
        let mut trash = store.volumes_in_trash().unwrap();
        trash.reverse();
        let containers = store.containers().unwrap().into_iter();
        let mut images = BTreeMap::new();
        for image in store.images().unwrap() {
            if image.names == [BASE] {
                continue;
            }
            let files = root_files(store, &image.id);
            for name in image.names {
                images.insert(name, files.clone());
            }
        }
        Self {
            images,
            volumes: volumes
                .map(|v| {
                    let dir = store.volume_dir(&v.name);
                    (v.name, files(&dir))
                })
                .collect(),
            trash: trash
                .into_iter()
                .map(|t| {
                    let dir = format!("trash/volumes/{}/_data", t.volume.uid);
                    (t.volume.name, files(&store.root().join(dir)))
                })
                .collect(),
            containers: containers
                .map(|c| {
                    let c = c.unwrap();
                    let place = store.container_fs(&c.id);
                    assert!(place.upper.is_dir() && place.work.is_dir(), "{place:?}");
                    store.image(&c.image).unwrap();
                    let container = Container {
                        name: c.name,
                        volumes: c.volumes,
                        document: c.document,
                    };
                    (c.id, container)
                })
                .collect(),
        }
    }
}

/// Does it; the error, with its sources, where the store refuses.
pub(crate) fn run(store: &Store, op: &Op) -> Result<(), String> {
    let told = |e: &dyn std::error::Error| crate::chain(e);
    match op {
        Op::CreateVolume(v) => {
            let new = NewVolume {
                name: volume_name(*v),
                ..NewVolume::default()
            };
            store.volume_create(&new).map(drop).map_err(|e| told(&e))
        }
        Op::RemoveVolume(v) => store.volume_remove(&volume_name(*v)).map_err(|e| told(&e)),
        Op::RestoreVolume(v) => store
            .volume_restore(&volume_name(*v))
            .map(drop)
            .map_err(|e| told(&e)),
        Op::PurgeVolume(v) => store
            .volume_purge(&volume_name(*v))
            .map(drop)
            .map_err(|e| told(&e)),
        Op::Write(v, n) => write(store, *v, *n).map_err(|e| told(&e)),
        Op::Create {
            id: n,
            name,
            volumes,
        } => {
            let volumes: Vec<String> = volumes.iter().map(|v| volume_name(*v)).collect();
            let base = base(store).map_err(|e| told(&*e))?;
            let new = NewContainer {
                id: &id(*n),
                name: &container_name(*name),
                image: &base,
                volumes: &volumes,
                document: &document(*n),
                ephemeral: false,
            };
            store.container_create(&new).map(drop).map_err(|e| told(&e))
        }
        Op::Update(n, d) => store
            .container_update(&id(*n), &document(*d))
            .map_err(|e| told(&e)),
        Op::Rename(n, name) => store
            .container_rename(&id(*n), &container_name(*name), &document(*name))
            .map_err(|e| told(&e)),
        Op::Remove(n) => store.container_remove(&id(*n)).map_err(|e| told(&e)),
        _ => run_image(store, op),
    }
}

/// The image that containers stand on, made when the first is: no part of the state.
const BASE: &str = "base:0";

fn base(store: &Store) -> Result<String, Box<dyn std::error::Error>> {
    if let Ok(image) = store.image(BASE) {
        return Ok(image.id);
    }
    let request = ImportRequest {
        reference: Some(BASE.to_owned()),
        ..ImportRequest::default()
    };
    let archive = tar(&entries(&[("base".to_owned(), vec![0x42; 100])]));
    Ok(store.import(&mut &*archive, &request, &NoProgress)?)
}

fn run_image(store: &Store, op: &Op) -> Result<(), String> {
    let told = |e: &dyn std::error::Error| crate::chain(e);
    match op {
        Op::Load(n) => {
            let files = image_files(Kind::Loaded, *n);
            let archive = Image::of(entries(&files[..1]))
                .layer(entries(&files[1..]))
                .named(&image_name(Kind::Loaded, *n))
                .archive();
            let loaded = store.load(&mut &*archive, &NoProgress);
            loaded.map(drop).map_err(|e| told(&e))
        }
        Op::Import(n) => {
            let request = ImportRequest {
                reference: Some(image_name(Kind::Imported, *n)),
                ..ImportRequest::default()
            };
            let archive = tar(&entries(&image_files(Kind::Imported, *n)));
            let imported = store.import(&mut &*archive, &request, &NoProgress);
            imported.map(drop).map_err(|e| told(&e))
        }
        Op::Commit { container, image } => {
            let parent = store
                .image(&image_name(Kind::Loaded, *image))
                .map_err(|e| told(&e))?;
            let work = store.container_fs(&id(*container)).upper.join("work");
            fs::write(work, [*container; LENGTH]).map_err(|e| told(&e))?;
            let request = CommitRequest {
                parent: parent.id,
                container: id(*container),
                reference: Some(image_name(Kind::Committed, *container)),
                ..CommitRequest::default()
            };
            let committed = store.commit(&request, &NoProgress);
            committed.map(drop).map_err(|e| told(&e))
        }
        Op::Tag(n, tag) => store
            .tag(
                &image_name(Kind::Loaded, *n),
                &image_name(Kind::Tagged, *tag),
            )
            .map(drop)
            .map_err(|e| told(&e)),
        Op::RemoveImage(kind, n) => store
            .image_remove(&image_name(*kind, *n), &RemoveOptions::default())
            .map(drop)
            .map_err(|e| told(&e)),
        _ => unreachable!("only images come here"),
    }
}

/// The files of an image, as a container would see them.
fn root_files(store: &Store, image: &str) -> Files {
    let layers = store
        .rootfs_layers(image)
        .unwrap_or_else(|e| panic!("{image}: {}", crate::chain(&e)));
    let mut files = Files::new();
    for layer in layers.iter().rev() {
        walk(layer, layer, &mut files);
    }
    files
}

fn walk(root: &std::path::Path, dir: &std::path::Path, files: &mut Files) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            files.insert(name.to_owned(), shown(&fs::read(&path).unwrap()));
        }
    }
}

/// As a careful program does: whole or absent.
fn write(store: &Store, volume: u8, n: u8) -> std::io::Result<()> {
    let name = volume_name(volume);
    store.volume(&name).map_err(std::io::Error::other)?;
    let dir = store.volume_dir(&name);
    let tmp = store.root().join("staging/program");
    let mut file = File::create(&tmp)?;
    file.write_all(&[n; LENGTH])?;
    file.sync_all()?;
    fs::rename(&tmp, dir.join(format!("file-{n}")))?;
    File::open(&dir)?.sync_all()
}

/// A history in which each kind of operation comes after what could disturb it.
pub(crate) fn history() -> Vec<Op> {
    use Op::*;
    let create = |id, name, volumes: &[u8]| Create {
        id,
        name,
        volumes: volumes.to_vec(),
    };
    vec![
        CreateVolume(1),
        Load(1),
        Write(1, 1),
        create(1, 1, &[1]),
        Commit {
            container: 1,
            image: 1,
        },
        Load(2),
        Tag(2, 1),
        Update(1, 7),
        create(2, 2, &[]),
        Rename(2, 3),
        CreateVolume(2),
        Write(2, 2),
        RemoveVolume(2),
        CreateVolume(2),
        Write(2, 3),
        Update(1, 8),
        RemoveImage(Kind::Loaded, 2),
        RemoveVolume(2),
        Import(1),
        Remove(2),
        RestoreVolume(2),
        create(3, 2, &[1, 2]),
        Update(3, 9),
        RemoveImage(Kind::Tagged, 1),
        Remove(1),
        Load(2),
        PurgeVolume(2),
        Remove(3),
        RemoveImage(Kind::Imported, 1),
        RemoveVolume(1),
        RestoreVolume(1),
    ]
}

/// The state before the first operation of [`history`] and after each.
pub(crate) fn states() -> Vec<State> {
    let mut state = State::default();
    let mut states = vec![state.clone()];
    for op in history() {
        assert!(state.apply(&op), "{op:?} must be accepted");
        states.push(state.clone());
    }
    states
}

/// That after `acknowledged` operations the state is what they made, with the next done or not.
pub(crate) fn check(store: &Store, acknowledged: usize) -> Result<(), String> {
    let states = states();
    let found = State::of(store);
    let report = store.fsck(false).map_err(|e| crate::chain(&e))?;
    if report.problems.iter().any(|p| p.kind != "orphan") {
        return Err(report.to_string());
    }
    store.maintain();
    let report = store.fsck(false).map_err(|e| crate::chain(&e))?;
    if !report.problems.is_empty() {
        return Err(format!("after garbage collection: {report}"));
    }
    let fine =
        found == states[acknowledged] || states.get(acknowledged + 1).is_some_and(|s| found == *s);
    if fine {
        return Ok(());
    }
    Err(format!(
        "after {acknowledged} operations\nexpected {:?}\nfound {found:?}",
        states[acknowledged]
    ))
}
