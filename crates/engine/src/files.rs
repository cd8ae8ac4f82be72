//! Files of containers: cp, export, diff, commit.
//!
//! A running container is entered by its process's root, so mounts are seen as it sees them. For
//! one that does not run the root is mounted detached: read-only as a stack of layers with its own
//! on top, so that it takes nothing from a start at the same time; for writing as at a start, in
//! turns with starts. Its volumes and binds are found by the longest mount point that holds the
//! path. Every lookup is beneath a descriptor and cannot leave it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, syncfs};
use store::archive_path::{
    ArchivePathError, TarOptions, UntarOptions, stat_path, tar_tree, untar_into,
};
use store::diff::DiffError;

use crate::container::{self, Command, Live};
use crate::error::Error;
use crate::inner::{Inner, ask};
use crate::model::{ContainerRecord, ErrorKind, MountKind, MountPoint, Phase};
use crate::passed;
use crate::pipe::{self, ByteReceiver};
use crate::registry::Entry;
use crate::views::{Change, ChangeKind, CommitOptions, PathStat, ProgressSender, PutOptions};

const TURN_DEADLINE: Duration = Duration::from_secs(30);

/// What the engine makes in a container's root for its own mounts.
const OWN_PATHS: [&str; 7] = [
    "/dev",
    "/proc",
    "/sys",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/.dockerenv",
];

pub(crate) fn excluded(record: &ContainerRecord) -> Vec<String> {
    let own = OWN_PATHS.iter().map(|p| (*p).to_owned());
    let mounts = record.mounts.iter().map(|m| m.destination.clone());
    own.chain(mounts)
        .chain(record.spec.host.tmpfs.keys().cloned())
        .collect()
}

// ---- which root, which path

struct Place {
    root: OwnedFd,
    path: String,
    /// Held while the root is mounted for writing.
    _turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

async fn place(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    path: &str,
    write: bool,
) -> Result<Place, Error> {
    if path.is_empty() {
        return Err(Error::invalid("the path must not be empty"));
    }
    let view = entry.view.load_full();
    if view.is_running() {
        let live: Live = ask(entry, |reply| Command::Live {
            unpaused: false,
            reply,
        })
        .await?;
        let root = container::open_root(&live)?;
        return Ok(Place {
            root,
            path: path.to_owned(),
            _turn: None,
        });
    }
    if view.phase == Phase::Dead {
        return Err(Error::conflict(format!(
            "container {} cannot be used: {}",
            view.name(),
            view.error
        )));
    }
    let record = view.record.clone();
    if let Some((mount, path)) = mounted_at(&record, path)? {
        let root = engine
            .blocking("open what is mounted there", move |inner| {
                open_mount(inner, &mount)
            })
            .await?;
        return Ok(Place {
            root,
            path,
            _turn: None,
        });
    }
    let turn = if write {
        let turn = tokio::time::timeout(TURN_DEADLINE, entry.root_turn.clone().lock_owned());
        let turn = turn.await.map_err(|_| {
            Error::timeout(format!(
                "waited {} s for another writer of the container's files",
                TURN_DEADLINE.as_secs()
            ))
        })?;
        if entry.view.load().is_running() || entry.view.load().phase == Phase::Starting {
            return Err(Error::conflict(
                "the container was started just now: try again",
            ));
        }
        Some(turn)
    } else {
        None
    };
    let root = engine
        .blocking("mount the container's root", move |inner| {
            container::mount_root(inner, &record, !write)
        })
        .await?;
    Ok(Place {
        root,
        path: path.to_owned(),
        _turn: turn,
    })
}

/// The mount whose destination is the longest beginning of the path, and what is left of the path.
fn mounted_at(record: &ContainerRecord, path: &str) -> Result<Option<(MountPoint, String)>, Error> {
    let wanted = format!("/{}", path.trim_start_matches('/'));
    let holds = |destination: &str| {
        wanted
            .strip_prefix(destination)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let best = record
        .mounts
        .iter()
        .filter(|m| m.kind != MountKind::Tmpfs && holds(&m.destination))
        .max_by_key(|m| m.destination.len());
    let Some(mount) = best.cloned() else {
        return Ok(None);
    };
    let rest = &wanted[mount.destination.len()..];
    if rest.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!(
            "{path}: give a path without .. into {}",
            mount.destination
        )));
    }
    let rest = if rest.is_empty() { "/" } else { rest };
    let rest = rest.to_owned();
    Ok(Some((mount, rest)))
}

/// What is mounted there while the container runs, and does not.
fn open_mount(inner: &Inner, mount: &MountPoint) -> Result<OwnedFd, Error> {
    if let Some(passed) = passed::one(inner, mount, None)? {
        return Ok(passed);
    }
    match mount.kind {
        MountKind::Volume => open_directory(&passed::directory(inner, mount)?),
        _ => open_directory(Path::new(&mount.source)),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::io(format!("open {}", path.display()))(e.into()))
}

fn path_error(name: &str) -> impl FnOnce(ArchivePathError) -> Error + '_ {
    move |e| match &e {
        ArchivePathError::NotFound(path) => Error::not_found(format!(
            "Could not find the file {path} in container {name}"
        )),
        ArchivePathError::NotADirectory(_) | ArchivePathError::Tar(_) => {
            Error::invalid(Error::store("copy files")(e).report())
        }
        ArchivePathError::Unpack(_) => match Error::store("copy files")(e) {
            full if full.kind() == ErrorKind::NoSpace => full,
            other => Error::new(ErrorKind::InvalidArgument, other.report()),
        },
        _ => Error::store("copy files")(e),
    }
}

fn stat_view(stat: store::archive_path::PathStat) -> PathStat {
    let mtime = jiff::Timestamp::new(stat.mtime.sec, i32::try_from(stat.mtime.nsec).unwrap_or(0));
    PathStat {
        name: stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime: mtime.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string(),
        link_target: stat.link_target,
    }
}

// ---- calls

pub(crate) async fn stat(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    path: &str,
) -> Result<PathStat, Error> {
    let place = place(engine, entry, path, false).await?;
    let name = entry.id.clone();
    engine
        .blocking("look at the path", move |_| {
            stat_path(place.root.as_fd(), &place.path)
                .map(stat_view)
                .map_err(path_error(&name))
        })
        .await
}

pub(crate) async fn get(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    path: &str,
) -> Result<(PathStat, ByteReceiver), Error> {
    let place = place(engine, entry, path, false).await?;
    let name = entry.id.clone();
    let (stat, place) = engine
        .blocking("look at the path", move |_| {
            let stat = stat_path(place.root.as_fd(), &place.path)
                .map(stat_view)
                .map_err(path_error(&name))?;
            Ok((stat, place))
        })
        .await?;
    let options = TarOptions {
        rename: None,
        follow: path.ends_with("/.") || path.ends_with('/'),
        one_file_system: false,
    };
    Ok((stat, stream(place, options)))
}

fn stream(place: Place, options: TarOptions) -> ByteReceiver {
    let (mut writer, receiver) = pipe::output();
    tokio::task::spawn_blocking(move || {
        let packed = tar_tree(place.root.as_fd(), &place.path, &mut writer, &options)
            .and_then(|()| writer.flush().map_err(ArchivePathError::Write));
        if let Err(error) = packed {
            let text = Error::store("pack the files")(error).report();
            writer.fail(std::io::Error::other(text));
        }
    });
    receiver
}

/// Durable when it returns.
pub(crate) async fn put(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    path: &str,
    options: PutOptions,
    mut tar: Box<dyn Read + Send>,
) -> Result<(), Error> {
    let view = entry.view.load_full();
    refuse_read_only(&view.record, path)?;
    let place = place(engine, entry, path, true).await?;
    let name = entry.id.clone();
    // takes as long as the client sends: no deadline but the client's
    let work = tokio::task::spawn_blocking(move || {
        let options = UntarOptions {
            throwaway: false,
            no_overwrite_dir_non_dir: options.no_overwrite_dir_non_dir,
            // Docker keeps the archive's owners; with copyUIDGID it takes the container's user,
            // which is left to the archive too where that is root
            owner: None,
        };
        untar_into(place.root.as_fd(), &place.path, &mut *tar, &options)
            .map_err(path_error(&name))?;
        sys::fault::point("engine.archive.sync").map_err(Error::io("sync"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = place.path.trim_start_matches('/');
        let below = if below.is_empty() { "." } else { below };
        openat2(
            &place.root,
            below,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
        .and_then(|dir| syncfs(&dir))
        .map_err(|e| Error::io("sync the files copied")(e.into()))
    });
    let done = work
        .await
        .unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "copy files", e)));
    done?;
    engine.container_event(&view.record, "extract-to-dir", &[]);
    Ok(())
}

fn refuse_read_only(record: &ContainerRecord, path: &str) -> Result<(), Error> {
    let wanted = format!("/{}", path.trim_start_matches('/'));
    let mount = record
        .mounts
        .iter()
        .filter(|m| Path::new(&wanted).starts_with(&m.destination))
        .max_by_key(|m| m.destination.len());
    let read_only = mount.map_or(record.spec.host.read_only, |m| m.read_only);
    if read_only {
        return Err(Error::new(
            ErrorKind::Forbidden,
            match mount {
                Some(_) => "mounted volume is marked read-only",
                None => "container rootfs is marked read-only",
            },
        ));
    }
    Ok(())
}

pub(crate) async fn export(engine: &Arc<Inner>, entry: &Arc<Entry>) -> Result<ByteReceiver, Error> {
    let view = entry.view.load_full();
    let record = view.record.clone();
    let root = engine
        .blocking("mount the container's root", move |inner| {
            container::mount_root(inner, &record, true)
        })
        .await?;
    engine.container_event(&view.record, "export", &[]);
    let options = TarOptions {
        rename: Some(String::new()),
        follow: false,
        one_file_system: true,
    };
    let place = Place {
        root,
        path: "/".to_owned(),
        _turn: None,
    };
    Ok(stream(place, options))
}

pub(crate) async fn changes(engine: &Arc<Inner>, entry: &Arc<Entry>) -> Result<Vec<Change>, Error> {
    let record = entry.view.load().record.clone();
    engine
        .blocking("compare the container with its image", move |inner| {
            let changes = inner.store.changes(&record.id, &excluded(&record));
            let changes = changes.map_err(|e| match e {
                DiffError::NotFound(id) => Error::not_found(format!("No such container: {id}")),
                other => Error::store("compare the container with its image")(other),
            })?;
            Ok(changes
                .into_iter()
                .map(|c| Change {
                    path: c.path,
                    kind: match c.kind {
                        store::diff::ChangeKind::Modified => ChangeKind::Modified,
                        store::diff::ChangeKind::Added => ChangeKind::Added,
                        store::diff::ChangeKind::Deleted => ChangeKind::Deleted,
                    },
                })
                .collect())
        })
        .await
}

pub(crate) async fn commit(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    options: CommitOptions,
    progress: Option<ProgressSender>,
) -> Result<String, Error> {
    let view = entry.view.load_full();
    if matches!(view.phase, Phase::Removing | Phase::Dead) {
        return Err(Error::conflict(format!(
            "You cannot commit container {} which is {}",
            view.name(),
            if view.phase == Phase::Dead {
                "Dead"
            } else {
                "Removing"
            }
        )));
    }
    let freeze = options.pause && view.phase == Phase::Running;
    if freeze {
        ask(entry, |reply| Command::Pause { reply }).await?;
    }
    let record = &view.record;
    let committed =
        crate::images::commit(engine, record, excluded(record), options, progress).await;
    if freeze {
        // stopped meanwhile: then nothing is frozen
        let thawed = ask(entry, |reply| Command::Unpause { reply }).await;
        if let Err(error) = thawed {
            tracing::warn!(error = %error.report(), "not thawed after the commit");
        }
    }
    let id = committed?;
    engine.container_event(record, "commit", &[("comment", String::new())]);
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MountPoint, MountSpec};

    #[test]
    fn the_innermost_mount_holds_the_path() {
        let point = |destination: &str, source: &str| MountPoint {
            kind: MountKind::Volume,
            name: source.to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            read_only: false,
            propagation: String::new(),
            spec: serde_json::from_value::<MountSpec>(serde_json::json!({
                "kind": "volume", "source": "", "target": destination, "read_only": false
            }))
            .unwrap(),
        };
        let record = ContainerRecord {
            mounts: vec![point("/data", "/v/outer"), point("/data/in", "/v/inner")],
            ..crate::testing::record()
        };
        let at = |p: &str| {
            let found = mounted_at(&record, p).unwrap();
            found.map(|(mount, rest)| (mount.source, rest))
        };
        assert_eq!(at("/data/in/x"), Some(("/v/inner".into(), "/x".into())));
        assert_eq!(at("data"), Some(("/v/outer".into(), "/".into())));
        assert_eq!(at("/database"), None);
        assert!(mounted_at(&record, "/data/../etc").is_err());
    }
}
