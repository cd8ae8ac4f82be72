//! attach, logs, events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::Filters;
use api::stream::{FRAME_HEADER, MULTIPLEXED_STREAM, RAW_STREAM, StdStream, frame_header};
use api::system::{Event, EventActor};
use bytes::Bytes;
use engine::{AttachOptions, LogLine, LogOptions, LogStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::answer::{Answer, channel, json_line};
use super::call::Call;
use super::failure::Failure;
use super::translate::versions;
use super::{Counted, hijack, time};

pub(super) async fn attach(mut call: Call) -> Answer {
    let q = &call.query;
    let keys = hijack::detach_keys(q.get("detachKeys").unwrap_or_default())?;
    let options = AttachOptions {
        stdin: q.on("stdin"),
        stdout: q.on("stdout"),
        stderr: q.on("stderr"),
        stream: q.on("stream"),
        logs: q.on("logs"),
    };
    let container = call.engine().find(&call.param)?;
    let tty = container.record.spec.tty;
    let stdin = options.stdin && options.stream && container.record.spec.open_stdin;
    let raw = hijack::is_raw(&call.request)?;
    // some clients send a body that says nothing; what follows it is the container's input
    call.body().await?;
    let stream = call.engine().attach(container.id(), options).await?;
    let client = hyper::upgrade::on(&mut call.request);
    tokio::spawn(hijack::copy(
        client,
        stream,
        hijack::Policy {
            stdin,
            tty,
            detach: keys,
            framing: hijack::Framing::AsItComes,
        },
    ));
    let framed = !tty && call.version.at_least(42);
    Ok(hijack::response(
        raw,
        if framed {
            MULTIPLEXED_STREAM
        } else {
            RAW_STREAM
        },
    ))
}

pub(super) async fn logs(call: Call) -> Answer {
    let q = &call.query;
    let options = LogOptions {
        stdout: q.on("stdout"),
        stderr: q.on("stderr"),
        since: time::optional("since", q.get("since"))?,
        until: time::optional("until", q.get("until"))?,
        tail: match q.text("tail") {
            None | Some("all") => None,
            // as dockerd: what is no number is everything
            Some(text) => text.parse().ok(),
        },
        follow: q.on("follow"),
    };
    if !options.stdout && !options.stderr {
        return Err(Failure::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let (stamps, details) = (q.on("timestamps"), q.on("details"));
    let container = call.engine().find(&call.param)?;
    let tty = container.record.spec.tty;
    let mut lines = call.engine().logs(container.id(), options).await?;
    let (out, body) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            // a client that went away ends the reader, also while there is nothing to read
            let line = tokio::select! {
                line = lines.next() => line,
                () = out.closed() => return,
            };
            let chunk = match line {
                None => return,
                Some(Ok(line)) => Ok(frame(&line, stamps, details, tty)),
                Some(Err(error)) => Err(io::Error::other(error.report())),
            };
            if out.send(chunk).await.is_err() {
                return;
            }
        }
    });
    let framed = !tty && call.version.at_least(42);
    Ok(channel(
        if framed {
            MULTIPLEXED_STREAM
        } else {
            RAW_STREAM
        },
        body,
    ))
}

fn frame(line: &LogLine, stamps: bool, details: bool, tty: bool) -> Bytes {
    let mut text = Vec::with_capacity(FRAME_HEADER + 32 + line.bytes.len());
    if !tty {
        text.extend_from_slice(&[0; FRAME_HEADER]);
    }
    if stamps {
        text.extend_from_slice(time::nine_digits(&line.time).as_bytes());
        text.push(b' ');
    }
    if details {
        attributes(&mut text, line);
    }
    text.extend_from_slice(&line.bytes);
    if !tty {
        let stream = match line.stream {
            LogStream::Stdout => StdStream::Stdout,
            LogStream::Stderr => StdStream::Stderr,
        };
        let len = u32::try_from(text.len() - FRAME_HEADER).unwrap_or(u32::MAX);
        text[..FRAME_HEADER].copy_from_slice(&frame_header(stream, len));
    }
    text.into()
}

/// `name=value,name=value `, escaped as in a query.
fn attributes(out: &mut Vec<u8>, line: &LogLine) {
    for (number, (key, value)) in line.attributes.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        escape(out, key);
        out.push(b'=');
        escape(out, value);
    }
    out.push(b' ');
}

/// source: Go's url.QueryEscape
fn escape(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
}

const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub(super) async fn events(call: Call) -> Answer {
    let filters = call.filters(EVENT_FILTERS)?;
    let since = time::optional("since", call.query.get("since"))?;
    let until = time::optional("until", call.query.get("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Failure::invalid(
            "`since` time cannot be after `until` time",
        ));
    }
    let fits = |t: i128| i64::try_from(t).unwrap_or(if t < 0 { i64::MIN } else { i64::MAX });
    let version = call.version;
    let told = move |e: &Arc<engine::Event>| versions::tells(e, version) && matches(e, &filters);
    let (past, mut coming) = call.engine().events(since.map(fits), until.map(fits));
    let counted = Counted::new(&call.api, |api| &api.listeners);
    let (out, body) = mpsc::channel(64);
    tokio::spawn(async move {
        let _counted = counted;
        // as dockerd: either of the two asks for what was
        if since.is_some() || until.is_some() {
            for event in past.iter().filter(|e| told(e)) {
                if out.send(Ok(json_line(&wire(event)))).await.is_err() {
                    return;
                }
            }
        }
        drop(past);
        let end = deadline(until);
        tokio::pin!(end);
        loop {
            let next = tokio::select! {
                next = coming.recv() => next,
                () = &mut end => return,
                () = out.closed() => return,
            };
            let chunk = match next {
                Ok(event) if told(&event) => Ok(json_line(&wire(&event))),
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
                // a client this slow must not take the rest for all there was
                Err(RecvError::Lagged(n)) => Err(io::Error::other(format!(
                    "{n} events were lost: the client reads too slowly"
                ))),
            };
            if out.send(chunk).await.is_err() {
                return;
            }
        }
    });
    Ok(channel("application/json", body))
}

async fn deadline(until: Option<i128>) {
    let Some(until) = until else {
        return std::future::pending().await;
    };
    let left = u64::try_from(until - time::now()).unwrap_or(0);
    tokio::time::sleep(Duration::from_nanos(left)).await;
}

fn wire(event: &Arc<engine::Event>) -> Event {
    let old = matches!(event.kind.as_str(), "container" | "image");
    let from = event
        .attributes
        .get("image")
        .filter(|_| event.kind == "container");
    Event {
        status: if old {
            event.action.clone()
        } else {
            String::new()
        },
        id: if old {
            event.actor.clone()
        } else {
            String::new()
        },
        from: from.cloned().unwrap_or_default(),
        kind: event.kind.clone(),
        action: event.action.clone(),
        actor: EventActor {
            id: event.actor.clone(),
            attributes: event.attributes.clone(),
        },
        scope: "local".to_owned(),
        time: event.time / 1_000_000_000,
        time_nano: event.time,
    }
}

fn matches(event: &Arc<engine::Event>, filters: &Filters) -> bool {
    let name = event.attributes.get("name");
    let of_kind = |kind: &str| {
        filters.any(kind, |wanted| {
            event.kind == kind
                && (event.actor == *wanted
                    || name == Some(wanted)
                    || (kind == "container"
                        && wanted.len() >= 12
                        && event.actor.starts_with(wanted.as_str()))
                    || (kind == "image"
                        && (name.is_some_and(|n| n.split(':').next() == Some(wanted)))))
        })
    };
    // "image=x" also asks for containers made from it
    let image = filters.any("image", |wanted| {
        let made_from = event.attributes.get("image");
        event.kind == "container"
            && made_from.is_some_and(|i| i == wanted || i.split(':').next() == Some(wanted))
    });
    filters.any("type", |t| event.kind == *t)
        && filters.any("event", |e| {
            event.action == *e || event.action.split(':').next() == Some(e)
        })
        && filters.any("scope", |s| s == "local")
        && filters.labels_match(&event.attributes)
        && (image || of_kind("image"))
        && [
            "container",
            "volume",
            "network",
            "daemon",
            "plugin",
            "node",
            "service",
            "secret",
            "config",
        ]
        .into_iter()
        .all(of_kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, actor: &str) -> Arc<engine::Event> {
        let attributes = [("name", "web"), ("image", "busybox:latest"), ("tier", "1")];
        Arc::new(engine::Event {
            time: 1_700_000_000_000_000_007,
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: actor.to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        })
    }

    #[test]
    fn events_are_filtered() {
        let e = event("container", "exec_create: sh", "0123456789abcdef");
        for (key, value, want) in [
            ("type", "container", true),
            ("type", "image", false),
            ("event", "exec_create", true),
            ("event", "die", false),
            ("container", "web", true),
            ("container", "0123456789ab", true),
            ("container", "0123", false),
            ("image", "busybox", true),
            ("image", "busybox:latest", true),
            ("image", "debian", false),
            ("volume", "web", false),
            ("label", "tier=1", true),
            ("label", "tier=2", false),
            ("scope", "swarm", false),
        ] {
            let mut filters = Filters::default();
            filters.add(key, value);
            assert_eq!(matches(&e, &filters), want, "{key}={value}");
        }
    }

    #[test]
    fn events_on_the_wire() {
        let both = [
            wire(&event("container", "start", "0123")),
            wire(&event("volume", "create", "data")),
        ];
        insta::assert_json_snapshot!(both);
    }

    #[test]
    fn log_lines_on_the_wire() {
        let line = LogLine {
            stream: LogStream::Stderr,
            time: "2024-01-02T03:04:05.1Z".to_owned(),
            bytes: b"x\n".to_vec(),
            attributes: Default::default(),
        };
        assert_eq!(&frame(&line, false, false, true)[..], b"x\n");
        assert_eq!(
            &frame(&line, false, true, false)[..],
            b"\x02\0\0\0\0\0\0\x03 x\n"
        );
        assert_eq!(
            &frame(&line, true, false, true)[..],
            b"2024-01-02T03:04:05.100000000Z x\n"
        );
        let attributes = [("tag", "a b/c"), ("env", "x=1")].map(|(k, v)| (k.into(), v.into()));
        let line = LogLine {
            attributes: attributes.into(),
            ..line
        };
        assert_eq!(
            &frame(&line, false, true, true)[..],
            b"env=x%3D1,tag=a+b%2Fc x\n"
        );
    }
}
