//! What the service manager is told (`sd_notify(3)`), and the watchdog it keeps.
//!
//! The watchdog is fed only while a request sent to our own socket is answered: a process that lives
//! but does not serve is restarted. Containers survive that.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Tells; does nothing where nobody asked to be told.
pub(crate) fn tell(state: &str) {
    if let Err(error) = send(state) {
        tracing::warn!("the service manager could not be told {state:?}: {error}");
    }
}

fn send(state: &str) -> io::Result<()> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// How often the watchdog wants to be fed, where there is one for this process.
fn interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let for_us =
        std::env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
    (for_us && micros > 0).then(|| Duration::from_micros(micros))
}

/// Feeds the watchdog for ever; ends at once where there is none.
pub(crate) async fn watchdog(socket: PathBuf) {
    let Some(limit) = interval() else { return };
    let mut tick = tokio::time::interval(limit / 3);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match tokio::time::timeout(limit / 3, probe(&socket)).await {
            Ok(Ok(())) => tell("WATCHDOG=1"),
            Ok(Err(error)) => tracing::error!(
                "our own socket {} does not answer: {error}",
                socket.display()
            ),
            Err(_) => tracing::error!(
                "our own socket {} did not answer within {:?}",
                socket.display(),
                limit / 3
            ),
        }
    }
}

/// One request over the socket, as any client would send it.
pub(crate) async fn probe(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(b"GET /_ping HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
        .await?;
    let mut head = [0; 15];
    stream.read_exact(&mut head).await?;
    if head.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::Error::other(
            String::from_utf8_lossy(&head).into_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_wants_an_answer_of_200() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 500 Bad\r\n\r\n", false),
            ("", false),
        ] {
            let (asked, served) = tokio::join!(probe(&path), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 16];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await
            });
            served.unwrap();
            assert_eq!(asked.is_ok(), good, "{answer:?}");
        }
    }
}
