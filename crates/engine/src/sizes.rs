//! How much disk things take.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::inner::Inner;
use crate::model::ContainerRecord;
use crate::views::{ContainerUsage, DiskUsage, ImageUsage, VolumeUsage};

/// Bytes of disk that a tree takes: hard links once, holes not at all. What goes away or cannot be
/// read meanwhile is left out.
pub(crate) fn tree(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut total = 0;
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        total += meta.blocks() * 512;
        if meta.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            todo.extend(entries.flatten().map(|e| e.path()));
        }
    }
    total
}

/// Blocking.
pub(crate) fn container(inner: &Inner, record: &ContainerRecord) -> ContainerUsage {
    let fs = inner.store.container_fs(&record.id);
    let image = inner.images.load();
    let image = image.iter().find(|i| i.id == record.image_id);
    let own = if inner.store.driver() == store::Driver::Vfs {
        0
    } else {
        tree(&fs.upper)
    };
    let logs = std::fs::read_dir(&fs.dir).map_or(0, |entries| {
        entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("json.log"))
            .filter_map(|e| e.metadata().ok())
            .map(|m| m.blocks() * 512)
            .sum()
    });
    ContainerUsage {
        id: record.id.clone(),
        size_rw: own,
        size_root_fs: own + image.map_or(0, |i| i.size),
        size_logs: logs,
    }
}

pub(crate) async fn all(engine: &Arc<Inner>) -> Result<DiskUsage, Error> {
    let containers = engine.containers.views();
    let users = crate::volumes::users(engine);
    engine
        .blocking("measure what is stored", move |inner| {
            let images = inner.store.images();
            let images = images.map_err(Error::store("list images"))?;
            let usage = inner.store.images_usage();
            let layers_size = usage.map_err(Error::store("measure layers"))?.layers;
            let used_by = |id: &str| {
                let users = containers.iter().filter(|c| c.record.image_id == id);
                users.count() as u64
            };
            Ok(DiskUsage {
                layers_size,
                images: images
                    .iter()
                    .filter(|i| !i.intermediate)
                    .map(|i| ImageUsage {
                        size: i.size,
                        shared: i.size.saturating_sub(i.unique_size),
                        containers: used_by(&i.id),
                        id: i.id.clone(),
                    })
                    .collect(),
                containers: containers
                    .iter()
                    .map(|c| container(inner, &c.record))
                    .collect(),
                volumes: inner
                    .volumes
                    .load()
                    .iter()
                    .map(|v| VolumeUsage {
                        size: tree(&v.mountpoint),
                        references: users.get(&v.name).map_or(0, |u| u.len() as u64),
                        name: v.name.clone(),
                    })
                    .collect(),
                builds: crate::build::usage(inner)?
                    .into_iter()
                    .map(|step| crate::views::BuildUsage {
                        is_mount: step.image.is_empty(),
                        id: step.key,
                        what: step.what,
                        created: step.created,
                        used: step.used,
                        uses: step.uses,
                        size: step.size,
                        shared: step.shared,
                    })
                    .collect(),
            })
        })
        .await
}
