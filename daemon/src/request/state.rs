//! STATE.

use super::{Answer, Caller, LoopRequest, admins_only, refused};

/// Asks for what the daemon knows of itself and of its sessions: whose they are, what they hold. Kept to admins.
pub fn state(caller: &Caller, cursor: u64) -> Answer {
    match admins_only(caller, "see the daemon's state") {
        Ok(()) => Answer::OfLoop(LoopRequest::State { cursor }),
        Err(refusal) => Answer::Reply(refused(refusal)),
    }
}
