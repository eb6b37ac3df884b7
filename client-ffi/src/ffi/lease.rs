//! Reading: look for keys, pin them, read them where they lie, release them.
//!
//! A `hostkv_lease` is the memory of a [`crate::lease::Lease`]. It may be used from many threads at once; the
//! release that ends it comes after all of them. Nothing here makes a system call.

use super::types::{
    hostkv_key, hostkv_keyspace, hostkv_lease, hostkv_request, hostkv_session, hostkv_span,
    hostkv_status,
};
use super::{guard, handle};
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::wire::MAX_BATCH_KEYS;

/// Which keys are readable at this moment; pins nothing, so they may be gone at the next. `*ret_prefix_count`
/// becomes the number of leading keys that are. `ret_present` may be NULL, else it has a byte for each key, which
/// becomes 1 or 0.
///
/// DISCONNECTED: the daemon is gone.
///
/// # Safety
///
/// `session` is open; `keys` has `count` keys; `ret_present` is NULL or has `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_lookup(
    session: *const hostkv_session,
    keyspace: hostkv_keyspace,
    keys: *const hostkv_key,
    count: usize,
    ret_prefix_count: *mut usize,
    ret_present: *mut u8,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, keys, ret_prefix_count, ret_present) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::keys(keys, count)?,
                handle::out(ret_prefix_count, "ret_prefix_count")?,
                handle::out_or_none(ret_present),
            )
        };
        let keyspace = KeyspaceId(keyspace);
        let prefix_count = match ret_present {
            None => session.0.lookup(keyspace, keys, None)?,
            Some(ret_present) => {
                // A buffer of our own: the caller's is written on success only.
                let mut buffer = [0; MAX_BATCH_KEYS];
                let present = &mut buffer[..keys.len()];
                let prefix_count = session.0.lookup(keyspace, keys, Some(present))?;
                // SAFETY: the caller has a byte for each key.
                unsafe { ret_present.write_all(&buffer[..keys.len()]) };
                prefix_count
            }
        };
        ret_prefix_count.write(prefix_count);
        Ok(())
    })
}

/// Pins the leading run of keys that are readable; with HOSTKV_ACQUIRE_ALL every one that is. Pinned bytes stay
/// as and where they are until hostkv_lease_release(). OK also when nothing was found: the lease then has a
/// prefix count of 0, and is released like any other. When pin slots or the pin quota are used up, the run ends
/// with a key that says QUOTA.
///
/// DISCONNECTED: the daemon is gone.
///
/// # Safety
///
/// `session` is open; `keys` has `count` keys; `request` is NULL or has as many bytes as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_acquire(
    session: *const hostkv_session,
    keyspace: hostkv_keyspace,
    keys: *const hostkv_key,
    count: usize,
    request: *const hostkv_request,
    ret_lease: *mut *mut hostkv_lease,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, keys, request, ret_lease) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::keys(keys, count)?,
                handle::request(request)?,
                handle::out(ret_lease, "ret_lease")?,
            )
        };
        let lease = session.0.acquire(KeyspaceId(keyspace), keys, &request)?;
        ret_lease.write(handle::give_lease(lease));
        Ok(())
    })
}

/// Keys asked for; 0 for NULL.
///
/// # Safety
///
/// `lease` is NULL or has not been released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_lease_get_count(lease: *const hostkv_lease) -> usize {
    guard::value(0, || {
        // SAFETY: the caller keeps the rules for pointers.
        unsafe { handle::lend_lease(lease) }.map_or(0, |lease| lease.count())
    })
}

/// Leading keys that are pinned; 0 for NULL.
///
/// # Safety
///
/// `lease` is NULL or has not been released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_lease_get_prefix_count(lease: *const hostkv_lease) -> usize {
    guard::value(0, || {
        // SAFETY: the caller keeps the rules for pointers.
        unsafe { handle::lend_lease(lease) }.map_or(0, |lease| lease.prefix_count())
    })
}

/// The bytes of one key, as its writer committed them.
///
/// OK: read there. NOT_FOUND: it is not pinned. QUOTA: it is there, and no pin was left for it. INVALID_ARGUMENT:
/// no such key.
///
/// # Safety
///
/// `lease` has not been released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_lease_get_span(
    lease: *const hostkv_lease,
    index: usize,
    ret_span: *mut hostkv_span,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (lease, ret_span) = unsafe {
            (
                handle::lend_lease(lease)?,
                handle::out(ret_span, "ret_span")?,
            )
        };
        let span = lease.span(index)?;
        ret_span.write(hostkv_span {
            data: span.data.cast(),
            len_bytes: span.len_bytes,
        });
        Ok(())
    })
}

/// Whether everything that was read under the lease so far is good. OK always, unless the operator set a read
/// time to live; then copy out, check, and use the copy only after an OK.
///
/// EXPIRED: what was read since the last OK is void.
///
/// # Safety
///
/// `lease` has not been released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_lease_check(lease: *const hostkv_lease) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        unsafe { handle::lend_lease(lease) }?.check()
    })
}

/// Says what hostkv_lease_check() says, and ends the lease, whatever it returns; NULL is OK. Its spans must not be
/// touched any more.
///
/// # Safety
///
/// `lease` is NULL or is used for the last time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_lease_release(lease: *mut hostkv_lease) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        match unsafe { handle::take_lease(lease) }? {
            Some(lease) => lease.release(),
            None => Ok(()),
        }
    })
}
