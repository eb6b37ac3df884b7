//! What a session holds, and in which order it is given back.
//!
//! One [`Inner`] is shared by the handle, its leases and its reservations. Who uses it has counted itself into
//! [`Life`]; the last to leave tears it down:
//!
//! ```text
//!   last of all left --> unmap both payload maps --> BYE, wait for its reply --> close the socket and the pidfd
//! ```
//!
//! The daemon may reuse reserved extents from BYE on, so nothing may be mapped then that could still be written.
//! Control and lease segment stay mapped until the memory itself goes. In a forked child nothing is unmapped,
//! sent or stored: only descriptors are closed.

use super::keyspaces::KeyspaceSet;
use super::life::{Duty, Life, Refusal};
use super::places::Places;
use super::{ASYNC_COMMIT, POPULATE, READ_ONLY, SINGLE_MAPPING, SessionConfig};
use crate::connection::hello::{self, Opened, Wishes};
use crate::connection::{Connection, ConnectionError, Deadline};
use crate::error::{Error, Result};
use crate::fork::ForkMark;
use crate::grants::Grants;
use crate::lease_pool::LeasePool;
use crate::mapping::{Access, Descriptor, Mapping, Plan};
use crate::read_path::{Liveness, ReadPath};
use hostkv_shm_protocol::control::header::ControlHeader;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::lease::header::LeaseHeader;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::{AtomicBool, AtomicU64, Ordering};
use hostkv_shm_protocol::view::View;
use hostkv_shm_protocol::wire::hello::HelloReply;
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request as WireRequest;
use hostkv_shm_protocol::wire::{MAX_OUTSTANDING, MAX_PREFETCHES};
use std::os::fd::{OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Limit of a socket call when the configuration names none, in milliseconds.
const DEFAULT_TIMEOUT_MS: u32 = 5000;

/// The payload as it is mapped; gone once the session or its pool is over.
struct Payload {
    /// None when reads use the writable mapping.
    _read: Option<Mapping>,
    /// Of the payload, or of an untrusted writer its staging segment; none on a read-only session.
    write: Option<Mapping>,
    /// Whether the caller knows a base address, so that only a close may unmap.
    is_given_away: bool,
}

/// Everything of one session.
pub(crate) struct Inner {
    life: Life,
    fork: Arc<ForkMark>,
    pub(crate) read: ReadPath,
    /// Of a session that stores without a round trip.
    pub(crate) grants: Option<Grants>,
    connection: Connection,
    daemon_pidfd: Descriptor,
    /// **The lock** guards the end of the mappings against a second one. Held for munmap, and while pages of a staging
    /// segment are brought in.
    payload: Mutex<Option<Payload>>,
    read_base: NonNull<u8>,
    write_base: Option<NonNull<u8>>,
    pub(crate) keyspaces: KeyspaceSet,
    pub(crate) lease_pool: LeasePool<Arc<Inner>>,
    pub(crate) prefetches: Places,
    pub(crate) unwaited: Places,
    next_op_id: AtomicU64,
    is_torn_down: AtomicBool,
    pub(crate) hello: HelloReply,
    timeout_ms: u32,
    /// Behind `read` and `grants`, which look into them.
    _control: Mapping,
    _lease: Mapping,
}

// SAFETY: the base pointers are addresses of mappings that belong to the process; payload bytes are only ever
// handed out as pointers. Everything else is Send by itself.
unsafe impl Send for Inner {}
// SAFETY: as above; all mutable state is atomic or behind a mutex.
unsafe impl Sync for Inner {}

/// One call under way; counts itself out by drop.
pub(crate) struct Hold<'a> {
    inner: &'a Inner,
}

impl Hold<'_> {
    /// Leaves the count as it is: a lease or a reservation takes it over and calls [`Inner::leave`] at its end.
    pub(crate) fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.inner.leave();
    }
}

impl Inner {
    /// Connects, says HELLO and maps.
    pub(crate) fn open(config: &SessionConfig) -> Result<Inner> {
        let fork = Arc::new(ForkMark::new()?);
        let timeout_ms = match config.timeout_ms {
            0 => DEFAULT_TIMEOUT_MS,
            timeout_ms => timeout_ms,
        };
        let deadline = Deadline::after_ms(timeout_ms);
        let path = hello::socket_path(config.socket_path.as_deref())?;
        let wishes = Wishes {
            is_read_only: config.flags & READ_ONLY != 0,
            wants_ring: config.flags & ASYNC_COMMIT != 0,
            pin_slot_count: config.pin_slot_count,
            client_name: config.client_name.clone(),
        };
        let Opened {
            connection,
            reply,
            control,
            lease,
            payload,
            staging,
            daemon_pidfd,
        } = hello::open(&path, &wishes, deadline)?;
        let parts = Parts::map(
            config.flags,
            &reply,
            &control,
            &lease,
            (payload, staging),
            &fork,
        );
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                // Without BYE the daemon would keep the session until this process ends.
                connection.say_bye(deadline).ok();
                return Err(error);
            }
        };
        Ok(Inner {
            life: Life::new(),
            fork,
            read: parts.read,
            grants: parts.grants,
            connection,
            daemon_pidfd: Descriptor::new(daemon_pidfd),
            payload: Mutex::new(Some(parts.payload)),
            read_base: parts.read_base,
            write_base: parts.write_base,
            keyspaces: KeyspaceSet::new(),
            lease_pool: LeasePool::new(),
            prefetches: Places::new(
                MAX_PREFETCHES,
                "prefetches of this session are open",
                "end one first",
            ),
            unwaited: Places::new(
                MAX_OUTSTANDING,
                "reservations of this session were made without waiting and are not waited for yet",
                "wait for one first",
            ),
            next_op_id: AtomicU64::new(1),
            is_torn_down: AtomicBool::new(false),
            hello: reply,
            timeout_ms,
            _control: parts.control,
            _lease: parts.lease,
        })
    }

    /// Refuses in a forked child.
    #[inline]
    pub(crate) fn refuse_child(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(Error::new(
                Status::Forked,
                "the session belongs to the process that opened it, and this is a forked child of it; open a \
                 session here",
            ));
        }
        Ok(())
    }

    /// Whether this process is a forked child of the one that opened the session.
    #[inline]
    pub(crate) fn is_child(&self) -> bool {
        self.fork.is_child()
    }

    /// Counts a call in, unless the session is closed or its daemon known to be gone.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Hold<'_>> {
        self.refuse_child()?;
        let entered = self.life.enter();
        let hold = Hold { inner: self };
        match entered {
            Ok(()) => Ok(hold),
            Err(refusal) => Err(refusal_error(refusal)),
        }
    }

    /// As [`Inner::enter`], also when the daemon is gone.
    pub(crate) fn enter_even_dead(&self) -> Result<Hold<'_>> {
        self.refuse_child()?;
        let entered = self.life.enter();
        let hold = Hold { inner: self };
        match entered {
            Err(Refusal::Closed) => Err(refusal_error(Refusal::Closed)),
            Ok(()) | Err(Refusal::Dead) => Ok(hold),
        }
    }

    /// Refuses what a lease or reservation may not begin any more.
    pub(crate) fn refuse_ended(&self) -> Result<()> {
        self.life
            .refusal()
            .map_or(Ok(()), |refusal| Err(refusal_error(refusal)))
    }

    /// Counts a holder out and does what falls to the last one. A failed goodbye has left nothing behind on this
    /// side.
    pub(crate) fn leave(&self) -> Option<ConnectionError> {
        match self.life.leave() {
            Duty::None => None,
            Duty::UnmapPayload => {
                self.unmap_dead_payload();
                None
            }
            Duty::TearDown => self.tear_down(),
        }
    }

    /// Ends the handle; an error when it had been ended already, or when the daemon did not answer the goodbye.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.life.close() {
            return Err(refusal_error(Refusal::Closed));
        }
        if self.is_child() {
            self.close_descriptors();
        }
        self.leave()
            .map_or(Ok(()), |error| Err(self.explain(error, None)))
    }

    fn unmap_dead_payload(&self) {
        if self.is_child() {
            return;
        }
        let mut payload = self.payload.lock().unwrap_or_else(PoisonError::into_inner);
        if payload
            .as_ref()
            .is_some_and(|payload| !payload.is_given_away)
        {
            *payload = None;
        }
    }

    fn tear_down(&self) -> Option<ConnectionError> {
        // AcqRel: whoever is refused at a closed session may come here too; one does the work.
        if self.is_torn_down.swap(true, Ordering::AcqRel) {
            return None;
        }
        if self.is_child() {
            self.close_descriptors();
            return None;
        }
        drop(
            self.payload
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let outcome = if self.life.is_dead() {
            // A daemon that only answers no more still gets to know, if the socket takes it.
            self.connection.say_bye_unanswered();
            None
        } else {
            self.connection
                .say_bye(Deadline::after_ms(self.timeout_ms))
                .err()
                .filter(|error| !error.is_final())
        };
        self.close_descriptors();
        outcome
    }

    fn close_descriptors(&self) {
        self.connection.close();
        self.daemon_pidfd.close();
    }

    /// Refuses when the daemon is gone; without a system call where the kernel keeps the liveness word.
    #[inline]
    pub(crate) fn refuse_without_daemon(&self) -> Result<()> {
        let is_gone = match self.read.liveness() {
            Liveness::Alive => false,
            Liveness::Gone => true,
            Liveness::AskSocket => self.connection.is_hung_up(),
        };
        if is_gone {
            self.life.mark_dead();
            return Err(refusal_error(Refusal::Dead));
        }
        Ok(())
    }

    /// Sends a request and waits for its reply, at most the session's timeout.
    pub(crate) fn call(&self, request: &WireRequest) -> Result<Reply> {
        let tick = self.read.heartbeat_tick();
        self.try_call(request)
            .map_err(|error| self.explain(error, Some(tick)))
    }

    /// As [`Inner::call`], with an error that says whether the request was sent.
    pub(crate) fn try_call(
        &self,
        request: &WireRequest,
    ) -> core::result::Result<Reply, ConnectionError> {
        let deadline = Deadline::after_ms(self.timeout_ms);
        self.noticed(self.connection.call(request, deadline))
    }

    /// The outcome, and a daemon that is gone by it is known to be.
    fn noticed<T>(
        &self,
        outcome: core::result::Result<T, ConnectionError>,
    ) -> core::result::Result<T, ConnectionError> {
        if outcome.as_ref().is_err_and(ConnectionError::is_final) {
            self.life.mark_dead();
        }
        outcome
    }

    /// The error as the caller sees it. With the heartbeat of before the call, a timeout says whether the daemon
    /// runs at all.
    pub(crate) fn explain(&self, error: ConnectionError, tick_before: Option<u64>) -> Error {
        let is_timeout = matches!(error, ConnectionError::Timeout { .. });
        let mut error = Error::from(error);
        if let (true, Some(tick)) = (is_timeout, tick_before) {
            error
                .message
                .push_str(if self.read.heartbeat_tick() == tick {
                    "; its heartbeat stands still, so it is stopped or stuck"
                } else {
                    "; its heartbeat goes on, so it is busy"
                });
        }
        error
    }

    /// A reply of another kind than the request's.
    pub(crate) fn strange_reply(&self, expected: &str) -> Error {
        self.life.mark_dead();
        ConnectionError::Protocol(format!("a reply that does not fit the {expected} request"))
            .into()
    }

    /// Sends a request whose reply [`Inner::wait_for`] waits for; gives its number.
    pub(crate) fn begin(&self, request: &WireRequest) -> Result<u64> {
        let tick = self.read.heartbeat_tick();
        self.try_begin(request)
            .map_err(|error| self.explain(error, Some(tick)))
    }

    /// As [`Inner::begin`], with an error that says whether the request was sent.
    pub(crate) fn try_begin(
        &self,
        request: &WireRequest,
    ) -> core::result::Result<u64, ConnectionError> {
        let deadline = Deadline::after_ms(self.timeout_ms);
        self.noticed(self.connection.begin(request, deadline))
    }

    /// Sends a request ahead of need, if that takes no waiting; gives its number.
    pub(crate) fn begin_ahead(&self, request: &WireRequest) -> Option<u64> {
        self.connection.begin_ahead(request)
    }

    /// Waits for the reply to a request that was begun; none when it did not come in time.
    pub(crate) fn wait_for(&self, request_id: u64, timeout_ms: u32) -> Result<Option<Reply>> {
        self.try_wait_for(request_id, timeout_ms)
            .map_err(|error| self.explain(error, None))
    }

    /// As [`Inner::wait_for`], with an error that says what the daemon made of the request.
    pub(crate) fn try_wait_for(
        &self,
        request_id: u64,
        timeout_ms: u32,
    ) -> core::result::Result<Option<Reply>, ConnectionError> {
        let deadline = Deadline::after_ms(timeout_ms);
        self.noticed(self.connection.wait_for(request_id, deadline))
    }

    /// Limit of a call that uses the socket, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }

    /// Nobody will wait for the reply to this reserve any more; what it grants is given back.
    pub(crate) fn forget_reserve(&self, request_id: u64, op_id: OpId) {
        self.connection.forget_reserve(request_id, op_id);
    }

    /// Nobody will wait for the reply to this request any more.
    pub(crate) fn forget(&self, request_id: u64) {
        self.connection.forget(request_id);
    }

    /// Wakes the daemon for what lies in the commit ring.
    pub(crate) fn ring_doorbell(&self) -> Result<()> {
        self.noticed(self.connection.ring())
            .map_err(|error| self.explain(error, None))
    }

    /// Gives something back without waiting.
    pub(crate) fn give_back_later(&self, request: WireRequest) {
        self.connection.give_back_later(request);
    }

    /// Refuses a keyspace number that this session did not open.
    #[inline]
    pub(crate) fn refuse_unopened(&self, keyspace: KeyspaceId) -> Result<()> {
        if self.keyspaces.contains(keyspace) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "keyspace {} was not opened by this session; open it and use the number that this gives",
            keyspace.0
        )))
    }

    pub(crate) fn next_op_id(&self) -> OpId {
        // Relaxed: only uniqueness counts.
        OpId(self.next_op_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the session may not write.
    pub(crate) fn is_read_only(&self) -> bool {
        self.write_base.is_none()
    }

    /// Base of the mapping for reads. The caller holds the session.
    #[inline]
    pub(crate) fn read_base(&self) -> *const u8 {
        self.read_base.as_ptr()
    }

    /// Base of the mapping for writes. The caller holds the session.
    pub(crate) fn write_base(&self) -> Option<*mut u8> {
        self.write_base.map(NonNull::as_ptr)
    }

    /// Length of the mapping for writes in bytes.
    pub(crate) fn write_bytes(&self) -> u64 {
        match self.hello.staging_bytes {
            0 => self.hello.capacity_bytes,
            staging_bytes => staging_bytes,
        }
    }

    /// Brings in the pages of a place in the staging segment, which are not there before the first write; nothing for a
    /// session that writes into the payload. What would be a signal at that write is an error here.
    pub(crate) fn populate_staging(&self, offset: u64, len_bytes: u64) -> Result<()> {
        if self.hello.staging_bytes == 0 {
            return Ok(());
        }
        let payload = self.payload.lock().unwrap_or_else(PoisonError::into_inner);
        match payload.as_ref().and_then(|payload| payload.write.as_ref()) {
            Some(staging) => Ok(staging.populate(offset, len_bytes)?),
            None => Err(refusal_error(Refusal::Dead)),
        }
    }

    /// From now on only the close unmaps the payload, because the caller knows where it lies.
    pub(crate) fn give_payload_away(&self) {
        let mut payload = self.payload.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(payload) = payload.as_mut() {
            payload.is_given_away = true;
        }
    }

    /// The daemon's pidfd; -1 in a forked child and after the end.
    pub(crate) fn daemon_fd(&self) -> RawFd {
        if self.is_child() {
            -1
        } else {
            self.daemon_pidfd.raw()
        }
    }
}

fn refusal_error(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Closed => Error::invalid("the session is closed; open a new one"),
        Refusal::Dead => Error::new(
            Status::Disconnected,
            "the daemon of this session is gone; end its handles and open a new session",
        ),
    }
}

/// The mapped part of a session.
struct Parts {
    read: ReadPath,
    grants: Option<Grants>,
    payload: Payload,
    read_base: NonNull<u8>,
    write_base: Option<NonNull<u8>>,
    control: Mapping,
    lease: Mapping,
}

impl Parts {
    fn map(
        flags: u32,
        hello: &HelloReply,
        control: &OwnedFd,
        lease: &OwnedFd,
        (payload, staging): (OwnedFd, Option<OwnedFd>),
        fork: &Arc<ForkMark>,
    ) -> Result<Parts> {
        let control = Mapping::new(
            control,
            Plan {
                segment: "the control segment",
                access: Access::Read,
                least_bytes: size_of::<ControlHeader>() as u64,
                is_huge_aligned: true,
                is_left_out_of_dumps: false,
                is_populated: false,
            },
            fork,
        )?;
        let lease = Mapping::new(
            lease,
            Plan {
                segment: "the lease segment",
                access: Access::ReadWrite,
                least_bytes: size_of::<LeaseHeader>() as u64,
                is_huge_aligned: false,
                is_left_out_of_dumps: true,
                is_populated: false,
            },
            fork,
        )?;
        // SAFETY: both mappings start at a page, are as long as their files, and stay until `Inner` is dropped,
        // which is after every use of the views; the control segment is only loaded from, relaxed.
        let (control_view, lease_view) = unsafe {
            (
                View::new(control.base(), control.len()),
                View::new(lease.base(), lease.len()),
            )
        };
        let map_large = |fd: &OwnedFd, segment, access, least_bytes| {
            let plan = Plan {
                segment,
                access,
                least_bytes,
                is_huge_aligned: true,
                is_left_out_of_dumps: true,
                is_populated: flags & POPULATE != 0,
            };
            Mapping::new(fd, plan, fork)
        };
        let map_payload = |access| {
            map_large(
                &payload,
                "the payload segment",
                access,
                hello.capacity_bytes,
            )
        };
        if flags & SINGLE_MAPPING != 0 && staging.is_some() {
            return Err(Error::invalid(
                "SINGLE_MAPPING needs a writable mapping of the payload, and the daemon gives this user a staging segment \
                 instead (hostkvd --untrusted-uid); open the session without it",
            ));
        }
        let write = match (flags & READ_ONLY, &staging) {
            (0, None) => Some(map_payload(Access::ReadWrite)?),
            (0, Some(staging)) => Some(map_large(
                staging,
                "the staging segment",
                Access::ReadWrite,
                hello.staging_bytes,
            )?),
            _ => None,
        };
        let read_mapping = match flags & SINGLE_MAPPING {
            0 => Some(map_payload(Access::Read)?),
            _ => None,
        };
        let base = |mapping: &Option<Mapping>| {
            mapping
                .as_ref()
                .and_then(|mapping| NonNull::new(mapping.base()))
        };
        let write_base = base(&write);
        let read_base = base(&read_mapping).or(write_base).ok_or_else(|| {
            Error::internal(
                "a session maps the payload at least once; report this defect of libhostkv",
            )
        })?;
        // SAFETY: the mapping starts at 2 MiB and has at least the payload's length; it is unmapped only when nobody holds
        // the session, and who acquires holds it.
        let bytes = unsafe { View::new(read_base.as_ptr(), hello.capacity_bytes) };
        let read = ReadPath::new(control_view, lease_view, bytes, hello)?;
        let grants = Grants::new(control_view, lease_view, hello)?;
        Ok(Parts {
            read,
            grants,
            payload: Payload {
                _read: read_mapping,
                write,
                is_given_away: false,
            },
            read_base,
            write_base,
            control,
            lease,
        })
    }
}
