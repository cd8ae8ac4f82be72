//! Builds by Docker's classic endpoint.
//!
//! Messages go out as they come; the header with the first, so that what is wrong from the start has
//! a status of its own. A client that goes away ends its build.
//! source: Docker Engine API 1.51, `POST /build`, `POST /build/prune`

use std::collections::BTreeMap;

use api::container::{HostConfig, Resources, Ulimit};
use api::stream::{ErrorDetail, ProgressMessage};
use api::system::{AuthConfig, BuildPruneReport};
use bytes::Bytes;
use engine::{BuildFailure, BuildMessage, BuildRequest, Built, Credentials};
use hyper::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::answer::{Answer, channel, json_line, ok};
use super::call::{Call, Query};
use super::failure::{self, Failure};
use super::{images, registry, translate};

/// Messages that wait for a slow client; then the build waits.
const DEPTH: usize = 64;
const REGISTRIES: &str = "x-registry-config";

/// A parameter that is JSON.
fn json<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T, Failure> {
    let Some(text) = query.text(name).filter(|t| *t != "null") else {
        return Ok(T::default());
    };
    serde_json::from_str(text)
        .map_err(|e| Failure::invalid(format!("{name}: not as it should be: {e}")))
}

/// What would be accepted without effect.
fn refuse(query: &Query) -> Result<(), Failure> {
    let no = |what: &str| Err(Failure::not_built(what));
    let is_set = |name: &str| {
        query
            .text(name)
            .is_some_and(|v| !matches!(v, "null" | "[]" | "{}"))
    };
    if query.text("version").is_some_and(|v| v != "1") {
        return no(
            "building by BuildKit (version=2; docker build without buildx, DOCKER_BUILDKIT=0, is)",
        );
    }
    if query.on("squash") {
        return no("squash of a build (--squash; use a last stage that copies what is wanted)");
    }
    if is_set("remote") {
        return no(
            "a build context from a URL or a git repository (send a directory or an archive; remote=)",
        );
    }
    for (name, what) in [
        (
            "outputs",
            "another output of a build than an image (--output; copy files out by docker cp)",
        ),
        (
            "session",
            "a session of a build (docker build without buildx, DOCKER_BUILDKIT=0, needs none)",
        ),
        (
            "securityopt",
            "security options of a build (--security-opt)",
        ),
        (
            "cachefrom",
            "another cache than the engine's own (--cache-from; leave it out)",
        ),
    ] {
        if is_set(name) {
            return no(what);
        }
    }
    if !matches!(query.text("isolation"), None | Some("default")) {
        return no("isolation of a build (--isolation; it is of Windows)");
    }
    if !query.on_or("rm", true) {
        return no("keeping the containers of a build (--rm=false; they are removed always)");
    }
    Ok(())
}

fn request(call: &Call) -> Result<BuildRequest, Failure> {
    let query = &call.query;
    refuse(query)?;
    let number = |name: &str| query.number::<i64>(name).map(Option::unwrap_or_default);
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let ulimits: Option<Vec<Ulimit>> = json(query, "ulimits")?;
    let mut network = text("networkmode");
    if network.is_empty() {
        "default".clone_into(&mut network);
    }
    let host = HostConfig {
        network_mode: network,
        shm_size: number("shmsize")?,
        extra_hosts: Some(query.all("extrahosts")),
        resources: Resources {
            memory: number("memory")?,
            memory_swap: number("memswap")?,
            cpu_shares: number("cpushares")?,
            cpu_period: number("cpuperiod")?,
            cpu_quota: number("cpuquota")?,
            cpuset_cpus: text("cpusetcpus"),
            cpuset_mems: text("cpusetmems"),
            cgroup_parent: text("cgroupparent"),
            ulimits,
            ..Resources::default()
        },
        ..HostConfig::default()
    };
    let host = translate::create::build_host(host, &call.api.config.defaults)?;
    // an argument without a value is one that the client does not have either
    let args: BTreeMap<String, Option<String>> = json(query, "buildargs")?;
    let args = args.into_iter().filter_map(|(k, v)| Some((k, v?)));
    Ok(BuildRequest {
        names: query
            .all("t")
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect(),
        dockerfile: text("dockerfile"),
        target: query.text("target").map(str::to_owned),
        args: args.collect(),
        labels: json(query, "labels")?,
        no_cache: query.on("nocache"),
        pull: query.on("pull"),
        platform: query.text("platform").map(str::to_owned),
        network: host.network,
        extra_hosts: host.extra_hosts,
        shm_size: host.shm_size,
        resources: host.resources,
        ulimits: host.ulimits,
        cgroup_parent: host.cgroup_parent,
        credentials: credentials(call.request.headers()),
    })
}

/// Who asks, by registry; as for a pull, a header that can't be read is nobody's.
fn credentials(headers: &HeaderMap) -> BTreeMap<String, Credentials> {
    let Some(value) = headers.get(REGISTRIES) else {
        return BTreeMap::new();
    };
    let read = value.to_str().ok().and_then(api::base64::decode);
    let all: Option<BTreeMap<String, AuthConfig>> =
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let all = all.unwrap_or_default().into_iter();
    all.filter_map(|(host, auth)| Some((host, registry::of(auth).ok()?)))
        .collect()
}

fn stream(text: String) -> ProgressMessage {
    ProgressMessage {
        stream: text,
        ..ProgressMessage::default()
    }
}

fn message(message: BuildMessage) -> ProgressMessage {
    match message {
        BuildMessage::Stream(text) => stream(text),
        BuildMessage::Pull(progress) => images::progress_line(progress),
    }
}

fn last(built: Built, quiet: bool) -> Vec<ProgressMessage> {
    if quiet {
        return vec![stream(format!("{}\n", built.id))];
    }
    let hex = built.id.strip_prefix("sha256:").unwrap_or(&built.id);
    let mut lines = vec![
        ProgressMessage {
            aux: Some(serde_json::json!({"ID": built.id})),
            ..ProgressMessage::default()
        },
        stream(format!(
            "Successfully built {}\n",
            hex.get(..12).unwrap_or(hex)
        )),
    ];
    let names = built.names.iter();
    lines.extend(names.map(|name| stream(format!("Successfully tagged {name}\n"))));
    lines
}

fn failed(failure: &BuildFailure) -> ProgressMessage {
    let message = failure.error.report();
    ProgressMessage {
        error: message.clone(),
        error_detail: Some(ErrorDetail {
            code: i64::from(failure.code),
            message,
        }),
        ..ProgressMessage::default()
    }
}

fn early(error: &tokio::task::JoinError) -> Failure {
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the build ended early: {error}"),
    )
}

pub(super) async fn build(call: Call) -> Answer {
    let request = request(&call)?;
    let quiet = call.query.on("q");
    let (tx, mut messages) = mpsc::channel(DEPTH);
    let counted = super::Counted::new(&call.api, |api| &api.changes);
    let engine = call.engine().clone();
    let context = call.body_stream();
    let mut task = tokio::spawn(async move {
        let _counted = counted;
        engine.build(request, Box::new(context), tx).await
    });
    let first = tokio::select! {
        biased;
        Some(first) = messages.recv() => first,
        done = &mut task => {
            return match done {
                Ok(Ok(built)) => ok(&last(built, quiet)),
                Ok(Err(failure)) => Err(Failure::new(
                    failure::status(failure.error.kind()),
                    failure.error.report(),
                )),
                Err(error) => Err(early(&error)),
            };
        }
    };
    let (out, body) = mpsc::channel::<std::io::Result<Bytes>>(8);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(one) = next {
            if !quiet && out.send(Ok(json_line(&message(one)))).await.is_err() {
                break;
            }
            next = tokio::select! {
                next = messages.recv() => next,
                // who waits for nothing but the end goes away without a word
                () = out.closed() => None,
            };
        }
        // the build notices that nobody listens
        drop(messages);
        let lines = match task.await {
            Ok(Ok(built)) => last(built, quiet),
            Ok(Err(failure)) => vec![failed(&failure)],
            Err(error) => vec![ProgressMessage::failure(&early(&error).message)],
        };
        for line in &lines {
            drop(out.send(Ok(json_line(line))).await);
        }
    });
    Ok(channel("application/json", body))
}

/// By bytes that may stay (`keep-storage`, `reserved-space`), age and id. All that no image has goes
/// with `all` and without: a step is nothing else to anybody.
pub(super) async fn prune(call: Call) -> Answer {
    let filters = call.filters(&["until", "id", "unused-for"])?;
    if filters.contains("unused-for") {
        return Err(Failure::invalid("the filter unused-for is called until"));
    }
    for name in ["max-used-space", "min-free-space"] {
        if call.query.number::<i64>(name)?.unwrap_or(0) != 0 {
            return Err(Failure::not_built(format!(
                "the limit {name} of a prune (reserved-space is)"
            )));
        }
    }
    let keep = match call.query.number::<u64>("reserved-space")? {
        Some(keep) => Some(keep),
        None => call.query.number::<u64>("keep-storage")?,
    };
    let (engine, filters) = (call.engine().clone(), filters.0);
    let pruned = call
        .change(async move { engine.prune_builds(&filters, keep.unwrap_or(0)).await })
        .await?;
    ok(&BuildPruneReport {
        caches_deleted: Some(pruned.keys),
        space_reclaimed: pruned.freed,
    })
}

/// Builds end with their client.
pub(super) async fn cancel(_: Call) -> Answer {
    Err(Failure::not_built(
        "cancelling a build by its id (close its connection instead)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let refused = |text: &str| refuse(&Query::parse(text)).map_err(|f| f.message);
        let docker = "buildargs=%7B%7D&cachefrom=%5B%5D&cgroupparent=&cpuperiod=0&labels=%7B%7D&memory=0&networkmode=default&rm=1&shmsize=0&t=x&target=&ulimits=null&version=1";
        refused(docker).unwrap();
        for (text, name) in [
            ("version=2", "BuildKit"),
            ("squash=1", "--squash"),
            ("remote=https%3A%2F%2Fgit.test%2Fx.git", "remote="),
            ("outputs=%5B%7B%7D%5D", "--output"),
            ("session=x", "session"),
            ("cachefrom=%5B%22x%22%5D", "--cache-from"),
            ("rm=0", "--rm=false"),
            ("isolation=hyperv", "--isolation"),
        ] {
            let why = refused(text).unwrap_err();
            assert!(why.contains(name), "{text}: {why}");
        }
    }

    #[test]
    fn an_exit_code_is_told() {
        let failure = BuildFailure {
            error: engine::Error::new(engine::model::ErrorKind::InvalidArgument, "x"),
            code: 7,
        };
        let text = serde_json::to_string(&failed(&failure)).unwrap();
        assert_eq!(
            text,
            r#"{"error":"x","errorDetail":{"code":7,"message":"x"}}"#
        );
    }
}
