//! Everything the daemon counts, as plain numbers of the loop's thread.
//!
//! `metrics/` reads a copy; nothing here is shared. Counters only grow.

use hostkv_shm_protocol::status::{Reason, Status};

/// Keys of reserves that got no space, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteFailures {
    /// No hole of that size, even after eviction.
    pub no_space: u64,
    /// No free index entry, even after eviction.
    pub no_entry: u64,
    /// Every bucket within the probe limit was full.
    pub bucket_full: u64,
    /// The key was there already.
    pub exists: u64,
    /// Another writer held the key, or it stood twice in one call.
    pub reserved: u64,
    /// A limit on reserved bytes.
    pub quota: u64,
    /// The quota of the key's keyspace, even after eviction within it.
    pub keyspace_quota: u64,
    /// Keys of calls that were refused as a whole; not in the request and key counters.
    pub invalid: u64,
}

impl WriteFailures {
    /// Counts one key that was not granted.
    pub fn count(&mut self, status: Status, reason: Reason) {
        let field = match (status, reason) {
            (Status::Exists, _) => &mut self.exists,
            (Status::Reserved, _) => &mut self.reserved,
            (Status::Quota, Reason::KeyspaceQuota) => &mut self.keyspace_quota,
            (Status::Quota, _) => &mut self.quota,
            (_, Reason::NoEntry) => &mut self.no_entry,
            (_, Reason::BucketFull) => &mut self.bucket_full,
            _ => &mut self.no_space,
        };
        *field += 1;
    }
}

/// Counters since the start, and gauges as of the last scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Read requests, folded from the sessions.
    pub read_requests: u64,
    /// Keys of read requests that were found.
    pub read_succeed_keys: u64,
    /// The rest of their keys.
    pub read_failed_keys: u64,
    /// Reserve requests.
    pub write_requests: u64,
    /// Keys of reserve requests that got space.
    pub write_succeed_keys: u64,
    /// The rest of their keys.
    pub write_failed_keys: u64,
    /// Keys whose lease was released.
    pub l1_read_keys: u64,
    /// Keys committed.
    pub l1_write_keys: u64,
    /// Keys evicted by the eviction controller.
    pub l1_evicted_keys: u64,
    /// Bytes of evicted objects, rounded up to the alignment.
    pub evicted_bytes: u64,
    /// Of the evicted keys, those that made room for their own keyspace at its quota.
    pub quota_evicted_keys: u64,
    /// Passes of the eviction controller, above the watermark or for one reserve.
    pub eviction_passes: u64,
    /// Passes that freed nothing because everything was pinned.
    pub eviction_passes_all_pinned: u64,
    /// Keys not granted, by why.
    pub write_failures: WriteFailures,
    /// Keys removed on request.
    pub removed_keys: u64,
    /// Keys cleared.
    pub cleared_keys: u64,
    /// Keys removed because another layout took their keyspace over.
    pub layout_replaced_keys: u64,
    /// Pins of sessions whose process died.
    pub reclaimed_pins: u64,
    /// Reserved entries of sessions whose process died.
    pub reclaimed_reservations: u64,
    /// Pins voided because a session held more than its quota.
    pub voided_pins: u64,
    /// Objects that were not what had been committed, and are removed.
    pub integrity_failures: u64,
    /// Of those, the ones that no reader reported.
    pub integrity_failures_scrubbed: u64,
    /// Reports of readers about objects that are what was committed.
    pub integrity_reports_refuted: u64,
    /// Bytes read in the background to make or compare sums, reports left out.
    pub scrubbed_bytes: u64,
    /// Passes of the scrubber over all objects.
    pub scrub_passes: u64,
    /// How long the last of them took, in nanoseconds.
    pub last_scrub_pass_ns: u64,
    /// Entries whose pins outlived the read time to live.
    pub expired_pins: u64,
    /// Recency hints that went into an overflow bitmap.
    pub recency_overflows: u64,
    /// Events that found no place in their session's ring.
    pub events_dropped: u64,
    /// Committed objects that are never stored in a tier: too large, or too many waited.
    pub l2_left_out_keys: u64,
    /// Objects that were evicted and that no tier holds.
    pub l2_evicted_unstored_keys: u64,
    /// Stores that gave way to a reserve without space.
    pub l2_displaced_stores: u64,
    /// Objects that left L1 because a tier holds them, as the policy wants it.
    pub l2_skipped_l1_keys: u64,
    /// Prefetches that are over.
    pub l2_prefetches: u64,
    /// Keys of their prefixes.
    pub l2_prefetched_keys: u64,
    /// Bytes of distinct pinned objects at the last scan.
    pub pinned_bytes: u64,
    /// Distinct pinned objects at the last scan.
    pub pinned_objects: u64,
    /// Of those, bytes that live processes without a socket pin.
    pub orphaned_pin_bytes: u64,
    /// Objects that live processes without a socket pin.
    pub orphaned_pins: u64,
    /// Age of the oldest pin at the last scan, in nanoseconds.
    pub oldest_pin_ns: u64,
    /// Whether new pins are refused.
    pub pin_gate_shut: bool,
}
