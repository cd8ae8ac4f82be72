//! Crash states: a point in the log, and the fate of the writes no flush had covered.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::disk::Entry;

/// What a disk writes in one piece here; larger writes may be torn at this.
pub(super) const BLOCK: usize = 4096;

/// A disk's content; what isn't there is zero.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) blocks: HashMap<u64, Arc<[u8; BLOCK]>>,
}

/// What became of the writes since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All reached the disk.
    All,
    /// None did.
    None,
    /// Each with the toss of a coin.
    Random(u64),
    /// Each block of 4 KiB with the toss of a coin.
    Torn(u64),
    /// All but one.
    DropOne(u64),
    /// The last alone.
    OnlyLast,
}

/// One crash state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Entries of the log before the cut.
    pub point: usize,
    pub fate: Fate,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut at {} ({:?})", self.point, self.fate)
    }
}

/// A small generator (`SplitMix64`): the same states for the same seed, on any machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }
}

pub(super) fn choose(log: &[Entry], wanted: usize, seed: u64) -> Vec<Crash> {
    let mut random = Random(seed);
    let mut points = BTreeSet::new();
    for (i, entry) in log.iter().enumerate() {
        if matches!(entry, Entry::Mark(_)) {
            // told ok this instant; and what the file system was about to do anyway
            points.insert(i + 1);
            points.insert((i + 2 + random.below(8)).min(log.len()));
        }
    }
    points.insert(log.len());
    let flushes: Vec<usize> = log
        .iter()
        .enumerate()
        .filter(|(_, e)| matches!(e, Entry::Flush))
        .map(|(i, _)| i)
        .collect();
    let mut crashes = Vec::new();
    for point in points {
        // `None` at every mark: the disk kept nothing it had not promised
        crashes.push(Crash {
            point,
            fate: Fate::None,
        });
        crashes.push(Crash {
            point,
            fate: other_fate(&mut random),
        });
    }
    while crashes.len() < wanted && !log.is_empty() {
        let point = match flushes.len() {
            0 => random.below(log.len()) + 1,
            // before, at and after a flush
            n => (flushes[random.below(n)] + random.below(3)).min(log.len()),
        };
        crashes.push(Crash {
            point,
            fate: other_fate(&mut random),
        });
    }
    crashes
}

fn other_fate(random: &mut Random) -> Fate {
    let seed = random.next();
    match random.below(6) {
        0 => Fate::All,
        1 => Fate::None,
        2 => Fate::Random(seed),
        3 => Fate::Torn(seed),
        4 => Fate::DropOne(seed),
        _ => Fate::OnlyLast,
    }
}

/// The disk as it is after a crash, and the marks set before it.
pub(super) fn present<'a>(base: &Image, log: &'a [Entry], crash: &Crash) -> (Image, Vec<&'a str>) {
    let before = &log[..crash.point.min(log.len())];
    let covered = before
        .iter()
        .rposition(|e| matches!(e, Entry::Flush))
        .map_or(0, |i| i + 1);
    let (settled, pending) = before.split_at(covered);
    let mut image = base.clone();
    for entry in settled {
        apply(&mut image, entry);
    }
    let pending: Vec<&Entry> = pending
        .iter()
        .filter(|e| !matches!(e, Entry::Mark(_)))
        .collect();
    meet(&mut image, &pending, crash.fate);
    let marks = before
        .iter()
        .filter_map(|e| match e {
            Entry::Mark(what) => Some(what.as_str()),
            _ => None,
        })
        .collect();
    (image, marks)
}

fn meet(image: &mut Image, pending: &[&Entry], fate: Fate) {
    match fate {
        Fate::All => pending.iter().for_each(|e| apply(image, e)),
        Fate::None => {}
        Fate::OnlyLast => pending.iter().rev().take(1).for_each(|e| apply(image, e)),
        Fate::Random(seed) => {
            let mut random = Random(seed);
            for entry in pending {
                if random.coin() {
                    apply(image, entry);
                }
            }
        }
        Fate::DropOne(seed) => {
            let dropped = Random(seed).below(pending.len());
            for (i, entry) in pending.iter().enumerate() {
                if i != dropped {
                    apply(image, entry);
                }
            }
        }
        Fate::Torn(seed) => {
            let mut random = Random(seed);
            for entry in pending {
                tear(image, entry, &mut random);
            }
        }
    }
}

fn tear(image: &mut Image, entry: &Entry, random: &mut Random) {
    let Entry::Write { offset, data } = entry else {
        if random.coin() {
            apply(image, entry);
        }
        return;
    };
    // pieces end where a block of the disk does
    let first = BLOCK - usize::try_from(offset % BLOCK as u64).unwrap_or(0);
    let (head, rest) = data.split_at(first.min(data.len()));
    let mut at = *offset;
    for piece in std::iter::once(head).chain(rest.chunks(BLOCK)) {
        if random.coin() {
            image.write(at, piece);
        }
        at += piece.len() as u64;
    }
}

fn apply(image: &mut Image, entry: &Entry) {
    match entry {
        Entry::Write { offset, data } => image.write(*offset, data),
        Entry::Discard { offset, length } => image.zero(*offset, *length),
        Entry::Flush | Entry::Mark(_) => {}
    }
}
