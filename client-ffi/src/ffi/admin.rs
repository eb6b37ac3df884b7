//! Taking keys out of the pool because somebody asked.

use super::types::{
    HOSTKV_CLEAR_ALL_KEYSPACES, hostkv_key, hostkv_keyspace, hostkv_session, hostkv_status,
};
use super::{guard, handle};
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::wire::MAX_BATCH_KEYS;
use hostkv_shm_protocol::wire::request::clear_flags;

// The client hands the flags on to the daemon as they are.
const _: () = assert!(HOSTKV_CLEAR_ALL_KEYSPACES == clear_flags::ALL_KEYSPACES);

/// Makes keys unreadable at once. Bytes under a lease are kept until the last lease on them ends. `ret_removed`
/// may be NULL, else it has a byte for each key, which becomes 1 (removed) or 0 (was not there).
///
/// TIMEOUT: each key may or may not be removed; call again. READ_ONLY, PERMISSION, DISCONNECTED.
///
/// # Safety
///
/// `session` is open; `keys` has `count` keys; `ret_removed` is NULL or has `count` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_remove(
    session: *const hostkv_session,
    keyspace: hostkv_keyspace,
    keys: *const hostkv_key,
    count: usize,
    ret_removed: *mut u8,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, keys, ret_removed) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::keys(keys, count)?,
                handle::out_or_none(ret_removed),
            )
        };
        // A buffer of our own: the caller's is written on success only.
        let mut buffer = [0; MAX_BATCH_KEYS];
        let removed = &mut buffer[..keys.len()];
        let wanted = ret_removed.is_some().then_some(&mut *removed);
        session.0.remove(KeyspaceId(keyspace), keys, wanted)?;
        if let Some(ret_removed) = ret_removed {
            // SAFETY: the caller has a byte for each key.
            unsafe { ret_removed.write_all(removed) };
        }
        Ok(())
    })
}

/// Removes every key of every keyspace that this session opened; with HOSTKV_CLEAR_ALL_KEYSPACES every key there
/// is. `*ret_removed_count` becomes their number.
///
/// PERMISSION: HOSTKV_CLEAR_ALL_KEYSPACES is for admin users only. TIMEOUT: as for hostkv_session_remove().
/// READ_ONLY, DISCONNECTED.
///
/// # Safety
///
/// `session` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_clear(
    session: *const hostkv_session,
    flags: u32,
    ret_removed_count: *mut u64,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, ret_removed_count) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::out(ret_removed_count, "ret_removed_count")?,
            )
        };
        ret_removed_count.write(session.0.clear(flags)?);
        Ok(())
    })
}
