//! Recency: what a session has read, told to the daemon without a call.
//!
//! A released key leaves a record in a ring; the daemon drains the rings before it chooses victims. When the
//! ring is full the client sets the entry's bit in the overflow bitmap instead: the order within the interval
//! is lost, the touch is not.
//!
//! ```text
//! record:  bit 63    32 31            0
//!              lap     | entry number       lap = position / capacity + 1, low 32 bits
//! ```
//!
//! Several threads push: places are claimed by compare-and-swap on the head after the tail was checked. The
//! daemon takes records in order and stops at the first whose lap is not the one it waits for, i.e. that is
//! claimed but not written. A record is one word, so it is whole or not there.

use super::{LeaseGeometry, header::LeaseHeader};
use crate::id::EntryNumber;
use crate::sync::{AtomicU64, Ordering};
use crate::view::{OutOfBounds, View, Words};
use core::mem::offset_of;

const LAP_SHIFT: u32 = 32;

/// The recency ring and the overflow bitmap of one session, as either side sees them.
#[derive(Clone, Copy)]
pub struct Recency {
    view: View,
    ring: Words,
    /// The ring has two to this power of places.
    capacity_log2: u32,
    bitmap: Words,
}

impl Recency {
    /// The ring and bitmap of a lease segment.
    pub fn new(view: View, geometry: &LeaseGeometry) -> Result<Recency, OutOfBounds> {
        view.u64(offset_of!(LeaseHeader, recency_head) as u64)?;
        view.u64(offset_of!(LeaseHeader, recency_tail) as u64)?;
        debug_assert!(geometry.recency_capacity.is_power_of_two());
        Ok(Recency {
            view,
            capacity_log2: geometry.recency_capacity.trailing_zeros(),
            ring: view.words(
                geometry.recency_offset(),
                u64::from(geometry.recency_capacity),
            )?,
            bitmap: view.words(geometry.bitmap_offset(), u64::from(geometry.bitmap_words))?,
        })
    }

    fn head(&self) -> &AtomicU64 {
        self.view
            .u64(offset_of!(LeaseHeader, recency_head) as u64)
            .expect("Recency::new checked that the word is mapped")
    }

    fn tail(&self) -> &AtomicU64 {
        self.view
            .u64(offset_of!(LeaseHeader, recency_tail) as u64)
            .expect("Recency::new checked that the word is mapped")
    }

    fn capacity(&self) -> u64 {
        1 << self.capacity_log2
    }

    #[inline]
    fn place(&self, position: u64) -> usize {
        (position & (self.capacity() - 1)) as usize
    }

    fn lap(&self, position: u64) -> u64 {
        ((position >> self.capacity_log2) + 1) & u64::from(u32::MAX)
    }

    /// Client: leaves a record; false when the ring was full and the bitmap took the touch.
    #[inline]
    pub fn touch(&self, entry: EntryNumber) -> bool {
        self.touch_all(&[entry]) == 0
    }

    /// Client: leaves a record for each entry, in this order, and claims the places of all by one exchange. Gives how
    /// many found the ring full, which are the last ones; the bitmap took those.
    #[inline]
    pub fn touch_all(&self, entries: &[EntryNumber]) -> usize {
        let mut head = self.head().load(Ordering::Relaxed);
        let claimed = loop {
            // Acquire: pairs with the daemon's store of the tail; the records there have been copied out.
            let tail = self.tail().load(Ordering::Acquire);
            let room = self.capacity().saturating_sub(head.wrapping_sub(tail));
            let count = room.min(entries.len() as u64);
            if count == 0 {
                break 0;
            }
            // Relaxed: the claim only keeps two threads off one place.
            match self.head().compare_exchange_weak(
                head,
                head + count,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break count as usize,
                Err(current) => head = current,
            }
        };
        let (in_ring, beyond) = entries.split_at(claimed);
        for (position, entry) in (head..).zip(in_ring) {
            self.ring
                .at(self.place(position))
                // Release: one word, with nothing behind it; documents the hand-over.
                .store(
                    self.lap(position) << LAP_SHIFT | u64::from(entry.0),
                    Ordering::Release,
                );
        }
        for entry in beyond {
            let bit = 1 << (entry.0 % 64);
            if let Some(word) = self.bitmap.get(entry.index() / 64)
                // Relaxed, both: a hint without anything behind it. A bit that is set is a touch that the sweep has
                // still to take, and it stands for this one too.
                && word.load(Ordering::Relaxed) & bit == 0
            {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        beyond.len()
    }

    /// Daemon: whether places from `tail` on have been claimed; their records may not be finished yet.
    #[inline]
    pub fn has_claims(&self, tail: u64) -> bool {
        // Relaxed: a hint; a claim that is not seen now is seen at the next look.
        self.head().load(Ordering::Relaxed) != tail
    }

    /// Daemon: takes finished records from its private `tail` on, at most `most`, and gives the new tail.
    pub fn drain(&self, tail: u64, most: usize, mut visit: impl FnMut(EntryNumber)) -> u64 {
        let mut position = tail;
        for _ in 0..most.min(self.ring.count()) {
            let word = self
                .ring
                .at(self.place(position))
                // Acquire: pairs with the push; documents the hand-over.
                .load(Ordering::Acquire);
            if word >> LAP_SHIFT != self.lap(position) {
                break;
            }
            visit(EntryNumber(word as u32));
            position += 1;
        }
        if position != tail {
            // Release: pairs with the client's Acquire; the records before it have been read.
            self.tail().store(position, Ordering::Release);
        }
        position
    }

    /// Daemon: takes the touches out of `most` words of the overflow bitmap from word `first` on, in entry order; gives
    /// the word to go on with, `None` when it was the last.
    pub fn sweep_overflow(
        &self,
        first: usize,
        most: usize,
        mut visit: impl FnMut(EntryNumber),
    ) -> Option<usize> {
        let end = first.saturating_add(most).min(self.bitmap.count());
        for index in first..end {
            let word = self.bitmap.at(index);
            // Relaxed: a hint; a load first, because most words are zero and a swap would dirty them.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                visit(EntryNumber(index as u32 * 64 + bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        (end < self.bitmap.count()).then_some(end)
    }
}
