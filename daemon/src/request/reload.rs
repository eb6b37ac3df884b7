//! RELOAD.

use super::{Answer, Caller, LoopRequest, admins_only, refused};

/// Has the configuration read again, as SIGHUP does. Kept to admins.
pub fn reload(caller: &Caller) -> Answer {
    match admins_only(caller, "reload the configuration") {
        Ok(()) => Answer::OfLoop(LoopRequest::Reload),
        Err(refusal) => Answer::Reply(refused(refusal)),
    }
}
