//! A prefetch: keys that the daemon brings into the pool out of its tiers, and keeps there until the prefetch ends.
//!
//! [`Session::prefetch`](crate::session::Session::prefetch) makes it and does not wait; one thread at a time waits for
//! it. The daemon answers the request when all is loaded that can be, so a wait is nothing but the wait for that reply,
//! and one that ends early leaves everything as it is. What was kept is then acquired as usual: a prefetch pins nothing
//! itself.
//!
//! ```text
//!   prefetch --wait--> not yet (TIMEOUT), wait again
//!                 \--> so many leading keys are in the pool --acquire--> lease
//!   end or drop, at any time --> what it kept may be evicted again
//! ```

use crate::connection::ConnectionError;
use crate::error::{Error, Result};
use crate::session::inner::Inner;
use hostkv_shm_protocol::id::OpId;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::{Prefetched, Reply};
use hostkv_shm_protocol::wire::request::Request;
use std::sync::{Arc, Mutex, PoisonError};

/// Keys on their way into the pool. Ends by drop.
pub struct Prefetch {
    session: Arc<Inner>,
    op_id: OpId,
    wire_id: u64,
    count: usize,
    /// **The lock** lets one thread at a time wait for the reply; the others wait for that thread, at most its timeout.
    outcome: Mutex<Option<Result<Prefetched>>>,
    has_ended: bool,
}

impl Prefetch {
    /// A prefetch whose request was sent; it takes over a hold of the session.
    pub(crate) fn new(session: Arc<Inner>, op_id: OpId, wire_id: u64, count: usize) -> Prefetch {
        Prefetch {
            session,
            op_id,
            wire_id,
            count,
            outcome: Mutex::new(None),
            has_ended: false,
        }
    }

    /// Waits until it is over, at most `timeout_ms`; TIMEOUT says that it is not yet.
    pub fn wait(&self, timeout_ms: u32) -> Result<Prefetched> {
        self.session.refuse_child()?;
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = &*outcome {
            return outcome.clone();
        }
        let most = self.count as u32;
        let came = match self.session.wait_for(self.wire_id, timeout_ms) {
            Ok(Some(Reply::Prefetched(came))) if came.prefix_count <= most => Ok(came),
            Ok(Some(_)) => Err(self.session.strange_reply("PREFETCH")),
            Ok(None) => {
                return Err(Error::new(
                    Status::Timeout,
                    format!(
                        "the prefetch is not over after {timeout_ms} ms; wait again, or end it"
                    ),
                ));
            }
            Err(error) => Err(error),
        };
        outcome.insert(came).clone()
    }

    /// Ends it: what it kept may be evicted again. In a forked child it only frees memory.
    pub fn end(mut self) -> Result<()> {
        self.send_end()
    }

    fn send_end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(());
        }
        let outcome = self.try_end();
        self.session.prefetches.leave();
        self.session.leave();
        outcome
    }

    fn try_end(&self) -> Result<()> {
        if self.session.is_child() {
            return Ok(());
        }
        self.session.forget(self.wire_id);
        let tick = self.session.read.heartbeat_tick();
        let request = Request::PrefetchEnd { op_id: self.op_id };
        match self.session.try_call(&request) {
            Ok(Reply::PrefetchEnded) => Ok(()),
            Ok(_) => Err(self.session.strange_reply("PREFETCH_END")),
            // With the daemon everything that it kept is gone.
            Err(ConnectionError::Ended { .. }) => Ok(()),
            Err(error) => {
                if error.was_never_sent() {
                    self.session.give_back_later(request);
                }
                Err(self.session.explain(error, Some(tick)))
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        // What a forgotten end meets has nobody to be told to.
        let _ = self.send_end();
    }
}
