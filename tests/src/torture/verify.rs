//! The verifying workload: every object says which write it came from, and readers verify every word of it.
//!
//! ```text
//!   writers   own keys each: remove, reserve, write, commit, one write in eight aborted, now and then clear
//!   mortals   worker processes that do the same with keys of their own, and are SIGKILLed all the time
//!   readers   acquire 64 keys, prove every word of every object found, check, release
//!   here      kills and replaces the mortals, audits the pool
//! ```
//!
//! The pool holds a fraction of the keys, so the evictor runs all the time. A read must prove the key that was asked,
//! a write that was meant to be committed, and one that was not removed before the read began: a cache may miss, it
//! may never lie.

use std::time::{Duration, Instant};

use hostkv::session::{ACQUIRE_ALL, Session};
use hostkv::{KeyspaceId, Status};
use hostkv_shm_protocol::sync::{AtomicBool, AtomicU64, Ordering};

use super::{Fault, Run, Skipped, Stage};
use crate::pattern::{self, Write, prove};
use crate::{Random, Worker, keyspace, request};

/// Reads are verified while everything else happens.
pub static READS: Fault = Fault {
    id: "READS",
    name: "verified reads under stores, evictions, removes, clears and kills",
    required: "0 wrong bytes in 1e9 reads of whole objects; no audit finds anything",
    full_cycles: 1_000_000_000,
    weight: 45,
    run: verified_reads,
};

/// Keys of each writer.
const KEYS_EACH: u32 = 3072;

/// Writer threads.
const WRITERS: u32 = 1;

/// Worker processes to be killed.
const MORTALS: u32 = 2;

/// Reader threads.
const READERS: usize = 2;

/// Keys of a batch.
const BATCH: u32 = 64;

/// How often the whole pool is cleared, and how often it is audited.
const CLEAR_EVERY: Duration = Duration::from_secs(2);
const AUDIT_EVERY: Duration = Duration::from_millis(250);

/// Writes that a mortal may number before its successor's numbers begin.
const MORTAL_WRITES: u32 = 1 << 14;

/// What readers must know of the writers.
struct Ledger {
    /// For each key of a writer thread, the last write that a remove or a clear has ended.
    floors: Vec<AtomicU64>,
    reads: AtomicU64,
    misses: AtomicU64,
    has_ended: AtomicBool,
}

impl Ledger {
    fn goes_on(&self) -> bool {
        // Relaxed: only the end of a loop.
        !self.has_ended.load(Ordering::Relaxed)
    }
}

/// Ends the threads also when this one fails.
struct EndOnDrop<'a>(&'a Ledger);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        // Relaxed: only the end of a loop.
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

fn verified_reads(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&["--l1-size-gb", "0.03125"]);
    let ledger = Ledger {
        floors: (0..KEYS_EACH * WRITERS)
            .map(|_| AtomicU64::new(0))
            .collect(),
        reads: AtomicU64::new(0),
        misses: AtomicU64::new(0),
        has_ended: AtomicBool::new(false),
    };
    let seed = run.random.next_word();
    let mut kills = 0_u64;
    let mut audits = 0_u64;
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&ledger);
        let mut threads = Vec::new();
        for number in 0..WRITERS {
            let session = stage.daemon.session();
            let ledger = &ledger;
            threads.push(scope.spawn(move || write_until_the_end(&session, number, seed, ledger)));
        }
        for number in 0..READERS {
            let session = stage.daemon.session();
            let ledger = &ledger;
            threads.push(
                scope.spawn(move || read_until_the_end(&session, seed ^ number as u64, ledger)),
            );
        }
        let mut life = 0;
        let mut mortals: Vec<Worker> = Vec::new();
        let mut next_audit = Instant::now();
        while run.goes_on() {
            while mortals.len() < MORTALS as usize {
                let owner = WRITERS + life % MORTALS;
                let mut worker = Worker::start(&stage.daemon);
                worker.must("open");
                let first = (1 << 31) + life % (1 << 17) * MORTAL_WRITES;
                worker.must(&format!(
                    "store-until-death {} {KEYS_EACH} {first} {seed}",
                    owner * KEYS_EACH
                ));
                mortals.push(worker);
                life += 1;
            }
            std::thread::sleep(Duration::from_micros(2000 + run.random.below(60_000)));
            // The oldest: two that own the same keys never live at the same time.
            mortals.remove(0).kill();
            kills += 1;
            if Instant::now() > next_audit {
                stage.audit();
                audits += 1;
                next_audit = Instant::now() + AUDIT_EVERY;
            }
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
            // Relaxed: a count.
            let reads = ledger.reads.load(Ordering::Relaxed);
            run.count(reads - run.done());
        }
        for mut mortal in mortals {
            mortal.kill();
        }
        drop(_end);
        for thread in threads {
            if let Err(payload) = thread.join() {
                std::panic::resume_unwind(payload);
            }
        }
    });
    // Relaxed: the threads have ended.
    let reads = ledger.reads.load(Ordering::Relaxed);
    run.count(reads - run.done());
    let misses = ledger.misses.load(Ordering::Relaxed);
    let evicted = stage.witness.figures().unwrap().l1_evicted_keys;
    run.note(format!(
        "{reads} reads verified word by word, {misses} misses, {evicted} evicted, {kills} kills, {audits} audits"
    ));
    assert!(evicted > 0 || run.is_short(), "the evictor never ran");
    stage.finish(run);
    Ok(())
}

fn read_until_the_end(session: &Session, seed: u64, ledger: &Ledger) {
    let space = keyspace(session);
    let mut random = Random(seed);
    let numbers = KEYS_EACH * (WRITERS + MORTALS);
    let mut keys = Vec::new();
    let mut floors = Vec::new();
    while ledger.goes_on() {
        let first = random.below(u64::from(numbers - BATCH)) as u32;
        let asked = first..first + BATCH;
        keys.clear();
        keys.extend(asked.clone().map(pattern::key));
        floors.clear();
        // Acquire: pairs with the writer's Release after its remove; the read begins after this load.
        floors.extend(asked.clone().map(|number| {
            ledger
                .floors
                .get(number as usize)
                .map_or(0, |floor| floor.load(Ordering::Acquire))
        }));
        let lease = session
            .acquire(space, &keys, &request(ACQUIRE_ALL))
            .unwrap();
        let mut reads = 0;
        for (index, number) in asked.enumerate() {
            let Ok(span) = lease.span(index) else {
                continue;
            };
            // SAFETY: the lease keeps the bytes, and committed bytes do not change.
            let write = match unsafe { prove(number, span.data, span.len_bytes) } {
                Ok(write) => write,
                Err(lie) => panic!("{lie}"),
            };
            assert!(
                !write.is_to_be_aborted(),
                "{write:?} was aborted and is read"
            );
            let floor = floors[index];
            assert!(
                u64::from(write.number) > floor,
                "{write:?} was removed before and is read; the floor is {floor}"
            );
            reads += 1;
        }
        lease.check().unwrap();
        lease.release().unwrap();
        // Relaxed: counts.
        ledger.reads.fetch_add(reads, Ordering::Relaxed);
        ledger
            .misses
            .fetch_add(u64::from(BATCH) - reads, Ordering::Relaxed);
    }
}

fn write_until_the_end(session: &Session, owner: u32, seed: u64, ledger: &Ledger) {
    let mut writer = Writer::new(
        session,
        owner * KEYS_EACH,
        KEYS_EACH,
        1,
        seed ^ u64::from(owner),
    );
    let mut next_clear = Instant::now() + CLEAR_EVERY;
    while ledger.goes_on() {
        let removed = writer.round();
        let floor = |number: u32| &ledger.floors[number as usize];
        // Release: pairs with the readers' Acquire; the remove has been answered.
        for write in removed {
            floor(write.key).store(u64::from(write.number), Ordering::Release);
        }
        if Instant::now() > next_clear {
            session.clear(0).unwrap();
            for write in writer.written() {
                floor(write.key).store(u64::from(write.number), Ordering::Release);
            }
            next_clear = Instant::now() + CLEAR_EVERY;
        }
    }
}

/// A writer of a range of keys that nobody else writes.
pub struct Writer<'a> {
    session: &'a Session,
    space: KeyspaceId,
    first_key: u32,
    next_write: u32,
    /// The last committed write of each key; 0 for none.
    last: Vec<u32>,
    random: Random,
}

impl Writer<'_> {
    /// A writer of `count` keys from `first_key`, whose writes are numbered from `first_write`.
    pub fn new(
        session: &Session,
        first_key: u32,
        count: u32,
        first_write: u32,
        seed: u64,
    ) -> Writer<'_> {
        Writer {
            session,
            space: keyspace(session),
            first_key,
            next_write: first_write,
            last: vec![0; count as usize],
            random: Random(seed),
        }
    }

    /// The last committed write of each key that has one.
    pub fn written(&self) -> impl Iterator<Item = Write> {
        self.last
            .iter()
            .zip(self.first_key..)
            .filter(|(number, _)| **number != 0)
            .map(|(number, key)| Write {
                key,
                number: *number,
            })
    }

    /// Stores a batch of keys, some of which it removes first; gives the writes that the remove has ended.
    pub fn round(&mut self) -> Vec<Write> {
        let batch = BATCH.min(self.last.len() as u32);
        let first = self
            .random
            .below(self.last.len() as u64 - u64::from(batch) + 1) as usize;
        let numbers: Vec<u32> = (self.first_key + first as u32..)
            .take(batch as usize)
            .collect();
        let keys: Vec<_> = numbers.iter().map(|number| pattern::key(*number)).collect();
        let mut removed = Vec::new();
        let gone = self.random.below(u64::from(batch) / 2) as usize;
        if gone > 0 && self.random.below(4) == 0 {
            self.session
                .remove(self.space, &keys[..gone], None)
                .unwrap();
            removed = numbers[..gone]
                .iter()
                .zip(&self.last[first..])
                .map(|(key, number)| Write {
                    key: *key,
                    number: *number,
                })
                .collect();
        }
        let is_aborted = self.random.below(8) == 0;
        // Mostly of a page; now and then of any length of whole words.
        let len_bytes = match self.random.below(8) {
            0 => 8 * (1 + self.random.below(pattern::MAX_BYTES / 8)),
            _ => 4096,
        };
        let items = crate::reserve_items(&keys, len_bytes);
        let reservation = self
            .session
            .reserve(self.space, &items, &request(0))
            .unwrap();
        let mut written = Vec::new();
        for (index, number) in numbers.iter().enumerate() {
            match reservation.span(index) {
                Ok(span) => {
                    let write = Write {
                        key: *number,
                        number: Write::number(&mut self.next_write, is_aborted),
                    };
                    // SAFETY: a granted span is this writer's alone until the commit.
                    unsafe { write.fill(span.data, span.len_bytes) };
                    written.push((first + index, write));
                }
                Err(error) => assert!(
                    [Status::Exists, Status::NoSpace, Status::Quota].contains(&error.status),
                    "{}: {}",
                    error.status,
                    error.message
                ),
            }
        }
        if is_aborted {
            reservation.abort().unwrap();
        } else {
            reservation.commit().unwrap();
            for (at, write) in written {
                self.last[at] = write.number;
            }
        }
        removed
    }
}
