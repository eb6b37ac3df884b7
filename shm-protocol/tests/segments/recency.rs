//! The recency ring and its overflow bitmap.

use crate::heap::Lease;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::recency::Recency;

fn ring(lease: &Lease) -> Recency {
    Recency::new(lease.heap.view(), &lease.geometry).unwrap()
}

fn drain(recency: &Recency, tail: &mut u64, most: usize) -> Vec<u32> {
    let mut seen = Vec::new();
    *tail = recency.drain(*tail, most, |entry| seen.push(entry.0));
    seen
}

fn sweep(recency: &Recency, first: usize, most: usize) -> (Vec<u32>, Option<usize>) {
    let mut seen = Vec::new();
    let next = recency.sweep_overflow(first, most, |entry| seen.push(entry.0));
    (seen, next)
}

#[test]
fn touches_come_out_in_order_lap_after_lap() {
    let lease = Lease::new(256, 8, 1000);
    let recency = ring(&lease);
    let (mut tail, mut next) = (0, 0);
    for round in 0..50 {
        let count = round % 9;
        let pushed: Vec<u32> = (next..next + count).collect();
        for entry in &pushed {
            assert!(recency.touch(EntryNumber(*entry)), "round {round}");
        }
        next += count;
        assert_eq!(
            drain(&recency, &mut tail, usize::MAX),
            pushed,
            "round {round}"
        );
        assert_eq!(
            drain(&recency, &mut tail, usize::MAX),
            [0_u32; 0],
            "round {round}"
        );
    }
    assert_eq!(tail, u64::from(next));
}

#[test]
fn a_drain_takes_no_more_than_it_was_told() {
    let lease = Lease::new(256, 8, 1000);
    let recency = ring(&lease);
    for entry in 0..8 {
        assert!(recency.touch(EntryNumber(entry)));
    }
    let mut tail = 0;
    assert_eq!(drain(&recency, &mut tail, 3), [0, 1, 2]);
    assert_eq!(lease.heap.get(192), 3);
    // The three places are free again.
    for entry in 8..11 {
        assert!(recency.touch(EntryNumber(entry)));
    }
    assert!(!recency.touch(EntryNumber(11)));
    assert_eq!(drain(&recency, &mut tail, 0), [0_u32; 0]);
    assert_eq!(drain(&recency, &mut tail, 100), [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(sweep(&recency, 0, usize::MAX), (vec![11], None));
}

#[test]
fn a_full_ring_leaves_its_touches_in_the_bitmap() {
    let lease = Lease::new(256, 2, 200);
    let recency = ring(&lease);
    assert_eq!(lease.geometry.bitmap_words, 4);
    assert!(recency.touch(EntryNumber(5)) && recency.touch(EntryNumber(6)));
    for entry in [199, 0, 63, 64, 127, 64] {
        assert!(!recency.touch(EntryNumber(entry)));
    }
    // An entry that does not exist has no bit and does no harm.
    assert!(!recency.touch(EntryNumber(256)));
    assert!(!recency.touch(EntryNumber(u32::MAX)));
    // In entry order, some words at a time.
    assert_eq!(sweep(&recency, 0, 1), (vec![0, 63], Some(1)));
    assert_eq!(sweep(&recency, 1, 2), (vec![64, 127], Some(3)));
    assert_eq!(sweep(&recency, 3, 7), (vec![199], None));
    assert_eq!(sweep(&recency, 0, usize::MAX), (Vec::new(), None));
    assert_eq!(sweep(&recency, 9, 1), (Vec::new(), None));
    let mut tail = 0;
    assert_eq!(drain(&recency, &mut tail, 9), [5, 6]);
}

#[test]
fn a_place_that_is_claimed_and_not_written_holds_back_those_behind_it() {
    let lease = Lease::new(256, 4, 100);
    let recency = ring(&lease);
    let place = |n: u64| lease.geometry.recency_offset() + n * 8;
    for entry in 0..3 {
        assert!(recency.touch(EntryNumber(entry)));
    }
    let second = lease.heap.get(place(1));
    assert_eq!(second, 1 << 32 | 1);
    lease.heap.set(place(1), 0);
    let mut tail = 0;
    assert_eq!(drain(&recency, &mut tail, 9), [0]);
    assert_eq!(drain(&recency, &mut tail, 9), [0_u32; 0]);
    lease.heap.set(place(1), second);
    assert_eq!(drain(&recency, &mut tail, 9), [1, 2]);
    // A word of the last lap is none of this one.
    assert_eq!(tail, 3);
    assert!(recency.touch(EntryNumber(7)) && recency.touch(EntryNumber(8)));
    lease.heap.set(place(0), 1 << 32 | 8);
    assert_eq!(drain(&recency, &mut tail, 9), [7]);
    lease.heap.set(place(0), 2 << 32 | 8);
    assert_eq!(drain(&recency, &mut tail, 9), [8]);
}

#[test]
fn a_hostile_head_or_tail_never_makes_a_drain_endless() {
    let lease = Lease::new(256, 4, 100);
    let recency = ring(&lease);
    // The client writes the lap that the daemon waits for into every place, and its own idea of head and tail.
    for place in 0..4 {
        lease.heap.set(
            lease.geometry.recency_offset() + place * 8,
            1 << 32 | u64::from(u32::MAX),
        );
    }
    lease.heap.set(128, u64::MAX);
    lease.heap.set(192, u64::MAX - 1);
    let mut tail = 0;
    assert_eq!(drain(&recency, &mut tail, usize::MAX), [u32::MAX; 4]);
    assert_eq!(drain(&recency, &mut tail, usize::MAX), [0_u32; 0]);
    assert_eq!((tail, lease.heap.get(192)), (4, 4));
}
