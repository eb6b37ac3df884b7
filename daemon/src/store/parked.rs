//! Requests that go on over several turns of the loop.
//!
//! A reserve that must evict is parked and continued slice by slice, the oldest first; so is a clear, which sweeps
//! the whole index, and a commit whose bytes a worker must sum first. The loop gets a [`Ticket`] at once and the answer in a [`Resumed`] later.

use super::Nanos;
use super::events::Open;
use hostkv_shm_protocol::id::{EntryNumber, KeyspaceId, SessionId};
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::wire::reply::{CommittedItem, ReservedItem};
use hostkv_shm_protocol::wire::request::Reserve;

/// Names a parked request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

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
    /// Of a clear: keys cleared.
    Cleared(u64),
}

/// A reserve on its way.
#[derive(Debug)]
pub struct Progress {
    /// Its name when it is parked.
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
    /// The owed END of its store event.
    pub(super) event: Option<Open>,
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
