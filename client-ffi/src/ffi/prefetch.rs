//! Prefetching: have keys brought into the pool out of the daemon's tiers before they are read.
//!
//! A `hostkv_prefetch` is a [`crate::prefetch::Prefetch`] in a box. One thread at a time uses it.

use super::types::{
    hostkv_key, hostkv_keyspace, hostkv_prefetch, hostkv_request, hostkv_session, hostkv_status,
};
use super::{guard, handle};
use hostkv_shm_protocol::id::KeyspaceId;

/// Has the longest prefix of these keys brought into the pool: what is not there is loaded from the tiers behind the
/// daemon (hostkvd --l2-adapter), as far as they have it. Does not wait for it. The prefix is then kept from being evicted
/// until hostkv_prefetch_end(), or the session's end, and is charged to the session's pin quota, at which it ends.
/// It is no read and pins nothing: acquire what it kept. `request->flags` are 0.
///
/// QUOTA: 32 prefetches of this session are open. INVALID_ARGUMENT, DISCONNECTED, TIMEOUT.
///
/// # Safety
///
/// `session` is open; `keys` has `count` keys; `request` is NULL or has as many bytes as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_prefetch(
    session: *const hostkv_session,
    keyspace: hostkv_keyspace,
    keys: *const hostkv_key,
    count: usize,
    request: *const hostkv_request,
    ret_prefetch: *mut *mut hostkv_prefetch,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, keys, request, ret_prefetch) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::keys(keys, count)?,
                handle::request(request)?,
                handle::out(ret_prefetch, "ret_prefetch")?,
            )
        };
        let prefetch = session.0.prefetch(KeyspaceId(keyspace), keys, &request)?;
        ret_prefetch.write(handle::give(hostkv_prefetch(prefetch)));
        Ok(())
    })
}

/// Waits until the prefetch is over, at most `timeout_ms`; 0 only asks. `*ret_prefix_count` becomes the number of leading
/// keys that are in the pool now and kept there. A key that no tier has, that could not be loaded in time, or for which
/// there was no room or quota, ends the prefix. Asked again it says the same.
///
/// TIMEOUT: not yet, ask again. DISCONNECTED: the daemon is gone.
///
/// # Safety
///
/// `prefetch` has not been ended, and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_prefetch_wait(
    prefetch: *mut hostkv_prefetch,
    timeout_ms: u32,
    ret_prefix_count: *mut usize,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (prefetch, ret_prefix_count) = unsafe {
            (
                handle::lend(prefetch.cast_const(), "prefetch")?,
                handle::out(ret_prefix_count, "ret_prefix_count")?,
            )
        };
        let outcome = prefetch.0.wait(timeout_ms)?;
        ret_prefix_count.write(outcome.prefix_count as usize);
        Ok(())
    })
}

/// Ends the prefetch, whatever it returns and whether or not it is over; NULL is OK. What it kept may be evicted again;
/// what was acquired meanwhile stays pinned.
///
/// TIMEOUT: the daemon did not answer and has it yet to be told.
///
/// # Safety
///
/// `prefetch` is NULL or is used for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_prefetch_end(prefetch: *mut hostkv_prefetch) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        match unsafe { handle::take(prefetch, "prefetch") }? {
            Some(prefetch) => prefetch.0.end(),
            None => Ok(()),
        }
    })
}
