//! A layer's bytes from the thread that decompresses and hashes them to the one that unpacks them.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

/// Size of one piece. Large enough that handing over costs nothing, small enough for the cache.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;
/// What a stream may unpack to without a look at how small it was.
const BOMB_GRACE: u64 = 1 << 30;
const BOMB_RATIO: u64 = 200;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Tells the compression by the first bytes.
///
/// # Errors
/// The name of a compression we do not read.
pub(crate) fn sniff(head: &[u8]) -> Result<Packing, &'static str> {
    let zstd_skippable =
        head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
    if head.starts_with(&[0x1f, 0x8b]) {
        Ok(Packing::Gzip)
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || zstd_skippable {
        Ok(Packing::Zstd)
    } else if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Err("xz")
    } else if head.starts_with(b"BZh") {
        Err("bzip2")
    } else if head.starts_with(b"LZIP") {
        Err("lzip")
    } else if head.starts_with(&[0x04, 0x22, 0x4d, 0x18]) {
        Err("lz4")
    } else {
        Ok(Packing::Plain)
    }
}

/// Counts what is taken out of a stream.
struct Counted<R> {
    inner: R,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.taken.set(self.taken.get() + n as u64);
        Ok(n)
    }
}

/// Decompresses. A stream that grows out of all proportion is an error.
pub(crate) struct Unpacker<'a> {
    inner: Box<dyn Read + 'a>,
    taken: std::rc::Rc<std::cell::Cell<u64>>,
    given: u64,
}

impl std::fmt::Debug for Unpacker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(source: impl Read + 'a, packing: Packing) -> io::Result<Self> {
        let taken = std::rc::Rc::<std::cell::Cell<u64>>::default();
        let counted = io::BufReader::with_capacity(
            PIECE,
            Counted {
                inner: source,
                taken: std::rc::Rc::clone(&taken),
            },
        );
        let inner: Box<dyn Read + 'a> = match packing {
            Packing::Plain => Box::new(counted),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(counted)?),
        };
        Ok(Self {
            inner,
            taken,
            given: 0,
        })
    }
}

impl Read for Unpacker<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.given += n as u64;
        let taken = self.taken.get();
        if self.given > BOMB_GRACE && self.given / BOMB_RATIO > taken {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{taken} bytes unpack to more than {} bytes: refused as a decompression bomb",
                    self.given
                ),
            ));
        }
        Ok(n)
    }
}

enum Piece {
    Data(Vec<u8>),
    Failed(io::Error),
}

/// The end that decompresses: run it on a thread of its own.
pub(crate) struct Source {
    full: SyncSender<Piece>,
    empty: Receiver<Vec<u8>>,
}

/// The end that unpacks.
pub(crate) struct Sink {
    full: Receiver<Piece>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

pub(crate) fn pipe() -> (Source, Sink) {
    let (full_tx, full_rx) = sync_channel(PIECES);
    let (empty_tx, empty_rx) = sync_channel(PIECES + 2);
    (
        Source {
            full: full_tx,
            empty: empty_rx,
        },
        Sink {
            full: full_rx,
            empty: empty_tx,
            piece: Vec::new(),
            at: 0,
            ended: false,
        },
    )
}

impl Source {
    /// Moves the whole stream; answers with the digest of what passed, or `None` if the other end
    /// went away or the stream failed (it was told then).
    pub(crate) fn run(self, mut stream: impl Read, hash: bool) -> Option<String> {
        let mut sum = hash.then(Sha256::new);
        loop {
            let mut piece = self.empty.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let mut len = 0;
            let mut failed = None;
            while len < PIECE {
                match stream.read(&mut piece[len..]) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => {
                        failed = Some(e);
                        break;
                    }
                }
            }
            let ended = len < PIECE;
            piece.truncate(len);
            if let Some(sum) = &mut sum {
                sum.update(&piece);
            }
            if len > 0 {
                self.full.send(Piece::Data(piece)).ok()?;
            }
            if let Some(e) = failed {
                self.full.send(Piece::Failed(e)).ok()?;
                return None;
            }
            if ended {
                return Some(sum.map_or_else(String::new, |s| {
                    format!("sha256:{}", hex::encode(s.finalize()))
                }));
            }
        }
    }
}

impl Sink {
    /// Takes what is left, so that the other end comes to the end of its stream.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        loop {
            let n = self.fill_buf()?.len();
            if n == 0 {
                return Ok(());
            }
            self.consume(n);
        }
    }
}

impl Read for Sink {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let data = self.fill_buf()?;
        let n = data.len().min(buf.len());
        buf[..n].copy_from_slice(&data[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Sink {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            let old = std::mem::take(&mut self.piece);
            if old.capacity() > 0 {
                // the other end may be done and gone
                let _gone = self.empty.try_send(old);
            }
            self.at = 0;
            match self.full.recv() {
                Ok(Piece::Data(piece)) => self.piece = piece,
                Ok(Piece::Failed(e)) => {
                    self.ended = true;
                    return Err(e);
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}
