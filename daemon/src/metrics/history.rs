//! The last quarter of an hour, for the status page's plots.
//!
//! The render thread calls [`History::record`] with every snapshot that it takes: for a scrape, for the
//! page itself, and for the endpoint's own scrape twice a minute, so that there is a history although
//! nobody looked. Nothing is sampled for its own sake, and no timer is needed.
//!
//! ```text
//!   oldest                                                                newest
//!   | base | sample | sample |  ...  at least 5 s apart, 15 min in all ... | sample |
//!      '------- rates and hit rates are differences of neighbours -----------'
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::families::Snapshot;

/// How far back the history goes.
pub(super) const HISTORY: Duration = Duration::from_secs(15 * 60);
/// Snapshots that come sooner after the last sample are not kept.
const MIN_SPACING: Duration = Duration::from_secs(5);

/// What is kept of one snapshot.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the endpoint's start.
    at: Duration,
    usage_ratio: f64,
    read_keys: u64,
    read_succeed_keys: u64,
    write_succeed_keys: u64,
    evicted_keys: u64,
}

impl Sample {
    fn new(at: Duration, snapshot: &Snapshot) -> Self {
        Self {
            at,
            usage_ratio: snapshot.l1_usage_ratio,
            read_keys: snapshot.read_keys,
            read_succeed_keys: snapshot.read_succeed_keys,
            write_succeed_keys: snapshot.write_succeed_keys,
            evicted_keys: snapshot.l1_evicted_keys,
        }
    }
}

/// One point of a plot: when, since the endpoint's start, and how much; `None` where there was nothing to
/// measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) at: Duration,
    pub(super) value: Option<f64>,
}

/// The history as the plots want it, oldest point first.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    /// Share of the payload in use.
    pub(super) usage_ratio: Vec<Point>,
    /// Share of the keys asked for that were found; `None` while nobody asked.
    pub(super) hit_ratio: Vec<Point>,
    /// Keys found a second.
    pub(super) read_keys_per_second: Vec<Point>,
    /// Keys that got space a second.
    pub(super) write_keys_per_second: Vec<Point>,
    /// Keys evicted a second.
    pub(super) evicted_keys_per_second: Vec<Point>,
}

/// Samples of the last [`HISTORY`], and one older as the base of the first difference.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Takes note of a snapshot made at `at`, a time since the endpoint's start. One that comes too soon
    /// after the last, or before it, is left out.
    pub(super) fn record(&mut self, at: Duration, snapshot: &Snapshot) {
        let is_too_soon = self
            .samples
            .back()
            .is_some_and(|last| at < last.at + MIN_SPACING);
        if is_too_soon {
            return;
        }
        self.samples.push_back(Sample::new(at, snapshot));
        let horizon = at.saturating_sub(HISTORY);
        while self.samples.len() > 2 && self.samples[1].at <= horizon {
            self.samples.pop_front();
        }
    }

    /// The history up to `now`, with the snapshot of now as its last point. A sample of just before gives
    /// way to it: a rate over so short a time says nothing.
    pub(super) fn series(&self, now: Duration, snapshot: &Snapshot) -> Series {
        let mut series = Series::default();
        let current = Sample::new(now, snapshot);
        let mut before: Option<Sample> = None;
        let is_earlier = |sample: &Sample| sample.at + MIN_SPACING / 2 <= now;
        let earlier = self.samples.iter().copied().filter(is_earlier);
        for sample in earlier.chain([current]) {
            let push = |points: &mut Vec<Point>, value| {
                points.push(Point {
                    at: sample.at,
                    value,
                });
            };
            push(&mut series.usage_ratio, Some(sample.usage_ratio));
            if let Some(before) = before {
                let asked = sample.read_keys.saturating_sub(before.read_keys);
                let found = sample
                    .read_succeed_keys
                    .saturating_sub(before.read_succeed_keys);
                let hit_ratio = (asked > 0).then(|| found as f64 / asked as f64);
                push(&mut series.hit_ratio, hit_ratio);
                let seconds = (sample.at - before.at).as_secs_f64();
                let rate = |now: u64, then: u64| Some(now.saturating_sub(then) as f64 / seconds);
                push(
                    &mut series.read_keys_per_second,
                    rate(sample.read_succeed_keys, before.read_succeed_keys),
                );
                push(
                    &mut series.write_keys_per_second,
                    rate(sample.write_succeed_keys, before.write_succeed_keys),
                );
                push(
                    &mut series.evicted_keys_per_second,
                    rate(sample.evicted_keys, before.evicted_keys),
                );
            }
            before = Some(sample);
        }
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn snapshot(asked: u64, found: u64, written: u64) -> Snapshot {
        Snapshot {
            read_keys: asked,
            read_succeed_keys: found,
            write_succeed_keys: written,
            ..Snapshot::default()
        }
    }

    #[test]
    fn rates_and_hit_ratios_are_those_between_two_snapshots() {
        let mut history = History::default();
        history.record(seconds(0), &snapshot(1000, 1000, 500));
        history.record(seconds(10), &snapshot(1200, 1150, 500));
        let series = history.series(seconds(20), &snapshot(1200, 1150, 530));
        let values = |points: &[Point]| points.iter().map(|point| point.value).collect::<Vec<_>>();
        assert_eq!(values(&series.hit_ratio), [Some(0.75), None]);
        assert_eq!(
            values(&series.read_keys_per_second),
            [Some(15.0), Some(0.0)]
        );
        assert_eq!(
            values(&series.write_keys_per_second),
            [Some(0.0), Some(3.0)]
        );
        assert_eq!(series.usage_ratio.len(), 3);
    }

    #[test]
    fn the_history_is_bounded_in_time_and_in_number_however_often_somebody_scrapes() {
        let mut history = History::default();
        for tenth in 0..36_000 {
            history.record(Duration::from_millis(tenth * 100), &Snapshot::default());
        }
        let most = HISTORY.as_secs() / MIN_SPACING.as_secs() + 2;
        assert!(
            history.samples.len() as u64 <= most,
            "{}",
            history.samples.len()
        );
        let oldest = history.samples[1].at;
        let newest = history.samples.back().unwrap().at;
        assert!(newest - oldest <= HISTORY);
        assert!(newest - history.samples[0].at >= HISTORY, "a base is kept");
    }

    #[test]
    fn a_page_right_after_a_sample_shows_the_rate_since_the_one_before() {
        let mut history = History::default();
        history.record(seconds(0), &snapshot(0, 0, 0));
        history.record(seconds(10), &snapshot(100, 100, 0));
        for millis in [10_000, 10_001] {
            let now = Duration::from_millis(millis);
            let series = history.series(now, &snapshot(100, 100, 0));
            let rates = &series.read_keys_per_second;
            assert_eq!(rates.len(), 1);
            assert!(
                rates[0]
                    .value
                    .is_some_and(|rate| (9.9..=10.0).contains(&rate))
            );
        }
    }
}
