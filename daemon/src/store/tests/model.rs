//! The store against a naive model: random sequences of what clients and time can do.
//!
//! The model knows which keys were committed and not removed, and which payload bytes somebody may still read. A cache
//! may forget a key, so the model only forbids lies: a key that is found was committed, under the extent and length of
//! its last commit; a grant never overlaps bytes that are readable, reserved or pinned; the audit always adds up; and a
//! key that is not found was evicted, removed or cleared, as many times as the counters say.

mod commits;
mod steps;
mod tier;

use self::steps::{Step, step};
use self::tier::TierPart;
use super::*;
use crate::store::l2::TierWork;
use crate::tiers::{
    Completion, Found as FoundInTier, LoadObject, LoadOutcome, LookupTask, PayloadRange,
    StoreObject, TaskId, TierKey, TierSet,
};
use hostkv_shm_protocol::wire::reply::GrantedExtent;
use hostkv_shm_protocol::wire::request::{Grant, Prefetch};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

const CLIENTS: usize = 3;
const KEYS: u64 = 24;
const SLOTS: usize = 6;
const RECORDS: u32 = 4;

/// Payload bytes, as units of the alignment.
type Range = (u32, u32);

fn range(answer: &ReservedItem, len_bytes: u32) -> Range {
    let units = len_bytes.div_ceil(ALIGN);
    (answer.offset_units, answer.offset_units + units)
}

/// A reservation's operation, its keys with their lengths, and the answers.
type OpenReservation = (OpId, Vec<(u64, u32)>, Vec<ReservedItem>);

/// A commit that waits for workers.
struct Waiting {
    /// Its session, and the place of the writer that waits for it; `None` once that has died.
    session: SessionId,
    who: Option<usize>,
    ticket: Ticket,
    keys: Vec<(u64, u32)>,
    answers: Vec<ReservedItem>,
    /// The reserve that comes behind it in one request.
    next: Option<(OpId, Vec<(u64, u32)>)>,
}

/// A record of a commit ring.
#[derive(Clone, Copy)]
struct Record {
    number: u64,
    len_bytes: u32,
    grant: (GrantedExtent, u32),
    is_written: bool,
}

struct Writer {
    client: Client,
    /// Granted extents that are not used, with their units.
    grants: Vec<(GrantedExtent, u32)>,
    /// Records that the daemon has not taken, and the position of the first.
    records: VecDeque<Record>,
    done: u64,
    open: Vec<OpenReservation>,
    /// Parked reserves.
    parked: BTreeMap<u64, (OpId, Vec<(u64, u32)>)>,
    pins: [Option<(Found, u32)>; SLOTS],
    prefetches: Vec<OpId>,
}

struct World {
    pool: Pool,
    keyspace: KeyspaceId,
    writers: Vec<Writer>,
    /// Committed and not removed: the extent and length of the last commit.
    committed: BTreeMap<u64, Range>,
    waiting: Vec<Waiting>,
    /// What was taken out of rings and is not readable yet.
    taken: Vec<Record>,
    has_keyspace_quota: bool,
    integrity: Integrity,
    /// Jobs that workers have.
    jobs: Vec<Job>,
    /// What the tier has to do, and what it holds: the length of each object.
    tier_parts: Vec<TierPart>,
    tier: BTreeMap<TierKey, u64>,
}

impl Writer {
    /// Writes the record at this place of `records`.
    fn write(&mut self, at: usize, keyspace: KeyspaceId) {
        let record = &mut self.records[at];
        record.is_written = true;
        let name = key(keyspace, record.number);
        let ring = self.client.commits.unwrap();
        let entry = record.grant.0.entry;
        ring.write(self.done + at as u64, entry, record.len_bytes, &name);
    }
}

impl World {
    fn new(
        write_ttl_ns: Option<u64>,
        slice_ns: u32,
        keyspace_quota: Option<f64>,
        integrity: Integrity,
        tier_count: usize,
    ) -> World {
        let mut pool = Pool::new(Options {
            units: 40,
            entries: 28,
            watermark: 0.8,
            write_ttl_ns,
            max_reserved_ratio: 0.4,
            slice_ns,
            keyspace_quota,
            integrity,
            l2: L2Config {
                tier_count,
                skips_l1: false,
            },
            ..Options::default()
        });
        let anchor = pool.client();
        let keyspace = pool.keyspace(anchor);
        let writers = (0..CLIENTS).map(|_| World::writer(&mut pool)).collect();
        World {
            pool,
            keyspace,
            writers,
            committed: BTreeMap::new(),
            waiting: Vec::new(),
            taken: Vec::new(),
            has_keyspace_quota: keyspace_quota.is_some(),
            integrity,
            jobs: Vec::new(),
            tier_parts: Vec::new(),
            tier: BTreeMap::new(),
        }
    }

    fn writer(pool: &mut Pool) -> Writer {
        let client = pool.ring_client(RECORDS);
        pool.keyspace(client);
        Writer {
            client,
            grants: Vec::new(),
            records: VecDeque::new(),
            done: 0,
            open: Vec::new(),
            parked: BTreeMap::new(),
            pins: [None; SLOTS],
            prefetches: Vec::new(),
        }
    }

    /// Bytes that must not be handed out: readable, reserved by a live writer, or pinned.
    fn check_grant(&self, granted: Range) {
        let overlaps = |other: Range| granted.0 < other.1 && other.0 < granted.1;
        for writer in &self.writers {
            for (found, units) in writer.pins.iter().flatten() {
                let start = found.extent.offset_units;
                assert!(
                    !overlaps((start, start + units)),
                    "granted {granted:?} while {found:?} is pinned"
                );
            }
            let in_ring = writer.records.iter().map(|record| &record.grant);
            for (extent, units) in writer.grants.iter().chain(in_ring) {
                let range = (extent.offset_units, extent.offset_units + units);
                assert!(!overlaps(range), "granted {granted:?} while {range:?} is");
            }
            for (_, keys, answers) in &writer.open {
                for ((_, len), answer) in keys.iter().zip(answers) {
                    if answer.status == Status::Ok {
                        assert!(!overlaps(range(answer, *len)), "granted {granted:?} twice");
                    }
                }
            }
        }
        for commit in &self.waiting {
            for ((_, len), answer) in commit.keys.iter().zip(&commit.answers) {
                if answer.status == Status::Ok {
                    assert!(
                        !overlaps(range(answer, *len)),
                        "granted {granted:?} while it is being committed"
                    );
                }
            }
        }
        for other in self.tier_parts.iter().filter_map(TierPart::range) {
            assert!(
                !overlaps(other),
                "granted {granted:?} while a tier has {other:?}"
            );
        }
        for (number, known) in &self.committed {
            if self.pool.find(&key(self.keyspace, *number)).is_some() {
                assert!(!overlaps(*known), "granted {granted:?} under key {number}");
            }
        }
    }

    fn granted(
        &mut self,
        who: usize,
        op_id: OpId,
        keys: Vec<(u64, u32)>,
        answers: Vec<ReservedItem>,
    ) {
        for ((_, len), answer) in keys.iter().zip(&answers) {
            if answer.status == Status::Ok {
                self.check_grant(range(answer, *len));
            }
        }
        if answers.iter().any(|answer| answer.status == Status::Ok) {
            self.writers[who].open.push((op_id, keys, answers));
        }
    }

    fn resume(&mut self, resumed: Vec<Resumed>) {
        for resumed in resumed {
            let answers = match resumed.answer {
                ResumedAnswer::Reserved(answers) => answers,
                ResumedAnswer::CommitReserved(pair) => pair.reserved,
                _ => continue,
            };
            let who = self
                .writers
                .iter()
                .position(|writer| writer.client.id == resumed.session)
                .expect("only living sessions are resumed");
            let (op_id, keys) = self.writers[who]
                .parked
                .remove(&resumed.ticket.0)
                .expect("each ticket is answered once");
            self.granted(who, op_id, keys, answers);
        }
    }

    fn run(&mut self, step: Step) {
        let keyspace = self.keyspace;
        match step {
            Step::Reserve { client, keys } => {
                let wanted: Vec<_> = keys
                    .iter()
                    .map(|(n, len)| (key(keyspace, *n), *len))
                    .collect();
                let who = self.writers[client].client;
                let (op_id, outcome) = self.pool.try_reserve(who, &wanted);
                match outcome {
                    Ok(Outcome::Done(answers)) => self.granted(client, op_id, keys, answers),
                    Ok(Outcome::Parked(ticket)) => {
                        self.writers[client].parked.insert(ticket.0, (op_id, keys));
                    }
                    Err(refusal) => {
                        let most = self.pool.store.max_object_bytes();
                        assert!(
                            keys.iter().any(|(_, len)| u64::from(*len) > most),
                            "{refusal:?}"
                        );
                    }
                }
            }
            Step::Commit { client, which } => {
                let writer = &mut self.writers[client];
                if which >= writer.open.len() {
                    return;
                }
                let (op_id, keys, answers) = writer.open.swap_remove(which);
                let session = writer.client.id;
                let held = held(op_id, &answers);
                let outcome = self.pool.store.commit(session, &held, self.pool.now);
                match outcome.unwrap() {
                    Outcome::Done(items) => self.stored(&keys, &answers, &outcomes(&items)),
                    Outcome::Parked(ticket) => self.park(client, ticket, keys, answers, None),
                }
            }
            Step::CommitReserve {
                client,
                which,
                keys,
            } => self.commit_reserve(client, which, keys),
            Step::Take => self.jobs.extend(self.pool.store.take_jobs()),
            Step::Work { which } => {
                if which < self.jobs.len() {
                    let job = self.jobs.swap_remove(which);
                    self.work(&job);
                }
            }
            Step::Prefetch { client, keys } => {
                let keys: Vec<Key> = keys.iter().map(|number| key(keyspace, *number)).collect();
                self.pool.next_op += 1;
                let op_id = OpId(self.pool.next_op);
                let request = Prefetch {
                    op_id,
                    request_id: String::new(),
                    device: String::new(),
                    keys: keys.clone(),
                };
                let writer = &mut self.writers[client];
                let outcome = self
                    .pool
                    .store
                    .prefetch(writer.client.id, request, self.pool.now);
                match outcome {
                    Ok(outcome) => {
                        writer.prefetches.push(op_id);
                        if let Outcome::Done(got) = outcome {
                            let prefix = &keys[..got.prefix_count as usize];
                            assert!(prefix.iter().all(|key| self.pool.find(key).is_some()));
                        }
                    }
                    Err(refusal) => assert!(writer.prefetches.len() >= 32, "{refusal:?}"),
                }
            }
            Step::EndPrefetch { client, which } => {
                let writer = &mut self.writers[client];
                if which < writer.prefetches.len() {
                    let op_id = writer.prefetches.swap_remove(which);
                    let id = writer.client.id;
                    self.pool
                        .store
                        .end_prefetch(id, op_id, self.pool.now)
                        .unwrap();
                }
            }
            Step::TakeTiers => self.take_tiers(),
            Step::Tier { which, is_well } => {
                if which < self.tier_parts.len() {
                    let part = self.tier_parts.remove(which);
                    self.serve_tier(part, is_well);
                }
            }
            Step::GiveWay => self.give_way(),
            Step::Abort { client, which } => {
                let writer = &mut self.writers[client];
                if which < writer.open.len() {
                    let (op_id, _, answers) = writer.open.swap_remove(which);
                    let outcome = self.pool.store.abort(
                        writer.client.id,
                        &held(op_id, &answers),
                        self.pool.now,
                    );
                    assert!(outcome.unwrap().iter().all(|status| *status == Status::Ok));
                }
            }
            Step::Remove {
                client,
                key: number,
            } => {
                let id = self.writers[client].client.id;
                let was_there = self.pool.find(&key(keyspace, number)).is_some();
                let removed = self
                    .pool
                    .store
                    .remove(id, &[key(keyspace, number)], self.pool.now)
                    .unwrap();
                assert_eq!(removed, [was_there]);
                self.committed.remove(&number);
            }
            Step::Clear { client } => {
                let id = self.writers[client].client.id;
                self.pool.store.clear(id, 0).unwrap();
            }
            Step::Pin {
                client,
                slot,
                key: number,
            } => {
                let writer = &mut self.writers[client];
                if writer.pins[slot].is_none() {
                    writer.pins[slot] = self
                        .pool
                        .pin(writer.client, slot, &key(keyspace, number))
                        .map(|found| (found, found.extent.len_bytes.div_ceil(ALIGN)));
                }
            }
            Step::Unpin { client, slot } => {
                let writer = &mut self.writers[client];
                if let Some((found, _)) = writer.pins[slot].take() {
                    // Without a read time to live no honest pin is ever voided.
                    assert!(self.pool.reader.seq(found.entry) - found.seq <= 1);
                    writer.client.pins.clear(slot);
                }
            }
            Step::Touch {
                client,
                key: number,
            } => {
                if let Some(found) = self.pool.find(&key(keyspace, number)) {
                    self.writers[client].client.recency.touch(found.entry);
                }
            }
            // A key whose keyspace has a quota is never committed through a ring.
            Step::Grant { .. } if self.has_keyspace_quota => {}
            Step::Grant { client, len_bytes } => {
                let request = Grant {
                    len_bytes,
                    count: 2,
                };
                let id = self.writers[client].client.id;
                let granted = self
                    .pool
                    .store
                    .grant_extents(id, &request, self.pool.now)
                    .unwrap();
                let units = len_bytes.div_ceil(ALIGN);
                for extent in granted {
                    self.check_grant((extent.offset_units, extent.offset_units + units));
                    self.writers[client].grants.push((extent, units));
                }
            }
            Step::Push {
                client,
                key: number,
                percent,
                is_late,
            } => {
                let writer = &mut self.writers[client];
                if writer.records.len() < RECORDS as usize
                    && let Some(grant) = writer.grants.pop()
                {
                    writer.records.push_back(Record {
                        number,
                        len_bytes: (grant.1 * ALIGN * percent / 100).max(1),
                        grant,
                        is_written: false,
                    });
                    if !is_late {
                        let last = writer.records.len() - 1;
                        writer.write(last, keyspace);
                    }
                }
            }
            Step::Finish { client } => {
                let writer = &mut self.writers[client];
                if let Some(at) = writer.records.iter().position(|record| !record.is_written) {
                    writer.write(at, keyspace);
                }
            }
            Step::Return { client } => {
                let writer = &mut self.writers[client];
                let held: Vec<HeldItem> = writer
                    .grants
                    .drain(..)
                    .map(|(extent, _)| HeldItem {
                        entry: extent.entry,
                        generation: extent.generation,
                    })
                    .collect();
                let id = writer.client.id;
                self.pool.store.return_grants(id, &held).unwrap();
            }
            Step::DrainRings => {
                assert_eq!(self.pool.store.drain_rings(self.pool.now), []);
                for client in 0..CLIENTS {
                    self.read_outcomes(client);
                }
            }
            Step::Slice => {
                let resumed = self.pool.store.slice(self.pool.now);
                self.resume(resumed);
            }
            Step::Tick { ms } => {
                self.pool.now += ms * 1_000_000;
                self.pool.store.tick(self.pool.now);
            }
            Step::Die { client, bye } => {
                let end = if bye {
                    SessionEnd::Bye
                } else {
                    SessionEnd::Death
                };
                let fresh = World::writer(&mut self.pool);
                let dead = std::mem::replace(&mut self.writers[client], fresh);
                for commit in &mut self.waiting {
                    if commit.who == Some(client) && commit.session == dead.client.id {
                        commit.who = None;
                    }
                }
                self.pool
                    .store
                    .close_session(dead.client.id, end, self.pool.now);
                let ring = dead.client.commits.unwrap();
                for (record, position) in dead.records.into_iter().zip(dead.done..) {
                    if record.is_written && ring.outcome(position) == Status::Ok {
                        self.taken.push(record);
                    }
                }
                self.settle_taken();
            }
        }
    }

    /// What the daemon has taken out of a writer's ring: readable, or soon, or the writer's again.
    fn read_outcomes(&mut self, client: usize) {
        let writer = &mut self.writers[client];
        let ring = writer.client.commits.unwrap();
        while writer.done < ring.tail() {
            let record = writer.records.pop_front().unwrap();
            match ring.outcome(writer.done) {
                Status::Ok => self.taken.push(record),
                Status::Exists => writer.grants.push(record.grant),
                other => panic!("an honest record is answered with {other}"),
            }
            writer.done += 1;
        }
        self.settle_taken();
    }

    /// Notes what of the taken records is readable by now.
    fn settle_taken(&mut self) {
        for record in std::mem::take(&mut self.taken) {
            let (extent, _) = record.grant;
            let found = self.pool.find(&key(self.keyspace, record.number));
            if found
                .is_some_and(|found| (found.entry, found.seq) == (extent.entry, extent.generation))
            {
                let end = extent.offset_units + record.len_bytes.div_ceil(ALIGN);
                self.committed
                    .insert(record.number, (extent.offset_units, end));
            } else {
                assert_eq!(self.integrity, Integrity::Full, "a taken record is lost");
                self.taken.push(record);
            }
        }
    }

    fn check(&mut self) {
        self.pool.audited();
        for number in 0..KEYS {
            let Some(found) = self.pool.find(&key(self.keyspace, number)) else {
                continue;
            };
            let known = self
                .committed
                .get(&number)
                .unwrap_or_else(|| panic!("key {number} is found and was never committed"));
            assert_eq!(
                found.extent.offset_units, known.0,
                "key {number} has other bytes"
            );
            assert_eq!(
                found.extent.offset_units + found.extent.len_bytes.div_ceil(ALIGN),
                known.1
            );
            let summed = self.pool.reader.sum(found.entry);
            assert!(
                summed.is_none_or(|summed| summed == sum(found.extent)),
                "key {number} has another object's sum"
            );
            if self.integrity == Integrity::Full {
                assert!(summed.is_some(), "key {number} is readable without a sum");
            }
        }
    }

    fn finish(mut self) {
        self.jobs.extend(self.pool.store.take_jobs());
        while let Some(job) = self.jobs.pop() {
            self.work(&job);
        }
        assert!(self.waiting.is_empty(), "a commit was never carried out");
        for _ in 0..10_000 {
            self.take_tiers();
            self.give_way();
            // What a tier answers may want more of a tier, which the loop hands over in its next turn.
            let is_with_tiers = !self.tier_parts.is_empty();
            while let Some(part) = self.tier_parts.pop() {
                self.serve_tier(part, true);
            }
            if !is_with_tiers && !self.pool.store.has_work() {
                break;
            }
            let resumed = self.pool.store.slice(self.pool.now);
            self.resume(resumed);
        }
        assert!(!self.pool.store.has_work(), "the store never comes to rest");
        for client in 0..CLIENTS {
            assert!(
                self.writers[client].parked.is_empty(),
                "a reserve was never answered"
            );
            self.run(Step::Die { client, bye: false });
        }
        // Their last records may have been waiting for them.
        self.jobs.extend(self.pool.store.take_jobs());
        while let Some(job) = self.jobs.pop() {
            self.work(&job);
        }
        assert!(self.taken.is_empty(), "a record was never carried out");
        self.pool.next_second();
        let audit = self.pool.audited();
        assert_eq!(
            (
                audit.reserved_count,
                audit.quarantined_count,
                audit.zombie_count,
                audit.pin_count
            ),
            (0, 0, 0, 0)
        );
        let present = (0..KEYS).filter(|n| self.pool.find(&key(self.keyspace, *n)).is_some());
        assert_eq!(present.count() as u64, audit.object_count);
        let stats = self.pool.store.stats();
        assert_eq!(
            stats.l1_write_keys,
            audit.object_count + stats.l1_evicted_keys + stats.removed_keys + stats.cleared_keys
        );
    }
}

/// 10,000 sequences from the seed in `HOSTKV_TEST_SEED`, or a fresh one, which is printed.
fn config() -> ProptestConfig {
    let seed = std::env::var("HOSTKV_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("HOSTKV_TEST_SEED={seed}");
    ProptestConfig {
        cases: 10_000,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_store_never_lies_never_leaks_and_always_comes_to_rest(
        steps in prop::collection::vec(step(), 1..200),
        ttl in prop_oneof![Just(None), Just(Some(SECOND))],
        slice_ns in prop_oneof![Just(1), Just(500), Just(3000), Just(SLICE_NS)],
        keyspace_quota in prop_oneof![Just(None), Just(Some(0.1)), Just(Some(0.5))],
        integrity in prop_oneof![Just(Integrity::Off), Just(Integrity::Full)],
        tier_count in 0..2_usize,
    ) {
        let mut world = World::new(ttl, slice_ns, keyspace_quota, integrity, tier_count);
        for step in steps {
            world.run(step);
            world.check();
        }
        world.finish();
    }
}
