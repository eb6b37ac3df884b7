//! Segments on the heap.

use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::control::writer::IndexWriter;
use hostkv_shm_protocol::id::{InstanceId, SessionId};
use hostkv_shm_protocol::key::HashSecret;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::view::View;
use std::cell::UnsafeCell;

/// Zeroed words that a view stands on. The words are only ever touched through [`UnsafeCell`] or a view.
pub struct Heap {
    words: Box<[UnsafeCell<u64>]>,
}

impl Heap {
    pub fn new(len_bytes: u64) -> Heap {
        assert_eq!(len_bytes % 8, 0);
        Heap {
            words: (0..len_bytes / 8).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    /// A view of all of it; the caller keeps the heap as long as the view.
    pub fn view(&self) -> View {
        // SAFETY: the boxed cells are aligned to 8 bytes and stay where they are; each test keeps the heap to its end.
        unsafe { View::new(self.words.as_ptr().cast(), self.words.len() as u64 * 8) }
    }

    /// Overwrites a word behind the protocol's back.
    pub fn set(&self, offset: u64, value: u64) {
        self.view()
            .u64(offset)
            .unwrap()
            .store(value, hostkv_shm_protocol::sync::Ordering::Relaxed);
    }

    pub fn get(&self, offset: u64) -> u64 {
        self.view()
            .u64(offset)
            .unwrap()
            .load(hostkv_shm_protocol::sync::Ordering::Relaxed)
    }

    pub fn snapshot(&self) -> Vec<u64> {
        (0..self.words.len() as u64)
            .map(|word| self.get(word * 8))
            .collect()
    }
}

/// A control segment with an initialised header.
pub struct Control {
    pub heap: Heap,
    pub geometry: Geometry,
}

impl Control {
    pub fn new(entry_count: u32, buckets_log2: u32) -> Control {
        let geometry = Geometry {
            has_sums: false,
            entry_count,
            buckets_log2,
        };
        let heap = Heap::new(geometry.segment_len());
        HeaderView::new(heap.view())
            .unwrap()
            .initialise(&HeaderInit {
                instance_id: InstanceId([7; 16]),
                boot_id: [1, 2],
                created_mono_ns: 3,
                flags: 0,
                geometry,
                align_bytes: 4096,
                hash_secret: HashSecret { k0: 5, k1: 6 },
                payload_len: 1 << 30,
                max_sessions: 4,
                check_every: 0,
            });
        Control { heap, geometry }
    }

    pub fn reader(&self) -> IndexReader {
        IndexReader::new(self.heap.view()).unwrap()
    }

    pub fn writer(&self) -> IndexWriter {
        IndexWriter::new(self.heap.view()).unwrap()
    }

    /// Offset of a word of a bucket.
    pub fn bucket_word(&self, bucket: u64, word: u64) -> u64 {
        self.geometry.buckets_offset() + bucket * 64 + word * 8
    }

    /// How many keys each bucket says lie beyond it.
    pub fn overflow_counts(&self) -> Vec<u64> {
        (0..self.geometry.bucket_count())
            .map(|bucket| self.heap.get(self.bucket_word(bucket, 0)))
            .collect()
    }
}

/// A lease segment with an initialised header and a recency ring of `recency_capacity` records.
pub struct Lease {
    pub heap: Heap,
    pub geometry: LeaseGeometry,
}

impl Lease {
    pub fn new(slot_count: u32, recency_capacity: u32, entry_count: u32) -> Lease {
        let geometry = LeaseGeometry {
            recency_capacity,
            event_capacity: 4,
            ..LeaseGeometry::new(slot_count, entry_count)
        };
        let heap = Heap::new(geometry.segment_len());
        geometry
            .initialise(&heap.view(), InstanceId([7; 16]), SessionId(9))
            .unwrap();
        assert_eq!(LeaseGeometry::read(&heap.view()), Ok(geometry));
        Lease { heap, geometry }
    }
}
