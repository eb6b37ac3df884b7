//! A reservation: room for new objects, written by this process, visible to nobody until it is committed.
//!
//! [`Session::reserve`](crate::session::Session::reserve) makes it; any thread may fill its spans, and the call
//! that ends it comes after all of them.
//!
//! ```text
//!                    /--commit-----------> readable, whole key by whole key
//!   reserve --fill--<---commit_and_acquire--> readable, and pinned before it was
//!      ^             \--abort or drop----> the extents are free again
//!      \--------------- commit_and_reserve --> readable, and the next reservation in the same round trip
//! ```
//!
//! Before a commit is sent the writer's stores are fenced, streaming ones included.

use crate::connection::ConnectionError;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::lease_pool::LeaseMemory;
use crate::read_path::{Item as PinItem, Pins};
use crate::session::inner::Inner;
use crate::session::reserving::Granted;
use crate::session::{Request as SessionRequest, ReserveItem};
use hostkv_shm_protocol::control::reader::Found;
use hostkv_shm_protocol::extent::Extent;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::{Reason, Status};
use hostkv_shm_protocol::sync::payload_store_fence;
use hostkv_shm_protocol::wire::reply::{CommittedItem, Reply, ReservedItem};
use hostkv_shm_protocol::wire::request::{Held, HeldItem, Request, Reserve};
use std::sync::Arc;

/// Where one new object is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanMut {
    /// Its first byte, aligned to the pool's alignment; it may be written until the reservation ends.
    pub data: *mut u8,
    /// Its length in bytes, exactly as asked.
    pub len_bytes: u64,
}

/// One item of a reservation.
pub(crate) struct Item {
    /// The key.
    pub(crate) key: Key,
    /// The length asked, in bytes.
    pub(crate) len_bytes: u32,
    /// What the daemon said.
    pub(crate) outcome: ReservedItem,
}

impl Item {
    fn extent(&self) -> Extent {
        Extent {
            offset_units: self.outcome.offset_units,
            len_bytes: self.len_bytes,
        }
    }

    /// Where it is to be written, as offset and length in the mapping for writes; none when that has no such place.
    pub(crate) fn place(&self, session: &Inner) -> Option<(u64, u64)> {
        if session.hello.staging_bytes == 0 {
            return session.read.byte_range(self.extent());
        }
        let offset = u64::from(self.outcome.staging_units) * session.hello.align_bytes;
        let len_bytes = u64::from(self.len_bytes);
        (offset + len_bytes <= session.hello.staging_bytes).then_some((offset, len_bytes))
    }

    fn is_granted(&self) -> bool {
        self.outcome.status == Status::Ok
    }

    fn held(&self) -> HeldItem {
        HeldItem {
            entry: self.outcome.entry,
            generation: self.outcome.generation,
        }
    }
}

/// Who asked for a reservation, for the events of a lease that its commit may give.
struct AskedBy {
    keyspace: KeyspaceId,
    request_id: String,
    device: String,
}

/// Extents to write into. Aborts by drop.
pub struct Reservation {
    session: Arc<Inner>,
    op_id: OpId,
    items: Vec<Item>,
    asked_by: AskedBy,
    has_ended: bool,
}

impl Reservation {
    /// The reservation of what was granted; it takes over a hold of the session.
    pub(crate) fn new(session: Arc<Inner>, keyspace: KeyspaceId, granted: Granted) -> Reservation {
        Reservation {
            session,
            op_id: granted.op_id,
            items: granted.items,
            asked_by: AskedBy {
                keyspace,
                request_id: granted.request_id,
                device: granted.device,
            },
            has_ended: false,
        }
    }

    /// Items asked.
    pub fn count(&self) -> usize {
        self.items.len()
    }

    /// The place of item number `index`, or the item's own status: EXISTS, RESERVED, NO_SPACE or QUOTA.
    pub fn span(&self, index: usize) -> Result<SpanMut> {
        self.session.refuse_child()?;
        let item = self.items.get(index).ok_or_else(|| {
            Error::invalid(format!(
                "index {index} is past the end of a reservation of {} items; it starts at 0",
                self.items.len()
            ))
        })?;
        if !item.is_granted() {
            return Err(self.refusal(index, item));
        }
        let outside = || {
            Error::internal(
                "the daemon granted an extent outside of the payload; report this defect",
            )
        };
        let (offset, len_bytes) = item.place(&self.session).ok_or_else(outside)?;
        let base = self.session.write_base().ok_or_else(outside)?;
        Ok(SpanMut {
            // The range lies inside the mapping, which is as long as the segment.
            data: base.wrapping_add(offset as usize),
            len_bytes,
        })
    }

    /// The place of item number `index` as a slice.
    ///
    /// # Safety
    ///
    /// Nobody else writes or reads the span while the slice lives: no other slice of it, no GPU. The bytes are
    /// those of objects before, or zero.
    #[allow(
        clippy::mut_from_ref,
        reason = "each span is memory of its own outside of the reservation; the contract names who may have it"
    )]
    pub unsafe fn slice_mut(&self, index: usize) -> Result<&mut [u8]> {
        let span = self.span(index)?;
        // SAFETY: the span lies inside the writable mapping, which stays until the reservation ends, and every
        // byte of a shared mapping is initialised; our caller has it alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(span.data, span.len_bytes as usize) })
    }

    #[cold]
    fn refusal(&self, index: usize, item: &Item) -> Error {
        let len_bytes = item.len_bytes;
        let what = format!("item {index} ({len_bytes} bytes)");
        let message = match (item.outcome.status, item.outcome.reason) {
            (Status::Exists, _) => {
                format!("{what} is committed already; there is nothing to write")
            }
            (Status::Reserved, _) => format!(
                "{what} is being written by another reservation, or stands twice in this call; skip it or look it up \
                 later"
            ),
            (Status::NoSpace, reason @ (Reason::NoEntry | Reason::BucketFull)) => format!(
                "{what} got no index entry ({}), even after eviction; release leases, or start hostkvd with a larger \
                 --max-objects",
                reason.name()
            ),
            (Status::NoSpace, _) => format!(
                "{what} got no space (no_space), even after eviction, in a pool of {} bytes; release leases, or start \
                 hostkvd with a larger --l1-size-gb",
                self.session.hello.capacity_bytes
            ),
            (Status::Quota, Reason::PoolReserved) => format!(
                "{what} would lift the reserved bytes of all sessions together above half of the pool of {} bytes \
                 (pool_reserved); commit or abort reservations first",
                self.session.hello.capacity_bytes
            ),
            (Status::Quota, Reason::KeyspaceQuota) => format!(
                "{what} would lift its keyspace above its quota of {} bytes (keyspace_quota), and nothing more of that \
                 keyspace can be evicted; release its leases, commit or abort its reservations, or start hostkvd with a \
                 larger --keyspace-quota",
                self.session.hello.keyspace_quota_bytes
            ),
            (Status::Quota, Reason::Staging) => format!(
                "{what} finds no room in this session's staging segment of {} bytes (staging), because what is reserved lies \
                 scattered in it; commit or abort reservations first",
                self.session.hello.staging_bytes
            ),
            (Status::Quota, _) => format!(
                "{what} would lift this session's reserved bytes above its quota of {} bytes (session_reserved); \
                 commit or abort reservations first, or start hostkvd with a larger --max-reserved-ratio",
                self.session.hello.reserve_quota_bytes
            ),
            (status, _) => format!("{what} was answered with {status}"),
        };
        Error::new(item.outcome.status, message)
    }

    fn held(&self) -> Held {
        Held {
            op_id: self.op_id,
            items: self
                .items
                .iter()
                .filter(|item| item.is_granted())
                .map(Item::held)
                .collect(),
        }
    }

    /// Makes all granted items readable.
    pub fn commit(mut self) -> Result<()> {
        self.begin_end()?;
        let outcome = self.send_commit();
        match outcome {
            Ok(_) => {
                // Nothing is held any more: the drop must not ask the daemon to take it back.
                self.has_ended = true;
                self.session.leave();
                Ok(())
            }
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    /// Makes all granted items readable and gives a lease of the reservation's count and order: items committed now
    /// are pinned before they become visible, items that existed are acquired.
    pub fn commit_and_acquire(mut self) -> Result<Lease> {
        self.begin_end()?;
        let session = Arc::clone(&self.session);
        let mut held = session.lease_pool.take();
        let LeaseMemory { pins, trace, .. } = &mut *held;
        let outcome = self.commit_pinned(pins);
        if let Err(failure) = outcome {
            session.read.abandon(pins);
            session.lease_pool.put(held);
            return Err(self.give_up(failure));
        }
        // The lease takes over the reservation's hold of the session.
        self.has_ended = true;
        let asked_by = &self.asked_by;
        *trace = session.read.events.begin(
            asked_by.keyspace,
            Some(&asked_by.request_id),
            Some(&asked_by.device),
            &mut pins.caller,
        );
        Ok(Lease::new(session, held))
    }

    /// Makes all granted items readable and reserves the next ones, in one round trip and in this order.
    ///
    /// A reserve that must not be is refused before anything is committed. When the commit does not do everything, nothing is
    /// reserved, and the outcome is the commit's. While the reserve waits for room, what was committed is readable.
    pub fn commit_and_reserve(
        mut self,
        keyspace: KeyspaceId,
        items: &[ReserveItem],
        request: &SessionRequest<'_>,
    ) -> Result<Reservation> {
        self.begin_end()?;
        let reserve = self.session.checked_reserve(keyspace, items, request)?;
        let session = Arc::clone(&self.session);
        let (reserve, outcomes) = match self.send_pair(reserve) {
            Ok(reserved) => reserved,
            Err(failure) => return Err(self.give_up(failure)),
        };
        match session.granted(reserve, outcomes) {
            Ok(granted) => {
                // The next one takes over the hold of the session.
                self.has_ended = true;
                Ok(Reservation::new(session, keyspace, granted))
            }
            Err(error) => Err(self.give_up(Failure::Told(behind_the_commit(error)))),
        }
    }

    /// Gives all granted items back. In a forked child it only frees memory.
    pub fn abort(mut self) -> Result<()> {
        self.send_abort()
    }

    /// What every commit begins with; on a refusal the granted items are given back.
    fn begin_end(&mut self) -> Result<()> {
        self.session.refuse_child()?;
        // A refused commit ends the reservation, so its drop aborts what was granted.
        self.session.refuse_ended()?;
        self.session.refuse_without_daemon()
    }

    fn commit_pinned(&self, pins: &mut Pins) -> core::result::Result<(), Failure> {
        let read = &self.session.read;
        pins.reset(self.items.len());
        for item in &self.items {
            pins.items.push(if item.is_granted() {
                PinItem::found(Found {
                    entry: item.outcome.entry,
                    seq: item.outcome.generation,
                    extent: item.extent(),
                })
            } else {
                PinItem::NOT_FOUND
            });
        }
        read.pin_before_commit(pins);
        let committed = self.send_commit()?;
        let granted = self.items.iter().filter(|item| item.is_granted());
        for (item, committed) in granted.zip(&committed) {
            if item.outcome.generation != committed.generation {
                return Err(Failure::Told(Error::internal(format!(
                    "entry {} was committed with generation {} instead of {}; report this defect of hostkvd",
                    item.outcome.entry.0, committed.generation, item.outcome.generation
                ))));
            }
        }
        let existing = self.items.iter().enumerate().filter_map(|(at, item)| {
            (item.outcome.status == Status::Exists).then_some((at, &item.key))
        });
        read.acquire_more(existing, pins);
        Ok(())
    }

    /// Sends the commit of what was granted and looks at every answer.
    ///
    /// A function of its own in the machine code too, where a test looks for the fence before the send.
    #[inline(never)]
    fn send_commit(&self) -> core::result::Result<Vec<CommittedItem>, Failure> {
        // The caller may have streamed into the spans with copies of its own.
        payload_store_fence();
        let held = self.held();
        if held.items.is_empty() {
            return Ok(Vec::new());
        }
        let count = held.items.len();
        let tick = self.session.read.heartbeat_tick();
        match self.session.try_call(&Request::Commit(held)) {
            Ok(Reply::Committed(items)) if items.len() == count => {
                all_committed(&items)?;
                Ok(items)
            }
            Ok(_) => Err(Failure::Told(self.session.strange_reply("COMMIT"))),
            Err(error) => Err(self.unanswered(error, tick)),
        }
    }

    /// Sends the commit of what was granted and the next reserve, looks at every answer of the commit, and gives those of the
    /// reserve. Where nothing was granted there is nothing to commit.
    ///
    /// A function of its own for the same reason as [`Reservation::send_commit`].
    #[inline(never)]
    fn send_pair(
        &self,
        reserve: Reserve,
    ) -> core::result::Result<(Reserve, Vec<ReservedItem>), Failure> {
        // The caller may have streamed into the spans with copies of its own.
        payload_store_fence();
        let held = self.held();
        let (held_count, count) = (held.items.len(), reserve.items.len());
        let request = match held_count {
            0 => Request::Reserve(reserve),
            _ => Request::CommitReserve(held, reserve),
        };
        let tick = self.session.read.heartbeat_tick();
        let reply = self.session.try_call(&request);
        let strange = || Failure::Told(self.session.strange_reply("COMMIT_RESERVE"));
        let outcomes = match (reply, held_count) {
            (Ok(Reply::Reserved(outcomes)), 0) => outcomes,
            (Ok(Reply::CommitReserved(committed, outcomes)), _)
                if held_count > 0 && committed.len() == held_count =>
            {
                all_committed(&committed)?;
                outcomes
            }
            (Ok(_), _) => return Err(strange()),
            (Err(error), _) => return Err(self.unanswered(error, tick)),
        };
        match request {
            Request::Reserve(reserve) | Request::CommitReserve(_, reserve)
                if outcomes.len() == count =>
            {
                Ok((reserve, outcomes))
            }
            _ => Err(strange()),
        }
    }

    /// What a commit without an answer means.
    fn unanswered(&self, error: ConnectionError, tick: u64) -> Failure {
        let is_still_held =
            matches!(error, ConnectionError::Refused { .. }) || error.was_never_sent();
        let error = self.session.explain(error, Some(tick));
        if is_still_held {
            Failure::StillHeld(error)
        } else {
            Failure::Told(error)
        }
    }

    /// Ends the reservation after a failed commit; what the daemon may still hold for it is given back.
    fn give_up(&mut self, failure: Failure) -> Error {
        self.has_ended = true;
        let error = match failure {
            Failure::Told(error) => error,
            Failure::StillHeld(error) => {
                self.session.give_back_later(Request::Abort(self.held()));
                error
            }
        };
        self.session.leave();
        error
    }

    fn send_abort(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(());
        }
        let outcome = self.try_abort();
        self.session.leave();
        outcome
    }

    fn try_abort(&self) -> Result<()> {
        let held = self.held();
        if self.session.is_child() || held.items.is_empty() {
            return Ok(());
        }
        let tick = self.session.read.heartbeat_tick();
        let request = Request::Abort(held);
        match self.session.try_call(&request) {
            Ok(Reply::Aborted(_)) => Ok(()),
            Ok(_) => Err(self.session.strange_reply("ABORT")),
            Err(error) => {
                if error.was_never_sent() {
                    self.session.give_back_later(request);
                }
                Err(self.session.explain(error, Some(tick)))
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // What a forgotten abort meets has nobody to be told to.
        let _ = self.send_abort();
    }
}

/// Refuses a commit that did not do everything.
fn all_committed(items: &[CommittedItem]) -> core::result::Result<(), Failure> {
    match items.iter().find(|item| item.status != Status::Ok) {
        None => Ok(()),
        Some(item) if item.status == Status::Expired => Err(Failure::StillHeld(Error::new(
            Status::Expired,
            "the reservation outlived the write TTL (hostkvd --l1-write-ttl-seconds), so nothing was committed; \
             write faster, or raise the TTL",
        ))),
        Some(item) => Err(Failure::StillHeld(Error::new(
            item.status,
            format!(
                "the daemon answered {} to an entry of this commit; report this defect of hostkvd",
                item.status
            ),
        ))),
    }
}

/// The failure of a reserve whose commit is done.
#[cold]
fn behind_the_commit(error: Error) -> Error {
    Error::new(
        error.status,
        format!(
            "the commit is done, and the reserve behind it is not: {}",
            error.message
        ),
    )
}

/// Why a commit failed, and whether the daemon may still hold the extents for this reservation.
enum Failure {
    /// It does not, or the outcome is unknown.
    Told(Error),
    /// It may.
    StillHeld(Error),
}
