//! What the tiers count, as the metrics page shows it.
//!
//! The threads of a tier count under its lock; [`Tiers::figures`](super::Tiers::figures) gives the loop a copy. Every number
//! but the gauges only rises while the daemon lives, also when a tier goes and comes back.

use crate::histogram::{Histogram, RATE_BOUNDS_BYTES_PER_SECOND, REQUEST_BOUNDS_NS};

const NS_PER_SECOND: u128 = 1_000_000_000;

/// Why something that was asked of a tier was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// The store answered with an error.
    Error,
    /// It did not answer in time.
    Timeout,
    /// It has no room.
    Full,
    /// The tier's queue had no room, or the end of the daemon or a need for space came first.
    Dropped,
    /// The breaker is open, or the tier is not there yet.
    Unavailable,
    /// A lookup found the object, and the load did not.
    Lost,
    /// What came is not what was stored: its sum, its length or its header is wrong.
    Damaged,
}

impl FailureReason {
    /// All of them, in the order of [`ByReason`].
    pub const ALL: [FailureReason; 7] = [
        FailureReason::Error,
        FailureReason::Timeout,
        FailureReason::Full,
        FailureReason::Dropped,
        FailureReason::Unavailable,
        FailureReason::Lost,
        FailureReason::Damaged,
    ];

    /// Its label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            FailureReason::Error => "error",
            FailureReason::Timeout => "timeout",
            FailureReason::Full => "full",
            FailureReason::Dropped => "dropped",
            FailureReason::Unavailable => "unavailable",
            FailureReason::Lost => "lost",
            FailureReason::Damaged => "damaged",
        }
    }
}

/// One count for each reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByReason([u64; FailureReason::ALL.len()]);

impl ByReason {
    /// Counts one more.
    pub fn add(&mut self, reason: FailureReason) {
        self.0[reason as usize] += 1;
    }

    /// The count.
    pub fn get(&self, reason: FailureReason) -> u64 {
        self.0[reason as usize]
    }

    /// Of all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a tier did in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Tasks that had at least one object for this tier.
    pub tasks_count: u64,
    /// Those of them that are over.
    pub completed_tasks_count: u64,
    /// Objects that were asked for.
    pub keys_count: u64,
    /// Objects that went through.
    pub done_keys_count: u64,
    /// Their bytes, without headers and padding.
    pub bytes: u64,
    /// Objects that did not, by reason.
    pub failures: ByReason,
    /// From the start of the work on an object to its end, of those that went through.
    pub durations: Histogram,
    /// Bytes of such an object over that time, in bytes per second.
    pub rates: Histogram,
}

impl Traffic {
    /// Counts the bytes, the time and the rate of one object that went through.
    pub fn moved(&mut self, len_bytes: u64, duration_ns: u64) {
        self.bytes += len_bytes;
        self.durations.observe(duration_ns);
        let rate = u128::from(len_bytes) * NS_PER_SECOND / u128::from(duration_ns.max(1));
        self.rates.observe(u64::try_from(rate).unwrap_or(u64::MAX));
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            tasks_count: 0,
            completed_tasks_count: 0,
            keys_count: 0,
            done_keys_count: 0,
            bytes: 0,
            failures: ByReason::default(),
            durations: Histogram::new(REQUEST_BOUNDS_NS),
            rates: Histogram::new(RATE_BOUNDS_BYTES_PER_SECOND),
        }
    }
}

/// How a tier is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerState {
    /// It works.
    #[default]
    Closed,
    /// It failed, and a probe is finding out whether it works again.
    HalfOpen,
    /// It failed too often, or is not there: nothing is asked of it.
    Open,
}

impl BreakerState {
    /// All of them.
    pub const ALL: [BreakerState; 3] = [
        BreakerState::Closed,
        BreakerState::HalfOpen,
        BreakerState::Open,
    ];

    /// Its label `state`.
    pub fn label(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        }
    }
}

/// All of one tier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TierFigures {
    /// Its label `l2_name`.
    pub name: String,
    /// Its type, as `fs`.
    pub type_name: &'static str,
    /// Stores.
    pub stores: Traffic,
    /// Objects that were not stored because the tier held them already; among the stores' `done_keys_count`.
    pub known_keys_count: u64,
    /// Loads.
    pub loads: Traffic,
    /// Lookups that asked this tier.
    pub lookups_count: u64,
    /// Keys that they asked for.
    pub lookup_keys_count: u64,
    /// Keys that were there.
    pub hit_keys_count: u64,
    /// Lookups that the tier did not answer, by reason.
    pub lookup_failures: ByReason,
    /// Objects that were removed to keep to the capacity.
    pub evicted_keys_count: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Gauge: objects that wait for this tier or are at work.
    pub queued_keys: u64,
    /// Gauge: their bytes.
    pub queued_bytes: u64,
    /// Gauge: operations that are at work, lookups and probes included.
    pub running: u64,
    /// Gauge: the breaker.
    pub breaker: BreakerState,
    /// How often the breaker opened.
    pub breaker_openings_count: u64,
    /// Gauge: bytes that the tier uses, as far as this daemon knows.
    pub used_bytes: u64,
    /// Gauge: objects that it holds, as far as this daemon knows.
    pub objects: u64,
    /// What it may use; none without `max_capacity_gb`.
    pub capacity_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_an_object_is_its_bytes_over_its_time() {
        let mut traffic = Traffic::default();
        // 8 MiB in 4 ms; then nothing in no time, and as much as there can be.
        traffic.moved(8 << 20, 4_000_000);
        assert_eq!(traffic.rates.sum(), u128::from(2_097_152_000_u64));
        traffic.moved(0, 0);
        assert_eq!(traffic.rates.sum(), u128::from(2_097_152_000_u64));
        traffic.moved(1 << 40, 0);
        assert_eq!(traffic.rates.count(), 3);
        assert_eq!(traffic.durations.count(), 3);
        assert_eq!(traffic.bytes, (8 << 20) + (1 << 40));
    }

    #[test]
    fn each_reason_has_a_count_and_a_label_of_its_own() {
        let mut counts = ByReason::default();
        for (times, reason) in FailureReason::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| counts.add(reason));
        }
        let got = FailureReason::ALL.map(|reason| counts.get(reason));
        assert_eq!(got, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(counts.total(), 28);
        let mut labels = FailureReason::ALL.map(FailureReason::label).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), FailureReason::ALL.len());
    }
}
