//! One pin slot handed from thread to thread of a client by its private bitmap.
//!
//! The bitmap is the client library's; the steps here follow its rule: take by compare-and-exchange, Acquire;
//! give back after the slot has been cleared, Release.

use crate::harness::{Bound, Model, broken, code, reached, run, steps, weaken};
use crate::pins::{pin, pin_found, unpublish};
use crate::segments::{Control, Fields, Lease, NO_HASH, Payload, key};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::sync::model::Operation;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

struct Shared {
    control: Control,
    lease: Lease,
    payload: Payload,
    free: AtomicU64,
}

fn take(free: &AtomicU64) -> bool {
    let success = if broken("take Relaxed") {
        Ordering::Relaxed
    } else {
        Ordering::Acquire
    };
    free.compare_exchange(1, 0, success, Ordering::Relaxed)
        .is_ok()
}

fn give_back(free: &AtomicU64) {
    let order = if broken("give back Relaxed") {
        Ordering::Relaxed
    } else {
        Ordering::Release
    };
    free.fetch_or(1, order);
}

fn read_and_end(shared: &Shared, number: u64) {
    assert_eq!(shared.payload.read(number as u32), 70 + number);
    if broken("give back before clear") {
        give_back(&shared.free);
        shared.lease.pins.clear(0);
    } else {
        shared.lease.pins.clear(0);
        give_back(&shared.free);
    }
}

fn take_then_find(shared: &Shared, number: u64) {
    if !take(&shared.free) {
        return;
    }
    let reader = shared.control.reader();
    match pin(
        &reader,
        &shared.lease,
        EntryNumber(number as u32),
        number,
        0,
    ) {
        Some(_) => read_and_end(shared, number),
        None => give_back(&shared.free),
    }
}

fn find_then_take(shared: &Shared, number: u64) {
    let reader = shared.control.reader();
    let entry = EntryNumber(number as u32);
    let Some(found) = reader.verify(&key(number), NO_HASH, entry) else {
        return;
    };
    if !take(&shared.free) {
        return;
    }
    if pin_found(&reader, &shared.lease, &found, 0) {
        read_and_end(shared, number);
    } else {
        give_back(&shared.free);
    }
}

/// Two entries are evicted in one batch while two threads pin one each in the same slot.
fn handed_over(read: fn(&Shared, u64)) {
    let shared = Arc::new(Shared {
        control: Control::new(2, Fields::Fixed),
        lease: Lease::new(1),
        payload: Payload::new(&[70, 71]),
        free: AtomicU64::new(1),
    });
    let threads: Vec<_> = (0..2)
        .map(|number| {
            let shared = shared.clone();
            thread::spawn(move || read(&shared, number))
        })
        .collect();
    let entries = [EntryNumber(0), EntryNumber(1)];
    unpublish(&mut shared.control.writer(), &entries);
    let named = shared.lease.pins.scan(0).entry();
    for entry in entries {
        if named == Some(entry) {
            reached("parked");
        } else {
            reached("freed");
            shared.payload.write(entry.0, 999);
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn one_slot_two_threads() {
    run(Model {
        name: "one slot, two threads",
        quick: Bound::All,
        full: Bound::All,
        body: || handed_over(take_then_find),
        ends: &["pinned", "parked", "freed"],
        mutants: vec![
            steps("give back Relaxed"),
            steps("give back before clear"),
            code(
                "Relaxed pin R3",
                &[weaken(
                    "lease/pins.rs",
                    "publish",
                    Operation::Store,
                    Ordering::Relaxed,
                )],
            ),
        ],
    });
}

#[test]
fn find_then_take_a_slot() {
    run(Model {
        name: "find, then take a slot",
        quick: Bound::All,
        full: Bound::All,
        body: || handed_over(find_then_take),
        ends: &["pinned", "parked", "freed"],
        mutants: vec![steps("take Relaxed")],
    });
}
