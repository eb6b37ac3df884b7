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
//!
//!   reserve or commit_and_reserve without waiting --> sent --wait--> there, as above
//! ```
//!
//! Before a commit is sent the writer's stores are fenced, streaming ones included. In a session opened with ASYNC_COMMIT most
//! reservations are made of extents that it holds already, and end without a message (`granted`).

mod answers;
mod granted;

use crate::error::{Error, Result};
use crate::events::StoreTrace;
use crate::grants::Grants;
use crate::lease::Lease;
use crate::lease_pool::LeaseMemory;
use crate::read_path::{Item as PinItem, Pins};
use crate::session::granted::ForSocket;
use crate::session::inner::Inner;
use crate::session::places::Place;
use crate::session::reserving::Granted;
use crate::session::{Request as SessionRequest, ReserveItem};
use answers::{Asked, Failure, all_committed, behind_the_commit, unanswered};
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

    /// Whether it was granted an extent, or a place to write it, that is none: a defect of the daemon.
    pub(crate) fn is_outside(&self, session: &Inner) -> bool {
        self.is_granted()
            && (session.read.byte_range(self.extent()).is_none() || self.place(session).is_none())
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
    /// Items asked.
    count: usize,
    /// As many, once it is known what they were granted; before that, and where nothing was reserved, none.
    items: Vec<Item>,
    asked_by: AskedBy,
    /// The number of the request that nobody has waited for yet, and what it asks.
    unanswered: Option<(u64, Asked)>,
    /// Why nothing was reserved.
    failure: Option<Error>,
    /// Whether its extents come from the session's grants, so that the daemon knows nothing of it.
    is_of_grants: bool,
    /// What is told of it then.
    told: Option<Box<StoreTrace>>,
    has_ended: bool,
}

impl Reservation {
    /// Answers a reserve, from the session's grants where they will do, and gives its reservation, which takes over a hold of
    /// the session. With a place nothing is waited for.
    pub(crate) fn make(
        session: &Arc<Inner>,
        keyspace: KeyspaceId,
        reserve: Reserve,
        place: Option<Place<'_>>,
    ) -> Result<Reservation> {
        let (op_id, count) = (reserve.op_id, reserve.items.len());
        match session.reserve_from_grants(keyspace, reserve, place.is_none())? {
            Ok(granted) => {
                let mut reservation = Reservation::empty(session, keyspace, op_id, count);
                reservation.take_over(granted);
                reservation.has_ended = false;
                Ok(reservation)
            }
            Err(ForSocket { reserve, lacks }) => {
                let asked = Asked::reserve(session, reserve);
                let made = Reservation::empty(session, keyspace, op_id, count)
                    .send_and_make(asked, place)?;
                session.ask_ahead(lacks);
                Ok(made)
            }
        }
    }

    /// A reservation that holds nothing and is over.
    fn empty(session: &Arc<Inner>, keyspace: KeyspaceId, op_id: OpId, count: usize) -> Reservation {
        Reservation {
            session: Arc::clone(session),
            op_id,
            count,
            items: Vec::new(),
            asked_by: AskedBy {
                keyspace,
                request_id: String::new(),
                device: String::new(),
            },
            unanswered: None,
            failure: None,
            is_of_grants: false,
            told: None,
            has_ended: true,
        }
    }

    /// Sends what makes this reservation, which is empty, and gives it, with a hold of the session that it takes over. With a
    /// place it is not waited for. Where it fails, what is held has been given back, as far as it was not committed.
    ///
    /// A function of its own in the machine code too, where a test looks for the fence before the send.
    #[inline(never)]
    fn send_and_make(mut self, asked: Asked, place: Option<Place<'_>>) -> Result<Reservation> {
        // The caller may have streamed into the spans that are committed with copies of its own.
        payload_store_fence();
        let session = Arc::clone(&self.session);
        match place {
            None => {
                let reply = session.try_call(&asked.request);
                self.take_over(asked.answered(&session, reply)?);
            }
            Some(place) => match session.try_begin(&asked.request) {
                Ok(request_id) => {
                    place.hand_over();
                    self.unanswered = Some((request_id, asked));
                }
                Err(error) => return Err(asked.failed(&session, error)),
            },
        }
        self.has_ended = false;
        Ok(self)
    }

    fn take_over(&mut self, granted: Granted) {
        self.items = granted.items;
        self.asked_by.request_id = granted.request_id;
        self.asked_by.device = granted.device;
        self.is_of_grants = granted.is_of_grants;
        self.told = granted.told;
    }

    /// Items asked.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Waits for a reservation that was made without waiting, at most `timeout_ms`; TIMEOUT says that it is not there yet, and
    /// to wait again. The outcome is what the call would have given that made it: with any other than OK nothing is reserved.
    /// Asked again, or of one that is there, it says the same.
    pub fn wait(&mut self, timeout_ms: u32) -> Result<()> {
        self.session.refuse_child()?;
        let Some((request_id, _)) = &self.unanswered else {
            return self.failure.clone().map_or(Ok(()), Err);
        };
        let reply = match self.session.try_wait_for(*request_id, timeout_ms) {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => {
                return Err(Error::new(
                    Status::Timeout,
                    format!(
                        "the reservation is not there after {timeout_ms} ms; wait again, or abort it"
                    ),
                ));
            }
            Err(error) => Err(error),
        };
        let Some((_, asked)) = self.unanswered.take() else {
            return Ok(());
        };
        self.session.unwaited.leave();
        match asked.answered(&self.session, reply) {
            Ok(granted) => {
                self.take_over(granted);
                Ok(())
            }
            Err(error) => Err(self.failure.insert(error).clone()),
        }
    }

    /// Refuses what needs the spans of a reservation that is not there.
    fn refuse_unmade(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.clone()),
            None if self.unanswered.is_some() => Err(Error::invalid(
                "the reservation was made without waiting (HOSTKV_RESERVE_NO_WAIT) and not waited for; wait for it first",
            )),
            None => Ok(()),
        }
    }

    /// The place of item number `index`, or the item's own status: EXISTS, RESERVED, NO_SPACE or QUOTA.
    pub fn span(&self, index: usize) -> Result<SpanMut> {
        self.session.refuse_child()?;
        if self.items.is_empty() {
            self.refuse_unmade()?;
        }
        let item = self.items.get(index).ok_or_else(|| {
            Error::invalid(format!(
                "index {index} is past the end of a reservation of {} items; it starts at 0",
                self.items.len()
            ))
        })?;
        if !item.is_granted() {
            return Err(self.refusal(index, item));
        }
        let (offset, len_bytes) = item.place(&self.session).ok_or_else(granted_outside)?;
        let base = self.session.write_base().ok_or_else(granted_outside)?;
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

    /// The session's grants, when the extents come from them.
    fn grants(&self) -> Option<&Grants> {
        let grants = self.session.grants.as_ref();
        grants.filter(|_| self.is_of_grants)
    }

    /// Tells what became of a reservation from grants.
    fn end_trace(&mut self, is_stored: bool) {
        if let Some(told) = self.told.take() {
            let granted = self.items.iter().filter(|item| item.is_granted()).count();
            let stored = if is_stored { granted } else { 0 };
            let events = &self.session.read.events;
            events.end_store(&told, stored, self.count);
        }
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
        let outcome = match self.grants() {
            Some(grants) => self.push_commit(grants),
            None => self.send_commit().map(drop),
        };
        match outcome {
            Ok(()) => {
                // Nothing is held any more: the drop must not ask the daemon to take it back.
                self.has_ended = true;
                self.end_trace(true);
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
        self.end_trace(true);
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
    ///
    /// With [`RESERVE_NO_WAIT`](crate::session::RESERVE_NO_WAIT) both are only sent, and the outcome of both is that of
    /// [`Reservation::wait`] of the next one.
    pub fn commit_and_reserve(
        mut self,
        keyspace: KeyspaceId,
        items: &[ReserveItem],
        request: &SessionRequest<'_>,
    ) -> Result<Reservation> {
        self.begin_end()?;
        let reserve = self.session.checked_reserve(keyspace, items, request)?;
        let session = Arc::clone(&self.session);
        let place = session.place_for(request)?;
        if let Some(pushed) = self.grants().map(|grants| self.push_commit(grants)) {
            if let Err(failure) = pushed {
                return Err(self.give_up(failure));
            }
            self.end_trace(true);
            self.has_ended = true;
            let next = Reservation::make(&session, keyspace, reserve, place);
            return left_if_failed(&session, next).map_err(behind_the_commit);
        }
        let held = self.held();
        if held.items.is_empty() {
            self.has_ended = true;
            let next = Reservation::make(&session, keyspace, reserve, place);
            return left_if_failed(&session, next);
        }
        let next = Reservation::empty(&session, keyspace, reserve.op_id, reserve.items.len());
        let (asked, lacks) = match session.reserve_from_grants(keyspace, reserve, false)? {
            Ok(taken) => (Asked::commit_before(&session, held, taken), None),
            Err(ForSocket { reserve, lacks }) => {
                (Asked::commit_and_reserve(&session, held, reserve), lacks)
            }
        };
        // From here on the request decides what becomes of what is held, and the next one takes over the hold of the session.
        self.has_ended = true;
        let next = left_if_failed(&session, next.send_and_make(asked, place))?;
        session.ask_ahead(lacks);
        Ok(next)
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
        self.refuse_unmade()?;
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
        let committed = match self.grants() {
            Some(grants) => self.send_granted(grants)?,
            None => self.send_commit()?,
        };
        let granted = self.items.iter().enumerate();
        let granted = granted.filter(|(_, item)| item.is_granted());
        let mut lost = Vec::new();
        for ((at, item), committed) in granted.zip(&committed) {
            if committed.status != Status::Ok {
                lost.push((at, committed.status));
                continue;
            }
            if item.outcome.generation != committed.generation {
                return Err(Failure::Told(Error::internal(format!(
                    "entry {} was committed with generation {} instead of {}; report this defect of hostkvd",
                    item.outcome.entry.0, committed.generation, item.outcome.generation
                ))));
            }
        }
        // What another commit made readable first is pinned there.
        read.unpin_lost(lost.iter().map(|(at, _)| *at), pins);
        let is_lost = |at| lost.contains(&(at, Status::Exists));
        let existing = self.items.iter().enumerate().filter_map(|(at, item)| {
            (item.outcome.status == Status::Exists || is_lost(at)).then_some((at, &item.key))
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
            Err(error) => Err(unanswered(&self.session, error, tick)),
        }
    }

    /// Ends the reservation after a failed commit; what the daemon may still hold for it is given back.
    fn give_up(&mut self, failure: Failure) -> Error {
        self.has_ended = true;
        self.end_trace(false);
        let error = failure.settled(&self.session, self.held());
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

    fn try_abort(&mut self) -> Result<()> {
        if self.session.is_child() {
            return Ok(());
        }
        // Of one that nobody has waited for, only the answer says what there is to give back, and what became of the commit.
        let waited = match self.unanswered {
            Some(_) => self.wait(self.session.timeout_ms()),
            None => Ok(()),
        };
        if let Some((request_id, asked)) = self.unanswered.take() {
            self.session.forget_reserve(request_id, self.op_id);
            self.session.unwaited.leave();
            asked.abandoned(&self.session);
        }
        let given_back = match self.grants() {
            Some(grants) => self.put_back(grants),
            None => self.give_back(),
        };
        self.end_trace(false);
        waited.and(given_back)
    }

    fn give_back(&self) -> Result<()> {
        let held = self.held();
        if held.items.is_empty() {
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

/// The next reservation; where there is none, nobody has the hold of the session any more that it was to take over.
fn left_if_failed(session: &Inner, next: Result<Reservation>) -> Result<Reservation> {
    if next.is_err() {
        session.leave();
    }
    next
}

/// The error of a grant that is none.
#[cold]
pub(crate) fn granted_outside() -> Error {
    Error::internal(
        "the daemon granted an extent outside of the payload; report this defect of hostkvd",
    )
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // What a forgotten abort meets has nobody to be told to.
        let _ = self.send_abort();
    }
}
