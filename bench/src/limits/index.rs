//! Finding keys in an index of the real layout, and nothing else: hash, bucket, entry, comparison, pin slot, fence, second
//! look. No handle, no counter, no recency, no bounds check.
//!
//! Filled through the protocol's writer, searched by plain loads. A batch goes in three passes, whose cache misses overlap;
//! one key alone waits for its bucket and then for its entry.

use super::pages::{Pages, Region};
use crate::keys::key;
use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::control::writer::IndexWriter;
use hostkv_shm_protocol::control::{bucket, entry};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{EntryNumber, InstanceId, KeyspaceId};
use hostkv_shm_protocol::key::{HashSecret, Key, KeyHash};
use hostkv_shm_protocol::lease::pins::pin_fence;
use hostkv_shm_protocol::view::View;
use std::hint::black_box;

const KEYSPACE: KeyspaceId = KeyspaceId(1);
const SECRET: HashSecret = HashSecret { k0: 17, k1: 19 };
const ALIGN_BYTES: u32 = 64;
const SLOTS: usize = 4096;

/// An index of its own, and pin slots.
pub struct BareIndex {
    region: Region,
    geometry: Geometry,
    slots: Vec<u64>,
    found: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    hash: KeyHash,
    entry: usize,
    seq: u64,
}

impl BareIndex {
    /// An index with room for `entry_count` keys that holds keys `0..live`.
    pub fn new(entry_count: u32, live: u64, pages: Pages) -> Result<BareIndex, String> {
        let (region, geometry, view) = empty(entry_count, pages)?;
        let mut writer = IndexWriter::new(view).map_err(|error| error.to_string())?;
        for number in 0..live as u32 {
            let key = canonical(u64::from(number))?;
            put(&mut writer, EntryNumber(number), &key, number)?;
        }
        Ok(BareIndex {
            region,
            geometry,
            slots: vec![0; SLOTS],
            found: Vec::with_capacity(SLOTS),
        })
    }

    /// Share of the index on 2 MiB pages.
    pub fn huge_share(&self) -> f64 {
        self.region.huge_share()
    }

    /// Finds these keys, with `pins` in slots that are set, looked at again after a fence and cleared; how many were there.
    #[inline]
    pub fn find(&mut self, keys: &[Key], pins: bool) -> usize {
        let base = self.region.bytes().cast_const();
        let mask = (1_usize << self.geometry.buckets_log2) - 1;
        let buckets = base.wrapping_add(self.geometry.buckets_offset() as usize);
        let entries = base.wrapping_add(self.geometry.entries_offset() as usize);
        self.found.clear();
        for key in keys {
            let hash = SECRET.hash(key);
            prefetch(buckets.wrapping_add((hash.h0 as usize & mask) * bucket::WORDS * 8));
            self.found.push(Candidate {
                hash,
                entry: usize::MAX,
                seq: 0,
            });
        }
        for candidate in &mut self.found {
            // SAFETY: the masked bucket lies in the region, which nobody writes.
            candidate.entry = unsafe { locate(buckets, mask, candidate.hash) };
            prefetch(entries.wrapping_add(candidate.entry.wrapping_mul(entry::WORDS * 8)));
        }
        let mut count = 0;
        for (slot, (candidate, key)) in self.found.iter_mut().zip(keys).enumerate() {
            if candidate.entry == usize::MAX {
                continue;
            }
            // SAFETY: entries that the writer linked lie in the region.
            let words = unsafe {
                &*entries
                    .add(candidate.entry * entry::WORDS * 8)
                    .cast::<[u64; entry::WORDS]>()
            };
            let differs = key
                .words()
                .iter()
                .zip(&words[entry::KEY..])
                .fold(0, |acc, (a, b)| acc | (a ^ b));
            candidate.seq = words[entry::SEQ];
            black_box(words[entry::EXTENT]);
            if differs == 0 {
                count += 1;
                if pins {
                    self.slots[slot % SLOTS] = candidate.entry as u64 + 1;
                }
            }
        }
        if pins {
            black_box(self.slots.as_mut_ptr());
            pin_fence();
            for candidate in &self.found {
                if candidate.entry != usize::MAX {
                    // SAFETY: as above.
                    let seq = unsafe {
                        entries
                            .add(candidate.entry * entry::WORDS * 8)
                            .cast::<u64>()
                            .read_volatile()
                    };
                    count -= usize::from(seq != candidate.seq);
                }
            }
            self.slots[..keys.len().min(SLOTS)].fill(0);
            black_box(self.slots.as_mut_ptr());
        }
        black_box(count)
    }
}

/// The segment of an index without keys. The view is good for as long as the region.
pub fn empty(entry_count: u32, pages: Pages) -> Result<(Region, Geometry, View), String> {
    let geometry = Geometry::for_entries(entry_count);
    let region = Region::new(geometry.segment_len() as usize, pages)?;
    // SAFETY: the region is as long, and our callers use the view only while they have it.
    let view = unsafe { View::new(region.bytes(), geometry.segment_len()) };
    HeaderView::new(view)
        .map_err(|error| error.to_string())?
        .initialise(&HeaderInit {
            instance_id: InstanceId([1; 16]),
            boot_id: [0; 2],
            created_mono_ns: 0,
            flags: 0,
            geometry,
            align_bytes: ALIGN_BYTES,
            hash_secret: SECRET,
            payload_len: u64::from(entry_count) * u64::from(ALIGN_BYTES),
            max_sessions: 1,
            check_every: 0,
        });
    Ok((region, geometry, view))
}

/// Makes a key readable in an entry.
pub fn put(
    writer: &mut IndexWriter,
    entry: EntryNumber,
    key: &Key,
    offset_units: u32,
) -> Result<(), String> {
    writer.write_fields(
        entry,
        key,
        Extent {
            offset_units,
            len_bytes: ALIGN_BYTES,
        },
    );
    writer
        .link(entry, writer.hash(key))
        .map_err(|error| error.to_string())?;
    writer.publish(entry);
    Ok(())
}

/// The first entry in probe order with the hash's tag, or `usize::MAX`.
///
/// # Safety
///
/// `buckets` is a table of `mask + 1` buckets that nobody writes.
#[inline]
unsafe fn locate(buckets: *const u8, mask: usize, hash: KeyHash) -> usize {
    let tag = bucket::SlotWord::tag_of(hash.h1);
    let mut home = hash.h0 as usize & mask;
    loop {
        // SAFETY: the caller's promise.
        let words = unsafe {
            &*buckets
                .add(home * bucket::WORDS * 8)
                .cast::<[u64; bucket::WORDS]>()
        };
        for word in &words[1..] {
            if let Some(entry) = bucket::SlotWord(*word).entry_with_tag(tag) {
                return entry as usize;
            }
        }
        if words[0] == 0 {
            return usize::MAX;
        }
        home = (home + 1) & mask;
    }
}

#[inline]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may point anywhere.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Key number `number` as the index holds it.
pub fn canonical(number: u64) -> Result<Key, String> {
    let key = key(number);
    Key::new(
        &key.chunk_hash,
        key.chunk_hash_len,
        key.kv_rank,
        key.object_group_id,
        KEYSPACE,
    )
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_index_finds_what_is_there_and_nothing_else() {
        let mut index = BareIndex::new(10_000, 9_000, Pages::Small).expect("an index");
        let keys = |range: std::ops::Range<u64>| -> Vec<Key> {
            range.map(|n| canonical(n).expect("a key")).collect()
        };
        for pins in [false, true] {
            for first in (0..9_000).step_by(250) {
                let there = keys(first..first + 250);
                // A key whose tag is another's is found by comparing further; the bare index does not, and one in
                // thousands may be missing.
                assert!(index.find(&there, pins) >= 249);
            }
            assert_eq!(index.find(&keys(20_000..20_250), pins), 0);
        }
        assert!(index.slots.iter().all(|slot| *slot == 0));
    }
}
