//! The recency ring and its overflow bitmap: every touch arrives once, in the ring or in the bitmap.

use crate::harness::{Bound, Model, Site, code, reached, run};
use crate::segments::view;
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::header::LeaseHeader;
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::sync::model::{Change, Operation};
use hostkv_shm_protocol::view::loom_words::LoomWords;
use loom::thread;
use std::mem::offset_of;

const GEOMETRY: LeaseGeometry = LeaseGeometry {
    slot_count: 1,
    recency_capacity: 2,
    bitmap_words: 1,
    event_capacity: 0,
    commit_capacity: 0,
};

/// Two threads touch two entries each while the daemon drains a ring of two places.
fn touches() {
    let mut words = LoomWords::new();
    for at in [
        offset_of!(LeaseHeader, recency_head) as u64,
        offset_of!(LeaseHeader, recency_tail) as u64,
        GEOMETRY.recency_offset(),
        GEOMETRY.recency_offset() + 8,
        GEOMETRY.bitmap_offset(),
    ] {
        words.add64(at, 0);
    }
    let (_owner, view) = view(words, GEOMETRY.segment_len());
    let recency = Recency::new(view, &GEOMETRY).unwrap();
    let threads: Vec<_> = [[1, 2], [3, 4]]
        .into_iter()
        .map(|entries| {
            thread::spawn(move || {
                if recency.touch_all(&entries.map(EntryNumber)) != 0 {
                    reached("overflowed");
                }
            })
        })
        .collect();
    let mut seen = [0_u32; 5];
    let mut tail = 0;
    let mut take = |entry: EntryNumber| seen[entry.index()] += 1;
    tail = recency.drain(tail, 8, &mut take);
    if tail != 0 {
        reached("drained beside a touch");
    }
    assert_eq!(recency.sweep_overflow(0, 1, &mut take), None);
    for thread in threads {
        thread.join().unwrap();
    }
    recency.drain(tail, 8, &mut take);
    assert_eq!(recency.sweep_overflow(0, 1, &mut take), None);
    assert_eq!(seen, [0, 1, 1, 1, 1], "touches seen, by entry");
}

#[test]
fn every_touch_arrives_once() {
    let split = |name, function| {
        code(
            name,
            &[Site {
                file: "lease/recency.rs",
                function,
                operation: Operation::Modify,
                change: Change::Split,
            }],
        )
    };
    run(Model {
        name: "recency ring and bitmap",
        quick: Bound::Preemptions(3),
        full: Bound::Preemptions(5),
        body: touches,
        ends: &["overflowed", "drained beside a touch"],
        mutants: vec![
            split("claim or bit by load and store", "touch_all"),
            split("sweep by load and store", "sweep_overflow"),
        ],
    });
}
