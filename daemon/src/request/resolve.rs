//! RESOLVE.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Resolve;

use crate::store::{Refusal, Store};

/// Opens a keyspace for the session: the same (model name, cache salt) gives the same number until the session ends.
///
/// LAYOUT_MISMATCH when any session has it open with another layout fingerprint or tokens per key; QUOTA when the
/// session or the daemon has too many.
pub fn resolve(store: &mut Store, session: SessionId, request: &Resolve) -> Result<Reply, Refusal> {
    let resolved = store.resolve(session, request)?;
    Ok(Reply::Resolved {
        keyspace: resolved.keyspace,
        tokens_per_key: resolved.tokens_per_key,
        layout_fingerprint: resolved.layout_fingerprint,
    })
}
