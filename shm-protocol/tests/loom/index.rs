//! A bucket's overflow count: a key that lies beyond its home is found while its neighbours come and go.

use crate::harness::{Bound, Model, Site, code, reached, run};
use crate::segments::{extent, key, view};
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::control::writer::IndexWriter;
use hostkv_shm_protocol::control::{Geometry, bucket, entry};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::key::{HashSecret, KeyHash};
use hostkv_shm_protocol::sync::model::{Change, Operation};
use hostkv_shm_protocol::view::loom_words::LoomWords;
use loom::thread;

const GEOMETRY: Geometry = Geometry {
    has_sums: false,
    entry_count: 2,
    buckets_log2: 1,
};
const SECRET: HashSecret = HashSecret { k0: 0, k1: 0 };

/// The hash of key `n`: home bucket 0, tag n + 1.
fn hash(n: u64) -> KeyHash {
    KeyHash {
        h0: 0,
        h1: (n + 1) << 48,
    }
}

/// Bucket 0 is full of others. Key 0 lies in bucket 1 all the time; key 1 is linked there and unlinked.
fn words() -> LoomWords {
    let mut words = LoomWords::new();
    let bucket = |index: u64, word: u64| GEOMETRY.buckets_offset() + index * 64 + word * 8;
    words.add64(bucket(0, 0), 1);
    words.fix64(bucket(1, 0), 0);
    for slot in 1..bucket::WORDS as u64 {
        words.fix64(bucket(0, slot), bucket::SlotWord::new(9, 0).0);
        match slot {
            1 => words.fix64(bucket(1, slot), bucket::SlotWord::new(1, 0).0),
            2 => words.add64(bucket(1, slot), 0),
            _ => words.fix64(bucket(1, slot), 0),
        }
    }
    for n in 0..2 {
        let at = GEOMETRY.entries_offset() + n * 64;
        words.fix64(at, 2);
        words.fix64(at + entry::EXTENT as u64 * 8, extent(n as u32).pack());
        for (word, value) in key(n).words().iter().enumerate() {
            words.fix64(at + (entry::KEY + word) as u64 * 8, *value);
        }
    }
    words
}

fn neighbour_comes_and_goes() {
    let (_owner, view) = view(words(), GEOMETRY.segment_len());
    let reader = thread::spawn(move || {
        let reader = IndexReader::for_model(view, GEOMETRY, 2, SECRET);
        let found = reader.find(&key(0), hash(0));
        assert_eq!(
            found.map(|found| found.entry),
            Some(EntryNumber(0)),
            "a key that was there all the time was missed"
        );
        match reader.find(&key(1), hash(1)) {
            Some(_) => reached("neighbour found"),
            None => reached("neighbour missed"),
        }
    });
    let mut writer = IndexWriter::for_model(view, GEOMETRY, 2, SECRET);
    writer.link(EntryNumber(1), hash(1)).unwrap();
    writer.unlink(EntryNumber(1), hash(1));
    reader.join().unwrap();
}

#[test]
fn overflow_count_never_hides_a_key() {
    run(Model {
        name: "bucket overflow word",
        quick: Bound::All,
        full: Bound::All,
        body: neighbour_comes_and_goes,
        ends: &["neighbour found", "neighbour missed"],
        mutants: vec![code(
            "count rewritten through 0",
            &[Site {
                file: "control/writer.rs",
                function: "move_overflow",
                operation: Operation::Store,
                change: Change::ThroughZero,
            }],
        )],
    });
}
