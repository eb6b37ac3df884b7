//! RESERVE.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Reserve;

use super::Answer;
use crate::store::{Nanos, Outcome, Store};

/// Gives the longest leading run of new keys that fits one extent each, evicting on demand.
///
/// Each key has its own outcome; keys that are there already, or that another writer holds, do not end the run. A
/// reserve that must evict first is parked. A length of 0 or above the largest object refuses the whole call.
pub fn reserve(store: &mut Store, session: SessionId, request: Reserve, now: Nanos) -> Answer {
    let key_count = request.items.len();
    match store.reserve(session, request, now) {
        Ok(Outcome::Done(items)) => Answer::Reply(Reply::Reserved(items)),
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => {
            store.count_refused_write(key_count);
            Err(refusal).into()
        }
    }
}
