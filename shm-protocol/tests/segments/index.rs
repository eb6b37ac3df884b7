//! The index: linking, publishing, finding.

use crate::heap::{Control, Heap};
use hostkv_shm_protocol::control::header::HeaderView;
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::control::writer::BucketFull;
use hostkv_shm_protocol::control::{ControlError, MAX_PROBE};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId};
use hostkv_shm_protocol::key::{Key, KeyHash};
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

fn key(n: u64) -> Key {
    let mut chunk_hash = [0; 32];
    chunk_hash[..8].copy_from_slice(&n.to_le_bytes());
    Key::new(&chunk_hash, 8, 0, 0, KeyspaceId(1)).unwrap()
}

fn extent(n: u32) -> Extent {
    Extent {
        offset_units: n,
        len_bytes: 4096 + n,
    }
}

fn hash(home: u64, tag: u64) -> KeyHash {
    KeyHash {
        h0: home,
        h1: tag << 48,
    }
}

/// Links and publishes key `n` in entry `n` under a hash of the test's choice.
fn put(control: &Control, n: u32, hash: KeyHash) {
    let mut writer = control.writer();
    writer.write_fields(EntryNumber(n), &key(u64::from(n)), extent(n));
    writer.link(EntryNumber(n), hash).unwrap();
    writer.publish(EntryNumber(n));
}

#[test]
fn a_key_is_linked_from_its_reservation_and_found_from_its_publication_on() {
    let control = Control::new(4, 1);
    let (mut writer, reader) = (control.writer(), control.reader());
    let (key, entry) = (key(1), EntryNumber(2));
    let hash = writer.hash(&key);
    assert_eq!(hash, reader.hash(&key));
    writer.write_fields(entry, &key, extent(5));
    writer.link(entry, hash).unwrap();
    assert_eq!(writer.find(&key, hash), Some(entry));
    assert_eq!(reader.find(&key, hash), None);
    assert_eq!(reader.locate(hash), Some(entry));
    assert_eq!(reader.verify(&key, hash, entry), None);

    assert_eq!(writer.publish(entry), 2);
    let found = reader.find(&key, hash).unwrap();
    assert_eq!(
        (found.entry, found.seq, found.extent),
        (entry, 2, extent(5))
    );
    assert_eq!(reader.verify(&key, hash, entry), Some(found));
    assert!(reader.is_current(&found));
    assert_eq!(
        (writer.extent(entry), writer.key_words(entry)),
        (extent(5), *key.words())
    );

    writer.unpublish(entry);
    assert_eq!(writer.seq(entry), 3);
    assert!(!reader.is_current(&found));
    assert_eq!(reader.find(&key, hash), None);
    assert_eq!(writer.find(&key, hash), Some(entry));
    writer.unlink(entry, hash);
    assert_eq!(writer.find(&key, hash), None);
    assert_eq!(reader.locate(hash), None);
}

#[test]
fn seq_only_grows_through_publish_unpublish_and_revoke() {
    let control = Control::new(1, 0);
    let mut writer = control.writer();
    let entry = EntryNumber(0);
    let mut seen = vec![writer.seq(entry)];
    // A reservation that is given up before its first publication, then two lives, the second revoked twice.
    writer.revoke(entry);
    seen.push(writer.seq(entry));
    for is_revoked in [false, true] {
        writer.publish(entry);
        seen.push(writer.seq(entry));
        writer.unpublish(entry);
        seen.push(writer.seq(entry));
        if is_revoked {
            for _ in 0..2 {
                writer.revoke(entry);
                seen.push(writer.seq(entry));
            }
        }
    }
    writer.publish(entry);
    seen.push(writer.seq(entry));
    assert_eq!(seen, [0, 3, 4, 5, 6, 7, 9, 11, 12]);
}

#[test]
fn a_pin_of_an_unpublished_entry_is_good_until_it_is_revoked() {
    let control = Control::new(1, 0);
    let entry = EntryNumber(0);
    put(&control, 0, hash(0, 1));
    let (mut writer, reader) = (control.writer(), control.reader());
    let found = reader.find(&key(0), hash(0, 1)).unwrap();
    let is_good = || reader.seq(entry).wrapping_sub(found.seq) <= 1;
    writer.unpublish(entry);
    assert!(is_good());
    writer.revoke(entry);
    assert!(!is_good());
}

#[test]
fn keys_beyond_their_home_are_counted_by_every_bucket_they_passed() {
    let control = Control::new(32, 2);
    let mut writer = control.writer();
    // Bucket 3 is home to all: 7 stay, 7 go to bucket 0 (around the end), 1 to bucket 1.
    for n in 0..15 {
        put(&control, n, hash(3, u64::from(n) + 1));
    }
    assert_eq!(control.overflow_counts(), [1, 0, 0, 8]);
    let reader = control.reader();
    for n in 0..15 {
        let found = reader
            .find(&key(u64::from(n)), hash(3, u64::from(n) + 1))
            .unwrap();
        assert_eq!(found.entry, EntryNumber(n));
    }
    let hash_of = |entry: EntryNumber| hash(3, u64::from(entry.0) + 1);
    assert_eq!(writer.audit(hash_of), Ok(15));
    // One that lies at home, one in bucket 0, the one in bucket 1.
    writer.unlink(EntryNumber(2), hash_of(EntryNumber(2)));
    assert_eq!(control.overflow_counts(), [1, 0, 0, 8]);
    writer.unlink(EntryNumber(9), hash_of(EntryNumber(9)));
    assert_eq!(control.overflow_counts(), [1, 0, 0, 7]);
    // What lies beyond the hole is still found.
    assert!(reader.find(&key(14), hash_of(EntryNumber(14))).is_some());
    writer.unlink(EntryNumber(14), hash_of(EntryNumber(14)));
    assert_eq!(control.overflow_counts(), [0, 0, 0, 6]);
    assert_eq!(writer.audit(hash_of), Ok(12));
    // A free slot near home is taken first, also by a key whose like went past it.
    writer
        .link(EntryNumber(20), hash_of(EntryNumber(20)))
        .unwrap();
    assert_eq!(control.overflow_counts(), [0, 0, 0, 6]);
    // An entry that is not linked is left alone.
    let before = control.heap.snapshot();
    writer.unlink(EntryNumber(14), hash_of(EntryNumber(14)));
    assert_eq!(control.heap.snapshot(), before);
}

#[test]
fn a_full_chain_refuses_and_touches_nothing() {
    let control = Control::new(128, 4);
    let mut writer = control.writer();
    let most = MAX_PROBE * 7;
    for n in 0..most {
        put(&control, n, hash(12, u64::from(n) + 1));
    }
    let before = control.heap.snapshot();
    assert_eq!(
        writer.link(EntryNumber(most), hash(12, 999)),
        Err(BucketFull)
    );
    assert_eq!(control.heap.snapshot(), before);
    // A neighbour's chain reaches one bucket further.
    put(&control, most, hash(13, 999));
    assert!(
        control
            .reader()
            .find(&key(u64::from(most)), hash(13, 999))
            .is_some()
    );
    let hash_of = |entry: EntryNumber| match entry.0 {
        n if n == most => hash(13, 999),
        n => hash(12, u64::from(n) + 1),
    };
    assert_eq!(writer.audit(hash_of), Ok(u64::from(most) + 1));
}

#[test]
fn keys_with_one_tag_are_told_apart_by_their_bytes() {
    let control = Control::new(16, 1);
    for n in 0..10 {
        put(&control, n, hash(0, 77));
    }
    let (reader, writer) = (control.reader(), control.writer());
    for n in 0..10 {
        let found = reader.find(&key(u64::from(n)), hash(0, 77)).unwrap();
        assert_eq!((found.entry, found.extent), (EntryNumber(n), extent(n)));
        assert_eq!(
            writer.find(&key(u64::from(n)), hash(0, 77)),
            Some(EntryNumber(n))
        );
        // The candidate of the second pass is another key of the tag for all but the first.
        let candidate = reader.locate(hash(0, 77)).unwrap();
        assert_eq!(candidate, EntryNumber(0));
        assert_eq!(
            reader.verify(&key(u64::from(n)), hash(0, 77), candidate),
            Some(found)
        );
    }
    assert_eq!(reader.find(&key(10), hash(0, 77)), None);
    assert_eq!(reader.verify(&key(10), hash(0, 77), EntryNumber(0)), None);
    assert_eq!(writer.find(&key(10), hash(0, 77)), None);
    // Tag 0 is a tag like any other and no sign of an empty slot.
    put(&control, 11, hash(1, 0));
    assert_eq!(
        reader.find(&key(11), hash(1, 0)).unwrap().entry,
        EntryNumber(11)
    );
    assert_eq!(reader.locate(hash(0, 0)), Some(EntryNumber(11)));
    // Nor does a slot before it that has been emptied hide it.
    control.writer().unlink(EntryNumber(7), hash(0, 77));
    assert_eq!(reader.locate(hash(1, 0)), Some(EntryNumber(11)));
}

#[test]
fn a_bucket_word_that_names_no_entry_is_passed_over() {
    let control = Control::new(2, 0);
    put(&control, 1, hash(0, 5));
    let reader = control.reader();
    let found = reader.find(&key(1), hash(0, 5));
    assert!(found.is_some());
    let free = control.bucket_word(0, 7);
    control.heap.set(free, 5 << 48 | 0xffff_ffff);
    control.heap.set(control.bucket_word(0, 6), 5 << 48);
    assert_eq!(reader.find(&key(1), hash(0, 5)), found);
    assert_eq!(reader.find(&key(0), hash(0, 5)), None);
}

#[test]
fn the_audit_finds_planted_damage() {
    let hash_of = |entry: EntryNumber| hash(3, u64::from(entry.0) + 1);
    let damaged = |damage: &dyn Fn(&Control)| {
        let control = Control::new(32, 2);
        for n in 0..9 {
            put(&control, n, hash_of(EntryNumber(n)));
        }
        assert_eq!(control.writer().audit(hash_of), Ok(9));
        damage(&control);
        control.writer().audit(hash_of)
    };
    let too_many = damaged(&|c| c.heap.set(c.bucket_word(3, 0), 3));
    assert_eq!(
        too_many.unwrap_err(),
        "bucket 3 counts 3 keys beyond it; there are 2"
    );
    let too_few = damaged(&|c| c.heap.set(c.bucket_word(3, 0), 0));
    assert_eq!(
        too_few.unwrap_err(),
        "bucket 3 counts 0 keys beyond it; there are 2"
    );
    let vanished = damaged(&|c| c.heap.set(c.bucket_word(0, 1), 0));
    assert_eq!(
        vanished.unwrap_err(),
        "bucket 3 counts 2 keys beyond it; there are 1"
    );
    let foreign = damaged(&|c| c.heap.set(c.bucket_word(1, 1), 1 << 48 | 33));
    assert_eq!(foreign.unwrap_err(), "bucket 1 slot 1 names entry 32");
    // With more buckets than probes a key can lie too far away.
    let control = Control::new(32, 4);
    control.heap.set(control.bucket_word(11, 1), 1 << 48 | 1);
    assert_eq!(
        control.writer().audit(hash_of).unwrap_err(),
        "entry 0 lies beyond the probe limit"
    );
}

/// Links and unlinks at random beside a plain map. The seed is printed; `HOSTKV_TEST_SEED` repeats it.
#[test]
fn a_random_life_of_the_index_agrees_with_a_map() {
    let mut state: u64 = match std::env::var("HOSTKV_TEST_SEED") {
        Ok(text) => text
            .parse()
            .expect("HOSTKV_TEST_SEED is a number of 64 bits"),
        // Under Miri there is no clock to take it from.
        Err(_) if cfg!(miri) => 1,
        Err(_) => UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_nanos() as u64),
    };
    println!("seed {state} (set HOSTKV_TEST_SEED to repeat another)");
    let mut random = move |below: u64| {
        // SplitMix64 (Steele, Lea, Flood).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    };
    const ENTRIES: u64 = 96;
    let control = Control::new(ENTRIES as u32, 4);
    let (mut writer, reader) = (control.writer(), control.reader());
    // Few homes and tags, so that chains get long and tags collide.
    let hash_of = |n: u64| hash(n % 5 * 2, n % 7);
    let mut linked: BTreeMap<u64, bool> = BTreeMap::new();
    let mut refused = 0;
    let steps = if cfg!(miri) { 300 } else { 20_000 };
    for step in 0..steps {
        let n = random(ENTRIES);
        let entry = EntryNumber(n as u32);
        match linked.get(&n).copied() {
            None => {
                writer.write_fields(entry, &key(n), extent(n as u32));
                match writer.link(entry, hash_of(n)) {
                    Ok(()) => assert!(linked.insert(n, false).is_none()),
                    Err(BucketFull) => refused += 1,
                }
            }
            Some(false) if random(2) == 0 => {
                writer.publish(entry);
                linked.insert(n, true);
            }
            Some(is_readable) => {
                if is_readable {
                    writer.unpublish(entry);
                }
                writer.unlink(entry, hash_of(n));
                linked.remove(&n);
            }
        }
        let asked = random(ENTRIES);
        assert_eq!(
            writer.find(&key(asked), hash_of(asked)).is_some(),
            linked.contains_key(&asked),
            "step {step}, key {asked}"
        );
        assert_eq!(
            reader
                .find(&key(asked), hash_of(asked))
                .map(|found| u64::from(found.entry.0)),
            linked
                .get(&asked)
                .filter(|is_readable| **is_readable)
                .map(|_| asked),
            "step {step}, key {asked}"
        );
        if step % 64 == 0 {
            let audit = writer.audit(|entry| hash_of(u64::from(entry.0)));
            assert_eq!(audit, Ok(linked.len() as u64), "step {step}");
        }
    }
    assert!(cfg!(miri) || refused == 0 || linked.len() > 8);
}

#[test]
fn a_segment_that_is_not_this_builds_is_refused_by_name() {
    let control = Control::new(2, 0);
    let header = HeaderView::new(control.heap.view()).unwrap();
    assert_eq!(header.verify(), Ok(control.geometry));
    assert_eq!(header.instance_words(), [0x0707_0707_0707_0707; 2]);
    let refusal = |offset: u64, value: u64| {
        let before = control.heap.get(offset);
        control.heap.set(offset, value);
        let refusal = IndexReader::new(control.heap.view()).err();
        control.heap.set(offset, before);
        refusal.map(|error| error.to_string())
    };
    assert_eq!(
        refusal(0, 0x31),
        Some(
            "the control segment starts with 0x0000000000000031, not with 0x31304c5443564b48"
                .to_owned()
        )
    );
    assert!(refusal(8, 1).is_some_and(|text| text.contains("layouts 0x0000000000000001")));
    // entry_count 0, 2^40 buckets, max_probe 9, align_bytes 3.
    for (offset, value, field) in [
        (256, 0, "entry_count is 0"),
        (256, 40 << 32 | 2, "buckets_log2 is 40"),
        (296, 4096 << 32 | 9, "max_probe is 9"),
        (296, 3 << 32 | 8, "align_bytes is 3"),
    ] {
        let text = refusal(offset, value).unwrap();
        assert!(text.contains(field), "{text}");
    }
    // More entries than the segment has room for.
    let text = refusal(256, 3).unwrap();
    assert!(text.contains("too short"), "{text}");
    let short = Heap::new(2048);
    assert!(matches!(
        HeaderView::new(short.view()),
        Err(ControlError::TooShort(_))
    ));
}
