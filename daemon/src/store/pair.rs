//! A commit and the reserve behind it as one request, for a writer that goes from batch to batch.
//!
//! ```text
//!   commit_reserve --the reserve has no form--> refused, nothing is committed
//!        | commit
//!        |--parked (copy, sum)--> ... carried out, readable --.
//!        v                                                    v
//!     every entry committed? --no--> answered, nothing is reserved
//!        | yes
//!        v
//!     reserve --> answered, or parked until there is room, and answered then
//! ```
//!
//! The commit comes first in every case, so what it gives back, quota and room in a staging segment, serves the reserve.

use super::parked::{Outcome, Pair, Progress, Resumed, ResumedAnswer, Ticket};
use super::{Nanos, Refusal, Store};
use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::CommittedItem;
use hostkv_shm_protocol::wire::request::{Held, Reserve};

impl Store {
    /// Commits as [`Store::commit`] does, and then reserves as [`Store::reserve`] does, if every entry is committed.
    pub fn commit_reserve(
        &mut self,
        id: SessionId,
        held: &Held,
        reserve: Reserve,
        now: Nanos,
    ) -> Result<Outcome<Pair>, Refusal> {
        let slot = self.slot_of(id)?;
        self.check_reserve(slot, &reserve)?;
        Ok(match self.commit(id, held, now)? {
            Outcome::Done(committed) => {
                self.reserve_behind(id, Ticket::NONE, committed, reserve, now)
            }
            Outcome::Parked(ticket) => {
                self.commits.put_behind(ticket, reserve);
                Outcome::Parked(ticket)
            }
        })
    }

    /// Goes on behind a commit that was parked; the answer, unless the reserve is parked too.
    pub(super) fn resume_pair(
        &mut self,
        session: SessionId,
        ticket: Ticket,
        committed: Vec<CommittedItem>,
        reserve: Reserve,
        now: Nanos,
    ) -> Option<Resumed> {
        match self.reserve_behind(session, ticket, committed, reserve, now) {
            Outcome::Done(pair) => Some(Resumed {
                session,
                ticket,
                answer: ResumedAnswer::CommitReserved(pair),
            }),
            Outcome::Parked(_) => None,
        }
    }

    fn reserve_behind(
        &mut self,
        id: SessionId,
        ticket: Ticket,
        committed: Vec<CommittedItem>,
        reserve: Reserve,
        now: Nanos,
    ) -> Outcome<Pair> {
        // EXISTS: another commit of the key came first, and there is nothing left to do.
        let is_over = |item: &CommittedItem| matches!(item.status, Status::Ok | Status::Exists);
        if !committed.iter().all(is_over) {
            return Outcome::Done(Pair {
                committed,
                reserved: Vec::new(),
            });
        }
        let progress = Progress {
            ticket,
            committed: Some(committed),
            ..self.arrived(id, reserve, now)
        };
        match self.start_reserve(progress, now) {
            Outcome::Done(progress) => Outcome::Done(Pair {
                committed: progress.committed.unwrap_or_default(),
                reserved: progress.answers,
            }),
            Outcome::Parked(ticket) => Outcome::Parked(ticket),
        }
    }
}
