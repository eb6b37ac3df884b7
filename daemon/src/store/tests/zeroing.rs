//! Nobody finds another tenant's bytes in what it is granted.
//!
//! A payload of plain bytes stands beside the store. Writers fill what they are granted to the last byte of the extent, jobs
//! are carried out one at a time when the test says so, and every grant is looked at whole.

use super::*;
use crate::workers::{Job, JobEnd, Task};
use hostkv_shm_protocol::wire::reply::Audit;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

const UNIT: usize = ALIGN as usize;

/// A pool that zeroes, its bytes, and the jobs that are not carried out yet.
struct Bytes {
    pool: Pool,
    payload: Vec<u8>,
    jobs: Vec<Job>,
}

impl Bytes {
    fn new(options: Options) -> Bytes {
        let payload = vec![0; options.units as usize * UNIT];
        let pool = Pool::new(Options {
            zeroes_on_reuse: true,
            ..options
        });
        Bytes {
            pool,
            payload,
            jobs: Vec::new(),
        }
    }

    fn fetch(&mut self) {
        self.jobs.extend(self.pool.store.take_jobs());
    }

    /// Carries one job out, any of those that wait.
    fn work(&mut self, which: usize) {
        self.fetch();
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs.swap_remove(which % self.jobs.len());
        let Task::Zero {
            offset_bytes,
            len_bytes,
        } = job.task
        else {
            panic!("not a job of this test");
        };
        self.payload[offset_bytes as usize..][..len_bytes as usize].fill(0);
        let end = JobEnd {
            id: job.id,
            outcome: Ok(Vec::new()),
        };
        assert_eq!(self.pool.store.job_ended(end, self.pool.now), None);
    }

    /// Runs slices and jobs until nothing is left to do; what was resumed on the way.
    fn settle(&mut self) -> Vec<Resumed> {
        let mut resumed = Vec::new();
        for _ in 0..10_000 {
            self.fetch();
            if !self.jobs.is_empty() {
                self.work(0);
            } else if !self.pool.store.has_work() {
                return resumed;
            }
            resumed.extend(self.pool.store.slice(self.pool.now));
        }
        panic!("the store always has work");
    }

    fn audited(&mut self) -> Audit {
        self.pool.audited()
    }

    /// Looks at the whole of each granted extent, and fills it.
    fn write(&mut self, answers: &[ReservedItem]) {
        for answer in answers.iter().filter(|a| a.status == Status::Ok) {
            let (offset, units) = self.pool.store.allocator.extent(answer.entry.0).unwrap();
            let span = &mut self.payload[offset as usize * UNIT..][..units as usize * UNIT];
            assert!(
                span.iter().all(|byte| *byte == 0),
                "a granted extent has bytes of others"
            );
            span.fill(0xaa);
        }
    }

    fn reserve(&mut self, client: Client, wanted: &[(Key, u32)]) -> (OpId, Vec<ReservedItem>) {
        let (op_id, outcome) = self.pool.try_reserve(client, wanted);
        let answers = match outcome.unwrap() {
            Outcome::Done(answers) => answers,
            Outcome::Parked(ticket) => self
                .settle()
                .into_iter()
                .find_map(|resumed| match resumed.answer {
                    ResumedAnswer::Reserved(answers) if resumed.ticket == ticket => Some(answers),
                    _ => None,
                })
                .expect("the parked reserve is answered"),
        };
        self.write(&answers);
        (op_id, answers)
    }

    fn store_one(&mut self, client: Client, key: Key, len_bytes: u32) -> Status {
        let (op_id, answers) = self.reserve(client, &[(key, len_bytes)]);
        match answers[0].status {
            Status::Ok => self.pool.commit(client, op_id, &answers)[0],
            other => other,
        }
    }
}

#[test]
fn a_removed_object_is_used_until_it_is_zeroed() {
    let mut bytes = Bytes::new(Options::default());
    let client = bytes.pool.client();
    let keyspace = bytes.pool.keyspace(client);
    bytes.store_one(client, key(keyspace, 1), ALIGN + 1);
    bytes
        .pool
        .store
        .remove(client.id, &[key(keyspace, 1)], 0)
        .unwrap();
    bytes.pool.settle();
    let gauges = bytes.pool.store.gauges();
    assert_eq!((gauges.zeroing_bytes, gauges.used_bytes), (8192, 8192));
    let audit = bytes.audited();
    assert_eq!((audit.zombie_bytes, audit.zombie_count), (8192, 1));
    bytes.work(0);
    assert_eq!(bytes.pool.store.gauges().used_bytes, 0);
    assert_eq!(bytes.audited().free_count, 256);
    assert!(bytes.payload.iter().all(|byte| *byte == 0));
}

#[test]
fn a_reserve_waits_for_zeros_without_work_for_the_loop_and_evicts_no_more_than_it_needs() {
    let mut bytes = Bytes::new(Options {
        units: 16,
        ..Options::default()
    });
    let client = bytes.pool.client();
    let keyspace = bytes.pool.keyspace(client);
    for n in 0..16 {
        bytes.store_one(client, key(keyspace, n), ALIGN);
    }
    let (_, outcome) = bytes
        .pool
        .try_reserve(client, &[(key(keyspace, 99), ALIGN)]);
    assert!(matches!(outcome, Ok(Outcome::Parked(_))));
    bytes.pool.settle();
    assert!(!bytes.pool.store.has_work(), "the loop would spin");
    assert_eq!(bytes.pool.store.stats().l1_evicted_keys, 1);
    let resumed = bytes.settle();
    assert_eq!(resumed.len(), 1);
    assert_eq!(bytes.pool.store.stats().l1_evicted_keys, 1);
    bytes.audited();
}

#[test]
fn a_pass_above_the_watermark_does_not_evict_again_for_what_is_being_zeroed() {
    let mut bytes = Bytes::new(Options {
        watermark: 0.5,
        ratio: 0.2,
        ..Options::default()
    });
    let client = bytes.pool.client();
    let keyspace = bytes.pool.keyspace(client);
    for n in 0..33 {
        let (op_id, answers) = bytes.reserve(client, &[(key(keyspace, n), ALIGN)]);
        bytes.pool.commit(client, op_id, &answers);
    }
    bytes.pool.settle();
    assert_eq!(bytes.pool.store.stats().l1_evicted_keys, 7);
    bytes.settle();
    assert_eq!(bytes.pool.store.stats().l1_evicted_keys, 7);
    bytes.audited();
}

#[test]
fn what_a_void_pin_names_is_zeroed_before_its_number_waits_for_the_pin() {
    let mut bytes = Bytes::new(Options {
        read_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let client = bytes.pool.client();
    let keyspace = bytes.pool.keyspace(client);
    bytes.store_one(client, key(keyspace, 1), ALIGN);
    bytes.pool.pin(client, 0, &key(keyspace, 1)).unwrap();
    bytes.pool.next_second();
    bytes
        .pool
        .store
        .remove(client.id, &[key(keyspace, 1)], 0)
        .unwrap();
    bytes.pool.next_second();
    bytes.pool.next_second();
    assert_eq!(bytes.audited().zombie_bytes, u64::from(ALIGN));
    bytes.settle();
    assert_eq!(bytes.audited().revoked_count, 1);
    assert!(bytes.payload.iter().all(|byte| *byte == 0));
    client.pins.clear(0);
    bytes.pool.next_second();
    assert_eq!(bytes.audited().free_count, 256);
}

#[test]
fn an_extent_that_could_not_be_zeroed_is_never_granted_again() {
    let mut bytes = Bytes::new(Options::default());
    let client = bytes.pool.client();
    let keyspace = bytes.pool.keyspace(client);
    let (op_id, answers) = bytes.reserve(client, &[(key(keyspace, 1), ALIGN)]);
    let given_back = held(op_id, &answers);
    bytes.pool.store.abort(client.id, &given_back, 0).unwrap();
    bytes.fetch();
    let end = JobEnd {
        id: bytes.jobs.remove(0).id,
        outcome: Err(nix::errno::Errno::EIO),
    };
    bytes.pool.store.job_ended(end, bytes.pool.now);
    assert_eq!(bytes.pool.store.gauges().used_bytes, u64::from(ALIGN));
    bytes.audited();
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { tenant: u8, key: u64, len: u32 },
    Commit,
    Abort,
    Remove { tenant: u8, key: u64 },
    Expire,
    Die,
    Slice,
    Work { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8, 0..12_u64, 1..5 * ALIGN).prop_map(|(tenant, key, len)| Step::Reserve { tenant, key, len }),
        4 => Just(Step::Commit),
        1 => Just(Step::Abort),
        2 => (0..3_u8, 0..12_u64).prop_map(|(tenant, key)| Step::Remove { tenant, key }),
        1 => Just(Step::Expire),
        1 => Just(Step::Die),
        3 => Just(Step::Slice),
        4 => (0..8_usize).prop_map(|which| Step::Work { which }),
    ]
}

/// 2,000 sequences from the seed in `HOSTKV_TEST_SEED`, or a fresh one, which is printed.
fn config() -> ProptestConfig {
    let seed = std::env::var("HOSTKV_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("HOSTKV_TEST_SEED={seed}");
    ProptestConfig {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Eviction, removal, abort, expiry and death, extents that split and join, jobs that end in any order.
    #[test]
    fn every_grant_is_zero_to_its_last_byte_and_nothing_leaks(steps in prop::collection::vec(step(), 1..120)) {
        let mut bytes = Bytes::new(Options {
            units: 24,
            entries: 40,
            watermark: 0.9,
            write_ttl_ns: Some(SECOND),
            ..Options::default()
        });
        let open = |bytes: &mut Bytes| {
            let client = bytes.pool.client();
            let spaces = ["a", "b", "c"].map(|salt| {
                bytes.pool.resolve_salted(client, "model", salt, 1).unwrap().keyspace
            });
            (client, spaces)
        };
        let (mut client, spaces) = open(&mut bytes);
        // Keeps the keyspaces when the other dies.
        let _anchor = open(&mut bytes);
        let mut held_by_client: Vec<(OpId, Vec<ReservedItem>)> = Vec::new();
        let mut parked: HashMap<Ticket, OpId> = HashMap::new();
        for step in steps {
            match step {
                Step::Reserve { tenant, key: number, len } => {
                    let wanted = [(key(spaces[tenant as usize], number), len)];
                    let (op_id, outcome) = bytes.pool.try_reserve(client, &wanted);
                    match outcome {
                        Ok(Outcome::Done(answers)) => {
                            bytes.write(&answers);
                            held_by_client.push((op_id, answers));
                        }
                        Ok(Outcome::Parked(ticket)) => {
                            parked.insert(ticket, op_id);
                        }
                        Err(_) => {}
                    }
                }
                Step::Commit => {
                    if let Some((op_id, answers)) = held_by_client.pop() {
                        bytes.pool.commit(client, op_id, &answers);
                    }
                }
                Step::Abort => {
                    if let Some((op_id, answers)) = held_by_client.pop() {
                        let _ = bytes.pool.store.abort(client.id, &held(op_id, &answers), bytes.pool.now);
                    }
                }
                Step::Remove { tenant, key: number } => {
                    let gone = [key(spaces[tenant as usize], number)];
                    bytes.pool.store.remove(client.id, &gone, bytes.pool.now).unwrap();
                }
                Step::Expire => {
                    bytes.pool.now += SECOND;
                    bytes.pool.store.tick(bytes.pool.now);
                }
                Step::Die => {
                    bytes.pool.store.close_session(client.id, SessionEnd::Death, bytes.pool.now);
                    held_by_client.clear();
                    parked.clear();
                    client = open(&mut bytes).0;
                }
                Step::Slice => {
                    for resumed in bytes.pool.store.slice(bytes.pool.now) {
                        let ResumedAnswer::Reserved(answers) = resumed.answer else {
                            continue;
                        };
                        bytes.write(&answers);
                        let op_id = parked.remove(&resumed.ticket).unwrap();
                        held_by_client.push((op_id, answers));
                    }
                }
                Step::Work { which } => bytes.work(which),
            }
            bytes.audited();
        }
        bytes.pool.store.close_session(client.id, SessionEnd::Death, bytes.pool.now);
        bytes.settle();
        let audit = bytes.audited();
        prop_assert_eq!(
            (audit.reserved_count, audit.quarantined_count, audit.zombie_count),
            (0, 0, 0)
        );
    }
}
