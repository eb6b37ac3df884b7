//! COMMIT_RESERVE.

use hostkv_shm_protocol::id::SessionId;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::{Held, Reserve};

use super::Answer;
use crate::store::{Nanos, Outcome, Store};

/// A COMMIT, and behind it a RESERVE, with one answer for both.
///
/// What would refuse the RESERVE as a whole refuses both before anything is committed. A COMMIT that does not do every
/// entry leaves the RESERVE undone. A COMMIT that is parked is followed by its RESERVE when it is carried out; a RESERVE
/// that is parked keeps the answer waiting, and what is committed is readable meanwhile.
pub fn commit_reserve(
    store: &mut Store,
    session: SessionId,
    held: &Held,
    reserve: Reserve,
    now: Nanos,
) -> Answer {
    let key_count = reserve.items.len();
    match store.commit_reserve(session, held, reserve, now) {
        Ok(Outcome::Done(pair)) => {
            Answer::Reply(Reply::CommitReserved(pair.committed, pair.reserved))
        }
        Ok(Outcome::Parked(ticket)) => Answer::Parked(ticket),
        Err(refusal) => {
            store.count_refused_write(key_count);
            Err(refusal).into()
        }
    }
}
