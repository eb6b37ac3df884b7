//! F3: clients that pin all they can, and one whose library ignores its quota.
//!
//! ```text
//!   128 objects of 256 KiB, the whole pool      quota of a session: 64 objects     gate: 80 % of the pool
//!   greedy 1, greedy 2 ── acquire until QUOTA ──> never more than their quota, never voided
//!   defective          ── writes its own lease: a pin on every entry ──> void beyond the quota, disconnected
//!   honest             ── 3 objects pinned the whole time, checked and verified every round
//!   writer             ── what fits in what is not pinned is granted, always
//! ```

use std::collections::HashSet;

use hostkv::lease::Lease;
use hostkv::session::{ACQUIRE_ALL, Session};
use hostkv::{ChunkKey, KeyspaceId, Status};

use super::{Fault, Run, Skipped, Stage};
use crate::{assert_reads, keys, keyspace, request, reserve_items, statuses_of, store, wait_until};

/// Two that keep to their quota.
pub static TWO_AT_ONCE: Fault = Fault {
    id: "F3",
    name: "two clients at once pin all they can",
    required: "QUOTA at half the pool each, gate at 80 %, 0 honest EXPIRED, reserves that fit succeed 100 %",
    full_cycles: 1000,
    weight: 4,
    run: two_at_once,
};

/// One that does not.
pub static WITHOUT_A_QUOTA: Fault = Fault {
    id: "F3",
    name: "a client whose library ignores its quota pins everything",
    required: "void beyond its quota, disconnected, honest pins kept, reserves that fit succeed 100 %",
    full_cycles: 500,
    weight: 3,
    run: without_a_quota,
};

/// Bytes of an object: all alike, so that what is evicted makes room for what is stored.
const OBJECT_BYTES: u64 = 256 << 10;

/// Objects that fill the pool, but for a little: the bystander's are small and take room of their own.
const OBJECTS: usize = 120;

/// Objects in the quota of a session: half the pool.
const QUOTA: usize = 64;

/// More pinned objects than this shut the gate: 80 % of the pool, and a little.
const GATE: usize = 104;

/// Objects that the honest client holds.
const HONEST: usize = 3;

/// Objects that a session may reserve at once, an eighth of the pool.
const RESERVE: usize = 16;

/// What the honest client and the writer of a stage hold.
struct Parties {
    writer: Session,
    space: KeyspaceId,
    stored: Vec<ChunkKey>,
    honest: Session,
    pinned: Lease,
}

impl Parties {
    fn new(stage: &mut Stage) -> Parties {
        let writer = stage.daemon.session();
        let honest = stage.daemon.reader();
        stage.expect_sessions(2);
        let space = keyspace(&writer);
        let stored = keys("pool", OBJECTS);
        store(&writer, space, &stored, OBJECT_BYTES);
        let pinned = honest
            .acquire(keyspace(&honest), &stored[..HONEST], &request(0))
            .unwrap();
        assert_eq!(pinned.prefix_count(), HONEST);
        Parties {
            writer,
            space,
            stored,
            honest,
            pinned,
        }
    }

    /// The honest client's pins hold, and their bytes are right.
    fn check(&self) {
        self.pinned.check().expect("an honest pin was voided");
        for (index, key) in self.stored[..HONEST].iter().enumerate() {
            assert_reads(&self.pinned, index, key);
        }
    }

    /// Stores what was evicted again; whatever of it does not fit beside the pins stays away.
    fn refill(&self) {
        for batch in self.stored.chunks(RESERVE) {
            let items = reserve_items(batch, OBJECT_BYTES);
            let reservation = self
                .writer
                .reserve(self.space, &items, &request(0))
                .unwrap();
            for (index, key) in batch.iter().enumerate() {
                if let Ok(span) = reservation.span(index) {
                    // SAFETY: a granted span is this thread's alone until the commit.
                    unsafe { crate::fill(key, span.data, span.len_bytes) };
                }
            }
            reservation.commit().unwrap();
        }
    }

    /// Reserves `count` objects, at most [`RESERVE`] at once, each of which must be granted.
    fn must_fit(&self, family: &str, count: usize) {
        for batch in keys(family, count).chunks(RESERVE) {
            let items = reserve_items(batch, OBJECT_BYTES);
            let reservation = self
                .writer
                .reserve(self.space, &items, &request(0))
                .unwrap();
            let statuses = statuses_of(&reservation);
            assert!(
                statuses.iter().all(|status| *status == Status::Ok),
                "{count} objects fit beside the pins and are refused: {statuses:?}"
            );
            reservation.commit().unwrap();
            self.writer.remove(self.space, batch, None).unwrap();
        }
    }

    fn leave(self) {
        self.pinned.release().unwrap();
        self.honest.close().unwrap();
        self.writer.close().unwrap();
    }
}

/// Acquires batch after batch until nothing more is given; the leases, and which objects they pin.
fn pin_all(session: &Session, stored: &[ChunkKey], first: usize) -> (Vec<Lease>, HashSet<usize>) {
    let space = keyspace(session);
    let mut leases = Vec::new();
    let mut pinned = HashSet::new();
    for batch in 0..stored.len().div_ceil(8) {
        // Each begins elsewhere.
        let at = (first + batch * 8) % stored.len();
        let asked = &stored[at..(at + 8).min(stored.len())];
        let lease = session
            .acquire(space, asked, &request(ACQUIRE_ALL))
            .unwrap();
        for index in 0..asked.len() {
            match lease.span(index) {
                Ok(_) => {
                    pinned.insert(at + index);
                }
                Err(error) => assert!(
                    [Status::Quota, Status::NotFound].contains(&error.status),
                    "{}: {}",
                    error.status,
                    error.message
                ),
            }
        }
        leases.push(lease);
    }
    assert!(
        pinned.len() <= QUOTA,
        "a session pins {} objects, its quota is {QUOTA}",
        pinned.len()
    );
    (leases, pinned)
}

fn two_at_once(run: &mut Run) -> Result<(), Skipped> {
    let mut stage = Stage::new(&["--eviction-trigger-watermark", "1"]);
    let parties = Parties::new(&mut stage);
    let greedy = [stage.daemon.reader(), stage.daemon.reader()];
    stage.expect_sessions(2);
    let late_space = keyspace(&stage.witness);
    let (mut shut, mut most) = (0, 0);
    while run.goes_on() {
        parties.refill();
        let first = run.random.below(OBJECTS as u64) as usize;
        let held: Vec<(Vec<Lease>, HashSet<usize>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = greedy
                .iter()
                .enumerate()
                .map(|(number, session)| {
                    let stored = &parties.stored;
                    scope.spawn(move || {
                        pin_all(session, stored, (first + number * OBJECTS / 2) % OBJECTS)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        // Both may pin the same objects.
        let mut distinct: HashSet<usize> = (0..HONEST).collect();
        distinct.extend(held.iter().flat_map(|(_, pinned)| pinned));
        let pinned = distinct.len();
        most = most.max(pinned);
        parties.check();
        parties.must_fit("new", (OBJECTS - pinned).min(RESERVE));
        // Every so often, for the gauge is only as new as the last scan.
        if run.done().is_multiple_of(4) && pinned > GATE {
            wait_until("the gate shuts", || {
                stage.daemon.scrape().sample("hostkv_pin_gate_shut") == 1.0
            });
            let late = stage
                .witness
                .acquire(late_space, &parties.stored[60..68], &request(0))
                .unwrap();
            assert_eq!(late.prefix_count(), 0, "a pin beyond the gate");
            shut += 1;
        }
        for (leases, _) in held {
            for lease in leases {
                lease.check().expect("a pin within its quota was voided");
                lease.release().expect("a pin within its quota was voided");
            }
        }
        if shut > 0 {
            wait_until("the gate opens", || {
                stage.daemon.scrape().sample("hostkv_pin_gate_shut") == 0.0
            });
        }
        run.count(1);
    }
    let scrape = stage.daemon.scrape();
    for name in ["hostkv_voided_pins_total", "hostkv_expired_pins_total"] {
        assert_eq!(scrape.sample(name), 0.0, "{name}");
    }
    run.note(format!(
        "at most {most} of {OBJECTS} objects pinned, the gate shut {shut} times"
    ));
    for session in greedy {
        session.close().unwrap();
    }
    parties.leave();
    stage.finish(run);
    Ok(())
}

fn without_a_quota(run: &mut Run) -> Result<(), Skipped> {
    let mut stage = Stage::new(&["--eviction-trigger-watermark", "1"]);
    let parties = Parties::new(&mut stage);
    let mut voided = 0.0;
    while run.goes_on() {
        parties.refill();
        let mut defective = stage.daemon.raw_client();
        defective.pin_every_entry();
        assert!(
            defective.is_disconnected(),
            "who pins beyond its quota is sent away"
        );
        let now = stage.daemon.scrape().sample("hostkv_voided_pins_total");
        assert!(now > voided, "nothing was voided");
        voided = now;
        parties.check();
        // Its quota is all that it keeps: the rest of the pool, but the honest pins and a little, can be had.
        parties.must_fit("new", OBJECTS - QUOTA - HONEST - 1);
        parties.check();
        // Its lease is unmapped with it, so the session ends while the process lives.
        drop(defective);
        wait_until("the defective session ends", || stage.is_alone());
        run.count(1);
    }
    run.note(format!("{voided} pins voided"));
    stage
        .daemon
        .wait_for_line("its library is defective or hostile");
    parties.leave();
    stage.finish(run);
    Ok(())
}
