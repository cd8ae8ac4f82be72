//! Bounded byte pipes between async front doors and the store's blocking readers and writers.
//!
//! Both ends apply back pressure: a slow client slows the archive's writer, not memory.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Chunks in flight.
const DEPTH: usize = 8;
/// What a writer gathers before it hands a chunk on.
const CHUNK: usize = 128 * 1024;

/// What a front door pushes a request's body into.
pub type ByteSender = mpsc::Sender<io::Result<Bytes>>;
/// What a front door sends as a response's body. An `Err` ends it as broken.
pub type ByteReceiver = mpsc::Receiver<io::Result<Bytes>>;

/// An input for blocking code, fed by async code. Dropping the sender is the end of input; an
/// interrupted body must be sent as `Err`, so that it is never taken for a complete one.
#[must_use]
pub fn input() -> (ByteSender, ChannelReader) {
    let (tx, rx) = mpsc::channel(DEPTH);
    (
        tx,
        ChannelReader {
            rx,
            current: Bytes::new(),
        },
    )
}

/// An output of blocking code, drained by async code.
#[must_use]
pub fn output() -> (ChannelWriter, ByteReceiver) {
    let (tx, rx) = mpsc::channel(DEPTH);
    (
        ChannelWriter {
            tx,
            buffer: Vec::with_capacity(CHUNK),
        },
        rx,
    )
}

/// See [`input`]. Must be read outside of the async executor's threads.
#[derive(Debug)]
pub struct ChannelReader {
    rx: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.rx.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk?,
            }
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// See [`output`]. Flush at the end; dropping it unflushed loses the last chunk.
#[derive(Debug)]
pub struct ChannelWriter {
    tx: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    /// Ends the stream as broken, so that the client does not take it for a complete one.
    pub fn fail(self, error: io::Error) {
        // the client is gone: nobody is left to tell
        drop(self.tx.blocking_send(Err(error)));
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(buf);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.tx
            .blocking_send(Ok(Bytes::from(chunk)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_body_is_an_error_and_not_an_end() {
        let (tx, mut rx) = input();
        tx.blocking_send(Ok(Bytes::from_static(b"abc"))).unwrap();
        tx.blocking_send(Err(io::ErrorKind::ConnectionReset.into()))
            .unwrap();
        let mut got = Vec::new();
        let error = rx.read_to_end(&mut got).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(got, b"abc");
    }

    #[test]
    fn what_is_written_and_flushed_arrives_whole() {
        let (mut tx, mut rx) = output();
        let writer = std::thread::spawn(move || {
            for n in 0..300_000_u32 {
                tx.write_all(&n.to_le_bytes()).unwrap();
            }
            tx.flush().unwrap();
        });
        let mut len = 0;
        while let Some(chunk) = rx.blocking_recv() {
            len += chunk.unwrap().len();
        }
        writer.join().unwrap();
        assert_eq!(len, 1_200_000);
    }
}
