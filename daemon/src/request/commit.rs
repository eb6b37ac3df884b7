//! COMMIT.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Held;

use super::Answer;
use crate::store::{Nanos, Outcome, Store};

/// Makes entries of a reservation readable, the last first, so that a later prefix reader finds a run.
///
/// An entry that is no longer the reservation's is NOT_FOUND, one that outlived its time to live EXPIRED. With
/// `--integrity full` it is parked until a worker has summed the bytes, that of
/// an untrusted writer until they are copied; it is carried out whatever becomes of its session.
pub fn commit(store: &mut Store, session: SessionId, held: &Held, now: Nanos) -> Answer {
    match store.commit(session, held, now) {
        Ok(Outcome::Done(items)) => Answer::Reply(Reply::Committed(items)),
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => Err(refusal).into(),
    }
}
