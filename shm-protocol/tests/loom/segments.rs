//! A pretended control segment and lease segment, with only the words that a model's steps touch.
//!
//! Words that every step would write with the same value are fixed: they add no states.

use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::control::writer::IndexWriter;
use hostkv_shm_protocol::control::{Geometry, bucket, entry};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::{HashSecret, Key, KeyHash};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::header::LeaseHeader;
use hostkv_shm_protocol::lease::pins::PinSlots;
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::view::loom_words::LoomWords;
use loom::cell::UnsafeCell;
use std::mem::offset_of;
use std::sync::Arc;

/// A hash that finds no bucket word; models name the candidate entry themselves.
pub const NO_HASH: KeyHash = KeyHash { h0: 0, h1: 0 };

/// A view of words that live as long as the returned owner.
pub fn view(words: LoomWords, len: u64) -> (Arc<LoomWords>, View) {
    let words = Arc::new(words);
    // SAFETY: `words` is a `LoomWords`; each model keeps the owner until its threads are joined.
    let view = unsafe { View::new(Arc::as_ptr(&words).cast(), len) };
    (words, view)
}

/// Key number `n`.
pub fn key(n: u64) -> Key {
    Key::from_words([n, 0, 0, 0, 0, 32 << 32 | 1]).unwrap()
}

/// The extent with this offset.
pub fn extent(offset_units: u32) -> Extent {
    Extent {
        offset_units,
        len_bytes: 4096,
    }
}

/// Whether key and extent of the entries change in the model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    Fixed,
    Change,
}

/// A control segment of one empty bucket; entry `i` is readable with seq 2 and holds key `i` in extent `i`.
pub struct Control {
    _words: Arc<LoomWords>,
    view: View,
    geometry: Geometry,
}

impl Control {
    pub fn new(entry_count: u32, fields: Fields) -> Control {
        let geometry = Geometry {
            has_sums: false,
            entry_count,
            buckets_log2: 0,
        };
        let mut words = LoomWords::new();
        for word in 0..bucket::WORDS as u64 {
            words.fix64(geometry.buckets_offset() + word * 8, 0);
        }
        for number in 0..u64::from(entry_count) {
            let at = geometry.entries_offset() + number * 64;
            words.add64(at, 2);
            let first = [
                (entry::EXTENT, extent(number as u32).pack()),
                (entry::KEY, number),
            ];
            for (word, value) in first {
                match fields {
                    Fields::Fixed => words.fix64(at + word as u64 * 8, value),
                    Fields::Change => words.add64(at + word as u64 * 8, value),
                }
            }
            for (word, value) in key(number).words().iter().enumerate().skip(1) {
                words.fix64(at + (entry::KEY + word) as u64 * 8, *value);
            }
        }
        let (owner, view) = view(words, geometry.segment_len());
        Control {
            _words: owner,
            view,
            geometry,
        }
    }

    pub fn reader(&self) -> IndexReader {
        IndexReader::for_model(self.view, self.geometry, 1, HashSecret { k0: 0, k1: 0 })
    }

    pub fn writer(&self) -> IndexWriter {
        IndexWriter::for_model(self.view, self.geometry, 1, HashSecret { k0: 0, k1: 0 })
    }
}

/// The pin slots of a lease segment.
pub struct Lease {
    _words: Arc<LoomWords>,
    pub pins: PinSlots,
}

impl Lease {
    /// With a high-water mark that already covers all slots.
    pub fn new(slot_count: u32) -> Lease {
        Lease::with(slot_count, |words, at| words.fix32(at, slot_count))
    }

    /// With a high-water mark of 0 that threads raise.
    pub fn with_high_water(slot_count: u32) -> Lease {
        Lease::with(slot_count, |words, at| words.add32(at, 0))
    }

    fn with(slot_count: u32, high_water: impl FnOnce(&mut LoomWords, u64)) -> Lease {
        let geometry = LeaseGeometry {
            slot_count,
            recency_capacity: 1,
            bitmap_words: 1,
            event_capacity: 0,
            commit_capacity: 0,
        };
        let mut words = LoomWords::new();
        high_water(&mut words, offset_of!(LeaseHeader, slot_high_water) as u64);
        for slot in 0..u64::from(slot_count) {
            words.add64(geometry.slots_offset() + slot * 8, 0);
        }
        let (owner, view) = view(words, geometry.segment_len());
        Lease {
            _words: owner,
            pins: PinSlots::new(view, &geometry).unwrap(),
        }
    }

    /// Step D3: whether a slot names the entry.
    pub fn names(&self, entry: EntryNumber) -> bool {
        (0..self.pins.scan_len()).any(|slot| self.pins.scan(slot).entry() == Some(entry))
    }
}

/// Payload words that loom watches: a read and a write without order between them are an error.
pub struct Payload(Vec<UnsafeCell<u64>>);

// SAFETY: loom checks that no two threads touch a cell without order.
unsafe impl Sync for Payload {}
// SAFETY: as above.
unsafe impl Send for Payload {}

impl Payload {
    pub fn new(values: &[u64]) -> Payload {
        Payload(values.iter().map(|value| UnsafeCell::new(*value)).collect())
    }

    pub fn read(&self, extent: u32) -> u64 {
        // SAFETY: loom checks the access.
        self.0[extent as usize].with(|value| unsafe { *value })
    }

    pub fn write(&self, extent: u32, value: u64) {
        // SAFETY: loom checks the access.
        self.0[extent as usize].with_mut(|word| unsafe { *word = value });
    }
}
