//! FLUSH.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;

use super::Answer;
use crate::store::{Outcome, Store};

/// Answered when the session's commit ring is drained up to the position and all that was committed by then is readable.
///
/// Parked while another thread of the session has not finished its record, or while workers sum.
pub fn flush(store: &mut Store, session: SessionId, position: u64) -> Answer {
    match store.flush(session, position) {
        Ok(Outcome::Done(())) => Answer::Reply(Reply::Flushed),
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => Err(refusal).into(),
    }
}
