//! What went over one connection, and how much of it the sink is known to have.
//!
//! ```text
//!  safe ........ confirmed ........ acknowledged ........ written
//!    |               |                    |
//!    |               |                    +- by the sink's kernel, when it was looked last
//!    |               +- and the connection lived when it was looked again: the mark
//!    +- what a sink's kernel may hold unread lies after it: where it goes on after a reset
//! ```
//! Without an acknowledgement of the sink's own, more cannot be known.

use std::collections::VecDeque;

/// Positions to go back to are at least so far apart.
const GRAIN: u64 = 64 << 10;

/// `T` says where in the log a byte of the connection is.
#[derive(Debug)]
pub(super) struct Window<T> {
    written: u64,
    acknowledged: u64,
    /// The ends of what is written and not confirmed.
    pending: VecDeque<(u64, T)>,
    confirmed: (u64, T),
    safe: VecDeque<(u64, T)>,
    /// Bytes that a sink's kernel may hold unread.
    unread: u64,
}

impl<T: Clone> Window<T> {
    /// Of a connection that begins at `start`.
    pub(super) fn new(start: T, unread: u64) -> Self {
        Self {
            written: 0,
            acknowledged: 0,
            pending: VecDeque::new(),
            confirmed: (0, start.clone()),
            safe: [(0, start)].into(),
            unread,
        }
    }

    pub(super) fn wrote(&mut self, bytes: usize, end: T) {
        self.written += bytes as u64;
        self.pending.push_back((self.written, end));
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The connection lives. What is newly confirmed.
    pub(super) fn lives(&mut self, unacknowledged: u64) -> Option<T> {
        let confirmed = self.confirm(self.acknowledged);
        self.acknowledged = self.written.saturating_sub(unacknowledged);
        confirmed
    }

    /// The sink has closed it, having read what was acknowledged.
    pub(super) fn closed(&mut self, unacknowledged: u64) -> Option<T> {
        self.acknowledged = self.written.saturating_sub(unacknowledged);
        self.confirm(self.acknowledged)
    }

    /// The sink itself has said that it has all.
    pub(super) fn all(&mut self) -> Option<T> {
        self.confirm(self.written)
    }

    fn confirm(&mut self, to: u64) -> Option<T> {
        let before = self.confirmed.0;
        while self.pending.front().is_some_and(|(end, _)| *end <= to)
            && let Some(next) = self.pending.pop_front()
        {
            if next.0 >= self.safe.back().map_or(0, |s| s.0) + GRAIN {
                self.safe.push_back(next.clone());
            }
            self.confirmed = next;
        }
        // the second still has all of that after it
        while self
            .safe
            .get(1)
            .is_some_and(|s| s.0 + self.unread <= self.confirmed.0)
        {
            self.safe.pop_front();
        }
        (self.confirmed.0 > before).then(|| self.confirmed.1.clone())
    }

    /// Where to go on, over another connection.
    pub(super) fn resume(&self, unread: bool) -> T {
        let safe = self.safe.front().filter(|_| unread && self.unread > 0);
        safe.unwrap_or(&self.confirmed).1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmed_is_what_was_acknowledged_and_lived() {
        let mut window = Window::new(0, 1000);
        window.wrote(10, 1);
        window.wrote(10, 2);
        assert_eq!(window.lives(20), None);
        // the first is acknowledged, but nobody has looked again
        assert_eq!(window.lives(10), None);
        assert_eq!(window.resume(false), 0);
        assert_eq!(window.lives(5), Some(1));
        assert_eq!(window.resume(false), 1);
        assert_eq!(window.lives(0), None);
        assert!(window.is_pending());
        assert_eq!(window.lives(0), Some(2));
        assert!(!window.is_pending());
        assert_eq!(window.resume(false), 2);
        // all of it may lie unread
        assert_eq!(window.resume(true), 0);
        window.wrote(10, 3);
        window.wrote(10, 4);
        assert_eq!(window.closed(10), Some(3));
        assert_eq!(window.resume(false), 3);
    }

    /// After a reset it goes back by what may lie unread, and not much more.
    #[test]
    fn it_goes_back_no_further_than_it_must() {
        let step = 50 << 10;
        let unread = 1 << 20;
        let mut window = Window::new(0_u64, unread);
        for n in 1..1000 {
            window.wrote(step, n * step as u64);
            window.all();
            let behind = n * step as u64 - window.resume(true);
            assert!(behind >= unread.min(n * step as u64), "{behind}");
            assert!(behind <= unread + 2 * GRAIN, "{behind}");
            assert!(window.safe.len() < 20);
        }
        // where it is known what was read
        let mut window = Window::new(0, 0);
        window.wrote(step, 1);
        window.all();
        assert_eq!(window.resume(true), 1);
    }
}
