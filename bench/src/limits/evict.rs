//! Evicting by the bare parts: unpublish and unlink a batch, fence, scan pin slots, free the extents.
//!
//! ```text
//!   prepare:  as many objects as the pool has, entry numbers and extents in random order
//!   a pass:   | prefetch, unpublish, unlink, fence, scan, free | the next batch ... |  store as many new ones
//!             |<----------------------------- measured ---------------------------->|
//! ```
//!
//! The victims come in an order of use that knows nothing of their numbers and places, as in a pool that has been used for
//! a while.

use super::index::{canonical, empty, put};
use super::pages::{Pages, Region};
use crate::keys::{SEED, shuffle};
use crate::machine::this_thread_cpu_ns;
use hostkv_daemon::store::allocator::Allocator;
use hostkv_shm_protocol::control::writer::{IndexWriter, scan_fence};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::Key;
use std::hint::black_box;

/// Objects of a batch, as many as the daemon evicts between two scans.
const BATCH: usize = 256;
/// Keys whose buckets are fetched ahead together, as the daemon does.
const HASHED_AT_ONCE: usize = 32;

/// How many extents before its turn the neighbours of one that is freed are fetched, as the daemon does.
const FREED_AHEAD: usize = 4;

/// What the limit works on: as much as the daemon beside it.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Entries of the index.
    pub entry_count: u32,
    /// Units of the payload.
    pub unit_count: u32,
    /// Objects, each of one unit.
    pub live: u32,
    /// Pin slots that a scan looks at.
    pub slot_count: usize,
    /// Pages of the index.
    pub pages: Pages,
}

/// An aged pool without a daemon.
pub struct BareEviction {
    writer: IndexWriter,
    allocator: Allocator,
    slots: Vec<u64>,
    /// Entries from the coldest to the hottest.
    order: Vec<u32>,
    next_key: u64,
    /// What the writer writes to.
    _region: Region,
}

impl BareEviction {
    /// A pool of this scale.
    pub fn new(scale: Scale) -> Result<BareEviction, String> {
        let (region, _, view) = empty(scale.entry_count, scale.pages)?;
        let mut pool = BareEviction {
            writer: IndexWriter::new(view).map_err(|error| error.to_string())?,
            allocator: Allocator::new(scale.unit_count, scale.entry_count),
            slots: black_box(vec![0; scale.slot_count]),
            order: (0..scale.live).collect(),
            next_key: 0,
            _region: region,
        };
        shuffle(&mut pool.order, SEED);
        // Neighbours in the payload have nothing to do with each other.
        for at in 0..pool.order.len() {
            pool.store(pool.order[at])?;
        }
        shuffle(&mut pool.order, SEED ^ 1);
        Ok(pool)
    }

    fn store(&mut self, entry: u32) -> Result<(), String> {
        let offset_units = self
            .allocator
            .allocate(entry, 1)
            .ok_or("the allocator is full")?;
        let key = canonical(self.next_key)?;
        self.next_key += 1;
        put(&mut self.writer, EntryNumber(entry), &key, offset_units)
    }

    /// Nanoseconds of CPU of an eviction, in a pass that evicts so many; then as many others are stored.
    pub fn pass_ns(&mut self, count: usize) -> Result<f64, String> {
        let hot = self.order.split_off(count);
        let cold = std::mem::replace(&mut self.order, hot);
        let begin = this_thread_cpu_ns();
        for batch in cold.chunks(BATCH) {
            self.evict(batch)?;
        }
        let ns = (this_thread_cpu_ns() - begin) as f64 / count as f64;
        // The last that came free is taken first.
        for entry in cold.into_iter().rev() {
            self.store(entry)?;
            self.order.push(entry);
        }
        Ok(ns)
    }

    fn evict(&mut self, batch: &[u32]) -> Result<(), String> {
        for entry in batch.iter().copied() {
            self.writer.prefetch_entry(EntryNumber(entry));
            self.allocator.prefetch(entry);
        }
        for entries in batch.chunks(HASHED_AT_ONCE) {
            let mut hashes = [None; HASHED_AT_ONCE];
            for (hash, entry) in hashes.iter_mut().zip(entries) {
                let key = Key::from_words(self.writer.key_words(EntryNumber(*entry)))
                    .map_err(|error| error.to_string())?;
                let of_key = self.writer.hash(&key);
                self.writer.prefetch_bucket(of_key);
                *hash = Some(of_key);
            }
            for (entry, hash) in entries.iter().zip(hashes.into_iter().flatten()) {
                self.writer.unpublish(EntryNumber(*entry));
                self.writer.unlink(EntryNumber(*entry), hash);
            }
        }
        scan_fence();
        if self.slots.iter().any(|slot| *slot != 0) {
            return Err("a slot is set that nobody set".to_owned());
        }
        for (at, entry) in batch.iter().enumerate() {
            if let Some(later) = batch.get(at + FREED_AHEAD) {
                self.allocator.prefetch_sides(*later);
            }
            self.allocator.free(*entry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_by_the_bare_parts_leaves_as_many_other_objects() {
        let mut pool = BareEviction::new(Scale {
            entry_count: 12_000,
            unit_count: 11_000,
            live: 10_000,
            slot_count: 4096,
            pages: Pages::Small,
        })
        .expect("a pool");
        for _ in 0..5 {
            assert!(pool.pass_ns(2000).expect("all are evicted") > 0.0);
        }
        assert_eq!(pool.allocator.used_units(), 10_000);
        for number in [0, 9_999, 10_000, 19_999] {
            let key = canonical(number).expect("a key");
            let found = pool.writer.find(&key, pool.writer.hash(&key));
            assert_eq!(found.is_some(), number >= 10_000, "key {number}");
        }
    }
}
