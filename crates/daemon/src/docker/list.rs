//! Lists with their filters.

use std::sync::Arc;

use api::Filters;
use engine::{ContainerView, Engine, ImageView};
use regex_lite::Regex;

use super::answer::{Answer, ok};
use super::call::Call;
use super::failure::Failure;
use super::translate::{inspect, summary, versions};
use super::{lines, time};

const CONTAINER_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

pub(super) async fn containers(call: Call) -> Answer {
    let filters = call.filters(CONTAINER_FILTERS)?;
    let engine = call.engine();
    let wanted = ContainerFilter::new(engine, &filters)?;
    let limit: Option<i64> = call.query.number("limit")?;
    let limit = limit
        .filter(|n| *n > 0)
        .and_then(|n| usize::try_from(n).ok());
    let all = call.query.on("all")
        || limit.is_some()
        || ["status", "exited"].iter().any(|f| filters.contains(f));
    let snapshot = engine.snapshot();
    let chosen: Vec<&Arc<ContainerView>> = snapshot
        .containers
        .iter()
        .filter(|view| {
            all || matches!(
                inspect::status(view.phase),
                "running" | "paused" | "restarting"
            )
        })
        .filter(|view| wanted.matches(view))
        .take(limit.unwrap_or(usize::MAX))
        .collect();
    let sized = call.query.on("size");
    if !sized && versions::has_whole_lines(call.version) {
        let chosen = chosen.into_iter().cloned().collect();
        return Ok(lines::answer(chosen));
    }
    let mut lines: Vec<_> = chosen.iter().map(|view| summary::container(view)).collect();
    for line in &mut lines {
        versions::line(line, call.version);
    }
    if sized {
        for line in &mut lines {
            let size = engine.container_size(&line.id).await?;
            line.size_rw = i64::try_from(size.size_rw).unwrap_or(i64::MAX);
            line.size_root_fs = i64::try_from(size.size_root_fs).unwrap_or(i64::MAX);
        }
    }
    ok(&lines)
}

/// Filters with what they name looked up once.
struct ContainerFilter<'a> {
    filters: &'a Filters,
    names: Patterns,
    ids: Patterns,
    statuses: Patterns,
    exited: Vec<i32>,
    /// Ids of the images that `ancestor` names.
    ancestors: Vec<String>,
    /// Made before, made after: RFC 3339 compares as text only with the same number of digits.
    before: Option<i128>,
    since: Option<i128>,
    is_task: bool,
    images: Arc<Vec<ImageView>>,
}

impl<'a> ContainerFilter<'a> {
    fn new(engine: &Engine, filters: &'a Filters) -> Result<Self, Failure> {
        let mut exited = Vec::new();
        for code in filters.get("exited") {
            exited.push(
                code.parse()
                    .map_err(|_| Failure::invalid(format!("invalid filter 'exited={code}'")))?,
            );
        }
        for status in filters.get("status") {
            if ![
                "created",
                "running",
                "paused",
                "restarting",
                "removing",
                "exited",
                "dead",
            ]
            .contains(&status.as_str())
            {
                return Err(Failure::invalid(format!(
                    "invalid filter 'status={status}'"
                )));
            }
        }
        let made = |names: &[String]| -> Result<Option<i128>, Failure> {
            match names.last() {
                Some(name) => Ok(Some(nanoseconds(&engine.find(name)?.record.created))),
                None => Ok(None),
            }
        };
        let named = filters
            .get("ancestor")
            .iter()
            .filter_map(|name| engine.image(name).ok());
        Ok(Self {
            names: Patterns::new(filters.get("name")),
            ids: Patterns::new(filters.get("id")),
            statuses: Patterns::new(filters.get("status")),
            exited,
            ancestors: named.map(|image| image.id).collect(),
            before: made(filters.get("before"))?,
            since: made(filters.get("since"))?,
            is_task: filters
                .get("is-task")
                .iter()
                .any(|v| matches!(v.as_str(), "1" | "true")),
            images: Arc::clone(&engine.snapshot().images),
            filters,
        })
    }

    fn matches(&self, view: &ContainerView) -> bool {
        let f = self.filters;
        let created = || nanoseconds(&view.record.created);
        let is_named = || {
            let slashed = format!("/{}", view.name());
            self.names.matches(view.name()) || self.names.matches(&slashed)
        };
        (self.names.is_any() || is_named())
            && self.ids.matches(view.id())
            && self.statuses.matches(inspect::status(view.phase))
            && (self.exited.is_empty()
                || (self.exited.contains(&view.exit_code)
                    && inspect::status(view.phase) == "exited"))
            && f.labels_match(&view.record.spec.labels)
            && (!f.contains("ancestor") || self.descends(&view.record.image_id))
            && self.before.is_none_or(|t| created() < t)
            && self.since.is_none_or(|t| created() > t)
            && f.any("volume", |v| {
                view.record
                    .mounts
                    .iter()
                    .any(|m| m.name == *v || m.destination == *v)
            })
            && f.any("network", |n| {
                inspect::endpoints(view)
                    .iter()
                    .any(|(name, e)| name == n || e.network_id == *n)
            })
            && f.any("health", |h| {
                h == view
                    .health
                    .as_ref()
                    .map_or("none", |x| engine::health_word(x.status))
            })
            && f.any("publish", |p| {
                let (port, protocol) = p.split_once('/').unwrap_or((p, "tcp"));
                let all = view.membership.iter().flat_map(|m| &m.ports);
                all.into_iter().any(|x| {
                    x.protocol.name() == protocol
                        && (x.port.to_string() == port || x.to.port().to_string() == port)
                })
            })
            && f.any("expose", |e| {
                view.record
                    .spec
                    .exposed_ports
                    .iter()
                    .any(|p| p == e || p.split('/').next() == Some(e))
            })
            && !self.is_task
    }

    /// Made from one of the ancestors, or from an image built on one: its layers begin with theirs.
    fn descends(&self, image: &str) -> bool {
        let layers = |id: &str| {
            self.images
                .iter()
                .find(|i| i.id == id)
                .map(|i| i.layers.as_slice())
        };
        self.ancestors.iter().any(|ancestor| {
            ancestor == image
                || match (layers(ancestor), layers(image)) {
                    (Some(base), Some(own)) => {
                        !base.is_empty() && own.len() > base.len() && own.starts_with(base)
                    }
                    _ => false,
                }
        })
    }
}

fn nanoseconds(rfc3339: &str) -> i128 {
    time::parse("created", rfc3339).unwrap_or_default()
}

/// Docker's way to match names: the text itself, or a regular expression that is found in it.
struct Patterns(Vec<(String, Option<Regex>)>);

impl Patterns {
    fn new(values: &[String]) -> Self {
        Self(
            values
                .iter()
                .map(|v| (v.clone(), Regex::new(v).ok()))
                .collect(),
        )
    }

    /// Nothing is asked.
    fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|(plain, regex)| {
                plain == text || regex.as_ref().is_some_and(|r| r.is_match(text))
            })
    }
}

pub(super) async fn images(call: Call) -> Answer {
    let filters = call.filters(&[
        "dangling",
        "label",
        "label!",
        "before",
        "since",
        "reference",
        "until",
    ])?;
    let engine = call.engine();
    let made = |key: &str| -> Result<Option<i64>, Failure> {
        match filters.get(key).last() {
            Some(name) => Ok(Some(time::seconds(&engine.image(name)?.created))),
            None => Ok(None),
        }
    };
    let (before, since) = (made("before")?, made("since")?);
    let until = match filters.get("until").last() {
        Some(text) => Some(until(text)?),
        None => None,
    };
    let dangling = match filters.get("dangling").last().map(String::as_str) {
        None => None,
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(other) => {
            return Err(Failure::invalid(format!(
                "invalid filter 'dangling={other}'"
            )));
        }
    };
    let snapshot = engine.snapshot();
    let mut lines = Vec::new();
    let all = call.query.on("all");
    for view in snapshot.images.iter().filter(|v| all || !v.intermediate) {
        let created = time::seconds(&view.created);
        let fits = filters.labels_match(&view.config.labels)
            && !filters.labels_excluded(&view.config.labels)
            && before.is_none_or(|t| created < t)
            && since.is_none_or(|t| created > t)
            && until.is_none_or(|t| created <= t)
            && dangling.is_none_or(|d| d == view.names.is_empty());
        if !fits {
            continue;
        }
        let mut line = summary::image(view, call.version);
        if filters.contains("reference") {
            line.repo_tags.retain(|name| {
                filters.any("reference", |pattern| reference_matches(pattern, name))
            });
            line.repo_digests.retain(|name| {
                filters.any("reference", |pattern| reference_matches(pattern, name))
            });
            if line.repo_tags.is_empty() && line.repo_digests.is_empty() {
                continue;
            }
        }
        let users = snapshot.containers.iter();
        let users = users.filter(|c| c.record.image_id == view.id).count();
        versions::image_line(&mut line, call.version, users);
        if call.query.on("shared-size") || call.query.on("containers") {
            line.containers = i64::try_from(users).unwrap_or(i64::MAX);
        }
        lines.push(line);
    }
    ok(&lines)
}

/// A time, or a duration before now (`24h`).
fn until(text: &str) -> Result<i64, Failure> {
    if let Ok(span) = text.parse::<jiff::SignedDuration>() {
        return Ok(jiff::Timestamp::now().as_second() - span.as_secs());
    }
    let nanoseconds = time::parse("until", text)?;
    Ok(i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX))
}

/// `name`, `name:tag` or a shell pattern of either.
fn reference_matches(pattern: &str, name: &str) -> bool {
    let bare = name.rsplit_once('@').map_or(name, |(n, _)| n);
    let repository = match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => bare,
    };
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), repository.as_bytes())
}

/// `*` and `?` stop at slashes, as in Go's `path.Match`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text)
                || matches!(text.split_first(), Some((c, more)) if *c != b'/' && glob(pattern, more))
        }
        (Some((b'?', rest)), Some((c, more))) => *c != b'/' && glob(rest, more),
        (Some((b'[', rest)), Some((c, more))) => match class(rest, *c) {
            Some((true, rest)) => glob(rest, more),
            _ => false,
        },
        (Some((b'\\', [p, rest @ ..])), Some((c, more))) => p == c && glob(rest, more),
        (Some((p, rest)), Some((c, more))) => p == c && glob(rest, more),
        _ => false,
    }
}

/// `[a-z]`, `[^x]`: whether `c` is in it, and what follows the class.
fn class(pattern: &[u8], c: u8) -> Option<(bool, &[u8])> {
    let end = pattern.iter().skip(1).position(|b| *b == b']')? + 1;
    let (set, rest) = (&pattern[..end], &pattern[end + 1..]);
    let (negated, set) = set.strip_prefix(b"^").map_or((false, set), |s| (true, s));
    let mut found = false;
    let mut i = 0;
    while i < set.len() {
        if let (Some(b'-'), Some(high)) = (set.get(i + 1), set.get(i + 2)) {
            found |= (set[i]..=*high).contains(&c);
            i += 3;
        } else {
            found |= set[i] == c;
            i += 1;
        }
    }
    Some((found != negated, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for (pattern, name, want) in [
            ("busybox", "busybox:latest", true),
            ("busybox:latest", "busybox:latest", true),
            ("busybox:1", "busybox:latest", false),
            ("busy*", "busybox:latest", true),
            ("*", "a/b:1", false),
            ("*/*", "a/b:1", true),
            ("a/?:1", "a/b:1", true),
            ("reg:5000/x", "reg:5000/x:1", true),
            ("[a-c]x", "bx:1", true),
            ("[^a-c]x", "bx:1", false),
            ("[", "[", false),
        ] {
            assert_eq!(reference_matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn names_are_patterns() {
        let all = Patterns::new(&["^/web$".to_owned(), "db".to_owned(), "(".to_owned()]);
        assert!(all.matches("/web") && all.matches("my-db-1") && all.matches("("));
        assert!(!all.matches("web2"));
        assert!(Patterns::new(&[]).matches("anything"));
    }
}
