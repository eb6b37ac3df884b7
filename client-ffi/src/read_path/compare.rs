//! Comparing pinned objects with their sums, as the daemon's integrity mode wants it: none, a sample, or all.

use super::{Item, Pins, ReadPath};
use hostkv_shm_protocol::control::reader::Found;
use hostkv_shm_protocol::sum::sum_of;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};

/// 2^64 divided by the golden ratio: the multiples of it, modulo 2^64, are spread evenly.
pub(super) const TURN_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Objects acquired so far; on a line of its own, because every call of every thread changes it.
#[repr(align(64))]
pub(super) struct Turns(pub(super) AtomicU64);

impl ReadPath {
    /// Compares pinned objects with their sums, all or a sample, as the daemon wants it. One that has changed was not
    /// found, the daemon is told, and without `is_all` it ends the run.
    #[inline]
    pub(super) fn leave_out_changed(&self, is_all: bool, pins: &mut Pins) {
        if self.check_every != 0 {
            self.compare(is_all, pins);
        }
    }

    fn compare(&self, is_all: bool, pins: &mut Pins) {
        let pinned_count = pins.pinned_count;
        // Relaxed, and no exchange: two threads may share turns; only the share counts.
        let first_turn = self.turns.0.load(Ordering::Relaxed);
        let next_turn = first_turn.wrapping_add(pinned_count as u64);
        self.turns.0.store(next_turn, Ordering::Relaxed);
        let share = u64::MAX / u64::from(self.check_every);
        let is_whole = pinned_count == pins.items.len();
        let mut left_out_count = 0;
        // Successive products are spread evenly, whatever the number of keys of a call is.
        let mut product = first_turn.wrapping_mul(TURN_FACTOR);
        for nth in 0..pinned_count {
            let is_due = product <= share;
            product = product.wrapping_add(TURN_FACTOR);
            if !is_due {
                continue;
            }
            let at = match is_whole {
                true => Some(nth),
                false => nth_pinned(&pins.items, nth - left_out_count),
            };
            let Some((at, slot)) = at.and_then(|at| Some((at, pins.items[at].pinned()?))) else {
                continue;
            };
            if !self.has_changed(&pins.items[at].found) {
                continue;
            }
            self.events.report_changed(&pins.items[at].found);
            if is_all {
                pins.items[at] = Item::NOT_FOUND;
                self.unpin([slot].into_iter());
                pins.count();
                left_out_count += 1;
                continue;
            }
            self.unpin(pins.items[at..].iter().filter_map(Item::pinned));
            pins.items[at..].fill(Item::NOT_FOUND);
            pins.shortage = None;
            pins.count();
            return;
        }
    }

    /// Whether a pinned object is not what its sum says; without a sum it is believed.
    fn has_changed(&self, found: &Found) -> bool {
        let Some(expected) = self.index.sum(found.entry) else {
            return false;
        };
        let Some((offset, len)) = self.byte_range(found.extent) else {
            return false;
        };
        sum_of(&self.payload, offset, len).is_ok_and(|sum| sum != expected)
    }
}

/// Where the pinned key lies that has `nth` pinned ones before it.
fn nth_pinned(items: &[Item], nth: usize) -> Option<usize> {
    let pinned = items
        .iter()
        .enumerate()
        .filter(|(_, item)| item.pinned().is_some());
    pinned.map(|(at, _)| at).nth(nth)
}
