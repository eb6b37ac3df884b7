//! How many prefetches a session has open: the daemon allows so many, and the library refuses more by itself.

use crate::error::{Error, Result};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::{AtomicU32, Ordering};
use hostkv_shm_protocol::wire::MAX_PREFETCHES;

/// The count.
pub(crate) struct OpenPrefetches(AtomicU32);

impl OpenPrefetches {
    /// None yet.
    pub(crate) fn new() -> OpenPrefetches {
        OpenPrefetches(AtomicU32::new(0))
    }

    /// A place for one more, given back by drop unless it is handed over.
    pub(crate) fn enter(&self) -> Result<OpenPlace<'_>> {
        let most = MAX_PREFETCHES as u32;
        // Relaxed: the count alone decides.
        let entered = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < most).then_some(count + 1)
            });
        match entered {
            Ok(_) => Ok(OpenPlace(self)),
            Err(count) => Err(Error::new(
                Status::Quota,
                format!(
                    "{count} prefetches of this session are open, as many as are allowed; end one first"
                ),
            )),
        }
    }

    /// One has ended.
    pub(crate) fn leave(&self) {
        // Relaxed: as in `enter`.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the open prefetches.
pub(crate) struct OpenPlace<'a>(&'a OpenPrefetches);

impl OpenPlace<'_> {
    /// The prefetch has it now.
    pub(crate) fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for OpenPlace<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
