//! The commit ring's doorbell: a record is never left lying while the daemon sleeps.
//!
//! Records, the word and its fences are those of `lease::commits`. The bell is a socket: it is never lost, and the kernel's
//! queue lock orders it.

use crate::harness::{Bound, Model, broken, code, no_fence, reached, run, steps, weaken};
use crate::segments::{key, view};
use hostkv_shm_protocol::control::header::{ControlHeader, HeaderView};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::{Commits, Doorbell};
use hostkv_shm_protocol::lease::header::LeaseHeader;
use hostkv_shm_protocol::sync::model::Operation;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::view::loom_words::LoomWords;
use loom::thread;
use std::mem::offset_of;
use std::sync::Arc;

const FILE: &str = "lease/commits.rs";
const RECORDS: u32 = 2;

/// A ring whose records differ in their sequence words alone.
fn ring() -> (Arc<LoomWords>, Commits) {
    let geometry = LeaseGeometry {
        slot_count: 1,
        recency_capacity: 1,
        bitmap_words: 1,
        event_capacity: 0,
        commit_capacity: RECORDS,
    };
    let mut words = LoomWords::new();
    words.fix64(offset_of!(LeaseHeader, commit_head) as u64, 0);
    words.fix64(offset_of!(LeaseHeader, commit_tail) as u64, 0);
    for place in 0..u64::from(RECORDS) {
        let at = geometry.commits_offset() + place * 64;
        words.add64(at, 0);
        words.fix64(at + 8, 1 << 32);
        for (word, value) in key(1).words().iter().enumerate() {
            words.fix64(at + 16 + word as u64 * 8, *value);
        }
    }
    let (owner, view) = view(words, geometry.segment_len());
    (owner, Commits::new(view, &geometry).unwrap().unwrap())
}

struct Shared {
    _words: Vec<Arc<LoomWords>>,
    rings: Vec<Commits>,
    header: HeaderView,
    bells: AtomicU64,
}

fn client(shared: &Shared, ring: usize, records: u64) {
    let doorbell = Doorbell::new(shared.header);
    for position in 0..records {
        shared.rings[ring].write(position, EntryNumber(0), 1, &key(1));
        if broken("client swaps sleeping") {
            // The first client is stopped between the swap and the send.
            hostkv_shm_protocol::sync::fence(Ordering::SeqCst);
            let sleeping = shared.header.daemon_sleeping();
            let was_asleep = sleeping.swap(0, Ordering::Relaxed) == 1;
            if was_asleep && (ring, position) != (0, 0) {
                shared.bells.fetch_add(1, Ordering::AcqRel);
            }
        } else if doorbell.is_wanted() {
            reached("rung");
            shared.bells.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// A header of which only the word exists.
fn header() -> (Arc<LoomWords>, View) {
    let mut words = LoomWords::new();
    words.add32(offset_of!(ControlHeader, daemon_sleeping) as u64, 0);
    view(words, size_of::<ControlHeader>() as u64)
}

fn doorbell(clients: usize, records: u64) {
    let (header_words, header) = header();
    let (mut words, rings): (Vec<_>, Vec<_>) = (0..clients).map(|_| ring()).unzip();
    words.push(header_words);
    let shared = Arc::new(Shared {
        _words: words,
        rings,
        header: HeaderView::new(header).unwrap(),
        bells: AtomicU64::new(0),
    });
    let doorbell = Doorbell::new(shared.header);
    let threads: Vec<_> = (0..clients)
        .map(|ring| {
            let shared = shared.clone();
            thread::spawn(move || client(&shared, ring, records))
        })
        .collect();
    let look = |seen: &mut Vec<u64>| {
        let mut has_work = false;
        for (ring, seen) in shared.rings.iter().zip(seen) {
            while *seen < u64::from(RECORDS) && ring.is_whole(*seen) {
                *seen += 1;
                has_work = true;
            }
        }
        has_work
    };
    let mut seen = vec![0; clients];
    let mut answered = 0;
    let mut is_asleep = false;
    for _ in 0..2 {
        look(&mut seen);
        doorbell.lie_down();
        if !broken("no look at the rings again") && look(&mut seen) {
            reached("work before sleep");
            doorbell.get_up();
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
        doorbell.get_up();
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
        mutants: vec![
            code("no client fence", &[no_fence(FILE, "is_wanted")]),
            code(
                "AcqRel client fence",
                &[weaken(
                    FILE,
                    "is_wanted",
                    Operation::Fence,
                    Ordering::AcqRel,
                )],
            ),
            code("no daemon fence", &[no_fence(FILE, "lie_down")]),
            steps("no look at the rings again"),
        ],
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
