//! The read path against an index and a lease segment in this process's memory, with the daemon's own writer.

use super::*;
use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::HeaderInit;
use hostkv_shm_protocol::control::writer::IndexWriter;
use hostkv_shm_protocol::id::{InstanceId, SessionId};
use hostkv_shm_protocol::key::HashSecret;
use hostkv_shm_protocol::lease::counters::split_keys;
use hostkv_shm_protocol::sum::sum_of;

const ALIGN: u32 = 4096;
const PAYLOAD: u64 = 64 << 20;
const KEYSPACE: KeyspaceId = KeyspaceId(7);
const THREAD: u32 = 4242;

/// Zeroed memory that two sides look at; atomics only.
struct Memory(Box<[AtomicU64]>);

impl Memory {
    fn new(len: u64) -> Memory {
        Memory((0..len / 8).map(|_| AtomicU64::new(0)).collect())
    }

    fn view(&self) -> View {
        // SAFETY: the words live as long as the pool below, which keeps them longer than any view.
        unsafe { View::new(self.0.as_ptr().cast(), self.0.len() as u64 * 8) }
    }
}

/// The daemon's side and the client's side of one session.
struct Pool {
    read: ReadPath,
    writer: IndexWriter,
    header: HeaderView,
    daemon_slots: PinSlots,
    daemon_recency: Recency,
    daemon_counters: Counters,
    _control: Memory,
    _lease: Memory,
    payload: Memory,
}

impl Pool {
    fn new(slot_count: u32, quota_units: u64) -> Pool {
        Pool::checking(slot_count, quota_units, 0)
    }

    /// A pool whose readers compare one object in `check_every`, if that is not 0.
    fn checking(slot_count: u32, quota_units: u64, check_every: u32) -> Pool {
        let geometry = Geometry::for_entries(4096).with_sums(check_every != 0);
        // Only the objects that are compared are ever read.
        let payload = Memory::new(if check_every == 0 { 0 } else { PAYLOAD });
        let control = Memory::new(geometry.segment_len());
        let header = HeaderView::new(control.view()).unwrap();
        let instance_id = InstanceId([9; 16]);
        header.initialise(&HeaderInit {
            instance_id,
            boot_id: [1, 2],
            created_mono_ns: 30_000_000_000,
            flags: 0,
            geometry,
            align_bytes: ALIGN,
            hash_secret: HashSecret { k0: 5, k1: 6 },
            payload_len: PAYLOAD,
            max_sessions: 4,
            check_every,
        });
        header.daemon_alive().store(THREAD, Ordering::Relaxed);
        header
            .state()
            .store(State::Serving as u32, Ordering::Relaxed);
        let lease_geometry = LeaseGeometry::new(slot_count, geometry.entry_count);
        let lease = Memory::new(lease_geometry.segment_len());
        lease_geometry
            .initialise(&lease.view(), instance_id, SessionId(1))
            .unwrap();
        let hello = HelloReply {
            instance_id,
            daemon_thread_id: THREAD,
            session_id: SessionId(1),
            capacity_bytes: PAYLOAD,
            align_bytes: u64::from(ALIGN),
            huge_page_bytes: 0,
            pin_quota_bytes: quota_units * u64::from(ALIGN),
            reserve_quota_bytes: PAYLOAD,
            keyspace_quota_bytes: PAYLOAD,
            staging_bytes: 0,
            max_object_bytes: PAYLOAD,
            pin_slot_count: slot_count,
            max_batch_keys: 1024,
            chunk_size: 256,
            server_version: String::new(),
        };
        Pool {
            read: ReadPath::new(control.view(), lease.view(), payload.view(), &hello).unwrap(),
            writer: IndexWriter::new(control.view()).unwrap(),
            header,
            daemon_slots: PinSlots::new(lease.view(), &lease_geometry).unwrap(),
            daemon_recency: Recency::new(lease.view(), &lease_geometry).unwrap(),
            daemon_counters: Counters::new(lease.view()).unwrap(),
            _control: control,
            _lease: lease,
            payload,
        }
    }

    /// Stores key number `n` in entry `n`, one unit long.
    fn store(&mut self, n: u32) {
        let key = key(n).in_keyspace(KEYSPACE, 0).unwrap();
        let entry = EntryNumber(n);
        let extent = Extent {
            offset_units: n,
            len_bytes: ALIGN,
        };
        self.writer.write_fields(entry, &key, extent);
        self.writer.link(entry, self.writer.hash(&key)).unwrap();
        if self.writer.has_sums() {
            let offset = u64::from(n) * u64::from(ALIGN);
            let sum = sum_of(&self.payload.view(), offset, u64::from(ALIGN)).unwrap();
            self.writer.set_sum(entry, Some(sum));
        }
        self.writer.publish(entry);
    }

    fn acquire(&self, keys: &[ChunkKey], is_all: bool) -> Pins {
        let mut pins = Pins::default();
        let ahead = self.read.locate_ahead(self.read.ask_ahead(KEYSPACE, keys));
        self.read.acquire(KEYSPACE, keys, is_all, ahead, &mut pins);
        pins
    }

    /// In ascending order: which slots a thread takes is its own matter.
    fn pinned_entries(&self) -> Vec<u32> {
        let mut entries: Vec<u32> = (0..self.daemon_slots.scan_len())
            .filter_map(|slot| Some(self.daemon_slots.scan(slot).entry()?.0))
            .collect();
        entries.sort_unstable();
        entries
    }

    fn counted(&self) -> (u64, (u64, u64), u64) {
        let load = |counter| self.daemon_counters.load(counter);
        (
            load(Counter::ReadRequests),
            split_keys(load(Counter::ReadKeys)),
            load(Counter::L1ReadKeys),
        )
    }

    fn touched(&self, tail: u64) -> Vec<u32> {
        let mut touched = Vec::new();
        self.daemon_recency
            .drain(tail, 5000, |entry| touched.push(entry.0));
        touched
    }
}

fn key(n: u32) -> ChunkKey {
    crate::chunk_keys::key_from_bytes(&n.to_be_bytes()).unwrap()
}

fn keys(numbers: impl IntoIterator<Item = u32>) -> Vec<ChunkKey> {
    numbers.into_iter().map(key).collect()
}

fn places(pins: &Pins) -> String {
    pins.items
        .iter()
        .map(|item| match item.place {
            Place::Pinned(_) => 'P',
            Place::Named(_) => 'N',
            Place::Found => 'F',
            Place::NotFound => '-',
            Place::Quota => 'Q',
        })
        .collect()
}

#[test]
fn a_lookup_finds_the_leading_run_and_says_of_each_key_whether_it_is_there() {
    let mut pool = Pool::new(256, 1000);
    (0..200).filter(|n| *n != 150).for_each(|n| pool.store(n));
    for asked in [keys(0..200), keys(148..152)] {
        let mut present = vec![9; asked.len()];
        let prefix = pool.read.lookup(KEYSPACE, &asked, Some(&mut present));
        assert_eq!(
            prefix,
            asked.len() - present.iter().rev().count()
                + present.iter().position(|b| *b == 0).unwrap()
        );
        assert_eq!(present.iter().filter(|b| **b == 0).count(), 1);
        assert_eq!(pool.read.lookup(KEYSPACE, &asked, None), prefix);
    }
    let other = KeyspaceId(8);
    assert_eq!(pool.read.lookup(other, &keys(0..3), None), 0);
    assert_eq!(pool.counted(), (0, (0, 0), 0), "a lookup moves no counter");
    assert!(pool.pinned_entries().is_empty());
}

#[test]
fn an_acquire_pins_the_leading_run_only_and_its_release_counts_and_touches_from_the_tail() {
    let mut pool = Pool::new(256, 1000);
    (0..100).filter(|n| *n != 70).for_each(|n| pool.store(n));
    let mut pins = pool.acquire(&keys(0..100), false);
    assert_eq!((pins.prefix_count(), pins.pinned_count()), (70, 70));
    assert_eq!(pool.pinned_entries(), (0..70).collect::<Vec<_>>());
    assert_eq!(pool.counted(), (1, (70, 30), 0));
    assert!(pool.read.check(&pins));
    assert_eq!(
        pool.read.byte_range(pins.items[3].found.extent),
        Some((3 * u64::from(ALIGN), u64::from(ALIGN)))
    );
    assert!(pool.read.release(&mut pins));
    assert!(pool.pinned_entries().is_empty());
    assert_eq!(pool.counted(), (1, (70, 30), 70));
    assert_eq!(pool.touched(0), (0..70).rev().collect::<Vec<_>>());
    assert_eq!(pool.read.pool.pinned_units(), 0);
    assert_eq!(pool.read.pool.free_count(), 256);
}

#[test]
fn acquire_all_pins_every_present_key_and_every_occurrence_of_it() {
    let mut pool = Pool::new(256, 1000);
    [1, 3].into_iter().for_each(|n| pool.store(n));
    let mut pins = pool.acquire(&keys([1, 2, 3, 1, 1]), true);
    assert_eq!(places(&pins), "P-PPP");
    assert_eq!(pins.prefix_count(), 1);
    assert_eq!(pool.pinned_entries(), [1, 1, 1, 3]);
    assert_eq!(pool.counted(), (1, (4, 1), 0));
    pool.read.release(&mut pins);
    assert_eq!(pool.touched(0), [1, 3], "one touch an entry and tick");
    let mut again = pool.acquire(&keys([1, 2, 3, 1, 1]), false);
    assert_eq!(places(&again), "P----");
    pool.header.heartbeat_tick().fetch_add(1, Ordering::Relaxed);
    pool.read.release(&mut again);
    assert_eq!(pool.touched(2), [1], "the next tick touches again");
}

#[test]
fn a_key_without_a_slot_ends_the_run_with_quota_also_when_all_are_wanted() {
    let mut pool = Pool::new(256, 5000);
    (0..300).for_each(|n| pool.store(n));
    let mut first = pool.acquire(&keys(0..254), false);
    for is_all in [false, true] {
        let mut pins = pool.acquire(&keys([0, 9999, 1, 2, 3]), is_all);
        assert_eq!(places(&pins), if is_all { "P-PQ-" } else { "P----" });
        let shortage = is_all.then_some(Shortage::Slots);
        assert_eq!(pins.shortage, shortage);
        pool.read.release(&mut pins);
    }
    let mut pins = pool.acquire(&keys(0..5), false);
    assert_eq!(places(&pins), "PPQ--");
    pool.read.release(&mut pins);
    pool.read.release(&mut first);
    assert_eq!(pool.read.pool.free_count(), 256);
}

#[test]
fn the_pin_quota_counts_distinct_entries_and_ends_the_run() {
    let mut pool = Pool::new(1024, 10);
    (0..30).for_each(|n| pool.store(n));
    let mut same = pool.acquire(&keys([5; 40]), false);
    assert_eq!(same.pinned_count(), 40, "one entry, however often");
    let mut pins = pool.acquire(&keys((0..5).chain(5..20)), false);
    assert_eq!(places(&pins), "PPPPPPPPPPQ---------");
    assert_eq!(pins.shortage, Some(Shortage::Bytes));
    assert_eq!(pool.counted().1, (50, 10));
    assert_eq!(pool.pinned_entries().len(), 50);
    pool.read.release(&mut same);
    pool.read.release(&mut pins);
    assert_eq!(pool.read.pool.pinned_units(), 0);
}

#[test]
fn a_shut_gate_refuses_new_pins_and_honours_old_ones() {
    let mut pool = Pool::new(256, 100);
    (0..4).for_each(|n| pool.store(n));
    let mut held = pool.acquire(&keys(0..2), false);
    pool.header.pin_gate().store(1, Ordering::Relaxed);
    let refused = pool.acquire(&keys([9, 1, 2]), true);
    assert_eq!(places(&refused), "-Q-");
    assert_eq!(refused.shortage, Some(Shortage::Gate));
    assert_eq!(places(&pool.acquire(&keys([9, 1]), false)), "--");
    assert!(pool.read.release(&mut held));
    assert_eq!(pool.counted().2, 2);
}

#[test]
fn a_key_that_is_gone_before_the_second_look_ends_the_run_and_frees_what_lies_behind() {
    for is_all in [false, true] {
        let mut pool = Pool::new(256, 100);
        (0..5).for_each(|n| pool.store(n));
        let mut pins = Pins::default();
        pins.reset(5);
        pool.read.find_each(KEYSPACE, &keys(0..5), None, |found| {
            pins.items.push(found.map_or(Item::NOT_FOUND, Item::found));
            true
        });
        // The daemon unpublishes key 2 between R1 and R5.
        pool.writer.unpublish(EntryNumber(2));
        pool.read.pin_found(5, is_all, &mut pins);
        pins.count();
        assert_eq!(places(&pins), if is_all { "PP-PP" } else { "PP---" });
        assert_eq!(pool.pinned_entries().len(), if is_all { 4 } else { 2 });
        pool.read.release(&mut pins);
        assert_eq!(pool.read.pool.free_count(), 256);
        assert_eq!(pool.read.pool.pinned_units(), 0);
    }
}

#[test]
fn a_removed_key_stays_valid_under_its_pin_and_a_revoked_one_does_not() {
    let mut pool = Pool::new(256, 100);
    (0..3).for_each(|n| pool.store(n));
    let mut pins = pool.acquire(&keys(0..3), false);
    pool.writer.unpublish(EntryNumber(1));
    assert!(pool.read.check(&pins));
    assert_eq!(pool.read.lookup(KEYSPACE, &keys(0..3), None), 1);
    pool.writer.revoke(EntryNumber(1));
    assert!(!pool.read.check(&pins));
    assert!(!pool.read.release(&mut pins));
}

#[test]
fn items_are_pinned_before_their_commit_and_stay_so_when_the_key_goes_at_once() {
    let mut pool = Pool::new(256, 3);
    (0..3).for_each(|n| pool.store(n));
    let granted = |n: u32| {
        Item::found(Found {
            entry: EntryNumber(n),
            seq: 2,
            extent: Extent {
                offset_units: n,
                len_bytes: ALIGN,
            },
        })
    };
    let mut pins = Pins::default();
    pins.reset(5);
    pins.items.extend([
        granted(100),
        Item::NOT_FOUND,
        granted(101),
        Item::NOT_FOUND,
        Item::NOT_FOUND,
    ]);
    pool.read.pin_before_commit(&mut pins);
    assert_eq!(pool.pinned_entries(), [100, 101]);
    let existing: Vec<Key> = (0..2)
        .map(|n| key(n).in_keyspace(KEYSPACE, 0).unwrap())
        .collect();
    pool.read.acquire_more(
        [(1, &existing[0]), (3, &existing[1])].into_iter(),
        &mut pins,
    );
    // Entries 100 and 101 were never published here: a commit's pins are not looked at again.
    assert_eq!(places(&pins), "PPPQ-");
    assert_eq!(pins.prefix_count(), 3);
    assert_eq!(pool.counted(), (0, (0, 0), 0), "no read request");
    pool.read.abandon(&mut pins);
    assert!(pool.pinned_entries().is_empty());
    assert_eq!(pool.read.pool.free_count(), 256);
    assert_eq!(pool.counted(), (0, (0, 0), 0), "nothing was read");
}

#[test]
fn the_daemon_is_alive_only_with_its_own_thread_id_instance_and_state() {
    let pool = Pool::new(256, 1);
    let header = &pool.header;
    assert_eq!(pool.read.liveness(), Liveness::Alive);
    for dead in [0, THREAD | 1 << 30, THREAD + 1] {
        header.daemon_alive().store(dead, Ordering::Relaxed);
        assert_eq!(pool.read.liveness(), Liveness::Gone);
    }
    header.daemon_alive().store(THREAD, Ordering::Relaxed);
    header
        .state()
        .store(State::Draining as u32, Ordering::Relaxed);
    assert_eq!(pool.read.liveness(), Liveness::Alive);
    header
        .state()
        .store(State::Closed as u32, Ordering::Relaxed);
    assert_eq!(pool.read.liveness(), Liveness::Gone);
    header
        .state()
        .store(State::Serving as u32, Ordering::Relaxed);
}

#[test]
fn without_the_kernels_word_an_old_heartbeat_asks_the_socket() {
    let pool = Pool::new(256, 1);
    pool.header
        .flags()
        .store(flags::NO_ROBUST_LIST, Ordering::Relaxed);
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let now_ns = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    // The daemon was created when the machine had been up for a while, and beats by the machine's clock.
    for (age_ns, expected) in [
        (0, Liveness::Alive),
        (1_000_000_000, Liveness::AskSocket),
        (now_ns, Liveness::AskSocket),
    ] {
        pool.header
            .heartbeat_tick()
            .store((now_ns - age_ns) / TICK_NS, Ordering::Relaxed);
        assert_eq!(pool.read.liveness(), expected, "{age_ns} ns old");
    }
}

#[test]
fn touches_beyond_the_ring_go_to_the_bitmap_and_are_counted() {
    let mut pool = Pool::new(1024, 5000);
    (0..1000).for_each(|n| pool.store(n));
    let rounds = 18;
    for _ in 0..rounds {
        let mut pins = pool.acquire(&keys(0..1000), false);
        assert_eq!(pins.pinned_count(), 1000);
        pool.read.release(&mut pins);
        pool.header.heartbeat_tick().fetch_add(1, Ordering::Relaxed);
    }
    let overflows = pool.daemon_counters.load(Counter::RecencyOverflows);
    assert_eq!(overflows, rounds * 1000 - 16_384);
    let mut swept = 0;
    let rest = pool
        .daemon_recency
        .sweep_overflow(0, usize::MAX, |_| swept += 1);
    assert_eq!(rest, None);
    assert_eq!(swept, 1000);
}

/// Flips a bit of the last word of object number `n`.
fn flip(pool: &Pool, n: u32) {
    let word = (u64::from(n + 1) * u64::from(ALIGN) / 8 - 1) as usize;
    pool.payload.0[word].fetch_xor(1 << (n % 64), Ordering::Relaxed);
}

#[test]
fn an_object_that_has_changed_is_a_miss_and_is_not_pinned() {
    let mut pool = Pool::checking(256, 1000, 1);
    (0..10).for_each(|n| pool.store(n));
    flip(&pool, 4);
    flip(&pool, 7);
    let mut pins = pool.acquire(&keys(0..10), false);
    assert_eq!(places(&pins), "PPPP------");
    assert_eq!(pool.pinned_entries(), [0, 1, 2, 3]);
    pool.read.release(&mut pins);
    let mut pins = pool.acquire(&keys(0..10), true);
    assert_eq!(places(&pins), "PPPP-PP-PP");
    assert_eq!(pool.pinned_entries().len(), 8);
    pool.read.release(&mut pins);
    assert_eq!(pool.counted(), (2, (12, 8), 12));
    // Beside keys that are not there.
    let some = [
        keys(99..100),
        keys(4..5),
        keys(98..99),
        keys(7..9),
        keys(3..4),
    ]
    .concat();
    let mut pins = pool.acquire(&some, true);
    assert_eq!(places(&pins), "----PP");
    pool.read.release(&mut pins);
    flip(&pool, 4);
    flip(&pool, 7);
    assert_eq!(places(&pool.acquire(&keys(0..10), false)), "PPPPPPPPPP");
}

#[test]
fn an_object_without_a_sum_is_believed() {
    let mut pool = Pool::checking(256, 1000, 1);
    pool.store(0);
    pool.writer.set_sum(EntryNumber(0), None);
    flip(&pool, 0);
    assert_eq!(places(&pool.acquire(&keys(0..1), false)), "P");
}

#[test]
fn the_sample_is_one_in_sixty_four_of_every_key_however_many_a_call_has() {
    for count in [1, 7, 32, 64] {
        let mut pool = Pool::checking(256, 1000, 64);
        (0..count).for_each(|n| pool.store(n));
        (0..count).for_each(|n| flip(&pool, n));
        let calls = 64_000 / count;
        let mut missed = vec![0; count as usize];
        for _ in 0..calls {
            let mut pins = pool.acquire(&keys(0..count), true);
            for (item, missed) in pins.items.iter().zip(&mut missed) {
                *missed += u32::from(item.place == Place::NotFound);
            }
            pool.read.release(&mut pins);
        }
        let all: u32 = missed.iter().sum();
        assert!((950..=1050).contains(&all), "{all} of 64000");
        let expected = f64::from(calls) / 64.0;
        for (key, missed) in missed.iter().enumerate() {
            assert!(
                (f64::from(*missed) - expected).abs() <= expected / 2.0 + 2.0,
                "key {key} of {count}: {missed} of {calls}"
            );
        }
    }
}

#[test]
fn segments_that_contradict_hello_are_refused() {
    let geometry = Geometry::for_entries(64);
    let control = Memory::new(geometry.segment_len());
    let pool = Pool::new(256, 1);
    let empty = LeaseGeometry::new(256, 64);
    let lease = Memory::new(empty.segment_len());
    let payload = Memory::new(0);
    let hello = HelloReply {
        instance_id: InstanceId([9; 16]),
        daemon_thread_id: 1,
        session_id: SessionId(1),
        capacity_bytes: PAYLOAD + 1,
        align_bytes: u64::from(ALIGN),
        huge_page_bytes: 0,
        pin_quota_bytes: 0,
        reserve_quota_bytes: 0,
        keyspace_quota_bytes: 0,
        staging_bytes: 0,
        max_object_bytes: 0,
        pin_slot_count: 256,
        max_batch_keys: 1,
        chunk_size: 1,
        server_version: String::new(),
    };
    assert!(
        ReadPath::new(control.view(), lease.view(), payload.view(), &hello).is_err(),
        "no magic"
    );
    let error = ReadPath::new(
        pool._control.view(),
        pool._lease.view(),
        payload.view(),
        &hello,
    )
    .err()
    .unwrap();
    assert!(error.message.contains("payload_len"), "{}", error.message);
}
