//! How long objects live, lie idle and wait for their next read: three histograms over a sample of the objects.
//!
//! The store calls it on the loop's thread at each commit, each touch that it takes from a recency ring, and each time
//! an object leaves the index.
//!
//! ```text
//!   commit --------> touch --------> touch --------> evicted, removed, cleared
//!   |                |--reuse gap--->|               |
//!   |                                |-----idle----->|  when evicted
//!   |-------------------lifetime-------------------->|
//! ```
//!
//! The sample is chosen by bits of the key's hash, which is keyed with a secret: a client can't choose what is looked
//! at, and a key that comes back is looked at again. In an index of up to [`TRACKED_AT_MOST`] entries every object is in
//! the sample; in a larger one each doubling halves the share, so that the memory is bounded (one in 64 at a million
//! entries). Should chance put more into the sample than that, the newest are left out.
//!
//! Touches are seen when a ring is drained, each 100 ms, and in an overflow only once for several: shorter gaps
//! may count as 0. The first read of an object ends no gap.

use super::Nanos;
use super::numbers::NumberMap;
use crate::histogram::{AGE_BOUNDS_NS, Histogram};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::KeyHash;

/// Most objects in the sample at a time.
pub const TRACKED_AT_MOST: usize = 16_384;

/// What is known of a sampled object.
#[derive(Debug, Clone, Copy)]
struct Tracked {
    committed_at: Nanos,
    touched_at: Option<Nanos>,
}

/// Why an object leaves the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// For space.
    Evicted,
    /// Because somebody asked, or its keyspace was replaced.
    Removed,
}

/// An empty map with room for so many, all of whose pages were written once: no request pays for its growth, or for a page that
/// the kernel has yet to give.
fn paid_for(count: usize) -> NumberMap<EntryNumber, Tracked> {
    let nothing = Tracked {
        committed_at: 0,
        touched_at: None,
    };
    let mut map: NumberMap<EntryNumber, Tracked> = (0..count as u32)
        .map(|number| (EntryNumber(number), nothing))
        .collect();
    map.clear();
    map
}

/// The three histograms, and the sampled objects that are in the index now.
pub struct Ages {
    /// From the commit until the object left the index, for whatever reason.
    pub lifetime: Histogram,
    /// From the last touch, or else from the commit, until the eviction.
    pub idle_before_eviction: Histogram,
    /// Between two touches.
    pub reuse_gap: Histogram,
    /// The bits of the hash that are 0 in the sample.
    mask: u64,
    tracked: NumberMap<EntryNumber, Tracked>,
}

impl Ages {
    /// Nothing seen, over an index of `entry_count` entries.
    pub fn new(entry_count: u32) -> Ages {
        let share = (entry_count as usize)
            .div_ceil(TRACKED_AT_MOST)
            .next_power_of_two();
        Ages {
            lifetime: Histogram::new(AGE_BOUNDS_NS),
            idle_before_eviction: Histogram::new(AGE_BOUNDS_NS),
            reuse_gap: Histogram::new(AGE_BOUNDS_NS),
            mask: share as u64 - 1,
            tracked: paid_for(TRACKED_AT_MOST.min(entry_count as usize)),
        }
    }

    /// An object was committed.
    pub fn committed(&mut self, entry: EntryNumber, hash: KeyHash, now: Nanos) {
        if hash.h1 & self.mask == 0 && self.tracked.len() < TRACKED_AT_MOST {
            let tracked = Tracked {
                committed_at: now,
                touched_at: None,
            };
            self.tracked.insert(entry, tracked);
        }
    }

    /// A committed object was read.
    pub fn touched(&mut self, entry: EntryNumber, now: Nanos) {
        if let Some(tracked) = self.tracked.get_mut(&entry)
            && let Some(last) = tracked.touched_at.replace(now)
        {
            self.reuse_gap.observe(now.saturating_sub(last));
        }
    }

    /// A committed object leaves the index, whose key has this hash.
    pub fn left(&mut self, entry: EntryNumber, hash: KeyHash, why: Leaving, now: Nanos) {
        if hash.h1 & self.mask != 0 {
            return;
        }
        let Some(tracked) = self.tracked.remove(&entry) else {
            return;
        };
        self.lifetime
            .observe(now.saturating_sub(tracked.committed_at));
        if why == Leaving::Evicted {
            let last = tracked.touched_at.unwrap_or(tracked.committed_at);
            self.idle_before_eviction.observe(now.saturating_sub(last));
        }
    }

    /// Bytes of private memory.
    pub fn memory_bytes(&self) -> u64 {
        // One byte of control and one pair for each place; an eighth of the places stays free.
        let places = (self.tracked.capacity() * 8 / 7) as u64;
        places * (size_of::<(EntryNumber, Tracked)>() as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(h1: u64) -> KeyHash {
        KeyHash { h0: 7, h1 }
    }

    #[test]
    fn a_small_index_is_sampled_whole_and_a_large_one_in_part() {
        for (entry_count, share) in [
            (1, 1),
            (16_384, 1),
            (16_385, 2),
            (1 << 20, 64),
            (1 << 28, 1 << 14),
        ] {
            let mut ages = Ages::new(entry_count);
            for h1 in 0..share * 8 {
                ages.committed(EntryNumber(h1 as u32), hash(h1), 1);
            }
            assert_eq!(ages.tracked.len(), 8, "{entry_count} entries");
        }
    }

    #[test]
    fn memory_is_bounded_whatever_is_committed() {
        let mut ages = Ages::new(1 << 20);
        let at_start = ages.memory_bytes();
        assert!(at_start < 2 << 20, "{at_start} bytes");
        for number in 0..1_u32 << 20 {
            // Every key is in the sample, as no secret hash would have it.
            ages.committed(EntryNumber(number), hash(0), 1);
        }
        assert_eq!(ages.tracked.len(), TRACKED_AT_MOST);
        assert_eq!(ages.memory_bytes(), at_start);
        ages.left(EntryNumber(0), hash(0), Leaving::Removed, 2);
        ages.committed(EntryNumber(1 << 19), hash(0), 3);
        assert_eq!(
            ages.tracked.len(),
            TRACKED_AT_MOST,
            "a free place is used again"
        );
    }

    #[test]
    fn what_is_not_in_the_sample_is_in_no_histogram() {
        let mut ages = Ages::new(1 << 20);
        ages.committed(EntryNumber(1), hash(1), 10);
        ages.touched(EntryNumber(1), 20);
        ages.touched(EntryNumber(1), 30);
        ages.left(EntryNumber(1), hash(1), Leaving::Evicted, 40);
        for histogram in [&ages.lifetime, &ages.idle_before_eviction, &ages.reuse_gap] {
            assert_eq!(histogram.count(), 0);
        }
    }
}
