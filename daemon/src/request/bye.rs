//! BYE.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;

use crate::store::{Nanos, SessionEnd, Store};

/// Ends the session. Its client has unmapped the payload before it said so, and holds nothing any more.
pub fn bye(store: &mut Store, session: SessionId, now: Nanos) -> Reply {
    store.close_session(session, SessionEnd::Bye, now);
    Reply::Bye
}
