//! The daemon's count of a session's pins: an honest client is never counted above what it held at one time.
//!
//! One scan is no snapshot, so only slot words that two successive scans saw alike are counted; the nonce tells
//! a pin that was held from one that was taken again.

use crate::harness::{Bound, Model, broken, reached, run, steps};
use crate::segments::Lease;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::pins::PinWord;
use loom::thread;
use std::sync::Arc;

fn count() {
    let lease = Arc::new(Lease::new(2));
    let client = {
        let lease = lease.clone();
        thread::spawn(move || {
            // Never more than one pin at a time.
            for slot in [0, 1, 0, 1] {
                lease.pins.publish(slot, EntryNumber(slot as u32));
                lease.pins.clear(slot);
            }
        })
    };
    let scan = || [0, 1].map(|slot| lease.pins.scan(slot));
    let alike = |a: PinWord, b: PinWord| {
        if broken("two scans without nonce") {
            a.entry() == b.entry()
        } else {
            a == b
        }
    };
    let first = scan();
    let second = if broken("single scan") { first } else { scan() };
    let held = first
        .into_iter()
        .zip(second)
        .filter(|(a, b)| a.entry().is_some() && alike(*a, *b))
        .count();
    if held == 1 {
        reached("one pin counted");
    }
    assert!(held <= 1, "an honest client is counted with {held} pins");
    client.join().unwrap();
}

#[test]
fn quota_of_an_honest_client() {
    run(Model {
        name: "quota",
        quick: Bound::All,
        full: Bound::All,
        body: count,
        ends: &["one pin counted"],
        mutants: vec![steps("single scan"), steps("two scans without nonce")],
    });
}
