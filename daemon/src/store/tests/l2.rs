//! What the store has stored in tiers, loads out of them, and keeps for prefetches; the tiers are a map of lengths.

use super::*;
use crate::store::l2::TierWork;
use crate::tiers::{Completion, Found as FoundInTier, LoadOutcome, TaskId, TierKey, TierSet};
use hostkv_shm_protocol::wire::reply::Prefetched;
use hostkv_shm_protocol::wire::request::Prefetch;
use std::collections::BTreeMap;

/// A tier that holds what it is given.
#[derive(Default)]
pub(super) struct Tier {
    pub(super) objects: BTreeMap<TierKey, u64>,
    /// What it was given and has not done.
    pub(super) work: Vec<TierWork>,
    /// How often each object was stored.
    stored: BTreeMap<TierKey, u32>,
    /// How often each object was loaded.
    loaded: BTreeMap<TierKey, u32>,
    is_broken: bool,
}

impl Tier {
    /// Takes what the store wants now.
    pub(super) fn take(&mut self, pool: &mut Pool) {
        self.work.extend(pool.store.take_tier_work());
    }

    /// Does all that it has, and what comes of it, and runs the store in between.
    pub(super) fn serve(&mut self, pool: &mut Pool) -> Vec<Resumed> {
        let mut resumed = Vec::new();
        for _ in 0..1000 {
            self.take(pool);
            if self.work.is_empty() && !pool.store.has_work() {
                return resumed;
            }
            for work in std::mem::take(&mut self.work) {
                for completion in self.completions(work) {
                    pool.store.tier_ended(completion, pool.now);
                }
            }
            resumed.extend(pool.store.slice(pool.now));
        }
        panic!("the store never comes to rest");
    }

    pub(super) fn completions(&mut self, work: TierWork) -> Vec<Completion> {
        match work {
            TierWork::Store(task) => {
                let mut completions = Vec::new();
                for (object, stored) in task.objects.iter().enumerate() {
                    let mut tiers = TierSet::default();
                    if !self.is_broken {
                        self.objects.insert(stored.key, stored.source.len_bytes);
                        *self.stored.entry(stored.key).or_default() += 1;
                        tiers = tiers.with(0);
                    }
                    completions.push(stored_as(task.id, object, tiers));
                }
                completions
            }
            TierWork::Lookup(task) => {
                let found = |key| {
                    let len_bytes = *self.objects.get(key)?;
                    Some(FoundInTier { tier: 0, len_bytes })
                };
                vec![Completion::LookedUp {
                    task: task.id,
                    found: task.keys.iter().map(found).collect(),
                }]
            }
            TierWork::Load(task) => {
                let mut completions = Vec::new();
                for (object, load) in task.objects.iter().enumerate() {
                    *self.loaded.entry(load.key).or_default() += 1;
                    let is_there = self.objects.get(&load.key) == Some(&load.destination.len_bytes);
                    completions.push(Completion::Loaded {
                        task: task.id,
                        object,
                        outcome: match is_there && !self.is_broken {
                            true => LoadOutcome::Loaded {
                                tier: 0,
                                sum: Sum::of_checksum(1),
                            },
                            false => LoadOutcome::Missed,
                        },
                    });
                }
                completions
            }
            TierWork::Remove(keys) => {
                for key in keys {
                    self.objects.remove(&key);
                }
                Vec::new()
            }
        }
    }
}

fn stored_as(task: TaskId, object: usize, tiers: TierSet) -> Completion {
    Completion::Stored {
        task,
        object,
        tiers,
    }
}

/// A pool of 640 units with one tier.
pub(super) fn pool() -> (Pool, Tier) {
    pool_with(|_| {})
}

fn pool_with(change: impl FnOnce(&mut Options)) -> (Pool, Tier) {
    let mut options = Options {
        units: 640,
        l2: L2Config {
            tier_count: 1,
            skips_l1: false,
        },
        ..Options::default()
    };
    change(&mut options);
    (Pool::new(options), Tier::default())
}

impl Pool {
    pub(super) fn prefetch(
        &mut self,
        client: Client,
        keys: &[Key],
    ) -> (OpId, Result<Outcome<Prefetched>, Refusal>) {
        self.next_op += 1;
        let op_id = OpId(self.next_op);
        let request = Prefetch {
            op_id,
            request_id: format!("r{}", op_id.0),
            device: String::new(),
            keys: keys.to_vec(),
        };
        (op_id, self.store.prefetch(client.id, request, self.now))
    }

    /// A prefetch that needs no tier.
    fn prefetched(&mut self, client: Client, keys: &[Key]) -> (OpId, Prefetched) {
        match self.prefetch(client, keys) {
            (op_id, Ok(Outcome::Done(outcome))) => (op_id, outcome),
            other => panic!("{other:?}"),
        }
    }

    fn end_prefetch(&mut self, client: Client, op_id: OpId) {
        self.store.end_prefetch(client.id, op_id, self.now).unwrap();
    }

    /// Fills the pool up by objects of one unit under numbers from `first` on, and gives how many went in.
    fn fill(&mut self, client: Client, keyspace: KeyspaceId, first: u64, count: u64) {
        for number in first..first + count {
            assert_eq!(
                self.store_one(client, key(keyspace, number), ALIGN),
                Status::Ok,
                "key {number}"
            );
        }
    }
}

fn outcome(prefix_count: u32, loaded_count: u32, status: Status) -> Prefetched {
    Prefetched {
        prefix_count,
        loaded_count,
        status,
    }
}

/// The answer of a prefetch among those of other requests.
pub(super) fn answer(resumed: &[Resumed], ticket: Ticket) -> Prefetched {
    let answers: Vec<&Resumed> = resumed.iter().filter(|r| r.ticket == ticket).collect();
    match answers.as_slice() {
        [
            Resumed {
                answer: ResumedAnswer::Prefetched(outcome),
                ..
            },
        ] => *outcome,
        other => panic!("{other:?}"),
    }
}

pub(super) fn parked(outcome: Result<Outcome<Prefetched>, Refusal>) -> Ticket {
    match outcome {
        Ok(Outcome::Parked(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_tiers_a_prefetch_keeps_the_prefix_that_l1_has_until_it_ends() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 4);
    let keys = [0, 1, 9, 2].map(|number| key(keyspace, number));
    let (op_id, got) = pool.prefetched(client, &keys);
    assert_eq!(got, outcome(2, 0, Status::NotFound));
    pool.audited();
    // A pool of 64 units: everything but the two goes.
    pool.fill(client, keyspace, 100, 62);
    let is_there = |pool: &Pool, number| pool.find(&key(keyspace, number)).is_some();
    assert!(is_there(&pool, 0) && is_there(&pool, 1));
    assert!(!is_there(&pool, 2) && !is_there(&pool, 3));
    pool.audited();
    pool.end_prefetch(client, op_id);
    pool.fill(client, keyspace, 200, 64);
    assert!(!is_there(&pool, 0) && !is_there(&pool, 1));
    // The end of what is over already is nothing.
    pool.end_prefetch(client, op_id);
    pool.audited();
    assert_eq!(pool.store.stats().read_requests, 0);
}

#[test]
fn what_a_prefetch_keeps_is_charged_to_the_pin_quota_which_ends_the_run() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 40);
    let keys: Vec<Key> = (0..40).map(|number| key(keyspace, number)).collect();
    // Half of 64 units.
    let (first, got) = pool.prefetched(client, &keys);
    assert_eq!(got, outcome(32, 0, Status::Quota));
    let (second, got) = pool.prefetched(client, &keys[32..]);
    assert_eq!(got, outcome(0, 0, Status::Quota));
    // All sessions together: what the pin gate leaves, 0.8 of 64 units.
    let other = pool.client();
    pool.keyspace(other);
    let (_, got) = pool.prefetched(other, &keys);
    assert_eq!(got, outcome(19, 0, Status::Quota));
    pool.audited();
    pool.end_prefetch(client, first);
    pool.end_prefetch(client, second);
    let (_, got) = pool.prefetched(client, &keys[32..]);
    assert_eq!(got, outcome(8, 0, Status::Ok));
    pool.audited();
}

#[test]
fn a_session_has_at_most_32_prefetches_and_each_under_its_own_number() {
    let mut pool = Pool::new(Options::default());
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let keys = [key(keyspace, 1)];
    for _ in 0..32 {
        pool.prefetched(client, &keys);
    }
    let (_, refused) = pool.prefetch(client, &keys);
    let refusal = refused.unwrap_err();
    assert_eq!(refusal.status, Status::Quota);
    assert!(refusal.text.contains("32"), "{}", refusal.text);
    pool.end_prefetch(client, OpId(1));
    pool.next_op = 1;
    let (_, twice) = pool.prefetch(client, &keys);
    assert_eq!(twice.unwrap_err().status, Status::InvalidArgument);
    pool.next_op = 100;
    pool.prefetched(client, &keys);
    let strange = Key::new(&[1; 32], 32, 0, 0, KeyspaceId(77)).unwrap();
    pool.next_op = 200;
    let (_, refused) = pool.prefetch(client, &[strange]);
    assert_eq!(refused.unwrap_err().status, Status::InvalidArgument);
}

#[test]
fn committed_objects_are_stored_once_and_come_back_after_their_eviction() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 8);
    tier.serve(&mut pool);
    assert_eq!(tier.objects.len(), 8);
    // Everything but what is pinned goes; it was stored, so nothing is lost.
    pool.fill(client, keyspace, 1000, 128);
    tier.serve(&mut pool);
    for round in 0..4 {
        pool.fill(client, keyspace, 2000 + 128 * round, 128);
        tier.serve(&mut pool);
    }
    assert!((0..8).all(|n| pool.find(&key(keyspace, n)).is_none()));
    assert_eq!(pool.store.stats().l2_evicted_unstored_keys, 0);
    assert!(tier.stored.values().all(|times| *times == 1));

    let written = pool.store.stats().l1_write_keys;
    let requests = pool.store.stats().write_requests;
    let keys: Vec<Key> = (0..8).map(|number| key(keyspace, number)).collect();
    let (op_id, parked_as) = pool.prefetch(client, &keys);
    let ticket = parked(parked_as);
    pool.audited();
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, ticket), outcome(8, 8, Status::Ok));
    assert!(keys.iter().all(|key| pool.find(key).is_some()));
    assert_eq!(pool.store.stats().l1_write_keys, written + 8);
    assert_eq!(pool.store.stats().write_requests, requests);
    assert_eq!(pool.store.stats().read_requests, 0);
    // What came out of a tier is not stored again, and stays for as long as it is kept.
    for round in 0..8 {
        pool.fill(client, keyspace, 5000 + 128 * round, 128);
        tier.serve(&mut pool);
    }
    assert!(keys.iter().all(|key| pool.find(key).is_some()));
    assert!(tier.stored.values().all(|times| *times == 1));
    pool.end_prefetch(client, op_id);
    pool.audited();
}

#[test]
fn the_first_key_that_no_tier_has_ends_the_prefix_and_what_lies_behind_it_is_let_go() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 6);
    tier.serve(&mut pool);
    let keys: Vec<Key> = (0..6).map(|number| key(keyspace, number)).collect();
    pool.store.remove(client.id, &keys[3..4], pool.now).unwrap();
    pool.settle();
    tier.serve(&mut pool);
    assert_eq!(tier.objects.len(), 5, "removed there too");
    let (_, parked_as) = pool.prefetch(client, &keys);
    let ticket = parked(parked_as);
    // While the tiers are asked the keys behind the gap are kept too, so that none goes meanwhile.
    assert_eq!(pool.store.l2_gauges().kept_bytes, 5 * u64::from(ALIGN));
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, ticket), outcome(3, 0, Status::NotFound));
    assert_eq!(pool.store.l2_gauges().kept_bytes, 3 * u64::from(ALIGN));
    pool.audited();
}

/// Objects 0 to `count` - 1 in the tier and none of them in L1.
pub(super) fn only_in_tier(
    pool: &mut Pool,
    tier: &mut Tier,
    client: Client,
    count: u64,
) -> Vec<Key> {
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, count);
    tier.serve(pool);
    // Not by remove, which takes them out of the tier too.
    pool.store.clear(client.id, 0).unwrap();
    tier.serve(pool);
    let keys: Vec<Key> = (0..count).map(|number| key(keyspace, number)).collect();
    assert!(keys.iter().all(|key| pool.find(key).is_none()));
    assert_eq!(tier.objects.len() as u64, count);
    keys
}

#[test]
fn one_load_serves_all_who_ask_for_the_same_key() {
    let (mut pool, mut tier) = pool();
    let a = pool.client();
    let b = pool.client();
    pool.keyspace(b);
    let keys = only_in_tier(&mut pool, &mut tier, a, 4);
    let (_, first) = pool.prefetch(a, &keys);
    let (_, second) = pool.prefetch(b, &keys[1..]);
    // Both ask before either loads; a third comes while the load is under way.
    let (first, second) = (parked(first), parked(second));
    tier.take(&mut pool);
    let lookups = std::mem::take(&mut tier.work);
    assert_eq!(lookups.len(), 2);
    for completion in lookups.into_iter().flat_map(|work| tier.completions(work)) {
        pool.store.tier_ended(completion, pool.now);
    }
    let (_, third) = pool.prefetch(b, &keys);
    let third = parked(third);
    pool.audited();
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, first), outcome(4, 4, Status::Ok));
    assert_eq!(answer(&resumed, second), outcome(3, 3, Status::Ok));
    assert_eq!(answer(&resumed, third), outcome(4, 4, Status::Ok));
    assert_eq!(tier.loaded.len(), 4);
    assert!(tier.loaded.values().all(|times| *times == 1));
    pool.audited();
}

#[test]
fn a_load_that_fails_is_a_miss_for_all_and_leaves_nothing_behind() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keys = only_in_tier(&mut pool, &mut tier, client, 4);
    // The lookup finds it, the load does not.
    let third = *tier.objects.keys().nth(2).unwrap();
    let (_, parked_as) = pool.prefetch(client, &keys);
    let ticket = parked(parked_as);
    tier.take(&mut pool);
    let lookup = tier.work.pop().unwrap();
    for completion in tier.completions(lookup) {
        pool.store.tier_ended(completion, pool.now);
    }
    tier.objects.remove(&third);
    let used = pool.store.gauges().used_bytes;
    assert_eq!(used, 4 * u64::from(ALIGN));
    let resumed = tier.serve(&mut pool);
    let got = answer(&resumed, ticket);
    assert!(got.prefix_count < 4 && got.status == Status::NotFound);
    assert_eq!(got.loaded_count, got.prefix_count);
    let audit = pool.audited();
    assert_eq!((audit.reserved_count, audit.object_count), (0, 3));
}

#[test]
fn a_session_that_dies_while_its_keys_are_loaded_leaves_nothing_reserved_and_nothing_kept() {
    for at in 0..3 {
        let (mut pool, mut tier) = pool();
        let client = pool.client();
        let keys = only_in_tier(&mut pool, &mut tier, client, 4);
        let watcher = pool.client();
        pool.keyspace(watcher);
        parked(pool.prefetch(client, &keys).1);
        if at >= 1 {
            // The lookup is answered, the load is with the tier.
            tier.take(&mut pool);
            let lookup = tier.work.pop().unwrap();
            for completion in tier.completions(lookup) {
                pool.store.tier_ended(completion, pool.now);
            }
        }
        if at >= 2 {
            tier.take(&mut pool);
        }
        pool.store
            .close_session(client.id, SessionEnd::Death, pool.now);
        pool.audited();
        assert_eq!(pool.store.l2_gauges().kept_bytes, 0);
        let resumed = tier.serve(&mut pool);
        assert_eq!(resumed, [], "nobody is there to be answered");
        let audit = pool.audited();
        assert_eq!((audit.reserved_count, audit.zombie_count), (0, 0), "{at}");
        assert_eq!(pool.store.l2_gauges().prefetches, 0);
    }
}

#[test]
fn a_tier_that_never_answers_leaves_a_prefetch_with_the_prefix_of_l1() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    let gone = only_in_tier(&mut pool, &mut tier, client, 2);
    pool.fill(client, keyspace, 7, 1);
    let (op_id, parked_as) = pool.prefetch(client, &[key(keyspace, 7), gone[0], gone[1]]);
    let ticket = parked(parked_as);
    tier.take(&mut pool);
    for _ in 0..59 {
        pool.next_second();
    }
    assert_eq!(pool.store.l2_gauges().prefetches, 1);
    pool.now += SECOND;
    pool.store.tick(pool.now);
    let resumed = pool.store.slice(pool.now);
    assert_eq!(answer(&resumed, ticket), outcome(1, 0, Status::Timeout));
    // What it says at last is of use to nobody, and does no harm.
    tier.serve(&mut pool);
    pool.end_prefetch(client, op_id);
    assert_eq!(pool.audited().reserved_count, 0);
}

#[test]
fn a_prefetch_that_is_ended_early_is_answered_and_its_load_goes_on_for_others() {
    let (mut pool, mut tier) = pool();
    let a = pool.client();
    let b = pool.client();
    pool.keyspace(b);
    let keys = only_in_tier(&mut pool, &mut tier, a, 2);
    let (op_id, first) = pool.prefetch(a, &keys);
    let first = parked(first);
    tier.take(&mut pool);
    let lookup = tier.work.pop().unwrap();
    for completion in tier.completions(lookup) {
        pool.store.tier_ended(completion, pool.now);
    }
    let (_, second) = pool.prefetch(b, &keys);
    let second = parked(second);
    pool.end_prefetch(a, op_id);
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, first), outcome(0, 0, Status::NotFound));
    assert_eq!(answer(&resumed, second), outcome(2, 2, Status::Ok));
    pool.audited();
}

#[test]
fn loads_make_room_by_eviction_and_let_reserves_pass() {
    let (mut pool, mut tier) = pool_with(|options| options.units = 64);
    let client = pool.client();
    let keys = only_in_tier(&mut pool, &mut tier, client, 16);
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 100, 64);
    tier.serve(&mut pool);
    let (_, parked_as) = pool.prefetch(client, &keys);
    let ticket = parked(parked_as);
    tier.take(&mut pool);
    let lookup = tier.work.pop().unwrap();
    for completion in tier.completions(lookup) {
        pool.store.tier_ended(completion, pool.now);
    }
    // The pool is full: the load waits for room. A reserve that comes now is answered before it.
    let (_, reserved) = pool.try_reserve(client, &[(key(keyspace, 500), ALIGN)]);
    let Ok(Outcome::Parked(reserve)) = reserved else {
        panic!("{reserved:?}");
    };
    let mut order = Vec::new();
    for _ in 0..100 {
        for done in pool.store.slice(pool.now) {
            order.push(done.ticket);
        }
        if order.contains(&reserve) {
            break;
        }
    }
    assert_eq!(order, [reserve]);
    pool.audited();
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, ticket), outcome(16, 16, Status::Ok));
    pool.audited();
}

#[test]
fn a_load_that_finds_no_room_ends_the_prefix() {
    let (mut pool, mut tier) = pool_with(|options| options.units = 64);
    let client = pool.client();
    let keys = only_in_tier(&mut pool, &mut tier, client, 8);
    let keyspace = pool.keyspace(client);
    // Everything but four units is pinned.
    for number in 0..60 {
        assert_eq!(
            pool.store_one(client, key(keyspace, 100 + number), ALIGN),
            Status::Ok
        );
    }
    tier.serve(&mut pool);
    let holders: Vec<Client> = (0..2).map(|_| pool.client()).collect();
    for number in 0..60 {
        let holder = holders[(number / 30) as usize];
        let pinned = pool.pin(holder, number as usize % 30, &key(keyspace, 100 + number));
        assert!(pinned.is_some());
    }
    let (_, parked_as) = pool.prefetch(client, &keys);
    let ticket = parked(parked_as);
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, ticket), outcome(4, 4, Status::NoSpace));
    pool.audited();
}

#[test]
fn what_tiers_read_is_bounded_and_the_rest_waits_without_a_cost() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 200);
    tier.take(&mut pool);
    let gauges = pool.store.l2_gauges();
    // 640 units: a tenth is 64 of them.
    assert_eq!(gauges.storing_objects, 64);
    assert_eq!(gauges.storing_bytes, 64 * u64::from(ALIGN));
    assert_eq!(gauges.waiting_objects, 136);
    tier.take(&mut pool);
    assert_eq!(pool.store.l2_gauges().storing_objects, 64);
    // One task is as many objects as one has room for, not one a key.
    assert_eq!(tier.work.len(), 4);
    tier.serve(&mut pool);
    assert_eq!(tier.objects.len(), 200);
    assert_eq!(pool.store.l2_gauges().storing_bytes, 0);
    // What is larger than a tenth is never stored.
    assert_eq!(
        pool.store_one(client, key(keyspace, 999), 65 * ALIGN),
        Status::Ok
    );
    tier.serve(&mut pool);
    assert_eq!(pool.store.stats().l2_left_out_keys, 1);
    assert_eq!(tier.objects.len(), 200);
    pool.audited();
}

#[test]
fn an_object_that_is_being_stored_stays_where_it_is_until_the_tiers_are_done() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 1);
    tier.take(&mut pool);
    let keys = [key(keyspace, 0)];
    pool.store.remove(client.id, &keys, pool.now).unwrap();
    pool.next_second();
    pool.next_second();
    assert_eq!(pool.audited().zombie_count, 1, "the tier still reads it");
    tier.serve(&mut pool);
    assert_eq!(pool.audited().zombie_count, 0);
    assert_eq!(tier.objects.len(), 0, "removed while it was stored");
}

#[test]
fn the_background_stores_what_it_evicts_and_counts_what_it_has_no_room_for() {
    let (mut pool, mut tier) = pool_with(|options| {
        options.watermark = 0.8;
        options.entries = 1024;
    });
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    // The tier does nothing while 640 units are filled to 90 %: 64 objects are with it, the others wait.
    let mut crossed = 0;
    for number in 0..576 {
        pool.fill(client, keyspace, number, 1);
        tier.take(&mut pool);
        pool.store.slice(pool.now);
        crossed += 1;
    }
    pool.settle();
    let stats = *pool.store.stats();
    assert!(stats.l1_evicted_keys > 0 && crossed == 576);
    // The first 64 are being read and leave when that is over; the others had no room.
    assert_eq!(
        stats.l2_evicted_unstored_keys,
        stats.l1_evicted_keys - 64,
        "{stats:?}"
    );
    assert_eq!(pool.audited().zombie_count, 64);
    tier.serve(&mut pool);
    let stats = *pool.store.stats();
    assert_eq!(pool.audited().zombie_count, 0);
    // Each object is either in the tier or counted as lost.
    assert_eq!(
        tier.objects.len() as u64 + stats.l2_evicted_unstored_keys,
        576
    );
    assert!(tier.stored.values().all(|times| *times == 1));
}

#[test]
fn eviction_with_time_stores_first_what_waits() {
    let (mut pool, mut tier) = pool_with(|options| {
        options.watermark = 0.5;
        options.ratio = 0.1;
        options.entries = 1024;
    });
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    tier.is_broken = true;
    pool.fill(client, keyspace, 0, 300);
    tier.serve(&mut pool);
    assert_eq!(tier.objects.len(), 0);
    // It works again; what it refused is stored when it is evicted, not before.
    tier.is_broken = false;
    pool.next_second();
    tier.serve(&mut pool);
    assert_eq!(tier.objects.len(), 0);
    pool.fill(client, keyspace, 300, 30);
    tier.serve(&mut pool);
    let stats = pool.store.stats();
    assert!(stats.l1_evicted_keys > 0);
    assert_eq!(stats.l2_evicted_unstored_keys, 0);
    assert_eq!(tier.objects.len() as u64, 30 + stats.l1_evicted_keys);
    pool.audited();
}

#[test]
fn stores_give_way_to_a_reserve_that_finds_no_space_otherwise() {
    let (mut pool, mut tier) = pool_with(|options| options.entries = 1024);
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 64);
    tier.take(&mut pool);
    let holders: Vec<Client> = (0..3).map(|_| pool.client()).collect();
    for number in 64..640_u64 {
        pool.fill(client, keyspace, number, 1);
        let holder = holders[number as usize % 3];
        assert!(
            pool.pin(holder, number as usize / 3, &key(keyspace, number))
                .is_some()
        );
    }
    // Pinned by readers or read by the tier: nothing can go. The tier hangs and says nothing.
    let (_, reserved) = pool.try_reserve(client, &[(key(keyspace, 9999), ALIGN)]);
    let Ok(Outcome::Parked(ticket)) = reserved else {
        panic!("{reserved:?}");
    };
    let mut answers = None;
    for _ in 0..1000 {
        for done in pool.store.slice(pool.now) {
            if done.ticket == ticket {
                answers = Some(done.answer);
            }
        }
        if let Some(bytes) = pool.store.take_wanted_room() {
            assert_eq!(bytes, u64::from(ALIGN));
            // One store is given up, the oldest.
            let TierWork::Store(task) = &mut tier.work[0] else {
                panic!("{:?}", tier.work);
            };
            let given_up = stored_as(task.id, 0, TierSet::default());
            pool.store.stores_gave_way(vec![given_up], pool.now);
        }
        if answers.is_some() {
            break;
        }
        assert!(pool.store.has_work(), "the reserve waits for nothing");
    }
    let Some(ResumedAnswer::Reserved(answers)) = answers else {
        panic!("{answers:?}");
    };
    assert_eq!(statuses(&answers), [Status::Ok]);
    assert_eq!(pool.store.stats().l2_displaced_stores, 1);
    pool.audited();
}

#[test]
fn with_skip_l1_an_object_leaves_l1_once_a_tier_holds_it_and_comes_back_for_a_prefetch_only() {
    let (mut pool, mut tier) = pool_with(|options| {
        options.l2.skips_l1 = true;
        options.policy = EvictionPolicy::Noop;
    });
    let client = pool.client();
    let keyspace = pool.keyspace(client);
    pool.fill(client, keyspace, 0, 4);
    let keys: Vec<Key> = (0..4).map(|number| key(keyspace, number)).collect();
    assert!(keys.iter().all(|key| pool.find(key).is_some()));
    let pinned = pool.pin(client, 0, &keys[3]).unwrap();
    tier.serve(&mut pool);
    pool.next_second();
    assert!(keys.iter().all(|key| pool.find(key).is_none()));
    assert_eq!(pool.store.stats().l2_skipped_l1_keys, 4);
    assert_eq!(pool.store.stats().l1_evicted_keys, 0);
    // A lease outlives it.
    assert_eq!(pool.audited().zombie_count, 1);
    assert!(pool.reader.seq(pinned.entry) - pinned.seq <= 1);
    client.pins.clear(0);
    pool.next_second();
    assert_eq!(pool.audited().zombie_count, 0);

    let (op_id, parked_as) = pool.prefetch(client, &keys);
    let ticket = parked(parked_as);
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, ticket), outcome(4, 4, Status::Ok));
    pool.next_second();
    assert!(keys.iter().all(|key| pool.find(key).is_some()));
    pool.end_prefetch(client, op_id);
    tier.serve(&mut pool);
    pool.next_second();
    assert!(keys.iter().all(|key| pool.find(key).is_none()));
    assert_eq!(pool.audited().object_count, 0);
}

#[test]
fn an_object_of_a_keyspace_that_another_layout_took_over_is_not_made_readable() {
    let (mut pool, mut tier) = pool();
    let client = pool.client();
    let keys = only_in_tier(&mut pool, &mut tier, client, 2);
    let _ticket = parked(pool.prefetch(client, &keys).1);
    tier.take(&mut pool);
    let lookup = tier.work.pop().unwrap();
    for completion in tier.completions(lookup) {
        pool.store.tier_ended(completion, pool.now);
    }
    tier.take(&mut pool);
    pool.store
        .close_session(client.id, SessionEnd::Bye, pool.now);
    let other = pool.client();
    let keyspace = pool.resolve(other, "model", 2).unwrap().keyspace;
    assert_ne!(keyspace, keys[0].keyspace());
    tier.serve(&mut pool);
    let audit = pool.audited();
    assert_eq!((audit.object_count, audit.reserved_count), (0, 0));
    // The other layout finds nothing in the tier either.
    let ticket = parked(pool.prefetch(other, &[key(keyspace, 0)]).1);
    let resumed = tier.serve(&mut pool);
    assert_eq!(answer(&resumed, ticket), outcome(0, 0, Status::NotFound));
}
