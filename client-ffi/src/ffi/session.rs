//! Sessions and keyspaces.
//!
//! A `hostkv_session` is a [`Session`] in a box. Everything but close takes it as `const` and may run on many
//! threads at once; the client does the locking that needs.

use super::types::{
    HOSTKV_ABI_VERSION, HOSTKV_MAPPING_READ, HOSTKV_MAPPING_WRITE, SERVER_VERSION_BYTES,
    hostkv_keyspace, hostkv_keyspace_config, hostkv_session, hostkv_session_config,
    hostkv_session_info, hostkv_span_mut, hostkv_stats, hostkv_status,
};
use super::{guard, handle};
use crate::error::{Error, Result};
use crate::session::{KeyspaceConfig, Mapping, Session, SessionConfig, SessionInfo};
use hostkv_shm_protocol::wire::reply::Figures;
use std::ffi::{c_char, c_int};
use std::path::Path;
use std::ptr;

/// Fills in the defaults: `struct_size`, and zeros. NULL does nothing.
///
/// # Safety
///
/// `config` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_config_init(config: *mut hostkv_session_config) {
    guard::value((), || {
        // SAFETY: the caller keeps the rules for pointers. An older caller's struct may be shorter than a later
        // version's, so this function writes the fields of the first version for ever.
        let Ok(config) = (unsafe { handle::out(config, "config") }) else {
            return;
        };
        config.write(hostkv_session_config {
            struct_size: size_of::<hostkv_session_config>() as u32,
            flags: 0,
            socket_path: ptr::null(),
            client_name: ptr::null(),
            pin_slot_count: 0,
            timeout_ms: 0,
        });
    });
}

/// Opens a session with the daemon and maps the pool. A NULL `config` = all defaults. End it with
/// hostkv_session_close(). It belongs to this process: fork first, then open in each process.
///
/// DISCONNECTED: no daemon at the socket. PERMISSION: the daemon refuses this user. QUOTA: too many sessions.
/// VERSION_MISMATCH: library and daemon are of different releases. INVALID_ARGUMENT, TIMEOUT, SYSTEM.
///
/// # Safety
///
/// `config` is NULL or has as many bytes as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_open(
    config: *const hostkv_session_config,
    ret_session: *mut *mut hostkv_session,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (ret_session, config) = unsafe {
            (
                handle::out(ret_session, "ret_session")?,
                session_config(config)?,
            )
        };
        ret_session.write(handle::give(hostkv_session(Session::open(&config)?)));
        Ok(())
    })
}

/// Ends the session, whatever it returns; NULL is OK. Leases and reservations of the session stay as they are
/// until they are ended: spans, check, release and abort work as before, commit does not. The last of them
/// gives the memory back.
///
/// # Safety
///
/// `session` is NULL or a session that is used for the last time, on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_close(session: *mut hostkv_session) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        match unsafe { handle::take(session, "session") }? {
            Some(session) => session.0.close(),
            None => Ok(()),
        }
    })
}

/// What the session is attached to. Set `info->struct_size` before the call. Asks nobody.
///
/// # Safety
///
/// `session` is open; `info` has as many bytes as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_get_info(
    session: *const hostkv_session,
    info: *mut hostkv_session_info,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, info) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::versioned_out(info, "info")?,
            )
        };
        info.write(&session_info(&session.0.info()?));
        Ok(())
    })
}

/// The pool's figures. Set `stats->struct_size` before the call. Asks the daemon.
///
/// DISCONNECTED, TIMEOUT.
///
/// # Safety
///
/// `session` is open; `stats` has as many bytes as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_get_stats(
    session: *const hostkv_session,
    stats: *mut hostkv_stats,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, stats) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::versioned_out(stats, "stats")?,
            )
        };
        stats.write(&pool_stats(&session.0.figures()?));
        Ok(())
    })
}

/// Base and length in bytes of a mapping, to register it for DMA. `which` is HOSTKV_MAPPING_READ or
/// HOSTKV_MAPPING_WRITE; with HOSTKV_SESSION_SINGLE_MAPPING both are the same. For a user that hostkvd does not trust
/// with the payload (--untrusted-uid) HOSTKV_MAPPING_WRITE is the session's staging segment. Good until the session's last
/// handle is ended; unregister before that. Never write through the READ mapping.
///
/// INVALID_ARGUMENT: another `which`, or WRITE on a read-only session.
///
/// # Safety
///
/// `session` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_get_mapping(
    session: *const hostkv_session,
    which: u32,
    ret_mapping: *mut hostkv_span_mut,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, ret_mapping) = unsafe {
            (
                handle::lend(session, "session")?,
                handle::out(ret_mapping, "ret_mapping")?,
            )
        };
        let (data, len_bytes) = session.0.mapping(mapping(which)?)?;
        ret_mapping.write(hostkv_span_mut {
            data: data.cast(),
            len_bytes,
        });
        Ok(())
    })
}

/// A descriptor that becomes readable when the daemon has ended, to wait on; never read or close it. Good until
/// the session's last handle is ended. -1 for NULL and in a forked child.
///
/// # Safety
///
/// `session` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_get_fd(session: *const hostkv_session) -> c_int {
    const NONE: c_int = -1;
    guard::value(NONE, || {
        // SAFETY: the caller keeps the rules for pointers.
        match unsafe { handle::lend_or_none(session) } {
            Some(session) => session.0.daemon_fd(),
            None => NONE,
        }
    })
}

/// Opens a keyspace: a model with its layout, for one tenant. Opening the same one again gives the same number.
///
/// LAYOUT_MISMATCH: a session has it open with another layout_fingerprint or tokens_per_key. QUOTA: too many
/// keyspaces. INVALID_ARGUMENT, DISCONNECTED, TIMEOUT.
///
/// # Safety
///
/// `session` is open; `config` has as many bytes as its `struct_size` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hostkv_session_open_keyspace(
    session: *const hostkv_session,
    config: *const hostkv_keyspace_config,
    ret_keyspace: *mut hostkv_keyspace,
) -> hostkv_status {
    guard::status(|| {
        // SAFETY: the caller keeps the rules for pointers.
        let (session, config, ret_keyspace) = unsafe {
            (
                handle::lend(session, "session")?,
                keyspace_config(config)?,
                handle::out(ret_keyspace, "ret_keyspace")?,
            )
        };
        ret_keyspace.write(session.0.open_keyspace(&config)?.0);
        Ok(())
    })
}

/// # Safety
///
/// The rules for pointers hold.
unsafe fn session_config(config: *const hostkv_session_config) -> Result<SessionConfig> {
    if config.is_null() {
        return Ok(SessionConfig::default());
    }
    // SAFETY: the rules for pointers hold for the struct, and so for the texts in it.
    let (config, socket_path, client_name) = unsafe {
        let config = handle::versioned(config, "config")?;
        (
            config,
            handle::path(config.socket_path),
            handle::text(config.client_name, "config.client_name")?,
        )
    };
    Ok(SessionConfig {
        flags: config.flags,
        socket_path: socket_path.map(Path::to_path_buf),
        client_name: client_name.unwrap_or_default().to_owned(),
        pin_slot_count: config.pin_slot_count,
        timeout_ms: config.timeout_ms,
    })
}

/// # Safety
///
/// The rules for pointers hold.
unsafe fn keyspace_config(config: *const hostkv_keyspace_config) -> Result<KeyspaceConfig> {
    // SAFETY: the rules for pointers hold for the struct, and so for the texts in it.
    let (config, model_name, cache_salt) = unsafe {
        let config = handle::versioned(config, "config")?;
        (
            config,
            handle::text(config.model_name, "config.model_name")?,
            handle::text(config.cache_salt, "config.cache_salt")?,
        )
    };
    Ok(KeyspaceConfig {
        model_name: model_name
            .ok_or_else(|| Error::invalid("config.model_name is NULL; it must not be"))?
            .to_owned(),
        cache_salt: cache_salt.unwrap_or_default().to_owned(),
        layout_fingerprint: config.layout_fingerprint,
        tokens_per_key: config.tokens_per_key,
        as_it_stands: false,
    })
}

fn mapping(which: u32) -> Result<Mapping> {
    match which {
        HOSTKV_MAPPING_READ => Ok(Mapping::Read),
        HOSTKV_MAPPING_WRITE => Ok(Mapping::Write),
        _ => Err(Error::invalid(format!(
            "which is {which}; it is HOSTKV_MAPPING_READ ({HOSTKV_MAPPING_READ}) or HOSTKV_MAPPING_WRITE \
             ({HOSTKV_MAPPING_WRITE})"
        ))),
    }
}

fn session_info(info: &SessionInfo) -> hostkv_session_info {
    let mut server_version: [c_char; SERVER_VERSION_BYTES] = [0; SERVER_VERSION_BYTES];
    // The last byte stays the NUL that ends the text.
    let places = server_version[..SERVER_VERSION_BYTES - 1].iter_mut();
    for (place, byte) in places.zip(info.server_version.bytes()) {
        *place = byte as c_char;
    }
    hostkv_session_info {
        struct_size: size_of::<hostkv_session_info>() as u32,
        abi_version: HOSTKV_ABI_VERSION,
        instance_id: info.instance_id,
        session_id: info.session_id,
        capacity_bytes: info.capacity_bytes,
        align_bytes: info.align_bytes,
        huge_page_bytes: info.huge_page_bytes,
        pin_quota_bytes: info.pin_quota_bytes,
        reserve_quota_bytes: info.reserve_quota_bytes,
        max_object_bytes: info.max_object_bytes,
        pin_slot_count: info.pin_slot_count,
        max_batch_keys: info.max_batch_keys,
        chunk_size: info.chunk_size,
        reserved: 0,
        server_version,
    }
}

fn pool_stats(figures: &Figures) -> hostkv_stats {
    hostkv_stats {
        struct_size: size_of::<hostkv_stats>() as u32,
        reserved: 0,
        capacity_bytes: figures.capacity_bytes,
        used_bytes: figures.used_bytes,
        pinned_bytes: figures.pinned_bytes,
        reserved_bytes: figures.reserved_bytes,
        object_count: figures.object_count,
        session_count: figures.session_count,
        sm_read_requests: figures.sm_read_requests,
        sm_read_succeed_keys: figures.sm_read_succeed_keys,
        sm_read_failed_keys: figures.sm_read_failed_keys,
        sm_write_requests: figures.sm_write_requests,
        sm_write_succeed_keys: figures.sm_write_succeed_keys,
        sm_write_failed_keys: figures.sm_write_failed_keys,
        l1_read_keys: figures.l1_read_keys,
        l1_write_keys: figures.l1_write_keys,
        l1_evicted_keys: figures.l1_evicted_keys,
    }
}
