//! Evicting by the bare parts: unpublish and unlink a batch, fence, scan pin slots, free the extents.
//!
//! The entries are taken in the order in which they were stored, as the coldest are when nothing is read.

use super::index::{empty, put};
use super::pages::Pages;
use hostkv_daemon::store::allocator::Allocator;
use hostkv_shm_protocol::control::writer::{IndexWriter, scan_fence};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::Key;
use std::hint::black_box;
use std::time::Instant;

/// Objects of a batch, as many as the daemon evicts between two scans.
const BATCH: u32 = 256;
/// Pin slots of one session.
const SLOTS: usize = 4096;

/// Nanoseconds for each of `count` objects.
pub fn evict_ns(count: u32) -> Result<f64, String> {
    let (_region, _, view) = empty(count, Pages::Small)?;
    let mut writer = IndexWriter::new(view).map_err(|error| error.to_string())?;
    let mut allocator = Allocator::new(count, count);
    for number in 0..count {
        let offset_units = allocator
            .allocate(number, 1)
            .ok_or("the allocator is full")?;
        put(&mut writer, number, offset_units)?;
    }
    let slots = black_box(vec![0_u64; SLOTS]);
    let begin = Instant::now();
    for first in (0..count).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(count);
        for entry in batch.clone().map(EntryNumber) {
            let key =
                Key::from_words(writer.key_words(entry)).map_err(|error| error.to_string())?;
            writer.unpublish(entry);
            writer.unlink(entry, writer.hash(&key));
        }
        scan_fence();
        if slots.iter().any(|slot| *slot != 0) {
            return Err("a slot is set that nobody set".to_owned());
        }
        batch.for_each(|entry| allocator.free(entry));
    }
    let ns = begin.elapsed().as_nanos() as f64 / f64::from(count);
    if allocator.used_units() != 0 {
        return Err(format!("{} units are left", allocator.used_units()));
    }
    Ok(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicting_by_the_bare_parts_leaves_nothing_behind() {
        assert!(evict_ns(10_000).expect("all is evicted") > 0.0);
    }
}
