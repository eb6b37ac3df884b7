//! What is in use: the figures of STATS and the gauges of the metrics page, and the work that is due by the clock.

use super::ages::Ages;
use super::entries::EntryState;
use super::slice::Effort;
use super::watermark::Usage;
use super::{Nanos, SECOND, Stats, Store};
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::wire::reply::Figures;

/// A consistent copy of what the gauges show.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gauges {
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Payload bytes that are not free.
    pub used_bytes: u64,
    /// Bytes of reservations, quarantined ones left out, and those of the daemon itself, for loads, and granted ones
    /// included.
    pub reserved_bytes: u64,
    /// Entries of reservations, quarantined ones left out.
    pub reserved_objects: u64,
    /// Bytes of expired reservations whose writer may still write.
    pub quarantined_bytes: u64,
    /// Their entries.
    pub quarantined_objects: u64,
    /// Bytes held by live processes whose socket is gone; what they pin is as of the last scan.
    pub orphaned_bytes: u64,
    /// Objects pinned, and entries reserved, by live processes whose socket is gone.
    pub orphaned_objects: u64,
    /// Bytes that are zeroed before they are used again.
    pub zeroing_bytes: u64,
    /// Readable objects.
    pub objects: u64,
    /// Entries in all.
    pub index_entries: u64,
    /// Entries that are not free.
    pub index_entries_used: u64,
    /// Largest free extent in bytes.
    pub largest_free_extent_bytes: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Keyspaces.
    pub keyspaces: u64,
    /// Share of the payload, or of the index, in use at which eviction starts.
    pub watermark_ratio: f64,
}

impl Store {
    /// The pool's figures as STATS answers them.
    pub fn figures(&mut self) -> Figures {
        self.fold();
        let gauges = self.gauges();
        let stats = &self.stats;
        Figures {
            capacity_bytes: gauges.capacity_bytes,
            used_bytes: gauges.used_bytes,
            pinned_bytes: stats.pinned_bytes,
            reserved_bytes: gauges.reserved_bytes,
            object_count: gauges.objects,
            session_count: gauges.sessions,
            sm_read_requests: stats.read_requests,
            sm_read_succeed_keys: stats.read_succeed_keys,
            sm_read_failed_keys: stats.read_failed_keys,
            sm_write_requests: stats.write_requests,
            sm_write_succeed_keys: stats.write_succeed_keys,
            sm_write_failed_keys: stats.write_failed_keys,
            l1_read_keys: stats.l1_read_keys,
            l1_write_keys: stats.l1_write_keys,
            l1_evicted_keys: stats.l1_evicted_keys,
        }
    }

    /// What the gauges show now.
    pub fn gauges(&self) -> Gauges {
        let mut orphaned_bytes = self.stats.orphaned_pin_bytes;
        let mut orphaned_objects = self.stats.orphaned_pins;
        for ledger in self.sessions.iter().flatten().filter(|l| l.is_orphaned) {
            orphaned_bytes += ledger.reserved_bytes;
            orphaned_objects += u64::from(ledger.grants.count());
            for reservation in ledger.reservations.values() {
                orphaned_objects += reservation.entries.len() as u64;
            }
        }
        Gauges {
            capacity_bytes: self.config.payload_len,
            used_bytes: self.units_to_bytes(self.allocator.used_units()),
            reserved_bytes: self.reserved_bytes - self.quarantined_bytes + self.l2.loading_bytes(),
            reserved_objects: u64::from(self.entries.count(EntryState::Reserved))
                + u64::from(self.entries.count(EntryState::Committing))
                + u64::from(self.entries.count(EntryState::Loading))
                + u64::from(self.entries.count(EntryState::Granted)),
            quarantined_bytes: self.quarantined_bytes,
            quarantined_objects: u64::from(self.entries.count(EntryState::Quarantine)),
            orphaned_bytes,
            orphaned_objects,
            zeroing_bytes: self.jobs.zeroing_bytes,
            objects: u64::from(self.entries.count(EntryState::Committed)),
            index_entries: u64::from(self.entries.entry_count()),
            index_entries_used: u64::from(self.entries.used()),
            largest_free_extent_bytes: self.units_to_bytes(self.allocator.largest_free_units()),
            sessions: self.session_slots.len() as u64,
            keyspaces: self.names.count() as u64,
            watermark_ratio: self.watermark.trigger,
        }
    }

    /// Bytes of private memory that grow with the index: for the figure per configured object.
    pub fn memory_bytes(&self) -> u64 {
        self.entries.memory_bytes()
            + self.allocator.memory_bytes()
            + self.policy.memory_bytes()
            + self.marks.memory_bytes()
            + self.ages.memory_bytes()
            + self.guard.memory_bytes()
            + self.l2.memory_bytes()
    }

    /// Counters and the gauges of the last scan; call [`Store::fold`] first for today's values.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How old objects of a sample became.
    pub fn ages(&self) -> &Ages {
        &self.ages
    }

    /// Counts a request that was refused as a whole with this many keys.
    pub fn count_refused_write(&mut self, keys: usize) {
        self.stats.write_failures.invalid += keys as u64;
    }

    /// The heartbeat, and what is due each 100 ms and each second.
    pub fn tick(&mut self, now: Nanos) {
        self.header
            .heartbeat_tick()
            // Relaxed: only compared with a clock, nothing stands behind it.
            .store(now / (SECOND / 10), Ordering::Relaxed);
        if log::log_enabled!(log::Level::Info) {
            // Relaxed: a hint; a client that sees the change has its allowance of lines again.
            self.header.log_refill().fetch_add(1, Ordering::Relaxed);
        }
        self.guard_next(now);
        self.want_events();
        let mut effort = Effort::new(self.config.slice_ns);
        self.expire_reservations(&mut effort, now);
        self.drain_recency(now, &mut effort);
        self.count_request(&effort);
        if now / SECOND != self.last_second {
            self.last_second = now / SECOND;
            self.pass_is_blocked = false;
            self.refill_lines(self.last_second.is_multiple_of(60));
            self.each_second(now);
        } else if self.stats.pin_gate_shut {
            // The gate opens with the first scan that finds little enough pinned.
            self.wants_scan = true;
        }
    }

    fn each_second(&mut self, now: Nanos) {
        // Also when nobody asks: a fold must come before a session's counts have gone round.
        self.fold();
        self.cut_late_runs(now);
        if !self.session_slots.is_empty() || !self.zombies.is_empty() || self.stats.pin_gate_shut {
            self.wants_scan = true;
        } else {
            self.stats.pinned_bytes = 0;
            self.stats.pinned_objects = 0;
            self.stats.orphaned_pin_bytes = 0;
            self.stats.orphaned_pins = 0;
            self.stats.oldest_pin_ns = 0;
        }
        let usage = self.usage();
        if self.watermark.goal(&usage).is_none() {
            log::debug!(
                "Memory usage {:.2} below watermark {:.2}; skipping eviction.",
                usage.ratio(),
                self.watermark.trigger
            );
        }
        if (now / SECOND).is_multiple_of(60) && usage.used_bytes != self.last_reported_usage {
            self.last_reported_usage = usage.used_bytes;
            log::info!(
                "L1 in use: {} of {} bytes ({:.1} %), {} objects, {} sessions.",
                usage.used_bytes,
                usage.capacity_bytes,
                usage.ratio() * 100.0,
                self.entries.count(EntryState::Committed),
                self.session_slots.len()
            );
        }
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            used_bytes: self.units_to_bytes(self.allocator.used_units()),
            capacity_bytes: self.config.payload_len,
            used_entries: self.entries.used(),
            entry_count: self.entries.entry_count(),
        }
    }
}
