//! Calls on images: translation to the store's, events, the published list.

use std::io::{Read, Write};
use std::sync::Arc;

use store::config::RunConfig;
use store::images::{CommitError, ImageError, ImportError, LoadError, SaveError};
use store::progress::{Action, Update};
use store::{CommitRequest, ImageInfo, ImportRequest};

use crate::error::Error;
use crate::inner::Inner;
use crate::model::{ContainerSpec, ErrorKind, HealthSpec};
use crate::pipe::{self, ByteReceiver};
use crate::prune;
use crate::views::{
    CommitOptions, Filters, HistoryEntry, ImageConfig, ImageView, ImportOptions, LoadedImage,
    Progress, ProgressSender, Pruned, RemovedImage,
};

// ---- the published list

pub(crate) fn view(info: &ImageInfo) -> ImageView {
    let config = &info.config;
    ImageView {
        id: info.id.clone(),
        names: info.names.clone(),
        digests: info.digests.clone(),
        parent: info.parent.clone().unwrap_or_default(),
        intermediate: info.intermediate,
        created: info.created.clone(),
        size: info.size,
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        author: config.author.clone(),
        comment: config.comment.clone(),
        config: run_view(&config.config),
        layers: info.layers.iter().map(|l| l.diff.clone()).collect(),
        last_tagged: Some(info.added.clone()).filter(|a| !a.is_empty()),
    }
}

fn run_view(run: &RunConfig) -> ImageConfig {
    ImageConfig {
        user: run.user.clone(),
        exposed_ports: run.exposed_ports.keys().cloned().collect(),
        env: run.env.clone(),
        entrypoint: run.entrypoint.clone(),
        cmd: run.cmd.clone(),
        volumes: run.volumes.keys().cloned().collect(),
        working_dir: run.working_dir.clone(),
        labels: run.labels.clone(),
        stop_signal: Some(run.stop_signal.clone()).filter(|s| !s.is_empty()),
        // an image's check that cannot be read is none, as for dockerd
        health: run
            .healthcheck
            .as_ref()
            .and_then(|h| serde_json::from_value(h.clone()).ok()),
        shell: run.shell.clone(),
        on_build: run.on_build.clone(),
    }
}

/// Newest first, as they are listed.
pub(crate) fn sorted(mut list: Vec<ImageView>) -> Vec<ImageView> {
    list.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    list
}

/// By id, by name (with `latest` where no tag is given), by digest, by prefix of an id.
pub(crate) fn find(list: &[ImageView], wanted: &str) -> Result<ImageView, Error> {
    let none = || Error::not_found(format!("No such image: {wanted}"));
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex && hex.len() == 64 {
        let exact = list.iter().find(|i| &i.id["sha256:".len()..] == hex);
        return exact.cloned().ok_or_else(none);
    }
    match store::reference::Reference::parse(wanted) {
        Ok(reference) => {
            let name = reference.with_default_tag().familiar();
            let named = |i: &&ImageView| i.names.contains(&name) || i.digests.contains(&name);
            if let Some(image) = list.iter().find(named) {
                return Ok(image.clone());
            }
        }
        // not a name at all: another mistake than one that nobody has
        Err(wrong) if !is_hex && !wanted.starts_with("sha256:") => {
            return Err(Error::invalid(wrong.to_string()));
        }
        Err(_) => {}
    }
    if !is_hex {
        return Err(none());
    }
    let mut hits = list
        .iter()
        .filter(|i| i.id["sha256:".len()..].starts_with(hex));
    match (hits.next(), hits.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(none()),
        _ => Err(Error::invalid(format!(
            "multiple images found with provided prefix: {wanted}"
        ))),
    }
}

// ---- progress

pub(crate) struct Relay {
    to: Option<ProgressSender>,
    /// Of a pull, in the words of one.
    pull: bool,
}

impl Relay {
    fn new(to: Option<ProgressSender>) -> Self {
        Self { to, pull: false }
    }

    pub(crate) fn of_pull(to: Option<ProgressSender>) -> Self {
        Self { to, pull: true }
    }
}

impl store::progress::Progress for Relay {
    fn update(&self, update: &Update<'_>) {
        let Some(sender) = &self.to else { return };
        let status = match update.action {
            Action::Waiting => "Pulling fs layer",
            Action::Loading if self.pull => "Downloading",
            Action::Exists if self.pull => "Already exists",
            Action::Done if self.pull => "Pull complete",
            Action::Loading => "Loading layer",
            Action::Extracting => "Extracting",
            Action::Compressing => "Compressing",
            Action::Saving => "Saving",
            Action::Syncing => "Syncing",
            Action::Done => "Complete",
            Action::Exists => "Layer already exists",
        };
        let lost = sender.try_send(Progress {
            id: update.id.to_owned(),
            status: status.to_owned(),
            current: update.done,
            total: update.total.unwrap_or(0),
        });
        drop(lost); // a slow reader misses steps; the work goes on
    }
}

// ---- errors

fn image_error(what: &'static str) -> impl FnOnce(ImageError) -> Error {
    move |e| match &e {
        ImageError::NotFound(name) => Error::not_found(format!("No such image: {name}")),
        ImageError::Ambiguous(_) | ImageError::Reference(_) | ImageError::DigestAsTag(_) => {
            Error::invalid(e.to_string())
        }
        ImageError::InUse { .. } | ImageError::ManyNames { .. } => Error::conflict(e.to_string()),
        _ => Error::store(what)(e),
    }
}

pub(crate) fn load_error(e: LoadError) -> Error {
    let what = "load the archive";
    match &e {
        LoadError::Disk(_) | LoadError::Meta(_) => Error::store(what)(e),
        LoadError::NoSpace { .. } => Error::caused(ErrorKind::NoSpace, what, e),
        _ => match Error::store(what)(e) {
            // what is wrong with it is in the archive, unless the disk is full
            full if full.kind() == ErrorKind::NoSpace => full,
            other => Error::new(ErrorKind::InvalidArgument, other.report()),
        },
    }
}

// ---- calls

/// These take as long as their input does: no deadline but the client's.
pub(crate) async fn long<T: Send + 'static>(
    engine: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let inner = engine.clone();
    tokio::task::spawn_blocking(move || work(&inner))
        .await
        .unwrap_or_else(|e| Err(Error::caused(ErrorKind::Internal, "work on images", e)))
}

pub(crate) async fn load(
    engine: &Arc<Inner>,
    mut archive: Box<dyn Read + Send>,
    progress: Option<ProgressSender>,
) -> Result<Vec<LoadedImage>, Error> {
    let loaded = long(engine, move |inner| {
        let loaded = inner.store.load(&mut *archive, &Relay::new(progress));
        loaded.map_err(load_error)
    })
    .await?;
    engine.refresh_images().await;
    let mut out = Vec::with_capacity(loaded.len());
    for image in loaded {
        let name = image.names.first().unwrap_or(&image.id);
        engine.image_event("load", &image.id, name);
        out.push(LoadedImage {
            id: image.id,
            names: image.names,
        });
    }
    Ok(out)
}

pub(crate) async fn import(
    engine: &Arc<Inner>,
    mut tar: Box<dyn Read + Send>,
    options: ImportOptions,
    progress: Option<ProgressSender>,
) -> Result<String, Error> {
    let name = options.reference.clone();
    let id = long(engine, move |inner| {
        let request = ImportRequest {
            reference: options.reference,
            message: options.message,
            changes: options.changes,
            platform: options.platform.unwrap_or_default(),
            config: RunConfig::default(),
        };
        let imported = inner
            .store
            .import(&mut *tar, &request, &Relay::new(progress));
        imported.map_err(|e| match e {
            ImportError::Load(e) => load_error(e),
            other => Error::invalid(Error::store("import")(other).report()),
        })
    })
    .await?;
    engine.refresh_images().await;
    engine.image_event("import", &id, name.as_deref().unwrap_or(&id));
    Ok(id)
}

pub(crate) async fn save(
    engine: &Arc<Inner>,
    images: &[String],
    progress: Option<ProgressSender>,
) -> Result<ByteReceiver, Error> {
    if images.is_empty() {
        return Err(Error::invalid("no image given to save"));
    }
    for image in images {
        engine.image(image)?;
    }
    let (names, inner) = (images.to_vec(), engine.clone());
    let (mut writer, receiver) = pipe::output();
    tokio::task::spawn_blocking(move || {
        let saved = inner
            .store
            .save(&names, &mut writer, &Relay::new(progress))
            .and_then(|()| writer.flush().map_err(SaveError::Write));
        if let Err(error) = saved {
            let text = Error::store("save images")(error).report();
            writer.fail(std::io::Error::other(text));
        }
    });
    Ok(receiver)
}

pub(crate) async fn tag(engine: &Arc<Inner>, image: &str, reference: &str) -> Result<(), Error> {
    let (image, reference) = (image.to_owned(), reference.to_owned());
    let tagged = engine
        .blocking("tag the image", move |inner| {
            let tagged = inner.store.tag(&image, &reference);
            tagged.map_err(image_error("tag the image"))
        })
        .await?;
    engine.refresh_images().await;
    engine.image_event("tag", &tagged.id, &tagged.name);
    Ok(())
}

fn running(engine: &Inner) -> Vec<String> {
    let views = engine.containers.views();
    let running = views.iter().filter(|v| v.is_running());
    running.map(|v| v.record.id.clone()).collect()
}

pub(crate) async fn remove(
    engine: &Arc<Inner>,
    image: &str,
    force: bool,
) -> Result<Vec<RemovedImage>, Error> {
    refuse_mounted(engine, image)?;
    let image = image.to_owned();
    let options = store::RemoveOptions {
        force,
        running: running(engine),
    };
    let removed = engine
        .blocking("remove the image", move |inner| {
            let removed = inner.store.image_remove(&image, &options);
            removed.map_err(image_error("remove the image"))
        })
        .await?;
    engine.refresh_images().await;
    Ok(removed.into_iter().map(|r| removal(engine, r)).collect())
}

/// A container that mounts an image stands on its files, as one made from it does.
fn refuse_mounted(engine: &Inner, image: &str) -> Result<(), Error> {
    let Ok(found) = engine.image(image) else {
        return Ok(());
    };
    let by_name =
        found.names.len() > 1 && !found.id.trim_start_matches("sha256:").starts_with(image);
    let views = engine.containers.views();
    let user = views.iter().find(|v| mounts(&v.record, &found.id));
    match user {
        Some(user) if !by_name => Err(Error::conflict(format!(
            "conflict: unable to remove {image}: container {} mounts it: remove that first",
            user.name()
        ))),
        _ => Ok(()),
    }
}

fn mounts(record: &crate::model::ContainerRecord, image: &str) -> bool {
    let mut all = record.mounts.iter();
    all.any(|m| m.kind == crate::model::MountKind::Image && m.name == image)
}

fn removal(engine: &Inner, removed: store::Removed) -> RemovedImage {
    match removed {
        store::Removed::Untagged(name) => {
            engine.image_event("untag", &name, &name);
            RemovedImage::Untagged(name)
        }
        store::Removed::Deleted(id) => {
            engine.image_event("delete", &id, &id);
            RemovedImage::Deleted(id)
        }
    }
}

pub(crate) async fn history(engine: &Arc<Inner>, image: &str) -> Result<Vec<HistoryEntry>, Error> {
    let image = image.to_owned();
    engine
        .blocking("read the image's history", move |inner| {
            let lines = inner.store.history(&image);
            let lines = lines.map_err(image_error("read the image's history"))?;
            Ok(lines
                .into_iter()
                .map(|line| HistoryEntry {
                    id: if line.id.is_empty() {
                        "<missing>".to_owned()
                    } else {
                        line.id
                    },
                    created: line.entry.created,
                    created_by: line.entry.created_by,
                    tags: line.names,
                    size: line.size,
                    comment: line.entry.comment,
                })
                .collect())
        })
        .await
}

/// Images without a name; with `dangling=false` all that no container uses.
pub(crate) async fn prune(engine: &Arc<Inner>, filters: &Filters) -> Result<Pruned, Error> {
    prune::known(filters, &["dangling", "until", "label", "label!"])?;
    let dangling = prune::flag(filters, "dangling")?.unwrap_or(true);
    let limit = prune::until(filters)?;
    let used: std::collections::BTreeSet<String> = engine
        .containers
        .views()
        .iter()
        .flat_map(|v| {
            let images = v.record.mounts.iter();
            let mounted = images.filter(|m| m.kind == crate::model::MountKind::Image);
            let mounted: Vec<String> = mounted.map(|m| m.name.clone()).collect();
            mounted.into_iter().chain([v.record.image_id.clone()])
        })
        .collect();
    let list = engine.images.load_full();
    let mut pruned = Pruned::default();
    for image in list.iter() {
        if used.contains(&image.id)
            // the build cache's: see its own prune
            || image.intermediate
            || (dangling && !image.names.is_empty())
            || !prune::labels_match(filters, &image.config.labels)
            || !prune::older(&image.created, limit)
        {
            continue;
        }
        let (id, options) = (
            image.id.clone(),
            store::RemoveOptions {
                force: true,
                running: running(engine),
            },
        );
        let removed = engine
            .blocking("remove the image", move |inner| {
                let before = inner.store.image(&id).map(|i| i.unique_size).unwrap_or(0);
                match inner.store.image_remove(&id, &options) {
                    Ok(removed) => Ok(Some((removed, before))),
                    // came into use, or went, since it was chosen
                    Err(ImageError::NotFound(_) | ImageError::InUse { .. }) => Ok(None),
                    Err(e) => Err(image_error("remove the image")(e)),
                }
            })
            .await?;
        if let Some((removed, size)) = removed {
            pruned.space_reclaimed += size;
            let removed = removed.into_iter().map(|r| removal(engine, r));
            pruned.images.extend(removed);
        }
    }
    engine.refresh_images().await;
    Ok(pruned)
}

// ---- commit

/// `exclude`: paths that the engine made for mounts.
pub(crate) async fn commit(
    engine: &Arc<Inner>,
    record: &crate::model::ContainerRecord,
    exclude: Vec<String>,
    options: CommitOptions,
    progress: Option<ProgressSender>,
) -> Result<String, Error> {
    let request = CommitRequest {
        parent: record.image_id.clone(),
        container: record.id.clone(),
        reference: options.reference.clone(),
        author: options.author,
        message: options.comment,
        changes: options.changes,
        config: merged(&options.config, &record.spec),
        exclude,
        ..CommitRequest::default()
    };
    let id = long(engine, move |inner| {
        let committed = inner.store.commit(&request, &Relay::new(progress));
        committed.map_err(|e| match e {
            CommitError::Image(e) => image_error("commit")(e),
            CommitError::Load(e) => load_error(e),
            e @ (CommitError::Reference(_) | CommitError::Change(_)) => {
                Error::invalid(Error::store("commit")(e).report())
            }
            other => Error::store("commit")(other),
        })
    })
    .await?;
    engine.refresh_images().await;
    let name = options.reference.as_deref().unwrap_or(&id);
    engine.image_event("create", &id, name);
    Ok(id)
}

fn health_over(given: HealthSpec, own: HealthSpec) -> HealthSpec {
    let time = |given: i64, own: i64| if given == 0 { own } else { given };
    HealthSpec {
        test: if given.test.is_empty() {
            own.test
        } else {
            given.test
        },
        interval: time(given.interval, own.interval),
        timeout: time(given.timeout, own.timeout),
        start_period: time(given.start_period, own.start_period),
        start_interval: time(given.start_interval, own.start_interval),
        retries: time(given.retries, own.retries),
    }
}

/// What the container was made with, merged as it is.
fn run_config(spec: &ContainerSpec) -> RunConfig {
    let set = |list: &[String]| {
        list.iter()
            .map(|k| (k.clone(), serde_json::json!({})))
            .collect()
    };
    RunConfig {
        user: spec.user.clone(),
        exposed_ports: set(&spec.exposed_ports),
        env: spec.env.clone(),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.command.clone(),
        volumes: set(&spec.volumes),
        working_dir: spec.working_dir.clone(),
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.clone().unwrap_or_default(),
        healthcheck: spec
            .health
            .as_ref()
            .and_then(|h| serde_json::to_value(h).ok()),
        on_build: spec.on_build.clone(),
        ..RunConfig::default()
    }
}

/// As dockerd: what is asked for, and where it says nothing what the container has.
/// source: moby, daemon/commit.go, merge
fn merged(asked: &ImageConfig, container: &ContainerSpec) -> RunConfig {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut out = run_config(container);
    if !asked.user.is_empty() {
        out.user.clone_from(&asked.user);
    }
    for entry in &asked.env {
        out.env.retain(|e| key(e) != key(entry));
    }
    out.env.splice(0..0, asked.env.iter().cloned());
    let set = |list: &[String]| -> Vec<_> {
        let keys = list.iter().cloned();
        keys.map(|k| (k, serde_json::json!({}))).collect()
    };
    out.exposed_ports.extend(set(&asked.exposed_ports));
    out.volumes.extend(set(&asked.volumes));
    out.labels.extend(asked.labels.clone());
    // a new program does not run with the old one's arguments
    let entrypoint = asked.entrypoint.clone().filter(|e| !e.is_empty());
    let cmd = asked.cmd.clone().filter(|c| !c.is_empty());
    if entrypoint.is_some() {
        (out.entrypoint, out.cmd) = (entrypoint, cmd);
    } else if cmd.is_some() {
        out.cmd = cmd;
    }
    if !asked.working_dir.is_empty() {
        out.working_dir.clone_from(&asked.working_dir);
    }
    if let Some(signal) = asked.stop_signal.as_ref().filter(|s| !s.is_empty()) {
        out.stop_signal.clone_from(signal);
    }
    if let Some(health) = &asked.health {
        let own = container.health.clone().unwrap_or_default();
        out.healthcheck = serde_json::to_value(health_over(health.clone(), own)).ok();
    }
    if asked.shell.is_some() {
        out.shell.clone_from(&asked.shell);
    }
    if !asked.on_build.is_empty() {
        out.on_build.clone_from(&asked.on_build);
    }
    out
}

pub(crate) async fn fsck(engine: &Arc<Inner>, repair: bool) -> Result<crate::FsckReport, Error> {
    let report = long(engine, move |inner| {
        let found = inner.store.fsck(repair);
        let found = found.map_err(Error::store("check what is stored"))?;
        let usage = inner.store.images_usage();
        let bytes = usage.map_err(Error::store("measure layers"))?.layers;
        let problems = found.problems.into_iter().map(|p| crate::FsckProblem {
            kind: p.kind.to_owned(),
            name: p.name,
            what: p.what,
            repaired: p.remedy == store::Remedy::Repaired,
            advice: match p.remedy {
                store::Remedy::Repairable => "run again with --repair".to_owned(),
                store::Remedy::Repaired => String::new(),
                store::Remedy::Lost(advice) => advice,
            },
        });
        let checked = found.checked.into_iter();
        Ok(crate::FsckReport {
            problems: problems.collect(),
            checked: checked.map(|(kind, n)| (kind.to_owned(), n)).collect(),
            bytes,
        })
    })
    .await?;
    engine.refresh_images().await;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_as_docker_finds_them() {
        let image = |digit: char, name: &str| ImageView {
            id: format!("sha256:{}", digit.to_string().repeat(64)),
            names: vec![name.to_owned()],
            ..ImageView::default()
        };
        let mut list = vec![image('a', "busybox:latest"), image('b', "deb:12")];
        list.push(ImageView {
            id: format!("sha256:ab{}", "c".repeat(62)),
            ..ImageView::default()
        });
        let id = |wanted: &str| find(&list, wanted).map(|i| i.id[7..9].to_owned());
        assert_eq!(id("busybox").unwrap(), "aa");
        assert_eq!(id("docker.io/library/busybox:latest").unwrap(), "aa");
        assert_eq!(id("deb:12").unwrap(), "bb");
        assert!(id("deb").is_err());
        assert_eq!(id("bbbb").unwrap(), "bb");
        assert_eq!(id(&format!("sha256:{}", "a".repeat(64))).unwrap(), "aa");
        assert_eq!(id("a").unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(id("dead").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
