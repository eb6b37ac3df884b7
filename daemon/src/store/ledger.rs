//! One session's account: what it may do and what it holds.
//!
//! Every extent and every lease segment is charged to a session; the session's end pays all back. Called by the
//! store on the loop's thread.

use super::Nanos;
use super::events::{Open, SessionEvents};
use super::l2::RunId;
use super::links::EntryList;
use super::staging::Staging;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::lease::commits::Commits;
use hostkv_shm_protocol::lease::counters::{Counter, Counters, split_keys};
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::pins::{PinSlots, PinWord};
use hostkv_shm_protocol::lease::recency::Recency;
use std::collections::{HashMap, HashSet};

/// Words of the overflow bitmap that one step sweeps: at most 1024 touches.
const SWEEP_WORDS: u32 = 16;

/// A session's lease segment as the store uses it.
pub struct LeaseParts {
    /// The pin slots.
    pub pins: PinSlots,
    /// The recency ring and bitmap.
    pub recency: Recency,
    /// The counters.
    pub counters: Counters,
    /// The event ring.
    pub events: Events,
    /// The commit ring of a session that asked for one.
    pub commits: Option<Commits>,
    /// Keeps the segment mapped; dropped with the session.
    pub mapping: Box<dyn Send>,
}

/// One reserve's entries until they are committed or given back.
#[derive(Debug)]
pub struct Reservation {
    /// When the reserve arrived.
    pub reserved_at: Nanos,
    /// Entries that are still held.
    pub entries: Vec<EntryNumber>,
    /// Keyspace of the first item, for the log line.
    pub keyspace: KeyspaceId,
    /// Whether the write time to live has passed.
    pub is_expired: bool,
    /// Keys of it whose commit waits for a worker.
    pub committing: u32,
    /// Keys of it that were committed.
    pub stored: u32,
    /// The owed END of its store event.
    pub(super) event: Option<Open>,
}

impl Reservation {
    /// Granted entries of a session that has ended.
    pub(super) fn of_grants(entries: Vec<EntryNumber>, now: Nanos) -> Reservation {
        Reservation {
            reserved_at: now,
            entries,
            keyspace: KeyspaceId(0),
            is_expired: false,
            committing: 0,
            stored: 0,
            event: None,
        }
    }
}

/// A pin as the last scan saw it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeenPin {
    /// The slot's word.
    pub word: PinWord,
    /// When a scan first saw this word.
    pub since: Nanos,
}

/// One session.
pub struct Ledger {
    /// Its number.
    pub id: SessionId,
    /// Its lease segment.
    pub lease: LeaseParts,
    /// The segment that it writes into where it must not write into the payload.
    pub(super) staging: Option<Staging>,
    /// Whether it may reserve, remove and clear.
    pub can_write: bool,
    /// Whether it may clear all keyspaces and audit.
    pub is_admin: bool,
    /// Its process lives but its socket is gone.
    pub is_orphaned: bool,
    /// Bytes of its reserved, granted and quarantined extents, rounded up to the alignment.
    pub reserved_bytes: u64,
    /// Of those, the granted ones.
    pub(super) granted_bytes: u64,
    /// The entries granted to it.
    pub(super) grants: EntryList,
    /// Records taken from its commit ring.
    pub(super) commit_tail: u64,
    /// Whether it was warned of for a commit that it may not make.
    pub(super) has_bad_commits: bool,
    /// Its reservations.
    pub reservations: HashMap<OpId, Reservation>,
    /// Its open prefetches.
    pub(super) prefetches: HashMap<OpId, RunId>,
    /// Bytes that they keep in L1 or have asked for.
    pub kept_bytes: u64,
    /// Keyspaces that it has open.
    pub keyspaces: HashSet<KeyspaceId>,
    /// When it was opened.
    pub opened_at: Nanos,
    /// Its reads so far, as of the last fold.
    pub reads: Growth,
    /// Keys that it committed.
    pub write_keys: u64,
    /// Pins that the last scan found.
    pub pin_count: u64,
    /// Their bytes, counted once for each pin.
    pub pinned_bytes: u64,
    /// What the last scan saw in each slot.
    pub seen: Vec<SeenPin>,
    /// Slots whose pin is void, and the word that it had then.
    pub void_pins: HashMap<usize, PinWord>,
    /// Time of the scan after which its pins were last counted one by one.
    pub last_recount: Nanos,
    /// What it told of its reads.
    pub events: SessionEvents,
    recency_tail: u64,
    /// Word of the overflow bitmap at which the sweep goes on.
    sweep_at: Option<usize>,
    /// Whether the bitmap has been used since the last sweep began.
    must_sweep: bool,
    folded: [u64; 7],
}

/// What one step of draining a session's touches did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainStep {
    /// Touches that were followed.
    pub touched: u32,
    /// Words of the overflow bitmap that were looked at; 0 = the step was one of the ring.
    pub swept_words: u32,
    /// Touches that went into the overflow bitmap since the last step.
    pub overflowed: u64,
}

/// Growth of a session's counters since the last fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// Read requests.
    pub read_requests: u64,
    /// Keys found.
    pub read_succeed_keys: u64,
    /// Keys not found.
    pub read_failed_keys: u64,
    /// Keys released.
    pub l1_read_keys: u64,
    /// Reserves answered from granted extents.
    pub write_requests: u64,
    /// Their keys that got one.
    pub write_succeed_keys: u64,
    /// Their keys that were there already.
    pub write_existing_keys: u64,
}

impl Growth {
    /// What a client counted may be anything, and a total never goes round.
    fn add(&mut self, more: Growth) {
        for (total, more) in [
            (&mut self.read_requests, more.read_requests),
            (&mut self.read_succeed_keys, more.read_succeed_keys),
            (&mut self.read_failed_keys, more.read_failed_keys),
            (&mut self.l1_read_keys, more.l1_read_keys),
            (&mut self.write_requests, more.write_requests),
            (&mut self.write_succeed_keys, more.write_succeed_keys),
            (&mut self.write_existing_keys, more.write_existing_keys),
        ] {
            *total = total.saturating_add(more);
        }
    }
}

impl Ledger {
    /// An empty account.
    pub fn new(
        id: SessionId,
        lease: LeaseParts,
        can_write: bool,
        is_admin: bool,
        now: Nanos,
    ) -> Ledger {
        Ledger {
            id,
            lease,
            staging: None,
            can_write,
            is_admin,
            is_orphaned: false,
            reserved_bytes: 0,
            granted_bytes: 0,
            grants: EntryList::default(),
            commit_tail: 0,
            has_bad_commits: false,
            reservations: HashMap::new(),
            prefetches: HashMap::new(),
            kept_bytes: 0,
            keyspaces: HashSet::new(),
            opened_at: now,
            reads: Growth::default(),
            write_keys: 0,
            pin_count: 0,
            pinned_bytes: 0,
            seen: Vec::new(),
            void_pins: HashMap::new(),
            last_recount: 0,
            events: SessionEvents::default(),
            recency_tail: 0,
            sweep_at: None,
            must_sweep: false,
            folded: [0; 7],
        }
    }

    /// Takes the counters' growth since the last call.
    pub fn fold(&mut self) -> Growth {
        let (found, failed) = split_keys(self.grow(Counter::ReadKeys));
        let (granted, existing) = split_keys(self.grow(Counter::WriteKeys));
        let growth = Growth {
            write_requests: self.grow(Counter::WriteRequests),
            write_succeed_keys: granted,
            write_existing_keys: existing,
            read_requests: self.grow(Counter::ReadRequests),
            read_succeed_keys: found,
            read_failed_keys: failed,
            l1_read_keys: self.grow(Counter::L1ReadKeys),
        };
        self.reads.add(growth);
        growth
    }

    /// One step: a piece of a sweep of the overflow bitmap when one is going on, or begins because `may_sweep` and the
    /// bitmap has been used; else at most `most` touches from the ring, oldest first.
    pub fn drain_recency(
        &mut self,
        most: usize,
        may_sweep: bool,
        mut touch: impl FnMut(EntryNumber),
    ) -> DrainStep {
        let overflowed = self.grow(Counter::RecencyOverflows);
        self.must_sweep |= overflowed > 0;
        if self.sweep_at.is_none() && may_sweep && self.must_sweep {
            self.must_sweep = false;
            self.sweep_at = Some(0);
        }
        let mut touched = 0;
        let count_and_touch = |entry| {
            touched += 1;
            touch(entry);
        };
        let mut swept_words = 0;
        let recency = &self.lease.recency;
        match self.sweep_at {
            Some(first) => {
                swept_words = SWEEP_WORDS;
                self.sweep_at =
                    recency.sweep_overflow(first, SWEEP_WORDS as usize, count_and_touch);
            }
            None => self.recency_tail = recency.drain(self.recency_tail, most, count_and_touch),
        }
        DrainStep {
            touched,
            swept_words,
            overflowed,
        }
    }

    /// How far its touches are taken: records of the ring, overflows that are known, and whether the bitmap is to be swept.
    pub(super) fn recency_taken(&self) -> (u64, u64, bool) {
        (
            self.recency_tail,
            self.folded[Counter::RecencyOverflows as usize],
            self.must_sweep || self.sweep_at.is_some(),
        )
    }

    /// Log lines of reads that the client left out since the last call.
    pub fn lines_left_out(&mut self) -> u64 {
        self.grow(Counter::LinesLeftOut)
    }

    fn grow(&mut self, counter: Counter) -> u64 {
        let now = self.lease.counters.load(counter);
        let last = std::mem::replace(&mut self.folded[counter as usize], now);
        let is_pair = matches!(counter, Counter::ReadKeys | Counter::WriteKeys);
        growth(last, now, is_pair)
    }
}

/// How far a word that a client counts in has moved on, since the last fold a second ago at most.
///
/// The client may write anything, and what it writes must neither make a total fall nor fill it: only a step forward
/// counts, and only one that can have been taken in that time.
pub(super) fn growth(last: u64, now: u64, is_pair: bool) -> u64 {
    let most = match is_pair {
        // Two counts, the upper one below 2^31.
        true => i64::MAX as u64,
        false => u64::from(u32::MAX),
    };
    let growth = now.wrapping_sub(last);
    if growth > most { 0 } else { growth }
}
