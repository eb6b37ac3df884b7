//! The one table of metric families: name, unit, sentence, kind and the field that holds the figure.
//!
//! Each line of the table makes a public field of [`Snapshot`] (its sentence is the field's
//! documentation and the HELP line alike) and a row of [`FAMILIES`], so that no figure can be declared
//! twice or shown without a sentence. The loop thread fills the snapshot; `render.rs` reads the rows.
//!
//! The names that begin with `lmcache_mp:` are a contract with dashboards outside this repository.
//! A family may carry the labels shown here and no others: never a key, a salt, a tenant or a pid.

use super::durations::RequestDurations;
use crate::histogram::{AGE_BOUNDS_NS, DEATH_BOUNDS_NS, Histogram};
use crate::tiers::TierFigures;

/// What a family is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never goes down while the process lives.
    Counter,
    /// A figure of this moment.
    Gauge,
    /// Counts by size, with their sum; each of them never goes down while the process lives.
    Histogram,
}

/// What a family counts; its name must end accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes: `_bytes`, or `_bytes_total` for a counter.
    Bytes,
    /// Seconds: `_seconds`, or `_seconds_total` for a counter.
    Seconds,
    /// Bytes per second: `_bytes_per_second`.
    Rate,
    /// A share from 0 to 1: `_ratio`.
    Ratio,
    /// Countable things: `_total` for a counter, the plural for a gauge.
    Things,
    /// A claim that is true (1) or false (0): the claim itself.
    Claim,
    /// Always 1, what it says is in its labels: `_info`.
    Info,
}

/// How to read a family's samples out of a snapshot.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    /// One sample without labels.
    One(fn(&Snapshot) -> f64),
    /// One sample for each reason of a failed write, label `reason`.
    ByReason(fn(&Snapshot) -> [(&'static str, u64); 8]),
    /// One histogram of durations without labels.
    Durations(fn(&Snapshot) -> &Histogram),
    /// One histogram of durations for each request, label `request`.
    ByRequest(fn(&Snapshot) -> &RequestDurations),
}

/// One row of the table.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) read: Read,
}

/// What is wrong with a declaration, if anything: the rules that make a name tell its unit.
pub(crate) fn defect(name: &str, unit: Unit, kind: Kind, help: &str) -> Option<&'static str> {
    let ending = match (unit, kind) {
        (Unit::Bytes, Kind::Counter) => "_bytes_total",
        (Unit::Seconds, Kind::Counter) => "_seconds_total",
        (_, Kind::Counter) => "_total",
        (Unit::Bytes, Kind::Gauge) => "_bytes",
        (Unit::Seconds, Kind::Gauge | Kind::Histogram) => "_seconds",
        (Unit::Rate, Kind::Gauge | Kind::Histogram) => "_bytes_per_second",
        (Unit::Ratio, Kind::Gauge) => "_ratio",
        (Unit::Info, Kind::Gauge) => "_info",
        (Unit::Things | Unit::Claim, Kind::Gauge) => "",
        (_, Kind::Histogram) => return Some("histograms are of seconds or of bytes per second"),
    };
    let is_plural = || name.split('_').any(|word| word.ends_with('s'));
    if !name.ends_with(ending) {
        Some("its name does not end with its unit")
    } else if kind != Kind::Counter && name.ends_with("_total") {
        Some("its name ends like that of a counter")
    } else if (unit, kind) == (Unit::Things, Kind::Gauge) && !is_plural() {
        Some("its name is no plural")
    } else if !help.ends_with('.') || help.len() < 10 {
        Some("its help is no sentence")
    } else {
        None
    }
}

/// A figure that Prometheus can show; its samples are all `f64`.
trait Figure: Copy {
    fn sample(self) -> f64;
}

impl Figure for u64 {
    fn sample(self) -> f64 {
        self as f64
    }
}

impl Figure for f64 {
    fn sample(self) -> f64 {
        self
    }
}

impl Figure for bool {
    fn sample(self) -> f64 {
        f64::from(u8::from(self))
    }
}

/// Keys that got no space, by reason.
///
/// All but `invalid` sum up to the failed keys of the nine contract counters; `invalid` counts keys of
/// calls that were refused as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteFailures {
    /// No free extent was large enough, even after eviction.
    pub no_space: u64,
    /// The index had no free entry.
    pub no_entry: u64,
    /// The key's bucket was full.
    pub bucket_full: u64,
    /// The key was there already: with shared prefixes the healthy case.
    pub exists: u64,
    /// Another writer holds a reservation on the key.
    pub reserved: u64,
    /// The session may hold no more.
    pub quota: u64,
    /// The key's keyspace may use no more, and nothing of it could be evicted.
    pub keyspace_quota: u64,
    /// The key's call was refused as a whole; not among the nine contract counters.
    pub invalid: u64,
}

impl WriteFailures {
    pub(super) fn by_reason(self) -> [(&'static str, u64); 8] {
        [
            ("no_space", self.no_space),
            ("no_entry", self.no_entry),
            ("bucket_full", self.bucket_full),
            ("exists", self.exists),
            ("reserved", self.reserved),
            ("quota", self.quota),
            ("keyspace_quota", self.keyspace_quota),
            ("invalid", self.invalid),
        ]
    }
}

macro_rules! families {
    (
        one {
            $( $kind:ident $unit:ident $name:literal $field:ident: $type:ty, $help:literal; )*
        }
        by_reason {
            $( $r_kind:ident $r_unit:ident $r_name:literal $r_field:ident, $r_help:literal; )*
        }
        durations {
            $( $d_name:literal $d_field:ident: $d_bounds:expr, $d_help:literal; )*
        }
        by_request {
            $( $q_name:literal $q_field:ident, $q_help:literal; )*
        }
    ) => {
        /// One consistent copy of every figure, made by the loop thread after a fold.
        ///
        /// Counters are totals since process start; they are copied, never sampled or reset.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Snapshot {
            $( #[doc = $help] pub $field: $type, )*
            $( #[doc = $r_help] pub $r_field: WriteFailures, )*
            $( #[doc = $d_help] pub $d_field: Histogram, )*
            $( #[doc = $q_help] pub $q_field: RequestDurations, )*
            /// What each tier has done, and how it is.
            pub tiers: Vec<TierFigures>,
        }

        impl Default for Snapshot {
            fn default() -> Snapshot {
                Snapshot {
                    $( $field: Default::default(), )*
                    $( $r_field: WriteFailures::default(), )*
                    $( $d_field: Histogram::new($d_bounds), )*
                    $( $q_field: RequestDurations::default(), )*
                    tiers: Vec::new(),
                }
            }
        }

        /// The families that come out of a [`Snapshot`].
        pub(crate) const FAMILIES: &[Family] = &[
            $( Family {
                name: $name,
                unit: Unit::$unit,
                help: $help,
                kind: Kind::$kind,
                read: Read::One(|snapshot| snapshot.$field.sample()),
            }, )*
            $( Family {
                name: $r_name,
                unit: Unit::$r_unit,
                help: $r_help,
                kind: Kind::$r_kind,
                read: Read::ByReason(|snapshot| snapshot.$r_field.by_reason()),
            }, )*
            $( Family {
                name: $d_name,
                unit: Unit::Seconds,
                help: $d_help,
                kind: Kind::Histogram,
                read: Read::Durations(|snapshot| &snapshot.$d_field),
            }, )*
            $( Family {
                name: $q_name,
                unit: Unit::Seconds,
                help: $q_help,
                kind: Kind::Histogram,
                read: Read::ByRequest(|snapshot| &snapshot.$q_field),
            }, )*
        ];
    };
}

families! {
    one {
        Counter Things "lmcache_mp:sm_read_requests_total" read_requests: u64,
            "Read (lookup and pin) requests, one a call whatever its key count.";
        Counter Things "lmcache_mp:sm_read_succeed_keys_total" read_succeed_keys: u64,
            "Keys of read requests that were found in L1 and handed to the caller.";
        Counter Things "lmcache_mp:sm_read_failed_keys_total" read_failed_keys: u64,
            "Keys of read requests that were not handed to the caller.";
        Counter Things "lmcache_mp:sm_write_requests_total" write_requests: u64,
            "Reserve requests, one a call whatever its key count.";
        Counter Things "lmcache_mp:sm_write_succeed_keys_total" write_succeed_keys: u64,
            "Keys of reserve requests that got space.";
        Counter Things "lmcache_mp:sm_write_failed_keys_total" write_failed_keys: u64,
            "Keys of reserve requests that got no space, those that were there already included.";
        Counter Things "lmcache_mp:l1_read_keys_total" l1_read_keys: u64,
            "Keys read successfully, counted when the lease on them is released, once a key and lease.";
        Counter Things "lmcache_mp:l1_write_keys_total" l1_write_keys: u64,
            "Keys committed to L1.";
        Counter Things "lmcache_mp:l1_evicted_keys_total" l1_evicted_keys: u64,
            "Keys evicted from L1 by the eviction controller, and by nothing else.";

        Counter Things "hostkv_read_keys_total" read_keys: u64,
            "Keys asked for in read requests; those handed out and those not add up to it in every scrape.";
        Counter Things "hostkv_write_keys_total" write_keys: u64,
            "Keys asked for in reserve requests; those with space and those without add up to it in every scrape.";

        Gauge Bytes "hostkv_l1_capacity_bytes" l1_capacity_bytes: u64,
            "Size of the L1 payload segment.";
        Gauge Bytes "hostkv_l1_used_bytes" l1_used_bytes: u64,
            "Payload bytes that are not free.";
        Gauge Bytes "hostkv_l1_pinned_bytes" l1_pinned_bytes: u64,
            "Payload bytes of pinned objects, at most a second old.";
        Gauge Bytes "hostkv_l1_reserved_bytes" l1_reserved_bytes: u64,
            "Payload bytes of reservations that are not yet committed or aborted, and granted ahead of need.";
        Gauge Bytes "hostkv_l1_quarantined_bytes" l1_quarantined_bytes: u64,
            "Payload bytes of expired reservations whose writer may still write.";
        Gauge Bytes "hostkv_orphaned_bytes" orphaned_bytes: u64,
            "Payload bytes held by live processes whose socket is gone.";
        Gauge Bytes "hostkv_l1_zeroing_bytes" l1_zeroing_bytes: u64,
            "Payload bytes that are zeroed before they are used again.";
        Gauge Things "hostkv_l1_pinned_objects" l1_pinned_objects: u64,
            "Pinned objects in L1, at most a second old.";
        Gauge Things "hostkv_l1_reserved_objects" l1_reserved_objects: u64,
            "Objects to be of reservations that are not yet committed or aborted.";
        Gauge Things "hostkv_l1_quarantined_objects" l1_quarantined_objects: u64,
            "Objects to be of expired reservations whose writer may still write.";
        Gauge Things "hostkv_orphaned_objects" orphaned_objects: u64,
            "Objects pinned, or reserved, by live processes whose socket is gone.";
        Gauge Things "hostkv_l1_objects" l1_objects: u64,
            "Committed objects in L1.";
        Gauge Ratio "hostkv_l1_usage_ratio" l1_usage_ratio: f64,
            "Share of the payload in use, the figure that the eviction watermark is compared with.";
        Gauge Ratio "hostkv_eviction_watermark_ratio" eviction_watermark_ratio: f64,
            "Share of the payload, or of the index, in use at which eviction starts.";
        Gauge Things "hostkv_index_entries" index_entries: u64,
            "Entries that the index has room for.";
        Gauge Things "hostkv_index_entries_used" index_entries_used: u64,
            "Entries of the index that are in use.";
        Gauge Bytes "hostkv_huge_page_bytes" huge_page_bytes: u64,
            "Payload bytes that are backed by huge pages.";
        Gauge Bytes "hostkv_largest_free_extent_bytes" largest_free_extent_bytes: u64,
            "The largest reservation that can be met without eviction.";

        Gauge Things "hostkv_sessions" sessions: u64,
            "Open sessions.";
        Gauge Things "hostkv_keyspaces" keyspaces: u64,
            "Registered keyspaces.";
        Gauge Seconds "hostkv_oldest_pin_seconds" oldest_pin_seconds: f64,
            "Age of the oldest pin, 0 without pins, at most a second old.";
        Gauge Claim "hostkv_pin_gate_shut" is_pin_gate_shut: bool,
            "Whether new pins are refused because too much of the payload is pinned.";

        Counter Things "hostkv_eviction_passes_total" eviction_passes: u64,
            "Passes of the eviction controller.";
        Counter Things "hostkv_keyspace_quota_evictions_total" quota_evicted_keys: u64,
            "Evicted keys that made room for their own keyspace at its quota.";
        Counter Bytes "hostkv_evicted_bytes_total" evicted_bytes: u64,
            "Payload bytes freed by eviction.";
        Counter Things "hostkv_eviction_passes_all_pinned_total" eviction_passes_all_pinned: u64,
            "Passes of the eviction controller that met only pinned objects.";
        Counter Things "hostkv_removed_keys_total" removed_keys: u64,
            "Keys removed because a client asked.";
        Counter Things "hostkv_cleared_keys_total" cleared_keys: u64,
            "Keys removed by clear requests.";
        Counter Things "hostkv_layout_replaced_keys_total" layout_replaced_keys: u64,
            "Keys removed because their keyspace came back with a new layout.";
        Counter Things "hostkv_reclaimed_pins_total" reclaimed_pins: u64,
            "Pins reclaimed from dead sessions.";
        Counter Things "hostkv_reclaimed_reservations_total" reclaimed_reservations: u64,
            "Reservations reclaimed from dead sessions.";
        Counter Things "hostkv_voided_pins_total" voided_pins: u64,
            "Pins voided because their session took more than its quota.";
        Counter Things "hostkv_expired_pins_total" expired_pins: u64,
            "Pins that outlived the read time to live.";
        Counter Things "hostkv_integrity_failures_total" integrity_failures: u64,
            "Objects whose bytes were not those that were committed; each was removed.";
        Counter Things "hostkv_integrity_failures_scrubbed_total" integrity_failures_scrubbed: u64,
            "Of the integrity failures, those that the scrubber found and no reader reported before.";
        Counter Things "hostkv_integrity_reports_refuted_total" integrity_reports_refuted: u64,
            "Readers' reports of changed objects that turned out to be as they were committed.";
        Counter Bytes "hostkv_scrubbed_bytes_total" scrubbed_bytes: u64,
            "Payload bytes read in the background to make and to compare sums.";
        Counter Things "hostkv_scrub_passes_total" scrub_passes: u64,
            "Passes of the scrubber over all objects.";
        Gauge Seconds "hostkv_last_scrub_pass_seconds" last_scrub_pass_seconds: f64,
            "How long the last pass of the scrubber took.";
        Counter Things "hostkv_l2_prefetches_total" l2_prefetches: u64,
            "Prefetches that are over.";
        Counter Things "hostkv_l2_prefetched_keys_total" l2_prefetched_keys: u64,
            "Keys of the prefixes that prefetches kept in L1, those that were there already included.";
        Counter Things "hostkv_l2_left_out_keys_total" l2_left_out_keys: u64,
            "Committed objects that are stored in no tier because they are too large or too many waited.";
        Counter Things "hostkv_l2_evicted_unstored_keys_total" l2_evicted_unstored_keys: u64,
            "Objects that were evicted from L1 and that no tier holds.";
        Counter Things "hostkv_l2_displaced_stores_total" l2_displaced_stores: u64,
            "Stores to the tiers that gave way to a reserve without space.";
        Counter Things "hostkv_l2_skipped_l1_keys_total" l2_skipped_l1_keys: u64,
            "Objects that left L1 because a tier holds them and the store policy is skip_l1.";
        Gauge Things "hostkv_l2_waiting_objects" l2_waiting_objects: u64,
            "Objects in L1 that wait to be given to the tiers, those that have gone meanwhile included.";
        Gauge Things "hostkv_l2_storing_objects" l2_storing_objects: u64,
            "Objects that the tiers may be reading and that stay where they are for so long.";
        Gauge Bytes "hostkv_l2_storing_bytes" l2_storing_bytes: u64,
            "Payload bytes of the objects that the tiers may be reading.";
        Gauge Bytes "hostkv_l2_loading_bytes" l2_loading_bytes: u64,
            "Payload bytes that objects are being loaded into, or are about to be.";
        Gauge Things "hostkv_l2_open_prefetches" l2_open_prefetches: u64,
            "Prefetches that have not been ended.";
        Gauge Bytes "hostkv_l2_kept_bytes" l2_kept_bytes: u64,
            "Payload bytes that open prefetches keep in L1 or have asked for, each counted once a prefetch.";
        Counter Things "hostkv_rejected_frames_total" rejected_frames: u64,
            "Frames refused because their form was wrong.";
        Counter Things "hostkv_telemetry_events_dropped_total" telemetry_events_dropped: u64,
            "Telemetry events dropped because a queue on their way was full.";
        Counter Things "hostkv_log_lines_dropped_total" log_lines_dropped: u64,
            "Log lines dropped because the queue of the log writer was full.";
        Counter Things "hostkv_recency_hints_overflowed_total" recency_hints_overflowed: u64,
            "Recency hints that did not fit into the ring of their session.";
    }
    by_reason {
        Counter Things "hostkv_write_failures_total" write_failures,
            "Keys that got no space, by reason; the reason invalid counts keys of calls refused as a whole.";
    }
    durations {
        "hostkv_object_lifetime_seconds" object_lifetime: AGE_BOUNDS_NS,
            "Time from an object's commit until it left L1, evicted or removed, of a sample of the keys.";
        "hostkv_idle_before_eviction_seconds" idle_before_eviction: AGE_BOUNDS_NS,
            "Time from the last read of an evicted object, or else from its commit, to its eviction, of a sample of the keys.";
        "hostkv_reuse_gap_seconds" reuse_gap: AGE_BOUNDS_NS,
            "Time between two reads of the same object, of a sample of the keys; reads less than 100 ms apart may show as 0.";
        "hostkv_owner_death_seconds" owner_death: DEATH_BOUNDS_NS,
            "Time from the end of a dead session's socket to the end of its process, 0 if they were seen together.";
    }
    by_request {
        "hostkv_request_duration_seconds" request_durations,
            "Time from reading a request's frame to queueing its reply, waiting for eviction included.";
    }
}
