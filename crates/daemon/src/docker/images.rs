//! Images.

use api::image::{HistoryItem, ImageDeleteResponse, ImagePruneReport};
use api::stream::{ProgressDetail, ProgressMessage};
use bytes::Bytes;
use engine::{ImportOptions, Progress, RemovedImage};
use hyper::Response;
use hyper::StatusCode;
use tokio::sync::mpsc;

use super::answer::{Answer, Body, channel, empty, json_line, ok};
use super::call::{Call, Query};
use super::failure::Failure;
use super::time;
use super::translate::{summary, versions};

/// Lines of progress that wait for a slow client; more are dropped, as progress is.
const PROGRESS_DEPTH: usize = 64;

/// `repo` and `tag` as one reference; absent without a `repo`.
pub(super) fn reference(query: &Query) -> Option<String> {
    let repo = query.text("repo")?;
    Some(match query.text("tag") {
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_owned(),
    })
}

/// Instructions of `changes`: one parameter per line, or lines in one.
pub(super) fn change_lines(query: &Query) -> Vec<String> {
    let all = query.all("changes");
    all.iter()
        .flat_map(|text| text.lines())
        .map(str::to_owned)
        .filter(|line| !line.trim().is_empty())
        .collect()
}

pub(super) async fn inspect(call: Call) -> Answer {
    let view = call.engine().image(&call.param)?;
    let driver = call.engine().info().driver;
    let document = summary::image_inspect(&view, call.version, &driver);
    ok(&versions::image(&document, &view.config, call.version)?)
}

pub(super) async fn history(call: Call) -> Answer {
    let lines: Vec<HistoryItem> = call
        .engine()
        .history(&call.param)
        .await?
        .into_iter()
        .map(|h| HistoryItem {
            comment: h.comment,
            created: time::seconds(&h.created),
            created_by: h.created_by,
            id: h.id,
            size: i64::try_from(h.size).unwrap_or(i64::MAX),
            tags: Some(h.tags).filter(|t| !t.is_empty()),
        })
        .collect();
    ok(&lines)
}

pub(super) async fn tag(call: Call) -> Answer {
    let Some(reference) = reference(&call.query) else {
        return Err(Failure::invalid(
            "the parameter repo must name a repository",
        ));
    };
    let (engine, image) = (call.engine().clone(), call.param.clone());
    call.change(async move { engine.tag(&image, &reference).await })
        .await?;
    Ok(empty(StatusCode::CREATED))
}

fn removed(list: Vec<RemovedImage>) -> Vec<ImageDeleteResponse> {
    list.into_iter()
        .map(|one| match one {
            RemovedImage::Untagged(untagged) => ImageDeleteResponse {
                untagged,
                ..Default::default()
            },
            RemovedImage::Deleted(deleted) => ImageDeleteResponse {
                deleted,
                ..Default::default()
            },
        })
        .collect()
}

pub(super) async fn remove(call: Call) -> Answer {
    let (force, no_prune) = (call.query.on("force"), call.query.on("noprune"));
    let (engine, image) = (call.engine().clone(), call.param.clone());
    let gone = call
        .change(async move { engine.remove_image(&image, force, no_prune).await })
        .await?;
    ok(&removed(gone))
}

pub(super) async fn prune(call: Call) -> Answer {
    let filters = call.filters(&["dangling", "label", "label!", "until"])?.0;
    let engine = call.engine().clone();
    let pruned = call
        .change(async move { engine.prune_images(&filters).await })
        .await?;
    ok(&ImagePruneReport {
        images_deleted: Some(removed(pruned.images)),
        space_reclaimed: pruned.space_reclaimed,
    })
}

pub(super) async fn save(call: Call) -> Answer {
    let archive = call
        .engine()
        .save(std::slice::from_ref(&call.param), None)
        .await?;
    Ok(channel("application/x-tar", archive))
}

pub(super) async fn save_many(call: Call) -> Answer {
    let names: Vec<String> = call
        .query
        .all("names")
        .into_iter()
        .filter(|n| !n.is_empty())
        .collect();
    if names.is_empty() {
        return Err(Failure::invalid("the parameter names must name images"));
    }
    let archive = call.engine().save(&names, None).await?;
    Ok(channel("application/x-tar", archive))
}

pub(super) fn progress_line(p: Progress) -> ProgressMessage {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let amount = || ProgressDetail {
        current: number(p.current),
        total: number(p.total),
    };
    let has_amount = p.current > 0 || p.total > 0;
    ProgressMessage {
        progress_detail: has_amount.then(amount),
        status: p.status,
        id: p.id,
        ..ProgressMessage::default()
    }
}

/// Runs a change whose client watches its progress. The header goes out with the first line, so
/// that what is wrong from the start (not an archive) still has a status of its own.
pub(super) async fn watched<F, T, L>(call: Call, quiet: bool, work: F, last: L) -> Answer
where
    F: AsyncWork<T>,
    T: Send + 'static,
    L: FnOnce(T) -> Vec<ProgressMessage> + Send + 'static,
{
    let (progress, mut lines) = mpsc::channel::<Progress>(PROGRESS_DEPTH);
    let progress = (!quiet).then_some(progress);
    let counted = super::Counted::new(&call.api, |api| &api.changes);
    let engine = call.engine().clone();
    let reader = call.body_stream();
    let mut task = tokio::spawn(async move {
        let _counted = counted;
        work.run(engine, reader, progress).await
    });
    let first = tokio::select! {
        biased;
        Some(line) = lines.recv() => line,
        done = &mut task => return finished(done, last),
    };
    let (out, body) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(line) = next {
            // a client that went away does not end the work: what was sent whole is kept
            drop(out.send(Ok(json_line(&progress_line(line)))).await);
            next = lines.recv().await;
        }
        for line in end(task.await, last) {
            drop(out.send(Ok(line)).await);
        }
    });
    Ok(channel("application/json", body))
}

type Done<T> = Result<Result<T, engine::Error>, tokio::task::JoinError>;

fn finished<T>(done: Done<T>, last: impl FnOnce(T) -> Vec<ProgressMessage>) -> Answer {
    let value = done.map_err(|e| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the call ended early: {e}"),
        )
    })??;
    Ok(lines(&last(value)))
}

fn lines(messages: &[ProgressMessage]) -> Response<Body> {
    let lines: Vec<u8> = messages.iter().flat_map(json_line).collect();
    let lines = Body::Full(Bytes::from(lines));
    super::answer::with_type(StatusCode::OK, "application/json", lines)
}

fn end<T>(done: Done<T>, last: impl FnOnce(T) -> Vec<ProgressMessage>) -> Vec<Bytes> {
    let lines = match done {
        Ok(Ok(value)) => last(value),
        Ok(Err(error)) => vec![ProgressMessage::failure(&error.report())],
        Err(error) => vec![ProgressMessage::failure(&format!(
            "the call ended early: {error}"
        ))],
    };
    lines.iter().map(json_line).collect()
}

/// Work on an uploaded archive.
pub(super) trait AsyncWork<T>: Send + 'static {
    fn run(
        self,
        engine: engine::Engine,
        archive: engine::pipe::ChannelReader,
        progress: Option<engine::ProgressSender>,
    ) -> impl Future<Output = Result<T, engine::Error>> + Send;
}

struct Load;

impl AsyncWork<Vec<engine::LoadedImage>> for Load {
    async fn run(
        self,
        engine: engine::Engine,
        archive: engine::pipe::ChannelReader,
        progress: Option<engine::ProgressSender>,
    ) -> Result<Vec<engine::LoadedImage>, engine::Error> {
        engine.load(Box::new(archive), progress).await
    }
}

struct Import(ImportOptions);

impl AsyncWork<String> for Import {
    async fn run(
        self,
        engine: engine::Engine,
        archive: engine::pipe::ChannelReader,
        progress: Option<engine::ProgressSender>,
    ) -> Result<String, engine::Error> {
        engine.import(Box::new(archive), self.0, progress).await
    }
}

pub(super) async fn load(call: Call) -> Answer {
    if call.query.text("platform").is_some() {
        return Err(Failure::not_built("load of one platform of an archive"));
    }
    let quiet = call.query.on("quiet");
    let answer = watched(call, quiet, Load, |images| {
        let mut lines = Vec::new();
        for image in images {
            if image.names.is_empty() {
                lines.push(said(format!("Loaded image ID: {}\n", image.id)));
            }
            lines.extend(
                image
                    .names
                    .iter()
                    .map(|name| said(format!("Loaded image: {name}\n"))),
            );
        }
        lines
    })
    .await;
    // as dockerd: what is wrong with an archive is the last line of its progress, also of a silent one
    let failed = |f: Failure| vec![ProgressMessage::failure(&f.message)];
    answer.or_else(|failure| Ok(lines(&failed(failure))))
}

fn said(stream: String) -> ProgressMessage {
    ProgressMessage {
        stream,
        ..ProgressMessage::default()
    }
}

/// Import where `fromSrc` is given, pull where `fromImage` is.
pub(super) async fn create(call: Call) -> Answer {
    if let Some(image) = call.query.text("fromImage").map(str::to_owned) {
        return super::registry::pull(call, &image).await;
    }
    match call.query.text("fromSrc") {
        Some("-") => {}
        Some(url) => {
            return Err(Failure::not_built(format!(
                "import from {url:?} (send the archive itself, fromSrc=-)"
            )));
        }
        None => {
            return Err(Failure::invalid(
                "one of the parameters fromSrc and fromImage must be given",
            ));
        }
    }
    let options = ImportOptions {
        reference: reference(&call.query),
        message: call.query.get("message").unwrap_or_default().to_owned(),
        changes: change_lines(&call.query),
        platform: call.query.text("platform").map(str::to_owned),
    };
    watched(call, true, Import(options), |id| {
        vec![ProgressMessage {
            status: id,
            ..ProgressMessage::default()
        }]
    })
    .await
}
