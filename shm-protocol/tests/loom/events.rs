//! The event ring: a record is taken whole or not at all, and no place is written before it was copied out.

use crate::harness::{Bound, Model, Site, broken, code, reached, run, steps, weaken};
use crate::segments::view;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::events::{Event, EventOp, EventPhase, EventRecord, Events, Taken};
use hostkv_shm_protocol::lease::header::LeaseHeader;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::sync::model::{Change, Operation};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::view::loom_words::LoomWords;
use loom::thread;
use std::mem::offset_of;

const FILE: &str = "lease/events.rs";
const GEOMETRY: LeaseGeometry = LeaseGeometry {
    slot_count: 1,
    recency_capacity: 1,
    bitmap_words: 1,
    event_capacity: 1,
    commit_capacity: 0,
};

/// Words 2 and 3 (operation id, value0) tell whether a record is whole; the others are fixed.
fn words() -> LoomWords {
    let mut words = LoomWords::new();
    for at in [
        offset_of!(LeaseHeader, event_head),
        offset_of!(LeaseHeader, event_dropped),
        offset_of!(LeaseHeader, event_tail),
    ] {
        words.add64(at as u64, 0);
    }
    for word in 0..size_of::<EventRecord>() as u64 / 8 {
        let at = GEOMETRY.events_offset() + word * 8;
        match word {
            0 | 2 | 3 => words.add64(at, 0),
            _ => words.fix64(at, 0),
        }
    }
    words
}

fn push(events: &Events, n: u32) {
    let Some(position) = events.claim(0) else {
        reached("full");
        return;
    };
    events.write(
        position,
        &Event {
            op: EventOp::Lookup,
            phase: EventPhase::Start,
            mono_ns: 0,
            start_ns: 0,
            op_id: OpId(u64::from(n)),
            keyspace: KeyspaceId(0),
            value0: n,
            value1: 0,
            request_id: "",
            device: "",
        },
    );
}

fn ring(view: View) {
    let events = Events::new(view, &GEOMETRY).unwrap();
    let threads: Vec<_> = [[1, 2], [3, 4]]
        .into_iter()
        .map(|numbers| thread::spawn(move || numbers.into_iter().for_each(|n| push(&events, n))))
        .collect();
    let mut position = 0;
    let mut seen = [0; 5];
    let mut drain = || {
        loop {
            if broken("tail before copy") {
                events.release(position + 1);
            }
            match events.take(position) {
                Taken::Event(event) => {
                    assert_eq!(event.op_id.0, u64::from(event.value0), "a torn record");
                    seen[event.value0 as usize] += 1;
                    position += 1;
                    events.release(position);
                    reached("taken");
                }
                Taken::Garbage | Taken::Changed { .. } => panic!("a torn record"),
                Taken::Nothing => break,
            }
        }
    };
    drain();
    drain();
    for thread in threads {
        thread.join().unwrap();
    }
    drain();
    assert!(seen.iter().all(|count| *count <= 1), "a record came twice");
    if position == 2 {
        reached("second lap");
    }
}

#[test]
fn event_ring() {
    run(Model {
        name: "event ring, two laps",
        quick: Bound::Preemptions(3),
        full: Bound::Preemptions(5),
        body: || {
            let (_owner, view) = view(words(), GEOMETRY.segment_len());
            ring(view);
        },
        ends: &["taken", "full", "second lap"],
        mutants: vec![
            code(
                "Relaxed seq",
                &[weaken(FILE, "write", Operation::Store, Ordering::Relaxed)],
            ),
            code(
                "Relaxed take",
                &[weaken(FILE, "take", Operation::Load, Ordering::Relaxed)],
            ),
            code(
                "claim by load and store",
                &[Site {
                    file: FILE,
                    function: "claim_with",
                    operation: Operation::Modify,
                    change: Change::Split,
                }],
            ),
            steps("tail before copy"),
        ],
    });
}
