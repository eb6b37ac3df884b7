//! Pins: one word of the lease segment for each right to read.
//!
//! A reader that found an entry says so in a slot, fences, and looks again whether the entry is still
//! readable; the daemon unpublishes, fences, and looks whether a slot still names the entry. One of the two
//! sees the other. The steps, reader R and daemon D, W the extent's next writer:
//!
//! ```text
//! R1 q = seq (Relaxed), fence(Acquire), q readable      D1 seq = q+1 (Release), the whole batch
//! R2 copy fields, compare the key                       D2 fence(SeqCst)
//! R3 slot = entry+1 | nonce+1 (Release)                 D3 high-water mark, then all slots below it (Acquire)
//! R4 fence(SeqCst), once for a batch                    D4 no slot names it: the extent may go to W
//! R5 seq (Relaxed) == q, else clear the slot            W1 payload writes
//! R6 fence(Acquire); payload reads                      D5 fence(Release); fields (Relaxed)
//! R7 slot = 0 | nonce (Release)                         D6 seq = (seq | 1) + 1 (Release)
//! ```
//!
//! Why it is safe: R4 and D2 have one order. R4 first: D3 reads R3's word or a later one of that slot; a later
//! one is a Release store after R6 and D3 is Acquire, so R6 happens before W1. D2 first: R5 reads D1's value
//! or a later one, `seq` only grows, the pin fails and nothing is read. R3 must be Release: with Relaxed a
//! slot that another thread reuses at once loses that edge.
//!
//! ```text
//! slot:  bit 63      32 31                0
//!            nonce     | entry number + 1      (low half 0 = free)
//! ```
//!
//! The nonce grows with each pin, so that two scans that see the same word saw one pin held in between.

use super::{LeaseGeometry, header::LeaseHeader};
use crate::id::EntryNumber;
use crate::sync::{AtomicU32, Ordering, fence};
use crate::view::{OutOfBounds, View, Words};
use core::mem::offset_of;

/// One slot's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinWord(pub u64);

const NONCE_SHIFT: u32 = 32;
const _: () = assert!(NONCE_SHIFT + u32::BITS == u64::BITS);

impl PinWord {
    /// The pinned entry; `None` when the slot is free.
    #[inline]
    pub fn entry(self) -> Option<EntryNumber> {
        (self.0 as u32).checked_sub(1).map(EntryNumber)
    }

    /// The word that pins `entry` in a slot that held `self`.
    #[inline]
    fn pinned(self, entry: EntryNumber) -> PinWord {
        let nonce = ((self.0 >> NONCE_SHIFT) as u32).wrapping_add(1);
        PinWord(u64::from(nonce) << NONCE_SHIFT | (u64::from(entry.0) + 1))
    }

    /// The word that frees a slot that held `self`.
    #[inline]
    fn cleared(self) -> PinWord {
        PinWord(self.0 >> NONCE_SHIFT << NONCE_SHIFT)
    }
}

/// The pin slots of one session, as either side sees them.
#[derive(Clone, Copy)]
pub struct PinSlots {
    view: View,
    slots: Words,
}

impl PinSlots {
    /// The slots of a lease segment.
    pub fn new(view: View, geometry: &LeaseGeometry) -> Result<PinSlots, OutOfBounds> {
        view.u32(offset_of!(LeaseHeader, slot_high_water) as u64)?;
        Ok(PinSlots {
            view,
            slots: view.words(geometry.slots_offset(), u64::from(geometry.slot_count))?,
        })
    }

    /// Number of slots.
    pub fn count(&self) -> usize {
        self.slots.count()
    }

    #[inline]
    fn high_water(&self) -> &AtomicU32 {
        self.view
            .u32(offset_of!(LeaseHeader, slot_high_water) as u64)
            .expect("PinSlots::new checked that the word is mapped")
    }

    /// Client: makes the scan cover slots below `count`; before the first [`PinSlots::publish`] of any of them.
    #[inline]
    pub fn raise_high_water(&self, count: u32) {
        // Relaxed: R4's fence orders it before R5, as it does R3. Never a plain store: threads race.
        if self.high_water().load(Ordering::Relaxed) < count {
            self.high_water().fetch_max(count, Ordering::Relaxed);
        }
    }

    /// Client, step R3: names `entry` in a slot that this thread owns.
    #[inline]
    pub fn publish(&self, slot: usize, entry: EntryNumber) {
        let word = self.slots.at(slot);
        // Relaxed load: only the slot's owner writes it.
        let old = PinWord(word.load(Ordering::Relaxed));
        // Release: a scan that reads this word instead of an earlier pin of the same slot is ordered after
        // that pin's payload reads.
        word.store(old.pinned(entry).0, Ordering::Release);
    }

    /// Client, step R7: frees a slot that this thread owns, after its payload reads.
    #[inline]
    pub fn clear(&self, slot: usize) {
        let word = self.slots.at(slot);
        let old = PinWord(word.load(Ordering::Relaxed));
        // Release: pairs with the scan's Acquire, so the payload reads happen before the extent's next writer.
        word.store(old.cleared().0, Ordering::Release);
    }

    /// Daemon, step D3: slots that a scan must look at. Read after [`crate::control::writer::scan_fence`].
    pub fn scan_len(&self) -> usize {
        // Relaxed: R4 before D2 makes the raise visible. Clamped, because the client may write anything.
        (self.high_water().load(Ordering::Relaxed) as usize).min(self.slots.count())
    }

    /// Daemon, step D3: one slot's word.
    #[inline]
    pub fn scan(&self, slot: usize) -> PinWord {
        self.slots
            .get(slot)
            // Acquire: pairs with R3 and R7.
            .map_or(PinWord(0), |word| PinWord(word.load(Ordering::Acquire)))
    }
}

/// Client, step R4: the one fence of a batch, between naming entries in slots and looking again.
#[inline]
pub fn pin_fence() {
    fence(Ordering::SeqCst);
}
