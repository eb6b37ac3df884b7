//! Every offset of every shared struct, as numbers.

use hostkv_shm_protocol::control::bucket::{Bucket, SlotWord};
use hostkv_shm_protocol::control::entry::Entry;
use hostkv_shm_protocol::control::header::{self as control_header, ControlHeader};
use hostkv_shm_protocol::control::{Geometry, MAX_PROBE};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::key::{HashSecret, KNOWN_HASH, Key, KeyHash};
use hostkv_shm_protocol::layout::Layout;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::{COMMIT_RECORDS, CommitRecord};
use hostkv_shm_protocol::lease::events::EventRecord;
use hostkv_shm_protocol::lease::header::{self as lease_header, LeaseHeader};
use hostkv_shm_protocol::version::{ABI_HASH, LAYOUT_VERSION, LAYOUTS, PROTOCOL_VERSION};

fn assert_layout(layout: &Layout, name: &str, size: usize, fields: &[(&str, usize, usize)]) {
    assert_eq!((layout.name, layout.size), (name, size));
    let got: Vec<_> = layout
        .fields
        .iter()
        .map(|field| (field.name, field.offset, field.size))
        .collect();
    assert_eq!(got, fields, "{name}");
    let mut end = 0;
    for (field, offset, len) in got {
        assert_eq!(offset, end, "a hole before {name}.{field}");
        end = offset + len;
    }
    assert_eq!(end, size, "a hole at the end of {name}");
}

#[test]
fn versions_and_fingerprint_are_these() {
    assert_eq!((PROTOCOL_VERSION, LAYOUT_VERSION), (1, 1));
    assert_eq!(ABI_HASH, 0xfebf_3a02_af81_6b9d);
    assert_eq!(
        KNOWN_HASH,
        KeyHash {
            h0: 0xba4b_23bf_d4f9_cdf2,
            h1: 0x4313_4514_fadd_d91f
        }
    );
    assert_eq!(
        LAYOUTS.map(|layout| layout.name),
        [
            "ControlHeader",
            "Bucket",
            "Entry",
            "LeaseHeader",
            "EventRecord",
            "CommitRecord"
        ]
    );
}

#[test]
fn the_fingerprint_is_fnv_1a_over_names_offsets_sizes_and_one_hash() {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    feed(&1_u32.to_le_bytes());
    for layout in LAYOUTS {
        feed(layout.name.as_bytes());
        feed(&(layout.size as u64).to_le_bytes());
        for field in layout.fields {
            feed(field.name.as_bytes());
            feed(&(field.offset as u64).to_le_bytes());
            feed(&(field.size as u64).to_le_bytes());
        }
    }
    for half in [KNOWN_HASH.h0, KNOWN_HASH.h1] {
        feed(&half.to_le_bytes());
    }
    assert_eq!(ABI_HASH, hash);
}

#[test]
fn the_control_header_stands_like_this() {
    assert_eq!(control_header::MAGIC.to_le_bytes(), *b"HKVCTL01");
    assert_layout(
        &ControlHeader::LAYOUT,
        "ControlHeader",
        4096,
        &[
            ("magic", 0, 8),
            ("abi_hash", 8, 8),
            ("layout_version", 16, 4),
            ("header_len", 20, 4),
            ("instance_id", 24, 16),
            ("boot_id", 40, 16),
            ("created_mono_ns", 56, 8),
            ("state", 64, 4),
            ("flags", 68, 4),
            ("daemon_alive", 72, 4),
            ("pin_gate", 76, 4),
            ("reserved_80", 80, 48),
            ("heartbeat_tick", 128, 8),
            ("log_refill", 136, 4),
            ("grant_recall", 140, 4),
            ("reserved_144", 144, 48),
            ("daemon_sleeping", 192, 4),
            ("reserved_196", 196, 4),
            ("reserved_200", 200, 56),
            ("entry_count", 256, 4),
            ("buckets_log2", 260, 4),
            ("entry_size", 264, 4),
            ("bucket_slots", 268, 4),
            ("buckets_offset", 272, 8),
            ("entries_offset", 280, 8),
            ("sums_offset", 288, 8),
            ("max_probe", 296, 4),
            ("align_bytes", 300, 4),
            ("hash_k0", 304, 8),
            ("hash_k1", 312, 8),
            ("payload_len", 320, 8),
            ("region_len", 328, 8),
            ("max_object_bytes", 336, 4),
            ("max_sessions", 340, 4),
            ("check_every", 344, 4),
            ("reserved_348", 348, 4),
            ("reserved_352", 352, 3744),
        ],
    );
}

#[test]
fn buckets_and_entries_stand_like_this() {
    assert_layout(
        &Bucket::LAYOUT,
        "Bucket",
        64,
        &[("overflow", 0, 8), ("slots", 8, 56)],
    );
    assert_layout(
        &Entry::LAYOUT,
        "Entry",
        64,
        &[("seq", 0, 8), ("extent", 8, 8), ("key", 16, 48)],
    );
    assert_eq!(SlotWord::new(0xabcd, 0x0102_0303).0, 0xabcd_0000_0102_0304);
    assert_eq!(SlotWord::new(0, 0).0, 1);
    assert_eq!(
        Extent {
            offset_units: 0x0123_4567,
            len_bytes: 0x89ab_cdef
        }
        .pack(),
        0x89ab_cdef_0123_4567
    );
    assert_eq!(MAX_PROBE, 8);
    let geometry = Geometry::for_entries(1000);
    assert_eq!(geometry.buckets_log2, 9);
    assert_eq!(
        (
            geometry.buckets_offset(),
            geometry.entries_offset(),
            geometry.segment_len()
        ),
        (4096, 36_864, 100_864)
    );
}

#[test]
fn a_key_stands_like_this() {
    let mut chunk_hash = [0xff; 32];
    chunk_hash[..9].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let key = Key::new(
        &chunk_hash,
        9,
        0x1112_1314,
        0x2122_2324,
        KeyspaceId(0x3132_3334),
    )
    .unwrap();
    assert_eq!(
        *key.words(),
        [
            0x0807_0605_0403_0201,
            0x0000_0000_0000_0009,
            0,
            0,
            0x2122_2324_1112_1314,
            0x0000_0009_3132_3334
        ]
    );
    // The hash is part of the protocol: daemon and client compute it apart.
    let hash = HashSecret { k0: 1, k1: 2 }.hash(&key);
    assert_eq!(
        (hash.h0, hash.h1),
        (0x6e23_eb04_7495_3c75, 0xde0c_7168_2325_9333)
    );
}

#[test]
fn the_lease_segment_stands_like_this() {
    assert_eq!(lease_header::MAGIC.to_le_bytes(), *b"HKVLSE01");
    assert_layout(
        &LeaseHeader::LAYOUT,
        "LeaseHeader",
        4096,
        &[
            ("magic", 0, 8),
            ("abi_hash", 8, 8),
            ("instance_id", 16, 16),
            ("session_id", 32, 8),
            ("slot_count", 40, 4),
            ("recency_capacity", 44, 4),
            ("event_capacity", 48, 4),
            ("commit_capacity", 52, 4),
            ("bitmap_words", 56, 4),
            ("flags", 60, 4),
            ("slot_high_water", 64, 4),
            ("reserved_68", 68, 4),
            ("reserved_72", 72, 56),
            ("recency_head", 128, 8),
            ("reserved_136", 136, 56),
            ("recency_tail", 192, 8),
            ("reserved_200", 200, 56),
            ("event_head", 256, 8),
            ("event_dropped", 264, 8),
            ("reserved_272", 272, 48),
            ("event_tail", 320, 8),
            ("reserved_328", 328, 56),
            ("commit_head", 384, 8),
            ("reserved_392", 392, 56),
            ("commit_tail", 448, 8),
            ("reserved_456", 456, 56),
            ("counters", 512, 128),
            ("reserved_640", 640, 3456),
        ],
    );
    let geometry = LeaseGeometry::new(16_384, 1 << 20);
    assert_eq!(geometry.slots_offset(), 4096);
    assert_eq!(geometry.recency_offset(), 4096 + 131_072);
    assert_eq!(geometry.bitmap_offset(), 4096 + 2 * 131_072);
    assert_eq!(geometry.events_offset(), 4096 + 3 * 131_072);
    assert_eq!(geometry.segment_len(), 4096 + 3 * 131_072 + 262_144);
    assert_eq!(geometry.commits_offset(), geometry.segment_len());
    let with_ring = geometry.with_commits(COMMIT_RECORDS);
    assert_eq!(with_ring.commits_offset(), geometry.segment_len());
    assert_eq!(with_ring.segment_len(), geometry.segment_len() + 65_536);
    // Each part begins at a multiple of 64.
    let odd = LeaseGeometry::new(257, 65);
    assert_eq!(odd.recency_offset(), 4096 + 2112);
    assert_eq!(odd.bitmap_offset(), 4096 + 2112 + 131_072);
    assert_eq!(odd.events_offset(), odd.bitmap_offset() + 64);
}

#[test]
fn an_event_record_stands_like_this() {
    assert_layout(
        &EventRecord::LAYOUT,
        "EventRecord",
        256,
        &[
            ("seq", 0, 8),
            ("mono_ns", 8, 8),
            ("op_id", 16, 8),
            ("op", 24, 1),
            ("phase", 25, 1),
            ("id_len", 26, 1),
            ("device_len", 27, 1),
            ("value0", 28, 4),
            ("value1", 32, 4),
            ("keyspace", 36, 4),
            ("start_ns", 40, 8),
            ("id", 48, 128),
            ("device", 176, 32),
            ("reserved_208", 208, 48),
        ],
    );
}

#[test]
fn a_commit_record_stands_like_this() {
    assert_layout(
        &CommitRecord::LAYOUT,
        "CommitRecord",
        64,
        &[
            ("seq", 0, 8),
            ("entry", 8, 4),
            ("len_bytes", 12, 4),
            ("key", 16, 48),
        ],
    );
}
