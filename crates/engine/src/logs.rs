//! Logs, and what attach replays of them.

use std::sync::Arc;

use shim::jsonlog::{LogPosition, LogReader, ReadOptions, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::container::{Command, Live};
use crate::error::Error;
use crate::inner::{Inner, ask};
use crate::model::ErrorKind;
use crate::registry::Entry;
use crate::views::{AttachOptions, LogLine, LogOptions, LogStream};

/// Lines in flight to a slow client.
const DEPTH: usize = 64;

pub(crate) type Lines = mpsc::Receiver<Result<LogLine, Error>>;

pub(crate) async fn read(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    options: LogOptions,
) -> Result<Lines, Error> {
    read_to(engine, entry, options, None).await
}

async fn read_to(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    options: LogOptions,
    end: Option<LogPosition>,
) -> Result<Lines, Error> {
    let view = entry.view.load_full();
    let Some(path) = view.paths.log.clone() else {
        return Err(Error::unsupported(
            "configured logging driver does not support reading",
        ));
    };
    let time = |ns: Option<i128>| -> Result<Option<jiff::Timestamp>, Error> {
        ns.map(jiff::Timestamp::from_nanosecond)
            .transpose()
            .map_err(|e| Error::caused(ErrorKind::InvalidArgument, "a time out of range", e))
    };
    let read = ReadOptions {
        stdout: options.stdout,
        stderr: options.stderr,
        tail: options.tail.map(|n| n as u64),
        since: time(options.since)?,
        until: time(options.until)?,
        end,
        after: None,
    };
    // one that does not run has nothing to follow
    let live: Option<Live> = if options.follow && view.is_running() {
        ask(entry, |reply| Command::Live {
            unpaused: false,
            reply,
        })
        .await
        .ok()
    } else {
        None
    };
    let reader = match live {
        Some(live) => {
            let watcher = engine.watcher.as_ref().ok_or_else(|| {
                Error::unsupported("logs cannot be followed: this host has no inotify instances left (fs.inotify.max_user_instances)")
            })?;
            LogReader::follow(&path, &read, watcher, live.ended).await
        }
        None => LogReader::open(&path, &read).await,
    };
    let mut reader = reader.map_err(Error::store("read the log"))?;
    let (tx, rx) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        loop {
            let entries = tokio::select! {
                entries = reader.next() => entries,
                () = tx.closed() => return,
            };
            match entries {
                Ok(Some(entries)) => {
                    for entry in entries {
                        if tx.send(Ok(line(entry))).await.is_err() {
                            return;
                        }
                    }
                }
                Ok(None) => return,
                Err(e) => {
                    drop(tx.send(Err(Error::store("read the log")(e))).await);
                    return;
                }
            }
        }
    });
    Ok(rx)
}

fn line(entry: shim::jsonlog::Entry) -> LogLine {
    LogLine {
        stream: match entry.stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        },
        time: entry.time.to_string(),
        bytes: entry.bytes,
        attributes: entry.attributes,
    }
}

/// The log first, then (with `live`) what comes: each line once, because the shim says how far the
/// log went when it took the stream. Where it doesn't, one in between may be seen twice, never none.
pub(crate) async fn with_replay(
    engine: &Arc<Inner>,
    entry: &Arc<Entry>,
    options: &AttachOptions,
    live: Option<(UnixStream, Option<LogPosition>)>,
) -> Result<UnixStream, Error> {
    let (live, end) = live.map_or((None, None), |(live, end)| (Some(live), end));
    let mut lines = read_to(
        engine,
        entry,
        LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            ..LogOptions::default()
        },
        end,
    )
    .await?;
    let raw = entry.view.load().record.spec.tty;
    let (client, ours) = UnixStream::pair().map_err(Error::io("make a socket pair"))?;
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = ours.into_split();
        while let Some(Ok(line)) = lines.recv().await {
            let frame = if raw { line.bytes } else { frame(&line) };
            if to_client.write_all(&frame).await.is_err() {
                return;
            }
        }
        let Some(live) = live else { return };
        let (mut from_shim, mut to_shim) = live.into_split();
        let input = async {
            let copied = tokio::io::copy(&mut from_client, &mut to_shim).await;
            drop(to_shim.shutdown().await);
            copied
        };
        let output = async {
            let mut buffer = vec![0; 32 * 1024];
            loop {
                match from_shim.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => {
                        if to_client.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        tokio::pin!(input);
        tokio::pin!(output);
        // the end of input does not end the output
        tokio::select! {
            () = &mut output => {}
            _ = &mut input => output.await,
        }
    });
    Ok(client)
}

/// source: Docker Engine API, "Stream format" of container attach.
fn frame(line: &LogLine) -> Vec<u8> {
    let kind = match line.stream {
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    };
    let mut out = Vec::with_capacity(8 + line.bytes.len());
    out.extend([kind, 0, 0, 0]);
    let length = u32::try_from(line.bytes.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend(&line.bytes);
    out
}
