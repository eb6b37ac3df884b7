//! The commit ring's doorbell: a record is never left lying while the daemon sleeps.
//!
//! A model of the rule, in steps of its own:
//!
//! ```text
//!   daemon: sleeping = 1 (Relaxed); fence(SeqCst); all rings again; work? sleeping = 0, go on; else wait
//!   client: record (Release); fence(SeqCst); load sleeping; 1? ring the bell
//! ```
//!
//! The bell is a socket: it is never lost, and the kernel's queue lock orders it.

use crate::harness::{Bound, Model, broken, reached, run, steps};
use hostkv_shm_protocol::sync::{AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::Arc;

struct Shared {
    rings: Vec<AtomicU64>,
    sleeping: AtomicU64,
    bells: AtomicU64,
}

fn client(shared: &Shared, ring: usize, records: u64) {
    for record in 1..=records {
        shared.rings[ring].store(record, Ordering::Release);
        if broken("AcqRel client fence") {
            fence(Ordering::AcqRel);
        } else if !broken("no client fence") {
            fence(Ordering::SeqCst);
        }
        if broken("client swaps sleeping") {
            // The first client is stopped between the swap and the send.
            let was_asleep = shared.sleeping.swap(0, Ordering::Relaxed) == 1;
            if was_asleep && (ring, record) != (0, 1) {
                shared.bells.fetch_add(1, Ordering::AcqRel);
            }
        } else if shared.sleeping.load(Ordering::Relaxed) == 1 {
            reached("rung");
            shared.bells.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn doorbell(clients: usize, records: u64) {
    let shared = Arc::new(Shared {
        rings: (0..clients).map(|_| AtomicU64::new(0)).collect(),
        sleeping: AtomicU64::new(0),
        bells: AtomicU64::new(0),
    });
    let threads: Vec<_> = (0..clients)
        .map(|ring| {
            let shared = shared.clone();
            thread::spawn(move || client(&shared, ring, records))
        })
        .collect();
    let look = |seen: &mut Vec<u64>| {
        let now: Vec<u64> = shared
            .rings
            .iter()
            .map(|ring| ring.load(Ordering::Acquire))
            .collect();
        let has_work = now != *seen;
        *seen = now;
        has_work
    };
    let mut seen = vec![0; clients];
    let mut answered = 0;
    let mut is_asleep = false;
    for _ in 0..2 {
        look(&mut seen);
        shared.sleeping.store(1, Ordering::Relaxed);
        if !broken("no daemon fence") {
            fence(Ordering::SeqCst);
        }
        if !broken("no look at the rings again") && look(&mut seen) {
            reached("work before sleep");
            shared.sleeping.store(0, Ordering::Relaxed);
            continue;
        }
        let bells = shared.bells.load(Ordering::Acquire);
        if bells == answered {
            // It waits here for good, unless a bell comes.
            reached("asleep");
            is_asleep = true;
            break;
        }
        answered = bells;
        shared.sleeping.store(0, Ordering::Relaxed);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    if is_asleep && shared.bells.load(Ordering::Relaxed) == answered {
        assert!(
            seen.iter().all(|last| *last == records),
            "a record lies unseen while the daemon sleeps"
        );
    }
}

fn model(name: &'static str, body: fn(), bound: Bound) -> Model {
    Model {
        name,
        quick: bound,
        full: Bound::All,
        body,
        ends: &["rung", "asleep", "work before sleep"],
        mutants: [
            "no client fence",
            "AcqRel client fence",
            "no daemon fence",
            "no look at the rings again",
        ]
        .map(steps)
        .into(),
    }
}

#[test]
fn doorbell_one_client() {
    run(model("doorbell, one record", || doorbell(1, 1), Bound::All));
}

#[test]
fn doorbell_two_records() {
    let mut two = model("doorbell, two records", || doorbell(1, 2), Bound::All);
    two.mutants.push(steps("client swaps sleeping"));
    run(two);
}

#[test]
fn doorbell_two_clients() {
    let mut two = model(
        "doorbell, two clients",
        || doorbell(2, 1),
        Bound::Preemptions(4),
    );
    two.mutants.push(steps("client swaps sleeping"));
    run(two);
}
