//! The disk: its content in memory, and the log of what was done to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::state::{BLOCK, Image};

/// One thing that reached the disk.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Write { offset: u64, data: Arc<[u8]> },
    Discard { offset: u64, length: u64 },
    Flush,
    Mark(String),
}

/// A disk; a handle, cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    size: u64,
    content: Image,
    log: Option<Vec<Entry>>,
    /// How often the file was opened and not released: 0 once nobody holds the old state.
    open: u64,
}

impl Disk {
    pub(super) fn new(size: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            size,
            content: Image::default(),
            log: None,
            open: 0,
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn size(&self) -> u64 {
        self.inner().size
    }

    pub(super) fn start_log(&self) {
        self.inner().log = Some(Vec::new());
    }

    pub(super) fn stop_log(&self) -> Vec<Entry> {
        self.inner().log.take().unwrap_or_default()
    }

    pub(super) fn log_mark(&self, what: &str) {
        self.inner().record(|| Entry::Mark(what.to_owned()));
    }

    pub(super) fn image(&self) -> Image {
        self.inner().content.clone()
    }

    pub(super) fn replace(&self, image: Image) {
        self.inner().content = image;
    }

    pub(super) fn opened(&self) {
        self.inner().open += 1;
    }

    pub(super) fn released(&self) {
        let mut inner = self.inner();
        inner.open = inner.open.saturating_sub(1);
    }

    pub(super) fn in_use(&self) -> bool {
        self.inner().open > 0
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let inner = self.inner();
        let end = offset.saturating_add(length as u64).min(inner.size);
        let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
        let mut out = vec![0; length];
        inner.content.read(offset, &mut out);
        out
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        let mut inner = self.inner();
        inner.content.write(offset, data);
        inner.record(|| Entry::Write {
            offset,
            data: data.into(),
        });
    }

    pub(super) fn discard(&self, offset: u64, length: u64) {
        let mut inner = self.inner();
        inner.content.zero(offset, length);
        inner.record(|| Entry::Discard { offset, length });
    }

    pub(super) fn flush(&self) {
        self.inner().record(|| Entry::Flush);
    }
}

impl Inner {
    fn record(&mut self, entry: impl FnOnce() -> Entry) {
        if let Some(log) = &mut self.log {
            log.push(entry());
        }
    }
}

impl Image {
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        self.spans(offset, out.len(), |block, at, from, n| {
            if let Some(content) = self.blocks.get(&block) {
                out[from..from + n].copy_from_slice(&content[at..at + n]);
            }
        });
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut changed: HashMap<u64, Arc<[u8; BLOCK]>> = HashMap::new();
        self.spans(offset, data.len(), |block, at, from, n| {
            let mut content = self.blocks.get(&block).map_or([0; BLOCK], |b| **b);
            content[at..at + n].copy_from_slice(&data[from..from + n]);
            changed.insert(block, Arc::new(content));
        });
        self.blocks.extend(changed);
    }

    /// A discarded range reads as zeros: the harshest a disk may do.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let block = BLOCK as u64;
        let (first, end) = (offset.div_ceil(block), (offset + length) / block);
        if first >= end {
            return; // less than a block: kept, as disks do
        }
        if end - first > self.blocks.len() as u64 {
            self.blocks.retain(|b, _| *b < first || *b >= end);
        } else {
            for b in first..end {
                self.blocks.remove(&b);
            }
        }
    }

    fn spans(&self, offset: u64, length: usize, mut each: impl FnMut(u64, usize, usize, usize)) {
        let mut done = 0;
        while done < length {
            let position = offset + done as u64;
            let at = usize::try_from(position % BLOCK as u64).unwrap_or(0);
            let n = (BLOCK - at).min(length - done);
            each(position / BLOCK as u64, at, done, n);
            done += n;
        }
    }
}
