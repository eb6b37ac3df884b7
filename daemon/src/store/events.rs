//! What sessions did: events for telemetry and log lines of reads.
//!
//! Events of reads, and of stores into granted extents, come out of the sessions' event rings, events of other stores from the
//! requests themselves. The store
//! collects them as [`Note`]s in the order of their time; the loop hands those to the telemetry queue. Log lines of reads
//! are written here, from the same records. Every START that was noted gets exactly one END: from the ring, from the
//! commit or abort, or, when the session ends first, from here with the count 0.

use super::ledger::{Ledger, Reservation, growth};
use super::parked::Progress;
use super::slice::Effort;
use super::{Nanos, SECOND, Store};
use hostkv_shm_protocol::id::{EntryNumber, OpId, SessionId};
use hostkv_shm_protocol::lease::events::{EVENT_RECORDS, EventOp, EventPhase, Taken, TakenEvent};
use std::collections::{HashMap, VecDeque};

/// Reads a second whose lines are written, for each session.
const LINES_PER_SECOND: u32 = 100;
/// Reports of changed objects a second that are listened to, for each session; the scrubber finds the others.
const REPORTS_PER_SECOND: u32 = 64;
/// Prefetches of a session that the lines of its reads know of.
const PREFETCHES_KNOWN: usize = 64;
/// STARTs without their END that a session may have; an honest one is bounded by its ring.
const MAX_OPEN: usize = 16 * EVENT_RECORDS as usize;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoteOp {
    /// A read request; counts keys pinned.
    Lookup,
    /// The reading of what a lease holds; counts keys read.
    Retrieve,
    /// A reserve until its commit or abort; counts keys committed.
    Store,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The same for a START and its END, and for no other.
    pub pair: u64,
    /// What it is about.
    pub op: NoteOp,
    /// The keys of an END; `None` in a START.
    pub count: Option<u32>,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub mono_ns: Nanos,
    /// The caller's request id, or `session-<n>`.
    pub session_id: String,
    /// The caller's device; may be empty.
    pub device: String,
}

/// A START whose END is owed.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pair: u64,
    session_id: String,
    device: String,
}

impl Open {
    fn end(self, op: NoteOp, count: u32, mono_ns: Nanos) -> Note {
        Note {
            pair: self.pair,
            op,
            count: Some(count),
            mono_ns,
            session_id: self.session_id,
            device: self.device,
        }
    }
}

/// A session's part: where its ring stands and what it owes.
#[derive(Debug)]
pub struct SessionEvents {
    tail: u64,
    open: HashMap<(EventOp, OpId), Open>,
    /// Lines of read requests, and lines of releases, that may still be written in this second.
    requests_left: u32,
    releases_left: u32,
    /// Reports of changed objects that are listened to in this second.
    reports_left: u32,
    lines_left_out: u64,
    dropped: u64,
    /// Request ids of the last prefetches, the newest last, with the keys that each got out of the tiers.
    prefetched: VecDeque<(String, u32)>,
}

impl SessionEvents {
    /// Records taken from the ring.
    pub(super) fn tail(&self) -> u64 {
        self.tail
    }

    /// Notes what a prefetch got, for the line of the read that follows it.
    pub(super) fn note_prefetched(&mut self, request_id: String, loaded_count: u32) {
        if loaded_count == 0 {
            return;
        }
        if self.prefetched.len() >= PREFETCHES_KNOWN {
            self.prefetched.pop_front();
        }
        self.prefetched.push_back((request_id, loaded_count));
    }

    /// Keys that a prefetch of this request id got out of the tiers.
    fn loaded_for(&self, request_id: &str) -> u32 {
        let of_it = self
            .prefetched
            .iter()
            .rev()
            .find(|(id, _)| id == request_id);
        of_it.map_or(0, |(_, loaded_count)| *loaded_count)
    }
}

impl Default for SessionEvents {
    fn default() -> SessionEvents {
        SessionEvents {
            tail: 0,
            open: HashMap::new(),
            requests_left: LINES_PER_SECOND,
            releases_left: LINES_PER_SECOND,
            reports_left: REPORTS_PER_SECOND,
            lines_left_out: 0,
            dropped: 0,
            prefetched: VecDeque::new(),
        }
    }
}

/// The store's part.
#[derive(Debug, Default)]
pub(super) struct EventBook {
    is_on: bool,
    notes: Vec<Note>,
    last_pair: u64,
    /// Session slot at which the drain of a tick goes on; `None` when it is done.
    cursor: Option<usize>,
    /// Records taken from that session in this tick.
    taken: u32,
}

impl EventBook {
    fn start(&mut self, op: NoteOp, mono_ns: Nanos, session_id: String, device: String) -> Open {
        self.last_pair += 1;
        let open = Open {
            pair: self.last_pair,
            session_id,
            device,
        };
        self.notes.push(Note {
            pair: open.pair,
            op,
            count: None,
            mono_ns,
            session_id: open.session_id.clone(),
            device: open.device.clone(),
        });
        open
    }

    /// Whether the drain of this tick goes on.
    pub(super) fn is_due(&self) -> bool {
        self.cursor.is_some()
    }
}

fn session_id(session: SessionId, request_id: &str) -> String {
    match request_id {
        "" => format!("session-{}", session.0),
        id => id.to_owned(),
    }
}

fn seconds(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / SECOND as f64
}

impl Store {
    /// Turns the collection of events on; the log lines of reads do not depend on it.
    pub fn collect_events(&mut self) {
        self.events.is_on = true;
    }

    /// The events since the last call, by time.
    pub fn take_events(&mut self) -> Vec<Note> {
        let mut notes = std::mem::take(&mut self.events.notes);
        notes.sort_by_key(|note| note.mono_ns);
        notes
    }

    /// Makes the next slices look into every session's ring, when they have looked into all since the last call.
    pub(super) fn want_events(&mut self) {
        if self.events.cursor.is_none() && self.any_has_events() {
            self.events.cursor = Some(0);
        }
    }

    /// Goes on with the drain of a tick.
    pub(super) fn drain_events_slice(&mut self, effort: &mut Effort) {
        while let Some(slot) = self.events.cursor {
            if slot >= self.sessions.len() {
                self.events.cursor = None;
                return;
            }
            // The check comes after a step, so that every call makes some headway.
            self.events.taken += 1;
            let has_more = self.has_events(slot) && self.take_event(slot, effort);
            // One ring full at most, or a session that reads without pause would never let the round end.
            if !has_more || self.events.taken >= EVENT_RECORDS {
                self.events.cursor = Some(slot + 1);
                self.events.taken = 0;
            }
            if effort.is_spent() {
                return;
            }
        }
    }

    /// Takes the next record of one session's ring; false when there is none that is finished.
    fn take_event(&mut self, slot: usize, effort: &mut Effort) -> bool {
        effort.spend(Effort::SLOT);
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return false;
        };
        let taken = ledger.lease.events.take(ledger.events.tail);
        if taken == Taken::Nothing {
            return false;
        }
        effort.spend(Effort::EVENT);
        self.pass_event(slot);
        match taken {
            Taken::Event(event) => self.note_read(slot, event),
            Taken::Changed { entry, seq } => self.take_report(slot, entry, seq),
            Taken::Nothing | Taken::Garbage => {}
        }
        true
    }

    /// A reader's report of a changed object, within the session's allowance.
    fn take_report(&mut self, slot: usize, entry: EntryNumber, seq: u64) {
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        if let Some(left) = ledger.events.reports_left.checked_sub(1) {
            ledger.events.reports_left = left;
            self.guard_report(entry, seq);
        }
    }

    /// Goes on behind the record at a session's tail.
    fn pass_event(&mut self, slot: usize) {
        if let Some(ledger) = self.sessions[slot].as_mut() {
            ledger.events.tail += 1;
            ledger.lease.events.release(ledger.events.tail);
        }
        self.renew_glance(slot);
    }

    fn note_read(&mut self, slot: usize, event: TakenEvent) {
        self.write_line(slot, &event);
        if !self.events.is_on || event.phase == EventPhase::Line {
            return;
        }
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        let op = match event.op {
            EventOp::Lookup => NoteOp::Lookup,
            EventOp::Retrieve => NoteOp::Retrieve,
            EventOp::Store => NoteOp::Store,
        };
        let key = (event.op, event.op_id);
        if event.phase == EventPhase::Start {
            // A second START of the same operation, or too many, is a broken client's: it gets no END either.
            if ledger.events.open.len() < MAX_OPEN && !ledger.events.open.contains_key(&key) {
                let id = session_id(ledger.id, &event.request_id);
                let open = self.events.start(op, event.mono_ns, id, event.device);
                ledger.events.open.insert(key, open);
            }
        } else if let Some(open) = ledger.events.open.remove(&key) {
            self.events
                .notes
                .push(open.end(op, event.value0, event.mono_ns));
        }
    }

    /// The key messages of reads, within the session's allowance.
    fn write_line(&mut self, slot: usize, event: &TakenEvent) {
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        if event.phase == EventPhase::Start || !log::log_enabled!(log::Level::Info) {
            return;
        }
        match event.op {
            EventOp::Lookup => {
                if ledger.events.requests_left == 0 {
                    let left_out = &mut ledger.events.lines_left_out;
                    *left_out = left_out.saturating_add(1);
                    return;
                }
                ledger.events.requests_left -= 1;
                let (hits, asked) = (event.value0, event.value1);
                let loaded = ledger.events.loaded_for(&event.request_id).min(hits);
                log::debug!(
                    "Prefetch request submitted: {asked} total keys, {hits} L1 prefix hits, {} remaining for L2",
                    asked.saturating_sub(hits)
                );
                let timing = match hits {
                    0 => String::new(),
                    _ => format!(
                        " ({} L1, {loaded} L2) in {:.1} ms (session={})",
                        hits - loaded,
                        seconds(event.start_ns, event.mono_ns) * 1e3,
                        session_id(ledger.id, &event.request_id)
                    ),
                };
                log::info!(
                    "Prefetch request completed (L1+L2): {hits}/{asked} prefix hits{timing}"
                );
            }
            EventOp::Retrieve | EventOp::Store => {
                let is_known = ledger.keyspaces.contains(&event.keyspace);
                if event.value0 == 0 || !is_known || ledger.events.releases_left == 0 {
                    return;
                }
                ledger.events.releases_left -= 1;
                let tokens_per_key = u64::from(self.names.tokens_per_key(event.keyspace));
                let done = match event.op {
                    EventOp::Store => "Stored",
                    _ => "Retrieved",
                };
                log::info!(
                    "{done} {} tokens in {:.3} seconds",
                    u64::from(event.value0) * tokens_per_key,
                    seconds(event.start_ns, event.mono_ns)
                );
            }
        }
    }

    /// Gives every session its lines of this second, and once a minute says what was left out.
    pub(super) fn refill_lines(&mut self, is_new_minute: bool) {
        for ledger in self.sessions.iter_mut().flatten() {
            ledger.events.requests_left = LINES_PER_SECOND;
            ledger.events.releases_left = LINES_PER_SECOND;
            ledger.events.reports_left = REPORTS_PER_SECOND;
            let left_out = ledger.lines_left_out();
            ledger.events.lines_left_out = ledger.events.lines_left_out.saturating_add(left_out);
            if is_new_minute && ledger.events.lines_left_out > 0 {
                let left_out = std::mem::take(&mut ledger.events.lines_left_out);
                log::info!(
                    "Retrieved … and {left_out} more reads in the last minute (session-{})",
                    ledger.id.0
                );
            }
        }
    }

    /// Notes the START of a store.
    pub(super) fn note_reserve(&mut self, progress: &mut Progress) {
        if self.events.is_on {
            let id = session_id(progress.session, &progress.request.request_id);
            let device = progress.request.device.clone();
            progress.event = Some(
                self.events
                    .start(NoteOp::Store, progress.started, id, device),
            );
        }
    }

    /// Hands a store's owed END from its reserve to its reservation; with nothing granted the store is over.
    pub(super) fn note_granted(&mut self, progress: &mut Progress, now: Nanos) {
        let Some(open) = progress.event.take() else {
            return;
        };
        let reservation = self
            .session_mut(progress.session)
            .and_then(|(_, ledger)| ledger.reservations.get_mut(&progress.request.op_id));
        match reservation {
            Some(reservation) => reservation.event = Some(open),
            None => self.events.notes.push(open.end(NoteOp::Store, 0, now)),
        }
    }

    /// Notes the END of a store whose reservation is over.
    pub(super) fn note_stored(&mut self, reservation: &mut Reservation, now: Nanos) {
        if let Some(open) = reservation.event.take() {
            self.events
                .notes
                .push(open.end(NoteOp::Store, reservation.stored, now));
        }
    }

    /// The last look into a session's ring, before its account is taken: also behind records that were never finished.
    pub(super) fn drain_last_events(&mut self, slot: usize) {
        for _ in 0..EVENT_RECORDS {
            if !self.take_event(slot, &mut Effort::new(0)) {
                self.pass_event(slot);
            }
        }
    }

    /// Writes the ENDs that a session which is over owes.
    pub(super) fn note_session_end(&mut self, ledger: &mut Ledger, now: Nanos) {
        for ((op, _), open) in ledger.events.open.drain() {
            let op = match op {
                EventOp::Lookup => NoteOp::Lookup,
                EventOp::Retrieve => NoteOp::Retrieve,
                EventOp::Store => NoteOp::Store,
            };
            self.events.notes.push(open.end(op, 0, now));
        }
    }

    /// Adds what a session's ring had no room for to the totals.
    pub(super) fn fold_dropped_events(&mut self, slot: usize) {
        let Some(ledger) = self.sessions[slot].as_mut() else {
            return;
        };
        let dropped = ledger.lease.events.dropped();
        let last = std::mem::replace(&mut ledger.events.dropped, dropped);
        let growth = growth(last, dropped, false);
        self.stats.events_dropped = self.stats.events_dropped.saturating_add(growth);
    }
}
