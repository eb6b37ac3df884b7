//! Writing: reserve room, fill it in, commit or abort.
//!
//! A `hostkv_reservation` is a [`crate::reservation::Reservation`] in a box. It may be used from many threads
//! at once (to fill its spans); the commit or abort that ends it comes after all of them.

use super::types::{
    hostkv_keyspace, hostkv_lease, hostkv_request, hostkv_reservation, hostkv_reserve_item,
    hostkv_session, hostkv_span_mut, hostkv_status,
};
use super::{guard, handle};
use crate::session::ReserveItem;
use hostkv_shm_protocol::id::KeyspaceId;
use std::ffi::c_void;
use std::ptr;

/// Makes room for 1 to max_batch_keys objects. OK if the call was carried out, even when it granted nothing: each
/// item has its own status, which hostkv_reservation_get_span() tells. End the reservation with a commit or
/// an abort.
///
/// With HOSTKV_RESERVE_NO_WAIT in `request->flags` it is only sent: OK then says so, and hostkv_reservation_wait() has what
/// became of it.
///
/// INVALID_ARGUMENT: among others a length of 0 or above max_object_bytes. READ_ONLY, DISCONNECTED, TIMEOUT
/// (nothing is held then). QUOTA: with HOSTKV_RESERVE_NO_WAIT, 64 reservations of this session are not waited for yet.
///
/// # Safety
///
/// `session` is open; `items` has `count` items; `request` is NULL or has as many bytes as its `struct_size`
/// says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_reserve(
    session: *const hostkv_session,
    keyspace: hostkv_keyspace,
    items: *const hostkv_reserve_item,
    count: usize,
    request: *const hostkv_request,
    ret_reservation: *mut *mut hostkv_reservation,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, items, request, ret_reservation) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::batch(items, count, "items")?,
                handle::request(request)?,
                handle::out(ret_reservation, "ret_reservation")?,
            )
        };
        let items: Vec<ReserveItem> = items.iter().map(|item| (*item).into()).collect();
        let reservation = session.0.reserve(KeyspaceId(keyspace), &items, &request)?;
        ret_reservation.write(handle::give(hostkv_reservation(reservation)));
        Ok(())
    })
}

/// Items asked for; 0 for NULL.
///
/// # Safety
///
/// `reservation` is NULL or has not been ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_get_count(
    reservation: *const hostkv_reservation,
) -> usize {
    guard::value(0, || {
        // SAFETY: the caller keeps the rules for pointers.
        unsafe { handle::lend_or_none(reservation) }.map_or(0, |r| r.0.count())
    })
}

/// Waits for a reservation that was made with HOSTKV_RESERVE_NO_WAIT, at most `timeout_ms`; 0 only asks. A thread that stores
/// batch after batch asks for the next ones before it copies, and finds the answers there: the opening comment has the loop.
///
/// OK: it is as hostkv_session_reserve() or hostkv_reservation_commit_and_reserve() would have made it, and what that one
/// commits is committed. TIMEOUT: not yet, ask again. Anything else is what that call would have said: nothing is reserved, and
/// all that is left is to end the reservation. Asked again it says the same; of any other reservation it says OK. Before it
/// the spans and the commits say INVALID_ARGUMENT, and an abort waits, at most the session's timeout_ms, and says what this
/// says.
///
/// # Safety
///
/// `reservation` has not been ended, and no other thread uses it meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_wait(
    reservation: *mut hostkv_reservation,
    timeout_ms: u32,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers, and the one for this function.
        unsafe { handle::lend_mut(reservation, "reservation") }?
            .0
            .wait(timeout_ms)
    })
}

/// What became of one item, and where its object goes: aligned, contiguous, exactly len_bytes long. The first
/// new keys get room as far as it lasts; the new keys behind them say what ended it.
///
/// OK: write there. EXISTS: it is readable already, nothing to write. RESERVED: another writer is at it. NO_SPACE,
/// QUOTA: no room. INVALID_ARGUMENT: no such item.
///
/// # Safety
///
/// `reservation` has not been ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_get_span(
    reservation: *const hostkv_reservation,
    index: usize,
    ret_span: *mut hostkv_span_mut,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (reservation, ret_span) = unsafe {
            (
                handle::lend(reservation, "reservation")?,
                handle::out(ret_span, "ret_span")?,
            )
        };
        let span = reservation.0.span(index)?;
        ret_span.write(hostkv_span_mut {
            data: span.data.cast(),
            len_bytes: span.len_bytes,
        });
        Ok(())
    })
}

/// Makes all granted items readable, each as a whole and the last one first, so that who reads a prefix finds
/// one. Ends the reservation, whatever it returns; NULL is OK. Orders streaming stores of the caller's own
/// before it.
///
/// EXPIRED: it outlived the daemon's write time to live, and nothing is readable. TIMEOUT: each key is either
/// readable or not; ask with a lookup. INVALID_ARGUMENT: the session is closed, and nothing is readable.
/// DISCONNECTED.
///
/// # Safety
///
/// `reservation` is NULL or is used for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_commit(
    reservation: *mut hostkv_reservation,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        match unsafe { handle::take(reservation, "reservation") }? {
            Some(reservation) => reservation.0.commit(),
            None => Ok(()),
        }
    })
}

/// As hostkv_reservation_commit(), and acquires the items in the same step, before anybody could evict them. The
/// lease has the reservation's count and order: what was committed now and what EXISTS already is pinned, other
/// items say NOT_FOUND, and an item for which no pin was left says QUOTA and stays committed. It is no read
/// request. On any other status than OK there is no lease. NULL is OK and gives a NULL lease.
///
/// # Safety
///
/// `reservation` is NULL or is used for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_commit_and_acquire(
    reservation: *mut hostkv_reservation,
    ret_lease: *mut *mut hostkv_lease,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers. The handle is taken first: it ends also when the
        // other argument is refused.
        let (reservation, ret_lease) = unsafe {
            (
                handle::take(reservation, "reservation")?,
                handle::out(ret_lease, "ret_lease")?,
            )
        };
        ret_lease.write(match reservation {
            Some(reservation) => handle::give_lease(reservation.0.commit_and_acquire()?),
            None => ptr::null_mut(),
        });
        Ok(())
    })
}

/// As hostkv_reservation_commit(), and then hostkv_session_reserve() of the next items in the reservation's session, in one
/// round trip: for a writer that goes from batch to batch. The commit is first in every case, so that its room and quota
/// serve the reserve; while the reserve waits for an eviction, what was committed is readable already. Ends the reservation,
/// whatever it returns. On any other status than OK there is no next reservation and nothing is reserved.
///
/// With HOSTKV_RESERVE_NO_WAIT in `request->flags` both are only sent, and what became of both, in these words,
/// hostkv_reservation_wait() of the next reservation has.
///
/// OK: both were carried out; each item of the next reservation has its own status. EXPIRED: as for a commit, and nothing
/// was reserved either. INVALID_ARGUMENT, among others a reservation of NULL, which has no session to reserve in, and
/// whatever is wrong with the reserve: nothing is committed. TIMEOUT, DISCONNECTED: each key of the commit is either
/// readable or not; ask with a lookup. SYSTEM: no memory for the next spans of a user that hostkvd does not trust;
/// hostkv_last_error() says that the commit is done. QUOTA: 64 reservations of this session are not waited for yet, and
/// nothing is committed.
///
/// # Safety
///
/// `reservation` is NULL or is used for the last time; `items` has `count` items; `request` is NULL or has as many bytes as
/// its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_commit_and_reserve(
    reservation: *mut hostkv_reservation,
    keyspace: hostkv_keyspace,
    items: *const hostkv_reserve_item,
    count: usize,
    request: *const hostkv_request,
    ret_reservation: *mut *mut hostkv_reservation,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers. The handle is taken first: it ends also when another
        // argument is refused.
        let (reservation, items, request, ret_reservation) = unsafe {
            (
                handle::take_some(reservation, "reservation")?,
                handle::batch(items, count, "items")?,
                handle::request(request)?,
                handle::out(ret_reservation, "ret_reservation")?,
            )
        };
        let items: Vec<ReserveItem> = items.iter().map(|item| (*item).into()).collect();
        let next = reservation
            .0
            .commit_and_reserve(KeyspaceId(keyspace), &items, &request)?;
        ret_reservation.write(handle::give(hostkv_reservation(next)));
        Ok(())
    })
}

/// Gives the room back; nothing becomes readable. Ends the reservation, whatever it returns; NULL is OK.
///
/// # Safety
///
/// `reservation` is NULL or is used for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_reservation_abort(
    reservation: *mut hostkv_reservation,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        match unsafe { handle::take(reservation, "reservation") }? {
            Some(reservation) => reservation.0.abort(),
            None => Ok(()),
        }
    })
}

/// Waits until every commit of this session made before the call is readable. Without HOSTKV_SESSION_ASYNC_COMMIT a commit
/// has waited itself, and this returns at once.
///
/// NO_SPACE: an object committed since the last flush found no index entry and is not stored. DISCONNECTED, TIMEOUT.
///
/// # Safety
///
/// `session` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_flush(session: *const hostkv_session) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        unsafe { handle::lend(session, "session")? }.0.flush()
    })
}

/// Copies `len` bytes, in the way that is fastest on this CPU for copies into the pool. The two places must not
/// overlap. Copies nothing if one of them is NULL.
///
/// # Safety
///
/// `destination` may be written and `source` read for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_copy(destination: *mut c_void, source: *const c_void, len: usize) {
    guard::value((), || {
        if destination.is_null() || source.is_null() {
            return;
        }
        // SAFETY: neither is NULL; that both have `len` bytes and are apart is the caller's promise.
        unsafe { crate::copy::copy(destination.cast(), source.cast(), len) }
    });
}
