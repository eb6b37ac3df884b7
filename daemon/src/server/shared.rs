//! What all clients share: the cache, what new sessions get, and where what happened is counted.
//!
//! The loop's thread owns the one [`Shared`] and lends it to the client that it calls.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use hostkv_shm_protocol::id::SessionId;

use super::connection::FrameBuffer;
use super::monotonic_ns;
use super::peer::AccessRules;
use crate::config::LimitsConfig;
use crate::histogram::{DEATH_BOUNDS_NS, Histogram};
use crate::metrics::{RequestDurations, TimedRequest};
use crate::request::hello::PoolFacts;
use crate::store::events::{Note, NoteOp};
use crate::store::l2::TierWork;
use crate::store::{Nanos, NumberMap, Store};
use crate::telemetry::{Event, EventType, PairId, Telemetry, Value};
use crate::tiers::Tiers;

/// The descriptors that sessions get copies of.
#[derive(Debug)]
pub struct Handout {
    /// The control segment, read-only.
    pub control: Rc<OwnedFd>,
    /// The payload for trusted writers; none when it is sealed against them.
    pub payload_writable: Option<Rc<OwnedFd>>,
    /// The payload for all others.
    pub payload_read_only: Rc<OwnedFd>,
    /// The daemon's own pidfd.
    pub daemon: Rc<OwnedFd>,
}

/// What all clients share. The loop's thread owns it.
pub struct Shared {
    /// The cache.
    pub store: Store,
    /// What sessions are told of the pool.
    pub facts: PoolFacts,
    /// What new sessions may have.
    pub limits: LimitsConfig,
    /// Who may open one.
    pub access: AccessRules,
    /// What every session gets.
    pub handout: Handout,
    /// Where frames are received.
    pub buffer: FrameBuffer,
    /// Where events go; none while telemetry is off.
    pub telemetry: Option<Telemetry>,
    /// The tiers behind L1, if there are any.
    pub tiers: Option<Tiers>,
    /// Frames refused because their form was wrong.
    pub rejected_frames: u64,
    /// How long requests took.
    pub request_durations: RequestDurations,
    /// From the end of a session's socket to the end of its process.
    pub owner_death: Histogram,
    /// Which client a session is.
    pub clients: NumberMap<SessionId, u64>,
}

impl Shared {
    /// Of a daemon that has served nobody yet. `telemetry`: none while it is off.
    pub fn new(
        store: Store,
        facts: PoolFacts,
        limits: LimitsConfig,
        access: AccessRules,
        handout: Handout,
        telemetry: Option<Telemetry>,
        tiers: Option<Tiers>,
    ) -> Shared {
        Shared {
            store,
            facts,
            limits,
            access,
            handout,
            buffer: FrameBuffer::new(),
            telemetry,
            tiers,
            rejected_frames: 0,
            request_durations: RequestDurations::default(),
            owner_death: Histogram::new(DEATH_BOUNDS_NS),
            clients: NumberMap::default(),
        }
    }

    /// Gives the store's events to the telemetry queue, which never waits.
    pub fn hand_events_over(&mut self) {
        let Some(telemetry) = &mut self.telemetry else {
            return;
        };
        for note in self.store.take_events() {
            telemetry.push(PairId(note.pair), event_of(note));
        }
    }

    /// Gives the tiers what the store wants of them, which never waits.
    pub fn hand_tier_work_over(&mut self) {
        let Some(tiers) = &mut self.tiers else {
            return;
        };
        for work in self.store.take_tier_work() {
            match work {
                TierWork::Store(task) => tiers.submit_store(task),
                TierWork::Lookup(task) => tiers.submit_lookup(task),
                TierWork::Load(task) => tiers.submit_load(task),
                TierWork::Remove(keys) => tiers.submit_remove(keys),
            }
        }
        if let Some(bytes) = self.store.take_wanted_room() {
            let given_up = tiers.cancel_stores(bytes);
            self.store.stores_gave_way(given_up, monotonic_ns());
        }
    }

    /// Brings the store what the tiers have done.
    pub fn end_tier_work(&mut self, most: usize) {
        let Some(tiers) = &mut self.tiers else {
            return;
        };
        for completion in tiers.completions(most) {
            self.store.tier_ended(completion, monotonic_ns());
        }
    }

    /// Counts a request that is answered now.
    pub(super) fn observe(&mut self, request: TimedRequest, since: Nanos) {
        let duration_ns = monotonic_ns().saturating_sub(since);
        self.request_durations.observe(request, duration_ns);
    }
}

/// A note of the store in the form that processors get.
fn event_of(note: Note) -> Event {
    let (name, counted) = match note.op {
        NoteOp::Lookup => ("lookup", "found_count"),
        NoteOp::Retrieve => ("retrieve", "retrieved_count"),
        NoteOp::Store => ("store", "stored_count"),
    };
    let mut metadata = Vec::new();
    if let Some(count) = note.count {
        metadata.push((counted, Value::Int(i64::from(count))));
    }
    if note.op != NoteOp::Lookup {
        metadata.push(("device", Value::Str(note.device)));
    }
    Event {
        name,
        event_type: match note.count {
            None => EventType::Start,
            Some(_) => EventType::End,
        },
        session_id: note.session_id,
        timestamp_s: note.mono_ns as f64 / 1e9,
        metadata,
    }
}
