//! The daemon's store, a writer and two readers under a scheduler that chance drives; only in a build with `--cfg shuttle`.
//!
//! ```text
//!   daemon:   lock the store ── tick, slices: evict, scan, free ── unlock          round and round
//!   writer:   lock ── reserve ── unlock ── words into the payload ── lock ── commit ── unlock
//!   readers:  the library's own read path: find, pin, fence, look again ── every word proven ── check, release
//! ```
//!
//! All of it is the code that ships; only the segments are memory of this process. The lock stands for the loop: the store
//! has one thread, which takes a request at a time. There is room for five objects and there are six keys, so almost every
//! store evicts what somebody may be reading. Each word of an object tells its key and its write.

use std::ops::Range;
use std::sync::Arc;

use hostkv::ChunkKey;
use hostkv::model::Reader;
use hostkv_daemon::config::Config;
use hostkv_daemon::store::{LeaseParts, Nanos, Outcome, Resumed, ResumedAnswer, SessionEnd, Store};
use hostkv_shm_protocol::id::{InstanceId, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::counters::Counters;
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::pins::PinSlots;
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::schedule::set_scheduled;
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::hello::HelloReply;
use hostkv_shm_protocol::wire::reply::ReservedItem;
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Reserve, ReserveItem, Resolve};
use shuttle::scheduler::{RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::sync::Mutex;
use shuttle::thread;

use crate::memory::Memory;
use crate::pool::{ALIGN, ENTRIES, Pool, audited, default_config, settle};

/// Objects that the payload has room for: an object may be an eighth of it.
const ROOM: u64 = 8;
/// Objects that an idle session holds reserved: with one more, half of the room, which is all that may be. There is room for five.
const IDLE: u8 = 3;
/// Keys that are stored and read.
const KEYS: u8 = 6;
/// Stores before the schedule begins, which fill the room.
const FIRST_WRITES: u64 = 5;
/// Stores of the writer, each of which evicts.
const WRITES: u64 = 6;
/// Pin slots of a session: one for each key, and few to scan.
const SLOTS: u32 = 8;
/// Words of an object that are written and proven: the first and the last ones.
const WORDS: [u64; 4] = [0, 1, 510, 511];
/// Turns in which a parked reserve has to be answered; only a forgotten one takes more.
const TURNS_AT_MOST: u32 = 10_000;
/// Coroutines run the store on stacks of their own.
const STACK_BYTES: usize = 512 << 10;

/// What all schedules together came to, so that a model that reaches nothing is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Objects that readers proved.
    pub proven: u64,
    /// Objects that were evicted.
    pub evicted: u64,
    /// Evicted objects that a scan found pinned.
    pub kept: u64,
}

static PROVEN: AtomicU64 = AtomicU64::new(0);
static EVICTED: AtomicU64 = AtomicU64::new(0);
static KEPT: AtomicU64 = AtomicU64::new(0);

/// The store, which is bound to one thread, as all coroutines are.
struct Loop {
    store: Store,
    resumed: Vec<Resumed>,
    now: Nanos,
}

// SAFETY: shuttle runs all coroutines of an execution on the thread that called it.
unsafe impl Send for Loop {}

/// A session's lease segment.
struct Lease {
    id: SessionId,
    view: View,
    _memory: Memory,
}

fn open(store: &mut Store) -> Lease {
    let geometry = LeaseGeometry {
        slot_count: SLOTS,
        recency_capacity: 16,
        bitmap_words: ENTRIES.div_ceil(64),
        event_capacity: 8,
        commit_capacity: 0,
    };
    let memory = Memory::new(geometry.segment_len());
    let view = memory.view();
    let id = store.next_session_id();
    geometry.initialise(&view, InstanceId([7; 16]), id).unwrap();
    let parts = LeaseParts {
        pins: PinSlots::new(view, &geometry).unwrap(),
        recency: Recency::new(view, &geometry).unwrap(),
        counters: Counters::new(view).unwrap(),
        events: Events::new(view, &geometry).unwrap(),
        commits: None,
        mapping: Box::new(()),
    };
    store.open_session(id, parts, true, false, 0);
    Lease {
        id,
        view,
        _memory: memory,
    }
}

fn key(number: u8) -> ChunkKey {
    ChunkKey {
        chunk_hash: [number; 32],
        chunk_hash_len: 32,
        kv_rank: 0,
        object_group_id: 0,
    }
}

fn hello(pool: &Pool, store: &Store, session_id: SessionId) -> HelloReply {
    HelloReply {
        instance_id: pool.facts.instance_id,
        daemon_thread_id: pool.facts.daemon_thread_id,
        session_id,
        capacity_bytes: pool.facts.capacity_bytes,
        align_bytes: u64::from(ALIGN),
        huge_page_bytes: 0,
        pin_quota_bytes: store.pin_quota_bytes(),
        reserve_quota_bytes: store.reserve_quota_bytes(),
        keyspace_quota_bytes: store.keyspace_quota_bytes(),
        staging_bytes: 0,
        max_object_bytes: store.max_object_bytes(),
        pin_slot_count: SLOTS,
        max_batch_keys: 1024,
        chunk_size: 256,
        server_version: String::new(),
    }
}

/// One execution.
fn execute(config: &Config) {
    set_scheduled(false);
    let mut pool = Pool::new(config, |store| {
        store.payload_len = ROOM * u64::from(ALIGN);
        store.max_reserved_ratio = 1.0;
        store.watermark = 1.0;
        store.write_ttl_ns = None;
    });
    let mut store = pool.store.take().unwrap();
    let payload = Arc::new(Memory::new(ROOM * u64::from(ALIGN)));
    let leases: Vec<Lease> = (0..4).map(|_| open(&mut store)).collect();
    let wish = Resolve {
        flags: 0,
        tokens_per_key: 0,
        layout_fingerprint: 1,
        model_name: "m".to_owned(),
        cache_salt: String::new(),
    };
    let resolved = leases
        .iter()
        .map(|lease| store.resolve(lease.id, &wish).unwrap().keyspace);
    let keyspace = resolved.last().unwrap();
    let idle = wanted(OpId(1), keyspace, 100..100 + IDLE);
    let held = store.reserve(leases[3].id, idle, 0).unwrap();
    assert!(
        matches!(held, Outcome::Done(granted) if granted.iter().all(|g| g.status == Status::Ok))
    );
    let readers: Vec<Reader> = leases[1..3]
        .iter()
        .map(|lease| {
            Reader::new(
                pool.control_view(),
                lease.view,
                payload.view(),
                &hello(&pool, &store, lease.id),
            )
            .unwrap()
        })
        .collect();
    let writer_id = leases[0].id;
    let shared = Arc::new(Mutex::new(Loop {
        store,
        resumed: Vec::new(),
        now: 100_000_000_000,
    }));
    for write in 1..=FIRST_WRITES {
        write_one(&shared, &payload.view(), writer_id, keyspace, write);
    }
    set_scheduled(true);
    // Relaxed: only the end of a loop.
    let ended = Arc::new(AtomicU64::new(0));
    let writer = {
        let (shared, payload) = (Arc::clone(&shared), Arc::clone(&payload));
        let ended = Arc::clone(&ended);
        thread::spawn(move || {
            for write in FIRST_WRITES + 1..=FIRST_WRITES + WRITES {
                write_one(&shared, &payload.view(), writer_id, keyspace, write);
            }
            ended.fetch_add(1, Ordering::Relaxed);
        })
    };
    let readers: Vec<_> = readers
        .into_iter()
        .map(|reader| {
            let (payload, ended) = (Arc::clone(&payload), Arc::clone(&ended));
            thread::spawn(move || {
                while ended.load(Ordering::Relaxed) == 0 {
                    read_all(&reader, &payload.view(), keyspace);
                }
            })
        })
        .collect();
    // The main coroutine is the daemon.
    while ended.load(Ordering::Relaxed) == 0 {
        turn(&shared);
        thread::yield_now();
    }
    writer.join().unwrap();
    for reader in readers {
        reader.join().unwrap();
    }
    set_scheduled(false);
    let mut whole = shared.lock().unwrap();
    let now = whole.now + 1_000_000_000;
    let store = &mut whole.store;
    EVICTED.fetch_add(store.figures().l1_evicted_keys, Ordering::Relaxed);
    for lease in &leases {
        store.close_session(lease.id, SessionEnd::Death, now);
    }
    store.tick(now);
    settle(store, now);
    let audit = audited(store);
    assert_eq!(
        (audit.reserved_count, audit.zombie_count, audit.pin_count),
        (0, 0, 0),
        "something outlives its session: {audit:?}"
    );
}

/// One turn of the loop.
fn turn(shared: &Mutex<Loop>) {
    let mut held = shared.lock().unwrap();
    held.now += 100_000_000;
    let now = held.now;
    held.store.tick(now);
    let done = held.store.slice(now);
    held.resumed.extend(done);
    // A recount of the model's own is no step of the schedule.
    set_scheduled(false);
    let kept = audited(&mut held.store).zombie_count;
    set_scheduled(true);
    KEPT.fetch_add(kept, Ordering::Relaxed);
}

fn wanted(op_id: OpId, keyspace: KeyspaceId, numbers: Range<u8>) -> Reserve {
    Reserve {
        op_id,
        request_id: String::new(),
        device: String::new(),
        items: numbers
            .map(|number| ReserveItem {
                key: crate::pool::key(keyspace, number),
                len_bytes: ALIGN,
            })
            .collect(),
    }
}

/// Reserves a key, writes its words and commits it.
fn write_one(
    shared: &Mutex<Loop>,
    payload: &View,
    session: SessionId,
    keyspace: KeyspaceId,
    write: u64,
) {
    let number = (write % u64::from(KEYS)) as u8;
    let wanted = wanted(OpId(write), keyspace, number..number + 1);
    let outcome = {
        let mut held = shared.lock().unwrap();
        let now = held.now;
        held.store.reserve(session, wanted, now).unwrap()
    };
    let granted = match outcome {
        Outcome::Done(answers) => answers[0],
        Outcome::Parked(_) => resumed(shared),
    };
    if granted.status != Status::Ok {
        // All that could go is pinned, or the key is there.
        return;
    }
    let first = u64::from(granted.offset_units) * u64::from(ALIGN);
    for word in WORDS {
        // Relaxed: the commit orders them.
        payload
            .u64(first + word * 8)
            .unwrap()
            .store(u64::from(number) << 32 | write, Ordering::Relaxed);
    }
    let held_item = HeldItem {
        entry: granted.entry,
        generation: granted.generation,
    };
    let mut held = shared.lock().unwrap();
    let now = held.now;
    let committed = held.store.commit(
        session,
        &Held {
            op_id: OpId(write),
            items: vec![held_item],
        },
        now,
    );
    let Ok(Outcome::Done(answers)) = committed else {
        panic!("a commit is refused or parked");
    };
    assert_eq!(answers[0].status, Status::Ok);
}

/// Waits for the answer of the parked reserve.
fn resumed(shared: &Mutex<Loop>) -> ReservedItem {
    for _ in 0..TURNS_AT_MOST {
        if let Some(done) = shared.lock().unwrap().resumed.pop() {
            let ResumedAnswer::Reserved(answers) = done.answer else {
                panic!("another answer than that of a reserve");
            };
            return answers[0];
        }
        thread::yield_now();
    }
    panic!("a parked reserve is not answered");
}

/// Reads all keys and proves every word of what is there.
fn read_all(reader: &Reader, payload: &View, keyspace: KeyspaceId) {
    let keys: Vec<ChunkKey> = (0..KEYS).map(key).collect();
    let (count, holds) = reader.read(keyspace, &keys, |at, offset, len| {
        assert_eq!(len, u64::from(ALIGN));
        let read = |word: u64| {
            // Relaxed: the pin orders them.
            let word = payload.u64(offset + word * 8).unwrap();
            word.load(Ordering::Relaxed)
        };
        let first = read(WORDS[0]);
        assert_eq!(first >> 32, at as u64, "the bytes of another key");
        for word in &WORDS[1..] {
            assert_eq!(read(*word), first, "the bytes of two writes");
        }
    });
    assert!(holds, "an honest pin was voided");
    PROVEN.fetch_add(count as u64, Ordering::Relaxed);
}

/// Chance that stays with one coroutine for a while. How long, chance decides for each schedule: a race may want every
/// step to change who goes on, or a whole scan and a store within one step of a reader.
struct Runs {
    random: RandomScheduler,
    /// One step in two to the power of this changes who goes on.
    shift: u32,
}

impl Scheduler for Runs {
    fn new_execution(&mut self) -> Option<Schedule> {
        let schedule = self.random.new_execution()?;
        self.shift = (self.random.next_u64() % 8) as u32;
        Some(schedule)
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let is_kept = !self.random.next_u64().is_multiple_of(1 << self.shift);
        match current.filter(|id| is_kept && runnable.iter().any(|task| task.id() == *id)) {
            None => self.random.next_task(runnable, current, is_yielding),
            kept => kept,
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.random.next_u64()
    }
}

/// Runs so many schedules from a seed; panics with the schedule at the first that goes wrong.
pub fn run(seed: u64, schedules: usize) -> Reached {
    let mut shuttle_config = shuttle::Config::default();
    shuttle_config.stack_size = STACK_BYTES;
    let config = default_config();
    let scheduler = Runs {
        random: RandomScheduler::new_from_seed(seed, schedules),
        shift: 0,
    };
    shuttle::Runner::new(scheduler, shuttle_config).run(move || execute(&config));
    set_scheduled(false);
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    Reached {
        proven: load(&PROVEN),
        evicted: load(&EVICTED),
        kept: load(&KEPT),
    }
}
