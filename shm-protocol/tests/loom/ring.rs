//! The commit ring: two laps over one place, the client killed at every step.
//!
//! A model of the rule, in steps of its own. A record names an extent and its key; what the daemon knows to be
//! granted is its private memory. An extent may be given to another writer only after the last finished record
//! has been drained, and that only at the pidfd, when no store of the client can follow.

use crate::harness::{Bound, Model, Mutant, broken, reached, run, steps};
use crate::segments::Payload;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

const LAPS: u64 = 2;

struct Shared {
    seq: AtomicU64,
    extent: AtomicU64,
    key: AtomicU64,
    tail: AtomicU64,
    payload: Payload,
}

/// Writes and commits an extent each lap; dies before its step number `kill`.
fn client(shared: &Shared, kill: u32) {
    let mut step = 0;
    let mut is_killed = || {
        step += 1;
        step - 1 == kill
    };
    for position in 0..LAPS {
        if is_killed() {
            return;
        }
        shared.payload.write(position as u32, position + 1);
        if shared.tail.load(Ordering::Acquire) != position {
            // Full: the commit goes by the socket.
            return;
        }
        if is_killed() {
            return;
        }
        shared.extent.store(position, Ordering::Relaxed);
        if is_killed() {
            return;
        }
        shared.key.store(position + 100, Ordering::Relaxed);
        if is_killed() {
            return;
        }
        let order = if broken("Relaxed seq") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        shared.seq.store(position + 1, order);
    }
}

struct Daemon {
    position: u64,
    is_granted: [bool; LAPS as usize],
}

impl Daemon {
    fn drain(&mut self, shared: &Shared) {
        while shared.seq.load(Ordering::Acquire) == self.position + 1 {
            if broken("tail before copy") {
                shared.tail.store(self.position + 1, Ordering::Release);
            }
            let extent = shared.extent.load(Ordering::Relaxed);
            let key = shared.key.load(Ordering::Relaxed);
            assert_eq!(key, extent + 100, "a torn record");
            assert!(
                self.is_granted[extent as usize],
                "a record names an extent that is not granted"
            );
            self.is_granted[extent as usize] = false;
            assert_eq!(shared.payload.read(extent as u32), extent + 1);
            self.position += 1;
            shared.tail.store(self.position, Ordering::Release);
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
    let shared = Arc::new(Shared {
        seq: AtomicU64::new(0),
        extent: AtomicU64::new(0),
        key: AtomicU64::new(0),
        tail: AtomicU64::new(0),
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
    assert_eq!(
        shared.seq.load(Ordering::Relaxed),
        daemon.position,
        "a finished record was lost"
    );
}

fn mutants(names: &[&'static str]) -> Vec<Mutant> {
    names.iter().copied().map(steps).collect()
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
    run(Model {
        ends: &["committed", "second lap", "reclaimed"],
        ..killed("commit ring, two laps", || life(u32::MAX), &all)
    });
    // Before the payload, before each word of the record and before its seq, in the first lap and the second.
    let eof = ["reclaim at EOF"];
    run(killed("commit ring, killed at step 0", || life(0), &[]));
    run(killed("commit ring, killed at step 1", || life(1), &eof));
    run(killed("commit ring, killed at step 2", || life(2), &eof));
    run(killed("commit ring, killed at step 3", || life(3), &eof));
    run(killed(
        "commit ring, killed at step 4",
        || life(4),
        &["Relaxed seq", "no final drain"],
    ));
    run(killed(
        "commit ring, killed at step 5",
        || life(5),
        &["Relaxed seq", "no final drain"],
    ));
    run(killed("commit ring, killed at step 6", || life(6), &all));
    run(killed("commit ring, killed at step 7", || life(7), &all));
}
