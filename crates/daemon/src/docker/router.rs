//! Method and path to handler.
//!
//! A pattern has at most one variable part: `{id}` (without slashes) or `{name*}` (an image's name
//! may have some). The version's prefix is taken off before.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use api::ApiVersion;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, SERVER};
use hyper::{Method, Request, Response};

use super::answer::{Answer, Body};
use super::authz::{self, Asked};
use super::call::{Call, Query, Upload, percent};
use super::failure::Failure;
use super::peer::Peer;
use super::{
    Api, absent, archive, build, containers, exec, images, list, networks, plimsoll, registry,
    stats, streams, system, volumes, websocket,
};

/// One line of the table.
type Row = (&'static str, &'static str, &'static str, Handler);
type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Route {
    method: &'static str,
    /// Path of the handler, for the log and the documentation.
    name: &'static str,
    prefix: &'static str,
    suffix: &'static str,
    part: Part,
    handler: Handler,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    None,
    Segment,
    Rest,
}

impl Route {
    fn new((method, pattern, name, handler): Row) -> Self {
        let (prefix, part, suffix) = match (pattern.find('{'), pattern.find('}')) {
            (Some(open), Some(close)) => {
                let part = if pattern[open..close].ends_with('*') {
                    Part::Rest
                } else {
                    Part::Segment
                };
                (&pattern[..open], part, &pattern[close + 1..])
            }
            _ => (pattern, Part::None, ""),
        };
        Self {
            method,
            name,
            prefix,
            suffix,
            part,
            handler,
        }
    }

    /// The variable part; empty where there is none.
    fn matches<'p>(&self, method: &str, path: &'p str) -> Option<&'p str> {
        if method != self.method {
            return None;
        }
        if self.part == Part::None {
            return (path == self.prefix).then_some("");
        }
        let part = path.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?;
        // names are shown with a slash, and asked for with it
        let part = if self.part == Part::Segment {
            part.strip_prefix('/').unwrap_or(part)
        } else {
            part
        };
        (!part.is_empty() && (self.part == Part::Rest || !part.contains('/'))).then_some(part)
    }
}

macro_rules! routes {
    ($($method:ident $pattern:literal $handler:path;)*) => {
        [$((stringify!($method), $pattern, stringify!($handler), (|call| Box::pin($handler(call))) as Handler),)*]
    };
}

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    routes! {
        GET "/_ping" system::ping;
        HEAD "/_ping" system::ping;
        GET "/version" system::version;
        GET "/info" system::info;
        GET "/events" streams::events;
        GET "/system/df" system::df;

        GET "/containers/json" list::containers;
        POST "/containers/create" containers::create;
        POST "/containers/prune" containers::prune;
        GET "/containers/{id}/json" containers::inspect;
        POST "/containers/{id}/start" containers::start;
        POST "/containers/{id}/stop" containers::stop;
        POST "/containers/{id}/restart" containers::restart;
        POST "/containers/{id}/kill" containers::kill;
        POST "/containers/{id}/pause" containers::pause;
        POST "/containers/{id}/unpause" containers::unpause;
        POST "/containers/{id}/rename" containers::rename;
        POST "/containers/{id}/update" containers::update;
        POST "/containers/{id}/wait" containers::wait;
        POST "/containers/{id}/resize" containers::resize;
        DELETE "/containers/{id}" containers::remove;
        GET "/containers/{id}/top" containers::top;
        GET "/containers/{id}/changes" containers::changes;
        GET "/containers/{id}/logs" streams::logs;
        GET "/containers/{id}/stats" stats::stats;
        POST "/containers/{id}/attach" streams::attach;
        GET "/containers/{id}/attach/ws" websocket::attach;
        GET "/containers/{id}/export" archive::export;
        GET "/containers/{id}/archive" archive::get;
        HEAD "/containers/{id}/archive" archive::head;
        PUT "/containers/{id}/archive" archive::put;
        POST "/containers/{id}/exec" exec::create;
        POST "/exec/{id}/start" exec::start;
        POST "/exec/{id}/resize" exec::resize;
        GET "/exec/{id}/json" exec::inspect;
        POST "/commit" containers::commit;

        GET "/images/json" list::images;
        POST "/images/create" images::create;
        POST "/images/load" images::load;
        POST "/images/prune" images::prune;
        GET "/images/get" images::save_many;
        GET "/images/search" absent::search;
        GET "/images/{name*}/json" images::inspect;
        GET "/images/{name*}/history" images::history;
        GET "/images/{name*}/get" images::save;
        POST "/images/{name*}/tag" images::tag;
        POST "/images/{name*}/push" registry::push;
        DELETE "/images/{name*}" images::remove;
        GET "/distribution/{name*}/json" registry::distribution;
        POST "/auth" registry::log_in;
        POST "/build" build::build;
        POST "/build/cancel" build::cancel;
        POST "/build/prune" build::prune;

        GET "/volumes" volumes::list;
        POST "/volumes/create" volumes::create;
        POST "/volumes/prune" volumes::prune;
        GET "/volumes/{name}" volumes::inspect;
        DELETE "/volumes/{name}" volumes::remove;
        PUT "/volumes/{name}" absent::swarm;
        POST "/volumes/{name}/restore" volumes::restore;

        GET "/networks" networks::list;
        GET "/networks/" networks::list;
        POST "/networks/create" networks::create;
        POST "/networks/prune" networks::prune;
        POST "/networks/{id}/connect" networks::connect;
        POST "/networks/{id}/disconnect" networks::disconnect;
        GET "/networks/{id}" networks::inspect;
        DELETE "/networks/{id}" networks::remove;

        GET "/plimsoll/volumes/trash" volumes::trash;
        POST "/plimsoll/volumes/{name}/restore" volumes::restore;
        POST "/plimsoll/fsck" plimsoll::fsck;
        GET "/plimsoll/doctor" plimsoll::doctor;

        GET "/plugins" absent::no_plugins;
        GET "/plugins/{name*}/json" absent::no_such_plugin;
        GET "/plugins/privileges" absent::plugins;
        POST "/plugins/create" absent::plugins;
        POST "/plugins/pull" absent::plugins;
        POST "/plugins/{name*}/enable" absent::no_such_plugin;
        POST "/plugins/{name*}/disable" absent::no_such_plugin;
        POST "/plugins/{name*}/set" absent::no_such_plugin;
        POST "/plugins/{name*}/push" absent::no_such_plugin;
        POST "/plugins/{name*}/upgrade" absent::no_such_plugin;
        DELETE "/plugins/{name*}" absent::no_such_plugin;
        POST "/session" absent::build;
        POST "/grpc" absent::build;
        POST "/swarm/init" absent::swarm_verbs;
        POST "/swarm/join" absent::swarm_verbs;
        POST "/swarm/leave" absent::swarm;
        POST "/swarm/update" absent::swarm;
        POST "/swarm/unlock" absent::swarm;
        GET "/swarm" absent::swarm;
        GET "/swarm/unlockkey" absent::swarm;
        GET "/nodes" absent::swarm;
        GET "/nodes/{id}" absent::swarm;
        POST "/nodes/{id}/update" absent::swarm;
        DELETE "/nodes/{id}" absent::swarm;
        GET "/services" absent::swarm;
        POST "/services/create" absent::swarm;
        GET "/services/{id}" absent::swarm;
        GET "/services/{id}/logs" absent::swarm;
        POST "/services/{id}/update" absent::swarm;
        DELETE "/services/{id}" absent::swarm;
        GET "/tasks" absent::swarm;
        GET "/tasks/{id}" absent::swarm;
        GET "/tasks/{id}/logs" absent::swarm;
        GET "/secrets" absent::swarm;
        POST "/secrets/create" absent::swarm;
        GET "/secrets/{id}" absent::swarm;
        POST "/secrets/{id}/update" absent::swarm;
        DELETE "/secrets/{id}" absent::swarm;
        GET "/configs" absent::swarm;
        POST "/configs/create" absent::swarm;
        GET "/configs/{id}" absent::swarm;
        POST "/configs/{id}/update" absent::swarm;
        DELETE "/configs/{id}" absent::swarm;
        GET "/containers/{id}/checkpoints" absent::checkpoints;
        POST "/containers/{id}/checkpoints" absent::checkpoints;
    }
    .into_iter()
    .map(Route::new)
    .collect()
});

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(super) async fn route(
    api: Arc<Api>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    api.served
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let log = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| format!("{} {}", request.method(), request.uri()));
    let (name, mut response) = allowed(&api, peer, Upload::of(request)).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("api-version", "1.51"),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    headers.insert(
        SERVER,
        HeaderValue::from_static(concat!("Plimsoll/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
    if let Some(what) = log {
        tracing::debug!(
            "{what} {} {:?} {name}",
            response.status().as_u16(),
            began.elapsed()
        );
    }
    response
}

/// Carries out what this client may do, and writes down that it did. The handler's name comes along.
async fn allowed(
    api: &Arc<Api>,
    peer: &Peer,
    request: Request<Upload>,
) -> (&'static str, Response<Body>) {
    // the audit's line is there before the handler: it is written too where the client goes meanwhile
    let entry = api.audit.begin(peer, &request);
    let plugins = api.plugins.load_full();
    let (name, response, denied) = if let Err(failure) = peer.check(&request) {
        ("none", failure.response(), Some("the engine".to_owned()))
    } else if plugins.is_empty() {
        let (name, response) = handled(Arc::clone(api), request).await;
        (name, response, None)
    } else {
        asked(api, &plugins, peer, request).await
    };
    if let Some(entry) = entry {
        entry.end(response.status().as_u16(), denied).await;
    }
    (name, response)
}

/// With the plugins' leave, before and after. The last: who refused.
async fn asked(
    api: &Arc<Api>,
    plugins: &[String],
    peer: &Peer,
    mut request: Request<Upload>,
) -> (&'static str, Response<Body>, Option<String>) {
    let refused = |refusal: authz::Refusal| {
        let by = format!("plugin {}", refusal.plugin);
        ("none", refusal.failure.response(), Some(by))
    };
    let asked = match Asked::before(plugins, peer, &mut request).await {
        Ok(asked) => asked,
        Err(refusal) => return refused(refusal),
    };
    let (name, response) = handled(Arc::clone(api), request).await;
    match asked.answered(&response).after().await {
        Ok(()) => (name, response, None),
        Err(refusal) => refused(refusal),
    }
}

async fn handled(api: Arc<Api>, request: Request<Upload>) -> (&'static str, Response<Body>) {
    match find(api, request) {
        Ok((route, call)) => {
            let answer = (route.handler)(call).await;
            (route.name, answer.unwrap_or_else(Failure::response))
        }
        Err(failure) => ("none", failure.response()),
    }
}

fn find(api: Arc<Api>, request: Request<Upload>) -> Result<(&'static Route, Call), Failure> {
    let (version, path) = version(request.uri().path())?;
    // see `hijack`
    let method = if request.method() == Method::CONNECT {
        "POST"
    } else {
        request.method().as_str()
    };
    let found = ROUTES
        .iter()
        .find_map(|route| route.matches(method, path).map(|part| (route, part)));
    let Some((route, part)) = found else {
        return Err(Failure::not_found("page not found"));
    };
    let param = percent(part, false);
    let query = Query::parse(request.uri().query().unwrap_or_default());
    Ok((
        route,
        Call {
            api,
            version,
            query,
            param,
            request,
        },
    ))
}

/// Takes `/v1.41` off.
fn version(path: &str) -> Result<(ApiVersion, &str), Failure> {
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok((ApiVersion::MAX, path));
    };
    let (text, _) = rest.split_once('/').unwrap_or((rest, ""));
    let Ok(version) = text.parse::<ApiVersion>() else {
        // "/version", "/volumes"
        return Ok((ApiVersion::MAX, path));
    };
    match version.refusal() {
        Some(why) => Err(Failure::invalid(why)),
        None => Ok((version, &rest[text.len()..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_route(method: &str, path: &str) -> Option<(String, String)> {
        ROUTES.iter().find_map(|r| {
            let part = r.matches(method, path)?;
            Some((format!("{}*{}", r.prefix, r.suffix), part.to_owned()))
        })
    }

    #[test]
    fn patterns() {
        for (method, path, want) in [
            ("GET", "/containers/json", Some(("/containers/json*", ""))),
            (
                "GET",
                "/containers/a/json",
                Some(("/containers/*/json", "a")),
            ),
            (
                "GET",
                "/containers//a/json",
                Some(("/containers/*/json", "a")),
            ),
            ("GET", "/containers/a/b/json", None),
            ("DELETE", "/containers/a", Some(("/containers/*", "a"))),
            ("GET", "/images/json", Some(("/images/json*", ""))),
            (
                "GET",
                "/images/x/y:1/json",
                Some(("/images/*/json", "x/y:1")),
            ),
            ("GET", "/images/get", Some(("/images/get*", ""))),
            ("GET", "/images/x/get", Some(("/images/*/get", "x"))),
            ("DELETE", "/images/x/y", Some(("/images/*", "x/y"))),
            (
                "POST",
                "/plimsoll/volumes/v/restore",
                Some(("/plimsoll/volumes/*/restore", "v")),
            ),
            ("GET", "/volumes/v", Some(("/volumes/*", "v"))),
            ("POST", "/containers", None),
            ("GET", "/", None),
        ] {
            let want = want.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(find_route(method, path), want, "{method} {path}");
        }
    }

    #[test]
    fn no_route_hides_another() {
        for (n, route) in ROUTES.iter().enumerate() {
            let path = match route.part {
                Part::None => route.prefix.to_owned(),
                _ => format!("{}x{}", route.prefix, route.suffix),
            };
            let first = ROUTES
                .iter()
                .position(|r| r.matches(route.method, &path).is_some());
            assert_eq!(first, Some(n), "{} {path}", route.method);
        }
    }

    #[test]
    fn versions() {
        assert_eq!(
            version("/v1.24/info").unwrap(),
            (ApiVersion::new(1, 24), "/info")
        );
        assert_eq!(version("/version").unwrap(), (ApiVersion::MAX, "/version"));
        assert_eq!(version("/volumes/x").unwrap().1, "/volumes/x");
        assert!(
            version("/v1.23/info")
                .unwrap_err()
                .message
                .contains("too old")
        );
        assert!(version("/v9.9/info").is_err());
    }

    /// Which test shows a handler at work; the first that fits. `cargo xtask tidy` looks whether they are there.
    const SHOWN_BY: &[(&str, &str)] = &[
        ("build::cancel", "daemon/wire::what_is_not_there_says_so"),
        (
            "build::prune",
            "testkit/build::the_cache_is_told_of_and_pruned",
        ),
        ("build::", "testkit/build::a_build_by_the_docker_command"),
        ("absent::", "daemon/wire::what_is_not_there_says_so"),
        ("system::ping", "daemon/wire::versions_are_negotiated"),
        ("system::", "daemon/docker_cli::the_system_and_its_prunes"),
        (
            "streams::events",
            "daemon/docker_cli::events_are_replayed_and_streamed",
        ),
        ("streams::logs", "daemon/docker_cli::logs_in_all_their_ways"),
        (
            "streams::attach",
            "daemon/streams::a_plain_hijack_carries_both_directions",
        ),
        ("websocket::", "daemon/streams::attach_by_websocket"),
        ("stats::", "daemon/streams::stats_in_their_three_ways"),
        ("archive::export", "daemon/docker_cli::images_in_and_out"),
        ("archive::", "daemon/docker_cli::copies_in_and_out"),
        ("exec::", "testkit/lifecycle::exec_in_a_running_container"),
        (
            "containers::wait",
            "daemon/streams::a_wait_says_at_once_that_it_waits",
        ),
        (
            "containers::resize",
            "daemon/streams::a_terminal_is_left_by_its_keys",
        ),
        (
            "containers::commit",
            "testkit/clients::commit_takes_a_configuration",
        ),
        (
            "containers::changes",
            "daemon/docker_cli::copies_in_and_out",
        ),
        (
            "containers::prune",
            "daemon/docker_cli::the_system_and_its_prunes",
        ),
        ("containers::top", "testkit/libraries::docker_py"),
        ("containers::", "daemon/docker_cli::a_life_step_by_step"),
        ("list::containers", "daemon/docker_cli::a_life_step_by_step"),
        ("images::history", "testkit/libraries::docker_py"),
        ("images::tag", "testkit/libraries::docker_py"),
        (
            "images::create",
            "testkit/registry::push_and_pull_by_the_docker_command",
        ),
        ("images::", "daemon/docker_cli::images_in_and_out"),
        ("list::images", "daemon/docker_cli::images_in_and_out"),
        (
            "registry::",
            "testkit/registry::push_and_pull_by_the_docker_command",
        ),
        (
            "volumes::",
            "daemon/docker_cli::volumes_keep_what_containers_leave",
        ),
        (
            "networks::",
            "testkit/networks::networks_by_the_docker_command",
        ),
        ("plimsoll::fsck", "daemon/streams::the_store_is_checked"),
        (
            "plimsoll::doctor",
            "daemon/docker_cli::the_system_and_its_prunes",
        ),
    ];

    /// The version of the API that brought a route; of most the oldest that is served.
    /// source: moby, docs/api/version-history.md
    fn since(route: &Route) -> &'static str {
        match (route.prefix, route.suffix) {
            ("/plimsoll/volumes/trash" | "/plimsoll/fsck" | "/plimsoll/doctor", _) => "ours",
            ("/plimsoll/volumes/" | "/volumes/", "/restore") => "ours",
            (prefix, _) if prefix.ends_with("/prune") && prefix != "/build/prune" => "1.25",
            ("/system/df", _) | (_, "/checkpoints") => "1.25",
            (prefix, _) if prefix.starts_with("/plugins") || prefix.starts_with("/secrets") => {
                "1.25"
            }
            (prefix, _)
                if prefix.starts_with("/configs") || prefix.starts_with("/distribution") =>
            {
                "1.30"
            }
            ("/session" | "/build/prune", _) => "1.31",
            ("/grpc" | "/build/cancel", _) => "1.39",
            ("/volumes/", "") if route.method == "PUT" => "1.42",
            _ => "1.24",
        }
    }

    /// The table in the documentation is this one.
    #[test]
    fn the_documentation_has_every_route() {
        let mut table =
            String::from("| method | path | since | | shown by |\n|---|---|---|---|---|\n");
        for route in ROUTES.iter() {
            let what = match route.name {
                name if !name.starts_with("absent") && name != "build::cancel" => "built",
                "absent::swarm_verbs" => "refused: not part of this engine",
                "absent::swarm" => "answered as by a dockerd outside of a swarm",
                "absent::no_plugins" | "absent::no_such_plugin" => "there are none",
                _ => "refused by name: not built yet",
            };
            let part = match route.part {
                Part::None => "",
                Part::Segment => "{id}",
                Part::Rest => "{name}",
            };
            let Route {
                method,
                prefix,
                suffix,
                ..
            } = route;
            let shown = SHOWN_BY
                .iter()
                .find(|(name, _)| route.name.starts_with(name));
            let (_, test) = shown.unwrap_or_else(|| panic!("no test shows {}", route.name));
            let since = since(route);
            table +=
                &format!("| {method} | `{prefix}{part}{suffix}` | {since} | {what} | `{test}` |\n");
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/docker-api.md");
        let text = std::fs::read_to_string(path).expect("docs/docker-api.md is there");
        let (begin, end) = ("<!-- routes -->\n", "<!-- /routes -->");
        let at = text.find(begin).expect("its mark") + begin.len();
        let to = text.find(end).expect("its mark");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{}{table}{}", &text[..at], &text[to..]))
                .expect("written");
            return;
        }
        assert!(
            text[at..to] == table,
            "docs/docker-api.md has other routes: UPDATE_DOCS=1 cargo test -p daemon --lib writes them"
        );
    }

    #[test]
    fn the_header_names_the_newest_version() {
        assert_eq!(ApiVersion::MAX.to_string(), "1.51");
    }
}
