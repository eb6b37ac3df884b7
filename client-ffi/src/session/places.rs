//! How many things of a kind a session may have at a time, and has: the library itself refuses more.

use crate::error::{Error, Result};
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::{AtomicU32, Ordering};

/// The count, and its limit.
pub(crate) struct Places {
    count: AtomicU32,
    most: u32,
    /// What there are so many of, in a sentence that begins with their number.
    what: &'static str,
    remedy: &'static str,
}

impl Places {
    /// None taken yet, of `most`.
    pub(crate) fn new(most: usize, what: &'static str, remedy: &'static str) -> Places {
        Places {
            count: AtomicU32::new(0),
            most: most as u32,
            what,
            remedy,
        }
    }

    /// A place for one more, given back by drop unless it is handed over.
    pub(crate) fn enter(&self) -> Result<Place<'_>> {
        // Relaxed: the count alone decides.
        let entered = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.most).then_some(count + 1)
            });
        match entered {
            Ok(_) => Ok(Place(self)),
            Err(count) => Err(Error::new(
                Status::Quota,
                format!(
                    "{count} {}, as many as are allowed; {}",
                    self.what, self.remedy
                ),
            )),
        }
    }

    /// One has ended.
    pub(crate) fn leave(&self) {
        // Relaxed: as in `enter`.
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the places.
pub(crate) struct Place<'a>(&'a Places);

impl Place<'_> {
    /// What has it now leaves by itself.
    pub(crate) fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
