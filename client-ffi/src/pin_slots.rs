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
//!        +------------------ give back (fetch_or, Release), subtract bytes (AcqRel) <--------------+
//! ```
//!
//! **Quota.** The sum counts every pin, so it is an upper bound of the distinct bytes that the daemon counts.
//! Only when a pin would lift the sum above the quota are distinct entries counted, over the notes. Notes are
//! written before the sum is raised, so of two calls that raise it the later one sees the earlier one's notes:
//! together they never pass the quota, without a lock.

use crate::lane::lane;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};

/// Words of the bitmap at which threads begin.
const LANES: usize = 8;

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

/// Where the note of a slot that was taken is to stand.
pub(crate) struct NotePlace<'a>(&'a AtomicU64);

impl NotePlace<'_> {
    /// Notes what the slot is to hold; before [`SlotPool::add`].
    #[inline]
    pub(crate) fn note(self, entry: EntryNumber, units: u32) {
        // Relaxed: the sum's AcqRel carries the notes to whoever adds after us.
        self.0.store(Note::new(entry, units).0, Ordering::Relaxed);
    }
}

/// Slots that were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// How many.
    pub(crate) count: usize,
    /// One more than the highest of them.
    pub(crate) slots_end: u32,
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

/// Memory for counting distinct entries; it keeps nothing.
#[derive(Debug, Default)]
pub(crate) struct QuotaScratch {
    /// The pins that are asked about, in the order in which they are allowed.
    pub(crate) wanted: Vec<Wanted>,
    own: Vec<u32>,
    others: Vec<u64>,
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

    /// Takes up to `count` slots and hands each to `taken`, with the place of its note. A thread begins at a word of its
    /// own, one of the first few so that scans stay short, and takes the lowest free slots from there on.
    #[inline]
    pub(crate) fn take(&self, count: usize, taken: impl FnMut(u32, NotePlace<'_>)) -> Taken {
        let first = match self.free.len() {
            words if words < LANES => lane() % words,
            // The common case, apart for a divisor that is known.
            _ => lane() % LANES,
        };
        self.take_from(first, count, taken)
    }

    #[inline]
    fn take_from(
        &self,
        first: usize,
        count: usize,
        mut taken: impl FnMut(u32, NotePlace<'_>),
    ) -> Taken {
        if count == 1
            && let Some(slot) = self.take_one(first)
        {
            taken(slot, NotePlace(&self.notes[slot as usize]));
            return Taken {
                count,
                slots_end: slot + 1,
            };
        }
        let mut left = count;
        let mut slots_end = 0;
        let mut word_index = first;
        for _ in 0..self.free.len() {
            if left == 0 {
                break;
            }
            let line = &self.free[word_index];
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
                        while bits != 0 {
                            // Run by run: mostly there is one.
                            let start = bits.trailing_zeros();
                            let len = (!(bits >> start)).trailing_zeros();
                            let first = word_index as u32 * 64 + start;
                            left -= len as usize;
                            slots_end = slots_end.max(first + len);
                            let notes = &self.notes[first as usize..(first + len) as usize];
                            for (slot, note) in (first..).zip(notes) {
                                taken(slot, NotePlace(note));
                            }
                            // In two steps, because a run may be as long as the word.
                            bits &= (u64::MAX << start) << (len - 1) << 1;
                        }
                        break;
                    }
                    Err(current) => free = current,
                }
            }
            word_index += 1;
            if word_index == self.free.len() {
                word_index = 0;
            }
        }
        Taken {
            count: count - left,
            slots_end,
        }
    }

    /// Takes the lowest free slot of a word; none when the word has none.
    #[inline]
    fn take_one(&self, word_index: usize) -> Option<u32> {
        let line = &self.free[word_index];
        let mut free = line.0.load(Ordering::Relaxed);
        while free != 0 {
            let kept = free & (free - 1);
            // As in `take_from`.
            match line
                .0
                .compare_exchange_weak(free, kept, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(word_index as u32 * 64 + free.trailing_zeros()),
                Err(current) => free = current,
            }
        }
        None
    }

    /// Adds the units of what has been noted; whether the quota allows all of it by the sum alone. If not,
    /// [`SlotPool::count_distinct`] says how much it allows. Before R3.
    #[inline]
    pub(crate) fn add(&self, units: u64) -> bool {
        // AcqRel: Release hands over the notes; Acquire sees those of every call that added before.
        let before = self.pinned_units.0.fetch_add(units, Ordering::AcqRel);
        before.saturating_add(units) <= self.quota_units
    }

    /// How many of the wanted pins, which have been noted and added, fit beside the distinct entries that all other
    /// slots hold, from the first on. The others must be [forgotten](SlotPool::forgotten).
    #[cold]
    pub(crate) fn count_distinct(&self, scratch: &mut QuotaScratch) -> usize {
        let QuotaScratch {
            wanted,
            own,
            others,
        } = scratch;
        own.clear();
        own.extend(wanted.iter().map(|want| want.slot));
        own.sort_unstable();
        others.clear();
        let mut own = own.iter().map(|slot| *slot as usize).peekable();
        for (slot, note) in self.notes.iter().enumerate() {
            if own.next_if_eq(&slot).is_some() {
                continue;
            }
            // Acquire: a note that was wiped means that its slot has been cleared (R7) before our R3.
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

    /// Begins to forget what slots held.
    #[inline]
    pub(crate) fn forgotten(&self) -> Forgotten<'_> {
        Forgotten {
            pool: self,
            notes: &self.notes,
            units: 0,
            word: 0,
            bits: 0,
        }
    }

    /// Makes slots free that were taken and never noted.
    #[cfg(test)]
    fn give_back(&self, slots: impl Iterator<Item = u32>) {
        slots.for_each(|slot| self.free_bits(slot as usize / 64, 1 << (slot % 64)));
    }

    #[inline]
    fn free_bits(&self, word: usize, bits: u64) {
        if bits != 0 {
            // Release: pairs with `take`'s Acquire.
            self.free[word].0.fetch_or(bits, Ordering::Release);
        }
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

/// Slots that are forgotten together: their notes are wiped one by one, and with [`Forgotten::finish`] their bytes are
/// taken off and they are free. Not at its drop, because what a drop needs is kept in memory and not in registers.
///
/// Slots lie in runs, so those of one word of the bitmap are made free together. A word that ends before the others makes
/// its slots free before their bytes are taken off: until then the sum is too high, and who finds it so counts entries.
#[must_use = "without `finish` the slots stay taken"]
pub(crate) struct Forgotten<'a> {
    pool: &'a SlotPool,
    /// Those of the pool, at hand.
    notes: &'a [AtomicU64],
    units: u64,
    word: usize,
    bits: u64,
}

impl Forgotten<'_> {
    /// Forgets what one slot held. After R7.
    #[inline]
    pub(crate) fn add(&mut self, slot: u32) {
        let note = &self.notes[slot as usize];
        self.units += Note(note.load(Ordering::Relaxed)).units();
        // Release: pairs with `count_distinct`; who sees the note gone is ordered after R7.
        note.store(0, Ordering::Release);
        let word = slot as usize / 64;
        if word != self.word {
            self.pool.free_bits(self.word, self.bits);
            self.word = word;
            self.bits = 0;
        }
        self.bits |= 1 << (slot % 64);
    }

    /// Takes the bytes off and makes the slots free.
    #[inline]
    pub(crate) fn finish(self) {
        // AcqRel: the clears come before the room that this makes; pairs with `add`.
        self.pool
            .pinned_units
            .0
            .fetch_sub(self.units, Ordering::AcqRel);
        self.pool.free_bits(self.word, self.bits);
    }
}

/// `free` without its `count` lowest set bits.
#[inline]
fn without_lowest(free: u64, count: usize) -> u64 {
    if count >= u64::BITS as usize {
        return 0;
    }
    let run = (1 << count) - 1;
    // Slots come and go in runs, so the lowest free ones mostly follow each other.
    let lowest = free.trailing_zeros();
    if free >> lowest & run == run {
        return free & !(run << lowest);
    }
    let mut kept = free;
    for _ in 0..count {
        kept &= kept.wrapping_sub(1);
    }
    kept
}

#[cfg(test)]
#[path = "pin_slots/tests.rs"]
mod tests;
