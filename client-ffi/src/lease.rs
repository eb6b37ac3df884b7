//! A lease: the right to read some objects where they lie, until it is released.
//!
//! [`Session::acquire`](crate::session::Session::acquire) and
//! [`Reservation::commit_and_acquire`](crate::reservation::Reservation::commit_and_acquire) make it; any thread
//! may use it. The bytes under it do not change and stay mapped, whatever happens to the daemon, to their writer
//! or to the key. Nothing here makes a system call, except when the last handle of a closed session ends.
//!
//! ```text
//!   acquire --> lease --span, check--> lease --release or drop--> pins cleared, keys counted as read
//! ```

use crate::error::{Error, Result};
use crate::events::Trace;
use crate::read_path::{Pins, Place, Shortage};
use crate::session::inner::Inner;
use hostkv_shm_protocol::status::Status;
use std::sync::Arc;

/// Where one object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first byte; it may be read until the lease ends, and never written.
    pub data: *const u8,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// Pinned objects. Releases by drop.
pub struct Lease {
    session: Arc<Inner>,
    /// None once it has ended.
    pins: Option<Box<Pins>>,
    trace: Trace,
    prefix_count: usize,
}

impl Lease {
    /// A lease of these pins; it takes over a hold of the session.
    pub(crate) fn new(session: Arc<Inner>, pins: Box<Pins>, trace: Trace) -> Lease {
        Lease {
            prefix_count: pins.prefix_count(),
            session,
            pins: Some(pins),
            trace,
        }
    }

    fn items_len(&self) -> usize {
        self.pins.as_ref().map_or(0, |pins| pins.items.len())
    }

    /// Keys asked.
    pub fn count(&self) -> usize {
        self.items_len()
    }

    /// Leading keys pinned.
    pub fn prefix_count(&self) -> usize {
        self.prefix_count
    }

    /// The object of key number `index`; NOT_FOUND or QUOTA when it is not pinned.
    pub fn span(&self, index: usize) -> Result<Span> {
        self.session.refuse_child()?;
        let pins = self.pins.as_ref();
        let item = pins.and_then(|pins| pins.items.get(index)).ok_or_else(|| {
            Error::invalid(format!(
                "index {index} is past the end of a lease of {} keys; it starts at 0",
                self.items_len()
            ))
        })?;
        match item.place {
            Place::Pinned(_) => {
                let (offset, len_bytes) =
                    self.session
                        .read
                        .byte_range(item.found.extent)
                        .ok_or_else(|| {
                            Error::internal(format!(
                                "the index places key {index} outside of the payload; report this defect of hostkvd"
                            ))
                        })?;
                if let Some(pins) = pins {
                    self.session
                        .read
                        .events
                        .span_taken(&self.trace, &pins.caller);
                }
                // The range lies inside the mapping, which has at least the payload's length.
                let data = self.session.read_base().wrapping_add(offset as usize);
                Ok(Span { data, len_bytes })
            }
            Place::Quota => Err(Error::new(Status::Quota, self.quota_text(index))),
            Place::Found | Place::NotFound => Err(Error::new(
                Status::NotFound,
                format!(
                    "key {index} is not in L1, or lies behind the end of the run that was pinned"
                ),
            )),
        }
    }

    #[cold]
    fn quota_text(&self, index: usize) -> String {
        let read = &self.session.read;
        match self.pins.as_ref().and_then(|pins| pins.shortage) {
            Some(Shortage::Bytes) => format!(
                "key {index} is not pinned: the session's pinned bytes would pass its quota of {} bytes, half of \
                 the pool; release leases first",
                read.pin_quota_bytes()
            ),
            Some(Shortage::Gate) => format!(
                "key {index} is not pinned: more than 80 % of the pool is pinned by all sessions together; release \
                 leases, or give hostkvd more memory with --l1-size-gb"
            ),
            Some(Shortage::Slots) | None => format!(
                "key {index} is not pinned: all {} pin slots of the session are in use; release leases, or open the \
                 session with a larger pin_slot_count (hostkvd --max-pins)",
                read.slot_count()
            ),
        }
    }

    /// The object of key number `index` as a slice.
    ///
    /// # Safety
    ///
    /// The caller knows that no writer of the pool breaks the rules while the slice lives: every trusted writer
    /// maps the payload and could store into a committed object. With a read TTL the slice must not be used after
    /// a [`Lease::check`] that said EXPIRED.
    pub unsafe fn slice(&self, index: usize) -> Result<&[u8]> {
        let span = self.span(index)?;
        // SAFETY: the span lies inside the mapping, which stays until the lease ends; our caller keeps writers
        // away.
        Ok(unsafe { std::slice::from_raw_parts(span.data, span.len_bytes as usize) })
    }

    /// OK, or EXPIRED: what was read since the last OK is void. A GPU that reads has been synchronised before.
    pub fn check(&self) -> Result<()> {
        self.session.refuse_child()?;
        let is_valid = self
            .pins
            .as_ref()
            .is_none_or(|pins| self.session.read.check(pins));
        verdict(is_valid)
    }

    /// Ends the lease, with the verdict of [`Lease::check`]. In a forked child it only frees memory.
    pub fn release(mut self) -> Result<()> {
        verdict(self.end())
    }

    fn end(&mut self) -> bool {
        let Some(mut pins) = self.pins.take() else {
            return true;
        };
        let mut is_valid = true;
        if !self.session.is_child() {
            let read = pins.pinned_count();
            let asked = pins.items.len();
            is_valid = self.session.read.release(&mut pins);
            let events = &self.session.read.events;
            events.end_lease(&self.trace, &pins.caller, read, asked);
            self.session.pins_pool.put(pins);
        }
        // A goodbye that failed here has no caller to tell: the lease itself has ended.
        self.session.leave();
        is_valid
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

fn verdict(is_valid: bool) -> Result<()> {
    if is_valid {
        return Ok(());
    }
    Err(Error::new(
        Status::Expired,
        "the lease outlived the read TTL (hostkvd --l1-read-ttl-seconds), so what was read since the last OK is \
         void; release sooner, or raise the TTL",
    ))
}
