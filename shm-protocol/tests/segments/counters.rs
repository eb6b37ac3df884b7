//! Counters: two figures in one word, and their fold.

use crate::heap::Lease;
use hostkv_shm_protocol::lease::counters::{COUNTERS, Counter, Counters, split_keys};

#[test]
fn counters_stand_in_the_words_that_their_table_names() {
    let lease = Lease::new(256, 64, 64);
    let counters = Counters::new(lease.heap.view()).unwrap();
    counters.add_read_request(3, 2);
    counters.add(Counter::L1ReadKeys, 7);
    counters.add(Counter::LinesLeftOut, 8);
    counters.add(Counter::RecencyOverflows, 9);
    let words: Vec<u64> = (0..COUNTERS as u64)
        .map(|word| lease.heap.get(512 + word * 8))
        .collect();
    assert_eq!(words[..5], [1, 3 << 32 | 2, 7, 8, 9]);
    assert!(words[5..].iter().all(|word| *word == 0));
    assert_eq!(counters.load(Counter::ReadKeys), 3 << 32 | 2);
}

#[test]
fn found_and_failed_are_right_in_every_fold_whatever_their_halves_carry() {
    let lease = Lease::new(256, 64, 64);
    let counters = Counters::new(lease.heap.view()).unwrap();
    let mut last = counters.load(Counter::ReadKeys);
    let (mut found_sum, mut failed_sum) = (0, 0);
    // The failed half passes 2^32 and carries into the found half, then the whole word wraps.
    for (found, failed) in [
        (1, u32::MAX),
        (2, 1),
        (u32::MAX, 0),
        (0, u32::MAX),
        (u32::MAX, u32::MAX),
        (5, 6),
    ] {
        counters.add_read_request(found, failed);
        let now = counters.load(Counter::ReadKeys);
        let fold = split_keys(now.wrapping_sub(last));
        assert_eq!(fold, (u64::from(found), u64::from(failed)));
        last = now;
        found_sum += fold.0;
        failed_sum += fold.1;
    }
    assert_eq!(found_sum, 8 + 2 * u64::from(u32::MAX));
    assert_eq!(failed_sum, 7 + 3 * u64::from(u32::MAX));
    assert_eq!(counters.load(Counter::ReadRequests), 6);
}
