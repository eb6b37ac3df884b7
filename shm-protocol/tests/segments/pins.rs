//! Pin slots: what a client writes and what a scan makes of it.

use crate::heap::{Heap, Lease};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::pins::{PinSlots, PinWord};
use hostkv_shm_protocol::lease::{LeaseError, LeaseGeometry};

fn slots(lease: &Lease) -> PinSlots {
    PinSlots::new(lease.heap.view(), &lease.geometry).unwrap()
}

#[test]
fn a_slot_names_its_entry_until_it_is_cleared_and_counts_its_pins() {
    let lease = Lease::new(256, 64, 64);
    let pins = slots(&lease);
    let words: Vec<PinWord> = [3, 3, 0, u32::MAX - 1]
        .into_iter()
        .flat_map(|entry| {
            pins.publish(5, EntryNumber(entry));
            let pinned = pins.scan(5);
            assert_eq!(pinned.entry(), Some(EntryNumber(entry)));
            pins.clear(5);
            assert_eq!(pins.scan(5).entry(), None);
            [pinned, pins.scan(5)]
        })
        .collect();
    let expected = [
        0x1_0000_0004,
        0x1_0000_0000,
        0x2_0000_0004,
        0x2_0000_0000,
        0x3_0000_0001,
        0x3_0000_0000,
        0x4_ffff_ffff,
        0x4_0000_0000,
    ];
    assert_eq!(words, expected.map(PinWord));
    assert_eq!(pins.scan(4), PinWord(0));
    assert_eq!(
        lease.heap.get(lease.geometry.slots_offset() + 40),
        0x4_0000_0000
    );
}

#[test]
fn the_nonce_goes_round_without_touching_the_entry() {
    let lease = Lease::new(256, 64, 64);
    let pins = slots(&lease);
    lease
        .heap
        .set(lease.geometry.slots_offset(), 0xffff_ffff_0000_0000);
    pins.publish(0, EntryNumber(8));
    assert_eq!(pins.scan(0), PinWord(9));
}

#[test]
fn the_scan_covers_what_was_ever_used_and_never_more_than_there_is() {
    let lease = Lease::new(256, 64, 64);
    let pins = slots(&lease);
    assert_eq!((pins.count(), pins.scan_len()), (256, 0));
    pins.raise_high_water(7);
    pins.raise_high_water(3);
    assert_eq!(pins.scan_len(), 7);
    // A hostile client may write anything.
    lease.heap.set(64, u64::from(u32::MAX));
    assert_eq!(pins.scan_len(), 256);
    assert_eq!(pins.scan(256), PinWord(0));
    assert_eq!(pins.scan(usize::MAX), PinWord(0));
}

#[test]
fn a_lease_segment_that_is_not_this_builds_is_refused() {
    let lease = Lease::new(256, 64, 64);
    let refusal = |offset: u64, value: u64| {
        let before = lease.heap.get(offset);
        lease.heap.set(offset, value);
        let refusal = LeaseGeometry::read(&lease.heap.view());
        lease.heap.set(offset, before);
        refusal.unwrap_err()
    };
    assert!(matches!(
        refusal(0, 1),
        LeaseError::Foreign { magic: 1, .. }
    ));
    assert!(matches!(
        refusal(8, 2),
        LeaseError::Foreign { abi_hash: 2, .. }
    ));
    // 256 slots with a ring of 63 records, then of 0; then more slots than fit.
    assert_eq!(refusal(40, 63 << 32 | 256), LeaseError::Recency(63));
    assert_eq!(refusal(40, 256), LeaseError::Recency(0));
    assert!(matches!(
        refusal(40, 64 << 32 | 0xffff_ffff),
        LeaseError::TooShort(_)
    ));
    assert!(matches!(
        LeaseGeometry::read(&Heap::new(8).view()),
        Err(LeaseError::TooShort(_))
    ));
}
