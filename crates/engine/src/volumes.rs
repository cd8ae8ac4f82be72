//! Volumes: making, filling from the image, removing to the trash.
//!
//! Filling a new volume from the image must not be seen half done: a file `filling` beside `_data`,
//! durable before the first byte, says that what is there is to be thrown away and done again.
//! It goes when all of it is durable.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, fsync, open, openat2, syncfs,
};
use store::archive_path::{ArchivePathError, TarOptions, UntarOptions, tar_tree, untar_into};
use store::{NewVolume, VolumeError};

use crate::error::Error;
use crate::inner::Inner;
use crate::model::{MountKind, MountPoint};
use crate::names;
use crate::passed::{self, Kind};
use crate::views::{Filters, Pruned, TrashedVolume, VolumeView};

const MARK: &str = "filling";

// ---- for a container that is being made

/// Makes the volumes a container comes with, names the anonymous ones, fills the empty ones.
/// Answers the anonymous ones that were made.
pub(crate) async fn make(
    engine: &Arc<Inner>,
    mounts: &mut [MountPoint],
    image: &str,
) -> Result<Vec<String>, Error> {
    let wanted: Vec<MountPoint> = mounts.iter().filter(|m| is_to_make(m)).cloned().collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let image = image.to_owned();
    let turn = engine.filling.lock().await;
    let made = engine
        .blocking("make the container's volumes", move |inner| {
            make_all(inner, wanted, &image)
        })
        .await;
    drop(turn);
    engine.refresh_volumes().await;
    let made = made?;
    let mut anonymous = Vec::new();
    let mut made = made.into_iter();
    for point in mounts.iter_mut().filter(|m| is_to_make(m)) {
        let Some(done) = made.next() else { break };
        if point.spec.source.is_empty() {
            anonymous.push(done.name.clone());
        }
        *point = done;
    }
    Ok(anonymous)
}

/// A volume, but for one without a name that another container has already.
fn is_to_make(point: &MountPoint) -> bool {
    let is_others = point.spec.source.is_empty() && !point.name.is_empty();
    point.kind == MountKind::Volume && !is_others
}

/// Takes back what [`make`] made for a container that did not come to be.
pub(crate) async fn unmake(engine: &Arc<Inner>, anonymous: &[String]) {
    if anonymous.is_empty() {
        return;
    }
    let names = anonymous.to_vec();
    let done = engine
        .blocking("remove anonymous volumes", move |inner| {
            for name in &names {
                inner.remove_own_volume(name);
            }
            Ok(())
        })
        .await;
    if let Err(error) = done {
        tracing::warn!(error = %error.report(), "anonymous volumes of a failed create stay");
    }
    engine.refresh_volumes().await;
}

fn make_all(
    inner: &Inner,
    mut wanted: Vec<MountPoint>,
    image: &str,
) -> Result<Vec<MountPoint>, Error> {
    let mut anonymous = Vec::new();
    let mut view = None;
    for point in &mut wanted {
        let done = make_one(inner, point, image, &mut view, &mut anonymous);
        if let Err(error) = done {
            for name in &anonymous {
                inner.remove_own_volume(name);
            }
            return Err(error);
        }
    }
    Ok(wanted)
}

fn make_one(
    inner: &Inner,
    point: &mut MountPoint,
    image: &str,
    view: &mut Option<OwnedFd>,
    anonymous: &mut Vec<String>,
) -> Result<(), Error> {
    let known = inner
        .store
        .volume(&point.name)
        .ok()
        .filter(|_| !point.name.is_empty());
    let options = if let Some(known) = known {
        known.options
    } else {
        let info = inner
            .store
            .volume_create(&NewVolume {
                name: point.name.clone(),
                driver: String::new(),
                labels: point.spec.volume_labels.clone(),
                options: point.spec.volume_options.clone(),
            })
            .map_err(volume_error("make the volume"))?;
        inner.volume_event("create", &info.name);
        if point.name.is_empty() {
            anonymous.push(info.name.clone());
        }
        point.name = info.name;
        info.options
    };
    let data = inner.store.volume_dir(&point.name);
    point.source = data.to_string_lossy().into_owned();
    if point.spec.no_copy {
        return Ok(());
    }
    let kind = Kind::parse(&options)?;
    let mark = data.with_file_name(MARK);
    let Some(target) = place_to_fill(&kind, point, &data, &mark)? else {
        return Ok(());
    };
    let root = match view {
        Some(root) => root,
        None => view.insert(image_root(inner, image)?),
    };
    fill(root, &point.destination, &target, &mark)
}

/// Where the image's files go, if they do: into a volume that is empty, or that was being filled.
fn place_to_fill(
    kind: &Kind,
    point: &MountPoint,
    data: &Path,
    mark: &Path,
) -> Result<Option<OwnedFd>, Error> {
    let place = match kind {
        Kind::Own => {
            if mark.exists() {
                empty(data)?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = open(data, flags, Mode::empty());
            Some(opened.map_err(|e| Error::io(format!("open {}", data.display()))(e.into()))?)
        }
        other => passed::to_fill(other, &point.name)?,
    };
    let Some(place) = place else {
        return Ok(None);
    };
    // elsewhere others may have written meanwhile: what a fill left there stays, and is written anew
    let unfinished = mark.exists();
    let filled = !unfinished && holds_something(&place, &point.name)?;
    Ok((!filled).then_some(place))
}

fn holds_something(place: &OwnedFd, volume: &str) -> Result<bool, Error> {
    let list = || {
        for entry in rustix::fs::Dir::read_from(place)? {
            let entry = entry?;
            // what mkfs leaves in a new file system is nothing
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b".." | b"lost+found") {
                return Ok(true);
            }
        }
        Ok(false)
    };
    list().map_err(|e: rustix::io::Errno| Error::io(format!("read the volume {volume}"))(e.into()))
}

/// The image's files, read-only, in no mount table.
pub(crate) fn image_root(inner: &Inner, image: &str) -> Result<OwnedFd, Error> {
    let layers = inner
        .store
        .rootfs_layers(image)
        .map_err(Error::store("find the image's layers"))?;
    let failed = |e| Error::store("mount the image to fill a volume from it")(e);
    if inner.store.driver() == store::Driver::Overlay && layers.len() > 1 {
        let options = runtime::rootfs::OverlayOptions {
            read_only: true,
            volatile: false,
        };
        return runtime::rootfs::overlay(&layers, None, options).map_err(failed);
    }
    match layers.first() {
        Some(only) => runtime::rootfs::bind(only, true).map_err(failed),
        None => Err(Error::internal(format!("image {image} has no layers"))),
    }
}

fn empty(data: &Path) -> Result<(), Error> {
    let failed = |p: &Path| Error::io(format!("empty {}", p.display()));
    for entry in std::fs::read_dir(data).map_err(failed(data))? {
        let entry = entry.map_err(failed(data))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed(&path))?;
        sys::fault::point("engine.volume.empty").map_err(failed(&path))?;
        if kind.is_dir() {
            std::fs::remove_dir_all(&path).map_err(failed(&path))?;
        } else {
            std::fs::remove_file(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

/// Packs on one thread and unpacks on this one: owners, modes, xattrs and hard links are the
/// archive code's concern.
fn fill(root: &OwnedFd, path: &str, target: &OwnedFd, mark: &Path) -> Result<(), Error> {
    let found = store::archive_path::stat_path(root.as_fd(), path);
    let directory = matches!(&found, Ok(s) if s.mode & 0o170_000 == 0o040_000);
    if !directory {
        return Ok(()); // the image has nothing there
    }
    let dir = mark.parent().unwrap_or(mark);
    let failed = |what: &str, p: &Path| Error::io(format!("{what} {}", p.display()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = open(dir, flags, Mode::empty()).map_err(|e| failed("open", dir)(e.into()))?;
    sys::fault::point("engine.volume.mark")
        .and_then(|()| std::fs::File::create(mark).map(drop))
        .map_err(failed("mark", mark))?;
    fsync(&parent).map_err(|e| failed("sync", dir)(e.into()))?;
    let (mut reader, writer) = std::io::pipe().map_err(Error::io("make a pipe"))?;
    let copied = std::thread::scope(|scope| {
        let packing = scope.spawn(move || pack(root, path, writer));
        let options = UntarOptions {
            throwaway: false,
            no_overwrite_dir_non_dir: false,
            owner: None,
        };
        let unpacked = untar_into(target.as_fd(), "/", &mut reader, &options);
        drop(reader);
        let packed = packing.join();
        unpacked?;
        packed.unwrap_or_else(|_| Err(ArchivePathError::NotFound(path.to_owned())))
    });
    copied.map_err(Error::store(format!(
        "fill the volume from the image's {path}"
    )))?;
    same_owner_and_mode(root, path, target)?;
    sys::fault::point("engine.volume.sync").map_err(failed("sync", dir))?;
    syncfs(target).map_err(|e| failed("sync", dir)(e.into()))?;
    sys::fault::point("engine.volume.unmark")
        .and_then(|()| std::fs::remove_file(mark))
        .map_err(failed("unmark", mark))?;
    fsync(&parent).map_err(|e| failed("sync", dir)(e.into()))
}

/// The archive's top is what is in the directory; the directory itself is made alike here.
fn same_owner_and_mode(root: &OwnedFd, path: &str, target: &OwnedFd) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = path.trim_start_matches('/');
    let alike = || {
        let from = openat2(root, below, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let stat = fstat(&from)?;
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fchown(target, Some(uid), Some(gid))?;
        fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))
    };
    sys::fault::point("engine.volume.mode").map_err(Error::io("set the volume's mode"))?;
    alike().map_err(|e| Error::io(format!("make the volume alike to {path}"))(e.into()))
}

fn pack(root: &OwnedFd, path: &str, writer: std::io::PipeWriter) -> Result<(), ArchivePathError> {
    let mut writer = std::io::BufWriter::with_capacity(64 * 1024, writer);
    let options = TarOptions {
        rename: Some(String::new()),
        follow: true,
        one_file_system: false,
    };
    tar_tree(root.as_fd(), path, &mut writer, &options)?;
    writer.flush().map_err(ArchivePathError::Write)
}

/// For `map_err`.
fn volume_error(what: &'static str) -> impl FnOnce(VolumeError) -> Error {
    move |e| {
        let text = e.to_string();
        match e {
            VolumeError::NotFound { .. } | VolumeError::NotInTrash { .. } => Error::not_found(text),
            VolumeError::InUse { .. }
            | VolumeError::NameTaken { .. }
            | VolumeError::Occupied { .. } => Error::conflict(text),
            VolumeError::UnknownDriver { .. } => Error::unsupported(text),
            VolumeError::BadName { .. } => Error::invalid(text),
            other => Error::store(what)(other),
        }
    }
}

// ---- calls on volumes

pub(crate) async fn create(
    engine: &Arc<Inner>,
    name: &str,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<VolumeView, Error> {
    if !name.is_empty() {
        names::check("volume", name)?;
    }
    Kind::parse(&options)?;
    let new = NewVolume {
        name: name.to_owned(),
        driver: String::new(),
        labels,
        options,
    };
    let view = engine
        .blocking("make the volume", move |inner| {
            let known = !new.name.is_empty() && inner.store.volume(&new.name).is_ok();
            let made = inner.store.volume_create(&new);
            let info = made.map_err(volume_error("make the volume"))?;
            if !known {
                inner.volume_event("create", &info.name);
            }
            Ok(inner.volume_view(info))
        })
        .await?;
    engine.refresh_volumes().await;
    Ok(view)
}

pub(crate) async fn remove(engine: &Arc<Inner>, name: &str, force: bool) -> Result<(), Error> {
    let wanted = name.to_owned();
    let removed = engine
        .blocking("remove the volume", move |inner| {
            let removed = inner.store.volume_remove(&wanted);
            match removed {
                Ok(()) => {
                    inner.volume_event("destroy", &wanted);
                    Ok(())
                }
                Err(VolumeError::NotFound { .. }) if force => Ok(()),
                Err(e) => Err(volume_error("remove the volume")(e)),
            }
        })
        .await;
    engine.refresh_volumes().await;
    removed
}

pub(crate) async fn restore(engine: &Arc<Inner>, name: &str) -> Result<VolumeView, Error> {
    let wanted = name.to_owned();
    let view = engine
        .blocking("bring the volume back", move |inner| {
            let restored = inner.store.volume_restore(&wanted);
            let info = restored.map_err(volume_error("bring the volume back"))?;
            inner.volume_event("create", &info.name);
            Ok(inner.volume_view(info))
        })
        .await?;
    engine.refresh_volumes().await;
    Ok(view)
}

pub(crate) async fn in_trash(engine: &Arc<Inner>) -> Result<Vec<TrashedVolume>, Error> {
    engine
        .blocking("list removed volumes", |inner| {
            let all = inner.store.volumes_in_trash();
            let all = all.map_err(volume_error("list removed volumes"))?;
            Ok(all
                .into_iter()
                .map(|t| TrashedVolume {
                    name: t.volume.name,
                    removed: t.removed_at,
                    size: None,
                })
                .collect())
        })
        .await
}

/// Without `all` only anonymous ones; never one that a container refers to.
pub(crate) async fn prune(engine: &Arc<Inner>, filters: &Filters) -> Result<Pruned, Error> {
    let all = crate::prune::flag(filters, "all")?.unwrap_or(false);
    crate::prune::known(filters, &["all", "label", "label!"])?;
    let used = users(engine);
    let doomed: Vec<String> = engine
        .volumes
        .load()
        .iter()
        .filter(|v| (all || v.anonymous) && !used.contains_key(&v.name))
        .filter(|v| crate::prune::labels_match(filters, &v.labels))
        .map(|v| v.name.clone())
        .collect();
    let pruned = engine
        .blocking("remove volumes", move |inner| {
            let mut pruned = Pruned::default();
            for name in doomed {
                let size = crate::sizes::tree(&inner.store.volume_dir(&name));
                match inner.store.volume_remove(&name) {
                    Ok(()) => {
                        inner.volume_event("destroy", &name);
                        pruned.space_reclaimed += size;
                        pruned.volumes.push(name);
                    }
                    // came into use, or went, since it was chosen
                    Err(VolumeError::InUse { .. } | VolumeError::NotFound { .. }) => {}
                    Err(e) => return Err(volume_error("remove the volume")(e)),
                }
            }
            Ok(pruned)
        })
        .await;
    engine.refresh_volumes().await;
    pruned
}

/// Containers (ids) by the volume they refer to.
pub(crate) fn users(engine: &Inner) -> BTreeMap<String, Vec<String>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for view in engine.containers.views() {
        for mount in &view.record.mounts {
            if mount.kind == MountKind::Volume {
                let list = users.entry(mount.name.clone()).or_default();
                list.push(view.record.id.clone());
            }
        }
    }
    users
}
