//! The commit ring: two laps over one place, the client killed at every step; and two threads over two places.
//!
//! A record names an extent and its key; what the daemon knows to be granted is its private memory. An extent may be given
//! to another writer only after the last finished record has been drained, and that only at the pidfd, when no store of the
//! client can follow.

use crate::harness::{Bound, Model, Mutant, Site, broken, code, reached, run, steps, weaken};
use crate::segments::{Payload, key, view};
use hostkv_shm_protocol::id::EntryNumber;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::Commits;
use hostkv_shm_protocol::lease::header::LeaseHeader;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::sync::model::{Change, Operation};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::view::loom_words::LoomWords;
use loom::thread;
use std::mem::offset_of;
use std::sync::Arc;

const LAPS: u64 = 2;
const FILE: &str = "lease/commits.rs";
/// Words of a record: its sequence word, entry and length, the first word of its key.
const SEQ: u64 = 0;
const ENTRY: u64 = 1;
const KEY: u64 = 2;

const fn geometry(commit_capacity: u32) -> LeaseGeometry {
    LeaseGeometry {
        slot_count: 1,
        recency_capacity: 1,
        bitmap_words: 1,
        event_capacity: 0,
        commit_capacity,
    }
}

/// A ring of empty places.
fn ring(capacity: u32) -> (Arc<LoomWords>, View, Commits) {
    let geometry = geometry(capacity);
    let mut words = LoomWords::new();
    words.add64(offset_of!(LeaseHeader, commit_head) as u64, 0);
    words.add64(offset_of!(LeaseHeader, commit_tail) as u64, 0);
    for place in 0..u64::from(capacity) {
        let at = geometry.commits_offset() + place * 64;
        for word in [SEQ, ENTRY, KEY] {
            words.add64(at + word * 8, 0);
        }
        for (word, value) in key(0).words().iter().enumerate().skip(1) {
            words.fix64(at + (KEY + word as u64) * 8, *value);
        }
    }
    let (owner, view) = view(words, geometry.segment_len());
    let commits = Commits::new(view, &geometry).unwrap().unwrap();
    (owner, view, commits)
}

struct Shared {
    _words: Arc<LoomWords>,
    view: View,
    commits: Commits,
    payload: Payload,
}

/// Writes and commits an extent each lap; dies before its step number `kill`.
fn client(shared: &Shared, kill: u32) {
    let mut step = 0;
    let mut is_killed = || {
        step += 1;
        step - 1 == kill
    };
    let commits = &shared.commits;
    for position in 0..LAPS {
        if is_killed() {
            return;
        }
        shared.payload.write(position as u32, position + 1);
        let done = commits.tail();
        if position > 0 && done == position {
            assert_eq!(commits.outcome(position - 1), Status::Ok);
            reached("outcome read");
        }
        if commits.claim(1, done).is_none() {
            // Full: the commit goes by the socket.
            return;
        }
        // Killed with nothing of the record written, with its entry, and with all but its sequence word.
        let written = [&[][..], &[ENTRY], &[ENTRY, KEY]];
        for words in written {
            if is_killed() {
                let at = geometry(1).commits_offset();
                for word in words {
                    let word = shared.view.u64(at + word * 8).unwrap();
                    word.store(position, Ordering::Relaxed);
                }
                return;
            }
        }
        commits.write(
            position,
            EntryNumber(position as u32),
            1,
            &key(position + 100),
        );
    }
}

struct Daemon {
    position: u64,
    is_granted: [bool; LAPS as usize],
}

impl Daemon {
    fn drain(&mut self, shared: &Shared) {
        let commits = &shared.commits;
        while commits.is_whole(self.position) {
            if broken("tail before copy") {
                commits.release(self.position + 1);
            }
            let Some(taken) = commits.take(self.position) else {
                panic!("a whole record is gone");
            };
            let extent = u64::from(taken.entry.0);
            assert_eq!(taken.key[0], extent + 100, "a torn record");
            assert!(
                self.is_granted[extent as usize],
                "a record names an extent that is not granted"
            );
            self.is_granted[extent as usize] = false;
            assert_eq!(shared.payload.read(extent as u32), extent + 1);
            if !broken("no outcome") {
                commits.answer(self.position, &taken, Status::Ok);
            }
            self.position += 1;
            commits.release(self.position);
            reached("committed");
            if self.position == LAPS {
                reached("second lap");
            }
        }
    }

    /// Gives every extent that is still granted to another writer.
    fn reclaim(&mut self, shared: &Shared) {
        for extent in 0..LAPS as u32 {
            if self.is_granted[extent as usize] {
                self.is_granted[extent as usize] = false;
                shared.payload.write(extent, 999);
                reached("reclaimed");
            }
        }
    }
}

fn life(kill: u32) {
    let (words, view, commits) = ring(1);
    let shared = Arc::new(Shared {
        _words: words,
        view,
        commits,
        payload: Payload::new(&[0; LAPS as usize]),
    });
    let thread = {
        let shared = shared.clone();
        thread::spawn(move || client(&shared, kill))
    };
    let mut daemon = Daemon {
        position: 0,
        is_granted: [true; LAPS as usize],
    };
    daemon.drain(&shared);
    daemon.drain(&shared);
    if broken("reclaim at EOF") {
        daemon.reclaim(&shared);
    }
    // The pidfd: no store of the client comes after it.
    thread.join().unwrap();
    if !broken("no final drain") {
        daemon.drain(&shared);
    }
    daemon.reclaim(&shared);
    let last = shared.view.u64(geometry(1).commits_offset() + SEQ * 8);
    assert_eq!(
        last.unwrap().load(Ordering::Relaxed),
        daemon.position,
        "a finished record was lost"
    );
}

fn relaxed_seq() -> Mutant {
    code(
        "Relaxed seq",
        &[weaken(FILE, "write", Operation::Store, Ordering::Relaxed)],
    )
}

fn mutants(names: &[&'static str]) -> Vec<Mutant> {
    let mutant = |name| match name {
        "Relaxed seq" => relaxed_seq(),
        name => steps(name),
    };
    names.iter().copied().map(mutant).collect()
}

fn killed(name: &'static str, body: fn(), names: &[&'static str]) -> Model {
    Model {
        name,
        quick: Bound::All,
        full: Bound::All,
        body,
        ends: &["reclaimed"],
        mutants: mutants(names),
    }
}

#[test]
fn commit_ring() {
    let all = [
        "Relaxed seq",
        "tail before copy",
        "reclaim at EOF",
        "no final drain",
    ];
    let mut two_laps = killed("commit ring, two laps", || life(u32::MAX), &all);
    two_laps.ends = &["committed", "second lap", "outcome read", "reclaimed"];
    two_laps.mutants.extend([
        steps("no outcome"),
        code(
            "Relaxed take",
            &[
                weaken(FILE, "take", Operation::Load, Ordering::Relaxed),
                weaken(FILE, "is_whole", Operation::Load, Ordering::Relaxed),
            ],
        ),
        code(
            "Relaxed store of the tail",
            &[weaken(FILE, "release", Operation::Store, Ordering::Relaxed)],
        ),
        code(
            "Relaxed load of the tail",
            &[weaken(FILE, "tail", Operation::Load, Ordering::Relaxed)],
        ),
    ]);
    run(two_laps);
    // Before the payload, with parts of the record written, and before the payload of the second lap.
    let eof = ["reclaim at EOF"];
    run(killed("commit ring, killed at step 0", || life(0), &[]));
    run(killed("commit ring, killed at step 1", || life(1), &eof));
    run(killed("commit ring, killed at step 2", || life(2), &eof));
    run(killed("commit ring, killed at step 3", || life(3), &eof));
    let second = ["Relaxed seq", "no final drain"];
    run(killed("commit ring, killed at step 4", || life(4), &second));
    run(killed("commit ring, killed at step 5", || life(5), &all));
    run(killed("commit ring, killed at step 6", || life(6), &all));
    run(killed("commit ring, killed at step 7", || life(7), &all));
}

/// Two threads push one record each while the daemon drains.
fn two_threads() {
    let (_words, _view, commits) = ring(2);
    let threads: Vec<_> = [7, 8]
        .into_iter()
        .map(|entry| {
            thread::spawn(move || {
                let position = commits.claim(1, commits.tail()).unwrap();
                commits.write(position, EntryNumber(entry), 1, &key(u64::from(entry)));
            })
        })
        .collect();
    let mut seen = [0; 2];
    let mut position = 0;
    let mut drain = || {
        while let Some(taken) = commits.take(position) {
            assert_eq!(taken.key[0], u64::from(taken.entry.0), "a torn record");
            seen[taken.entry.0 as usize - 7] += 1;
            commits.answer(position, &taken, Status::Ok);
            position += 1;
            commits.release(position);
        }
        position
    };
    if drain() == 1 {
        reached("drained beside a push");
    }
    for thread in threads {
        thread.join().unwrap();
    }
    drain();
    assert_eq!(seen, [1, 1], "records seen, by thread");
}

#[test]
fn two_threads_push() {
    run(Model {
        name: "commit ring, two threads",
        quick: Bound::Preemptions(3),
        full: Bound::All,
        body: two_threads,
        ends: &["drained beside a push"],
        mutants: vec![
            relaxed_seq(),
            code(
                "claim by load and store",
                &[Site {
                    file: FILE,
                    function: "claim",
                    operation: Operation::Modify,
                    change: Change::Split,
                }],
            ),
        ],
    });
}
