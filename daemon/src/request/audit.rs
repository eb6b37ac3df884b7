//! AUDIT.

use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::Reply;

use super::Caller;
use crate::store::{Refusal, Store};

/// Counts all bytes and entries one by one and says what does not add up. Holds the loop up, so it is kept to admins.
pub fn audit(store: &mut Store, caller: &Caller) -> Result<Reply, Refusal> {
    let uid = caller.applicant.uid;
    if !caller.applicant.is_admin {
        return Err(Refusal {
            status: Status::Permission,
            text: format!("uid {uid} may not audit the pool; --admin-uid {uid} allows it"),
        });
    }
    Ok(Reply::Audit(store.audit()))
}
