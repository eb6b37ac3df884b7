//! The store through its own interface, with readers that pin as the client library does.

mod ages;
mod bounds;
mod commits;
mod events;
mod guard;
mod l2;
mod model;
mod pairs;
mod promises;
mod rings;
mod staging;
mod tenants;
mod zeroing;

use super::entries::EntryState;
use super::parked::ResumedAnswer;
use super::*;
use crate::workers::{Job, JobEnd, Task};
use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::control::reader::{Found, IndexReader};
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{InstanceId, KeyspaceId, OpId};
use hostkv_shm_protocol::key::HashSecret;
use hostkv_shm_protocol::lease::LeaseGeometry;
use hostkv_shm_protocol::lease::commits::Commits;
use hostkv_shm_protocol::lease::counters::Counters;
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::pins::{PinSlots, pin_fence};
use hostkv_shm_protocol::lease::recency::Recency;
use hostkv_shm_protocol::status::Reason;
use hostkv_shm_protocol::sum::Sum;
use hostkv_shm_protocol::wire::reply::{CommittedItem, ReservedItem};
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Reserve, ReserveItem, Resolve};

const ALIGN: u32 = 4096;

/// Zeroed, aligned memory that stands in for a mapped segment.
fn segment(len: u64) -> View {
    let words: &'static mut [u64] = Box::leak(vec![0_u64; len.div_ceil(8) as usize].into());
    // SAFETY: the words are leaked, aligned to 8, and used only through this view.
    unsafe { View::new(words.as_ptr().cast(), len) }
}

/// A pool with its reader side.
struct Pool {
    store: Store,
    reader: IndexReader,
    entry_count: u32,
    now: Nanos,
    next_op: u64,
    /// Offsets in bytes of objects that somebody has written to since their commit.
    changed: Vec<u64>,
}

/// A session as its client sees it.
#[derive(Clone, Copy)]
struct Client {
    id: SessionId,
    pins: PinSlots,
    recency: Recency,
    counters: Counters,
    events: Events,
    commits: Option<Commits>,
}

struct Options {
    units: u32,
    entries: u32,
    policy: EvictionPolicy,
    watermark: f64,
    ratio: f64,
    write_ttl_ns: Option<u64>,
    read_ttl_ns: Option<u64>,
    max_reserved_ratio: f64,
    slice_ns: u32,
    requires_salt: bool,
    keyspace_quota: Option<f64>,
    zeroes_on_reuse: bool,
    integrity: Integrity,
    scrub_bytes_per_second: u64,
    l2: L2Config,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            units: 64,
            entries: 256,
            policy: EvictionPolicy::Lru,
            watermark: 1.0,
            ratio: 0.2,
            write_ttl_ns: None,
            read_ttl_ns: None,
            max_reserved_ratio: 0.5,
            slice_ns: SLICE_NS,
            requires_salt: false,
            keyspace_quota: None,
            zeroes_on_reuse: false,
            integrity: Integrity::Off,
            scrub_bytes_per_second: 1 << 30,
            l2: L2Config::default(),
        }
    }
}

/// A reserve of these keys with their lengths.
fn reserve_of(op_id: OpId, wanted: &[(Key, u32)]) -> Reserve {
    Reserve {
        op_id,
        request_id: String::new(),
        device: String::new(),
        items: wanted
            .iter()
            .map(|(key, len_bytes)| ReserveItem {
                key: *key,
                len_bytes: *len_bytes,
            })
            .collect(),
    }
}

impl Pool {
    fn new(options: Options) -> Pool {
        let geometry =
            Geometry::for_entries(options.entries).with_sums(options.integrity != Integrity::Off);
        let view = segment(geometry.segment_len());
        let payload_len = u64::from(options.units) * u64::from(ALIGN);
        HeaderView::new(view).unwrap().initialise(&HeaderInit {
            instance_id: InstanceId([7; 16]),
            boot_id: [1, 2],
            created_mono_ns: 0,
            flags: 0,
            geometry,
            align_bytes: ALIGN,
            hash_secret: HashSecret { k0: 3, k1: 5 },
            payload_len,
            max_sessions: 16,
            check_every: options.integrity.check_every(),
        });
        let config = StoreConfig {
            grant_shares: GrantShares {
                session: 4,
                pool: 2,
            },
            payload_len,
            align_bytes: ALIGN,
            policy: options.policy,
            watermark: options.watermark,
            ratio: options.ratio,
            write_ttl_ns: options.write_ttl_ns,
            read_ttl_ns: options.read_ttl_ns,
            chunk_size: 256,
            max_sessions: 16,
            max_reserved_ratio: options.max_reserved_ratio,
            max_keyspaces: 100,
            requires_salt: options.requires_salt,
            keyspace_quota: options.keyspace_quota,
            zeroes_on_reuse: options.zeroes_on_reuse,
            integrity: options.integrity,
            scrub_bytes_per_second: options.scrub_bytes_per_second,
            l2: options.l2,
            slice_ns: options.slice_ns,
        };
        Pool {
            store: Store::new(config, view).unwrap(),
            reader: IndexReader::new(view).unwrap(),
            entry_count: options.entries,
            now: 1_000_000_000,
            next_op: 0,
            changed: Vec::new(),
        }
    }

    fn client(&mut self) -> Client {
        self.client_with(true, false)
    }

    /// A writer with a commit ring of so many records.
    fn ring_client(&mut self, records: u32) -> Client {
        let geometry = LeaseGeometry::new(256, self.entry_count).with_commits(records);
        self.client_of(&geometry, true, false)
    }

    fn client_with(&mut self, can_write: bool, is_admin: bool) -> Client {
        let geometry = LeaseGeometry::new(256, self.entry_count);
        self.client_of(&geometry, can_write, is_admin)
    }

    fn client_of(&mut self, geometry: &LeaseGeometry, can_write: bool, is_admin: bool) -> Client {
        let view = segment(geometry.segment_len());
        let id = self.store.next_session_id();
        geometry.initialise(&view, InstanceId([7; 16]), id).unwrap();
        let client = Client {
            id,
            pins: PinSlots::new(view, geometry).unwrap(),
            recency: Recency::new(view, geometry).unwrap(),
            counters: Counters::new(view).unwrap(),
            events: Events::new(view, geometry).unwrap(),
            commits: Commits::new(view, geometry).unwrap(),
        };
        let lease = LeaseParts {
            pins: client.pins,
            recency: client.recency,
            counters: client.counters,
            events: client.events,
            commits: client.commits,
            mapping: Box::new(()),
        };
        self.store.open_session(id, lease, can_write, is_admin, 0);
        client
    }

    fn keyspace(&mut self, client: Client) -> KeyspaceId {
        self.resolve(client, "model", 1).unwrap().keyspace
    }

    fn resolve(
        &mut self,
        client: Client,
        model: &str,
        layout_fingerprint: u64,
    ) -> Result<Resolved, Refusal> {
        self.resolve_salted(client, model, "", layout_fingerprint)
    }

    fn resolve_salted(
        &mut self,
        client: Client,
        model: &str,
        salt: &str,
        layout_fingerprint: u64,
    ) -> Result<Resolved, Refusal> {
        self.store.resolve(
            client.id,
            &Resolve {
                flags: 0,
                tokens_per_key: 0,
                layout_fingerprint,
                model_name: model.to_owned(),
                cache_salt: salt.to_owned(),
            },
        )
    }

    /// Reserves under a new operation; runs slices until a parked request is answered.
    fn reserve(&mut self, client: Client, wanted: &[(Key, u32)]) -> (OpId, Vec<ReservedItem>) {
        let (op_id, outcome) = self.try_reserve(client, wanted);
        let answers = match outcome.unwrap() {
            Outcome::Done(answers) => answers,
            Outcome::Parked(ticket) => self.wait_for(ticket),
        };
        (op_id, answers)
    }

    fn try_reserve(
        &mut self,
        client: Client,
        wanted: &[(Key, u32)],
    ) -> (OpId, Result<Outcome<Vec<ReservedItem>>, Refusal>) {
        self.next_op += 1;
        let op_id = OpId(self.next_op);
        let request = reserve_of(op_id, wanted);
        (op_id, self.store.reserve(client.id, request, self.now))
    }

    fn wait_for(&mut self, ticket: Ticket) -> Vec<ReservedItem> {
        for _ in 0..10_000 {
            for resumed in self.store.slice(self.now) {
                if resumed.ticket == ticket
                    && let ResumedAnswer::Reserved(answers) = resumed.answer
                {
                    return answers;
                }
            }
        }
        panic!("the parked reserve was never answered");
    }

    fn commit(&mut self, client: Client, op_id: OpId, answers: &[ReservedItem]) -> Vec<Status> {
        let held = held(op_id, answers);
        match self.store.commit(client.id, &held, self.now).unwrap() {
            Outcome::Done(items) => outcomes(&items),
            Outcome::Parked(ticket) => self.wait_for_commit(ticket),
        }
    }

    /// Does every job that is owed until a parked commit is answered.
    fn wait_for_commit(&mut self, ticket: Ticket) -> Vec<Status> {
        for job in self.store.take_jobs() {
            let Some(resumed) = self.do_job(&job) else {
                continue;
            };
            if let (true, ResumedAnswer::Committed(items)) =
                (resumed.ticket == ticket, resumed.answer)
            {
                return outcomes(&items);
            }
        }
        panic!("all jobs are done and {ticket:?} is not answered");
    }

    /// Does a job as a worker would: the payload of these tests has its places as its bytes.
    fn do_job(&mut self, job: &Job) -> Option<Resumed> {
        let sums = match &job.task {
            Task::Sum { extents } => extents
                .iter()
                .map(|extent| match self.changed.contains(&extent.0) {
                    false => sum_at(extent),
                    true => Sum::of_checksum(7),
                })
                .collect(),
            Task::Zero { .. } | Task::Copy { .. } => Vec::new(),
        };
        let end = JobEnd {
            id: job.id,
            outcome: Ok(sums),
        };
        self.store.job_ended(end, self.now)
    }

    fn store_one(&mut self, client: Client, key: Key, len_bytes: u32) -> Status {
        let (op_id, answers) = self.reserve(client, &[(key, len_bytes)]);
        if answers[0].status != Status::Ok {
            return answers[0].status;
        }
        self.commit(client, op_id, &answers)[0]
    }

    fn find(&self, key: &Key) -> Option<Found> {
        self.reader.find(key, self.reader.hash(key))
    }

    /// Pins as the library does: steps R1 to R5.
    fn pin(&self, client: Client, slot: usize, key: &Key) -> Option<Found> {
        let found = self.find(key)?;
        client.pins.raise_high_water(slot as u32 + 1);
        client.pins.publish(slot, found.entry);
        pin_fence();
        if self.reader.is_current(&found) {
            return Some(found);
        }
        client.pins.clear(slot);
        None
    }

    /// Runs everything that is due now.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.store.has_work() {
                return;
            }
            self.store.slice(self.now);
        }
        panic!("the store always has work");
    }

    fn next_second(&mut self) {
        self.now += SECOND;
        self.store.tick(self.now);
        self.settle();
    }

    fn audited(&mut self) -> hostkv_shm_protocol::wire::reply::Audit {
        let audit = self.store.audit();
        assert_eq!(audit.verdict, "");
        audit
    }
}

/// The sum of the bytes that lie there in these tests.
fn sum_at((offset_bytes, len_bytes): &(u64, u64)) -> Sum {
    Sum::of_checksum(offset_bytes << 32 | len_bytes)
}

/// The sum of an object in these tests.
fn sum(extent: Extent) -> Sum {
    sum_at(&extent.byte_range(u64::from(ALIGN), u64::MAX).unwrap())
}

fn outcomes(items: &[CommittedItem]) -> Vec<Status> {
    items.iter().map(|item| item.status).collect()
}

fn held(op_id: OpId, answers: &[ReservedItem]) -> Held {
    Held {
        op_id,
        items: answers
            .iter()
            .filter(|answer| answer.status == Status::Ok)
            .map(|answer| HeldItem {
                entry: answer.entry,
                generation: answer.generation,
            })
            .collect(),
    }
}

fn key(keyspace: KeyspaceId, number: u64) -> Key {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    Key::new(&hash, 8, 0, 0, keyspace).unwrap()
}

fn statuses(answers: &[ReservedItem]) -> Vec<Status> {
    answers.iter().map(|answer| answer.status).collect()
}
