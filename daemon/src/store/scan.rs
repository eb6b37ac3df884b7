//! The scan as the store runs it: what is unpublished is freed when no pin names it (step D4), kept when one does,
//! and taken from its pins when all of them are too old or void. What the scan counted becomes the gauges and the gate.
//!
//! ```text
//!   start --> Scanning (pins.rs) --> gauges, gate --> Freeing --> over
//! ```

use super::entries::EntryState;
use super::pins::Scan;
use super::slice::Effort;
use super::{Nanos, SECOND, Store};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::sync::Ordering;

/// Pinned share of the payload above which new pins are refused.
pub(super) const GATE_RATIO: f64 = 0.8;

/// How many zombies before its turn the CPU is asked for what freeing one will look at.
const FETCHED_AHEAD: usize = 4;

/// A scan, and what follows it.
pub(super) enum ScanStage {
    /// Looking at pin slots.
    Scanning(Scan),
    /// Freeing the zombies that it covers; `next` is looked at next, `kept` are to stay.
    Freeing {
        scan: Scan,
        next: usize,
        kept: usize,
    },
}

impl Store {
    pub(super) fn start_scan(&mut self, now: Nanos) {
        if self.scan.is_some() {
            return;
        }
        self.wants_scan = false;
        self.scan = Some(ScanStage::Scanning(Scan::start(
            &self.sessions,
            self.zombies.len(),
            now,
        )));
    }

    /// Goes on with the scan and what follows it; true when both are over.
    pub(super) fn advance_scan(&mut self, effort: &mut Effort) -> bool {
        match self.scan.take() {
            None => true,
            Some(ScanStage::Scanning(mut scan)) => {
                let align_bytes = self.align();
                let pin_quota_bytes = self.pin_quota_bytes();
                let is_over = scan.advance(
                    &mut self.sessions,
                    &mut self.marks,
                    &self.allocator,
                    align_bytes,
                    pin_quota_bytes,
                    effort,
                );
                if !is_over {
                    self.scan = Some(ScanStage::Scanning(scan));
                    return false;
                }
                self.take_gauges(&scan);
                for slot in scan.suspects() {
                    self.void_beyond_quota(*slot, scan.started);
                }
                self.scan = Some(ScanStage::Freeing {
                    scan,
                    next: 0,
                    kept: 0,
                });
                self.advance_scan(effort)
            }
            Some(ScanStage::Freeing {
                scan,
                mut next,
                mut kept,
            }) => {
                while next < scan.zombie_count {
                    if effort.is_spent() {
                        self.scan = Some(ScanStage::Freeing { scan, next, kept });
                        return false;
                    }
                    effort.spend(Effort::ENTRY);
                    if let Some(later) = self.zombies.get(next + FETCHED_AHEAD) {
                        self.allocator.prefetch_sides(later.0);
                    }
                    let entry = self.zombies[next];
                    next += 1;
                    if !self.settle_zombie(entry, &scan, effort) {
                        self.zombies[kept] = entry;
                        kept += 1;
                    }
                }
                self.zombies.drain(kept..scan.zombie_count);
                true
            }
        }
    }

    /// Frees a zombie that no pin names and no tier reads (step D4), or takes its extent from pins that are all too old or void; false when
    /// it stays in the list of what is unpublished.
    fn settle_zombie(&mut self, entry: EntryNumber, scan: &Scan, effort: &mut Effort) -> bool {
        if self.l2.is_read(entry) {
            return false;
        }
        if !self.marks.contains(entry) && !scan.is_void_named(entry) {
            effort.spend(Effort::FREE);
            let bytes = self.extent_bytes(entry);
            self.free_entry(entry);
            self.credit(entry, bytes);
            return true;
        }
        let ttl = self.config.read_ttl_ns;
        let is_void = !self.marks.contains(entry);
        if (is_void || self.marks.is_expired(entry, ttl, scan.started))
            && self.entries.state(entry) == EntryState::Zombie
        {
            effort.spend(Effort::FREE);
            let bytes = self.extent_bytes(entry);
            // First the sequence number moves, then the extent goes: a reader's check sees it.
            self.index.revoke(entry);
            if !is_void {
                self.stats.expired_pins += 1;
            }
            self.credit(entry, bytes);
            if self.zero_first(entry, true) {
                return true;
            }
            self.free_extent(entry);
            self.entries.set_state(entry, EntryState::Revoked, None);
        }
        false
    }

    fn credit(&mut self, entry: EntryNumber, bytes: u64) {
        if self.take_credit(entry) {
            return;
        }
        if let Some(pass) = self.pass.as_mut() {
            pass.goal.freed(bytes, 1);
            pass.has_freed = true;
        }
    }

    /// What a finished scan tells about pins, and the gate.
    fn take_gauges(&mut self, scan: &Scan) {
        let pinned = scan.figures.pinned_bytes;
        self.stats.pinned_bytes = pinned;
        self.stats.pinned_objects = scan.figures.pinned_objects;
        self.stats.orphaned_pin_bytes = scan.figures.orphaned_bytes;
        self.stats.orphaned_pins = scan.figures.orphaned_objects;
        self.stats.oldest_pin_ns = scan.oldest_pin_ns();
        let shut = pinned as f64 > self.config.payload_len as f64 * GATE_RATIO;
        if shut != self.stats.pin_gate_shut {
            self.stats.pin_gate_shut = shut;
            self.header
                .pin_gate()
                // Relaxed: libraries may see it late; pins taken before are honoured.
                .store(u32::from(shut), Ordering::Relaxed);
            if shut {
                self.has_warned_of_gate = self
                    .last_gate_warning
                    .is_none_or(|last| scan.started.saturating_sub(last) >= 60 * SECOND);
                if !self.has_warned_of_gate {
                    return;
                }
                self.last_gate_warning = Some(scan.started);
                log::warn!(
                    "New pins are refused: {pinned} of {} bytes are pinned, more than {GATE_RATIO} of the payload; \
                     release leases or raise --l1-size-gb.",
                    self.config.payload_len
                );
            } else if self.has_warned_of_gate {
                log::info!("New pins are accepted again: {pinned} bytes are pinned.");
            }
        }
    }
}
