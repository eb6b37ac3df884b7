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
use crate::lease_pool::LeaseMemory;
use crate::read_path::{Place, Shortage};
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

/// A lease's memory; its address is the handle of the C interface.
pub(crate) type Handle = LeaseMemory<Arc<Inner>>;

/// Pinned objects. Releases by drop.
pub struct Lease {
    /// None once it has ended.
    held: Option<Box<Handle>>,
}

impl Lease {
    /// A lease of what was pinned; it takes over a hold of the session.
    #[inline]
    pub(crate) fn new(session: Arc<Inner>, mut held: Box<Handle>) -> Lease {
        held.session = Some(session);
        Lease { held: Some(held) }
    }

    /// The lease of a handle.
    #[inline]
    pub(crate) fn of(held: Box<Handle>) -> Lease {
        Lease { held: Some(held) }
    }

    /// The handle, which does not release by drop.
    #[inline]
    pub(crate) fn into_handle(mut self) -> Option<Box<Handle>> {
        self.held.take()
    }

    fn handle(&self) -> Result<&Handle> {
        self.held.as_deref().ok_or_else(ended)
    }

    /// Keys asked.
    pub fn count(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.count())
    }

    /// Leading keys pinned.
    pub fn prefix_count(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.prefix_count())
    }

    /// The object of key number `index`; NOT_FOUND or QUOTA when it is not pinned.
    pub fn span(&self, index: usize) -> Result<Span> {
        self.handle()?.span(index)
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
        self.handle()?.check()
    }

    /// Ends the lease, with the verdict of [`Lease::check`]. In a forked child it only frees memory.
    pub fn release(mut self) -> Result<()> {
        verdict(self.end())
    }

    /// Ends it unless it has ended, which is told without a call.
    #[inline]
    fn end(&mut self) -> bool {
        self.held.take().is_none_or(Lease::end_held)
    }

    fn end_held(mut held: Box<Handle>) -> bool {
        let Some(session) = held.session.take() else {
            return true;
        };
        let mut is_valid = true;
        if !session.is_child() {
            let LeaseMemory { pins, trace, .. } = &mut *held;
            let read = pins.pinned_count();
            let asked = pins.items.len();
            is_valid = session.read.release(pins);
            let events = &session.read.events;
            events.end_lease(trace, &pins.caller, read, asked);
            session.lease_pool.put(held);
        }
        // A goodbye that failed here has no caller to tell: the lease itself has ended.
        session.leave();
        is_valid
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
    }
}

impl Handle {
    fn session(&self) -> Result<&Inner> {
        self.session.as_deref().ok_or_else(ended)
    }

    /// See [`Lease::count`].
    pub(crate) fn count(&self) -> usize {
        self.pins.items.len()
    }

    /// See [`Lease::prefix_count`].
    pub(crate) fn prefix_count(&self) -> usize {
        self.pins.prefix_count()
    }

    /// See [`Lease::span`].
    pub(crate) fn span(&self, index: usize) -> Result<Span> {
        let session = self.session()?;
        session.refuse_child()?;
        let Some(item) = self.pins.items.get(index) else {
            return Err(self.no_such_key(index));
        };
        let Place::Pinned(_) = item.place else {
            return Err(self.not_pinned(session, index, item.place));
        };
        let (offset, len_bytes) = session.read.byte_range(item.found.extent).ok_or_else(|| {
            Error::internal(format!(
                "the index places key {index} outside of the payload; report this defect of hostkvd"
            ))
        })?;
        let events = &session.read.events;
        events.span_taken(&self.trace, &self.pins.caller);
        // The range lies inside the mapping, which has at least the payload's length.
        let data = session.read_base().wrapping_add(offset as usize);
        Ok(Span { data, len_bytes })
    }

    #[cold]
    fn no_such_key(&self, index: usize) -> Error {
        Error::invalid(format!(
            "index {index} is past the end of a lease of {} keys; it starts at 0",
            self.count()
        ))
    }

    #[cold]
    fn not_pinned(&self, session: &Inner, index: usize, place: Place) -> Error {
        if place == Place::Quota {
            return Error::new(Status::Quota, self.quota_text(session, index));
        }
        Error::new(
            Status::NotFound,
            format!("key {index} is not in L1, or lies behind the end of the run that was pinned"),
        )
    }

    #[cold]
    fn quota_text(&self, session: &Inner, index: usize) -> String {
        let read = &session.read;
        match self.pins.shortage {
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

    /// See [`Lease::check`].
    pub(crate) fn check(&self) -> Result<()> {
        let session = self.session()?;
        session.refuse_child()?;
        verdict(session.read.check(&self.pins))
    }
}

/// What a lease that has ended says.
#[cold]
fn ended() -> Error {
    Error::internal("the lease has ended; use it before its release only")
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
