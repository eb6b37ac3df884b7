//! What each request means: one file a request, each checks its meaning and calls one method of the store.
//!
//! `server/session.rs` calls [`execute`] on the loop's thread for every request of a session, after the codec has
//! checked its form, and [`hello::open`] for the first. Nothing here knows of sockets.
//!
//! ```text
//!   Request --> execute --> resolve, reserve, commit, abort, remove, clear, stats, audit, ping, bye --> Answer
//!   Hello   --> hello::open --> lease segment, the session's account --> HelloReply
//! ```

mod abort;
mod audit;
mod bye;
mod clear;
mod commit;
pub mod hello;
mod ping;
mod remove;
mod reserve;
mod resolve;
mod stats;

#[cfg(test)]
pub(crate) mod tests;

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;

use crate::store::{Nanos, Refusal, Resumed, ResumedAnswer, Store, Ticket};

/// A user that wants to open a session, and what it may do in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applicant {
    /// Its process, for logs.
    pub pid: i32,
    /// Its user id.
    pub uid: u32,
    /// Whether it may write.
    pub may_write: bool,
    /// Whether it may do what is kept to admins.
    pub is_admin: bool,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its session.
    pub session: SessionId,
    /// Its user.
    pub applicant: Applicant,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or refused.
    Reply(Reply),
    /// Goes on over several turns of the loop; the answer comes with [`resumed`].
    Parked(Ticket),
    /// The session has ended; this is its last reply.
    Ended(Reply),
}

impl From<Result<Reply, Refusal>> for Answer {
    fn from(result: Result<Reply, Refusal>) -> Answer {
        Answer::Reply(result.unwrap_or_else(refused))
    }
}

/// The reply to a request that is refused as a whole.
pub fn refused(refusal: Refusal) -> Reply {
    Reply::Error {
        status: refusal.status,
        text: refusal.text,
    }
}

/// Carries out one request.
pub fn execute(store: &mut Store, caller: &Caller, request: Request, now: Nanos) -> Answer {
    let session = caller.session;
    match request {
        Request::Resolve(request) => resolve::resolve(store, session, &request).into(),
        Request::Reserve(request) => reserve::reserve(store, session, request, now),
        Request::Commit(held) => commit::commit(store, session, &held, now).into(),
        Request::Abort(held) => abort::abort(store, session, &held, now).into(),
        Request::Remove(keys) => remove::remove(store, session, &keys, now).into(),
        Request::Clear { flags } => clear::clear(store, session, flags),
        Request::Stats => Answer::Reply(stats::stats(store)),
        Request::Audit => audit::audit(store, caller).into(),
        Request::Ping => Answer::Reply(ping::ping()),
        Request::Bye => Answer::Ended(bye::bye(store, session, now)),
    }
}

/// The reply to a request that was parked.
pub fn resumed(resumed: Resumed) -> Reply {
    match resumed.answer {
        ResumedAnswer::Reserved(items) => Reply::Reserved(items),
        ResumedAnswer::Cleared(count) => Reply::Cleared(count),
    }
}
