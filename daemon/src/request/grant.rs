//! GRANT, RETURN and COMMIT_GRANTED: extents ahead of need, in a session that has a commit ring.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::{Grant, GrantedItem, HeldItem};

use super::Answer;
use crate::store::{Nanos, Outcome, Refusal, Store};

/// Grants as many extents as are asked, or as quota, index and free space allow, which may be none. It never evicts.
pub fn grant(
    store: &mut Store,
    session: SessionId,
    request: &Grant,
    now: Nanos,
) -> Result<Reply, Refusal> {
    store
        .grant_extents(session, request, now)
        .map(Reply::Granted)
}

/// Takes granted extents back; what is not granted under its generation any more is passed over.
pub fn give_back(
    store: &mut Store,
    session: SessionId,
    items: &[HeldItem],
) -> Result<Reply, Refusal> {
    store.return_grants(session, items)?;
    Ok(Reply::Returned)
}

/// Makes granted entries readable, the last first: what the commit ring has no room for, or what is to be pinned before it is
/// visible. A key that is there already is EXISTS, and its extent stays granted.
///
/// With `--integrity full` it is parked until a worker has summed the bytes.
pub fn commit(store: &mut Store, session: SessionId, items: &[GrantedItem], now: Nanos) -> Answer {
    match store.commit_granted(session, items, now) {
        Ok(Outcome::Done(items)) => Answer::Reply(Reply::GrantedCommitted(items)),
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => Err(refusal).into(),
    }
}
