//! One session's account: what it may do and what it holds.
//!
//! Every extent and every lease segment is charged to a session; the session's end pays all back. Called by the
//! store on the loop's thread.

use super::Nanos;
use super::events::{Open, SessionEvents};
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::lease::counters::{Counter, Counters, split_read_keys};
use hostkv_shm_protocol::lease::events::Events;
use hostkv_shm_protocol::lease::pins::{PinSlots, PinWord};
use hostkv_shm_protocol::lease::recency::Recency;
use std::collections::{HashMap, HashSet};

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
    /// Keys of it that were committed.
    pub stored: u32,
    /// The owed END of its store event.
    pub(super) event: Option<Open>,
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
    /// Whether it may reserve, remove and clear.
    pub can_write: bool,
    /// Whether it may clear all keyspaces and audit.
    pub is_admin: bool,
    /// Its process lives but its socket is gone.
    pub is_orphaned: bool,
    /// Bytes of its reserved and quarantined extents, rounded up to the alignment.
    pub reserved_bytes: u64,
    /// Its reservations.
    pub reservations: HashMap<OpId, Reservation>,
    /// Keyspaces that it has open.
    pub keyspaces: HashSet<KeyspaceId>,
    /// What the last scan saw in each slot.
    pub seen: Vec<SeenPin>,
    /// Bytes of the objects that it pinned at the last scan, counted once an object within the session.
    pub pinned_bytes: u64,
    /// What it told of its reads.
    pub events: SessionEvents,
    recency_tail: u64,
    folded: [u64; 5],
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
}

impl Ledger {
    /// An empty account.
    pub fn new(id: SessionId, lease: LeaseParts, can_write: bool, is_admin: bool) -> Ledger {
        Ledger {
            id,
            lease,
            can_write,
            is_admin,
            is_orphaned: false,
            reserved_bytes: 0,
            reservations: HashMap::new(),
            keyspaces: HashSet::new(),
            seen: Vec::new(),
            pinned_bytes: 0,
            events: SessionEvents::default(),
            recency_tail: 0,
            folded: [0; 5],
        }
    }

    /// Takes the counters' growth since the last call.
    pub fn fold(&mut self) -> Growth {
        let (found, failed) = split_read_keys(self.grow(Counter::ReadKeys));
        Growth {
            read_requests: self.grow(Counter::ReadRequests),
            read_succeed_keys: found,
            read_failed_keys: failed,
            l1_read_keys: self.grow(Counter::L1ReadKeys),
        }
    }

    /// Takes at most `most` touches from the ring, oldest first, after the overflow bitmap when it has been used;
    /// gives how many touches went into the bitmap.
    pub fn drain_recency(&mut self, most: usize, mut touch: impl FnMut(EntryNumber)) -> u64 {
        let overflowed = self.grow(Counter::RecencyOverflows);
        if overflowed > 0 {
            self.lease.recency.sweep_overflow(&mut touch);
        }
        self.recency_tail = self.lease.recency.drain(self.recency_tail, most, touch);
        overflowed
    }

    /// Log lines of reads that the client left out since the last call.
    pub fn lines_left_out(&mut self) -> u64 {
        self.grow(Counter::LinesLeftOut)
    }

    fn grow(&mut self, counter: Counter) -> u64 {
        let now = self.lease.counters.load(counter);
        let last = std::mem::replace(&mut self.folded[counter as usize], now);
        // The client may write anything: only a step forward counts.
        let difference = now.wrapping_sub(last);
        if difference > i64::MAX as u64 {
            0
        } else {
            difference
        }
    }
}
