//! Containers: everything that is answered by one document.

use api::container::{
    Config, CreateRequest, CreateResponse, FilesystemChange, PruneReport, TopResponse,
    UpdateRequest, UpdateResponse, WaitError, WaitResponse,
};
use engine::{ChangeKind, CommitOptions, ConsoleSize, RemoveOptions, WaitCondition};

use super::answer::{Answer, created, json_line, later, no_content, ok};
use super::call::{Call, Query};
use super::failure::Failure;
use super::translate::{create as request, inspect as view};

pub(super) async fn create(mut call: Call) -> Answer {
    let name = call
        .query
        .text("name")
        .map(|name| name.trim_start_matches('/').to_owned());
    if let Some(name) = &name {
        container_name(name)?;
    }
    let platform = call.query.text("platform").map(str::to_owned);
    if let Some(platform) = platform.filter(|p| !p.starts_with("linux")) {
        return Err(Failure::not_built(format!("the platform {platform:?}")));
    }
    let body: CreateRequest = call.json().await?;
    let spec = request::spec(body, &call.api.config.defaults)?;
    let engine = call.engine().clone();
    let made = call
        .change(async move { engine.create(name, spec).await })
        .await?;
    created(&CreateResponse {
        id: made.id,
        warnings: made.warnings,
    })
}

fn container_name(name: &str) -> Result<(), Failure> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() > 1 && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

pub(super) async fn inspect(call: Call) -> Answer {
    let found = call.engine().find(&call.param)?;
    let mut document = view::container(&found, &call.engine().info().driver);
    if call.query.on("size") {
        let size = call.engine().container_size(found.id()).await?;
        document.size_rw = i64::try_from(size.size_rw).ok();
        document.size_root_fs = i64::try_from(size.size_root_fs).ok();
    }
    ok(&document)
}

/// A change that takes nothing but the container, and answers nothing.
macro_rules! verb {
    ($call:ident, $engine:ident, $id:ident => $change:expr) => {{
        let ($engine, $id) = ($call.engine().clone(), $call.param.clone());
        $call.change(async move { $change.await }).await?;
        no_content()
    }};
}

pub(super) async fn start(mut call: Call) -> Answer {
    for option in ["checkpoint", "checkpoint-dir"] {
        if call.query.text(option).is_some() {
            return Err(Failure::not_built(option));
        }
    }
    // up to API 1.23 a HostConfig could come here
    let body = call.body().await?;
    if !matches!(body.trim_ascii(), b"" | b"{}" | b"null") {
        return Err(Failure::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    verb!(call, engine, id => engine.start_container(&id))
}

fn stop_options(query: &Query) -> Result<(Option<String>, Option<i64>), Failure> {
    Ok((query.text("signal").map(str::to_owned), query.number("t")?))
}

pub(super) async fn stop(call: Call) -> Answer {
    let (signal, timeout) = stop_options(&call.query)?;
    verb!(call, engine, id => engine.stop(&id, signal.as_deref(), timeout))
}

pub(super) async fn restart(call: Call) -> Answer {
    let (signal, timeout) = stop_options(&call.query)?;
    verb!(call, engine, id => engine.restart(&id, signal.as_deref(), timeout))
}

pub(super) async fn kill(call: Call) -> Answer {
    let signal = call.query.text("signal").map(str::to_owned);
    verb!(call, engine, id => engine.kill(&id, signal.as_deref()))
}

pub(super) async fn pause(call: Call) -> Answer {
    verb!(call, engine, id => engine.pause(&id))
}

pub(super) async fn unpause(call: Call) -> Answer {
    verb!(call, engine, id => engine.unpause(&id))
}

pub(super) async fn rename(call: Call) -> Answer {
    let name = call
        .query
        .text("name")
        .unwrap_or_default()
        .trim_start_matches('/')
        .to_owned();
    if name.is_empty() {
        return Err(Failure::invalid("Neither old nor new names may be empty"));
    }
    container_name(&name)?;
    verb!(call, engine, id => engine.rename(&id, &name))
}

pub(super) async fn remove(call: Call) -> Answer {
    if call.query.on("link") {
        return Err(Failure::not_built("removing a link"));
    }
    let options = RemoveOptions {
        force: call.query.on("force"),
        volumes: call.query.on("v"),
    };
    verb!(call, engine, id => engine.remove(&id, options))
}

pub(super) async fn update(mut call: Call) -> Answer {
    let body: UpdateRequest = call.json().await?;
    let wanted = request::update(body)?;
    let (engine, id) = (call.engine().clone(), call.param.clone());
    let warnings = call
        .change(async move { engine.update(&id, wanted).await })
        .await?;
    ok(&UpdateResponse {
        warnings: Some(warnings),
    })
}

pub(super) fn console_size(query: &Query) -> Result<ConsoleSize, Failure> {
    let side = |name: &str| {
        let n: Option<u16> = query.number(name)?;
        n.ok_or_else(|| Failure::invalid(format!("{name} must be given")))
    };
    Ok(ConsoleSize {
        height: side("h")?,
        width: side("w")?,
    })
}

pub(super) async fn resize(call: Call) -> Answer {
    let size = console_size(&call.query)?;
    call.engine().resize(&call.param, size).await?;
    Ok(super::answer::empty(hyper::StatusCode::OK))
}

/// The header goes out at once: from then on the client knows that no exit is missed.
pub(super) async fn wait(call: Call) -> Answer {
    let condition = match call.query.text("condition") {
        _ if !call.version.at_least(30) => WaitCondition::NotRunning,
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(Failure::invalid(format!("invalid condition: {other:?}"))),
    };
    let waiter = call.engine().wait(&call.param, condition).await?;
    let answer = async move {
        json_line(&match waiter.await {
            Ok(status) => WaitResponse {
                error: status.error.map(|message| WaitError { message }),
                status_code: status.code.into(),
            },
            Err(error) => WaitResponse {
                error: Some(WaitError {
                    message: error.report(),
                }),
                status_code: 125,
            },
        })
    };
    Ok(later("application/json", answer))
}

pub(super) async fn top(call: Call) -> Answer {
    let args = call.query.text("ps_args").unwrap_or("-ef");
    let table = call.engine().top(&call.param, args).await?;
    ok(&TopResponse {
        processes: table.rows,
        titles: table.titles,
    })
}

pub(super) async fn changes(call: Call) -> Answer {
    let changes = call.engine().changes(&call.param).await?;
    let lines: Vec<FilesystemChange> = changes
        .into_iter()
        .map(|change| FilesystemChange {
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
            path: String::from_utf8_lossy(&change.path).into_owned(),
        })
        .collect();
    // as dockerd: null where there are none
    ok(&Some(lines).filter(|l| !l.is_empty()))
}

pub(super) async fn prune(call: Call) -> Answer {
    let filters = call.filters(&["label", "label!", "until"])?.0;
    let engine = call.engine().clone();
    let pruned = call
        .change(async move { engine.prune_containers(&filters).await })
        .await?;
    ok(&PruneReport {
        containers_deleted: Some(pruned.containers),
        space_reclaimed: pruned.space_reclaimed,
    })
}

pub(super) async fn commit(mut call: Call) -> Answer {
    let config: Config = call.json_or_default().await?;
    let Some(id) = call.query.text("container").map(str::to_owned) else {
        return Err(Failure::invalid("the parameter container must name one"));
    };
    // read as that of a container, which must name an image; an image names none
    let image = id.clone();
    let as_of_a_container = CreateRequest {
        config: Config { image, ..config },
        ..CreateRequest::default()
    };
    let config = request::spec(as_of_a_container, &call.api.config.defaults)?;
    let options = CommitOptions {
        reference: super::images::reference(&call.query),
        author: call.query.get("author").unwrap_or_default().to_owned(),
        comment: call.query.get("comment").unwrap_or_default().to_owned(),
        pause: call.query.on_or("pause", true),
        config,
        changes: super::images::change_lines(&call.query),
    };
    let engine = call.engine().clone();
    let image = call
        .change(async move { engine.commit(&id, options, None).await })
        .await?;
    created(&api::IdResponse { id: image })
}
