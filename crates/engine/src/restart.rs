//! When an ended container is started again, and how long that waits. Pure but for the clock that
//! is handed in, which is monotonic: a jump of the wall clock changes nothing.
//!
//! Docker's rules: a container that ended is restarted unless its policy is `no`; `on-failure`
//! only after a code that is not 0 and at most `max_retries` times in a row; never after a user
//! stopped it. When the engine starts, `always` and `on-failure` start what is not running,
//! `unless-stopped` only what no user had stopped.
//!
//! Per container the pause is 100 ms, doubled each time to at most a minute, and 100 ms again
//! after a run of 10 s. Besides, all containers share a bucket of restarts, so that hundreds of
//! crash loops do not take the host's CPU.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::{RestartKind, RestartPolicy};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run of this length counts as a success: the pause starts over.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// Restarts of all containers together: so many at once...
const BURST: u32 = 20;
/// ...and one more in each of these.
const REFILL: Duration = Duration::from_millis(100);

/// Whether one that just ended is started again.
pub(crate) fn after_exit(
    policy: &RestartPolicy,
    code: i32,
    stopped_by_user: bool,
    restarts: u32,
) -> bool {
    if stopped_by_user {
        return false;
    }
    match policy.kind {
        RestartKind::No => false,
        RestartKind::Always | RestartKind::UnlessStopped => true,
        RestartKind::OnFailure => {
            code != 0 && (policy.max_retries == 0 || restarts < policy.max_retries)
        }
    }
}

/// Whether one that is not running is started when the engine starts.
pub(crate) fn at_engine_start(
    policy: &RestartPolicy,
    code: i32,
    stopped_by_user: bool,
    restarts: u32,
) -> bool {
    policy.kind == RestartKind::Always || after_exit(policy, code, stopped_by_user, restarts)
}

/// The growing pause of one container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The pause before the next start, after a run of the given length.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        let next = match self.last {
            Some(last) if ran < GOOD_RUN => (last * 2).min(LONGEST_DELAY),
            _ => FIRST_DELAY,
        };
        self.last = Some(next);
        next
    }

    /// A user's start begins anew.
    pub(crate) fn reset(&mut self) {
        self.last = None;
    }
}

/// The host's budget of restarts. A taker that finds it empty gets a place in the queue: the time
/// at which its token will have been made.
#[derive(Debug)]
pub(crate) struct Budget {
    /// When the bucket was or will be full; the future means tokens are owed.
    full_at: Mutex<Option<Instant>>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self {
            full_at: Mutex::new(None),
        }
    }

    /// How long the taker has to wait from `now`.
    pub(crate) fn take(&self, now: Instant) -> Duration {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = full_at.unwrap_or(now).max(now) + REFILL;
        *full_at = Some(next);
        // with `BURST` tokens out it takes this long until all are back
        next.duration_since(now).saturating_sub(REFILL * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(kind: RestartKind, max_retries: u32) -> RestartPolicy {
        RestartPolicy { kind, max_retries }
    }

    #[test]
    fn docker_s_policies() {
        use RestartKind::{Always, No, OnFailure, UnlessStopped};
        assert!(!after_exit(&policy(No, 0), 1, false, 0));
        assert!(after_exit(&policy(Always, 0), 0, false, 9));
        assert!(!after_exit(&policy(Always, 0), 0, true, 0));
        assert!(!after_exit(&policy(OnFailure, 0), 0, false, 0));
        assert!(after_exit(&policy(OnFailure, 0), 1, false, 1_000));
        assert!(after_exit(&policy(OnFailure, 3), 1, false, 2));
        assert!(!after_exit(&policy(OnFailure, 3), 1, false, 3));
        // the engine starts: `always` forgets that a user had stopped it, the other does not
        assert!(at_engine_start(&policy(Always, 0), 0, true, 0));
        assert!(!at_engine_start(&policy(UnlessStopped, 0), 0, true, 0));
        assert!(at_engine_start(&policy(UnlessStopped, 0), 0, false, 0));
    }

    #[test]
    fn the_pause_doubles_to_a_minute_and_starts_over_after_a_good_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(5);
        let pauses: Vec<u128> = (0..12).map(|_| backoff.next(short).as_millis()).collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[10..], [60_000, 60_000]);
        assert_eq!(backoff.next(GOOD_RUN), FIRST_DELAY);
    }

    // FAILURES.md "Restart storm": 500 crash loopers, the host's pressure is bounded
    #[test]
    fn five_hundred_crash_loopers_share_the_budget() {
        let budget = Budget::new();
        let now = Instant::now();
        let waits: Vec<Duration> = (0..500).map(|_| budget.take(now)).collect();
        assert_eq!(waits.iter().filter(|w| w.is_zero()).count(), BURST as usize);
        let in_ten_seconds = waits.iter().filter(|w| w.as_secs() < 10).count();
        assert!(in_ten_seconds <= 20 + 100, "{in_ten_seconds}");
        let later = now + Duration::from_secs(3600);
        assert!(budget.take(later).is_zero());
    }
}
