//! COMMIT.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Held;

use crate::store::{Nanos, Refusal, Store};

/// Makes entries of a reservation readable, the last first, so that a later prefix reader finds a run.
///
/// An entry that is no longer the reservation's is NOT_FOUND, one that outlived its time to live EXPIRED.
pub fn commit(
    store: &mut Store,
    session: SessionId,
    held: &Held,
    now: Nanos,
) -> Result<Reply, Refusal> {
    store.commit(session, held, now).map(Reply::Committed)
}
