//! Evicting by the bare parts: unpublish and unlink a batch, fence, scan pin slots, free the extents.
//!
//! The entries are taken in the order in which they were stored, as the coldest are when nothing is read.

use super::index::canonical;
use super::pages::{Pages, Region};
use hostkv_daemon::store::allocator::Allocator;
use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::control::writer::{IndexWriter, scan_fence};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{EntryNumber, InstanceId};
use hostkv_shm_protocol::key::{HashSecret, Key};
use hostkv_shm_protocol::view::View;
use std::hint::black_box;
use std::time::Instant;

/// Objects of a batch, as many as the daemon evicts between two scans.
const BATCH: u32 = 256;
/// Pin slots of one session.
const SLOTS: usize = 4096;

/// Nanoseconds for each of `count` objects.
pub fn evict_ns(count: u32) -> Result<f64, String> {
    let fault = |error: &dyn std::fmt::Display| error.to_string();
    let geometry = Geometry::for_entries(count);
    let region = Region::new(geometry.segment_len() as usize, Pages::Small)?;
    // SAFETY: the region outlives the view, which ends with this function.
    let view = unsafe { View::new(region.bytes(), geometry.segment_len()) };
    HeaderView::new(view)
        .map_err(|error| fault(&error))?
        .initialise(&HeaderInit {
            instance_id: InstanceId([1; 16]),
            boot_id: [0; 2],
            created_mono_ns: 0,
            flags: 0,
            geometry,
            align_bytes: 64,
            hash_secret: HashSecret { k0: 17, k1: 19 },
            payload_len: u64::from(count) * 64,
            max_sessions: 1,
            check_every: 0,
        });
    let mut writer = IndexWriter::new(view).map_err(|error| fault(&error))?;
    let mut allocator = Allocator::new(count, count);
    for number in 0..count {
        let key = canonical(u64::from(number))?;
        let offset_units = allocator
            .allocate(number, 1)
            .ok_or("the allocator is full")?;
        let entry = EntryNumber(number);
        writer.write_fields(
            entry,
            &key,
            Extent {
                offset_units,
                len_bytes: 64,
            },
        );
        writer
            .link(entry, writer.hash(&key))
            .map_err(|error| fault(&error))?;
        writer.publish(entry);
    }
    let slots = black_box(vec![0_u64; SLOTS]);
    let begin = Instant::now();
    for first in (0..count).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(count);
        for entry in batch.clone().map(EntryNumber) {
            let key = Key::from_words(writer.key_words(entry)).map_err(|error| fault(&error))?;
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
