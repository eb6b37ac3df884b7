//! Who owns which pin slot, and how much is pinned: the process-private half of a pin.
//!
//! The lease segment's slots say to the daemon what is pinned. Which slot is free, and whether one more pin
//! would pass the session's quota, is this process's own matter and stands here. Any thread calls this; nothing
//! waits.
//!
//! A slot's way, with the steps of [`hostkv_shm_protocol::lease::pins`]:
//!
//! ```text
//!   take (CAS, Acquire) -> note -> add bytes (AcqRel) -> high-water -> R3 -> R4, R5 ... R7 -> forget (Release)
//!        ^                                                                                        |
//!        +------------------ give back (fetch_or, Release) <--- subtract bytes (AcqRel) <---------+
//! ```
//!
//! **Quota.** The sum counts every pin, so it is an upper bound of the distinct bytes that the daemon counts.
//! Only when a pin would lift the sum above the quota are distinct entries counted, over the notes. Notes are
//! written before the sum is raised, so of two calls that raise it the later one sees the earlier one's notes:
//! together they never pass the quota, without a lock.

use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};

/// One bitmap word on a cache line of its own: threads that take from different words do not disturb each other.
#[repr(align(64))]
struct Line(AtomicU64);

/// A slot's owner: which entry it pins and how long that is; 0 = free.
///
/// ```text
/// bit 63            32 31                0
///     units of bytes  |  entry number + 1
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Note(u64);

const UNITS_SHIFT: u32 = 32;
const _: () = assert!(UNITS_SHIFT + u32::BITS == u64::BITS);

impl Note {
    fn new(entry: EntryNumber, units: u32) -> Note {
        Note(u64::from(units) << UNITS_SHIFT | (u64::from(entry.0) + 1))
    }

    fn entry(self) -> Option<EntryNumber> {
        (self.0 as u32).checked_sub(1).map(EntryNumber)
    }

    fn units(self) -> u64 {
        self.0 >> UNITS_SHIFT
    }
}

/// A pin that is about to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The slot that it has.
    pub(crate) slot: u32,
    /// The entry it names.
    pub(crate) entry: EntryNumber,
    /// The extent's length in units of the alignment, rounded up.
    pub(crate) units: u32,
}

/// The slots of one session and what they hold.
pub(crate) struct SlotPool {
    free: Box<[Line]>,
    notes: Box<[AtomicU64]>,
    pinned_units: Line,
    quota_units: u64,
}

impl SlotPool {
    /// All slots free; at most `quota_units` of distinct extents may be pinned.
    pub(crate) fn new(slot_count: usize, quota_units: u64) -> SlotPool {
        let free = (0..slot_count.div_ceil(64))
            .map(|word| {
                let here = (slot_count - word * 64).min(64);
                Line(AtomicU64::new(u64::MAX >> (64 - here)))
            })
            .collect();
        SlotPool {
            free,
            notes: (0..slot_count).map(|_| AtomicU64::new(0)).collect(),
            pinned_units: Line(AtomicU64::new(0)),
            quota_units,
        }
    }

    /// Takes up to `count` slots, the lowest free first, and hands each to `taken` in ascending order; gives
    /// how many there were.
    #[inline]
    pub(crate) fn take(&self, count: usize, mut taken: impl FnMut(u32)) -> usize {
        let mut left = count;
        for (word_index, line) in self.free.iter().enumerate() {
            if left == 0 {
                break;
            }
            let mut free = line.0.load(Ordering::Relaxed);
            while free != 0 {
                let kept = without_lowest(free, left);
                // Acquire: pairs with `give_back`'s Release, so the slot's last clear (R7) comes before the
                // next pin in it. Relaxed on failure: the value is only tried again.
                match line
                    .0
                    .compare_exchange_weak(free, kept, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => {
                        let mut bits = free & !kept;
                        left -= bits.count_ones() as usize;
                        while bits != 0 {
                            taken(word_index as u32 * 64 + bits.trailing_zeros());
                            bits &= bits - 1;
                        }
                        break;
                    }
                    Err(current) => free = current,
                }
            }
        }
        count - left
    }

    /// Notes what the wanted pins hold and adds their bytes; gives how many of them, from the first on, the quota
    /// allows. The others must be [given back](SlotPool::forget). Before R3.
    ///
    /// `wanted` is in ascending order of slots. `scratch` is only memory.
    pub(crate) fn admit(&self, wanted: &[Wanted], scratch: &mut Vec<u64>) -> usize {
        for want in wanted {
            // Relaxed: the sum's AcqRel below carries the notes to whoever adds after us.
            self.note(want.slot)
                .store(Note::new(want.entry, want.units).0, Ordering::Relaxed);
        }
        let added: u64 = wanted.iter().map(|want| u64::from(want.units)).sum();
        // AcqRel: Release hands over the notes above; Acquire sees those of every call that added before.
        let before = self.pinned_units.0.fetch_add(added, Ordering::AcqRel);
        if before.saturating_add(added) <= self.quota_units {
            return wanted.len();
        }
        self.count_distinct(wanted, scratch)
    }

    /// How many of the wanted pins fit beside the distinct entries that all other slots hold.
    #[cold]
    fn count_distinct(&self, wanted: &[Wanted], others: &mut Vec<u64>) -> usize {
        others.clear();
        let mut own = wanted.iter().map(|want| want.slot as usize).peekable();
        for (slot, note) in self.notes.iter().enumerate() {
            if own.next_if_eq(&slot).is_some() {
                continue;
            }
            // Acquire: a note that `forget` wiped means that its slot has been cleared (R7) before our R3.
            let note = note.load(Ordering::Acquire);
            if note != 0 {
                others.push(note);
            }
        }
        let by_entry = |note: &u64| Note(*note).entry();
        others.sort_unstable_by_key(by_entry);
        others.dedup_by_key(|note| by_entry(note));
        let mut units: u64 = others.iter().map(|note| Note(*note).units()).sum();
        if units > self.quota_units {
            // Pins that hold never do this: a call that raced with us has noted more than it will be allowed. An
            // entry of ours may stand there by its note alone, so none can be taken as counted.
            return 0;
        }
        for (index, want) in wanted.iter().enumerate() {
            let entry = Some(want.entry);
            let is_counted = others.binary_search_by_key(&entry, by_entry).is_ok()
                || wanted[..index]
                    .iter()
                    .any(|earlier| earlier.entry == want.entry);
            if !is_counted {
                units = units.saturating_add(u64::from(want.units));
                if units > self.quota_units {
                    return index;
                }
            }
        }
        wanted.len()
    }

    /// Forgets what these slots held, takes their bytes off and makes them free. After R7.
    #[inline]
    pub(crate) fn forget(&self, slots: impl Iterator<Item = u32> + Clone) {
        let mut units = 0;
        for slot in slots.clone() {
            let note = self.note(slot);
            units += Note(note.load(Ordering::Relaxed)).units();
            // Release: pairs with `count_distinct`; who sees the note gone is ordered after R7.
            note.store(0, Ordering::Release);
        }
        // AcqRel: the clears come before the room that this makes; pairs with `admit`.
        self.pinned_units.0.fetch_sub(units, Ordering::AcqRel);
        self.give_back(slots);
    }

    /// Makes slots free that were taken and never noted, or that have been forgotten.
    #[inline]
    pub(crate) fn give_back(&self, slots: impl Iterator<Item = u32>) {
        let mut word = usize::MAX;
        let mut bits = 0;
        for slot in slots {
            let its_word = slot as usize / 64;
            if its_word != word {
                self.free_bits(word, bits);
                word = its_word;
                bits = 0;
            }
            bits |= 1 << (slot % 64);
        }
        self.free_bits(word, bits);
    }

    #[inline]
    fn free_bits(&self, word: usize, bits: u64) {
        if bits != 0 {
            // Release: pairs with `take`'s Acquire.
            self.free[word].0.fetch_or(bits, Ordering::Release);
        }
    }

    fn note(&self, slot: u32) -> &AtomicU64 {
        &self.notes[slot as usize]
    }

    /// The most that may be pinned, in units.
    pub(crate) fn quota_units(&self) -> u64 {
        self.quota_units
    }

    /// The sum over all pins, in units.
    #[cfg(test)]
    pub(crate) fn pinned_units(&self) -> u64 {
        self.pinned_units.0.load(Ordering::Relaxed)
    }

    /// Free slots.
    #[cfg(test)]
    pub(crate) fn free_count(&self) -> usize {
        self.free
            .iter()
            .map(|line| line.0.load(Ordering::Relaxed).count_ones() as usize)
            .sum()
    }
}

/// `free` without its `count` lowest set bits.
#[inline]
fn without_lowest(free: u64, count: usize) -> u64 {
    if count >= free.count_ones() as usize {
        return 0;
    }
    let mut kept = free;
    for _ in 0..count {
        kept &= kept - 1;
    }
    kept
}

#[cfg(test)]
#[path = "pin_slots/tests.rs"]
mod tests;
