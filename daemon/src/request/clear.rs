//! CLEAR.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;

use super::Answer;
use crate::store::{Outcome, Store};

/// Removes every key of the keyspaces that the session opened, or, for an admin that asks so, every key there is.
///
/// It sweeps the whole index, so a large one is parked.
pub fn clear(store: &mut Store, session: SessionId, flags: u32) -> Answer {
    match store.clear(session, flags) {
        Ok(Outcome::Done(count)) => Answer::Reply(Reply::Cleared(count)),
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => Err(refusal).into(),
    }
}
