//! Copies out of and into containers.

use api::container::{PATH_STAT_HEADER, PathStat, go_mode};
use engine::PutOptions;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use super::answer::{Answer, channel, empty};
use super::call::Call;
use super::failure::Failure;

fn path(call: &Call) -> Result<String, Failure> {
    call.query
        .text("path")
        .map(str::to_owned)
        .ok_or_else(|| Failure::invalid("the parameter path must not be empty"))
}

fn stat_header(stat: engine::PathStat) -> Result<HeaderValue, Failure> {
    let wire = PathStat {
        name: stat.name,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: go_mode::from_unix(stat.mode),
        mtime: stat.mtime,
        link_target: stat.link_target,
    };
    HeaderValue::from_str(&wire.to_header()).map_err(|_| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "base64 that is no header value",
        )
    })
}

pub(super) async fn head(call: Call) -> Answer {
    let stat = call
        .engine()
        .archive_stat(&call.param, &path(&call)?)
        .await?;
    let mut response = empty(StatusCode::OK);
    response
        .headers_mut()
        .insert(header_name(), stat_header(stat)?);
    Ok(response)
}

fn header_name() -> HeaderName {
    // header names are case-insensitive; this one is lower case as hyper wants its constants
    debug_assert!(PATH_STAT_HEADER.eq_ignore_ascii_case("x-docker-container-path-stat"));
    HeaderName::from_static("x-docker-container-path-stat")
}

pub(super) async fn get(call: Call) -> Answer {
    let (stat, tar) = call
        .engine()
        .archive_get(&call.param, &path(&call)?)
        .await?;
    let mut response = channel("application/x-tar", tar);
    response
        .headers_mut()
        .insert(header_name(), stat_header(stat)?);
    Ok(response)
}

pub(super) async fn put(call: Call) -> Answer {
    let path = path(&call)?;
    let options = PutOptions {
        no_overwrite_dir_non_dir: call.query.on("noOverwriteDirNonDir"),
        copy_uid_gid: call.query.on("copyUIDGID"),
    };
    let (engine, id, api) = (
        call.engine().clone(),
        call.param.clone(),
        std::sync::Arc::clone(&call.api),
    );
    let counted = super::Counted::new(&api, |api| &api.changes);
    let tar = Box::new(call.body_stream());
    let task = tokio::spawn(async move {
        let _counted = counted;
        engine.archive_put(&id, &path, options, tar).await
    });
    task.await.map_err(|e| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the call ended early: {e}"),
        )
    })??;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn export(call: Call) -> Answer {
    Ok(channel(
        "application/x-tar",
        call.engine().export(&call.param).await?,
    ))
}
