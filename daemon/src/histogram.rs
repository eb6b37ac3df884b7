//! A histogram: fixed buckets, plain numbers. Its owner decides the unit, by the bounds that it gives.
//!
//! The loop's thread observes into it, from the store (ages of objects) and from the server (requests, deaths), and each
//! tier under its lock (durations and rates of objects); the metrics page shows a copy. Nothing ever goes down.
//!
//! ```text
//!   bounds:        10      20      30
//!   counts:    [<=10] [<=20] [<=30] [above]        each value is counted in one of them
//! ```

/// Upper bounds of buckets, inclusive, rising.
pub type Bounds = &'static [u64];

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MEGABYTE: u64 = 1_000_000;
const GIGABYTE: u64 = 1_000 * MEGABYTE;

/// For requests: 1 µs to 10 s.
pub const REQUEST_BOUNDS_NS: Bounds = &[
    MICROSECOND,
    2_500,
    5 * MICROSECOND,
    10 * MICROSECOND,
    25 * MICROSECOND,
    50 * MICROSECOND,
    100 * MICROSECOND,
    250 * MICROSECOND,
    500 * MICROSECOND,
    MILLISECOND,
    2_500 * MICROSECOND,
    5 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    250 * MILLISECOND,
    500 * MILLISECOND,
    SECOND,
    2_500 * MILLISECOND,
    5 * SECOND,
    10 * SECOND,
];

/// For ages of objects: 100 ms, as often as the daemon learns of reads, to a week.
pub const AGE_BOUNDS_NS: Bounds = &[
    100 * MILLISECOND,
    500 * MILLISECOND,
    SECOND,
    5 * SECOND,
    15 * SECOND,
    30 * SECOND,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    4 * HOUR,
    12 * HOUR,
    DAY,
    3 * DAY,
    7 * DAY,
];

/// For the death of a process: 1 ms to ten minutes, a driver with much memory to give back included.
pub const DEATH_BOUNDS_NS: Bounds = &[
    MILLISECOND,
    5 * MILLISECOND,
    10 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    500 * MILLISECOND,
    SECOND,
    2_500 * MILLISECOND,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
];

/// For how quickly a tier takes or gives an object: 1 MB/s, a poor network, to 50 GB/s, beyond any drive.
pub const RATE_BOUNDS_BYTES_PER_SECOND: Bounds = &[
    MEGABYTE,
    2_500_000,
    5 * MEGABYTE,
    10 * MEGABYTE,
    25 * MEGABYTE,
    50 * MEGABYTE,
    100 * MEGABYTE,
    250 * MEGABYTE,
    500 * MEGABYTE,
    GIGABYTE,
    2_500 * MEGABYTE,
    5 * GIGABYTE,
    10 * GIGABYTE,
    25 * GIGABYTE,
    50 * GIGABYTE,
];

/// How many values fell into each bucket, and their sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    bounds: Bounds,
    /// One more than bounds: the last counts what is above all of them.
    counts: Box<[u64]>,
    /// 64 bits would be full after some days of old objects.
    sum: u128,
}

impl Histogram {
    /// An empty histogram.
    pub fn new(bounds: Bounds) -> Histogram {
        debug_assert!(bounds.is_sorted_by(|a, b| a < b));
        Histogram {
            bounds,
            counts: vec![0; bounds.len() + 1].into(),
            sum: 0,
        }
    }

    /// Counts one value.
    pub fn observe(&mut self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += 1;
        self.sum += u128::from(value);
    }

    /// Each bound with the number of values up to it, the bound itself included.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut below = 0;
        self.bounds
            .iter()
            .zip(&self.counts)
            .map(move |(bound, count)| {
                below += count;
                (*bound, below)
            })
    }

    /// All values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all values.
    pub fn sum(&self) -> u128 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_counts_below_it_and_one_above_all_bounds_counts_too() {
        let mut histogram = Histogram::new(&[10, 20, 30]);
        for value in [0, 10, 11, 30, 31, u64::MAX] {
            histogram.observe(value);
        }
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative, [(10, 2), (20, 3), (30, 4)]);
        assert_eq!(histogram.count(), 6);
        assert_eq!(histogram.sum(), 82 + u128::from(u64::MAX));
    }

    #[test]
    fn no_bucket_count_or_sum_ever_falls() {
        let mut histogram = Histogram::new(REQUEST_BOUNDS_NS);
        let shown = |histogram: &Histogram| {
            let mut shown: Vec<u128> = histogram.cumulative().map(|(_, n)| n.into()).collect();
            shown.extend([histogram.count().into(), histogram.sum()]);
            shown
        };
        let mut before = shown(&histogram);
        // Every magnitude, down and up again.
        for shift in (0..64).chain((0..64).rev()) {
            histogram.observe(u64::MAX >> shift);
            let after = shown(&histogram);
            assert!(before.iter().zip(&after).all(|(old, new)| old <= new));
            let buckets = &after[..=REQUEST_BOUNDS_NS.len()];
            assert!(buckets.is_sorted(), "up to the count of all: {buckets:?}");
            before = after;
        }
    }

    #[test]
    fn the_bounds_rise_and_span_what_they_are_for() {
        for (bounds, first, last) in [
            (REQUEST_BOUNDS_NS, MICROSECOND, 10 * SECOND),
            (AGE_BOUNDS_NS, 100 * MILLISECOND, 7 * DAY),
            (DEATH_BOUNDS_NS, MILLISECOND, 10 * MINUTE),
            (RATE_BOUNDS_BYTES_PER_SECOND, MEGABYTE, 50 * GIGABYTE),
        ] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
            assert_eq!((bounds[0], bounds[bounds.len() - 1]), (first, last));
        }
    }
}
