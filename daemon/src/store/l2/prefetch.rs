//! Prefetches: each is a run over its keys, until the longest prefix of them is in L1.
//!
//! ```text
//!   each key:  Unknown --L1 has it--> Kept                         Kept is held, and charged, until the run ends
//!                 | \--being loaded--> Loading --committed--> Kept
//!                 |                       ^  \--failed--> a miss
//!                 \--asked, found--> InTier --room--> Loading
//!                  \--not found, no quota, no room, another writer has it--> a miss
//!
//!   run:       planned --> waits for tiers --> every key that is left is Kept: answered --> PREFETCH_END
//! ```
//!
//! A miss cuts the run off: what lies behind it is let go. So a run that has nothing left to wait for is its own answer.
//!
//! A tier that hangs in the kernel says nothing at all; after [`RUN_AT_MOST`] a run makes do with the prefix that it has.
//!
//! What a run keeps or loads is charged to its session's pin quota, beside what the last scan saw the session pin; and all
//! runs together may not keep more than the pin gate leaves.

use super::super::entries::EntryState;
use super::super::ledger::Ledger;
use super::super::parked::{Outcome, Progress, Resumed, ResumedAnswer, Ticket};
use super::super::scan::GATE_RATIO;
use super::super::{Nanos, Refusal, SECOND, Store};
use super::TierWork;
use crate::tiers::{Found, LookupTask, TaskId};
use hostkv_shm_protocol::id::{EntryNumber, OpId, SessionId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::MAX_PREFETCHES;
use hostkv_shm_protocol::wire::reply::Prefetched;
use hostkv_shm_protocol::wire::request::Prefetch;
use std::collections::{HashMap, VecDeque};

/// How long a run waits for the tiers; longer than they wait for a store by default.
const RUN_AT_MOST: Nanos = 60 * SECOND;

/// Names a run; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct RunId(u64);

/// How far one key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Not in L1; the tiers are, or are to be, asked.
    Unknown,
    /// A tier has it.
    InTier(Found),
    /// It is on its way into this entry.
    Loading(EntryNumber),
    /// It is in L1, in this entry under this sequence number, and held.
    Kept(EntryNumber, u64),
}

/// One prefetch.
#[derive(Debug)]
pub(super) struct Run {
    session: SessionId,
    /// What the caller calls it.
    request_id: String,
    /// The name of its answer, until that was given.
    ticket: Option<Ticket>,
    pub(super) keys: Vec<Key>,
    /// What was not cut off, each with the bytes that are charged for it.
    wants: Vec<(Want, u64)>,
    /// Places of keys that a tier has and for which no room was asked yet.
    pub(super) to_load: VecDeque<usize>,
    /// Whether room for some is being made.
    pub(super) is_making_room: bool,
    /// Keys of it that came out of a tier.
    pub(super) loaded_count: u32,
    /// What cut it off.
    ended_by: Status,
    started: Nanos,
}

impl Run {
    /// How far the key at this place is; none when that was cut off.
    pub(super) fn want(&self, at: usize) -> Option<Want> {
        self.wants.get(at).map(|(want, _)| *want)
    }

    /// The key at this place is further.
    pub(super) fn set(&mut self, at: usize, want: Want) {
        if let Some(place) = self.wants.get_mut(at) {
            place.0 = want;
        }
    }

    /// Leading keys that are kept.
    fn prefix_count(&self) -> usize {
        self.wants
            .iter()
            .take_while(|(want, _)| matches!(want, Want::Kept(..)))
            .count()
    }
}

/// All runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    last_id: u64,
    by_id: HashMap<RunId, Run>,
    lookups: HashMap<TaskId, (RunId, Vec<usize>)>,
    /// Bytes that all of them are charged.
    pub(super) kept_bytes: u64,
}

impl Runs {
    pub(super) fn get_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.by_id.get_mut(&id)
    }

    /// Takes a run out, to be put back.
    pub(super) fn take(&mut self, id: RunId) -> Option<Run> {
        self.by_id.remove(&id)
    }

    pub(super) fn put(&mut self, id: RunId, run: Run) {
        self.by_id.insert(id, run);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.by_id.len() as u64
    }

    /// Charged bytes and holds, counted anew; a hold ends with its object.
    pub(super) fn recount(
        &self,
        is_object: impl Fn((EntryNumber, u64)) -> bool,
    ) -> (u64, HashMap<EntryNumber, u32>) {
        let (mut bytes, mut holds) = (0, HashMap::new());
        for (want, charged) in self.by_id.values().flat_map(|run| &run.wants) {
            bytes += charged;
            if let Want::Kept(entry, seq) = want
                && is_object((*entry, *seq))
            {
                *holds.entry(*entry).or_default() += 1;
            }
        }
        (bytes, holds)
    }
}

/// What the index says of a key.
enum Seen {
    Object(EntryNumber),
    Loading(EntryNumber),
    /// A writer has it.
    Written,
    Nothing,
}

impl Store {
    /// Brings the longest prefix of these keys into L1 and keeps it there; parked while tiers work on it.
    pub fn prefetch(
        &mut self,
        id: SessionId,
        request: Prefetch,
        now: Nanos,
    ) -> Result<Outcome<Prefetched>, Refusal> {
        let slot = self.slot_of(id)?;
        for key in &request.keys {
            self.check_keyspace(slot, key.keyspace())?;
        }
        self.l2.runs.last_id += 1;
        let run_id = RunId(self.l2.runs.last_id);
        if let Some(ledger) = self.sessions[slot].as_mut() {
            check_prefetch(ledger, request.op_id)?;
            ledger.prefetches.insert(request.op_id, run_id);
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let asked = request.keys.len();
        let mut run = Run {
            session: id,
            request_id: request.request_id,
            ticket: Some(ticket),
            wants: vec![(Want::Unknown, 0); asked],
            keys: request.keys,
            to_load: VecDeque::new(),
            is_making_room: false,
            loaded_count: 0,
            ended_by: Status::Ok,
            started: now,
        };
        for at in 0..asked {
            let key = run.keys[at];
            let planned = self.plan(&mut run, run_id, at, &key);
            let is_miss = !self.l2.is_on() && run.want(at) == Some(Want::Unknown);
            if let Err(status) = planned.and(if is_miss {
                Err(Status::NotFound)
            } else {
                Ok(())
            }) {
                self.cut(&mut run, run_id, at, status);
                break;
            }
        }
        let hits = run.prefix_count();
        log::debug!(
            "Prefetch request submitted: {asked} total keys, {hits} L1 prefix hits, {} remaining for L2",
            asked - hits
        );
        self.ask_tiers(&mut run, run_id);
        self.l2.runs.put(run_id, run);
        self.settle_run(run_id, now);
        // What needs no tier is answered at once.
        match self.take_answer_of(ticket) {
            Some(outcome) => Ok(Outcome::Done(outcome)),
            None => Ok(Outcome::Parked(ticket)),
        }
    }

    fn take_answer_of(&mut self, ticket: Ticket) -> Option<Prefetched> {
        let at = self.l2.done.iter().position(|done| done.ticket == ticket)?;
        match self.l2.done.remove(at).answer {
            ResumedAnswer::Prefetched(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Looks for one key in L1: it is kept, or waited for, or stays unknown. An error is a miss, and why.
    pub(super) fn plan(
        &mut self,
        run: &mut Run,
        run_id: RunId,
        at: usize,
        key: &Key,
    ) -> Result<(), Status> {
        let want = match self.see(key) {
            Seen::Object(entry) => {
                self.charge_run(run, at, self.extent_bytes(entry))?;
                self.l2.holds.add(entry);
                Want::Kept(entry, self.index.seq(entry))
            }
            Seen::Loading(entry) => {
                self.charge_run(run, at, self.extent_bytes(entry))?;
                self.l2.loads.join(entry, run_id, at);
                Want::Loading(entry)
            }
            Seen::Written => return Err(Status::NotFound),
            Seen::Nothing => Want::Unknown,
        };
        run.set(at, want);
        Ok(())
    }

    fn see(&self, key: &Key) -> Seen {
        match self.index.find(key, self.index.hash(key)) {
            None => Seen::Nothing,
            Some(entry) => match self.entries.state(entry) {
                EntryState::Committed => Seen::Object(entry),
                EntryState::Loading => Seen::Loading(entry),
                _ => Seen::Written,
            },
        }
    }

    /// Asks the tiers for the keys that L1 does not have.
    fn ask_tiers(&mut self, run: &mut Run, run_id: RunId) {
        let mut places = Vec::new();
        let mut keys = Vec::new();
        for at in 0..run.wants.len() {
            if run.want(at) != Some(Want::Unknown) {
                continue;
            }
            let key = run.keys[at];
            match self.tier_key(&key) {
                Some(name) => {
                    places.push(at);
                    keys.push(name);
                }
                None => {
                    self.cut(run, run_id, at, Status::NotFound);
                    break;
                }
            }
        }
        if keys.is_empty() {
            return;
        }
        let id = self.l2.next_task();
        self.l2.runs.lookups.insert(id, (run_id, places));
        self.l2.work.push(TierWork::Lookup(LookupTask { id, keys }));
    }

    /// The tiers have said what they have.
    pub(super) fn looked_up(&mut self, id: TaskId, found: &[Option<Found>], now: Nanos) {
        let Some((run_id, places)) = self.l2.runs.lookups.remove(&id) else {
            return;
        };
        let Some(mut run) = self.l2.runs.take(run_id) else {
            return;
        };
        for (at, found) in places.into_iter().zip(found) {
            if run.want(at).is_none() {
                break;
            }
            if let Err(status) = self.take_found(&mut run, run_id, at, *found) {
                self.cut(&mut run, run_id, at, status);
                break;
            }
        }
        self.l2.runs.put(run_id, run);
        self.settle_run(run_id, now);
    }

    fn take_found(
        &mut self,
        run: &mut Run,
        run_id: RunId,
        at: usize,
        found: Option<Found>,
    ) -> Result<(), Status> {
        let key = run.keys[at];
        // A writer or another prefetch may have been faster.
        self.plan(run, run_id, at, &key)?;
        if run.want(at) != Some(Want::Unknown) {
            return Ok(());
        }
        let most = self.max_object_bytes();
        let found = found
            .filter(|found| (1..=most).contains(&found.len_bytes))
            .ok_or(Status::NotFound)?;
        self.charge_run(run, at, found.len_bytes.next_multiple_of(self.align()))?;
        run.set(at, Want::InTier(found));
        run.to_load.push_back(at);
        Ok(())
    }

    /// Goes on with a run whose keys are further, and answers it when there is nothing left to wait for.
    pub(super) fn settle_run(&mut self, run_id: RunId, now: Nanos) {
        self.let_released_go(now);
        self.make_room_for_loads(run_id, now);
        let Some(run) = self.l2.runs.get_mut(run_id) else {
            return;
        };
        let prefix_count = run.prefix_count();
        if prefix_count < run.wants.len() {
            return;
        }
        let Some(ticket) = run.ticket.take() else {
            return;
        };
        let outcome = Prefetched {
            prefix_count: prefix_count as u32,
            loaded_count: run.loaded_count.min(prefix_count as u32),
            status: run.ended_by,
        };
        let (session, request_id) = (run.session, std::mem::take(&mut run.request_id));
        self.stats.l2_prefetches += 1;
        self.stats.l2_prefetched_keys += u64::from(outcome.prefix_count);
        if let Some((_, ledger)) = self.session_mut(session) {
            ledger
                .events
                .note_prefetched(request_id, outcome.loaded_count);
        }
        self.l2.done.push(Resumed {
            session,
            ticket,
            answer: ResumedAnswer::Prefetched(outcome),
        });
    }

    /// Runs that have waited too long make do with the prefix that they have.
    pub(in super::super) fn cut_late_runs(&mut self, now: Nanos) {
        let is_late =
            |run: &Run| run.ticket.is_some() && now.saturating_sub(run.started) >= RUN_AT_MOST;
        let runs = self.l2.runs.by_id.iter();
        let late: Vec<RunId> = runs
            .filter(|(_, run)| is_late(run))
            .map(|(id, _)| *id)
            .collect();
        for run_id in late {
            if let Some(mut run) = self.l2.runs.take(run_id) {
                let prefix_count = run.prefix_count();
                self.cut(&mut run, run_id, prefix_count, Status::Timeout);
                self.l2.runs.put(run_id, run);
                self.settle_run(run_id, now);
            }
        }
    }

    /// Lets go what a run has from this place on; `status` is why.
    pub(super) fn cut(&mut self, run: &mut Run, run_id: RunId, at: usize, status: Status) {
        for at in (at..run.wants.len()).rev() {
            if let Some(Want::Loading(entry)) = run.want(at) {
                self.l2.loads.leave(entry, run_id, at);
            }
            self.uncharge(run, at);
        }
        if at < run.wants.len() {
            run.wants.truncate(at);
            run.ended_by = status;
        }
    }

    /// Lets go what is kept at one place, and pays its charge back.
    pub(super) fn uncharge(&mut self, run: &mut Run, at: usize) {
        let Some((want, bytes)) = run.wants.get_mut(at) else {
            return;
        };
        let (want, bytes) = (
            std::mem::replace(want, Want::Unknown),
            std::mem::take(bytes),
        );
        self.l2.runs.kept_bytes -= bytes;
        if let Some((_, ledger)) = self.session_mut(run.session) {
            ledger.kept_bytes -= bytes;
        }
        if let Want::Kept(entry, seq) = want
            && self.is_object((entry, seq))
            && self.l2.holds.release(entry)
        {
            self.l2.released.push(entry);
            self.pass_is_blocked = false;
        }
    }

    /// Charges a run for one key; an error is the quota that is used up.
    fn charge_run(&mut self, run: &mut Run, at: usize, bytes: u64) -> Result<(), Status> {
        let quota = self.pin_quota_bytes();
        let most = (self.config.payload_len as f64 * GATE_RATIO) as u64;
        if self.l2.runs.kept_bytes + self.stats.pinned_bytes + bytes > most {
            return Err(Status::Quota);
        }
        let Some((_, ledger)) = self.session_mut(run.session) else {
            return Err(Status::Disconnected);
        };
        if ledger.kept_bytes + ledger.pinned_bytes + bytes > quota {
            return Err(Status::Quota);
        }
        ledger.kept_bytes += bytes;
        self.l2.runs.kept_bytes += bytes;
        if let Some((_, charged)) = run.wants.get_mut(at) {
            *charged += bytes;
        }
        Ok(())
    }

    /// Ends a prefetch of a session, if it is open: what it keeps may be evicted again. One that goes on is answered with
    /// what it has.
    pub fn end_prefetch(&mut self, id: SessionId, op_id: OpId, now: Nanos) -> Result<(), Refusal> {
        let slot = self.slot_of(id)?;
        let ledger = self.sessions[slot].as_mut();
        if let Some(run_id) = ledger.and_then(|ledger| ledger.prefetches.remove(&op_id)) {
            self.end_run(run_id, now);
        }
        Ok(())
    }

    /// Ends all prefetches of a session, which hears nothing of it any more.
    pub(in super::super) fn end_prefetches(&mut self, id: SessionId, now: Nanos) {
        let Some((_, ledger)) = self.session_mut(id) else {
            return;
        };
        let runs: Vec<RunId> = ledger
            .prefetches
            .drain()
            .map(|(_, run_id)| run_id)
            .collect();
        for run_id in runs {
            self.end_run(run_id, now);
        }
        self.l2.done.retain(|done| done.session != id);
    }

    fn end_run(&mut self, run_id: RunId, now: Nanos) {
        // Answered, if it was not yet, with the prefix that it has.
        if let Some(mut run) = self.l2.runs.take(run_id) {
            let prefix_count = run.prefix_count();
            self.cut(&mut run, run_id, prefix_count, Status::NotFound);
            self.l2.runs.put(run_id, run);
            self.settle_run(run_id, now);
        }
        if let Some(mut run) = self.l2.runs.take(run_id) {
            self.cut(&mut run, run_id, 0, Status::NotFound);
        }
        let is_of_run = |progress: &Progress| {
            let load = progress.load.as_ref();
            load.is_some_and(|load| load.run() == run_id)
        };
        if let Some(at) = self.parked.iter().position(is_of_run)
            && let Some(progress) = self.parked.remove(at)
        {
            self.drop_load(progress);
        }
        self.let_released_go(now);
    }

    /// Takes objects out of L1 that nobody keeps any more, where L1 is to be skipped.
    fn let_released_go(&mut self, now: Nanos) {
        for entry in std::mem::take(&mut self.l2.released) {
            if self.entries.state(entry) == EntryState::Committed {
                self.skip_l1(entry, now);
            }
        }
    }
}

/// Refuses a number that is in use, and a prefetch too many.
fn check_prefetch(ledger: &Ledger, op_id: OpId) -> Result<(), Refusal> {
    if ledger.prefetches.contains_key(&op_id) {
        return Err(Refusal {
            status: Status::InvalidArgument,
            text: format!(
                "prefetch {} of this session is not over; use another number",
                op_id.0
            ),
        });
    }
    if ledger.prefetches.len() >= MAX_PREFETCHES {
        return Err(Refusal {
            status: Status::Quota,
            text: format!(
                "{MAX_PREFETCHES} prefetches of this session are open, as many as are allowed; end one first"
            ),
        });
    }
    Ok(())
}
