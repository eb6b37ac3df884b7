//! What the daemon's answers to a commit and to a reserve mean for who asked.
//!
//! [`Reservation`](super::Reservation) alone comes here, on whatever thread ends it or waits for it.
//!
//! ```text
//!   COMMIT, COMMIT_RESERVE --all committed--> Granted, where there was a reserve: by the daemon, or before it out of the
//!        |                                    session's grants
//!        |-- refused, never sent, not all committed --> StillHeld: an abort is on its way
//!        \-- no answer --> Told: the outcome is unknown
//! ```

use super::granted::put_back_unused;
use crate::connection::ConnectionError;
use crate::error::{Error, Result};
use crate::session::inner::Inner;
use crate::session::reserving::Granted;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::{CommittedItem, Reply};
use hostkv_shm_protocol::wire::request::{Held, Request, Reserve};

/// A request whose reply makes a reservation: a reserve, alone or behind a commit; or the commit before one that the session's
/// grants have answered.
pub(super) struct Asked {
    /// The request.
    pub(super) request: Request,
    /// The heartbeat before it was sent.
    tick: u64,
    /// What the grants gave.
    taken: Option<Granted>,
}

impl Asked {
    /// A reserve.
    pub(super) fn reserve(session: &Inner, reserve: Reserve) -> Asked {
        Asked::now(session, Request::Reserve(reserve), None)
    }

    /// The commit of what is held and the reserve behind it.
    pub(super) fn commit_and_reserve(session: &Inner, held: Held, reserve: Reserve) -> Asked {
        Asked::now(session, Request::CommitReserve(held, reserve), None)
    }

    /// The commit of what is held before a reservation that has its extents.
    pub(super) fn commit_before(session: &Inner, held: Held, taken: Granted) -> Asked {
        Asked::now(session, Request::Commit(held), Some(taken))
    }

    fn now(session: &Inner, request: Request, taken: Option<Granted>) -> Asked {
        Asked {
            request,
            tick: session.read.heartbeat_tick(),
            taken,
        }
    }

    /// Nobody will wait for the answer any more.
    pub(super) fn abandoned(self, session: &Inner) {
        if let Some(taken) = self.taken {
            put_back_unused(session, taken);
        }
    }

    /// What the reply grants. Where the commit was not carried out, what it held has been given back.
    pub(super) fn answered(
        self,
        session: &Inner,
        reply: core::result::Result<Reply, ConnectionError>,
    ) -> Result<Granted> {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return Err(self.failed(session, error)),
        };
        match (self.request, reply) {
            (Request::Reserve(reserve), Reply::Reserved(outcomes))
                if outcomes.len() == reserve.items.len() =>
            {
                session.granted(reserve, outcomes)
            }
            (Request::CommitReserve(held, reserve), Reply::CommitReserved(committed, outcomes))
                if committed.len() == held.items.len() =>
            {
                match all_committed(&committed) {
                    Err(failure) => Err(failure.settled(session, held)),
                    Ok(()) if outcomes.len() == reserve.items.len() => session
                        .granted(reserve, outcomes)
                        .map_err(behind_the_commit),
                    Ok(()) => Err(session.strange_reply("COMMIT_RESERVE")),
                }
            }
            (Request::Commit(held), Reply::Committed(committed))
                if committed.len() == held.items.len() =>
            {
                match (all_committed(&committed), self.taken) {
                    (Ok(()), Some(taken)) => Ok(taken),
                    (Ok(()), None) => Err(session.strange_reply("COMMIT")),
                    (Err(failure), taken) => {
                        if let Some(taken) = taken {
                            put_back_unused(session, taken);
                        }
                        Err(failure.settled(session, held))
                    }
                }
            }
            (request, _) => Err(session.strange_reply(match request {
                Request::CommitReserve(..) => "COMMIT_RESERVE",
                Request::Commit(..) => "COMMIT",
                _ => "RESERVE",
            })),
        }
    }

    /// The error of a request without an answer.
    pub(super) fn failed(self, session: &Inner, error: ConnectionError) -> Error {
        let failure = unanswered(session, error, self.tick);
        if let Some(taken) = self.taken {
            put_back_unused(session, taken);
        }
        match self.request {
            Request::CommitReserve(held, _) | Request::Commit(held) => {
                failure.settled(session, held)
            }
            _ => failure.error(),
        }
    }
}

/// What a commit without an answer means.
pub(super) fn unanswered(session: &Inner, error: ConnectionError, tick: u64) -> Failure {
    let is_still_held = matches!(error, ConnectionError::Refused { .. }) || error.was_never_sent();
    let error = session.explain(error, Some(tick));
    if is_still_held {
        Failure::StillHeld(error)
    } else {
        Failure::Told(error)
    }
}

/// Refuses a commit that did not do everything.
pub(super) fn all_committed(items: &[CommittedItem]) -> core::result::Result<(), Failure> {
    // EXISTS: another commit of the key came first, and the key is readable.
    let is_there = |item: &&CommittedItem| matches!(item.status, Status::Ok | Status::Exists);
    match items.iter().find(|item| !is_there(item)) {
        None => Ok(()),
        Some(item) if item.status == Status::Expired => Err(Failure::StillHeld(Error::new(
            Status::Expired,
            "the reservation outlived the write TTL (hostkvd --l1-write-ttl-seconds), so nothing was committed; \
             write faster, or raise the TTL",
        ))),
        Some(item) => Err(Failure::StillHeld(Error::new(
            item.status,
            format!(
                "the daemon answered {} to an entry of this commit; report this defect of hostkvd",
                item.status
            ),
        ))),
    }
}

/// The failure of a reserve whose commit is done.
#[cold]
pub(super) fn behind_the_commit(error: Error) -> Error {
    Error::new(
        error.status,
        format!(
            "the commit is done, and the reserve behind it is not: {}",
            error.message
        ),
    )
}

/// Why a commit failed, and whether the daemon may still hold the extents for this reservation.
pub(super) enum Failure {
    /// It does not, or the outcome is unknown.
    Told(Error),
    /// It may.
    StillHeld(Error),
}

impl Failure {
    /// The error.
    fn error(self) -> Error {
        match self {
            Failure::Told(error) | Failure::StillHeld(error) => error,
        }
    }

    /// The error, after what the daemon may still hold is on its way back.
    pub(super) fn settled(self, session: &Inner, held: Held) -> Error {
        if matches!(self, Failure::StillHeld(_)) && !held.items.is_empty() {
            session.give_back_later(Request::Abort(held));
        }
        self.error()
    }
}
