//! The families with the label `l2_name`: what each tier has done, and how it is.
//!
//! They are rows of a table as in `families.rs`, with their figures in [`TierFigures`]. Each has a sample for each tier from
//! the start on, and is not there without one. Where a counter means what the original's newer releases count, it stands
//! there under that name too.

use prometheus::proto::Metric;

use super::families::{Kind, Unit};
use super::render::{NS_PER_SECOND, distribution, sample};
use crate::histogram::Histogram;
use crate::tiers::TierFigures;
use crate::tiers::figures::{BreakerState, ByReason, FailureReason};

/// How to read a family's samples out of a tier's figures.
#[derive(Clone, Copy)]
pub(crate) enum TierRead {
    /// One sample a tier.
    One(fn(&TierFigures) -> u64),
    /// One sample for each tier that has the figure.
    Some(fn(&TierFigures) -> Option<u64>),
    /// One sample for each reason of a failure, label `reason`.
    ByReason(fn(&TierFigures) -> &ByReason),
    /// 1 for the state that the breaker is in and 0 for the others, label `state`.
    ByState(fn(&TierFigures) -> BreakerState),
    /// One histogram of durations a tier.
    Durations(fn(&TierFigures) -> &Histogram),
    /// One histogram of bytes per second a tier.
    Rates(fn(&TierFigures) -> &Histogram),
}

/// One row of the table.
pub(crate) struct TierFamily {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) read: TierRead,
}

/// The label of the tier's name.
const L2_NAME: &str = "l2_name";

impl TierFamily {
    /// The labels of its samples.
    pub(crate) fn labels(&self) -> &'static [&'static str] {
        match self.read {
            TierRead::One(_) | TierRead::Some(_) | TierRead::Durations(_) | TierRead::Rates(_) => {
                &[L2_NAME]
            }
            TierRead::ByReason(_) => &[L2_NAME, "reason"],
            TierRead::ByState(_) => &[L2_NAME, "state"],
        }
    }

    /// Its samples.
    pub(crate) fn samples(&self, tiers: &[TierFigures]) -> Vec<Metric> {
        let mut samples = Vec::new();
        for tier in tiers {
            let name = (L2_NAME, tier.name.as_str());
            match self.read {
                TierRead::One(read) => samples.push(sample(self.kind, read(tier) as f64, &[name])),
                TierRead::Some(read) => {
                    samples.extend(read(tier).map(|value| sample(self.kind, value as f64, &[name])))
                }
                TierRead::ByReason(read) => samples.extend(FailureReason::ALL.map(|reason| {
                    let labels = [name, ("reason", reason.label())];
                    sample(self.kind, read(tier).get(reason) as f64, &labels)
                })),
                TierRead::ByState(read) => samples.extend(BreakerState::ALL.map(|state| {
                    let labels = [name, ("state", state.label())];
                    let is_in_it = f64::from(u8::from(read(tier) == state));
                    sample(self.kind, is_in_it, &labels)
                })),
                TierRead::Durations(read) => {
                    samples.push(distribution(read(tier), NS_PER_SECOND, &[name]))
                }
                TierRead::Rates(read) => samples.push(distribution(read(tier), 1.0, &[name])),
            }
        }
        samples
    }
}

macro_rules! tier_families {
    ($( $kind:ident $unit:ident $read:ident $name:literal $figure:expr, $help:literal; )*) => {
        /// All of them.
        pub(crate) const TIER_FAMILIES: &[TierFamily] = &[
            $( TierFamily {
                name: $name,
                unit: Unit::$unit,
                help: $help,
                kind: Kind::$kind,
                read: TierRead::$read($figure),
            }, )*
        ];
    };
}

tier_families! {
    Counter Things One "lmcache_mp:l2_store_tasks_total" |tier| tier.stores.tasks_count,
        "Store tasks given to the tier.";
    Counter Things One "lmcache_mp:l2_store_keys_total" |tier| tier.stores.keys_count,
        "Keys of store tasks given to the tier.";
    Counter Things One "lmcache_mp:l2_store_completed_total" |tier| tier.stores.completed_tasks_count,
        "Store tasks that the tier is done with.";
    Counter Things One "lmcache_mp:l2_prefetch_lookups_total" |tier| tier.lookups_count,
        "Lookups of prefetches that asked the tier.";
    Counter Things One "lmcache_mp:l2_prefetch_hit_keys_total" |tier| tier.hit_keys_count,
        "Keys of those lookups that the tier had.";
    Counter Things One "lmcache_mp:l2_load_completed_total" |tier| tier.loads.completed_tasks_count,
        "Load tasks that the tier is done with.";

    Counter Things One "hostkv_l2_store_tasks_total" |tier| tier.stores.tasks_count,
        "Store tasks with at least one object for the tier.";
    Counter Things One "hostkv_l2_store_tasks_completed_total" |tier| tier.stores.completed_tasks_count,
        "Store tasks that the tier is done with.";
    Counter Things One "hostkv_l2_store_keys_total" |tier| tier.stores.keys_count,
        "Objects that the tier was to store.";
    Counter Things One "hostkv_l2_stored_keys_total" |tier| tier.stores.done_keys_count,
        "Objects that the tier stored, or held already.";
    Counter Things One "hostkv_l2_known_keys_total" |tier| tier.known_keys_count,
        "Of the stored objects, those that the tier held already.";
    Counter Bytes One "hostkv_l2_stored_bytes_total" |tier| tier.stores.bytes,
        "Bytes of the objects that the tier stored.";
    Counter Things ByReason "hostkv_l2_store_failures_total" |tier| &tier.stores.failures,
        "Objects that the tier did not store, by reason.";
    Histogram Seconds Durations "hostkv_l2_store_duration_seconds" |tier| &tier.stores.durations,
        "Time from the start of the work on an object to its end, of stores that went through.";
    Histogram Rate Rates "hostkv_l2_store_throughput_bytes_per_second" |tier| &tier.stores.rates,
        "Bytes of an object over that time, of stores that went through.";
    Counter Things One "hostkv_l2_load_tasks_total" |tier| tier.loads.tasks_count,
        "Load tasks with at least one object for the tier.";
    Counter Things One "hostkv_l2_load_tasks_completed_total" |tier| tier.loads.completed_tasks_count,
        "Load tasks that the tier is done with.";
    Counter Things One "hostkv_l2_load_keys_total" |tier| tier.loads.keys_count,
        "Objects that the tier was to give.";
    Counter Things One "hostkv_l2_loaded_keys_total" |tier| tier.loads.done_keys_count,
        "Objects that the tier gave.";
    Counter Bytes One "hostkv_l2_loaded_bytes_total" |tier| tier.loads.bytes,
        "Bytes of the objects that the tier gave.";
    Counter Things ByReason "hostkv_l2_load_failures_total" |tier| &tier.loads.failures,
        "Objects that the tier did not give, by reason.";
    Histogram Seconds Durations "hostkv_l2_load_duration_seconds" |tier| &tier.loads.durations,
        "Time from the start of the work on an object to its end, of loads that went through.";
    Histogram Rate Rates "hostkv_l2_load_throughput_bytes_per_second" |tier| &tier.loads.rates,
        "Bytes of an object over that time, of loads that went through.";
    Counter Things One "hostkv_l2_lookups_total" |tier| tier.lookups_count,
        "Lookups that asked the tier.";
    Counter Things One "hostkv_l2_lookup_keys_total" |tier| tier.lookup_keys_count,
        "Keys that those lookups asked for.";
    Counter Things One "hostkv_l2_hit_keys_total" |tier| tier.hit_keys_count,
        "Keys of lookups that the tier had.";
    Counter Things ByReason "hostkv_l2_lookup_failures_total" |tier| &tier.lookup_failures,
        "Lookups that the tier did not answer, by reason.";
    Counter Things One "hostkv_l2_evicted_keys_total" |tier| tier.evicted_keys_count,
        "Objects that the daemon removed from the tier to keep to its capacity.";
    Counter Bytes One "hostkv_l2_evicted_bytes_total" |tier| tier.evicted_bytes,
        "Bytes of the objects removed from the tier to keep to its capacity.";
    Gauge Things One "hostkv_l2_queued_keys" |tier| tier.queued_keys,
        "Objects that wait for the tier or that it is at work on.";
    Gauge Bytes One "hostkv_l2_queued_bytes" |tier| tier.queued_bytes,
        "Bytes of the objects that wait for the tier or that it is at work on.";
    Gauge Things One "hostkv_l2_running_operations" |tier| tier.running,
        "Operations that the tier is at work on, lookups and probes included.";
    Gauge Claim ByState "hostkv_l2_breaker_state" |tier| tier.breaker,
        "1 for the state of the tier's breaker and 0 for the others; nothing is asked of a tier whose breaker is open.";
    Counter Things One "hostkv_l2_breaker_openings_total" |tier| tier.breaker_openings_count,
        "How often the tier's breaker opened.";
    Gauge Bytes One "hostkv_l2_used_bytes" |tier| tier.used_bytes,
        "Bytes that the tier uses, as far as this daemon knows.";
    Gauge Bytes Some "hostkv_l2_capacity_bytes" |tier| tier.capacity_bytes,
        "Bytes that the tier may use, where that is limited.";
    Gauge Things One "hostkv_l2_objects" |tier| tier.objects,
        "Objects that the tier holds, as far as this daemon knows.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Renderer, Snapshot};
    use crate::tiers::figures::Traffic;

    fn traffic(first: u64) -> Traffic {
        let mut traffic = Traffic {
            tasks_count: first,
            completed_tasks_count: first + 1,
            keys_count: first + 2,
            done_keys_count: first + 3,
            bytes: first + 4,
            ..Traffic::default()
        };
        traffic.failures.add(FailureReason::Damaged);
        traffic.durations.observe(first * 1_000_000_000);
        traffic.rates.observe(first * 1_000_000);
        traffic
    }

    fn tier(name: &str, first: u64) -> TierFigures {
        TierFigures {
            name: name.to_owned(),
            stores: traffic(first),
            known_keys_count: first + 10,
            loads: traffic(first + 20),
            lookups_count: first + 30,
            lookup_keys_count: first + 31,
            hit_keys_count: first + 32,
            evicted_keys_count: first + 33,
            evicted_bytes: first + 34,
            queued_keys: first + 35,
            queued_bytes: first + 36,
            running: first + 41,
            breaker: BreakerState::HalfOpen,
            breaker_openings_count: first + 37,
            used_bytes: first + 38,
            objects: first + 39,
            capacity_bytes: (name == "disk").then_some(first + 40),
            ..TierFigures::default()
        }
    }

    #[test]
    fn each_figure_shows_for_each_tier_under_its_own_name() {
        let snapshot = Snapshot {
            tiers: vec![tier("disk", 100), tier("redis", 200)],
            ..Snapshot::default()
        };
        let text = Renderer::new().unwrap().render(&snapshot).unwrap();
        for (name, offset) in [
            ("lmcache_mp:l2_store_tasks_total", 0),
            ("lmcache_mp:l2_store_completed_total", 1),
            ("lmcache_mp:l2_store_keys_total", 2),
            ("lmcache_mp:l2_load_completed_total", 21),
            ("lmcache_mp:l2_prefetch_lookups_total", 30),
            ("lmcache_mp:l2_prefetch_hit_keys_total", 32),
            ("hostkv_l2_store_tasks_total", 0),
            ("hostkv_l2_store_tasks_completed_total", 1),
            ("hostkv_l2_store_keys_total", 2),
            ("hostkv_l2_stored_keys_total", 3),
            ("hostkv_l2_stored_bytes_total", 4),
            ("hostkv_l2_known_keys_total", 10),
            ("hostkv_l2_load_tasks_total", 20),
            ("hostkv_l2_load_tasks_completed_total", 21),
            ("hostkv_l2_load_keys_total", 22),
            ("hostkv_l2_loaded_keys_total", 23),
            ("hostkv_l2_loaded_bytes_total", 24),
            ("hostkv_l2_lookups_total", 30),
            ("hostkv_l2_lookup_keys_total", 31),
            ("hostkv_l2_hit_keys_total", 32),
            ("hostkv_l2_evicted_keys_total", 33),
            ("hostkv_l2_evicted_bytes_total", 34),
            ("hostkv_l2_queued_keys", 35),
            ("hostkv_l2_queued_bytes", 36),
            ("hostkv_l2_breaker_openings_total", 37),
            ("hostkv_l2_used_bytes", 38),
            ("hostkv_l2_objects", 39),
            ("hostkv_l2_running_operations", 41),
        ] {
            for (l2_name, first) in [("disk", 100), ("redis", 200)] {
                let line = format!("\n{name}{{l2_name=\"{l2_name}\"}} {}\n", first + offset);
                assert!(text.contains(&line), "{line}{text}");
            }
        }
        for line in [
            "hostkv_l2_capacity_bytes{l2_name=\"disk\"} 140",
            "hostkv_l2_store_failures_total{l2_name=\"disk\",reason=\"damaged\"} 1",
            "hostkv_l2_load_failures_total{l2_name=\"redis\",reason=\"error\"} 0",
            "hostkv_l2_lookup_failures_total{l2_name=\"redis\",reason=\"timeout\"} 0",
            "hostkv_l2_breaker_state{l2_name=\"disk\",state=\"half_open\"} 1",
            "hostkv_l2_breaker_state{l2_name=\"disk\",state=\"open\"} 0",
            "hostkv_l2_store_duration_seconds_sum{l2_name=\"disk\"} 100",
            "hostkv_l2_load_duration_seconds_sum{l2_name=\"redis\"} 220",
            "hostkv_l2_store_throughput_bytes_per_second_sum{l2_name=\"disk\"} 100000000",
            "hostkv_l2_store_throughput_bytes_per_second_bucket{l2_name=\"disk\",le=\"50000000\"} 0",
            "hostkv_l2_store_throughput_bytes_per_second_bucket{l2_name=\"disk\",le=\"100000000\"} 1",
            "hostkv_l2_load_throughput_bytes_per_second_sum{l2_name=\"redis\"} 220000000",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
        assert!(!text.contains("hostkv_l2_capacity_bytes{l2_name=\"redis\"}"));
    }

    #[test]
    fn without_a_tier_there_is_no_family_of_tiers() {
        let text = Renderer::new()
            .unwrap()
            .render(&Snapshot::default())
            .unwrap();
        assert!(!text.contains("l2_name") && !text.contains("lmcache_mp:l2_"));
    }
}
