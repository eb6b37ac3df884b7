//! PREFETCH and PREFETCH_END.

use hostkv_shm_protocol::id::{OpId, SessionId};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Prefetch;

use super::Answer;
use crate::store::{Nanos, Outcome, Refusal, Store};

/// Brings the longest prefix of the keys into L1, out of the tiers where L1 does not have it, and keeps it from being evicted.
///
/// Parked while the tiers work on it. Charged to the session's pin quota; it is no read request and no write request.
pub fn prefetch(store: &mut Store, session: SessionId, request: Prefetch, now: Nanos) -> Answer {
    match store.prefetch(session, request, now) {
        Ok(Outcome::Done(outcome)) => Answer::Reply(Reply::Prefetched(outcome)),
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => Err(refusal).into(),
    }
}

/// Lets go what a prefetch keeps; nothing for one that is not open, because the end may come after that of its socket.
pub fn end(
    store: &mut Store,
    session: SessionId,
    op_id: OpId,
    now: Nanos,
) -> Result<Reply, Refusal> {
    store.end_prefetch(session, op_id, now)?;
    Ok(Reply::PrefetchEnded)
}
