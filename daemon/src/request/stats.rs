//! STATS.

use hostkv_shm_protocol::wire::reply::Reply;

use crate::store::Store;

/// The pool's figures of this moment, the counters of all sessions folded in.
pub fn stats(store: &mut Store) -> Reply {
    Reply::Stats(store.figures())
}
