//! What each request means: one file a request, each checks its meaning and calls one method of the store.
//!
//! `server/session.rs` calls [`execute`] on the loop's thread for every request of a session, after the codec has
//! checked its form, and [`hello::open`] for the first. Nothing here knows of sockets.
//!
//! ```text
//!   Request --> execute --> resolve, reserve, commit, commit_reserve, grant, flush, abort, remove, … --> Answer
//!                      \--> state, reload: allowed? ---------------------> Answer::OfLoop, carried out by server/
//!   Hello   --> hello::open --> lease segment, the session's account --> HelloReply
//! ```

mod abort;
mod audit;
mod bye;
mod clear;
mod commit;
mod commit_reserve;
mod flush;
mod grant;
pub mod hello;
mod list;
mod ping;
mod prefetch;
mod reload;
mod remove;
mod reserve;
mod resolve;
mod state;
mod stats;

#[cfg(test)]
pub(crate) mod tests;

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;

use crate::ballast;
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
    /// Whether it may map the payload writable when it may write.
    pub is_trusted: bool,
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
    /// Allowed, and about what only the loop has: the loop carries it out.
    OfLoop(LoopRequest),
    /// The session has ended; this is its last reply.
    Ended(Reply),
}

/// A request about all sessions, or the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopRequest {
    /// A page of the state, which begins after this session.
    State {
        /// A session's number; 0 = the first page.
        cursor: u64,
    },
    /// The configuration is to be read again.
    Reload,
}

impl From<Result<Reply, Refusal>> for Answer {
    fn from(result: Result<Reply, Refusal>) -> Answer {
        Answer::Reply(result.unwrap_or_else(refused))
    }
}

/// Refuses who is no admin; `what` is what it may not do.
fn admins_only(caller: &Caller, what: &str) -> Result<(), Refusal> {
    if caller.applicant.is_admin {
        return Ok(());
    }
    let uid = caller.applicant.uid;
    Err(Refusal {
        status: Status::Permission,
        text: format!("uid {uid} may not {what}; --admin-uid {uid} allows it"),
    })
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
    let grows = match &request {
        Request::Resolve(_) => Some("open a keyspace"),
        Request::Reserve(_) | Request::CommitReserve(..) | Request::Grant(_) => Some("reserve"),
        Request::Prefetch(_) => Some("prefetch"),
        _ => None,
    };
    if let Some(Err(refusal)) = grows.map(ballast::refuse_more) {
        return Answer::Reply(refused(refusal));
    }
    // What the session has finished in its ring came before this request.
    store.drain_ring_of(session, now);
    match request {
        Request::Resolve(request) => resolve::resolve(store, session, &request).into(),
        Request::Reserve(request) => reserve::reserve(store, session, request, now),
        Request::Commit(held) => commit::commit(store, session, &held, now),
        Request::CommitReserve(held, reserve) => {
            commit_reserve::commit_reserve(store, session, &held, reserve, now)
        }
        Request::Abort(held) => abort::abort(store, session, &held, now).into(),
        Request::Remove(keys) => remove::remove(store, session, &keys, now).into(),
        Request::Clear { flags } => clear::clear(store, session, flags),
        Request::Stats => Answer::Reply(stats::stats(store)),
        Request::Audit => audit::audit(store, caller).into(),
        Request::Ping => Answer::Reply(ping::ping()),
        Request::Bye => Answer::Ended(bye::bye(store, session, now)),
        Request::List(list) => list::list(store, caller, &list, now).into(),
        Request::State { cursor } => state::state(caller, cursor),
        Request::Reload => reload::reload(caller),
        Request::Prefetch(request) => prefetch::prefetch(store, session, request, now),
        Request::PrefetchEnd { op_id } => prefetch::end(store, session, op_id, now).into(),
        Request::Grant(request) => grant::grant(store, session, &request, now).into(),
        Request::Return(items) => grant::give_back(store, session, &items).into(),
        Request::CommitGranted(items) => grant::commit(store, session, &items, now),
        Request::Flush { position } => flush::flush(store, session, position),
    }
}

/// The reply to a request that was parked.
pub fn resumed(resumed: Resumed) -> Reply {
    match resumed.answer {
        ResumedAnswer::Reserved(items) => Reply::Reserved(items),
        ResumedAnswer::Committed(items) => Reply::Committed(items),
        ResumedAnswer::CommitReserved(pair) => Reply::CommitReserved(pair.committed, pair.reserved),
        ResumedAnswer::GrantedCommitted(items) => Reply::GrantedCommitted(items),
        ResumedAnswer::Flushed => Reply::Flushed,
        ResumedAnswer::Cleared(count) => Reply::Cleared(count),
        ResumedAnswer::Prefetched(outcome) => Reply::Prefetched(outcome),
    }
}
