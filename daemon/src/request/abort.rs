//! ABORT.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Held;

use crate::store::{Nanos, Refusal, Store};

/// Gives entries of a reservation and their extents back; the client no longer writes into them.
pub fn abort(
    store: &mut Store,
    session: SessionId,
    held: &Held,
    now: Nanos,
) -> Result<Reply, Refusal> {
    store.abort(session, held, now).map(Reply::Aborted)
}
