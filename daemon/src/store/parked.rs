//! Requests that go on over several turns of the loop.
//!
//! A reserve that must evict is parked and continued slice by slice, the oldest first; so is a clear, which sweeps the whole
//! index, and a commit whose bytes a worker must sum first, with or without a reserve behind it. The daemon itself reserves in
//! the same way, for what it loads out of a tier; such a reserve lets those of sessions pass. The loop gets a [`Ticket`] at
//! once and the answer in a [`Resumed`] later.

use super::Nanos;
use super::events::Open;
use super::l2::LoadOf;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, OpId, SessionId};
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::wire::reply::{CommittedItem, Prefetched, ReservedItem};
use hostkv_shm_protocol::wire::request::{Reserve, ReserveItem};

/// Names a parked request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Of what is not parked.
    pub(super) const NONE: Ticket = Ticket(0);
}

/// Answer to a request that may be parked.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Done at once.
    Done(T),
    /// To be continued.
    Parked(Ticket),
}

/// A parked request that is done.
#[derive(Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Whose it was.
    pub session: SessionId,
    /// Which.
    pub ticket: Ticket,
    /// Its answer.
    pub answer: ResumedAnswer,
}

/// The answer to a parked request.
#[derive(Debug, PartialEq, Eq)]
pub enum ResumedAnswer {
    /// Of a reserve.
    Reserved(Vec<ReservedItem>),
    /// Of a commit.
    Committed(Vec<CommittedItem>),
    /// Of a commit and the reserve behind it.
    CommitReserved(Pair),
    /// Of a commit of granted entries.
    GrantedCommitted(Vec<CommittedItem>),
    /// Of a flush.
    Flushed,
    /// Of a clear: keys cleared.
    Cleared(u64),
    /// Of a prefetch.
    Prefetched(Prefetched),
}

/// The answers to a commit and to the reserve behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct Pair {
    /// Of the commit, in the order of its entries.
    pub committed: Vec<CommittedItem>,
    /// Of the reserve, in the order of its items; empty when the commit did not do everything.
    pub reserved: Vec<ReservedItem>,
}

/// A reserve on its way.
#[derive(Debug)]
pub struct Progress {
    /// Its name when it is parked, or was: a commit in front of it may have been.
    pub ticket: Ticket,
    /// Who asked.
    pub session: SessionId,
    /// What was asked.
    pub request: Reserve,
    /// Answers so far, in the order of the items.
    pub answers: Vec<ReservedItem>,
    /// What ended the leading run of new keys.
    pub ended: Option<(Status, Reason)>,
    /// When it arrived.
    pub started: Nanos,
    /// Bytes of all its items, rounded up to the alignment.
    pub requested_bytes: u64,
    /// Bytes evicted for it.
    pub evicted_bytes: u64,
    /// Entries evicted for it.
    pub evicted_entries: u32,
    /// Entries looked at in search of victims.
    pub looked_at: u32,
    /// Whether a scan was made for it alone.
    pub has_rescanned: bool,
    /// Whether the recency rings were drained for it.
    pub has_drained: bool,
    /// Whether stores to the tiers were asked to give way to it.
    pub has_displaced: bool,
    /// The answers of the commit in front of it, when both are one request.
    pub(super) committed: Option<Vec<CommittedItem>>,
    /// What it is for, when the daemon itself reserves; then it has no session.
    pub(super) load: Option<LoadOf>,
    /// The owed END of its store event.
    pub(super) event: Option<Open>,
}

impl Progress {
    /// A reserve that has just arrived.
    pub(super) fn new(
        session: SessionId,
        request: Reserve,
        requested_bytes: u64,
        started: Nanos,
    ) -> Progress {
        Progress {
            ticket: Ticket::NONE,
            session,
            answers: Vec::with_capacity(request.items.len()),
            request,
            ended: None,
            started,
            requested_bytes,
            evicted_bytes: 0,
            evicted_entries: 0,
            looked_at: 0,
            has_rescanned: false,
            has_drained: false,
            has_displaced: false,
            committed: None,
            load: None,
            event: None,
        }
    }

    /// The answer, once every item has its own.
    pub(super) fn into_resumed(self) -> Resumed {
        let answer = match self.committed {
            None => ResumedAnswer::Reserved(self.answers),
            Some(committed) => ResumedAnswer::CommitReserved(Pair {
                committed,
                reserved: self.answers,
            }),
        };
        Resumed {
            session: self.session,
            ticket: self.ticket,
            answer,
        }
    }

    /// A reserve of the daemon itself, whose answer nobody gets.
    pub(super) fn of_load(
        load: LoadOf,
        items: Vec<ReserveItem>,
        requested_bytes: u64,
        started: Nanos,
    ) -> Progress {
        let request = Reserve {
            op_id: OpId(0),
            request_id: String::new(),
            device: String::new(),
            items,
        };
        Progress {
            load: Some(load),
            // No session has this number.
            ..Progress::new(SessionId(0), request, requested_bytes, started)
        }
    }
}

/// An item without an extent.
pub fn refused(status: Status, reason: Reason) -> ReservedItem {
    ReservedItem {
        status,
        reason,
        entry: EntryNumber(0),
        offset_units: 0,
        staging_units: 0,
        generation: 0,
    }
}

/// What the next item of a reserve lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// A hole of this many bytes.
    Bytes(u64),
    /// An index entry.
    Entry,
    /// This many bytes of the keyspace's quota, which objects of the same keyspace hold.
    Quota(KeyspaceId, u64),
}
