//! Commits that wait for workers: with `--integrity full` an object has its sum before it can be read, and what an untrusted
//! writer commits is copied out of its staging segment first.
//!
//! ```text
//!   COMMIT --> entries leave their reservation, owned by nobody, still charged --> jobs --> all of them are over -->
//!          --> published, the last first, and answered
//! ```
//!
//! From the moment its COMMIT was taken up nothing stops a commit but the daemon's end: no abort, no time to live and no
//! death reaches its entries. A session that ends leaves its commits behind with their charge, and they are published as
//! if it lived; the jobs keep the staging segment open for so long.

use super::ledger::Reservation;
use super::parked::Ticket;
use hostkv_shm_protocol::id::{EntryNumber, OpId, SessionId};
use hostkv_shm_protocol::sum::Sum;
use hostkv_shm_protocol::wire::reply::CommittedItem;
use hostkv_shm_protocol::wire::request::Reserve;
use std::collections::VecDeque;

/// One entry that is to be published.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) entry: EntryNumber,
    /// Where its answer stands.
    pub(super) at: usize,
    pub(super) sum: Option<Sum>,
    /// Whether its bytes could not be copied.
    pub(super) has_failed: bool,
}

/// A commit on its way.
#[derive(Debug)]
pub(super) struct WaitingCommit {
    pub(super) ticket: Ticket,
    pub(super) session: SessionId,
    /// The reservation's operation; none when granted entries are committed.
    pub(super) op_id: Option<OpId>,
    /// Answers so far; those of `items` are still to be given.
    pub(super) answers: Vec<CommittedItem>,
    /// What is to be published, in the order in which it will be: the last of the request first.
    pub(super) items: Vec<Item>,
    /// Items that a worker still has.
    pub(super) undone: usize,
    /// Bytes of its extents, rounded up to the alignment.
    pub(super) bytes: u64,
    /// The reservation, once its session has ended.
    pub(super) left_behind: Option<Reservation>,
    /// The reserve that comes behind it in the same request.
    pub(super) next: Option<Reserve>,
}

/// All commits that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// In the order of their tickets. Rings make many of them, and workers are done with the oldest first.
    waiting: VecDeque<WaitingCommit>,
}

impl Commits {
    /// Puts a commit behind the others; its ticket is the newest.
    pub(super) fn add(&mut self, commit: WaitingCommit) {
        self.waiting.push_back(commit);
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&ticket.0, |commit| commit.ticket.0)
            .ok()
    }

    /// The commit of this ticket.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut WaitingCommit> {
        let place = self.place(ticket)?;
        self.waiting.get_mut(place)
    }

    /// Takes the commit of this ticket out.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<WaitingCommit> {
        self.waiting.remove(self.place(ticket)?)
    }

    /// The ticket of the oldest.
    pub(super) fn oldest(&self) -> Option<Ticket> {
        self.waiting.front().map(|commit| commit.ticket)
    }

    /// The commits of a session.
    pub(super) fn of_session(&self, session: SessionId) -> impl Iterator<Item = &WaitingCommit> {
        self.waiting
            .iter()
            .filter(move |commit| commit.session == session)
    }

    /// The newest commit of one operation.
    pub(super) fn last_of(
        &mut self,
        session: SessionId,
        op_id: OpId,
    ) -> Option<&mut WaitingCommit> {
        self.waiting
            .iter_mut()
            .rev()
            .find(|commit| (commit.session, commit.op_id) == (session, Some(op_id)))
    }

    /// Has a reserve come behind the commit of this ticket.
    pub(super) fn put_behind(&mut self, ticket: Ticket, reserve: Reserve) {
        if let Some(commit) = self.get_mut(ticket) {
            commit.next = Some(reserve);
        }
    }

    /// Whether a reserve of this operation is to come behind a commit.
    pub(super) fn has_next(&self, session: SessionId, op_id: OpId) -> bool {
        self.of_session(session)
            .any(|commit| commit.next.as_ref().is_some_and(|next| next.op_id == op_id))
    }

    /// Leaves the reserves of a session undone that were to come behind its commits.
    pub(super) fn drop_next(&mut self, session: SessionId) {
        for commit in &mut self.waiting {
            if commit.session == session {
                commit.next = None;
            }
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &WaitingCommit> {
        self.waiting.iter()
    }
}
