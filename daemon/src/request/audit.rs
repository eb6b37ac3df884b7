//! AUDIT.

use hostkv_shm_protocol::wire::reply::Reply;

use super::{Caller, admins_only};
use crate::store::{Refusal, Store};

/// Counts all bytes and entries one by one and says what does not add up. Holds the loop up, so it is kept to admins.
pub fn audit(store: &mut Store, caller: &Caller) -> Result<Reply, Refusal> {
    admins_only(caller, "audit the pool")?;
    Ok(Reply::Audit(store.audit()))
}
