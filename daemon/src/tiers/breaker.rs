//! The circuit breaker of a tier: after some failures nothing is asked of it, until a probe finds that it works.
//!
//! Plain state under the lock of its tier; time is an argument.
//!
//! ```text
//!   closed ──failures in a row reach FAILURES_TO_OPEN──> open ──after a pause──> half open, one probe at work
//!     ^                                                    ^    fails or is late: twice the pause │       │ works
//!     │                                                    └──────────────────────────────────────┘       │
//!     └───────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use super::figures::BreakerState;

/// A timeout counts as two: two threads that hang are half of those of a tier.
const FAILURES_TO_OPEN: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How bad a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// An answer that says no.
    Error = 1,
    /// No answer in time.
    Timeout = 2,
}

/// The breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    failures: u32,
    pause: Duration,
    /// When the next probe is due, or when the one at work was.
    probe_at: Instant,
    openings_count: u64,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(now: Instant) -> Breaker {
        Breaker {
            state: BreakerState::Closed,
            failures: 0,
            pause: FIRST_PAUSE,
            probe_at: now,
            openings_count: 0,
        }
    }

    /// Its state.
    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    /// How often it opened.
    pub(super) fn openings_count(&self) -> u64 {
        self.openings_count
    }

    /// Something worked.
    pub(super) fn succeeded(&mut self) {
        // Behind an open breaker only a probe counts: what began before it opened says nothing about now.
        if self.state == BreakerState::Closed {
            self.failures = 0;
        }
    }

    /// Something failed; whether the breaker opened by it.
    pub(super) fn failed(&mut self, weight: Weight, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(weight as u32);
        let opens = self.state == BreakerState::Closed && self.failures >= FAILURES_TO_OPEN;
        if opens {
            self.open(now);
        }
        opens
    }

    /// The tier is not there.
    pub(super) fn open(&mut self, now: Instant) {
        self.state = BreakerState::Open;
        self.openings_count += 1;
        self.pause = FIRST_PAUSE;
        self.probe_at = now + self.pause;
    }

    /// Whether a probe is due; it is taken to be at work then.
    pub(super) fn take_probe(&mut self, now: Instant) -> bool {
        let is_due = self.state == BreakerState::Open && now >= self.probe_at;
        if is_due {
            self.state = BreakerState::HalfOpen;
            self.probe_at = now;
        }
        is_due
    }

    /// Whether the probe at work was due so long ago that nothing is expected of it any more; that is a probe that failed.
    pub(super) fn gives_up_probe(&mut self, timeout: Duration, now: Instant) -> bool {
        let is_late = self.state == BreakerState::HalfOpen
            && now.saturating_duration_since(self.probe_at) >= timeout;
        if is_late {
            self.probed(false, now);
        }
        is_late
    }

    /// What the probe found.
    pub(super) fn probed(&mut self, works: bool, now: Instant) {
        if works {
            self.state = BreakerState::Closed;
            self.failures = 0;
        } else {
            self.state = BreakerState::Open;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.probe_at = now + self.pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_only_a_probe_closes_it() {
        let begin = Instant::now();
        let mut breaker = Breaker::new(begin);
        for _ in 0..10 {
            assert!((1..FAILURES_TO_OPEN).all(|_| !breaker.failed(Weight::Error, begin)));
            breaker.succeeded();
        }
        assert!(!breaker.failed(Weight::Timeout, begin));
        assert!(breaker.failed(Weight::Timeout, begin));
        breaker.succeeded();
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.failed(Weight::Error, begin), "it is open already");
        assert!(!breaker.take_probe(begin));
        let mut now = begin;
        let mut pause = FIRST_PAUSE;
        for _ in 0..12 {
            now += pause;
            assert!(!breaker.take_probe(now - Duration::from_millis(1)));
            assert!(breaker.take_probe(now));
            assert!(!breaker.take_probe(now), "one at a time");
            breaker.probed(false, now);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        now += pause;
        assert!(breaker.take_probe(now));
        breaker.probed(true, now);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.openings_count(), 1);
        assert!(!breaker.failed(Weight::Error, now));
    }

    #[test]
    fn a_probe_that_does_not_end_is_one_that_failed() {
        let begin = Instant::now();
        let timeout = Duration::from_secs(2);
        let mut breaker = Breaker::new(begin);
        assert!(!breaker.gives_up_probe(timeout, begin + timeout), "closed");
        breaker.open(begin);
        let now = begin + FIRST_PAUSE;
        assert!(!breaker.gives_up_probe(timeout, now + timeout), "open");
        assert!(breaker.take_probe(now));
        assert!(!breaker.gives_up_probe(timeout, now + timeout - Duration::from_millis(1)));
        let now = now + timeout;
        assert!(breaker.gives_up_probe(timeout, now));
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.take_probe(now + FIRST_PAUSE), "twice the pause");
        assert!(breaker.take_probe(now + FIRST_PAUSE * 2));
    }
}
