//! REMOVE.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::wire::reply::Reply;

use crate::store::{Nanos, Refusal, Store};

/// Removes keys of keyspaces that the session opened. Pinned bytes stay until the last lease on them ends.
pub fn remove(
    store: &mut Store,
    session: SessionId,
    keys: &[Key],
    now: Nanos,
) -> Result<Reply, Refusal> {
    store.remove(session, keys, now).map(Reply::Removed)
}
